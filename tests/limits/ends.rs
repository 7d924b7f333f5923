//! The end of a run: nobody of its tree outlives it, whoever ends it, and its cgroups go.

use crate::support::{Place, SOON, eventually, stdout, text};
use crate::world::{directories_of, has, receipt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Starts processes that do all to outlive their parent, each with `marker` in its arguments: in a session of its own, forked
/// twice, deaf to SIGTERM; and waits, deaf as well.
fn stubborn(marker: &str) -> String {
    format!(
        "echo $BELLJAR_RUN
exec python3 -c '
import os, signal, time
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
def stay():
    os.execvp(\"python3\", [\"python3\", \"-c\", \"import time; time.sleep(300)\", \"{marker}\"])
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        stay()
    os._exit(0)
if os.fork() == 0:
    stay()
print(\"ready\", flush=True)
stay()' "
    )
}

fn marker() -> String {
    format!("marker-{}", uuid::Uuid::now_v7())
}

/// Processes on this machine with the marker as an argument of their own.
fn alive(marker: &str) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let has_it = |entry: &fs::DirEntry| {
        fs::read(entry.path().join("cmdline"))
            .is_ok_and(|line| line.split(|b| *b == 0).any(|argument| argument == marker.as_bytes()))
    };
    processes.filter(has_it).count()
}

/// Limits that this machine can hold, as options: the ends must be right without any as well.
fn limits() -> Vec<&'static str> {
    let mut options = Vec::new();
    if has("pids") {
        options.extend(["--pids", "50"]);
    }
    if has("memory") {
        options.extend(["--memory", "512MiB"]);
    }
    options
}

/// A run of stubborn processes, all of them started, and its id.
fn start(place: &Place, marker: &str, options: &[&str]) -> (Child, String) {
    let mut all = limits();
    all.extend(options);
    let mut child =
        place.run_command(&all, &stubborn(marker)).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let run = lines.next().expect("a line").unwrap();
    assert_eq!(lines.next().expect("a line").unwrap(), "ready");
    eventually("all three processes run", || alive(marker) == 3);
    (child, run)
}

#[test]
fn a_timeout_ends_the_whole_tree() {
    let place = Place::new();
    let marker = marker();
    let mut options = limits();
    options.extend(["--timeout", "1s", "--receipt", "r.json"]);
    let began = Instant::now();
    let output = place.run(&options, &stubborn(&marker));
    let took = began.elapsed();
    assert_eq!(output.status.code(), Some(124), "{}", text(&output));
    assert!(stdout(&output).contains("ready"), "it was not even started: {}", text(&output));
    assert_eq!(receipt(&place.path("r.json"))["reason"], "timeout");
    assert_eq!(alive(&marker), 0, "somebody outlived the run");
    // The second, and two of grace.
    assert!(took >= Duration::from_secs(3), "no grace: {took:?}");
    assert!(took < SOON, "{took:?}");
    assert!(directories_of(stdout(&output).lines().next().unwrap()).is_empty());
    place.assert_clean();
}

#[test]
fn a_command_may_end_by_itself_within_the_grace_of_its_timeout() {
    let place = Place::new();
    let script =
        "trap 'echo saved >/workspace/output/state; exit 0' TERM; while :; do sleep 0.1; done";
    let began = Instant::now();
    let output = place.run(&["--timeout", "500ms"], script);
    assert_eq!(output.status.code(), Some(124), "{}", text(&output));
    assert_eq!(fs::read_to_string(place.path("output/state")).unwrap(), "saved\n");
    assert!(began.elapsed() < Duration::from_millis(2_400), "{:?}", began.elapsed());
}

#[test]
fn nothing_of_a_run_outlives_its_command() {
    let place = Place::new();
    let marker = marker();
    let script = format!("setsid sleep 300 {marker} 2>/dev/null & echo $BELLJAR_RUN; exec true");
    // sleep(1) refuses the marker as a time; a shell waits with it in its arguments.
    let script = script.replace("setsid sleep 300", "setsid sh -c 'while :; do sleep 1; done'");
    let output = place.run(&limits(), &script);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(alive(&marker), 0);
    assert!(directories_of(stdout(&output).trim()).is_empty());
    place.assert_clean();
}

#[test]
fn nothing_remains_when_the_client_is_killed() {
    let mut place = Place::new();
    place.start_daemon();
    let marker = marker();
    let (mut child, run) = start(&place, &marker, &[]);
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the tree is gone", || alive(&marker) == 0);
    eventually("the cgroup is gone", || directories_of(&run).is_empty());
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.assert_clean();
}

#[test]
fn nothing_remains_when_the_daemon_is_killed_and_another_starts() {
    let mut place = Place::new();
    place.start_daemon();
    let marker = marker();
    let (mut child, run) = start(&place, &marker, &[]);
    place.stop_daemon(Signal::SIGKILL);
    child.wait().unwrap();
    // The kernel and the first process see to that.
    eventually("the tree is gone", || alive(&marker) == 0);
    assert_eq!(
        directories_of(&run).is_empty(),
        limits().is_empty(),
        "a killed daemon removes nothing"
    );
    place.start_daemon();
    eventually("the cgroup is gone", || directories_of(&run).is_empty());
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.assert_clean();
}

#[test]
fn nothing_remains_when_a_command_with_a_private_daemon_is_killed() {
    let place = Place::new();
    let marker = marker();
    let (mut child, run) = start(&place, &marker, &[]);
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the tree is gone", || alive(&marker) == 0);
    // The next command finds what the dead one left.
    assert!(place.run(&[], "true").status.success());
    assert!(directories_of(&run).is_empty(), "{:?}", directories_of(&run));
    place.assert_clean();
}

#[test]
fn a_stopped_first_process_does_not_save_the_run_from_its_timeout() {
    let place = Place::new();
    let marker = marker();
    let (mut child, run) = start(&place, &marker, &["--timeout", "2s"]);
    // All that belongs to the run, from outside: what is stopped can only be killed.
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if line.split(|b| *b == 0).any(|argument| argument == marker.as_bytes()) {
            kill(Pid::from_raw(pid.unwrap()), Signal::SIGSTOP).unwrap();
        }
    }
    assert_eq!(child.wait().unwrap().code(), Some(124));
    assert_eq!(alive(&marker), 0);
    assert!(directories_of(&run).is_empty());
}
