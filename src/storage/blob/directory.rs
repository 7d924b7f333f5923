//! A directory on another file system as a remote store: `<root>/aa/<62 hexadecimal digits>`, mode 0400.
//!
//! For a network mount, or a second disk. Several machines may use it at the same time. A content is written to
//! `<root>/tmp/<uuid>`, made durable, renamed to its name, and the directory made durable, so that a name never stands for
//! half a content. What a dead writer left in `tmp` goes when somebody lists the store a day later.
//!
//! The root itself is never made: when the file system that it lies on is not mounted, it is missing, and the contents do
//! not end up in the empty mount point.

use super::local::{directory_of, name_of};
use super::placing::remove;
use crate::model::digest::Digest;
use crate::storage::remote::{
    CLAIM, RemoteAbilities, RemoteContent, RemoteError, RemoteFailure, RemoteStore, claimed_by,
};
use jiff::Timestamp;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use uuid::Uuid;

const BUFFER_BYTES: usize = 1 << 20;

/// A temporary file that nobody has written to for so long was left by a writer that died.
const ABANDONED: Duration = Duration::from_secs(24 * 3_600);

/// A content-addressed directory that others use too.
#[derive(Debug)]
pub struct DirectoryRemote {
    root: PathBuf,
    name: String,
}

impl DirectoryRemote {
    pub fn new(root: PathBuf) -> Self {
        let name = format!("directory:{}", crate::model::path::escape(root.as_os_str().as_bytes()));
        Self { root, name }
    }

    /// A failure of the directory, with what can be done where that is known.
    fn fail(&self, doing: &'static str) -> impl Fn(io::Error) -> RemoteError + '_ {
        move |error| {
            let (kind, hint) = match error.kind() {
                _ if !self.root.is_dir() => {
                    (RemoteFailure::Transient, ": the directory is not there; mount it, or make it")
                }
                io::ErrorKind::PermissionDenied => (
                    RemoteFailure::Configuration,
                    ": give the daemon's user the right to write there",
                ),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    (RemoteFailure::Transient, ": make room there")
                }
                _ => (RemoteFailure::Transient, ""),
            };
            let reason = format!("{error}{hint}");
            RemoteError::Store { doing, store: self.name.clone(), reason, kind }
        }
    }

    fn open(&self, digest: &Digest) -> Result<File, RemoteError> {
        match File::open(name_of(&self.root, digest)) {
            // A root that is not there is no store that lacks the content.
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.root.is_dir() => {
                Err(RemoteError::Missing { store: self.name.clone(), digest: *digest })
            }
            opened => opened.map_err(self.fail("open a content")),
        }
    }

    fn temporary(&self) -> io::Result<(PathBuf, File)> {
        make(&self.root.join("tmp"))?;
        let path = self.root.join("tmp").join(Uuid::now_v7().to_string());
        let file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(&path)?;
        Ok((path, file))
    }

    /// Gives a whole, durable file its name.
    fn name_it(&self, temporary: &Path, digest: &Digest) -> io::Result<()> {
        let directory = directory_of(&self.root, digest);
        if make(&directory)? {
            File::open(&self.root)?.sync_all()?;
        }
        fs::rename(temporary, name_of(&self.root, digest))?;
        File::open(directory)?.sync_all()
    }

    fn remove_abandoned(&self) -> io::Result<()> {
        for entry in entries(&self.root.join("tmp"))? {
            let entry = entry?;
            let written = entry.metadata().and_then(|metadata| metadata.modified());
            let age = written.map(|written| SystemTime::now().duration_since(written));
            if matches!(age, Ok(Ok(age)) if age > ABANDONED) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// Makes a directory below one that exists; whether it was missing.
fn make(directory: &Path) -> io::Result<bool> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        made => made.map(|()| true),
    }
}

/// The entries of a directory; none of one that is missing.
fn entries(directory: &Path) -> io::Result<impl Iterator<Item = io::Result<fs::DirEntry>>> {
    let listed = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        listed => Some(listed?),
    };
    Ok(listed.into_iter().flatten())
}

/// Removes a temporary file unless it got its name.
struct Unnamed(PathBuf);

impl Drop for Unnamed {
    fn drop(&mut self) {
        // What stays behind is removed when it is old.
        let _ = fs::remove_file(&self.0);
    }
}

impl RemoteStore for DirectoryRemote {
    fn name(&self) -> &str {
        &self.name
    }

    fn put(&self, digest: &Digest, content: &File, size: u64) -> Result<(), RemoteError> {
        let failed = self.fail("put a content");
        if self.size(digest)? == Some(size) {
            // Whoever named it may have died before its name was durable.
            let directory = File::open(directory_of(&self.root, digest));
            return directory.and_then(|directory| directory.sync_all()).map_err(failed);
        }
        let (path, mut file) = self.temporary().map_err(&failed)?;
        let temporary = Unnamed(path);
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut at = 0;
        while at < size {
            let most = buffer.len().min(usize::try_from(size - at).unwrap_or(usize::MAX));
            let read = content
                .read_at(&mut buffer[..most], at)
                .map_err(|source| RemoteError::Local { doing: "read a content", source })?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            file.write_all(&buffer[..read]).map_err(&failed)?;
            at += read as u64;
        }
        // What is wrong here must not stand for the content there.
        if Digest::from_bytes(*hasher.finalize().as_bytes()) != *digest {
            let source = io::Error::other(format!("its bytes are not those of {digest}"));
            return Err(RemoteError::Local { doing: "put a content that is damaged here", source });
        }
        file.sync_all().map_err(&failed)?;
        self.name_it(&temporary.0, digest).map_err(failed)
    }

    fn get(
        &self,
        digest: &Digest,
        range: Option<Range<u64>>,
        into: &mut dyn Write,
    ) -> Result<u64, RemoteError> {
        let file = self.open(digest)?;
        let (start, end) = range.as_ref().map_or((0, u64::MAX), |range| (range.start, range.end));
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut at = start;
        while at < end {
            let most = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
            let read = file.read_at(&mut buffer[..most], at).map_err(self.fail("get a content"))?;
            if read == 0 {
                break;
            }
            if range.is_none() {
                hasher.update(&buffer[..read]);
            }
            into.write_all(&buffer[..read])
                .map_err(|source| RemoteError::Local { doing: "write a content", source })?;
            at += read as u64;
        }
        let found = Digest::from_bytes(*hasher.finalize().as_bytes());
        if range.is_none() && found != *digest {
            let reason = format!("they have the digest {found}");
            let store = self.name.clone();
            return Err(RemoteError::Damaged { store, digest: *digest, reason });
        }
        Ok(at - start)
    }

    fn size(&self, digest: &Digest) -> Result<Option<u64>, RemoteError> {
        match fs::symlink_metadata(name_of(&self.root, digest)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.root.is_dir() => Ok(None),
            found => Ok(Some(found.map_err(self.fail("look for a content"))?.len())),
        }
    }

    fn delete(&self, digest: &Digest) -> Result<(), RemoteError> {
        let failed = self.fail("delete a content");
        if !self.root.is_dir() {
            return Err(failed(io::ErrorKind::NotFound.into()));
        }
        remove(&name_of(&self.root, digest)).map_err(failed)
    }

    fn list(&self, first: u8, each: &mut dyn FnMut(RemoteContent)) -> Result<(), RemoteError> {
        let mut list = || {
            fs::metadata(&self.root)?;
            if first == 0 {
                self.remove_abandoned()?;
            }
            let prefix = format!("{first:02x}");
            for entry in entries(&self.root.join(&prefix))? {
                let entry = entry?;
                let name = entry.file_name();
                let digest = name.to_str().map(|rest| format!("blake3:{prefix}{rest}").parse());
                // What is called otherwise was not put there by this program.
                let Some(Ok(digest)) = digest else { continue };
                match entry.metadata() {
                    // It was deleted meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    metadata => {
                        let metadata = metadata?;
                        let stored = Timestamp::from_second(metadata.mtime());
                        let stored_at = stored.map_err(io::Error::other)?;
                        each(RemoteContent { digest, size: metadata.len(), stored_at });
                    }
                }
            }
            Ok(())
        };
        list().map_err(self.fail("list contents"))
    }

    fn claim(&self, catalog: Uuid) -> Result<(), RemoteError> {
        let path = self.root.join(CLAIM);
        let claim = || {
            if !path.exists() {
                // Whole under its name, whoever is faster; a link leaves the file of the other alone.
                let (temporary, mut file) = self.temporary()?;
                let _temporary = Unnamed(temporary.clone());
                writeln!(file, "{catalog}")?;
                file.sync_all()?;
                match fs::hard_link(&temporary, &path) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(error);
                    }
                    _ => File::open(&self.root)?.sync_all()?,
                }
            }
            fs::read_to_string(&path)
        };
        let text = claim().map_err(self.fail("see whose contents the directory has"))?;
        claimed_by(&self.name, &text, catalog)
    }

    fn check(&self) -> Result<RemoteAbilities, RemoteError> {
        let check = || {
            let (path, mut file) = self.temporary()?;
            let _temporary = Unnamed(path);
            file.write_all(b"x")?;
            file.sync_all()
        };
        check().map_err(self.fail("write a file"))?;
        // A name is given by rename(2), which replaces.
        Ok(RemoteAbilities { conditional_put: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Seek;

    fn content(bytes: &[u8]) -> (Digest, File) {
        let mut file = tempfile::tempfile().expect("temporary file");
        file.write_all(bytes).expect("write");
        file.rewind().expect("rewind");
        (Digest::from_bytes(*blake3::hash(bytes).as_bytes()), file)
    }

    fn all(store: &DirectoryRemote) -> Vec<RemoteContent> {
        let mut found = Vec::new();
        for first in 0..=255 {
            store.list(first, &mut |content| found.push(content)).expect("list");
        }
        found
    }

    #[test]
    fn contents_come_back_whole_in_part_and_in_lists() {
        let root = tempfile::tempdir().expect("temporary directory");
        let store = DirectoryRemote::new(root.path().to_owned());
        let large = vec![7; BUFFER_BYTES + 1];
        for bytes in [&b""[..], b"content", &large] {
            let (digest, file) = content(bytes);
            assert_eq!(store.size(&digest).expect("size"), None);
            for _ in 0..2 {
                store.put(&digest, &file, bytes.len() as u64).expect("put");
            }
            assert_eq!(store.size(&digest).expect("size"), Some(bytes.len() as u64));
            let mut back = Vec::new();
            let got = store.get(&digest, None, &mut back).expect("get");
            assert_eq!((got, &back[..]), (bytes.len() as u64, bytes));
            let mut part = Vec::new();
            store.get(&digest, Some(2..5), &mut part).expect("get");
            assert_eq!(part, bytes.get(2..5).unwrap_or_default());
        }
        assert_eq!(all(&store).len(), 3);
        let (digest, _) = content(b"content");
        for _ in 0..2 {
            store.delete(&digest).expect("delete");
        }
        assert!(matches!(store.open(&digest), Err(RemoteError::Missing { .. })));
        assert_eq!(all(&store).len(), 2);
        assert_eq!(fs::read_dir(root.path().join("tmp")).expect("list").count(), 0);
    }

    #[test]
    fn damage_on_either_side_is_found() {
        let root = tempfile::tempdir().expect("temporary directory");
        let store = DirectoryRemote::new(root.path().to_owned());
        let (digest, _) = content(b"content");
        let (_, wrong) = content(b"CONTENT");
        let error = store.put(&digest, &wrong, 7).expect_err("damaged here");
        assert!(matches!(error, RemoteError::Local { .. }), "{error}");
        assert_eq!(store.size(&digest).expect("size"), None);
        let (_, file) = content(b"content");
        store.put(&digest, &file, 7).expect("put");
        let name = name_of(root.path(), &digest);
        fs::remove_file(&name).expect("remove");
        fs::write(&name, b"CONTENT").expect("damage");
        let error = store.get(&digest, None, &mut Vec::new()).expect_err("damaged there");
        assert!(matches!(error, RemoteError::Damaged { .. }), "{error}");
    }

    #[test]
    fn a_root_that_is_missing_is_a_store_that_is_away_and_is_never_made() {
        let parent = tempfile::tempdir().expect("temporary directory");
        let store = DirectoryRemote::new(parent.path().join("not-mounted"));
        let (digest, file) = content(b"content");
        let errors = [
            store.put(&digest, &file, 7).expect_err("put"),
            store.get(&digest, None, &mut Vec::new()).expect_err("get"),
            store.size(&digest).expect_err("size"),
            store.delete(&digest).expect_err("delete"),
            store.list(0, &mut |_| {}).expect_err("list"),
            store.check().expect_err("check"),
        ];
        for error in errors {
            assert!(error.is_transient() && error.to_string().contains("mount it"), "{error}");
        }
        assert!(!parent.path().join("not-mounted").exists());
        fs::create_dir(parent.path().join("not-mounted")).expect("mount");
        store.check().expect("it is back");
    }

    #[test]
    fn what_a_dead_writer_left_goes_when_it_is_old() {
        let root = tempfile::tempdir().expect("temporary directory");
        let store = DirectoryRemote::new(root.path().to_owned());
        let (old, file) = store.temporary().expect("temporary");
        let long_ago = SystemTime::now() - 2 * ABANDONED;
        file.set_modified(long_ago).expect("set the time");
        let (young, _) = store.temporary().expect("temporary");
        all(&store);
        assert!(!old.exists() && young.exists());
    }
}
