//! Where artifacts are kept: the two contracts, [`BlobStore`] for contents and [`Catalog`] for rows.
//!
//! Both are synchronous and may block for as long as a disk or a lock takes. They are called from threads that may
//! block (the registrar's, or a blocking pool), never from a thread that serves the kernel and never from an async
//! task. Several processes use the same store and the same catalog at the same time.
//!
//! The order that makes a crash harmless is kept by the caller: content first ([`BlobBatch::commit`]), rows second
//! ([`Catalog::register`]), acknowledgement last. A content without a row is garbage; a row without a content cannot be.

pub mod blob;
pub mod catalog;
mod filter;
pub mod life;
pub mod lineage;
pub mod memory;
pub mod remote;
pub mod retention;
mod row;
mod secrets;
pub mod upload;
pub mod view;

#[cfg(test)]
mod contract;

use crate::model::artifact::{ArtifactState, ArtifactType, Author, Origin, SecretScan};
use crate::model::digest::Digest;
use crate::model::id::{ArtifactId, MountName, RunId, WorkspaceId};
use crate::model::path::VirtualPath;
use jiff::Timestamp;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use uuid::Uuid;

pub use blob::BlobError;
pub use catalog::CatalogError;
pub use filter::{Cursor, Filter, SortKey, VersionPage};
pub use life::{Life, Wanted};
use lineage::{Input, InputBounds, MadeFrom, Use, VersionKey};
pub use retention::{NamedContent, Retention};
pub use secrets::{SecretFinding, SecretSearch};
pub use upload::Uploads;

/// Contents by digest. Immutable: what was committed once reads back the same for ever, identical bytes are kept once.
pub trait BlobStore: Send + Sync {
    /// Starts a group of contents that become durable together, because a disk makes a hundred durable for the price of one.
    fn begin(&self) -> Result<Box<dyn BlobBatch + '_>, BlobError>;

    /// Opens a content for reading, in whichever tier it is.
    fn open(&self, digest: &Digest) -> Result<File, BlobError>;

    /// Puts a content where it is wanted and takes it away from where it is not, with a copy in place at every moment as
    /// long as it is wanted at all. `wanted` is asked while no other call of any process places a content. A content that
    /// a batch took or met a short while ago stays: its row may be about to come.
    fn place(
        &self,
        digest: &Digest,
        wanted: &dyn Fn() -> Result<Wanted, CatalogError>,
    ) -> Result<Placed, PlaceError>;

    /// Every copy of a content; none when there is none.
    fn copies(&self, digest: &Digest) -> Result<Vec<ContentCopy>, BlobError>;

    /// Tells of everything in one part of the store.
    fn survey(&self, part: StorePart, each: &mut dyn FnMut(StoreEntry)) -> Result<(), BlobError>;

    /// Takes a damaged copy out of the store, and says where it is kept.
    fn set_aside(&self, digest: &Digest, tier: Tier) -> Result<PathBuf, BlobError>;

    /// Removes what is half-written, by the path that [`survey`](Self::survey) told. That it is gone already is no error.
    fn discard(&self, path: &Path) -> Result<(), BlobError>;

    /// Removes what a dead daemon left half-written.
    fn forget_instance(&self, dead: Uuid) -> Result<(), BlobError>;
}

/// Where in a store a content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    Main,
    Archive,
}

impl Tier {
    pub fn as_str(self) -> &'static str {
        match self {
            Tier::Main => "main",
            Tier::Archive => "archive",
        }
    }
}

/// One copy of a content, open for reading.
#[derive(Debug)]
pub struct ContentCopy {
    pub tier: Tier,
    pub file: File,
}

/// A part of a store that is looked through at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorePart {
    /// Contents of one tier whose digests have this first byte.
    Contents(Tier, u8),
    /// What is on its way, and what belongs to nobody.
    Rest,
}

/// Something in a store. What is `young` may be about to get its row, or to be finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreEntry {
    Content {
        digest: Digest,
        tier: Tier,
        young: bool,
    },
    /// A content in the middle of its removal.
    Aside {
        digest: Digest,
        young: bool,
    },
    /// A content half-copied to another tier.
    Partial {
        path: PathBuf,
        young: bool,
    },
    /// A content half-written by that daemon.
    Temporary {
        path: PathBuf,
        instance: Uuid,
    },
    /// The store did not make it.
    Foreign {
        path: PathBuf,
    },
}

/// Whether [`BlobStore::place`] has to be called again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    Done,
    /// Something stays for a while that is not wanted.
    Young,
}

/// Why a content could not be placed.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// A group of contents on their way. Dropping it forgets what was not committed.
pub trait BlobBatch {
    /// Takes one content.
    fn writer(&mut self) -> Result<Box<dyn BlobWriter + '_>, BlobError>;

    /// Makes every kept content durable. After an error none of them may be relied on; staging them again is harmless.
    fn commit(self: Box<Self>) -> Result<(), BlobError>;
}

/// One content on its way. Dropping it forgets the content.
pub trait BlobWriter: Write {
    /// The content is whole and has this digest; it becomes part of the batch.
    fn keep(self: Box<Self>, digest: &Digest) -> Result<(), BlobError>;
}

/// What artifacts exist, and their versions.
pub trait Catalog: Send + Sync {
    /// Registers the batch in one transaction: all or nothing, durable when it returns. Answers in the same order.
    ///
    /// The file is found by owner and host path; version numbers are given inside the transaction, so that two
    /// processes never give the same. When the latest version is READY and has the same digest, no version is added and
    /// the run is noted as one that produced it: registering the same thing twice, as after a crash, leaves one version.
    /// Secrets found in it that were not known before are noted with it, and it is quarantined if the new one is.
    fn register(&self, batch: &[NewVersion]) -> Result<Vec<Registered>, CatalogError>;

    /// Rows that match, in the order that the filter names. `owner` of `None` sees everyone's. A question that takes too long
    /// is given up with [`CatalogError::TooSlow`].
    fn list(&self, owner: Option<u32>, filter: &Filter) -> Result<VersionPage, CatalogError>;

    fn find(
        &self,
        owner: Option<u32>,
        id: ArtifactId,
        which: Which,
    ) -> Result<Option<VersionRow>, CatalogError>;

    /// Moves versions to another state; `None` when there is no such version. With [`Selected::Every`] those that may
    /// not go there are left alone, as long as one may, but none is deleted when one of them is pinned. READY brings
    /// back what is ARCHIVED or DELETED. Answers the (last) version moved.
    fn change_state(
        &self,
        owner: Option<u32>,
        id: ArtifactId,
        selected: Selected,
        next: ArtifactState,
        author: &Author,
    ) -> Result<Option<VersionRow>, CatalogError>;

    /// Everything that happens to versions after they were captured.
    fn life(&self) -> &dyn Life;

    /// Plans, policies, and the books for verification.
    fn retention(&self) -> &dyn Retention;

    /// What has to reach a remote store, and what is there.
    fn uploads(&self) -> &dyn Uploads;

    /// What each of these files of one owner looked like when it was registered last, in the same order.
    fn last_seen(
        &self,
        owner_uid: u32,
        host_paths: &[Vec<u8>],
    ) -> Result<Vec<LastSeen>, CatalogError>;

    /// Tells what a run produced, oldest first, including versions that it wrote again with the same bytes. One row at a
    /// time: a run may have a hundred thousand, of 2 KB each.
    fn of_run(
        &self,
        run: RunId,
        limit: u32,
        each: &mut dyn FnMut(VersionRow),
    ) -> Result<(), CatalogError>;

    /// The same catalog, asked for what is shown as files.
    fn views(&self) -> &dyn view::ViewCatalog;

    /// Notes inputs of runs in one transaction. One whose run and number are known already stays as it is.
    fn note_inputs(&self, inputs: &[Input]) -> Result<(), CatalogError>;

    /// What the version's run had read, at most `limit` inputs. A version that does not exist was made from nothing.
    fn made_from(&self, version: VersionKey, limit: u32) -> Result<MadeFrom, CatalogError>;

    /// Versions whose runs had read this one, each run once for each version, at most `limit`.
    fn used_by(&self, version: VersionKey, limit: u32) -> Result<Vec<Use>, CatalogError>;
}

/// Who opened a file last for writing, as the kernel and /proc said it at that moment. Never a guess.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Process {
    /// In the daemon's pid namespace.
    pub pid: u32,
    pub uid: u32,
    /// The arguments, separated by NUL and cut to a bound; nothing where they could not be read.
    pub command: Option<Vec<u8>>,
}

/// By what a file is told to be the one that was registered, without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub inode: u64,
    pub size: u64,
    /// Nanoseconds since 1970 UTC.
    pub mtime_ns: i64,
    pub ctime_ns: i64,
}

/// What is known of a file at a host path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastSeen {
    /// It was never registered.
    Never,
    /// It was, and nobody noted what it looked like.
    Unnoted,
    As(Stamp),
}

/// A stable copy that is about to become a version.
#[derive(Debug, Clone)]
pub struct NewVersion {
    pub owner_uid: u32,
    pub host_path: Vec<u8>,
    pub workspace: WorkspaceId,
    pub mount: MountName,
    pub path: VirtualPath,
    pub run: Option<RunId>,
    pub graph_id: Option<String>,
    pub node_id: Option<String>,
    /// `None` where no process can be named.
    pub writer: Option<Process>,
    pub artifact_type: ArtifactType,
    /// The type that the other one of name and bytes speaks for.
    pub suspected: Option<ArtifactType>,
    pub mime: Option<String>,
    pub size: u64,
    pub digest: Digest,
    pub content_kept: bool,
    /// The file's, when the copy was taken; noted also when there is nothing else to register.
    pub stamp: Option<Stamp>,
    pub closes: u64,
    pub metadata: Metadata,
    pub secrets: SecretSearch,
    /// What the run had read by then; `None` where it was not seen.
    pub inputs: Option<InputBounds>,
    pub captured_at: Timestamp,
}

impl NewVersion {
    /// Whose deed the capture is told as: the run's, the writer's where it is known, else the daemon's own.
    pub fn author(&self) -> Author {
        match (&self.run, &self.writer) {
            (Some(run), _) => Author::Run(*run),
            (None, Some(writer)) => Author::User(writer.uid),
            (None, None) => Author::Belljar,
        }
    }

    /// Its content, where that is kept.
    pub(crate) fn kept_content(&self) -> Option<NamedContent> {
        self.content_kept.then_some(NamedContent { digest: self.digest, size: self.size })
    }
}

/// What is known of a content: a JSON object.
pub type Metadata = serde_json::Map<String, serde_json::Value>;

/// What [`Catalog::register`] did with one element of the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    Version(u64),
    /// The latest version, whose number this is, has the same content already.
    Unchanged(u64),
}

/// One version as the catalog knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct VersionRow {
    pub id: ArtifactId,
    pub aliases: Vec<String>,
    pub number: u64,
    pub parent: Option<u64>,
    pub labels: Vec<String>,
    pub tags: Vec<String>,
    pub owner_uid: u32,
    pub host_path: Vec<u8>,
    pub origin: Origin,
    pub workspace: Option<WorkspaceId>,
    /// Where in the workspace; nothing for a file that was registered from outside of every mount point.
    pub place: Option<(MountName, VirtualPath)>,
    pub run: Option<RunId>,
    pub graph_id: Option<String>,
    pub node_id: Option<String>,
    pub writer: Option<Process>,
    pub artifact_type: ArtifactType,
    pub suspected: Option<ArtifactType>,
    pub mime: Option<String>,
    pub state: ArtifactState,
    pub held: bool,
    pub pinned: bool,
    pub quarantined: bool,
    pub size: u64,
    /// `None` as long as there is no content.
    pub digest: Option<Digest>,
    pub content_kept: bool,
    pub closes: u64,
    pub metadata: Metadata,
    /// `None`: registered before contents were searched for secrets.
    pub secret_scan: Option<SecretScan>,
    pub secrets_found: Vec<SecretFinding>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub deleted_at: Option<Timestamp>,
    pub swept_at: Option<Timestamp>,
    /// Since when it is ARCHIVED.
    pub archived_at: Option<Timestamp>,
    /// Its content was kept and is gone or damaged for good; `content_kept` is false then.
    pub lost_at: Option<Timestamp>,
}

impl VersionRow {
    /// Registered as CREATING by somebody who has not said READY yet.
    pub fn held_open(&self) -> bool {
        self.held && self.state == ArtifactState::Creating
    }

    /// Its content, where that is kept.
    pub(crate) fn kept_content(&self) -> Option<NamedContent> {
        let kept = self.content_kept && self.swept_at.is_none();
        self.digest.filter(|_| kept).map(|digest| NamedContent { digest, size: self.size })
    }
}

/// Which version is meant. The latest is the highest number that is not DELETED, or the highest when all are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    Latest,
    Number(u64),
}

/// Which versions a change of state is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selected {
    Every,
    One(Which),
}

/// Whether trying the same again later may succeed, without anything being wrong with what was tried.
pub fn is_transient(error: &io::Error) -> bool {
    use nix::errno::Errno;
    let Some(raw) = error.raw_os_error() else {
        return matches!(
            error.kind(),
            io::ErrorKind::WriteZero | io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
        );
    };
    matches!(
        Errno::from_raw(raw),
        Errno::ENOSPC
            | Errno::EDQUOT
            | Errno::EIO
            | Errno::EROFS
            | Errno::EMFILE
            | Errno::ENFILE
            | Errno::ENOMEM
            | Errno::EAGAIN
            | Errno::EINTR
            | Errno::EBUSY
            | Errno::ETIMEDOUT
            | Errno::ENOTCONN
            | Errno::ESTALE
    )
}
