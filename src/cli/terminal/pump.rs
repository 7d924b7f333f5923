//! Hands on what is typed and what is shown, each on a thread of its own: a screen that takes nothing must not keep a key from the
//! command.
//!
//! The caller's descriptors are shared with whoever started the client, so that they stay blocking; readiness is asked for
//! first. Both threads end when the sandbox's side of the terminal is gone, the one for keys also when the run has ended.

use super::Terminal;
use super::modes::Modes;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::{read, write};
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Ctrl-D; what ends input on the sandbox's side where the caller's terminal edits lines.
pub const END_OF_INPUT: u8 = 4;

/// Room for what is on its way. As much as the kernel hands over at once (drivers/tty/tty_buffer.c) and then some.
const BUFFER_BYTES: usize = 64 << 10;

/// How often it is looked at whose the terminal is: whether a job in the background has come to the foreground, one of a pipeline is
/// asked for keys, or a shell has changed the modes. In milliseconds. Nobody tells; chosen, not measured: a person hardly notices it.
const LOOK_PAUSE_MS: u16 = 200;

/// How long, after the run has ended, a sandbox's side that stays open is waited for without anything coming from it, in
/// milliseconds. The daemon holds it for a moment only; somebody else who does is no part of the run.
const SILENCE_MS: u16 = 2_000;

#[derive(Debug)]
pub struct Pumps {
    /// Dropped at the end of the run: tells both threads.
    running: Option<PipeWriter>,
    shown: oneshot::Receiver<()>,
}

impl Pumps {
    pub fn start(
        terminal: &Terminal,
        modes: Arc<Modes>,
        hung_up: mpsc::Sender<i32>,
    ) -> io::Result<Self> {
        let (ended, running) = io::pipe()?;
        let (all, shown) = oneshot::channel();
        // Standard output may have been opened for writing alone.
        let flags = OFlag::from_bits_truncate(fcntl(&terminal.caller, FcntlArg::F_GETFL)?);
        if flags & OFlag::O_ACCMODE != OFlag::O_WRONLY {
            let keys = Keys {
                caller: terminal.caller.try_clone()?,
                master: terminal.master.try_clone()?,
                ended: ended.try_clone()?,
                modes,
                pending: Vec::new(),
            };
            spawn("terminal-keys", move || {
                if keys.pass_on() == End::HungUp {
                    // As the kernel tells those whose terminal it is.
                    let _ = hung_up.blocking_send(Signal::SIGHUP as i32);
                }
            })?;
        }
        let master = terminal.master.try_clone()?;
        let screen = File::from(terminal.screen.try_clone()?);
        spawn("terminal-screen", move || {
            show(&master, screen, &ended);
            let _ = all.send(());
        })?;
        Ok(Self { running: Some(running), shown })
    }

    /// The run has ended; returns when the last byte has been shown.
    pub async fn drained(&mut self) {
        self.running = None;
        // An error says that the thread is gone.
        let _ = (&mut self.shown).await;
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map(drop)
}

/// How the thread for keys ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The run has ended.
    Over,
    /// The caller's terminal is gone.
    HungUp,
}

/// What is typed, on its way to the sandbox.
struct Keys {
    caller: OwnedFd,
    master: OwnedFd,
    ended: PipeReader,
    modes: Arc<Modes>,
    /// Read, and not taken by the other side yet.
    pending: Vec<u8>,
}

impl Keys {
    fn pass_on(mut self) -> End {
        loop {
            let (other, flags, timeout) = if !self.pending.is_empty() {
                (&self.master, PollFlags::POLLOUT, PollTimeout::NONE)
            } else {
                let (reads, pause) = (self.modes.may_read(), PollTimeout::from(LOOK_PAUSE_MS));
                let flags = if reads { PollFlags::POLLIN } else { PollFlags::empty() };
                (&self.caller, flags, pause)
            };
            let (ended, ready) = wait(Some(&self.ended), other, flags, timeout);
            if ended {
                return End::Over;
            }
            if !self.pending.is_empty() {
                self.hand_over();
            } else if ready.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) {
                return End::HungUp;
            // Asked again: somebody else may have come to the foreground meanwhile.
            } else if ready.contains(PollFlags::POLLIN) && self.modes.may_read() {
                match self.take() {
                    Ok(()) => {}
                    Err(Errno::EINTR | Errno::EAGAIN) => {}
                    Err(_) => return End::HungUp,
                }
            }
        }
    }

    fn take(&mut self) -> nix::Result<()> {
        let mut buffer = [0; BUFFER_BYTES];
        let length = read(&self.caller, &mut buffer)?;
        self.pending.extend_from_slice(&buffer[..length]);
        if self.modes.is_taken() {
            // A terminal in raw mode has no end but its own.
            return if length == 0 { Err(Errno::EIO) } else { Ok(()) };
        }
        // The key for the end of input hands on what there is of a line, and nothing where there is none (termios(3), VEOF).
        if !self.pending.ends_with(b"\n") {
            self.pending.push(END_OF_INPUT);
        }
        Ok(())
    }

    fn hand_over(&mut self) {
        match write(&self.master, &self.pending) {
            Ok(length) => drop(self.pending.drain(..length)),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            // Nobody in the sandbox has a terminal any more.
            Err(_) => self.pending.clear(),
        }
    }
}

/// Shows what the command writes. A screen that is gone shows nothing, and the command is not held up for it.
fn show(master: &OwnedFd, mut screen: File, ended: &PipeReader) {
    let mut buffer = [0; BUFFER_BYTES];
    let mut running = true;
    loop {
        let timeout = if running { PollTimeout::NONE } else { PollTimeout::from(SILENCE_MS) };
        let (over, ready) = wait(running.then_some(ended), master, PollFlags::POLLIN, timeout);
        if over {
            running = false;
        }
        if ready.is_empty() {
            if running || over {
                continue;
            }
            return;
        }
        match read(master, &mut buffer) {
            Ok(length) => drop(screen.write_all(&buffer[..length])),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            // Nobody has the other side. As long as there is a process of the run, one may open /dev/tty again.
            Err(_) if running => {
                let pause = PollTimeout::from(LOOK_PAUSE_MS);
                running = !wait(Some(ended), ended, PollFlags::empty(), pause).0;
            }
            Err(_) => return,
        }
    }
}

/// Waits for the run's end and for another descriptor: whether it has ended, and what of the other is so.
fn wait(
    ended: Option<&PipeReader>,
    other: &impl AsFd,
    flags: PollFlags,
    timeout: PollTimeout,
) -> (bool, PollFlags) {
    let mut events = vec![PollFd::new(other.as_fd(), flags)];
    events.extend(ended.map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::empty())));
    while let Err(Errno::EINTR) = poll(&mut events, timeout) {}
    let happened =
        |at: usize| events.get(at).and_then(PollFd::revents).unwrap_or(PollFlags::empty());
    (!happened(1).is_empty(), happened(0))
}
