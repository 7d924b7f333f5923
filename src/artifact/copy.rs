//! Takes the stable copy of one file: one pass that gives digest, type and content.
//!
//! A copy is stable when size, modification time, change time and inode are the same before and after it was read.
//! Everything about the file may change at any moment, by malice too: it grows while it is read, it is another kind of
//! file than it was, it claims terabytes. The pass never reads more than the file's size at its beginning, reads
//! regular files only, and asks before every step whether its result is still wanted.

use super::detect::HEAD_BYTES;
use crate::model::digest::Digest;
use crate::storage::{BlobBatch, BlobError, Stamp};
use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};

/// How much is read at once. Chosen, not measured.
pub(super) const BUFFER_BYTES: usize = 256 * 1024;

/// What the copy found.
#[derive(Debug)]
pub(super) enum Copied {
    Stable(Content),
    /// Not a regular file any more.
    NotAFile,
    /// Something was written meanwhile.
    Unstable,
    /// Larger than this lane takes.
    TooLarge,
    /// Nobody wants the result any more.
    Unwanted,
}

#[derive(Debug)]
pub(super) struct Content {
    pub digest: Digest,
    pub size: u64,
    pub head: Vec<u8>,
    pub kept: bool,
    pub stamp: Stamp,
}

/// Sizes above which a file is treated differently.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Above it the content stays where it is and only its digest is kept.
    pub kept_bytes_max: u64,
    /// Above it the file is not for this lane.
    pub lane_bytes_max: u64,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum CopyError {
    #[error("cannot read the file")]
    Read(#[source] io::Error),
    #[error("cannot write the content")]
    Write(#[source] io::Error),
    #[error(transparent)]
    Blob(#[from] BlobError),
}

/// Reads the file into the batch. `buffer` is lent so that a thousand small files need one allocation.
pub(super) fn copy(
    file: &File,
    batch: &mut dyn BlobBatch,
    limits: Limits,
    buffer: &mut Vec<u8>,
    wanted: &dyn Fn() -> bool,
) -> Result<Copied, CopyError> {
    let before = file.metadata().map_err(CopyError::Read)?;
    if !before.is_file() {
        return Ok(Copied::NotAFile);
    }
    if before.len() > limits.lane_bytes_max {
        return Ok(Copied::TooLarge);
    }
    let kept = before.len() <= limits.kept_bytes_max;
    let mut writer = if kept { Some(batch.writer()?) } else { None };
    buffer.resize(BUFFER_BYTES, 0);
    let mut hasher = blake3::Hasher::new();
    let mut head = Vec::new();
    let mut at = 0;
    while at < before.len() {
        if !wanted() {
            return Ok(Copied::Unwanted);
        }
        let step = usize::try_from(before.len() - at).unwrap_or(usize::MAX).min(BUFFER_BYTES);
        let read = match file.read_at(&mut buffer[..step], at) {
            Ok(0) => return Ok(Copied::Unstable),
            Ok(read) => &buffer[..read],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(CopyError::Read(error)),
        };
        if head.len() < HEAD_BYTES {
            head.extend_from_slice(&read[..read.len().min(HEAD_BYTES - head.len())]);
        }
        hasher.update(read);
        if let Some(writer) = &mut writer {
            writer.write_all(read).map_err(CopyError::Write)?;
        }
        at += read.len() as u64;
    }
    let after = file.metadata().map_err(CopyError::Read)?;
    if tuple(&before) != tuple(&after) {
        return Ok(Copied::Unstable);
    }
    if !wanted() {
        return Ok(Copied::Unwanted);
    }
    let digest = Digest::from_bytes(*hasher.finalize().as_bytes());
    if let Some(writer) = writer {
        writer.keep(&digest)?;
    }
    Ok(Copied::Stable(Content { digest, size: before.len(), head, kept, stamp: stamp(&before) }))
}

/// What tells the file that was read from any later one at its path.
fn stamp(metadata: &Metadata) -> Stamp {
    let ns = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
    Stamp {
        inode: metadata.ino(),
        size: metadata.len(),
        mtime_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
        ctime_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
    }
}

fn tuple(metadata: &Metadata) -> (u64, u64, u64, i64, i64, i64, i64) {
    (
        metadata.dev(),
        metadata.ino(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::BlobStore;
    use crate::storage::memory::MemoryBlobs;
    use std::cell::Cell;
    use std::fs;
    use std::path::Path;

    const LIMITS: Limits = Limits { kept_bytes_max: 1 << 20, lane_bytes_max: 1 << 40 };

    fn copy_of(path: &Path, limits: Limits, wanted: &dyn Fn() -> bool) -> (Copied, MemoryBlobs) {
        let store = MemoryBlobs::default();
        let mut batch = store.begin().expect("begin");
        let file = File::open(path).expect("open");
        let copied = copy(&file, &mut *batch, limits, &mut Vec::new(), wanted).expect("no error");
        batch.commit().expect("commit");
        (copied, store)
    }

    #[test]
    fn a_quiet_file_is_stable_and_its_content_kept() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("f");
        let bytes: Vec<u8> = (0..600_000u32).map(|n| (n % 251) as u8).collect();
        fs::write(&path, &bytes).expect("write");
        let (copied, store) = copy_of(&path, LIMITS, &|| true);
        let Copied::Stable(content) = copied else { panic!("{copied:?}") };
        assert_eq!(content.digest.as_bytes(), blake3::hash(&bytes).as_bytes());
        assert_eq!(content.head, bytes[..HEAD_BYTES]);
        let mut back = Vec::new();
        io::Read::read_to_end(&mut store.open(&content.digest).expect("open"), &mut back)
            .expect("read");
        assert_eq!(back, bytes);
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_unstable() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("f");
        for change in ["grow", "shrink", "rewrite"] {
            fs::write(&path, vec![1; 600_000]).expect("write");
            let steps = Cell::new(0);
            let meddle = || {
                steps.set(steps.get() + 1);
                if steps.get() == 2 {
                    let file = fs::OpenOptions::new().write(true).open(&path).expect("open");
                    match change {
                        "grow" => file.set_len(700_000).expect("grow"),
                        "shrink" => file.set_len(10).expect("shrink"),
                        _ => file.write_all_at(&[2; 10], 0).expect("rewrite"),
                    }
                }
                true
            };
            let (copied, _) = copy_of(&path, LIMITS, &meddle);
            assert!(matches!(copied, Copied::Unstable), "{change}: {copied:?}");
        }
    }

    #[test]
    fn a_directory_is_no_file_and_a_device_is_never_read() {
        let directory = tempfile::tempdir().expect("temporary directory");
        assert!(matches!(copy_of(directory.path(), LIMITS, &|| true).0, Copied::NotAFile));
        assert!(matches!(copy_of(Path::new("/dev/zero"), LIMITS, &|| true).0, Copied::NotAFile));
    }

    #[test]
    fn above_the_limit_only_the_digest_is_kept() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("sparse");
        File::create(&path).expect("create").set_len((1 << 20) + 1).expect("grow");
        let (copied, store) = copy_of(&path, LIMITS, &|| true);
        let Copied::Stable(content) = copied else { panic!("{copied:?}") };
        assert!(!content.kept);
        assert!(store.open(&content.digest).is_err());
    }

    #[test]
    fn two_terabytes_are_left_to_the_other_lane_and_stop_when_unwanted() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("sparse");
        File::create(&path).expect("create").set_len(2 << 40).expect("grow");
        assert!(matches!(copy_of(&path, LIMITS, &|| true).0, Copied::TooLarge));
        let any = Limits { lane_bytes_max: u64::MAX, ..LIMITS };
        let steps = Cell::new(0);
        let few = || {
            steps.set(steps.get() + 1);
            steps.get() < 5
        };
        assert!(matches!(copy_of(&path, any, &few).0, Copied::Unwanted));
    }
}
