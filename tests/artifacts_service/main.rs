//! The artifact service from outside: what is written becomes versions, and nothing that was written is lost.
//!
//! Needs a Linux with openat2(2) and, for killing a daemon at every step, strace; no privileges and no FUSE.

mod content;
mod crash;
mod faults;
mod inputs;
mod scan;
mod steps;
mod uploads;
mod world;

use belljar::artifact::{Artifacts, DrainScope, Error, Settings, Voice};
use belljar::model::artifact::{ArtifactState, Author};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};
use tempfile::tempdir;
use world::*;

fn voice(owner: Option<u32>) -> Voice {
    Voice { owner, author: Author::User(owner.unwrap_or(0)), scope: None }
}

#[test]
fn each_written_file_is_a_version_whose_bytes_outlive_the_file() {
    let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
    let artifacts = open(state.path());
    let mut workspace = Workspace::attach(&artifacts, "w", output.path());
    let run = workspace.begin_run(&artifacts);
    workspace.write("sub/table.csv", b"a,b\n1,2\n");
    assert!(artifacts.drain(DrainScope::Run(run), soon()).complete);
    workspace.write("sub/table.csv", b"a,b\n3,4\n");
    workspace.write("chart", b"\x89PNG\r\n\x1a\n");
    assert!(artifacts.drain(DrainScope::Run(run), soon()).complete);
    artifacts.end_run(run);
    workspace.remove("sub/table.csv");
    drain(&artifacts);

    let all = versions(&artifacts);
    assert_eq!(
        paths(&artifacts),
        [
            "/workspace/output/chart@1",
            "/workspace/output/sub/table.csv@1",
            "/workspace/output/sub/table.csv@2"
        ]
    );
    let table = &all[1];
    assert_eq!(table.artifact_type.as_str(), "data");
    assert_eq!(all[0].artifact_type.as_str(), "image");
    assert_eq!(table.host_path, output.path().join("sub/table.csv").display().to_string());
    assert_eq!((table.size, table.state), (8, ArtifactState::Ready));
    assert_eq!(table.digest.expect("a content").as_bytes(), blake3::hash(b"a,b\n1,2\n").as_bytes());
    assert_eq!((table.run_id, table.graph_id.as_deref()), (Some(run), Some("graph")));
    assert_eq!(table.workspace_id.as_ref(), Some(&workspace.id));
    assert_eq!(content(&artifacts, &format!("{}@1", table.id)), b"a,b\n1,2\n");
    assert_eq!(content(&artifacts, &format!("{}@latest", table.id)), b"a,b\n3,4\n");
    assert_eq!(content(&artifacts, &table.id.to_string()), b"a,b\n3,4\n");
    assert_eq!(artifacts.of_run(run, |a| a).expect("of run").len(), 3);
    // Every pin is given back once, a moment after the file is settled.
    wait_until(|| workspace.pins() == 0);
    shutdown(artifacts);
    assert_eq!(fs::read_dir(state.path().join("instances")).expect("list").count(), 0);
}

#[test]
fn a_second_run_makes_the_next_version_and_the_same_bytes_make_none() {
    let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
    let artifacts = open(state.path());
    let mut runs = Vec::new();
    for (id, bytes) in [("first", b"one"), ("second", b"one"), ("third", b"two")] {
        let mut workspace = Workspace::attach(&artifacts, id, output.path());
        runs.push(workspace.begin_run(&artifacts));
        workspace.write("f.txt", bytes);
        assert!(drain(&artifacts).complete);
        artifacts.detach(&workspace.id, UID);
    }
    let found = versions(&artifacts);
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].id, found[1].id);
    for (run, number) in runs.iter().zip([1, 1, 2]) {
        let of_run = artifacts.of_run(*run, |a| a).expect("of run");
        assert_eq!(of_run.iter().map(|a| a.version).collect::<Vec<_>>(), [number]);
    }
    shutdown(artifacts);
}

#[test]
fn a_rename_into_place_registers_the_final_name_once() {
    let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
    let artifacts = Artifacts::open(Settings {
        debounce: Duration::from_millis(300),
        ..settings(state.path())
    })
    .expect("open");
    let workspace = Workspace::attach(&artifacts, "w", output.path());
    workspace.write("result.json.part", b"{}");
    workspace.rename("result.json.part", "result.json");
    workspace.write("ignored.tmp", b"x");
    workspace.rename("ignored.tmp", "taken.txt");
    workspace.write("backup.txt", b"y");
    workspace.rename("backup.txt", "backup.txt~");
    assert!(drain(&artifacts).complete);
    assert_eq!(
        paths(&artifacts),
        ["/workspace/output/result.json@1", "/workspace/output/taken.txt@1"]
    );
    wait_until(|| artifacts.pending() == 0 && workspace.pins() == 0);
    shutdown(artifacts);
}

#[test]
fn what_changed_nothing_or_is_gone_or_is_ignored_leaves_nothing() {
    let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
    let artifacts = open(state.path());
    let workspace = Workspace::attach(&artifacts, "w", output.path());
    fs::write(output.path().join("old"), "x").expect("write");
    let old = workspace.open("old").expect("open");
    workspace.close(old, false);
    workspace.write("short-lived", b"x");
    workspace.remove("short-lived");
    workspace.write("node_modules/a/index.js", b"x");
    workspace.write("db.sqlite-wal", b"x");
    assert!(drain(&artifacts).complete);
    wait_until(|| artifacts.pending() == 0);
    assert_eq!(paths(&artifacts), Vec::<String>::new());
    wait_until(|| workspace.pins() == 0);
    shutdown(artifacts);
}

#[test]
fn names_of_any_bytes_are_files_and_are_shown_escaped() {
    let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
    let artifacts = open(state.path());
    let workspace = Workspace::attach(&artifacts, "w", output.path());
    let names: [&[u8]; 4] = [b"\xff\xfe", b"line\nbreak", b"\x1b[31m", "grüße".as_bytes()];
    for name in names {
        workspace.write(OsStr::from_bytes(name), name);
    }
    assert!(drain(&artifacts).complete);
    let found = versions(&artifacts);
    let mut shown: Vec<_> =
        found.iter().map(|a| a.path.trim_start_matches("/workspace/output/")).collect();
    shown.sort_unstable();
    assert_eq!(shown, ["\\x1b[31m", "\\xff\\xfe", "grüße", "line\\x0abreak"]);
    for artifact in &found {
        assert_eq!(content(&artifacts, &artifact.id.to_string()).len() as u64, artifact.size);
    }
    shutdown(artifacts);
}

#[test]
fn a_content_above_the_limit_stays_in_place_and_the_row_says_so() {
    let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
    let small = Settings { content_bytes_max: 1000, large_bytes: 2000, ..settings(state.path()) };
    let artifacts = Artifacts::open(small).expect("open");
    let workspace = Workspace::attach(&artifacts, "w", output.path());
    workspace.write("above", &[7; 1001]);
    workspace.write("far-above", &[7; 2001]);
    workspace.write("below", &[7; 1000]);
    assert!(drain(&artifacts).complete);
    let kept: Vec<_> = versions(&artifacts).iter().map(|a| a.content_kept).collect();
    assert_eq!(kept, [false, true, false]);
    let above = &versions(&artifacts)[0];
    assert_eq!(above.digest.expect("a content").as_bytes(), blake3::hash(&[7; 1001]).as_bytes());
    let error = artifacts.content(None, &above.id.to_string()).expect_err("not kept");
    assert!(matches!(error, Error::ContentNotKept { .. }), "{error}");
    shutdown(artifacts);
}

#[test]
fn a_sparse_file_of_two_terabytes_holds_up_no_other() {
    let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
    let artifacts = open(state.path());
    let workspace = Workspace::attach(&artifacts, "w", output.path());
    let key = workspace.open("huge").expect("open");
    File::create(output.path().join("huge")).expect("create").set_len(2 << 40).expect("grow");
    workspace.close(key, true);
    for n in 0..50 {
        workspace.write(format!("small-{n}"), b"x");
    }
    let before = Instant::now();
    let drained = artifacts.drain(DrainScope::All, before + Duration::from_secs(2));
    let names: Vec<_> = drained.incomplete.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(names, ["/workspace/output/huge"]);
    assert_eq!(versions(&artifacts).len(), 50);
    let before = Instant::now();
    artifacts.shutdown(Instant::now());
    assert!(before.elapsed() < Duration::from_secs(5), "stopping waits for no terabyte");
}

#[test]
fn deletion_marks_and_the_next_write_is_a_new_version() {
    let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
    let artifacts = open(state.path());
    let workspace = Workspace::attach(&artifacts, "w", output.path());
    workspace.write("f", b"one");
    assert!(drain(&artifacts).complete);
    let id = versions(&artifacts)[0].id.to_string();
    assert!(matches!(artifacts.delete(&voice(Some(UID + 1)), &id), Err(Error::NotFound { .. })));
    assert_eq!(
        artifacts.delete(&voice(Some(UID)), &id).expect("delete").state,
        ArtifactState::Deleted
    );
    assert!(matches!(artifacts.delete(&voice(None), &id), Err(Error::IllegalTransition { .. })));
    assert!(matches!(artifacts.content(None, &id), Err(Error::Deleted { .. })));
    workspace.write("f", b"one");
    assert!(drain(&artifacts).complete);
    assert_eq!(artifacts.get(None, &id).expect("get").version, 2);
    shutdown(artifacts);
}
