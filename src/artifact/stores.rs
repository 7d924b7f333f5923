//! What people ask about stores: how uploads are doing, whether they are done, and what a remote store has for nobody.

use super::Artifacts;
use super::error::Error;
use super::upkeep;
use super::upstream::Upstream;
use crate::config::storage::KeepLocal;
use crate::config::units::format_duration;
use crate::model::digest::Digest;
use crate::storage::remote::RemoteContent;
use crate::storage::upload::{self, GivenUp, QueueRow, UploadState};
use crate::wire::storage::{
    Amount, CollectReport, CollectRequest, Garbage, Queue, RemoteStatus, StorageStatus, Stored,
};
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long one part of a collection takes, plus one listing.
const PART: Duration = Duration::from_secs(2);

/// What was stored later may belong to somebody whose rows this daemon has not seen. Chosen: longer than any call takes.
const AGE: SignedDuration = SignedDuration::from_hours(24);
const AGE_MIN: SignedDuration = SignedDuration::from_hours(1);

/// Contents that one answer names.
const SHOWN: usize = 1_000;

impl Artifacts {
    fn upstream(&self) -> Result<&Arc<Upstream>, Error> {
        self.service().upstream.as_ref().ok_or(Error::NoRemote)
    }

    /// Refuses what only a remote store can do where there is none.
    pub fn must_have_remote(&self) -> Result<(), Error> {
        self.upstream().map(drop)
    }

    /// Asks the remote store whether it is there, for as long as it takes to answer.
    pub fn storage_status(&self) -> Result<StorageStatus, Error> {
        let service = self.service();
        let uploads = service.catalog.uploads();
        let node = service.node;
        let remote = service.upstream.as_ref().map(|upstream| {
            let checked = upstream.store.check().map_err(Error::from);
            let checked = checked.and_then(|_| upstream.claim_anew(&*service.catalog));
            let error = checked.as_ref().err().map(|error| crate::telemetry::sentence(error));
            RemoteStatus {
                name: upstream.destination.remote.clone(),
                reachable: checked.is_ok(),
                error: error.or_else(|| upstream.last_error()),
            }
        });
        let queues = uploads.queues()?.into_iter().map(|row| shown(row, node)).collect();
        let stores = uploads.stores()?.into_iter().map(|row| Stored {
            remote: row.remote,
            contents: row.stored.contents,
            bytes: row.stored.bytes,
            removals: row.removals,
        });
        let keep_local = match service.settings.keep_local {
            KeepLocal::All => "all".to_owned(),
            KeepLocal::For(time) => format_duration(time),
        };
        Ok(StorageStatus { node, keep_local, remote, queues, stores: stores.collect() })
    }

    /// Waits until these contents are uploaded, or are not going to be, at most until the deadline. Answers for each whether the
    /// remote store has it.
    pub fn wait_uploaded(&self, digests: &[Digest], deadline: Instant) -> Result<Vec<bool>, Error> {
        let upstream = self.upstream()?;
        let uploads = self.service().catalog.uploads();
        let remote = &upstream.destination.remote;
        let mut left = digests.iter();
        let mut next = left.next();
        upstream.wait_until(deadline, || {
            while let Some(digest) = next {
                let queued = uploads.whereabouts(digest)?.queued;
                let goes_out = |queued: &upload::Queued| {
                    queued.remote == *remote && queued.state != UploadState::Quarantined
                };
                if queued.iter().any(goes_out) {
                    return Ok::<_, Error>(false);
                }
                next = left.next();
            }
            Ok(true)
        })?;
        let is_stored = |digest: &Digest| {
            Ok(uploads.whereabouts(digest)?.stored_in.iter().any(|store| store == remote))
        };
        digests.iter().map(is_stored).collect()
    }

    /// Waits until everything is uploaded that this node had queued before the call; false when it is not at the deadline.
    pub fn wait_sent(&self, deadline: Instant) -> Result<bool, Error> {
        let upstream = self.upstream()?;
        let uploads = self.service().catalog.uploads();
        let now = Timestamp::now();
        upstream.wait_until(deadline, || Ok(uploads.queued_until(&upstream.destination, now)? == 0))
    }

    /// Has everything that waits tried again at once, because there are other keys.
    pub fn retry_uploads(&self) -> Result<(), Error> {
        if let Some(upstream) = &self.service().upstream {
            self.service().catalog.uploads().hurry(&upstream.destination, Timestamp::now())?;
            upstream.retry_now();
        }
        Ok(())
    }

    /// Looks at a part of the remote store for contents that nobody names.
    pub fn collect(&self, request: &CollectRequest) -> Result<CollectReport, Error> {
        let upstream = self.upstream()?;
        let age = match request.older_than_ms {
            None => AGE,
            Some(ms) => SignedDuration::from_millis(i64::try_from(ms).unwrap_or(i64::MAX)),
        };
        if age < AGE_MIN {
            let why = format!("older_than_ms is {}: use an hour at least", age.as_millis());
            return Err(Error::BadRequest { why });
        }
        let before = Timestamp::now().checked_sub(age).unwrap_or(Timestamp::MIN);
        upstream.claim_anew(&*self.service().catalog)?;
        let began = Instant::now();
        let remote = upstream.destination.remote.clone();
        let mut report = CollectReport { remote, ..CollectReport::default() };
        for first in request.cursor.unwrap_or(0)..=u8::MAX {
            self.collect_part(upstream, first, before, request.apply, &mut report)?;
            if began.elapsed() > PART || self.service().is_stopping() {
                report.next = first.checked_add(1);
                break;
            }
        }
        if report.removed > 0 {
            upkeep::remove(self.service(), upstream)?;
        }
        Ok(report)
    }

    fn collect_part(
        &self,
        upstream: &Upstream,
        first: u8,
        before: Timestamp,
        apply: bool,
        report: &mut CollectReport,
    ) -> Result<(), Error> {
        let uploads = self.service().catalog.uploads();
        let mut there: Vec<RemoteContent> = Vec::new();
        upstream.store.list(first, &mut |content| there.push(content))?;
        there.sort_unstable_by_key(|content| content.digest);
        report.contents += there.len() as u64;
        let digests: Vec<Digest> = there.iter().map(|content| content.digest).collect();
        let unnamed = uploads.unnamed(&digests)?;
        for RemoteContent { digest, size, stored_at } in there {
            if unnamed.binary_search(&digest).is_err() {
                continue;
            }
            if stored_at > before {
                report.young += 1;
                continue;
            }
            report.garbage.contents += 1;
            report.garbage.bytes += size;
            if report.found.len() < SHOWN {
                report.found.push(Garbage { digest, size, stored_at });
            }
            if apply {
                let remote = Some(&*upstream.destination.remote);
                // Decided anew: somebody may have come to name it.
                match uploads.give_up(&digest, remote, Timestamp::now())? {
                    GivenUp::Removing => report.removed += 1,
                    GivenUp::Nothing | GivenUp::Busy => {}
                }
            }
        }
        Ok(())
    }
}

fn shown(row: QueueRow, own: uuid::Uuid) -> Queue {
    let amount = |wanted: UploadState| {
        let found = row.amounts.iter().find(|(state, _)| *state == wanted);
        found.map_or(Amount::default(), |(_, amount)| Amount {
            contents: amount.contents,
            bytes: amount.bytes,
        })
    };
    Queue {
        waiting: amount(UploadState::Waiting),
        uploading: amount(UploadState::Uploading),
        failed: amount(UploadState::Failed),
        waiting_for_credentials: amount(UploadState::WaitingForCredentials),
        quarantined: amount(UploadState::Quarantined),
        node: row.node,
        own: row.node == own,
        place: row.place,
        remote: row.remote,
        last_seen: row.seen_at,
        oldest_at: row.oldest_at,
        last_error: row.last_error,
    }
}
