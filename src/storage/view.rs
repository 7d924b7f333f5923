//! The questions that showing artifacts as files asks of a catalog, and their answers.
//!
//! Shown is what is committed and can be opened: versions that are READY or ARCHIVED and whose content is kept. All
//! answers are short pages in an order that does not change, so that a directory of any size is listed with little memory.

use super::CatalogError;
use crate::model::artifact::Shelf;
use crate::model::digest::Digest;
use crate::model::id::{ArtifactId, MountName, WorkspaceId};
use jiff::Timestamp;

/// The versions that were made in one workspace of one owner.
#[derive(Debug, Clone)]
pub struct Scope {
    pub owner_uid: u32,
    pub workspace: WorkspaceId,
}

/// Words that shown versions have, where the versions lie below a mount point.
#[derive(Debug, Clone, Copy)]
pub enum Words<'a> {
    Types,
    Graphs,
    /// Names of mount points, of the versions on a shelf.
    Mounts(&'a Shelf),
}

/// A part of a shelf below one mount point, in the order of paths as bytes.
#[derive(Debug, Clone)]
pub struct Stretch<'a> {
    pub shelf: &'a Shelf,
    pub mount: &'a MountName,
    /// The first path that belongs to it.
    pub from: &'a [u8],
    /// The first path that does not; `None` for no end.
    pub below: Option<&'a [u8]>,
    /// [`ShownVersion::key`] of the last version that was seen of the file at `from`; `None` when none was.
    pub seen: Option<i64>,
}

/// A version as a file needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownVersion {
    /// Greater than that of every version that was registered before.
    pub key: i64,
    pub id: ArtifactId,
    pub number: u64,
    /// The highest number of its artifact that is committed in the scope, whether its content is kept or not.
    pub latest: bool,
    /// Below the mount point; nothing for what lies below none.
    pub path: Option<Vec<u8>>,
    pub host_path: Vec<u8>,
    pub size: u64,
    pub digest: Digest,
    pub quarantined: bool,
    pub created_at: Timestamp,
}

/// What a catalog answers. Every page has at most `limit` elements.
pub trait ViewCatalog {
    /// In order, those after `after`.
    fn shown_words(
        &self,
        scope: &Scope,
        words: Words<'_>,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<String>, CatalogError>;

    /// In the order of paths; of one path, the version that was registered last comes first.
    fn shown_files(
        &self,
        scope: &Scope,
        stretch: &Stretch<'_>,
        limit: u32,
    ) -> Result<Vec<ShownVersion>, CatalogError>;

    /// Artifacts with a shown version, with the position of each: the next page begins after it.
    fn shown_artifacts(
        &self,
        scope: &Scope,
        after: Option<i64>,
        limit: u32,
    ) -> Result<Vec<(i64, ArtifactId)>, CatalogError>;

    /// Versions of one artifact with a number above `after`, in order.
    fn shown_versions(
        &self,
        scope: &Scope,
        id: ArtifactId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<ShownVersion>, CatalogError>;
}
