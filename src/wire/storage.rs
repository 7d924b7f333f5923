//! Stores: how uploads are doing, and what a remote store has that nobody names.

use crate::model::digest::Digest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Answer of `GET /v1/storage`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StorageStatus {
    /// Which state directory the daemon that answers has.
    pub node: Uuid,
    /// `all`, or for how long copies stay in the state directory.
    pub keep_local: String,
    /// The daemon's own; missing when it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<RemoteStatus>,
    /// What has still to be sent, for each node and store that the catalog knows.
    pub queues: Vec<Queue>,
    /// What the remote stores are known to have.
    pub stores: Vec<Stored>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RemoteStatus {
    pub name: String,
    /// Whether it took a look at this moment.
    pub reachable: bool,
    /// Why it did not, or why the daemon's last call failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One node's uploads to one store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Queue {
    pub node: Uuid,
    /// The node's machine and state directory.
    pub place: String,
    /// Whether it is the node of the daemon that answers.
    pub own: bool,
    pub remote: String,
    /// When a daemon of the node last said that it lives; each does every 30 s.
    pub last_seen: Timestamp,
    pub waiting: Amount,
    pub uploading: Amount,
    pub failed: Amount,
    pub waiting_for_credentials: Amount,
    /// A secret stands in them; they are not sent.
    pub quarantined: Amount,
    /// When the oldest of them was queued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Amount {
    pub contents: u64,
    pub bytes: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stored {
    pub remote: String,
    pub contents: u64,
    pub bytes: u64,
    /// Contents that nobody wants any more and that are about to go.
    pub removals: u64,
}

/// Body of `POST /v1/storage/gc`. One answer is a part of the whole; `next` leads to the part after it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CollectRequest {
    /// Whether what is found is removed.
    pub apply: bool,
    /// Only what was stored longer ago: 24 h when missing, at least an hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub older_than_ms: Option<u64>,
    /// Where the part before ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<u8>,
}

/// What a part of the store has that no version and no upload names.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct CollectReport {
    pub remote: String,
    /// Contents that were looked at.
    pub contents: u64,
    /// Nobody names them, and they are too young to go.
    pub young: u64,
    /// Nobody names them.
    pub garbage: Amount,
    /// The first 1,000 of them.
    pub found: Vec<Garbage>,
    pub removed: u64,
    /// Missing in the last part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u8>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Garbage {
    pub digest: Digest,
    pub size: u64,
    /// By the store's clock.
    pub stored_at: Timestamp,
}
