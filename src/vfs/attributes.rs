//! Attributes of a node, whether a host file stands behind it or not.

use nix::sys::stat::FileStat;

/// What stat(2) tells of a node. `node` takes the place of the inode number, so that (device, inode) is unique in the
/// workspace even where its mount points lie on several file systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    pub node: u64,
    pub size: u64,
    /// In units of 512 bytes (stat(2)).
    pub blocks: u64,
    pub atime: Time,
    pub mtime: Time,
    pub ctime: Time,
    /// Type and permission bits.
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub blksize: u32,
}

/// Seconds since the epoch, possibly negative, and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time {
    pub seconds: i64,
    pub nanoseconds: i64,
}

impl Time {
    pub fn now() -> Self {
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self {
            seconds: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: i64::from(now.subsec_nanos()),
        }
    }
}

impl Attributes {
    /// A node of which nothing but its number is known.
    pub fn unknown(node: u64) -> Self {
        let never = Time::default();
        Self {
            node,
            size: 0,
            blocks: 0,
            atime: never,
            mtime: never,
            ctime: never,
            mode: 0,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
        }
    }

    pub fn of_host(node: u64, stat: &FileStat) -> Self {
        Self {
            node,
            size: stat.st_size.max(0) as u64,
            blocks: stat.st_blocks.max(0) as u64,
            atime: Time { seconds: stat.st_atime, nanoseconds: stat.st_atime_nsec },
            mtime: Time { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec },
            ctime: Time { seconds: stat.st_ctime, nanoseconds: stat.st_ctime_nsec },
            mode: stat.st_mode,
            nlink: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
            uid: stat.st_uid,
            gid: stat.st_gid,
            rdev: u32::try_from(stat.st_rdev).unwrap_or(0),
            blksize: u32::try_from(stat.st_blksize).unwrap_or(4096),
        }
    }
}

/// The part of the attributes that tells whether a file's content may have changed between two looks.
///
/// ctime changes with every write, and since Linux 6.13 finely enough that a look in between is told apart
/// (multigrain timestamps); it cannot be set back by the file's owner as mtime can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    size: i64,
    mtime: Time,
    ctime: Time,
}

impl Stamp {
    pub fn of(stat: &FileStat) -> Self {
        Self {
            size: stat.st_size,
            mtime: Time { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec },
            ctime: Time { seconds: stat.st_ctime, nanoseconds: stat.st_ctime_nsec },
        }
    }
}
