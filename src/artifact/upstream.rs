//! The remote store as the daemon's threads share it: how it is doing, who waits for uploads, and who fetches what.
//!
//! While the store fails, one upload at a time is tried, after ever longer pauses; it is said once when that begins and once
//! when it ends.
//!
//! Locking: each of the locks guards some values and is held for no work and together with no other.

use super::error::Error;
use super::ticker::Bell;
use crate::model::digest::Digest;
use crate::storage::Catalog;
use crate::storage::remote::RemoteStore;
use crate::storage::upload::Destination;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Pauses before a store that failed is tried again. Chosen, not measured.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Who waits for uploads looks at least so often: another daemon of the node may be doing them.
const LOOK_PAUSE_MAX: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Upstream {
    pub store: Arc<dyn RemoteStore>,
    pub destination: Destination,
    /// Wakes the threads that send.
    pub bell: Arc<Bell>,
    /// The store was seen to be this catalog's.
    claimed: AtomicBool,
    health: Mutex<Health>,
    /// Counts what was settled.
    progress: Mutex<u64>,
    progressed: Condvar,
    fetching: Mutex<HashSet<Digest>>,
    fetched: Condvar,
}

#[derive(Debug, Default)]
struct Health {
    /// Since the last call that went well.
    failures: u32,
    retry_at: Option<Instant>,
    last_error: Option<String>,
}

/// A panic aborts the process, so that a poisoned lock cannot be met.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Upstream {
    pub fn new(store: Arc<dyn RemoteStore>, destination: Destination) -> Self {
        Self {
            store,
            destination,
            bell: Arc::default(),
            claimed: AtomicBool::new(false),
            health: Mutex::default(),
            progress: Mutex::default(),
            progressed: Condvar::new(),
            fetching: Mutex::default(),
            fetched: Condvar::new(),
        }
    }

    /// Sees that the store is this catalog's, before anything is put there.
    pub fn claim(&self, catalog: &dyn Catalog) -> Result<(), Error> {
        if self.claimed.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.claim_anew(catalog)
    }

    /// The same before anything is removed because of what is there: somebody may have claimed it meanwhile.
    pub fn claim_anew(&self, catalog: &dyn Catalog) -> Result<(), Error> {
        self.store.claim(catalog.uploads().catalog()?)?;
        self.claimed.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether the store failed when it was last used.
    pub fn is_failing(&self) -> bool {
        lock(&self.health).failures > 0
    }

    /// How long the store is left alone from here on.
    pub fn pause(&self) -> Option<Duration> {
        let left = lock(&self.health).retry_at?.checked_duration_since(Instant::now())?;
        Some(left).filter(|left| !left.is_zero())
    }

    pub fn last_error(&self) -> Option<String> {
        lock(&self.health).last_error.clone()
    }

    pub fn failing(&self, reason: &str) {
        let mut health = lock(&self.health);
        let first = health.failures == 0;
        let pause = PAUSE_MIN.saturating_mul(1 << health.failures.min(16)).min(PAUSE_MAX);
        health.failures += 1;
        health.retry_at = Some(Instant::now() + pause);
        health.last_error = Some(reason.to_owned());
        drop(health);
        if first {
            tracing::warn!(%reason, "the remote store cannot be used; what is to be uploaded stays here, and it is tried again");
        }
    }

    pub fn working(&self) {
        let failures = std::mem::take(&mut *lock(&self.health)).failures;
        if failures > 0 {
            tracing::info!("the remote store can be used again");
            self.bell.ring();
        }
    }

    /// Ends the pause, because something may be different.
    pub fn retry_now(&self) {
        lock(&self.health).retry_at = None;
        self.bell.ring();
    }

    /// Uploads were settled.
    pub fn progress(&self) {
        *lock(&self.progress) += 1;
        self.progressed.notify_all();
    }

    /// Waits until `is_done` or the deadline, and answers what it said last.
    pub fn wait_until<E>(
        &self,
        deadline: Instant,
        mut is_done: impl FnMut() -> Result<bool, E>,
    ) -> Result<bool, E> {
        loop {
            let before = *lock(&self.progress);
            let left = deadline.saturating_duration_since(Instant::now());
            if is_done()? || left.is_zero() {
                return is_done();
            }
            let wait = left.min(LOOK_PAUSE_MAX);
            let same = |now: &mut u64| *now == before;
            drop(self.progressed.wait_timeout_while(lock(&self.progress), wait, same));
        }
    }

    /// Does something about a content while nobody else does the same.
    pub fn alone<T>(&self, digest: &Digest, act: impl FnOnce() -> T) -> T {
        let taken = |fetching: &mut HashSet<Digest>| fetching.contains(digest);
        let waited = self.fetched.wait_while(lock(&self.fetching), taken);
        waited.unwrap_or_else(PoisonError::into_inner).insert(*digest);
        let result = act();
        lock(&self.fetching).remove(digest);
        self.fetched.notify_all();
        result
    }
}
