//! What every catalog must keep of contents on their way to a remote store.

use super::*;
use crate::storage::life::{Amendment, Declaration, DeclaredContent};
use crate::storage::upload::{
    Amount, Destination, GivenUp, QueueRow, Sent, StoreRow, Upload, UploadState,
};
use jiff::SignedDuration;
use uuid::Uuid;

const REMOTE: &str = "s3://bucket/prefix";
const ONE: Uuid = Uuid::from_u128(1);
const TWO: Uuid = Uuid::from_u128(2);

fn node(number: u128) -> Destination {
    Destination {
        node: Uuid::from_u128(number),
        remote: REMOTE.to_owned(),
        place: format!("host{number}:/state"),
    }
}

/// The beginning of time, and seconds after it.
fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000).expect("a time") + SignedDuration::from_secs(second)
}

fn digest(content: &str) -> Digest {
    Digest::from_bytes(*blake3::hash(content.as_bytes()).as_bytes())
}

fn named(content: &str) -> NamedContent {
    NamedContent { digest: digest(content), size: content.len() as u64 }
}

fn register(catalog: &dyn Catalog, path: &str, content: &str) {
    let new = NewVersion { captured_at: at(0), ..new_version(path, content, None) };
    catalog.register(&[new]).expect("register");
}

/// A catalog that sends for node 1.
fn over_each_sending_catalog(check: impl Fn(&dyn Catalog)) {
    over_each_catalog(|catalog| {
        catalog.uploads().send_to(node(1));
        catalog.uploads().note_node(&node(1), at(0)).expect("note");
        check(catalog);
    });
}

fn take(catalog: &dyn Catalog, holder: Uuid, second: i64) -> Vec<Upload> {
    catalog.uploads().take(&node(1), holder, at(second), 10).expect("take")
}

fn settle(catalog: &dyn Catalog, holder: Uuid, upload: &Upload, sent: Sent) {
    let outcomes = [(upload.clone(), sent)];
    catalog.uploads().settle(&node(1), holder, &outcomes, at(50)).expect("settle");
}

fn give_up(catalog: &dyn Catalog, content: &str) -> GivenUp {
    catalog.uploads().give_up(&digest(content), None, at(60)).expect("give up")
}

/// Everything that names the content is given up for ever.
fn sweep(catalog: &dyn Catalog, path: &str) {
    let row = catalog.life().at_path(1000, &new_version(path, "", None).host_path);
    let id = row.expect("look").expect("there").id;
    let every = Selected::Every;
    catalog.change_state(None, id, every, ArtifactState::Deleted, &Author::Belljar).expect("rm");
    let swept = catalog.life().sweep(Timestamp::now() + SignedDuration::from_secs(1), 100);
    assert!(swept.expect("sweep") > 0);
}

#[test]
fn what_is_registered_is_queued_with_its_row_and_only_once() {
    over_each_catalog(|catalog| {
        register(catalog, "before", "before");
        catalog.uploads().send_to(node(1));
        catalog.uploads().send_to(node(2));
        register(catalog, "a", "x");
        register(catalog, "a", "x");
        register(catalog, "b", "x");
        register(catalog, "c", "yy");
        let large = NewVersion { content_kept: false, ..new_version("d", "too large", None) };
        catalog.register(&[large]).expect("register");
        let taken = take(catalog, ONE, 1);
        let mut digests: Vec<_> = taken.iter().map(|upload| (upload.digest, upload.size)).collect();
        digests.sort();
        let mut expected = vec![(digest("x"), 1), (digest("yy"), 2)];
        expected.sort();
        assert_eq!(digests, expected);
        assert!(catalog.uploads().take(&node(2), TWO, at(9), 9).expect("take").is_empty());
    });
}

#[test]
fn a_catalog_is_the_same_for_everybody_who_opens_it_and_another_than_the_next() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let sqlite = |name: &str| SqliteCatalog::open(&directory.path().join(name)).expect("open");
    let identity = |catalog: &dyn Catalog| catalog.uploads().catalog().expect("identity");
    assert_eq!(identity(&sqlite("a")), identity(&sqlite("a")));
    assert_ne!(identity(&sqlite("a")), identity(&sqlite("b")));
    let database = Server::shared().database();
    assert_eq!(identity(&postgres(&database)), identity(&postgres(&database)));
    assert_ne!(identity(&postgres(&database)), identity(&postgres(&Server::shared().database())));
    let memory = MemoryCatalog::default();
    assert_eq!(identity(&memory), identity(&memory));
}

#[test]
fn declared_and_amended_contents_are_queued_too() {
    over_each_sending_catalog(|catalog| {
        let content = |text: &str| DeclaredContent {
            digest: digest(text),
            size: text.len() as u64,
            kept: true,
            artifact_type: ArtifactType::new("file"),
            suspected: None,
            mime: None,
            metadata: Metadata::new(),
            secrets: SecretSearch::default(),
        };
        let declare = |path: &str, held, content| {
            let new = Declaration {
                owner_uid: 1000,
                host_path: path.as_bytes().to_vec(),
                place: None,
                run: None,
                content,
                held,
                amendment: Amendment::default(),
                at: at(0),
            };
            let declared = catalog.life().declare(&[new], &Author::User(1000)).expect("declare");
            declared.into_iter().next().expect("one").expect("legal")
        };
        declare("/a", false, Some(content("declared")));
        let held = declare("/b", true, None);
        assert_eq!(take(catalog, ONE, 1).len(), 1);
        let amendment =
            Amendment { content: Some(content("sent")), ready: true, ..Amendment::default() };
        let author = Author::User(1000);
        catalog.life().amend(None, held.id, held.number, &amendment, &author).expect("amend");
        let now = Timestamp::now();
        let taken = catalog.uploads().take(&node(1), ONE, now, 10).expect("take");
        assert_eq!(taken.iter().map(|upload| upload.digest).collect::<Vec<_>>(), [digest("sent")]);
    });
}

#[test]
fn an_upload_is_one_daemons_until_it_is_settled_or_the_daemon_is_dead() {
    over_each_sending_catalog(|catalog| {
        register(catalog, "a", "x");
        let upload = take(catalog, ONE, 1).remove(0);
        assert_eq!(upload.attempts, 0);
        assert!(take(catalog, TWO, 1_000).is_empty());
        assert_eq!(catalog.uploads().holders(&node(1)).expect("holders"), [ONE]);
        catalog.uploads().let_go(&node(1), ONE).expect("let go");
        let again = take(catalog, TWO, 2).remove(0);
        assert_eq!((again.digest, again.attempts), (upload.digest, 1));
        // The first one was not dead after all: its failure is nobody's business any more.
        let error = "late".to_owned();
        let failed = Sent::Failed { state: UploadState::Failed, error, next_at: at(5) };
        settle(catalog, ONE, &upload, failed);
        assert_eq!(catalog.uploads().holders(&node(1)).expect("holders"), [TWO]);
        settle(catalog, TWO, &again, Sent::Untouched);
        assert_eq!(
            take(catalog, TWO, 3).remove(0).attempts,
            1,
            "what was not tried does not count"
        );
        settle(catalog, TWO, &again, Sent::Done);
        assert!(take(catalog, TWO, 1_000).is_empty());
        let where_is = catalog.uploads().whereabouts(&digest("x")).expect("whereabouts");
        assert_eq!((where_is.stored_in, where_is.queued), (vec![REMOTE.to_owned()], vec![]));
        register(catalog, "b", "x");
        assert!(take(catalog, TWO, 1_000).is_empty(), "the store has it");
    });
}

#[test]
fn what_failed_is_due_when_it_says_or_when_it_is_hurried() {
    over_each_sending_catalog(|catalog| {
        register(catalog, "a", "xx");
        register(catalog, "b", "y");
        let taken = take(catalog, ONE, 1);
        for upload in &taken {
            let (state, next_at) = (UploadState::WaitingForCredentials, at(100));
            settle(catalog, ONE, upload, Sent::Failed { state, error: "who?".into(), next_at });
        }
        assert!(take(catalog, ONE, 99).is_empty());
        let queue = catalog.uploads().queues().expect("queues").remove(0);
        let amount = Amount { contents: 2, bytes: 3 };
        let expected = QueueRow {
            node: ONE,
            place: "host1:/state".to_owned(),
            remote: REMOTE.to_owned(),
            seen_at: at(0),
            amounts: vec![(UploadState::WaitingForCredentials, amount)],
            oldest_at: Some(at(0)),
            last_error: Some("who?".to_owned()),
        };
        assert_eq!(queue, expected);
        catalog.uploads().hurry(&node(1), at(10)).expect("hurry");
        assert_eq!(take(catalog, ONE, 10).len(), 2);
        let left = |second| catalog.uploads().queued_until(&node(1), at(second)).expect("count");
        assert_eq!((left(-1), left(0)), (0, 2));
    });
}

#[test]
fn a_quarantined_content_waits_until_no_quarantined_version_names_it() {
    over_each_sending_catalog(|catalog| {
        let secrets = SecretSearch { quarantined: true, ..SecretSearch::default() };
        let closed =
            NewVersion { secrets, captured_at: at(0), ..new_version("leaky", "secret", None) };
        catalog.register(&[closed]).expect("register");
        // Somebody else's workspace does not know the secret.
        register(catalog, "other", "secret");
        assert!(take(catalog, ONE, 1).is_empty());
        let queue = catalog.uploads().queues().expect("queues").remove(0);
        assert_eq!(queue.amounts[0].0, UploadState::Quarantined);
        assert_eq!(catalog.uploads().queued_until(&node(1), at(9)).expect("count"), 0);
        sweep(catalog, "leaky");
        assert_eq!(take(catalog, ONE, 1_000).len(), 1);
    });
}

#[test]
fn a_content_that_nobody_wants_is_not_sent() {
    over_each_sending_catalog(|catalog| {
        register(catalog, "a", "x");
        sweep(catalog, "a");
        assert!(take(catalog, ONE, 1).is_empty());
        assert_eq!(catalog.uploads().queues().expect("queues")[0].amounts, []);
        assert_eq!(give_up(catalog, "x"), GivenUp::Nothing);
    });
}

#[test]
fn a_stored_content_goes_when_nobody_names_it_and_is_not_sent_meanwhile() {
    over_each_sending_catalog(|catalog| {
        let uploads = catalog.uploads();
        register(catalog, "a", "x");
        let upload = take(catalog, ONE, 1).remove(0);
        assert_eq!(give_up(catalog, "x"), GivenUp::Nothing, "a version names it");
        sweep(catalog, "a");
        assert_eq!(give_up(catalog, "x"), GivenUp::Busy, "it is being sent");
        settle(catalog, ONE, &upload, Sent::Done);
        let take_removals =
            |now, until| uploads.take_removals(REMOTE, at(now), at(until), 9).expect("take");
        assert_eq!(take_removals(60, 100), [digest("x")], "it was swept while it was sent");
        assert!(take_removals(99, 200).is_empty(), "it is somebody's");
        assert_eq!(take_removals(100, 200), [digest("x")], "who did not come back");
        // The same bytes are written again before the store has deleted them.
        register(catalog, "b", "x");
        assert!(take(catalog, ONE, 101).is_empty());
        uploads.removed(REMOTE, &digest("x")).expect("removed");
        let again = take(catalog, ONE, 200).remove(0);
        settle(catalog, ONE, &again, Sent::Done);
        assert_eq!(uploads.whereabouts(&digest("x")).expect("where").stored_in, [REMOTE]);

        sweep(catalog, "b");
        assert_eq!(give_up(catalog, "x"), GivenUp::Removing);
        let stores = uploads.stores().expect("stores");
        let expected =
            StoreRow { remote: REMOTE.to_owned(), stored: Amount::default(), removals: 1 };
        assert_eq!(stores, [expected]);
        assert_eq!(give_up(catalog, "x"), GivenUp::Nothing);
        let never = uploads.give_up(&digest("never"), Some(REMOTE), at(1)).expect("give up");
        assert_eq!(never, GivenUp::Removing, "the store has it, though nobody knows why");
    });
}

#[test]
fn nodes_send_what_they_have_and_one_copy_serves_all() {
    over_each_sending_catalog(|catalog| {
        let uploads = catalog.uploads();
        register(catalog, "a", "x");
        assert!(!uploads.note_node(&node(2), at(7)).expect("note"));
        uploads.node_filled(&node(2)).expect("filled");
        assert!(uploads.note_node(&node(2), at(8)).expect("note"));
        assert_eq!(uploads.queue(&node(2), &[named("x"), named("never")], at(3)).expect("q"), 1);
        assert_eq!(uploads.queue(&node(2), &[named("x")], at(4)).expect("queue"), 0);
        let queued = uploads.whereabouts(&digest("x")).expect("where").queued;
        let nodes: Vec<_> = queued.iter().map(|q| (q.node, q.place.as_str())).collect();
        assert_eq!(nodes, [(ONE, "host1:/state"), (TWO, "host2:/state")]);
        let theirs = uploads.take(&node(2), TWO, at(5), 9).expect("take").remove(0);
        let ours = take(catalog, ONE, 5).remove(0);
        uploads.settle(&node(2), TWO, &[(theirs, Sent::Done)], at(6)).expect("settle");
        settle(catalog, ONE, &ours, Sent::Done);
        assert!(uploads.queues().expect("queues").iter().all(|queue| queue.amounts.is_empty()));
        assert_eq!(uploads.queues().expect("queues")[1].seen_at, at(8));
        let stored = uploads.stores().expect("stores");
        assert_eq!(stored[0].stored, Amount { contents: 1, bytes: 1 });
    });
}

#[test]
fn another_node_is_known_whether_it_sends_or_not() {
    over_each_catalog(|catalog| {
        let uploads = catalog.uploads();
        let knows = |node| uploads.knows_others(node).expect("ask");
        assert!(!knows(ONE));
        for second in 0..2 {
            uploads.note_keeper(ONE, "host1:/state", at(second)).expect("note");
        }
        assert!(!knows(ONE) && knows(TWO));
        uploads.note_node(&node(1), at(3)).expect("note");
        assert!(!knows(ONE));
        uploads.note_keeper(TWO, "host2:/state", at(4)).expect("note");
        assert!(knows(ONE) && knows(TWO));
        assert_eq!(uploads.queues().expect("queues").len(), 1, "one of them sends");
    });
}

#[test]
fn what_a_store_has_is_listed_and_sent_again_when_it_lost_it() {
    over_each_sending_catalog(|catalog| {
        let uploads = catalog.uploads();
        let texts: Vec<String> = (0..40).map(|number| format!("content {number}")).collect();
        for text in &texts {
            register(catalog, text, text);
        }
        for _ in 0..4 {
            for upload in take(catalog, ONE, 1) {
                settle(catalog, ONE, &upload, Sent::Done);
            }
        }
        let mut listed = Vec::new();
        for first in 0..=255 {
            let mut after = None;
            while let Some(content) = uploads.stored(REMOTE, first, after, 1).expect("stored").pop()
            {
                assert_eq!(content.digest.as_bytes()[0], first);
                after = Some(content.digest);
                listed.push(content);
            }
        }
        let mut expected: Vec<_> = texts.iter().map(|text| named(text)).collect();
        expected.sort_by_key(|content| content.digest);
        assert_eq!(listed, expected);
        assert!(
            uploads
                .stored("another", expected[0].digest.as_bytes()[0], None, 9)
                .expect("s")
                .is_empty()
        );
        let unnamed = uploads.unnamed(&[digest("content 1"), digest("nobody's")]).expect("unnamed");
        assert_eq!(unnamed, [digest("nobody's")]);

        uploads.node_filled(&node(1)).expect("filled");
        uploads.send_again(&node(1), &named("content 1"), true, at(3)).expect("again");
        assert!(uploads.note_node(&node(1), at(3)).expect("note"));
        uploads.send_again(&node(1), &named("content 2"), false, at(3)).expect("again");
        assert!(!uploads.note_node(&node(1), at(3)).expect("note"), "each looks what it has");
        let taken = take(catalog, ONE, 9);
        assert_eq!(taken.iter().map(|u| u.digest).collect::<Vec<_>>(), [digest("content 1")]);
        let lost = uploads.whereabouts(&digest("content 2")).expect("where");
        assert!(lost.stored_in.is_empty() && lost.queued.is_empty());
    });
}
