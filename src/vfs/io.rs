//! Opening, reading, writing and closing files.

use super::Vfs;
use super::backing::{self, Caller};
use super::error::Error;
use super::handle::{FileHandle, Handle};
use super::inode::Inode;
use crate::policy::mount_table::WriteGrant;
use crate::policy::operation::Operation;
use crate::sys;
use nix::fcntl::OFlag;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The flags with which the daemon opens the file for itself. Creation and truncation are requests of their own;
/// O_DIRECT would ask for aligned buffers, and the kernel keeps its promises to the caller without it. O_APPEND would send
/// pages of a memory map to the end of the file; [`Vfs::write`] appends by itself.
pub(super) fn daemon_flags(flags: OFlag) -> OFlag {
    flags & (OFlag::O_ACCMODE | OFlag::O_SYNC | OFlag::O_DSYNC | OFlag::O_EXCL)
}

/// Where the bytes of a write come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteFrom {
    /// write(2) through this very handle.
    Caller,
    /// A page of the kernel's cache, which belongs where it was. The kernel picks any writable handle of the inode
    /// (linux/fuse.h, FUSE_WRITE_CACHE).
    PageCache,
}

fn writes(flags: OFlag) -> bool {
    flags & OFlag::O_ACCMODE != OFlag::O_RDONLY
}

impl Vfs {
    pub fn open(&self, caller: &Caller, node: u64, flags: OFlag) -> Result<u64, Error> {
        if Self::is_provided(node) {
            if writes(flags) {
                return Err(Error::Provided);
            }
            return Ok(self.handles.insert(Handle::Virtual(self.control.open(node)?)));
        }
        let inode = self.host_node(node)?;
        if !inode.is_regular() {
            // FIFOs, sockets and devices never reach a FUSE server: the kernel opens them itself.
            return Err(Error::NotSupported("opening what is not a regular file"));
        }
        let descriptor = self.descriptor(&inode)?;
        if !writes(flags) {
            let identity = backing::act_as(caller)?;
            let opened = sys::file::reopen(descriptor.as_fd(), daemon_flags(flags))
                .map_err(Error::os("open a file for reading"))?;
            drop(identity);
            self.tell_read(caller, &inode, opened.as_fd());
            let handle = FileHandle { inode, descriptor: opened, appends: false, grant: None };
            return Ok(self.handles.insert(Handle::File(handle)));
        }
        let grant = self.mounts.authorize(inode.mount, Operation::OpenWrite)?;
        let opened = {
            let _identity = backing::act_as(caller)?;
            sys::file::reopen(descriptor.as_fd(), daemon_flags(flags) - OFlag::O_EXCL)
                .map_err(Error::os("open a file for writing"))?
        };
        if flags & OFlag::O_ACCMODE == OFlag::O_RDWR {
            self.tell_read(caller, &inode, opened.as_fd());
        }
        self.opened(caller, inode, opened, flags, false, grant)
    }

    /// Makes the handle of a file that was opened, after the observer has noted that it may be written.
    pub(super) fn opened(
        &self,
        caller: &Caller,
        inode: Arc<Inode>,
        descriptor: OwnedFd,
        flags: OFlag,
        created: bool,
        grant: WriteGrant,
    ) -> Result<u64, Error> {
        // A file created with O_RDONLY is written by its creation alone; it counts as a writer until it is closed.
        let grant = if writes(flags) || created {
            self.begin_writing(caller, &inode, created)?;
            Some(grant)
        } else {
            None
        };
        let appends = flags.contains(OFlag::O_APPEND);
        Ok(self.handles.insert(Handle::File(FileHandle { inode, descriptor, appends, grant })))
    }

    fn file(&self, handle: u64) -> Result<Arc<Handle>, Error> {
        self.handles.get(handle).ok_or(Error::Unknown(handle))
    }

    /// A descriptor of an open host file, for the kernel to read and write through by itself. `None` for virtual files.
    pub fn with_descriptor<T>(
        &self,
        handle: u64,
        use_it: impl FnOnce(&Inode, &OwnedFd) -> T,
    ) -> Option<T> {
        match &*self.handles.get(handle)? {
            Handle::File(file) => Some(use_it(&file.inode, &file.descriptor)),
            Handle::Directory { .. } | Handle::Virtual(_) | Handle::VirtualDirectory => None,
        }
    }

    pub fn read(&self, handle: u64, offset: u64, size: u32) -> Result<Vec<u8>, Error> {
        match &*self.file(handle)? {
            Handle::Virtual(content) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
                let end = start.saturating_add(size as usize).min(content.len());
                Ok(content[start..end].to_vec())
            }
            Handle::File(file) => {
                self.data_requests.fetch_add(1, Ordering::Relaxed);
                let mut buffer = vec![0; size as usize];
                let mut filled = 0;
                // A short answer means end of file to the kernel, so a short read is not the last word.
                while filled < buffer.len() {
                    let at = signed(offset.saturating_add(filled as u64))?;
                    match nix::sys::uio::pread(&file.descriptor, &mut buffer[filled..], at) {
                        Ok(0) => break,
                        Ok(read) => filled += read,
                        Err(nix::errno::Errno::EINTR) => {}
                        Err(errno) => return Err(Error::errno("read a file")(errno)),
                    }
                }
                buffer.truncate(filled);
                Ok(buffer)
            }
            Handle::Directory { .. } | Handle::VirtualDirectory => Err(Error::Unknown(handle)),
        }
    }

    pub fn write(
        &self,
        handle: u64,
        offset: u64,
        data: &[u8],
        from: WriteFrom,
    ) -> Result<u32, Error> {
        let handle = self.file(handle)?;
        let file = writable(&handle)?;
        self.data_requests.fetch_add(1, Ordering::Relaxed);
        let written = if file.appends && from == WriteFrom::Caller {
            // The host may have appended since the kernel worked out the offset.
            sys::file::append(file.descriptor.as_fd(), data)
        } else {
            nix::sys::uio::pwrite(file.descriptor.as_fd(), data, signed(offset)?)
                .map_err(io::Error::from)
        };
        let written = written.map_err(Error::os("write a file"))?;
        file.inode.writing().changed = true;
        Ok(written as u32)
    }

    pub fn fsync(&self, handle: u64, data_only: bool) -> Result<(), Error> {
        let handle = self.file(handle)?;
        let descriptor = match &*handle {
            Handle::File(file) => file.descriptor.as_fd(),
            Handle::Directory { descriptor, .. } => descriptor.as_fd(),
            Handle::Virtual(_) | Handle::VirtualDirectory => return Ok(()),
        };
        let result = if data_only {
            nix::unistd::fdatasync(descriptor)
        } else {
            nix::unistd::fsync(descriptor)
        };
        result.map_err(Error::errno("write a file's data to its disk"))
    }

    pub fn seek(&self, handle: u64, offset: i64, whence: i32) -> Result<i64, Error> {
        match &*self.file(handle)? {
            Handle::File(file) => sys::file::seek(file.descriptor.as_fd(), offset, whence)
                .map_err(Error::os("look for data or a hole")),
            Handle::Directory { .. } | Handle::Virtual(_) | Handle::VirtualDirectory => {
                Err(Error::NotSupported("looking for data or holes in a virtual file"))
            }
        }
    }

    pub fn fallocate(&self, handle: u64, mode: i32, offset: u64, length: u64) -> Result<(), Error> {
        let handle = self.file(handle)?;
        let file = writable(&handle)?;
        let (offset, length) = (signed(offset)?, signed(length)?);
        sys::file::fallocate(file.descriptor.as_fd(), mode, offset, length)
            .map_err(Error::os("reserve or free space"))?;
        file.inode.writing().changed = true;
        Ok(())
    }

    pub fn copy_file_range(
        &self,
        (from, from_offset): (u64, u64),
        (to, to_offset): (u64, u64),
        length: u64,
    ) -> Result<u32, Error> {
        let (from, to) = (self.file(from)?, self.file(to)?);
        let target = writable(&to)?;
        let Handle::File(source) = &*from else {
            return Err(Error::NotSupported("copying from a virtual file in the kernel"));
        };
        // The answer carries 32 bits; the kernel asks again for the rest.
        let length = length.min(0xffff_f000) as usize;
        let copied = sys::file::copy_file_range(
            source.descriptor.as_fd(),
            signed(from_offset)?,
            target.descriptor.as_fd(),
            signed(to_offset)?,
            length,
        )
        .map_err(Error::os("copy between files"))?;
        target.inode.writing().changed = true;
        Ok(copied as u32)
    }

    /// Changes a size, through an open file or by itself.
    pub(super) fn truncate(
        &self,
        caller: &Caller,
        grant: &WriteGrant,
        inode: &Arc<Inode>,
        handle: Option<u64>,
        size: u64,
    ) -> Result<(), Error> {
        let open = handle.and_then(|handle| self.handles.get(handle));
        if let Some(open) = &open
            && let Ok(file) = writable(open)
        {
            backing::truncate(grant, file.descriptor.as_fd(), size)?;
            file.inode.writing().changed = true;
            return Ok(());
        }
        if !inode.is_regular() {
            return Err(Error::NotSupported("changing the size of what is not a regular file"));
        }
        // A change by name is an open, a change and a close.
        self.begin_writing(caller, inode, false)?;
        let result = self.descriptor(inode).and_then(|descriptor| {
            let _identity = backing::act_as(caller)?;
            let opened = sys::file::reopen(descriptor.as_fd(), OFlag::O_WRONLY)
                .map_err(Error::os("open a file to change its size"))?;
            backing::truncate(grant, opened.as_fd(), size)
        });
        if result.is_ok() {
            inode.writing().changed = true;
        }
        self.end_writing(inode);
        result
    }

    /// A descriptor of the handle was closed. Nothing is buffered: what was written is with the host's file system already.
    pub fn flush(&self, handle: u64) {
        if let Some(handle) = self.handles.get(handle)
            && let Ok(file) = writable(&handle)
        {
            self.tell_closing(&file.inode);
        }
    }

    pub fn release(&self, handle: u64) {
        let Some(handle) = self.handles.remove(handle) else { return };
        if let Handle::File(file) = &*handle
            && file.grant.is_some()
        {
            self.end_writing(&file.inode);
        }
    }
}

fn writable(handle: &Handle) -> Result<&FileHandle, Error> {
    match handle {
        Handle::File(file) if file.grant.is_some() => Ok(file),
        Handle::File(_)
        | Handle::Directory { .. }
        | Handle::Virtual(_)
        | Handle::VirtualDirectory => Err(Error::Os {
            doing: "write to a handle that was opened for reading",
            source: nix::errno::Errno::EBADF.into(),
        }),
    }
}

fn signed(value: u64) -> Result<i64, Error> {
    i64::try_from(value).map_err(|_| Error::BadName)
}
