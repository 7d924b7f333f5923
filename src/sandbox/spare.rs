//! Sandboxes that are begun before anybody wants a run. One is kept ready, so that a run waits neither for the start of a process
//! nor for its namespaces nor for the part of the root file system that every run has alike.
//!
//! A spare knows nothing of a run: no plan, no secret, no workspace. It serves one run and is never used again. What the host
//! lends was lent when it was begun; it is used only while the host would lend the same (`rootfs::Survey`), and is
//! ended when that has changed. Whoever finds none begins a sandbox of his own, as if there were no spares.
//!
//! Threads: one makes spares and looks after the one that waits. Lock: `state`, never held while a spare is made, looked at or ended.

use super::launcher::Launcher;
use super::plan::{Basis, SandboxPlan};
use super::rootfs::{self, Survey, Surveyor};
use super::spawn::{SandboxDescriptors, Spare};
use crate::sys::release;
use crate::telemetry::sentence;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// After one was taken, how long the next waits for the end of the run that took it: making it would take a processor from that
/// run's start. Chosen, not measured: longer than a start takes.
const REFILL_AFTER: Duration = Duration::from_millis(50);

/// How often the spare that waits is looked at: it holds the file systems that it was lent. Chosen, not measured.
const LOOK_PAUSE: Duration = Duration::from_secs(10);

/// How long a run waits for a spare that is being made. Making one takes milliseconds.
const PATIENCE: Duration = Duration::from_millis(250);

/// After one could not be made, how long before the next attempt, unless a run ends earlier. Chosen, not measured.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// How many are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    None,
    /// None is there before a run is wanted; one is made while the run's workspace is. For a command with a private daemon.
    OnDemand,
    /// One from the start on, and another after each that was used.
    Always,
}

/// The spare of a daemon.
#[derive(Debug)]
pub struct Spares {
    shared: Arc<Shared>,
    maker: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    launcher: Launcher,
    basis: Basis,
    keep: Keep,
    state: Mutex<State>,
    changed: Condvar,
    surveyor: Mutex<Surveyor>,
}

#[derive(Debug)]
struct State {
    stage: Stage,
    /// When the next is to be made; `None` while nobody has used the last.
    due: Option<Instant>,
    /// A run waits for the one that is being made.
    awaited: bool,
    stopping: bool,
}

#[derive(Debug)]
enum Stage {
    Absent,
    Making,
    Ready(Box<(Spare, Survey)>),
}

impl Spares {
    /// Begins to make them, for plans with this basis.
    pub fn start(launcher: Launcher, basis: Basis, keep: Keep) -> io::Result<Self> {
        let due = match keep {
            Keep::None | Keep::OnDemand => None,
            Keep::Always => Some(Instant::now()),
        };
        let shared = Arc::new(Shared {
            launcher,
            basis,
            keep,
            state: Mutex::new(State { stage: Stage::Absent, due, awaited: false, stopping: false }),
            changed: Condvar::new(),
            surveyor: Mutex::new(Surveyor::new()?),
        });
        let maker = match keep {
            Keep::None => None,
            Keep::OnDemand | Keep::Always => {
                let shared = Arc::clone(&shared);
                let thread = std::thread::Builder::new().name("spares".to_owned());
                Some(thread.spawn(move || shared.make_and_look_after())?)
            }
        };
        Ok(Self { shared, maker: Mutex::new(maker) })
    }

    /// A run is going to want one: where there is none, it is made while the run's workspace is.
    pub fn expect_run(&self) {
        let mut state = self.shared.state();
        match (self.shared.keep, &state.stage) {
            (Keep::None, _) | (_, Stage::Making | Stage::Ready(_)) => {}
            (Keep::OnDemand | Keep::Always, Stage::Absent) => {
                // Seen as being made from here on, so that the run waits for it.
                state.stage = Stage::Making;
                state.due = Some(Instant::now());
                self.shared.changed.notify_all();
            }
        }
    }

    /// A begun sandbox that fits the plan, if there is one.
    pub fn take(&self, plan: &SandboxPlan, descriptors: &SandboxDescriptors) -> Option<Spare> {
        // The first process joins cgroups before anything else: what it has used already would not be counted there.
        if !descriptors.cgroups.is_empty() || self.shared.basis != plan.basis() {
            return None;
        }
        let mut state = self.shared.state();
        if let Stage::Making = state.stage
            && !state.awaited
        {
            state.awaited = true;
            let making =
                |state: &mut State| matches!(state.stage, Stage::Making) && !state.stopping;
            let waited = self.shared.changed.wait_timeout_while(state, PATIENCE, making);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.awaited = false;
        }
        let (spare, survey) = *state.take_ready()?;
        if self.shared.keep == Keep::Always {
            state.due = Some(Instant::now() + REFILL_AFTER);
            self.shared.changed.notify_all();
        }
        drop(state);
        if spare.is_alive() && self.shared.is_up_to_date(&survey) {
            return Some(spare);
        }
        // Ending it waits for its processes.
        release::elsewhere(spare);
        None
    }

    /// A run has ended; whoever has used a spare is not held up any more by making another.
    pub fn run_ended(&self) {
        let mut state = self.shared.state();
        if let Some(due) = &mut state.due {
            *due = Instant::now();
            self.shared.changed.notify_all();
        }
    }

    /// Ends the one that waits, and makes no more.
    pub fn stop(&self) {
        self.shared.state().stopping = true;
        self.shared.changed.notify_all();
        let maker = self.maker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(maker) = maker {
            // A panic would have ended the process.
            let _ = maker.join();
        }
        let waiting = self.shared.state().take_ready();
        drop(waiting);
    }
}

impl Drop for Spares {
    fn drop(&mut self) {
        self.stop();
    }
}

impl State {
    fn take_ready(&mut self) -> Option<Box<(Spare, Survey)>> {
        match std::mem::replace(&mut self.stage, Stage::Absent) {
            Stage::Ready(ready) => Some(ready),
            other => {
                self.stage = other;
                None
            }
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn survey(&self) -> io::Result<Survey> {
        self.surveyor.lock().unwrap_or_else(PoisonError::into_inner).look()
    }

    fn is_up_to_date(&self, survey: &Survey) -> bool {
        // What cannot be looked at is taken for changed.
        self.survey().is_ok_and(|found| found == *survey)
    }

    /// The thread's life.
    fn make_and_look_after(&self) {
        loop {
            let mut state = self.state();
            let stale = loop {
                if state.stopping {
                    return;
                }
                let pause = match (&state.stage, state.due) {
                    (Stage::Absent | Stage::Making, Some(due)) => {
                        let left = due.saturating_duration_since(Instant::now());
                        if left.is_zero() {
                            break None;
                        }
                        left
                    }
                    (Stage::Absent | Stage::Making, None) | (Stage::Ready(_), _) => LOOK_PAUSE,
                };
                let waited = self.changed.wait_timeout(state, pause);
                let (woken, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                state = woken;
                if timeout.timed_out()
                    && let Some(ready) = state.take_ready()
                {
                    // A run that comes meanwhile waits for it.
                    state.stage = Stage::Making;
                    break Some(ready);
                }
            };
            match stale {
                Some(ready) => self.look_after(state, ready),
                None => self.make(state),
            }
        }
    }

    fn make(&self, mut state: MutexGuard<'_, State>) {
        state.stage = Stage::Making;
        state.due = None;
        drop(state);
        let made = self.make_one();
        let mut state = self.state();
        state.stage = match made {
            Ok(made) => Stage::Ready(Box::new(made)),
            Err(reason) => {
                // A run meets the same, says it to whoever wanted it, and is followed by another attempt.
                tracing::debug!(reason, "no sandbox could be begun in advance");
                state.due = (self.keep == Keep::Always).then(|| Instant::now() + RETRY_AFTER);
                Stage::Absent
            }
        };
        self.changed.notify_all();
    }

    fn make_one(&self) -> Result<(Spare, Survey), String> {
        // Before, so that a change meanwhile makes a difference.
        let survey = self.survey().map_err(|error| sentence(&error))?;
        let mut spare =
            Spare::start(&self.launcher, self.basis.clone(), rootfs::Lent::default(), Vec::new())
                .map_err(|error| sentence(&error))?;
        spare.wait_prepared().map_err(|error| sentence(&error))?;
        Ok((spare, survey))
    }

    /// Puts back the spare that waits, or ends it and has another made.
    fn look_after(&self, state: MutexGuard<'_, State>, ready: Box<(Spare, Survey)>) {
        drop(state);
        let is_good = ready.0.is_alive() && self.is_up_to_date(&ready.1);
        let mut state = self.state();
        if is_good && !state.stopping {
            state.stage = Stage::Ready(ready);
            self.changed.notify_all();
            return;
        }
        state.due = Some(Instant::now());
        drop(state);
        drop(ready);
    }
}
