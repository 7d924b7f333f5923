//! Daemons that die, and several that live: nothing is lost, nothing is registered twice.

use crate::world::*;
use belljar::artifact::{Artifacts, Settings};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::tempdir;

/// Never gets to registering anything by itself.
fn slow(state: &Path) -> Artifacts {
    let day = Duration::from_secs(86_400);
    let settings = Settings { debounce: day, debounce_max: day, ..settings(state) };
    Artifacts::open(settings).expect("open")
}

fn journal(state: &Path) -> PathBuf {
    let mut instances = fs::read_dir(state.join("instances")).expect("list");
    instances.next().expect("one instance").expect("entry").path().join("journal")
}

#[test]
fn what_a_dead_daemon_left_is_registered_with_its_run() {
    let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
    let dead = slow(state.path());
    let mut workspace = Workspace::attach(&dead, "w", output.path());
    let run = workspace.begin_run(&dead);
    workspace.write("closed", b"closed");
    workspace.write("part", b"renamed");
    workspace.rename("part", "renamed");
    workspace.write("gone", b"gone");
    workspace.open("open-and-written").expect("open");
    fs::write(output.path().join("open-and-written"), b"written").expect("write");
    fs::write(output.path().join("only-opened"), b"old").expect("write");
    age(&output.path().join("only-opened"));
    workspace.open("only-opened").expect("open");
    workspace.forget();
    drop(dead);
    fs::remove_file(output.path().join("gone")).expect("remove");

    let artifacts = open(state.path());
    let recovered = artifacts.recover().expect("recover");
    assert_eq!((recovered.files, recovered.pending), (5, 0));
    assert_eq!(recovered.instances.len(), 1);
    assert!(recovered.instances[0].info().is_some());
    let found = versions(&artifacts);
    let names: Vec<_> = found.iter().map(|a| a.path.rsplit('/').next().expect("name")).collect();
    assert_eq!(names, ["closed", "open-and-written", "renamed"]);
    assert!(found.iter().all(|a| a.run_id == Some(run) && a.graph_id.as_deref() == Some("graph")));

    // A caller that dies before it unmounted finds the instance again.
    drop(recovered.instances);
    let again = artifacts.recover().expect("recover again");
    assert_eq!((again.files, again.instances.len()), (0, 1));
    for instance in again.instances {
        instance.remove().expect("remove");
    }
    assert!(artifacts.recover().expect("recover").instances.is_empty());
    assert_eq!(versions(&artifacts).len(), 3);
    shutdown(artifacts);
    assert_eq!(fs::read_dir(state.path().join("instances")).expect("list").count(), 0);
}

/// Waits until the file's change time is old enough to prove that it was not touched later.
fn age(path: &Path) {
    let changed = || fs::metadata(path).expect("file").modified().expect("time").elapsed();
    while changed().is_ok_and(|age| age < Duration::from_millis(3_100)) {
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_torn_tail_costs_nothing_that_was_answered() {
    let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
    let dead = slow(state.path());
    let workspace = Workspace::attach(&dead, "w", output.path());
    for n in 0..10 {
        workspace.write(format!("f{n}"), b"x");
    }
    workspace.forget();
    drop(dead);
    let journal = journal(state.path());
    let mut file = OpenOptions::new().append(true).open(&journal).expect("open");
    file.write_all(&[200, 0, 0, 0, 1, 2, 3, 4, 3, 9, 9]).expect("tear");

    let artifacts = open(state.path());
    assert_eq!(artifacts.recover().expect("recover").files, 10);
    assert_eq!(versions(&artifacts).len(), 10);
    shutdown(artifacts);
}

#[test]
fn a_journal_that_cannot_be_read_is_left_alone() {
    let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
    let dead = slow(state.path());
    let workspace = Workspace::attach(&dead, "w", output.path());
    workspace.write("f", b"x");
    workspace.forget();
    drop(dead);
    let journal = journal(state.path());
    fs::write(&journal, b"another format").expect("overwrite");
    let artifacts = open(state.path());
    let recovered = artifacts.recover().expect("recover");
    assert_eq!((recovered.instances.len(), recovered.unreadable.len()), (0, 1));
    assert_eq!(fs::read(&journal).expect("still there"), b"another format");
    shutdown(artifacts);
}

#[test]
fn recovery_follows_no_path_to_anything_else() {
    let (state, parent) = (tempdir().expect("state"), tempdir().expect("parent"));
    let output = parent.path().join("output");
    fs::create_dir_all(output.join("d")).expect("mkdir");
    fs::write(parent.path().join("secret"), b"secret").expect("write");
    let dead = slow(state.path());
    let workspace = Workspace::attach(&dead, "w", &output);
    for name in ["link", "d/below", "fifo", "directory", "fine"] {
        workspace.write(name, b"x");
    }
    workspace.forget();
    drop(dead);
    for name in ["link", "fifo", "directory", "d/below"] {
        fs::remove_file(output.join(name)).expect("remove");
    }
    std::os::unix::fs::symlink("../secret", output.join("link")).expect("symlink");
    fs::remove_dir(output.join("d")).expect("rmdir");
    fs::create_dir(parent.path().join("other")).expect("mkdir");
    fs::write(parent.path().join("other/below"), b"secret").expect("write");
    std::os::unix::fs::symlink("../other", output.join("d")).expect("symlink");
    nix::unistd::mkfifo(&output.join("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
    fs::create_dir(output.join("directory")).expect("mkdir");

    let artifacts = open(state.path());
    assert_eq!(artifacts.recover().expect("recover").pending, 0);
    assert_eq!(paths(&artifacts), ["/workspace/output/fine@1"]);
    shutdown(artifacts);
}

#[test]
fn a_directory_that_took_the_mounts_place_is_not_read() {
    let (state, parent) = (tempdir().expect("state"), tempdir().expect("parent"));
    let output = parent.path().join("output");
    fs::create_dir(&output).expect("mkdir");
    let dead = slow(state.path());
    let workspace = Workspace::attach(&dead, "w", &output);
    workspace.write("f", b"x");
    workspace.forget();
    drop(dead);
    fs::rename(&output, parent.path().join("moved")).expect("rename");
    fs::create_dir(&output).expect("mkdir");
    fs::write(output.join("f"), b"another's").expect("write");
    let artifacts = open(state.path());
    assert_eq!(artifacts.recover().expect("recover").pending, 0);
    assert!(versions(&artifacts).is_empty());
    shutdown(artifacts);
}

const CHILD: &str = "BELLJAR_TEST_CHILD";

/// Starts this test program again to run one of the tests below as another process.
fn child(test: &str, arguments: &[&Path]) -> Child {
    let joined =
        arguments.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join("|");
    Command::new(std::env::current_exe().expect("this program"))
        .args([test, "--exact", "--nocapture"])
        .env(CHILD, joined)
        .stdout(Stdio::piped())
        .spawn()
        .expect("spawn")
}

/// What the parent said; nothing for a function below that the harness runs by itself, which then has nothing to do.
fn arguments() -> Option<Vec<PathBuf>> {
    let joined = std::env::var(CHILD).ok()?;
    Some(joined.split('|').map(PathBuf::from).collect())
}

#[test]
fn child_that_writes_until_killed() {
    let Some(arguments) = arguments() else { return };
    let artifacts = open(&arguments[0]);
    let workspace = Workspace::attach(&artifacts, "w", &arguments[1]);
    let mut out = std::io::stdout();
    for n in 0..1_000_000 {
        let path = arguments[2].join(format!("f{n}"));
        workspace.write(path, format!("content {n}").as_bytes());
        writeln!(out, "closed {n}").expect("tell");
    }
}

#[test]
fn every_file_closed_before_a_kill_is_ready_after_the_next_start() {
    let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
    let mut closed = Vec::new();
    for round in ["first", "second", "third"] {
        let arguments = [state.path(), output.path(), Path::new(round)];
        let mut child = child("crash::child_that_writes_until_killed", &arguments);
        let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
        let started = Instant::now();
        let mut told = 0;
        // Some of the files are registered by then, some are on their way and some wait.
        while told < 10 || started.elapsed() < Duration::from_millis(400) {
            let line = lines.next().expect("the child writes on").expect("line");
            told += usize::from(line.starts_with("closed "));
        }
        child.kill().expect("SIGKILL");
        assert_eq!(child.wait().expect("wait").signal(), Some(9));
        told += lines.map_while(Result::ok).filter(|line| line.starts_with("closed ")).count();
        closed.extend((0..told).map(|n| output.path().join(round).join(format!("f{n}"))));
    }

    let patient = Settings { recovery_wait: Duration::from_secs(120), ..settings(state.path()) };
    let artifacts = Artifacts::open(patient).expect("open");
    let recovered = artifacts.recover().expect("recover");
    assert_eq!((recovered.instances.len(), recovered.pending), (3, 0));
    let found = versions(&artifacts);
    let ready: std::collections::HashSet<_> = found.iter().map(|a| a.host_path.as_str()).collect();
    for path in &closed {
        let path = path.to_str().expect("UTF-8");
        assert!(ready.contains(path), "{path} of {} is missing", closed.len());
    }
    assert!(found.iter().all(|a| a.version == 1), "the same bytes were registered twice");
    let temporaries = fs::read_dir(state.path().join("blobs/tmp")).expect("list").count();
    assert_eq!(temporaries, 0, "half-written contents stay behind");
    shutdown(artifacts);
}

#[test]
fn child_that_shares_the_state_directory() {
    let Some(arguments) = arguments() else { return };
    let artifacts = open(&arguments[0]);
    let workspace = Workspace::attach(&artifacts, "w", &arguments[1]);
    for n in 0..200 {
        workspace.write(format!("own-{}-{n}", std::process::id()), b"the same bytes");
    }
    let shared = Workspace::attach(&artifacts, "shared", &arguments[2]);
    for n in 0..10 {
        let text = format!("{} {n}", std::process::id());
        let key = shared.open("shared").expect("open");
        let aside = arguments[2].join(format!("aside-{}", std::process::id()));
        File::create(&aside).and_then(|mut f| f.write_all(text.as_bytes())).expect("write");
        fs::rename(&aside, arguments[2].join("shared")).expect("rename");
        shared.close(key, true);
        assert!(drain(&artifacts).complete);
    }
    shutdown(artifacts);
}

#[test]
fn four_daemons_share_one_state_directory() {
    let (state, output, common) =
        (tempdir().expect("state"), tempdir().expect("output"), tempdir().expect("common"));
    let paths = [state.path(), output.path(), common.path()];
    let children: Vec<_> =
        (0..4).map(|_| child("crash::child_that_shares_the_state_directory", &paths)).collect();
    for child in children {
        let output = child.wait_with_output().expect("wait");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    let artifacts = open(state.path());
    let found = versions(&artifacts);
    let shared: Vec<_> =
        found.iter().filter(|a| a.path == "/workspace/output/shared").map(|a| a.version).collect();
    assert_eq!(found.len() - shared.len(), 800);
    assert_eq!(shared, (1..=shared.len() as u64).collect::<Vec<_>>(), "numbers have no gap");
    assert!(shared.len() >= 4);
    let blobs = walk(&state.path().join("blobs"));
    assert!(blobs <= 1 + shared.len(), "identical bytes are kept once, not {blobs} times");
    shutdown(artifacts);
    assert_eq!(fs::read_dir(state.path().join("instances")).expect("list").count(), 0);
}

fn walk(directory: &Path) -> usize {
    fs::read_dir(directory)
        .expect("list")
        .map(|entry| entry.expect("entry").path())
        .map(|path| if path.is_dir() { walk(&path) } else { 1 })
        .sum()
}
