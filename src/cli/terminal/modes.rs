//! The modes of the caller's terminal: taken, given back, and only while the terminal is ours to take (tcgetpgrp(3)).
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
    pub fn new(terminal: OwnedFd, shape: Shape) -> Self {
        Self { terminal, shape, state: Mutex::default() }
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
        match self.shape {
            Shape::Output => false,
            // Another program, such as a pager behind the pipe, that reads keys has put it into another mode for that.
            Shape::Lines => tcgetattr(&self.terminal)
                .is_ok_and(|modes| modes.local_flags.contains(LocalFlags::ICANON)),
            Shape::Whole => state.taken || self.take(&mut state),
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
        cfmakeraw(&mut raw);
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
        if self.shape == Shape::Whole && self.is_foreground() {
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
