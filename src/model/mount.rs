//! What a mount point may be told besides its access.

use serde::{Deserialize, Serialize};

/// How long the kernel may use what it knows of a mount point's files without asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CachePolicy {
    /// Others may change the host's directory too: names and attributes are asked for again after one second.
    #[default]
    Shared,
    /// Only this mount point changes the directory while it exists: names and attributes are kept for an hour.
    Exclusive,
    /// Nothing is kept.
    None,
}

/// What happens to an attempt to set a set-user-id or set-group-id bit on a file.
///
/// On the host such a bit would act with the powers of the file's owner. On a directory it only says whose group new
/// entries get, and is always allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SetId {
    /// EPERM.
    #[default]
    Refuse,
    /// As on the host. The workspace itself is mounted `nosuid`: the bit has no effect inside.
    Allow,
}

impl std::fmt::Display for CachePolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            CachePolicy::Shared => "shared",
            CachePolicy::Exclusive => "exclusive",
            CachePolicy::None => "none",
        })
    }
}
