//! The contract of a store that is reached over a network, or may be away: contents by digest, whole and unchanged.
//!
//! A content is in the local store first and stays readable there; a remote store gets its copy later and may be unreachable
//! for as long as it likes. Implementations are synchronous and may block for as long as their own deadlines allow, and
//! are called as [`super::BlobStore`] is. Several daemons use the same store at the same time.

use crate::model::digest::Digest;
use jiff::Timestamp;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use uuid::Uuid;

/// Contents by digest, somewhere else.
pub trait RemoteStore: Send + Sync + fmt::Debug {
    /// What people and rows call this store: the same for every daemon that uses it, and without a secret,
    /// `s3://bucket/prefix`.
    fn name(&self) -> &str;

    /// Puts a whole content, of which `content` gives `size` bytes from its beginning. When it returns, the store has said that
    /// it keeps all of it. A content that is there with the same size is not sent again; two that put the same at the same time
    /// do no harm.
    fn put(&self, digest: &Digest, content: &File, size: u64) -> Result<(), RemoteError>;

    /// Writes a content, or a range of it, to `into` and answers how many bytes that were. Bytes of a whole content are compared
    /// with the digest: what differs is [`RemoteError::Damaged`], and what was written then is worth nothing.
    fn get(
        &self,
        digest: &Digest,
        range: Option<Range<u64>>,
        into: &mut dyn Write,
    ) -> Result<u64, RemoteError>;

    /// The size of a content that is there.
    fn size(&self, digest: &Digest) -> Result<Option<u64>, RemoteError>;

    /// That it is gone already is no error.
    fn delete(&self, digest: &Digest) -> Result<(), RemoteError>;

    /// Tells of every content whose digest begins with this byte.
    fn list(&self, first: u8, each: &mut dyn FnMut(RemoteContent)) -> Result<(), RemoteError>;

    /// Makes the store that catalog's, or sees that it is. A store belongs to one catalog, because what no row of a catalog
    /// names is removed; daemons that share a catalog share its stores. Another catalog's is
    /// [`RemoteFailure::Configuration`].
    fn claim(&self, catalog: Uuid) -> Result<(), RemoteError>;

    /// Asks the store for as little as shows that contents can be put and got, and answers what it can do.
    fn check(&self) -> Result<RemoteAbilities, RemoteError>;
}

/// What the object is called that says whose contents a store has.
pub const CLAIM: &str = "belljar-catalog";

/// Whether the text of such an object names that catalog.
pub(super) fn claimed_by(store: &str, text: &str, catalog: Uuid) -> Result<(), RemoteError> {
    let owner = text.trim();
    if owner == catalog.to_string() {
        return Ok(());
    }
    Err(RemoteError::Store {
        doing: "use the contents",
        store: store.to_owned(),
        reason: format!(
            "they are those of another catalog ({owner:?}), and each would remove what the other's rows name: give each catalog a \
             bucket, a prefix or a directory of its own; if that catalog is gone for good, remove {CLAIM} there"
        ),
        kind: RemoteFailure::Configuration,
    })
}

/// A content that a store has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteContent {
    pub digest: Digest,
    pub size: u64,
    /// By the store's clock.
    pub stored_at: Timestamp,
}

/// What was found out about a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RemoteAbilities {
    /// It refuses to overwrite when told so; proven by trying, not by its answer alone.
    pub conditional_put: bool,
}

/// Why a remote store did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// What it was to do, with what, why not, and what can be done.
    #[error("cannot {doing} in {store}: {reason}")]
    Store { doing: &'static str, store: String, reason: String, kind: RemoteFailure },
    #[error("{store} has no content {digest}")]
    Missing { store: String, digest: Digest },
    #[error("{store} gave other bytes than those of content {digest}: {reason}")]
    Damaged { store: String, digest: Digest, reason: String },
    /// Of this machine: the content to put, or what it was to be written to.
    #[error("cannot {doing}")]
    Local {
        doing: &'static str,
        #[source]
        source: io::Error,
    },
}

/// What has to change before the same call succeeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoteFailure {
    /// Nothing but time: unreachable, overloaded, full, a time limit.
    Transient,
    /// There are no credentials, or they are refused or expired.
    Credentials,
    /// The configuration, or what is configured on the other side.
    Configuration,
}

impl RemoteError {
    /// Whether the same call may succeed later without anybody's doing.
    pub fn is_transient(&self) -> bool {
        match self {
            RemoteError::Store { kind, .. } => *kind == RemoteFailure::Transient,
            RemoteError::Local { source, .. } => super::is_transient(source),
            RemoteError::Damaged { .. } => true,
            RemoteError::Missing { .. } => false,
        }
    }

    /// Whether it waits for credentials.
    pub fn needs_credentials(&self) -> bool {
        matches!(self, RemoteError::Store { kind: RemoteFailure::Credentials, .. })
    }
}
