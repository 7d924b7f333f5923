//! Ordinary users and root's daemon: it opens no place for them, and none that they can change.

use super::*;
use nix::sys::signal::Signal;
use serde_json::json;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use support::ORDINARY;

fn as_user(place: &Place, uid: u32, arguments: &[&str], input: &str) -> Output {
    let mut command = place
        .as_user(uid)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    command.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    command.wait_with_output().unwrap()
}

#[test]
fn a_daemon_opens_places_for_its_own_user_alone() {
    let mut place = Place::shared();
    let store = place.path("home/store");
    let request = json!({ "kind": "local", "base_path": store }).to_string();
    let output = as_user(&place, ORDINARY, &["storage", "add", "-"], &request);
    assert!(
        !output.status.success() && text(&output).contains("start one of your own"),
        "{}",
        text(&output)
    );
    let roots = json!({ "kind": "local", "base_path": place.path("roots") });
    let id = add(&place, &roots);
    for arguments in
        [["artifact", "ls", "--backend", &id], ["artifact", "verify", "--backend", &id]]
    {
        let output = as_user(&place, ORDINARY, &arguments, "");
        assert!(text(&output).contains("no backend"), "{}", text(&output));
    }
    let seen = as_user(&place, ORDINARY, &["storage", "backends"], "");
    assert!(seen.status.success() && !stdout(&seen).contains(&id), "{}", text(&seen));
    // With a daemon of its own, for the length of a command or longer, the user has its own.
    let own = Place::of_ordinary_user();
    let id = add(&own, &json!({ "kind": "local", "base_path": own.path("store") }));
    run(&own, &id, "echo mine > output/mine.txt");
    assert_eq!(only_content(&own, &id), "mine\n");
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.assert_clean();
}

#[test]
fn a_directory_that_others_can_change_is_no_place() {
    let mut place = Place::shared();
    let refused = |path: &str| {
        let said = refusal(&place, &json!({ "kind": "local", "base_path": place.path(path) }));
        assert!(said.contains("others can change"), "{path}: {said}");
    };
    // Links in it would lead root's daemon anywhere.
    fs::create_dir(place.path("home/theirs")).unwrap();
    chown(place.path("home/theirs"), Some(ORDINARY), Some(ORDINARY)).unwrap();
    refused("home/theirs");
    // In theirs, one of root's can be exchanged.
    fs::create_dir(place.path("home/roots")).unwrap();
    refused("home/roots");
    fs::create_dir(place.path("open")).unwrap();
    fs::set_permissions(place.path("open"), Permissions::from_mode(0o777)).unwrap();
    refused("open");
    std::os::unix::fs::symlink(place.path("home/theirs"), place.path("link")).unwrap();
    refused("link");
    assert_eq!(fs::read_dir(place.path("home/theirs")).unwrap().count(), 0, "nothing was made");
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.assert_clean();
}
