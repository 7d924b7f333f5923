//! Belljar runs processes in sealed workspaces whose written files become artifacts by themselves.
//!
//! The modules, in the order in which data flows through them; `ARCHITECTURE.md` draws the rungs.
#![deny(unsafe_code)]
// A panic aborts the daemon. `expect` says which invariant makes it impossible; `unwrap` says nothing.
#![warn(clippy::unwrap_used)]

// A command, from the person to the process.
pub mod cli;
pub mod client;
pub mod wire;

pub mod daemon;

pub mod api;
pub mod workspace;

pub mod sandbox;

// A file, from the kernel to the catalog.
pub mod fuse;
pub mod vfs;

pub mod policy;
pub mod secret;

pub mod artifact;
pub mod storage;

// What all of them stand on.
pub mod config;
pub mod model;
#[allow(unsafe_code)]
pub mod sys;
pub mod telemetry;
