//! What artifacts were made from, through real programs in real runs.
#![allow(clippy::unwrap_used)]

mod support;

use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use support::{Place, eventually, finish, stdout, text};

fn digest(content: impl AsRef<[u8]>) -> String {
    format!("blake3:{}", blake3::hash(content.as_ref()).to_hex())
}

/// Runs a script that must succeed.
fn run(place: &Place, options: &[&str], script: &str) {
    let output = place.run(options, script);
    assert!(output.status.success(), "{}", text(&output));
}

fn id_of(place: &Place, name: &str) -> String {
    let artifacts = place.artifacts(&[]);
    let path = format!("/workspace/output/{name}");
    let found = artifacts.iter().find(|artifact| artifact["path"] == path.as_str());
    found.unwrap_or_else(|| panic!("{path} is not in {artifacts:?}"))["id"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn lineage(place: &Place, name: &str, options: &[&str]) -> Value {
    let id = id_of(place, name);
    place.json(["artifact", "lineage", &id].iter().chain(options))
}

/// What a version was made from: path below `/workspace`, digest or why there is none, and when it was opened.
fn inputs(version: &Value) -> Vec<(String, String, String)> {
    let inputs = version["made_from"]["inputs"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    inputs
        .iter()
        .map(|input| {
            let path = text(&input["path"]).replace("/workspace/", "");
            let digest = input["digest"].as_str().or(input["unavailable"].as_str());
            (path, digest.unwrap_or("-").to_owned(), text(&input["opened"]))
        })
        .collect()
}

fn row(path: &str, content: &str, opened: &str) -> (String, String, String) {
    (path.to_owned(), digest(content), opened.to_owned())
}

/// With the daemon inside each command, with one that passes data through the kernel, and with an ordinary user's, which does not.
fn in_every_form(check: impl Fn(&Place)) {
    let place = Place::new();
    check(&place);
    place.assert_clean();
    let mut place = Place::new();
    place.start_daemon();
    assert_eq!(place.json(["daemon", "status"])["passthrough"], true, "the kernel passes data");
    check(&place);
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.assert_clean();
    let place = Place::of_ordinary_user();
    check(&place);
    place.assert_clean();
}

#[test]
fn a_pipeline_of_runs_is_a_tree_with_the_digests_of_what_each_had_read() {
    in_every_form(|place| {
        run(place, &[], "sort input/data.txt > output/a.txt");
        run(place, &[], "tr a-z A-Z < output/a.txt > output/b.txt");
        run(place, &[], "cp output/b.txt output/c.txt");
        let lineage_of_c = lineage(place, "c.txt", &[]);
        let versions = lineage_of_c["versions"].as_array().unwrap();
        let paths: Vec<&str> = versions.iter().map(|v| v["path"].as_str().unwrap()).collect();
        assert_eq!(
            paths,
            ["/workspace/output/c.txt", "/workspace/output/b.txt", "/workspace/output/a.txt"]
        );
        // The shell opens the file of `>` before the program opens what it reads; cp opens its input first.
        assert_eq!(inputs(&versions[0]), [row("output/b.txt", "THE INPUT\n", "before")]);
        assert_eq!(inputs(&versions[1]), [row("output/a.txt", "the input\n", "before")]);
        assert_eq!(inputs(&versions[2]), [row("input/data.txt", "the input\n", "while-open")]);
        for version in versions {
            assert_eq!(version["made_from"]["known"], "complete", "{version}");
        }
        let input = &versions[0]["made_from"]["inputs"][0];
        assert_eq!(input["version"]["id"], id_of(place, "b.txt").as_str());
        assert_eq!(input["size"], 10);
        assert_eq!(input["host_path"], place.path("output/b.txt").to_str().unwrap());
        assert!(versions[2]["made_from"]["inputs"][0]["version"].is_null(), "it is no artifact");

        let used = lineage(place, "a.txt", &["--used-by"]);
        let paths: Vec<&str> = used["versions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v["path"].as_str().unwrap())
            .collect();
        assert_eq!(
            paths,
            ["/workspace/output/a.txt", "/workspace/output/b.txt", "/workspace/output/c.txt"]
        );

        let tree = place.output(["artifact", "lineage", &id_of(place, "c.txt")]);
        let lines: Vec<String> = stdout(&tree).lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 4, "{}", text(&tree));
        assert!(lines[1].starts_with("└─ /workspace/output/b.txt"), "{lines:?}");
        assert!(lines[2].starts_with("   └─ /workspace/output/a.txt"), "{lines:?}");
        assert!(lines[3].starts_with("      └─ /workspace/input/data.txt  blake3:"), "{lines:?}");
        assert!(text(&tree).contains("all that the runs had opened"), "{}", text(&tree));
        let one = lineage(place, "c.txt", &["--depth", "1"]);
        assert!(one["versions"][0]["made_from"].is_object());
        assert!(one["versions"][1]["made_from"].is_null(), "it is not looked into");
    });
}

#[test]
fn an_input_that_changes_between_runs_has_for_each_the_bytes_that_it_had() {
    let place = Place::new();
    run(&place, &[], "cp input/data.txt output/one.txt");
    fs::write(place.path("input/data.txt"), "other\n").unwrap();
    run(&place, &[], "cp input/data.txt output/two.txt");
    let of = |name: &str| inputs(&lineage(&place, name, &[])["versions"][0]);
    assert_eq!(of("one.txt"), [row("input/data.txt", "the input\n", "before")]);
    assert_eq!(of("two.txt"), [row("input/data.txt", "other\n", "before")]);
    place.assert_clean();
}

#[test]
fn all_that_was_read_before_is_listed_and_nothing_that_was_read_after() {
    let place = Place::new();
    for name in ["used", "not-used", "meanwhile", "late"] {
        fs::write(place.path("input").join(name), name).unwrap();
    }
    fs::create_dir(place.path("input/directory")).unwrap();
    run(
        &place,
        &["--secret", "KEY=@input/late"],
        "cat input/not-used .belljar/secrets/KEY > /dev/null; ls input/directory
         x=$(cat input/used); exec 3> output/out; cat input/meanwhile >&3; exec 3>&-; cat input/late",
    );
    let version = &lineage(&place, "out", &[])["versions"][0];
    let expected = [
        row("input/not-used", "not-used", "before"),
        row("input/used", "used", "before"),
        row("input/meanwhile", "meanwhile", "while-open"),
    ];
    assert_eq!(inputs(version), expected);
    assert_eq!(version["made_from"]["known"], "complete");
    place.assert_clean();
}

#[test]
fn a_file_that_is_renamed_into_place_was_made_from_what_was_read_before() {
    let place = Place::new();
    run(&place, &[], "cp input/data.txt output/x.tmp && mv output/x.tmp output/x.txt");
    let made = inputs(&lineage(&place, "x.txt", &[])["versions"][0]);
    assert_eq!(made[0], row("input/data.txt", "the input\n", "before"));
    // An edit in place reads the version before.
    run(&place, &[], "sed -i s/input/output/ output/x.txt");
    let whole = lineage(&place, "x.txt", &[]);
    let made = inputs(&whole["versions"][0]);
    assert_eq!(whole["versions"][0]["version"], 2);
    assert!(made.iter().any(|(path, ..)| path == "output/x.txt"), "{made:?}");
    place.assert_clean();
}

#[test]
fn what_no_run_wrote_is_unavailable_and_said_so() {
    let mut place = Place::new();
    place.start_daemon();
    let made = place.output(["workspace", "create", "w", "--rw", "output=output"]);
    assert!(made.status.success(), "{}", text(&made));
    let root = place.json(["workspace", "show", "w"])["root"].as_str().unwrap().to_owned();
    fs::write(Path::new(&root).join("output/x"), "x").unwrap();
    assert!(place.output(["artifact", "sync"]).status.success());
    let version = lineage(&place, "x", &[])["versions"][0].clone();
    assert_eq!(version["made_from"]["known"], "unavailable");
    let reason = version["made_from"]["reason"].as_str().unwrap();
    assert!(reason.contains("outside every run"), "{reason}");
    let tree = place.output(["artifact", "lineage", &id_of(&place, "x")]);
    assert!(stdout(&tree).contains("└─ unavailable: it was written by a process outside"));
    // Nor is what a process outside reads an input of a run in the same workspace.
    let child = place
        .belljar(["run", "-w", "w", "--", "sh", "-c", "echo a; read go; echo b > output/y"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap();
    eventually("the run is there", || {
        !place.json(["workspace", "show", "w"])["runs"].as_array().unwrap().is_empty()
    });
    fs::read(Path::new(&root).join("output/x")).unwrap();
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"go\n").unwrap();
    let output = finish(child);
    assert!(output.status.success(), "{}", text(&output));
    let version = lineage(&place, "y", &[])["versions"][0].clone();
    assert_eq!((inputs(&version), &version["made_from"]["known"]), (vec![], &"complete".into()));
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.assert_clean();
}

#[test]
fn more_inputs_than_the_bound_are_said_to_be_missing() {
    let mut place = Place::new();
    fs::write(place.path("config.yaml"), "artifacts: { inputs_max: 100, input_size_max: 1KiB }")
        .unwrap();
    for n in 0..150 {
        fs::write(place.path("input").join(format!("{n:03}")), format!("{n}")).unwrap();
    }
    fs::write(place.path("input/large"), vec![7; 1025]).unwrap();
    place.start_daemon_with(&["--config", place.path("config.yaml").to_str().unwrap()]);
    run(
        &place,
        &[],
        "cat input/large input/0*; cp input/00* output; cat input/1*; echo x > output/out",
    );
    let version = lineage(&place, "001", &[])["versions"][0].clone();
    assert_eq!(version["made_from"]["known"], "partial", "{version}");
    let whole = lineage(&place, "out", &[])["versions"][0].clone();
    let reason = whole["made_from"]["reason"].as_str().unwrap();
    assert!(reason.contains("more than 100 files"), "{reason}");
    let made = inputs(&whole);
    assert_eq!(made.len(), 101);
    assert_eq!(made[0].0, "input/large");
    assert!(made[0].1.contains("too large"), "{made:?}");
    assert_eq!(made[1], row("input/000", "0", "before"));
    assert_eq!(made[100].0, "-", "the last one stands for the others");
    let tree = stdout(&place.output(["artifact", "lineage", &id_of(&place, "out")]));
    assert!(tree.contains("not complete") && tree.contains("--all shows them"), "{tree}");
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.assert_clean();
}

#[test]
fn a_daemon_killed_in_the_middle_leaves_versions_that_say_what_is_not_known() {
    let mut place = Place::new();
    place.start_daemon();
    let mut command = place.run_command(
        &[],
        "cp input/data.txt output/early; while [ ! -e output/go ]; do sleep 0.02; done; cat input/data.txt; echo x > output/late; echo written; sleep 60",
    );
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    eventually("the first output is registered", || {
        place.artifacts(&[]).iter().any(|artifact| artifact["path"] == "/workspace/output/early")
    });
    let early = |place: &Place| lineage(place, "early", &[])["versions"][0].clone();
    eventually("its input is stored while the run goes on", || {
        early(&place)["made_from"]["known"] == "complete"
    });
    assert_eq!(inputs(&early(&place)), [row("input/data.txt", "the input\n", "before")]);
    fs::write(place.path("output/go"), "").unwrap();
    eventually("the second output is written", || place.path("output/late").exists());
    place.stop_daemon(Signal::SIGKILL);
    let _ = child.kill();
    let _ = child.wait();
    place.start_daemon();
    assert!(place.output(["artifact", "sync"]).status.success());
    assert_eq!(inputs(&early(&place)), [row("input/data.txt", "the input\n", "before")]);
    let late = lineage(&place, "late", &[])["versions"][0].clone();
    // Killed before its copy was taken, or after.
    let known = late["made_from"]["known"].as_str().unwrap();
    match known {
        "unavailable" => {
            let reason = late["made_from"]["reason"].as_str().unwrap();
            assert!(reason.contains("the daemon that saw it ended"), "{reason}");
        }
        "complete" => assert_eq!(inputs(&late).len(), 1),
        _ => panic!("{late}"),
    }
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.assert_clean();
}

#[test]
fn a_wrong_question_is_refused_and_a_runs_own_socket_has_no_lineage() {
    let mut place = Place::new();
    place.start_daemon();
    run(&place, &[], "cp input/data.txt output/x");
    let id = id_of(&place, "x");
    let missing = place.output(["artifact", "lineage", "01a2c3d4-0000-7000-8000-000000000000"]);
    assert_eq!(missing.status.code(), Some(4), "{}", text(&missing));
    let bad = place.output(["artifact", "lineage", &id, "--depth", "0"]);
    assert_eq!(bad.status.code(), Some(2), "{}", text(&bad));
    let both = place.output(["artifact", "lineage", &id, "--of", "--used-by"]);
    assert_eq!(both.status.code(), Some(2), "{}", text(&both));
    // The way leads through other workspaces.
    let ask = format!(
        "python3 - <<'E'\nimport os, socket\ns = socket.socket(socket.AF_UNIX); s.connect(os.environ['BELLJAR_SOCKET'])\n\
         s.sendall(b'GET /v1/artifacts/{id}/lineage HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n')\n\
         print(s.recv(100).decode())\nE"
    );
    let inside = place.run(&[], &ask);
    assert!(stdout(&inside).starts_with("HTTP/1.1 403"), "{}", text(&inside));
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.assert_clean();
}
