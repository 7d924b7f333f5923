//! Places for artifacts that are asked for at run time: a directory, a bucket, a database, each on its real server, beside the
//! daemon's own place and apart from it.
//!
//! Needs root and `/dev/fuse`, as tests/run.rs; PostgreSQL as tests/postgres.
#![allow(clippy::unwrap_used)]

mod bucket;
mod database;
mod local;
#[path = "../../src/storage/contract/server.rs"]
mod server;
#[path = "../storage_remote/servers.rs"]
#[allow(dead_code)] // A part is used.
mod servers;
#[path = "../support/mod.rs"]
mod support;
mod users;

use serde_json::Value;
use std::io::Write;
use std::process::{Output, Stdio};
use support::{Place, stdout, text};

/// `belljar storage add -` with this on standard input.
fn try_add(place: &Place, request: &Value) -> Output {
    let mut add = place.belljar(["storage", "add", "-"]);
    let mut add =
        add.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    write!(add.stdin.take().unwrap(), "{request}").unwrap();
    add.wait_with_output().unwrap()
}

/// Its id.
fn add(place: &Place, request: &Value) -> String {
    let output = try_add(place, request);
    assert!(output.status.success(), "{request}: {}", text(&output));
    stdout(&output).trim().to_owned()
}

/// What is said against it.
fn refusal(place: &Place, request: &Value) -> String {
    let output = try_add(place, request);
    assert!(!output.status.success(), "{request} was accepted: {}", text(&output));
    text(&output)
}

fn backends(place: &Place) -> Vec<Value> {
    place.json(["storage", "backends"])["backends"].as_array().unwrap().clone()
}

fn backend(place: &Place, id: &str) -> Value {
    let found = backends(place).into_iter().find(|backend| backend["id"] == id);
    found.unwrap_or_else(|| panic!("{id} is not listed"))
}

/// Runs a script that writes into `output`; its artifacts go to that backend.
fn run(place: &Place, id: &str, script: &str) {
    let mut run = place.run_command(&["--backend", id], script);
    let output = run.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

/// Paths of the artifacts of one place.
fn paths(place: &Place, options: &[&str]) -> Vec<String> {
    let list = place.json([&["artifact", "ls"], options].concat());
    let artifacts = list["artifacts"].as_array().unwrap_or_else(|| panic!("{list}"));
    let mut paths: Vec<String> = artifacts
        .iter()
        .map(|artifact| {
            artifact["path"].as_str().unwrap().trim_start_matches("/workspace/").to_owned()
        })
        .collect();
    paths.sort();
    paths
}

/// The bytes of the only artifact of a backend.
fn only_content(place: &Place, id: &str) -> String {
    let list = place.json(["artifact", "ls", "--backend", id]);
    let artifact = list["artifacts"][0]["id"].as_str().unwrap_or_else(|| panic!("{list}"));
    let output = place.output(["artifact", "cat", "--backend", id, artifact]);
    assert!(output.status.success(), "{}", text(&output));
    stdout(&output)
}

fn assert_verified(place: &Place, id: &str) {
    let output = place.output(["artifact", "verify", "--backend", id]);
    assert!(output.status.success(), "{}", text(&output));
}
