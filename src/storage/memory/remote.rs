//! A remote store in memory, which can be made to fail, to be slow and to be away.

use crate::model::digest::Digest;
use crate::storage::remote::{
    RemoteAbilities, RemoteContent, RemoteError, RemoteFailure, RemoteStore, claimed_by,
};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use uuid::Uuid;

/// Contents in a map.
#[derive(Debug, Default)]
pub struct MemoryRemote {
    contents: Mutex<BTreeMap<Digest, (Vec<u8>, Timestamp)>>,
    /// The catalog whose contents they are.
    owner: Mutex<Option<Uuid>>,
    trouble: Mutex<Trouble>,
    calls: AtomicU64,
    /// Calls that removed something.
    removed: AtomicU64,
    /// Calls that stored something.
    stored: AtomicU64,
    /// Contents that were asked for.
    fetched: AtomicU64,
}

/// What is wrong with the way to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Trouble {
    #[default]
    None,
    /// Every call takes this long.
    Slow(Duration),
    /// Calls take between nothing and this long, so that they overtake each other.
    Uneven(Duration),
    /// Nobody answers.
    Away,
    /// Every call is refused.
    NoCredentials,
}

impl MemoryRemote {
    const NAME: &str = "memory:";

    fn contents(&self) -> MutexGuard<'_, BTreeMap<Digest, (Vec<u8>, Timestamp)>> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on.
    pub fn set_trouble(&self, trouble: Trouble) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// How often a content was stored that was not there.
    pub fn stored(&self) -> u64 {
        self.stored.load(Ordering::Relaxed)
    }

    /// How often a content was removed that was there.
    pub fn removed(&self) -> u64 {
        self.removed.load(Ordering::Relaxed)
    }

    /// How often a content was got.
    pub fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    /// Whether the call comes through.
    fn reach(&self, doing: &'static str) -> Result<(), RemoteError> {
        let trouble = *self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let (reason, kind) = match trouble {
            Trouble::None => return Ok(()),
            Trouble::Slow(pause) => {
                std::thread::sleep(pause);
                return Ok(());
            }
            Trouble::Uneven(most) => {
                // Seven steps, in an order that looks like none.
                let step = self.calls.fetch_add(1, Ordering::Relaxed).wrapping_mul(5) % 7;
                std::thread::sleep(most.mul_f64(step as f64 / 6.0));
                return Ok(());
            }
            Trouble::Away => ("nobody answers", RemoteFailure::Transient),
            Trouble::NoCredentials => ("it asks for credentials", RemoteFailure::Credentials),
        };
        let (store, reason) = (Self::NAME.to_owned(), reason.to_owned());
        Err(RemoteError::Store { doing, store, reason, kind })
    }
}

impl RemoteStore for MemoryRemote {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn put(&self, digest: &Digest, content: &File, size: u64) -> Result<(), RemoteError> {
        self.reach("put a content")?;
        let local = |doing| move |source| RemoteError::Local { doing, source };
        let length = usize::try_from(size).map_err(std::io::Error::other);
        let mut bytes = vec![0; length.map_err(local("keep a content in memory"))?];
        content.read_exact_at(&mut bytes, 0).map_err(local("read a content"))?;
        self.contents().entry(*digest).or_insert_with(|| {
            self.stored.fetch_add(1, Ordering::Relaxed);
            (bytes, Timestamp::now())
        });
        Ok(())
    }

    fn get(
        &self,
        digest: &Digest,
        range: Option<Range<u64>>,
        into: &mut dyn Write,
    ) -> Result<u64, RemoteError> {
        self.reach("get a content")?;
        self.fetched.fetch_add(1, Ordering::Relaxed);
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
        self.reach("look for a content")?;
        Ok(self.contents().get(digest).map(|(bytes, _)| bytes.len() as u64))
    }

    fn delete(&self, digest: &Digest) -> Result<(), RemoteError> {
        self.reach("delete a content")?;
        if self.contents().remove(digest).is_some() {
            self.removed.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn list(&self, first: u8, each: &mut dyn FnMut(RemoteContent)) -> Result<(), RemoteError> {
        self.reach("list contents")?;
        for (digest, (bytes, stored_at)) in &*self.contents() {
            if digest.as_bytes()[0] == first {
                let (digest, size) = (*digest, bytes.len() as u64);
                each(RemoteContent { digest, size, stored_at: *stored_at });
            }
        }
        Ok(())
    }

    fn claim(&self, catalog: Uuid) -> Result<(), RemoteError> {
        self.reach("claim the store")?;
        let mut owner = self.owner.lock().unwrap_or_else(PoisonError::into_inner);
        claimed_by(Self::NAME, &owner.get_or_insert(catalog).to_string(), catalog)
    }

    fn check(&self) -> Result<RemoteAbilities, RemoteError> {
        self.reach("check")?;
        Ok(RemoteAbilities { conditional_put: true })
    }
}
