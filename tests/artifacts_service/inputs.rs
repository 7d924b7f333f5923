//! What a run had read, noted without a mount: order, bounds, and inputs that do not stay as they are.

use crate::world::*;
use belljar::artifact::{Artifacts, Settings};
use belljar::wire::lineage::{Known, LineageInput, Made, Opened};
use std::fs;
use std::path::Path;
use tempfile::{TempDir, tempdir};

struct Scene {
    _state: TempDir,
    output: TempDir,
    artifacts: Artifacts,
    workspace: Workspace,
}

impl Scene {
    fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
        let mut settings = settings(state.path());
        change(&mut settings);
        let artifacts = Artifacts::open(settings).expect("open");
        let mut workspace = Workspace::attach(&artifacts, "w", output.path());
        workspace.begin_run(&artifacts);
        Self { _state: state, output, artifacts, workspace }
    }

    fn host_writes(&self, path: &str, content: &str) {
        fs::write(self.output.path().join(path), content).expect("write");
    }

    /// Ends the run and says what a file was made from.
    fn made(&self, path: &str) -> Made {
        assert!(drain(&self.artifacts).complete);
        self.artifacts.end_run(self.workspace.run.expect("a run"));
        made_from(&self.artifacts, path)
    }

    fn end(self) {
        // Every file that was pinned is let go.
        wait_until(|| self.workspace.pins() == 0);
        self.workspace.forget();
        shutdown(self.artifacts);
    }
}

fn name(input: &LineageInput) -> &str {
    let path = input.path.as_deref().unwrap_or("none");
    path.strip_prefix("/workspace/output/").unwrap_or(path)
}

fn digest(content: &str) -> Option<belljar::model::digest::Digest> {
    let digest = blake3::hash(content.as_bytes());
    Some(belljar::model::digest::Digest::from_bytes(*digest.as_bytes()))
}

#[test]
fn inputs_come_in_order_before_and_while_the_output_was_open_and_not_after() {
    let scene = Scene::new(|_| ());
    for path in ["first", "second", "third"] {
        scene.host_writes(path, path);
    }
    let workspace = &scene.workspace;
    workspace.read("first");
    workspace.read("first");
    let key = workspace.open("out").expect("open");
    workspace.read("second");
    fs::write(scene.output.path().join("out"), "x").expect("write");
    workspace.close(key, true);
    workspace.read("third");
    let made = scene.made("out");
    assert_eq!((made.known, made.reason), (Known::Complete, None));
    let seen: Vec<_> = made.inputs.iter().map(|i| (name(i), i.opened, i.digest)).collect();
    let expected = [
        ("first", Opened::Before, digest("first")),
        ("second", Opened::WhileOpen, digest("second")),
    ];
    assert_eq!(seen, expected);
    assert_eq!(made.inputs[0].size, Some(5));
    assert_eq!(
        made.inputs[0].host_path.as_deref(),
        scene.output.path().join("first").to_str(),
        "where it is on the host"
    );
    scene.end();
}

#[test]
fn a_file_that_changed_is_another_input_and_the_digest_is_never_that_of_later_bytes() {
    let scene = Scene::new(|_| ());
    scene.host_writes("in", "old");
    scene.workspace.read("in");
    // The digest of the first may or may not have been taken by this time.
    scene.host_writes("in", "newer");
    scene.workspace.read("in");
    scene.workspace.write("out", b"x");
    let made = scene.made("out");
    assert_eq!(made.inputs.iter().map(name).collect::<Vec<_>>(), ["in", "in"]);
    match (made.inputs[0].digest, made.inputs[0].unavailable.as_deref()) {
        (Some(found), None) => assert_eq!(Some(found), digest("old")),
        (None, Some(reason)) => assert!(reason.contains("it changed"), "{reason}"),
        other => panic!("a digest or a reason: {other:?}"),
    }
    assert_eq!(made.inputs[1].digest, digest("newer"));
    assert_eq!((made.inputs[0].size, made.inputs[1].size), (Some(3), Some(5)));
    scene.end();
}

#[test]
fn what_the_run_wrote_itself_and_read_again_is_a_version() {
    let scene = Scene::new(|_| ());
    scene.workspace.write("step", b"between");
    assert!(drain(&scene.artifacts).complete);
    scene.workspace.read("step");
    scene.workspace.write("out", b"x");
    let made = scene.made("out");
    assert_eq!(made.inputs.len(), 1);
    assert_eq!(made.inputs[0].digest, digest("between"));
    assert_eq!(made.inputs[0].version.map(|version| version.version), Some(1));
    assert!(made_from(&scene.artifacts, "step").inputs.is_empty());
    scene.end();
}

#[test]
fn beyond_the_bound_the_row_says_so() {
    let scene = Scene::new(|settings| settings.inputs_max = 3);
    for n in 0..6 {
        scene.host_writes(&n.to_string(), "x");
        scene.workspace.read(n.to_string());
        scene.workspace.write(format!("out{n}"), format!("{n}").as_bytes());
    }
    let made = scene.made("out5");
    assert_eq!(made.known, Known::Partial);
    assert!(made.reason.as_ref().is_some_and(|reason| reason.contains("more than 3 files")));
    assert_eq!(made.inputs.iter().map(name).collect::<Vec<_>>(), ["0", "1", "2", "none"]);
    assert_eq!(made.inputs[3].unavailable, made.reason);
    let made = made_from(&scene.artifacts, "out2");
    assert_eq!((made.known, made.inputs.len()), (Known::Complete, 3), "what came before is whole");
    scene.end();
}

#[test]
fn of_a_large_input_the_size_is_known_and_the_reason_names_the_setting() {
    let scene = Scene::new(|settings| settings.input_bytes_max = 4);
    scene.host_writes("large", "five!");
    scene.host_writes("small", "four");
    scene.workspace.read("large");
    scene.workspace.read("small");
    scene.workspace.write("out", b"x");
    let made = scene.made("out");
    assert_eq!(made.known, Known::Complete, "every input is listed");
    assert_eq!((made.inputs[0].size, made.inputs[0].digest), (Some(5), None));
    let reason = made.inputs[0].unavailable.as_deref().expect("a reason");
    assert!(reason.contains("too large") && reason.contains("input_size_max"), "{reason}");
    assert_eq!(made.inputs[1].digest, digest("four"));
    scene.end();
}

#[test]
fn an_input_that_is_gone_or_whose_workspace_ended_says_why_it_has_no_digest() {
    let scene = Scene::new(|_| ());
    scene.host_writes("gone", "x");
    scene.workspace.read("gone");
    scene.workspace.remove("gone");
    scene.workspace.write("out", b"x");
    let made = scene.made("out");
    let reason = made.inputs[0].unavailable.as_deref();
    assert!(made.inputs[0].digest.is_some() || reason.is_some_and(|r| r.contains("gone")));
    scene.end();

    let scene = Scene::new(|_| ());
    // Zeros that take no room and whose digests take seconds all together.
    for n in 0..60 {
        scene.host_writes(&n.to_string(), "x");
        let host = scene.output.path().join(n.to_string());
        fs::File::options().write(true).open(host).expect("open").set_len(64 << 20).expect("grow");
        scene.workspace.read(n.to_string());
    }
    scene.workspace.write("out", b"x");
    scene.artifacts.detach(&scene.workspace.id, UID);
    let made = scene.made("out");
    assert_eq!((made.known, made.inputs.len()), (Known::Complete, 60));
    let late = made.inputs.iter().filter_map(|input| input.unavailable.as_deref());
    assert!(late.clone().all(|reason| reason.contains("its workspace ended")));
    assert!(late.count() > 0, "not all digests are taken within a moment");
    scene.workspace.forget();
    shutdown(scene.artifacts);
}

#[test]
fn of_what_its_owner_may_not_read_the_bytes_are_not_read() {
    let scene = Scene::new(|_| ());
    scene.host_writes("in", "x");
    scene.workspace.files.closed.store(true, std::sync::atomic::Ordering::SeqCst);
    scene.workspace.read("in");
    let waits = |scene: &Scene| scene.workspace.pins() == 0;
    wait_until(|| waits(&scene));
    scene.workspace.files.closed.store(false, std::sync::atomic::Ordering::SeqCst);
    scene.workspace.write("out", b"x");
    let made = scene.made("out");
    assert_eq!((made.inputs[0].size, made.inputs[0].digest), (Some(1), None));
    let reason = made.inputs[0].unavailable.as_deref().expect("a reason");
    assert!(reason.contains("owner may not read"), "{reason}");
    scene.end();
}

#[test]
fn two_runs_do_not_share_what_they_read_and_a_run_of_nobody_has_nothing() {
    let mut scene = Scene::new(|_| ());
    scene.host_writes("in", "x");
    scene.workspace.read("in");
    let first = scene.workspace.run;
    scene.workspace.begin_run(&scene.artifacts);
    scene.workspace.write("second", b"2");
    let second = scene.workspace.run.take();
    scene.workspace.write("nobody", b"3");
    scene.workspace.run = first;
    scene.workspace.write("first", b"1");
    assert!(drain(&scene.artifacts).complete);
    for run in [first, second].into_iter().flatten() {
        scene.artifacts.end_run(run);
    }
    assert_eq!(made_from(&scene.artifacts, "first").inputs.len(), 1);
    let made = made_from(&scene.artifacts, "second");
    assert_eq!((made.known, made.inputs.len()), (Known::Complete, 0));
    let made = made_from(&scene.artifacts, "nobody");
    assert_eq!(made.known, Known::Unavailable);
    assert!(made.reason.is_some_and(|reason| reason.contains("outside every run")));
    scene.end();
}

#[test]
fn what_a_dead_daemon_had_seen_is_unavailable_and_said_so() {
    let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
    write_and_die(state.path(), output.path());
    let artifacts = open(state.path());
    artifacts.recover().expect("recover");
    assert!(drain(&artifacts).complete);
    let made = made_from(&artifacts, "out");
    assert_eq!(made.known, Known::Unavailable);
    assert!(made.reason.is_some_and(|reason| reason.contains("daemon that saw it ended")));
    shutdown(artifacts);
}

/// A daemon whose registrar has had no time yet.
fn write_and_die(state: &Path, output: &Path) {
    let day = std::time::Duration::from_secs(86_400);
    let settings = Settings { debounce: day, debounce_max: day, ..settings(state) };
    let artifacts = Artifacts::open(settings).expect("open");
    let mut workspace = Workspace::attach(&artifacts, "w", output);
    workspace.begin_run(&artifacts);
    fs::write(output.join("in"), "x").expect("write");
    workspace.read("in");
    workspace.write("out", b"y");
    workspace.forget();
    drop(artifacts);
}
