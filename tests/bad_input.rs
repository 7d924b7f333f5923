//! Bad input: each case gets a sentence that names the thing, the reason and the way out, the documented exit code, and
//! leaves nothing behind.
#![allow(clippy::unwrap_used)]

mod support;

use nix::sys::signal::Signal;
use std::fs;
use support::{Place, stderr, stdout, text};

/// Asserts the exit code and that standard error names everything in `words`; then that nothing is left.
#[track_caller]
fn refused(place: &Place, arguments: &[&str], code: i32, words: &[&str]) {
    let output = place.output(arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output));
    let said = stderr(&output);
    for word in words {
        assert!(said.contains(word), "{arguments:?}: {word:?} is not in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    place.assert_clean();
}

#[test]
fn a_missing_host_directory() {
    let place = Place::new();
    refused(&place, &["run", "--ro", "in=absent", "--", "true"], 125, &["absent", "in"]);
    refused(
        &place,
        &["run", "--ro", "in=input/data.txt", "--", "true"],
        125,
        &["data.txt", "directory"],
    );
}

#[test]
fn a_mount_name_that_is_illegal_or_given_twice() {
    let place = Place::new();
    refused(&place, &["run", "--ro", "a/b=input", "--", "true"], 125, &["a/b"]);
    refused(&place, &["run", "--ro", ".belljar=input", "--", "true"], 125, &[".belljar"]);
    refused(
        &place,
        &["run", "--ro", "a=input", "--rw", "a=output", "--", "true"],
        125,
        &["a", "twice"],
    );
    refused(&place, &["run", "--ro", "noequals", "--", "true"], 125, &["noequals", "NAME=PATH"]);
}

#[test]
fn a_manifest_that_is_wrong() {
    let place = Place::new();
    let with = |text: &str| fs::write(place.path("m.yaml"), text).unwrap();
    let run = ["run", "-f", "m.yaml", "--", "true"];
    with("id: t\nmounts:\n  - { name: in, path: input }\n");
    refused(&place, &run, 125, &["input", "relative"]);
    with("id: t\nmounts:\n  - { name: in, path: /tmp, mode: rx }\n");
    refused(&place, &run, 125, &["rx", "ro", "rw"]);
    with("id: t\nmonuts: []\n");
    refused(&place, &run, 125, &["monuts", "mounts"]);
    with("id: t\nmounts:\n  - { name: in, path: /tmp }\n  - { name: in, path: /tmp }\n");
    refused(&place, &run, 125, &["in", "twice"]);
    with("id: [\n");
    refused(&place, &run, 125, &["m.yaml"]);
    refused(&place, &["run", "-f", "none.yaml", "--", "true"], 125, &["none.yaml"]);
}

#[test]
fn a_configuration_that_is_wrong() {
    let place = Place::new();
    let with = |text: &str| fs::write(place.path("c.yaml"), text).unwrap();
    let check = || {
        std::process::Command::new(support::BELLJARD)
            .args(["check-config", place.path("c.yaml").to_str().unwrap()])
            .output()
            .unwrap()
    };
    with("unknown_key: 1\n");
    let output = check();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(stderr(&output).contains("unknown_key"), "{}", text(&output));
    with("");
    let output = check();
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn a_secret_that_is_wrong() {
    let place = Place::new();
    refused(&place, &["run", "--secret", "1A=@input/data.txt", "--", "true"], 125, &["1A"]);
    refused(&place, &["run", "--secret", "A-B=x", "--", "true"], 125, &["A-B"]);
    refused(&place, &["run", "--secret", "KEY=@absent", "--", "true"], 125, &["absent", "KEY"]);
    refused(&place, &["run", "--secret", "NOT_SET_HERE", "--", "true"], 125, &["NOT_SET_HERE"]);
    refused(&place, &["run", "--secret-env", "KEY", "--", "true"], 125, &["KEY"]);
    // A name with `=` can only be said through a manifest: on the command line the first `=` ends the name.
    fs::write(place.path("m.yaml"), "secrets: { \"A=B\": { file: /dev/null } }\n").unwrap();
    refused(&place, &["run", "-f", "m.yaml", "--", "true"], 125, &["A=B"]);
}

#[test]
fn a_command_that_does_not_exist_or_is_missing() {
    let place = Place::new();
    refused(&place, &["run", "--", "no-such-thing"], 127, &["no-such-thing"]);
    refused(&place, &["run", "--", "/usr/lib"], 126, &["/usr/lib"]);
    let output = place.output(["run"]);
    assert!(!output.status.success());
    place.assert_clean();
}

#[test]
fn a_daemon_that_is_not_there() {
    let place = Place::new();
    let socket = place.path("nobody.sock");
    let output =
        place.belljar(["run", "--", "true"]).env("BELLJAR_SOCKET", &socket).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(stderr(&output).contains("nobody.sock"), "{}", text(&output));
    let output =
        place.belljar(["workspace", "ls"]).env("BELLJAR_SOCKET", &socket).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(stderr(&output).contains("nobody.sock"), "{}", text(&output));
    refused(&place, &["secret", "set", "-w", "x", "K=@input/data.txt"], 3, &["daemon"]);
    refused(&place, &["daemon", "status"], 3, &["daemon"]);
}

#[test]
fn a_socket_that_is_somebody_elses() {
    assert!(nix::unistd::geteuid().is_root(), "only root can make another user's socket");
    let place = Place::new();
    let socket = place.path("foreign.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::os::unix::fs::chown(&socket, Some(support::ORDINARY), None).unwrap();
    let output =
        place.belljar(["workspace", "ls"]).env("BELLJAR_SOCKET", &socket).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(stderr(&output).contains(&support::ORDINARY.to_string()), "{}", text(&output));
}

#[test]
fn an_object_that_does_not_exist() {
    let mut place = Place::new();
    place.start_daemon();
    for arguments in [
        vec!["workspace", "show", "none"],
        vec!["workspace", "rm", "none"],
        vec!["secret", "ls", "-w", "none"],
        vec!["artifact", "show", "01890a5d-ac96-774b-bcce-b302099a8057"],
        vec!["artifact", "cat", "01890a5d-ac96-774b-bcce-b302099a8057@3"],
    ] {
        let output = place.output(&arguments);
        assert_eq!(output.status.code(), Some(4), "{arguments:?}: {}", text(&output));
    }
    let output = place.output(["artifact", "show", "not an id"]);
    assert_ne!(output.status.code(), Some(0), "{}", text(&output));
    assert!(place.stop_daemon(Signal::SIGTERM).success());
}

#[test]
fn a_definition_that_differs_from_the_workspace_in_use() {
    let mut place = Place::new();
    place.start_daemon();
    let mut child = place
        .run_command(&["-w", "busy"], "echo up; sleep 30")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(child.stdout.take().unwrap()),
        &mut line,
    )
    .unwrap();
    let other = place.output(["run", "-w", "busy", "--ro", "other=output", "--", "true"]);
    assert_eq!(other.status.code(), Some(125), "{}", text(&other));
    assert!(stderr(&other).contains("busy"), "{}", text(&other));
    let removed = place.output(["workspace", "rm", "busy"]);
    assert_eq!(removed.status.code(), Some(1), "{}", text(&removed));
    child.kill().unwrap();
    child.wait().unwrap();
    support::eventually("the workspace can be replaced", || {
        place.output(["run", "-w", "busy", "--ro", "other=output", "--", "true"]).status.success()
    });
    assert!(place.stop_daemon(Signal::SIGTERM).success());
}

#[test]
fn a_full_disk_under_the_state_directory_is_said_and_nothing_is_lost() {
    assert!(nix::unistd::geteuid().is_root(), "only root can mount a small disk");
    let place = Place::new();
    let state = place.path("state");
    let mount = |flags, size: &str| {
        let options = format!("size={size},mode=700");
        nix::mount::mount(Some("none"), &state, Some("tmpfs"), flags, Some(options.as_str()))
            .unwrap();
    };
    mount(nix::mount::MsFlags::empty(), "2m");
    let output = place.run(
        &["--receipt", "r.json", "--drain-timeout", "2s"],
        "head -c 5000000 /dev/zero > output/big.bin; echo written",
    );
    assert_eq!(stdout(&output), "written\n", "{}", text(&output));
    let receipt: serde_json::Value =
        serde_json::from_slice(&fs::read(place.path("r.json")).unwrap()).unwrap();
    assert_eq!(receipt["complete"], false, "{receipt}");
    assert!(receipt["incomplete"].to_string().contains("big.bin"), "{receipt}");
    assert!(stderr(&output).contains("big.bin"), "{}", text(&output));
    assert!(stderr(&output).contains("No space left"), "{}", text(&output));

    mount(nix::mount::MsFlags::MS_REMOUNT, "64m");
    assert!(place.run(&[], "true").status.success());
    let artifacts = place.artifacts(&[]);
    assert_eq!(artifacts.len(), 1, "{artifacts:?}");
    assert_eq!(artifacts[0]["size"], 5_000_000);
    assert_eq!(artifacts[0]["state"], "READY");
    nix::mount::umount(&state).unwrap();
}
