//! What the daemon says of itself, and the message of the companion socket.

use serde::{Deserialize, Serialize};

/// Appended to the API socket's path to name the companion socket, over which descriptors are sent.
pub const COMPANION_SUFFIX: &str = ".fds";

/// Most descriptors in one message; the kernel's own bound is 253 (unix(7), SCM_RIGHTS).
pub const DESCRIPTORS_MAX: usize = 128;

/// The daemon's answer on the companion socket (SOCK_SEQPACKET; one message each way). The client sends one message of
/// any one byte with the descriptors attached and keeps the connection open for as long as it wants what they serve to live.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompanionAnswer {
    Token(super::workspace::DescriptorToken),
    Refused(String),
}

/// Answer of `GET /version`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Version {
    pub name: String,
    pub version: String,
    pub api: String,
}

/// Answer of `GET /v1/daemon`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DaemonStatus {
    pub version: String,
    pub pid: u32,
    pub uid: u32,
    pub instance: String,
    pub embedded: bool,
    pub state_dir: String,
    pub runtime_dir: String,
    pub uptime_ms: u64,
    pub workspaces: u64,
    pub runs: u64,
    /// Files written and not yet registered.
    pub pending_artifacts: u64,
    pub passthrough: bool,
}
