//! Ordinary users and root's daemon: nobody gets a place through it that it could not use itself.

use super::*;
use nix::sys::signal::Signal;
use serde_json::json;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::Command;
use support::{BELLJAR, ORDINARY};

const OTHER: u32 = ORDINARY + 1;

fn shared() -> Place {
    assert!(nix::unistd::geteuid().is_root(), "only root can serve several users");
    let mut place = Place::new();
    place.start_daemon();
    for open in ["", "runtime", "runtime/belljar.sock", "runtime/belljar.sock.fds"] {
        let mode = if open.ends_with("sock") || open.ends_with("fds") { 0o666 } else { 0o755 };
        fs::set_permissions(place.path(open), Permissions::from_mode(mode)).unwrap();
    }
    fs::create_dir(place.path("home")).unwrap();
    chown(place.path("home"), Some(ORDINARY), Some(ORDINARY)).unwrap();
    // The build's directory may be closed to others.
    fs::copy(BELLJAR, place.path("belljar")).unwrap();
    place
}

fn as_user(place: &Place, uid: u32, arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new("setpriv")
        .args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups", "--"])
        .arg(place.path("belljar"))
        .args(arguments)
        .env("BELLJAR_SOCKET", place.path("runtime/belljar.sock"))
        .env("HOME", place.path("home"))
        .current_dir(place.path("home"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    command.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    command.wait_with_output().unwrap()
}

#[test]
fn contents_are_written_as_their_owner_and_seen_by_nobody_else() {
    let mut place = shared();
    let store = place.path("home/store");
    let request = json!({ "kind": "local", "base_path": store }).to_string();
    let output = as_user(&place, ORDINARY, &["storage", "add", "-"], &request);
    assert!(output.status.success(), "{}", text(&output));
    let id = stdout(&output).trim().to_owned();
    let run = as_user(
        &place,
        ORDINARY,
        &["run", "--backend", &id, "--rw", "o=.", "--", "sh", "-c", "echo mine > o/mine.txt"],
        "",
    );
    assert!(run.status.success(), "{}", text(&run));
    let list = as_user(&place, ORDINARY, &["artifact", "ls", "--backend", &id], "");
    assert!(stdout(&list).contains("mine.txt"), "{}", text(&list));
    let digest = blake3::hash(b"mine\n").to_hex().to_string();
    let content = store.join("blobs").join(&digest[..2]).join(&digest[2..]);
    assert_eq!(fs::metadata(content).unwrap().uid(), ORDINARY);
    for (uid, words) in [(OTHER, "no backend"), (0, "no backend")] {
        let list = as_user(&place, uid, &["artifact", "ls", "--backend", &id], "");
        assert!(text(&list).contains(words), "uid {uid}: {}", text(&list));
    }
    let seen = as_user(&place, OTHER, &["storage", "backends"], "");
    assert!(!stdout(&seen).contains(&id), "{}", text(&seen));
    assert!(stdout(&as_user(&place, 0, &["storage", "backends"], "")).contains(&id));
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.assert_clean();
}

#[test]
fn a_user_gets_no_place_and_no_key_that_is_not_its_own() {
    let mut place = shared();
    fs::create_dir(place.path("roots")).unwrap();
    fs::set_permissions(place.path("roots"), Permissions::from_mode(0o700)).unwrap();
    fs::create_dir(place.path("readable")).unwrap();
    let path = |name: &str| place.path(name).to_str().unwrap().to_owned();
    for (request, words) in [
        // Asked for past the command line, which would look itself.
        (json!({ "kind": "local", "base_path": path("roots/store") }), "Permission denied"),
        (json!({ "kind": "local", "base_path": path("readable") }), "Permission denied"),
        (json!({ "kind": "s3", "bucket": "abc" }), "give credentials"),
        (
            json!({ "kind": "database", "connection_string": "postgresql:///x?host=/run/postgresql", "file_storage_path": path("home/f") }),
            "name the server's host",
        ),
        (
            json!({ "kind": "database", "connection_string": "postgresql://me@localhost/x", "file_storage_path": path("home/f") }),
            "give user and password",
        ),
        (
            json!({ "kind": "database", "connection_string": "postgresql://me:x@localhost/x?sslmode=require&sslrootcert=/root/roots.pem", "file_storage_path": path("home/f") }),
            "Permission denied",
        ),
    ] {
        let body = request.to_string();
        let ask = format!(
            "PUT /v1/storage/backend HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let client = r#"
import os, socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.sendall(sys.argv[2].encode()); print(s.makefile().read())
"#;
        let output = Command::new("setpriv")
            .args([
                &format!("--reuid={ORDINARY}"),
                &format!("--regid={ORDINARY}"),
                "--clear-groups",
                "--",
            ])
            .args(["env", "PATH=/usr/bin:/bin", "python3", "-c", client])
            .arg(place.path("runtime/belljar.sock"))
            .arg(ask)
            .output()
            .unwrap();
        assert!(stdout(&output).contains(words), "{request}: {}", text(&output));
    }
    assert_eq!(fs::read_dir(place.path("roots")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(place.path("readable")).unwrap().count(), 0);
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.assert_clean();
}
