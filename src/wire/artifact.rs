//! Artifacts and the questions that can be asked about them.

use super::list::List;
use crate::model::artifact::{ArtifactState, ArtifactType, Origin, SecretScan};
use crate::model::digest::Digest;
use crate::model::id::{ArtifactId, RunId, SecretName, WorkspaceId};
use crate::model::order::Order;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One version of an artifact.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Artifact {
    pub id: ArtifactId,
    /// Names that users gave it.
    pub aliases: Vec<String>,
    pub version: u64,
    /// The version that was there before this one was written.
    pub parent_version: Option<u64>,
    /// Names that point to this version.
    pub labels: Vec<String>,
    pub tags: Vec<String>,
    /// Whether the file system saw it or somebody said so.
    pub origin: Origin,
    #[serde(rename = "type")]
    pub artifact_type: ArtifactType,
    /// The type that the other one of name and bytes speaks for.
    pub suspected_type: Option<ArtifactType>,
    pub mime: Option<String>,
    pub state: ArtifactState,
    /// Registered as CREATING until somebody says that it is READY.
    pub held: bool,
    /// Kept by every clean-up.
    pub pinned: bool,
    /// A secret was found in it: its owner alone may read it, and it goes to no other store.
    pub quarantined: bool,
    /// Secrets of its workspace that stand in the content: which, how and where, never their values.
    #[serde(default)]
    pub secrets_found: Vec<SecretFound>,
    /// Whether it was searched for them; `None`: registered before there was a search.
    #[serde(default)]
    pub secret_scan: Option<SecretScan>,
    pub size: u64,
    /// `None` as long as there is no content.
    pub digest: Option<Digest>,
    /// As seen inside the workspace, such as `/workspace/output/x.csv`, or the host's path where it lies in none;
    /// escaped where it is not UTF-8.
    pub path: String,
    pub host_path: String,
    pub metadata: serde_json::Map<String, serde_json::Value>,
    pub graph_id: Option<String>,
    pub node_id: Option<String>,
    /// `None`: written by a process outside every run (unattributed).
    pub run_id: Option<RunId>,
    pub workspace_id: Option<WorkspaceId>,
    /// Who opened the file last for writing; `None`: not known, never guessed.
    pub writer: Option<Process>,
    /// How many closes this version stands for: closes overtaken before the copy was taken coalesce.
    pub closes: u64,
    /// False when only the digest is known: the content was too large to keep, or holds a secret and may not be kept.
    pub content_kept: bool,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// When it was marked as DELETED; it can be restored for a while.
    pub deleted_at: Option<Timestamp>,
    /// When its content, which had been kept, was found to be gone or damaged for good.
    #[serde(default)]
    pub content_lost_at: Option<Timestamp>,
}

/// A secret in a content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretFound {
    pub name: SecretName,
    /// `raw`, `base64`, `base64url`, `hex`, `url` or `json`.
    pub encoding: String,
    /// Where its first byte is, counted from 0.
    pub position: u64,
}

/// A process that wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// In the daemon's pid namespace.
    pub pid: u32,
    pub uid: u32,
    /// Its arguments, escaped where they are not UTF-8 and cut to a bound; `None` where they could not be read.
    pub command: Option<Vec<String>>,
}

/// Query of `GET /v1/artifacts`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ArtifactQuery {
    /// One of these; any when missing.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<List<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub graph: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace: Option<WorkspaceId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// One of these; READY when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<List<ArtifactState>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_since: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_before: Option<Timestamp>,
    /// A pattern for the path inside the workspace or on the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// Root alone may name others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<u32>,
    /// An expression (docs/expressions.md).
    #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
    pub expression: Option<String>,
    /// `created` when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
    /// Every version instead of the latest of each artifact.
    pub all_versions: bool,
    /// At most 1,000; 100 when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Where the page before ended; only what an answer's `next` said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ArtifactPage {
    pub artifacts: Vec<Artifact>,
    /// Cursor of the page after this one; missing on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Body of `POST /v1/artifacts/sync`: wait until all that was closed before is registered.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SyncRequest {
    /// Every workspace of the caller when missing.
    pub workspace: Option<WorkspaceId>,
    /// 60,000 when missing.
    pub timeout_ms: Option<u64>,
    /// Look first for files that were changed in the hosts' directories, past the workspaces.
    pub scan: bool,
    /// Wait then until everything is uploaded that the daemon's node had registered before.
    pub wait_upload: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SyncOutcome {
    pub complete: bool,
    /// Paths that are not registered, with the reason.
    pub incomplete: Vec<String>,
    /// Whether all is uploaded, where that was to be waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uploaded: Option<bool>,
    /// What a scan found, where one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scanned: Option<Scanned>,
}

/// What a scan did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scanned {
    /// Files that were looked at.
    pub files: u64,
    /// Those of them that had changed.
    pub found: u64,
    /// Directories that could not be looked into.
    pub refused: u64,
}
