//! Telling the observer of writes, and answering its questions about the files it follows.
//!
//! Only mount points whose files become artifacts are told of. A file is held (one reference) from
//! [`Tracking::Began`] until it is settled.
//!
//! A file's writers are counted, looked at and told of as one step, under the lock of its `writing`: told in another order
//! than counted, the last close of one writer could be taken for that of the next and its bytes be lost. The observer
//! appends to a local file and never calls back; no other lock is held.

use super::Vfs;
use super::attributes::Stamp;
use super::backing::{self, Caller};
use super::error::Error;
use super::inode::Inode;
use super::observer::{FileKey, FileSource, Location, Tracking, Writer};
use super::process::Asker;
use crate::model::path::VirtualPath;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

/// How deep a path may be; deeper ones cannot be opened either way (PATH_MAX, 4096 bytes of one-letter names).
const DEPTH_MAX: usize = 2048;

impl Vfs {
    fn observed(&self, inode: &Inode) -> bool {
        self.mounts.get(inode.mount).artifacts
    }

    fn writer(&self, caller: &Caller) -> Writer {
        let Asker { process, run, command } = self.askers.look(caller.pid);
        Writer { run, pid: process, uid: caller.uid, command }
    }

    /// The place of a name, or `None` when the directory itself is no longer in the tree.
    fn location_below(&self, parent: &Arc<Inode>, name: &OsStr) -> Option<Location> {
        let mut names = vec![name.to_owned()];
        let mut directory = Arc::clone(parent);
        let root = self.roots[parent.mount.as_usize()].identity;
        while directory.identity != root {
            let above = directory.name()?;
            names.push(above.name);
            directory = above.parent;
            if names.len() > DEPTH_MAX {
                return None;
            }
        }
        let path = VirtualPath::from_names(names.iter().rev().map(|name| name.as_os_str())).ok()?;
        let mount = self.mounts.get(parent.mount).name.clone();
        Some(Location { mount, path })
    }

    pub(super) fn location_of(&self, inode: &Inode) -> Option<Location> {
        let name = inode.name()?;
        self.location_below(&name.parent, &name.name)
    }

    fn keep(&self, inode: &Inode, tracking: Tracking) {
        match tracking {
            Tracking::Began => self.inodes.hold(inode),
            Tracking::Continues | Tracking::Ignored => {}
        }
    }

    /// A writable handle is about to exist. On failure nothing is counted.
    pub(super) fn begin_writing(
        &self,
        caller: &Caller,
        inode: &Arc<Inode>,
        created: bool,
    ) -> Result<(), Error> {
        if !self.observed(inode) {
            return Ok(());
        }
        let descriptor = self.descriptor(inode)?;
        let mut writing = inode.writing();
        if writing.writers == 0 {
            // What was just made counts as changed, whatever it looks like. Looking also arms the kernel's fine
            // timestamps: the next write gets another ctime (multigrain timestamps).
            let look = || backing::stat(descriptor.as_fd()).map(|stat| Stamp::of(&stat));
            writing.before = if created { None } else { Some(look()?) };
            writing.changed = false;
        }
        // A file without a name (removed while open) can still be written, but leaves nothing behind.
        if let Some(location) = self.location_of(inode) {
            let key = FileKey(inode.id);
            let tracking = self
                .observer
                .dirtied(key, &location, self.writer(caller))
                .map_err(Error::Journal)?;
            self.keep(inode, tracking);
        }
        writing.writers += 1;
        writing.changed |= created;
        Ok(())
    }

    /// A descriptor of a writable handle was closed.
    pub(super) fn tell_closing(&self, inode: &Inode) {
        if self.observed(inode) {
            self.observer.closing(FileKey(inode.id));
        }
    }

    /// A writable handle is gone.
    pub(super) fn end_writing(&self, inode: &Arc<Inode>) {
        if !self.observed(inode) {
            return;
        }
        let descriptor = self.descriptor(inode);
        let mut writing = inode.writing();
        writing.writers -= 1;
        if writing.writers > 0 {
            return;
        }
        let stamp = || {
            let stat = descriptor.and_then(|descriptor| backing::stat(descriptor.as_fd()));
            stat.map(|stat| Stamp::of(&stat)).ok()
        };
        // What cannot be looked at counts as changed: better a copy too many than one too few.
        let changed = writing.changed || stamp() != writing.before;
        self.observer.closed(FileKey(inode.id), changed);
    }

    pub(super) fn tell_named(
        &self,
        caller: &Caller,
        inode: &Arc<Inode>,
        from: Option<(&Arc<Inode>, &OsStr)>,
        parent: &Arc<Inode>,
        name: &OsStr,
    ) {
        if !self.observed(inode) || !inode.is_regular() {
            return;
        }
        let Some(to) = self.location_below(parent, name) else { return };
        let from = from.and_then(|(parent, name)| self.location_below(parent, name));
        let writer = self.writer(caller);
        let writing = inode.writing();
        let open = writing.writers > 0;
        let tracking = self.observer.named(FileKey(inode.id), from.as_ref(), &to, writer, open);
        self.keep(inode, tracking);
    }

    pub(super) fn tell_directory_moved(
        &self,
        caller: &Caller,
        from: (&Arc<Inode>, &OsStr),
        to: (&Arc<Inode>, &OsStr),
    ) {
        if !self.observed(from.0) {
            return;
        }
        if let (Some(from), Some(to)) =
            (self.location_below(from.0, from.1), self.location_below(to.0, to.1))
        {
            self.observer.directory_moved(&from, &to, self.writer(caller));
        }
    }

    pub(super) fn tell_removed(&self, parent: &Arc<Inode>, name: &OsStr) {
        if self.observed(parent)
            && let Some(at) = self.location_below(parent, name)
        {
            self.observer.removed(&at);
        }
    }
}

impl FileSource for Vfs {
    fn locations(&self, file: FileKey) -> Vec<Location> {
        let Some(inode) = self.inodes.get(file.0) else { return Vec::new() };
        let present = |name: &super::inode::Name| {
            let parent = self.descriptor(&name.parent).ok()?;
            // The host may have put another file under the name, which may even have got the number of this one.
            let root = self.root_of(&inode);
            let found = backing::find(root, parent.as_fd(), &name.name).ok()?;
            let same = backing::Identity::of(&found.stat) == inode.identity
                && found.generation == inode.generation;
            same.then(|| self.location_below(&name.parent, &name.name))?
        };
        inode.names().iter().filter_map(present).collect()
    }

    fn open(&self, file: FileKey) -> io::Result<File> {
        let gone = || io::Error::from_raw_os_error(nix::errno::Errno::ENOENT as i32);
        let inode = self.inodes.get(file.0).ok_or_else(gone)?;
        if !inode.is_regular() {
            return Err(gone());
        }
        let descriptor =
            self.descriptor(&inode).map_err(|error| io::Error::from(error.to_errno()))?;
        let flags = nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_NONBLOCK;
        let failed = |error: Error| io::Error::from(error.to_errno());
        // Whoever owns a file could give itself the permission to read it; for others' files the host decides.
        let _identity = match &self.owner {
            Some(owner)
                if backing::stat(descriptor.as_fd()).map_err(failed)?.st_uid != owner.uid =>
            {
                Some(backing::act_with(owner).map_err(failed)?)
            }
            Some(_) | None => None,
        };
        crate::sys::file::reopen(descriptor.as_fd(), flags).map(File::from)
    }

    fn settled(&self, file: FileKey) {
        if let Some(inode) = self.inodes.get(file.0) {
            self.inodes.release(inode, 1);
        }
    }
}
