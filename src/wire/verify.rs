//! Verification: whether rows and contents agree.

use crate::model::digest::Digest;
use serde::{Deserialize, Serialize};

/// Body of `POST /v1/artifacts/verify`. One answer is a part of the whole; `next` leads to the part after it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VerifyRequest {
    /// Only this artifact, or version, in one part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Whether what can be mended is mended.
    pub repair: bool,
    /// Most bytes that are read in a second; 256 MiB when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// Where the part before ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// What a part of a verification found.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Contents that were read whole.
    pub contents: u64,
    pub bytes: u64,
    /// Files of the store that were looked at by their names.
    pub files: u64,
    /// Versions that say already that their content is lost; in the first part.
    pub lost: u64,
    pub findings: Vec<Finding>,
    /// Missing in the last part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub kind: FindingKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Versions that name the content, as `ID@NUMBER path`; at most 16 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<String>,
    /// What was found, as a sentence.
    pub detail: String,
    /// What was done about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repaired: Option<String>,
    /// Whether all is well after it.
    pub mended: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FindingKind {
    /// Versions name a content that is not in the store.
    Missing,
    /// The bytes are not those of the digest.
    Damaged,
    /// It is in another tier than its versions want.
    Misplaced,
    /// No version names it.
    Orphan,
    /// Half-written, by a daemon that is dead.
    Leftover,
    /// The store did not make it; never touched.
    Foreign,
    /// It was uploaded and is not in the remote store any more.
    Remote,
}

impl FindingKind {
    pub fn as_str(self) -> &'static str {
        match self {
            FindingKind::Missing => "missing",
            FindingKind::Damaged => "damaged",
            FindingKind::Misplaced => "misplaced",
            FindingKind::Orphan => "orphan",
            FindingKind::Leftover => "leftover",
            FindingKind::Foreign => "foreign",
            FindingKind::Remote => "remote",
        }
    }
}
