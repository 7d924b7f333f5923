//! The thread that looks after the remote store: what has to go from it, what need not be here as well, and what nobody sends.

use super::error::Error;
use super::instance;
use super::service::Service;
use super::ticker::Ticker;
use super::upstream::Upstream;
use crate::config::storage::KeepLocal;
use crate::model::digest::Digest;
use crate::storage::{NamedContent, StoreEntry, StorePart, Tier, Wanted};
use jiff::{SignedDuration, Timestamp};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

const PAUSE: Duration = Duration::from_secs(1);

/// How often the node says that it lives, and looks for daemons that do not.
const NOTE_EVERY: Duration = Duration::from_secs(30);

/// How long a removal is one daemon's: longer than the patience of every call to a store. Chosen, not measured.
const REMOVAL_LEASE: SignedDuration = SignedDuration::from_mins(10);
const REMOVALS_MAX: u32 = 64;

/// Contents that are queued in one transaction when a node has a store for the first time.
const PAGE: u32 = 256;

/// Pause between looks at the whole local store: a tenth of the time that copies stay, and at most this.
const ROUND_MAX: Duration = Duration::from_secs(600);

/// How long one look at a part of the work may take.
const STEP: Duration = Duration::from_millis(200);

pub(super) fn start(service: &Arc<Service>, upstream: &Arc<Upstream>) -> io::Result<Ticker> {
    let mut upkeep = Upkeep {
        service: service.clone(),
        upstream: upstream.clone(),
        noted_at: None,
        filling: Filling::Unknown,
        part: 0,
        round_at: Instant::now(),
    };
    Ticker::start("belljar-upkeep", move || {
        if let Err(error) = upkeep.pass() {
            let reason = crate::telemetry::sentence(&error);
            tracing::warn!(%reason, "the remote store is not looked after; it is tried again");
            return NOTE_EVERY;
        }
        PAUSE
    })
}

/// How far queueing is of what the node had before it had this store.
enum Filling {
    Unknown,
    Behind(Option<Digest>),
    Done,
}

struct Upkeep {
    service: Arc<Service>,
    upstream: Arc<Upstream>,
    noted_at: Option<Instant>,
    filling: Filling,
    /// The part of the local store that is looked at next.
    part: u8,
    /// When the next look at the whole local store may begin.
    round_at: Instant,
}

impl Upkeep {
    fn pass(&mut self) -> Result<(), Error> {
        if self.noted_at.is_none_or(|at| at.elapsed() >= NOTE_EVERY) {
            self.note()?;
            self.noted_at = Some(Instant::now());
        }
        if let Filling::Behind(after) = self.filling {
            self.filling = self.fill(after)?;
        }
        if self.service.is_stopping() || self.upstream.is_failing() && !self.is_back()? {
            return Ok(());
        }
        match self.tidy() {
            // Said once, with what cannot be sent.
            Err(Error::Remote(error)) => {
                self.upstream.failing(&crate::telemetry::sentence(&error));
                Ok(())
            }
            done => done,
        }
    }

    /// Whether a store that failed works again. The threads that send find that out by themselves if there is anything to send.
    fn is_back(&self) -> Result<bool, Error> {
        let uploads = self.service.catalog.uploads();
        let to = &self.upstream.destination;
        if self.upstream.pause().is_some() || uploads.queued_until(to, Timestamp::now())? > 0 {
            return Ok(false);
        }
        match self.upstream.claim_anew(&*self.service.catalog) {
            Ok(()) => self.upstream.working(),
            Err(error) => self.upstream.failing(&crate::telemetry::sentence(&error)),
        }
        Ok(!self.upstream.is_failing())
    }

    fn tidy(&mut self) -> Result<(), Error> {
        remove(&self.service, &self.upstream)?;
        if let KeepLocal::For(time) = self.service.settings.keep_local {
            let began = Instant::now();
            while self.round_at <= began && began.elapsed() < STEP && !self.service.is_stopping() {
                self.upstream.claim_anew(&*self.service.catalog)?;
                self.evict(time)?;
                self.part = self.part.wrapping_add(1);
                if self.part == 0 {
                    self.round_at = Instant::now() + (time / 10).clamp(PAUSE, ROUND_MAX);
                }
            }
        }
        Ok(())
    }

    fn note(&mut self) -> Result<(), Error> {
        let uploads = self.service.catalog.uploads();
        let to = &self.upstream.destination;
        let filled = uploads.note_node(to, Timestamp::now())?;
        if matches!(self.filling, Filling::Unknown) {
            // What the daemon before could not do, this one may be able to: its settings are others, or the way is free.
            uploads.hurry(to, Timestamp::now())?;
        }
        if !filled && !matches!(self.filling, Filling::Behind(_)) {
            self.filling = Filling::Behind(None);
        } else if filled {
            self.filling = Filling::Done;
        }
        let state_dir = &self.service.settings.state_dir;
        for holder in uploads.holders(to)? {
            let alive = holder == self.service.settings.instance
                || instance::is_alive(state_dir, holder)
                    .map_err(super::state_error("look for daemons in", state_dir))?;
            if !alive {
                uploads.let_go(to, holder)?;
                self.upstream.bell.ring();
            }
        }
        Ok(())
    }

    /// Queues what is here and was registered before the node had this store.
    fn fill(&self, mut after: Option<Digest>) -> Result<Filling, Error> {
        let began = Instant::now();
        let catalog = &self.service.catalog;
        while began.elapsed() < STEP && !self.service.is_stopping() {
            let page = catalog.retention().named_contents(None, after, PAGE)?;
            let Some(last) = page.last() else {
                catalog.uploads().node_filled(&self.upstream.destination)?;
                return Ok(Filling::Done);
            };
            after = Some(last.digest);
            let mut here = Vec::with_capacity(page.len());
            for content in page {
                if !self.service.blobs.copies(&content.digest)?.is_empty() {
                    here.push(content);
                }
            }
            let uploads = catalog.uploads();
            if uploads.queue(&self.upstream.destination, &here, Timestamp::now())? > 0 {
                self.upstream.bell.ring();
            }
        }
        Ok(Filling::Behind(after))
    }

    /// Gives up local copies that the remote store has, in one part of the local store.
    fn evict(&self, time: Duration) -> Result<(), Error> {
        for tier in [Tier::Main, Tier::Archive] {
            let mut old = Vec::new();
            let of_part = StorePart::Contents(tier, self.part);
            self.service.blobs.survey(of_part, &mut |entry| match entry {
                StoreEntry::Content { digest, young: false, .. } => old.push(digest),
                StoreEntry::Content { .. }
                | StoreEntry::Aside { .. }
                | StoreEntry::Partial { .. }
                | StoreEntry::Temporary { .. }
                | StoreEntry::Foreign { .. } => {}
            })?;
            for digest in old {
                if self.service.is_stopping() {
                    return Ok(());
                }
                self.evict_one(&digest, time)?;
            }
        }
        Ok(())
    }

    fn evict_one(&self, digest: &Digest, time: Duration) -> Result<(), Error> {
        let mut size = None;
        for copy in self.service.blobs.copies(digest)? {
            let failed =
                super::state_error("look at a content in", &self.service.settings.state_dir);
            let metadata = copy.file.metadata().map_err(failed)?;
            let age =
                metadata.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
            if age.is_none_or(|age| age < time) {
                return Ok(());
            }
            size = Some(metadata.len());
        }
        let Some(size) = size else { return Ok(()) };
        let content = NamedContent { digest: *digest, size };
        if !self.is_stored(digest)? {
            return Ok(());
        }
        // The books are not enough to give up the copy that may be the last.
        if self.upstream.store.size(digest)? != Some(size) {
            let to = &self.upstream.destination;
            let uploads = self.service.catalog.uploads();
            uploads.send_again(to, &content, true, Timestamp::now())?;
            tracing::warn!(%digest, store = to.remote, "a content is gone from the remote store; it is sent again");
            self.upstream.bell.ring();
            return Ok(());
        }
        self.service.blobs.place(digest, &|| {
            let whereabouts = self.service.catalog.uploads().whereabouts(digest)?;
            if whereabouts.stored_in.contains(&self.upstream.destination.remote) {
                return Ok(Wanted { main: false, archive: false, undo: false });
            }
            self.service.catalog.life().wanted(digest)
        })?;
        Ok(())
    }

    fn is_stored(&self, digest: &Digest) -> Result<bool, Error> {
        let whereabouts = self.service.catalog.uploads().whereabouts(digest)?;
        Ok(whereabouts.stored_in.contains(&self.upstream.destination.remote))
    }
}

/// Removes from the store what nobody names any more.
pub(super) fn remove(service: &Service, upstream: &Upstream) -> Result<(), Error> {
    let uploads = service.catalog.uploads();
    let remote = &upstream.destination.remote;
    loop {
        let now = Timestamp::now();
        let taken = uploads.take_removals(remote, now, now + REMOVAL_LEASE, REMOVALS_MAX)?;
        let count = taken.len();
        if count > 0 {
            upstream.claim_anew(&*service.catalog)?;
        }
        let began = Instant::now();
        for digest in taken {
            // The rest of the lease must suffice for the call.
            if service.is_stopping() || began.elapsed() > REMOVAL_LEASE.unsigned_abs() / 2 {
                return Ok(());
            }
            upstream.store.delete(&digest)?;
            uploads.removed(remote, &digest)?;
        }
        if count < REMOVALS_MAX as usize {
            return Ok(());
        }
    }
}
