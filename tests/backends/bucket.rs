//! Contents in a bucket.

use super::*;
use nix::sys::signal::Signal;
use serde_json::json;
use servers::{ACCESS, BUCKET, S3s, SECRET};
use std::path::{Path, PathBuf};

fn request(server: &S3s, secret: &str) -> Value {
    json!({
        "kind": "s3", "bucket": BUCKET, "prefix": "production/", "region": "us-east-1",
        "endpoint": server.url(),
        "credentials": { "access_key_id": ACCESS, "secret_access_key": secret },
    })
}

/// Contents in the bucket, below the prefix.
fn objects(server: &S3s) -> Vec<PathBuf> {
    fn below(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).into_iter().flatten() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => below(&path, found),
                false => found.push(path),
            }
        }
    }
    let mut found = Vec::new();
    below(&server.bucket().join("production"), &mut found);
    found.retain(|path| path.components().any(|part| part.as_os_str() == "blobs"));
    found
}

fn sync(place: &Place, id: &str) -> Output {
    place.output(["artifact", "sync", "--backend", id, "--wait-upload", "--timeout", "30s"])
}

#[test]
fn contents_reach_the_bucket_and_the_keys_are_nowhere() {
    let server = S3s::start();
    let mut place = Place::new();
    place.start_daemon();
    let id = add(&place, &request(&server, SECRET));
    run(&place, &id, "echo to the bucket > output/up.txt");
    let output = sync(&place, &id);
    assert!(output.status.success(), "{}", text(&output));
    let there = objects(&server);
    assert_eq!(there.len(), 1, "{there:?}");
    assert_eq!(std::fs::read_to_string(&there[0]).unwrap(), "to the bucket\n");
    let status = place.json(["storage", "status", "--backend", &id]);
    assert_eq!(status["remote"]["reachable"], true, "{status}");
    assert_eq!(status["stores"][0]["contents"], 1, "{status}");
    assert!(place.json(["storage", "status"])["remote"].is_null(), "the daemon's own has none");
    assert_eq!(place.files_with(SECRET.as_bytes()), Vec::<PathBuf>::new());
    assert!(place.stop_daemon(Signal::SIGTERM).success());

    // The keys went with the daemon: uploads wait for them, and nothing else does.
    place.start_daemon();
    run(&place, &id, "echo later > output/later.txt");
    assert_eq!(paths(&place, &["--backend", &id]), ["output/later.txt", "output/up.txt"]);
    support::eventually("the upload waits for keys", || {
        let status = place.json(["storage", "status", "--backend", &id]);
        status["queues"][0]["waiting_for_credentials"]["contents"] == 1
    });
    assert_eq!(objects(&server).len(), 1);
    assert_eq!(add(&place, &request(&server, SECRET)), id);
    let output = sync(&place, &id);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(objects(&server).len(), 2);
    assert_verified(&place, &id);
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.assert_clean();
}

#[test]
fn two_daemons_in_one_bucket_do_not_meet() {
    let server = S3s::start();
    let mut places = [Place::new(), Place::new()];
    let mut ids = Vec::new();
    for place in &mut places {
        place.start_daemon();
        let id = add(place, &request(&server, SECRET));
        run(place, &id, "echo the same > output/same.txt");
        assert!(sync(place, &id).status.success());
        ids.push(id);
    }
    assert_eq!(objects(&server).len(), 2, "each has its own copy");
    // What one gives up stays with the other.
    let list = places[0].json(["artifact", "ls", "--backend", &ids[0]]);
    let artifact = list["artifacts"][0]["id"].as_str().unwrap();
    let removed = places[0].output(["artifact", "rm", "--backend", &ids[0], artifact]);
    assert!(removed.status.success(), "{}", text(&removed));
    let gc =
        places[0].output(["storage", "gc", "--backend", &ids[0], "--apply", "--older-than", "1h"]);
    assert!(gc.status.success(), "{}", text(&gc));
    assert_eq!(only_content(&places[1], &ids[1]), "the same\n");
    assert_verified(&places[1], &ids[1]);
    for place in &mut places {
        assert!(place.stop_daemon(Signal::SIGTERM).success());
    }
}

#[test]
fn a_bucket_that_refuses_is_refused_and_one_that_is_away_is_waited_for() {
    let mut server = S3s::start();
    let mut place = Place::new();
    place.start_daemon();
    let said = refusal(&place, &request(&server, "another/secret"));
    assert!(said.contains("AccessDenied") || said.contains("ignature"), "{said}");
    assert!(!said.contains("another/secret"), "{said}");
    // s3s-fs takes contents for a bucket that is not there.
    let (moto, keys) = servers::moto();
    let text_of =
        |value: &belljar::secret::SecretValue| String::from_utf8(value.expose().to_vec()).unwrap();
    let mut other = request(&server, SECRET);
    other["endpoint"] = json!(moto.endpoint);
    other["credentials"] = json!({
        "access_key_id": text_of(&keys.access_key), "secret_access_key": text_of(&keys.secret_key),
    });
    let id = add(&place, &other);
    run(&place, &id, "echo to moto > output/moto.txt");
    let output = sync(&place, &id);
    assert!(output.status.success(), "{}", text(&output));
    other["bucket"] = json!("nosuchbucket");
    let said = refusal(&place, &other);
    assert!(said.contains("nosuchbucket"), "{said}");
    assert_eq!(backends(&place).len(), 1, "a refused one leaves nothing");
    server.kill();
    let output = try_add(&place, &request(&server, SECRET));
    assert!(output.status.success(), "{}", text(&output));
    assert!(support::stderr(&output).contains("onnection refused"), "told: {}", text(&output));
    let id = stdout(&output).trim().to_owned();
    run(&place, &id, "echo waits > output/waits.txt");
    assert_eq!(only_content(&place, &id), "waits\n");
    server.start_again();
    let output = sync(&place, &id);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(objects(&server).len(), 1);
    assert!(place.stop_daemon(Signal::SIGTERM).success());
}
