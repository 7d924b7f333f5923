//! How a mount point may be used.

use serde::{Deserialize, Serialize};

/// Access of a mount point; the workspace manifest spells it `ro` or `rw`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Access {
    /// Every mutation is answered with EROFS.
    #[default]
    #[serde(rename = "ro")]
    ReadOnly,
    /// Files may be created, written and removed.
    #[serde(rename = "rw")]
    ReadWrite,
}

/// A mode that is neither `ro` nor `rw`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown mode {given:?}: a mount point is `ro` (read-only) or `rw` (read-write)")]
pub struct UnknownAccess {
    given: String,
}

impl std::str::FromStr for Access {
    type Err = UnknownAccess;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "ro" => Ok(Access::ReadOnly),
            "rw" => Ok(Access::ReadWrite),
            _ => Err(UnknownAccess { given: text.to_owned() }),
        }
    }
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Access::ReadOnly => "ro",
            Access::ReadWrite => "rw",
        })
    }
}
