//! Contents in a directory: `<root>/aa/<62 hexadecimal digits>`, mode 0400.
//!
//! A content is written to `<root>/tmp/<instance>-<number>`, made durable, renamed to its name, and the directory made
//! durable. A name therefore never stands for half a content, not even after a power cut. Nothing is ever written to
//! under its name; a content that is there already is not written again.
//!
//! Group commit: fsync(2) of each of 1,000 files of 4 KiB took 267 ms, one syncfs(2) before and one after the renames
//! took 66 ms with everything else (ext4 on a virtual disk, two cores). syncfs also waits for what other programs wrote
//! to the same file system, so that the store goes back to fsync while syncfs turns out to be the slower one.
//!
//! Since Linux 5.8 syncfs reports a failed write-back to each descriptor that was opened before the failure; a batch
//! opens its own before it writes anything.

use super::BlobError;
use super::placing::{Tiers, remove};
use crate::model::digest::Digest;
use crate::storage::{
    BlobBatch, BlobStore, BlobWriter, CatalogError, ContentCopy, PlaceError, Placed, StoreEntry,
    StorePart, Tier, Wanted,
};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Contents up to this size wait in memory until their digest is known, so that a known one is never written at all.
/// Chosen, not measured.
const MEMORY_BYTES_MAX: usize = 256 * 1024;

/// From this many contents on a batch considers syncfs. Measured: at 8 contents both cost the same order, 1 to 4 ms.
const SYNCFS_CONTENTS_MIN: usize = 8;

/// What one fsync costs at most when nothing else is written, as measured on the same disk (0.2 to 0.5 ms), doubled.
const FSYNC_MICROSECONDS: u64 = 1_000;

/// A content-addressed directory.
#[derive(Debug)]
pub struct LocalBlobs {
    root: PathBuf,
    tiers: Tiers,
    /// Prefix of this process's temporary names; recovery removes those of dead instances by it.
    instance: Uuid,
    temporaries: AtomicU64,
    /// How long syncfs took when it was last used, halved each time that it was passed over.
    syncfs_microseconds: AtomicU64,
    /// Directories of contents, by the first byte of their digests, whose own names are known to be durable. They never go.
    known: [AtomicBool; 256],
}

impl LocalBlobs {
    pub fn open(root: &Path, instance: Uuid) -> Result<Self, BlobError> {
        let open = || {
            DirBuilder::new().recursive(true).mode(0o700).create(root.join("tmp"))?;
            File::open(root)?.sync_all()
        };
        open().map_err(|source| BlobError::OpenStore { path: root.to_owned(), source })?;
        Ok(Self {
            root: root.to_owned(),
            tiers: Tiers::new(root, root.join("archive")),
            instance,
            temporaries: AtomicU64::new(0),
            syncfs_microseconds: AtomicU64::new(0),
            known: [const { AtomicBool::new(false) }; 256],
        })
    }

    /// Keeps archived contents in that directory, which may lie on another file system.
    pub fn with_archive(mut self, archive: PathBuf) -> Self {
        self.tiers.archive = archive;
        self
    }

    /// Keeps damaged copies in that directory.
    pub fn with_damaged(mut self, damaged: PathBuf) -> Self {
        self.tiers.damaged = damaged;
        self
    }

    /// How long a content that was taken or met is left alone. For tests that do not want to wait.
    pub fn with_youth(mut self, youth: Duration) -> Self {
        self.tiers.youth = youth;
        self
    }

    fn fail(&self, doing: &'static str) -> impl FnOnce(io::Error) -> BlobError + '_ {
        move |source| BlobError::Store { doing, path: self.root.clone(), source }
    }

    fn create_temporary(&self) -> Result<Temporary, BlobError> {
        let number = self.temporaries.fetch_add(1, Ordering::Relaxed);
        let path = self.root.join("tmp").join(format!("{}-{number}", self.instance));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o400)
            .open(&path)
            .map_err(self.fail("create a temporary file"))?;
        Ok(Temporary { file, path, renamed: false })
    }

    /// Whether syncfs is expected to be cheaper than one fsync per content.
    fn prefers_syncfs(&self, contents: usize) -> bool {
        let expected = self.syncfs_microseconds.load(Ordering::Relaxed);
        let prefers = contents >= SYNCFS_CONTENTS_MIN
            && expected <= (contents as u64).saturating_mul(FSYNC_MICROSECONDS);
        if !prefers {
            self.syncfs_microseconds.store(expected / 2, Ordering::Relaxed);
        }
        prefers
    }

    fn syncfs(&self, sentinel: &File) -> io::Result<()> {
        let before = Instant::now();
        nix::unistd::syncfs(sentinel)?;
        let took = u64::try_from(before.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.syncfs_microseconds.store(took, Ordering::Relaxed);
        Ok(())
    }
}

pub(super) fn directory_of(root: &Path, digest: &Digest) -> PathBuf {
    directory_at(root, digest.as_bytes()[0])
}

fn directory_at(root: &Path, first: u8) -> PathBuf {
    root.join(format!("{first:02x}"))
}

pub(super) fn name_of(root: &Path, digest: &Digest) -> PathBuf {
    let hex = digest.hex();
    root.join(&hex[..2]).join(&hex[2..])
}

impl BlobStore for LocalBlobs {
    fn begin(&self) -> Result<Box<dyn BlobBatch + '_>, BlobError> {
        let sentinel = File::open(&self.root).map_err(self.fail("open the directory"))?;
        Ok(Box::new(LocalBatch {
            store: self,
            sentinel,
            staged: Vec::new(),
            directories: BTreeSet::new(),
        }))
    }

    fn open(&self, digest: &Digest) -> Result<File, BlobError> {
        self.tiers.open(digest).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => BlobError::Missing { digest: *digest },
            _ => self.fail("open a content")(source),
        })
    }

    fn place(
        &self,
        digest: &Digest,
        wanted: &dyn Fn() -> Result<Wanted, CatalogError>,
    ) -> Result<Placed, PlaceError> {
        let _lock = self.tiers.lock().map_err(self.fail("lock the places of contents"))?;
        let wanted = wanted()?;
        Ok(self.tiers.place(digest, wanted).map_err(self.fail("place a content"))?)
    }

    fn copies(&self, digest: &Digest) -> Result<Vec<ContentCopy>, BlobError> {
        self.tiers.copies(digest).map_err(self.fail("open a content"))
    }

    fn survey(&self, part: StorePart, each: &mut dyn FnMut(StoreEntry)) -> Result<(), BlobError> {
        self.tiers.survey(part, each).map_err(self.fail("look at the names"))
    }

    fn set_aside(&self, digest: &Digest, tier: Tier) -> Result<PathBuf, BlobError> {
        let _lock = self.tiers.lock().map_err(self.fail("lock the places of contents"))?;
        self.tiers.set_aside(digest, tier).map_err(self.fail("set a damaged content aside"))
    }

    fn discard(&self, path: &Path) -> Result<(), BlobError> {
        remove(path).map_err(self.fail("remove what is half-written"))
    }

    fn forget_instance(&self, dead: Uuid) -> Result<(), BlobError> {
        let prefix = format!("{dead}-");
        let is_its = |name: &OsStr| name.to_str().is_some_and(|name| name.starts_with(&prefix));
        let forget = || {
            for entry in fs::read_dir(self.root.join("tmp"))? {
                let entry = entry?;
                if is_its(&entry.file_name()) {
                    remove(&entry.path())?;
                }
            }
            Ok(())
        };
        forget().map_err(self.fail("remove what a dead daemon left half-written"))
    }
}

/// A file that is removed again unless it got its final name.
struct Temporary {
    file: File,
    path: PathBuf,
    renamed: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            // What stays behind is removed by the recovery of this instance.
            let _ = fs::remove_file(&self.path);
        }
    }
}

struct LocalBatch<'a> {
    store: &'a LocalBlobs,
    /// The store's directory, opened before anything of the batch was written; syncfs reports failures to it.
    sentinel: File,
    staged: Vec<(Temporary, Digest)>,
    /// Directories that must be durable, by the first byte of digests: those of new names, and those of names that another
    /// process may just have made.
    directories: BTreeSet<u8>,
}

impl LocalBatch<'_> {
    fn rename(&mut self) -> Result<(), BlobError> {
        for (temporary, digest) in &mut self.staged {
            let name = name_of(&self.store.root, digest);
            let renamed = fs::rename(&temporary.path, &name).or_else(|error| {
                if error.kind() != io::ErrorKind::NotFound {
                    return Err(error);
                }
                let first = digest.as_bytes()[0];
                let made =
                    DirBuilder::new().mode(0o700).create(directory_at(&self.store.root, first));
                match made {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                    _ => {
                        // Also one that somebody had removed.
                        self.store.known[usize::from(first)].store(false, Ordering::Relaxed);
                        fs::rename(&temporary.path, &name)
                    }
                }
            });
            renamed.map_err(self.store.fail("name a content"))?;
            temporary.renamed = true;
        }
        Ok(())
    }
}

impl LocalBatch<'_> {
    fn sync_names(&self, by_syncfs: bool) -> Result<(), BlobError> {
        if by_syncfs {
            // Only the names are left to write: measured at 1 ms for 1,000 of them.
            return nix::unistd::syncfs(&self.sentinel)
                .map_err(|error| self.store.fail("sync names")(error.into()));
        }
        let is_known = |first: &u8| self.store.known[usize::from(*first)].load(Ordering::Relaxed);
        let root_first = (!self.directories.iter().all(is_known)).then(|| self.store.root.clone());
        let directories =
            self.directories.iter().map(|first| directory_at(&self.store.root, *first));
        for directory in root_first.into_iter().chain(directories) {
            File::open(directory)
                .and_then(|directory| directory.sync_all())
                .map_err(self.store.fail("sync a directory"))?;
        }
        Ok(())
    }
}

impl BlobBatch for LocalBatch<'_> {
    fn writer(&mut self) -> Result<Box<dyn BlobWriter + '_>, BlobError> {
        Ok(Box::new(LocalWriter {
            store: self.store,
            staged: &mut self.staged,
            directories: &mut self.directories,
            memory: Vec::new(),
            temporary: None,
            size: 0,
        }))
    }

    fn commit(mut self: Box<Self>) -> Result<(), BlobError> {
        let by_syncfs = self.store.prefers_syncfs(self.staged.len());
        if by_syncfs {
            self.store.syncfs(&self.sentinel).map_err(self.store.fail("sync contents"))?;
        } else {
            for (temporary, _) in &self.staged {
                temporary.file.sync_all().map_err(self.store.fail("sync a content"))?;
            }
        }
        self.rename()?;
        self.sync_names(by_syncfs)?;
        for first in &self.directories {
            self.store.known[usize::from(*first)].store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

struct LocalWriter<'a> {
    store: &'a LocalBlobs,
    staged: &'a mut Vec<(Temporary, Digest)>,
    directories: &'a mut BTreeSet<u8>,
    memory: Vec<u8>,
    temporary: Option<Temporary>,
    size: u64,
}

impl LocalWriter<'_> {
    /// Moves what waits in memory to a temporary file.
    fn spill(&mut self) -> io::Result<&mut Temporary> {
        if self.temporary.is_none() {
            let mut temporary = self.store.create_temporary().map_err(into_io)?;
            temporary.file.write_all(&self.memory)?;
            self.memory = Vec::new();
            self.temporary = Some(temporary);
        }
        Ok(self.temporary.as_mut().expect("the temporary file was made just above"))
    }
}

/// The cause alone: a writer can only answer an [`io::Error`], and the caller says what it was for.
fn into_io(error: BlobError) -> io::Error {
    match error {
        BlobError::OpenStore { source, .. } | BlobError::Store { source, .. } => source,
        missing @ BlobError::Missing { .. } => io::Error::new(io::ErrorKind::NotFound, missing),
    }
}

impl Write for LocalWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.temporary.is_none() && self.memory.len() + bytes.len() <= MEMORY_BYTES_MAX {
            self.memory.extend_from_slice(bytes);
        } else {
            self.spill()?.file.write_all(bytes)?;
        }
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobWriter for LocalWriter<'_> {
    fn keep(mut self: Box<Self>, digest: &Digest) -> Result<(), BlobError> {
        self.directories.insert(digest.as_bytes()[0]);
        let known = self.store.tiers.meet(digest, self.size)
            || self.staged.iter().any(|(_, staged)| staged == digest);
        if known {
            return Ok(());
        }
        let store = self.store;
        self.spill().map_err(store.fail("write a content"))?;
        let temporary = self.temporary.take().expect("spilling made the temporary file");
        self.staged.push((temporary, *digest));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn digest(bytes: &[u8]) -> Digest {
        Digest::from_bytes(*blake3::hash(bytes).as_bytes())
    }

    fn put(store: &LocalBlobs, contents: &[&[u8]]) {
        let mut batch = store.begin().expect("begin");
        for content in contents {
            let mut writer = batch.writer().expect("writer");
            writer.write_all(content).expect("write");
            writer.keep(&digest(content)).expect("keep");
        }
        batch.commit().expect("commit");
    }

    fn files(root: &Path) -> usize {
        fs::read_dir(root)
            .expect("list")
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name() != "tmp")
            .map(|entry| fs::read_dir(entry.path()).expect("list").count())
            .sum()
    }

    #[test]
    fn a_content_is_immutable_and_identical_bytes_are_kept_once() {
        let root = tempfile::tempdir().expect("temporary directory");
        let store = LocalBlobs::open(root.path(), Uuid::now_v7()).expect("open");
        put(&store, &[b"same", b"same", b"other"]);
        put(&store, &[b"same"]);
        assert_eq!(files(root.path()), 2);
        let name = name_of(root.path(), &digest(b"same"));
        assert_eq!(fs::metadata(name).expect("blob").permissions().mode() & 0o777, 0o400);
        assert_eq!(fs::read_dir(root.path().join("tmp")).expect("list").count(), 0);
    }

    #[test]
    fn large_batches_and_large_contents_read_back() {
        let root = tempfile::tempdir().expect("temporary directory");
        let store = LocalBlobs::open(root.path(), Uuid::now_v7()).expect("open");
        let contents: Vec<Vec<u8>> =
            (0..40u8).map(|n| vec![n; usize::from(n) * 20_000 + 1]).collect();
        put(&store, &contents.iter().map(Vec::as_slice).collect::<Vec<_>>());
        for content in &contents {
            let mut file = store.open(&digest(content)).expect("open");
            let mut back = Vec::new();
            io::Read::read_to_end(&mut file, &mut back).expect("read");
            assert_eq!(&back, content);
        }
    }

    #[test]
    fn a_damaged_content_is_replaced_by_the_next_put() {
        let root = tempfile::tempdir().expect("temporary directory");
        let store = LocalBlobs::open(root.path(), Uuid::now_v7()).expect("open");
        let name = name_of(root.path(), &digest(b"whole"));
        fs::create_dir(name.parent().expect("parent")).expect("mkdir");
        fs::write(&name, b"").expect("damage");
        put(&store, &[b"whole"]);
        assert_eq!(fs::read(&name).expect("read"), b"whole");
    }

    #[test]
    fn a_batch_that_is_dropped_leaves_nothing() {
        let root = tempfile::tempdir().expect("temporary directory");
        let store = LocalBlobs::open(root.path(), Uuid::now_v7()).expect("open");
        let mut batch = store.begin().expect("begin");
        let mut writer = batch.writer().expect("writer");
        writer.write_all(&[1; MEMORY_BYTES_MAX + 1]).expect("write");
        drop(writer);
        let mut writer = batch.writer().expect("writer");
        writer.write_all(b"kept, but never committed").expect("write");
        writer.keep(&digest(b"kept, but never committed")).expect("keep");
        drop(batch);
        assert_eq!(files(root.path()), 0);
        assert_eq!(fs::read_dir(root.path().join("tmp")).expect("list").count(), 0);
    }
}
