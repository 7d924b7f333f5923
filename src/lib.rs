//! Belljar runs processes in sealed workspaces whose written files become artifacts by themselves.
//!
//! The modules, in the order in which data flows through them; `ARCHITECTURE.md` draws the rungs.
#![deny(unsafe_code)]
#![warn(missing_debug_implementations)]

pub mod artifact;
pub mod model;
pub mod storage;
#[allow(unsafe_code)]
pub mod sys;
pub mod wire;
pub mod vfs {
    pub mod observer;
}
