//! Daemons with state directories of their own over one catalog in PostgreSQL, as on several machines: with a remote store that
//! they share, and without one.
//!
//! Needs root and `/dev/fuse`, as tests/run.rs.
#![allow(clippy::unwrap_used)]

#[path = "../src/storage/contract/server.rs"]
mod server;
#[path = "storage_remote/servers.rs"]
#[allow(dead_code)] // A part is used.
mod servers;
mod support;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use server::Server;
use servers::{ACCESS, BUCKET, S3s, SECRET};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::{Place, text};

/// A daemon over that database, and over that server's bucket as its remote store.
fn serve(connection: &str, remote: Option<&S3s>) -> Place {
    let mut place = Place::new();
    let remote = remote.map_or(String::new(), |server| {
        let keys = place.path("keys");
        let text = format!(
            "[default]\naws_access_key_id = {ACCESS}\naws_secret_access_key = {SECRET}\n"
        );
        fs::write(&keys, text).unwrap();
        fs::set_permissions(&keys, fs::Permissions::from_mode(0o600)).unwrap();
        format!(
            "storage:\n  remote: {{ kind: s3, bucket: {BUCKET}, prefix: shared, endpoint: '{}', allow_http: true, credentials_file: {} }}\n",
            server.url(),
            keys.display()
        )
    });
    let config = format!("catalog:\n  kind: postgres\n  connection: {connection}\n{remote}");
    let path = place.path("belljard.yaml");
    fs::write(&path, config).unwrap();
    place.start_daemon_with(&["--config", path.to_str().unwrap()]);
    place
}

fn act(place: &Place, arguments: &[&str]) -> String {
    let output = place.output(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    support::stdout(&output)
}

/// The digest of every artifact in these states, by its id.
fn all(place: &Place, states: &str) -> BTreeMap<String, String> {
    let list = place.json(["artifact", "ls", "--limit", "100000", "--state", states]);
    let mut all = BTreeMap::new();
    for artifact in list["artifacts"].as_array().unwrap_or_else(|| panic!("{list}")) {
        let word = |name: &str| artifact[name].as_str().unwrap().to_owned();
        assert!(all.insert(word("id"), word("digest")).is_none(), "{} comes twice", word("id"));
    }
    all
}

fn verify(place: &Place, options: &[&str]) -> Value {
    let output = place.output([&["artifact", "verify", "--json"], options].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output)))
}

fn findings(report: &Value) -> &Vec<Value> {
    report["findings"].as_array().unwrap_or_else(|| panic!("{report}"))
}

/// Sets a flag at the end of a scope, however that ends.
struct AtTheEnd<'a>(&'a AtomicBool);

impl Drop for AtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn two_daemons_that_share_catalog_and_store_agree_while_files_come_and_go() {
    let (files, patience) = match std::env::var("BELLJAR_TEST_LONG").is_ok_and(|long| long == "1") {
        true => (10_000, Duration::from_secs(1_200)),
        false => (200, Duration::from_secs(60)),
    };
    let database = Server::shared().database();
    let remote = S3s::start();
    let mut places = [serve(&database, Some(&remote)), serve(&database, Some(&remote))];
    let done = AtomicBool::new(false);
    // Half of the contents are the same on both, some are thrown away while others come.
    let script = |node: usize| {
        format!(
            "n=0; while [ $n -lt {files} ]; do \
               echo shared $n > output/s$n.txt; echo node {node} $n > output/own$n.csv; echo $n {node} > output/t$n.log; \
               n=$((n + 2)); done"
        )
    };
    let wait = format!("{}s", patience.as_secs());
    std::thread::scope(|scope| {
        let _end = AtTheEnd(&done);
        for place in &places {
            let done = &done;
            scope.spawn(move || {
                let mut most = 0;
                while !done.load(Ordering::SeqCst) {
                    let ready = all(place, "READY,ARCHIVED,DELETED").len();
                    assert!(ready >= most, "{most} were there, and {ready} are");
                    most = ready;
                    act(
                        place,
                        &["artifact", "cleanup", "--type", "log", "--older-than", "1ms", "--apply"],
                    );
                }
            });
        }
        let runs: Vec<_> = places
            .iter()
            .enumerate()
            .map(|(node, place)| {
                let mut run = place.run_command(&["--drain-timeout", &wait], &script(node));
                run.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        for run in runs {
            let output = run.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", text(&output));
        }
    });
    for place in &places {
        act(place, &["artifact", "cleanup", "--type", "log", "--older-than", "1ms", "--apply"]);
    }
    for place in &places {
        act(place, &["artifact", "sync", "--wait-upload", "--timeout", &wait]);
    }
    let kept = all(&places[0], "READY");
    assert_eq!(kept.len(), 2 * files, "the .log files are gone, and nothing else");
    assert_eq!(kept, all(&places[1], "READY"));
    assert_eq!(all(&places[0], "DELETED").len(), files);
    assert_eq!(all(&places[0], "DELETED"), all(&places[1], "DELETED"));
    let contents: BTreeSet<&String> = kept.values().collect();
    assert_eq!(contents.len(), files / 2 + files, "one half is the same on both");

    // Either gives every content back, whoever took it.
    for place in &places {
        for (id, digest) in kept.iter().step_by((kept.len() / 25).max(1)) {
            let to = place.path("fetched");
            act(place, &["artifact", "get", "--force", id, to.to_str().unwrap()]);
            let found = blake3::hash(&fs::read(&to).unwrap());
            assert_eq!(*digest, format!("blake3:{}", found.to_hex()));
        }
        assert_eq!(*findings(&verify(place, &[])), Vec::<Value>::new());
        let queues = &place.json(["storage", "status"])["queues"];
        assert_eq!(queues.as_array().unwrap().len(), 2, "each knows of both: {queues}");
    }
    for place in &mut places {
        assert!(place.stop_daemon(Signal::SIGTERM).success());
        place.assert_clean();
    }
}

#[test]
fn what_another_node_has_is_not_called_lost_where_there_is_no_remote_store() {
    let database = Server::shared().database();
    let mut first = serve(&database, None);
    let output = first.run(&[], "echo mine > output/mine");
    assert!(output.status.success(), "{}", text(&output));
    // Its file is gone, so that nobody can take the content again from there.
    fs::remove_file(first.path("output/mine")).unwrap();
    let id = first.artifacts(&[])[0]["id"].as_str().unwrap().to_owned();
    let mut second = serve(&database, None);
    let report = verify(&second, &["--repair"]);
    let [finding] = &findings(&report)[..] else { panic!("{report}") };
    assert_eq!((&finding["kind"], &finding["mended"]), (&json!("missing"), &json!(false)));
    assert!(finding["repaired"].as_str().unwrap().contains("another node may have it"), "{report}");
    assert_eq!(act(&first, &["artifact", "cat", &id]), "mine\n");
    assert_eq!(*findings(&verify(&first, &[])), Vec::<Value>::new());
    let queues = &second.json(["storage", "status"])["queues"];
    assert_eq!(*queues, json!([]), "nobody sends anything");
    for place in [&mut first, &mut second] {
        assert!(place.stop_daemon(Signal::SIGTERM).success());
        place.assert_clean();
    }
}
