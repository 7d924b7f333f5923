//! Limits of runs: each one that the receipt calls in force is, for the whole tree of processes, and nothing of it remains.
//!
//! Where this machine has no cgroup for a limit, the same test asks that the run is refused by name and that nothing ran.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod ends;
mod missing;
mod world;

use std::fs;
use std::time::{Duration, Instant};
use support::{Place, stderr, stdout, text};
use world::{Limited, directories_of, enforced_or_refused, layer};

#[test]
fn a_run_that_takes_too_much_memory_is_ended_and_says_so() {
    let place = Place::new();
    let hog = "python3 -c 'x = bytearray(300 << 20)'";
    for script in [
        hog.to_owned(),
        // All processes together, though none alone.
        "for i in 1 2 3 4 5; do python3 -c 'import time; x = bytearray(20 << 20); time.sleep(20)' & done; wait".to_owned(),
        // Files in memory are the run's too.
        "head -c 300M /dev/zero >/tmp/large; sleep 20".to_owned(),
        // A shell would go on without the child that was killed.
        format!("{hog}; sleep 20"),
    ] {
        let began = Instant::now();
        let Some(run) = enforced_or_refused(&place, &["--memory", "64MiB"], &script) else { return };
        assert!(began.elapsed() < Duration::from_secs(15), "{script} took {:?}", began.elapsed());
        let Limited { output, receipt } = run;
        assert_eq!(output.status.code(), Some(137), "{script}: {}", text(&output));
        assert_eq!(receipt["reason"], "out-of-memory", "{script}: {receipt}");
        assert!(stderr(&output).contains("memory limit of 64MiB"), "{}", text(&output));
        assert_eq!(receipt["usage"]["peak_memory_measured_by"], "cgroup");
        let peak = receipt["usage"]["peak_memory_bytes"].as_u64().unwrap();
        assert!((32 << 20..=64 << 20).contains(&peak), "{peak}");
    }
    place.assert_clean();
}

#[test]
fn a_run_within_its_memory_is_left_alone() {
    let place = Place::new();
    let script = "python3 -c 'x = bytearray(60 << 20)'; exit 3";
    let Some(run) = enforced_or_refused(&place, &["--memory", "128MiB"], script) else { return };
    assert_eq!(run.output.status.code(), Some(3), "{}", text(&run.output));
    assert_eq!(run.receipt["reason"], "exited");
}

/// Forks as often as it can and says how often that was; its children wait.
const FORK: &str = "import os, time
made = 0
while made < 200:
    try:
        if os.fork() == 0:
            time.sleep(60)
    except BlockingIOError:
        break
    made += 1
print(made)";

#[test]
fn exactly_as_many_processes_as_were_asked_for_can_be_made() {
    let place = Place::new();
    let script = format!("exec python3 -c '{FORK}'");
    let Some(run) = enforced_or_refused(&place, &["--pids", "20"], &script) else { return };
    // The command is the twentieth.
    assert_eq!(stdout(&run.output), "19\n", "{}", text(&run.output));
    assert_eq!(run.receipt["usage"]["refused_forks"], 1, "{}", run.receipt);
    // Threads count as well.
    let script = "exec python3 -c 'import threading, time
made = 0
try:
    while made < 200:
        threading.Thread(target=time.sleep, args=(5,), daemon=True).start()
        made += 1
except RuntimeError:
    print(made, flush=True)'";
    let run = enforced_or_refused(&place, &["--pids", "20"], script).unwrap();
    assert_eq!(stdout(&run.output), "19\n", "{}", text(&run.output));
}

#[test]
fn a_fork_bomb_meets_its_limit_and_the_machine_stays_well() {
    let mut place = Place::new();
    place.start_daemon();
    let bomb = "bash -c 'bomb() { bomb | bomb & }; bomb; sleep 60' 2>/dev/null";
    let slowest = std::thread::scope(|threads| {
        let other = threads.spawn(|| {
            let until = Instant::now() + Duration::from_secs(3);
            let mut slowest = Duration::ZERO;
            while Instant::now() < until {
                let began = Instant::now();
                assert!(std::process::Command::new("true").status().unwrap().success());
                slowest = slowest.max(began.elapsed());
            }
            slowest
        });
        let options = ["--pids", "60", "--timeout", "3s"];
        if let Some(run) = enforced_or_refused(&place, &options, bomb) {
            let usage = &run.receipt["usage"];
            assert!(usage["refused_forks"].as_u64().unwrap() > 0, "{usage}");
            // With the first process. Older kernels do not know how many there were.
            assert!(usage["peak_pids"].as_u64().unwrap_or(0) <= 61, "{usage}");
            assert!(["timeout", "exited"].contains(&run.receipt["reason"].as_str().unwrap()));
        }
        other.join().unwrap()
    });
    assert!(slowest < Duration::from_secs(5), "starting a process took {slowest:?}");
    assert!(place.output(["daemon", "status"]).status.success());
}

#[test]
fn a_run_gets_no_more_than_its_share_of_processors() {
    let place = Place::new();
    let busy = "python3 -c 'import time
end = time.time() + 2
while time.time() < end: pass'";
    let script = format!("{busy} & {busy} & wait");
    let Some(run) = enforced_or_refused(&place, &["--cpus", "0.25"], &script) else { return };
    let number = |name: &str| run.receipt["usage"][name].as_f64().unwrap();
    let share = number("cpu_ms") / number("wall_ms");
    assert!(share < 0.4, "{share} of a processor with a limit of 0.25");
    assert!(share > 0.05, "{share} of a processor: nothing ran");
}

#[test]
fn the_kernel_has_the_limits_that_were_asked_for_while_the_run_lasts() {
    let place = Place::new();
    let options = ["--memory", "96MiB", "--cpus", "1.5", "--pids", "33"];
    let script =
        "echo $BELLJAR_RUN; while ! [ -e /workspace/output/go ]; do sleep 0.05; done; exit 5";
    let script_done = std::thread::scope(|threads| {
        let running = threads.spawn(|| enforced_or_refused(&place, &options, script));
        let mut seen = Vec::new();
        support::eventually("the run has a cgroup, or is refused", || {
            seen = world::groups_with_members_started_below(std::process::id());
            !seen.is_empty() || running.is_finished()
        });
        let settings: String = seen.iter().flat_map(|at| world::settings(at)).collect();
        fs::write(place.path("output/go"), "").unwrap();
        (running.join().unwrap(), settings)
    });
    let (Some(run), settings) = script_done else { return };
    assert_eq!(run.output.status.code(), Some(5), "{}", text(&run.output));
    assert!(settings.contains(&format!("memory={}\n", 96 << 20)), "{settings}");
    assert!(settings.contains("cpu=150000/100000\n"), "{settings}");
    assert!(settings.contains("pids=34\n"), "{settings}");
    for name in ["memory", "cpus", "pids"] {
        let layer = layer(&run.receipt, name);
        assert_eq!((&layer["requested"], &layer["in_force"]), (&true.into(), &true.into()));
        assert!(layer["detail"].as_str().unwrap().contains("read back"), "{layer}");
    }
    assert_eq!(directories_of(stdout(&run.output).trim()), Vec::<std::path::PathBuf>::new());
    place.assert_clean();
}

#[test]
fn limits_of_one_run_are_not_those_of_the_next() {
    let mut place = Place::new();
    place.start_daemon();
    let many = format!("exec python3 -c '{FORK}'");
    for _ in 0..2 {
        let options = ["-w", "same", "--pids", "5"];
        let Some(run) = enforced_or_refused(&place, &options, &many) else { return };
        assert_eq!(stdout(&run.output), "4\n", "{}", text(&run.output));
        let free = place.run(&["-w", "same", "--receipt", "free.json"], &many);
        assert_eq!(stdout(&free), "200\n", "{}", text(&free));
        let receipt = world::receipt(&place.path("free.json"));
        assert_eq!(receipt["usage"]["peak_memory_measured_by"], "rusage");
        assert_eq!(receipt["usage"]["cpu_measured_by"], "rusage");
    }
}

#[test]
fn limits_of_a_manifest_are_held_and_the_command_line_outranks_them() {
    let place = Place::new();
    fs::write(place.path("m.yaml"), "limits: { memory: 1GiB, pids: 6 }\n").unwrap();
    let many = format!("exec python3 -c '{FORK}'");
    let Some(run) = enforced_or_refused(&place, &["-f", "m.yaml"], &many) else { return };
    assert_eq!(stdout(&run.output), "5\n", "{}", text(&run.output));
    let options = ["-f", "m.yaml", "--pids", "9"];
    let run = enforced_or_refused(&place, &options, &many).unwrap();
    assert_eq!(stdout(&run.output), "8\n", "{}", text(&run.output));
    assert!(layer(&run.receipt, "memory")["detail"].as_str().unwrap().starts_with("1GiB"));
}

#[test]
fn twenty_runs_at_a_time_have_their_own_limits() {
    let mut place = Place::new();
    place.start_daemon();
    let runs: Vec<_> = std::thread::scope(|threads| {
        let started: Vec<_> = (1..=20)
            .map(|number| {
                let place = &place;
                threads.spawn(move || {
                    let pids = (number + 2).to_string();
                    let receipt = format!("r{number}.json");
                    let options = ["--pids", &pids, "--memory", "256MiB", "--receipt", &receipt];
                    let script = format!("echo $BELLJAR_RUN; exec python3 -c '{FORK}'");
                    (number, place.run(&options, &script))
                })
            })
            .collect();
        started.into_iter().map(|run| run.join().unwrap()).collect()
    });
    for (number, output) in runs {
        if !(world::has("memory") && world::has("pids")) {
            assert_eq!(output.status.code(), Some(125), "{}", text(&output));
            continue;
        }
        let said = stdout(&output);
        let (run, made) = said.trim().split_once('\n').expect("two lines");
        assert_eq!(made, (number + 1).to_string(), "{}", text(&output));
        assert!(directories_of(run).is_empty(), "{:?}", directories_of(run));
    }
    assert!(place.stop_daemon(nix::sys::signal::Signal::SIGTERM).success());
    place.assert_clean();
}
