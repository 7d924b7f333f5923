//! Several users and one daemon of root's: nobody gets through the daemon what it could not get itself.
#![allow(clippy::unwrap_used)]

mod support;

use nix::sys::signal::Signal;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use support::{ORDINARY, Place, eventually, stderr, stdout, text};

/// Root's daemon, and a directory `home` of an ordinary user who may use it.
struct Shared {
    place: Place,
}

impl Shared {
    fn new() -> Self {
        Self { place: Place::shared() }
    }

    fn as_user(&self, uid: u32, arguments: &[&str]) -> Output {
        self.place.as_user(uid).args(arguments).output().unwrap()
    }

    fn run(&self, script: &str) -> Output {
        self.as_user(
            ORDINARY,
            &["run", "--rw", "o=.", "--", "sh", "-c", &format!("cd o; {script}")],
        )
    }

    /// A file of root's in the user's directory.
    fn roots_file(&self, name: &str, mode: u32) -> PathBuf {
        let path = self.place.path("home").join(name);
        fs::write(&path, "TOPSECRET\n").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    /// Nothing that the user can get out of the catalog holds root's words.
    fn assert_nothing_leaked(&self) {
        let list = self.as_user(ORDINARY, &["artifact", "ls", "--json"]);
        let list: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
        let list = list.get("artifacts").unwrap_or(&list).clone();
        for artifact in list.as_array().unwrap() {
            let content =
                self.as_user(ORDINARY, &["artifact", "cat", artifact["id"].as_str().unwrap()]);
            assert!(!stdout(&content).contains("TOPSECRET"), "{artifact}");
        }
    }

    fn end(mut self) {
        assert!(self.place.stop_daemon(Signal::SIGTERM).success());
        self.place.assert_clean();
    }
}

#[test]
fn a_file_that_its_user_may_not_read_does_not_become_readable_as_an_artifact() {
    let shared = Shared::new();
    shared.roots_file("closed", 0o600);
    shared.roots_file("write-only", 0o602);
    let output = shared.run(
        "cat closed; mv closed stolen; ln stolen linked; echo mine >> write-only; echo own > own",
    );
    assert!(stderr(&output).contains("Permission denied"), "{}", text(&output));
    assert!(!stdout(&output).contains("TOPSECRET"), "{}", text(&output));
    shared.assert_nothing_leaked();
    let list = shared.as_user(ORDINARY, &["artifact", "ls"]);
    assert!(stdout(&list).contains("/workspace/o/own"), "{}", text(&list));
    shared.end();
}

#[test]
fn the_hosts_access_control_lists_hold() {
    let shared = Shared::new();
    let acl = |path: &PathBuf, entry: &str| {
        let status = Command::new("setfacl").arg("-m").arg(entry).arg(path).status();
        let status = status.expect("setfacl, of Debian's package acl, is needed");
        assert!(status.success());
    };
    let readable = shared.roots_file("denied", 0o644);
    acl(&readable, &format!("u:{ORDINARY}:---"));
    let writable = shared.roots_file("denied-too", 0o666);
    acl(&writable, &format!("u:{ORDINARY}:---"));
    let granted = shared.roots_file("granted", 0o600);
    acl(&granted, &format!("u:{ORDINARY}:r--"));
    let directory = shared.place.path("home/closed");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("inside"), "TOPSECRET\n").unwrap();
    acl(&directory, &format!("u:{ORDINARY}:---"));
    let output = shared.run("cat denied closed/inside; echo x >> denied-too; ls closed; cat granted > /dev/null && echo granted");
    assert_eq!(stdout(&output), "granted\n", "{}", text(&output));
    assert_eq!(stderr(&output).matches("Permission denied").count(), 4, "{}", text(&output));
    assert_eq!(fs::read_to_string(writable).unwrap(), "TOPSECRET\n");
    shared.end();
}

#[test]
fn a_name_that_changes_hands_while_it_is_created_opens_nothing_of_others() {
    let shared = Shared::new();
    let victim = shared.roots_file("a", 0o600);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (here, there) = (victim.clone(), shared.place.path("home/b"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = fs::rename(&here, &there);
                let _ = fs::rename(&there, &here);
                // The user may remove what is in its own directory; then there is a new one.
                if !here.exists() && !there.exists() {
                    shared.roots_file("a", 0o600);
                }
            }
        });
        let script = r#"timeout 4 /usr/bin/python3 -c "
import os
while True:
    try:
        f = os.open('b', os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:
        continue
    if os.read(f, 100): print('WON'); os.pwrite(f, b'PWNED', 0)
    os.close(f)
    try: os.unlink('b') if os.stat('b').st_uid else None
    except OSError: pass
""#;
        let output = shared.run(script);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(stdout(&output), "", "{}", text(&output));
    });
    for content in [here, there].into_iter().filter_map(|path| fs::read_to_string(path).ok()) {
        assert!(
            content.is_empty() || content == "TOPSECRET\n",
            "root's file was written: {content}"
        );
    }
    shared.assert_nothing_leaked();
    shared.end();
}

#[test]
fn users_see_nothing_of_each_other() {
    let shared = Shared::new();
    let made = shared.as_user(ORDINARY, &["workspace", "create", "mine", "--rw", "o=."]);
    assert!(made.status.success(), "{}", text(&made));
    assert!(shared.run("echo x > f").status.success());
    let other = ORDINARY + 1;
    for arguments in [vec!["workspace", "ls", "--json"], vec!["artifact", "ls", "--json"]] {
        let seen = shared.as_user(other, &arguments);
        assert!(
            !stdout(&seen).contains("mine") && !stdout(&seen).contains("/f"),
            "{}",
            text(&seen)
        );
    }
    assert_eq!(shared.as_user(other, &["workspace", "show", "mine"]).status.code(), Some(4));
    assert_eq!(shared.as_user(other, &["secret", "ls", "-w", "mine"]).status.code(), Some(4));
    let root = shared.place.path(&format!("runtime/workspaces/{ORDINARY}"));
    let listed = Command::new("setpriv")
        .args([&format!("--reuid={other}"), "--clear-groups", "--", "ls"])
        .arg(&root)
        .output()
        .unwrap();
    assert!(stderr(&listed).contains("Permission denied"), "{}", text(&listed));
    let gone = shared.as_user(ORDINARY, &["workspace", "rm", "mine"]);
    assert!(gone.status.success(), "{}", text(&gone));
    shared.end();
}

#[test]
fn one_users_slow_end_does_not_hold_up_another() {
    let shared = Shared::new();
    let made = shared.as_user(ORDINARY, &["workspace", "create", "slow", "--rw", "o=."]);
    assert!(made.status.success(), "{}", text(&made));
    let huge = shared.place.path(&format!("runtime/workspaces/{ORDINARY}/slow/o/huge"));
    let written = Command::new("setpriv")
        .args([&format!("--reuid={ORDINARY}"), &format!("--regid={ORDINARY}"), "--clear-groups"])
        .args(["--", "truncate", "-s", "2T"])
        .arg(&huge)
        .status()
        .unwrap();
    assert!(written.success());
    std::thread::scope(|scope| {
        let removal = scope.spawn(|| shared.as_user(ORDINARY, &["workspace", "rm", "slow"]));
        eventually("the removal has begun", || !removal.is_finished());
        let before = std::time::Instant::now();
        let output = shared.place.run(&[], "true");
        assert!(output.status.success(), "{}", text(&output));
        // Large enough to wait behind other large files.
        let large = shared
            .place
            .run(&["--receipt", "large.json"], "head -c 100000000 /dev/zero > output/large");
        assert!(large.status.success(), "{}", text(&large));
        let receipt = fs::read(shared.place.path("large.json")).unwrap();
        let receipt: serde_json::Value = serde_json::from_slice(&receipt).unwrap();
        assert_eq!(receipt["complete"], true, "{receipt}");
        // The removal waits for the huge file's copy; nobody else may.
        assert!(!removal.is_finished(), "nothing was held up in {:?}", before.elapsed());
        // Through the mount, so that it is heard of: then the copy is not wanted any more.
        fs::remove_file(&huge).unwrap();
        let gone = removal.join().unwrap();
        assert!(gone.status.success(), "{}", text(&gone));
    });
    shared.end();
}

#[test]
fn a_pipe_of_somebody_elses_stays_theirs_when_a_user_passes_it() {
    let shared = Shared::new();
    // The pipes are made here, as root. Its owner could open one again, for the other direction too.
    let output = shared.run("stat -L -c 'owner %u' /proc/self/fd/1; cat < /proc/self/fd/1");
    assert!(stdout(&output).contains("owner 0"), "{}", text(&output));
    assert!(stderr(&output).contains("Permission denied"), "{}", text(&output));
    shared.end();
}
