//! Which process asks, read from `/proc` while it waits for its answer.
//!
//! A process that waits cannot end, run another program or give its number away, so that what is read belongs to the
//! request. Its arguments are read anew for each request: the number and the start time of a process stay when it executes
//! another program (execve(2)), its arguments do not; a shell that opens the file of a redirection and then becomes the
//! command would be taken for the command.
//!
//! Of a thread in a run, what never changes is remembered with an open `/proc/THREAD/cmdline`: its process and its run.
//! The open file stands for the thread and not for its number; once the thread has ended, reading it fails or gives
//! nothing (fs/proc/base.c, `proc_pid_cmdline_read`), even when another has its number. So one read brings
//! the arguments and shows that what is remembered is this very thread's.
//!
//! Locking: `remembered` is held to find, add or remove an entry, never while one is read.

use super::Attribution;
use crate::model::id::RunId;
use crate::sys::process::pidfd_open;
use nix::unistd::Pid;
use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard};

/// Most of a command line that is kept. A page: arguments beyond it seldom tell commands apart.
pub const COMMAND_BYTES_MAX: usize = 4096;

/// Read at first. Chosen: most command lines are shorter.
const COMMAND_BYTES_USUAL: usize = 512;

/// Most threads that are remembered of one workspace; each holds a descriptor. Chosen: more than write at the same time.
const REMEMBERED_MAX: usize = 32;

/// The process that a thread belongs to. FUSE sends the number of the thread (fs/fuse/dev.c, `fuse_get_req`).
fn process_of(thread: u32) -> u32 {
    // Opening succeeds for a process's first thread alone, whose number is the process's (pidfd_open(2)).
    if i32::try_from(thread).is_ok_and(|number| pidfd_open(Pid::from_raw(number)).is_ok()) {
        return thread;
    }
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let group = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    group.and_then(|number| number.trim().parse().ok()).unwrap_or(thread)
}

/// The arguments that a process shows, separated by NUL; nothing where they cannot be read or there are none. A process can
/// overwrite what it shows (prctl(2), PR_SET_MM_ARG_START; writing to its own arguments), but not what others show.
fn command_in(cmdline: &File) -> Option<Vec<u8>> {
    let mut command = vec![0; COMMAND_BYTES_USUAL];
    let mut filled = 0;
    loop {
        let read = cmdline.read_at(&mut command[filled..], filled as u64).ok()?;
        filled += read;
        // Less than was asked for is the end (fs/proc/base.c, `get_mm_cmdline`).
        if filled < command.len() || filled == COMMAND_BYTES_MAX {
            break;
        }
        command.resize(COMMAND_BYTES_MAX, 0);
    }
    command.truncate(filled);
    if command.len() < COMMAND_BYTES_MAX && command.last() == Some(&0) {
        command.pop();
    }
    (!command.is_empty()).then_some(command)
}

fn cmdline_of(thread: u32) -> Option<File> {
    File::open(format!("/proc/{thread}/cmdline")).ok()
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asker {
    /// 0 when the kernel itself asks.
    pub process: u32,
    pub run: Option<RunId>,
    pub command: Option<Vec<u8>>,
}

/// What does not change of a thread while it lives.
#[derive(Debug)]
struct Remembered {
    thread: u32,
    process: u32,
    run: RunId,
    cmdline: Arc<File>,
}

/// The threads that ask.
pub(super) struct Askers {
    attribution: Arc<dyn Attribution>,
    /// Oldest first.
    remembered: Mutex<VecDeque<Remembered>>,
}

impl Askers {
    pub fn new(attribution: Arc<dyn Attribution>) -> Self {
        Self { attribution, remembered: Mutex::default() }
    }

    /// Looks at the thread with this number, which waits for an answer.
    pub fn look(&self, thread: u32) -> Asker {
        if thread == 0 {
            return Asker { process: 0, run: None, command: None };
        }
        if let Some((process, run, cmdline)) = self.find(thread) {
            if let Some(command) = command_in(&cmdline) {
                return Asker { process, run: Some(run), command: Some(command) };
            }
            self.remembered().retain(|other| !Arc::ptr_eq(&other.cmdline, &cmdline));
        }
        let cmdline = cmdline_of(thread);
        let command = cmdline.as_ref().and_then(command_in);
        let (process, run) = (process_of(thread), self.attribution.run_of(thread));
        if let (Some(run), Some(cmdline), Some(_)) = (run, cmdline, &command) {
            self.remember(Remembered { thread, process, run, cmdline: Arc::new(cmdline) });
        }
        Asker { process, run, command }
    }

    /// The run of a thread that opens a file for reading. Its arguments tell nothing here, so that of one that is known only
    /// their first byte is read, to see that it is this very thread.
    pub fn run_of(&self, thread: u32) -> Option<RunId> {
        if thread == 0 {
            return None;
        }
        if let Some((_, run, cmdline)) = self.find(thread)
            && cmdline.read_at(&mut [0], 0).is_ok_and(|read| read > 0)
        {
            return Some(run);
        }
        // Most who read outside of every run are told so by this alone.
        self.attribution.run_of(thread).and_then(|_| self.look(thread).run)
    }

    fn remembered(&self) -> MutexGuard<'_, VecDeque<Remembered>> {
        self.remembered.lock().expect("no panic under this lock")
    }

    fn find(&self, thread: u32) -> Option<(u32, RunId, Arc<File>)> {
        let remembered = self.remembered();
        let found = remembered.iter().rev().find(|other| other.thread == thread)?;
        Some((found.process, found.run, Arc::clone(&found.cmdline)))
    }

    fn remember(&self, new: Remembered) {
        let mut remembered = self.remembered();
        let oldest = (remembered.len() >= REMEMBERED_MAX).then(|| remembered.pop_front());
        remembered.push_back(new);
        drop(remembered);
        // Closed outside of the lock.
        drop(oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn a_thread_is_told_from_its_process() {
        let own = std::process::id();
        assert_eq!(process_of(own), own);
        std::thread::spawn(move || {
            let thread = nix::unistd::gettid().as_raw().cast_unsigned();
            assert_ne!(thread, own);
            assert_eq!(process_of(thread), own);
        })
        .join()
        .expect("no panic");
    }

    fn command_of(process: u32) -> Option<Vec<u8>> {
        command_in(&cmdline_of(process)?)
    }

    #[derive(Default)]
    struct OneRun {
        run: Option<RunId>,
        asked: AtomicU32,
    }

    impl Attribution for OneRun {
        fn run_of(&self, _: u32) -> Option<RunId> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            self.run
        }
    }

    #[test]
    fn what_is_remembered_is_of_this_very_thread_and_its_arguments_are_read_anew() {
        let run = Arc::new(OneRun { run: Some(RunId::generate()), asked: AtomicU32::new(0) });
        let askers = Askers::new(run.clone());
        let shell = "read line; exec sleep 60";
        let mut child = std::process::Command::new("sh")
            .args(["-c", shell])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("sh");
        assert!(shown(child.id()).is_some());
        let asker = askers.look(child.id());
        assert_eq!((asker.process, asker.run), (child.id(), run.run));
        assert_eq!(askers.look(child.id()), asker);
        assert_eq!(askers.run_of(child.id()), run.run);
        assert_eq!(run.asked.load(Ordering::Relaxed), 1, "the second time it was remembered");

        drop(child.stdin.take());
        let executed = || {
            std::thread::sleep(std::time::Duration::from_millis(5));
            let command = askers.look(child.id()).command?;
            (command == b"sleep\x0060").then_some(())
        };
        assert!(std::iter::repeat_with(executed).take(1_000).flatten().next().is_some());

        child.kill().expect("kill");
        child.wait().expect("wait");
        let before = run.asked.load(Ordering::Relaxed);
        assert_eq!(askers.look(child.id()).command, None, "it is gone");
        assert_eq!(run.asked.load(Ordering::Relaxed), before + 1, "nothing is believed of it");
        askers.run_of(child.id());
        assert!(run.asked.load(Ordering::Relaxed) > before + 1, "by readers neither");
        assert!(askers.remembered().is_empty());
    }

    #[test]
    fn only_so_many_threads_are_remembered_and_none_outside_of_a_run() {
        let outside = Askers::new(Arc::new(OneRun::default()));
        let own = std::process::id();
        assert_eq!(outside.look(own).process, own);
        assert!(outside.remembered().is_empty());

        let run = Some(RunId::generate());
        let inside = Askers::new(Arc::new(OneRun { run, asked: AtomicU32::new(0) }));
        let ended: Vec<_> = (0..2 * REMEMBERED_MAX)
            .map(|_| {
                std::thread::scope(|scope| {
                    let look = || {
                        let thread = nix::unistd::gettid().as_raw().cast_unsigned();
                        assert_eq!(inside.look(thread).process, own);
                        thread
                    };
                    scope.spawn(look).join().expect("no panic")
                })
            })
            .collect();
        assert_eq!(inside.remembered().len(), REMEMBERED_MAX);
        assert_eq!(inside.look(ended[ended.len() - 1]).command, None, "it is gone");
    }

    /// A process that was just started may still be on its way through execve(2) and show nothing; one that waits for an
    /// answer to an open never is.
    fn shown(pid: u32) -> Option<Vec<u8>> {
        let looks = std::iter::repeat_with(|| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            command_of(pid)
        });
        looks.take(1_000).flatten().next()
    }

    #[test]
    fn a_command_is_read_whole_or_cut_and_a_process_without_one_has_none() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
        let read = shown(child.id());
        child.kill().expect("kill");
        child.wait().expect("wait");
        assert_eq!(read.as_deref(), Some(b"sleep\x0060".as_slice()));
        assert_eq!(command_of(child.id()), None, "it is gone");

        // It waits for a line that does not come.
        let long = "x".repeat(3 * COMMAND_BYTES_MAX);
        let mut child = std::process::Command::new("sh")
            .args(["-c", "read line", "sh", &long])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("sh");
        let read = shown(child.id()).expect("readable");
        child.kill().expect("kill");
        child.wait().expect("wait");
        assert_eq!(read.len(), COMMAND_BYTES_MAX);
        assert!(read.starts_with(b"sh\0-c\0read line\0sh\0xxx"));
    }
}
