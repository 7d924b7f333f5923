//! Which contents have still to reach a remote store, which are there, and which have to go from it.
//!
//! The fourth part of the catalog's contract. A *node* is a state directory: its daemons share one local store. Whatever
//! makes a version name a content queues the upload in the same transaction ([`Uploads::send_to`]), so that a crash leaves
//! either no row, or a row whose upload is due. Several nodes may share a catalog and a remote store.
//!
//! A remote object goes only after a *removal* was written in a transaction that saw no version and no upload of its
//! content; as long as there is one, the content is sent by nobody.

use super::CatalogError;
use super::retention::NamedContent;
use crate::model::digest::Digest;
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

/// How long an upload is passed over whose content is quarantined, or being removed from the store.
pub(super) const QUARANTINE_PAUSE: SignedDuration = SignedDuration::from_secs(60);
pub(super) const REMOVAL_PAUSE: SignedDuration = SignedDuration::from_secs(1);

/// Where a node sends its contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    pub node: Uuid,
    /// [`RemoteStore::name`](super::remote::RemoteStore::name).
    pub remote: String,
    /// What people call the node: its machine and its state directory.
    pub place: String,
}

/// How an upload is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum UploadState {
    Waiting,
    /// A daemon of the node is at it.
    Uploading,
    /// It failed and is tried again.
    Failed,
    /// The same, and nothing but credentials helps.
    WaitingForCredentials,
    /// A version that names the content is quarantined: it goes nowhere until that ends.
    Quarantined,
}

impl UploadState {
    pub const ALL: [UploadState; 5] = [
        UploadState::Waiting,
        UploadState::Uploading,
        UploadState::Failed,
        UploadState::WaitingForCredentials,
        UploadState::Quarantined,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            UploadState::Waiting => "waiting",
            UploadState::Uploading => "uploading",
            UploadState::Failed => "failed",
            UploadState::WaitingForCredentials => "waiting-for-credentials",
            UploadState::Quarantined => "quarantined",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// A content that a daemon has taken to upload it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    pub digest: Digest,
    pub size: u64,
    /// How often it was tried before.
    pub attempts: u32,
}

/// What became of a content that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// The store has it.
    Done,
    Failed {
        state: UploadState,
        error: String,
        next_at: Timestamp,
    },
    /// It was not tried.
    Untouched,
}

/// Where a content is, and where it is on its way from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Whereabouts {
    /// Names of remote stores.
    pub stored_in: Vec<String>,
    pub queued: Vec<Queued>,
}

/// An upload that is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    pub node: Uuid,
    pub place: String,
    pub remote: String,
    pub state: UploadState,
    pub last_error: Option<String>,
}

/// Contents and their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amount {
    pub contents: u64,
    pub bytes: u64,
}

/// One node's queue for one store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueRow {
    pub node: Uuid,
    pub place: String,
    pub remote: String,
    /// When a daemon of the node said last that it lives.
    pub seen_at: Timestamp,
    /// Those that there are.
    pub amounts: Vec<(UploadState, Amount)>,
    /// When the oldest upload was queued.
    pub oldest_at: Option<Timestamp>,
    /// Of the upload that failed last.
    pub last_error: Option<String>,
}

/// What a catalog knows of one remote store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreRow {
    pub remote: String,
    pub stored: Amount,
    /// Contents that are about to go from it.
    pub removals: u64,
}

/// Whether a content's remote copies go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenUp {
    /// There is none, or none that may go.
    Nothing,
    /// A removal was written.
    Removing,
    /// A daemon is uploading it at this moment: ask again later.
    Busy,
}

/// See the module.
pub trait Uploads {
    /// From here on what is registered through this catalog is queued for that store; the first call counts.
    fn send_to(&self, destination: Destination);

    /// Which catalog this is: the same for everybody who uses it, for ever.
    fn catalog(&self) -> Result<Uuid, CatalogError>;

    /// A daemon of the node lives. Answers whether everything that the node had before is queued already.
    fn note_node(&self, destination: &Destination, now: Timestamp) -> Result<bool, CatalogError>;

    /// A daemon of the node lives, wherever it sends its contents.
    fn note_keeper(&self, node: Uuid, place: &str, now: Timestamp) -> Result<(), CatalogError>;

    /// Whether another node was ever noted: it may have what is missing in this one.
    fn knows_others(&self, node: Uuid) -> Result<bool, CatalogError>;

    /// Everything that the node had before it had this store is queued.
    fn node_filled(&self, destination: &Destination) -> Result<(), CatalogError>;

    /// Queues contents of the node that versions name, unless the store has them or they are queued. Answers how many.
    fn queue(
        &self,
        destination: &Destination,
        contents: &[NamedContent],
        now: Timestamp,
    ) -> Result<u64, CatalogError>;

    /// The store has lost a content: forgets that it had it, and queues it where the node has it still. Where it has not, every
    /// node looks through what it has once more (see [`note_node`](Self::note_node)).
    fn send_again(
        &self,
        destination: &Destination,
        content: &NamedContent,
        has_local: bool,
        now: Timestamp,
    ) -> Result<(), CatalogError>;

    /// Takes uploads of the node that are due, the one that is due for longest first, for `holder` until it says what became
    /// of them. What no version names any more is dropped; what is quarantined is passed over, as is what is being
    /// removed from the store.
    fn take(
        &self,
        destination: &Destination,
        holder: Uuid,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<Upload>, CatalogError>;

    /// Says what became of uploads that the holder took. One that another has taken meanwhile is left to that one, unless the
    /// store has it.
    fn settle(
        &self,
        destination: &Destination,
        holder: Uuid,
        outcomes: &[(Upload, Sent)],
        now: Timestamp,
    ) -> Result<(), CatalogError>;

    /// Daemons that have taken uploads of the node.
    fn holders(&self, destination: &Destination) -> Result<Vec<Uuid>, CatalogError>;

    /// That daemon is dead; what it took is due.
    fn let_go(&self, destination: &Destination, holder: Uuid) -> Result<(), CatalogError>;

    /// What failed before is due at once.
    fn hurry(&self, destination: &Destination, now: Timestamp) -> Result<(), CatalogError>;

    fn whereabouts(&self, digest: &Digest) -> Result<Whereabouts, CatalogError>;

    /// Uploads of the node that were queued until then and may go out.
    fn queued_until(
        &self,
        destination: &Destination,
        until: Timestamp,
    ) -> Result<u64, CatalogError>;

    /// Every node's queues, by node and store, also of those that have nothing to send.
    fn queues(&self) -> Result<Vec<QueueRow>, CatalogError>;

    fn stores(&self) -> Result<Vec<StoreRow>, CatalogError>;

    /// Contents that the store is said to have, in the order of their digests, with that first byte.
    fn stored(
        &self,
        remote: &str,
        first: u8,
        after: Option<Digest>,
        limit: u32,
    ) -> Result<Vec<NamedContent>, CatalogError>;

    /// Of these contents those that no version and no upload names.
    fn unnamed(&self, digests: &[Digest]) -> Result<Vec<Digest>, CatalogError>;

    /// If no version and no upload in progress names the content, drops its uploads and writes a removal for each store that
    /// is said to have it, and for `also`.
    fn give_up(
        &self,
        digest: &Digest,
        also: Option<&str>,
        now: Timestamp,
    ) -> Result<GivenUp, CatalogError>;

    /// Takes removals from a store until the lease ends. Whoever was slower must not touch the store any more.
    fn take_removals(
        &self,
        remote: &str,
        now: Timestamp,
        until: Timestamp,
        limit: u32,
    ) -> Result<Vec<Digest>, CatalogError>;

    /// The content is gone from the store.
    fn removed(&self, remote: &str, digest: &Digest) -> Result<(), CatalogError>;
}
