//! Open files and directories of one workspace.
//!
//! A handle is made by open, create or opendir and dies in release, which the kernel sends exactly once
//! (FUSE_RELEASE). FLUSH is *not* an end of life: every close(2) of every duplicated descriptor sends one.
//!
//! Invariant: a handle that can write owns a [`WriteGrant`]; its writes are not authorised again.
//! Locking: the table's lock is never held across a system call.

use super::inode::Inode;
use crate::policy::mount_table::WriteGrant;
use crate::sys::release;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

/// What a handle number of the kernel stands for.
#[derive(Debug)]
pub enum Handle {
    File(FileHandle),
    Directory {
        inode: Arc<Inode>,
        descriptor: OwnedFd,
    },
    /// Content of a virtual file, as it was when it was opened; zeroed when the handle dies.
    Virtual(Arc<zeroize::Zeroizing<Vec<u8>>>),
    /// A listing of a directory that Belljar provides.
    VirtualDirectory,
}

/// An open regular file.
#[derive(Debug)]
pub struct FileHandle {
    pub inode: Arc<Inode>,
    pub descriptor: OwnedFd,
    /// Opened with O_APPEND, which the descriptor does not have.
    pub appends: bool,
    /// Present exactly when the handle was opened for writing.
    pub grant: Option<WriteGrant>,
}

impl Handle {
    fn inode(&self) -> Option<&Arc<Inode>> {
        match self {
            Handle::File(file) => Some(&file.inode),
            Handle::Directory { inode, .. } => Some(inode),
            Handle::Virtual(_) | Handle::VirtualDirectory => None,
        }
    }

    /// The host file or directory that is open.
    pub fn descriptor(&self) -> Option<&OwnedFd> {
        match self {
            Handle::File(file) => Some(&file.descriptor),
            Handle::Directory { descriptor, .. } => Some(descriptor),
            Handle::Virtual(_) | Handle::VirtualDirectory => None,
        }
    }
}

/// All open handles of a workspace.
#[derive(Debug, Default)]
pub struct HandleTable {
    handles: RwLock<HashMap<u64, Arc<Handle>>>,
    next: AtomicU64,
}

impl Drop for HandleTable {
    /// Handles are left when the connection ended before they were released.
    fn drop(&mut self) {
        let left = std::mem::take(self.handles.get_mut().expect("no panic under this lock"));
        if !left.is_empty() {
            release::elsewhere(left);
        }
    }
}

impl HandleTable {
    pub fn insert(&self, handle: Handle) -> u64 {
        // Numbers are never reused: 2^64 opens do not happen in a daemon's life.
        let number = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        self.handles.write().expect("no panic under this lock").insert(number, Arc::new(handle));
        number
    }

    pub fn get(&self, number: u64) -> Option<Arc<Handle>> {
        self.handles.read().expect("no panic under this lock").get(&number).cloned()
    }

    /// Some open handle of a node. All are looked at, which is for the rare node that nothing else leads to.
    pub fn of(&self, inode: &Arc<Inode>) -> Option<Arc<Handle>> {
        let handles = self.handles.read().expect("no panic under this lock");
        handles
            .values()
            .find(|handle| handle.inode().is_some_and(|open| Arc::ptr_eq(open, inode)))
            .cloned()
    }

    pub fn remove(&self, number: u64) -> Option<Arc<Handle>> {
        self.handles.write().expect("no panic under this lock").remove(&number)
    }
}
