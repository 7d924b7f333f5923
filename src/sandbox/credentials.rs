//! Who the sandbox's processes are: groups, then group id, then user id, so that each still has the right to change.

use super::layer::{LayerName, Proof};
use super::plan::SandboxPlan;
use super::protocol::{SetupFailure, errno_text};
use super::terminal;
use crate::sys::process;
use nix::sys::stat::fstat;
use nix::sys::statfs::{FsType, fstatfs};
use nix::unistd::{
    Gid, Uid, fchown, getegid, geteuid, getgroups, getresgid, getresuid, setgroups, setresgid,
    setresuid,
};
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
    if plan.lend_streams {
        lend_stdio_pipes(uid, gid)
            .map_err(|e| SetupFailure::because(STEP, "give the user its stdio pipes", &e))?;
    }
    terminal::lend(plan, uid, gid)
        .map_err(|e| SetupFailure::because(STEP, "give the user its terminal", &e))?;
    setgroups(&[]).map_err(|e| failed("drop the supplementary groups", e))?;
    setresgid(gid, gid, gid).map_err(|e| failed(&format!("become group {gid}"), e))?;
    setresuid(uid, uid, uid).map_err(|e| failed(&format!("become user {uid}"), e))
}

/// Reads the ids back, and tries to become somebody else.
pub fn prove(plan: &SandboxPlan) -> Result<Proof, String> {
    let said = |errno: nix::errno::Errno| format!("read the ids: {}", errno_text(&errno.into()));
    let (uids, gids) = (getresuid().map_err(said)?, getresgid().map_err(said)?);
    let (uid, gid) = (Uid::from_raw(plan.user.uid), Gid::from_raw(plan.user.gid));
    if [uids.real, uids.effective, uids.saved] != [uid; 3]
        || [gids.real, gids.effective, gids.saved] != [gid; 3]
    {
        return Err(format!("the ids are {uids:?} and {gids:?}, not {uid} and {gid}"));
    }
    if !plan.user_namespace && !getgroups().map_err(said)?.is_empty() {
        return Err("there are supplementary groups".to_owned());
    }
    if !plan.proves(LayerName::Capabilities) {
        // A test left this process what it takes to become anybody, and it would.
        return Ok(Proof::of("all ids were read back"));
    }
    let other = Uid::from_raw(if uid.is_root() { 1 } else { 0 });
    match setresuid(other, other, other) {
        // EINVAL: the user namespace has no such user.
        Err(nix::errno::Errno::EPERM | nix::errno::Errno::EINVAL) => {
            Ok(Proof::of("all ids were read back; becoming another user was tried: refused"))
        }
        other => Err(format!("becoming another user was not refused but {other:?}")),
    }
}

/// Makes standard input, output and error the user's where they are anonymous pipes, so that `/dev/stdout` can be opened by its name
/// although another user made the pipe. A file keeps its owner, and a terminal that is not the run's own: they outlive the run.
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
