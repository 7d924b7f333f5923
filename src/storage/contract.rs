//! What every catalog and every blob store must do, run over each of them.

mod capture;
mod life;
mod lineage;
mod retention;
mod server;
mod upload;
mod view;

use super::blob::local::LocalBlobs;
use super::catalog::postgres::{PostgresCatalog, PostgresSettings};
use super::catalog::sqlite::SqliteCatalog;
use super::memory::{MemoryBlobs, MemoryCatalog};
use super::*;
use server::Server;
use std::io::Read;

mod content;
mod query;

fn new_version(path: &str, content: &str, run: Option<RunId>) -> NewVersion {
    NewVersion {
        owner_uid: 1000,
        host_path: [b"/host/\xff", path.as_bytes()].concat(),
        workspace: "w".parse().expect("id"),
        mount: "output".parse().expect("name"),
        path: VirtualPath::parse(path).expect("path"),
        run,
        graph_id: Some("graph".into()),
        node_id: None,
        writer: Some(Process { pid: 7, uid: 1000, command: Some(b"cp\0a\0b".to_vec()) }),
        artifact_type: ArtifactType::new("data"),
        suspected: None,
        mime: Some("text/csv".into()),
        size: content.len() as u64,
        digest: Digest::from_bytes(*blake3::hash(content.as_bytes()).as_bytes()),
        content_kept: true,
        stamp: None,
        closes: 1,
        metadata: serde_json::json!({ "rows": 2 }).as_object().expect("an object").clone(),
        secrets: SecretSearch::default(),
        inputs: None,
        captured_at: Timestamp::now(),
    }
}

fn every() -> Filter {
    Filter::default()
}

fn over_each_catalog(check: impl Fn(&dyn Catalog)) {
    check(&MemoryCatalog::default());
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("catalog.sqlite");
    check(&SqliteCatalog::open(&path).expect("open"));
    check(&postgres(&Server::shared().database()));
}

fn postgres(connection: &str) -> PostgresCatalog {
    let catalog = crate::config::catalog::Catalog {
        connection: Some(connection.parse().expect("legal")),
        ..Default::default()
    };
    let settings = PostgresSettings::new(&catalog, &|_| None).expect("settings");
    PostgresCatalog::open(&settings).expect("open")
}

#[test]
fn versions_count_up_and_the_same_bytes_make_none() {
    over_each_catalog(|catalog| {
        let (first, second) = (RunId::generate(), RunId::generate());
        let register = |content, run| {
            catalog.register(&[new_version("a.csv", content, Some(run))]).expect("register")[0]
        };
        assert_eq!(register("one", first), Registered::Version(1));
        assert_eq!(register("two", first), Registered::Version(2));
        assert_eq!(register("two", second), Registered::Unchanged(2));
        assert_eq!(register("one", second), Registered::Version(3));
        let numbers = |run| {
            let mut numbers = Vec::new();
            catalog.of_run(run, 10, &mut |row| numbers.push(row.number)).expect("of run");
            let mut first = Vec::new();
            catalog.of_run(run, 1, &mut |row| first.push(row.number)).expect("of run");
            assert_eq!(first, numbers[..1], "no more than asked for");
            numbers
        };
        assert_eq!(numbers(first), [1, 2]);
        assert_eq!(numbers(second), [2, 3], "a run produced what it wrote again");
    });
}

#[test]
fn a_row_comes_back_as_it_was_registered() {
    over_each_catalog(|catalog| {
        let first = new_version("d/a", "one", Some(RunId::generate()));
        let second = NewVersion {
            writer: None,
            suspected: Some(ArtifactType::new("image")),
            mime: None,
            ..new_version("d/a", "two", None)
        };
        catalog.register(&[first.clone(), second.clone()]).expect("register");
        let filter = Filter { all_versions: true, ..every() };
        let rows = catalog.list(None, &filter).expect("list").rows;
        for (row, new) in rows.iter().rev().zip([first, second]) {
            assert_eq!(row.place, Some((new.mount, new.path)));
            assert_eq!(row.workspace, Some(new.workspace));
            assert_eq!((row.run, row.writer.clone()), (new.run, new.writer));
            assert_eq!((row.mime.clone(), row.suspected.clone()), (new.mime, new.suspected));
            assert_eq!((row.size, row.digest), (new.size, Some(new.digest)));
            assert_eq!(row.metadata, new.metadata);
            assert_eq!((row.origin, row.held, row.pinned), (Origin::Observed, false, false));
            assert!(row.aliases.is_empty() && row.labels.is_empty() && row.tags.is_empty());
        }
        assert_eq!((rows[1].parent, rows[0].parent), (None, Some(1)));
    });
}

#[test]
fn an_owner_sees_only_what_is_theirs() {
    over_each_catalog(|catalog| {
        catalog.register(&[new_version("a", "x", None)]).expect("register");
        let other = NewVersion { owner_uid: 1001, ..new_version("a", "x", None) };
        catalog.register(&[other]).expect("register");
        assert_eq!(catalog.list(None, &every()).expect("list").rows.len(), 2);
        let mine = catalog.list(Some(1000), &every()).expect("list").rows;
        assert_eq!(mine.len(), 1);
        assert_eq!(mine[0].host_path, b"/host/\xffa");
        let id = mine[0].id;
        assert!(catalog.find(Some(1001), id, Which::Latest).expect("find").is_none());
        let stolen = catalog.change_state(
            Some(1001),
            id,
            Selected::Every,
            ArtifactState::Deleted,
            &Author::User(1001),
        );
        assert!(stolen.expect("change").is_none());
    });
}

#[test]
fn pages_join_without_gap_or_repetition() {
    over_each_catalog(|catalog| {
        let batch: Vec<_> = (0..25).map(|n| new_version(&format!("f{n}"), "x", None)).collect();
        catalog.register(&batch).expect("register");
        let mut filter = Filter { limit: 10, ..every() };
        let mut seen = Vec::new();
        loop {
            let page = catalog.list(None, &filter).expect("list");
            seen.extend(page.rows.into_iter().filter_map(|row| row.place).map(|(_, path)| path));
            match page.next {
                Some(next) => filter.after = Some(next),
                None => break,
            }
        }
        let expected: Vec<_> = batch.into_iter().rev().map(|new| new.path).collect();
        assert_eq!(seen, expected);
    });
}

#[test]
fn filters_narrow_the_list() {
    over_each_catalog(|catalog| {
        let run = RunId::generate();
        let log = NewVersion {
            artifact_type: ArtifactType::new("log"),
            graph_id: None,
            ..new_version("b", "y", None)
        };
        catalog.register(&[new_version("a", "x", Some(run)), log]).expect("register");
        catalog.register(&[new_version("a", "z", None)]).expect("register");
        let count = |filter: Filter| catalog.list(None, &filter).expect("list").rows.len();
        assert_eq!(count(every()), 2);
        assert_eq!(count(Filter { all_versions: true, ..every() }), 3);
        assert_eq!(count(Filter { types: vec!["log".into()], ..every() }), 1);
        assert_eq!(count(Filter { graph: Some("graph".into()), ..every() }), 1);
        assert_eq!(count(Filter { run: Some(run), all_versions: true, ..every() }), 1);
        assert_eq!(count(Filter { workspace: Some("other".parse().expect("id")), ..every() }), 0);
        assert_eq!(count(Filter { since: Some(Timestamp::MAX), ..every() }), 0);
        assert_eq!(count(Filter { before: Some(Timestamp::MAX), ..every() }), 2);
    });
}

#[test]
fn deletion_marks_and_only_legal_moves_happen() {
    over_each_catalog(|catalog| {
        for content in ["one", "two", "three"] {
            catalog.register(&[new_version("a", content, None)]).expect("register");
        }
        let id = catalog.list(None, &every()).expect("list").rows[0].id;
        let latest = |catalog: &dyn Catalog| {
            let row = catalog.find(None, id, Which::Latest).expect("find").expect("there");
            (row.number, row.state)
        };
        let delete = |selected| {
            catalog.change_state(None, id, selected, ArtifactState::Deleted, &Author::User(0))
        };

        delete(Selected::One(Which::Number(3))).expect("delete").expect("there");
        assert_eq!(latest(catalog), (2, ArtifactState::Ready));
        let again = delete(Selected::One(Which::Number(3))).expect_err("illegal");
        assert!(matches!(again, CatalogError::IllegalTransition { number: 3, .. }), "{again}");

        delete(Selected::Every).expect("delete").expect("there");
        assert_eq!(latest(catalog), (3, ArtifactState::Deleted));
        assert!(delete(Selected::Every).is_err());
        assert!(catalog.list(None, &every()).expect("list").rows.is_empty());

        let again = catalog.register(&[new_version("a", "three", None)]).expect("register");
        assert_eq!(again, [Registered::Version(4)], "a deleted version does not stand for a file");
        assert_eq!(latest(catalog), (4, ArtifactState::Ready));
    });
}

#[test]
fn several_processes_worth_of_connections_never_give_a_number_twice() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("catalog.sqlite");
    let database = Server::shared().database();
    let sqlite = || -> Box<dyn Catalog> {
        Box::new(SqliteCatalog::open(&path).expect("open while others migrate"))
    };
    let postgres = || -> Box<dyn Catalog> { Box::new(postgres(&database)) };
    for open in [&sqlite as &(dyn Fn() -> Box<dyn Catalog> + Sync), &postgres] {
        std::thread::scope(|scope| {
            for writer in 0..4 {
                scope.spawn(move || {
                    let catalog = open();
                    for n in 0..25 {
                        let new = new_version("shared", &format!("{writer} {n}"), None);
                        catalog.register(&[new]).expect("register");
                    }
                });
            }
        });
        let filter = Filter { all_versions: true, limit: 1000, ..every() };
        let rows = open().list(None, &filter).expect("list").rows;
        let mut numbers: Vec<_> = rows.iter().map(|row| row.number).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=100).collect::<Vec<_>>());
    }
}

#[test]
fn what_is_committed_reads_back_and_what_is_not_is_missing() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let local = LocalBlobs::open(directory.path(), uuid::Uuid::now_v7()).expect("open");
    let memory = MemoryBlobs::default();
    for store in [&local as &dyn BlobStore, &memory] {
        let digest = Digest::from_bytes(*blake3::hash(b"content").as_bytes());
        assert!(matches!(store.open(&digest), Err(BlobError::Missing { .. })));
        let mut batch = store.begin().expect("begin");
        let mut writer = batch.writer().expect("writer");
        writer.write_all(b"content").expect("write");
        writer.keep(&digest).expect("keep");
        batch.commit().expect("commit");
        let mut back = String::new();
        store.open(&digest).expect("open").read_to_string(&mut back).expect("read");
        assert_eq!(back, "content");
    }
}
