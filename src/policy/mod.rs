//! Who may do what where: pure decisions, so that each can be tested.

pub mod mount_table;
pub mod operation;
