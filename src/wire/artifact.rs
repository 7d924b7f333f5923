//! Artifacts and the questions that can be asked about them.

use crate::model::artifact::{ArtifactState, ArtifactType};
use crate::model::digest::Digest;
use crate::model::id::{ArtifactId, RunId, WorkspaceId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One version of an artifact.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Artifact {
    pub id: ArtifactId,
    pub aliases: Vec<String>,
    pub version: u64,
    pub labels: Vec<String>,
    #[serde(rename = "type")]
    pub artifact_type: ArtifactType,
    pub state: ArtifactState,
    pub size: u64,
    pub digest: Digest,
    /// As seen inside the workspace, such as `/workspace/output/x.csv`; escaped where it is not UTF-8.
    pub path: String,
    pub host_path: String,
    pub metadata: serde_json::Map<String, serde_json::Value>,
    pub graph_id: Option<String>,
    pub node_id: Option<String>,
    /// `None`: written by a process outside every run (unattributed).
    pub run_id: Option<RunId>,
    pub workspace_id: WorkspaceId,
    /// How many closes this version stands for: closes overtaken before the copy was taken coalesce.
    pub closes: u64,
    /// False when the content was too large to keep and only its digest is known.
    pub content_kept: bool,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// Query of `GET /v1/artifacts`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ArtifactQuery {
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub graph: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace: Option<WorkspaceId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// READY when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<ArtifactState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Timestamp>,
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
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SyncOutcome {
    pub complete: bool,
    /// Paths that are not registered, with the reason.
    pub incomplete: Vec<String>,
}
