//! The value of a secret, kept so that it cannot be printed, stored or sent by accident.
//!
//! There is no `Serialize`, no `Display`, and `Debug` shows nothing. The bytes are overwritten when the last owner
//! drops them (crate secrecy over zeroize); copies that the kernel or the allocator made on the way here are beyond its reach.

use secrecy::{ExposeSecret, SecretSlice};

/// Largest value, in bytes. A FUSE read carries at most 1 MiB, and a secret is a key, not a data set. Chosen, not measured.
pub const SECRET_BYTES_MAX: usize = 1024 * 1024;

/// A secret's bytes: any bytes, NUL and newline included.
pub struct SecretValue(SecretSlice<u8>);

/// A value larger than [`SECRET_BYTES_MAX`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the value has {size} bytes, more than the {SECRET_BYTES_MAX} a secret may have: pass large data as a file in a read-only mount"
)]
pub struct SecretTooLarge {
    size: usize,
}

impl SecretValue {
    pub fn new(bytes: Vec<u8>) -> Result<Self, SecretTooLarge> {
        if bytes.len() > SECRET_BYTES_MAX {
            let size = bytes.len();
            drop(zeroize::Zeroizing::new(bytes));
            return Err(SecretTooLarge { size });
        }
        Ok(Self(SecretSlice::from(bytes)))
    }

    /// The bytes. Whoever calls this answers for where they go.
    pub fn expose(&self) -> &[u8] {
        self.0.expose_secret()
    }

    pub fn len(&self) -> usize {
        self.expose().len()
    }

    pub fn is_empty(&self) -> bool {
        self.expose().is_empty()
    }
}

impl Clone for SecretValue {
    fn clone(&self) -> Self {
        Self(SecretSlice::from(self.expose().to_vec()))
    }
}

impl std::fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing_of_the_value() {
        let value = SecretValue::new(b"s3cr3t\0\n\xff".to_vec()).expect("small");
        assert_eq!(format!("{value:?}"), "[redacted]");
        assert_eq!(value.expose(), b"s3cr3t\0\n\xff");
        assert!(SecretValue::new(vec![0; SECRET_BYTES_MAX + 1]).is_err());
    }
}
