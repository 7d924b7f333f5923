//! A store in a directory that somebody else can change: every access to it is made as that user.
//!
//! The user can put symbolic links wherever the store looks; they lead to nothing that the user cannot reach anyway, because
//! the kernel checks the user's permissions and not the daemon's. What the user does to the contents meets the digests.
//!
//! Only for a daemon of uid 0. A call of the caller's that happens inside (`wanted`, `each`) is made as the daemon again: it
//! asks a catalog whose files are the daemon's.

use super::BlobError;
use crate::model::digest::Digest;
use crate::storage::{
    BlobBatch, BlobStore, BlobWriter, CatalogError, ContentCopy, PlaceError, Placed, StoreEntry,
    StorePart, Tier, Wanted,
};
use crate::sys::credentials::{Credentials, ScopedIdentity};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Another store, used as its owner.
pub struct OwnedBlobs {
    inner: Box<dyn BlobStore>,
    owner: Credentials,
    root: PathBuf,
}

impl OwnedBlobs {
    /// Opens a store at `root` as its owner.
    pub fn open(
        owner: Credentials,
        root: &Path,
        open: impl FnOnce() -> Result<Box<dyn BlobStore>, BlobError>,
    ) -> Result<Self, BlobError> {
        let acting = assume(&owner, root)?;
        let inner = open()?;
        drop(acting);
        Ok(Self { inner, owner, root: root.to_owned() })
    }

    fn act(&self) -> Result<ScopedIdentity, BlobError> {
        assume(&self.owner, &self.root)
    }
}

fn assume(owner: &Credentials, root: &Path) -> Result<ScopedIdentity, BlobError> {
    ScopedIdentity::assume(owner).map_err(|source| BlobError::Store {
        doing: "act as its owner",
        path: root.to_owned(),
        source,
    })
}

/// Becomes the daemon again for as long as the caller's own call lasts.
fn as_daemon() -> ScopedIdentity {
    ScopedIdentity::assume(&Credentials::of_daemon())
        .expect("a thread that became somebody else can become what it was")
}

impl BlobStore for OwnedBlobs {
    fn begin(&self) -> Result<Box<dyn BlobBatch + '_>, BlobError> {
        let _acting = self.act()?;
        let inner = self.inner.begin()?;
        Ok(Box::new(OwnedBatch { store: self, inner: Some(inner) }))
    }

    fn open(&self, digest: &Digest) -> Result<File, BlobError> {
        let _acting = self.act()?;
        self.inner.open(digest)
    }

    fn place(
        &self,
        digest: &Digest,
        wanted: &dyn Fn() -> Result<Wanted, CatalogError>,
    ) -> Result<Placed, PlaceError> {
        let _acting = self.act()?;
        self.inner.place(digest, &|| {
            let _daemon = as_daemon();
            wanted()
        })
    }

    fn copies(&self, digest: &Digest) -> Result<Vec<ContentCopy>, BlobError> {
        let _acting = self.act()?;
        self.inner.copies(digest)
    }

    fn survey(&self, part: StorePart, each: &mut dyn FnMut(StoreEntry)) -> Result<(), BlobError> {
        let _acting = self.act()?;
        self.inner.survey(part, &mut |entry| {
            let _daemon = as_daemon();
            each(entry);
        })
    }

    fn set_aside(&self, digest: &Digest, tier: Tier) -> Result<PathBuf, BlobError> {
        let _acting = self.act()?;
        self.inner.set_aside(digest, tier)
    }

    fn discard(&self, path: &Path) -> Result<(), BlobError> {
        let _acting = self.act()?;
        self.inner.discard(path)
    }

    fn forget_instance(&self, dead: Uuid) -> Result<(), BlobError> {
        let _acting = self.act()?;
        self.inner.forget_instance(dead)
    }
}

struct OwnedBatch<'a> {
    store: &'a OwnedBlobs,
    /// `None` once it is committed.
    inner: Option<Box<dyn BlobBatch + 'a>>,
}

const UNCOMMITTED: &str = "a batch is committed by value";

impl BlobBatch for OwnedBatch<'_> {
    fn writer(&mut self) -> Result<Box<dyn BlobWriter + '_>, BlobError> {
        let _acting = self.store.act()?;
        let inner = self.inner.as_mut().expect(UNCOMMITTED).writer()?;
        Ok(Box::new(OwnedWriter { store: self.store, inner: Some(inner) }))
    }

    fn commit(mut self: Box<Self>) -> Result<(), BlobError> {
        let _acting = self.store.act()?;
        self.inner.take().expect(UNCOMMITTED).commit()
    }
}

impl Drop for OwnedBatch<'_> {
    /// What was not committed is removed as the one who made it.
    fn drop(&mut self) {
        let Some(inner) = self.inner.take() else { return };
        let _acting = self.store.act();
        drop(inner);
    }
}

struct OwnedWriter<'a> {
    store: &'a OwnedBlobs,
    /// `None` once it is kept.
    inner: Option<Box<dyn BlobWriter + 'a>>,
}

const UNKEPT: &str = "a content is kept by value";

impl Write for OwnedWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // It makes its file with one of these calls.
        let _acting = self.store.act().map_err(io::Error::other)?;
        self.inner.as_mut().expect(UNKEPT).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.as_mut().expect(UNKEPT).flush()
    }
}

impl BlobWriter for OwnedWriter<'_> {
    fn keep(mut self: Box<Self>, digest: &Digest) -> Result<(), BlobError> {
        let _acting = self.store.act()?;
        self.inner.take().expect(UNKEPT).keep(digest)
    }
}

impl Drop for OwnedWriter<'_> {
    fn drop(&mut self) {
        let Some(inner) = self.inner.take() else { return };
        let _acting = self.store.act();
        drop(inner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::blob::local::LocalBlobs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

    const OWNER: u32 = 4_711;

    fn root_only() {
        assert!(nix::unistd::geteuid().is_root(), "this test acts as another user: run it as root");
    }

    fn credentials() -> Credentials {
        Credentials::of_user(OWNER, OWNER, Vec::new())
    }

    fn open(root: &Path) -> Result<OwnedBlobs, BlobError> {
        OwnedBlobs::open(credentials(), root, || {
            Ok(Box::new(LocalBlobs::open(root, Uuid::now_v7())?))
        })
    }

    fn digest(bytes: &[u8]) -> Digest {
        Digest::from_bytes(*blake3::hash(bytes).as_bytes())
    }

    fn put(store: &OwnedBlobs, bytes: &[u8]) -> Result<(), BlobError> {
        let mut batch = store.begin()?;
        let mut writer = batch.writer()?;
        writer.write_all(bytes).expect("write");
        writer.keep(&digest(bytes))?;
        batch.commit()
    }

    /// A directory of the owner's below one that everybody may pass through.
    fn directory() -> (tempfile::TempDir, PathBuf) {
        let outer = tempfile::tempdir().expect("temporary directory");
        std::fs::set_permissions(outer.path(), PermissionsExt::from_mode(0o711)).expect("mode");
        let root = outer.path().join("store");
        std::fs::create_dir(&root).expect("directory");
        chown(&root, Some(OWNER), Some(OWNER)).expect("chown");
        (outer, root)
    }

    #[test]
    fn everything_in_the_store_is_its_owners_and_the_thread_stays_the_daemons() {
        root_only();
        let (outer, root) = directory();
        let store = open(&root).expect("open");
        put(&store, b"content").expect("put");
        let mut dropped = store.begin().expect("begin");
        dropped.writer().expect("writer").write_all(&[1; 300_000]).expect("a file of its own");
        drop(dropped);
        assert_eq!(std::fs::read_dir(root.join("tmp")).expect("list").count(), 0, "forgotten");
        let name = root.join(&digest(b"content").hex()[..2]).join(&digest(b"content").hex()[2..]);
        assert_eq!(std::fs::metadata(name).expect("there").uid(), OWNER);
        let roots = outer.path().join("roots");
        std::fs::write(&roots, "only root reads this").expect("write");
        std::fs::set_permissions(&roots, PermissionsExt::from_mode(0o600)).expect("mode");
        let asked = store.place(&digest(b"content"), &|| {
            std::fs::read(&roots).expect("asked as the daemon");
            Ok(Wanted { main: true, archive: false, undo: false })
        });
        assert_eq!(asked.expect("placed"), Placed::Done);
        std::fs::read(&roots).expect("still the daemon");
    }

    #[test]
    fn a_symbolic_link_in_the_store_leads_nowhere_that_its_owner_cannot_go() {
        root_only();
        let (outer, root) = directory();
        let secret = outer.path().join("roots");
        std::fs::create_dir(&secret).expect("directory");
        std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o700)).expect("mode");
        let store = open(&root).expect("open");
        // Where the content's directory would be made, the owner has put a link into a directory of root's.
        let wanted = digest(b"content");
        symlink(&secret, root.join(&wanted.hex()[..2])).expect("link");
        let error = crate::telemetry::sentence(&put(&store, b"content").expect_err("refused"));
        assert!(error.contains("Permission denied"), "{error}");
        assert_eq!(std::fs::read_dir(&secret).expect("list").count(), 0, "nothing was written");
        // And a content of root's is not read through it.
        std::fs::write(secret.join(&wanted.hex()[2..]), b"content").expect("write");
        assert!(store.open(&wanted).is_err(), "read with root's rights");
    }

    #[test]
    fn a_directory_that_the_owner_may_not_write_is_refused() {
        root_only();
        let (outer, _) = directory();
        let error = open(&outer.path().join("other")).err().expect("root's directory");
        assert!(crate::telemetry::sentence(&error).contains("Permission denied"), "{error}");
    }
}
