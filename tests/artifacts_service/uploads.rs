//! Contents on their way to a remote store: one that is in trouble, several nodes with one catalog, and daemons that die.

use crate::world::*;
use belljar::artifact::{Artifacts, Error, Settings, Voice};
use belljar::config::storage::KeepLocal;
use belljar::model::artifact::Author;
use belljar::model::digest::Digest;
use belljar::storage::blob::directory::DirectoryRemote;
use belljar::storage::blob::local::LocalBlobs;
use belljar::storage::catalog::sqlite::SqliteCatalog;
use belljar::storage::memory::remote::{MemoryRemote, Trouble};
use belljar::storage::remote::RemoteStore;
use belljar::wire::storage::{Queue, StorageStatus};
use belljar::wire::verify::{VerifyReport, VerifyRequest};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::{TempDir, tempdir};

/// State directories over one catalog and one remote store, as machines with a common database have them.
struct Cluster {
    shared: TempDir,
    store: Arc<MemoryRemote>,
}

/// One of them, with its daemon and a workspace.
struct Node {
    artifacts: Artifacts,
    workspace: Workspace,
    _state: TempDir,
    _output: TempDir,
}

/// How long a content that was taken is left alone: longer than a batch takes here.
const YOUTH: Duration = Duration::from_secs(1);

impl Cluster {
    fn new() -> Self {
        Self { shared: tempdir().expect("shared"), store: Arc::default() }
    }

    fn node(&self, id: &str) -> Node {
        let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
        let settings = Settings {
            remote: Some(self.store.clone()),
            undo_window: Duration::ZERO,
            ..settings(state.path())
        };
        let blobs = LocalBlobs::open(&state.path().join("blobs"), settings.instance);
        let blobs = Box::new(blobs.expect("blobs").with_youth(YOUTH));
        let catalog = SqliteCatalog::open(&self.shared.path().join("catalog.sqlite"));
        let catalog = Box::new(catalog.expect("catalog"));
        let artifacts = Artifacts::with_storage(settings, blobs, catalog).expect("open");
        let workspace = Workspace::attach(&artifacts, id, output.path());
        Node { artifacts, workspace, _state: state, _output: output }
    }

    fn has(&self, content: &str) -> bool {
        self.store.size(&digest(content)).expect("the store answers").is_some()
    }
}

impl Node {
    fn write(&self, name: &str, content: &str) {
        self.workspace.write(name, content.as_bytes());
        assert!(drain(&self.artifacts).complete);
    }

    fn status(&self) -> StorageStatus {
        self.artifacts.storage_status().expect("status")
    }

    fn queue(&self, own: bool) -> Queue {
        let queues = self.status().queues;
        queues.into_iter().find(|queue| queue.own == own).expect("a queue")
    }

    fn is_sent(&self) {
        assert!(self.artifacts.wait_sent(soon()).expect("wait"));
    }

    /// What reading the latest version of a file comes to.
    fn read(&self, name: &str) -> Result<Vec<u8>, Error> {
        let path = format!("/workspace/output/{name}");
        let found = versions(&self.artifacts).into_iter().rfind(|a| a.path == path);
        let id = found.expect("it is registered").id.to_string();
        let (_, mut file) = self.artifacts.content(None, &id)?;
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut file, &mut bytes).expect("read");
        Ok(bytes)
    }

    fn remove(&self, name: &str) {
        let path = format!("/workspace/output/{name}");
        let found = versions(&self.artifacts).into_iter().rfind(|a| a.path == path);
        let id = found.expect("it is registered").id.to_string();
        self.artifacts.delete(&root(), &id).expect("delete");
    }

    fn end(self) {
        self.workspace.forget();
        shutdown(self.artifacts);
    }
}

fn root() -> Voice {
    Voice { owner: None, author: Author::User(0), scope: None }
}

fn digest(content: &str) -> Digest {
    Digest::from_bytes(*blake3::hash(content.as_bytes()).as_bytes())
}

fn verify(artifacts: &Artifacts) -> VerifyReport {
    let mut request = VerifyRequest::default();
    let mut whole = VerifyReport::default();
    loop {
        let part = artifacts.verify(&root(), true, &request).expect("verify");
        whole.contents += part.contents;
        whole.findings.extend(part.findings);
        if part.next.is_none() {
            return whole;
        }
        request.cursor = part.next;
    }
}

#[test]
fn uploads_that_lack_credentials_say_so_and_go_on_when_there_are_some() {
    let cluster = Cluster::new();
    let node = cluster.node("w");
    cluster.store.set_trouble(Trouble::NoCredentials);
    node.write("f", "bytes");
    wait_until(|| node.queue(true).waiting_for_credentials.contents == 1);
    let status = node.status();
    let remote = status.remote.expect("there is one");
    assert!(!remote.reachable && remote.error.expect("why").contains("credentials"));
    let queue = node.queue(true);
    assert_eq!((queue.waiting_for_credentials.bytes, queue.failed.contents), (5, 0));
    assert!(queue.last_error.expect("why").contains("credentials"));
    cluster.store.set_trouble(Trouble::None);
    node.is_sent();
    assert!(cluster.has("bytes"));
    assert_eq!(verify(&node.artifacts).findings, []);
    node.end();
}

#[test]
fn a_store_that_fails_while_nothing_is_to_be_sent_is_found_to_be_back() {
    let cluster = Cluster::new();
    let node = cluster.node("w");
    node.write("f", "bytes");
    node.is_sent();
    cluster.store.set_trouble(Trouble::Away);
    node.remove("f");
    wait_until(|| node.status().stores.iter().any(|store| store.removals == 1));
    // The removal is tried within a second.
    std::thread::sleep(Duration::from_secs(2));
    cluster.store.set_trouble(Trouble::None);
    wait_until(|| node.status().remote.expect("there is one").error.is_none());
    node.write("g", "more");
    node.is_sent();
    node.end();
}

#[test]
fn a_slow_store_holds_up_neither_registration_nor_the_end() {
    let cluster = Cluster::new();
    let node = cluster.node("w");
    cluster.store.set_trouble(Trouble::Slow(Duration::from_secs(5)));
    let began = Instant::now();
    for number in 0..20 {
        node.write(&format!("f{number}"), &format!("content {number}"));
    }
    assert!(!node.artifacts.wait_sent(Instant::now()).expect("wait"));
    node.end();
    let took = began.elapsed();
    assert!(took < Duration::from_secs(4), "it waited for the store: {took:?}");
}

#[test]
fn nodes_read_each_others_contents_once_they_are_uploaded() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.node("one"), cluster.node("two"));
    cluster.store.set_trouble(Trouble::Away);
    one.write("f", "of the first");
    let node = one.status().node.to_string();
    let error = two.read("f").expect_err("it is on the first node alone").to_string();
    assert!(error.contains(&node) && error.contains("not uploaded yet"), "{error}");
    // Nothing is wrong with that.
    cluster.store.set_trouble(Trouble::None);
    one.is_sent();
    assert_eq!(two.read("f").expect("it was uploaded"), b"of the first");
    assert_eq!(two.read("f").expect("it is here"), b"of the first");
    assert_eq!(cluster.store.fetched(), 1, "what was fetched stays");
    assert_eq!(verify(&two.artifacts).findings, []);
    one.end();
    two.end();
}

#[test]
fn the_same_bytes_of_two_nodes_are_stored_once() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.node("one"), cluster.node("two"));
    std::thread::scope(|scope| {
        for node in [&one, &two] {
            scope.spawn(move || {
                for number in 0..30 {
                    let name = format!("f{number}");
                    node.workspace.write(&name, format!("content {number}").as_bytes());
                }
                assert!(drain(&node.artifacts).complete);
            });
        }
    });
    one.is_sent();
    two.is_sent();
    assert_eq!(cluster.store.stored(), 30);
    let status = one.status();
    assert_eq!((status.queues.len(), status.stores[0].contents), (2, 30));
    assert_eq!(versions(&one.artifacts).len(), 60);
    for node in [&one, &two] {
        assert_eq!(verify(&node.artifacts).findings, []);
    }
    one.end();
    two.end();
}

#[test]
fn what_a_node_left_unsent_is_seen_by_the_others() {
    let cluster = Cluster::new();
    cluster.store.set_trouble(Trouble::Away);
    let (gone, other) = (cluster.node("gone"), cluster.node("other"));
    gone.write("f", "never sent");
    let place = gone.queue(true).place;
    gone.end();
    cluster.store.set_trouble(Trouble::None);
    other.write("g", "sent");
    other.is_sent();
    let queue = other.queue(false);
    let left = queue.waiting.contents + queue.failed.contents;
    assert_eq!((left, queue.uploading.contents, &queue.place), (1, 0, &place));
    assert!(queue.oldest_at.expect("since then") <= queue.last_seen + Duration::from_secs(60));
    let error = other.read("f").expect_err("it is on the node that is gone").to_string();
    assert!(error.contains(&place), "{error}");
    assert_eq!(verify(&other.artifacts).findings, [], "it is not lost");
    other.end();
}

/// Two nodes write and remove the same few contents all the time, so that one removes from the store what the other is just
/// naming. In the end each version that is there must have its bytes in the store.
#[test]
fn what_one_node_sweeps_while_another_writes_it_anew_is_never_missing() {
    const CONTENTS: usize = 24;
    let long = std::env::var_os("BELLJAR_TEST_LONG").is_some();
    let time = Duration::from_secs(if long { 60 } else { 8 });
    let cluster = Cluster::new();
    let nodes = [cluster.node("one"), cluster.node("two")];
    cluster.store.set_trouble(Trouble::Uneven(Duration::from_millis(200)));
    let deadline = Instant::now() + time;
    std::thread::scope(|scope| {
        for (own, node) in nodes.iter().enumerate() {
            scope.spawn(move || {
                let mut round = own * CONTENTS / 2;
                while Instant::now() < deadline {
                    let name = format!("of-{own}");
                    node.write(&name, &format!("content {}", round % CONTENTS));
                    node.remove(&name);
                    // The other one comes to it at another time in each round.
                    round += 1 + own * usize::from(round.is_multiple_of(CONTENTS));
                    std::thread::sleep(Duration::from_millis(60));
                }
                for number in 0..CONTENTS {
                    node.write(&format!("last-{own}-{number}"), &format!("content {number}"));
                }
            });
        }
    });
    cluster.store.set_trouble(Trouble::None);
    for node in &nodes {
        node.is_sent();
    }
    let (stored, removed) = (cluster.store.stored(), cluster.store.removed());
    assert!(removed > 0 && stored > CONTENTS as u64, "stored {stored}, removed {removed}");
    wait_until(|| nodes[0].status().stores.iter().all(|store| store.removals == 0));
    let wanted: BTreeSet<Digest> =
        versions(&nodes[0].artifacts).into_iter().filter_map(|a| a.digest).collect();
    for digest in &wanted {
        assert!(cluster.store.size(digest).expect("size").is_some(), "{digest} is gone");
    }
    for node in nodes {
        let remote = verify(&node.artifacts).findings;
        let wrong: Vec<_> = remote.iter().filter(|f| f.kind.as_str() != "orphan").collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        node.end();
    }
}

// ---- Daemons that are killed ----

const CHILD: &str = "BELLJAR_TEST_UPLOAD_STEPS";
const FILES: usize = 6;

/// The calls by which contents, rows and remote copies come about; see steps.rs.
const CALLS: &[&str] = &["write", "pwrite64", "fsync", "fdatasync", "rename", "unlink", "openat"];

fn with_directory(state: &Path, remote: &Path) -> Artifacts {
    let store = DirectoryRemote::new(remote.to_owned());
    let settings =
        Settings { remote: Some(Arc::new(store)), keep_local: KeepLocal::All, ..settings(state) };
    Artifacts::open(settings).expect("open")
}

#[test]
fn child_that_registers_and_uploads() {
    let Ok(joined) = std::env::var(CHILD) else { return };
    let mut paths = joined.split('|').map(PathBuf::from);
    let mut next = || paths.next().expect("three paths");
    let (state, output, remote) = (next(), next(), next());
    let artifacts = with_directory(&state, &remote);
    let workspace = Workspace::attach(&artifacts, "w", &output);
    for number in 0..FILES {
        workspace.write(format!("f{number}"), format!("content {number}").as_bytes());
        println!("closed f{number}");
        if number == FILES / 2 {
            assert!(drain(&artifacts).complete);
            assert!(artifacts.wait_sent(soon()).expect("wait"));
        }
    }
    assert!(drain(&artifacts).complete);
    assert!(artifacts.wait_sent(soon()).expect("wait"));
    shutdown(artifacts);
    println!("ended");
}

#[test]
fn a_kill_at_any_step_leaves_exactly_one_remote_copy_of_what_was_closed() {
    let long = std::env::var_os("BELLJAR_TEST_LONG").is_some();
    // Each start takes a tenth of a second.
    let stride = if long { 1 } else { 7 };
    let mut halfway = 0;
    for call in CALLS {
        let mut step = 1;
        loop {
            let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
            let remote = tempdir().expect("remote");
            // The catalog is there already: making it has more steps than everything else.
            shutdown(open(state.path()));
            let paths = [state.path(), output.path(), remote.path()].map(Path::to_string_lossy);
            let child = "uploads::child_that_registers_and_uploads";
            let killed =
                crate::steps::run_until_killed(child, (CHILD, paths.join("|")), call, step);
            if killed.ended {
                break;
            }
            halfway += usize::from(!killed.closed.is_empty());
            check(state.path(), remote.path(), &killed.closed, &format!("{call} {step}"));
            step += stride;
            assert!(step < 10_000, "it never ended");
        }
    }
    assert!(halfway > 10, "only {halfway} kills met files on their way");
}

/// What the next daemon makes of what a dead one left.
fn check(state: &Path, remote: &Path, closed: &[String], step: &str) {
    let artifacts = with_directory(state, remote);
    for instance in artifacts.recover().expect("recover").instances {
        instance.remove().expect("remove");
    }
    assert!(drain(&artifacts).complete, "{step}");
    assert!(artifacts.wait_sent(soon()).expect("wait"), "{step}");
    let registered: BTreeSet<Digest> =
        versions(&artifacts).into_iter().filter_map(|artifact| artifact.digest).collect();
    let mut there = Vec::new();
    for first in 0..=255 {
        let store = DirectoryRemote::new(remote.to_owned());
        store.list(first, &mut |content| there.push(content.digest)).expect("list");
    }
    assert_eq!(there.iter().copied().collect::<BTreeSet<_>>(), registered, "{step}");
    for name in closed {
        let content = format!("content {}", name.trim_start_matches('f'));
        assert!(there.contains(&digest(&content)), "{step}: {name} is not uploaded");
    }
    assert_eq!(verify(&artifacts).findings, [], "{step}");
    shutdown(artifacts);
}
