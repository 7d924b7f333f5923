//! The life of artifacts through the real programs: registered, named, changed, archived, deleted, told of.
//!
//! Needs root and `/dev/fuse`, as tests/run.rs; Python for the run's own socket.
#![allow(clippy::unwrap_used)]

mod support;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};
use support::{Place, eventually, stderr, stdout, text};

/// `belljar artifact …` must succeed; what it prints.
fn artifact(place: &Place, arguments: &[&str]) -> String {
    let output = place.output([&["artifact"], arguments].concat());
    assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    stdout(&output)
}

/// `belljar artifact …` must fail with this exit code and these words.
fn refused(place: &Place, arguments: &[&str], exit: i32, words: &[&str]) {
    let output = place.output([&["artifact"], arguments].concat());
    assert_eq!(output.status.code(), Some(exit), "{arguments:?}: {}", text(&output));
    for word in words {
        assert!(stderr(&output).contains(word), "{arguments:?}: no {word:?} in {}", text(&output));
    }
}

fn show(place: &Place, reference: &str) -> Value {
    place.json(["artifact", "show", reference])
}

fn registered(place: &Place, arguments: &[&str]) -> Value {
    let outcome = place.json([&["artifact", "register"], arguments].concat());
    outcome["results"][0]["artifact"].clone()
}

/// Files of one tier of the store that hold these bytes.
fn contents(place: &Place, tier: &str, bytes: &[u8]) -> Vec<PathBuf> {
    let found = place.files_with(bytes).into_iter();
    found.filter(|path| path.starts_with(place.path("state").join(tier))).collect()
}

fn the_whole_life(place: &Place) {
    let run = place.run(&["--graph-id", "g"], "echo made-by-a-run > output/x.csv");
    assert!(run.status.success(), "{}", text(&run));
    let captured = place.artifacts(&[]).remove(0);
    let id = captured["id"].as_str().unwrap();

    let row = registered(
        place,
        &[
            "output/x.csv",
            "--alias",
            "sales 2026",
            "--label",
            "v3",
            "--tag",
            "q1",
            "--metadata",
            r#"{"a":{"b":1,"c":2}}"#,
        ],
    );
    assert_eq!(
        (&row["id"], &row["version"], &row["origin"]),
        (&captured["id"], &json!(1), &json!("observed"))
    );
    assert_eq!((&row["graph_id"], &row["labels"]), (&json!("g"), &json!(["v3"])));
    assert_eq!(place.artifacts(&["--all-versions"]).len(), 1, "the same bytes are one version");
    for reference in ["sales 2026", "sales 2026@1", "sales 2026@latest", "sales 2026@label:v3"] {
        assert_eq!(artifact(place, &["cat", reference]), "made-by-a-run\n");
    }
    let patch = r#"{"a":{"b":null,"d":[3]}}"#;
    artifact(
        place,
        &[
            "update",
            "sales 2026",
            "--metadata",
            patch,
            "--type",
            "report",
            "--tag",
            "q2",
            "--remove-tag",
            "q1",
        ],
    );
    let row = show(place, id);
    assert_eq!(
        (&row["metadata"]["a"], &row["metadata"]["b"], &row["type"]),
        (&json!({"c": 2, "d": [3]}), &Value::Null, &json!("report"))
    );
    assert_eq!(row["metadata"]["lines"], 1, "what the content says of itself stays");
    assert_eq!(row["tags"], json!(["q2"]));

    fs::write(place.path("output/x.csv"), "made outside\n").unwrap();
    let row = registered(place, &["output/x.csv", "--label", "v3"]);
    assert_eq!(
        (&row["version"], &row["parent_version"], &row["origin"]),
        (&json!(2), &json!(1), &json!("declared"))
    );
    assert_eq!(
        artifact(place, &["cat", "sales 2026@label:v3"]),
        "made outside\n",
        "the label moved"
    );
    let versions = place.json(["artifact", "versions", id]);
    let numbers: Vec<_> =
        versions["artifacts"].as_array().unwrap().iter().map(|v| v["version"].clone()).collect();
    assert_eq!(numbers, [2, 1]);

    artifact(place, &["archive", "sales 2026@1"]);
    assert_eq!(show(place, "sales 2026@1")["state"], "ARCHIVED");
    assert_eq!(contents(place, "archive", b"made-by-a-run").len(), 1);
    assert_eq!(artifact(place, &["cat", "sales 2026@1"]), "made-by-a-run\n");
    refused(place, &["archive", "sales 2026@1"], 1, &["ARCHIVED"]);
    artifact(place, &["restore", "sales 2026@1"]);
    assert_eq!(contents(place, "archive", b"made-by-a-run").len(), 0);
    assert_eq!(contents(place, "blobs", b"made-by-a-run").len(), 1);

    artifact(place, &["pin", "sales 2026@1"]);
    refused(place, &["rm", id], 1, &["pinned", "unpin"]);
    artifact(place, &["unpin", "sales 2026@1"]);
    artifact(place, &["rm", id]);
    refused(place, &["cat", id], 1, &["deleted"]);
    refused(place, &["update", id, "--tag", "x"], 1, &["restore it first"]);
    artifact(place, &["restore", id]);
    assert_eq!(artifact(place, &["cat", "sales 2026@1"]), "made-by-a-run\n");

    let events = place.json(["artifact", "events", id]);
    let kinds: Vec<&str> =
        events["events"].as_array().unwrap().iter().map(|e| e["kind"].as_str().unwrap()).collect();
    let count = |kind| kinds.iter().filter(|found| **found == kind).count();
    assert_eq!((count("created"), count("version"), count("label-set")), (1, 1, 2), "{kinds:?}");
    assert_eq!((count("state"), count("pinned"), count("unpinned")), (6, 1, 1), "{kinds:?}");
    assert!(events["events"][0]["actor"].as_str().unwrap().starts_with("run:"), "{events}");
}

#[test]
fn the_whole_life_of_an_artifact_without_a_daemon() {
    let place = Place::new();
    the_whole_life(&place);
    place.assert_clean();
}

#[test]
fn the_whole_life_of_an_artifact_with_a_daemon() {
    let mut place = Place::new();
    place.start_daemon();
    the_whole_life(&place);
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.assert_clean();
}

#[test]
fn the_whole_life_of_an_ordinary_users_artifact() {
    let place = Place::of_ordinary_user();
    the_whole_life(&place);
    place.assert_clean();
}

/// A workspace that stays mounted, and a file written through its mount.
fn workspace(place: &mut Place) -> PathBuf {
    place.start_daemon();
    artifact_free(place, &["workspace", "create", "w", "--rw", "output=output"]);
    PathBuf::from(place.json(["workspace", "show", "w"])["root"].as_str().unwrap()).join("output")
}

fn artifact_free(place: &Place, arguments: &[&str]) {
    let output = place.output(arguments);
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn registering_what_was_just_written_waits_for_the_captured_version() {
    let mut place = Place::new();
    let mounted = workspace(&mut place);
    for round in 0..5 {
        fs::write(mounted.join("f.txt"), format!("round {round}\n")).unwrap();
        // At once: the capture is due a moment after the close.
        let by_host = round % 2 == 0;
        let row = match by_host {
            true => registered(&place, &["output/f.txt", "--tag", "t"]),
            false => registered(&place, &["-w", "w", "/workspace/output/f.txt", "--tag", "t"]),
        };
        assert_eq!(
            (&row["version"], &row["origin"]),
            (&json!(round + 1), &json!("observed")),
            "{row}"
        );
        assert_eq!(row["path"], "/workspace/output/f.txt");
    }
    assert_eq!(place.artifacts(&["--all-versions"]).len(), 5);
    // Opened through the mount, the daemon would wait for itself.
    let through = mounted.join("f.txt");
    refused(&place, &["register", through.to_str().unwrap()], 1, &["through a workspace's mount"]);
    refused(
        &place,
        &["register", "-w", "w", "/workspace/output/none"],
        1,
        &["no version of", "captured"],
    );
    refused(
        &place,
        &["register", "-w", "w", "/workspace/input/x"],
        1,
        &["no mount point of workspace w"],
    );
    drop(place);
}

#[test]
fn what_is_held_is_not_ready_until_somebody_says_so() {
    let mut place = Place::new();
    let mounted = workspace(&mut place);
    // In a workspace the file's last capture is the content.
    let row = registered(
        &place,
        &["-w", "w", "/workspace/output/model.bin", "--state", "CREATING", "--alias", "model"],
    );
    assert_eq!(
        (&row["state"], &row["held"], &row["digest"]),
        (&json!("CREATING"), &json!(true), &Value::Null)
    );
    refused(
        &place,
        &["update", "model", "--state", "READY"],
        1,
        &["no content yet", "write the file"],
    );
    fs::write(mounted.join("model.bin"), "draft").unwrap();
    artifact(&place, &["sync"]);
    refused(&place, &["cat", "model"], 1, &["CREATING", "--state READY"]);
    fs::write(mounted.join("model.bin"), "final").unwrap();
    artifact(&place, &["update", "model", "--state", "READY"]);
    assert_eq!(artifact(&place, &["cat", "model"]), "final");
    let row = show(&place, "model");
    assert_eq!(
        (&row["version"], &row["state"], &row["held"]),
        (&json!(1), &json!("READY"), &json!(false))
    );
    refused(&place, &["update", "model", "--state", "READY"], 1, &["READY"]);
    // Outside of every mount point the file of that moment is.
    let row = registered(&place, &["elsewhere.txt", "--state", "CREATING", "--alias", "elsewhere"]);
    assert_eq!(row["workspace_id"], Value::Null);
    fs::write(place.path("elsewhere.txt"), "of that moment").unwrap();
    artifact(&place, &["update", "elsewhere", "--state", "READY"]);
    assert_eq!(artifact(&place, &["cat", "elsewhere"]), "of that moment");
    drop(place);
}

fn exchange(socket: &Path, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[test]
fn mistakes_on_the_command_line_are_told_with_a_way_out() {
    let place = Place::new();
    fs::write(place.path("a"), "a").unwrap();
    registered(&place, &["a", "--alias", "x"]);
    refused(&place, &["show", "nobody"], 4, &["no artifact nobody", "belljar artifact ls"]);
    refused(&place, &["show", ""], 2, &["ID[@VERSION]"]);
    refused(&place, &["update", "x"], 2, &["nothing is to be changed of x", "--tag"]);
    refused(&place, &["register", "a", "--metadata", "{bad"], 2, &["not JSON", "column 2"]);
    refused(&place, &["register", "a", "--metadata", "@none"], 2, &["none", "No such file"]);
    refused(&place, &["register", "-w", "nobody", "a"], 1, &["nobody", "belljar workspace ls"]);
    artifact(&place, &["rm", "x"]);
    refused(&place, &["cat", "x"], 1, &["deleted", "belljar artifact restore"]);
    place.assert_clean();
}

#[test]
fn mistakes_get_a_code_a_reason_and_a_fix() {
    let mut place = Place::new();
    place.start_daemon();
    fs::write(place.path("a"), "a").unwrap();
    fs::write(place.path("b"), "b").unwrap();
    let a = registered(&place, &["a", "--alias", "x"]);
    let socket = place.path("runtime/belljar.sock");
    let ask = |method: &str, path: &str, body: Value, status: u16, code: &str, word: &str| {
        let (got, answer) = exchange(&socket, method, path, "", &body.to_string());
        let problem: Value = serde_json::from_str(&answer).unwrap();
        let first = problem["results"][0]["error"].clone();
        let problem = if first.is_null() { problem } else { first };
        if problem["status"].is_number() && got == 200 {
            assert_eq!(problem["status"], status, "{answer}");
        } else {
            assert_eq!(got, status, "{method} {path}: {answer}");
        }
        assert_eq!(problem["code"], code, "{answer}");
        assert!(problem["detail"].as_str().unwrap().contains(word), "{answer}");
    };
    let one = |item: Value| json!({ "items": [item] });
    let at_a = format!("/v1/artifacts/{}", a["id"].as_str().unwrap());
    ask("POST", "/v1/artifacts", json!({"items": []}), 400, "invalid-request", "1 to 128");
    ask("POST", "/v1/artifacts", one(json!({"path": "a"})), 400, "invalid-request", "start with /");
    ask("POST", "/v1/artifacts", one(json!({"path": "/x/../y"})), 400, "invalid-request", "`..`");
    // No path that a client names is opened: what it cannot send is not there.
    ask(
        "POST",
        "/v1/artifacts",
        one(json!({"path": "/etc/passwd"})),
        409,
        "no-content",
        "descriptor",
    );
    ask(
        "POST",
        "/v1/artifacts",
        one(json!({"path": "/a", "state": "DELETED"})),
        400,
        "invalid-request",
        "CREATING",
    );
    ask(
        "POST",
        "/v1/artifacts",
        one(json!({"path": "/a", "descriptor": 0})),
        400,
        "invalid-request",
        "companion socket",
    );
    ask(
        "POST",
        "/v1/artifacts",
        one(json!({"path": {"base64": "!"}})),
        400,
        "invalid-request",
        "base64",
    );
    ask(
        "POST",
        "/v1/artifacts",
        one(json!({"path": "/a", "artifact_id": "a@b"})),
        400,
        "invalid-request",
        "without @",
    );
    ask("PATCH", &at_a, json!({"metadata": "text"}), 400, "invalid-request", "metadata");
    ask(
        "PATCH",
        &at_a,
        json!({"metadata": {"a": "x".repeat(70_000)}}),
        413,
        "metadata-too-large",
        "65536",
    );
    ask("PATCH", &at_a, json!({"tags": {"add": ["a b"]}}), 400, "invalid-request", "tag");
    ask("PATCH", &at_a, json!({"state": "CREATING"}), 409, "illegal-transition", "CREATING");
    ask(
        "PATCH",
        &at_a,
        json!({"state": "ARCHIVED", "mime": "a/b"}),
        400,
        "invalid-request",
        "request of its own",
    );
    ask("PATCH", "/v1/artifacts/nobody", json!({}), 404, "artifact-not-found", "nobody");
    ask("PATCH", "/v1/artifacts/x@label:none", json!({}), 404, "artifact-not-found", "label:none");
    ask("GET", "/v1/events?after=-1", json!({}), 400, "invalid-request", "below 0");
    ask("GET", "/v1/events?limit=0", json!({}), 400, "invalid-request", "between 1 and");
    refused(
        &place,
        &["register", "b", "--alias", "x"],
        1,
        &["alias x names another", "--move-alias"],
    );
    let b = registered(&place, &["b", "--alias", "x", "--move-alias"]);
    assert_eq!(show(&place, "x")["id"], b["id"]);
    refused(&place, &["register", "nowhere.txt"], 1, &["nowhere.txt", "No such file"]);
    refused(&place, &["register", "a", "--metadata", "[1]"], 2, &["not a JSON object"]);
    refused(&place, &["show", "nobody"], 4, &["nobody"]);
    // A batch: what is wrong with one does not hold up the others.
    let output = place.output(["artifact", "register", "a", "input", "b"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert_eq!(stdout(&output).lines().count(), 2, "{}", text(&output));
    assert!(stderr(&output).contains("input is not a regular file"), "{}", text(&output));
    drop(place);
}

#[test]
fn a_run_registers_and_updates_its_own_workspaces_artifacts_and_no_more() {
    let mut place = Place::new();
    place.start_daemon();
    fs::write(place.path("other"), "not the run's").unwrap();
    let other = registered(&place, &["other", "--alias", "others"]);
    fs::write(
        place.path("input/say.py"),
        r#"
import json, os, socket
def ask(method, path, body=None):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(os.environ["BELLJAR_SOCKET"])
    body = json.dumps(body).encode() if body is not None else b""
    connection.sendall(f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
    answer = b""
    while part := connection.recv(65536):
        answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    body = json.loads(body)
    result = body.get("results", [{}])[0]
    print(method, head.split()[1].decode(), result.get("error", body).get("code", "-"))
    return result.get("artifact", body)
open("output/r.txt", "w").write("by the run")
mine = ask("POST", "/v1/artifacts", {"items": [{"path": "/workspace/output/r.txt", "artifact_id": "mine", "metadata": {"said": 1}}]})
ask("PATCH", "/v1/artifacts/mine", {"tags": {"add": ["t"]}})
ask("PATCH", "/v1/artifacts/others", {"tags": {"add": ["t"]}})
ask("PATCH", "/v1/artifacts/mine", {"state": "DELETED"})
ask("PATCH", "/v1/artifacts/mine", {"aliases": {"add": ["others"]}})
ask("PATCH", "/v1/artifacts/mine", {"aliases": {"add": ["others"]}, "move_aliases": True})
ask("DELETE", "/v1/artifacts/mine")
ask("POST", "/v1/artifacts/mine/archive")
ask("POST", "/v1/artifacts", {"items": [{"path": os.environ["OTHER"]}]})
ask("POST", "/v1/artifacts", {"items": [{"path": "/workspace/output/r.txt", "workspace": "elsewhere"}]})
ask("POST", "/v1/artifacts", {"items": [{"path": "/workspace/output/r.txt", "artifact_id": "others", "move_alias": True}]})
ask("POST", "/v1/artifacts", {"items": [{"path": "/workspace/output/later", "state": "CREATING", "artifact_id": "later"}]})
ask("GET", "/v1/events")
"#,
    )
    .unwrap();
    let variable = format!("OTHER={}", place.path("other").display());
    let output = place.run(&["-w", "own", "--env", &variable], "/usr/bin/python3 input/say.py");
    let lines: Vec<String> = stdout(&output).lines().map(str::to_owned).collect();
    assert_eq!(
        lines,
        [
            "POST 200 -",
            "PATCH 200 -",
            "PATCH 404 artifact-not-found",
            "PATCH 403 forbidden",
            "PATCH 409 alias-taken",
            "PATCH 403 forbidden",
            "DELETE 403 forbidden",
            "POST 403 forbidden",
            "POST 200 forbidden",
            "POST 200 forbidden",
            "POST 200 forbidden",
            "POST 200 -",
            "GET 403 forbidden",
        ],
        "{}",
        text(&output)
    );
    let mine = show(&place, "mine");
    assert_eq!(
        (&mine["version"], &mine["origin"], &mine["tags"]),
        (&json!(1), &json!("observed"), &json!(["t"]))
    );
    // Beside what the content says itself.
    assert_eq!(mine["metadata"], json!({"lines": 1, "said": 1}));
    let later = show(&place, "later");
    assert_eq!((&later["origin"], &later["held"]), (&json!("declared"), &json!(true)));
    assert_eq!(show(&place, "others")["id"], other["id"]);
    let events = place.json(["artifact", "events", "mine"]);
    let actor = format!("run:{}", mine["run_id"].as_str().unwrap());
    assert!(
        events["events"].as_array().unwrap().iter().all(|event| event["actor"] == actor.as_str()),
        "{events}"
    );
    drop(place);
}

#[test]
fn after_the_undo_window_the_content_is_gone_unless_another_version_needs_it() {
    let place = Place::new();
    fs::write(place.path("c.yaml"), "artifacts: { undo_window: 0s }\n").unwrap();
    for (name, bytes) in [("a", "shared bytes"), ("b", "shared bytes"), ("c", "bytes of c alone")] {
        fs::write(place.path(name), bytes).unwrap();
        registered(&place, &[name, "--alias", name]);
    }
    // As if they had been stored long ago: what is young is left alone.
    for path in place.files_with(b"bytes") {
        if path.starts_with(place.path("state/blobs")) {
            let file = fs::File::open(path).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(3_600)).unwrap();
        }
    }
    artifact(&place, &["rm", "a", "c"]);
    assert_eq!(
        contents(&place, "blobs", b"bytes of c").len(),
        1,
        "the window of a week is not over"
    );
    eventually("the content is swept", || {
        let swept = place.output(["--config", "c.yaml", "artifact", "ls"]);
        assert!(swept.status.success(), "{}", text(&swept));
        contents(&place, "blobs", b"bytes of c").is_empty()
    });
    refused(&place, &["restore", "a"], 1, &["undo window"]);
    refused(&place, &["restore", "c"], 1, &["undo window"]);
    assert_eq!(artifact(&place, &["cat", "b"]), "shared bytes");
    assert_eq!(registered(&place, &["c"])["version"], 2, "the same bytes come back as a version");
    assert_eq!(artifact(&place, &["cat", "c"]), "bytes of c alone");
    place.assert_clean();
}

#[test]
fn events_are_followed_as_they_come_and_resumed_where_they_were_left() {
    let mut place = Place::new();
    place.start_daemon();
    fs::write(place.path("a"), "a").unwrap();
    registered(&place, &["a", "--alias", "x"]);
    let mut follower = place
        .belljar(["artifact", "events", "--follow", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    // Another process writes into the same catalog, past the daemon.
    let tag = |tag: &str| {
        let output = place.belljar(["artifact", "update", "x", "--tag", tag]).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
    };
    // The stream begins somewhere between two of these; each is told once.
    let mut count = 0;
    let (sender, told) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        while let Some(Ok(line)) = lines.next() {
            let _ = sender.send(serde_json::from_str::<Value>(&line).unwrap());
        }
    });
    let first = loop {
        tag(&format!("t{count}"));
        count += 1;
        if let Ok(event) = told.recv_timeout(Duration::from_secs(1)) {
            break event;
        }
        assert!(count < 30, "nothing is told");
    };
    tag("last");
    let last = loop {
        let event = told.recv_timeout(Duration::from_secs(5)).expect("told within the bound");
        if event["detail"]["tags"].as_array().unwrap().iter().any(|tag| tag == "last") {
            break event;
        }
    };
    assert!(last["seq"].as_i64() > first["seq"].as_i64());
    // Whoever lost the stream goes on behind the last one that it saw.
    let socket = place.path("runtime/belljar.sock");
    let mut stream = UnixStream::connect(&socket).unwrap();
    write!(
        stream,
        "GET /v1/events HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\nlast-event-id: {}\r\n\r\n",
        first["seq"]
    )
    .unwrap();
    stream.set_read_timeout(Some(support::SOON)).unwrap();
    let resumed =
        BufReader::new(stream).lines().map(Result::unwrap).find(|line| line.starts_with("id: "));
    assert_eq!(resumed, Some(format!("id: {}", first["seq"].as_i64().unwrap() + 1)));
    // A stream does not hold up the daemon's end, and ends with it.
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    assert!(follower.wait().unwrap().success());
    reader.join().unwrap();
    place.assert_clean();
}
