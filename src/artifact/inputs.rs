//! What runs in progress have opened for reading, and how much of it before which output.
//!
//! A run's inputs are numbered in the order in which they were opened; an output notes how many there were when it was opened
//! for writing and when it was closed. An input is noted once for a file as it is: opened again unchanged it is the same
//! one. Here it is kept until its digest is taken and its row is stored, both by `input_digests`.
//!
//! This is an over-approximation: all that a run had read before, not what it used. What was not seen is not in it:
//! descriptors that a run inherits, and paths that are exposed to it past the workspace.
//!
//! Lock: `state`, taken for the look-up of a map by every open for reading of a run. It is the last of the service's locks,
//! and there is no I/O under it. *Exception:* a file is pinned under it, which is one atomic step of the file system's: pinned
//! earlier, most opens would pay for it; later, a digest could be taken and the file let go before.

use super::input_digests::DigestCache;
use super::record::FileRef;
use crate::model::id::RunId;
use crate::storage::lineage::{Input, InputBounds, InputPlace};
use crate::vfs::observer::{Opening, ReadStamp};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long inputs gather before their digests are taken, so that a thousand opens wake one thread a few times. Chosen: far
/// below the time for which most inputs stay as they are.
const GATHER: Duration = Duration::from_millis(20);

/// How much of a run's inputs is read for digests. Chosen, not measured: some ten seconds of a processor.
const RUN_BYTES_MAX: u64 = 16 << 30;

/// Why an input has no digest.
pub(super) const WORKSPACE_ENDED: &str = "its workspace ended before its digest was taken";

/// Bounds of one daemon.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub inputs_max: u64,
    pub bytes_max: u64,
}

/// An input whose digest is to be taken.
#[derive(Debug)]
pub(super) struct Waiting {
    pub file: FileRef,
    pub stamp: ReadStamp,
    pub input: Input,
}

/// A workspace, as far as its inputs are concerned.
#[derive(Debug)]
pub(super) struct Reader {
    pub workspace: u32,
    pub owner_uid: u32,
    pub mounts: HashMap<crate::model::id::MountName, PathBuf>,
}

#[derive(Debug, Default)]
struct RunInputs {
    /// What each file was like when it was noted last.
    seen: HashMap<FileRef, Option<ReadStamp>>,
    /// How many inputs were noted; one more than the bound when others were not.
    count: u64,
    bytes: u64,
    /// Whether it opened anything for writing: a run that writes nothing is no version's maker.
    wrote: bool,
    waiting: usize,
    /// Complete, and not stored.
    rows: Vec<Input>,
    /// Rows that are being stored at this moment.
    storing: usize,
    ended: bool,
}

impl RunInputs {
    /// Nothing more will come of it.
    fn is_over(&self) -> bool {
        let nothing_left = self.waiting == 0 && self.storing == 0 && self.rows.is_empty();
        self.ended && (!self.wrote || nothing_left)
    }
}

/// How many of its run's inputs had been opened at the last open of a file for writing, and at its close.
#[derive(Debug, Clone, Copy)]
struct Mark {
    run: RunId,
    before: u64,
    until: Option<u64>,
}

#[derive(Debug, Default)]
struct State {
    runs: HashMap<RunId, RunInputs>,
    marks: HashMap<FileRef, Mark>,
    /// By workspace, so that one whose file system does not answer holds up no other.
    queue: BTreeMap<u32, VecDeque<Waiting>>,
    held: BTreeSet<u32>,
    digests: DigestCache,
    /// When gathered inputs are due.
    due: Option<Instant>,
    stopping: bool,
}

#[derive(Debug)]
pub(super) struct Inputs {
    bounds: Bounds,
    state: Mutex<State>,
    /// Something is due, or the service stops.
    work: Condvar,
    /// A run is over.
    over: Condvar,
}

/// What a thread is to do.
#[derive(Debug)]
pub(super) enum Task {
    Digest(Vec<Waiting>),
    Store(Vec<Input>),
}

impl Inputs {
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, state: Mutex::default(), work: Condvar::new(), over: Condvar::new() }
    }

    /// A panic aborts the process, so that a poisoned lock cannot be met.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn begin_run(&self, run: RunId) {
        if self.bounds.inputs_max == 0 {
            return;
        }
        self.state().runs.entry(run).or_default();
    }

    /// A run opens a file for reading.
    pub fn read_opened(
        &self,
        reader: &Reader,
        file: FileRef,
        stamp: Option<ReadStamp>,
        run: RunId,
        opening: &dyn Opening,
    ) {
        if self.state().is_known(run, file, stamp, self.bounds.inputs_max) {
            return;
        }
        let place = opening.location().and_then(|at| {
            let host_path = reader.mounts.get(&at.mount)?.join(at.path.as_path());
            let host_path = host_path.into_os_string().into_encoded_bytes();
            Some(InputPlace { mount: at.mount, path: at.path, host_path })
        });
        let mut state = self.state();
        // Another thread may have come first.
        if state.is_known(run, file, stamp, self.bounds.inputs_max) {
            return;
        }
        let state = &mut *state;
        let Some(inputs) = state.runs.get_mut(&run) else { return };
        inputs.count += 1;
        let mut input = Input {
            run,
            number: inputs.count,
            owner_uid: reader.owner_uid,
            place,
            size: stamp.map(|stamp| stamp.size),
            modified_at: stamp.and_then(|stamp| modified_at(&stamp)),
            digest: None,
            reason: None,
            opened_at: Timestamp::now(),
        };
        if inputs.count > self.bounds.inputs_max {
            input.place = None;
            (input.size, input.modified_at) = (None, None);
            let most = self.bounds.inputs_max;
            input.reason =
                Some(format!("the run read more than {most} files; the others are not noted"));
        } else {
            inputs.seen.insert(file, stamp);
            input.digest = stamp.and_then(|stamp| state.digests.get(&stamp));
            input.reason = match stamp {
                _ if input.digest.is_some() => None,
                _ if input.place.is_none() => {
                    Some("a file that had no name any more when it was opened".to_owned())
                }
                None => Some("it could not be looked at".to_owned()),
                Some(stamp) if stamp.size > self.bounds.bytes_max => Some(format!(
                    "too large: its {} bytes are more than artifacts.input_size_max",
                    stamp.size
                )),
                Some(stamp) if inputs.bytes.saturating_add(stamp.size) > RUN_BYTES_MAX => {
                    Some(format!("its run had read more than {} GiB", RUN_BYTES_MAX >> 30))
                }
                Some(stamp) => {
                    inputs.bytes += stamp.size;
                    None
                }
            };
        }
        match stamp.filter(|_| input.digest.is_none() && input.reason.is_none()) {
            Some(stamp) => {
                opening.pin();
                inputs.waiting += 1;
                let waiting = Waiting { file, stamp, input };
                state.queue.entry(file.workspace).or_default().push_back(waiting);
            }
            None => inputs.rows.push(input),
        }
        self.gather(state);
    }

    /// Wakes a thread in a moment, unless one will wake anyway.
    fn gather(&self, state: &mut State) {
        if state.due.is_none() {
            state.due = Some(Instant::now() + GATHER);
            self.work.notify_one();
        }
    }

    /// A file is about to be open for writing. What it is made from counts from its last opening: closes that follow each
    /// other may become one version.
    pub fn writing_opened(&self, file: FileRef, run: Option<RunId>) {
        let mut state = self.state();
        let state = &mut *state;
        match run.and_then(|run| Some((run, state.runs.get_mut(&run)?))) {
            Some((run, inputs)) => {
                inputs.wrote = true;
                state.marks.insert(file, Mark { run, before: inputs.count, until: None });
                if !inputs.rows.is_empty() {
                    self.gather(state);
                }
            }
            None => {
                state.marks.remove(&file);
            }
        }
    }

    /// The last writable handle is gone.
    pub fn writing_closed(&self, file: FileRef) {
        let mut state = self.state();
        let state = &mut *state;
        if let Some(mark) = state.marks.get_mut(&file) {
            mark.until = state.runs.get(&mark.run).map(|inputs| inputs.count);
        }
    }

    /// A file that nobody followed was renamed into place. When it was opened for writing is not known; it was before.
    pub fn named(&self, file: FileRef, run: Option<RunId>) {
        if self.state().marks.contains_key(&file) {
            return;
        }
        self.writing_opened(file, run);
        self.writing_closed(file);
    }

    /// How many of its run's inputs a file can have been made from.
    pub fn bounds_of(&self, file: FileRef, run: Option<RunId>) -> Option<InputBounds> {
        let state = self.state();
        let mark = state.marks.get(&file).filter(|mark| Some(mark.run) == run)?;
        Some(InputBounds { before: mark.before, until: mark.until.unwrap_or(InputBounds::ALL) })
    }

    /// The file is not followed any more.
    pub fn forget(&self, file: FileRef) {
        self.state().marks.remove(&file);
    }

    /// A digest that is known from elsewhere.
    pub fn learn(&self, stamp: ReadStamp, digest: crate::model::digest::Digest) {
        self.state().digests.learn(stamp, digest);
    }

    pub fn known(&self, stamp: &ReadStamp) -> Option<crate::model::digest::Digest> {
        self.state().digests.get(stamp)
    }

    /// Whether the run goes on in this daemon, or has inputs that are not stored.
    pub fn is_live(&self, run: RunId) -> bool {
        self.state().runs.contains_key(&run)
    }

    /// The run opens nothing more. Waits until its inputs are stored, at most until the deadline; what is not by then is stored
    /// by the threads later. Inputs of a workspace that does not answer are not waited for.
    pub fn end_run(&self, run: RunId, deadline: Instant) {
        let mut state = self.state();
        let Some(inputs) = state.runs.get_mut(&run) else { return };
        inputs.ended = true;
        state.hurry();
        self.work.notify_all();
        loop {
            state.forget_over();
            let left = deadline.saturating_duration_since(Instant::now());
            let held = state.held.iter().any(|workspace| {
                state.queue.get(workspace).is_some_and(|q| q.iter().any(|w| w.input.run == run))
            });
            if !state.runs.contains_key(&run) || left.is_zero() || held || state.stopping {
                return;
            }
            state = self.over.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Ends every run, as [`end_run`](Self::end_run) does.
    pub fn end_all(&self, deadline: Instant) {
        let runs: Vec<RunId> = self.state().runs.keys().copied().collect();
        for run in runs {
            self.end_run(run, deadline);
        }
    }

    /// The workspace is gone, and with it the way to its files.
    pub fn detach(&self, workspace: u32) {
        let mut state = self.state();
        let left = state.queue.remove(&workspace).unwrap_or_default();
        for waiting in left {
            state.finish(waiting.input, Err(WORKSPACE_ENDED.to_owned()));
        }
        state.hurry();
        self.work.notify_all();
    }

    /// Takes nothing from exactly these workspaces, whose file systems do not answer.
    pub fn hold(&self, workspaces: BTreeSet<u32>) {
        let mut state = self.state();
        state.held = workspaces;
        state.hurry();
        self.work.notify_all();
        self.over.notify_all();
    }

    /// What a thread is to do next; nothing once the service stops.
    pub fn next(&self, count: usize) -> Option<Task> {
        let mut state = self.state();
        loop {
            if state.stopping {
                return None;
            }
            let now = Instant::now();
            if state.due.is_some_and(|due| due <= now) {
                if let Some(task) = state.take(count) {
                    return Some(task);
                }
                state.due = None;
            }
            state = match state.due {
                Some(due) => {
                    let wait = due.saturating_duration_since(now);
                    self.work.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// The digest of an input was taken, or why it could not.
    pub fn digested(&self, input: Input, digest: Result<crate::model::digest::Digest, String>) {
        let mut state = self.state();
        state.finish(input, digest);
        // The thread that took it stores it next, unless another one does before.
        state.due.get_or_insert(Instant::now());
    }

    /// Rows are durable, or are never going to be.
    pub fn stored(&self, rows: &[Input]) {
        let mut state = self.state();
        for row in rows {
            if let Some(inputs) = state.runs.get_mut(&row.run) {
                inputs.storing -= 1;
            }
        }
        state.forget_over();
        self.over.notify_all();
    }

    /// Rows could not be stored; they are tried again after a pause.
    pub fn not_stored(&self, rows: Vec<Input>, pause: Duration) {
        let mut state = self.state();
        for row in rows {
            if let Some(inputs) = state.runs.get_mut(&row.run) {
                inputs.storing -= 1;
                inputs.rows.push(row);
            }
        }
        state.due = Some(Instant::now() + pause);
        self.work.notify_one();
    }

    pub fn stop(&self) {
        self.state().stopping = true;
        self.work.notify_all();
        self.over.notify_all();
    }
}

impl State {
    /// Whether an open is no news: a run that nobody follows, a file that was noted as it is, a bound that was met.
    fn is_known(
        &self,
        run: RunId,
        file: FileRef,
        stamp: Option<ReadStamp>,
        inputs_max: u64,
    ) -> bool {
        let Some(inputs) = self.runs.get(&run) else { return true };
        inputs.ended
            || inputs.count > inputs_max
            || inputs.seen.get(&file).is_some_and(|seen| *seen == stamp)
    }

    fn hurry(&mut self) {
        self.due = Some(Instant::now());
    }

    fn finish(&mut self, mut input: Input, digest: Result<crate::model::digest::Digest, String>) {
        let Some(inputs) = self.runs.get_mut(&input.run) else { return };
        inputs.waiting -= 1;
        match digest {
            Ok(digest) => input.digest = Some(digest),
            Err(reason) => input.reason = Some(reason),
        }
        inputs.rows.push(input);
    }

    /// Digests come first: files may change, rows do not.
    fn take(&mut self, count: usize) -> Option<Task> {
        let held = &self.held;
        if let Some((_, queue)) = self.queue.iter_mut().find(|(ws, _)| !held.contains(ws)) {
            let taken: Vec<Waiting> = queue.drain(..count.min(queue.len())).collect();
            self.queue.retain(|_, queue| !queue.is_empty());
            return Some(Task::Digest(taken));
        }
        let mut rows = Vec::new();
        for inputs in self.runs.values_mut().filter(|inputs| inputs.wrote) {
            inputs.storing += inputs.rows.len();
            rows.append(&mut inputs.rows);
        }
        (!rows.is_empty()).then_some(Task::Store(rows))
    }

    fn forget_over(&mut self) {
        self.runs.retain(|_, inputs| !inputs.is_over());
    }
}

/// `None` for times that no calendar has.
fn modified_at(stamp: &ReadStamp) -> Option<Timestamp> {
    let nanoseconds = i32::try_from(stamp.modified.nanoseconds).ok()?;
    Timestamp::new(stamp.modified.seconds, nanoseconds).ok()
}
