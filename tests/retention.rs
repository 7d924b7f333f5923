//! Clean-up and verification through the real programs: plans, policies, and a store that was meddled with.
//!
//! Needs root and `/dev/fuse`, as tests/run.rs.
#![allow(clippy::unwrap_used)]

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};
use support::{Place, eventually, finish, stderr, stdout, text};

/// `belljar artifact …`, done to its end.
fn act(place: &Place, arguments: &[&str]) -> Output {
    place.output([&["artifact"], arguments].concat())
}

/// `belljar artifact …` must succeed; what it prints.
fn artifact(place: &Place, arguments: &[&str]) -> String {
    let output = act(place, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    stdout(&output)
}

fn cleanup(place: &Place, arguments: &[&str]) -> Value {
    place.json([&["artifact", "cleanup"], arguments].concat())
}

/// The last names of a plan's items with what happens to them, sorted.
fn items(plan: &Value) -> Vec<String> {
    let shown = |item: &Value| {
        let path = item["path"].as_str().unwrap();
        let name = path.rsplit('/').next().unwrap();
        format!("{name}@{} {}", item["version"], item["action"].as_str().unwrap())
    };
    let mut items: Vec<String> = plan["items"].as_array().unwrap().iter().map(shown).collect();
    items.sort();
    items
}

/// Last names of what is there, in these states.
fn names(place: &Place, states: &str) -> Vec<String> {
    let artifacts = place.artifacts(&["--state", states, "--order", "path"]);
    let name = |a: &Value| a["path"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    artifacts.iter().map(name).collect()
}

fn run(place: &Place, script: &str) {
    let output = place.run(&[], script);
    assert!(output.status.success(), "{}", text(&output));
}

/// Files written one after the other, so that their order is known.
fn one_after_the_other(place: &Place, files: &[&str]) {
    for name in files {
        run(place, &format!("echo {name} > output/{name}"));
    }
}

fn id_of(place: &Place, name: &str) -> String {
    let found = place.artifacts(&["--path", name, "--state", "READY,ARCHIVED,DELETED"]);
    found[0]["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_plan_says_what_would_go_and_only_applying_it_does_that() {
    let place = Place::new();
    one_after_the_other(&place, &["a", "b", "c", "d"]);
    artifact(&place, &["pin", &id_of(&place, "b")]);
    // The pinned one counts and stays, so that the others make room.
    let plan = cleanup(&place, &["--max-artifacts", "2"]);
    assert_eq!(items(&plan), ["a@1 delete", "c@1 delete"], "{plan}");
    assert_eq!((&plan["state"], &plan["totals"]["bytes"]), (&json!("PLANNED"), &json!(4)));
    assert_eq!(plan["items"][0]["reason"], "more than 2");
    assert_eq!(names(&place, "READY"), ["a", "b", "c", "d"]);
    let id = plan["id"].as_str().unwrap();

    let said = act(&place, &["cleanup", "--max-artifacts", "2"]);
    assert!(stdout(&said).contains("more than 2") && stderr(&said).contains("nothing was done"));
    assert_eq!(names(&place, "READY"), ["a", "b", "c", "d"]);

    let done = cleanup(&place, &["--apply", id]);
    assert_eq!((&done["state"], &done["totals"]["done"]), (&json!("APPLIED"), &json!(2)));
    assert_eq!(names(&place, "READY"), ["b", "d"]);
    let events = place.json(["artifact", "events", &id_of(&place, "a")]);
    let last = events["events"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last["detail"]["plan"], json!(id), "{last}");

    // Within the undo window it comes back, and applying the plan once more does nothing.
    artifact(&place, &["restore", &id_of(&place, "a")]);
    cleanup(&place, &["--apply", id]);
    assert_eq!(names(&place, "READY"), ["a", "b", "d"]);
    let list = cleanup(&place, &["--plans"]);
    assert_eq!(list["plans"].as_array().unwrap().len(), 2, "{list}");
    place.assert_clean();
}

#[test]
fn every_criterion_takes_what_it_says() {
    let place = Place::new();
    one_after_the_other(&place, &["a.log", "b.csv"]);
    run(&place, "echo two > output/a.log");
    run(&place, "echo three > output/a.log");
    let taken = |arguments: &[&str]| items(&cleanup(&place, arguments));
    assert_eq!(taken(&["--keep-versions", "1"]), ["a.log@1 delete", "a.log@2 delete"]);
    assert_eq!(taken(&["--type", "data"]), ["b.csv@1 delete"]);
    assert_eq!(taken(&["--older-than", "1h"]), [""; 0]);
    assert_eq!(taken(&["--older-than", "0s", "--where", "size > 1000"]), [""; 0]);
    let all = ["a.log@1 delete", "a.log@2 delete", "a.log@3 delete", "b.csv@1 delete"];
    assert_eq!(taken(&["--older-than", "0s"]), all);
    assert_eq!(taken(&["--max-size", "0"]), all);
    // Six bytes each, four and six: the oldest artifact is the one whose newest version is the oldest.
    assert_eq!(taken(&["--max-size", "16"]), ["b.csv@1 delete"]);
    assert_eq!(
        taken(&["--all-versions", "--max-artifacts", "2"]),
        ["a.log@1 delete", "b.csv@1 delete"]
    );
    artifact(&place, &["update", &format!("{}@2", id_of(&place, "a.log")), "--label", "old"]);
    assert_eq!(taken(&["--label", "old"]), ["a.log@2 delete"]);
    assert_eq!(taken(&["--user", "12345", "--older-than", "0s"]), [""; 0], "nothing is theirs");

    assert_eq!(taken(&["--type", "data", "--archive-first", "--apply"]), ["b.csv@1 archive"]);
    assert_eq!(names(&place, "ARCHIVED"), ["b.csv"]);
    assert_eq!(taken(&["--type", "data", "--archive-first"]), [""; 0], "not archived for long");
    let soon = ["--type", "data", "--archive-first", "--archived-for", "0s", "--apply"];
    assert_eq!(taken(&soon), ["b.csv@1 delete"]);
    assert_eq!(names(&place, "DELETED"), ["b.csv"]);

    for (arguments, words) in [
        (&[][..], "no criterion"),
        (&["--where", "size >"], "size"),
        (&["--keep-versions", "2", "--all-versions"], "use one of them"),
    ] {
        let output = act(&place, &[&["cleanup"], arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(stderr(&output).contains(words), "{}", text(&output));
    }
    let output = act(&place, &["cleanup", "--apply", "0190a5d0-ac96-774b-8cce-b302099a8057"]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    place.assert_clean();
}

#[test]
fn what_is_held_or_changed_since_the_plan_was_made_stays() {
    let place = Place::new();
    one_after_the_other(&place, &["a", "b", "c", "d"]);
    artifact(&place, &["register", "elsewhere", "--state", "CREATING"]);
    let plan = cleanup(&place, &["--older-than", "0s"]);
    assert_eq!(items(&plan), ["a@1 delete", "b@1 delete", "c@1 delete", "d@1 delete"]);
    run(&place, "echo again > output/a");
    artifact(&place, &["pin", &id_of(&place, "b")]);
    artifact(&place, &["update", &id_of(&place, "c"), "--label", "best"]);
    let done = cleanup(&place, &["--apply", plan["id"].as_str().unwrap()]);
    let why: Vec<&str> = done["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["why"].as_str().unwrap_or("done"))
        .collect();
    assert_eq!(
        why,
        ["version 2 was made", "it was pinned", "its labels, tags or aliases changed", "done"]
    );
    assert_eq!(names(&place, "READY"), ["a", "b", "c"]);
    assert_eq!(names(&place, "CREATING"), ["elsewhere"]);
    place.assert_clean();
}

/// A workspace that stays mounted, and its directory.
fn workspace(place: &mut Place, options: &[&str]) -> PathBuf {
    place.start_daemon_with(options);
    let made = place.output(["workspace", "create", "w", "--rw", "output=output"]);
    assert!(made.status.success(), "{}", text(&made));
    PathBuf::from(place.json(["workspace", "show", "w"])["root"].as_str().unwrap()).join("output")
}

fn write_many(place: &Place, mounted: &Path, count: usize) {
    for number in 0..count {
        fs::write(mounted.join(format!("f{number:04}")), format!("first {number}")).unwrap();
    }
    artifact(place, &["sync"]);
}

#[test]
fn a_plan_that_was_cut_off_is_ended_by_the_next_daemon() {
    const FILES: usize = 1_500;
    let mut place = Place::new();
    let mounted = workspace(&mut place, &[]);
    write_many(&place, &mounted, FILES);
    let plan = cleanup(&place, &["--older-than", "0s"]);
    let id = plan["id"].as_str().unwrap().to_owned();
    assert_eq!(plan["items"].as_array().unwrap().len(), FILES);
    let catalog = rusqlite::Connection::open(place.path("state/catalog.sqlite")).unwrap();
    catalog.busy_timeout(Duration::from_secs(10)).unwrap();
    let applying: Child = place
        .belljar(["artifact", "cleanup", "--apply", &id])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // The daemon is killed as soon as its first batch can be seen.
    let deadline = Instant::now() + support::SOON;
    loop {
        let done: i64 = catalog
            .query_row("SELECT count(*) FROM plan_item WHERE outcome IS NOT NULL", [], |r| r.get(0))
            .unwrap();
        if done > 0 {
            break;
        }
        assert!(Instant::now() < deadline, "nothing was applied");
    }
    place.stop_daemon(Signal::SIGKILL);
    assert!(!finish(applying).status.success(), "its daemon died");
    let state = |place: &Place| cleanup(place, &["--show", &id]);
    let cut = state(&place);
    assert_eq!(cut["state"], "APPLYING", "{}", cut["totals"]);
    let done = cut["totals"]["done"].as_u64().unwrap();
    assert!(0 < done && done < FILES as u64, "{done}");

    place.start_daemon();
    eventually("the plan is applied", || state(&place)["state"] == "APPLIED");
    let whole = state(&place);
    assert_eq!(whole["totals"]["done"], json!(FILES), "{}", whole["totals"]);
    let count = |what: &str| -> i64 {
        catalog.query_row(&format!("SELECT count(*) FROM {what}"), [], |row| row.get(0)).unwrap()
    };
    assert_eq!(count("version WHERE state = 'DELETED'"), FILES as i64);
    assert_eq!(count("event WHERE kind = 'state'"), FILES as i64, "each is done once");
}

#[test]
fn what_is_written_while_a_plan_is_applied_by_two_is_kept() {
    const FILES: usize = 600;
    let mut place = Place::new();
    let mounted = workspace(&mut place, &[]);
    write_many(&place, &mounted, FILES);
    let plan = cleanup(&place, &["--older-than", "0s"]);
    let id = plan["id"].as_str().unwrap();
    let apply = || {
        let mut command = place.belljar(["artifact", "cleanup", "--apply", id, "--json"]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let both = [apply(), apply()];
    for number in (0..FILES).rev() {
        fs::write(mounted.join(format!("f{number:04}")), format!("second {number}")).unwrap();
    }
    for one in both {
        assert!(finish(one).status.success());
    }
    artifact(&place, &["sync"]);
    let totals = cleanup(&place, &["--show", id])["totals"].clone();
    let (done, skipped) = (totals["done"].as_u64().unwrap(), totals["skipped"].as_u64().unwrap());
    assert_eq!(done + skipped, FILES as u64, "{totals}");
    let ready: BTreeMap<String, Value> = place
        .artifacts(&[])
        .into_iter()
        .map(|artifact| (artifact["path"].as_str().unwrap().to_owned(), artifact))
        .collect();
    assert_eq!(ready.len(), FILES, "nothing that was written is lost");
    for artifact in ready.values() {
        assert_eq!(artifact["version"], 2, "{artifact}");
    }
    let content =
        artifact(&place, &["cat", ready.values().next().unwrap()["id"].as_str().unwrap()]);
    assert_eq!(content, "second 0");
}

#[test]
fn a_policy_runs_on_its_schedule_in_one_daemon_at_a_time() {
    let mut place = Place::new();
    let config = place.path("belljard.yaml");
    let policies = "artifacts:\n  cleanup:\n    - { name: temporary, every: 1s, where: 'path ~ \"*.part\"', older_than: 0s }\n";
    fs::write(&config, policies).unwrap();
    let options = ["--config", config.to_str().unwrap()];
    let mounted = workspace(&mut place, &options);
    let runtime = place.path("second");
    fs::create_dir(&runtime).unwrap();
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o700)).unwrap();
    let mut second = place
        .belljard(["serve", options[0], options[1]])
        .env("BELLJAR_RUNTIME_DIR", &runtime)
        .spawn()
        .unwrap();
    eventually("the second daemon answers", || runtime.join("belljar.sock").exists());
    let began = Instant::now();
    artifact(
        &place,
        &["policy", "set", "logs", "--every", "1s", "--type", "log", "--older-than", "0s"],
    );
    for name in ["a.log", "b.csv", "c.part"] {
        fs::write(mounted.join(name), name).unwrap();
    }
    artifact(&place, &["sync"]);
    eventually("both policies ran", || names(&place, "DELETED") == ["a.log", "c.part"]);
    std::thread::sleep(Duration::from_secs(3));
    let list = place.json(["artifact", "policy", "ls"]);
    let elapsed = began.elapsed().as_secs_f64();
    // While one daemon of the catalog has a claim, here one that does not exist, no other runs any policy.
    let catalog = rusqlite::Connection::open(place.path("state/catalog.sqlite")).unwrap();
    catalog.busy_timeout(Duration::from_secs(10)).unwrap();
    let runs = || -> i64 {
        catalog.query_row("SELECT sum(runs) FROM policy", [], |row| row.get(0)).unwrap()
    };
    let until = SystemTime::now() + Duration::from_secs(4);
    let until = until.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros() as i64;
    eventually("nobody is at a policy", || {
        let text = "UPDATE policy SET holder = zeroblob(16), lease_until = ? WHERE name = 'logs' \
             AND NOT EXISTS (SELECT 1 FROM policy WHERE holder IS NOT NULL)";
        catalog.execute(text, [until]).unwrap() == 1
    });
    let held = runs();
    std::thread::sleep(Duration::from_millis(2_500));
    assert_eq!(runs(), held, "somebody else has the claim");
    eventually("the claim ends and the policies go on", || runs() >= held + 2);
    kill(Pid::from_raw(second.id() as i32), Signal::SIGTERM).unwrap();
    assert!(second.wait().unwrap().success());
    assert_eq!(names(&place, "READY"), ["b.csv"]);
    let logs = &list["policies"][0];
    assert_eq!((&logs["name"], &logs["owner_uid"]), (&json!("logs"), &json!(0)), "{list}");
    assert_eq!(list["policies"][1]["owner_uid"], Value::Null);
    let runs = logs["runs"].as_f64().unwrap();
    assert!(runs >= 2.0 && runs <= elapsed + 1.0, "{runs} runs in {elapsed} s");
    assert!(logs["last"]["error"].is_null(), "{logs}");

    artifact(&place, &["policy", "rm", "logs"]);
    let again = act(&place, &["policy", "rm", "logs"]);
    assert_eq!(again.status.code(), Some(4), "{}", text(&again));
    let of_configuration = act(&place, &["policy", "rm", "temporary"]);
    assert_eq!(of_configuration.status.code(), Some(4), "it is not the caller's");
    let often = act(&place, &["policy", "set", "x", "--every", "1ms", "--type", "log"]);
    assert_eq!(often.status.code(), Some(2), "{}", text(&often));
    // Without the entry the policy is gone.
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.start_daemon();
    eventually("the configuration's policy is gone", || {
        place.json(["artifact", "policy", "ls"])["policies"] == json!([])
    });
}

fn verify(place: &Place, arguments: &[&str]) -> (i32, Value) {
    let output = act(place, &[&["verify", "--json"], arguments].concat());
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", text(&output)));
    (output.status.code().unwrap(), report)
}

/// Kinds of the findings with whether they were mended, sorted.
fn kinds(report: &Value) -> Vec<String> {
    let kind =
        |finding: &Value| format!("{} {}", finding["kind"].as_str().unwrap(), finding["mended"]);
    let mut kinds: Vec<String> = report["findings"].as_array().unwrap().iter().map(kind).collect();
    kinds.sort();
    kinds
}

/// The stored content with these bytes.
fn stored(place: &Place, tier: &str, bytes: &str) -> PathBuf {
    let root = place.path("state").join(tier);
    let found = place.files_with(bytes.as_bytes()).into_iter().find(|path| path.starts_with(&root));
    found.unwrap_or_else(|| panic!("no content {bytes:?} in {tier}"))
}

/// Writes over a content that is immutable for everybody but root.
fn tamper(path: &Path, bytes: &str) {
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o400);
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Makes a file seem a day old.
fn age(path: &Path) {
    let day_ago = SystemTime::now() - Duration::from_secs(86_400);
    File::open(path).unwrap().set_modified(day_ago).unwrap();
}

/// Makes a file that seems to have been there for a day.
fn plant(path: &Path, bytes: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
    age(path);
}

#[test]
fn a_store_that_was_meddled_with_is_found_out_and_mended() {
    let place = Place::new();
    let files = ["intact", "tampered", "overwritten", "missing", "gone", "archived"];
    for name in files {
        run(&place, &format!("printf content-{name} > output/{name}"));
    }
    artifact(&place, &["archive", &id_of(&place, "archived")]);
    let hex = blake3::hash(b"content-archived").to_hex().to_string();
    let main = place.path("state/blobs").join(&hex[..2]).join(&hex[2..]);
    // A young content stays in both tiers for a while.
    age(&main);
    eventually("the archived content leaves the main tier", || {
        artifact(&place, &["sync"]);
        !main.exists()
    });
    let (exit, report) = verify(&place, &[]);
    assert_eq!((exit, &report["findings"]), (0, &json!([])), "{report}");
    assert_eq!(report["contents"], json!(files.len()));

    tamper(&stored(&place, "blobs", "content-tampered"), "content-TAMPERED");
    tamper(&stored(&place, "blobs", "content-overwritten"), "else");
    fs::write(place.path("output/overwritten"), "changed since").unwrap();
    fs::remove_file(stored(&place, "blobs", "content-missing")).unwrap();
    fs::remove_file(stored(&place, "blobs", "content-gone")).unwrap();
    fs::remove_file(place.path("output/gone")).unwrap();
    let archived = stored(&place, "archive", "content-archived");
    fs::rename(&archived, &main).unwrap();
    let nobodys = blake3::hash(b"nobody names it").to_hex().to_string();
    let orphan = place.path("state/blobs").join(&nobodys[..2]).join(&nobodys[2..]);
    plant(&orphan, "nobody names it");
    let old = place.path("state/archive").join(&nobodys[..2]).join(&nobodys[2..]);
    plant(&old, "nobody names it");
    let fresh = blake3::hash(b"about to be named").to_hex().to_string();
    let fresh = place.path("state/blobs").join(&fresh[..2]).join(&fresh[2..]);
    fs::create_dir_all(fresh.parent().unwrap()).unwrap();
    fs::write(&fresh, "about to be named").unwrap();
    let dead = "01a2b3c4-0000-7000-8000-000000000000";
    let temporary = place.path("state/blobs/tmp").join(format!("{dead}-0"));
    plant(&temporary, "half");
    let foreign = place.path("state/blobs/notes.txt");
    plant(&foreign, "mine");

    let expected = [
        "damaged false",
        "damaged false",
        "foreign false",
        "leftover false",
        "misplaced false",
        "missing false",
        "missing false",
        "orphan false",
        "orphan false",
    ];
    let (exit, report) = verify(&place, &[]);
    assert_eq!((exit, kinds(&report)), (1, expected.map(str::to_owned).to_vec()), "{report}");
    let (exit, one) = verify(&place, &[&id_of(&place, "tampered")]);
    assert_eq!((exit, kinds(&one)), (1, vec!["damaged false".to_owned()]), "{one}");
    assert!(one["findings"][0]["versions"][0].as_str().unwrap().contains("output/tampered"));
    assert_eq!(verify(&place, &[&id_of(&place, "intact")]).0, 0);
    assert!(orphan.exists() && temporary.exists(), "without --repair nothing is touched");

    let expected = [
        "damaged false",
        "damaged true",
        "foreign false",
        "leftover true",
        "misplaced true",
        "missing false",
        "missing true",
        "orphan true",
    ];
    let (exit, report) = verify(&place, &["--repair"]);
    assert_eq!((exit, kinds(&report)), (1, expected.map(str::to_owned).to_vec()), "{report}");
    for name in ["tampered", "missing", "archived", "intact"] {
        assert_eq!(artifact(&place, &["cat", &id_of(&place, name)]), format!("content-{name}"));
    }
    for name in ["overwritten", "gone"] {
        let refused = act(&place, &["cat", &id_of(&place, name)]);
        assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
        assert!(stderr(&refused).contains("is lost"), "{}", text(&refused));
        let shown = place.json(["artifact", "show", &id_of(&place, name)]);
        assert_eq!((&shown["state"], &shown["content_kept"]), (&json!("READY"), &json!(false)));
        assert!(shown["content_lost_at"].is_string(), "{shown}");
        let events = place.json(["artifact", "events", &id_of(&place, name)]).to_string();
        assert!(events.contains("content-lost"), "{events}");
    }
    assert!(archived.exists() && !main.exists());
    assert!(!orphan.exists() && !old.exists() && !temporary.exists());
    assert!(fresh.exists() && foreign.exists(), "what is young or not ours stays");
    assert_eq!(fs::read_dir(place.path("state/damaged")).unwrap().count(), 2);

    fs::remove_file(&foreign).unwrap();
    let (exit, report) = verify(&place, &[]);
    assert_eq!(
        (exit, &report["findings"], &report["lost"]),
        (0, &json!([]), &json!(2)),
        "{report}"
    );
    // The same bytes once more are kept once more.
    run(&place, "printf content-gone > output/gone");
    assert_eq!(artifact(&place, &["cat", &id_of(&place, "gone")]), "content-gone");
    place.assert_clean();
}

#[test]
fn verification_in_many_parts_reads_everything_and_spares_what_is_being_written() {
    let mut place = Place::new();
    let mounted = workspace(&mut place, &[]);
    for number in 0..8u8 {
        fs::write(mounted.join(format!("f{number}")), vec![number; 1 << 20]).unwrap();
    }
    artifact(&place, &["sync"]);
    tamper(&stored(&place, "blobs", "\u{7}\u{7}\u{7}\u{7}"), "short");
    // Files of this daemon that are being written are nobody's fault.
    let instance = place.json(["daemon", "status"])["instance"].as_str().unwrap().to_owned();
    plant(&place.path("state/blobs/tmp").join(format!("{instance}-99")), "on its way");
    let began = Instant::now();
    let (exit, report) = verify(&place, &["--rate", "2MiB"]);
    // Reading seven MiB at two in a second takes at least three seconds, in more than one part.
    assert!(began.elapsed() > Duration::from_millis(2_900), "{:?}", began.elapsed());
    assert_eq!((exit, kinds(&report)), (1, vec!["damaged false".to_owned()]), "{report}");
    assert_eq!((&report["contents"], &report["bytes"]), (&json!(8), &json!((7 << 20) + 5)));
    let slow = act(&place, &["verify", "--rate", "1"]);
    assert_eq!(slow.status.code(), Some(2), "{}", text(&slow));
}
