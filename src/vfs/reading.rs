//! Telling the observer what runs open for reading.
//!
//! This is part of every open: it costs the look-up of the run, which is remembered with the thread, and one fstat(2) of
//! the file that was just opened. What a process outside every run reads is nobody's input and is not told of.

use super::Vfs;
use super::attributes::Time;
use super::backing::{self, Caller};
use super::inode::Inode;
use super::observer::{FileKey, Location, Opening, ReadStamp};
use nix::sys::stat::FileStat;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

struct OpeningHere<'a> {
    vfs: &'a Vfs,
    inode: &'a Arc<Inode>,
}

impl Opening for OpeningHere<'_> {
    fn location(&self) -> Option<Location> {
        self.vfs.location_of(self.inode)
    }

    fn pin(&self) {
        self.vfs.inodes.hold(self.inode);
    }
}

fn stamp(stat: &FileStat) -> ReadStamp {
    ReadStamp {
        device: stat.st_dev,
        inode: stat.st_ino,
        size: stat.st_size.max(0) as u64,
        modified: Time { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec },
        changed: Time { seconds: stat.st_ctime, nanoseconds: stat.st_ctime_nsec },
    }
}

impl Vfs {
    pub(super) fn tell_read(
        &self,
        caller: &Caller,
        inode: &Arc<Inode>,
        descriptor: BorrowedFd<'_>,
    ) {
        if !self.hears_reads {
            return;
        }
        let Some(run) = self.askers.run_of(caller.pid) else { return };
        // A file that is removed and read through what is left of it has no place to name it by, and is told of all the same.
        let looked = backing::stat(descriptor).ok().as_ref().map(stamp);
        self.observer.read_opened(
            FileKey(inode.id),
            looked,
            run,
            &OpeningHere { vfs: self, inode },
        );
    }
}
