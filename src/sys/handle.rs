//! File handles: names for inodes that need no open descriptor (open_by_handle_at(2)).

use nix::errno::Errno;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// The kernel's bound for a handle (linux/exportfs.h, MAX_HANDLE_SZ).
const HANDLE_BYTES_MAX: usize = 128;

/// How often a handle is tried that the kernel has no memory for. Seen once in many thousand opens, while others renamed and removed the
/// same names and gigabytes were free (Linux 6.18, ext4); why is not known, and the next try succeeded ever since.
const ATTEMPTS: usize = 3;

/// A file's handle; it contains the inode's generation, so that a reused inode number has another handle.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileHandle {
    kind: i32,
    bytes: Box<[u8]>,
}

#[repr(C)]
struct RawHandle {
    handle_bytes: u32,
    handle_type: i32,
    f_handle: [u8; HANDLE_BYTES_MAX],
}

/// The handle of what `file` refers to, or `None` where the file system has none.
pub fn name_to_handle_at(file: BorrowedFd<'_>) -> io::Result<Option<FileHandle>> {
    let mut raw = RawHandle {
        handle_bytes: HANDLE_BYTES_MAX as u32,
        handle_type: 0,
        f_handle: [0; HANDLE_BYTES_MAX],
    };
    let mut mount_id: libc::c_int = 0;
    // SAFETY: `raw` has the layout of struct file_handle followed by as many bytes as `handle_bytes` announces; the
    // path is a NUL-terminated literal; both out-pointers live across the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            file.as_raw_fd(),
            c"".as_ptr(),
            &raw mut raw,
            &raw mut mount_id,
            libc::AT_EMPTY_PATH,
        )
    };
    match Errno::result(result) {
        Ok(_) => {
            let length = (raw.handle_bytes as usize).min(HANDLE_BYTES_MAX);
            Ok(Some(FileHandle { kind: raw.handle_type, bytes: raw.f_handle[..length].into() }))
        }
        Err(Errno::EOPNOTSUPP | Errno::EOVERFLOW | Errno::ENOSYS) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Opens the inode with `O_PATH` below the mount of `mount`, which must be a real (not `O_PATH`) descriptor.
/// Needs CAP_DAC_READ_SEARCH; ESTALE when the inode is gone.
pub fn open_by_handle_at(mount: BorrowedFd<'_>, handle: &FileHandle) -> io::Result<OwnedFd> {
    let mut raw = RawHandle {
        handle_bytes: handle.bytes.len() as u32,
        handle_type: handle.kind,
        f_handle: [0; HANDLE_BYTES_MAX],
    };
    raw.f_handle[..handle.bytes.len()].copy_from_slice(&handle.bytes);
    let mut result = open_raw(mount, &mut raw);
    for _ in 1..ATTEMPTS {
        if result != Err(Errno::ENOMEM) {
            break;
        }
        result = open_raw(mount, &mut raw);
    }
    // SAFETY: the call succeeded, so the number is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(result? as i32) })
}

fn open_raw(mount: BorrowedFd<'_>, raw: &mut RawHandle) -> Result<i64, Errno> {
    // SAFETY: `raw` has the layout of struct file_handle and lives across the call, which only reads it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_raw_fd(),
            std::ptr::from_mut(raw),
            libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC,
        )
    };
    Errno::result(result)
}
