//! Remembers for a moment which run a process belongs to, so that opening a thousand files asks /proc once.
//!
//! A process never changes its pid namespace, so an answer is right for as long as the number means the same process. Numbers
//! are given in a circle (kernel/pid.c, idr_alloc_cyclic): one is given again only after all others were. In the time for
//! which an answer is believed no machine starts that many processes (pid_max is 32,768 or more). Answers from before
//! a run entered are not believed.
//!
//! Lock: `known`, never held across a system call.

use crate::model::id::RunId;
use std::collections::HashMap;
use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long an answer is believed. A process that opens many files opens thousands meanwhile.
const BELIEVED: Duration = Duration::from_millis(20);

/// Most processes that are remembered; at the bound all are forgotten. Chosen: a few hundred kilobytes.
const KNOWN_MAX: usize = 4096;

#[derive(Debug, Clone, Copy)]
struct Answer {
    run: Option<RunId>,
    /// Which runs had entered by then.
    generation: u64,
    at: Instant,
}

/// The latest answers.
#[derive(Debug, Default)]
pub struct Recent {
    known: RwLock<HashMap<u32, Answer>>,
    generation: AtomicU64,
}

impl Recent {
    /// A run entered: what was said before may be wrong.
    pub fn entered(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// The remembered answer, or that of `ask`.
    pub fn run_of(&self, pid: u32, ask: impl FnOnce() -> Option<RunId>) -> Option<RunId> {
        let (generation, at) = (self.generation.load(Ordering::SeqCst), Instant::now());
        if let Some(answer) = self.known.read().expect("no panic under this lock").get(&pid)
            && answer.generation == generation
            && at.saturating_duration_since(answer.at) < BELIEVED
        {
            return answer.run;
        }
        let run = ask();
        let mut known = self.known.write().expect("no panic under this lock");
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(pid, Answer { run, generation, at });
        run
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_holds_for_a_moment_and_until_a_run_enters() {
        let recent = Recent::default();
        let run = Some(RunId::generate());
        assert_eq!(recent.run_of(7, || None), None);
        assert_eq!(recent.run_of(7, || panic!("it is known")), None);
        recent.entered();
        assert_eq!(recent.run_of(7, || run), run);
        std::thread::sleep(BELIEVED);
        assert_eq!(recent.run_of(7, || None), None, "the number may mean another process");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let recent = Recent::default();
        for pid in 0..10_000 {
            recent.run_of(pid, || None);
        }
        assert!(recent.known.read().expect("no panic").len() <= KNOWN_MAX);
    }
}
