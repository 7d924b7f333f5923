//! Calls on open files that take a descriptor instead of a path, where nix has none that does.

use nix::errno::Errno;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

fn c_string(name: &OsStr) -> io::Result<CString> {
    CString::new(name.as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// The magic link to a descriptor of this thread's process (proc_pid_fd(5)); following it reaches the very inode.
fn magic_link(file: BorrowedFd<'_>) -> CString {
    CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("digits hold no NUL")
}

/// Opens what `file` (which may be `O_PATH`) refers to once more, with other flags. The caller has made sure of its type:
/// opening a FIFO or a device would block or act.
pub fn reopen(file: BorrowedFd<'_>, flags: nix::fcntl::OFlag) -> io::Result<OwnedFd> {
    let flags = flags | nix::fcntl::OFlag::O_CLOEXEC;
    Ok(nix::fcntl::open(magic_link(file).as_c_str(), flags, nix::sys::stat::Mode::empty())?)
}

fn check(result: isize) -> io::Result<usize> {
    Errno::result(result).map(|n| n as usize).map_err(io::Error::from)
}

/// Changes the times of what `file` (which may be `O_PATH`) refers to, a symbolic link included (utimensat(2), AT_EMPTY_PATH).
pub fn set_times(
    file: BorrowedFd<'_>,
    access: TimeChange,
    modification: TimeChange,
) -> io::Result<()> {
    let times: [libc::timespec; 2] = [access.into(), modification.into()];
    // SAFETY: the path is a NUL-terminated literal and `times` has the two elements that the call reads.
    let result = unsafe {
        libc::syscall(
            libc::SYS_utimensat,
            file.as_raw_fd(),
            c"".as_ptr(),
            times.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// A time for [`set_times`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeChange {
    Keep,
    Now,
    To { seconds: i64, nanoseconds: i64 },
}

impl From<TimeChange> for libc::timespec {
    fn from(change: TimeChange) -> Self {
        let (tv_sec, tv_nsec) = match change {
            TimeChange::Keep => (0, libc::UTIME_OMIT),
            TimeChange::Now => (0, libc::UTIME_NOW),
            TimeChange::To { seconds, nanoseconds } => (seconds, nanoseconds),
        };
        libc::timespec { tv_sec, tv_nsec }
    }
}

/// Reads an extended attribute; an empty buffer asks for the size (getxattr(2)).
pub fn getxattr(file: BorrowedFd<'_>, name: &OsStr, buffer: &mut [u8]) -> io::Result<usize> {
    let (path, name) = (magic_link(file), c_string(name)?);
    // SAFETY: both strings are NUL-terminated and the kernel writes at most `buffer.len()` bytes.
    check(unsafe {
        libc::getxattr(path.as_ptr(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len())
    })
}

/// Writes an extended attribute; `flags` are those of setxattr(2).
pub fn setxattr(file: BorrowedFd<'_>, name: &OsStr, value: &[u8], flags: i32) -> io::Result<()> {
    let (path, name) = (magic_link(file), c_string(name)?);
    // SAFETY: both strings are NUL-terminated and the kernel reads `value.len()` bytes of `value`.
    let result = unsafe {
        libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags)
    };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// Removes an extended attribute (removexattr(2)).
pub fn removexattr(file: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let (path, name) = (magic_link(file), c_string(name)?);
    // SAFETY: both strings are NUL-terminated.
    let result = unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// The names of all extended attributes, each ended by a NUL (listxattr(2)).
pub fn listxattr(file: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    /// The kernel's bound for the list (linux/limits.h, XATTR_LIST_MAX).
    const XATTR_LIST_MAX: usize = 65536;
    let path = magic_link(file);
    let mut buffer = vec![0u8; XATTR_LIST_MAX];
    // SAFETY: the path is NUL-terminated and the kernel writes at most `buffer.len()` bytes.
    let length =
        check(unsafe { libc::listxattr(path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) })?;
    buffer.truncate(length);
    Ok(buffer)
}

/// Creates a hard link to what `file` (which may be `O_PATH`) refers to (linkat(2) through the magic link).
pub fn link_to(file: BorrowedFd<'_>, directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let (path, name) = (magic_link(file), c_string(name)?);
    // SAFETY: both strings are NUL-terminated.
    let result = unsafe {
        libc::linkat(
            libc::AT_FDCWD,
            path.as_ptr(),
            directory.as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_FOLLOW,
        )
    };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// Renames with the flags of renameat2(2).
pub fn renameat2(
    from: BorrowedFd<'_>,
    from_name: &OsStr,
    to: BorrowedFd<'_>,
    to_name: &OsStr,
    flags: u32,
) -> io::Result<()> {
    let (from_name, to_name) = (c_string(from_name)?, c_string(to_name)?);
    // SAFETY: both strings are NUL-terminated.
    let result = unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            from.as_raw_fd(),
            from_name.as_ptr(),
            to.as_raw_fd(),
            to_name.as_ptr(),
            flags,
        )
    };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// Changes the mode of what `file` (which may be `O_PATH`) refers to.
pub fn chmod(file: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    let path: &CStr = &magic_link(file);
    // SAFETY: the path is NUL-terminated.
    let result = unsafe { libc::chmod(path.as_ptr(), mode) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// Copies between files in the kernel (copy_file_range(2)).
pub fn copy_file_range(
    from: BorrowedFd<'_>,
    from_offset: i64,
    to: BorrowedFd<'_>,
    to_offset: i64,
    length: usize,
) -> io::Result<usize> {
    let (mut from_offset, mut to_offset) = (from_offset, to_offset);
    // SAFETY: both offsets are local variables that live across the call.
    check(unsafe {
        libc::copy_file_range(
            from.as_raw_fd(),
            &raw mut from_offset,
            to.as_raw_fd(),
            &raw mut to_offset,
            length,
            0,
        )
    })
}

/// Writes at the end of the file, wherever it is by then (pwritev2(2), RWF_APPEND).
pub fn append(file: BorrowedFd<'_>, data: &[u8]) -> io::Result<usize> {
    let vector = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: `vector` is one element that describes `data`, which the kernel only reads.
    check(unsafe { libc::pwritev2(file.as_raw_fd(), &raw const vector, 1, 0, libc::RWF_APPEND) })
}

/// Moves to the next data or hole (lseek(2), SEEK_DATA and SEEK_HOLE).
pub fn seek(file: BorrowedFd<'_>, offset: i64, whence: i32) -> io::Result<i64> {
    // SAFETY: lseek takes integers and touches no memory.
    Errno::result(unsafe { libc::lseek64(file.as_raw_fd(), offset, whence) })
        .map_err(io::Error::from)
}

/// Reserves or punches space (fallocate(2)).
pub fn fallocate(file: BorrowedFd<'_>, mode: i32, offset: i64, length: i64) -> io::Result<()> {
    // SAFETY: fallocate takes integers and touches no memory.
    let result = unsafe { libc::fallocate64(file.as_raw_fd(), mode, offset, length) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// When an inode was made, in seconds and nanoseconds since the epoch; `None` where its file system does not know
/// (statx(2), STATX_BTIME).
pub fn birth(file: BorrowedFd<'_>) -> io::Result<Option<(i64, u32)>> {
    // SAFETY: all-zero bytes are a valid value of this plain C structure.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a NUL-terminated literal and `stat` lives across the call.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC,
            libc::STATX_BTIME,
            &raw mut stat,
        )
    };
    Errno::result(result)?;
    let known = stat.stx_mask & libc::STATX_BTIME != 0;
    Ok(known.then_some((stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec)))
}

/// The device numbers, major and minor, of the file system that `file` lies on, asked without a request to its server
/// (statx(2), AT_STATX_DONT_SYNC): a FUSE server can ask it of its own mount.
pub fn device(file: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    // SAFETY: all-zero bytes are a valid value of this plain C structure.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a NUL-terminated literal and `stat` lives across the call.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC,
            0,
            &raw mut stat,
        )
    };
    Errno::result(result)?;
    Ok((stat.stx_dev_major, stat.stx_dev_minor))
}

/// The minor number of a file system without a block device, as every FUSE mount of ours is: its major is 0.
pub fn device_minor(file: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(u64::from(device(file)?.1))
}
