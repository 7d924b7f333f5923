//! The life of the first process once everything is set up: start the command when told to, reap, forward signals, and end,
//! which ends everything in the pid namespace (pid_namespaces(7)).
//!
//! One thread that sleeps in poll(2) on three descriptors: the daemon's socket, the signals, and while the command is being executed
//! the pipe on which that may fail. It ends when the command has ended, or when the daemon is gone.

use super::command::{Command, Starting};
use super::protocol::{self, Exit, Order, Report, SetupFailure};
use crate::sys::process;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

const STEP: &str = "first process";

/// Signals that reach the command, whether they come over the socket or are sent to the first process itself.
const FORWARDED: [Signal; 7] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

#[derive(Debug)]
pub struct Reaper {
    socket: OwnedFd,
    /// Handlers write a byte to a socket pair and note the number.
    signals: SignalDelivery<UnixStream, SignalOnly>,
    command: Command,
    wait_children: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    Waiting,
    Starting(Starting),
    Running(Pid),
    /// The command has ended; what it left running is waited for.
    Leftover(Exit),
}

/// What the loop does next.
enum Next {
    Continue,
    End,
}

impl Reaper {
    /// From here on the signals are heard; what came before waits, since all of them were blocked.
    pub fn new(socket: OwnedFd, command: Command, wait_children: bool) -> io::Result<Self> {
        let heard = || FORWARDED.into_iter().chain([Signal::SIGCHLD]);
        let (read, write) = UnixStream::pair()?;
        let numbers = heard().map(|signal| signal as i32);
        let signals = SignalDelivery::with_pipe(read, write, SignalOnly, numbers)?;
        SigSet::from_iter(heard()).thread_unblock()?;
        Ok(Self { socket, signals, command, wait_children, state: State::Waiting })
    }

    /// Runs until there is nothing left to do. An error means that the daemon cannot be told either.
    pub fn run(mut self) -> io::Result<()> {
        loop {
            let [order, signal, executed] = self.wait_for_event()?;
            // In this order: the command is known to run before its end is told, and a daemon that is gone ends all.
            if executed && let Next::End = self.executed()? {
                return Ok(());
            }
            if signal && let Next::End = self.take_signals()? {
                return Ok(());
            }
            if order && let Next::End = self.take_order()? {
                return Ok(());
            }
        }
    }

    fn wait_for_event(&self) -> io::Result<[bool; 3]> {
        let mut events = vec![
            PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.get_read().as_fd(), PollFlags::POLLIN),
        ];
        if let State::Starting(starting) = &self.state {
            events.push(PollFd::new(starting.failure.as_fd(), PollFlags::POLLIN));
        }
        loop {
            match poll(&mut events, PollTimeout::NONE) {
                Ok(_) => break,
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        // Hang-up and error count as well: reading then tells which.
        let happened = |at: usize| {
            events.get(at).and_then(PollFd::revents).is_some_and(|events| !events.is_empty())
        };
        Ok([happened(0), happened(1), happened(2)])
    }

    fn take_order(&mut self) -> io::Result<Next> {
        match protocol::receive::<Order>(&self.socket)? {
            None => Ok(Next::End),
            Some((Order::Go, _)) => self.go(),
            Some((Order::Signal(signal), _)) => {
                self.forward(signal);
                Ok(Next::Continue)
            }
        }
    }

    fn go(&mut self) -> io::Result<Next> {
        match &self.state {
            State::Waiting => {}
            State::Starting(_) | State::Running(_) | State::Leftover(_) => {
                return Ok(Next::Continue);
            }
        }
        match self.command.start() {
            Ok(starting) => {
                self.state = State::Starting(starting);
                // The command alone holds the caller's descriptors from here on: when it closes one, the other side sees that.
                process::release_stdio().map_or_else(
                    |error| self.fail(SetupFailure::because(STEP, "release stdio", &error)),
                    |()| Ok(Next::Continue),
                )
            }
            Err(error) => self.fail(SetupFailure::because("command", "fork", &error)),
        }
    }

    /// The pipe of the starting command can be read: it was executed, or could not be.
    fn executed(&mut self) -> io::Result<Next> {
        let State::Starting(starting) = &mut self.state else { return Ok(Next::Continue) };
        let mut text = Vec::new();
        starting.failure.read_to_end(&mut text)?;
        if text.is_empty() {
            self.state = State::Running(starting.pid);
            protocol::send(&self.socket, &Report::Started, None)?;
            return Ok(Next::Continue);
        }
        let failure = serde_json::from_slice(&text)
            .unwrap_or_else(|_| SetupFailure::setup("command", "its failure could not be read"));
        self.fail(failure)
    }

    fn fail(&self, failure: SetupFailure) -> io::Result<Next> {
        protocol::send(&self.socket, &Report::Failed(failure), None)?;
        Ok(Next::End)
    }

    fn take_signals(&mut self) -> io::Result<Next> {
        let mut child_ended = false;
        // Ends of several children may have come as one signal.
        let arrived: Vec<i32> = self.signals.pending().collect();
        for number in arrived {
            if number == Signal::SIGCHLD as i32 {
                child_ended = true;
            } else {
                self.forward(number);
            }
        }
        if child_ended { self.reap() } else { Ok(Next::Continue) }
    }

    /// To the command and what shares its process group, as a terminal does it; once the command is gone, to everything.
    fn forward(&self, signal: i32) {
        let target = match &self.state {
            State::Waiting => return,
            State::Starting(starting) => starting.pid.as_raw(),
            State::Running(pid) => -pid.as_raw(),
            State::Leftover(_) => -1,
        };
        // ESRCH: it has just ended. EINVAL: the daemon checked the number, and the command is not hurt by one that is wrong.
        let _ = process::kill(target, signal);
    }

    fn reap(&mut self) -> io::Result<Next> {
        // The command may have ended before its pipe was looked at: that it ran comes first.
        if let State::Starting(_) = &self.state
            && let Next::End = self.executed()?
        {
            return Ok(Next::End);
        }
        loop {
            let status = match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => return Ok(Next::Continue),
                Err(nix::errno::Errno::EINTR) => continue,
                Err(nix::errno::Errno::ECHILD) => return self.nothing_left(),
                Err(errno) => return Err(errno.into()),
                Ok(status) => status,
            };
            let (pid, exit) = match status {
                WaitStatus::Exited(pid, code) => (pid, Exit::Exited(code as u8)),
                WaitStatus::Signaled(pid, signal, _) => (pid, Exit::Signaled(signal as i32)),
                // Not asked for.
                _ => continue,
            };
            match &self.state {
                State::Running(command) if *command == pid => {}
                State::Waiting | State::Starting(_) | State::Running(_) | State::Leftover(_) => {
                    continue;
                }
            }
            if !self.wait_children {
                protocol::send(&self.socket, &Report::Ended(exit), None)?;
                return Ok(Next::End);
            }
            self.state = State::Leftover(exit);
        }
    }

    /// No child is left. Orphans are children of this process, so that nothing at all is.
    fn nothing_left(&self) -> io::Result<Next> {
        match &self.state {
            State::Leftover(exit) => {
                protocol::send(&self.socket, &Report::Ended(*exit), None)?;
                Ok(Next::End)
            }
            State::Waiting | State::Starting(_) | State::Running(_) => Ok(Next::Continue),
        }
    }
}
