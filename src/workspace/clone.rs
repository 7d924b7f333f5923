//! Detached, private clones of the host paths that a client opened.

use super::Error;
use crate::sys::mount::{MountAttr, detach};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fstat};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Clones the mounts below what `opened` refers to, with these attributes on every one of them. `what` names it in errors.
///
/// Private: a file system that the host mounts below the source later does not appear in the clone.
pub fn clone_opened(what: &str, opened: &OwnedFd, attributes: MountAttr) -> Result<OwnedFd, Error> {
    let foreign = Errno::EINVAL as i32;
    let cloned = detach(opened.as_fd(), attributes).or_else(|error| {
        if error.raw_os_error() != Some(foreign) {
            return Err(error);
        }
        clone_by_path(opened, attributes).unwrap_or(Err(error))
    });
    cloned.map_err(|source| {
        if source.raw_os_error() == Some(foreign) {
            return Error::Invalid {
                message: format!(
                    "{what} failed: the path belongs to another mount namespace than the daemon's; run the client where the daemon runs, or without a daemon; a daemon that was started before the file system was mounted may have to be started anew"
                ),
            };
        }
        Error::Io { doing: format!("clone the mounts for {what}"), source }
    })
}

/// The same file or directory in this process's own mount namespace, for a daemon that an ordinary user runs in a
/// namespace of its own. Only there: what the user could reach by this path it can reach by the descriptor, while root
/// could be led past a read-only mount of the client's. `None` where it does not apply.
fn clone_by_path(opened: &OwnedFd, attributes: MountAttr) -> Option<io::Result<OwnedFd>> {
    if nix::unistd::geteuid().is_root() {
        return None;
    }
    let path = std::fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd())).ok()?;
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let found = nix::fcntl::open(&path, flags, Mode::empty()).ok()?;
    let (theirs, ours) = (fstat(opened).ok()?, fstat(&found).ok()?);
    if (theirs.st_dev, theirs.st_ino) != (ours.st_dev, ours.st_ino) {
        return None;
    }
    Some(detach(found.as_fd(), attributes))
}
