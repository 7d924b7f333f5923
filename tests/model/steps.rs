//! One request each: sent, predicted, compared. What cannot be asked at the moment is left out.

use crate::kernel::{Expected, Kernel, MOUNTS, OBSERVED, Open, READ_ONLY};
use crate::operations::{Access, Change, Node, Op, Pick, Place};
use crate::reference::{Inode, Key, Kind, RENAME_EXCHANGE};
use belljar::sys::file::TimeChange;
use belljar::vfs::Changes;
use belljar::vfs::backing::NewMode;
use belljar::vfs::io::WriteFrom;
use belljar::vfs::observer::{FileKey, FileSource};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

fn picked<T: Copy>(from: &[T], pick: Pick) -> Option<T> {
    (!from.is_empty()).then(|| from[usize::from(pick) % from.len()])
}

fn is_legal(name: &OsStr) -> bool {
    !matches!(name.as_bytes(), b"" | b"." | b"..")
}

fn flags(access: Access) -> OFlag {
    match access {
        Access::Read => OFlag::O_RDONLY,
        Access::Write => OFlag::O_WRONLY,
        Access::Both => OFlag::O_RDWR,
        Access::Append => OFlag::O_WRONLY | OFlag::O_APPEND,
    }
}

/// Writes at an offset as a file system does.
fn put(data: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if data.len() < offset + bytes.len() {
        data.resize(offset + bytes.len(), 0);
    }
    data[offset..offset + bytes.len()].copy_from_slice(bytes);
}

impl Kernel {
    fn place(&self, place: Place) -> (u64, Key, &'static OsStr) {
        let node = picked(&self.nodes(Inode::is_directory), place.directory)
            .expect("the mount points are always known");
        (node, self.key(node), OsStr::from_bytes(place.name))
    }

    fn file(&self, pick: Pick) -> Option<u64> {
        picked(&self.nodes(Inode::is_file), pick)
    }

    fn open_file(&self, pick: Pick, wanted: impl Fn(&Open) -> bool) -> Option<Open> {
        let files = self.opens.iter().filter(|open| !open.is_directory && wanted(open)).copied();
        picked(&files.collect::<Vec<_>>(), pick)
    }

    pub fn step(&mut self, op: &Op) {
        match op {
            Op::Lookup(place) => self.lookup(*place),
            Op::Forget { node, all } => self.forget(*node, *all),
            Op::Getattr { node, through_handle } => self.getattr(*node, *through_handle),
            Op::Setattr { node, change } => self.setattr(*node, change),
            Op::Make { place, node, mode, umask } => self.make(*place, *node, *mode, *umask),
            Op::Readlink { node } => self.readlink(*node),
            Op::Link { node, to } => self.link(*node, *to),
            Op::Unlink(place) => self.remove(*place, false),
            Op::Rmdir(place) => self.remove(*place, true),
            Op::Rename { from, to, flags } => self.rename(*from, *to, *flags),
            Op::Create { place, access, exclusive, mode, umask } => {
                self.create(*place, *access, *exclusive, NewMode { mode: *mode, umask: *umask });
            }
            Op::Open { node, access } => self.open(*node, *access),
            Op::Read { handle, offset, size } => self.read(*handle, *offset, *size),
            Op::Write { handle, offset, size, byte, from_page_cache } => {
                let from = if *from_page_cache { WriteFrom::PageCache } else { WriteFrom::Caller };
                self.write(*handle, *offset, &vec![*byte; *size], from);
            }
            Op::Release { handle } => {
                if !self.opens.is_empty() {
                    let open = self.opens.remove(usize::from(*handle) % self.opens.len());
                    self.release(open);
                }
            }
            Op::Opendir { node } => self.opendir(*node),
            Op::List { handle } => self.list(*handle),
            Op::Fallocate { handle, mode, offset, length } => {
                self.fallocate(*handle, *mode, *offset, *length);
            }
            Op::Seek { handle, offset, hole } => self.seek(*handle, *offset, *hole),
            Op::Copy { from, from_offset, to, to_offset, length } => {
                self.copy((*from, *from_offset), (*to, *to_offset), *length);
            }
            Op::Setxattr { node, name, value, flags } => {
                self.setxattr(*node, name, value, *flags);
            }
            Op::Getxattr { node, name } => self.getxattr(*node, name),
            Op::Removexattr { node, name } => self.removexattr(*node, name),
            Op::Statfs { node } => {
                let Some(node) = picked(&self.nodes(|_| true), *node) else { return };
                let result = self.vfs.statfs(node);
                if !self.is_stale(&result, &[self.key(node)]) {
                    assert!(result.unwrap().is_some());
                }
            }
            Op::Fsync { handle } => {
                if let Some(open) = picked(&self.opens, *handle) {
                    self.vfs.fsync(open.handle, true).unwrap();
                }
            }
            Op::Settle { file } => {
                let Some(file) = picked(&self.heard.following(), *file) else { return };
                self.heard.settle(file);
                self.vfs.settled(FileKey(file));
                self.drop_unheld(file);
            }
            Op::Source { file } => self.source(*file),
            Op::HostWrite(place) => self.host_write(*place),
            Op::HostRemove(place) => self.host_remove(*place),
            Op::HostRename { from, to } => self.host_rename(*from, *to),
        }
        self.heard_after(&[]);
        self.check_descriptors();
    }

    fn lookup(&mut self, place: Place) {
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

    fn forget(&mut self, node: Pick, all: bool) {
        let Some(node) = picked(&self.nodes(|_| true), node) else { return };
        let known = &self.known[&node];
        // The kernel keeps what it has open, and the mount points so that there is something to go on from.
        let kept = known.key < MOUNTS.len() || self.opens.iter().any(|open| open.node == node);
        let most = known.lookups - u64::from(kept);
        let count = if all { most } else { most.min(1) };
        if count > 0 {
            self.vfs.forget(node, count);
            self.known.get_mut(&node).expect("picked from there").lookups -= count;
            self.drop_unheld(node);
        }
    }

    fn getattr(&mut self, node: Pick, through_handle: bool) {
        let Some(node) = picked(&self.nodes(|_| true), node) else { return };
        let key = self.key(node);
        let of_node = |open: &&Open| open.node == node && !open.is_directory;
        let open = self.opens.iter().find(of_node).filter(|_| through_handle);
        let result = self.vfs.getattr(node, open.map(|open| open.handle));
        if open.is_none() && self.is_stale(&result, &[key]) {
            return;
        }
        let told = result.unwrap();
        assert_eq!(told.node, node);
        self.compare(key, &told);
    }

    fn setattr(&mut self, node: Pick, change: &Change) {
        let wanted = |inode: &Inode| inode.is_file() || inode.is_directory();
        let Some(node) = picked(&self.nodes(wanted), node) else { return };
        let key = self.key(node);
        let is_file = self.inode(key).is_file();
        let owner = change.owner.filter(|_| self.caller.uid == 0);
        let size = change.size.filter(|_| is_file);
        let handle = self.opens.iter().find(|open| {
            open.node == node && !open.is_directory && (open.writes || size.is_none())
        });
        let handle = handle.filter(|_| change.through_handle).copied();
        let changes = Changes {
            mode: change.mode,
            uid: owner.map(|owner| owner.0),
            gid: owner.map(|owner| owner.1),
            size,
            atime: None,
            mtime: change.modified.map(|seconds| TimeChange::To { seconds, nanoseconds: 0 }),
        };
        let result = self.vfs.setattr(&self.caller, node, handle.map(|open| open.handle), changes);
        if handle.is_none() && self.is_stale(&result, &[key]) {
            return;
        }
        let expected = if Self::is_read_only(node) {
            Err(Errno::EROFS)
        } else if is_file && change.mode.is_some_and(|mode| mode & 0o6000 != 0) {
            Err(Errno::EPERM)
        } else {
            Ok(())
        };
        let Some((told, ())) = self.agree(result, expected) else { return };
        let inode = &mut self.reference.inodes[key];
        inode.mode = change.mode.unwrap_or(inode.mode);
        (inode.uid, inode.gid) = owner.unwrap_or((inode.uid, inode.gid));
        if is_file && change.modified.is_some() {
            inode.modified = change.modified;
        }
        if change.mode.is_some() || owner.is_some() || change.modified.is_some() {
            self.touch(key);
        }
        if let Some(size) = size {
            // By name it is an open, a change and a close.
            let mut expected = Vec::new();
            if handle.is_none() {
                expected.extend(self.begin_writing(node));
            }
            self.reference.inodes[key].data().resize(size as usize, 0);
            self.change(key);
            if handle.is_none() {
                expected.extend(self.end_writing(node));
            }
            self.heard_after(&expected);
        }
        assert_eq!(told.node, node);
        self.compare(key, &told);
    }

    fn make(&mut self, place: Place, node: Node, mode: u32, umask: u32) {
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
        if let Some((told, key)) = self.agree(result, expected) {
            self.admit(key, &told);
        }
    }

    fn readlink(&mut self, node: Pick) {
        let links = self.nodes(|inode| matches!(inode.kind, Kind::Link(_)));
        let Some(node) = picked(&links, node) else { return };
        let result = self.vfs.readlink(node);
        if !self.is_stale(&result, &[self.key(node)]) {
            assert_eq!(Kind::Link(result.unwrap()), self.inode(self.key(node)).kind);
        }
    }

    fn link(&mut self, node: Pick, to: Place) {
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
    fn named(
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
    fn unnamed(&mut self, key: Key, was_certain: bool) {
        self.touch(key);
        if self.inode(key).names > 0 {
            self.nameless.insert(key);
        } else if !was_certain {
            self.gone.insert(key);
        }
    }

    fn remove(&mut self, place: Place, directory_wanted: bool) {
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

    fn rename(&mut self, from: Place, to: Place, flags: u32) {
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

    fn renamed(
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

    fn create(&mut self, place: Place, access: Access, exclusive: bool, new: NewMode) {
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

    fn open(&mut self, node: Pick, access: Access) {
        let Some(node) = self.file(node) else { return };
        let key = self.key(node);
        let result = self.vfs.open(&self.caller, node, flags(access));
        if self.is_stale(&result, &[key]) {
            return;
        }
        let refused = Self::is_read_only(node) && access != Access::Read;
        let expected = if refused { Err(Errno::EROFS) } else { Ok(()) };
        if let Some((handle, ())) = self.agree(result, expected) {
            self.opened(handle, node, access, false);
        }
    }

    fn opened(&mut self, handle: u64, node: u64, access: Access, created: bool) {
        let (reads, writes) = match access {
            Access::Read => (true, false),
            Access::Write | Access::Append => (false, true),
            Access::Both => (true, true),
        };
        let open = Open {
            handle,
            node,
            key: self.key(node),
            is_directory: false,
            reads,
            writes,
            appends: access == Access::Append,
            writer: writes || created,
        };
        self.opens.push(open);
        if open.writer {
            let expected = self.begin_writing(node);
            self.heard_after(&expected);
        }
    }

    pub fn release(&mut self, open: Open) {
        if open.is_directory {
            self.vfs.releasedir(open.handle);
            return;
        }
        self.vfs.release(open.handle);
        let stale = self.vfs.read(open.handle, 0, 1);
        assert_eq!(stale.expect_err("the handle is gone").to_errno(), Errno::ESTALE);
        if open.writer {
            let expected = self.end_writing(open.node);
            self.heard_after(&expected);
        }
    }

    fn read(&mut self, handle: Pick, offset: u64, size: u32) {
        let Some(open) = self.open_file(handle, |open| open.reads) else { return };
        let told = self.vfs.read(open.handle, offset, size).unwrap();
        let data = self.reference.inodes[open.key].data();
        let start = (offset as usize).min(data.len());
        let end = (start + size as usize).min(data.len());
        assert!(told == data[start..end], "read {told:?} of {data:?}");
    }

    fn write(&mut self, handle: Pick, offset: u64, bytes: &[u8], from: WriteFrom) {
        let Some(open) = self.open_file(handle, |open| open.writes) else { return };
        let written = self.vfs.write(open.handle, offset, bytes, from).unwrap();
        assert_eq!(written as usize, bytes.len());
        let data = self.reference.inodes[open.key].data();
        let appends = open.appends && from == WriteFrom::Caller;
        let offset = if appends { data.len() } else { offset as usize };
        put(data, offset, bytes);
        self.change(open.key);
    }

    fn opendir(&mut self, node: Pick) {
        let Some(node) = picked(&self.nodes(Inode::is_directory), node) else { return };
        let key = self.key(node);
        let result = self.vfs.opendir(&self.caller, node);
        if self.is_stale(&result, &[key]) {
            return;
        }
        self.opens.push(Open {
            handle: result.unwrap(),
            node,
            key,
            is_directory: true,
            reads: false,
            writes: false,
            appends: false,
            writer: false,
        });
    }

    fn list(&mut self, handle: Pick) {
        let directories: Vec<Open> =
            self.opens.iter().filter(|open| open.is_directory).copied().collect();
        let Some(open) = picked(&directories, handle) else { return };
        if self.inode(open.key).names == 0 {
            let error = self.vfs.readdir(open.handle, 0).expect_err("removed");
            assert_eq!(error.to_errno(), Errno::ENOENT);
            return;
        }
        let from = |mut offset| {
            let mut listed = Vec::new();
            loop {
                let entries = self.vfs.readdir(open.handle, offset).unwrap();
                let Some(last) = entries.last() else { return listed };
                offset = last.offset;
                listed.extend(entries);
            }
        };
        let listed = from(0);
        let middle = usize::from(handle) % listed.len();
        assert_eq!(from(listed[middle].offset), listed[middle + 1..], "from the middle on");
        let mut left = self.reference.entries(open.key).clone();
        left.extend([(".".into(), open.key), ("..".into(), open.key)]);
        for entry in listed {
            let key = left.remove(&entry.name);
            let key = key.unwrap_or_else(|| panic!("{entry:?} is not there, or was told twice"));
            if entry.name == "." || entry.name == ".." {
                continue;
            }
            assert_eq!(u32::from(entry.kind) << 12, self.inode(key).format(), "{entry:?}");
            // A node that has its number from the overflow range is listed under the host's.
            let known =
                self.known.iter().find(|(node, known)| known.key == key && **node >> 63 == 0);
            assert!(known.is_none_or(|(node, _)| *node == entry.ino), "{entry:?} is {known:?}");
        }
        assert!(left.is_empty(), "{left:?} were not told");
    }

    fn fallocate(&mut self, handle: Pick, mode: i32, offset: u64, length: u64) {
        const KEEP_SIZE: i32 = 1;
        const PUNCH_HOLE: i32 = 2;
        let Some(open) = self.open_file(handle, |open| open.writes) else { return };
        let result = self.vfs.fallocate(open.handle, mode, offset, length);
        let expected = if length == 0 { Err(Errno::EINVAL) } else { Ok(()) };
        if self.agree(result, expected).is_none() {
            return;
        }
        let data = self.reference.inodes[open.key].data();
        let end = (offset + length) as usize;
        if mode & KEEP_SIZE == 0 && data.len() < end {
            data.resize(end, 0);
        }
        if mode & PUNCH_HOLE != 0 {
            let start = (offset as usize).min(data.len());
            let end = end.min(data.len());
            data[start..end].fill(0);
        }
        self.change(open.key);
    }

    fn seek(&mut self, handle: Pick, offset: i64, hole: bool) {
        const SEEK_DATA: i32 = 3;
        const SEEK_HOLE: i32 = 4;
        let Some(open) = self.open_file(handle, |_| true) else { return };
        let whence = if hole { SEEK_HOLE } else { SEEK_DATA };
        let result = self.vfs.seek(open.handle, offset, whence).map_err(|error| error.to_errno());
        let data = self.reference.inodes[open.key].data();
        let from = offset as usize;
        match result {
            Ok(to) if hole => assert!(from <= to as usize && to as usize <= data.len(), "{to}"),
            Ok(to) => assert!(data[from..to as usize].iter().all(|byte| *byte == 0), "{to}"),
            Err(errno) => {
                assert_eq!(errno, Errno::ENXIO);
                let rest = data.get(from..).unwrap_or_default();
                assert!(rest.is_empty() || (!hole && rest.iter().all(|byte| *byte == 0)));
            }
        }
    }

    fn copy(
        &mut self,
        (from, from_offset): (Pick, u64),
        (to, to_offset): (Pick, u64),
        length: u64,
    ) {
        let Some(from) = self.open_file(from, |open| open.reads) else { return };
        let Some(to) = self.open_file(to, |open| open.writes && !open.appends) else { return };
        let result =
            self.vfs.copy_file_range((from.handle, from_offset), (to.handle, to_offset), length);
        let source = self.reference.inodes[from.key].data();
        let start = (from_offset as usize).min(source.len());
        let bytes = source[start..(start + length as usize).min(source.len())].to_vec();
        let count = bytes.len() as u64;
        let overlaps = from.key == to.key
            && to_offset + count > from_offset
            && to_offset < from_offset + count;
        let expected = if overlaps { Err(Errno::EINVAL) } else { Ok(()) };
        let Some((copied, ())) = self.agree(result, expected) else { return };
        assert_eq!(u64::from(copied), count);
        if bytes.is_empty() {
            // Nothing was copied, and the file system may not have noticed.
            self.touch(to.key);
        } else {
            put(self.reference.inodes[to.key].data(), to_offset as usize, &bytes);
            self.change(to.key);
        }
    }

    fn attributed(&self, node: Pick) -> Option<u64> {
        // Other kinds have no attributes of their users (xattr(7)).
        picked(&self.nodes(|inode| inode.is_file() || inode.is_directory()), node)
    }

    fn setxattr(&mut self, node: Pick, name: &'static str, value: &[u8], flags: i32) {
        let Some(node) = self.attributed(node) else { return };
        let key = self.key(node);
        let result = self.vfs.setxattr(&self.caller, node, name.as_ref(), value, flags);
        if self.is_stale(&result, &[key]) {
            return;
        }
        let there = self.inode(key).attributes.contains_key(name);
        let expected = match flags {
            _ if Self::is_read_only(node) => Err(Errno::EROFS),
            _ if !name.starts_with("user.") => Err(Errno::EOPNOTSUPP),
            1 if there => Err(Errno::EEXIST),
            2 if !there => Err(Errno::ENODATA),
            _ => Ok(()),
        };
        if self.agree(result, expected).is_some() {
            self.reference.inodes[key].attributes.insert(name.to_owned(), value.to_vec());
            self.touch(key);
        }
    }

    fn getxattr(&mut self, node: Pick, name: &'static str) {
        let Some(node) = self.attributed(node) else { return };
        let key = self.key(node);
        let mut buffer = [0; 200];
        let result = self.vfs.getxattr(node, name.as_ref(), &mut buffer);
        let names = self.vfs.listxattr(node);
        if self.is_stale(&result, &[key]) || self.is_stale(&names, &[key]) {
            return;
        }
        let expected = self.inode(key).attributes.get(name).cloned().ok_or(Errno::ENODATA);
        if let Some((length, value)) = self.agree(result, expected) {
            assert_eq!(buffer[..length], value);
        }
        let names = String::from_utf8(names.unwrap()).unwrap();
        let names: BTreeSet<_> = names.split_terminator('\0').collect();
        assert!(self.inode(key).attributes.keys().map(String::as_str).eq(names));
    }

    fn removexattr(&mut self, node: Pick, name: &'static str) {
        let Some(node) = self.attributed(node) else { return };
        let key = self.key(node);
        let result = self.vfs.removexattr(&self.caller, node, name.as_ref());
        if self.is_stale(&result, &[key]) {
            return;
        }
        let expected = if Self::is_read_only(node) {
            Err(Errno::EROFS)
        } else if !name.starts_with("user.") {
            Err(Errno::EOPNOTSUPP)
        } else {
            self.reference.inodes[key].attributes.remove(name).map(drop).ok_or(Errno::ENODATA)
        };
        if self.agree(result, expected).is_some() {
            self.touch(key);
        }
    }

    /// What the observer gets when it asks for a file that it follows.
    fn source(&mut self, file: Pick) {
        let Some(file) = picked(&self.heard.following(), file) else { return };
        let key = self.key(file);
        if !self.handles && self.gone.contains(&key) {
            return;
        }
        let names = self.reference.names(key);
        if names.iter().all(|(directory, _)| self.knows_path(*directory)) {
            for location in self.vfs.locations(FileKey(file)) {
                let at = (location.mount.to_string(), location.path.as_path().to_owned());
                let mut places =
                    names.iter().filter_map(|(directory, name)| self.at(*directory, name));
                assert!(places.any(|place| place == at), "{at:?} is not among {names:?}");
            }
        }
        match FileSource::open(&self.vfs, FileKey(file)) {
            Ok(mut open) => {
                let mut data = Vec::new();
                open.read_to_end(&mut data).unwrap();
                assert_eq!(&data, self.reference.inodes[key].data());
            }
            Err(error) => assert!(
                !self.certain(key) && !names.is_empty() || self.gone.contains(&key),
                "{error}"
            ),
        }
    }

    /// A directory of a read-write mount point, as the host sees it.
    fn host_place(&self, place: Place) -> Option<(Key, usize, PathBuf, &'static OsStr)> {
        let writable = |key: &Key| self.reference.path(*key).is_some_and(|at| at.0 != READ_ONLY);
        let directories: Vec<Key> =
            self.reference.directories().into_iter().filter(writable).collect();
        let directory = picked(&directories, place.directory)?;
        let name = OsStr::from_bytes(place.name);
        if !is_legal(name) || name.len() > 255 {
            return None;
        }
        let (root, path) = self.reference.place(directory, name)?;
        Some((directory, root, self.directory.path().join(MOUNTS[root].name).join(path), name))
    }

    fn host_write(&mut self, place: Place) {
        let Some((directory, _, path, name)) = self.host_place(place) else { return };
        let owner = (self.caller.uid, self.caller.gid);
        let file = Inode::new(Kind::File(b"host".to_vec()), 0o644, owner);
        if self.reference.make(directory, name, file).is_ok() {
            fs::write(&path, "host").unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        }
    }

    fn host_remove(&mut self, place: Place) {
        let Some((directory, _, path, name)) = self.host_place(place) else { return };
        let Ok(key) = self.reference.lookup(directory, name) else { return };
        if self.inode(key).is_directory() {
            if self.reference.rmdir(directory, name).is_err() {
                return;
            }
            fs::remove_dir(path).unwrap();
        } else {
            self.reference.unlink(directory, name).unwrap();
            fs::remove_file(path).unwrap();
        }
        self.touch(key);
        self.misnamed.insert(key);
        if self.inode(key).names == 0 {
            self.gone.insert(key);
        } else {
            self.moved.insert(key);
        }
    }

    fn host_rename(&mut self, from: Place, to: Place) {
        let Some((directory, root, path, name)) = self.host_place(from) else { return };
        let Some((to_directory, to_root, to_path, to_name)) = self.host_place(to) else { return };
        let Ok(key) = self.reference.lookup(directory, name) else { return };
        if root != to_root || self.reference.free(to_directory, to_name).is_err() {
            return;
        }
        if self.reference.rename((directory, name), (to_directory, to_name), 0).is_ok() {
            fs::rename(path, to_path).unwrap();
            self.touch(key);
            self.misnamed.insert(key);
            self.moved.insert(key);
        }
    }
}
