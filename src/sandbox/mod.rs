//! One process in isolation.
//!
//! [`plan`] says everything as data; [`spawn`] is the daemon's half; [`init`] is the other half, in a process of its own that is
//! this program executed again, with one file for each step. Nothing here knows what a workspace is: it is given mounts.
//!
//! The part of a start that needs no plan can be done in advance ([`spare`]).
//!
//! Three processes make a sandbox. The *outer* one enters the namespaces that must exist before a process is born into them,
//! forks, and then only waits. The *first* one is process 1 of the new pid namespace: it builds the root file system, gives up every
//! privilege, starts the command and reaps. The third is the command.
//!
//! Invariant: nothing outlives the daemon. The first process ends when the other end of its socket is gone, and with it the
//! kernel ends everything in its pid namespace; mounts and interfaces go with the last process of their namespaces.

mod capabilities;
pub mod cgroup;
mod command;
mod credentials;
pub mod fault;
pub mod init;
mod landlock;
pub mod launcher;
pub mod layer;
pub mod limits;
mod namespaces;
pub mod plan;
pub mod protocol;
mod reaper;
pub mod receipt;
mod rlimits;
mod rootfs;
mod seal;
mod seccomp;
pub mod spare;
pub mod spawn;
mod terminal;
