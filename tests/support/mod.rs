//! What the tests that use the programs have in common: a place of their own, and ways to act in it.
#![allow(dead_code)] // Each test file uses a part.

#[path = "../ordinary/mod.rs"]
mod ordinary;

pub use ordinary::ORDINARY;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

pub const BELLJAR: &str = env!("CARGO_BIN_EXE_belljar");
pub const BELLJARD: &str = env!("CARGO_BIN_EXE_belljard");

/// How long anything that should happen soon may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

/// Directories for one test: state, runtime, `input` and `output`. When it is dropped, what was mounted below it is
/// unmounted, whatever the test did.
pub struct Place {
    directory: tempfile::TempDir,
    daemon: Option<Child>,
    as_user: bool,
}

impl Place {
    pub fn new() -> Self {
        assert!(
            Path::new("/dev/fuse").exists(),
            "/dev/fuse is missing, and these tests mount FUSE for real: load the kernel module (modprobe fuse) or give the container the device (--device /dev/fuse)"
        );
        let directory = tempfile::Builder::new().prefix("belljar-test-").tempdir().unwrap();
        let place = Self { directory, daemon: None, as_user: false };
        for name in ["state", "runtime", "input", "output"] {
            fs::create_dir(place.path(name)).unwrap();
            fs::set_permissions(place.path(name), fs::Permissions::from_mode(0o700)).unwrap();
        }
        fs::write(place.path("input/data.txt"), "the input\n").unwrap();
        place
    }

    /// A place in which everything is done as an ordinary user.
    pub fn of_ordinary_user() -> Self {
        let mut place = Self::new();
        if nix::unistd::geteuid().is_root() {
            place.as_user = true;
            fs::create_dir(place.path("device")).unwrap();
            // The build's directory may be closed to others.
            for (from, name) in [(BELLJAR, "belljar"), (BELLJARD, "belljard")] {
                fs::copy(from, place.path(name)).unwrap();
            }
            let all = Command::new("chown")
                .arg("-R")
                .arg(format!("{ORDINARY}:{ORDINARY}"))
                .arg(place.directory.path())
                .status()
                .unwrap();
            assert!(all.success());
        }
        place
    }

    /// With a daemon of root's that every user can reach, a directory `home` of the ordinary user's, and a `belljar` that
    /// everybody can execute: the build's directory may be closed to others.
    pub fn shared() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "only root can serve several users");
        let mut place = Self::new();
        place.start_daemon();
        for open in ["", "runtime", "runtime/belljar.sock", "runtime/belljar.sock.fds"] {
            let mode = if open.ends_with("sock") || open.ends_with("fds") { 0o666 } else { 0o755 };
            fs::set_permissions(place.path(open), fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::create_dir(place.path("home")).unwrap();
        std::os::unix::fs::chown(place.path("home"), Some(ORDINARY), Some(ORDINARY)).unwrap();
        fs::copy(BELLJAR, place.path("belljar")).unwrap();
        place
    }

    /// `belljar` as another user, who talks to a shared place's daemon.
    pub fn as_user(&self, uid: u32) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups", "--"])
            .arg(self.path("belljar"))
            .env("BELLJAR_SOCKET", self.path("runtime/belljar.sock"))
            .env("HOME", self.path("home"))
            .current_dir(self.path("home"));
        command
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn root(&self) -> &Path {
        self.directory.path()
    }

    fn program(&self, name: &str, program: &str) -> Command {
        let mut command = if self.as_user {
            ordinary::command(&self.path(name), &self.path("device"))
        } else {
            Command::new(program)
        };
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.root())
            .env("BELLJAR_STATE_DIR", self.path("state"))
            .env("BELLJAR_RUNTIME_DIR", self.path("runtime"))
            .env("CALLERS_OWN", "must-not-be-seen-inside")
            .current_dir(self.root())
            .stdin(Stdio::null());
        command
    }

    /// `belljar` with these arguments, about to be started.
    pub fn belljar<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.program("belljar", BELLJAR);
        command.args(arguments);
        command
    }

    /// `belljard` with these arguments, about to be started.
    pub fn belljard<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.program("belljard", BELLJARD);
        command.args(arguments);
        command
    }

    /// `belljar` with these arguments, done to its end.
    pub fn output<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Output {
        self.belljar(arguments).output().unwrap()
    }

    /// `belljar run` with `input` read-only and `output` read-write, of a shell script.
    pub fn run(&self, options: &[&str], script: &str) -> Output {
        self.run_command(options, script).output().unwrap()
    }

    pub fn run_command(&self, options: &[&str], script: &str) -> Command {
        let mut arguments = vec!["run", "--ro", "input=input", "--rw", "output=output"];
        arguments.extend(options);
        arguments.extend(["--", "sh", "-c", script]);
        self.belljar(arguments)
    }

    /// What `belljar … --json` prints.
    pub fn json<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Value {
        let output = self.belljar(arguments).arg("--json").output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output)))
    }

    /// The artifacts that `belljar artifact ls --json` shows.
    pub fn artifacts(&self, options: &[&str]) -> Vec<Value> {
        let mut arguments = vec!["artifact", "ls", "--limit", "1000"];
        arguments.extend(options);
        let page = self.json(arguments);
        let list = page.get("artifacts").unwrap_or(&page);
        list.as_array().expect("a list of artifacts").clone()
    }

    /// Starts a daemon in this place; commands find it from then on.
    pub fn start_daemon(&mut self) {
        self.start_daemon_with(&[]);
    }

    /// The same with options of `belljard serve`.
    pub fn start_daemon_with(&mut self, options: &[&str]) {
        let child = self.belljard(["serve"]).args(options).spawn().unwrap();
        self.daemon = Some(child);
        eventually("the daemon answers", || self.output(["daemon", "status"]).status.success());
    }

    pub fn daemon_pid(&self) -> i32 {
        self.daemon.as_ref().expect("a daemon was started").id() as i32
    }

    /// Ends the daemon with a signal and waits for it.
    pub fn stop_daemon(&mut self, signal: nix::sys::signal::Signal) -> ExitStatus {
        let mut daemon = self.daemon.take().expect("a daemon was started");
        let pid = nix::unistd::Pid::from_raw(daemon.id() as i32);
        nix::sys::signal::kill(pid, signal).unwrap();
        daemon.wait().unwrap()
    }

    /// Mount points below this place, as this process sees them.
    pub fn mounts(&self) -> Vec<String> {
        let root = self.root().to_str().unwrap();
        let table = fs::read_to_string("/proc/self/mounts").unwrap();
        table
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .filter(|at| at.starts_with(root))
            .map(str::to_owned)
            .collect()
    }

    /// Files below the state and runtime directories that hold these bytes.
    pub fn files_with(&self, needle: &[u8]) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![self.path("state"), self.path("runtime"), self.path("output")];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
                let kind = entry.file_type().unwrap();
                if kind.is_dir() {
                    open.push(entry.path());
                } else if kind.is_file() {
                    let bytes = fs::read(entry.path()).unwrap();
                    if bytes.windows(needle.len()).any(|window| window == needle) {
                        found.push(entry.path());
                    }
                }
            }
        }
        found
    }

    /// Asserts that a finished test leaves no mount and no instance behind.
    pub fn assert_clean(&self) {
        assert!(self.mounts().is_empty(), "still mounted: {:?}", self.mounts());
        for kept in ["state/instances", "runtime/instances", "runtime/workspaces"] {
            let left: Vec<_> = fs::read_dir(self.path(kept))
                .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
                .unwrap_or_default();
            assert!(left.is_empty(), "left behind: {left:?}");
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        for at in self.mounts().iter().rev() {
            let _ = nix::mount::umount2(at.as_str(), nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

/// Everything a command said, for a failed assertion.
pub fn text(output: &Output) -> String {
    format!(
        "{}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Waits until something is so.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < deadline, "did not happen within {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits for a process with a bound; its output was piped.
pub fn finish(mut child: Child) -> Output {
    let deadline = Instant::now() + SOON;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("a process did not end within {SOON:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let mut output = Output { status, stdout: Vec::new(), stderr: Vec::new() };
    if let Some(mut pipe) = child.stdout.take() {
        pipe.read_to_end(&mut output.stdout).unwrap();
    }
    if let Some(mut pipe) = child.stderr.take() {
        pipe.read_to_end(&mut output.stderr).unwrap();
    }
    output
}
