//! The threads that send contents to the remote store.
//!
//! They work from the catalog alone: what is due is taken, sent and settled, some contents at a time. What another daemon
//! of the node took and did not settle is due again once that daemon is dead, which its lock in the state directory tells. Two that send the
//! same content at the same time do no harm.
//!
//! Nobody waits for these threads: a store may take as long as it likes with a content. At the end of the daemon one that
//! is busy is left behind, and what it was sending is sent again by the next daemon.

use super::error::Error;
use super::service::Service;
use super::ticker::Ticker;
use super::upstream::Upstream;
use crate::storage::remote::RemoteError;
use crate::storage::upload::{Sent, Upload, UploadState};
use crate::storage::{BlobError, CatalogError};
use jiff::{SignedDuration, Timestamp};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Contents that are sent at the same time. Each may need some pieces of a content in memory. Chosen, not measured.
const THREADS: usize = 2;

/// Contents that are taken at once: a transaction to take them and one to settle them.
const BATCH: u32 = 32;

/// What was sent is settled after this time at the latest, for whoever waits for it.
const SETTLE_AFTER: Duration = Duration::from_millis(200);

/// Pause between looks when nobody rings: other daemons of the node leave work behind, and what failed becomes due.
const PAUSE: Duration = Duration::from_secs(2);

/// How long a content waits that could not be sent for reasons of its own. Chosen, not measured.
const RETRY_MIN: SignedDuration = SignedDuration::from_secs(1);
const RETRY_MAX: SignedDuration = SignedDuration::from_mins(5);

pub(super) fn start(service: &Arc<Service>, upstream: &Arc<Upstream>) -> io::Result<Ticker> {
    let ticker = Ticker::new(upstream.bell.clone());
    for _ in 0..THREADS {
        let mut sender = Sender {
            service: service.clone(),
            upstream: upstream.clone(),
            unsettled: Vec::new(),
            settled_at: Instant::now(),
            lost_track: false,
        };
        ticker.add("belljar-upload", move || sender.tick())?;
    }
    Ok(ticker)
}

struct Sender {
    service: Arc<Service>,
    upstream: Arc<Upstream>,
    /// What the catalog has still to be told.
    unsettled: Vec<(Upload, Sent)>,
    settled_at: Instant,
    /// The catalog failed, and may have given uploads that did not arrive.
    lost_track: bool,
}

impl Sender {
    fn tick(&mut self) -> Duration {
        while !self.service.is_stopping() {
            if let Some(pause) = self.upstream.pause() {
                return pause;
            }
            match self.batch() {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    self.lost_track = true;
                    let reason = crate::telemetry::sentence(&error);
                    tracing::warn!(%reason, "the books of uploads cannot be kept; it is tried again");
                    break;
                }
            }
        }
        PAUSE
    }

    /// Answers how many contents there were.
    fn batch(&mut self) -> Result<usize, CatalogError> {
        self.settle()?;
        let uploads = self.service.catalog.uploads();
        let (to, own) = (&self.upstream.destination, self.service.settings.instance);
        if self.lost_track {
            uploads.let_go(to, own)?;
            self.lost_track = false;
        }
        let limit = if self.upstream.is_failing() { 1 } else { BATCH };
        let taken = uploads.take(to, own, Timestamp::now(), limit)?;
        let count = taken.len();
        let mut goes_on = true;
        for upload in taken {
            let sent = if goes_on && !self.service.is_stopping() {
                let (sent, store_works) = self.send(&upload);
                goes_on = store_works;
                sent
            } else {
                Sent::Untouched
            };
            self.unsettled.push((upload, sent));
            if self.settled_at.elapsed() > SETTLE_AFTER {
                self.settle()?;
            }
        }
        self.settle()?;
        Ok(count)
    }

    fn settle(&mut self) -> Result<(), CatalogError> {
        self.settled_at = Instant::now();
        if self.unsettled.is_empty() {
            return Ok(());
        }
        let (to, own) = (&self.upstream.destination, self.service.settings.instance);
        let uploads = self.service.catalog.uploads();
        uploads.settle(to, own, &self.unsettled, Timestamp::now())?;
        self.unsettled.clear();
        self.upstream.progress();
        Ok(())
    }

    /// Sends one content. Answers what became of it, and whether the store is worth another try at once.
    fn send(&self, upload: &Upload) -> (Sent, bool) {
        let file = match self.service.blobs.open(&upload.digest) {
            Ok(file) => file,
            Err(error) => return (self.unreadable(upload, &error), true),
        };
        let catalog = &*self.service.catalog;
        let claimed = self.upstream.claim(catalog);
        let put = || Ok(self.upstream.store.put(&upload.digest, &file, upload.size)?);
        let error = match claimed.and_then(|()| put()) {
            Ok(()) => {
                self.upstream.working();
                return (Sent::Done, true);
            }
            Err(Error::Remote(error)) => error,
            Err(error) => {
                self.upstream.failing(&crate::telemetry::sentence(&error));
                return (Sent::Untouched, false);
            }
        };
        let reason = crate::telemetry::sentence(&error);
        let state = if error.needs_credentials() {
            UploadState::WaitingForCredentials
        } else {
            UploadState::Failed
        };
        let of_store = match error {
            RemoteError::Store { .. } | RemoteError::Missing { .. } => true,
            RemoteError::Damaged { .. } | RemoteError::Local { .. } => false,
        };
        if of_store {
            self.upstream.failing(&reason);
        } else {
            tracing::warn!(digest = %upload.digest, %reason, "a content is not uploaded; it is tried again");
        }
        (failed(upload, state, reason), !of_store)
    }

    fn unreadable(&self, upload: &Upload, error: &BlobError) -> Sent {
        let reason = crate::telemetry::sentence(error);
        tracing::warn!(digest = %upload.digest, %reason, "a content cannot be read to upload it; it is tried again");
        failed(upload, UploadState::Failed, reason)
    }
}

fn failed(upload: &Upload, state: UploadState, error: String) -> Sent {
    let next_at = Timestamp::now() + pause_after(upload.attempts);
    Sent::Failed { state, error, next_at }
}

/// Twice as long each time.
fn pause_after(attempts: u32) -> SignedDuration {
    RETRY_MIN.checked_mul(1 << attempts.min(16)).unwrap_or(RETRY_MAX).min(RETRY_MAX)
}
