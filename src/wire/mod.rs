//! The HTTP contract: the types that client and server exchange as JSON, and nothing else.
//!
//! Field names are stable. An unknown field in a request is an error, so that a typing mistake is never ignored;
//! an unknown field in a response is ignored, so that an older client understands a newer daemon.

pub mod artifact;
pub mod backend;
pub mod cleanup;
pub mod daemon;
pub mod life;
pub mod lineage;
pub mod list;
pub mod problem;
pub mod run;
pub mod storage;
pub mod verify;
pub mod workspace;
