//! What was closed before a sync is registered after it, and what a daemon did is told at once, however busy the machine is.
#![allow(clippy::unwrap_used)]

mod support;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use support::{Place, text};

/// Threads that leave the processors no rest, until dropped.
struct Load(Arc<AtomicBool>, Vec<JoinHandle<()>>);

impl Load {
    fn new(threads: usize) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let work = |over: Arc<AtomicBool>| {
            move || {
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            }
        };
        let threads = (0..threads).map(|_| std::thread::spawn(work(over.clone()))).collect();
        Self(over, threads)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        for thread in self.1.drain(..) {
            let _ = thread.join();
        }
    }
}

fn ask(socket: &Path, method: &str, path: &str, body: &Value) -> Value {
    let mut stream = UnixStream::connect(socket).unwrap();
    let body = if method == "GET" { String::new() } else { body.to_string() };
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    serde_json::from_str(body).unwrap()
}

/// A daemon that takes no copy by itself for a long time, and the mount of a workspace of it.
fn patient_workspace() -> (Place, PathBuf, PathBuf) {
    let mut place = Place::new();
    let config = place.path("belljard.yaml");
    fs::write(&config, "artifacts:\n  debounce: 1m\n  debounce_max: 10m\n").unwrap();
    place.start_daemon_with(&["--config", config.to_str().unwrap()]);
    let made = place.output(["workspace", "create", "w", "--rw", "output=output"]);
    assert!(made.status.success(), "{}", text(&made));
    let shown = place.json(["workspace", "show", "w"]);
    let output = PathBuf::from(shown["root"].as_str().unwrap()).join("output");
    let socket = place.path("runtime/belljar.sock");
    (place, output, socket)
}

#[test]
fn a_sync_is_a_barrier_for_what_was_closed_before_it() {
    let (mut place, output, socket) = patient_workspace();
    let rounds = if std::env::var_os("BELLJAR_TEST_LONG").is_some() { 1_000 } else { 100 };
    let load = Load::new(2 * std::thread::available_parallelism().unwrap().get());
    let begun = Instant::now();
    let mut late = Vec::new();
    for round in 1..=rounds {
        fs::write(output.join("f"), format!("round {round}")).unwrap();
        let synced = ask(&socket, "POST", "/v1/artifacts/sync", &json!({ "workspace": "w" }));
        assert_eq!(synced["complete"], true, "{synced}");
        let found = ask(&socket, "GET", "/v1/artifacts?limit=1", &Value::Null);
        let version = found["artifacts"][0]["version"].as_u64().unwrap_or(0);
        if version + (late.len() as u64) < round {
            late.push(round);
        }
    }
    eprintln!("{rounds} rounds took {:?}", begun.elapsed());
    assert!(late.is_empty(), "{} syncs missed what was closed before: {late:?}", late.len());
    drop(load);
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.assert_clean();
}

#[test]
fn a_sync_waits_a_second_at_most_for_a_file_that_stays_open() {
    let (mut place, output, socket) = patient_workspace();
    let open = fs::File::create(output.join("log")).unwrap();
    drop(open.try_clone().unwrap());
    let begun = Instant::now();
    let synced = ask(&socket, "POST", "/v1/artifacts/sync", &json!({ "workspace": "w" }));
    assert_eq!(synced["complete"], true, "{synced}");
    let waited = begun.elapsed();
    assert!(waited < Duration::from_secs(10), "{waited:?}");
    // That a duplicate was closed is long ago: nothing is expected any more.
    std::thread::sleep(Duration::from_millis(1_100));
    let begun = Instant::now();
    ask(&socket, "POST", "/v1/artifacts/sync", &json!({ "workspace": "w" }));
    let again = begun.elapsed();
    assert!(again < waited, "{again:?} after {waited:?}");
    drop(open);
    ask(&socket, "POST", "/v1/artifacts/sync", &json!({ "workspace": "w" }));
    assert_eq!(place.artifacts(&[]).len(), 1);
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.assert_clean();
}

#[test]
fn what_a_daemon_did_is_told_at_once() {
    let (mut place, output, socket) = patient_workspace();
    fs::write(output.join("f"), "x").unwrap();
    ask(&socket, "POST", "/v1/artifacts/sync", &json!({}));
    let found = ask(&socket, "GET", "/v1/artifacts?limit=1", &Value::Null);
    let at = format!("/v1/artifacts/{}", found["artifacts"][0]["id"].as_str().unwrap());
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.set_read_timeout(Some(support::SOON)).unwrap();
    write!(
        stream,
        "GET /v1/events?after=0 HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n"
    )
    .unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    let mut next =
        |word: &str| lines.find(|line| line.starts_with("data: ") && line.contains(word));
    assert!(next("created").is_some());
    // Looking again after each pause, an event would be 200 ms late in the middle; the quickest half must be far below.
    let mut late: Vec<Duration> = (0..20)
        .map(|round| {
            let tag = format!("tag-{round}-");
            ask(&socket, "PATCH", &at, &json!({ "tags": { "add": [tag] } }));
            let answered = Instant::now();
            assert!(next(&tag).is_some());
            answered.elapsed()
        })
        .collect();
    late.sort();
    eprintln!("told after {:?} in the middle, {:?} at most", late[10], late[19]);
    assert!(late[10] < Duration::from_millis(100), "{late:?}");
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.assert_clean();
}
