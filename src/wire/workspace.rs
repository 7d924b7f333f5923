//! Workspaces, their mount points, secrets and environment.

use crate::model::access::Access;
use crate::model::id::{BackendId, MountName, RunId, SecretName, VariableName, WorkspaceId};
use crate::model::mount::{CachePolicy, SetId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Body of `POST /v1/workspaces`, and the workspace part of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkspaceRequest {
    /// Missing: the daemon makes one up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<WorkspaceId>,
    #[serde(default)]
    pub mounts: Vec<MountRequest>,
    /// Base64 of the value's bytes, so that any byte can be sent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<SecretName, SecretRequest>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<VariableName, String>,
    /// Names the descriptors sent over the companion socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub descriptors: Option<DescriptorToken>,
    /// The workspace ends with the connection that the descriptors were sent over, unless somebody else holds or keeps it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lease: bool,
}

/// What the companion socket answered for a set of descriptors; good for one request of the same user.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DescriptorToken(pub String);

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountRequest {
    pub name: MountName,
    #[serde(default)]
    pub mode: Access,
    /// The path as the client knows it; shown, recorded with artifacts, never opened by the daemon.
    pub path: String,
    /// Position, counted from 0, of the directory's descriptor among those of the token.
    pub descriptor: u32,
    /// Whether files written here become artifacts.
    #[serde(default = "yes")]
    pub artifacts: bool,
    #[serde(default)]
    pub cache: CachePolicy,
    /// Whether files may get set-user-id and set-group-id bits.
    #[serde(default)]
    pub suid: SetId,
}

fn yes() -> bool {
    true
}

/// A secret on its way to the daemon. No `Debug`: it holds the value.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretRequest {
    /// Base64 (RFC 4648, with padding) of the value's bytes.
    pub value: String,
    /// Whether the value is masked in logs and looked for in artifacts.
    #[serde(default = "yes")]
    pub sensitive: bool,
}

impl std::fmt::Debug for SecretRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Drop for SecretRequest {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.value);
    }
}

/// A workspace as the daemon shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Workspace {
    pub id: WorkspaceId,
    pub owner_uid: u32,
    /// The workspace's directory on the host.
    pub root: String,
    pub mounts: Vec<Mount>,
    /// Names only.
    pub secrets: Vec<SecretName>,
    /// Names only; the values are at `/v1/workspaces/{id}/env`.
    pub env: Vec<VariableName>,
    /// Runs in progress.
    pub runs: Vec<RunId>,
    /// Whether it stays when nobody holds a lease on it.
    pub kept: bool,
    /// Clients that hold a lease on it.
    pub leases: u64,
    /// Where its artifacts are kept, if that is not the daemon's own place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<BackendId>,
    pub created_at: Timestamp,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mount {
    pub name: MountName,
    pub mode: Access,
    /// The host directory, escaped where it is not UTF-8.
    pub path: String,
    pub artifacts: bool,
    pub cache: CachePolicy,
    pub suid: SetId,
    /// Whether the kernel carries file data itself, past the daemon.
    pub passthrough: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WorkspaceList {
    pub workspaces: Vec<Workspace>,
}

/// Names of a workspace's secrets; values never leave by this way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SecretList {
    pub secrets: Vec<Secret>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Secret {
    pub name: SecretName,
    pub sensitive: bool,
    pub size: u64,
}

/// Body of `PUT /v1/workspaces/{id}/env/{name}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VariableRequest {
    pub value: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Environment {
    pub env: BTreeMap<VariableName, String>,
}
