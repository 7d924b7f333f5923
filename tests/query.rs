//! Finding artifacts, from the command line and over the API, in a catalog that was filled beforehand.
//!
//! Needs: nothing but a temporary directory; nothing here mounts or runs anything.

use belljar::client::{Client, ClientError};
use belljar::config::Config;
use belljar::config::paths::{Paths, Surroundings};
use belljar::daemon::Embedded;
use belljar::model::artifact::ArtifactType;
use belljar::model::digest::Digest;
use belljar::model::path::VirtualPath;
use belljar::storage::catalog::sqlite::SqliteCatalog;
use belljar::storage::{Catalog, NewVersion};
use belljar::wire::artifact::ArtifactQuery;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::process::{Command, Output, Stdio};

/// More than two pages of the API.
const FILES: usize = 2_300;

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    /// Files `000.csv` and so on, each a minute older than the one before; every tenth is a log.
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let state = directory.path().join("state");
        fs::DirBuilder::new().mode(0o700).create(&state).expect("directory");
        let catalog = SqliteCatalog::open(&state.join("catalog.sqlite")).expect("open");
        let start = Timestamp::now();
        let batch: Vec<NewVersion> = (0..FILES)
            .map(|number| NewVersion {
                owner_uid: nix::unistd::getuid().as_raw(),
                host_path: format!("/data/out/{number:04}.csv").into_bytes(),
                workspace: "w".parse().expect("id"),
                mount: "output".parse().expect("name"),
                path: VirtualPath::parse(format!("{number:04}.csv")).expect("path"),
                run: None,
                graph_id: Some(format!("g{}", number % 2)),
                node_id: None,
                writer: None,
                artifact_type: ArtifactType::new(if number % 10 == 0 { "log" } else { "data" }),
                suspected: None,
                mime: None,
                size: number as u64,
                digest: Digest::from_bytes(*blake3::hash(&number.to_le_bytes()).as_bytes()),
                content_kept: false,
                closes: 1,
                stamp: None,
                inputs: None,
                secrets: Default::default(),
                metadata: serde_json::json!({ "rows": number, "note": "it's" })
                    .as_object()
                    .expect("an object")
                    .clone(),
                captured_at: start - SignedDuration::from_mins(number as i64),
            })
            .collect();
        catalog.register(&batch).expect("register");
        Self { directory }
    }

    fn ls(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_belljar"))
            .args(["artifact", "ls"])
            .args(arguments)
            .env_remove("BELLJAR_SOCKET")
            .env_remove("BELLJAR_CONFIG")
            .env("BELLJAR_STATE_DIR", self.directory.path().join("state"))
            .env("BELLJAR_RUNTIME_DIR", self.directory.path().join("run"))
            .stdin(Stdio::null())
            .output()
            .expect("starts")
    }

    /// The numbers of the files that are listed, in order.
    fn numbers(&self, arguments: &[&str]) -> Vec<usize> {
        let output = self.ls(&[arguments, &["--json"]].concat());
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {complaint}");
        let document: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
        let artifacts = document["artifacts"].as_array().expect("a list");
        artifacts
            .iter()
            .map(|artifact| artifact["metadata"]["rows"].as_u64().expect("a number") as usize)
            .collect()
    }
}

#[test]
fn every_filter_of_the_command_line_narrows_the_list() {
    let place = Place::new();
    for (arguments, expected) in [
        (&["--limit", "3"][..], &[0, 1, 2][..]),
        (&["--limit", "2", "--order", "created:asc"], &[2_299, 2_298]),
        (&["--limit", "2", "--order", "size"], &[2_299, 2_298]),
        (&["--limit", "2", "--order", "path:desc"], &[2_299, 2_298]),
        (&["--limit", "2", "--order", "type:desc", "--graph", "g0"], &[2_290, 2_280]),
        (&["--limit", "2", "--type", "log"], &[0, 10]),
        (&["--limit", "2", "--type", "log,data"], &[0, 1]),
        (&["--limit", "2", "--graph", "g1", "--type", "data", "--workspace", "w"], &[1, 3]),
        (&["--state", "archived,deleted"], &[]),
        (&["--path", "001?.csv", "--limit", "2"], &[10, 11]),
        (&["--path", "output/0013.csv"], &[13]),
        (&["--path", "/data/*/0014.csv"], &[14]),
        (&["--label", "none"], &[]),
        (&["--tag", "none"], &[]),
        (&["--alias", "none"], &[]),
        (&["--node", "none"], &[]),
        (&["--owner", "4294967294"], &[]),
        (&["--since", "150s"], &[0, 1, 2]),
        (&["--updated-before", "90s", "--updated-since", "150s"], &[2]),
        (&["--where", "metadata.rows in [5, 7] and metadata.note = \"it's\""], &[5, 7]),
        (
            &["--where", "metadata.rows >= 2298 or size < 1", "--order", "size:asc"],
            &[0, 2_298, 2_299],
        ),
        (&["--where", "created_at > 150s and not path ~ '0001.*'"], &[0, 2]),
    ] {
        assert_eq!(place.numbers(arguments), expected, "{arguments:?}");
    }
}

#[test]
fn a_list_longer_than_a_page_is_one_document_without_gap_or_repetition() {
    let place = Place::new();
    assert_eq!(place.numbers(&["--limit", "5000"]), (0..FILES).collect::<Vec<_>>());
    let by_path = place.numbers(&["--limit", "2200", "--order", "path"]);
    assert_eq!(by_path, (0..2_200).collect::<Vec<_>>());
}

#[test]
fn a_mistake_in_an_expression_is_shown_where_it_is() {
    let place = Place::new();
    let output = place.ls(&["--where", "size > 5 and tipe = 'log'"]);
    assert_eq!(output.status.code(), Some(2));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        complaint.contains("column 14") && complaint.contains("did you mean type?"),
        "{complaint}"
    );
    let lines: Vec<&str> = complaint.lines().collect();
    let line =
        lines.iter().position(|line| line.trim() == "size > 5 and tipe = 'log'").expect("shown");
    let mistake = lines[line].find("tipe").expect("shown");
    assert_eq!(lines[line + 1].find('^'), Some(mistake), "{complaint}");
    for (arguments, words) in [
        (["--order", "name"], "created, updated, size, path or type"),
        (["--state", "REDY"], "READY"),
    ] {
        let output = place.ls(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(words), "{arguments:?}");
    }
}

#[test]
fn the_api_refuses_what_it_cannot_answer_with_a_sentence() {
    let place = Place::new();
    let config = Config {
        state_dir: Some(place.directory.path().join("state")),
        runtime_dir: Some(place.directory.path().join("run")),
        ..Config::default()
    };
    let paths = Paths::resolve(&config, &Surroundings::ours()).expect("resolves");
    let daemon = Embedded::start(&config, &paths).expect("starts");
    let client = Client::at(daemon.socket());
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let ask = |query: &ArtifactQuery| runtime.block_on(client.artifacts(query));
    let refusal = |query: ArtifactQuery| match ask(&query).expect_err("refused") {
        ClientError::Problem(problem) => (problem.code, problem.detail),
        other => panic!("{other}"),
    };

    let graph = |name: &str| ArtifactQuery { graph: Some(name.to_owned()), ..Default::default() };
    let first = ask(&graph("g0")).expect("a page");
    let second = ask(&ArtifactQuery { cursor: first.next.clone(), ..graph("g0") }).expect("a page");
    assert_eq!(second.artifacts[0].size, first.artifacts[99].size + 2);
    let (code, detail) = refusal(ArtifactQuery { cursor: first.next, ..graph("g1") });
    assert!(code == "invalid-request" && detail.contains("another query"), "{code} {detail}");
    let (code, detail) = refusal(ArtifactQuery { cursor: Some("100".into()), ..graph("g1") });
    assert!(code == "invalid-request" && detail.contains("cursor"), "{code} {detail}");
    let mistaken =
        |text: &str| ArtifactQuery { expression: Some(text.to_owned()), ..Default::default() };
    let (code, detail) = refusal(mistaken("size >"));
    assert!(code == "invalid-expression" && detail.contains("column 7"), "{code} {detail}");
    let (code, detail) = refusal(mistaken(&"(".repeat(5_000)));
    assert!(code == "invalid-expression" && detail.contains("4096 are allowed"), "{code} {detail}");
    let (code, detail) = refusal(ArtifactQuery { path: Some("[".into()), ..Default::default() });
    assert!(code == "invalid-request" && detail.contains("pattern"), "{code} {detail}");
    drop(client);
    daemon.stop();
}
