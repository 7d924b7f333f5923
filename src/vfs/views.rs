//! Artifacts as files: a read-only tree of directories that name versions, and the contents behind them.
//!
//! What there is comes from a [`ViewSource`], which may wait for a catalog: this tree is served by threads of its own,
//! so that no file of the workspace ever waits with it. A version is one node by whatever name it was found. Node numbers are made
//! from what a node stands for, so that they stay the same however often it is forgotten, and in the next daemon.
//!
//! Lock: `nodes`, never held across a call of the source.

use super::attributes::{Attributes, Time};
use super::error::Error;
use crate::model::artifact::Shelf;
use crate::model::digest::Digest;
use crate::model::id::{ArtifactId, MountName};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::sync::{Arc, Mutex};

/// The root, as the FUSE protocol numbers it.
pub const ROOT: u64 = 1;

/// Longest name in bytes: that of a file on the host, `@`, and the digits of a version.
pub const NAME_BYTES_MAX: u32 = 255 + 1 + 20;

const DIRECTORY_MODE: u32 = 0o040_555;
const FILE_MODE: u32 = 0o100_444;
const QUARANTINED_MODE: u32 = 0o100_400;

/// What a node stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Root,
    ById,
    ByType,
    ByGraph,
    /// `by-type/<type>` or `by-graph/<graph>`: the mount points below it.
    Shelf(Shelf),
    /// A directory below a mount point; the path is empty or ends with `/`.
    Directory {
        shelf: Shelf,
        mount: MountName,
        path: Vec<u8>,
    },
    /// `by-id/<uuid>`: the versions of one artifact.
    Artifact(ArtifactId),
    Version(Version),
}

/// A version and what is to be told of it. Nothing of it changes but that it may be quarantined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub id: ArtifactId,
    pub number: u64,
    pub size: u64,
    pub digest: Digest,
    pub created: Time,
    /// For its owner alone.
    pub quarantined: bool,
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: OsString,
    pub place: Place,
}

/// Where the tree comes from. Calls may wait for a database.
pub trait ViewSource: Send + Sync {
    /// [`Error::NotFound`] where the directory has no such name.
    fn lookup(&self, directory: &Place, name: &OsStr) -> Result<Place, Error>;

    /// The entries of a directory, from its beginning.
    fn list(&self, directory: &Place) -> Result<Box<dyn Listing>, Error>;

    /// [`Error::NotFound`] where the version is not shown any more.
    fn open(&self, version: &Version) -> Result<File, Error>;
}

/// The entries of one directory, page after page.
pub trait Listing: Send {
    /// Nothing after the last.
    fn next_page(&mut self) -> Result<Vec<Entry>, Error>;
}

struct Node {
    place: Place,
    /// Lookups that the kernel has not given back.
    references: u64,
}

/// The tree of one workspace.
pub struct ViewTree {
    source: Arc<dyn ViewSource>,
    owner: (u32, u32),
    created: Time,
    /// What the kernel knows; it forgets when it needs the memory.
    nodes: Mutex<HashMap<u64, Node>>,
}

impl std::fmt::Debug for ViewTree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ViewTree").field("owner", &self.owner).finish_non_exhaustive()
    }
}

impl Place {
    pub fn is_directory(&self) -> bool {
        !matches!(self, Place::Version(_))
    }

    fn is_same(&self, other: &Place) -> bool {
        match (self, other) {
            (Place::Version(one), Place::Version(other)) => {
                (one.id, one.number) == (other.id, other.number)
            }
            _ => self == other,
        }
    }

    /// The number that a node of this place has unless another has it already.
    pub fn number(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        // Each part comes with its length, so that no two places read the same.
        let mut add = |part: &[u8]| {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        };
        let mut add_shelf = |shelf: &Shelf| match shelf {
            Shelf::Type(name) => [&b"type"[..], name.as_str().as_bytes()].map(&mut add),
            Shelf::Graph(id) => [&b"graph"[..], id.as_bytes()].map(&mut add),
        };
        match self {
            Place::Root => return ROOT,
            Place::ById => add(b"by-id"),
            Place::ByType => add(b"by-type"),
            Place::ByGraph => add(b"by-graph"),
            Place::Shelf(shelf) => drop(add_shelf(shelf)),
            Place::Directory { shelf, mount, path } => {
                add_shelf(shelf);
                add(mount.as_str().as_bytes());
                add(path);
            }
            Place::Artifact(id) => add(id.as_uuid().as_bytes()),
            Place::Version(version) => {
                add(version.id.as_uuid().as_bytes());
                add(&version.number.to_le_bytes());
            }
        }
        let mut first = [0; 8];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        // Positive as a signed number, for programs that take it for one, and never the root's.
        (u64::from_le_bytes(first) >> 1).max(ROOT + 1)
    }
}

impl ViewTree {
    /// `owner` is the user and group whose artifacts these are.
    pub fn new(source: Arc<dyn ViewSource>, owner: (u32, u32)) -> Self {
        Self { source, owner, created: Time::now(), nodes: Mutex::default() }
    }

    fn place(&self, node: u64) -> Result<Place, Error> {
        if node == ROOT {
            return Ok(Place::Root);
        }
        let nodes = self.nodes.lock().expect("no panic under this lock");
        nodes.get(&node).map(|node| node.place.clone()).ok_or(Error::Unknown(node))
    }

    /// Finds a name in a directory. The node found has one more reference, which [`forget`](Self::forget) gives back.
    pub fn lookup(&self, parent: u64, name: &OsStr) -> Result<Attributes, Error> {
        let place = self.source.lookup(&self.place(parent)?, name)?;
        let mut nodes = self.nodes.lock().expect("no panic under this lock");
        let mut number = place.number();
        // Two places that ask for the same number are not expected in the life of the universe; they would still be two.
        while nodes.get(&number).is_some_and(|node| !node.place.is_same(&place)) {
            number = number.wrapping_add(1).max(ROOT + 1);
        }
        let node = nodes.entry(number).or_insert(Node { place: Place::Root, references: 0 });
        node.references += 1;
        node.place = place;
        Ok(self.told(number, &node.place))
    }

    pub fn forget(&self, node: u64, count: u64) {
        let mut nodes = self.nodes.lock().expect("no panic under this lock");
        if let Some(known) = nodes.get_mut(&node) {
            known.references = known.references.saturating_sub(count);
            if known.references == 0 {
                nodes.remove(&node);
            }
        }
    }

    /// Told from what was found last, not asked anew: a deleted version that is open can still be read and looked at.
    pub fn attributes(&self, node: u64) -> Result<Attributes, Error> {
        Ok(self.told(node, &self.place(node)?))
    }

    fn told(&self, node: u64, place: &Place) -> Attributes {
        let (mode, size, time) = match place {
            Place::Version(version) => {
                let mode = if version.quarantined { QUARANTINED_MODE } else { FILE_MODE };
                (mode, version.size, version.created)
            }
            Place::Root
            | Place::ById
            | Place::ByType
            | Place::ByGraph
            | Place::Shelf(_)
            | Place::Directory { .. }
            | Place::Artifact(_) => (DIRECTORY_MODE, 0, self.created),
        };
        Attributes {
            node,
            size,
            blocks: size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            mode,
            // One where the number of directories inside is not known, as on Btrfs: find(1) then counts on nothing.
            nlink: 1,
            uid: self.owner.0,
            gid: self.owner.1,
            rdev: 0,
            blksize: 4096,
        }
    }

    /// The entries of a directory, from its beginning.
    pub fn list(&self, node: u64) -> Result<Box<dyn Listing>, Error> {
        let place = self.place(node)?;
        if !place.is_directory() {
            return Err(Error::NotDirectory);
        }
        self.source.list(&place)
    }

    /// Opens the content of a version for `uid`. The kernel has looked at the mode, which may be a moment old.
    pub fn open(&self, node: u64, uid: u32) -> Result<File, Error> {
        match self.place(node)? {
            Place::Version(version) if version.quarantined && uid != 0 && uid != self.owner.0 => {
                Err(Error::Refused("opening another user's artifact that holds a secret"))
            }
            Place::Version(version) => self.source.open(&version),
            Place::Root
            | Place::ById
            | Place::ByType
            | Place::ByGraph
            | Place::Shelf(_)
            | Place::Directory { .. }
            | Place::Artifact(_) => Err(Error::NotSupported("opening a directory as a file")),
        }
    }
}
