//! How long the main job takes: `cargo bench --bench run [-- ROUNDS]`. Nothing here passes or fails.
//!
//! Every round measures each row once, the plain file system or the plain command beside ours, so that a busy machine
//! disturbs both alike. Medians and the median of the rounds' ratios are printed; `docs/benchmarks.md` records them.
//!
//! With a running daemon, the start of a run is measured beside bubblewrap (Debian package bubblewrap). Before each of the single starts
//! there is a pause, in which the daemon begins its next sandbox; the ten in a row have none.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const BELLJAR: &str = env!("CARGO_BIN_EXE_belljar");
const BELLJARD: &str = env!("CARGO_BIN_EXE_belljard");
const FILES: usize = 1000;

/// Starts in a row.
const IN_A_ROW: usize = 10;

/// Far longer than a daemon takes to begin a sandbox.
const PAUSE: Duration = Duration::from_millis(100);

/// What is nearest to a run in bubblewrap.
const PEER: [&str; 9] =
    ["--unshare-all", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "true"];

/// A row: what is measured, plainly and through Belljar.
struct Row {
    name: &'static str,
    plain: Vec<Duration>,
    ours: Vec<Duration>,
}

struct Place {
    directory: tempfile::TempDir,
    /// Sockets and mounts: on memory, as `/run` is on most machines.
    runtime: tempfile::TempDir,
    round: usize,
}

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("BELLJAR_STATE_DIR", self.path("state"))
            .env("BELLJAR_RUNTIME_DIR", self.runtime.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    fn fresh(&mut self, name: &str) -> PathBuf {
        self.round += 1;
        let directory = self.path(&format!("{name}-{}", self.round));
        fs::create_dir(&directory).unwrap();
        directory
    }

    /// `true` in a run with a writable directory and a secret, `times` in a row, in a workspace of this name or each in one of its own.
    fn starts(&self, workspace: Option<&str>, times: usize) -> Duration {
        let mount = format!("out={}", self.path("starts").display());
        let options = workspace.into_iter().flat_map(|name| ["--workspace", name]);
        let arguments: Vec<&str> = ["run", "--quiet", "--rw", &mount, "--secret", "KEY=value"]
            .into_iter()
            .chain(options)
            .chain(["--", "true"])
            .collect();
        (0..times).map(|_| timed(self.command(BELLJAR).args(&arguments))).sum()
    }

    /// `belljar run` of a shell script with a writable directory.
    fn run(&self, output: &Path, script: &str) -> Duration {
        let mount = format!("out={}", output.display());
        timed(
            self.command(BELLJAR)
                .args(["run", "--quiet", "--rw", &mount, "--", "sh", "-c", script]),
        )
    }
}

/// `true` in bubblewrap, `times` in a row; `None` where there is none.
fn peer(times: usize) -> Option<Duration> {
    let start = Instant::now();
    for _ in 0..times {
        match Command::new("bwrap").args(PEER).stdin(Stdio::null()).status() {
            Ok(status) => assert!(status.success(), "bwrap: {status}"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => panic!("bwrap: {error}"),
        }
    }
    Some(start.elapsed())
}

fn timed(command: &mut Command) -> Duration {
    let start = Instant::now();
    let status = command.status().unwrap();
    let took = start.elapsed();
    assert!(status.success(), "{command:?}: {status}");
    took
}

fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted[sorted.len() / 2]
}

fn main() {
    let rounds = std::env::args().filter_map(|word| word.parse().ok()).next().unwrap_or(9);
    // Beside the build, since /tmp may be memory and the disk is what is measured.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let runtime = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut place = Place { directory, runtime, round: 0 };
    let mut rows = [
        "true, private daemon",
        "true, fresh workspace",
        "true, workspace there",
        "10 times true, there",
        "1000 small files",
        "256 MiB written",
        "256 MiB read",
    ]
    .map(|name| Row { name, plain: Vec::new(), ours: Vec::new() });
    let small = format!("i=0; while [ $i -lt {FILES} ]; do echo $i > f$i; i=$((i+1)); done");
    let write = "head -c 268435456 /dev/zero > big; sync big";
    let read = "cat big > /dev/null";

    let note = |row: &mut Row, plain, ours| {
        row.plain.push(plain);
        row.ours.push(ours);
    };
    for _ in 0..rounds {
        let output = place.fresh("out");
        note(&mut rows[0], timed(&mut Command::new("true")), place.run(&output, "true"));
    }
    let mut daemon = place.command(BELLJARD).arg("serve").stderr(Stdio::null()).spawn().unwrap();
    while !place
        .command(BELLJAR)
        .args(["daemon", "status"])
        .stderr(Stdio::null())
        .status()
        .unwrap()
        .success()
    {
        std::thread::sleep(Duration::from_millis(20));
    }
    fs::create_dir(place.path("starts")).unwrap();
    // The row's index, the workspace, how often.
    let starts = [(1, None, 1), (2, Some("w"), 1), (3, Some("w"), IN_A_ROW)];
    for round in 0..=rounds {
        for (row, workspace, times) in starts {
            std::thread::sleep(PAUSE);
            let Some(theirs) = peer(times) else {
                if round == 0 && row == 1 {
                    println!(
                        "bwrap is not there, so that no start is compared: install the package bubblewrap"
                    );
                }
                continue;
            };
            std::thread::sleep(PAUSE);
            let ours = place.starts(workspace, times);
            // The first round makes the workspace.
            if round > 0 {
                note(&mut rows[row], theirs, ours);
            }
        }
    }
    for _ in 0..rounds {
        let output = place.fresh("out");
        for (row, script) in [(4, small.as_str()), (5, write), (6, read)] {
            let (plain, ours) = (output.join("plain"), output.join("ours"));
            for directory in [&plain, &ours] {
                fs::create_dir_all(directory).unwrap();
            }
            let plainly = timed(Command::new("sh").args(["-c", script]).current_dir(&plain));
            note(&mut rows[row], plainly, place.run(&ours, &format!("cd out; {script}")));
        }
        fs::remove_dir_all(&output).unwrap();
    }
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(daemon.id() as i32),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    daemon.wait().unwrap();

    println!("{:24} {:>12} {:>12} {:>8}", "median of rounds", "plain", "belljar", "ratio");
    for row in rows.into_iter().filter(|row| !row.ours.is_empty()) {
        let mut ratios: Vec<f64> = row
            .plain
            .iter()
            .zip(&row.ours)
            .map(|(plain, ours)| ours.as_secs_f64() / plain.as_secs_f64())
            .collect();
        ratios.sort_by(f64::total_cmp);
        println!(
            "{:24} {:>12.2?} {:>12.2?} {:>8.2}",
            row.name,
            median(&row.plain),
            median(&row.ours),
            ratios[ratios.len() / 2]
        );
    }
}
