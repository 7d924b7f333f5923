//! What the observers, the registrar threads and the callers share.
//!
//! Locks, in the order in which they may be taken together: `journal`, `state`, `sources` or `secrets`. The journal's lock orders
//! events: a record is appended and applied under it, so that the journal and the state always tell the same story. An
//! append is one write(2); rewriting takes milliseconds. Under `state` and `sources` there is no I/O. `attached_at` is
//! taken alone.

use super::dirty_set::DirtySet;
use super::inputs::Inputs;
use super::instance::Instance;
use super::journal::Journal;
use super::record::{FileRef, Record};
use super::rules::Rules;
use super::schedule::{DrainScope, Drained, Job, Lane, Postponed};
use super::secrets::SecretSource;
use super::settings::Settings;
use super::upstream::Upstream;
use super::watch::Watch;
use crate::model::digest::Digest;
use crate::model::id::{MountName, WorkspaceId};
use crate::model::path::VirtualPath;
use crate::secret::find::Finder;
use crate::storage::{BlobError, BlobStore, Catalog};
use crate::vfs::observer::FileSource;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// A drain looks over all followed files after each batch, and after this time without one: a file that was opened again
/// is not waited for any more.
const LOOK_PAUSE_MAX: Duration = Duration::from_millis(500);

/// A look that takes longer than this is followed by a pause. Chosen, not measured.
const LOOK_CHEAP: Duration = Duration::from_micros(200);

/// How often a drain looks whether a file that may be closed is.
const RELEASE_PAUSE: Duration = Duration::from_millis(1);

/// How long opening another file takes longer when nearly as many are followed as may be. Chosen, not measured: eight
/// threads that serve the kernel then begin 800 files a second, about as many as a slow disk lets be registered.
const CROWDED_PAUSE_MAX: Duration = Duration::from_millis(10);

/// How long opening another file waits when as many are followed as may be. Chosen: a batch takes less, and a close,
/// which may be what makes room, waits behind it.
const FULL_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Why a registration is repeated: see [`Service::has_vanished`].
pub(super) const VANISHED: &str = "its content went before its row came";

pub(super) struct Service {
    pub settings: Settings,
    pub rules: Rules,
    pub blobs: Box<dyn BlobStore>,
    pub catalog: Box<dyn Catalog>,
    pub boot: Uuid,
    /// What runs had read; its lock may be taken under each of the others.
    pub inputs: Inputs,
    journal: Mutex<Journal>,
    state: Mutex<DirtySet>,
    /// Something is due earlier than before, or the service stops.
    work: Condvar,
    /// A batch was finished.
    progress: Condvar,
    /// File systems of the attached workspaces; nothing until [`set_source`](Self::set_source).
    sources: Mutex<HashMap<u32, Option<Arc<dyn FileSource>>>>,
    /// When each attached workspace was attached, in microseconds since 1970.
    attached_at: Mutex<HashMap<u32, i64>>,
    /// Secrets of the workspaces, also of one that is gone as long as a file of it is followed.
    secrets: Mutex<HashMap<u32, Arc<dyn SecretSource>>>,
    next_workspace: AtomicU32,
    stopping: AtomicBool,
    /// Whether the storage failed when it was last used: said once when it starts and once when it ends.
    failing: AtomicBool,
    /// This daemon's place in the state directory, until it stops.
    pub instance: Mutex<Option<Instance>>,
    pub watch: Watch,
    /// Which state directory this is.
    pub node: Uuid,
    /// The remote store, where there is one.
    pub upstream: Option<Arc<Upstream>>,
    /// Called after each change that has events.
    on_events: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// A panic aborts the process, so that a poisoned lock cannot be met.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a service is made of.
pub(super) struct Parts {
    pub settings: Settings,
    pub rules: Rules,
    pub blobs: Box<dyn BlobStore>,
    pub catalog: Box<dyn Catalog>,
    pub boot: Uuid,
    pub journal: Journal,
    pub state: DirtySet,
    pub instance: Instance,
    pub watch: Watch,
    pub node: Uuid,
    pub upstream: Option<Arc<Upstream>>,
}

impl Service {
    pub fn new(parts: Parts) -> Self {
        let bounds = super::inputs::Bounds {
            inputs_max: parts.settings.inputs_max,
            bytes_max: parts.settings.input_bytes_max,
        };
        Self {
            inputs: Inputs::new(bounds),
            settings: parts.settings,
            rules: parts.rules,
            blobs: parts.blobs,
            catalog: parts.catalog,
            boot: parts.boot,
            journal: Mutex::new(parts.journal),
            state: Mutex::new(parts.state),
            work: Condvar::new(),
            progress: Condvar::new(),
            sources: Mutex::default(),
            attached_at: Mutex::default(),
            secrets: Mutex::default(),
            next_workspace: AtomicU32::new(1),
            stopping: AtomicBool::new(false),
            failing: AtomicBool::new(false),
            instance: Mutex::new(Some(parts.instance)),
            watch: parts.watch,
            node: parts.node,
            upstream: parts.upstream,
            on_events: OnceLock::new(),
        }
    }

    pub fn journal(&self) -> MutexGuard<'_, Journal> {
        lock(&self.journal)
    }

    pub fn state(&self) -> MutexGuard<'_, DirtySet> {
        lock(&self.state)
    }

    pub fn ignores(&self, mount: &MountName, path: &VirtualPath) -> bool {
        self.rules.ignores(mount, path)
    }

    pub fn set_secrets(&self, workspace: u32, secrets: Arc<dyn SecretSource>) {
        lock(&self.secrets).insert(workspace, secrets);
    }

    fn secrets(&self, workspace: u32) -> Option<Arc<dyn SecretSource>> {
        lock(&self.secrets).get(&workspace).cloned()
    }

    /// What is looked for in a workspace's files; nothing when its secrets are not known.
    pub fn finder(&self, workspace: u32) -> Option<Arc<Finder>> {
        self.secrets(workspace).map(|secrets| secrets.finder())
    }

    /// What is looked for in what somebody sends to a workspace; nothing when its secrets are not known.
    pub fn finder_of(&self, owner: u32, id: &WorkspaceId) -> Option<Arc<Finder>> {
        let mut called = self.state().workspaces_called(owner, id);
        // The latest of that name is the one that exists.
        called.sort_unstable();
        called.into_iter().rev().find_map(|number| self.finder(number))
    }

    /// What is masked in texts about a workspace's files.
    pub fn masker(&self, workspace: u32) -> Option<Arc<Finder>> {
        self.secrets(workspace).map(|secrets| secrets.masker())
    }

    /// Lets go of the secrets of workspaces that are gone and left nothing to register.
    fn forget_secrets(&self, workspaces: impl IntoIterator<Item = u32>) {
        for workspace in workspaces {
            let unused = !self.is_attached(workspace) && !self.state().follows_any_of(workspace);
            // Dropped outside of the lock: overwriting takes its time.
            let forgotten = if unused { lock(&self.secrets).remove(&workspace) } else { None };
            drop(forgotten);
        }
    }

    /// Whether a content that was taken after `began` has gone before its row was stored, as when this machine slept meanwhile. Asked
    /// after the row is stored: from there on it is wanted.
    pub fn has_vanished(&self, began: Timestamp, digest: &Digest) -> Result<bool, BlobError> {
        let doubt = SignedDuration::try_from(self.settings.doubt).unwrap_or(SignedDuration::MAX);
        // The clock that file times are from; one that was set back proves nothing.
        let took = Timestamp::now().duration_since(began);
        if !took.is_negative() && took < doubt {
            return Ok(false);
        }
        Ok(self.blobs.copies(digest)?.is_empty())
    }

    /// The first one stays.
    pub fn set_on_events(&self, call: Box<dyn Fn() + Send + Sync>) {
        let _ = self.on_events.set(call);
    }

    /// Something was written to the catalog that has events. Who is not told finds them a little later.
    pub fn tell_of_events(&self) {
        if let Some(call) = self.on_events.get() {
            call();
        }
        if let Some(upstream) = &self.upstream {
            upstream.bell.ring();
        }
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// A number that no workspace in this journal has.
    pub fn next_workspace(&self) -> u32 {
        self.next_workspace.fetch_add(1, Ordering::Relaxed)
    }

    /// Changes the state and wakes the registrar when something became due earlier. Later is no reason: a thousand
    /// closes in a row wake it once.
    pub fn change<T>(&self, change: impl FnOnce(&mut DirtySet) -> T) -> T {
        let mut state = self.state();
        let next = |state: &DirtySet| [state.next_due(Lane::Small), state.next_due(Lane::Large)];
        let before = next(&state);
        let result = change(&mut state);
        let earlier = |(before, after): (&Option<Instant>, &Option<Instant>)| {
            after.is_some_and(|after| before.is_none_or(|before| after < before))
        };
        if before.iter().zip(&next(&state)).any(earlier) {
            self.work.notify_all();
        }
        result
    }

    pub fn attach_source(&self, workspace: u32) {
        lock(&self.sources).insert(workspace, None);
        lock(&self.attached_at).insert(workspace, jiff::Timestamp::now().as_microsecond());
    }

    pub fn set_source(&self, workspace: u32, source: Arc<dyn FileSource>) {
        if let Some(slot) = lock(&self.sources).get_mut(&workspace) {
            *slot = Some(source);
        }
    }

    pub fn source(&self, workspace: u32) -> Option<Arc<dyn FileSource>> {
        lock(&self.sources).get(&workspace).cloned().flatten()
    }

    /// Lets go of every file system, which holds its observer and with it this service.
    pub fn forget_sources(&self) {
        let sources = std::mem::take(&mut *lock(&self.sources));
        drop(sources);
        let secrets = std::mem::take(&mut *lock(&self.secrets));
        drop(secrets);
    }

    /// When the workspace was attached; nothing when it is not.
    pub fn attached_at(&self, workspace: u32) -> Option<i64> {
        lock(&self.attached_at).get(&workspace).copied()
    }

    fn is_attached(&self, workspace: u32) -> bool {
        lock(&self.sources).contains_key(&workspace)
    }

    /// The workspace is gone; what it left is found by its paths from here on.
    pub fn detach(&self, workspace: u32) {
        // The source is dropped outside of every lock: it may be the last owner of a whole file system.
        let source = lock(&self.sources).remove(&workspace);
        drop(source);
        lock(&self.attached_at).remove(&workspace);
        self.inputs.detach(workspace);
        self.change(|state| state.orphan(workspace, Instant::now()));
        self.forget_secrets([workspace]);
    }

    pub fn attached(&self) -> Vec<u32> {
        lock(&self.sources).keys().copied().collect()
    }

    /// Puts records into the journal that only say more; all or none.
    pub fn append_and_apply(&self, records: &[Record]) -> std::io::Result<()> {
        let mut journal = self.journal();
        journal.append(records)?;
        self.change(|state| {
            let now = Instant::now();
            for record in records {
                state.apply(record, now);
            }
        });
        Ok(())
    }

    /// Pushes back before another file is followed: slower the less room is left, and at the bound, after a wait, by
    /// ENFILE. Called by threads that serve the kernel, so that both waits have bounds of their own.
    pub fn make_room(&self) -> std::io::Result<()> {
        let most = self.settings.files_max;
        let crowded = most - most / 4;
        let mut state = self.state();
        if state.len() < crowded {
            return Ok(());
        }
        if state.len() < most {
            let steps = u32::try_from(state.len() - crowded + 1).unwrap_or(u32::MAX);
            let all = u32::try_from(most / 4).unwrap_or(u32::MAX).max(1);
            let pause = CROWDED_PAUSE_MAX.mul_f64(f64::from(steps) / f64::from(all));
            drop(self.progress.wait_timeout(state, pause));
            return Ok(());
        }
        let deadline = Instant::now() + FULL_PAUSE_MAX;
        while state.len() >= most {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.is_stopping() {
                return Err(nix::errno::Errno::ENFILE.into());
            }
            state =
                self.progress.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// Waits until the file is not followed any more, the deadline, or the end of the service.
    pub fn wait_until_settled(&self, file: FileRef, deadline: Instant) {
        let mut state = self.state();
        while state.follows(file) && !self.is_stopping() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let wait = left.min(LOOK_PAUSE_MAX);
            state =
                self.progress.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for due files of the lane and takes up to `count`; nothing once the service stops.
    pub fn wait_for_jobs(&self, lane: Lane, count: usize) -> Option<Vec<Job>> {
        let mut state = self.state();
        loop {
            if self.is_stopping() {
                return None;
            }
            let now = Instant::now();
            let jobs = state.take_due(lane, count, now);
            if !jobs.is_empty() {
                return Some(jobs);
            }
            state = match state.next_due(lane) {
                Some(due) => {
                    let wait = due.saturating_duration_since(now);
                    self.work.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Holds back the files of exactly these workspaces, whose file systems do not answer.
    pub fn hold(&self, workspaces: BTreeSet<u32>) {
        self.inputs.hold(workspaces.clone());
        self.change(|state| state.hold(workspaces));
    }

    /// Forgets what is done, acknowledges it in the journal, and puts off what is not.
    pub fn finish(&self, done: Vec<Job>, postponed: Vec<(Job, Postponed)>) {
        let mut settled: Vec<FileRef> = Vec::new();
        {
            let mut journal = self.journal();
            self.change(|state| {
                let now = Instant::now();
                for (job, why) in postponed {
                    state.postpone(&job, why, now);
                }
                for job in done {
                    if state.finish(&job, now) {
                        settled.push(job.file);
                    }
                }
            });
            // Under the journal's lock: the next opening of the file is noted after this.
            settled.iter().for_each(|&file| self.inputs.forget(file));
            let records: Vec<_> = settled.iter().map(|&file| Record::Settled { file }).collect();
            if !records.is_empty() {
                // Without this record recovery registers the file once more, which makes no second version.
                journal.append_or_rewrite_later(&records);
            }
            self.rewrite_if_worth_it(&mut journal);
        }
        self.progress.notify_all();
        self.forget_secrets(settled.iter().map(|file| file.workspace).collect::<BTreeSet<_>>());
        for file in settled {
            if let Some(source) = self.source(file.workspace) {
                source.settled(file.file);
            }
        }
    }

    fn rewrite_if_worth_it(&self, journal: &mut Journal) {
        let mut state = self.state();
        if !journal.wants_rewrite(state.journal_bytes()) {
            return;
        }
        let records = state.records(|workspace| self.is_attached(workspace));
        drop(state);
        if let Err(error) = journal.rewrite(&records) {
            self.failing(&error);
        }
    }

    /// Waits for what the kernel is about to say of descriptors that were closed before: close(2) returns earlier.
    fn wait_for_releases(&self, scope: &DrainScope, deadline: Instant) {
        match scope {
            // It waits for open files too.
            DrainScope::Run(_) => return,
            DrainScope::Workspace { .. } | DrainScope::Owner(_) | DrainScope::All => {}
        }
        let closing = self.state().closing_in(scope, Instant::now());
        for (file, until) in closing {
            let until = until.min(deadline);
            while self.state().is_closing(file) && Instant::now() < until && !self.is_stopping() {
                std::thread::sleep(RELEASE_PAUSE);
            }
        }
    }

    /// Waits until nothing of the scope is left to wait for, or the deadline. What was closed before the call counts.
    pub fn drain(&self, scope: DrainScope, deadline: Instant) -> Drained {
        self.wait_for_releases(&scope, deadline);
        let drain = self.change(|state| state.begin_drain(scope, Instant::now()));
        let mut state = self.state();
        loop {
            let look = Instant::now();
            if !state.has_to_wait(&drain) || look >= deadline || self.is_stopping() {
                break;
            }
            let took = look.elapsed();
            let left = || deadline.saturating_duration_since(Instant::now());
            let wait = left().min(LOOK_PAUSE_MAX);
            state =
                self.progress.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
            if took > LOOK_CHEAP {
                // However many files are followed, looking at them takes a small part of the time.
                drop(state);
                std::thread::sleep((took * 10).min(left()));
                state = self.state();
            }
        }
        state.end_drain(&drain);
        state.drained(&drain)
    }

    /// The storage failed; says so once. Answers the whole chain of causes.
    pub fn failing(&self, error: &(dyn std::error::Error + 'static)) -> String {
        let reason = crate::telemetry::sentence(error);
        if !self.failing.swap(true, Ordering::Relaxed) {
            tracing::warn!(%reason, "artifacts cannot be stored; they are kept waiting and tried again");
        }
        reason
    }

    /// The storage worked; says so once after it had failed.
    pub fn working(&self) {
        if self.failing.swap(false, Ordering::Relaxed) {
            tracing::info!("artifacts are stored again");
        }
    }

    /// Ends the registrar threads after what they are doing.
    pub fn stop(&self) {
        // Under the lock: a thread that has just looked at the flag is waiting when it is told.
        let state = self.state();
        self.stopping.store(true, Ordering::Relaxed);
        self.work.notify_all();
        self.progress.notify_all();
        drop(state);
        self.inputs.stop();
    }
}
