//! What the host does to the directories behind the mount points, past the file system.

use crate::kernel::{Kernel, MOUNTS, READ_ONLY};
use crate::operations::Place;
use crate::reference::{Inode, Key, Kind};
use crate::steps::{is_legal, picked};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

impl Kernel {
    /// A directory of a read-write mount point, as the host sees it.
    pub fn host_place(&self, place: Place) -> Option<(Key, usize, PathBuf, &'static OsStr)> {
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

    pub fn host_write(&mut self, place: Place) {
        let Some((directory, _, path, name)) = self.host_place(place) else { return };
        let owner = (self.caller.uid, self.caller.gid);
        let file = Inode::new(Kind::File(b"host".to_vec()), 0o644, owner);
        if self.reference.make(directory, name, file).is_ok() {
            fs::write(&path, "host").unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        }
    }

    pub fn host_remove(&mut self, place: Place) {
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

    pub fn host_rename(&mut self, from: Place, to: Place) {
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
