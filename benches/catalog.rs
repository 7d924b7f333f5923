//! Registrations and lists over SQLite and PostgreSQL, the same on the same machine: `cargo bench --bench catalog [-- VERSIONS]`,
//! 100,000 when left out. Nothing here passes or fails.
//!
//! A batch has 128 versions, as the registrar's have at most. The server is started here, writes through to the disk as SQLite
//! does, and is asked over loopback TCP. Every question is asked 11 times; the median is printed.
#![allow(clippy::unwrap_used)]

#[path = "../src/storage/contract/server.rs"]
mod server;

use belljar::model::artifact::ArtifactType;
use belljar::model::digest::Digest;
use belljar::model::glob::Glob;
use belljar::model::id::RunId;
use belljar::model::path::VirtualPath;
use belljar::storage::catalog::postgres::{PostgresCatalog, PostgresSettings};
use belljar::storage::catalog::sqlite::SqliteCatalog;
use belljar::storage::{Catalog, Filter, NewVersion};
use jiff::{SignedDuration, Timestamp};
use server::Server;
use std::time::{Duration, Instant};

const BATCH: usize = 128;
const ROUNDS: usize = 11;

fn version(number: usize, run: RunId, start: Timestamp) -> NewVersion {
    let metadata = serde_json::json!({
        "accuracy": (number * 7919 % 1000) as f64 / 1000.0,
        "epoch": number % 40,
        "hyper": { "depth": number % 12, "optimizer": "adam" },
        "case": number / 50,
    });
    NewVersion {
        owner_uid: 1000,
        host_path: format!("/data/project/{}/f{number}.csv", number / 1_000).into_bytes(),
        workspace: format!("task-{}", number / 10_000).parse().unwrap(),
        mount: "output".parse().unwrap(),
        path: VirtualPath::parse(format!("{}/f{number}.csv", number / 1_000)).unwrap(),
        run: Some(run),
        graph_id: Some(format!("graph-{}", number % 1_000)),
        node_id: None,
        writer: None,
        artifact_type: ArtifactType::new(["data", "file", "log"][number % 3]),
        suspected: None,
        mime: Some("text/csv".to_owned()),
        size: (number * 31 % 100_000) as u64,
        digest: Digest::from_bytes(*blake3::hash(&number.to_le_bytes()).as_bytes()),
        content_kept: true,
        closes: 1,
        stamp: None,
        inputs: None,
        secrets: Default::default(),
        metadata: metadata.as_object().unwrap().clone(),
        captured_at: start + SignedDuration::from_millis(number as i64),
    }
}

/// Batches from that many threads at once, as fast as they go; answers versions a second.
fn register(catalog: &dyn Catalog, batches: &[Vec<NewVersion>], threads: usize) -> f64 {
    let started = Instant::now();
    let share = batches.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        for part in batches.chunks(share) {
            scope.spawn(move || {
                part.iter().for_each(|batch| drop(catalog.register(batch).unwrap()))
            });
        }
    });
    let versions: usize = batches.iter().map(Vec::len).sum();
    versions as f64 / started.elapsed().as_secs_f64()
}

fn ask(catalog: &dyn Catalog, filter: &Filter) -> Duration {
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let started = Instant::now();
            catalog.list(Some(1000), filter).unwrap();
            started.elapsed()
        })
        .collect();
    times.sort();
    times[ROUNDS / 2]
}

fn main() {
    let versions: usize =
        std::env::args().filter_map(|word| word.parse().ok()).next().unwrap_or(100_000);
    // Beside the build, since /tmp may be memory and the disk is what is measured.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let sqlite = SqliteCatalog::open(&directory.path().join("catalog.sqlite")).unwrap();
    let server = Server::start("-c fsync=on -c full_page_writes=on -c shared_buffers=128MB");
    let database = server.database();
    let settings = belljar::config::catalog::Catalog {
        connection: Some(database.parse().unwrap()),
        ..Default::default()
    };
    let settings = PostgresSettings::new(&settings, &|_| None).unwrap();
    let postgres = PostgresCatalog::open(&settings).unwrap();

    let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let runs: Vec<RunId> = (0..versions.div_ceil(100)).map(|_| RunId::generate()).collect();
    let all: Vec<NewVersion> = (0..versions).map(|n| version(n, runs[n / 100], start)).collect();
    let batches: Vec<Vec<NewVersion>> = all.chunks(BATCH).map(<[_]>::to_vec).collect();
    let single: Vec<Vec<NewVersion>> =
        (0..500).map(|n| vec![NewVersion { owner_uid: 1, ..version(n, runs[0], start) }]).collect();
    let both: [(&str, &dyn Catalog); 2] = [("SQLite", &sqlite), ("PostgreSQL", &postgres)];
    println!("{:48} {:>12} {:>12}", format!("{versions} versions"), both[0].0, both[1].0);
    let row = |name: &str, of: &dyn Fn(&dyn Catalog) -> String| {
        println!("{name:48} {:>12} {:>12}", of(both[0].1), of(both[1].1));
    };
    row("registered/s, 128 at a time", &|catalog| format!("{:.0}", register(catalog, &batches, 1)));
    row("registered again/s, the same bytes", &|catalog| {
        format!("{:.0}", register(catalog, &batches, 1))
    });
    row("registered/s, one at a time", &|catalog| format!("{:.0}", register(catalog, &single, 1)));
    // What autovacuum does in its time.
    server.execute(&database, "VACUUM ANALYZE");

    let expression =
        |text: &str| Filter { expression: Some(text.parse().unwrap()), ..Filter::default() };
    let graph = || Filter { graph: Some("graph-77".to_owned()), ..Filter::default() };
    for (name, filter) in [
        ("everything", Filter::default()),
        ("graph", graph()),
        ("run", Filter { run: Some(runs[runs.len() / 2]), ..Filter::default() }),
        ("type", Filter { types: vec!["log".into()], ..Filter::default() }),
        ("everything by size", Filter { order: "size".parse().unwrap(), ..Filter::default() }),
        ("graph by path", Filter { order: "path".parse().unwrap(), ..graph() }),
        (
            "path pattern, few match",
            Filter { path: Some(Glob::of_path("*777.csv").unwrap()), ..Filter::default() },
        ),
        ("metadata equals, 50 match", expression("metadata.case = 100")),
        ("metadata equals, none match", expression("metadata.hyper.optimizer = 'sgd'")),
        ("metadata compared, none match", expression("metadata.accuracy > 2")),
    ] {
        row(name, &|catalog| format!("{:.2?}", ask(catalog, &filter)));
    }
}
