//! Directory entries as the kernel has them: getdents64(2) with its own offsets.

use nix::errno::Errno;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Bytes asked for in one call; glibc's own size for large directories.
const BUFFER_BYTES: usize = 32 * 1024;
/// `struct linux_dirent64` before the name: ino, off, reclen, type.
const HEADER_BYTES: usize = 19;

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub ino: u64,
    /// Where reading goes on after this entry; only the directory's file system knows what it means.
    pub offset: i64,
    /// DT_* of readdir(3); DT_UNKNOWN where the file system does not say.
    pub kind: u8,
    pub name: OsString,
}

/// Reads the entries that follow `offset`; empty at the end. The descriptor's position is changed.
pub fn getdents64(directory: BorrowedFd<'_>, offset: i64) -> io::Result<Vec<Entry>> {
    // SAFETY: lseek takes integers and touches no memory.
    Errno::result(unsafe { libc::lseek64(directory.as_raw_fd(), offset, libc::SEEK_SET) })?;
    let mut buffer = vec![0u8; BUFFER_BYTES];
    // SAFETY: the kernel writes at most `buffer.len()` bytes to a buffer of that size.
    let length = Errno::result(unsafe {
        libc::syscall(
            libc::SYS_getdents64,
            directory.as_raw_fd(),
            buffer.as_mut_ptr(),
            buffer.len(),
        )
    })? as usize;
    let mut entries = Vec::new();
    let mut rest = &buffer[..length];
    while rest.len() > HEADER_BYTES {
        let record = usize::from(u16::from_ne_bytes([rest[16], rest[17]]));
        let name = &rest[HEADER_BYTES..record];
        let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
        entries.push(Entry {
            ino: u64::from_ne_bytes(rest[..8].try_into().expect("eight bytes were sliced")),
            offset: i64::from_ne_bytes(rest[8..16].try_into().expect("eight bytes were sliced")),
            kind: rest[18],
            name: OsString::from_vec(OsStr::from_bytes(&name[..end]).as_bytes().to_vec()),
        });
        rest = &rest[record..];
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn entries_go_on_where_the_offset_says() {
        let directory = tempfile::tempdir().expect("temporary directory");
        for i in 0..500 {
            std::fs::write(directory.path().join(format!("file-{i}")), "").expect("write");
        }
        let file = std::fs::File::open(directory.path()).expect("open");
        let mut seen = std::collections::BTreeSet::new();
        let mut offset = 0;
        loop {
            let entries = getdents64(file.as_fd(), offset).expect("getdents64");
            // Only half of what came is used, as a reply that is full would.
            let Some(last) = entries.get(entries.len() / 2) else { break };
            offset = last.offset;
            for entry in &entries[..=entries.len() / 2] {
                assert!(seen.insert(entry.name.clone()), "{:?} came twice", entry.name);
            }
        }
        assert_eq!(seen.len(), 502);
    }
}
