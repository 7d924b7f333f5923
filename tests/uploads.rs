//! Contents reach a remote store by themselves, through the real programs: a directory stands for it, as a network mount would.
//!
//! Needs root and `/dev/fuse`, as tests/run.rs.
#![allow(clippy::unwrap_used)]

mod support;

use nix::mount::{MsFlags, mount, umount};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant, SystemTime};
use support::{Place, eventually, stderr, stdout, text};

/// A place with a configuration that names the directory `remote` in it, which does not exist yet.
fn place_with(storage: &str, artifacts: &str) -> Place {
    let place = Place::new();
    let remote = place.path("remote");
    let config = format!(
        "storage:\n  remote: {{ kind: directory, path: {} }}\n{storage}\nartifacts: {{ {artifacts} }}\n",
        remote.display()
    );
    fs::write(place.path("belljard.yaml"), config).unwrap();
    place
}

/// The same with its daemon, and the directory there.
fn serving_with(storage: &str, artifacts: &str) -> Place {
    let mut place = place_with(storage, artifacts);
    fs::create_dir(place.path("remote")).unwrap();
    serve(&mut place);
    place
}

fn serving() -> Place {
    serving_with("", "")
}

fn serve(place: &mut Place) {
    let config = place.path("belljard.yaml");
    place.start_daemon_with(&["--config", config.to_str().unwrap()]);
}

/// `belljar` without a daemon, with the place's configuration.
fn alone(place: &Place, arguments: &[&str]) -> Output {
    let config = place.path("belljard.yaml");
    place.output([&["--config", config.to_str().unwrap()], arguments].concat())
}

fn run(place: &Place, options: &[&str], script: &str) {
    let output = place.run(options, script);
    assert!(output.status.success(), "{}", text(&output));
}

/// Digests in hexadecimal that a content-addressed directory has, sorted.
fn digests(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for directory in fs::read_dir(root).unwrap().map(Result::unwrap) {
        let prefix = directory.file_name().into_string().unwrap();
        if prefix.len() == 2 {
            let below = fs::read_dir(directory.path()).unwrap().map(Result::unwrap);
            found.extend(below.map(|e| format!("{prefix}{}", e.file_name().to_str().unwrap())));
        }
    }
    found.sort();
    found
}

fn digest(content: &str) -> String {
    blake3::hash(content.as_bytes()).to_hex().to_string()
}

fn sorted_digests(contents: &[&str]) -> Vec<String> {
    let mut digests: Vec<String> = contents.iter().map(|content| digest(content)).collect();
    digests.sort();
    digests
}

fn status(place: &Place) -> Value {
    place.json(["storage", "status"])
}

/// How many contents of the daemon's own node are in that state.
fn queued(place: &Place, state: &str) -> u64 {
    let status = status(place);
    let own = status["queues"].as_array().unwrap().iter().find(|queue| queue["own"] == true);
    own.unwrap_or_else(|| panic!("{status}"))[state]["contents"].as_u64().unwrap()
}

fn sync(place: &Place) {
    let output = place.output(["artifact", "sync", "--wait-upload"]);
    assert!(output.status.success(), "{}", text(&output));
}

fn verify(place: &Place, options: &[&str]) -> Value {
    let arguments = [&["artifact", "verify", "--json"], options].concat();
    let output = place.output(arguments);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output)))
}

fn assert_verified(place: &Place) {
    let report = verify(place, &[]);
    assert_eq!(report["findings"], json!([]), "{report}");
}

fn id_of(place: &Place, name: &str) -> String {
    let found = place.artifacts(&["--path", name, "--state", "READY,ARCHIVED,DELETED"]);
    found[0]["id"].as_str().unwrap_or_else(|| panic!("no {name}: {found:?}")).to_owned()
}

/// Where a store keeps a content.
fn at(root: &Path, content: &str) -> PathBuf {
    let digest = digest(content);
    root.join(&digest[..2]).join(&digest[2..])
}

fn age(path: &Path, time: Duration) {
    fs::File::open(path).unwrap().set_modified(SystemTime::now() - time).unwrap();
}

/// Ends the daemon, which leaves nothing behind.
fn end(place: &mut Place) {
    place.stop_daemon(Signal::SIGTERM);
    place.assert_clean();
}

const DAY: Duration = Duration::from_secs(24 * 3_600);

#[test]
fn every_content_is_uploaded_once_and_the_receipt_can_wait_for_it() {
    let mut place = serving();
    run(&place, &[], "echo one > output/a; echo two > output/b; echo one > output/c");
    eventually("all is uploaded", || {
        digests(&place.path("remote")) == sorted_digests(&["one\n", "two\n"])
    });
    let receipt = place.path("receipt.json");
    let options = ["--wait-upload", "--receipt", receipt.to_str().unwrap()];
    run(&place, &options, "echo three > output/d; echo two > output/e");
    let receipt: Value = serde_json::from_slice(&fs::read(receipt).unwrap()).unwrap();
    assert_eq!(receipt["uploaded"], true, "{receipt}");
    let of_each = receipt["artifacts"].as_array().unwrap().iter().map(|a| a["uploaded"].clone());
    assert_eq!(of_each.collect::<Vec<_>>(), [true, true]);
    assert_eq!(digests(&place.path("remote")), sorted_digests(&["one\n", "two\n", "three\n"]));
    let status = status(&place);
    assert_eq!(status["remote"]["reachable"], true, "{status}");
    assert_eq!(
        (&status["stores"][0]["contents"], &status["stores"][0]["bytes"]),
        (&json!(3), &json!(14))
    );
    let shown = stdout(&place.output(["storage", "status"]));
    assert!(shown.contains("reachable") && shown.contains("3 contents"), "{shown}");
    assert_verified(&place);
    end(&mut place);
}

#[test]
fn a_store_that_is_away_holds_up_nobody_and_gets_everything_when_it_is_back() {
    let mut place = place_with("", "");
    serve(&mut place);
    let began = Instant::now();
    run(&place, &[], "for n in 1 2 3 4 5; do echo $n > output/$n; done");
    assert!(began.elapsed() < Duration::from_secs(20), "a run waited for a store that is away");
    eventually("it is noticed", || queued(&place, "failed") > 0);
    let state = status(&place);
    assert_eq!(state["remote"]["reachable"], false, "{state}");
    let error = state["queues"][0]["last_error"].as_str().unwrap();
    assert!(error.contains("mount it, or make it"), "{error}");
    let waits = ["failed", "waiting", "uploading"].map(|state| queued(&place, state));
    assert_eq!(waits.iter().sum::<u64>(), 5, "{waits:?}");
    assert!(state["queues"][0]["oldest_at"].is_string());

    // Whoever wants to wait is told that it did not happen, and the run's own result stands.
    let receipt = place.path("receipt.json");
    let options =
        ["--wait-upload", "--drain-timeout", "1s", "--receipt", receipt.to_str().unwrap()];
    let output = place.run(&options, "echo 6 > output/6; exit 7");
    assert_eq!(output.status.code(), Some(7), "{}", text(&output));
    assert!(stderr(&output).contains("storage status"), "{}", text(&output));
    let receipt: Value = serde_json::from_slice(&fs::read(receipt).unwrap()).unwrap();
    assert_eq!((&receipt["uploaded"], &receipt["complete"]), (&json!(false), &json!(true)));
    let output = place.output(["artifact", "sync", "--wait-upload", "--timeout", "100ms"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));

    // A daemon that starts over begins at once.
    place.stop_daemon(Signal::SIGKILL);
    fs::create_dir(place.path("remote")).unwrap();
    serve(&mut place);
    sync(&place);
    assert_eq!(
        digests(&place.path("remote")),
        sorted_digests(&["1\n", "2\n", "3\n", "4\n", "5\n", "6\n"])
    );

    // And one that lives finds out by itself.
    fs::rename(place.path("remote"), place.path("elsewhere")).unwrap();
    run(&place, &[], "echo 7 > output/7");
    eventually("it is noticed", || queued(&place, "failed") == 1);
    fs::rename(place.path("elsewhere"), place.path("remote")).unwrap();
    eventually("it heals", || at(&place.path("remote"), "7\n").exists());
    assert_verified(&place);
    end(&mut place);
}

/// A small file system of its own, unmounted when dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: PathBuf, options: &str) -> Self {
        fs::create_dir(&at).unwrap();
        mount(Some("tmpfs"), &at, Some("tmpfs"), MsFlags::empty(), Some(options)).unwrap();
        Self(at)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = umount(&self.0);
    }
}

#[test]
fn a_full_store_loses_nothing_and_never_has_half_a_content() {
    let mut place = place_with("", "");
    let tmpfs = Tmpfs::mount(place.path("remote"), "size=1m,mode=700");
    serve(&mut place);
    run(&place, &[], "head -c 700000 /dev/zero > output/a; echo small > output/b");
    sync(&place);
    run(&place, &[], "head -c 900000 /dev/zero | tr '\\0' x > output/c");
    eventually("it is full", || queued(&place, "failed") == 1);
    let error = status(&place)["queues"][0]["last_error"].as_str().unwrap().to_owned();
    assert!(error.contains("No space") && error.contains("make room"), "{error}");
    assert_eq!(digests(&place.path("remote")).len(), 2);
    let output = place.output(["artifact", "cat", &id_of(&place, "c")]);
    assert_eq!(output.stdout.len(), 900_000);
    mount(None::<&str>, &tmpfs.0, None::<&str>, MsFlags::MS_REMOUNT, Some("size=8m")).unwrap();
    eventually("there is room", || queued(&place, "failed") == 0);
    sync(&place);
    assert_eq!(digests(&place.path("remote")).len(), 3);
    assert_verified(&place);
    place.stop_daemon(Signal::SIGTERM);
    drop(tmpfs);
    place.assert_clean();
}

#[test]
fn a_command_without_a_daemon_leaves_its_uploads_to_the_next() {
    let place = place_with("", "");
    let run = ["run", "--rw", "output=output", "--", "sh", "-c", "echo x > output/x"];
    let began = Instant::now();
    let output = alone(&place, &run);
    assert!(output.status.success(), "{}", text(&output));
    assert!(began.elapsed() < Duration::from_secs(20));
    fs::create_dir(place.path("remote")).unwrap();
    let output = alone(&place, &["artifact", "sync", "--wait-upload"]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(digests(&place.path("remote")), sorted_digests(&["x\n"]));
    place.assert_clean();
}

#[test]
fn waiting_for_uploads_needs_a_remote_store() {
    let place = Place::new();
    let output = place.run(&["--wait-upload"], "echo x > output/x");
    assert_eq!(output.status.code(), Some(125), "{}", text(&output));
    assert!(stderr(&output).contains("storage.remote"), "{}", text(&output));
    assert!(!place.path("output/x").exists(), "it is refused before the command runs");
    for arguments in [&["artifact", "sync", "--wait-upload"][..], &["storage", "gc"]] {
        let output = place.output(arguments);
        assert!(!output.status.success(), "{}", text(&output));
        assert!(stderr(&output).contains("storage.remote"), "{}", text(&output));
    }
    let shown = stdout(&place.output(["storage", "status"]));
    assert!(shown.contains("no remote store"), "{shown}");
    place.assert_clean();
}

#[test]
fn what_was_registered_before_there_was_a_store_is_uploaded_too() {
    let place = place_with("", "");
    let output = place.run(&[], "echo old > output/old; echo gone > output/gone");
    assert!(output.status.success(), "{}", text(&output));
    let mut place = place;
    fs::create_dir(place.path("remote")).unwrap();
    serve(&mut place);
    eventually("the old ones are there", || {
        digests(&place.path("remote")) == sorted_digests(&["gone\n", "old\n"])
    });
    end(&mut place);
}

#[test]
fn a_content_with_a_secret_under_quarantine_stays_here() {
    let mut place = serving_with("", "secrets: quarantine");
    fs::write(place.path("token"), "correct horse battery staple").unwrap();
    let secret = format!("TOKEN=@{}", place.path("token").display());
    let script = "cat .belljar/secrets/TOKEN > output/leak; echo fine > output/fine";
    run(&place, &["--secret", &secret, "--wait-upload"], script);
    assert_eq!(digests(&place.path("remote")), sorted_digests(&["fine\n"]));
    assert_eq!(queued(&place, "quarantined"), 1);
    sync(&place);
    assert_eq!(digests(&place.path("remote")), sorted_digests(&["fine\n"]));
    end(&mut place);
}

#[test]
fn local_copies_go_when_they_are_old_and_come_back_when_they_are_read() {
    let mut place = serving_with("  keep_local: 1s", "undo_window: 1s");
    run(&place, &["-w", "w"], "echo old > output/old; echo young > output/young");
    sync(&place);
    let (blobs, remote) = (place.path("state/blobs"), place.path("remote"));
    assert!(at(&blobs, "old\n").exists());
    age(&at(&blobs, "old\n"), 2 * DAY);
    eventually("it goes", || !at(&blobs, "old\n").exists());
    assert!(at(&blobs, "young\n").exists() && at(&remote, "old\n").exists());
    assert_verified(&place);

    // As an artifact that is read over the API, and as a file in the workspace.
    let id = id_of(&place, "old");
    let cat = place.output(["artifact", "cat", &id]);
    assert_eq!(stdout(&cat), "old\n", "{}", text(&cat));
    assert!(at(&blobs, "old\n").exists(), "it is kept for the next reader");
    age(&at(&blobs, "old\n"), 2 * DAY);
    eventually("it goes again", || !at(&blobs, "old\n").exists());
    let script = format!("cat .belljar/artifacts/by-id/{id}@latest");
    let output = place.run(&["-w", "w"], &script);
    assert_eq!(stdout(&output), "old\n", "{}", text(&output));

    // While the store is away, what is only there cannot be read, and says so.
    age(&at(&blobs, "old\n"), 2 * DAY);
    eventually("it goes once more", || !at(&blobs, "old\n").exists());
    fs::rename(&remote, place.path("elsewhere")).unwrap();
    let cat = place.output(["artifact", "cat", &id]);
    assert!(!cat.status.success() && stderr(&cat).contains("mount it"), "{}", text(&cat));
    fs::rename(place.path("elsewhere"), &remote).unwrap();

    // Damage is not handed out.
    fs::remove_file(at(&remote, "old\n")).unwrap();
    fs::write(at(&remote, "old\n"), "OLD\n").unwrap();
    let cat = place.output(["artifact", "cat", &id]);
    assert!(!cat.status.success() && stderr(&cat).contains("other bytes"), "{}", text(&cat));
    assert_eq!(stdout(&cat), "");
    assert!(!at(&blobs, "old\n").exists());
    end(&mut place);
}

#[test]
fn the_last_copy_is_not_given_up_because_the_books_say_so() {
    let mut place = serving_with("  keep_local: 1s", "");
    run(&place, &[], "echo x > output/x");
    sync(&place);
    let (blobs, remote) = (place.path("state/blobs"), place.path("remote"));
    fs::remove_file(at(&remote, "x\n")).unwrap();
    age(&at(&blobs, "x\n"), 2 * DAY);
    eventually("it is sent again", || at(&remote, "x\n").exists());
    end(&mut place);
}

#[test]
fn what_is_swept_goes_from_the_store_and_what_others_name_stays() {
    let mut place = serving_with("", "undo_window: 1s");
    run(&place, &[], "echo twice > output/a; echo twice > output/b; echo once > output/c");
    sync(&place);
    let remote = place.path("remote");
    // What is young stays here and there, for a batch may be about to name it.
    for content in ["twice\n", "once\n"] {
        age(&at(&place.path("state/blobs"), content), DAY);
    }
    for name in ["a", "c"] {
        let output = place.output(["artifact", "rm", &id_of(&place, name)]);
        assert!(output.status.success(), "{}", text(&output));
    }
    eventually("nobody names it", || !at(&remote, "once\n").exists());
    assert!(at(&remote, "twice\n").exists());
    // The same bytes come again.
    run(&place, &["--wait-upload"], "echo once > output/d");
    assert!(at(&remote, "once\n").exists());
    assert_verified(&place);
    end(&mut place);
}

#[test]
fn garbage_is_shown_and_removed_only_when_that_is_asked_for() {
    let mut place = serving();
    run(&place, &["--wait-upload"], "echo wanted > output/wanted");
    let remote = place.path("remote");
    let plant = |content: &str| {
        let path = at(&remote, content);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    };
    let (old, young) = (plant("old garbage"), plant("young garbage"));
    for path in [&old, &at(&remote, "wanted\n")] {
        age(path, 2 * DAY);
    }
    let shown = place.json(["storage", "gc"]);
    assert_eq!(shown["garbage"], json!({ "contents": 1, "bytes": 11 }), "{shown}");
    assert_eq!(shown["found"][0]["digest"], format!("blake3:{}", digest("old garbage")));
    assert_eq!(
        (&shown["contents"], &shown["young"], &shown["removed"]),
        (&json!(3), &json!(1), &json!(0))
    );
    assert!(old.exists());
    let output = place.output(["storage", "gc", "--older-than", "1m"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    let done = place.json(["storage", "gc", "--apply"]);
    assert_eq!(done["removed"], 1, "{done}");
    assert!(!old.exists() && young.exists() && at(&remote, "wanted\n").exists());
    assert_verified(&place);
    end(&mut place);
}

#[test]
fn verification_finds_what_the_store_has_lost_and_sends_it_again() {
    let mut place = serving();
    run(&place, &["--wait-upload"], "echo a > output/a; echo b > output/b; echo c > output/c");
    let (blobs, remote) = (place.path("state/blobs"), place.path("remote"));
    fs::remove_file(at(&remote, "a\n")).unwrap();
    // Half of it is there.
    fs::remove_file(at(&remote, "b\n")).unwrap();
    fs::write(at(&remote, "b\n"), "b").unwrap();
    // Here it is gone, and there it is whole.
    fs::remove_file(at(&blobs, "c\n")).unwrap();
    let report = verify(&place, &[]);
    let kinds: Vec<_> =
        report["findings"].as_array().unwrap().iter().map(|f| f["kind"].clone()).collect();
    assert_eq!(kinds, ["remote", "remote"], "{report}");
    let report = verify(&place, &["--repair"]);
    assert!(report["findings"].as_array().unwrap().iter().all(|f| f["mended"] == true), "{report}");
    sync(&place);
    assert_eq!(fs::read_to_string(at(&remote, "b\n")).unwrap(), "b\n");
    assert!(at(&remote, "a\n").exists());
    assert_verified(&place);

    // A copy that is damaged here is fetched from there.
    fs::remove_file(at(&blobs, "a\n")).unwrap();
    fs::write(at(&blobs, "a\n"), "A\n").unwrap();
    let report = verify(&place, &["--repair"]);
    let repaired = report["findings"][0]["repaired"].as_str().unwrap();
    assert!(repaired.contains("it was fetched from directory:"), "{report}");
    assert_eq!(fs::read_to_string(at(&blobs, "a\n")).unwrap(), "a\n");

    // What is nowhere is lost, and says so.
    for root in [&blobs, &remote] {
        fs::remove_file(at(root, "c\n")).ok();
    }
    fs::remove_file(place.path("output/c")).unwrap();
    let report = verify(&place, &["--repair"]);
    let repaired = report["findings"][0]["repaired"].as_str().unwrap();
    assert!(repaired.contains("content is lost"), "{report}");
    assert_verified(&place);
    end(&mut place);
}

#[test]
fn a_store_of_another_catalog_is_neither_written_nor_cleaned() {
    let mut place = serving();
    run(&place, &["--wait-upload"], "echo mine > output/mine");
    let remote = place.path("remote");
    let before = digests(&remote);
    let mut other = Place::new();
    let config = format!("storage:\n  remote: {{ kind: directory, path: {} }}\n", remote.display());
    fs::write(other.path("belljard.yaml"), config).unwrap();
    serve(&mut other);
    run(&other, &[], "echo theirs > output/theirs");
    eventually("the upload is refused", || queued(&other, "failed") == 1);
    let shown = status(&other);
    assert_eq!(shown["remote"]["reachable"], false, "{shown}");
    let error = shown["remote"]["error"].as_str().unwrap();
    assert!(error.contains("those of another catalog"), "{error}");
    age(&at(&remote, "mine\n"), Duration::from_secs(100 * 3_600));
    let gc = other.output(["storage", "gc", "--apply"]);
    assert!(!gc.status.success() && text(&gc).contains("another catalog"), "{}", text(&gc));
    assert_eq!(digests(&remote), before);
    // Whoever knows that the other is gone for good can take it over.
    fs::remove_file(remote.join("belljar-catalog")).unwrap();
    sync(&other);
    assert_eq!(digests(&remote).len(), before.len() + 1);
    // The first sees it before it removes anything.
    let gc = place.output(["storage", "gc", "--apply"]);
    assert!(!gc.status.success() && text(&gc).contains("another catalog"), "{}", text(&gc));
    end(&mut other);
    assert!(place.stop_daemon(Signal::SIGTERM).success());
}
