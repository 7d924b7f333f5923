//! System calls that nix does not wrap: the only `unsafe` and the only libc of the crate.

pub mod process;
pub mod scm_rights;
pub mod unix_socket;
