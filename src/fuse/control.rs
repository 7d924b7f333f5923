//! A `.belljar` directory as a FUSE file system of its own, for one sandbox.
//!
//! Nothing of it may stay in the kernel: names and attributes have no lifetime, file content is never cached
//! (FOPEN_DIRECT_IO), and a secret may only be opened from the run it is meant for.

use super::convert;
use crate::model::id::RunId;
use crate::vfs::Attribution;
use crate::vfs::attributes::Attributes;
use crate::vfs::control::{self, ControlTree};
use fuser::{
    Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenAccMode,
    OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyXattr, Request,
};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use zeroize::Zeroizing;

/// The root of a FUSE mount has this number; the tree calls its root [`control::ROOT`].
const FUSE_ROOT: u64 = 1;

/// Serves one control tree to one run.
pub struct ControlFilesystem {
    tree: ControlTree,
    run: RunId,
    attribution: Arc<dyn Attribution>,
    open: Mutex<HashMap<u64, Arc<Zeroizing<Vec<u8>>>>>,
    next: AtomicU64,
}

impl ControlFilesystem {
    pub fn new(tree: ControlTree, run: RunId, attribution: Arc<dyn Attribution>) -> Self {
        Self { tree, run, attribution, open: Mutex::default(), next: AtomicU64::new(1) }
    }
}

impl ControlFilesystem {
    /// Who opened which secret, and never what it is.
    fn log_secret(&self, request: &Request, node: INodeNo, allowed: bool) {
        let Some(secret) = self.tree.secret_of(node.0) else { return };
        let (run, uid, pid) = (self.run, request.uid(), request.pid());
        if allowed {
            tracing::info!(%run, %secret, uid, pid, "a secret was read in its run");
        } else {
            tracing::warn!(%run, %secret, uid, pid, "a secret was refused to a process outside of its run");
        }
    }
}

fn inward(node: INodeNo) -> u64 {
    if node.0 == FUSE_ROOT { control::ROOT } else { node.0 }
}

fn outward(mut attributes: Attributes) -> fuser::FileAttr {
    if attributes.node == control::ROOT {
        attributes.node = FUSE_ROOT;
    }
    convert::attributes(&attributes)
}

impl Filesystem for ControlFilesystem {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.tree.lookup(inward(parent), name) {
            Ok(attributes) => reply.entry(&Duration::ZERO, &outward(attributes), Generation(0)),
            Err(error) => reply.error(convert::errno(&error)),
        }
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.tree.attributes(inward(node)) {
            Ok(attributes) => reply.attr(&Duration::ZERO, &outward(attributes)),
            Err(error) => reply.error(convert::errno(&error)),
        }
    }

    fn open(&self, request: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        // The mount is attached in the sandbox alone, but the host's root can reach into every namespace.
        let is_own = self.attribution.run_of(request.pid()) == Some(self.run);
        self.log_secret(request, node, is_own);
        if !is_own {
            return reply.error(Errno::EACCES);
        }
        match self.tree.open(inward(node)) {
            Ok(content) => {
                let handle = self.next.fetch_add(1, Ordering::Relaxed);
                self.open.lock().expect("no panic under this lock").insert(handle, content);
                reply.opened(FileHandle(handle), FopenFlags::FOPEN_DIRECT_IO);
            }
            Err(error) => reply.error(convert::errno(&error)),
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
        let content = self.open.lock().expect("no panic under this lock").get(&handle.0).cloned();
        let Some(content) = content else { return reply.error(Errno::ESTALE) };
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
        let end = start.saturating_add(size as usize).min(content.len());
        reply.data(&content[start..end]);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.open.lock().expect("no panic under this lock").remove(&handle.0);
        reply.ok();
    }

    fn readdir(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = match self.tree.list(inward(node)) {
            Ok(listed) => listed,
            Err(error) => return reply.error(convert::errno(&error)),
        };
        let own = INodeNo(node.0);
        let dots = [(own, ".".into(), 0o040_000), (INodeNo(FUSE_ROOT), "..".into(), 0o040_000)];
        let rest = listed
            .into_iter()
            .map(|entry| (INodeNo(entry.attributes.node), entry.name, entry.attributes.mode));
        let entries = dots.into_iter().chain(rest).enumerate();
        for (position, (node, name, mode)) in
            entries.skip(usize::try_from(offset).unwrap_or(usize::MAX))
        {
            if reply.add(node, position as u64 + 1, convert::kind_of_mode(mode), &name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(0, 0, 0, 0, 0, 4096, 255, 4096);
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENODATA);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, size: u32, reply: ReplyXattr) {
        if size == 0 { reply.size(0) } else { reply.data(&[]) }
    }
}
