//! The life of versions, over each catalog; tiers and sweeps, over each blob store.

use super::*;
use crate::storage::life::{
    Amendment, Declaration, DeclaredContent, Event, EventFilter, NAMES_MAX, Names, Refusal,
};
use serde_json::json;
use std::fs;
use std::time::{Duration, SystemTime};

const AUTHOR: Author = Author::User(1000);

fn content(text: &str) -> DeclaredContent {
    DeclaredContent {
        digest: digest(text),
        size: text.len() as u64,
        kept: true,
        artifact_type: ArtifactType::new("data"),
        suspected: None,
        mime: None,
        metadata: Metadata::new(),
        secrets: SecretSearch::default(),
    }
}

fn digest(text: &str) -> Digest {
    Digest::from_bytes(*blake3::hash(text.as_bytes()).as_bytes())
}

fn declaration(path: &str, text: Option<&str>) -> Declaration {
    Declaration {
        owner_uid: 1000,
        host_path: [b"/host/\xff", path.as_bytes()].concat(),
        place: None,
        run: None,
        content: text.map(content),
        held: false,
        amendment: Amendment::default(),
        at: Timestamp::now(),
    }
}

fn declare(catalog: &dyn Catalog, new: Declaration) -> Result<VersionRow, Refusal> {
    catalog.life().declare(&[new], &AUTHOR).expect("declare").remove(0)
}

fn amend(
    catalog: &dyn Catalog,
    row: &VersionRow,
    amendment: &Amendment,
) -> Result<VersionRow, CatalogError> {
    let amended = catalog.life().amend(Some(1000), row.id, row.number, amendment, &AUTHOR)?;
    Ok(amended.expect("the version is there"))
}

fn refusal<T: std::fmt::Debug>(result: Result<T, CatalogError>) -> Refusal {
    match result.expect_err("must be refused") {
        CatalogError::Refused(refusal) => refusal,
        other => panic!("{other}"),
    }
}

fn named<T: std::str::FromStr<Err: std::fmt::Debug>>(names: &[&str]) -> Names<T> {
    Names {
        add: names.iter().map(|name| name.parse().expect("legal")).collect(),
        remove: Vec::new(),
    }
}

fn events(catalog: &dyn Catalog, artifact: Option<ArtifactId>) -> Vec<Event> {
    let filter = EventFilter { owner: None, artifact, after: 0, limit: 1_000 };
    catalog.life().events(filter).expect("events")
}

fn change(
    catalog: &dyn Catalog,
    row: &VersionRow,
    next: ArtifactState,
) -> Result<VersionRow, CatalogError> {
    let one = Selected::One(Which::Number(row.number));
    Ok(catalog.change_state(None, row.id, one, next, &AUTHOR)?.expect("there"))
}

#[test]
fn what_was_captured_is_enriched_and_never_registered_twice() {
    over_each_catalog(|catalog| {
        catalog.register(&[new_version("a.csv", "one", None)]).expect("register");
        let amendment = Amendment {
            artifact_type: Some(ArtifactType::new("report")),
            aliases: named(&["report_1"]),
            labels: named(&["v3"]),
            tags: named(&["b", "a"]),
            metadata: json!({ "rows": null, "by": "me" }).as_object().cloned(),
            ..Amendment::default()
        };
        for text in [None, Some("one")] {
            let new = Declaration { amendment: amendment.clone(), ..declaration("a.csv", text) };
            let row = declare(catalog, new).expect("declared");
            assert_eq!((row.number, row.origin), (1, Origin::Observed));
            assert_eq!(row.artifact_type.as_str(), "report");
            assert_eq!((row.aliases, row.labels), (vec!["report_1".into()], vec!["v3".into()]));
            assert_eq!(row.tags, ["a", "b"]);
            assert_eq!(serde_json::Value::Object(row.metadata), json!({ "by": "me" }));
        }
        let row = declare(catalog, declaration("a.csv", Some("two"))).expect("declared");
        assert_eq!((row.number, row.parent, row.origin), (2, Some(1), Origin::Declared));
        assert_eq!((row.state, row.digest), (ArtifactState::Ready, Some(digest("two"))));
        assert!(row.labels.is_empty() && row.tags.is_empty(), "they were said of version 1");
        assert_eq!(row.aliases, ["report_1"]);
        let refused = declare(catalog, declaration("nothing", None)).expect_err("refused");
        assert!(matches!(refused, Refusal::NothingCaptured { .. }), "{refused}");
    });
}

#[test]
fn what_a_declaration_answers_is_what_is_stored() {
    over_each_catalog(|catalog| {
        let amendment = Amendment {
            artifact_type: Some(ArtifactType::new("report")),
            mime: Some("text/x".to_owned()),
            graph_id: Some("g".to_owned()),
            aliases: named(&["z", "a", "z"]),
            labels: named(&["v2", "v1"]),
            tags: named(&["b", "a", "b"]),
            metadata: json!({ "deep": { "f": 0.1, "n": null }, "by": "me" }).as_object().cloned(),
            ..Amendment::default()
        };
        let path = VirtualPath::parse("dir/x").expect("path");
        let place = ("w".parse().expect("id"), "m".parse().expect("name"), path);
        let said =
            Declaration { amendment, run: Some(RunId::generate()), ..declaration("x", None) };
        let found = SecretFinding {
            secret: "KEY".parse().expect("legal"),
            encoding: "raw".to_owned(),
            position: 3,
        };
        let leaking = SecretSearch { found: vec![found], quarantined: true, ..Default::default() };
        // First as it is made, then amended, then with another content.
        for (text, held, secrets) in [
            (None, true, SecretSearch::default()),
            (Some("one"), false, SecretSearch::default()),
            (Some("one"), false, leaking.clone()),
            (Some("two"), false, leaking),
        ] {
            for (path, place) in [("outside", None), ("inside", Some(place.clone()))] {
                let content =
                    text.map(|text| DeclaredContent { secrets: secrets.clone(), ..content(text) });
                let host_path = path.as_bytes().to_vec();
                let amendment = Amendment { move_aliases: true, ..said.amendment.clone() };
                let new =
                    Declaration { host_path, place, content, held, amendment, ..said.clone() };
                let at = Timestamp::now();
                let row = declare(catalog, Declaration { at, ..new }).expect("declared");
                let which = Which::Number(row.number);
                let stored = catalog.find(None, row.id, which).expect("look").expect("there");
                assert_eq!(row, stored);
                assert_eq!((row.aliases.len(), row.labels.len(), row.tags.len()), (2, 2, 2));
            }
        }
        let fresh = declare(
            catalog,
            Declaration { host_path: b"fresh".to_vec(), ..declaration("", Some("x")) },
        );
        let fresh = fresh.expect("declared");
        assert_eq!(catalog.find(None, fresh.id, Which::Latest).expect("look"), Some(fresh));
    });
}

#[test]
fn an_alias_names_one_artifact_of_an_owner_and_moves_only_when_told_to() {
    over_each_catalog(|catalog| {
        let aliased = |path, move_aliases| {
            let amendment =
                Amendment { aliases: named(&["x"]), move_aliases, ..Amendment::default() };
            declare(catalog, Declaration { amendment, ..declaration(path, Some(path)) })
        };
        let first = aliased("a", false).expect("free");
        let refused = aliased("b", false).expect_err("taken");
        assert!(matches!(&refused, Refusal::AliasTaken { holder, .. } if *holder == first.id));
        assert!(
            catalog.life().at_path(1000, b"/host/\xffb").expect("look").is_none(),
            "nothing of it was written"
        );
        let second = aliased("b", true).expect("moves");
        let alias = "x".parse().expect("legal");
        assert_eq!(catalog.life().with_alias(Some(1000), &alias).expect("look"), [second.id]);
        assert!(catalog.life().with_alias(Some(1001), &alias).expect("look").is_empty());
        let other = Declaration {
            owner_uid: 1001,
            amendment: Amendment { aliases: named(&["x"]), ..Amendment::default() },
            ..declaration("a", Some("a"))
        };
        declare(catalog, other).expect("another owner's names are their own");
        assert_eq!(catalog.life().with_alias(None, &alias).expect("look").len(), 2);
    });
}

#[test]
fn a_label_points_to_one_version_and_moves() {
    over_each_catalog(|catalog| {
        let first = declare(catalog, declaration("a", Some("one"))).expect("declared");
        let second = declare(catalog, declaration("a", Some("two"))).expect("declared");
        let amendment = Amendment { labels: named(&["best"]), ..Amendment::default() };
        let label = "best".parse().expect("legal");
        for row in [&first, &second] {
            amend(catalog, row, &amendment).expect("amended");
            let at = catalog.life().with_label(row.id, &label).expect("look");
            assert_eq!(at, Some(row.number));
        }
        let removed = Names { add: Vec::new(), remove: vec![label.clone()] };
        amend(catalog, &first, &Amendment { labels: removed, ..Amendment::default() })
            .expect("amended");
        assert_eq!(catalog.life().with_label(first.id, &label).expect("look"), None);
    });
}

#[test]
fn a_held_version_takes_what_is_captured_until_somebody_says_ready() {
    over_each_catalog(|catalog| {
        let hold = || Declaration { held: true, ..declaration("a", None) };
        let held = declare(catalog, hold()).expect("held");
        assert_eq!((held.state, held.held, held.digest), (ArtifactState::Creating, true, None));
        assert_eq!(declare(catalog, hold()).expect("the same").number, 1);
        let ready = Amendment { ready: true, ..Amendment::default() };
        assert!(matches!(
            refusal(amend(catalog, &held, &ready)),
            Refusal::NoContent { number: 1, .. }
        ));
        let refused = declare(catalog, declaration("a", None)).expect_err("no content");
        assert!(matches!(refused, Refusal::NoContent { .. }), "{refused}");
        for text in ["draft", "final"] {
            let registered = catalog.register(&[new_version("a", text, None)]).expect("register");
            assert_eq!(registered, [Registered::Version(1)]);
            let row = catalog.find(None, held.id, Which::Latest).expect("find").expect("there");
            assert_eq!((row.state, row.digest), (ArtifactState::Creating, Some(digest(text))));
        }
        let draft = catalog.life().placements(10).expect("list");
        assert_eq!(draft.iter().map(|(of, _)| *of).collect::<Vec<_>>(), [digest("draft")]);
        let row = amend(catalog, &held, &ready).expect("READY");
        assert_eq!((row.state, row.held), (ArtifactState::Ready, false));
        assert_eq!((row.digest, row.closes), (Some(digest("final")), 2));
        assert!(matches!(refusal(amend(catalog, &held, &ready)), Refusal::NotHeld { .. }));
        let next = catalog.register(&[new_version("a", "next", None)]).expect("register");
        assert_eq!(next, [Registered::Version(2)]);
    });
}

#[test]
fn what_was_deleted_comes_back_as_it_was_until_it_is_swept() {
    over_each_catalog(|catalog| {
        let ready = declare(catalog, declaration("a", Some("one"))).expect("declared");
        let held =
            declare(catalog, Declaration { held: true, ..declaration("b", None) }).expect("held");
        for (row, back) in [(&ready, ArtifactState::Ready), (&held, ArtifactState::Creating)] {
            let deleted = change(catalog, row, ArtifactState::Deleted).expect("deleted");
            assert!(deleted.deleted_at.is_some());
            assert!(matches!(
                refusal(amend(catalog, row, &Amendment::default())),
                Refusal::IsDeleted { .. }
            ));
            let restored = change(catalog, row, ArtifactState::Ready).expect("restored");
            assert_eq!((restored.state, restored.deleted_at), (back, None));
        }
        change(catalog, &ready, ArtifactState::Archived).expect("archived");
        change(catalog, &ready, ArtifactState::Deleted).expect("deleted");
        assert_eq!(catalog.life().sweep(Timestamp::MIN, 10).expect("sweep"), 0, "not due");
        assert!(catalog.life().wanted(&digest("one")).expect("look").undo);
        assert_eq!(catalog.life().sweep(Timestamp::MAX, 10).expect("sweep"), 1);
        assert_eq!(catalog.life().sweep(Timestamp::MAX, 10).expect("sweep"), 0, "once");
        assert!(!catalog.life().wanted(&digest("one")).expect("look").undo);
        assert!(matches!(
            refusal(change(catalog, &ready, ArtifactState::Ready)),
            Refusal::Swept { .. }
        ));
        let held =
            change(catalog, &held, ArtifactState::Ready).expect_err("READY is said by amending");
        assert!(matches!(held, CatalogError::IllegalTransition { .. }), "{held}");
    });
}

#[test]
fn a_pinned_version_is_not_deleted_and_neither_are_its_brothers_with_it() {
    over_each_catalog(|catalog| {
        let first = declare(catalog, declaration("a", Some("one"))).expect("declared");
        let second = declare(catalog, declaration("a", Some("two"))).expect("declared");
        let pin = |pinned| catalog.life().pin(None, first.id, first.number, pinned, &AUTHOR);
        assert!(pin(true).expect("pin").expect("there").pinned);
        assert!(matches!(
            refusal(change(catalog, &first, ArtifactState::Deleted)),
            Refusal::Pinned { number: 1, .. }
        ));
        let every = || {
            catalog.change_state(None, first.id, Selected::Every, ArtifactState::Deleted, &AUTHOR)
        };
        assert!(matches!(refusal(every()), Refusal::Pinned { .. }));
        let second = catalog.find(None, second.id, Which::Number(2)).expect("find").expect("there");
        assert_eq!(second.state, ArtifactState::Ready);
        pin(false).expect("unpin");
        every().expect("deleted");
    });
}

#[test]
fn bounds_are_met_with_a_name() {
    over_each_catalog(|catalog| {
        let row = declare(catalog, declaration("a", Some("one"))).expect("declared");
        let many: Vec<String> = (0..=NAMES_MAX).map(|n| format!("n{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        for (amendment, what) in [
            (Amendment { aliases: named(&many), ..Amendment::default() }, "aliases"),
            (Amendment { labels: named(&many), ..Amendment::default() }, "labels"),
            (Amendment { tags: named(&many), ..Amendment::default() }, "tags"),
        ] {
            let refused = refusal(amend(catalog, &row, &amendment));
            assert!(refused.to_string().contains(what), "{refused}");
        }
        let large = json!({ "a": "x".repeat(70_000) }).as_object().cloned();
        let large = Amendment { metadata: large, tags: named(&["t"]), ..Amendment::default() };
        assert!(matches!(refusal(amend(catalog, &row, &large)), Refusal::MetadataTooLarge { .. }));
        let parent = Amendment { parent: Some(1), ..Amendment::default() };
        assert!(matches!(refusal(amend(catalog, &row, &parent)), Refusal::NoSuchParent { .. }));
        let now = catalog.find(None, row.id, Which::Latest).expect("find").expect("there");
        assert!(
            now.tags.is_empty() && now.aliases.is_empty(),
            "nothing of what was refused is there"
        );
    });
}

#[test]
fn every_change_is_told_with_its_author_in_order_and_to_its_owner_alone() {
    over_each_catalog(|catalog| {
        let run = RunId::generate();
        catalog.register(&[new_version("a", "one", Some(run))]).expect("register");
        let row = catalog.life().at_path(1000, b"/host/\xffa").expect("look").expect("there");
        let amendment = Amendment {
            aliases: named(&["x"]),
            labels: named(&["l"]),
            tags: named(&["t"]),
            ..Amendment::default()
        };
        amend(catalog, &row, &amendment).expect("amend");
        amend(catalog, &row, &amendment).expect("changes nothing, and tells nothing");
        catalog.life().pin(None, row.id, 1, true, &AUTHOR).expect("pin");
        catalog.life().pin(None, row.id, 1, false, &AUTHOR).expect("unpin");
        change(catalog, &row, ArtifactState::Archived).expect("archive");
        change(catalog, &row, ArtifactState::Deleted).expect("delete");
        catalog.life().sweep(Timestamp::MAX, 10).expect("sweep");
        catalog.register(&[new_version("a", "two", None)]).expect("register");
        let told = events(catalog, Some(row.id));
        let kinds: Vec<&str> = told.iter().map(|event| event.kind.as_str()).collect();
        assert_eq!(
            kinds,
            [
                "created",
                "alias-added",
                "label-set",
                "updated",
                "pinned",
                "unpinned",
                "state",
                "state",
                "swept",
                "version"
            ]
        );
        assert_eq!(told[0].actor, format!("run:{run}"));
        assert_eq!((told[1].actor.as_str(), told[8].actor.as_str()), ("uid:1000", "belljar"));
        assert_eq!(told[6].detail["from"], "READY");
        assert_eq!(told[6].detail["to"], "ARCHIVED");
        assert!(told.windows(2).all(|two| two[0].seq < two[1].seq));
        assert_eq!(catalog.life().newest_event().expect("look"), told[9].seq);
        let after = EventFilter { owner: Some(1000), artifact: None, after: told[7].seq, limit: 1 };
        assert_eq!(catalog.life().events(after).expect("events"), [told[8].clone()]);
        let others = EventFilter { owner: Some(1001), artifact: None, after: 0, limit: 10 };
        assert!(catalog.life().events(others).expect("events").is_empty());
    });
}

#[test]
fn a_reason_that_comes_while_a_content_is_placed_stays() {
    over_each_catalog(|catalog| {
        let row = declare(catalog, declaration("a", Some("one"))).expect("declared");
        change(catalog, &row, ArtifactState::Archived).expect("archive");
        let seen = catalog.life().placements(10).expect("list");
        assert_eq!(seen.len(), 1);
        change(catalog, &row, ArtifactState::Ready).expect("restore");
        catalog.life().placed(&seen[0]).expect("placed");
        let left = catalog.life().placements(10).expect("list");
        assert_eq!(left.len(), 1, "the second reason was not seen");
        catalog.life().placed(&left[0]).expect("placed");
        assert!(catalog.life().placements(10).expect("list").is_empty());
    });
}

fn put(store: &dyn BlobStore, text: &str) {
    let mut batch = store.begin().expect("begin");
    let mut writer = batch.writer().expect("writer");
    writer.write_all(text.as_bytes()).expect("write");
    writer.keep(&digest(text)).expect("keep");
    batch.commit().expect("commit");
}

const fn wanted(main: bool, archive: bool, undo: bool) -> Wanted {
    Wanted { main, archive, undo }
}

#[test]
fn a_content_is_readable_in_every_tier_and_gone_when_nothing_wants_it() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (root, archive) = (directory.path().join("blobs"), directory.path().join("archive"));
    let local = LocalBlobs::open(&root, uuid::Uuid::now_v7()).expect("open");
    let local = local.with_archive(archive).with_youth(Duration::ZERO);
    let memory = MemoryBlobs::with_youth(Duration::ZERO);
    for store in [&local as &dyn BlobStore, &memory] {
        put(store, "content");
        let read = || {
            let mut text = String::new();
            store
                .open(&digest("content"))
                .map(|mut file| file.read_to_string(&mut text).expect("read"))
        };
        let place = |wanted| store.place(&digest("content"), &|| Ok(wanted)).expect("place");
        for wanted in [
            wanted(false, true, false),
            wanted(false, false, true),
            wanted(true, true, false),
            wanted(true, false, false),
            wanted(false, true, true),
            wanted(true, false, true),
        ] {
            assert_eq!(place(wanted), Placed::Done);
            assert_eq!(read().expect("readable"), 7, "{wanted:?}");
        }
        assert_eq!(place(wanted(false, false, false)), Placed::Done);
        assert!(matches!(read(), Err(BlobError::Missing { .. })));
        assert_eq!(place(wanted(true, true, true)), Placed::Done, "what is gone is gone");
    }
}

#[test]
fn an_archived_content_is_in_the_archive_alone_and_a_young_one_in_both_for_a_while() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (root, archive) = (directory.path().join("blobs"), directory.path().join("archive"));
    let local = LocalBlobs::open(&root, uuid::Uuid::now_v7()).expect("open");
    let store = local.with_archive(archive.clone());
    put(&store, "content");
    let hex = digest("content").hex();
    let name = |tier: &std::path::Path| tier.join(&hex[..2]).join(&hex[2..]);
    let place =
        || store.place(&digest("content"), &|| Ok(wanted(false, true, false))).expect("place");
    assert_eq!(place(), Placed::Young);
    assert!(name(&root).exists() && name(&archive).exists());
    age(&name(&root));
    assert_eq!(place(), Placed::Done);
    assert!(!name(&root).exists() && name(&archive).exists());
}

/// Makes a content old.
fn age(path: &std::path::Path) {
    let file = fs::File::open(path).expect("open");
    file.set_modified(SystemTime::now() - Duration::from_secs(3_600)).expect("set the time");
}

#[test]
fn a_removal_that_was_cut_off_in_the_middle_is_taken_back_and_decided_anew() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let local = LocalBlobs::open(directory.path(), uuid::Uuid::now_v7()).expect("open");
    put(&local, "content");
    let hex = digest("content").hex();
    let name = directory.path().join(&hex[..2]).join(&hex[2..]);
    let aside = directory.path().join("tmp").join(format!("aside-{hex}"));
    // The daemon died between moving the content aside and removing it.
    fs::rename(&name, &aside).expect("rename");
    assert!(local.open(&digest("content")).is_ok(), "it can be read meanwhile");
    let place = |wanted| local.place(&digest("content"), &|| Ok(wanted)).expect("place");
    assert_eq!(place(wanted(true, false, false)), Placed::Done);
    assert!(name.exists() && !aside.exists());
    fs::rename(&name, &aside).expect("rename");
    age(&aside);
    assert_eq!(place(wanted(false, false, false)), Placed::Done);
    assert!(!name.exists() && !aside.exists());
}

/// The two halves of an archive move: the row says ARCHIVED and the content has not moved; the content is in both tiers and
/// nothing says that it was placed. Each is a state in which the daemon may have died, and each is read and mended.
#[test]
fn an_archive_move_can_be_cut_off_at_any_point() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (root, archive) = (directory.path().join("blobs"), directory.path().join("archive"));
    let local = LocalBlobs::open(&root, uuid::Uuid::now_v7()).expect("open");
    let store = local.with_archive(archive.clone()).with_youth(Duration::ZERO);
    let catalog = SqliteCatalog::open(&directory.path().join("catalog.sqlite")).expect("open");
    put(&store, "content");
    let row = declare(&catalog, declaration("a", Some("content"))).expect("declared");
    change(&catalog, &row, ArtifactState::Archived).expect("archive");
    assert!(
        store.open(&digest("content")).is_ok(),
        "the row came first, and the content can be read"
    );
    let hex = digest("content").hex();
    let name = |tier: &std::path::Path| tier.join(&hex[..2]).join(&hex[2..]);
    fs::create_dir_all(name(&archive).parent().expect("parent")).expect("make");
    fs::hard_link(name(&root), name(&archive)).expect("the first half of the move");
    let left = catalog.life().placements(10).expect("list");
    assert_eq!(left.len(), 1, "the reason to look is in the transaction of the row");
    let wanted = || catalog.life().wanted(&digest("content"));
    assert_eq!(store.place(&digest("content"), &wanted).expect("place"), Placed::Done);
    assert!(!name(&root).exists() && name(&archive).exists());
    catalog.life().placed(&left[0]).expect("placed");
    assert!(catalog.life().placements(10).expect("list").is_empty());
}

#[test]
fn a_sweep_never_takes_a_content_that_is_registered_again_meanwhile() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let root = directory.path().join("blobs");
    let open = || LocalBlobs::open(&root, uuid::Uuid::now_v7()).expect("open");
    let catalog = directory.path().join("catalog.sqlite");
    let catalog = SqliteCatalog::open(&catalog).expect("open");
    let hex = digest("same").hex();
    let name = root.join(&hex[..2]).join(&hex[2..]);
    let (writer, sweeper) = (open(), open());
    let start = std::sync::Barrier::new(2);
    let rounds = if std::env::var_os("BELLJAR_TEST_LONG").is_some() { 3_000 } else { 60 };
    for round in 0..rounds {
        put(&writer, "same");
        age(&name);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                put(&writer, "same");
                // A batch takes its time from the content to the row.
                std::thread::sleep(Duration::from_millis(2));
                catalog.register(&[new_version("a", "same", None)]).expect("register");
            });
            scope.spawn(|| {
                start.wait();
                std::thread::sleep(Duration::from_micros(round % 60 * 50));
                let wanted = || catalog.life().wanted(&digest("same"));
                sweeper.place(&digest("same"), &wanted).expect("place");
            });
        });
        let row = catalog.life().at_path(1000, b"/host/\xffa").expect("look").expect("there");
        assert_eq!(row.state, ArtifactState::Ready);
        assert!(writer.open(&digest("same")).is_ok(), "round {round}: a row without a content");
        change(&catalog, &row, ArtifactState::Deleted).expect("delete");
        catalog.life().sweep(Timestamp::MAX, 10).expect("sweep");
    }
}
