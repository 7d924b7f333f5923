//! What the file system tells the world about writes and reads, without knowing what an artifact is.
//!
//! This is the one inversion of the architecture: `vfs` defines these traits, `artifact` implements [`WriteObserver`],
//! `workspace` plugs them together and hands the registrar the [`FileSource`] of the same file system.
//!
//! Every call of [`WriteObserver`] is made on a thread that serves the kernel: it must not wait for the network, a
//! database or this file system itself. An append to a local file is allowed.

use super::attributes::Time;
use crate::model::id::{MountName, RunId};
use crate::model::path::VirtualPath;
use std::fs::File;
use std::io;

/// A file of a workspace: the number of its node. It means the same file for as long as the observer follows it, since the
/// node is held until then; afterwards the number may be given to another file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileKey(pub u64);

/// A name of a file: the mount point, and the path below it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Location {
    pub mount: MountName,
    pub path: VirtualPath,
}

/// Who asked for the write, as the kernel said it. Never a guess: what is not known is `None` or 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writer {
    /// The run in whose pid namespace the writer lives; `None` for a process outside every sandbox.
    pub run: Option<RunId>,
    /// Process id in the daemon's pid namespace; 0 when it has none there (fuse: `fuse_req_init_context`).
    pub pid: u32,
    pub uid: u32,
    /// The arguments that the process shows, separated by NUL and cut to a bound; see [`process`](super::process).
    pub command: Option<Vec<u8>>,
}

/// Whether the observer follows the file since this call or did so before.
///
/// On `Began` the file system pins the file, so that [`FileSource`] can answer for it even when the kernel forgets it,
/// until [`FileSource::settled`] is called once for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Tracking {
    Began,
    Continues,
    /// The observer does not follow this file (ignored by rule, mount without artifacts).
    Ignored,
}

/// What a file was like when it was opened for reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReadStamp {
    pub device: u64,
    pub inode: u64,
    pub size: u64,
    pub modified: Time,
    pub changed: Time,
}

/// An open for reading that is answered at this moment. It is looked at more closely only where it is news.
pub trait Opening {
    /// `None` where the file has no name any more.
    fn location(&self) -> Option<Location>;

    /// Pins the file as [`Tracking::Began`] does, until it is settled. Takes no lock and does no I/O.
    fn pin(&self);
}

/// Hears of every write to a read-write mount point, and of what runs open for reading.
pub trait WriteObserver: Send + Sync {
    /// A file is about to be opened for writing or truncated, or was just created: it exists. Called **before** the kernel
    /// is answered; when this fails, so does the open: a write that could not be noted must not happen.
    fn dirtied(&self, file: FileKey, at: &Location, writer: Writer) -> io::Result<Tracking>;

    /// A descriptor of a writable handle was closed (FLUSH, for which close(2) waits). [`closed`](Self::closed) follows, after
    /// close(2) has returned, unless a duplicate or a memory map keeps the handle, or another handle the file.
    fn closing(&self, file: FileKey) {
        // For who does not have to tell the two apart.
        let _ = file;
    }

    /// The last writable handle was closed. `changed` is false when size, mtime and ctime are those of the first open.
    fn closed(&self, file: FileKey, changed: bool);

    /// A regular file has the name `to` since now (rename or link). `from` is `None` for a link. What was at `to` before is gone.
    /// `open_for_writing` tells that a writable handle exists, so that [`closed`](Self::closed) will follow.
    fn named(
        &self,
        file: FileKey,
        from: Option<&Location>,
        to: &Location,
        writer: Writer,
        open_for_writing: bool,
    ) -> Tracking;

    /// A directory was renamed; everything below it moved along.
    fn directory_moved(&self, from: &Location, to: &Location, writer: Writer);

    /// Whether [`read_opened`](Self::read_opened) is to be called at all; asked once.
    fn hears_reads(&self) -> bool {
        false
    }

    /// A process of `run` is about to have the file open for reading, in whichever mount point. Called for each such open, before
    /// the kernel is answered, so that it and [`dirtied`](Self::dirtied) come in the order in which the process opened.
    /// `stamp` is `None` where the file could not be looked at. Must do no I/O.
    fn read_opened(
        &self,
        _file: FileKey,
        _stamp: Option<ReadStamp>,
        _run: RunId,
        _opening: &dyn Opening,
    ) {
        // Who asks what was written need not care what was read.
    }

    /// The name `at` was removed. The file itself may live on under other names or in open handles.
    fn removed(&self, at: &Location);
}

/// Reads files that the observer follows, from outside the kernel's requests.
pub trait FileSource: Send + Sync {
    /// The present names of the file, as far as they are known, the oldest first; none when it has none left.
    fn locations(&self, file: FileKey) -> Vec<Location>;

    /// Opens the file itself for reading, beneath its mount point and following no link, whatever its name is, with the
    /// permissions of the workspace's owner: EACCES where the owner may not read it.
    fn open(&self, file: FileKey) -> io::Result<File>;

    /// The observer no longer follows the file; balances one [`Tracking::Began`].
    fn settled(&self, file: FileKey);
}
