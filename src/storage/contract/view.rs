//! What every catalog answers about artifacts that are shown as files.

use super::{new_version, over_each_catalog};
use crate::model::artifact::{Author, Shelf};
use crate::storage::view::{Scope, ShownVersion, Stretch, Words};
use crate::storage::{ArtifactState, ArtifactType, Catalog, NewVersion, Selected, Which};

fn scope() -> Scope {
    Scope { owner_uid: 1000, workspace: "w".parse().expect("id") }
}

fn data() -> Shelf {
    Shelf::Type(ArtifactType::new("data"))
}

fn files(
    catalog: &dyn Catalog,
    from: &[u8],
    below: Option<&[u8]>,
    seen: Option<i64>,
) -> Vec<ShownVersion> {
    let (shelf, mount) = (data(), "output".parse().expect("name"));
    let stretch = Stretch { shelf: &shelf, mount: &mount, from, below, seen };
    catalog.views().shown_files(&scope(), &stretch, 100).expect("files")
}

fn told(versions: &[ShownVersion]) -> Vec<(String, u64, bool)> {
    let path = |version: &ShownVersion| {
        String::from_utf8_lossy(version.path.as_deref().expect("a path")).into_owned()
    };
    versions.iter().map(|version| (path(version), version.number, version.latest)).collect()
}

fn file(path: &str, number: u64, latest: bool) -> (String, u64, bool) {
    (path.to_owned(), number, latest)
}

#[test]
fn files_come_in_the_order_of_paths_and_the_newest_version_first() {
    over_each_catalog(|catalog| {
        let batch = [("d/b", "1"), ("a", "1"), ("d.x", "1"), ("a", "2"), ("d/a", "1")];
        let batch: Vec<NewVersion> =
            batch.iter().map(|(path, content)| new_version(path, content, None)).collect();
        catalog.register(&batch).expect("register");
        let all = files(catalog, b"", None, None);
        let expected = [
            file("a", 2, true),
            file("a", 1, false),
            file("d.x", 1, true),
            file("d/a", 1, true),
            file("d/b", 1, true),
        ];
        assert_eq!(told(&all), expected);
        assert_eq!(told(&files(catalog, b"d/", Some(b"d0"), None)), expected[3..]);
        assert_eq!(told(&files(catalog, b"a", None, Some(all[0].key))), expected[1..]);
        assert_eq!(told(&files(catalog, b"a", Some(b"b"), Some(all[1].key))), []);
        assert!(all.iter().all(|version| version.created_at.as_second() > 0 && version.size == 1));
    });
}

#[test]
fn only_what_is_committed_kept_and_ones_own_is_shown() {
    over_each_catalog(|catalog| {
        let in_another = NewVersion {
            workspace: "other".parse().expect("id"),
            ..new_version("elsewhere", "1", None)
        };
        let others = NewVersion { owner_uid: 1001, ..new_version("others", "1", None) };
        let large = NewVersion { content_kept: false, ..new_version("grown", "2", None) };
        let batch = [
            in_another,
            others,
            new_version("grown", "1", None),
            large,
            new_version("gone", "1", None),
            new_version("archived", "1", None),
        ];
        catalog.register(&batch).expect("register");
        let id = |path: &str| {
            let all = files(catalog, b"", None, None);
            all.iter().find(|row| row.path.as_deref() == Some(path.as_bytes())).expect("row").id
        };
        let (gone, archived) = (id("gone"), id("archived"));
        let move_to = |id, state| {
            let one = Selected::One(Which::Latest);
            catalog.change_state(None, id, one, state, &Author::User(0)).expect("change");
        };
        move_to(gone, ArtifactState::Deleted);
        move_to(archived, ArtifactState::Archived);
        // The first version of what grew is shown, and is not the latest.
        let shown = [file("archived", 1, true), file("grown", 1, false)];
        assert_eq!(told(&files(catalog, b"", None, None)), shown);
        let versions = catalog.views().shown_versions(&scope(), gone, 0, 10).expect("versions");
        assert_eq!(versions, []);
        let artifacts = catalog.views().shown_artifacts(&scope(), None, 10).expect("artifacts");
        assert_eq!(artifacts.len(), 2);
        assert!(artifacts.iter().all(|(_, found)| *found != gone));
    });
}

#[test]
fn words_artifacts_and_versions_come_in_pages_that_join() {
    over_each_catalog(|catalog| {
        for (number, graph) in ["", "a/b", "g", "g"].into_iter().enumerate() {
            let graph_id = Some(graph.to_owned());
            let artifact_type = ArtifactType::new(if number < 2 { "data" } else { "log" });
            let path = format!("{number}");
            let new = NewVersion { graph_id, artifact_type, ..new_version(&path, "1", None) };
            catalog.register(&[new]).expect("register");
        }
        catalog.register(&[new_version("0", "2", None)]).expect("register");
        let words = |words, after, limit| {
            catalog.views().shown_words(&scope(), words, after, limit).expect("words")
        };
        assert_eq!(words(Words::Graphs, None, 10), ["", "a/b", "g", "graph"]);
        assert_eq!(words(Words::Graphs, Some(""), 2), ["a/b", "g"]);
        assert_eq!(words(Words::Types, None, 1), ["data"]);
        assert_eq!(words(Words::Types, Some("data"), 10), ["log"]);
        let (data, none) = (data(), Shelf::Graph("none".to_owned()));
        assert_eq!(words(Words::Mounts(&data), None, 10), ["output"]);
        assert!(words(Words::Mounts(&none), None, 10).is_empty());

        let mut ids = Vec::new();
        let mut after = None;
        loop {
            let page = catalog.views().shown_artifacts(&scope(), after, 3).expect("artifacts");
            let Some(last) = page.last() else { break };
            after = Some(last.0);
            ids.extend(page.into_iter().map(|(_, id)| id));
        }
        let mut distinct = ids.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!((ids.len(), distinct.len()), (4, 4));

        let first = ids[0];
        let versions = |after, limit| {
            let found = catalog.views().shown_versions(&scope(), first, after, limit);
            found.expect("versions").iter().map(|row| (row.number, row.latest)).collect::<Vec<_>>()
        };
        assert_eq!(versions(0, 1), [(1, false)]);
        assert_eq!(versions(1, 10), [(2, true)]);
    });
}
