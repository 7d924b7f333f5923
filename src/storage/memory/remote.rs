//! A remote store in memory.

use crate::model::digest::Digest;
use crate::storage::remote::{RemoteAbilities, RemoteContent, RemoteError, RemoteStore};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Contents in a map.
#[derive(Debug, Default)]
pub struct MemoryRemote {
    contents: Mutex<BTreeMap<Digest, (Vec<u8>, Timestamp)>>,
}

impl MemoryRemote {
    const NAME: &str = "memory:";

    fn contents(&self) -> MutexGuard<'_, BTreeMap<Digest, (Vec<u8>, Timestamp)>> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RemoteStore for MemoryRemote {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn put(&self, digest: &Digest, content: &File, size: u64) -> Result<(), RemoteError> {
        let local = |doing| move |source| RemoteError::Local { doing, source };
        let length = usize::try_from(size).map_err(std::io::Error::other);
        let mut bytes = vec![0; length.map_err(local("keep a content in memory"))?];
        content.read_exact_at(&mut bytes, 0).map_err(local("read a content"))?;
        self.contents().entry(*digest).or_insert_with(|| (bytes, Timestamp::now()));
        Ok(())
    }

    fn get(
        &self,
        digest: &Digest,
        range: Option<Range<u64>>,
        into: &mut dyn Write,
    ) -> Result<u64, RemoteError> {
        let contents = self.contents();
        let Some((bytes, _)) = contents.get(digest) else {
            return Err(RemoteError::Missing { store: Self::NAME.to_owned(), digest: *digest });
        };
        let end = |place: u64| usize::try_from(place).unwrap_or(usize::MAX).min(bytes.len());
        let part = match range {
            None => &bytes[..],
            Some(range) => &bytes[end(range.start).min(end(range.end))..end(range.end)],
        };
        into.write_all(part)
            .map_err(|source| RemoteError::Local { doing: "write a content", source })?;
        Ok(part.len() as u64)
    }

    fn size(&self, digest: &Digest) -> Result<Option<u64>, RemoteError> {
        Ok(self.contents().get(digest).map(|(bytes, _)| bytes.len() as u64))
    }

    fn delete(&self, digest: &Digest) -> Result<(), RemoteError> {
        self.contents().remove(digest);
        Ok(())
    }

    fn list(&self, first: u8, each: &mut dyn FnMut(RemoteContent)) -> Result<(), RemoteError> {
        for (digest, (bytes, stored_at)) in &*self.contents() {
            if digest.as_bytes()[0] == first {
                let (digest, size) = (*digest, bytes.len() as u64);
                each(RemoteContent { digest, size, stored_at: *stored_at });
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<RemoteAbilities, RemoteError> {
        Ok(RemoteAbilities { conditional_put: true })
    }
}
