//! FUSE requests of a workspace, decoded and handed to [`Vfs`].
//!
//! Every method answers its request exactly once. Threads: fuser's own; each prepares itself at its first request.

use super::convert::{self, caller};
use super::listing::list;
use super::passthrough::Passthrough;
use super::session;
use crate::model::mount::CachePolicy;
use crate::vfs::attributes::Attributes;
use crate::vfs::backing::NewMode;
use crate::vfs::error::Error;
use crate::vfs::io::WriteFrom;
use crate::vfs::{Changes, Vfs};
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, IoctlFlags, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use nix::fcntl::OFlag;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How long the kernel may use names and attributes without asking. A change made on the host, past the mount, is seen
/// after at most this long; a change made inside is seen at once. What the host has closed to a user meanwhile stays
/// closed: files are opened with the user's own permissions.
fn life(policy: CachePolicy) -> Duration {
    match policy {
        CachePolicy::Shared => Duration::from_secs(1),
        CachePolicy::Exclusive => Duration::from_secs(3600),
        CachePolicy::None => Duration::ZERO,
    }
}

/// Answers the kernel for one workspace.
#[derive(Debug)]
pub struct WorkspaceFilesystem {
    vfs: Arc<Vfs>,
    passthrough: Passthrough,
}

impl WorkspaceFilesystem {
    pub fn new(vfs: Arc<Vfs>, passthrough: bool) -> Self {
        Self { vfs, passthrough: Passthrough::new(passthrough) }
    }

    fn life(&self, node: u64) -> Duration {
        life(self.vfs.cache_policy(node))
    }

    /// Answers with an entry, which gives the kernel one reference to the node.
    fn entry(&self, result: Result<Attributes, Error>, reply: ReplyEntry) {
        match result {
            Ok(attributes) => {
                let life = self.life(attributes.node);
                reply.entry(&life, &convert::attributes(&attributes), Generation(0));
            }
            Err(error) => reply.error(convert::errno(&error)),
        }
    }
}

fn answer(result: Result<(), Error>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(convert::errno(&error)),
    }
}

/// A reader needs no FLUSH at each close.
fn flush_flag(flags: OFlag) -> FopenFlags {
    if flags & OFlag::O_ACCMODE == OFlag::O_RDONLY {
        FopenFlags::FOPEN_NOFLUSH
    } else {
        FopenFlags::empty()
    }
}

/// What the kernel does with pages of a file that it does not pass through; the same at every open of an inode, as it
/// demands (fs/fuse/iomode.c).
fn page_flag(policy: CachePolicy) -> FopenFlags {
    match policy {
        // Pages are dropped at each open, and when a look at the attributes shows a change (FUSE_AUTO_INVAL_DATA).
        CachePolicy::Shared => FopenFlags::empty(),
        CachePolicy::Exclusive => FopenFlags::FOPEN_KEEP_CACHE,
        CachePolicy::None => FopenFlags::FOPEN_DIRECT_IO,
    }
}

impl Filesystem for WorkspaceFilesystem {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        session::prepare_thread();
        self.entry(self.vfs.lookup(parent.0, name), reply);
    }

    fn forget(&self, _: &Request, node: INodeNo, count: u64) {
        self.vfs.forget(node.0, count);
    }

    fn getattr(&self, _: &Request, node: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        session::prepare_thread();
        match self.vfs.getattr(node.0, handle.map(|handle| handle.0)) {
            Ok(attributes) => {
                reply.attr(&self.life(attributes.node), &convert::attributes(&attributes));
            }
            Err(error) => reply.error(convert::errno(&error)),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        handle: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        session::prepare_thread();
        let changes = Changes {
            mode,
            uid,
            gid,
            size,
            atime: atime.map(convert::time_change),
            mtime: mtime.map(convert::time_change),
        };
        let handle = handle.map(|handle| handle.0);
        match self.vfs.setattr(&caller(request), node.0, handle, changes) {
            Ok(attributes) => {
                reply.attr(&self.life(attributes.node), &convert::attributes(&attributes));
            }
            Err(error) => reply.error(convert::errno(&error)),
        }
    }

    fn readlink(&self, _: &Request, node: INodeNo, reply: ReplyData) {
        use std::os::unix::ffi::OsStrExt;
        session::prepare_thread();
        match self.vfs.readlink(node.0) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(error) => reply.error(convert::errno(&error)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        session::prepare_thread();
        let new = NewMode { mode, umask };
        self.entry(self.vfs.mknod(&caller(request), parent.0, name, new), reply);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        session::prepare_thread();
        let new = NewMode { mode, umask };
        self.entry(self.vfs.mkdir(&caller(request), parent.0, name, new), reply);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        session::prepare_thread();
        answer(self.vfs.unlink(&caller(request), parent.0, name), reply);
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        session::prepare_thread();
        answer(self.vfs.rmdir(&caller(request), parent.0, name), reply);
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        session::prepare_thread();
        self.entry(self.vfs.symlink(&caller(request), parent.0, name, target.as_os_str()), reply);
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        session::prepare_thread();
        let (from, to) = ((parent.0, name), (new_parent.0, new_name));
        answer(self.vfs.rename(&caller(request), from, to, flags.bits()), reply);
    }

    fn link(
        &self,
        request: &Request,
        node: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        session::prepare_thread();
        self.entry(self.vfs.link(&caller(request), node.0, parent.0, name), reply);
    }

    fn open(&self, request: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        session::prepare_thread();
        let flags = OFlag::from_bits_truncate(flags.0);
        let handle = match self.vfs.open(&caller(request), node.0, flags) {
            Ok(handle) => handle,
            Err(error) => return reply.error(convert::errno(&error)),
        };
        let backing = self.passthrough.opened(node.0, || {
            self.vfs.with_descriptor(handle, |_, descriptor| reply.open_backing(descriptor))
        });
        let flush = flush_flag(flags);
        match backing {
            Some(backing) => reply.opened_passthrough(FileHandle(handle), flush, &backing),
            // Virtual files change under the kernel's feet: none of their content is kept.
            None if node.0 < crate::vfs::inode::FIRST_HOST_NODE => {
                reply.opened(FileHandle(handle), FopenFlags::FOPEN_DIRECT_IO);
            }
            None => {
                let pages = page_flag(self.vfs.cache_policy(node.0));
                reply.opened(FileHandle(handle), flush | pages);
            }
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        session::prepare_thread();
        let flags = OFlag::from_bits_truncate(flags);
        let (attributes, handle) =
            match self.vfs.create(&caller(request), parent.0, name, flags, NewMode { mode, umask })
            {
                Ok(created) => created,
                Err(error) => return reply.error(convert::errno(&error)),
            };
        let backing = self.passthrough.opened(attributes.node, || {
            self.vfs.with_descriptor(handle, |_, descriptor| reply.open_backing(descriptor))
        });
        let policy = self.vfs.cache_policy(attributes.node);
        let attributes = convert::attributes(&attributes);
        let (life, generation, handle) = (life(policy), Generation(0), FileHandle(handle));
        match backing {
            Some(backing) => {
                let none = FopenFlags::empty();
                reply.created_passthrough(&life, &attributes, generation, handle, none, &backing);
            }
            None => reply.created(&life, &attributes, generation, handle, page_flag(policy)),
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
        session::prepare_thread();
        match self.vfs.read(handle.0, offset, size) {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(convert::errno(&error)),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        session::prepare_thread();
        let from = if flags.contains(WriteFlags::FUSE_WRITE_CACHE) {
            WriteFrom::PageCache
        } else {
            WriteFrom::Caller
        };
        match self.vfs.write(handle.0, offset, data, from) {
            Ok(written) => reply.written(written),
            Err(error) => reply.error(convert::errno(&error)),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, handle: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        session::prepare_thread();
        self.vfs.flush(handle.0);
        reply.ok();
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
        session::prepare_thread();
        self.passthrough.released(node.0);
        self.vfs.release(handle.0);
        reply.ok();
    }

    fn fsync(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        session::prepare_thread();
        answer(self.vfs.fsync(handle.0, data_only), reply);
    }

    fn opendir(&self, request: &Request, node: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        session::prepare_thread();
        match self.vfs.opendir(&caller(request), node.0) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(error) => reply.error(convert::errno(&error)),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        session::prepare_thread();
        let result = list(&self.vfs, node.0, handle.0, offset, |entry| {
            reply.add(INodeNo(entry.node), entry.offset, entry.kind, entry.name)
        });
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(convert::errno(&error)),
        }
    }

    fn readdirplus(
        &self,
        _: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        session::prepare_thread();
        let result = list(&self.vfs, node.0, handle.0, offset, |entry| {
            let is_dot = entry.name == "." || entry.name == "..";
            let found = if is_dot { None } else { self.vfs.lookup(node.0, entry.name).ok() };
            let Some(found) = found else {
                // Without a node the kernel takes the name and the type, and looks up when it needs more
                // (fs/fuse/readdir.c, fuse_direntplus_link).
                let mut attributes = convert::attributes(&Attributes::unknown(entry.node));
                attributes.kind = entry.kind;
                let none = Duration::ZERO;
                return reply.add(
                    INodeNo(0),
                    entry.offset,
                    entry.name,
                    &none,
                    &attributes,
                    Generation(0),
                );
            };
            let attributes = convert::attributes(&found);
            let full = reply.add(
                INodeNo(found.node),
                entry.offset,
                entry.name,
                &self.life(found.node),
                &attributes,
                Generation(0),
            );
            if full {
                // The entry is not in the answer, so the kernel has no reference to give back.
                self.vfs.forget(found.node, 1);
            }
            full
        });
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(convert::errno(&error)),
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
        self.vfs.releasedir(handle.0);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        session::prepare_thread();
        answer(self.vfs.fsync(handle.0, data_only), reply);
    }

    fn statfs(&self, _: &Request, node: INodeNo, reply: ReplyStatfs) {
        session::prepare_thread();
        match self.vfs.statfs(node.0) {
            Ok(Some(stat)) => reply.statfs(
                stat.blocks(),
                stat.blocks_free(),
                stat.blocks_available(),
                stat.files(),
                stat.files_free(),
                u32::try_from(stat.block_size()).unwrap_or(4096),
                u32::try_from(stat.name_max()).unwrap_or(255),
                u32::try_from(stat.fragment_size()).unwrap_or(4096),
            ),
            Ok(None) => reply.statfs(0, 0, 0, 0, 0, 4096, 255, 4096),
            Err(error) => reply.error(convert::errno(&error)),
        }
    }

    fn setxattr(
        &self,
        request: &Request,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        session::prepare_thread();
        answer(self.vfs.setxattr(&caller(request), node.0, name, value, flags), reply);
    }

    fn getxattr(&self, _: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        session::prepare_thread();
        let mut buffer = vec![0; size as usize];
        match self.vfs.getxattr(node.0, name, &mut buffer) {
            Ok(length) if size == 0 => reply.size(u32::try_from(length).unwrap_or(u32::MAX)),
            Ok(length) => reply.data(&buffer[..length]),
            Err(error) => reply.error(convert::errno(&error)),
        }
    }

    fn listxattr(&self, _: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        session::prepare_thread();
        match self.vfs.listxattr(node.0) {
            Ok(names) if size == 0 => reply.size(u32::try_from(names.len()).unwrap_or(u32::MAX)),
            Ok(names) if names.len() > size as usize => reply.error(Errno::ERANGE),
            Ok(names) => reply.data(&names),
            Err(error) => reply.error(convert::errno(&error)),
        }
    }

    fn removexattr(&self, request: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        session::prepare_thread();
        answer(self.vfs.removexattr(&caller(request), node.0, name), reply);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        session::prepare_thread();
        answer(self.vfs.fallocate(handle.0, mode, offset, length), reply);
    }

    fn lseek(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        session::prepare_thread();
        match self.vfs.seek(handle.0, offset, whence) {
            Ok(offset) => reply.offset(offset),
            Err(error) => reply.error(convert::errno(&error)),
        }
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        from: FileHandle,
        from_offset: u64,
        _: INodeNo,
        to: FileHandle,
        to_offset: u64,
        length: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        session::prepare_thread();
        match self.vfs.copy_file_range((from.0, from_offset), (to.0, to_offset), length) {
            Ok(copied) => reply.written(copied),
            Err(error) => reply.error(convert::errno(&error)),
        }
    }
}
