//! `belljard` as an administrator meets it: readiness, a second start, an ordered stop, awkward places.
#![allow(clippy::unwrap_used)]

mod support;

use nix::sys::signal::Signal;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use support::{Place, finish, stderr, stdout, text};

#[test]
fn readiness_and_the_stop_are_told_to_the_service_manager() {
    let place = Place::new();
    let socket = UnixDatagram::bind(place.path("notify")).unwrap();
    socket.set_read_timeout(Some(support::SOON)).unwrap();
    let mut daemon =
        place.belljard(["serve"]).env("NOTIFY_SOCKET", place.path("notify")).spawn().unwrap();
    let heard = |word: &str| {
        let mut buffer = [0; 512];
        loop {
            let length = socket.recv(&mut buffer).unwrap_or_else(|e| panic!("{word}: {e}"));
            if String::from_utf8_lossy(&buffer[..length]).lines().any(|line| line == word) {
                return;
            }
        }
    };
    heard("READY=1");
    // Ready means ready: the first request is answered.
    assert!(place.output(["daemon", "status"]).status.success());
    let pid = nix::unistd::Pid::from_raw(daemon.id() as i32);
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    heard("STOPPING=1");
    assert!(daemon.wait().unwrap().success());
    place.assert_clean();
}

#[test]
fn a_second_daemon_in_the_same_place_is_refused_and_the_first_goes_on() {
    let mut place = Place::new();
    place.start_daemon();
    let second = place.belljard(["serve"]).output().unwrap();
    assert!(!second.status.success());
    assert!(stderr(&second).contains("belljar.sock"), "{}", text(&second));
    assert!(place.run(&[], "true").status.success());
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.assert_clean();
}

#[test]
fn a_stop_ends_runs_in_order_and_registers_what_they_closed() {
    let mut place = Place::new();
    place.start_daemon();
    let mut child = place
        .run_command(&["--receipt", "r.json"], "echo x > output/closed.txt; echo up; exec sleep 60")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    let output = finish(child);
    assert_eq!(output.status.code(), Some(125), "{}", text(&output));
    let receipt: serde_json::Value =
        serde_json::from_slice(&fs::read(place.path("r.json")).unwrap()).unwrap();
    assert_eq!(receipt["reason"], "cancelled", "{receipt}");
    assert_eq!(receipt["artifacts"][0]["path"], "/workspace/output/closed.txt", "{receipt}");
    place.assert_clean();
}

#[test]
fn a_path_that_is_longer_than_a_socket_address_works() {
    let place = Place::new();
    let long = place.path(&"d".repeat(100)).join("e".repeat(100));
    fs::create_dir_all(&long).unwrap();
    let run = place
        .belljar([
            "run",
            "--rw",
            "output=output",
            "--",
            "sh",
            "-c",
            "echo x > output/f; cat output/f",
        ])
        .env("BELLJAR_RUNTIME_DIR", &long)
        .output()
        .unwrap();
    assert_eq!(stdout(&run), "x\n", "{}", text(&run));
    let mut daemon = place.belljard(["serve"]).env("BELLJAR_RUNTIME_DIR", &long).spawn().unwrap();
    support::eventually("the daemon answers", || {
        place
            .belljar(["daemon", "status"])
            .env("BELLJAR_RUNTIME_DIR", &long)
            .output()
            .unwrap()
            .status
            .success()
    });
    let pid = nix::unistd::Pid::from_raw(daemon.id() as i32);
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    assert!(daemon.wait().unwrap().success());
    assert!(place.mounts().is_empty());
}

#[test]
fn a_runs_own_socket_serves_its_workspace_and_nothing_else() {
    let place = Place::new();
    fs::write(place.path("key"), "value-of-key").unwrap();
    fs::write(
        place.path("input/ask.py"),
        r#"
import os, socket, sys
def ask(method, path):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(os.environ["BELLJAR_SOCKET"])
    connection.send(f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".encode())
    answer = b""
    while part := connection.recv(65536):
        answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    print(method, path.replace(own, "OWN"), head.split()[1].decode(), body.decode() if b"octet" in head else "")
own = os.environ["BELLJAR_WORKSPACE"]
ask("GET", f"/v1/workspaces/{own}/secrets/KEY")
ask("GET", f"/v1/artifacts")
ask("GET", f"/v1/workspaces/other/secrets/KEY")
ask("GET", f"/v1/workspaces")
ask("DELETE", f"/v1/workspaces/{own}")
ask("POST", f"/v1/runs")
"#,
    )
    .unwrap();
    let output = place.run(&["--secret", "KEY=@key"], "/usr/bin/python3 input/ask.py");
    let lines: Vec<String> = stdout(&output).lines().map(|l| l.trim_end().to_owned()).collect();
    assert_eq!(
        lines,
        [
            "GET /v1/workspaces/OWN/secrets/KEY 200 value-of-key",
            "GET /v1/artifacts 200",
            "GET /v1/workspaces/other/secrets/KEY 403",
            "GET /v1/workspaces 403",
            "DELETE /v1/workspaces/OWN 403",
            "POST /v1/runs 403",
        ],
        "{}",
        text(&output)
    );
}

#[test]
fn an_ordinary_user_has_a_daemon_of_its_own() {
    let mut place = Place::of_ordinary_user();
    // Client and daemon are in different mount namespaces here, as a user's always are.
    place.start_daemon();
    fs::create_dir(place.path("tool")).unwrap();
    fs::write(place.path("tool/word"), "exposed\n").unwrap();
    let tool = place.path("tool");
    let output = place.run(
        &["-w", "own", "--expose", tool.to_str().unwrap()],
        &format!("cat input/data.txt {}/word; touch input/x; echo made > output/f", tool.display()),
    );
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(stdout(&output), "the input\nexposed\n", "{}", text(&output));
    assert!(stderr(&output).contains("Read-only file system"), "{}", text(&output));
    assert_eq!(fs::read_to_string(place.path("output/f")).unwrap(), "made\n");
    assert_eq!(place.artifacts(&["--workspace", "own"]).len(), 1);
    let shown = place.json(["workspace", "show", "own"]);
    assert_eq!(shown["mounts"][0]["passthrough"], false, "{shown}");
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.assert_clean();
}
