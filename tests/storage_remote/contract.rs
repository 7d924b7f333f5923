//! What every remote store must do.

use crate::proxy::{Fate, Proxy, refusal};
use crate::servers::{self, S3s, garage, moto_that_checks_after, settings, store};
use crate::{bytes, digest, file, long};
use belljar::model::digest::Digest;
use belljar::storage::blob::s3::{CredentialsSource, S3Settings};
use belljar::storage::memory::remote::MemoryRemote;
use belljar::storage::remote::{RemoteContent, RemoteError, RemoteFailure, RemoteStore};
use jiff::{SignedDuration, Timestamp};
use std::io::{self, Write};
use uuid::Uuid;

/// Goes in three parts where contents go in parts, the last of which is short.
const LARGE: usize = (16 << 20) + 12_345;

fn get(store: &dyn RemoteStore, digest: &Digest) -> Result<Vec<u8>, RemoteError> {
    let mut into = Vec::new();
    let count = store.get(digest, None, &mut into)?;
    assert_eq!(count, into.len() as u64, "it says how many bytes it wrote");
    Ok(into)
}

fn list(store: &dyn RemoteStore, first: u8) -> Vec<RemoteContent> {
    let mut found = Vec::new();
    store.list(first, &mut |content| found.push(content)).expect("list");
    found.sort_by_key(|content| content.digest);
    found
}

fn put(store: &dyn RemoteStore, content: &[u8]) -> Digest {
    let digest = digest(content);
    store.put(&digest, &file(content), content.len() as u64).expect("put");
    digest
}

/// The contract. `large` is the size of the largest content.
fn holds(store: &dyn RemoteStore, large: usize) {
    holds_but_for_lists(store, large);
    putting_again_changes_nothing(store);
    a_list_has_every_content_with_its_first_byte_and_nothing_else(store);
}

fn holds_but_for_lists(store: &dyn RemoteStore, large: usize) {
    let name = store.name().to_owned();
    it_belongs_to_the_first_catalog_that_claims_it(store);
    store.check().expect("check");
    it_belongs_to_the_first_catalog_that_claims_it(store);
    what_was_put_comes_back(store, large);
    what_is_not_there_is_said_to_be_missing(store);
    ranges_are_cut_at_the_end(store);
    what_was_deleted_is_gone_and_can_be_put_again(store);
    who_takes_no_bytes_is_told_so(store);
    several_put_the_same_at_once(store, large);
    store.check().expect("check leaves nothing that hinders the next");
    assert_eq!(store.name(), name);
}

fn it_belongs_to_the_first_catalog_that_claims_it(store: &dyn RemoteStore) {
    let (own, other) = (Uuid::from_u128(7), Uuid::from_u128(8));
    store.claim(own).expect("claim");
    store.claim(own).expect("claim again");
    let error = store.claim(other).expect_err("it is another's");
    assert!(
        matches!(error, RemoteError::Store { kind: RemoteFailure::Configuration, .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains(&own.to_string()), "{error}");
}

fn what_was_put_comes_back(store: &dyn RemoteStore, large: usize) {
    for length in [0, 1, 65_537, large] {
        let content = bytes(1, length);
        let digest = put(store, &content);
        assert_eq!(store.size(&digest).expect("size"), Some(length as u64));
        assert!(get(store, &digest).expect("get") == content, "{length} bytes differ");
    }
}

fn what_is_not_there_is_said_to_be_missing(store: &dyn RemoteStore) {
    let nowhere = digest(b"nobody put this");
    assert_eq!(store.size(&nowhere).expect("size"), None);
    store.delete(&nowhere).expect("that it is gone already is no error");
    for range in [None, Some(0..10), Some(5..5)] {
        let error = store.get(&nowhere, range, &mut io::sink()).expect_err("it is not there");
        assert!(
            matches!(&error, RemoteError::Missing { digest, .. } if *digest == nowhere),
            "{error}"
        );
        assert!(!error.is_transient() && !error.needs_credentials());
    }
}

fn ranges_are_cut_at_the_end(store: &dyn RemoteStore) {
    let content = bytes(2, 1_000);
    let digest = put(store, &content);
    for (start, end) in [
        (0, 1_000),
        (0, 1),
        (999, 1_000),
        (200, 700),
        (900, 2_000),
        (0, u64::MAX >> 1),
        (5, 5),
        (1_000, 1_001),
        (3_000, 4_000),
    ] {
        let mut into = Vec::new();
        let count = store.get(&digest, Some(start..end), &mut into).expect("get");
        let (from, to) = (start.min(1_000) as usize, end.min(1_000) as usize);
        assert!(into == content[from..to], "{start}..{end} gave {} bytes", into.len());
        assert_eq!(count, into.len() as u64);
    }
    let empty = put(store, b"");
    assert_eq!(store.get(&empty, Some(0..10), &mut io::sink()).expect("get"), 0);
}

fn putting_again_changes_nothing(store: &dyn RemoteStore) {
    let content = bytes(3, 5_000);
    let digest = put(store, &content);
    put(store, &content);
    assert_eq!(get(store, &digest).expect("get"), content);
    let found = list(store, digest.as_bytes()[0]);
    assert_eq!(found.iter().filter(|found| found.digest == digest).count(), 1);
}

fn a_list_has_every_content_with_its_first_byte_and_nothing_else(store: &dyn RemoteStore) {
    let first = 0x5a;
    let contents: Vec<Vec<u8>> = (1_000..)
        .map(|seed| bytes(seed, 33))
        .filter(|content| digest(content).as_bytes()[0] == first)
        .take(3)
        .collect();
    assert_eq!(list(store, first), [], "nothing was put there yet");
    let mut digests: Vec<Digest> = contents.iter().map(|content| put(store, content)).collect();
    put(store, &bytes(4, 33));
    digests.sort();
    let found = list(store, first);
    assert_eq!(found.iter().map(|found| found.digest).collect::<Vec<_>>(), digests);
    for found in found {
        let age = Timestamp::now().duration_since(found.stored_at);
        assert!(age.abs() < SignedDuration::from_mins(5), "stored {age} ago");
        assert_eq!(found.size, 33);
        store.delete(&found.digest).expect("delete");
    }
    assert_eq!(list(store, first), []);
}

fn what_was_deleted_is_gone_and_can_be_put_again(store: &dyn RemoteStore) {
    let content = bytes(5, 100);
    let digest = put(store, &content);
    store.delete(&digest).expect("delete");
    assert_eq!(store.size(&digest).expect("size"), None);
    assert!(matches!(get(store, &digest), Err(RemoteError::Missing { .. })));
    store.delete(&digest).expect("again");
    put(store, &content);
    assert_eq!(get(store, &digest).expect("get"), content);
}

struct Full;

impl Write for Full {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::StorageFull.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn who_takes_no_bytes_is_told_so(store: &dyn RemoteStore) {
    let digest = put(store, &bytes(6, 100));
    let error = store.get(&digest, None, &mut Full).expect_err("there is no room");
    assert!(matches!(error, RemoteError::Local { .. }), "{error}");
}

fn several_put_the_same_at_once(store: &dyn RemoteStore, large: usize) {
    for length in [10_000, large] {
        let content = bytes(7, length);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| put(store, &content));
            }
        });
        assert!(get(store, &digest(&content)).expect("get") == content, "{length} bytes differ");
    }
}

#[test]
fn memory_holds_the_contract() {
    holds(&MemoryRemote::default(), LARGE);
}

#[test]
fn s3s_holds_the_contract() {
    let server = S3s::start();
    let store = store(server.settings());
    holds(&store, LARGE);
    assert!(store.check().expect("check").conditional_put, "s3s-fs honours conditions");
    assert_eq!(server.leftovers(), [""; 0]);
}

#[test]
fn a_bucket_without_a_prefix_holds_the_contract() {
    let server = S3s::start();
    let store = store(S3Settings { prefix: String::new(), ..server.settings() });
    assert_eq!(store.name(), "s3://artifacts/");
    holds(&store, 100);
}

/// moto 5.2 takes the signature of a query with a slash in it for a wrong one, so it lists only where it checks none.
#[test]
fn moto_holds_the_contract() {
    for (checks_after, lists) in [(3, false), (1_000_000, true)] {
        let (server, keys) = moto_that_checks_after(checks_after);
        let store = store(S3Settings {
            credentials: CredentialsSource::Environment(keys),
            ..settings(server.endpoint.clone())
        });
        match lists {
            true => holds(&store, 1_000),
            false => holds_but_for_lists(&store, LARGE),
        }
        assert!(store.check().expect("check").conditional_put, "moto honours conditions");
    }
}

#[test]
fn garage_holds_the_contract() {
    if !long() {
        println!("not asked for: BELLJAR_TEST_LONG is not 1");
        return;
    }
    let (server, keys) = garage();
    let ours = S3Settings {
        region: "garage".to_owned(),
        credentials: CredentialsSource::Environment(keys.clone()),
        ..settings(server.endpoint.clone())
    };
    let remote = store(ours.clone());
    holds(&remote, LARGE);
    assert!(
        !remote.check().expect("check").conditional_put,
        "garage answers a conditional put with 200 and overwrites: that is found out"
    );
    let elsewhere = store(S3Settings { region: "us-east-1".to_owned(), ..ours.clone() });
    let error = elsewhere.check().expect_err("another region").to_string();
    assert!(error.contains("`storage.remote.region: garage`"), "{error}");
    let wrong = servers::credentials("GK000000000000000000000009", servers::SECRET);
    elsewhere.give_credentials(Some(&wrong)).expect("text");
    let other = store(S3Settings { credentials: CredentialsSource::Environment(wrong), ..ours });
    let error = other.check().expect_err("another key");
    assert!(error.needs_credentials(), "{error}");
}

/// Every kind of fault that passes, spread over the requests.
#[test]
fn over_a_way_that_often_fails_the_contract_holds() {
    let server = S3s::start();
    let proxy = Proxy::new(server.address, |seen, before| match before % 7 {
        2 => refusal("503 Slow Down", "SlowDown", ""),
        4 => Fate::Reset(100),
        6 if seen.method == "GET" => Fate::CutAnswer(300),
        6 => refusal("500 Internal Server Error", "InternalError", ""),
        _ => Fate::Pass,
    });
    holds(&store(settings(proxy.url())), (8 << 20) + 1);
    assert_eq!(server.leftovers(), [""; 0]);
}
