//! How long many small files take. `cargo test --release --test artifacts_service -- --ignored --nocapture measure`.

use crate::world::*;
use belljar::artifact::DrainScope;
use std::time::{Duration, Instant};
use tempfile::tempdir;

/// Writing the files with nobody watching.
fn plain(files: usize) -> Duration {
    let output = tempdir().expect("output");
    let started = Instant::now();
    for n in 0..files {
        let path = output.path().join(format!("d{}/f{n}.csv", n % 16));
        std::fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
        std::fs::write(path, format!("{n:4096}")).expect("write");
    }
    started.elapsed()
}

fn run(files: usize) -> (Duration, Duration) {
    // By default not in /tmp, which may be memory: the disk is what is measured.
    let target = || Some(env!("CARGO_TARGET_TMPDIR").into());
    let directory = |variable: &str| std::env::var_os(variable);
    let disk = directory("BELLJAR_TEST_STATE").or_else(target).map(tempfile::tempdir_in);
    let disk = disk.expect("a directory").expect("state");
    let output = directory("BELLJAR_TEST_OUTPUT").map_or_else(tempdir, tempfile::tempdir_in);
    let output = output.expect("output");
    let artifacts = open(disk.path());
    let mut workspace = Workspace::attach(&artifacts, "w", output.path());
    let run = workspace.begin_run(&artifacts);
    let started = Instant::now();
    for n in 0..files {
        workspace.write(format!("d{}/f{n}.csv", n % 16), format!("{n:4096}").as_bytes());
    }
    let written = started.elapsed();
    let drained = artifacts.drain(DrainScope::Run(run), soon());
    let all = started.elapsed();
    assert!(drained.complete, "{drained:?}");
    assert_eq!(artifacts.of_run(run).expect("of run").len(), files);
    shutdown(artifacts);
    (written, all)
}

#[test]
fn a_thousand_small_files_are_registered_when_the_run_is_drained() {
    let (_, all) = run(1_000);
    assert!(all < Duration::from_secs(20), "took {all:?}");
}

#[test]
#[ignore = "a measurement"]
fn measure() {
    let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
    let artifacts = open(state.path());
    let workspace = Workspace::attach(&artifacts, "w", output.path());
    let held = workspace.open("held").expect("open");
    let started = Instant::now();
    for _ in 0..100_000 {
        workspace.open("held").expect("open");
    }
    println!("noting an open for writing: {:.2?}", started.elapsed() / 100_000);
    workspace.close(held, false);
    drop((workspace, artifacts));
    for files in [1_000, 10_000] {
        for _ in 0..3 {
            println!("{files} files: written plainly {:.2?}", plain(files));
            let (written, all) = run(files);
            let rate = files as f64 / all.as_secs_f64();
            println!(
                "{files} files: written {written:.2?}, registered {all:.2?}, {rate:.0} files/s"
            );
        }
    }
}
