//! The two tiers of the local store: where a content is, and how it gets from one to the other or goes for good.
//!
//! A move is a link first and an unlink second, so that a content that is wanted has a name at every moment; a crash in
//! between leaves it in both tiers, and the catalog still has the reason to look again.
//!
//! **A content goes although batches of any process may be about to name it.** A batch that meets a content in place touches it
//! and then looks again whether it is there ([`Tiers::meet`]). Who removes a content moves it aside first and then looks
//! at its time. Were both to go on, the touch would have come before the move, and the look at the time after it, so that the
//! time is fresh and the content is put back. A fresh content stays for [`YOUTH`], which is far longer than a batch
//! takes from meeting a content to its row.
//!
//! Locking: placing holds flock(2) on a file of the store, so that of two processes that place the same content the
//! second sees what the first has done. Reading and writing contents take no lock.

use super::local::{directory_of, name_of};
use crate::model::digest::Digest;
use crate::storage::{Placed, Wanted};
use nix::fcntl::{AT_FDCWD, Flock, FlockArg};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// From meeting a content to its row a batch takes a sync and a transaction: milliseconds, and on a disk that fails at
/// most some tries of seconds, each of which meets the content anew. Chosen, not measured.
const YOUTH: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(super) struct Tiers {
    root: PathBuf,
    pub archive: PathBuf,
    pub damaged: PathBuf,
    pub youth: Duration,
}

impl Tiers {
    pub fn new(root: &Path, archive: PathBuf) -> Self {
        Self { root: root.to_owned(), archive, damaged: root.join("damaged"), youth: YOUTH }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a content is while it is being removed.
    fn aside(&self, digest: &Digest) -> PathBuf {
        self.root.join("tmp").join(format!("aside-{}", digest.hex()))
    }

    /// Nothing is placed by anybody else until the lock is dropped.
    pub fn lock(&self) -> io::Result<Flock<File>> {
        let path = self.root.join("tmp").join("placing.lock");
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
    }

    pub fn open(&self, digest: &Digest) -> io::Result<File> {
        let main = name_of(&self.root, digest);
        // The last look is for a content that came back while the other places were looked at.
        let places = [main.clone(), name_of(&self.archive, digest), self.aside(digest), main];
        let mut missing = io::Error::from(io::ErrorKind::NotFound);
        for place in places {
            match File::open(place) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => missing = error,
                opened => return opened,
            }
        }
        Err(missing)
    }

    /// Whether the content is in place, and will be for as long as its row may take to come.
    pub fn meet(&self, digest: &Digest, size: u64) -> bool {
        let name = name_of(&self.root, digest);
        // A file of another size under this name was damaged from outside; it is replaced.
        let whole = || {
            fs::symlink_metadata(&name).is_ok_and(|found| found.is_file() && found.len() == size)
        };
        let touched = || {
            let (now, flags) = (TimeSpec::UTIME_NOW, UtimensatFlags::NoFollowSymlink);
            utimensat(AT_FDCWD, &name, &now, &now, flags).is_ok()
        };
        whole() && touched() && whole()
    }

    /// Puts a content where it is wanted; under [`lock`](Self::lock).
    pub fn place(&self, digest: &Digest, wanted: Wanted) -> io::Result<Placed> {
        let (main, archive) = (name_of(&self.root, digest), name_of(&self.archive, digest));
        self.finish_removal(digest, &main)?;
        if wanted.main && !main.exists() && archive.exists() {
            link(&archive, &main, &directory_of(&self.root, digest))?;
        }
        if wanted.archive && !archive.exists() && main.exists() {
            link(&main, &archive, &directory_of(&self.archive, digest))?;
        }
        // What may come back stays wherever it is.
        let elsewhere = |other: &Path| !wanted.undo || other.exists();
        if !wanted.archive && archive.exists() && elsewhere(&main) {
            remove(&archive)?;
        }
        if !wanted.main && main.exists() && elsewhere(&archive) {
            return self.remove_main(digest, &main);
        }
        Ok(Placed::Done)
    }

    /// What a process that died had moved aside goes back, to be decided anew.
    fn finish_removal(&self, digest: &Digest, main: &Path) -> io::Result<()> {
        let aside = self.aside(digest);
        if aside.exists() { put_back(&aside, main) } else { Ok(()) }
    }

    fn remove_main(&self, digest: &Digest, main: &Path) -> io::Result<Placed> {
        if self.is_young(main)? {
            return Ok(Placed::Young);
        }
        let aside = self.aside(digest);
        fs::rename(main, &aside)?;
        if self.is_young(&aside)? {
            put_back(&aside, main)?;
            return Ok(Placed::Young);
        }
        remove(&aside)?;
        Ok(Placed::Done)
    }

    /// A time in the future, by a clock that was set back, is young too.
    pub fn is_young(&self, path: &Path) -> io::Result<bool> {
        let touched = fs::symlink_metadata(path)?.modified()?;
        Ok(SystemTime::now().duration_since(touched).map_or(true, |age| age < self.youth))
    }
}

/// Never over a content that came meanwhile, whose time is younger.
fn put_back(aside: &Path, main: &Path) -> io::Result<()> {
    match fs::hard_link(aside, main) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => remove(aside),
    }
}

/// Gives a content a second name that lasts; across file systems, a copy.
fn link(from: &Path, to: &Path, directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    match fs::hard_link(from, to) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => copy(from, to)?,
        linked => linked?,
    }
    File::open(directory)?.sync_all()?;
    directory.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

/// The name never stands for half a content. One half-written by a process that died is written anew, under the lock.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let partial = to.with_extension("part");
    remove(&partial)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(&partial)?;
    io::copy(&mut File::open(from)?, &mut file)?;
    file.sync_all()?;
    fs::rename(partial, to)
}

pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
