//! The artifacts of a workspace as a FUSE file system of its own.
//!
//! Its threads may wait for the catalog. The mount is read-only, so that the kernel itself refuses every change with EROFS.
//! The content of a node never changes: pages stay in the kernel, and where it can it reads the stored file by itself.
//!
//! Locks: that of the open files, and each open directory's, held while its next page is fetched.

use super::convert;
use super::passthrough::Passthrough;
use crate::vfs::error::Error;
use crate::vfs::views::{Entry, Listing, NAME_BYTES_MAX, ViewTree};
use fuser::{
    Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenAccMode,
    OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyXattr, Request,
};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long the kernel may use a name or an attribute without asking: a version that is new, or was deleted, is seen as such
/// after at most this long.
const LIFE: Duration = Duration::from_secs(1);

/// A directory that is being read.
struct Walk {
    node: u64,
    /// `None` before the first read and after a step back.
    listing: Option<Box<dyn Listing>>,
    page: Vec<Entry>,
    /// How many entries there were before the page.
    passed: u64,
}

#[derive(Clone)]
enum Open {
    File(Arc<File>),
    Directory(Arc<Mutex<Walk>>),
}

/// Serves one tree of views.
pub struct ViewFilesystem {
    tree: ViewTree,
    passthrough: Passthrough,
    open: Mutex<HashMap<u64, Open>>,
    next: AtomicU64,
}

impl ViewFilesystem {
    pub fn new(tree: ViewTree, passthrough: bool) -> Self {
        Self {
            tree,
            passthrough: Passthrough::new(passthrough),
            open: Mutex::default(),
            next: AtomicU64::new(1),
        }
    }

    fn keep(&self, open: Open) -> FileHandle {
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.lock().expect("no panic under this lock").insert(handle, open);
        FileHandle(handle)
    }

    fn opened(&self, handle: FileHandle) -> Option<Open> {
        self.open.lock().expect("no panic under this lock").get(&handle.0).cloned()
    }

    fn closed(&self, handle: FileHandle) {
        let closed = self.open.lock().expect("no panic under this lock").remove(&handle.0);
        drop(closed);
    }
}

impl Walk {
    fn new(node: u64) -> Self {
        Self { node, listing: None, page: Vec::new(), passed: 0 }
    }

    /// Gives the entries from `position` on to `add` until it says that the answer is full.
    fn read(
        &mut self,
        tree: &ViewTree,
        mut position: u64,
        mut add: impl FnMut(u64, &Entry) -> bool,
    ) -> Result<(), Error> {
        if position < self.passed {
            *self = Self::new(self.node);
        }
        loop {
            let in_page = usize::try_from(position - self.passed).unwrap_or(usize::MAX);
            for entry in self.page.iter().skip(in_page) {
                position += 1;
                if add(position, entry) {
                    return Ok(());
                }
            }
            let listing = match &mut self.listing {
                Some(listing) => listing,
                none => none.insert(tree.list(self.node)?),
            };
            let page = listing.next_page()?;
            if page.is_empty() {
                return Ok(());
            }
            self.passed += self.page.len() as u64;
            self.page = page;
        }
    }
}

impl Filesystem for ViewFilesystem {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.tree.lookup(parent.0, name) {
            Ok(attributes) => {
                reply.entry(&LIFE, &convert::attributes(&attributes), Generation(0));
            }
            Err(error) => reply.error(convert::errno(&error)),
        }
    }

    fn forget(&self, _: &Request, node: INodeNo, count: u64) {
        self.tree.forget(node.0, count);
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.tree.attributes(node.0) {
            Ok(attributes) => reply.attr(&LIFE, &convert::attributes(&attributes)),
            Err(error) => reply.error(convert::errno(&error)),
        }
    }

    fn open(&self, request: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        // The mount is read-only; what comes all the same, comes from a mount that somebody made writable.
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        let file = match self.tree.open(node.0, request.uid()) {
            Ok(file) => file,
            Err(error) => return reply.error(convert::errno(&error)),
        };
        let backing = self.passthrough.opened(node.0, || Some(reply.open_backing(&file)));
        let handle = self.keep(Open::File(Arc::new(file)));
        let flags = FopenFlags::FOPEN_NOFLUSH;
        match backing {
            Some(backing) => reply.opened_passthrough(handle, flags, &backing),
            None => reply.opened(handle, flags | FopenFlags::FOPEN_KEEP_CACHE),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(Open::File(file)) = self.opened(handle) else {
            return reply.error(Errno::ESTALE);
        };
        let mut buffer = vec![0; size as usize];
        let mut filled = 0;
        // A short answer means end of file to the kernel, so a short read is not the last word.
        while filled < buffer.len() {
            match file.read_at(&mut buffer[filled..], offset.saturating_add(filled as u64)) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => {
                    let error = Error::Os { doing: "read the content of an artifact", source };
                    return reply.error(convert::errno(&error));
                }
            }
        }
        reply.data(&buffer[..filled]);
    }

    fn release(
        &self,
        _: &Request,
        node: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.passthrough.released(node.0);
        self.closed(handle);
        reply.ok();
    }

    fn opendir(&self, _: &Request, node: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let walk = Arc::new(Mutex::new(Walk::new(node.0)));
        reply.opened(self.keep(Open::Directory(walk)), FopenFlags::empty());
    }

    fn readdir(
        &self,
        _: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let Some(Open::Directory(walk)) = self.opened(handle) else {
            return reply.error(Errno::ESTALE);
        };
        // The kernel makes its own numbers for the two, and knows what they are.
        for (position, name) in [(1, "."), (2, "..")] {
            if offset < position && reply.add(node, position, fuser::FileType::Directory, name) {
                return reply.ok();
            }
        }
        let mut any = offset < 2;
        let read = walk.lock().expect("no panic under this lock").read(
            &self.tree,
            offset.saturating_sub(2),
            |position, entry| {
                let kind = if entry.place.is_directory() {
                    fuser::FileType::Directory
                } else {
                    fuser::FileType::RegularFile
                };
                let full =
                    reply.add(INodeNo(entry.place.number()), position + 2, kind, &entry.name);
                any |= !full;
                full
            },
        );
        match read {
            // What was read before the failure is told; the next call meets the failure at its beginning.
            Err(error) if !any => reply.error(convert::errno(&error)),
            Ok(()) | Err(_) => reply.ok(),
        }
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.closed(handle);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(0, 0, 0, 0, 0, 4096, NAME_BYTES_MAX, 4096);
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENODATA);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, size: u32, reply: ReplyXattr) {
        if size == 0 { reply.size(0) } else { reply.data(&[]) }
    }
}
