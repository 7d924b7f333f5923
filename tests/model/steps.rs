//! One step each: sent, predicted, compared. What cannot be asked at the moment is left out.

use crate::kernel::{Kernel, Open};
use crate::operations::{Access, Op, Pick, Place};
use crate::reference::{Inode, Key};
use belljar::vfs::backing::NewMode;
use belljar::vfs::io::WriteFrom;
use belljar::vfs::observer::{FileKey, FileSource};
use nix::fcntl::OFlag;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;

pub fn picked<T: Copy>(from: &[T], pick: Pick) -> Option<T> {
    (!from.is_empty()).then(|| from[usize::from(pick) % from.len()])
}

pub fn is_legal(name: &OsStr) -> bool {
    !matches!(name.as_bytes(), b"" | b"." | b"..")
}

pub fn flags(access: Access) -> OFlag {
    match access {
        Access::Read => OFlag::O_RDONLY,
        Access::Write => OFlag::O_WRONLY,
        Access::Both => OFlag::O_RDWR,
        Access::Append => OFlag::O_WRONLY | OFlag::O_APPEND,
    }
}

impl Kernel {
    pub fn place(&self, place: Place) -> (u64, Key, &'static OsStr) {
        let node = picked(&self.nodes(Inode::is_directory), place.directory)
            .expect("the mount points are always known");
        (node, self.key(node), OsStr::from_bytes(place.name))
    }

    pub fn file(&self, pick: Pick) -> Option<u64> {
        picked(&self.nodes(Inode::is_file), pick)
    }

    pub fn open_file(&self, pick: Pick, wanted: impl Fn(&Open) -> bool) -> Option<Open> {
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

    /// What the observer gets when it asks for a file that it follows.
    pub fn source(&mut self, file: Pick) {
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
}
