//! What a tree of files must be, in memory: names, inodes and contents, and the errno of what cannot be done.

use nix::errno::Errno;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Number of an inode; never reused.
pub type Key = usize;

pub const RENAME_NOREPLACE: u32 = 1;
pub const RENAME_EXCHANGE: u32 = 2;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Directory(BTreeMap<OsString, Key>),
    File(Vec<u8>),
    Link(OsString),
    Fifo,
    Socket,
}

#[derive(Debug, Clone)]
pub struct Inode {
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Names of a file; 0 or 1 for a directory.
    pub names: u32,
    pub attributes: BTreeMap<String, Vec<u8>>,
    /// Seconds of the modification time, where it was set and nothing was written since.
    pub modified: Option<i64>,
    /// The directory that a directory is in.
    parent: Option<Key>,
}

impl Inode {
    pub fn new(kind: Kind, mode: u32, (uid, gid): (u32, u32)) -> Self {
        let (names, attributes) = (0, BTreeMap::new());
        Self { kind, mode, uid, gid, names, attributes, modified: None, parent: None }
    }

    pub fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory(_))
    }

    pub fn is_file(&self) -> bool {
        matches!(self.kind, Kind::File(_))
    }

    /// The S_IFMT bits.
    pub fn format(&self) -> u32 {
        match self.kind {
            Kind::Directory(_) => 0o040_000,
            Kind::File(_) => 0o100_000,
            Kind::Link(_) => 0o120_000,
            Kind::Fifo => 0o010_000,
            Kind::Socket => 0o140_000,
        }
    }

    pub fn data(&mut self) -> &mut Vec<u8> {
        match &mut self.kind {
            Kind::File(data) => data,
            other => panic!("{other:?} has no data"),
        }
    }
}

/// All inodes that ever were, the first `roots` being the directories of the mount points.
#[derive(Debug)]
pub struct Reference {
    pub inodes: Vec<Inode>,
}

impl Reference {
    pub fn new(roots: usize, owner: (u32, u32)) -> Self {
        let root = || {
            let mut root = Inode::new(Kind::Directory(BTreeMap::new()), 0o755, owner);
            root.names = 1;
            root
        };
        Self { inodes: (0..roots).map(|_| root()).collect() }
    }

    pub fn entries(&self, directory: Key) -> &BTreeMap<OsString, Key> {
        match &self.inodes[directory].kind {
            Kind::Directory(entries) => entries,
            other => panic!("{other:?} is no directory"),
        }
    }

    fn entries_mut(&mut self, directory: Key) -> &mut BTreeMap<OsString, Key> {
        match &mut self.inodes[directory].kind {
            Kind::Directory(entries) => entries,
            other => panic!("{other:?} is no directory"),
        }
    }

    pub fn lookup(&self, directory: Key, name: &OsStr) -> Result<Key, Errno> {
        match name.as_bytes() {
            b"" | b"." | b".." => return Err(Errno::EINVAL),
            _ if self.inodes[directory].names == 0 => return Err(Errno::ENOENT),
            long if long.len() > 255 => return Err(Errno::ENAMETOOLONG),
            _ => {}
        }
        self.entries(directory).get(name).copied().ok_or(Errno::ENOENT)
    }

    /// Whether a name can be made.
    pub fn free(&self, directory: Key, name: &OsStr) -> Result<(), Errno> {
        match self.lookup(directory, name) {
            Ok(_) => Err(Errno::EEXIST),
            Err(Errno::ENOENT) if self.inodes[directory].names > 0 => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    fn enter(&mut self, directory: Key, name: &OsStr, key: Key) {
        let before = self.entries_mut(directory).insert(name.to_owned(), key);
        assert_eq!(before, None, "{name:?} was free");
        self.inodes[key].names += 1;
        if self.inodes[key].is_directory() {
            self.inodes[key].parent = Some(directory);
        }
    }

    fn leave(&mut self, directory: Key, name: &OsStr) {
        let key = self.entries_mut(directory).remove(name).expect("the name is there");
        self.inodes[key].names -= 1;
    }

    pub fn make(&mut self, directory: Key, name: &OsStr, inode: Inode) -> Result<Key, Errno> {
        self.free(directory, name)?;
        self.inodes.push(inode);
        let key = self.inodes.len() - 1;
        self.enter(directory, name, key);
        Ok(key)
    }

    pub fn link(&mut self, key: Key, directory: Key, name: &OsStr) -> Result<(), Errno> {
        self.free(directory, name)?;
        if self.inodes[key].names == 0 {
            return Err(Errno::ENOENT);
        }
        self.enter(directory, name, key);
        Ok(())
    }

    pub fn unlink(&mut self, directory: Key, name: &OsStr) -> Result<Key, Errno> {
        let key = self.lookup(directory, name)?;
        if self.inodes[key].is_directory() {
            return Err(Errno::EISDIR);
        }
        self.leave(directory, name);
        Ok(key)
    }

    pub fn rmdir(&mut self, directory: Key, name: &OsStr) -> Result<Key, Errno> {
        let key = self.lookup(directory, name)?;
        match &self.inodes[key].kind {
            Kind::Directory(entries) if entries.is_empty() => {}
            Kind::Directory(_) => return Err(Errno::ENOTEMPTY),
            _ => return Err(Errno::ENOTDIR),
        }
        self.leave(directory, name);
        Ok(key)
    }

    /// Whether `above` is `below` or a directory on its way up.
    pub fn is_above(&self, above: Key, below: Key) -> bool {
        let mut at = Some(below);
        while let Some(key) = at {
            if key == above {
                return true;
            }
            at = self.inodes[key].parent;
        }
        false
    }

    /// The order of the checks is that of fs/namei.c, do_renameat2 and vfs_rename.
    pub fn rename(
        &mut self,
        (directory, name): (Key, &OsStr),
        (to, to_name): (Key, &OsStr),
        flags: u32,
    ) -> Result<(), Errno> {
        if flags == RENAME_NOREPLACE | RENAME_EXCHANGE {
            return Err(Errno::EINVAL);
        }
        let key = self.lookup(directory, name)?;
        let target = match self.lookup(to, to_name) {
            Ok(_) if flags == RENAME_NOREPLACE => return Err(Errno::EEXIST),
            Ok(target) => Some(target),
            Err(Errno::ENOENT) if self.inodes[to].names > 0 && flags != RENAME_EXCHANGE => None,
            Err(errno) => return Err(errno),
        };
        let is_directory = self.inodes[key].is_directory();
        if is_directory && self.is_above(key, to) {
            return Err(Errno::EINVAL);
        }
        if let Some(target) = target {
            let onto_directory = self.inodes[target].is_directory();
            if onto_directory && self.is_above(target, directory) {
                let exchanges = flags == RENAME_EXCHANGE;
                return Err(if exchanges { Errno::EINVAL } else { Errno::ENOTEMPTY });
            }
            assert_ne!(key, target, "the kernel does nothing in this case, and does not ask");
            if flags == RENAME_EXCHANGE {
                self.leave(directory, name);
                self.leave(to, to_name);
                self.enter(directory, name, target);
                self.enter(to, to_name, key);
                return Ok(());
            }
            match (is_directory, onto_directory) {
                (true, false) => return Err(Errno::ENOTDIR),
                (false, true) => return Err(Errno::EISDIR),
                (true, true) if !self.entries(target).is_empty() => return Err(Errno::ENOTEMPTY),
                (true, true) | (false, false) => self.leave(to, to_name),
            }
        }
        self.leave(directory, name);
        self.enter(to, to_name, key);
        Ok(())
    }

    /// The mount point that a directory is below, and the path there; `None` once it is removed.
    pub fn path(&self, directory: Key) -> Option<(Key, PathBuf)> {
        let mut names = Vec::new();
        let mut at = directory;
        loop {
            if self.inodes[at].names == 0 {
                return None;
            }
            let Some(parent) = self.inodes[at].parent else { break };
            let (name, _) = self.entries(parent).iter().find(|(_, key)| **key == at)?;
            names.push(name.clone());
            at = parent;
        }
        Some((at, names.iter().rev().collect()))
    }

    /// Directories on the way up, the inode's own not included. For a file those of all its names.
    pub fn above(&self, key: Key) -> Vec<Key> {
        let mut next = if self.inodes[key].is_directory() {
            self.inodes[key].parent.into_iter().collect()
        } else {
            self.names(key).into_iter().map(|(directory, _)| directory).collect::<Vec<_>>()
        };
        let mut above = Vec::new();
        while let Some(directory) = next.pop() {
            above.push(directory);
            next.extend(self.inodes[directory].parent);
        }
        above
    }

    /// Every directory that has a way up.
    pub fn directories(&self) -> Vec<Key> {
        let all = 0..self.inodes.len();
        all.filter(|key| self.inodes[*key].is_directory() && self.path(*key).is_some()).collect()
    }

    /// Every name of an inode.
    pub fn names(&self, key: Key) -> Vec<(Key, OsString)> {
        let mut names = Vec::new();
        for directory in self.directories() {
            let of_key = self.entries(directory).iter().filter(|(_, entry)| **entry == key);
            names.extend(of_key.map(|(name, _)| (directory, name.clone())));
        }
        names
    }

    /// Mount point and path of a name.
    pub fn place(&self, directory: Key, name: &OsStr) -> Option<(Key, PathBuf)> {
        self.path(directory).map(|(root, path)| (root, path.join(name)))
    }
}
