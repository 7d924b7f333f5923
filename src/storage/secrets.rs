//! Secrets that were found in a content: which, in which spelling, where. Never a value.

use crate::model::artifact::SecretScan;
use crate::model::id::SecretName;

/// One secret in one encoding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretFinding {
    pub secret: SecretName,
    /// Such as `base64`.
    pub encoding: String,
    /// Of its first byte.
    pub position: u64,
}

/// What the search for secrets in a content came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecretSearch {
    pub outcome: SecretScan,
    pub found: Vec<SecretFinding>,
    /// For its owner's eyes only.
    pub quarantined: bool,
}
