//! What daemon and sandbox tell each other over their socket: one JSON document in each message.
//!
//! The command never holds this socket, so that both ends trust what they read.

use super::layer::Finding;
use crate::sys::{packet, scm_rights};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// From the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// The outer process forked; a pidfd of the first process comes along.
    Forked,
    /// What every run has alike is built; the first process waits for its plan ([`send_plan`]).
    Prepared,
    /// Everything is set up, given up and proven; the command waits for [`Order::Go`].
    Ready { namespace: NamespaceId, findings: Vec<Finding> },
    /// The command was executed.
    Started,
    /// A step failed; no command runs, and none will.
    Failed(SetupFailure),
    /// The command has ended.
    Ended(Exit),
    /// The pid namespace is gone; this is what its processes used.
    Used(Usage),
}

/// To the first process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    Go,
    Signal(i32),
}

/// A namespace, as stat(2) of `/proc/<pid>/ns/…` identifies it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NamespaceId {
    pub dev: u64,
    pub ino: u64,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    Exited(u8),
    Signaled(i32),
    /// The first process is gone without having said it: it was killed, as by [`Sandbox::kill`](super::spawn::Sandbox::kill).
    Vanished,
}

/// What all processes of a sandbox used, its first one included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    pub cpu_us: u64,
    /// Largest resident set of a single process (getrusage(2), `ru_maxrss`).
    pub peak_memory_bytes: u64,
}

/// Why no command runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{step}: {message}")]
pub struct SetupFailure {
    /// Which step of the setup; `command` when it was the command itself.
    pub step: String,
    pub message: String,
    pub kind: FailureKind,
}

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The command was not found.
    NotFound,
    /// The command was found and cannot be executed.
    NotExecutable,
    /// The sandbox could not be made.
    Setup,
}

impl FailureKind {
    /// As `belljar run` exits then.
    pub fn exit_code(self) -> u8 {
        match self {
            FailureKind::NotFound => 127,
            FailureKind::NotExecutable => 126,
            FailureKind::Setup => 125,
        }
    }
}

impl SetupFailure {
    pub fn setup(step: &str, message: impl fmt::Display) -> Self {
        Self { step: step.to_owned(), message: message.to_string(), kind: FailureKind::Setup }
    }

    /// `step: what: EPERM (Operation not permitted)`.
    pub fn because(step: &str, what: impl fmt::Display, error: &io::Error) -> Self {
        Self::setup(step, format_args!("{what}: {}", errno_text(error)))
    }
}

/// An error as the kernel names it and as people say it.
pub fn errno_text(error: &io::Error) -> String {
    match error.raw_os_error().map(nix::errno::Errno::from_raw) {
        // The newest call that a sandbox needs is mount_setattr(2).
        Some(errno @ nix::errno::Errno::ENOSYS) => {
            format!("{errno:?} ({}); this needs Linux 5.12 or later", errno.desc())
        }
        Some(errno) => format!("{errno:?} ({})", errno.desc()),
        None => error.to_string(),
    }
}

/// Sends one message.
pub fn send<M: Serialize>(
    socket: impl AsFd,
    message: &M,
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    packet::send(socket, &serde_json::to_vec(message)?, descriptor)
}

/// Gives the first process its plan, in descriptors that it knows the order of. It is the first message to it, and has no text.
pub fn send_plan(socket: impl AsFd, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    scm_rights::send(socket, PLAN, descriptors)
}

/// Waits for the descriptors of a plan; `None` when the other end is gone.
pub fn receive_plan(socket: impl AsFd) -> io::Result<Option<Vec<OwnedFd>>> {
    let mut payload = [0; PLAN.len()];
    let message = scm_rights::receive(socket, &mut payload)?;
    if message.length == 0 {
        return Ok(None);
    }
    if message.truncated {
        return Err(io::Error::other("not all descriptors of the plan arrived"));
    }
    if payload != PLAN {
        return Err(io::Error::other("something else came where the plan was expected"));
    }
    Ok(Some(message.descriptors))
}

/// Descriptors alone cannot be sent.
const PLAN: &[u8] = b"plan";

/// Receives one message; `None` when the other end is gone.
pub fn receive<M: for<'de> Deserialize<'de>>(
    socket: impl AsFd,
) -> io::Result<Option<(M, Option<OwnedFd>)>> {
    let (message, descriptor) = match packet::receive(&socket) {
        // The other end closed its socket with something of ours unread. That is told once, before what it had said.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => packet::receive(&socket)?,
        received => received?,
    };
    if message.is_empty() {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&message)?, descriptor)))
}
