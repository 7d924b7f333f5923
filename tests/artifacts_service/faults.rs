//! Storage that fails, and bounds that are met.

use crate::world::*;
use belljar::artifact::{Artifacts, DrainScope, Settings};
use belljar::model::artifact::{ArtifactState, Author};
use belljar::model::digest::Digest;
use belljar::model::id::{ArtifactId, RunId};
use belljar::storage::lineage::{Input, MadeFrom, Use, VersionKey};
use belljar::storage::memory::{MemoryBlobs, MemoryCatalog};
use belljar::storage::view::ViewCatalog;
use belljar::storage::*;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::tempdir;
use uuid::Uuid;

/// Fails as often as it was told, then works.
#[derive(Clone, Default)]
struct Faults {
    writes: Arc<AtomicI32>,
    commits: Arc<AtomicI32>,
    rows: Arc<AtomicI32>,
    inputs: Arc<AtomicI32>,
    /// Contents that somebody took out of the store between their commit and their row.
    vanished: Arc<AtomicI32>,
    /// Contents that were taken.
    taken: Arc<AtomicI32>,
    /// Another program on the host that writes to this file whenever some of a content was taken.
    meddles_with: Arc<Mutex<Option<PathBuf>>>,
}

fn strikes(counter: &AtomicI32) -> bool {
    counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| (n > 0).then_some(n - 1)).is_ok()
}

fn full() -> io::Error {
    nix::errno::Errno::ENOSPC.into()
}

struct FaultyBlobs(Faults, MemoryBlobs);
struct FaultyBatch<'a>(Faults, Box<dyn BlobBatch + 'a>);
struct FaultyWriter<'a>(Faults, Box<dyn BlobWriter + 'a>);

impl BlobStore for FaultyBlobs {
    fn begin(&self) -> Result<Box<dyn BlobBatch + '_>, BlobError> {
        Ok(Box::new(FaultyBatch(self.0.clone(), self.1.begin()?)))
    }
    fn open(&self, digest: &Digest) -> Result<File, BlobError> {
        self.1.open(digest)
    }
    fn place(
        &self,
        digest: &Digest,
        wanted: &dyn Fn() -> Result<Wanted, CatalogError>,
    ) -> Result<Placed, PlaceError> {
        self.1.place(digest, wanted)
    }
    fn copies(&self, digest: &Digest) -> Result<Vec<ContentCopy>, BlobError> {
        if strikes(&self.0.vanished) { Ok(Vec::new()) } else { self.1.copies(digest) }
    }
    fn survey(&self, part: StorePart, each: &mut dyn FnMut(StoreEntry)) -> Result<(), BlobError> {
        self.1.survey(part, each)
    }
    fn set_aside(&self, digest: &Digest, tier: Tier) -> Result<PathBuf, BlobError> {
        self.1.set_aside(digest, tier)
    }
    fn discard(&self, path: &Path) -> Result<(), BlobError> {
        self.1.discard(path)
    }
    fn forget_instance(&self, dead: Uuid) -> Result<(), BlobError> {
        self.1.forget_instance(dead)
    }
}

impl BlobBatch for FaultyBatch<'_> {
    fn writer(&mut self) -> Result<Box<dyn BlobWriter + '_>, BlobError> {
        Ok(Box::new(FaultyWriter(self.0.clone(), self.1.writer()?)))
    }
    fn commit(self: Box<Self>) -> Result<(), BlobError> {
        if strikes(&self.0.commits) {
            return Err(BlobError::Store { doing: "sync", path: "blobs".into(), source: full() });
        }
        self.1.commit()
    }
}

impl Write for FaultyWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(path) = &*self.0.meddles_with.lock().expect("path") {
            OpenOptions::new().append(true).open(path)?.write_all(b"more")?;
        }
        if strikes(&self.0.writes) { Err(full()) } else { self.1.write(bytes) }
    }
    fn flush(&mut self) -> io::Result<()> {
        self.1.flush()
    }
}

impl BlobWriter for FaultyWriter<'_> {
    fn keep(self: Box<Self>, digest: &Digest) -> Result<(), BlobError> {
        self.0.taken.fetch_add(1, Ordering::SeqCst);
        self.1.keep(digest)
    }
}

struct FaultyCatalog(Faults, MemoryCatalog);

impl Catalog for FaultyCatalog {
    fn register(&self, batch: &[NewVersion]) -> Result<Vec<Registered>, CatalogError> {
        if strikes(&self.0.rows) {
            let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
            let source = rusqlite::Error::SqliteFailure(busy, None);
            return Err(CatalogError::Sql { doing: "register", source });
        }
        // A row that no retry can make good.
        if batch.iter().any(|new| new.path.as_bytes() == b"poison") {
            return Err(CatalogError::Damaged { what: "poison".into() });
        }
        self.1.register(batch)
    }
    fn list(&self, owner: Option<u32>, filter: &Filter) -> Result<VersionPage, CatalogError> {
        self.1.list(owner, filter)
    }
    fn find(
        &self,
        owner: Option<u32>,
        id: ArtifactId,
        which: Which,
    ) -> Result<Option<VersionRow>, CatalogError> {
        self.1.find(owner, id, which)
    }
    fn change_state(
        &self,
        owner: Option<u32>,
        id: ArtifactId,
        selected: Selected,
        next: ArtifactState,
        author: &Author,
    ) -> Result<Option<VersionRow>, CatalogError> {
        self.1.change_state(owner, id, selected, next, author)
    }
    fn life(&self) -> &dyn Life {
        self.1.life()
    }
    fn uploads(&self) -> &dyn Uploads {
        self.1.uploads()
    }
    fn retention(&self) -> &dyn Retention {
        self.1.retention()
    }
    fn last_seen(&self, owner: u32, paths: &[Vec<u8>]) -> Result<Vec<LastSeen>, CatalogError> {
        self.1.last_seen(owner, paths)
    }
    fn of_run(
        &self,
        run: RunId,
        limit: u32,
        each: &mut dyn FnMut(VersionRow),
    ) -> Result<(), CatalogError> {
        self.1.of_run(run, limit, each)
    }
    fn views(&self) -> &dyn ViewCatalog {
        self.1.views()
    }
    fn note_inputs(&self, inputs: &[Input]) -> Result<(), CatalogError> {
        if strikes(&self.0.inputs) {
            let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
            let source = rusqlite::Error::SqliteFailure(busy, None);
            return Err(CatalogError::Sql { doing: "note inputs", source });
        }
        self.1.note_inputs(inputs)
    }
    fn made_from(&self, version: VersionKey, limit: u32) -> Result<MadeFrom, CatalogError> {
        self.1.made_from(version, limit)
    }
    fn used_by(&self, version: VersionKey, limit: u32) -> Result<Vec<Use>, CatalogError> {
        self.1.used_by(version, limit)
    }
}

fn faulty(settings: Settings, faults: &Faults) -> Artifacts {
    let blobs = FaultyBlobs(faults.clone(), MemoryBlobs::default());
    let catalog = FaultyCatalog(faults.clone(), MemoryCatalog::default());
    Artifacts::with_storage(settings, Box::new(blobs), Box::new(catalog)).expect("open")
}

#[test]
fn a_full_disk_and_a_busy_catalog_lose_nothing() {
    let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
    let faults = Faults::default();
    let artifacts = faulty(settings(state.path()), &faults);
    let workspace = Workspace::attach(&artifacts, "w", output.path());
    faults.writes.store(3, Ordering::SeqCst);
    faults.commits.store(3, Ordering::SeqCst);
    faults.rows.store(3, Ordering::SeqCst);
    for n in 0..20 {
        workspace.write(format!("f{n}"), format!("content {n}").as_bytes());
    }
    let drained = drain(&artifacts);
    assert!(drained.complete, "{drained:?}");
    assert_eq!(versions(&artifacts).len(), 20);
    wait_until(|| workspace.pins() == 0);
    shutdown(artifacts);
}

#[test]
fn a_content_that_went_before_its_row_came_is_taken_once_more() {
    let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
    let faults = Faults::default();
    // Looked at after every batch, and not only after one that took long.
    let settings = Settings { doubt: Duration::ZERO, ..settings(state.path()) };
    let artifacts = faulty(settings, &faults);
    let workspace = Workspace::attach(&artifacts, "w", output.path());
    faults.vanished.store(2, Ordering::SeqCst);
    workspace.write("f", b"content");
    let drained = drain(&artifacts);
    assert!(drained.complete, "{drained:?}");
    assert_eq!(faults.vanished.load(Ordering::SeqCst), 0, "it was looked at");
    assert_eq!(faults.taken.load(Ordering::SeqCst), 3, "two were lost and the third stayed");
    assert_eq!(versions(&artifacts).len(), 1);
    shutdown(artifacts);
}

#[test]
fn while_the_disk_is_full_a_drain_says_what_is_missing_and_why() {
    let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
    let faults = Faults::default();
    let artifacts = faulty(settings(state.path()), &faults);
    let workspace = Workspace::attach(&artifacts, "w", output.path());
    faults.commits.store(i32::MAX, Ordering::SeqCst);
    workspace.write("f", b"x");
    let deadline = Instant::now() + Duration::from_millis(300);
    let drained = artifacts.drain(DrainScope::Owner(UID), deadline);
    let (path, reason) = &drained.incomplete[0];
    assert_eq!(path, "/workspace/output/f");
    assert!(reason.contains("No space left on device"), "{reason}");
    faults.commits.store(0, Ordering::SeqCst);
    assert!(drain(&artifacts).complete);
    shutdown(artifacts);
}

#[test]
fn a_file_that_keeps_changing_is_reported_and_registered_when_it_is_quiet() {
    let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
    let faults = Faults::default();
    let artifacts = faulty(settings(state.path()), &faults);
    let workspace = Workspace::attach(&artifacts, "w", output.path());
    *faults.meddles_with.lock().expect("path") = Some(output.path().join("busy.log"));
    workspace.write("busy.log", b"busy");
    let drained = artifacts.drain(DrainScope::All, Instant::now() + Duration::from_millis(300));
    assert_eq!(drained.incomplete.len(), 1);
    assert_eq!(drained.incomplete[0].0, "/workspace/output/busy.log");
    assert!(versions(&artifacts).is_empty());
    *faults.meddles_with.lock().expect("path") = None;
    assert!(drain(&artifacts).complete);
    let size = std::fs::metadata(output.path().join("busy.log")).expect("file").len();
    assert_eq!(versions(&artifacts)[0].size, size);
    shutdown(artifacts);
}

#[test]
fn one_bad_row_holds_up_no_other_and_nobody_waits_for_it() {
    let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
    let artifacts = faulty(settings(state.path()), &Faults::default());
    let workspace = Workspace::attach(&artifacts, "w", output.path());
    for name in ["a", "poison", "b"] {
        workspace.write(name, name.as_bytes());
    }
    let before = Instant::now();
    let drained = drain(&artifacts);
    assert!(before.elapsed() < Duration::from_secs(30));
    assert_eq!(drained.incomplete.len(), 1);
    assert_eq!(paths(&artifacts), ["/workspace/output/a@1", "/workspace/output/b@1"]);
    artifacts.shutdown(Instant::now());
    let left = std::fs::read_dir(state.path().join("instances")).expect("list").count();
    assert_eq!(left, 1, "the journal with what is not registered stays");
}

#[test]
fn at_the_bound_opening_another_file_fails_by_name() {
    let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
    let bounded = Settings { files_max: 2, ..settings(state.path()) };
    let artifacts = Artifacts::open(bounded).expect("open");
    let workspace = Workspace::attach(&artifacts, "w", output.path());
    let first = workspace.open("a").expect("open");
    workspace.open("b").expect("open");
    workspace.open("a").expect("a file that is followed already can be opened again");
    let error = workspace.open("c").expect_err("the bound");
    assert_eq!(error.raw_os_error(), Some(nix::errno::Errno::ENFILE as i32));
    workspace.close(first, false);
    wait_until(|| workspace.open("c").is_ok());
}

#[test]
fn near_the_bound_writers_are_slowed_down_and_none_is_refused() {
    let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
    const MOST: usize = 40;
    let bounded = Settings { files_max: MOST, ..settings(state.path()) };
    let artifacts = Artifacts::open(bounded).expect("open");
    let workspace = Workspace::attach(&artifacts, "w", output.path());
    let mut most = 0;
    for n in 0..400 {
        workspace.write(format!("f{n}"), format!("content {n}").as_bytes());
        most = most.max(artifacts.pending());
    }
    assert!(most <= MOST, "{most} files were followed");
    assert!(most > MOST / 2, "the bound was never near: {most}");
    assert!(drain(&artifacts).complete);
    assert_eq!(versions(&artifacts).len(), 400);
    shutdown(artifacts);
}

#[test]
fn at_the_bound_a_writer_waits_for_room_before_it_is_refused() {
    let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
    let faults = Faults::default();
    let bounded = Settings { files_max: 2, ..settings(state.path()) };
    let artifacts = faulty(bounded, &faults);
    let workspace = Workspace::attach(&artifacts, "w", output.path());
    // The disk is full for as long as it takes to fail a few times.
    faults.commits.store(3, Ordering::SeqCst);
    workspace.write("a", b"a");
    workspace.write("b", b"b");
    let began = Instant::now();
    workspace.open("c").expect("there is room after a moment");
    assert!(began.elapsed() > Duration::from_millis(50), "it waited");
    wait_until(|| artifacts.pending() == 1);
    // What is followed already, and what is ignored, waits for nobody.
    faults.commits.store(i32::MAX, Ordering::SeqCst);
    workspace.open("d").expect("room for one more");
    let began = Instant::now();
    workspace.open("c").expect("followed already");
    workspace.open("x.tmp").expect("ignored");
    assert!(began.elapsed() < Duration::from_millis(900));
    assert!(workspace.open("e").is_err());
    assert!(began.elapsed() >= Duration::from_millis(900), "it waited before it was refused");
}

#[test]
fn an_unreadable_file_is_reported_without_waiting_for_it() {
    let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
    let artifacts = open(state.path());
    let workspace = Workspace::attach(&artifacts, "w", output.path());
    // ELOOP stands for every refusal: unlike EACCES it holds for root too.
    std::os::unix::fs::symlink("loop", output.path().join("loop")).expect("symlink");
    let key = workspace.open("loop").expect("open");
    workspace.close(key, true);
    workspace.write("fine", b"x");
    let before = Instant::now();
    let drained = drain(&artifacts);
    assert!(before.elapsed() < Duration::from_secs(30));
    assert_eq!(drained.incomplete.len(), 1, "{drained:?}");
    assert_eq!(paths(&artifacts), ["/workspace/output/fine@1"]);
}

#[test]
fn a_busy_catalog_loses_no_input() {
    let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
    let faults = Faults::default();
    let artifacts = faulty(settings(state.path()), &faults);
    let mut workspace = Workspace::attach(&artifacts, "w", output.path());
    std::fs::write(output.path().join("in"), "x").expect("write");
    faults.inputs.store(1, Ordering::SeqCst);
    let run = workspace.begin_run(&artifacts);
    workspace.read("in");
    workspace.write("out", b"y");
    assert!(drain(&artifacts).complete);
    artifacts.end_run(run);
    let complete = || made_from(&artifacts, "out").known == belljar::wire::lineage::Known::Complete;
    wait_until(complete);
    shutdown(artifacts);
}
