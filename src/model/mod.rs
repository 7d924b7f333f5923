//! The nouns of Belljar: pure values that do no I/O and cannot be built wrong.

pub mod access;
pub mod artifact;
pub mod cleanup;
pub mod digest;
pub mod expression;
pub mod glob;
pub mod id;
pub mod mount;
pub mod names;
pub mod order;
pub mod path;
