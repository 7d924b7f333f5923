//! A file system that gets into trouble on request, as a test has it: see `server`.

use crate::server::Trouble;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// The argument with which this program is the server.
pub const SERVE: &str = "serve-troubled";

/// When it is dropped, everything that waits is answered, and it is unmounted.
pub struct Troubled {
    server: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// Where what is stored lies; never through the mount.
    pub plain: PathBuf,
    /// The directory that gets into trouble.
    pub directory: PathBuf,
}

impl Troubled {
    /// Mounts below `place`.
    pub fn mount(place: &Path) -> Self {
        let (plain, at) = (place.join("plain"), place.join("troubled"));
        for directory in [&plain, &at] {
            std::fs::create_dir(directory).unwrap();
        }
        let mut server = Command::new("/proc/self/exe")
            .arg(SERVE)
            .args([&plain, &at])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = server.stdin.take();
        let answers = BufReader::new(server.stdout.take().unwrap());
        let mut troubled = Self { server, orders, answers, plain, directory: at.join("files") };
        troubled.expect("mounted");
        troubled
    }

    pub fn set(&mut self, trouble: Trouble) {
        writeln!(self.orders.as_mut().unwrap(), "{}", trouble.word()).unwrap();
        self.expect(&trouble.word());
    }

    fn expect(&mut self, answer: &str) {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), answer, "the server of the troubled file system");
    }
}

impl Drop for Troubled {
    fn drop(&mut self) {
        drop(self.orders.take());
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Ok(None) = self.server.try_wait() {
            if Instant::now() > deadline {
                // The kernel ends the connection with its last descriptor.
                let _ = self.server.kill();
                let _ = self.server.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
