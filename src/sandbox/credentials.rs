//! Who the sandbox's processes are: groups, then group id, then user id, so that each still has the right to change.

use super::plan::SandboxPlan;
use super::protocol::SetupFailure;
use crate::sys::process;
use nix::sys::stat::fstat;
use nix::sys::statfs::{FsType, fstatfs};
use nix::unistd::{Gid, Uid, fchown, getegid, geteuid, setgroups, setresgid, setresuid};
use std::io;
use std::os::fd::AsFd;

const STEP: &str = "credentials";

/// Whether the plan's user can be had at all: asked before anything is made for that user.
pub fn check(plan: &SandboxPlan) -> Result<(), SetupFailure> {
    let (uid, gid) = (geteuid(), getegid());
    let wanted = (Uid::from_raw(plan.user.uid), Gid::from_raw(plan.user.gid));
    // The namespace maps one user and one group, those of the caller: there is nobody else to become.
    if plan.user_namespace && wanted != (uid, gid) {
        let message = format!(
            "become uid {} gid {}: an ordinary user's sandbox can only be uid {uid} gid {gid}; leave the user out, or run belljard as root",
            wanted.0, wanted.1
        );
        return Err(SetupFailure::setup(STEP, message));
    }
    Ok(())
}

/// Becomes the plan's user for good.
pub fn switch(plan: &SandboxPlan) -> Result<(), SetupFailure> {
    let (uid, gid) = (Uid::from_raw(plan.user.uid), Gid::from_raw(plan.user.gid));
    process::leave_session_keyring()
        .map_err(|e| SetupFailure::because(STEP, "leave the session keyring", &e))?;
    if plan.user_namespace {
        // It is that user already. Supplementary groups stay, since the kernel lets an ordinary user drop none
        // (user_namespaces(7)).
        return Ok(());
    }
    lend_stdio_pipes(uid, gid)
        .map_err(|e| SetupFailure::because(STEP, "give the user its stdio pipes", &e))?;
    setgroups(&[]).map_err(|e| failed("drop the supplementary groups", e))?;
    setresgid(gid, gid, gid).map_err(|e| failed(&format!("become group {gid}"), e))?;
    setresuid(uid, uid, uid).map_err(|e| failed(&format!("become user {uid}"), e))
}

/// Makes standard input, output and error the user's where they are anonymous pipes, so that `/dev/stdout` can be opened by its name
/// although another user made the pipe. A file or a terminal keeps its owner: it outlives the run.
fn lend_stdio_pipes(uid: Uid, gid: Gid) -> io::Result<()> {
    /// `PIPEFS_MAGIC` (linux/magic.h).
    const PIPEFS: FsType = FsType(0x5049_5045);
    let (input, output, error) = (io::stdin(), io::stdout(), io::stderr());
    for descriptor in [input.as_fd(), output.as_fd(), error.as_fd()] {
        if fstatfs(descriptor)?.filesystem_type() == PIPEFS
            && fstat(descriptor)?.st_uid != uid.as_raw()
        {
            fchown(descriptor, Some(uid), Some(gid))?;
        }
    }
    Ok(())
}

fn failed(what: &str, errno: nix::errno::Errno) -> SetupFailure {
    SetupFailure::because(STEP, what, &io::Error::from(errno))
}
