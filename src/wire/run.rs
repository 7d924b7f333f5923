//! Runs: what to execute in a workspace, and the receipt of what happened.

use crate::model::artifact::{ArtifactState, ArtifactType};
use crate::model::digest::Digest;
use crate::model::id::{ArtifactId, RunId, SecretName, WorkspaceId};
use crate::wire::workspace::{DescriptorToken, WorkspaceRequest};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Body of `POST /v1/runs`.
///
/// The descriptors of the token are, in this order: standard input, output and error, then the exposed paths and the root, then
/// whatever [`WorkspaceRequest`] counts on (its positions count from 0 over the whole set). The connection to the companion socket is the run's leash: when
/// the client closes it, or dies, the run is ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    /// Made when it does not exist. Its own `descriptors` field is not used here.
    pub workspace: WorkspaceRequest,
    /// Keep a workspace that this run made.
    #[serde(default)]
    pub keep: bool,
    pub command: Vec<Argument>,
    #[serde(default)]
    pub workdir: Option<String>,
    #[serde(default)]
    pub expose: Vec<ExposeRequest>,
    /// The root file system, instead of the host's programs and libraries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<RootfsRequest>,
    /// Secrets that the user wants as environment variables too, by name.
    #[serde(default)]
    pub secret_env: Vec<SecretName>,
    /// Variables for this run alone.
    #[serde(default)]
    pub env: std::collections::BTreeMap<crate::model::id::VariableName, String>,
    #[serde(default)]
    pub graph_id: Option<String>,
    #[serde(default)]
    pub node_id: Option<String>,
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    #[serde(default)]
    pub network: Network,
    /// Only root may name another user than itself.
    #[serde(default)]
    pub user: Option<RunUser>,
    #[serde(default)]
    pub wait_children: bool,
    /// How long to wait for artifacts after the command ended; 60,000 when missing.
    #[serde(default)]
    pub drain_timeout_ms: Option<u64>,
    /// Wait for as long until the artifacts' contents are in the remote store, too.
    #[serde(default)]
    pub wait_upload: bool,
    #[serde(default)]
    pub limits: Limits,
    /// Names of layers that may be missing: see [`Layer::name`].
    #[serde(default)]
    pub allow_unenforced: Vec<String>,
    /// The standard streams that are terminals are one pseudoterminal, made by the client for this run; it becomes the command's
    /// controlling terminal.
    #[serde(default, skip_serializing_if = "is_false")]
    pub terminal: bool,
    /// Value of the caller's TERM.
    #[serde(default)]
    pub term: Option<String>,
    pub descriptors: DescriptorToken,
}

/// One argument of a command: text, or any bytes but zero.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "an argument must be text, or {\"base64\": \"…\"} for other bytes")]
pub enum Argument {
    Text(String),
    Bytes {
        /// RFC 4648, with padding.
        base64: String,
    },
}

/// What a run may use at most; nothing asked for when missing.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Processors, in parts: 1.5 is one and a half.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    #[default]
    None,
    Host,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunUser {
    pub uid: u32,
    /// The user's uid when missing.
    #[serde(default)]
    pub gid: Option<u32>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExposeRequest {
    /// Absolute; where the path appears inside.
    pub path: String,
    /// Position of its descriptor among those of the token.
    pub descriptor: u32,
}

/// A directory that becomes the command's root file system, read-only.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootfsRequest {
    /// Absolute, on the host; what messages and the receipt call it.
    pub path: String,
    /// Position of its descriptor among those of the token.
    pub descriptor: u32,
}

/// Answer to `POST /v1/runs`: the command was executed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunStarted {
    pub run_id: RunId,
    pub workspace_id: WorkspaceId,
}

/// Body of `POST /v1/runs/{id}/signal`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignalRequest {
    pub signal: i32,
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    Exited,
    Signal,
    Timeout,
    /// The kernel ended the run because it met its limit of memory, or because the machine had none left.
    OutOfMemory,
    /// The client went away or the daemon was told to stop.
    Cancelled,
    /// The sandbox could not be set up, or the command could not be executed; nothing ran.
    SetupFailed,
    /// The sandbox's first process vanished without saying how the command ended.
    Lost,
}

/// What happened in a run: answer of `GET /v1/runs/{id}/receipt`, and the file that `--receipt` writes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Receipt {
    pub run_id: RunId,
    pub workspace_id: WorkspaceId,
    /// As `belljar run` exits: the command's own, 128+N (137 out of memory too), 124, 125, 126 or 127.
    pub exit_code: u8,
    pub reason: Reason,
    /// One sentence for people.
    pub message: String,
    pub run_as_root: bool,
    pub enforcement: Vec<Layer>,
    pub usage: Usage,
    pub artifacts: Vec<ReceiptArtifact>,
    /// Whether every file that the run closed is registered.
    pub complete: bool,
    /// What is not, when `complete` is false: paths inside the workspace, with the reason.
    pub incomplete: Vec<String>,
    /// Whether the remote store has the contents of all artifacts, where that was to be waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uploaded: Option<bool>,
    pub started_at: Timestamp,
    pub ended_at: Timestamp,
}

/// One layer of the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    pub name: String,
    pub requested: bool,
    pub in_force: bool,
    /// Version of the kernel's interface, of a layer whose interface has versions and is in force.
    #[serde(default)]
    pub abi: Option<u32>,
    /// How it is known to be in force: what was tried or read before the command started, and what the kernel answered.
    #[serde(default)]
    pub proof: Option<String>,
    /// What exactly is in force, or why it is not.
    pub detail: String,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    pub wall_ms: u64,
    pub cpu_ms: u64,
    pub cpu_measured_by: Meter,
    /// By a cgroup: of all processes together, in bytes. By getrusage(2): the largest resident set of a single process.
    pub peak_memory_bytes: u64,
    pub peak_memory_measured_by: Meter,
    /// Most processes and threads at a time; only a cgroup counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_pids: Option<u64>,
    /// Forks that the limit of processes refused.
    #[serde(skip_serializing_if = "is_zero")]
    pub refused_forks: u64,
}

fn is_false(value: &bool) -> bool {
    !*value
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What a number of [`Usage`] is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Meter {
    #[default]
    Rusage,
    Cgroup,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReceiptArtifact {
    pub id: ArtifactId,
    pub version: u64,
    pub path: String,
    #[serde(rename = "type")]
    pub artifact_type: ArtifactType,
    pub state: ArtifactState,
    pub size: u64,
    /// `None`: it has no content yet.
    pub digest: Option<Digest>,
    /// Whether the remote store has its content, where that was to be waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uploaded: Option<bool>,
}
