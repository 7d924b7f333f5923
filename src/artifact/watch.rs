//! Registrar threads whose copy does not advance, because a host file system does not answer.
//!
//! Such a thread cannot be ended. It must not take others' files with it: its workspace is held back until it goes on,
//! and another thread takes its place meanwhile. One workspace can occupy as many threads as were busy with it when it
//! stopped answering, and no more.
//!
//! Locks: `threads`, alone or before the service's `state`. The pulse of a thread is atomic, so that a copy says that it
//! advances without a lock.

use super::schedule::Lane;
use super::service::Service;
use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long one step of a copy may take before its workspace is held back. Chosen, not measured: a step is a system call,
/// and what one disk takes this long for is better waited for by one workspace alone.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// How often busy threads are looked at.
const TICK: Duration = Duration::from_millis(500);

/// Most registrar threads at one time. When so many workspaces hang, copies wait.
const THREADS_MAX: usize = 64;

/// Threads that take digests of inputs: one, as nobody waits for them but the end of a run.
const INPUT_THREADS: usize = 1;

/// What a registrar thread works at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Copies(Lane),
    /// Digests of what runs had read.
    Inputs,
}

const SMALL: Role = Role::Copies(Lane::Small);
const LARGE: Role = Role::Copies(Lane::Large);

/// What a registrar thread is doing, for the watch.
#[derive(Debug)]
pub(super) struct Pulse {
    epoch: Instant,
    /// Number of the workspace whose files it copies; 0 when it waits for none.
    workspace: AtomicU32,
    /// When it last took a step, in milliseconds since `epoch`.
    step: AtomicU64,
}

impl Pulse {
    fn new() -> Self {
        Self { epoch: Instant::now(), workspace: AtomicU32::new(0), step: AtomicU64::new(0) }
    }

    /// The next step asks the host's files of this workspace.
    pub fn at(&self, workspace: u32) {
        self.advance();
        self.workspace.store(workspace, Ordering::SeqCst);
    }

    pub fn advance(&self) {
        let now = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.step.store(now, Ordering::Relaxed);
    }

    /// The next step asks no workspace's files.
    pub fn rest(&self) {
        self.workspace.store(0, Ordering::Relaxed);
    }

    /// The workspace that has not answered for too long.
    fn waits_for(&self) -> Option<u32> {
        // Whoever sees the workspace sees the step that was taken before it.
        let workspace = self.workspace.load(Ordering::SeqCst);
        let step = Duration::from_millis(self.step.load(Ordering::Relaxed));
        (workspace != 0 && self.epoch.elapsed().saturating_sub(step) > PATIENCE)
            .then_some(workspace)
    }

    fn is_busy(&self) -> bool {
        self.workspace.load(Ordering::SeqCst) != 0
    }
}

#[derive(Debug)]
struct Thread {
    role: Role,
    pulse: Arc<Pulse>,
    /// Seen not to advance.
    stuck: bool,
    handle: JoinHandle<()>,
}

/// The registrar's threads.
#[derive(Debug)]
pub(super) struct Watch {
    /// How many threads each lane should have that advance.
    small: usize,
    large: usize,
    threads: Mutex<Vec<Thread>>,
    /// Somebody began to copy, or the service stops.
    begun: Condvar,
    /// The watch sleeps until somebody begins.
    asleep: AtomicBool,
}

/// What a registrar thread runs.
pub(super) type Work = fn(&Service, Role, &Pulse);

impl Watch {
    pub fn new(small: usize, large: usize) -> Self {
        Self {
            small,
            large,
            threads: Mutex::default(),
            begun: Condvar::new(),
            asleep: AtomicBool::new(false),
        }
    }

    fn threads(&self) -> MutexGuard<'_, Vec<Thread>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the threads, and the watch over them.
    pub fn start(&self, service: &Arc<Service>, work: Work) -> io::Result<()> {
        {
            let mut threads = self.threads();
            for _ in 0..self.small {
                threads.push(start(service, SMALL, work)?);
            }
            for _ in 0..self.large {
                threads.push(start(service, LARGE, work)?);
            }
            for _ in 0..INPUT_THREADS {
                threads.push(start(service, Role::Inputs, work)?);
            }
        }
        let watched = Arc::clone(service);
        std::thread::Builder::new()
            .name("registrar-watch".to_owned())
            .spawn(move || watch(&watched, work))
            .map(drop)
    }

    /// A thread begins to copy; its pulse says so already.
    pub fn begin(&self) {
        if self.asleep.swap(false, Ordering::SeqCst) {
            self.wake();
        }
    }

    fn wake(&self) {
        // Under the lock: the watch has either not looked yet or waits.
        let threads = self.threads();
        self.begun.notify_all();
        drop(threads);
    }

    /// Whether a thread that could take more work should end instead, as another has taken its place meanwhile.
    pub fn retires(&self, pulse: &Pulse) -> bool {
        let mut threads = self.threads();
        let Some(own) = threads.iter().position(|thread| std::ptr::eq(&*thread.pulse, pulse))
        else {
            return false;
        };
        let role = threads[own].role;
        threads[own].stuck = false;
        if advancing(&threads, role) > self.wanted(role) {
            threads.remove(own);
            return true;
        }
        false
    }

    fn wanted(&self, role: Role) -> usize {
        match role {
            SMALL => self.small,
            LARGE => self.large,
            Role::Inputs => INPUT_THREADS,
        }
    }

    /// How many threads a lane lacks. Counted anew each time: one that is stuck, goes on and is stuck again has its
    /// replacement already, and one that could not be started is missing still.
    fn missing(&self, threads: &[Thread], role: Role) -> usize {
        self.wanted(role).saturating_sub(advancing(threads, role))
    }

    /// Waits for the threads of a service that was told to stop; not for those that cannot advance.
    pub fn join(&self) {
        self.wake();
        let all_ended = || {
            let mut threads = self.threads();
            threads.retain(|thread| !thread.handle.is_finished());
            threads.iter().all(|thread| thread.pulse.waits_for().is_some())
        };
        while !all_ended() {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn start(service: &Arc<Service>, role: Role, work: Work) -> io::Result<Thread> {
    let pulse = Arc::new(Pulse::new());
    let (own, service) = (Arc::clone(&pulse), Arc::clone(service));
    let handle = std::thread::Builder::new()
        .name("registrar".to_owned())
        .spawn(move || work(&service, role, &own))?;
    Ok(Thread { role, pulse, stuck: false, handle })
}

fn advancing(threads: &[Thread], role: Role) -> usize {
    threads.iter().filter(|thread| thread.role == role && !thread.stuck).count()
}

/// Starts threads in place of those that are stuck. Answers whether some are still missing; `short` is the answer before,
/// so that it is said once.
fn replace(service: &Arc<Service>, work: Work, threads: &mut Vec<Thread>, short: bool) -> bool {
    for role in [SMALL, LARGE, Role::Inputs] {
        for _ in 0..service.watch.missing(threads, role) {
            let started = if threads.len() < THREADS_MAX {
                start(service, role, work)
            } else {
                Err(io::Error::other("so many wait for host directories already"))
            };
            match started {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    if !short {
                        tracing::error!(%error, "start a registrar thread in place of one that waits for a host directory; copies wait");
                    }
                    return true;
                }
            }
        }
    }
    false
}

fn watch(service: &Arc<Service>, work: Work) {
    let watch = &service.watch;
    let mut held = BTreeSet::new();
    let mut short = false;
    let mut threads = watch.threads();
    while !service.is_stopping() {
        // Said first, looked second: one that begins meanwhile is either seen here or wakes the watch.
        watch.asleep.store(true, Ordering::SeqCst);
        let busy = threads.iter().any(|thread| thread.pulse.is_busy());
        threads = if busy || !held.is_empty() {
            watch.asleep.store(false, Ordering::SeqCst);
            watch.begun.wait_timeout(threads, TICK).unwrap_or_else(PoisonError::into_inner).0
        } else {
            watch.begun.wait(threads).unwrap_or_else(PoisonError::into_inner)
        };
        let waiting: BTreeSet<u32> = threads.iter().filter_map(|t| t.pulse.waits_for()).collect();
        for thread in threads.iter_mut() {
            thread.stuck = thread.pulse.waits_for().is_some();
        }
        short = replace(service, work, &mut threads, short);
        if waiting != held {
            for workspace in waiting.difference(&held) {
                let id = service.state().workspace(*workspace).map(|w| w.id.to_string());
                tracing::warn!(
                    workspace = id,
                    "a host directory does not answer; its files are registered when it does"
                );
            }
            held.clone_from(&waiting);
            service.hold(waiting);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(role: Role, stuck: bool) -> Thread {
        let handle = std::thread::spawn(|| {});
        Thread { role, pulse: Arc::new(Pulse::new()), stuck, handle }
    }

    #[test]
    fn a_thread_that_is_stuck_again_and_again_is_replaced_once() {
        let watch = Watch::new(1, 1);
        let mut threads = vec![thread(SMALL, false), thread(LARGE, false)];
        for _ in 0..3 {
            threads[0].stuck = true;
            for _ in 0..watch.missing(&threads, SMALL) {
                threads.push(thread(SMALL, false));
            }
            assert_eq!(threads.len(), 3);
            threads[0].stuck = false;
            assert_eq!(watch.missing(&threads, SMALL), 0);
        }
        assert_eq!(watch.missing(&threads, LARGE), 0);
    }

    #[test]
    fn a_thread_waits_for_a_workspace_only_after_a_step_that_takes_too_long() {
        let pulse = Pulse::new();
        assert_eq!(pulse.waits_for(), None);
        pulse.at(7);
        assert_eq!(pulse.waits_for(), None);
        std::thread::sleep(PATIENCE + Duration::from_millis(100));
        assert_eq!(pulse.waits_for(), Some(7));
        pulse.advance();
        assert_eq!(pulse.waits_for(), None);
    }
}
