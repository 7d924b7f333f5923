//! Takes the digests of inputs and stores their rows, off the way of every open.
//!
//! A digest counts only when size, times and inode were the same when the input was opened, before its bytes were read here
//! and after. One input is read once for as long as it stays as it is, however many runs open it: digests are remembered
//! by these stamps. They are only remembered of files that were at rest for a moment: a file system whose clock is coarse
//! gives two changes within one tick the same times (before Linux 6.13, fs/inode.c).

use super::inputs::{Task, WORKSPACE_ENDED, Waiting};
use super::service::Service;
use super::watch::Pulse;
use crate::model::digest::Digest;
use crate::storage::lineage::Input;
use crate::vfs::attributes::Time;
use crate::vfs::observer::ReadStamp;
use jiff::Timestamp;
use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

/// Inputs that a thread takes at once.
const BATCH_MAX: usize = 256;

/// How much is read at once. Chosen, not measured.
const BUFFER_BYTES: usize = 256 << 10;

/// Pause before rows that could not be stored are tried again. Chosen, not measured.
const RETRY: Duration = Duration::from_secs(1);

/// How long a file must have been at rest for its digest to be remembered; a tick is 10 ms at most.
const AT_REST_MICROSECONDS: i64 = 20_000;

/// Most digests that are remembered, in each of two halves; about 100 bytes of memory each.
const HALF_MAX: usize = 32_768;

const CHANGED: &str = "it changed before its digest was taken";

/// Digests by what a file was like. When the younger half is full it becomes the older one, which is dropped.
#[derive(Debug, Default)]
pub(super) struct DigestCache {
    younger: HashMap<ReadStamp, Digest>,
    older: HashMap<ReadStamp, Digest>,
}

impl DigestCache {
    pub fn get(&mut self, stamp: &ReadStamp) -> Option<Digest> {
        if let Some(digest) = self.younger.get(stamp) {
            return Some(*digest);
        }
        let digest = self.older.remove(stamp)?;
        self.insert(*stamp, digest);
        Some(digest)
    }

    /// Remembers the digest of a file that is still so at this moment, if it has been at rest.
    pub fn learn(&mut self, stamp: ReadStamp, digest: Digest) {
        let changed =
            stamp.changed.seconds.saturating_mul(1_000_000) + stamp.changed.nanoseconds / 1_000;
        if Timestamp::now().as_microsecond().saturating_sub(changed) > AT_REST_MICROSECONDS {
            self.insert(stamp, digest);
        }
    }

    fn insert(&mut self, stamp: ReadStamp, digest: Digest) {
        if self.younger.len() >= HALF_MAX {
            self.older = std::mem::take(&mut self.younger);
        }
        self.younger.insert(stamp, digest);
    }
}

pub(super) fn stamp_of(metadata: &Metadata) -> ReadStamp {
    ReadStamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.len(),
        modified: Time { seconds: metadata.mtime(), nanoseconds: metadata.mtime_nsec() },
        changed: Time { seconds: metadata.ctime(), nanoseconds: metadata.ctime_nsec() },
    }
}

/// A thread for inputs: works until the service stops.
pub(super) fn run(service: &Service, pulse: &Pulse) {
    crate::sys::process::lower_thread_priority();
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Some(task) = service.inputs.next(BATCH_MAX) {
        match task {
            Task::Digest(batch) => {
                for waiting in batch {
                    take(service, waiting, &mut buffer, pulse);
                }
            }
            Task::Store(rows) => store(service, rows),
        }
        if service.watch.retires(pulse) {
            return;
        }
    }
}

fn take(service: &Service, waiting: Waiting, buffer: &mut [u8], pulse: &Pulse) {
    let Waiting { file, stamp, input } = waiting;
    let source = service.source(file.workspace);
    if !service.inputs.is_live(input.run) {
        // It ended and had written nothing.
        if let Some(source) = source {
            source.settled(file.file);
        }
        return;
    }
    let digest = match &source {
        None => Err(WORKSPACE_ENDED.to_owned()),
        Some(source) => {
            pulse.at(file.workspace);
            service.watch.begin();
            let digest = source
                .open(file.file)
                .map_err(|error| unreadable(&error))
                .and_then(|opened| digest_of(service, &opened, stamp, buffer, pulse));
            source.settled(file.file);
            pulse.rest();
            digest
        }
    };
    service.inputs.digested(input, digest);
}

fn unreadable(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "its workspace's owner may not read it".to_owned(),
        io::ErrorKind::NotFound => "it was gone before its digest was taken".to_owned(),
        _ => format!("it cannot be read: {error}"),
    }
}

fn digest_of(
    service: &Service,
    file: &File,
    stamp: ReadStamp,
    buffer: &mut [u8],
    pulse: &Pulse,
) -> Result<Digest, String> {
    let failed = |error: io::Error| unreadable(&error);
    let is_same = || Ok::<_, String>(stamp_of(&file.metadata().map_err(failed)?) == stamp);
    if !is_same()? {
        return Err(CHANGED.to_owned());
    }
    if let Some(digest) = service.inputs.known(&stamp) {
        return Ok(digest);
    }
    let mut hasher = blake3::Hasher::new();
    let mut at = 0;
    while at < stamp.size {
        pulse.advance();
        if service.is_stopping() {
            return Err("the daemon stopped before its digest was taken".to_owned());
        }
        let step = usize::try_from(stamp.size - at).unwrap_or(usize::MAX).min(buffer.len());
        match file.read_at(&mut buffer[..step], at) {
            Ok(0) => return Err(CHANGED.to_owned()),
            Ok(read) => {
                hasher.update(&buffer[..read]);
                at += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    if !is_same()? {
        return Err(CHANGED.to_owned());
    }
    let digest = Digest::from_bytes(*hasher.finalize().as_bytes());
    service.inputs.learn(stamp, digest);
    Ok(digest)
}

fn store(service: &Service, rows: Vec<Input>) {
    match service.catalog.note_inputs(&rows) {
        Ok(()) => {
            service.working();
            service.inputs.stored(&rows);
        }
        Err(error) if error.is_transient() => {
            service.failing(&error);
            service.inputs.not_stored(rows, RETRY);
        }
        Err(error) => {
            let reason = crate::telemetry::sentence(&error);
            tracing::error!(%reason, inputs = rows.len(), "inputs of runs cannot be stored; versions say so");
            service.inputs.stored(&rows);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(inode: u64, seconds: i64) -> ReadStamp {
        let time = Time { seconds, nanoseconds: 0 };
        ReadStamp { device: 1, inode, size: 1, modified: time, changed: time }
    }

    #[test]
    fn digests_are_remembered_within_a_bound_and_only_of_files_at_rest() {
        let mut cache = DigestCache::default();
        let digest = Digest::from_bytes([7; 32]);
        cache.learn(stamp(0, Timestamp::now().as_second() + 1), digest);
        assert_eq!(cache.get(&stamp(0, Timestamp::now().as_second() + 1)), None);
        for inode in 0..200_000 {
            cache.learn(stamp(inode, 5), digest);
            assert_eq!(cache.get(&stamp(0, 5)), Some(digest), "what is used stays");
        }
        assert!(cache.younger.len() + cache.older.len() <= 2 * HALF_MAX);
        assert_eq!(cache.get(&stamp(1, 5)), None, "what is not used goes");
        assert_eq!(cache.get(&stamp(199_999, 6)), None, "another time is another file");
    }
}
