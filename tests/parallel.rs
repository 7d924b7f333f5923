//! A hundred runs at once: each ends as if it were alone, and nothing remains of any.
//!
//! Needs what `tests/run.rs` needs.
#![allow(clippy::unwrap_used)]

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Stdio};
use std::time::Duration;
use support::{Place, eventually, finish, stdout, text};

const RUNS: usize = 100;

/// Every second run is in a workspace of its own, the others in these.
const SHARED: usize = 5;

/// Threads of the API that may block have this name, as its workers do (src/daemon.rs).
const POOL: &str = "belljar-api";

/// How long clients have to come to the door, once started: each asks for the daemon at once, and waits then.
const GATHER: Duration = Duration::from_secs(2);

fn start(place: &Place, number: usize) -> Child {
    let mut arguments = vec!["run".to_owned(), "--ro".to_owned(), "input=input".to_owned()];
    arguments.extend(["--rw".to_owned(), "output=output".to_owned()]);
    if number.is_multiple_of(2) {
        arguments.extend(["-w".to_owned(), format!("shared-{}", number / 2 % SHARED)]);
    }
    // Standard input has its own too, and each line takes a process.
    let script = format!(
        "read -r token; echo \"$token $(cat input/data.txt)\"; echo \"to $token\" | cat > output/{number}.txt; exit {}",
        code(number)
    );
    arguments.extend(["--secret".to_owned(), format!("TOKEN=@token-{number}"), "--".to_owned()]);
    arguments.extend(["sh".to_owned(), "-c".to_owned(), script]);
    let token = place.path(&format!("token-{number}"));
    fs::write(&token, token_of(number)).unwrap();
    let input = place.path(&format!("stdin-{number}"));
    fs::write(&input, format!("{}\n", token_of(number))).unwrap();
    let mut command = place.belljar(arguments);
    command.stdin(fs::File::open(input).unwrap()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn token_of(number: usize) -> String {
    format!("token-{number}-{}", number * 7919)
}

fn code(number: usize) -> i32 {
    (number % 120) as i32 + 1
}

/// What a process holds: its threads by their names, its descriptors by what they are, and its children. But for what is kept for the
/// next call, and has a bound of its own: threads that may block, and the catalog's connections.
fn holdings(pid: i32) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    let mut add = |what: String, count| *all.entry(what).or_default() += count;
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let name = read("comm");
        if !name.starts_with(POOL) {
            add(format!("thread {}", name.trim()), 1);
        }
        add("children".to_owned(), read("children").split_whitespace().count());
    }
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let target = target.to_string_lossy().into_owned();
        if !target.contains("/state/catalog.sqlite") {
            let kind = target.split(|c: char| c == ':' || c.is_ascii_digit()).next().unwrap();
            add(kind.to_owned(), 1);
        }
    }
    all
}

#[test]
fn a_hundred_runs_at_once_all_end_right_and_leave_nothing() {
    let mut place = Place::new();
    place.start_daemon();
    // What the first run makes once and keeps is there before.
    let first = start(&place, RUNS);
    assert_eq!(finish(first).status.code(), Some(code(RUNS)));
    let before = holdings(place.daemon_pid());

    // The daemon hears nothing before all of them are there.
    let daemon = Pid::from_raw(place.daemon_pid());
    kill(daemon, Signal::SIGSTOP).unwrap();
    let running: Vec<Child> = (0..RUNS).map(|number| start(&place, number)).collect();
    std::thread::sleep(GATHER);
    kill(daemon, Signal::SIGCONT).unwrap();
    let mut wrong = Vec::new();
    for (number, child) in running.into_iter().enumerate() {
        let output = finish(child);
        let expected = format!("{} the input\n", token_of(number));
        if output.status.code() != Some(code(number)) || stdout(&output) != expected {
            wrong.push(format!("{number}: {}", text(&output)));
        }
    }
    assert!(wrong.is_empty(), "{} of {RUNS}:\n{}", wrong.len(), wrong.join("\n"));
    for number in 0..RUNS {
        let written = fs::read_to_string(place.path(&format!("output/{number}.txt"))).unwrap();
        assert_eq!(written, format!("to {}\n", token_of(number)));
    }
    // One artifact of each, and in it what that run wrote.
    let artifacts = place.artifacts(&[]);
    assert_eq!(artifacts.len(), RUNS + 1);
    let mut runs: Vec<&str> = artifacts.iter().map(|a| a["run_id"].as_str().unwrap()).collect();
    runs.sort_unstable();
    runs.dedup();
    assert_eq!(runs.len(), RUNS + 1);
    for artifact in &artifacts {
        let path = artifact["path"].as_str().unwrap();
        let number = path.strip_prefix("/workspace/output/").and_then(|p| p.strip_suffix(".txt"));
        let number: usize = number.unwrap().parse().unwrap();
        assert_eq!((&artifact["state"], &artifact["version"]), (&"READY".into(), &1.into()));
        assert_eq!(artifact["size"], format!("to {}\n", token_of(number)).len());
        if number.is_multiple_of(10) {
            let content = place.output(["artifact", "cat", artifact["id"].as_str().unwrap()]);
            assert_eq!(stdout(&content), format!("to {}\n", token_of(number)));
        }
    }

    for shared in 0..SHARED {
        let removed = place.output(["workspace", "rm", &format!("shared-{shared}")]);
        assert!(removed.status.success(), "{}", text(&removed));
    }
    assert!(place.mounts().is_empty(), "still mounted: {:?}", place.mounts());
    for directory in ["runs", "cgroups", "scratch"] {
        let left = fs::read_dir(place.path("runtime").join(directory)).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{directory}");
    }
    // Connections of the last calls go a little later.
    eventually("the daemon holds what it held before", || {
        let now = holdings(place.daemon_pid());
        let more: Vec<_> =
            now.iter().filter(|(kind, count)| *count > before.get(*kind).unwrap_or(&0)).collect();
        if !more.is_empty() {
            eprintln!("more than before: {more:?}");
        }
        more.is_empty()
    });
}
