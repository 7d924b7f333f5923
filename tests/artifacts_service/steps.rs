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

/// Every call by which the service changes a file or a directory, or makes it durable.
const CALLS: &str = "write,pwrite64,ftruncate,fallocate,fsync,fdatasync,syncfs,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,openat";

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

struct Killed {
    /// Files that the child said it had closed.
    closed: Vec<String>,
    ended: bool,
}

fn run_until_killed(state: &Path, output: &Path, step: usize) -> Killed {
    let mut child = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={CALLS}")])
        .args(["-e", &format!("inject={CALLS}:signal=KILL:when={step}")])
        .arg(std::env::current_exe().expect("this program"))
        .args(["steps::child_that_writes_renames_and_registers", "--exact", "--nocapture"])
        .args(["--test-threads", "1"])
        .env(CHILD, format!("{}|{}", state.display(), output.display()))
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
    let stride = if long { 1 } else { 7 };
    let mut step = 1;
    let mut kills = 0;
    loop {
        let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
        let killed = run_until_killed(state.path(), output.path(), step);
        if killed.ended {
            break;
        }
        kills += 1;
        let artifacts = open(state.path());
        let recovered = artifacts.recover().expect("recover");
        for instance in recovered.instances {
            instance.remove().expect("remove");
        }
        assert!(drain(&artifacts).complete);
        let found = versions(&artifacts);
        for name in &killed.closed {
            let path = format!("/workspace/output/{name}");
            let of_file: Vec<_> = found.iter().filter(|a| a.path == path).collect();
            assert_eq!(of_file.len(), 1, "step {step}: {path} of {:?}", paths(&artifacts));
            let number = name.trim_start_matches('f');
            let bytes = content(&artifacts, &of_file[0].id.to_string());
            assert_eq!(bytes, format!("content {number}").as_bytes(), "step {step}: {path}");
        }
        // One more can have been closed without having said so; nothing is there twice, and no half-way name.
        assert!(found.len() <= killed.closed.len() + 1, "step {step}: {:?}", paths(&artifacts));
        let temporaries = state.path().join("blobs/tmp");
        assert_eq!(fs::read_dir(temporaries).expect("list").count(), 0, "step {step}");
        shutdown(artifacts);
        assert_eq!(fs::read_dir(state.path().join("instances")).expect("list").count(), 0);
        step += stride;
        assert!(step < 10_000, "it never ended");
    }
    assert!(kills > 5, "the child was killed only {kills} times");
}
