//! What a version was made from, and what was made from it.

use crate::model::artifact::{ArtifactState, ArtifactType};
use crate::model::digest::Digest;
use crate::model::id::{ArtifactId, RunId, WorkspaceId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Query of `GET /v1/artifacts/{reference}/lineage`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LineageQuery {
    /// How many steps to go; 1 to 100, 10 when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depth: Option<u32>,
    pub direction: Direction,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// What it was made from.
    #[default]
    Of,
    /// What was made from it.
    UsedBy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VersionRef {
    pub id: ArtifactId,
    pub version: u64,
}

/// An over-approximation: everything that runs had opened for reading, not what they used.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Lineage {
    pub root: VersionRef,
    pub direction: Direction,
    pub depth: u32,
    /// A bound on versions or inputs was met: there is more than this.
    pub truncated: bool,
    /// Each version once, the root first, then in the order of steps from it.
    pub versions: Vec<LineageVersion>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LineageVersion {
    pub id: ArtifactId,
    pub version: u64,
    pub path: String,
    pub host_path: String,
    #[serde(rename = "type")]
    pub artifact_type: ArtifactType,
    pub state: ArtifactState,
    pub size: u64,
    pub digest: Option<Digest>,
    pub run_id: Option<RunId>,
    pub workspace_id: Option<WorkspaceId>,
    pub created_at: Timestamp,
    /// Missing where the walk went the other way or ended here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_from: Option<Made>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<Vec<LineageUse>>,
}

/// What the run that made a version had read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Made {
    pub known: Known,
    /// Why not everything is known.
    pub reason: Option<String>,
    /// Other runs that wrote the same bytes again; what they had read is not listed.
    pub also_by: Vec<RunId>,
    /// In the order in which they were opened first.
    pub inputs: Vec<LineageInput>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Known {
    Complete,
    Partial,
    Unavailable,
}

/// When an input was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Opened {
    /// Before the version's file was opened for writing.
    Before,
    /// While the version's file was open for writing, as a shell's `>` has it.
    WhileOpen,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LineageInput {
    /// As seen inside the workspace; `None`: not one file, and `unavailable` says what it stands for.
    pub path: Option<String>,
    pub host_path: Option<String>,
    /// At that time, as the next two.
    pub size: Option<u64>,
    pub modified_at: Option<Timestamp>,
    /// `None`: `unavailable` says why.
    pub digest: Option<Digest>,
    pub unavailable: Option<String>,
    pub opened: Opened,
    pub opened_at: Timestamp,
    /// The artifact version that it is, by owner, host path and digest.
    pub version: Option<VersionRef>,
}

/// A version whose run had read this one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LineageUse {
    #[serde(flatten)]
    pub version: VersionRef,
    pub run_id: RunId,
    pub opened: Opened,
}
