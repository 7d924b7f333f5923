//! What following writes costs, and how long a thousand files take to be kept: `cargo bench --bench artifacts [-- ROUNDS]`.
//! Nothing here passes or fails.
//!
//! Every round does each row once, so that a busy machine disturbs all alike. With `BELLJAR_BENCH_PEERS=VENV`, a Python
//! environment that has mlflow and dvc, the same files are also given to those two in each round.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const BELLJAR: &str = env!("CARGO_BIN_EXE_belljar");
const BELLJARD: &str = env!("CARGO_BIN_EXE_belljard");
const FILES: usize = 1000;

/// One call for the whole folder.
const MLFLOW_FOLDER: &str = "import mlflow, sys, time
mlflow.set_tracking_uri('file:' + sys.argv[2] + '/runs')
with mlflow.start_run():
    began = time.perf_counter()
    mlflow.log_artifacts(sys.argv[1])
    print(time.perf_counter() - began)
";

/// Rows whose times are set in relation to another's of the same round.
const RATIOS: [(&str, &str); 6] = [
    ("writer, workspace, artifacts on", "writer, workspace, artifacts off"),
    ("writer, workspace, artifacts on", "writer, plain directory"),
    ("run, until all are registered", "cp -r"),
    ("mlflow.log_artifact", "run, until all are registered"),
    ("mlflow.log_artifacts", "run, until all are registered"),
    ("dvc add", "run, until all are registered"),
];

/// Writes files of 4 KiB and prints how many seconds that took, without the time that waiting for their registration takes.
const WRITER: &str = "import sys, time
began = time.perf_counter()
for n in range(int(sys.argv[2])):
    with open('%s/f%d' % (sys.argv[1], n), 'wb') as f:
        f.write(b'%08d' % n * 512)
print(time.perf_counter() - began)
";

const MLFLOW: &str = "import mlflow, os, sys, time
mlflow.set_tracking_uri('file:' + sys.argv[2] + '/runs')
with mlflow.start_run():
    began = time.perf_counter()
    for name in os.listdir(sys.argv[1]):
        mlflow.log_artifact(os.path.join(sys.argv[1], name))
    print(time.perf_counter() - began)
";

struct Place {
    directory: tempfile::TempDir,
    made: usize,
}

impl Place {
    fn fresh(&mut self) -> PathBuf {
        self.made += 1;
        let directory = self.directory.path().join(self.made.to_string());
        fs::create_dir(&directory).unwrap();
        directory
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("BELLJAR_STATE_DIR", self.directory.path().join("state"))
            .env("BELLJAR_RUNTIME_DIR", self.directory.path().join("runtime"))
            .stdin(Stdio::null());
        command
    }

    /// The writer in a workspace: how long it says that it took, and how long the run took.
    fn write(&self, output: &Path, artifacts: bool) -> (Duration, Duration) {
        let manifest = self.directory.path().join("workspace.yaml");
        let path = output.display();
        let text = format!(
            "mounts:\n  - {{ name: out, path: {path}, mode: rw, artifacts: {artifacts} }}\n"
        );
        fs::write(&manifest, text).unwrap();
        let mut command = self.command(BELLJAR);
        command.args(["run", "--quiet", "--file"]).arg(&manifest).args(["--", "python3", "-c"]);
        let began = Instant::now();
        let said = seconds(command.args([WRITER, "out", &FILES.to_string()]));
        (said, began.elapsed())
    }
}

/// What a program prints as the seconds that its work took.
fn seconds(command: &mut Command) -> Duration {
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", output.status);
    let text = String::from_utf8(output.stdout).unwrap();
    Duration::from_secs_f64(text.trim().lines().last().unwrap().parse().unwrap())
}

fn timed(command: &mut Command) -> Duration {
    let began = Instant::now();
    let status = command.stdout(Stdio::null()).status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
    began.elapsed()
}

fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted[sorted.len() / 2]
}

fn main() {
    let rounds = std::env::args().filter_map(|word| word.parse().ok()).next().unwrap_or(7);
    let peers = std::env::var_os("BELLJAR_BENCH_PEERS").map(PathBuf::from);
    // Beside the build, since /tmp may be memory and the disk is what is measured.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut place = Place { directory, made: 0 };
    let mut daemon = place.command(BELLJARD).arg("serve").stderr(Stdio::null()).spawn().unwrap();
    while !place
        .command(BELLJAR)
        .args(["daemon", "status"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap()
        .success()
    {
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut rows: Vec<(&str, Vec<Duration>)> = Vec::new();
    let mut note = |name: &'static str, took: Duration| match rows.iter_mut().find(|r| r.0 == name)
    {
        Some((_, times)) => times.push(took),
        None => rows.push((name, vec![took])),
    };
    for round in 0..rounds {
        let (plain, on, off) = (place.fresh(), place.fresh(), place.fresh());
        let mut writer = Command::new("python3");
        writer.args(["-c", WRITER]).arg(&plain).arg(FILES.to_string());
        note("writer, plain directory", seconds(&mut writer));
        // In turn first and second: what was written before is still on its way to the disk.
        for artifacts in if round % 2 == 0 { [false, true] } else { [true, false] } {
            let (said, whole) = place.write(if artifacts { &on } else { &off }, artifacts);
            if artifacts {
                note("writer, workspace, artifacts on", said);
                note("run, until all are registered", whole);
            } else {
                note("writer, workspace, artifacts off", said);
            }
        }
        let copy = place.fresh();
        note("cp -r", timed(Command::new("cp").arg("-r").arg(&plain).arg(copy.join("c"))));
        if let Some(venv) = &peers {
            let store = place.fresh();
            let mut mlflow = Command::new(venv.join("bin/python"));
            // The store of files is what mlflow is fastest with.
            mlflow
                .args(["-c", MLFLOW])
                .arg(&plain)
                .arg(&store)
                .env("MLFLOW_ALLOW_FILE_STORE", "true");
            note("mlflow.log_artifact", seconds(&mut mlflow));
            let mut folder = Command::new(venv.join("bin/python"));
            folder.args(["-c", MLFLOW_FOLDER]).arg(&plain).arg(place.fresh());
            folder.env("MLFLOW_ALLOW_FILE_STORE", "true");
            note("mlflow.log_artifacts", seconds(&mut folder));
            let project = place.fresh();
            fs::rename(&plain, project.join("data")).unwrap();
            let dvc = || {
                let mut dvc = Command::new(venv.join("bin/dvc"));
                dvc.current_dir(&project).env("DVC_NO_ANALYTICS", "1");
                dvc
            };
            timed(dvc().args(["init", "--no-scm", "--quiet"]));
            note("dvc add", timed(dvc().args(["add", "--quiet", "data"])));
        }
    }
    let pid = nix::unistd::Pid::from_raw(daemon.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    daemon.wait().unwrap();
    println!("{:36} {:>12} {:>12}", format!("{FILES} files of 4 KiB"), "median", "per file");
    for (name, times) in &rows {
        let median = median(times);
        println!("{name:36} {median:>12.2?} {:>12.2?}", median / FILES as u32);
    }
    println!("{:72} {:>12}", "median of the rounds' ratios", "ratio");
    for (one, other) in RATIOS {
        let times = |name: &str| rows.iter().find(|row| row.0 == name).map(|row| &row.1);
        if let (Some(ones), Some(others)) = (times(one), times(other)) {
            let pairs = ones.iter().zip(others);
            let mut ratios: Vec<f64> =
                pairs.map(|(one, other)| one.as_secs_f64() / other.as_secs_f64()).collect();
            ratios.sort_by(f64::total_cmp);
            println!("{:72} {:>12.2}", format!("{one} / {other}"), ratios[ratios.len() / 2]);
        }
    }
}
