//! A terminal for the command: a pseudoterminal between the caller's terminal and the sandbox, so that the sandbox never holds
//! the caller's own.
//!
//! Decided for each standard descriptor: one that is a terminal becomes the pseudoterminal's slave side; a pipe or a file
//! stays what it is. Three shapes follow, told by [`Shape`].
//!
//! Threads: one for what is typed and one for what is shown, from [`Terminal::begin`] until the run has ended
//! ([`pump`]). Lock: that of [`modes::Modes`].

mod modes;
mod pump;

use crate::sys::terminal::{open_pair, set_window_size, window_size};
use anyhow::Context;
use modes::Modes;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, raise};
use nix::sys::termios::{
    LocalFlags, OutputFlags, SetArg, SpecialCharacterIndices as Key, Termios, cfmakeraw, tcgetattr,
    tcsetattr,
};
use nix::unistd::isatty;
use pump::Pumps;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use tokio::sync::mpsc;

/// What of the caller's is a terminal, and how the two terminals share the work of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Standard input and output: the caller's terminal hands on each key as it comes, and all else is the sandbox's.
    Whole,
    /// Standard input, but not output, as before `| less`: the caller's terminal stays as it is, since others use it too. Lines
    /// are handed on when they are complete, and keys that make signals make them for the client, which forwards them.
    Lines,
    /// Standard output or error alone, as behind `git log |`: nothing is handed on.
    ///
    /// In both of these, a command that asks for keys gets them ([`modes`]).
    Output,
}

/// The caller's terminal and the client's side of the run's own. The run has not begun, and nothing of the caller's is changed.
#[derive(Debug)]
pub struct Terminal {
    shape: Shape,
    /// The descriptor by which the caller's terminal is read and asked for its modes.
    caller: OwnedFd,
    /// Where it is written.
    screen: OwnedFd,
    master: OwnedFd,
    /// The sandbox's side, until it has been sent.
    slave: Option<OwnedFd>,
    replaced: [bool; 3],
}

impl Terminal {
    /// `None` where no standard descriptor is a terminal. `input` is whether standard input is the command's at all.
    pub fn open(input: bool) -> anyhow::Result<Option<Self>> {
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        let all = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
        let mut replaced = all.map(|descriptor| isatty(descriptor).unwrap_or(false));
        replaced[0] &= input;
        let (shape, caller, screen) = match replaced {
            [true, true, _] => (Shape::Whole, 0, 1),
            [true, false, true] => (Shape::Lines, 0, 2),
            // What a program writes to /dev/tty, such as a question for a password, is shown all the same.
            [true, false, false] => (Shape::Lines, 0, 0),
            [false, true, _] => (Shape::Output, 1, 1),
            [false, false, true] => (Shape::Output, 2, 2),
            [false, false, false] => return Ok(None),
        };
        let copy = |which: usize| {
            all[which].try_clone_to_owned().context("keep a descriptor of the terminal")
        };
        let pair = open_pair().context("make a terminal for the command")?;
        let terminal = Self {
            shape,
            caller: copy(caller)?,
            screen: copy(screen)?,
            master: pair.master,
            slave: Some(pair.slave),
            replaced,
        };
        terminal.furnish().context("set up a terminal for the command")?;
        Ok(Some(terminal))
    }

    /// Gives the sandbox's side the size and the modes that it begins with.
    fn furnish(&self) -> io::Result<()> {
        let mut modes = tcgetattr(&self.caller)?;
        match self.shape {
            Shape::Whole => {}
            Shape::Lines | Shape::Output => leave_to_the_caller(&mut modes),
        }
        if let Some(slave) = &self.slave {
            tcsetattr(slave, SetArg::TCSANOW, &modes)?;
        }
        // Written to only when it takes something, so that a full one holds up nobody.
        let flags = OFlag::from_bits_truncate(fcntl(&self.master, FcntlArg::F_GETFL)?);
        fcntl(&self.master, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        self.follow_size();
        Ok(())
    }

    /// The descriptor that goes to the sandbox in the place of a standard one, where that is a terminal.
    pub fn in_place_of(&self, standard: usize) -> anyhow::Result<Option<OwnedFd>> {
        match (&self.slave, self.replaced.get(standard)) {
            (Some(slave), Some(true)) => {
                Ok(Some(slave.try_clone().context("pass on the terminal")?))
            }
            _ => Ok(None),
        }
    }

    /// Both are sent: the end of the last process in the sandbox is the end of the sandbox's side.
    pub fn sent(&mut self) {
        self.slave = None;
    }

    fn follow_size(&self) {
        // A terminal without a size (a serial line) leaves the other one without, too.
        if let Ok(size) = window_size(&self.caller) {
            let _ = set_window_size(&self.master, &size);
        }
    }

    /// The run has begun: takes the caller's terminal and hands everything on. `hung_up` is told when the terminal is gone.
    pub fn begin(self, hung_up: mpsc::Sender<i32>) -> anyhow::Result<Session> {
        let copy = || self.caller.try_clone().context("keep a descriptor of the terminal");
        let master = self.master.try_clone().context("keep a descriptor of the terminal")?;
        let modes = Arc::new(Modes::new(copy()?, master, self.shape));
        // Before anything is shown: who sees it may already answer with keys.
        modes.resume();
        let session = Session {
            pumps: Pumps::start(&self, Arc::clone(&modes), hung_up)
                .inspect_err(|_| modes.end())
                .context("start to hand on what is typed and shown")?,
            modes,
            terminal: self,
        };
        session.terminal.follow_size();
        Ok(session)
    }
}

/// The caller's terminal edits lines, shows what is typed and ends lines as it needs; the sandbox's side does nothing a second
/// time. Only the end of input has a key left, by which it is handed on.
fn leave_to_the_caller(modes: &mut Termios) {
    cfmakeraw(modes);
    modes.local_flags |= LocalFlags::ICANON;
    modes.output_flags &= !OutputFlags::OPOST;
    for key in [Key::VEOL, Key::VEOL2, Key::VERASE, Key::VKILL, Key::VWERASE, Key::VLNEXT] {
        // `_POSIX_VDISABLE` (termios(3)).
        modes.control_chars[key as usize] = 0;
    }
    modes.control_chars[Key::VEOF as usize] = pump::END_OF_INPUT;
}

/// A terminal in use. Dropping it gives the caller's terminal back as it was.
#[derive(Debug)]
pub struct Session {
    terminal: Terminal,
    modes: Arc<Modes>,
    pumps: Pumps,
}

impl Session {
    /// What a signal means here; false when it means nothing here and is the command's.
    pub fn take_signal(&self, number: i32) -> bool {
        match Signal::try_from(number) {
            // The kernel tells those of the sandbox that use the terminal.
            Ok(Signal::SIGWINCH) => self.terminal.follow_size(),
            Ok(Signal::SIGTSTP) => {
                self.modes.suspend();
                // Ourselves: what was asked for is that this process stops.
                let _ = raise(Signal::SIGSTOP);
                // Continued.
                self.modes.resume();
                self.terminal.follow_size();
            }
            Ok(Signal::SIGCONT) => {
                self.modes.resume();
                self.terminal.follow_size();
            }
            _ => return false,
        }
        true
    }

    /// Returns when everything that the command wrote has been shown.
    pub async fn drained(&mut self) {
        self.pumps.drained().await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.modes.end();
    }
}
