//! openat2(2): opening beneath a directory that is already held open.
//!
//! The kernel itself refuses to leave the directory or to follow a link, so that a path which a sandboxed program
//! rearranges at the same moment cannot lead anywhere else.

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// openat2(2) answers EAGAIN when something above the path was renamed meanwhile and it could not make sure of the
/// result. Chosen, not measured: a caller that meets this many in a row is being attacked and gets the error.
const RACES_MAX: usize = 16;

/// Opens `path` beneath `directory`, through no symbolic link and no magic link. Never creates.
pub fn open_beneath(directory: impl AsFd, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(
        ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_MAGICLINKS,
    );
    let mut last = Errno::EAGAIN;
    for _ in 0..RACES_MAX {
        match nix::fcntl::openat2(directory.as_fd(), path, how) {
            Ok(file) => return Ok(file),
            Err(error @ (Errno::EAGAIN | Errno::EINTR)) => last = error,
            Err(error) => return Err(error.into()),
        }
    }
    Err(last.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    #[test]
    fn links_and_climbing_are_refused() {
        let directory = tempfile::tempdir().expect("temporary directory");
        fs::write(directory.path().join("plain"), "x").expect("write");
        std::os::unix::fs::symlink("plain", directory.path().join("link")).expect("symlink");
        let held = File::open(directory.path()).expect("open directory");
        let open = |path: &str| open_beneath(&held, Path::new(path), OFlag::O_RDONLY);
        assert!(open("plain").is_ok());
        let raw = |path: &str| open(path).expect_err("refused").raw_os_error();
        assert_eq!(raw("link"), Some(Errno::ELOOP as i32));
        assert_eq!(raw("../x"), Some(Errno::EXDEV as i32));
        assert_eq!(raw("/etc/passwd"), Some(Errno::EXDEV as i32));
    }
}
