//! The kernel's side: FUSE requests in, answers out. The only module that names fuser.

pub mod adapter;
pub mod control;
mod convert;
mod listing;
mod passthrough;
pub mod session;
pub mod views;
