//! Requests that look for, make, move and remove names, each predicted and compared.

use crate::kernel::{Expected, Kernel, OBSERVED};
use crate::operations::{Access, Node, Pick, Place};
use crate::reference::{Inode, Key, Kind, RENAME_EXCHANGE};
use crate::steps::{flags, is_legal, picked};
use belljar::vfs::backing::NewMode;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::collections::BTreeMap;
use std::path::PathBuf;

impl Kernel {
    pub fn lookup(&mut self, place: Place) {
        let (parent, directory, name) = self.place(place);
        let result = self.vfs.lookup(parent, name);
        if self.is_stale(&result, &[directory]) {
            return;
        }
        let expected = self.reference.lookup(directory, name);
        if let Some((told, key)) = self.agree(result, expected) {
            self.admit(key, &told);
        }
    }

    pub fn make(&mut self, place: Place, node: Node, mode: u32, umask: u32) {
        let (parent, directory, name) = self.place(place);
        let new = |format| NewMode { mode: mode | format, umask };
        let result = match node {
            Node::Directory => self.vfs.mkdir(&self.caller, parent, name, new(0)),
            Node::Fifo => self.vfs.mknod(&self.caller, parent, name, new(0o010_000)),
            Node::Socket => self.vfs.mknod(&self.caller, parent, name, new(0o140_000)),
            Node::Device => self.vfs.mknod(&self.caller, parent, name, new(0o020_000)),
            Node::Regular => self.vfs.mknod(&self.caller, parent, name, new(0o100_000)),
            Node::Link => self.vfs.symlink(&self.caller, parent, name, "a/b".as_ref()),
        };
        if self.is_stale(&result, &[directory]) {
            return;
        }
        let set_id = mode & 0o6000 != 0 && !matches!(node, Node::Directory | Node::Link);
        let kind = match node {
            Node::Directory => Kind::Directory(BTreeMap::new()),
            Node::Fifo => Kind::Fifo,
            Node::Socket => Kind::Socket,
            Node::Device | Node::Regular => Kind::File(Vec::new()),
            Node::Link => Kind::Link("a/b".into()),
        };
        let mode = match node {
            Node::Link => 0o777,
            // mkdir(2) keeps the permissions and the sticky bit only.
            _ => mode & 0o1777 & !umask,
        };
        let expected = if Self::is_read_only(parent) {
            Err(Errno::EROFS)
        } else if set_id {
            Err(Errno::EPERM)
        } else if !is_legal(name) {
            Err(Errno::EINVAL)
        } else if node == Node::Device {
            Err(Errno::EPERM)
        } else {
            let owner = (self.caller.uid, self.caller.gid);
            self.reference.make(directory, name, Inode::new(kind, mode, owner))
        };
        let Some((told, key)) = self.agree(result, expected) else { return };
        self.admit(key, &told);
        if node == Node::Regular {
            // Made, opened and closed in one.
            let mut expected = self.begin_writing(told.node);
            self.change(key);
            expected.extend(self.end_writing(told.node));
            self.heard_after(&expected);
        }
    }

    pub fn link(&mut self, node: Pick, to: Place) {
        let Some(node) = picked(&self.nodes(|inode| !inode.is_directory()), node) else { return };
        let key = self.key(node);
        let (parent, directory, name) = self.place(to);
        let result = self.vfs.link(&self.caller, node, parent, name);
        if self.is_stale(&result, &[key, directory]) {
            return;
        }
        let expected = if Self::is_read_only(parent) {
            Err(Errno::EROFS)
        } else if Self::mount(node) != Self::mount(parent) {
            Err(Errno::EXDEV)
        } else {
            self.reference.link(key, directory, name)
        };
        let Some((told, ())) = self.agree(result, expected) else { return };
        self.touch(key);
        let at = self.at(directory, name);
        let expected = self.named(parent, key, None, at);
        self.admit(key, &told);
        self.heard_after(&expected);
    }

    /// What is to be heard of a file's name. `from` is `None` for a link.
    pub fn named(
        &self,
        parent: u64,
        key: Key,
        from: Option<Option<(String, PathBuf)>>,
        to: Option<(String, PathBuf)>,
    ) -> Vec<Expected> {
        if Self::mount(parent) != OBSERVED || !self.inode(key).is_file() {
            return Vec::new();
        }
        let open = self.writing.get(&key).is_some_and(|writing| writing.writers > 0);
        let from = match from {
            None => Some(None),
            Some(Some(place)) => Some(Some(place)),
            Some(None) => None,
        };
        vec![Expected::Named { key, from, to, open }]
    }

    /// A name is gone, and with it the way to the inode where that was not certain before.
    pub fn unnamed(&mut self, key: Key, was_certain: bool) {
        self.touch(key);
        if self.inode(key).names > 0 {
            self.nameless.insert(key);
        } else if !was_certain {
            self.gone.insert(key);
        }
    }

    pub fn remove(&mut self, place: Place, directory_wanted: bool) {
        let (parent, directory, name) = self.place(place);
        let at = self.at(directory, name);
        let victim = self.reference.lookup(directory, name).ok();
        let was_certain = victim.is_some_and(|victim| self.certain(victim));
        let result = if directory_wanted {
            self.vfs.rmdir(&self.caller, parent, name)
        } else {
            self.vfs.unlink(&self.caller, parent, name)
        };
        if self.is_stale(&result, &[directory]) {
            return;
        }
        let expected = if Self::is_read_only(parent) {
            Err(Errno::EROFS)
        } else if directory_wanted {
            self.reference.rmdir(directory, name)
        } else {
            self.reference.unlink(directory, name)
        };
        let Some(((), key)) = self.agree(result, expected) else { return };
        self.unnamed(key, was_certain);
        if !directory_wanted && Self::mount(parent) == OBSERVED {
            self.heard_after(&[Expected::Removed { at }]);
        }
    }

    pub fn rename(&mut self, from: Place, to: Place, flags: u32) {
        let (parent, directory, name) = self.place(from);
        let (to_parent, to_directory, to_name) = self.place(to);
        let key = self.reference.lookup(directory, name).ok();
        let target = self.reference.lookup(to_directory, to_name).ok();
        if key.is_some() && key == target {
            // The kernel does nothing and does not ask.
            return;
        }
        let was_certain = target.is_some_and(|target| self.certain(target));
        let (at, to_at) = (self.at(directory, name), self.at(to_directory, to_name));
        let result = self.vfs.rename(&self.caller, (parent, name), (to_parent, to_name), flags);
        if self.is_stale(&result, &[directory, to_directory]) {
            return;
        }
        let expected = if Self::is_read_only(parent) || Self::is_read_only(to_parent) {
            Err(Errno::EROFS)
        } else if Self::mount(parent) != Self::mount(to_parent) {
            Err(Errno::EXDEV)
        } else if flags & 4 != 0 {
            Err(Errno::EPERM)
        } else if !is_legal(name) || !is_legal(to_name) {
            Err(Errno::EINVAL)
        } else {
            self.reference.rename((directory, name), (to_directory, to_name), flags)
        };
        if self.agree(result, expected).is_none() {
            return;
        }
        let key = key.expect("a rename that succeeds has a source");
        let mut expected = Vec::new();
        if let Some(target) = target {
            if flags & RENAME_EXCHANGE != 0 {
                expected.extend(self.renamed(parent, target, to_at.clone(), at.clone()));
            } else {
                self.unnamed(target, was_certain);
            }
        }
        expected.extend(self.renamed(parent, key, at, to_at));
        self.heard_after(&expected);
    }

    pub fn renamed(
        &mut self,
        parent: u64,
        key: Key,
        at: Option<(String, PathBuf)>,
        to: Option<(String, PathBuf)>,
    ) -> Vec<Expected> {
        self.touch(key);
        self.moved.remove(&key);
        self.nameless.remove(&key);
        if self.inode(key).is_directory() && Self::mount(parent) == OBSERVED {
            return vec![Expected::Moved { places: at.zip(to) }];
        }
        self.named(parent, key, Some(at), to)
    }

    pub fn create(&mut self, place: Place, access: Access, exclusive: bool, new: NewMode) {
        let (parent, directory, name) = self.place(place);
        let more = if exclusive { OFlag::O_EXCL } else { OFlag::empty() };
        let result = self.vfs.create(&self.caller, parent, name, flags(access) | more, new);
        if self.is_stale(&result, &[directory]) {
            return;
        }
        let owner = (self.caller.uid, self.caller.gid);
        let file = Inode::new(Kind::File(Vec::new()), new.mode & 0o7777 & !new.umask, owner);
        let expected = if Self::is_read_only(parent) {
            Err(Errno::EROFS)
        } else if new.mode & 0o6000 != 0 {
            Err(Errno::EPERM)
        } else {
            match self.reference.make(directory, name, file) {
                // The kernel believed the name to be free, and is made to look again.
                Err(Errno::EEXIST) if !exclusive => Err(Errno::ESTALE),
                result => result,
            }
        };
        let Some(((told, handle), key)) = self.agree(result, expected) else { return };
        self.admit(key, &told);
        self.opened(handle, told.node, access, true);
        self.change(key);
    }
}
