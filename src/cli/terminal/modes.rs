//! The modes of the caller's terminal: taken, given back, and only while the terminal is ours to take (tcgetpgrp(3)).
//!
//! Where the terminal is shared with others of a pipeline, it is taken when the command asks for keys, which it does by leaving
//! the canonical mode on its own terminal (termios(3)), as pagers and editors do.
//!
//! Lock: whether they are taken. It is held while they are changed, which never waits: no drain is asked for.

use super::Shape;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::termios::{
    FlushArg, LocalFlags, SetArg, Termios, cfmakeraw, tcflush, tcgetattr, tcsetattr,
};
use nix::unistd::{getpgrp, tcgetpgrp};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard};

#[derive(Debug)]
pub struct Modes {
    terminal: OwnedFd,
    /// By the master side the modes of the sandbox's terminal are read, too.
    master: OwnedFd,
    shape: Shape,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// As they were when they were first taken.
    before: Option<Termios>,
    taken: bool,
    /// Nothing is taken: this process is about to stop, or the run has ended.
    barred: bool,
}

impl Modes {
    pub fn new(terminal: OwnedFd, master: OwnedFd, shape: Shape) -> Self {
        Self { terminal, master, shape, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }

    /// Whether what is typed is for this run, at this moment; takes the terminal where that needs it.
    ///
    /// A job in the background reads nothing and changes nothing, so that it is not stopped for it and goes on beside the shell.
    pub fn may_read(&self) -> bool {
        let mut state = self.state();
        if state.barred || !self.is_foreground() {
            return false;
        }
        if state.taken {
            if self.is_wanted() {
                // A shell may have put its own modes in force while this process was stopped, and the signal that tells of it
                // need not have been heard yet.
                return !is_canonical(&self.terminal) || self.take(&mut state);
            }
            self.give_back(&mut state);
        } else if self.is_wanted() {
            return self.is_free() && self.take(&mut state);
        }
        match self.shape {
            Shape::Whole | Shape::Output => false,
            Shape::Lines => self.is_free(),
        }
    }

    /// Whether it is taken, and each key comes as it is.
    pub fn is_taken(&self) -> bool {
        self.state().taken
    }

    /// Whether each key is for the command.
    fn is_wanted(&self) -> bool {
        match self.shape {
            Shape::Whole => true,
            Shape::Lines | Shape::Output => !is_canonical(&self.master),
        }
    }

    /// Whether nobody else of the pipeline, such as a pager behind it, has taken it.
    fn is_free(&self) -> bool {
        match self.shape {
            Shape::Whole => true,
            Shape::Lines | Shape::Output => is_canonical(&self.terminal),
        }
    }

    /// Where it is the controlling terminal of another session or of none, or gone, nobody's foreground concerns us.
    fn is_foreground(&self) -> bool {
        tcgetpgrp(&self.terminal).map_or(true, |group| group == getpgrp())
    }

    fn take(&self, state: &mut State) -> bool {
        let Ok(modes) = tcgetattr(&self.terminal) else {
            // It is gone; reading it tells.
            return true;
        };
        let mut raw = state.before.get_or_insert(modes).clone();
        let output = raw.output_flags;
        cfmakeraw(&mut raw);
        match self.shape {
            Shape::Whole => {}
            // Others write to it as well.
            Shape::Lines | Shape::Output => raw.output_flags = output,
        }
        state.taken = self.set(&raw).is_ok();
        state.taken
    }

    fn give_back(&self, state: &mut State) {
        if let (true, Some(before)) = (state.taken, &state.before) {
            // What was typed and not read was meant for the command; so are answers of the terminal to what the command wrote.
            let _ = tcflush(&self.terminal, FlushArg::TCIFLUSH);
            let _ = self.set(before);
        }
        state.taken = false;
    }

    /// Without being stopped for it, should the terminal have become another's at this moment (SIGTTOU, termios(3)).
    fn set(&self, modes: &Termios) -> nix::Result<()> {
        let mut blocked = SigSet::empty();
        blocked.add(Signal::SIGTTOU);
        let old = blocked.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let result = loop {
            match tcsetattr(&self.terminal, SetArg::TCSANOW, modes) {
                Err(Errno::EINTR) => {}
                result => break result,
            }
        };
        old.thread_set_mask()?;
        result
    }

    /// Before this process stops.
    pub fn suspend(&self) {
        let mut state = self.state();
        state.barred = true;
        self.give_back(&mut state);
    }

    /// After it was stopped, whoever did it: a shell has put its own modes in force meanwhile. Taken anew by the next read.
    pub fn resume(&self) {
        let mut state = self.state();
        state.barred = false;
        state.taken = false;
        if self.is_wanted() && self.is_foreground() && self.is_free() {
            self.take(&mut state);
        }
    }

    /// For good.
    pub fn end(&self) {
        let mut state = self.state();
        state.barred = true;
        self.give_back(&mut state);
    }
}

/// One that cannot be asked is left alone.
fn is_canonical(terminal: &OwnedFd) -> bool {
    tcgetattr(terminal).map_or(true, |modes| modes.local_flags.contains(LocalFlags::ICANON))
}
