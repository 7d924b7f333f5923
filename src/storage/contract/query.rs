//! Lists: every way of narrowing and ordering them, and their pages.

use super::*;
use crate::model::expression::samples;
use crate::model::glob::Glob;
use crate::model::order::Order;
use crate::storage::life::{Amendment, Names};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rusqlite::Connection;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Duration;

/// A catalog in a database, and a way to what no call of the contract changes.
struct Database {
    catalog: Box<dyn Catalog>,
    kind: Kind,
}

const FILE: &str = "catalog.sqlite";

enum Kind {
    Sqlite(tempfile::TempDir),
    Postgres(String),
}

/// The same statements for each database.
struct Sql {
    sqlite: &'static str,
    postgres: &'static str,
}

impl Database {
    fn every() -> [Self; 2] {
        Self::in_each(&Server::shared().database())
    }

    /// A new one of SQLite, and the one of PostgreSQL at that place, emptied.
    fn in_each(connection: &str) -> [Self; 2] {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join(FILE);
        let sqlite = Box::new(SqliteCatalog::open(&path).expect("open"));
        let postgres = Box::new(postgres(connection));
        let empty =
            "TRUNCATE belljar.artifact, belljar.version, belljar.produced, belljar.event CASCADE";
        Server::shared().execute(connection, empty);
        [
            Self { catalog: sqlite, kind: Kind::Sqlite(directory) },
            Self { catalog: postgres, kind: Kind::Postgres(connection.to_owned()) },
        ]
    }

    fn change(&self, sql: &Sql) {
        match &self.kind {
            Kind::Sqlite(directory) => {
                let path = directory.path().join(FILE);
                let connection = Connection::open(path).expect("open");
                connection.busy_timeout(Duration::from_secs(5)).expect("set");
                connection.execute_batch(sql.sqlite).expect("change");
            }
            Kind::Postgres(connection) => {
                let text = format!("SET search_path = belljar; {}", sql.postgres);
                Server::shared().execute(connection, &text);
            }
        }
    }

    fn paths(&self, owner: Option<u32>, filter: &Filter) -> Vec<String> {
        names(&self.catalog.list(owner, filter).expect("list").rows)
    }
}

/// `path@number`, sorted.
fn names(rows: &[VersionRow]) -> Vec<String> {
    let mut names: Vec<String> = rows.iter().map(name).collect();
    names.sort();
    names
}

fn name(row: &VersionRow) -> String {
    let path = row.path_seen();
    let last = path.rsplit(|byte| *byte == b'/').next().expect("a name");
    format!("{}@{}", String::from_utf8_lossy(last), row.number)
}

fn moment(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).expect("a time")
}

#[test]
fn several_states_and_types_and_every_time_narrow_the_list() {
    over_each_catalog(|catalog| {
        for (second, path, kind) in
            [(0, "a", "data"), (10, "b", "log"), (20, "c", "model"), (30, "d", "data")]
        {
            let new = NewVersion {
                artifact_type: ArtifactType::new(kind),
                node_id: (kind == "data").then(|| "n".to_owned()),
                captured_at: moment(second),
                ..new_version(path, path, None)
            };
            catalog.register(&[new]).expect("register");
        }
        let list = |filter: Filter| names(&catalog.list(Some(1000), &filter).expect("list").rows);
        let id = catalog.list(None, &every()).expect("list").rows[0].id;
        catalog
            .change_state(None, id, Selected::Every, ArtifactState::Archived, &Author::User(0))
            .expect("change")
            .expect("there");
        let types = |types: &[&str]| types.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(list(every()), ["a@1", "b@1", "c@1"]);
        let both = vec![ArtifactState::Ready, ArtifactState::Archived, ArtifactState::Ready];
        assert_eq!(list(Filter { states: both, ..every() }).len(), 4);
        assert_eq!(list(Filter { states: Vec::new(), ..every() }).len(), 4);
        let archived = Filter { states: vec![ArtifactState::Archived], ..every() };
        assert_eq!(list(archived), ["d@1"]);
        assert_eq!(list(Filter { types: types(&["data", "log"]), ..every() }), ["a@1", "b@1"]);
        assert_eq!(list(Filter { types: types(&["none"]), ..every() }), [""; 0]);
        assert_eq!(list(Filter { node: Some("n".into()), ..every() }), ["a@1"]);
        let middle = Filter { since: Some(moment(10)), before: Some(moment(20)), ..every() };
        assert_eq!(list(middle), ["b@1"]);
        let updated = Filter { states: Vec::new(), updated_since: Some(moment(1_000)), ..every() };
        assert_eq!(list(updated), ["d@1"], "a change of state is a change");
        let untouched = Filter { states: Vec::new(), updated_before: Some(moment(20)), ..every() };
        assert_eq!(list(untouched), ["a@1", "b@1"]);
    });
}

#[test]
fn a_path_pattern_is_for_both_paths() {
    over_each_catalog(|catalog| {
        for path in ["a/x.csv", "a/b/y.csv", "z.json"] {
            catalog.register(&[new_version(path, path, None)]).expect("register");
        }
        let list = |pattern: &str| {
            let path = Some(Glob::of_path(pattern).expect("legal"));
            names(&catalog.list(None, &Filter { path, ..every() }).expect("list").rows)
        };
        assert_eq!(list("*.csv"), ["x.csv@1", "y.csv@1"]);
        assert_eq!(list("output/a/*"), ["x.csv@1"]);
        assert_eq!(list("/workspace/output/**"), ["x.csv@1", "y.csv@1", "z.json@1"]);
        // The host's path has a byte that is not UTF-8.
        assert_eq!(list("/host/?z.json"), ["z.json@1"]);
    });
}

#[test]
fn pages_of_every_order_join_while_rows_are_added() {
    over_each_catalog(|catalog| {
        let add = |letter: &str, number: usize| {
            let path = format!("{letter}{number:03}");
            // Few different values, so that many rows have the same key.
            let new = NewVersion {
                size: number as u64 % 3,
                artifact_type: ArtifactType::new(["data", "log"][number % 2]),
                captured_at: moment(number as i64 % 4),
                ..new_version(&path, &path, None)
            };
            catalog.register(&[new]).expect("register");
        };
        let mut added = 0;
        for text in [
            "created",
            "created:asc",
            "updated",
            "size",
            "size:asc",
            "path",
            "path:desc",
            "type",
            "type:desc",
        ] {
            let order: Order = text.parse().expect("legal");
            for _ in 0..5 {
                added += 1;
                add("f", added);
            }
            let whole = Filter { order, limit: 1_000, ..every() };
            let before: Vec<String> =
                catalog.list(None, &whole).expect("list").rows.iter().map(name).collect();
            let mut filter = Filter { order, limit: 7, ..every() };
            let mut seen = Vec::new();
            loop {
                let page = catalog.list(None, &filter).expect("list");
                seen.extend(page.rows.iter().map(name));
                added += 1;
                add("g", added);
                match page.next {
                    Some(next) => filter.after = Some(next),
                    None => break,
                }
            }
            let once: BTreeSet<&String> = seen.iter().collect();
            assert_eq!(once.len(), seen.len(), "{text}: a row came twice");
            seen.retain(|name| before.contains(name));
            assert_eq!(seen, before, "{text}: a row is missing or in another place");
            let keys: Vec<SortKey> = catalog
                .list(None, &whole)
                .expect("list")
                .rows
                .iter()
                .map(|row| Cursor::of(row, 0, order.by).key)
                .collect();
            let sorted = |pair: &[SortKey]| {
                if order.descending { pair[0] >= pair[1] } else { pair[0] <= pair[1] }
            };
            assert!(keys.windows(2).all(sorted), "{text}: {keys:?}");
        }
    });
}

#[test]
fn labels_tags_and_aliases_narrow_the_list_and_a_label_finds_older_versions() {
    Database::every().iter().for_each(names_narrow);
}

fn names_narrow(disk: &Database) {
    for (path, content) in [("a", "1"), ("a", "2"), ("b", "1")] {
        disk.catalog.register(&[new_version(path, content, None)]).expect("register");
    }
    disk.change(&Sql {
        sqlite: "INSERT INTO label SELECT artifact, 'v', pk, created_at FROM version WHERE path = x'61' AND number = 1;
             INSERT INTO tag SELECT pk, 't', created_at FROM version;
             INSERT INTO alias SELECT 1000, 'n', artifact FROM version WHERE path = x'62';",
        postgres: "INSERT INTO label SELECT artifact, 'v', pk FROM version WHERE path = 'a' AND number = 1;
             INSERT INTO tag SELECT pk, 't' FROM version;
             INSERT INTO alias SELECT 1000, 'n', artifact FROM version WHERE path = 'b';",
    });
    for owner in [None, Some(1000)] {
        let list = |filter: Filter| disk.paths(owner, &filter);
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(list(Filter { label: some("v"), ..every() }), ["a@1"]);
        assert_eq!(list(Filter { tag: some("t"), ..every() }), ["a@2", "b@1"]);
        assert_eq!(list(Filter { tag: some("t"), all_versions: true, ..every() }).len(), 3);
        assert_eq!(list(Filter { alias: some("n"), ..every() }), ["b@1"]);
        assert_eq!(list(Filter { alias: some("n"), tag: some("t"), ..every() }), ["b@1"]);
        assert_eq!(list(Filter { label: some("v"), alias: some("n"), ..every() }), [""; 0]);
        assert_eq!(list(Filter { tag: some("other"), ..every() }), [""; 0]);
    }
    assert_eq!(disk.paths(Some(1), &Filter { alias: Some("n".into()), ..every() }), [""; 0]);
}

/// What the columns of a row hold that no file brings.
const LIFE: Sql = Sql {
    sqlite: "
    UPDATE version SET state = CASE pk % 4 WHEN 0 THEN 'ARCHIVED' WHEN 1 THEN 'DELETED' ELSE 'READY' END,
        pinned = pk % 2, held = pk % 3 = 0, quarantined = pk % 5 = 0,
        origin = CASE pk % 3 WHEN 0 THEN 'declared' ELSE 'observed' END,
        mount = CASE pk % 7 WHEN 0 THEN NULL ELSE mount END, path = CASE pk % 7 WHEN 0 THEN NULL ELSE path END,
        workspace = CASE pk % 7 WHEN 0 THEN NULL ELSE workspace END;
    INSERT OR IGNORE INTO label SELECT artifact, iif(pk % 2, 'x', 'y'), pk, created_at FROM version WHERE pk % 3;
    INSERT INTO tag SELECT pk, 'x', created_at FROM version WHERE pk % 3 = 0 UNION ALL SELECT pk, '10', created_at FROM version WHERE pk % 2;
    INSERT INTO alias SELECT owner_uid, 'x' || pk, artifact FROM version WHERE pk % 4 = 2;",
    postgres: "
    UPDATE version SET state = CASE pk % 4 WHEN 0 THEN 'ARCHIVED' WHEN 1 THEN 'DELETED' ELSE 'READY' END,
        pinned = pk % 2 = 1, held = pk % 3 = 0, quarantined = pk % 5 = 0,
        origin = CASE pk % 3 WHEN 0 THEN 'declared' ELSE 'observed' END,
        mount = CASE pk % 7 WHEN 0 THEN NULL ELSE mount END, path = CASE pk % 7 WHEN 0 THEN NULL ELSE path END,
        workspace = CASE pk % 7 WHEN 0 THEN NULL ELSE workspace END;
    INSERT INTO label SELECT artifact, CASE pk % 2 WHEN 1 THEN 'x' ELSE 'y' END, pk FROM version WHERE pk % 3 > 0
        ON CONFLICT DO NOTHING;
    INSERT INTO tag SELECT pk, 'x' FROM version WHERE pk % 3 = 0 UNION ALL SELECT pk, '10' FROM version WHERE pk % 2 = 1;
    INSERT INTO alias SELECT owner_uid, 'x' || pk, artifact FROM version WHERE pk % 4 = 2;",
};

#[test]
fn every_database_gives_every_expression_the_meaning_that_memory_gives_it() {
    let cases = if std::env::var_os("BELLJAR_TEST_LONG").is_some() { 300 } else { 16 };
    let mut runner = TestRunner::new(Config { cases, ..Config::default() });
    let rows = vec(samples::metadata(), 1..24);
    let expressions = vec(samples::expression(), 40);
    let seen = [Cell::new(0_u32), Cell::new(0)];
    let database = Server::shared().database();
    let outcome = runner.run(&(rows, expressions), |(rows, expressions)| {
        let batch: Vec<NewVersion> = rows
            .into_iter()
            .enumerate()
            .map(|(position, metadata)| NewVersion {
                metadata,
                size: position as u64 % 4,
                graph_id: (position % 2 == 0).then(|| "g".to_owned()),
                run: (position % 3 == 0)
                    .then(|| "01890a5d-ac96-774b-bcce-b302099a8057".parse().expect("id")),
                captured_at: samples::now() - jiff::SignedDuration::from_secs(position as i64 * 60),
                ..new_version(["x", "a/x.csv", "y"][position % 3], &position.to_string(), None)
            })
            .collect();
        for disk in Database::in_each(&database) {
            disk.catalog.register(&batch).expect("register");
            disk.change(&LIFE);
            let everything =
                Filter { states: Vec::new(), all_versions: true, limit: 1_000, ..every() };
            let all = disk.catalog.list(None, &everything).expect("list").rows;
            prop_assert_eq!(all.len(), batch.len());
            for asked in &expressions {
                let expected: Vec<&VersionRow> =
                    all.iter().filter(|row| asked.holds(*row, samples::now())).collect();
                let filter = Filter {
                    expression: Some(asked.clone()),
                    now: samples::now(),
                    ..everything.clone()
                };
                let found = disk.catalog.list(None, &filter).expect("list").rows;
                prop_assert_eq!(found.iter().collect::<Vec<_>>(), expected.clone(), "{}", asked);
                let told_apart = !expected.is_empty() && expected.len() < all.len();
                seen[0].set(seen[0].get() + u32::from(told_apart));
                seen[1].set(seen[1].get() + 1);
            }
        }
        Ok(())
    });
    outcome.expect("the same");
    assert!(seen[0].get() * 10 > seen[1].get(), "expressions told rows apart only {seen:?} times");
}

/// What leads to versions from outside has keys of its own in SQLite, which end with the time and the version as well.
#[test]
fn pages_by_tag_label_and_run_join_in_the_order_of_time() {
    Database::every().iter().for_each(|disk| pages_join_by_time(&*disk.catalog));
}

fn pages_join_by_time(catalog: &dyn Catalog) {
    let (ours, other) = (RunId::generate(), RunId::generate());
    for number in 0..40_i64 {
        let path = format!("f{number:02}");
        let new = NewVersion {
            // Not the order in which they come, and many are made at the same time.
            captured_at: moment(number * 7 % 5),
            ..new_version(&path, &path, Some(if number % 3 == 0 { other } else { ours }))
        };
        catalog.register(&[new]).expect("register");
    }
    let all = Filter { limit: 1_000, ..every() };
    for row in catalog.list(None, &all).expect("list").rows {
        let named = Amendment {
            tags: Names { add: vec!["t".parse().expect("a tag")], ..Names::default() },
            labels: Names { add: vec!["l".parse().expect("a label")], ..Names::default() },
            ..Amendment::default()
        };
        if row.run == Some(ours) {
            let author = Author::User(0);
            let amended = catalog.life().amend(None, row.id, row.number, &named, &author);
            amended.expect("amend").expect("there");
        }
    }
    for text in ["created", "created:asc", "size", "path"] {
        let order: Order = text.parse().expect("legal");
        let rows = catalog.list(None, &Filter { order, ..all.clone() }).expect("list").rows;
        let expected: Vec<String> =
            rows.iter().filter(|row| row.run == Some(ours)).map(name).collect();
        assert_eq!(expected.len(), 26);
        for narrowed in [
            Filter { tag: Some("t".into()), ..every() },
            Filter { label: Some("l".into()), ..every() },
            Filter { run: Some(ours), ..every() },
            Filter { run: Some(ours), tag: Some("t".into()), ..every() },
        ] {
            let mut filter = Filter { order, limit: 7, ..narrowed };
            let mut seen = Vec::new();
            loop {
                let page = catalog.list(None, &filter).expect("list");
                seen.extend(page.rows.iter().map(name));
                let Some(next) = page.next else { break };
                filter.after = Some(next);
            }
            assert_eq!(seen, expected, "{text}: {filter:?}");
            let since = Filter { since: Some(moment(1)), before: Some(moment(3)), ..filter };
            let some = catalog.list(None, &Filter { after: None, limit: 100, ..since });
            let times = |row: &VersionRow| (moment(1)..moment(3)).contains(&row.created_at);
            let some = some.expect("list").rows;
            let every_one = rows.iter().filter(|row| row.run == Some(ours) && times(row));
            assert_eq!(some.len(), every_one.count());
            assert!(some.iter().all(times));
        }
    }
}

/// What JSONB cannot hold or would change.
#[test]
fn metadata_comes_back_as_it_was_written() {
    over_each_catalog(|catalog| {
        let metadata = serde_json::json!({
            "zero": "\0", "\0": 1, "mark": "\u{1}\u{2}", "negative": -0.0, "whole": 1e16, "large": 1e300,
            "small": 5e-324, "unsigned": u64::MAX, "signed": i64::MIN, "one": 1.0, "tenth": 0.1,
            "deep": [{ "\0\u{1}": [null, true, "ü\u{1f600}"] }],
        });
        let metadata = metadata.as_object().expect("an object").clone();
        let new = NewVersion {
            metadata: metadata.clone(),
            graph_id: Some("a\0b\u{1}".to_owned()),
            ..new_version("a", "x", None)
        };
        catalog.register(&[new]).expect("register");
        let filter = Filter { graph: Some("a\0b\u{1}".to_owned()), ..every() };
        let row = catalog.list(None, &filter).expect("list").rows.remove(0);
        assert_eq!(row.graph_id.as_deref(), Some("a\0b\u{1}"));
        let text = |metadata: &Metadata| serde_json::to_string(metadata).expect("text");
        assert_eq!(text(&row.metadata), text(&metadata));
    });
}
