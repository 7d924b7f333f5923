//! Belljar runs processes in sealed workspaces whose written files become artifacts by themselves.
//!
//! The modules, in the order in which data flows through them; `ARCHITECTURE.md` draws the rungs.
#![deny(unsafe_code)]
// A panic aborts the daemon. `expect` says which invariant makes it impossible; `unwrap` says nothing.
#![warn(clippy::unwrap_used)]

pub mod artifact;
pub mod fuse;
pub mod model;
pub mod policy;
pub mod sandbox;
pub mod secret;
pub mod storage;
#[allow(unsafe_code)]
pub mod sys;
pub mod vfs;
pub mod wire;
