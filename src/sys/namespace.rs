//! In which pid namespaces a process lives (namespaces(7), ioctl_nsfs(2)).

use nix::errno::Errno;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

/// How deep pid namespaces may be nested (linux/pid_namespace.h, MAX_PID_NS_LEVEL).
const LEVELS_MAX: usize = 32;

/// `_IO(0xb7, 0x2)` of linux/nsfs.h.
const NS_GET_PARENT: libc::c_ulong = 0xb702;

/// Device and inode of the pid namespace that `pid` is in.
pub fn pid_namespace_of(pid: u32) -> io::Result<(u64, u64)> {
    let metadata = std::fs::metadata(format!("/proc/{pid}/ns/pid"))?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Device and inode of each pid namespace that `pid` is in, the innermost first, as far up as this process may look.
pub fn pid_namespaces_of(pid: u32) -> io::Result<Vec<(u64, u64)>> {
    let mut namespace = File::open(format!("/proc/{pid}/ns/pid"))?;
    let mut found = Vec::new();
    while found.len() < LEVELS_MAX {
        let metadata = namespace.metadata()?;
        found.push((metadata.dev(), metadata.ino()));
        // SAFETY: the request takes no argument and touches no memory.
        let parent = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_PARENT as _) };
        match Errno::result(parent) {
            // SAFETY: the call succeeded, so the number is a new descriptor that nobody else owns.
            Ok(number) => namespace = File::from(unsafe { OwnedFd::from_raw_fd(number) }),
            // The parent is outside of this process's own namespace: the end of what may be seen.
            Err(Errno::EPERM) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_in_its_own_namespace() {
        let own = std::fs::metadata("/proc/self/ns/pid").expect("own namespace");
        let found = pid_namespaces_of(std::process::id()).expect("own process");
        assert_eq!(found.first(), Some(&(own.dev(), own.ino())));
        assert_eq!(pid_namespace_of(std::process::id()).ok().as_ref(), found.first());
    }
}
