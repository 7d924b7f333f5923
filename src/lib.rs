//! Belljar runs processes in sealed workspaces whose written files become artifacts by themselves.
//!
//! The modules, in the order in which data flows through them; `ARCHITECTURE.md` draws the rungs.
#![deny(unsafe_code)]
#![warn(missing_debug_implementations)]

pub mod api;
pub mod artifact;
pub mod cli;
pub mod client;
pub mod config;
pub mod daemon;
pub mod model;
pub mod sandbox;
pub mod secret;
#[allow(unsafe_code)]
pub mod sys;
pub mod telemetry;
pub mod wire;
pub mod workspace;
pub mod vfs {
    pub mod observer;
}
