//! The namespaces of a sandbox (namespaces(7)).

use super::plan::SandboxPlan;
use super::protocol::SetupFailure;
use crate::sys::{loopback, process};
use crate::wire::run::Network;
use nix::sched::{CloneFlags, unshare};
use std::io;

const STEP: &str = "namespaces";

/// The host name inside.
const HOST_NAME: &str = "belljar";

/// The namespaces that the first process must be born into. A user namespace comes first: it owns all the others.
pub fn enter_before_fork(plan: &SandboxPlan) -> Result<(), SetupFailure> {
    if plan.user_namespace {
        process::unshare_user(CloneFlags::empty())
            .map_err(|error| SetupFailure::setup(STEP, error))?;
    }
    enter("pid", CloneFlags::CLONE_NEWPID)
}

/// The namespaces that the first process enters itself, so that the outer one never sees what is mounted in them.
pub fn enter_after_fork(plan: &SandboxPlan) -> Result<(), SetupFailure> {
    enter("mount", CloneFlags::CLONE_NEWNS)?;
    enter("ipc", CloneFlags::CLONE_NEWIPC)?;
    enter("uts", CloneFlags::CLONE_NEWUTS)?;
    nix::unistd::sethostname(HOST_NAME)
        .map_err(|e| SetupFailure::because(STEP, "set the host name", &io::Error::from(e)))?;
    match plan.network {
        Network::Host => {}
        Network::None => {
            enter("network", CloneFlags::CLONE_NEWNET)?;
            loopback::bring_up()
                .map_err(|e| SetupFailure::because(STEP, "bring the loopback interface up", &e))?;
        }
    }
    Ok(())
}

fn enter(name: &str, flag: CloneFlags) -> Result<(), SetupFailure> {
    unshare(flag).map_err(|errno| {
        let hint = match errno {
            nix::errno::Errno::ENOSPC => "; the limit in /proc/sys/user is reached",
            nix::errno::Errno::EINVAL => "; this kernel is built without it",
            nix::errno::Errno::EPERM => {
                "; it takes root, or a user namespace, which this sandbox was not told to make"
            }
            _ => "",
        };
        let what = format!("create a {name} namespace");
        let mut failure = SetupFailure::because(STEP, what, &io::Error::from(errno));
        failure.message.push_str(hint);
        failure
    })
}
