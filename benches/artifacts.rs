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

/// Writes files of 4 KiB and prints how many seconds that took, without the time that waiting for their registration takes.
const WRITER: &str = "import sys, time
began = time.perf_counter()
for n in range(int(sys.argv[2])):
    with open('%s/f%d' % (sys.argv[1], n), 'wb') as f:
        f.write(b'%08d' % n * 512)
print(time.perf_counter() - began)
";

const MLFLOW: &str = "import mlflow, os, sys, time
mlflow.set_tracking_uri('file:' + sys.argv[2])
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
    for _ in 0..rounds {
        let (plain, on, off) = (place.fresh(), place.fresh(), place.fresh());
        let mut writer = Command::new("python3");
        writer.args(["-c", WRITER]).arg(&plain).arg(FILES.to_string());
        note("writer, plain directory", seconds(&mut writer));
        note("writer, workspace, artifacts off", place.write(&off, false).0);
        let (said, whole) = place.write(&on, true);
        note("writer, workspace, artifacts on", said);
        note("run, until all are registered", whole);
        let copy = place.fresh();
        note("cp -r", timed(Command::new("cp").arg("-r").arg(&plain).arg(copy.join("c"))));
        if let Some(venv) = &peers {
            let store = place.fresh();
            let mut mlflow = Command::new(venv.join("bin/python"));
            mlflow.args(["-c", MLFLOW]).arg(&plain).arg(&store);
            note("mlflow.log_artifact", seconds(&mut mlflow));
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
    for (name, times) in rows {
        let median = median(&times);
        println!("{name:36} {median:>12.2?} {:>12.2?}", median / FILES as u32);
    }
}
