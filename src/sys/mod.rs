//! System calls that nix does not wrap: the only `unsafe` and the only libc of the crate.

pub mod loopback;
pub mod mount;
pub mod packet;
pub mod process;
