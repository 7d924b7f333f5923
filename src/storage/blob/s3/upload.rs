//! Putting one content into a bucket: at once or in parts, with a bound on memory and nothing left behind by a failure.

use super::S3Store;
use super::refusal::{Refusal, found};
use super::transport::Checksums;
use crate::model::digest::Digest;
use crate::storage::remote::RemoteError;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, MultipartId, ObjectStore, PutMode, PutMultipartOptions, PutOptions,
    PutPayload,
};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use tokio::task::{JoinError, JoinSet};

/// Larger contents go in parts, and parts are at least this large, in bytes. Amazon's least is 5 MiB; with this one a
/// content of 78 GiB is 10,000 parts, the most that there may be.
const PART_BYTES_MIN: u64 = 8 << 20;

const PARTS_MAX: u64 = 10_000;

/// Parts of one content that are sent at a time, and the memory that they may take in all, in bytes, of which one part is read
/// while the others are sent. Chosen so that two uploads at a time stay below 100 MiB.
const PARTS_IN_FLIGHT_MAX: u64 = 4;
const FLIGHT_BYTES_MAX: u64 = 40 << 20;

/// Uploads in parts whose end the server was not told. Further ones are forgotten; a rule of the bucket ends those.
const LEFTOVERS_MAX: usize = 1_000;

/// An upload in parts that was given up while the server could not be told.
#[derive(Debug, Clone)]
pub(super) struct Leftover {
    key: Path,
    id: MultipartId,
}

/// How a content is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    /// Of every part but the last: some servers want them alike.
    part_bytes: u64,
    in_flight: usize,
}

impl Cut {
    fn of(size: u64) -> Cut {
        let even = size.div_ceil(PARTS_MAX).next_multiple_of(1 << 20);
        let part_bytes = even.max(PART_BYTES_MIN);
        let in_flight =
            (FLIGHT_BYTES_MAX / part_bytes).saturating_sub(1).clamp(1, PARTS_IN_FLIGHT_MAX);
        Cut { part_bytes, in_flight: in_flight as usize }
    }
}

const DOING: &str = "put a content";

impl S3Store {
    pub(super) async fn upload(
        &self,
        digest: &Digest,
        content: &File,
        size: u64,
    ) -> Result<(), RemoteError> {
        self.end_leftovers().await;
        let key = self.key(digest);
        // What HEAD refuses is not asked twice: the put says it with a reason.
        let there = self.look(&key).await.map_err(self.fail(DOING))?;
        match there {
            Some((kept, _)) if kept == size => Ok(()),
            _ if size > PART_BYTES_MIN => self.put_in_parts(digest, &key, content, size).await,
            // Without condition what has the wrong size is replaced.
            Some(_) => self.put_at_once(digest, &key, content, size, false).await,
            None => {
                let conditional = self.conditional_put.load(Ordering::Relaxed);
                self.put_at_once(digest, &key, content, size, conditional).await
            }
        }
    }

    async fn put_at_once(
        &self,
        digest: &Digest,
        key: &Path,
        content: &File,
        size: u64,
        conditional: bool,
    ) -> Result<(), RemoteError> {
        let bytes = read(content, 0, size)?;
        if blake3::hash(&bytes) != *digest.as_bytes() {
            return Err(changed());
        }
        let payload = PutPayload::from(bytes);
        let options = |mode| PutOptions { mode, attributes: attributes(), ..PutOptions::default() };
        if conditional {
            // Whatever comes of it but success: what is there then shows whether it has to be put without condition.
            let put = self.writer.put_opts(key, payload.clone(), options(PutMode::Create)).await;
            match put {
                Ok(put) => return self.confirm(digest, key, size, put.extensions.get()).await,
                Err(error) if found::<Refusal>(&error).is_some_and(Refusal::is_taken) => {
                    if self.confirm(digest, key, size, None).await.is_ok() {
                        return Ok(());
                    }
                }
                Err(error) => tracing::debug!("a conditional put failed: {error}"),
            }
        }
        let put = self.writer.put_opts(key, payload, options(PutMode::Overwrite)).await;
        let put = put.map_err(self.fail(DOING))?;
        self.confirm(digest, key, size, put.extensions.get()).await
    }

    /// Whether the server has what was sent: by the checksum that it answered, else by asking it for what it keeps.
    async fn confirm(
        &self,
        digest: &Digest,
        key: &Path,
        size: u64,
        answered: Option<&Checksums>,
    ) -> Result<(), RemoteError> {
        let sent = answered.and_then(|answered| answered.sent.as_ref());
        if sent.is_some() && sent == answered.and_then(|answered| answered.kept.as_ref()) {
            return Ok(());
        }
        let kept = self.look(key).await.map_err(self.fail("look for what was put"))?;
        let Some((kept_size, checksums)) = kept else {
            return Err(self.damaged(digest, "it took the content and does not show it".to_owned()));
        };
        if kept_size != size {
            return Err(self.damaged(digest, format!("it keeps {kept_size} bytes of {size}")));
        }
        match (sent, &checksums.kept) {
            (Some(sent), Some(kept)) if sent != kept => {
                Err(self.damaged(digest, "the checksum of what it keeps is another".to_owned()))
            }
            _ => Ok(()),
        }
    }

    async fn put_in_parts(
        &self,
        digest: &Digest,
        key: &Path,
        content: &File,
        size: u64,
    ) -> Result<(), RemoteError> {
        let options = PutMultipartOptions { attributes: attributes(), ..Default::default() };
        let id = self.writer.create_multipart_opts(key, options).await.map_err(self.fail(DOING))?;
        let error = match self.send_parts(digest, key, &id, content, size).await {
            Ok(parts) => match self.writer.complete_multipart(key, &id, parts).await {
                Ok(_) => return self.confirm(digest, key, size, None).await,
                // When the answer was lost, the repetition is refused, as the upload is over.
                Err(_) if self.confirm(digest, key, size, None).await.is_ok() => return Ok(()),
                Err(error) => self.fail(DOING)(error),
            },
            Err(error) => error,
        };
        self.end(Leftover { key: key.clone(), id }).await;
        Err(error)
    }

    async fn send_parts(
        &self,
        digest: &Digest,
        key: &Path,
        id: &MultipartId,
        content: &File,
        size: u64,
    ) -> Result<Vec<PartId>, RemoteError> {
        let cut = Cut::of(size);
        let mut sending = JoinSet::new();
        let mut parts = Vec::new();
        let mut hasher = blake3::Hasher::new();
        let keep = |parts: &mut Vec<(usize, PartId)>,
                    part: Result<Result<(usize, PartId), object_store::Error>, JoinError>|
         -> Result<(), RemoteError> {
            let part = part.map_err(|error| RemoteError::Local {
                doing: "wait for a part",
                source: io::Error::other(error),
            })?;
            parts.push(part.map_err(self.fail(DOING))?);
            Ok(())
        };
        for number in 0..size.div_ceil(cut.part_bytes) {
            while sending.len() >= cut.in_flight {
                if let Some(part) = sending.join_next().await {
                    keep(&mut parts, part)?;
                }
            }
            let start = number * cut.part_bytes;
            let bytes = read(content, start, cut.part_bytes.min(size - start))?;
            hasher.update(&bytes);
            let (writer, key, id) = (self.writer.clone(), key.clone(), id.clone());
            let number = number as usize;
            sending.spawn(async move {
                let part = writer.put_part(&key, &id, number, PutPayload::from(bytes)).await?;
                Ok((number, part))
            });
        }
        while let Some(part) = sending.join_next().await {
            keep(&mut parts, part)?;
        }
        if hasher.finalize() != *digest.as_bytes() {
            return Err(changed());
        }
        parts.sort_by_key(|(number, _)| *number);
        Ok(parts.into_iter().map(|(_, part)| part).collect())
    }

    /// Tells the server that an upload is given up, or remembers to.
    async fn end(&self, leftover: Leftover) {
        let ended = self.prober.abort_multipart(&leftover.key, &leftover.id).await;
        match ended.map_err(|error| {
            (found::<Refusal>(&error).is_some(), self.fail("give up an upload")(error))
        }) {
            Ok(()) => {}
            // It does not know it, or never will do this.
            Err((true, error)) if !error.is_transient() && !error.needs_credentials() => {
                tracing::debug!("{error}");
            }
            Err((_, error)) => {
                tracing::warn!("{error}; parts of it remain there until it is told again");
                let mut leftovers = self.leftovers.lock().unwrap_or_else(PoisonError::into_inner);
                if leftovers.len() < LEFTOVERS_MAX {
                    leftovers.push(leftover);
                }
            }
        }
    }

    /// Tells the server what it could not be told before. Those that fail again are remembered again.
    async fn end_leftovers(&self) {
        let leftovers =
            std::mem::take(&mut *self.leftovers.lock().unwrap_or_else(PoisonError::into_inner));
        for leftover in leftovers {
            self.end(leftover).await;
        }
    }
}

fn attributes() -> Attributes {
    Attributes::from_iter([(Attribute::ContentType, "application/octet-stream")])
}

fn read(content: &File, start: u64, length: u64) -> Result<Vec<u8>, RemoteError> {
    let fail = |source| RemoteError::Local { doing: "read a content", source };
    let length = usize::try_from(length).map_err(|error| fail(io::Error::other(error)))?;
    let mut bytes = vec![0; length];
    content.read_exact_at(&mut bytes, start).map_err(fail)?;
    Ok(bytes)
}

/// What is in the local store is not what it is called: under that name it must not go anywhere else.
fn changed() -> RemoteError {
    let source =
        io::Error::new(io::ErrorKind::InvalidData, "its bytes are not those of its digest");
    RemoteError::Local { doing: "put a content that is damaged here", source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_few_enough_and_their_memory_is_bounded() {
        const MIB: u64 = 1 << 20;
        assert_eq!(Cut::of(9 * MIB), Cut { part_bytes: 8 * MIB, in_flight: 4 });
        assert_eq!(Cut::of(2048 * MIB), Cut { part_bytes: 8 * MIB, in_flight: 4 });
        for size in [1, 78_125 * MIB, 78_126 * MIB, 1 << 40, 5 << 40] {
            let cut = Cut::of(size);
            assert!(size.div_ceil(cut.part_bytes) <= PARTS_MAX, "{size}: {cut:?}");
            let memory = cut.part_bytes * (cut.in_flight as u64 + 1);
            assert!(memory <= FLIGHT_BYTES_MAX || cut.in_flight == 1, "{size}: {cut:?}");
        }
    }
}
