//! The namespaces of a sandbox (namespaces(7)).

use super::layer::{LayerName, Proof};
use super::plan::{Basis, SandboxPlan};
use super::protocol::{SetupFailure, errno_text};
use crate::sys::{loopback, process};
use crate::wire::run::Network;
use nix::sched::{CloneFlags, unshare};
use std::io;
use std::net::UdpSocket;
use std::path::PathBuf;

const STEP: &str = "namespaces";

/// The host name inside.
const HOST_NAME: &str = "belljar";

/// The namespaces that the first process must be born into. A user namespace comes first: it owns all the others.
pub fn enter_before_fork(basis: &Basis) -> Result<(), SetupFailure> {
    if basis.user_namespace {
        process::unshare_user(CloneFlags::empty())
            .map_err(|error| SetupFailure::setup(STEP, error))?;
    }
    enter("pid", CloneFlags::CLONE_NEWPID)
}

/// The namespaces that the first process enters itself, so that the outer one never sees what is mounted in them.
pub fn enter_after_fork(basis: &Basis) -> Result<(), SetupFailure> {
    enter("mount", CloneFlags::CLONE_NEWNS)?;
    if basis.builds(LayerName::Namespaces) {
        enter("ipc", CloneFlags::CLONE_NEWIPC)?;
        enter("uts", CloneFlags::CLONE_NEWUTS)?;
        nix::unistd::sethostname(HOST_NAME)
            .map_err(|e| SetupFailure::because(STEP, "set the host name", &io::Error::from(e)))?;
    }
    match basis.network {
        Network::Host => {}
        Network::None if !basis.builds(LayerName::Network) => {}
        Network::None => {
            enter("network", CloneFlags::CLONE_NEWNET)?;
            loopback::bring_up()
                .map_err(|e| SetupFailure::because(STEP, "bring the loopback interface up", &e))?;
        }
    }
    Ok(())
}

/// The namespaces of this process, as `/proc/self/ns` names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership(Vec<(&'static str, PathBuf)>);

impl Membership {
    /// Of the process that calls, as long as there is a /proc of its own.
    pub fn of_this_process() -> Result<Self, String> {
        ["mnt", "pid", "ipc", "uts", "net", "user"]
            .into_iter()
            .map(|name| {
                let path = format!("/proc/self/ns/{name}");
                let link = std::fs::read_link(&path)
                    .map_err(|e| format!("read {path}: {}", errno_text(&e)))?;
                Ok((name, link))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The names of those that are not the same here and there.
    fn different_from(&self, other: &Self) -> Vec<&'static str> {
        self.0.iter().zip(&other.0).filter(|(a, b)| a != b).map(|((name, _), _)| *name).collect()
    }
}

/// Compares with what this program had when it was started.
pub fn prove(plan: &SandboxPlan, before: &Membership) -> Result<Proof, String> {
    let own = Membership::of_this_process()?.different_from(before);
    let user = if plan.user_namespace { &["user"][..] } else { &[] };
    for needed in ["mnt", "pid", "ipc", "uts"].iter().chain(user) {
        if !own.contains(needed) {
            return Err(format!("the {needed} namespace is that of the daemon"));
        }
    }
    Ok(Proof::of("/proc/self/ns names others than the daemon's"))
}

/// Sends nothing, but asks for the way to an address that is nobody's (RFC 5737, RFC 3849).
pub fn prove_network(before: &Membership) -> Result<Proof, String> {
    if !Membership::of_this_process()?.different_from(before).contains(&"net") {
        return Err("the network namespace is that of the daemon".to_owned());
    }
    for (here, there) in [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")] {
        // A host without IPv6 has no such socket.
        let Ok(socket) = UdpSocket::bind(here) else { continue };
        if let Ok(()) = socket.connect(there) {
            return Err(format!("there is a way to {there}"));
        }
    }
    Ok(Proof::of(
        "the network namespace is not the daemon's; connect(2) to 192.0.2.1 and 2001:db8::1 was tried: no way there",
    ))
}

fn enter(name: &str, flag: CloneFlags) -> Result<(), SetupFailure> {
    unshare(flag).map_err(|errno| {
        let hint = match errno {
            nix::errno::Errno::ENOSPC => "; the limit in /proc/sys/user is reached",
            nix::errno::Errno::EINVAL => "; this kernel is built without it",
            nix::errno::Errno::EPERM => {
                "; it takes CAP_SYS_ADMIN, which root has outside of containers, or a user namespace"
            }
            _ => "",
        };
        let what = format!("create a {name} namespace");
        let mut failure = SetupFailure::because(STEP, what, &io::Error::from(errno));
        failure.message.push_str(hint);
        failure
    })
}
