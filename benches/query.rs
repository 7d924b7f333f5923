//! How long lists of artifacts take: `cargo bench --bench query [-- VERSIONS]`, 1,000,000 when left out. Nothing here passes
//! or fails.
//!
//! The catalog is filled through `Catalog::register`, so that the rate of registration with all its indexes is measured as
//! well; labels, tags and aliases are added by SQL. Every question is asked 21 times, and the median and the
//! slowest are printed; `docs/benchmarks.md` records them.
#![allow(clippy::unwrap_used)]

use belljar::model::artifact::{ArtifactState, ArtifactType};
use belljar::model::digest::Digest;
use belljar::model::glob::Glob;
use belljar::model::id::RunId;
use belljar::model::path::VirtualPath;
use belljar::storage::catalog::sqlite::SqliteCatalog;
use belljar::storage::{Catalog, Filter, NewVersion};
use jiff::{SignedDuration, Timestamp};
use std::time::{Duration, Instant};

const BATCH: usize = 2_000;
const ROUNDS: usize = 21;

/// The sixth of a million files is as all others are: many types, graphs of a thousand, runs of a hundred, two owners.
fn version(number: usize, run: RunId, start: Timestamp) -> NewVersion {
    let kinds = ["data", "data", "data", "file", "log", "image", "report"];
    let kind = if number.is_multiple_of(5_000) { "model" } else { kinds[number % kinds.len()] };
    let metadata = serde_json::json!({
        "accuracy": (number * 7919 % 1000) as f64 / 1000.0,
        "epoch": number % 40,
        "hyper": { "depth": number % 12, "optimizer": "adam" },
        "columns": ["time", "value"],
    });
    NewVersion {
        owner_uid: if number.is_multiple_of(10) { 1001 } else { 1000 },
        host_path: format!("/data/project/{}/f{number}.csv", number / 1_000).into_bytes(),
        workspace: format!("task-{}", number / 10_000).parse().unwrap(),
        mount: "output".parse().unwrap(),
        path: VirtualPath::parse(format!("{}/f{number}.csv", number / 1_000)).unwrap(),
        run: Some(run),
        graph_id: Some(format!("graph-{}", number % 1_000)),
        node_id: Some(format!("node-{}", number % 7)),
        writer: None,
        artifact_type: ArtifactType::new(kind),
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

fn ask(catalog: &SqliteCatalog, name: &str, owner: Option<u32>, filter: &Filter) {
    let mut times = Vec::new();
    let mut rows = 0;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        rows = catalog.list(owner, filter).unwrap().rows.len();
        times.push(started.elapsed());
    }
    times.sort();
    println!("{name:48} {rows:>6} {:>12.2?} {:>12.2?}", times[ROUNDS / 2], times[ROUNDS - 1]);
}

fn main() {
    let versions: usize =
        std::env::args().filter_map(|word| word.parse().ok()).next().unwrap_or(1_000_000);
    // Beside the build, since /tmp may be memory and the disk is what is measured.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("catalog.sqlite");
    let catalog = SqliteCatalog::open(&path).unwrap();
    let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let runs: Vec<RunId> = (0..versions.div_ceil(100)).map(|_| RunId::generate()).collect();

    let mut spent = Duration::ZERO;
    let mut last = Duration::ZERO;
    for first in (0..versions).step_by(BATCH) {
        let numbers = first..versions.min(first + BATCH);
        let batch: Vec<NewVersion> =
            numbers.map(|number| version(number, runs[number / 100], start)).collect();
        let started = Instant::now();
        catalog.register(&batch).unwrap();
        last = started.elapsed();
        spent += last;
    }
    println!(
        "registered {versions} in {spent:.1?}: {:.0}/s; the last {BATCH} at {:.0}/s; {} MiB",
        versions as f64 / spent.as_secs_f64(),
        BATCH as f64 / last.as_secs_f64(),
        std::fs::metadata(&path).unwrap().len() >> 20
    );
    let names = "
        INSERT INTO label SELECT artifact, 'best', pk, created_at FROM version WHERE pk % 1000 = 0;
        INSERT INTO tag SELECT pk, 'nightly', created_at FROM version WHERE pk % 200 = 0;
        INSERT INTO tag SELECT pk, 'common', created_at FROM version WHERE pk % 3 = 0;
        INSERT INTO alias SELECT owner_uid, 'name-' || artifact, artifact FROM version WHERE pk % 100 = 0;";
    rusqlite::Connection::open(&path).unwrap().execute_batch(names).unwrap();

    let some = |text: &str| Some(text.to_owned());
    let graph = || Filter { graph: some("graph-77"), ..Filter::default() };
    let middle = start + SignedDuration::from_millis(versions as i64 / 2);
    let expression =
        |text: &str, filter: Filter| Filter { expression: Some(text.parse().unwrap()), ..filter };
    let workspace = || Filter { workspace: Some("task-50".parse().unwrap()), ..Filter::default() };
    let none = Filter::default;
    println!("{:48} {:>6} {:>12} {:>12}", "question, page of 100", "rows", "median", "slowest");
    for (name, owner, filter) in [
        ("everything", None, none()),
        ("type, rare", None, Filter { types: vec!["model".into()], ..none() }),
        ("type, common, of an owner", Some(1000), Filter { types: vec!["data".into()], ..none() }),
        ("graph", None, graph()),
        ("graph of an owner", Some(1000), graph()),
        ("run", Some(1000), Filter { run: Some(runs[runs.len() / 2]), ..none() }),
        ("workspace", None, workspace()),
        ("state, rare", None, Filter { states: vec![ArtifactState::Deleted], ..none() }),
        ("every state", None, Filter { states: Vec::new(), ..none() }),
        ("owner", Some(1001), none()),
        ("label on 1 of 1,000", Some(1000), Filter { label: some("best"), ..none() }),
        ("tag on 1 of 200", None, Filter { tag: some("nightly"), ..none() }),
        ("tag on 1 of 3", None, Filter { tag: some("common"), ..none() }),
        (
            "tag on 1 of 200, by size",
            None,
            Filter { tag: some("nightly"), order: "size".parse().unwrap(), ..none() },
        ),
        ("alias", Some(1001), Filter { alias: some("name-100"), ..none() }),
        ("created since", None, Filter { since: Some(middle), ..none() }),
        (
            "created before, oldest first",
            None,
            Filter { before: Some(middle), order: "created:asc".parse().unwrap(), ..none() },
        ),
        (
            "updated since, last updated first",
            None,
            Filter { updated_since: Some(middle), order: "updated".parse().unwrap(), ..none() },
        ),
        ("graph by size", None, Filter { order: "size".parse().unwrap(), ..graph() }),
        ("graph by path", None, Filter { order: "path".parse().unwrap(), ..graph() }),
        (
            "10,000 of a workspace by metadata, all match",
            None,
            expression("metadata.accuracy >= 0 and metadata.hyper.optimizer = 'adam'", workspace()),
        ),
        (
            "10,000 of a workspace by metadata, none match",
            None,
            expression("metadata.accuracy > 2 or metadata.hyper.depth in [40, 41]", workspace()),
        ),
        (
            "10,000 of a workspace by metadata and size",
            None,
            Filter {
                order: "size".parse().unwrap(),
                ..expression("metadata.epoch = 7 and not metadata.accuracy < 0.5", workspace())
            },
        ),
        (
            "10,000 of a workspace by path",
            None,
            Filter { path: Some(Glob::of_path("*77.csv").unwrap()), ..workspace() },
        ),
        ("everything by metadata, none match", None, expression("metadata.accuracy > 2", none())),
        ("everything by size", None, Filter { order: "size".parse().unwrap(), ..none() }),
    ] {
        ask(&catalog, name, owner, &filter);
    }
}
