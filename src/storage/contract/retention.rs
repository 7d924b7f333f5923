//! Plans, policies and the books for verification, over each catalog.

use super::*;
use crate::model::cleanup::{Action, Criteria, PlanState};
use crate::model::id::PolicyName;
use crate::storage::life::{Amendment, EventFilter, Names};
use crate::storage::retention::{LastRun, NewItem, NewPlan, Outcome, Seen};
use jiff::SignedDuration;
use uuid::Uuid;

const AUTHOR: Author = Author::User(1000);

/// The latest versions of `count` files, each with a content of its own.
fn rows(catalog: &dyn Catalog, count: usize) -> Vec<VersionRow> {
    let new =
        |number: usize| new_version(&format!("f{number:03}"), &format!("content {number}"), None);
    let batch: Vec<NewVersion> = (0..count).map(new).collect();
    catalog.register(&batch).expect("register");
    let mut rows = catalog.list(None, &Filter { limit: 1_000, ..every() }).expect("list").rows;
    rows.sort_by(|one, other| one.host_path.cmp(&other.host_path));
    rows
}

fn plan_of(rows: &[VersionRow], action: Action) -> NewPlan {
    let item = |row: &VersionRow| NewItem {
        id: row.id,
        number: row.number,
        action,
        reason: "why".into(),
        seen: Seen::of(row, row.number),
    };
    NewPlan {
        owner: 1000,
        policy: None,
        criteria: Criteria { max_artifacts: Some(1), ..Criteria::default() },
        items: rows.iter().map(item).collect(),
        more: false,
        bytes: rows.iter().map(|row| row.size).sum(),
        at: Timestamp::now(),
    }
}

fn state(catalog: &dyn Catalog, row: &VersionRow) -> ArtifactState {
    let which = Which::Number(row.number);
    catalog.find(None, row.id, which).expect("find").expect("there").state
}

#[test]
fn a_plan_does_what_it_says_once_and_tells_of_it() {
    over_each_catalog(|catalog| {
        let books = catalog.retention();
        let rows = rows(catalog, 5);
        let id = books.add_plan(&plan_of(&rows[..4], Action::Delete)).expect("kept");
        assert!(rows.iter().all(|row| state(catalog, row) == ArtifactState::Ready));
        assert!(books.plan(Some(1001), id).expect("plan").is_none(), "it is of another user");
        assert!(books.apply(Some(1001), id, 10, &AUTHOR).expect("apply").is_none());
        let left = |limit| {
            books.apply(Some(1000), id, limit, &AUTHOR).expect("apply").expect("there").left
        };
        assert_eq!(left(3), 1);
        assert_eq!(books.plan(None, id).expect("plan").expect("there").state, PlanState::Applying);
        assert_eq!(books.unfinished_plans().expect("unfinished"), [id]);
        assert_eq!(left(3), 0);
        let plan = books.plan(None, id).expect("plan").expect("there");
        assert_eq!(
            (plan.state, plan.items, plan.done, plan.skipped),
            (PlanState::Applied, 4, 4, 0)
        );
        assert!(plan.applied_at.is_some() && books.unfinished_plans().expect("none").is_empty());
        // Restored by its owner: applying once more does not take it again.
        let one = Selected::One(Which::Number(1));
        catalog
            .change_state(None, rows[0].id, one, ArtifactState::Ready, &AUTHOR)
            .expect("restore");
        assert_eq!(left(3), 0);
        assert_eq!(state(catalog, &rows[0]), ArtifactState::Ready);
        assert_eq!(state(catalog, &rows[4]), ArtifactState::Ready, "it was not in the plan");
        let filter = EventFilter { owner: None, artifact: Some(rows[1].id), after: 0, limit: 10 };
        let event = catalog.life().events(filter).expect("events").pop().expect("one");
        assert_eq!((event.kind.as_str(), event.actor.as_str()), ("state", "uid:1000"));
        assert_eq!(event.detail["plan"], serde_json::json!(id));
        assert_eq!(event.detail["reason"], "why");
    });
}

#[test]
fn what_changed_since_it_was_planned_is_skipped_with_the_reason() {
    over_each_catalog(|catalog| {
        let (books, life) = (catalog.retention(), catalog.life());
        let rows = rows(catalog, 6);
        let id = books.add_plan(&plan_of(&rows, Action::Delete)).expect("kept");
        catalog.register(&[new_version("f000", "written anew", None)]).expect("register");
        life.pin(None, rows[1].id, 1, true, &AUTHOR).expect("pin");
        let one = Selected::One(Which::Number(1));
        catalog
            .change_state(None, rows[2].id, one, ArtifactState::Archived, &AUTHOR)
            .expect("archive");
        let labels = Names { add: vec!["x".parse().expect("label")], remove: Vec::new() };
        let amendment = Amendment { labels, ..Amendment::default() };
        life.amend(None, rows[3].id, 1, &amendment, &AUTHOR).expect("label");
        let amendment = Amendment { mime: Some("a/b".into()), ..Amendment::default() };
        life.amend(None, rows[4].id, 1, &amendment, &AUTHOR).expect("amend");
        books.apply(None, id, 100, &AUTHOR).expect("apply");
        let items = books.plan_items(id, 0, 100).expect("items");
        let outcomes: Vec<String> = items
            .iter()
            .map(|item| match item.outcome.clone().expect("applied") {
                Outcome::Done => "done".to_owned(),
                Outcome::Skipped(why) => why,
            })
            .collect();
        assert_eq!(
            outcomes,
            [
                "version 2 was made",
                "it was pinned",
                "it became ARCHIVED",
                "its labels, tags or aliases changed",
                "it was changed",
                "done"
            ]
        );
        assert_eq!(books.plan_items(id, 4, 1).expect("page")[0].version.id, rows[4].id);
        let plan = books.plan(None, id).expect("plan").expect("there");
        assert_eq!((plan.done, plan.skipped), (1, 5));
    });
}

#[test]
fn archiving_by_plan_notes_since_when_and_deleting_follows_the_latest_version() {
    over_each_catalog(|catalog| {
        let rows = rows(catalog, 1);
        let archive = plan_of(&rows, Action::Archive);
        let id = catalog.retention().add_plan(&archive).expect("kept");
        catalog.retention().apply(None, id, 10, &Author::Belljar).expect("apply");
        let row = catalog.find(None, rows[0].id, Which::Latest).expect("find").expect("there");
        assert_eq!((row.state, row.archived_at), (ArtifactState::Archived, Some(row.updated_at)));
        catalog.register(&[new_version("f000", "second", None)]).expect("register");
        let second = catalog.find(None, row.id, Which::Latest).expect("find").expect("there");
        let id = catalog.retention().add_plan(&plan_of(&[second], Action::Delete)).expect("kept");
        catalog.retention().apply(None, id, 10, &AUTHOR).expect("apply");
        let latest = catalog.find(None, row.id, Which::Latest).expect("find").expect("there");
        assert_eq!(latest.number, 1);
    });
}

#[test]
fn old_plans_go_and_one_that_is_being_applied_stays() {
    over_each_catalog(|catalog| {
        let books = catalog.retention();
        let rows = rows(catalog, 2);
        let begun = books.add_plan(&plan_of(&rows, Action::Archive)).expect("kept");
        books.apply(None, begun, 1, &AUTHOR).expect("apply");
        let first = books.add_plan(&plan_of(&rows, Action::Archive)).expect("kept");
        for _ in 0..crate::storage::retention::PLANS_KEPT {
            books.add_plan(&plan_of(&rows[..1], Action::Archive)).expect("kept");
        }
        assert!(books.plan(None, begun).expect("plan").is_some());
        assert!(books.plan(None, first).expect("plan").is_none());
        assert_eq!(books.plans(Some(1000), 5).expect("plans").len(), 5);
        assert!(books.plans(Some(1001), 5).expect("plans").is_empty());
    });
}

#[test]
fn a_policy_is_claimed_by_one_until_it_is_done_or_its_lease_ends() {
    over_each_catalog(|catalog| {
        let books = catalog.retention();
        let (one, other) = (Uuid::now_v7(), Uuid::now_v7());
        let start = Timestamp::from_second(1_700_000_000).expect("a time");
        let at = |second: i64| start + SignedDuration::from_secs(second);
        let criteria = Criteria { max_artifacts: Some(1), ..Criteria::default() };
        let name: PolicyName = "p".parse().expect("name");
        let second: PolicyName = "q".parse().expect("name");
        books.set_policy(Some(1000), &name, &criteria, 60_000, at(10)).expect("set");
        books.set_policy(None, &second, &criteria, 60_000, at(20)).expect("set");
        assert!(books.claim_policy(one, at(9), at(100)).expect("claim").is_none(), "not due");
        let claimed = books.claim_policy(one, at(30), at(100)).expect("claim").expect("due");
        assert_eq!((&claimed.name, claimed.owner), (&name, Some(1000)), "due for longest");
        assert!(books.claim_policy(other, at(31), at(200)).expect("claim").is_none());
        assert!(books.renew_claim(one, at(90), at(150)).expect("renew"));
        assert!(!books.renew_claim(other, at(90), at(150)).expect("renew"));
        assert!(books.claim_policy(other, at(120), at(200)).expect("claim").is_none());
        // The lease ends: another takes it, and the first has no say.
        let taken = books.claim_policy(other, at(151), at(300)).expect("claim").expect("free");
        assert_eq!(taken.name, name);
        assert!(!books.renew_claim(one, at(152), at(400)).expect("renew"));
        let last = |instance| LastRun {
            at: at(160),
            instance,
            plans: Vec::new(),
            done: 2,
            skipped: 1,
            error: None,
        };
        books.end_claim(one, &last(one), at(160)).expect("void");
        books.end_claim(other, &last(other), at(160)).expect("end");
        let policies = books.policies(Some(1000)).expect("policies");
        assert_eq!(policies.len(), 2, "their own and the configuration's");
        assert_eq!((policies[0].runs, policies[0].next_at), (1, at(220)));
        assert_eq!(policies[0].last.as_ref().expect("ran").instance, other);
        assert_eq!(books.policies(Some(7)).expect("policies").len(), 1);
        let next = books.claim_policy(one, at(161), at(300)).expect("claim").expect("due");
        assert_eq!(next.name, second);
        assert!(!books.remove_policy(Some(7), &name).expect("remove"));
        assert!(books.remove_policy(Some(1000), &name).expect("remove"));
        assert_eq!(books.policies(None).expect("policies").len(), 1);
    });
}

#[test]
fn a_lost_content_is_noted_on_every_version_and_the_same_bytes_make_a_new_one() {
    over_each_catalog(|catalog| {
        let books = catalog.retention();
        catalog
            .register(&[new_version("a", "same", None), new_version("b", "same", None)])
            .expect("register");
        catalog.register(&[new_version("c", "other", None)]).expect("register");
        let digest = new_version("a", "same", None).digest;
        assert_eq!(books.owners().expect("owners"), [1000]);
        let named = books.named_contents(None, None, 10).expect("named");
        assert_eq!(named.len(), 2);
        assert!(named[0].digest < named[1].digest);
        let rest = books.named_contents(None, Some(named[0].digest), 10).expect("named");
        assert_eq!(rest, named[1..]);
        assert!(books.named_contents(Some(1001), None, 10).expect("named").is_empty());
        assert_eq!(books.lose(&digest, &|| false, &AUTHOR).expect("lose"), 0);
        assert_eq!(books.lost(None).expect("lost"), 0);
        assert_eq!(books.naming(None, &digest, 10).expect("naming").len(), 2);
        assert_eq!(books.lose(&digest, &|| true, &AUTHOR).expect("lose"), 2);
        assert_eq!((books.lost(None).expect("lost"), books.lost(Some(7)).expect("lost")), (2, 0));
        assert!(books.naming(None, &digest, 10).expect("naming").is_empty());
        let registered = catalog.register(&[new_version("a", "same", None)]).expect("register");
        assert_eq!(registered, [Registered::Version(2)], "its content can be kept again");
        let filter = EventFilter { owner: None, artifact: None, after: 0, limit: 100 };
        let events = catalog.life().events(filter).expect("events");
        assert_eq!(events.iter().filter(|event| event.kind == "content-lost").count(), 2);
    });
}

fn stored(store: &dyn BlobStore, text: &str) -> Digest {
    let digest = Digest::from_bytes(*blake3::hash(text.as_bytes()).as_bytes());
    let mut batch = store.begin().expect("begin");
    let mut writer = batch.writer().expect("writer");
    writer.write_all(text.as_bytes()).expect("write");
    writer.keep(&digest).expect("keep");
    batch.commit().expect("commit");
    digest
}

/// Everything in every part of the store.
fn surveyed(store: &dyn BlobStore) -> Vec<StoreEntry> {
    let mut entries = Vec::new();
    let parts = [Tier::Main, Tier::Archive].into_iter();
    let parts = parts.flat_map(|tier| (0..=255).map(move |first| StorePart::Contents(tier, first)));
    for part in parts.chain([StorePart::Rest]) {
        store.survey(part, &mut |entry| entries.push(entry)).expect("survey");
    }
    entries
}

#[test]
fn a_store_tells_what_is_in_it_and_a_copy_set_aside_can_be_taken_anew() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let local = LocalBlobs::open(&directory.path().join("blobs"), Uuid::now_v7()).expect("open");
    let local = local.with_damaged(directory.path().join("damaged"));
    let memory = MemoryBlobs::default();
    for store in [&local as &dyn BlobStore, &memory] {
        assert!(surveyed(store).is_empty());
        let digest = stored(store, "content");
        let entry = StoreEntry::Content { digest, tier: Tier::Main, young: true };
        assert_eq!(surveyed(store), [entry]);
        let read = || {
            let mut text = String::new();
            let mut copies = store.copies(&digest).expect("copies");
            assert!(copies.len() <= 1);
            copies.pop().map(|mut copy| copy.file.read_to_string(&mut text).map(|_| text))
        };
        assert_eq!(read().expect("there").expect("read"), "content");
        store.set_aside(&digest, Tier::Main).expect("aside");
        assert!(read().is_none() && surveyed(store).is_empty());
        stored(store, "content");
        assert_eq!(read().expect("there").expect("read"), "content");
    }
    let kept = std::fs::read_dir(directory.path().join("damaged")).expect("list").count();
    assert_eq!(kept, 1, "the bytes are there to be looked at");
}

#[test]
fn the_local_store_tells_every_kind_of_name_from_every_other() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let root = directory.path().join("blobs");
    let archive = directory.path().join("archive");
    let store =
        LocalBlobs::open(&root, Uuid::now_v7()).expect("open").with_archive(archive.clone());
    let plant = |path: &std::path::Path| {
        std::fs::create_dir_all(path.parent().expect("parent")).expect("make");
        std::fs::write(path, "x").expect("write");
        path.to_owned()
    };
    let (instance, hex) = (Uuid::now_v7(), "ab".repeat(32));
    let digest: Digest = format!("blake3:{hex}").parse().expect("digest");
    let temporary = plant(&root.join("tmp").join(format!("{instance}-7")));
    plant(&root.join("tmp").join(format!("aside-{hex}")));
    plant(&root.join("tmp/placing.lock"));
    let partial = plant(&archive.join("ab").join(format!("{}.part", &hex[2..])));
    plant(&archive.join("ab").join(&hex[2..]));
    let foreign = [
        plant(&root.join("ab/notes")),
        plant(&root.join("tmp/notes")),
        plant(&root.join("AB")),
        plant(&archive.join("notes")),
    ];
    let entries = surveyed(&store);
    let mut expected = vec![
        StoreEntry::Content { digest, tier: Tier::Archive, young: true },
        StoreEntry::Partial { path: partial, young: true },
        StoreEntry::Temporary { path: temporary.clone(), instance },
        StoreEntry::Aside { digest, young: true },
    ];
    expected.extend(foreign.map(|path| StoreEntry::Foreign { path }));
    for entry in &expected {
        assert!(entries.contains(entry), "{entry:?} is not in {entries:?}");
    }
    assert_eq!(entries.len(), expected.len(), "{entries:?}");
    store.discard(&temporary).expect("discard");
    store.discard(&temporary).expect("that it is gone is no error");
    assert!(!temporary.exists());
}
