//! Processes of several users below one directory, told what to do line by line.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// uid, gid and further groups of each of root's workers. The first is root.
const USERS: [(u32, u32, &str); 3] =
    [(0, 0, "[0]"), (12345, 12345, "[500]"), (12346, 12346, "[12345]")];

/// An ordinary user's workers are all his; they can be nobody else.
const HIS: &str = "null";

/// Longer than any call may take on a busy machine; a call that waits for ever is an error.
const PATIENCE: Duration = Duration::from_secs(60);

struct Worker {
    child: Child,
    requests: ChildStdin,
    answers: Receiver<String>,
}

impl Worker {
    fn start(directory: &Path, (uid, gid, groups): (u32, u32, &str)) -> Self {
        let mut child = Command::new("python3")
            .args(["-c", include_str!("worker.py")])
            .arg(directory)
            .args([&uid.to_string(), &gid.to_string(), groups])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start python3 (Debian package python3)");
        let requests = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, requests, answers }
    }

    fn ask(&mut self, request: &Value) -> Value {
        writeln!(self.requests, "{request}").unwrap();
        let answer = self.answers.recv_timeout(PATIENCE);
        let answer = answer.unwrap_or_else(|error| panic!("{error}: no answer to {request}"));
        serde_json::from_str(&answer).unwrap()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One side of the comparison.
pub struct Workers(Vec<Worker>);

impl Workers {
    pub fn below(directory: &Path) -> Self {
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        let users =
            if uid.is_root() { USERS } else { [(uid.as_raw(), gid.as_raw(), HIS); USERS.len()] };
        Self(users.iter().map(|user| Worker::start(directory, *user)).collect())
    }

    pub fn ask(&mut self, who: usize, request: &Value) -> Value {
        self.0[who].ask(request)
    }

    /// Everybody gives up what is open and goes to `directory`.
    pub fn begin(&mut self, directory: &str) {
        for worker in &mut self.0 {
            let answer = worker.ask(&json!({ "op": "begin", "directory": directory }));
            assert_eq!(answer, json!({ "ok": null }), "go to {directory}");
        }
    }
}
