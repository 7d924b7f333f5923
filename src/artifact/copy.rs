//! Takes the stable copy of one file: one pass that gives the content and all that is learned from it.
//!
//! A copy is stable when size, modification time, change time and inode are the same before and after it was read.
//! Everything about the file may change at any moment, by malice too: it grows while it is read, it is another kind of
//! file than it was, it claims terabytes. The pass never reads more than the file's size at its beginning, reads
//! regular files only, and asks before every step whether its result is still wanted.

use super::examine::{BESIDE_BYTES_MIN, Examination, Examined, Examiner};
use super::input_digests::stamp_of;
use crate::secret::find::Finder;
use crate::storage::{BlobBatch, BlobError, BlobWriter, Stamp};
use crate::vfs::observer::ReadStamp;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

/// How much is read at once. Chosen, not measured.
pub(super) const BUFFER_BYTES: usize = 256 * 1024;

/// What the copy found.
#[derive(Debug)]
pub(super) enum Copied {
    Stable(Box<Content>),
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
    pub examined: Examined,
    pub size: u64,
    pub kept: bool,
    pub stamp: Stamp,
    /// What the file was like, for whoever reads it as it is.
    pub read: ReadStamp,
}

/// What the file is looked at as.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    pub name: &'a OsStr,
    /// Secrets that are looked for in it.
    pub finder: Option<&'a Finder>,
    /// A content in which one is found is not kept.
    pub blocks: bool,
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
    subject: Subject<'_>,
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
    let mut kept = before.len() <= limits.kept_bytes_max;
    let mut writer = if kept { Some(batch.writer()?) } else { None };
    let examination = Examination::new(subject.name, subject.finder);
    let size = before.len();
    let (whole, examined) = std::thread::scope(|scope| {
        let mut examiner = if size < BESIDE_BYTES_MIN {
            Examiner::here(examination, std::mem::take(buffer))
        } else {
            Examiner::beside(scope, examination).map_err(CopyError::Read)?
        };
        let passed = pass(file, size, writer.as_deref_mut(), &mut examiner, wanted);
        let (examined, lent) = examiner.finish();
        if !lent.is_empty() {
            *buffer = lent;
        }
        passed.map(|passed| (passed, examined))
    })?;
    if let Passed::Stopped(copied) = whole {
        return Ok(copied);
    }
    let after = file.metadata().map_err(CopyError::Read)?;
    if tuple(&before) != tuple(&after) {
        return Ok(Copied::Unstable);
    }
    if !wanted() {
        return Ok(Copied::Unwanted);
    }
    kept &= !subject.blocks || examined.found.is_empty();
    if let Some(writer) = writer.filter(|_| kept) {
        writer.keep(&examined.digest)?;
    }
    let read = stamp_of(&after);
    Ok(Copied::Stable(Box::new(Content { examined, size, kept, stamp: stamp(&before), read })))
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

enum Passed {
    Whole,
    Stopped(Copied),
}

/// Reads the first `size` bytes of the file, writes them and has them examined.
fn pass<'a>(
    file: &File,
    size: u64,
    mut writer: Option<&mut (dyn BlobWriter + 'a)>,
    examiner: &mut Examiner<'_, '_>,
    wanted: &dyn Fn() -> bool,
) -> Result<Passed, CopyError> {
    let mut at = 0;
    while at < size {
        if !wanted() {
            return Ok(Passed::Stopped(Copied::Unwanted));
        }
        let step = usize::try_from(size - at).unwrap_or(usize::MAX).min(BUFFER_BYTES);
        let mut buffer = examiner.buffer();
        let read = file.read_at(&mut buffer[..step], at);
        let filled = match &read {
            Ok(filled) => *filled,
            Err(_) => 0,
        };
        let written = match &mut writer {
            Some(writer) => writer.write_all(&buffer[..filled]),
            None => Ok(()),
        };
        examiner.examine(buffer, filled);
        match read {
            Ok(0) => return Ok(Passed::Stopped(Copied::Unstable)),
            Ok(filled) => at += filled as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(CopyError::Read(error)),
        }
        written.map_err(CopyError::Write)?;
    }
    Ok(Passed::Whole)
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
    use crate::artifact::detect::HEAD_BYTES;
    use crate::secret::SecretValue;
    use crate::secret::encoding::Extent;
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
        let subject = Subject { name: OsStr::new("f"), finder: None, blocks: false };
        let copied =
            copy(&file, &mut *batch, limits, subject, &mut Vec::new(), wanted).expect("no error");
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
        assert_eq!(content.examined.digest.as_bytes(), blake3::hash(&bytes).as_bytes());
        assert_eq!(content.examined.head, bytes[..HEAD_BYTES]);
        let mut back = Vec::new();
        io::Read::read_to_end(&mut store.open(&content.examined.digest).expect("open"), &mut back)
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
        assert!(store.open(&content.examined.digest).is_err());
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

    #[test]
    fn a_large_file_is_examined_beside_and_comes_to_the_same() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("f");
        let mut bytes: Vec<u8> =
            (0..BESIDE_BYTES_MIN as u32 + 7).map(|n| (n % 251) as u8).collect();
        let border = 3 * BUFFER_BYTES - 5;
        bytes[border..border + 10].copy_from_slice(b"sk-1234567");
        fs::write(&path, &bytes).expect("write");
        let value = SecretValue::new(b"sk-1234567".to_vec()).expect("small");
        let finder = Finder::new([("KEY".parse().expect("legal"), &value)], Extent::Piece);
        let limits = Limits { kept_bytes_max: 1 << 30, ..LIMITS };
        for blocks in [false, true] {
            let store = MemoryBlobs::default();
            let mut batch = store.begin().expect("begin");
            let subject = Subject { name: OsStr::new("f"), finder: Some(&finder), blocks };
            let file = File::open(&path).expect("open");
            let copied = copy(&file, &mut *batch, limits, subject, &mut Vec::new(), &|| true);
            let Ok(Copied::Stable(content)) = copied else { panic!("{copied:?}") };
            batch.commit().expect("commit");
            assert_eq!(content.examined.digest.as_bytes(), blake3::hash(&bytes).as_bytes());
            assert_eq!(content.examined.found[0].position, border as u64);
            assert_eq!(content.kept, !blocks);
            assert_eq!(store.open(&content.examined.digest).is_ok(), !blocks);
        }
    }
}
