//! The suites' programs: where they are, and running them with a bound.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Names the directory that holds the programs, where that is not one of those below.
pub const DIRECTORY: &str = "BELLJAR_TEST_TOOLS";

/// The file of a program: in the named directory; else where `scripts/test` installs it, or on the path.
pub fn find(name: &str) -> PathBuf {
    let directories: Vec<PathBuf> = match std::env::var_os(DIRECTORY) {
        Some(directory) => vec![directory.into()],
        None => {
            let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin");
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::iter::once(installed).chain(std::env::split_paths(&path)).collect()
        }
    };
    let programs = directories.iter().map(|directory| directory.join(name));
    programs.into_iter().find(|program| program.is_file()).unwrap_or_else(|| {
        panic!(
            "{name} is missing. scripts/test installs it; by hand: cargo install {name} --locked --root target/tools"
        )
    })
}

/// A process whose output goes into a file. It is killed when this is dropped.
pub struct Running {
    child: Child,
    output: PathBuf,
}

impl Running {
    pub fn start(command: &mut Command, output: PathBuf) -> Self {
        let file = File::create(&output).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let child = command.spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        Self { child, output }
    }

    /// How it ended; nothing when it still runs at `deadline`.
    pub fn wait(&mut self, deadline: Instant) -> Option<ExitStatus> {
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.output).unwrap()).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
