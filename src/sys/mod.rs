//! System calls.

pub mod openat2;
