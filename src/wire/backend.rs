//! Places for artifacts that users ask for at run time.

use crate::model::id::BackendId;
use serde::{Deserialize, Serialize};

/// The header of a request that is about artifacts of a backend, and not of the daemon's own place.
pub const BACKEND_HEADER: &str = "belljar-backend";

/// Beside [`BACKEND_HEADER`]: the client holds the backend's keys. A daemon to which they were given before it was restarted then
/// answers `backend-not-open` instead of letting uploads wait for them, so that the client gives them again.
pub const CREDENTIALS_HEADER: &str = "belljar-backend-credentials";

/// Body of `PUT /v1/storage/backend`. Which fields there may be depends on `kind`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendRequest {
    pub kind: BackendKind,
    /// `local`: the directory for contents, from the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_path: Option<String>,
    /// `local`: whether the directory is made when it is missing; it is when this is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_dirs: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// `s3`: the server's address, without the bucket; Amazon's when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// `s3`: whether an address without encryption may be of another machine.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_http: bool,
    /// `s3`: kept in memory alone. Missing: what the daemon has itself, for the user whose daemon it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<BackendCredentials>,
    /// `database`: as libpq reads it, with the password, which is kept in memory alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_string: Option<Hidden>,
    /// `database`: the directory for contents, from the root; made when it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_storage_path: Option<String>,
    /// Which directory the client sees at that path, so that the daemon uses no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<DirectoryIdentity>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
    /// Contents in a directory, rows with the daemon.
    Local,
    /// Contents in a bucket, rows with the daemon.
    S3,
    /// Rows in PostgreSQL, contents in a directory.
    Database,
}

impl BackendKind {
    pub fn as_str(self) -> &'static str {
        match self {
            BackendKind::Local => "local",
            BackendKind::S3 => "s3",
            BackendKind::Database => "database",
        }
    }
}

/// stat(2) of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectoryIdentity {
    pub device: u64,
    pub inode: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendCredentials {
    pub access_key_id: Hidden,
    pub secret_access_key: Hidden,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_token: Option<Hidden>,
}

/// Text that is a secret, or has one in it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hidden(pub String);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

/// A backend as the daemon shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    pub id: BackendId,
    pub owner_uid: u32,
    pub kind: BackendKind,
    /// Where it is, in a few words and without a secret.
    pub place: String,
    pub state: BackendState,
    /// Why it is not open; or what is wrong although it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Files that were written for it and are not registered.
    pub pending_artifacts: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendState {
    Open,
    /// It needs a password or keys that were in the memory of an earlier daemon: its owner has to set it again.
    WaitingForCredentials,
    /// It could not be opened; the daemon goes on trying.
    Unavailable,
    /// Nobody has asked for it since this daemon started.
    Closed,
}

/// Answer of `GET /v1/storage/backends`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackendList {
    pub backends: Vec<Backend>,
}
