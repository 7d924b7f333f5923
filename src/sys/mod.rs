//! System calls: the only unsafe code and the only use of libc.
//!
//! One file per call or family, with the call's own name. Descriptors come in and go out as owned or borrowed values.

pub mod capability;
pub mod credentials;
pub mod descriptor_table;
pub mod directory;
pub mod file;
pub mod fuse_dev;
pub mod handle;
pub mod landlock;
pub mod loopback;
pub mod memory;
pub mod mount;
pub mod namespace;
pub mod openat2;
pub mod packet;
pub mod process;
pub mod release;
pub mod scm_rights;
pub mod terminal;
pub mod unix_socket;
