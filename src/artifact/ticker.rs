//! A thread that does something again and again: at once, then after each pause that it names, or when it is woken.
//!
//! Locking: a bell's lock guards two numbers and is held for no work.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Wakes and stops the threads that listen to it.
#[derive(Debug, Default)]
pub(super) struct Bell {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// How often it rang, so that a ring while a thread works is heard after it.
    rings: u64,
    stopped: bool,
    /// Threads that have ended.
    ended: usize,
}

impl Bell {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn ring(&self) {
        self.state().rings += 1;
        self.changed.notify_all();
    }

    fn stop(&self) {
        self.state().stopped = true;
        self.changed.notify_all();
    }

    /// Waits for the pause, a ring behind those that were `heard`, or the end; false at the end.
    fn wait(&self, heard: &mut u64, pause: Duration) -> bool {
        let quiet = |state: &mut State| !state.stopped && state.rings == *heard;
        let wait = self.changed.wait_timeout_while(self.state(), pause, quiet);
        let state = wait.unwrap_or_else(PoisonError::into_inner).0;
        *heard = state.rings;
        !state.stopped
    }

    fn end(&self) {
        self.state().ended += 1;
        self.changed.notify_all();
    }

    /// Whether so many threads have ended by then.
    fn have_ended(&self, threads: usize, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = self.changed.wait_timeout_while(self.state(), left, |s| s.ended < threads);
        wait.unwrap_or_else(PoisonError::into_inner).0.ended >= threads
    }
}

/// Threads that work the same way and listen to one bell.
#[derive(Debug)]
pub(super) struct Ticker {
    bell: Arc<Bell>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Ticker {
    pub fn new(bell: Arc<Bell>) -> Self {
        Self { bell, threads: Mutex::default() }
    }

    /// One thread with a bell of its own.
    pub fn start(name: &str, tick: impl FnMut() -> Duration + Send + 'static) -> io::Result<Self> {
        let ticker = Self::new(Arc::default());
        ticker.add(name, tick)?;
        Ok(ticker)
    }

    /// One more thread. `tick` answers how long to wait before it is called again.
    pub fn add(
        &self,
        name: &str,
        mut tick: impl FnMut() -> Duration + Send + 'static,
    ) -> io::Result<()> {
        let bell = self.bell.clone();
        let mut heard = bell.state().rings;
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            while bell.wait(&mut heard, tick()) {}
            // What it works with goes before anybody hears that it has ended.
            drop(tick);
            bell.end();
        })?;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }

    /// Ends the threads after what they are at.
    pub fn stop(&self) {
        self.bell.stop();
        for thread in self.take() {
            // A panic aborts the process, so that there is no other end.
            let _ = thread.join();
        }
    }

    /// The same, but leaves a thread behind that is not done in time.
    pub fn stop_within(&self, patience: Duration) {
        self.bell.stop();
        let threads = self.take();
        if self.bell.have_ended(threads.len(), Instant::now() + patience) {
            threads.into_iter().for_each(|thread| drop(thread.join()));
        }
    }

    fn take(&self) -> Vec<JoinHandle<()>> {
        std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const LONG: Duration = Duration::from_secs(3_600);
    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn it_works_at_once_and_when_it_is_woken_also_while_it_works() {
        let (told, ticks) = mpsc::channel();
        let (go, wait) = mpsc::channel::<()>();
        let bell = Arc::new(Bell::default());
        let ticker = Ticker::new(bell.clone());
        let tick = move || {
            told.send(()).expect("the test listens");
            wait.recv().expect("the test lets it go");
            LONG
        };
        ticker.add("test", tick).expect("a thread");
        ticks.recv_timeout(SOON).expect("at once");
        bell.ring();
        go.send(()).expect("it waits");
        ticks.recv_timeout(SOON).expect("it was woken while it worked");
        go.send(()).expect("it waits");
        bell.ring();
        ticks.recv_timeout(SOON).expect("it was woken while it waited");
        go.send(()).expect("it waits");
        ticker.stop();
    }

    #[test]
    fn stopping_does_not_wait_for_a_pause_nor_for_ever() {
        let idle = Ticker::start("test", || LONG).expect("a thread");
        idle.stop();
        let (go, wait) = mpsc::channel::<()>();
        let busy = Ticker::start("test", move || wait.recv().map_or(LONG, |()| LONG));
        let busy = busy.expect("a thread");
        busy.stop_within(Duration::from_millis(20));
        assert!(!busy.bell.have_ended(1, Instant::now()), "it is left behind at its work");
        drop(go);
        assert!(busy.bell.have_ended(1, Instant::now() + SOON));
    }
}
