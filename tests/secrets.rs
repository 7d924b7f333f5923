//! Secrets as files: who can open one, and what an open one reads.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};
use support::{Place, eventually, finish, stdout, text};

/// A script in the workspace `job` that waits for a line at its standard input.
struct Waiting {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Waiting {
    fn start(place: &Place, script: &str) -> Self {
        let mut child = place
            .belljar(["run", "-w", "job", "--", "sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Lets the script go on; answers what it still prints.
    fn go(mut self) -> String {
        self.child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        let output = finish(self.child);
        assert!(output.status.success(), "{}", text(&output));
        rest
    }
}

fn place_with_secret(value: &[u8]) -> Place {
    let mut place = Place::new();
    place.start_daemon();
    let made = place.output(["workspace", "create", "job", "--rw", "output=output"]);
    assert!(made.status.success(), "{}", text(&made));
    set(&place, value);
    place
}

fn set(place: &Place, value: &[u8]) {
    fs::write(place.path("key"), value).unwrap();
    let output = place.output(["secret", "set", "-w", "job", "KEY=@key"]);
    assert!(output.status.success(), "{}", text(&output));
}

/// A `sleep` of this machine whose arguments contain `marker`, by its number outside of the sandbox.
/// Waited for: the script that starts it goes on before its child has become `sleep`.
fn host_pid(marker: &str) -> u32 {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        // Others end meanwhile.
        let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let shows = |pid: &u32| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.starts_with(b"sleep\0") && String::from_utf8_lossy(&command).contains(marker)
        };
        if let Some(pid) = pids.find(shows) {
            return pid;
        }
        assert!(Instant::now() < deadline, "no `sleep {marker}` runs");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_secret_opens_for_processes_of_its_own_run_only() {
    let place = place_with_secret(b"hidden");
    let marker = format!("7{:09}", std::process::id());
    let script = format!(
        "cat .belljar/secrets/KEY; echo; sleep {marker} & p=$!; echo up; read go; kill $p; cat .belljar/secrets/KEY"
    );
    let mut run = Waiting::start(&place, &script);
    assert_eq!((run.line(), run.line()), ("hidden".to_owned(), "up".to_owned()));
    // The host's root reaches into the sandbox's mount namespace, sees the file, and cannot open it.
    let path = format!("/proc/{}/root/workspace/.belljar/secrets/KEY", host_pid(&marker));
    assert_eq!(fs::metadata(&path).unwrap().len(), 6);
    let refused = fs::read(&path).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied, "{refused}");
    // Neither can a process that enters the mount namespace but not the run's pid namespace.
    let entered = std::process::Command::new("nsenter")
        .args(["--mount", "--target", &host_pid(&marker).to_string()])
        .args(["cat", "/workspace/.belljar/secrets/KEY"])
        .output()
        .unwrap();
    assert!(!entered.status.success() && stdout(&entered).is_empty(), "{}", text(&entered));
    assert_eq!(run.go(), "hidden");
}

#[test]
fn what_an_open_secret_reads_was_fixed_when_it_was_opened() {
    let before = [b'a'; 100_000];
    let place = place_with_secret(&before);
    let script = "exec 3< .belljar/secrets/KEY; head -c 1000 <&3; echo; echo up; read go; cat <&3; echo; cat .belljar/secrets/KEY";
    let mut run = Waiting::start(&place, script);
    assert_eq!((run.line(), run.line()), ("a".repeat(1000), "up".to_owned()));
    set(&place, &[b'b'; 70_000]);
    let rest = run.go();
    assert_eq!(rest, format!("{}\n{}", "a".repeat(99_000), "b".repeat(70_000)));
}

#[test]
fn every_reading_of_a_secret_is_logged_by_its_name_and_never_by_its_value() {
    let place = Place::new();
    fs::write(place.path("key"), "unlikely-5e1f77").unwrap();
    let log = place.path("log");
    let mut daemon = place
        .belljard(["serve", "--log", "info"])
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    eventually("the daemon answers", || place.output(["daemon", "status"]).status.success());
    let options = ["-w", "logged", "--secret", "KEY=@key", "--secret-env", "KEY"];
    let output = place.run(&options, "cat /workspace/.belljar/secrets/KEY >/dev/null");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(daemon.id() as i32),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    daemon.wait().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let said = fs::read_to_string(&log).unwrap();
    for words in ["a secret was read in its run", "a secret was given to a run as a variable"] {
        let lines: Vec<&str> = said.lines().filter(|line| line.contains(words)).collect();
        assert_eq!(lines.len(), 1, "{words}: {said}");
        let uid = format!("uid={}", nix::unistd::geteuid());
        for word in ["secret=KEY", "run=", "pid=", uid.as_str()] {
            assert!(lines[0].contains(word), "{word} is not in {}", lines[0]);
        }
    }
    assert!(!said.contains("unlikely-5e1f77"), "the value is in the log");
}
