//! Between our attributes, errors and times and those of fuser.

use crate::sys::file::TimeChange;
use crate::vfs::attributes::{Attributes, Time};
use crate::vfs::backing::Caller;
use crate::vfs::error::Error;
use fuser::{FileAttr, FileType, INodeNo, Request, TimeOrNow};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid() }
}

/// The errno for the caller. What is no everyday answer is logged here, once, with its cause.
pub fn errno(error: &Error) -> fuser::Errno {
    let errno = error.to_errno();
    match error {
        Error::Journal(source) => {
            tracing::error!(%source, "a write was refused because it could not be noted in the journal");
        }
        Error::Os { doing, source } if errno == nix::errno::Errno::EIO => {
            tracing::warn!(doing, %source, "a file operation failed on the host");
        }
        Error::Unknown(node) => tracing::debug!(node, "a stale node or handle was used"),
        Error::ReadOnly(_)
        | Error::NotFound
        | Error::BadName
        | Error::CrossMount
        | Error::Provided
        | Error::Refused(_)
        | Error::NotSupported(_)
        | Error::NotDirectory
        | Error::NoAttribute
        | Error::Os { .. } => {}
    }
    fuser::Errno::from_i32(errno as i32)
}

fn system_time(time: Time) -> SystemTime {
    let nanoseconds = Duration::from_nanos(time.nanoseconds.max(0) as u64);
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let seconds = if time.seconds >= 0 {
        UNIX_EPOCH.checked_add(whole)
    } else {
        UNIX_EPOCH.checked_sub(whole)
    };
    seconds.and_then(|time| time.checked_add(nanoseconds)).unwrap_or(UNIX_EPOCH)
}

pub fn time_change(time: TimeOrNow) -> TimeChange {
    let time = match time {
        TimeOrNow::Now => return TimeChange::Now,
        TimeOrNow::SpecificTime(time) => time,
    };
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => TimeChange::To {
            seconds: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: i64::from(after.subsec_nanos()),
        },
        Err(before) => {
            // fuser takes the nanoseconds away from a second before the epoch, where the kernel counts them forward
            // from it (fuser 0.18.0, time.rs, system_time_from_time). Here they are the ones that the kernel sent.
            let before = before.duration();
            TimeChange::To {
                seconds: 0i64.checked_sub_unsigned(before.as_secs()).unwrap_or(i64::MIN),
                nanoseconds: i64::from(before.subsec_nanos()),
            }
        }
    }
}

pub fn kind_of_mode(mode: u32) -> FileType {
    use nix::sys::stat::SFlag;
    let kind = SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits());
    if kind == SFlag::S_IFDIR {
        FileType::Directory
    } else if kind == SFlag::S_IFLNK {
        FileType::Symlink
    } else if kind == SFlag::S_IFIFO {
        FileType::NamedPipe
    } else if kind == SFlag::S_IFSOCK {
        FileType::Socket
    } else if kind == SFlag::S_IFCHR {
        FileType::CharDevice
    } else if kind == SFlag::S_IFBLK {
        FileType::BlockDevice
    } else {
        FileType::RegularFile
    }
}

/// DT_* of readdir(3) to a type; the values are the S_IFMT bits shifted (linux/fs_types.h).
pub fn kind_of_entry(kind: u8) -> FileType {
    kind_of_mode(u32::from(kind) << 12)
}

pub fn attributes(attributes: &Attributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(attributes.node),
        size: attributes.size,
        blocks: attributes.blocks,
        atime: system_time(attributes.atime),
        mtime: system_time(attributes.mtime),
        ctime: system_time(attributes.ctime),
        crtime: UNIX_EPOCH,
        kind: kind_of_mode(attributes.mode),
        perm: (attributes.mode & 0o7777) as u16,
        nlink: attributes.nlink,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: attributes.rdev,
        blksize: attributes.blksize,
        flags: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As fuser makes it from what the kernel sent.
    fn decoded(seconds: i64, nanoseconds: u32) -> SystemTime {
        let distance = Duration::new(seconds.unsigned_abs(), nanoseconds);
        if seconds >= 0 { UNIX_EPOCH + distance } else { UNIX_EPOCH - distance }
    }

    #[test]
    fn times_before_the_epoch_arrive_as_they_were_sent() {
        for (seconds, nanoseconds) in [(0, 0), (5, 7), (-1, 0), (-5, 250_000_000), (-5, 1)] {
            let change = time_change(TimeOrNow::SpecificTime(decoded(seconds, nanoseconds)));
            let nanoseconds = i64::from(nanoseconds);
            assert_eq!(change, TimeChange::To { seconds, nanoseconds });
        }
    }

    #[test]
    fn times_before_the_epoch_are_told_as_they_are() {
        let time = system_time(Time { seconds: -5, nanoseconds: 250_000_000 });
        assert_eq!(time, UNIX_EPOCH - Duration::from_millis(4750));
    }
}
