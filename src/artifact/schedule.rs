//! When a file is due for its copy, and who waits for it.
//!
//! A file is due a quiet moment after its last close, so that a rename into place or a second write is one version and
//! not two; at once when somebody waits for it; later when a try failed. Small and large files have lanes of their own:
//! a thousand small ones do not wait behind a terabyte.

use super::dirty_set::{DirtySet, Entry};
use super::record::{FileRef, Place, RunInfo, WorkspaceRecord, WriterRecord};
use crate::model::id::{RunId, WorkspaceId};
use crate::model::path::escape;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest pause before a failed file is tried again. Chosen, not measured: a disk that was full is looked at often
/// enough that nobody waits much longer than for the disk.
const RETRY_MAX: Duration = Duration::from_secs(5);
const RETRY_MIN: Duration = Duration::from_millis(50);

/// The same for what is not expected to heal by itself: many thousands of files may wait for a directory for days.
const RETRY_HOPELESS: Duration = Duration::from_secs(60);

/// The kernel waits for the answer to FLUSH at each close(2) of a writable descriptor, and sends RELEASE before close(2)
/// returns, but does not wait for that answer (fs/fuse/file.c, `fuse_file_put`). So a RELEASE that is to come was sent
/// soon after its FLUSH, and what is left is for a thread of ours to take it. Chosen: machines under load delay threads by
/// some tens of milliseconds; and a drain after the close of a duplicate, which no RELEASE follows, takes so long.
const RELEASE_WITHIN: Duration = Duration::from_secs(1);

/// Most files that an answer names one by one.
const NAMED_MAX: usize = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    Small,
    Large,
}

/// A close that no registration stands for yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pending {
    pub since: Instant,
    /// Position among all closes.
    pub sequence: u64,
}

/// Why the last try failed.
#[derive(Debug, Clone)]
pub(super) struct Stuck {
    pub reason: String,
    /// Trying again is not expected to help, so that nobody should wait for it.
    pub hopeless: bool,
}

/// Which files a drain is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DrainScope {
    /// What the run wrote, open files included.
    Run(RunId),
    /// What was closed in the workspace before the call.
    Workspace { owner_uid: u32, id: WorkspaceId },
    /// What was closed in this owner's workspaces before the call.
    Owner(u32),
    /// What was closed before the call.
    All,
}

/// How a drain ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drained {
    pub complete: bool,
    /// Files that are not registered, as seen in their workspace, and why. At most 1,000 are named.
    pub incomplete: Vec<(String, String)>,
    /// How many there are beyond those that are named.
    pub unnamed: usize,
}

/// A drain in progress.
#[derive(Debug)]
pub(super) struct Drain {
    number: u64,
    scope: DrainScope,
    /// Closes up to this one count; a run's count whenever they happen.
    sequence: u64,
}

#[derive(Debug, Default)]
pub(super) struct Schedule {
    debounce: Duration,
    debounce_max: Duration,
    small: Queue,
    large: Queue,
    /// Workspaces whose file systems do not answer: nothing of theirs is due.
    held: BTreeSet<u32>,
    /// Large files that are copied at this moment, and whose they are.
    copied_large: BTreeMap<FileRef, u32>,
    sequence: u64,
    /// Scopes of drains in progress: what falls into one is due at once.
    urgent: Vec<(u64, DrainScope)>,
    drains: u64,
}

/// Files of one lane in the order in which they are due, by workspace.
#[derive(Debug, Default)]
struct Queue(BTreeMap<u32, BTreeSet<(Instant, FileRef)>>);

impl Queue {
    fn insert(&mut self, due: Instant, file: FileRef) {
        self.0.entry(file.workspace).or_default().insert((due, file));
    }

    fn remove(&mut self, due: Instant, file: FileRef) {
        if let Some(files) = self.0.get_mut(&file.workspace) {
            files.remove(&(due, file));
            if files.is_empty() {
                self.0.remove(&file.workspace);
            }
        }
    }

    /// The next file of the workspaces that may be served.
    fn next(&self, may: impl Fn(u32) -> bool) -> Option<(Instant, FileRef)> {
        let served = self.0.iter().filter(|(workspace, _)| may(**workspace));
        served.filter_map(|(_, files)| files.first()).min().copied()
    }
}

impl Schedule {
    pub fn new(debounce: Duration, debounce_max: Duration) -> Self {
        Self { debounce, debounce_max, ..Self::default() }
    }

    pub fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// Takes the file out of whichever lane it is in.
    pub fn cancel(&mut self, file: FileRef, due: Instant) {
        self.small.remove(due, file);
        self.large.remove(due, file);
    }

    fn lane(&mut self, lane: Lane) -> &mut Queue {
        match lane {
            Lane::Small => &mut self.small,
            Lane::Large => &mut self.large,
        }
    }
}

/// A file to be copied now, and all that the registrar has to know about it.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub file: FileRef,
    pub generation: u64,
    pub place: Place,
    /// Names that it got before, oldest first; what has one may be another file.
    pub older: Vec<Place>,
    pub nameless: bool,
    pub workspace: Arc<WorkspaceRecord>,
    pub run_id: Option<RunId>,
    pub run: Option<Arc<RunInfo>>,
    pub writer: Option<Arc<WriterRecord>>,
    pub closes: u64,
    /// When the file is first known to have existed, in microseconds since 1970.
    pub existed_at: i64,
    pub need: Need,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    Register,
    /// The workspace went away while the file was open; it counts when it changed since this time (microseconds).
    RegisterIfTouchedSince(i64),
    /// The open changed nothing.
    Nothing,
}

/// What became of a job that is not done.
#[derive(Debug)]
pub(super) enum Postponed {
    Failed {
        reason: String,
        hopeless: bool,
    },
    /// It belongs to the other lane.
    Large,
}

impl DirtySet {
    /// Decides anew when the file is due.
    pub(super) fn reschedule(&mut self, file: FileRef, now: Instant) {
        let Some(entry) = self.files.get(&file) else { return };
        let due = if entry.open || entry.copying {
            None
        } else if entry.nameless
            || !(entry.changed || entry.uncertain)
            || self.is_urgent(file, entry)
        {
            Some(now)
        } else {
            let quiet = now + self.schedule.debounce;
            let latest = entry.pending.map(|pending| pending.since + self.schedule.debounce_max);
            Some(latest.map_or(quiet, |latest| quiet.min(latest.max(now))))
        };
        self.set_due(file, due);
    }

    fn set_due(&mut self, file: FileRef, due: Option<Instant>) {
        let Some(entry) = self.files.get_mut(&file) else { return };
        if let Some(before) = entry.due {
            self.schedule.cancel(file, before);
        }
        entry.due = due;
        if let Some(due) = due {
            self.schedule.lane(entry.lane).insert(due, file);
        }
    }

    /// When the next file of the lane is due.
    pub fn next_due(&self, lane: Lane) -> Option<Instant> {
        self.next(lane).map(|(due, _)| due)
    }

    /// The next file of the lane. Of large files each owner has one at a time copied, so that nobody waits behind
    /// another's terabytes while a thread is free.
    fn next(&self, lane: Lane) -> Option<(Instant, FileRef)> {
        let answers = |workspace| !self.schedule.held.contains(&workspace);
        match lane {
            Lane::Small => self.schedule.small.next(answers),
            Lane::Large => {
                let busy = &self.schedule.copied_large;
                let is_free = |workspace| {
                    let workspace = self.workspace(workspace);
                    workspace.is_none_or(|w| !busy.values().any(|owner| *owner == w.owner_uid))
                };
                self.schedule.large.next(|workspace| answers(workspace) && is_free(workspace))
            }
        }
    }

    /// Holds back the files of exactly these workspaces.
    pub fn hold(&mut self, workspaces: BTreeSet<u32>) {
        self.schedule.held = workspaces;
    }

    /// Takes up to `count` files of one workspace that are due.
    pub fn take_due(&mut self, lane: Lane, count: usize, now: Instant) -> Vec<Job> {
        let mut jobs: Vec<Job> = Vec::new();
        while jobs.len() < count {
            let next = match jobs.first() {
                None => self.next(lane),
                Some(first) => {
                    let workspace = first.file.workspace;
                    self.schedule.lane(lane).next(|other| other == workspace)
                }
            };
            match next {
                Some((due, file)) if due <= now => {
                    self.schedule.lane(lane).remove(due, file);
                    let job = self.start(file);
                    if let (Lane::Large, Some(job)) = (lane, &job) {
                        self.schedule.copied_large.insert(file, job.workspace.owner_uid);
                    }
                    jobs.extend(job);
                }
                Some(_) | None => break,
            }
        }
        jobs
    }

    fn start(&mut self, file: FileRef) -> Option<Job> {
        let workspace = self.workspace(file.workspace)?.clone();
        let entry = self.files.get_mut(&file)?;
        entry.due = None;
        entry.copying = true;
        entry.taken = earlier(entry.taken, entry.pending.take());
        let need = match entry {
            Entry { changed: true, .. } => Need::Register,
            Entry { uncertain: true, .. } => Need::RegisterIfTouchedSince(entry.dirtied_at),
            Entry { .. } => Need::Nothing,
        };
        Some(Job {
            file,
            generation: entry.generation,
            place: entry.place.clone(),
            older: entry.older.as_slice().to_vec(),
            nameless: entry.nameless,
            workspace,
            run_id: entry.run,
            writer: entry.writer.clone(),
            closes: entry.closes,
            existed_at: entry.dirtied_at,
            need,
            run: entry.run.and_then(|run| self.run(run).cloned()),
        })
    }

    /// Whether nothing happened to the file since the job was taken.
    pub fn is_current(&self, job: &Job) -> bool {
        self.files.get(&job.file).is_some_and(|entry| entry.generation == job.generation)
    }

    /// The job is done: registered, or found to need nothing. Answers whether the file is forgotten; if not, more
    /// happened to it meanwhile.
    pub fn finish(&mut self, job: &Job, now: Instant) -> bool {
        self.schedule.copied_large.remove(&job.file);
        if self.is_current(job) {
            self.forget(job.file);
            return true;
        }
        if let Some(entry) = self.files.get_mut(&job.file) {
            entry.copying = false;
            entry.taken = None;
            entry.closes -= job.closes.min(entry.closes);
            self.reschedule(job.file, now);
        }
        false
    }

    /// The job is not done and comes up again.
    pub fn postpone(&mut self, job: &Job, why: Postponed, now: Instant) {
        self.schedule.copied_large.remove(&job.file);
        let current = self.is_current(job);
        let Some(entry) = self.files.get_mut(&job.file) else { return };
        entry.copying = false;
        entry.pending = earlier(entry.taken.take(), entry.pending);
        if !current {
            return self.reschedule(job.file, now);
        }
        let due = match why {
            Postponed::Large => {
                entry.lane = Lane::Large;
                now
            }
            Postponed::Failed { reason, hopeless } => {
                let longest = if hopeless { RETRY_HOPELESS } else { RETRY_MAX };
                let pause = RETRY_MIN.saturating_mul(1 << entry.tries.min(16)).min(longest);
                entry.tries += 1;
                entry.stuck = Some(Stuck { reason, hopeless });
                now + pause
            }
        };
        self.set_due(job.file, Some(due));
    }

    /// How often the file was tried since something last happened to it.
    pub fn tries(&self, file: FileRef) -> u32 {
        self.files.get(&file).map_or(0, |entry| entry.tries)
    }

    fn is_urgent(&self, file: FileRef, entry: &Entry) -> bool {
        self.schedule.urgent.iter().any(|(_, scope)| self.falls_into(file, entry, scope))
    }

    fn falls_into(&self, file: FileRef, entry: &Entry, scope: &DrainScope) -> bool {
        let workspace = || self.workspace(file.workspace);
        match scope {
            DrainScope::Run(run) => entry.run == Some(*run),
            DrainScope::Workspace { owner_uid, id } => {
                workspace().is_some_and(|w| w.owner_uid == *owner_uid && w.id == *id)
            }
            DrainScope::Owner(uid) => workspace().is_some_and(|w| w.owner_uid == *uid),
            DrainScope::All => true,
        }
    }

    /// Makes what falls into the scope due at once, until [`end_drain`](Self::end_drain).
    pub fn begin_drain(&mut self, scope: DrainScope, now: Instant) -> Drain {
        self.schedule.drains += 1;
        let number = self.schedule.drains;
        let waiting = |(file, entry): (&FileRef, &Entry)| {
            (entry.due.is_some() && self.falls_into(*file, entry, &scope)).then_some(*file)
        };
        let due: Vec<_> = self.files.iter().filter_map(waiting).collect();
        for file in due {
            self.set_due(file, Some(now));
        }
        self.schedule.urgent.push((number, scope.clone()));
        Drain { number, scope, sequence: self.schedule.sequence }
    }

    /// Open files of the scope of which a descriptor was closed less than [`RELEASE_WITHIN`] ago, and until when to wait for
    /// the kernel to say that it was the last one.
    pub fn closing_in(&self, scope: &DrainScope, now: Instant) -> Vec<(FileRef, Instant)> {
        let closing = self.files.iter().filter(|(file, entry)| {
            entry.open && entry.closing.is_some() && self.falls_into(**file, entry, scope)
        });
        let until =
            closing.filter_map(|(file, entry)| Some((*file, entry.closing? + RELEASE_WITHIN)));
        until.filter(|(_, until)| now < *until).collect()
    }

    pub fn is_closing(&self, file: FileRef) -> bool {
        self.files.get(&file).is_some_and(|entry| entry.open && entry.closing.is_some())
    }

    pub fn end_drain(&mut self, drain: &Drain) {
        self.schedule.urgent.retain(|(number, _)| *number != drain.number);
    }

    /// Whether something is left that the drain should wait for.
    pub fn has_to_wait(&self, drain: &Drain) -> bool {
        self.files.iter().any(|(file, entry)| {
            let hopeless = entry.stuck.as_ref().is_some_and(|stuck| stuck.hopeless);
            let of_run = matches!(drain.scope, DrainScope::Run(_));
            // What was opened again after the call may stay open for ever, and its former bytes are gone.
            !hopeless && (of_run || !entry.open) && self.concerns(drain, *file, entry)
        })
    }

    /// What of the drain's files is not registered.
    pub fn drained(&self, drain: &Drain) -> Drained {
        let mut drained = Drained { complete: true, ..Drained::default() };
        for (file, entry) in &self.files {
            if !self.concerns(drain, *file, entry) {
                continue;
            }
            drained.complete = false;
            let answers = !self.schedule.held.contains(&file.workspace);
            if drained.incomplete.len() < NAMED_MAX {
                drained.incomplete.push((self.shown(*file, entry), reason(entry, answers)));
            } else {
                drained.unnamed += 1;
            }
        }
        drained.incomplete.sort();
        drained
    }

    fn concerns(&self, drain: &Drain, file: FileRef, entry: &Entry) -> bool {
        let counts = match drain.scope {
            DrainScope::Run(_) => true,
            DrainScope::Workspace { .. } | DrainScope::Owner(_) | DrainScope::All => {
                earlier(entry.taken, entry.pending)
                    .is_some_and(|pending| pending.sequence <= drain.sequence)
            }
        };
        counts && self.falls_into(file, entry, &drain.scope)
    }

    fn shown(&self, file: FileRef, entry: &Entry) -> String {
        let mount = self
            .workspace(file.workspace)
            .and_then(|workspace| workspace.mounts.get(usize::from(entry.place.mount)))
            .map_or("?", |mount| mount.name.as_str());
        format!("/workspace/{mount}/{}", escape(entry.place.path.as_bytes()))
    }
}

fn reason(entry: &Entry, answers: bool) -> String {
    if entry.open {
        return "open for writing".to_owned();
    }
    if !answers {
        return "its host directory does not answer".to_owned();
    }
    match &entry.stuck {
        Some(stuck) => stuck.reason.clone(),
        None if entry.copying => "its copy is being taken".to_owned(),
        None => "waits for its copy".to_owned(),
    }
}

fn earlier(one: Option<Pending>, other: Option<Pending>) -> Option<Pending> {
    match (one, other) {
        (Some(one), Some(other)) => Some(Pending {
            since: one.since.min(other.since),
            sequence: one.sequence.min(other.sequence),
        }),
        (one, other) => one.or(other),
    }
}
