//! What the host would lend at this moment, to tell whether a root file system that was begun earlier is what one begun now would be.
//!
//! Looked at are names: what is at each, and which mounts lie below. What changes inside of a file or directory that was lent is
//! seen through the copy as well, and is no difference.

use super::dev::DEVICES;
use super::host;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{FileStat, SFlag, lstat, stat};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::path::Path;

/// The table of this process's mounts.
const TABLE: &str = "/proc/self/mountinfo";

/// What was seen; two are equal when the same would be lent.
#[derive(Debug, PartialEq, Eq)]
pub struct Survey {
    names: Vec<Option<Seen>>,
    /// Number of the mounts' state, counted by the surveyor.
    mounts: u64,
}

/// Device and number of an inode.
type Identity = (u64, u64);

/// What is at a name.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    identity: Identity,
    /// Of a link, since its number is free for another once it is gone, and of `/etc`. A spare holds what else it was lent, so that those
    /// numbers stay taken.
    changed: Option<(i64, i64)>,
    /// What a link leads to.
    target: Option<Identity>,
}

/// Looks.
#[derive(Debug)]
pub struct Surveyor {
    table: File,
    /// Lines of the table about mounts below what is lent.
    lines: Vec<Vec<u8>>,
    state: u64,
}

impl Surveyor {
    pub fn new() -> io::Result<Self> {
        let mut surveyor = Self { table: File::open(TABLE)?, lines: Vec::new(), state: 0 };
        surveyor.read_table()?;
        Ok(surveyor)
    }

    pub fn look(&mut self) -> io::Result<Survey> {
        // The kernel tells a reader of the table that it has changed, once (proc_pid_mounts(5)); it is long on some machines.
        let mut waiting = [PollFd::new(self.table.as_fd(), PollFlags::POLLPRI)];
        if poll(&mut waiting, PollTimeout::ZERO)? > 0 {
            self.read_table()?;
        }
        // A directory's time tells that a name in it has come, gone or changed: some of `/etc` are lent by how they begin.
        let etc = stat("/etc")?;
        let etc = Seen {
            identity: identity(&etc),
            changed: Some((etc.st_mtime, etc.st_mtime_nsec)),
            target: None,
        };
        let names = host::names().map(|path| see(&path));
        let devices = DEVICES.into_iter().map(|path| see(Path::new(path)));
        let names =
            [Ok(Some(etc))].into_iter().chain(names).chain(devices).collect::<io::Result<_>>()?;
        Ok(Survey { names, mounts: self.state })
    }

    fn read_table(&mut self) -> io::Result<()> {
        let mut text = Vec::new();
        self.table.rewind()?;
        self.table.read_to_end(&mut text)?;
        let lines = text.split(|byte| *byte == b'\n').filter(|line| {
            // A name with a space is written with an escape, and none of ours has one.
            let place = line.split(|byte| *byte == b' ').nth(4);
            place.is_some_and(host::lends_from)
        });
        let lines: Vec<Vec<u8>> = lines.map(<[u8]>::to_vec).collect();
        if lines != self.lines {
            self.lines = lines;
            self.state += 1;
        }
        Ok(())
    }
}

fn see(path: &Path) -> io::Result<Option<Seen>> {
    let found = match lstat(path) {
        Ok(found) => found,
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let is_link = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFLNK;
    Ok(Some(Seen {
        identity: identity(&found),
        changed: is_link.then_some((found.st_ctime, found.st_ctime_nsec)),
        target: if is_link { stat(path).ok().map(|target| identity(&target)) } else { None },
    }))
}

fn identity(found: &FileStat) -> Identity {
    (found.st_dev, found.st_ino)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_differs_while_nothing_changes() {
        let mut surveyor = Surveyor::new().expect("proc");
        let first = surveyor.look().expect("looks");
        assert!(first.names.iter().flatten().count() > 5, "{first:?}");
        assert_eq!(surveyor.look().expect("looks"), first);
    }

    #[test]
    fn what_takes_the_place_of_another_is_seen() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (path, other) = (directory.path().join("a"), directory.path().join("b"));
        assert_eq!(see(&path).expect("looks"), None);
        std::fs::write(&path, "1").expect("write");
        let file = see(&path).expect("looks");
        // Held, as a sandbox holds what it was lent.
        let _held = File::open(&path).expect("open");
        std::fs::write(&path, "in place").expect("write");
        assert_eq!(see(&path).expect("looks"), file);
        std::fs::write(&other, "2").expect("write");
        std::fs::rename(&other, &path).expect("rename");
        assert_ne!(see(&path).expect("looks"), file);
        std::os::unix::fs::symlink("a", &other).expect("link");
        let link = see(&other).expect("looks");
        std::fs::write(directory.path().join("c"), "3").expect("write");
        std::fs::rename(directory.path().join("c"), &path).expect("rename");
        assert_ne!(see(&other).expect("looks"), link, "it leads to another file");
    }
}
