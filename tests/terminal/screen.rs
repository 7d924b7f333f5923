//! The caller's terminal: a pseudoterminal whose other side this test is, and a client whose controlling terminal it is.

use super::support::SOON;
use belljar::sys::terminal::{WindowSize, open_pair, set_window_size};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::{Pid, read, write};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

/// What is not a terminal of the three standard descriptors.
pub enum Other {
    Nothing,
    Input(Stdio),
    Output(Stdio),
}

pub struct Screen {
    master: OwnedFd,
    pub slave: OwnedFd,
    seen: Vec<u8>,
}

/// A client; ended with the test.
pub struct Client(Child);

impl Screen {
    pub fn new() -> Self {
        // Close-on-exec: no program that another test starts keeps this terminal from being closed.
        let pair = open_pair().expect("a pseudoterminal");
        let screen = Self { master: pair.master, slave: pair.slave, seen: Vec::new() };
        screen.resize(33, 99);
        screen
    }

    /// Starts `command` with this as its controlling terminal.
    pub fn start(&self, command: &Command, other: Other) -> Client {
        // setsid(1) takes the terminal that is its standard input; what is another stream comes over descriptor 9.
        let script = match other {
            Other::Nothing => "exec \"$@\"",
            Other::Input(_) => "exec <&2 2>&1; exec \"$@\"",
            Other::Output(_) => "exec >&2 2>&0; exec \"$@\"",
        };
        let mut started = Command::new("setsid");
        started.args(["--ctty", "bash", "-c", script, "bash"]);
        started.arg(command.get_program()).args(command.get_args()).env_clear();
        for (name, value) in command.get_envs() {
            started.env(name, value.unwrap_or_default());
        }
        if let Some(directory) = command.get_current_dir() {
            started.current_dir(directory);
        }
        let ours = || Stdio::from(self.slave.try_clone().unwrap());
        started.stdin(ours()).stdout(ours());
        started.stderr(match other {
            Other::Nothing => ours(),
            Other::Input(other) | Other::Output(other) => other,
        });
        Client(started.spawn().expect("setsid (Debian package util-linux)"))
    }

    pub fn type_in(&self, keys: &str) {
        let mut left = keys.as_bytes();
        while !left.is_empty() {
            let length = write(&self.master, left).unwrap();
            left = &left[length..];
        }
    }

    /// Waits until this has been shown since the last call, and returns what was shown until then.
    pub fn until(&mut self, what: &str) -> String {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(at) = find(&self.seen, what.as_bytes()) {
                let shown: Vec<u8> = self.seen.drain(..at + what.len()).collect();
                return String::from_utf8_lossy(&shown).into_owned();
            }
            assert!(
                Instant::now() < deadline,
                "{what:?} was not shown within {SOON:?}, but: {}",
                String::from_utf8_lossy(&self.seen)
            );
            self.look(100);
        }
    }

    /// Types a line into a shell whose prompt is `> `, and returns what was shown for it.
    pub fn ask(&mut self, line: &str) -> String {
        self.type_in(&format!("{line}\n"));
        self.until("\n");
        let answer = self.until("> ");
        answer.strip_suffix("> ").unwrap().replace('\r', "")
    }

    /// What is shown until the client has ended.
    pub fn rest(&mut self, client: &mut Client) -> (String, ExitStatus) {
        let deadline = Instant::now() + SOON;
        let status = loop {
            self.look(20);
            if let Some(status) = client.0.try_wait().unwrap() {
                break status;
            }
            assert!(
                Instant::now() < deadline,
                "the client did not end within {SOON:?}, and of {} bytes showed last: {}",
                self.seen.len(),
                String::from_utf8_lossy(&self.seen[self.seen.len().saturating_sub(1000)..])
            );
        };
        while self.look(20) {}
        (String::from_utf8_lossy(&std::mem::take(&mut self.seen)).into_owned(), status)
    }

    fn look(&mut self, timeout_ms: u16) -> bool {
        let mut events = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        if poll(&mut events, PollTimeout::from(timeout_ms)).unwrap() == 0 {
            return false;
        }
        let mut buffer = [0; 65536];
        let length = read(&self.master, &mut buffer).unwrap();
        self.seen.extend_from_slice(&buffer[..length]);
        true
    }

    pub fn modes(&self) -> Termios {
        tcgetattr(&self.slave).unwrap()
    }

    pub fn resize(&self, rows: u16, columns: u16) {
        let size = WindowSize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        set_window_size(&self.master, &size).unwrap();
    }

    /// The number of its device, by which it is known wherever it is.
    pub fn device(&self) -> u64 {
        fs::File::from(self.slave.try_clone().unwrap()).metadata().unwrap().rdev()
    }
}

impl Client {
    pub fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// As ps(1) shows it: T when it is stopped.
    pub fn state(&self) -> char {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        stat.rsplit(") ").next().unwrap().chars().next().unwrap()
    }

    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the client did not end within {SOON:?}");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn find(within: &[u8], what: &[u8]) -> Option<usize> {
    within.windows(what.len()).position(|window| window == what)
}
