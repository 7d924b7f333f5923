//! Secrets: their values, and finding or masking them in bytes that must not hold them.
//!
//! `value` keeps a value from being printed by accident. [`encoding`] knows how a value looks when it was written
//! down, [`find`] looks for that in a stream, [`mask`] replaces it. None of them knows whose secrets they are.

pub mod encoding;
pub mod find;
pub mod mask;
mod value;

pub use value::{SECRET_BYTES_MAX, SecretTooLarge, SecretValue};
