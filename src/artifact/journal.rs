//! The journal on the disk: appending to it, rewriting it, reading a dead instance's.
//!
//! An append is one write(2) and no fsync: it has to survive the daemon, not the machine. It is made before the kernel
//! is answered. What a failed write left of a record is cut off again, so that the next record is not lost behind it.
//! When even that fails the journal refuses to grow until it has been rewritten.
//!
//! The decoder finds the next record behind damage, so that a torn record costs itself only.

use super::record::{Decoded, MAGIC, Record, decode, encode};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Below this size a journal is not worth rewriting: it is read in milliseconds. Chosen, not measured.
const REWRITE_BYTES_MIN: u64 = 1024 * 1024;

#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    path: PathBuf,
    bytes: u64,
    /// A record that could be left out is missing; rewriting makes the journal say all again.
    stale: bool,
    /// The end of the file is not known to be the end of a record.
    broken: bool,
    closed: bool,
    buffer: Vec<u8>,
}

impl Journal {
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: create(path, MAGIC)?,
            path: path.to_owned(),
            bytes: MAGIC.len() as u64,
            stale: false,
            broken: false,
            closed: false,
            buffer: Vec::new(),
        })
    }

    /// Appends the records, all or none.
    pub fn append(&mut self, records: &[Record]) -> io::Result<()> {
        if self.closed {
            return Err(io::Error::other("the journal is closed"));
        }
        if self.broken {
            return Err(io::Error::other("the journal has to be rewritten first"));
        }
        self.buffer.clear();
        for record in records {
            encode(record, &mut self.buffer);
        }
        match self.file.write_all(&self.buffer) {
            Ok(()) => {
                self.bytes += self.buffer.len() as u64;
                Ok(())
            }
            Err(error) => {
                self.broken = self.file.set_len(self.bytes).is_err();
                Err(error)
            }
        }
    }

    /// Appends a record without which the journal is still right, only longer to recover from.
    pub fn append_or_rewrite_later(&mut self, records: &[Record]) {
        if self.append(records).is_err() {
            self.stale = true;
        }
    }

    /// Whether the journal should be rewritten, given how long it would be then.
    pub fn wants_rewrite(&self, needed_bytes: u64) -> bool {
        !self.closed
            && (self.stale
                || self.broken
                || (self.bytes > REWRITE_BYTES_MIN && self.bytes > 4 * needed_bytes))
    }

    /// Puts these records in place of all that the journal says.
    pub fn rewrite(&mut self, records: &[Record]) -> io::Result<()> {
        let mut bytes = MAGIC.to_vec();
        for record in records {
            encode(record, &mut bytes);
        }
        let temporary = self.path.with_extension("new");
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = create(&temporary, &bytes)?;
        fs::rename(&temporary, &self.path)?;
        self.file = file;
        self.bytes = bytes.len() as u64;
        self.stale = false;
        self.broken = false;
        Ok(())
    }

    /// A second descriptor, for making the journal durable without holding it.
    pub fn try_clone_file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Refuses every further record: from here on another instance may take over.
    pub fn close(&mut self) {
        self.closed = true;
    }
}

fn create(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let mut file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    Ok(file)
}

/// Reads a journal that nobody writes any more. One that is missing, or that its writer died before beginning, says
/// nothing.
pub(super) fn read(path: &Path) -> io::Result<Decoded> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Decoded::default()),
        Err(error) => return Err(error),
    };
    match bytes.strip_prefix(MAGIC.as_slice()) {
        Some(records) => Ok(decode(records)),
        None if MAGIC.starts_with(&bytes) => Ok(Decoded::default()),
        None => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it does not start like a journal that this version knows",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::record::{FileRef, Record};
    use crate::vfs::observer::FileKey;

    fn settled(file: u64) -> Record {
        Record::Settled { file: FileRef { workspace: 1, file: FileKey(file) } }
    }

    #[test]
    fn what_was_appended_is_read_and_rewriting_replaces_it() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("journal");
        let mut journal = Journal::create(&path).expect("create");
        journal.append(&[settled(1), settled(2)]).expect("append");
        assert_eq!(read(&path).expect("read").records, [settled(1), settled(2)]);
        journal.rewrite(&[settled(3)]).expect("rewrite");
        journal.append(&[settled(4)]).expect("append");
        assert_eq!(read(&path).expect("read").records, [settled(3), settled(4)]);
        journal.close();
        assert!(journal.append(&[settled(5)]).is_err());
    }

    #[test]
    fn a_failed_append_leaves_no_half_record_and_rewriting_mends() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("journal");
        let mut journal = Journal::create(&path).expect("create");
        journal.append(&[settled(1)]).expect("append");
        // Every write to /dev/full fails with ENOSPC, and it cannot be cut to a length either.
        journal.file = OpenOptions::new().append(true).open("/dev/full").expect("open /dev/full");
        let error = journal.append(&[settled(2)]).expect_err("full");
        assert_eq!(error.raw_os_error(), Some(nix::errno::Errno::ENOSPC as i32));
        assert!(journal.append(&[settled(2)]).is_err());
        assert!(journal.wants_rewrite(160));
        journal.rewrite(&[settled(1)]).expect("rewrite");
        journal.append(&[settled(2)]).expect("append");
        assert_eq!(read(&path).expect("read").records, [settled(1), settled(2)]);
    }

    #[test]
    fn a_file_that_is_no_journal_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("journal");
        assert_eq!(read(&path).expect("missing"), Decoded::default());
        fs::write(&path, b"BLJ").expect("write");
        assert_eq!(read(&path).expect("begun"), Decoded::default());
        fs::write(&path, b"something else").expect("write");
        assert!(read(&path).is_err());
    }
}
