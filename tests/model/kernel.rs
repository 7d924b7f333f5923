//! Plays the kernel: sends requests to the file system, and compares each answer with the reference.

use crate::heard::{At, Event, Heard};
use crate::reference::{Inode, Key, Kind, Reference};
use crate::unmounted::{self, Mount};
use belljar::model::access::Access;
use belljar::vfs::Vfs;
use belljar::vfs::attributes::Attributes;
use belljar::vfs::backing::Caller;
use belljar::vfs::error::Error;
use belljar::vfs::inode::mount_position;
use belljar::vfs::observer::{FileKey, FileSource};
use nix::errno::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The second read-write mount point is not told of.
pub const MOUNTS: [Mount; 3] = [
    Mount { name: "rw", access: Access::ReadWrite, artifacts: true },
    Mount { name: "other", access: Access::ReadWrite, artifacts: false },
    Mount { name: "ro", access: Access::ReadOnly, artifacts: true },
];
pub const OBSERVED: usize = 0;
pub const READ_ONLY: usize = 2;

/// A node that the kernel or the observer holds.
#[derive(Debug)]
pub struct Known {
    pub key: Key,
    pub lookups: u64,
}

#[derive(Debug, Clone, Copy)]
pub struct Open {
    pub handle: u64,
    pub node: u64,
    pub key: Key,
    pub is_directory: bool,
    pub reads: bool,
    pub writes: bool,
    pub appends: bool,
    /// Counted as a writer: opened for writing, or made by this open.
    pub writer: bool,
}

/// A file since the first of its writers came.
#[derive(Debug, Default)]
pub struct Writing {
    pub writers: u32,
    /// Certainly another file than before.
    pub changed: bool,
    /// Its ctime may be another.
    pub touched: bool,
}

/// What the observer must have heard. Places are `None` where the host has moved something meanwhile, so that the file
/// system cannot know them.
#[derive(Debug)]
pub enum Expected {
    /// At one of these; `always` unless the file may have no name that the file system knows.
    Dirtied {
        key: Key,
        at: Option<Vec<At>>,
        always: bool,
    },
    Closed {
        key: Key,
        changed: Option<bool>,
    },
    Named {
        key: Key,
        from: Option<Option<At>>,
        to: Option<At>,
        open: bool,
    },
    Moved {
        places: Option<(At, At)>,
    },
    Removed {
        at: Option<At>,
    },
}

pub struct Kernel {
    pub vfs: Vfs,
    pub heard: Arc<Heard>,
    pub caller: Caller,
    pub directory: tempfile::TempDir,
    pub reference: Reference,
    /// Whether inodes can be opened by handle.
    pub handles: bool,
    pub known: BTreeMap<u64, Known>,
    pub opens: Vec<Open>,
    pub writing: BTreeMap<Key, Writing>,
    /// Renamed or unlinked by the host and not looked up since.
    pub moved: BTreeSet<Key>,
    /// Removed by the host: nobody but who has a descriptor reaches them.
    pub gone: BTreeSet<Key>,
    /// Files of which the file system remembers names that the host took away.
    pub misnamed: BTreeSet<Key>,
    /// Files that lost a name while others are left, of which the file system may know none.
    pub nameless: BTreeSet<Key>,
    descriptors_max: usize,
    descriptors_before: usize,
    read_only_before: BTreeMap<PathBuf, String>,
}

impl Kernel {
    pub fn new(descriptors_max: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let caller = unmounted::ourselves();
        let owner = (caller.uid, caller.gid);
        let mut reference = Reference::new(MOUNTS.len(), owner);
        for mount in MOUNTS {
            let root = directory.path().join(mount.name);
            fs::create_dir(&root).unwrap();
            fs::set_permissions(&root, PermissionsExt::from_mode(0o755)).unwrap();
        }
        let heard = Arc::new(Heard::default());
        let vfs = unmounted::vfs(directory.path(), &MOUNTS, heard.clone(), descriptors_max);
        let ro = directory.path().join("ro");
        let d = Inode::new(Kind::Directory(BTreeMap::new()), 0o755, owner);
        let d = reference.make(READ_ONLY, "b".as_ref(), d).unwrap();
        fs::create_dir(ro.join("b")).unwrap();
        fs::set_permissions(ro.join("b"), PermissionsExt::from_mode(0o755)).unwrap();
        for (parent, path) in [(READ_ONLY, "a"), (d, "b/a")] {
            let file = Inode::new(Kind::File(path.into()), 0o644, owner);
            reference.make(parent, "a".as_ref(), file).unwrap();
            fs::write(ro.join(path), path).unwrap();
            fs::set_permissions(ro.join(path), PermissionsExt::from_mode(0o644)).unwrap();
        }
        let link = Inode::new(Kind::Link("a".into()), 0o777, owner);
        reference.make(READ_ONLY, "c".as_ref(), link).unwrap();
        std::os::unix::fs::symlink("a", ro.join("c")).unwrap();
        let mut kernel = Self {
            heard,
            caller,
            reference,
            handles: unmounted::is_root(),
            known: BTreeMap::new(),
            opens: Vec::new(),
            writing: BTreeMap::new(),
            moved: BTreeSet::new(),
            gone: BTreeSet::new(),
            misnamed: BTreeSet::new(),
            nameless: BTreeSet::new(),
            descriptors_max,
            descriptors_before: unmounted::descriptors(),
            read_only_before: snapshot(&ro),
            directory,
            vfs,
        };
        for (key, mount) in MOUNTS.iter().enumerate() {
            let node = unmounted::mount_point(&kernel.vfs, mount.name);
            kernel.known.insert(node, Known { key, lookups: 1 });
        }
        kernel
    }

    pub fn inode(&self, key: Key) -> &Inode {
        &self.reference.inodes[key]
    }

    pub fn is_open(&self, key: Key) -> bool {
        self.opens.iter().any(|open| open.key == key)
    }

    /// Nodes that the kernel may name. One whose file the host removed is left alone where the next file can get its
    /// number and nothing tells them apart, which takes that nobody has it open.
    pub fn nodes(&self, wanted: impl Fn(&Inode) -> bool) -> Vec<u64> {
        let held = self.known.iter().filter(|(_, known)| {
            known.lookups > 0
                && (self.handles || !self.gone.contains(&known.key) || self.is_open(known.key))
                && wanted(self.inode(known.key))
        });
        held.map(|(node, _)| *node).collect()
    }

    pub fn key(&self, node: u64) -> Key {
        self.known[&node].key
    }

    fn node_of(&self, key: Key) -> Option<u64> {
        self.known.iter().find(|(_, known)| known.key == key).map(|(node, _)| *node)
    }

    pub fn mount(node: u64) -> usize {
        mount_position(node).expect("a node below a mount point")
    }

    pub fn is_read_only(node: u64) -> bool {
        Self::mount(node) == READ_ONLY
    }

    /// Whether the file system must reach an inode.
    pub fn certain(&self, key: Key) -> bool {
        let lost = |key: &Key| self.gone.contains(key) || self.moved.contains(key);
        if self.handles {
            return !self.gone.contains(&key);
        }
        !lost(&key) && !self.reference.above(key).iter().any(lost)
    }

    /// Whether the file system must know the path of a directory.
    pub fn knows_path(&self, directory: Key) -> bool {
        let lost = |key: &Key| self.gone.contains(key) || self.moved.contains(key);
        !lost(&directory) && !self.reference.above(directory).iter().any(lost)
    }

    /// Whether the answer is that a node is stale, and that may be. Then nothing has happened.
    pub fn is_stale<T>(&self, result: &Result<T, Error>, keys: &[Key]) -> bool {
        let stale = result.as_ref().is_err_and(|error| error.to_errno() == Errno::ESTALE)
            && keys.iter().any(|key| !self.certain(*key) && !self.is_open(*key));
        if stale {
            self.heard.take();
        }
        stale
    }

    /// Whether both succeeded; when both failed, in the same way.
    pub fn agree<T, E>(
        &self,
        result: Result<T, Error>,
        expected: Result<E, Errno>,
    ) -> Option<(T, E)> {
        match (result, expected) {
            (Ok(told), Ok(expected)) => Some((told, expected)),
            (Err(error), Err(errno)) => {
                assert_eq!(error.to_errno(), errno, "{error:?}");
                self.heard_is(&[]);
                None
            }
            (Ok(_), Err(errno)) => panic!("succeeded, but must fail with {errno}"),
            (Err(error), Ok(_)) => panic!("must succeed: {error:?}"),
        }
    }

    /// The kernel has one more reference to what it was told of.
    pub fn admit(&mut self, key: Key, told: &Attributes) {
        let others = self.node_of(key);
        assert!(
            others.is_none_or(|node| node == told.node),
            "inode {key} is node {others:?} and {}",
            told.node
        );
        let known = self.known.entry(told.node).or_insert(Known { key, lookups: 0 });
        if known.key != key {
            let reused = !self.handles && self.gone.contains(&known.key);
            assert!(reused, "inodes {} and {key} are both node {}", known.key, told.node);
            known.key = key;
        }
        known.lookups += 1;
        self.moved.remove(&key);
        self.nameless.remove(&key);
        self.compare(key, told);
    }

    pub fn compare(&self, key: Key, told: &Attributes) {
        let inode = self.inode(key);
        assert_eq!(format!("{:o}", told.mode), format!("{:o}", inode.format() | inode.mode));
        assert_eq!((told.uid, told.gid), (inode.uid, inode.gid));
        let size = match &inode.kind {
            Kind::File(data) => Some(data.len()),
            Kind::Link(target) => Some(target.len()),
            Kind::Directory(_) | Kind::Fifo | Kind::Socket => None,
        };
        assert!(size.is_none_or(|size| told.size == size as u64), "{told:?} is of {size:?} bytes");
        if !inode.is_directory() {
            assert_eq!(told.nlink, inode.names, "links of {inode:?}");
        }
        if let Some(modified) = inode.modified {
            assert_eq!(told.mtime.seconds, modified, "mtime of {inode:?}");
        }
    }

    /// The inode's ctime is another.
    pub fn touch(&mut self, key: Key) {
        self.writing.entry(key).or_default().touched = true;
    }

    /// The inode's content is another.
    pub fn change(&mut self, key: Key) {
        self.writing.entry(key).or_default().changed = true;
        self.reference.inodes[key].modified = None;
    }

    pub fn at(&self, directory: Key, name: &OsStr) -> Option<At> {
        let (root, path) = self.reference.place(directory, name)?;
        self.knows_path(directory).then(|| (MOUNTS[root].name.to_owned(), path))
    }

    /// A writer comes. Gives back what is to be heard.
    pub fn begin_writing(&mut self, node: u64) -> Vec<Expected> {
        if Self::mount(node) != OBSERVED {
            return Vec::new();
        }
        let key = self.key(node);
        let writing = self.writing.entry(key).or_default();
        if writing.writers == 0 {
            *writing = Writing::default();
        }
        writing.writers += 1;
        let names = self.reference.names(key);
        let sure = !self.misnamed.contains(&key)
            && !self.gone.contains(&key)
            && !self.moved.contains(&key)
            && names.iter().all(|(directory, _)| self.knows_path(*directory));
        if names.is_empty() && sure {
            return Vec::new();
        }
        let places = names.iter().filter_map(|(directory, name)| self.at(*directory, name));
        let at = sure.then(|| places.collect());
        vec![Expected::Dirtied { key, at, always: sure && !self.nameless.contains(&key) }]
    }

    /// A writer goes. Gives back what is to be heard.
    pub fn end_writing(&mut self, node: u64) -> Vec<Expected> {
        if Self::mount(node) != OBSERVED {
            return Vec::new();
        }
        let key = self.key(node);
        let certain = self.certain(key);
        let writing = self.writing.entry(key).or_default();
        writing.writers -= 1;
        if writing.writers > 0 {
            return Vec::new();
        }
        let changed = match (writing.changed, writing.touched || !certain) {
            (true, _) => Some(true),
            (false, true) => None,
            (false, false) => Some(false),
        };
        vec![Expected::Closed { key, changed }]
    }

    /// Compares what the observer heard since the last time, and learns under which numbers it knows files.
    pub fn heard_after(&mut self, expected: &[Expected]) {
        let events = self.heard_is(expected);
        for (file, key) in events {
            self.known.entry(file).or_insert(Known { key, lookups: 0 });
            assert_eq!(self.key(file), key, "the observer hears of node {file}");
        }
    }

    fn heard_is(&self, expected: &[Expected]) -> Vec<(u64, Key)> {
        let heard = self.heard.take();
        let mut events = heard.iter().peekable();
        let mut files = Vec::new();
        for expected in expected {
            if let Expected::Dirtied { always: false, .. } = expected
                && !matches!(events.peek(), Some(Event::Dirtied { .. }))
            {
                continue;
            }
            let event = events.next();
            let same = match (expected, event) {
                (Expected::Dirtied { key, at: places, .. }, Some(Event::Dirtied { file, at })) => {
                    files.push((*file, *key));
                    places.as_ref().is_none_or(|places| places.contains(at))
                }
                (
                    Expected::Closed { key, changed: expected },
                    Some(Event::Closed { file, changed }),
                ) => {
                    files.push((*file, *key));
                    expected.is_none_or(|expected| expected == *changed)
                }
                (
                    Expected::Named { key, from: from_place, to: place, open: writers },
                    Some(Event::Named { file, from, to, open }),
                ) => {
                    files.push((*file, *key));
                    from_place.as_ref().is_none_or(|place| place == from)
                        && place.as_ref().is_none_or(|place| place == to)
                        && writers == open
                }
                (Expected::Moved { places }, Some(Event::Moved { from, to })) => places
                    .as_ref()
                    .is_none_or(|(from_place, place)| from_place == from && place == to),
                (Expected::Removed { at: place }, Some(Event::Removed { at })) => {
                    place.as_ref().is_none_or(|place| place == at)
                }
                _ => false,
            };
            assert!(same, "heard {heard:?}, and must have heard {expected:?}");
        }
        let more: Vec<_> = events.collect();
        assert!(more.is_empty(), "heard also {more:?}");
        files
    }

    /// Forgets a node that nobody holds.
    pub fn drop_unheld(&mut self, node: u64) {
        let known = &self.known[&node];
        if known.lookups == 0 && !self.heard.following().contains(&node) {
            self.misnamed.remove(&known.key);
            self.nameless.remove(&known.key);
            self.known.remove(&node);
        }
    }

    /// What must be true after every step.
    pub fn check_descriptors(&self) {
        let unnamed = self
            .known
            .values()
            .filter(|known| self.inode(known.key).names == 0 || self.nameless.contains(&known.key));
        let most =
            self.descriptors_before + self.opens.len() + self.descriptors_max + unnamed.count();
        let open = unmounted::descriptors();
        assert!(open <= most, "{open} descriptors are open, and {most} may be");
    }

    /// Ends everything; then nothing may be left, and on the disk is what the reference says.
    pub fn end(mut self) {
        for open in std::mem::take(&mut self.opens) {
            self.release(open);
        }
        for file in self.heard.following() {
            self.heard.settle(file);
            self.vfs.settled(FileKey(file));
        }
        for (node, known) in std::mem::take(&mut self.known) {
            self.vfs.forget(node, known.lookups);
        }
        assert_eq!(self.vfs.nodes(), MOUNTS.len(), "nodes that nobody holds");
        assert_eq!(unmounted::descriptors(), self.descriptors_before, "descriptors");
        for (key, mount) in MOUNTS.iter().enumerate() {
            let mut expected = BTreeMap::new();
            describe(&self.reference, key, Path::new(""), &mut expected);
            let there = snapshot(&self.directory.path().join(mount.name));
            assert_eq!(there, expected, "the directory of {}", mount.name);
            if key == READ_ONLY {
                assert_eq!(there, self.read_only_before);
            }
        }
    }
}

fn describe(reference: &Reference, key: Key, at: &Path, into: &mut BTreeMap<PathBuf, String>) {
    for (name, key) in reference.entries(key) {
        let inode = &reference.inodes[*key];
        let (links, content) = match &inode.kind {
            Kind::Directory(_) => (0, Vec::new()),
            Kind::File(data) => (inode.names, data.clone()),
            Kind::Link(target) => (inode.names, target.as_bytes().to_vec()),
            Kind::Fifo | Kind::Socket => (inode.names, Vec::new()),
        };
        let mode = inode.format() | inode.mode;
        into.insert(at.join(name), line(mode, inode.uid, inode.gid, links, &content));
        if inode.is_directory() {
            describe(reference, *key, &at.join(name), into);
        }
    }
}

fn line(mode: u32, uid: u32, gid: u32, links: u32, content: &[u8]) -> String {
    format!("{mode:o} {uid}:{gid} {links} \"{}\"", content.escape_ascii())
}

/// What is in a directory of the host.
fn snapshot(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut into = BTreeMap::new();
    let mut next = vec![root.to_owned()];
    while let Some(directory) = next.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let entry = entry.unwrap();
            let (path, stat) = (entry.path(), entry.metadata().unwrap());
            let (links, content) = match stat.mode() & 0o170_000 {
                0o040_000 => (0, Vec::new()),
                0o100_000 => (stat.nlink() as u32, fs::read(&path).unwrap()),
                0o120_000 => {
                    let target = fs::read_link(&path).unwrap();
                    (stat.nlink() as u32, target.as_os_str().as_bytes().to_vec())
                }
                _ => (stat.nlink() as u32, Vec::new()),
            };
            let line = line(stat.mode(), stat.uid(), stat.gid(), links, &content);
            into.insert(path.strip_prefix(root).unwrap().to_owned(), line);
            if stat.is_dir() {
                next.push(path);
            }
        }
    }
    into
}
