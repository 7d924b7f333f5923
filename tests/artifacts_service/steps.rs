//! A daemon that is killed at each of its steps in turn: whatever was done by then, the next start has exactly what was
//! closed.
//!
//! strace(1) sends the signal when a thread of the daemon makes its Nth call of those that change something durable. The
//! product has no code for this, so that what is killed is what runs.

use crate::world::*;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::tempdir;

/// The calls by which the service changes a file or a directory, or makes it durable. strace counts each for itself and
/// for each thread.
const CALLS: &[&str] = &[
    "write",
    "pwrite64",
    "ftruncate",
    "fsync",
    "fdatasync",
    "syncfs",
    "rename",
    "unlink",
    "openat",
];

const CHILD: &str = "BELLJAR_TEST_STEPS";
const FILES: usize = 12;

fn arguments() -> Option<(PathBuf, PathBuf)> {
    let joined = std::env::var(CHILD).ok()?;
    let (state, output) = joined.split_once('|')?;
    Some((state.into(), output.into()))
}

#[test]
fn child_that_writes_renames_and_registers() {
    let Some((state, output)) = arguments() else { return };
    let artifacts = open(&state);
    let workspace = Workspace::attach(&artifacts, "w", &output);
    for n in 0..FILES {
        if n % 3 == 0 {
            workspace.write(format!("part{n}"), format!("content {n}").as_bytes());
            workspace.rename(&format!("part{n}"), &format!("f{n}"));
        } else {
            workspace.write(format!("f{n}"), format!("content {n}").as_bytes());
        }
        println!("closed f{n}");
        if n == FILES / 2 {
            assert!(drain(&artifacts).complete);
        }
    }
    assert!(drain(&artifacts).complete);
    println!("registered");
    shutdown(artifacts);
    println!("ended");
}

pub struct Killed {
    /// Files that the child said it had closed.
    pub closed: Vec<String>,
    pub ended: bool,
}

/// `child` is a test of this program, which does its work when it finds the variable.
pub fn run_until_killed(child: &str, variable: (&str, String), call: &str, step: usize) -> Killed {
    let mut child = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")])
        .args(["-e", &format!("inject={call}:signal=KILL:when={step}")])
        .arg(std::env::current_exe().expect("this program"))
        .args([child, "--exact", "--nocapture"])
        .args(["--test-threads", "1"])
        .env(variable.0, variable.1)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("strace is missing; as root: apt-get install strace");
    let lines: Vec<String> = BufReader::new(child.stdout.take().expect("stdout"))
        .lines()
        .map_while(Result::ok)
        .collect();
    child.wait().expect("wait");
    // The harness writes its own words before the first of the child's.
    let closed = lines.iter().filter_map(|line| line.split("closed ").nth(1));
    Killed {
        closed: closed.map(str::to_owned).collect(),
        ended: lines.iter().any(|l| l == "ended"),
    }
}

#[test]
fn a_kill_at_any_step_leaves_exactly_what_was_closed() {
    let long = std::env::var_os("BELLJAR_TEST_LONG").is_some();
    // Steps near each other differ little; each start takes a tenth of a second.
    let stride = if long { 1 } else { 4 };
    let mut halfway = 0;
    for call in CALLS {
        let mut step = 1;
        loop {
            let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
            // The catalog is there already: making it has more steps than everything else.
            shutdown(open(state.path()));
            let paths = format!("{}|{}", state.path().display(), output.path().display());
            let child = "steps::child_that_writes_renames_and_registers";
            let killed = run_until_killed(child, (CHILD, paths), call, step);
            if killed.ended {
                break;
            }
            halfway += usize::from(!killed.closed.is_empty());
            check(state.path(), &killed, &format!("{call} {step}"));
            step += stride;
            assert!(step < 10_000, "it never ended");
        }
    }
    assert!(halfway > 10, "only {halfway} kills met files on their way");
}

/// What the next daemon makes of what a dead one left.
fn check(state: &Path, killed: &Killed, step: &str) {
    let artifacts = open(state);
    let recovered = artifacts.recover().expect("recover");
    for instance in recovered.instances {
        instance.remove().expect("remove");
    }
    assert!(drain(&artifacts).complete);
    let found = versions(&artifacts);
    for name in &killed.closed {
        let path = format!("/workspace/output/{name}");
        let of_file: Vec<_> = found.iter().filter(|a| a.path == path).collect();
        assert_eq!(of_file.len(), 1, "{step}: {path} of {:?}", paths(&artifacts));
        let number = name.trim_start_matches('f');
        let bytes = content(&artifacts, &of_file[0].id.to_string());
        assert_eq!(bytes, format!("content {number}").as_bytes(), "{step}: {path}");
    }
    // One more can have been closed without having said so; nothing is there twice.
    assert!(found.len() <= killed.closed.len() + 1, "{step}: {:?}", paths(&artifacts));
    let temporaries = fs::read_dir(state.join("blobs/tmp")).expect("list").count();
    assert_eq!(temporaries, 0, "{step}: half-written contents stay behind");
    shutdown(artifacts);
    // One that died before it was seen is left alone for a minute.
    let left = fs::read_dir(state.join("instances")).expect("list").map(|e| e.expect("entry"));
    let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
    let unfinished = |name: &std::ffi::OsString| name.as_encoded_bytes().starts_with(b".new-");
    assert!(left.iter().all(unfinished), "{step}: {left:?}");
}
