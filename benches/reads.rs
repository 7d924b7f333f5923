//! What noting inputs costs a run that reads: `cargo bench --bench reads [-- ROUNDS]`. Nothing here passes or fails.
//!
//! Two daemons serve the same directory of small files, one that notes inputs and one that does not
//! (`artifacts.inputs_max: 0`). In each round a run of each opens and closes every file three times in a row and measures itself,
//! in turns, so that a busy machine disturbs both alike. In the first pass each file is news; later ones are what is left.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const BELLJAR: &str = env!("CARGO_BIN_EXE_belljar");
const BELLJARD: &str = env!("CARGO_BIN_EXE_belljard");
const FILES: usize = 10_000;
const PASSES: usize = 3;

const SCRIPT: &str = r#"
import os, time
os.chdir("/workspace/input")
names = sorted(os.listdir("."))
# The names are known to the kernel before the clock runs: what is measured is open and close.
for name in names: os.stat(name)
open("/workspace/output/x", "w").write(str(os.getpid()))
for _ in range(3):
    start = time.perf_counter()
    for name in names: os.close(os.open(name, os.O_RDONLY))
    print(time.perf_counter() - start)
"#;

struct Daemon {
    directory: PathBuf,
    child: Child,
}

impl Daemon {
    fn start(place: &Path, name: &str, inputs_max: usize) -> Self {
        let directory = place.join(name);
        fs::create_dir(&directory).unwrap();
        fs::create_dir(directory.join("output")).unwrap();
        let config = directory.join("config.yaml");
        fs::write(&config, format!("artifacts: {{ inputs_max: {inputs_max} }}")).unwrap();
        let mut serve = Self::command(&directory, BELLJARD);
        let child = serve.arg("serve").arg("--config").arg(config).spawn().unwrap();
        let daemon = Self { directory, child };
        while !Self::command(&daemon.directory, BELLJAR)
            .args(["daemon", "status"])
            .stdout(Stdio::null())
            .status()
            .unwrap()
            .success()
        {
            std::thread::sleep(Duration::from_millis(20));
        }
        daemon
    }

    fn command(directory: &Path, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("BELLJAR_STATE_DIR", directory.join("state"))
            .env("BELLJAR_RUNTIME_DIR", directory.join("runtime"))
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// Seconds of each pass.
    fn passes(&self, input: &Path) -> Vec<f64> {
        let mount = |name: &str, path: &Path| format!("{name}={}", path.display());
        let output = Self::command(&self.directory, BELLJAR)
            .args(["run", "--ro", &mount("input", input)])
            .args(["--rw", &mount("output", &self.directory.join("output"))])
            .args(["--", "/usr/bin/python3", "-c", SCRIPT])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let passes: Vec<f64> = text.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(passes.len(), PASSES);
        passes
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let rounds: usize = std::env::args().filter_map(|word| word.parse().ok()).next().unwrap_or(9);
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let input = place.path().join("input");
    fs::create_dir(&input).unwrap();
    for n in 0..FILES {
        fs::write(input.join(n.to_string()), n.to_string()).unwrap();
    }
    let noting = Daemon::start(place.path(), "noting", 1_000_000);
    let plain = Daemon::start(place.path(), "plain", 0);
    let mut rows = vec![(Vec::new(), Vec::new(), Vec::new()); PASSES];
    for round in 0..rounds {
        // Files that are new to both: what was learnt of them in the round before is of no use.
        for n in 0..FILES {
            fs::write(input.join(n.to_string()), format!("{round} {n}")).unwrap();
        }
        let (with, without) = match round % 2 {
            0 => (noting.passes(&input), plain.passes(&input)),
            _ => {
                let without = plain.passes(&input);
                (noting.passes(&input), without)
            }
        };
        for (row, (with, without)) in rows.iter_mut().zip(with.into_iter().zip(without)) {
            row.0.push(without);
            row.1.push(with);
            row.2.push(with / without);
        }
    }
    println!("{FILES} files, median of {rounds} rounds; µs for an open and its close");
    println!("{:6} {:>10} {:>10} {:>8}", "pass", "not noted", "noted", "ratio");
    for (pass, (mut without, mut with, mut ratio)) in rows.into_iter().enumerate() {
        let each = |seconds: f64| seconds * 1e6 / FILES as f64;
        println!(
            "{:6} {:>10.2} {:>10.2} {:>8.3}",
            pass + 1,
            each(median(&mut without)),
            each(median(&mut with)),
            median(&mut ratio)
        );
    }
}
