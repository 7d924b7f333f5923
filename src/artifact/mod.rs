//! Artifacts: what a process writes becomes a version by itself.
//!
//! ```text
//! vfs ──WriteObserver──▶ observer ─▶ journal + dirty_set ─▶ schedule ─▶ registrar ─▶ storage
//!                                          ▲                               │
//!                         recovery ────────┘        acknowledgement ◀──────┘
//! ```
//!
//! A write is noted in the journal before the kernel is answered; a file that was closed and stayed quiet is copied,
//! its content stored, its row stored, and only then it is acknowledged in the journal. Whatever fails on the way is
//! tried again, by this daemon or, when it dies, by the next one. `docs/decisions/0002-journal-and-recovery.md` has the
//! formats and the algorithm.
//!
//! All calls of [`Artifacts`] but those of its observers may block; async code makes them from a blocking pool.

pub mod backend;
mod choose;
mod cleanup;
mod copy;
mod cursor;
pub mod declare;
pub mod detect;
mod dirty_set;
mod error;
mod examine;
mod fetch;
mod input_digests;
mod inputs;
pub mod inspect;
mod instance;
mod journal;
mod learn;
mod life;
mod lineage;
mod locate;
mod names;
mod node;
mod observer;
mod older;
mod record;
mod recovery;
mod reference;
mod registrar;
mod registry;
pub mod rules;
mod scan;
mod schedule;
mod scheduler;
mod secrets;
mod service;
mod settings;
mod stores;
mod sweeper;
mod ticker;
mod upkeep;
mod uploader;
mod upstream;
mod verify;
mod views;
mod watch;
mod writers;

pub use error::Error;
pub use instance::InstanceInfo;
pub use life::Voice;
pub use recovery::{InstanceRecord, Recovered};
pub use scan::{ScanError, Scanned};
pub use schedule::{DrainScope, Drained};
pub use secrets::SecretSource;
pub use settings::Settings;

use crate::model::artifact::ScanPolicy;
use crate::model::id::{MountName, RunId, WorkspaceId};
use crate::storage::blob::local::LocalBlobs;
use crate::storage::catalog::postgres::{PostgresCatalog, PostgresSettings};
use crate::storage::catalog::sqlite::SqliteCatalog;
use crate::storage::upload::Destination;
use crate::storage::view::Scope;
use crate::storage::{BlobStore, Catalog, CatalogError, Filter};
use crate::vfs::observer::{FileSource, WriteObserver};
use crate::vfs::views::ViewSource;
use crate::wire::artifact::{Artifact, ArtifactPage, ArtifactQuery};
use crate::wire::lineage::{Lineage, LineageQuery};
use dirty_set::DirtySet;
use instance::Instance;
use journal::Journal;
use observer::Observer;
use record::{MountRecord, Record, RunInfo, WorkspaceRecord};
use rules::Rules;
use schedule::Schedule;
use service::{Parts, Service};
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use ticker::Ticker;
use upstream::Upstream;
use uuid::Uuid;
use watch::Watch;

/// How many owners have a large file copied at the same time, one each. Chosen, not measured: one more than the
/// processors of a small machine, since some wait for the disk.
const LARGE_OWNERS_MAX: usize = 3;

/// How long the end of a run waits until what it had read is stored. Chosen, not measured: digests are taken while the run goes
/// on, so that only a short run that read much has something left.
const INPUTS_PATIENCE: Duration = Duration::from_secs(2);

/// How long the end waits for what is being uploaded. The next daemon sends it again. Chosen: a small content takes less.
const UPLOADERS_PATIENCE: Duration = Duration::from_millis(250);

/// The artifact service of one daemon. Clones share it; dropping the last one stops it without waiting, and what was
/// not registered is recovered by the next daemon.
#[derive(Debug, Clone)]
pub struct Artifacts {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    service: Arc<Service>,
    sweeper: Ticker,
    /// In a daemon that serves for longer than a command.
    scheduler: Option<Ticker>,
    /// Where there is a remote store: what sends, and what looks after it.
    uploaders: Vec<Ticker>,
}

/// A workspace whose writes are to be followed.
#[derive(Debug, Clone)]
pub struct AttachedWorkspace {
    pub id: WorkspaceId,
    pub owner_uid: u32,
    pub mounts: Vec<AttachedMount>,
}

#[derive(Debug, Clone)]
pub struct AttachedMount {
    pub name: MountName,
    /// Absolute; with the owner it is what a file is known by.
    pub host_path: PathBuf,
    /// Which directory that is, so that recovery takes no other for it.
    pub host_dev: u64,
    pub host_ino: u64,
    /// Whether files written here become artifacts.
    pub artifacts: bool,
}

/// A workspace that is followed. Dropping it changes nothing; [`Artifacts::detach`] ends it.
#[derive(Debug, Clone)]
pub struct Attachment {
    service: Arc<Service>,
    number: u32,
    observer: Arc<Observer>,
}

impl Attachment {
    /// What the workspace's file system reports its writes to.
    pub fn observer(&self) -> Arc<dyn WriteObserver> {
        self.observer.clone()
    }

    /// The file system itself, once it is built. Without it files are found by their host paths, as after a crash.
    pub fn set_source(&self, source: Arc<dyn FileSource>) {
        self.service.set_source(self.number, source);
    }

    /// The workspace's secrets, which are looked for in what is written. Without them each version says that they were
    /// not known.
    pub fn set_secrets(&self, secrets: Arc<dyn SecretSource>) {
        self.service.set_secrets(self.number, secrets);
    }
}

/// A run to which writes may be attributed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRecord {
    pub id: RunId,
    pub graph_id: Option<String>,
    pub node_id: Option<String>,
}

/// How many times as long as one connection may take a database is waited for. Chosen, not measured: with the usual 10 s a
/// server that recovers from a crash is up by then, and a service manager does not give up on us yet.
const DATABASE_PATIENCE: u32 = 6;

const DATABASE_PAUSE: Duration = Duration::from_millis(500);

/// The remote store, told to the catalog, which queues from here on what is registered.
fn upstream(node: Uuid, settings: &Settings, catalog: &dyn Catalog) -> Option<Arc<Upstream>> {
    let store = settings.remote.clone()?;
    let (remote, place) = (store.name().to_owned(), node::place(&settings.state_dir));
    let destination = Destination { node, remote, place };
    catalog.uploads().send_to(destination.clone());
    Some(Arc::new(Upstream::new(store, destination)))
}

fn state_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::State { doing, path: path.to_owned(), source }
}

/// Opens the catalog in a database. While the server is away it is tried again for some time: after a power cut both machines
/// start at once.
fn open_database(settings: &PostgresSettings) -> Result<PostgresCatalog, CatalogError> {
    let give_up = Instant::now() + settings.connect_timeout() * DATABASE_PATIENCE;
    let mut told = false;
    loop {
        match PostgresCatalog::open(settings) {
            Err(error) if error.is_transient() && Instant::now() < give_up => {
                if !std::mem::replace(&mut told, true) {
                    let why = crate::telemetry::sentence(&error);
                    tracing::warn!(%why, "the catalog cannot be opened; it is tried again");
                }
                std::thread::sleep(DATABASE_PAUSE);
            }
            opened => return opened,
        }
    }
}

impl Artifacts {
    /// Opens the state directory, making what is missing, and starts the registrar.
    pub fn open(settings: Settings) -> Result<Self, Error> {
        let root = &settings.state_dir;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .map_err(state_error("make the state directory", root))?;
        let catalog: Box<dyn Catalog> = match &settings.catalog {
            None => Box::new(SqliteCatalog::open(&root.join("catalog.sqlite"))?),
            Some(database) if settings.waits_for_database => Box::new(open_database(database)?),
            Some(database) => Box::new(PostgresCatalog::open(database)?),
        };
        let contents = settings.contents.as_ref().unwrap_or(root);
        let blobs = LocalBlobs::open(&contents.join("blobs"), settings.instance)?
            .with_archive(contents.join("archive"))
            .with_damaged(contents.join("damaged"));
        Self::with_storage(settings, Box::new(blobs), catalog)
    }

    /// The same over a given storage; the journal is in the state directory all the same.
    pub fn with_storage(
        settings: Settings,
        blobs: Box<dyn BlobStore>,
        catalog: Box<dyn Catalog>,
    ) -> Result<Self, Error> {
        let rules = Rules::new(&settings.ignore, &settings.rules)?;
        let root = settings.state_dir.clone();
        let boot = instance::boot_id().map_err(state_error("learn the boot id for", &root))?;
        let info = InstanceInfo {
            uuid: settings.instance,
            pid: std::process::id(),
            boot,
            runtime_dir: settings.runtime_dir.clone().filter(|path| path.to_str().is_some()),
            started_at: jiff::Timestamp::now(),
        };
        let instance =
            Instance::create(&root, &info).map_err(state_error("make the instance in", &root))?;
        let journal = Journal::create(&instance.journal())
            .map_err(state_error("make the journal in", &instance.directory))?;
        let state = DirtySet::new(Schedule::new(settings.debounce, settings.debounce_max));
        let watch = Watch::new(settings.threads.max(1), LARGE_OWNERS_MAX);
        let node = node::of(&root).map_err(state_error("tell which node it is from", &root))?;
        if settings.catalog.is_some() {
            // Before anything is registered here: whoever misses a content elsewhere must know that it may be here.
            let place = node::place(&root);
            catalog.uploads().note_keeper(node, &place, jiff::Timestamp::now())?;
        }
        let upstream = upstream(node, &settings, &*catalog);
        let parts = Parts {
            settings,
            rules,
            blobs,
            catalog,
            boot,
            journal,
            state,
            instance,
            watch,
            node,
            upstream: upstream.clone(),
        };
        let service = Arc::new(Service::new(parts));
        let sweeper =
            sweeper::start(&service).map_err(state_error("start the sweeper for", &root))?;
        let scheduler = match service.settings.cleanup {
            Some(_) => Some(
                scheduler::start(&service)
                    .map_err(state_error("start the clean-up schedule for", &root))?,
            ),
            None => None,
        };
        let mut uploaders = Vec::new();
        if let Some(upstream) = &upstream {
            for start in [uploader::start, upkeep::start] {
                let started = start(&service, upstream);
                uploaders.push(started.map_err(state_error("start uploads of", &root))?);
            }
        }
        let handle = Handle { service: service.clone(), sweeper, scheduler, uploaders };
        service
            .watch
            .start(&service, registrar::run)
            .map_err(state_error("start the registrar for", &root))?;
        Ok(Self { handle: Arc::new(handle) })
    }

    /// What is called, on any thread and without a lock, after each change of this daemon's that has events. It must not wait.
    pub fn on_events(&self, call: Box<dyn Fn() + Send + Sync>) {
        self.service().set_on_events(call);
    }

    fn service(&self) -> &Service {
        &self.handle.service
    }

    /// Takes over what dead daemons left and registers it. See [`Recovered`].
    pub fn recover(&self) -> Result<Recovered, Error> {
        let recovered = recovery::recover(self.service())?;
        let scans = self.service().state().scans().clone();
        self.start_scans(scans);
        Ok(recovered)
    }

    /// Does scans that the journal names, one after the other, on a thread of their own.
    fn start_scans(&self, scans: BTreeMap<u32, i64>) {
        let service = Arc::clone(&self.handle.service);
        if scans.is_empty() {
            return;
        }
        let work = move || {
            for (workspace, since) in scans {
                if let Err(error) = scan_one(&service, workspace, since) {
                    let why = crate::telemetry::sentence(&error);
                    tracing::error!(%why, "a scan ended early; the next start repeats it");
                }
            }
        };
        if let Err(error) = std::thread::Builder::new().name("scan".to_owned()).spawn(work) {
            tracing::error!(%error, "start a scan; the next start does it");
        }
    }

    /// Looks through the directories of attached workspaces for what was changed past them, and puts that on its way:
    /// those of one owner or of all, and only the one with that id if one is named. Registered files count that do not
    /// look as they did, others that changed since the workspace was attached.
    pub fn scan(&self, owner: Option<u32>, id: Option<&WorkspaceId>) -> Result<Scanned, Error> {
        let service = &self.handle.service;
        let mut done = Scanned::default();
        for number in service.attached() {
            let (record, since) = {
                let workspace = service.state().workspace(number).cloned();
                let Some(workspace) = workspace else { continue };
                let Some(since) = service.attached_at(number) else { continue };
                (workspace, since)
            };
            let wanted = owner.is_none_or(|owner| owner == record.owner_uid)
                && id.is_none_or(|id| *id == record.id);
            if wanted {
                let number = want_scan(service, &record, since)?;
                done += scan_one(service, number, since).map_err(Error::Scan)?;
            }
        }
        Ok(done)
    }

    /// Follows the writes of a workspace. One of the same owner and id that is attached still is detached.
    pub fn attach(&self, workspace: AttachedWorkspace) -> Result<Attachment, Error> {
        self.detach(&workspace.id, workspace.owner_uid);
        let service = &self.handle.service;
        let number = service.next_workspace();
        let reader = inputs::Reader {
            workspace: number,
            owner_uid: workspace.owner_uid,
            mounts: workspace
                .mounts
                .iter()
                .map(|mount| (mount.name.clone(), mount.host_path.clone()))
                .collect(),
        };
        let followed = workspace.mounts.iter().zip(0..).filter(|(mount, _)| mount.artifacts);
        let mounts = followed.map(|(mount, position)| (mount.name.clone(), position)).collect();
        let record = Record::Workspace(WorkspaceRecord {
            number,
            id: workspace.id,
            owner_uid: workspace.owner_uid,
            boot: service.boot,
            mounts: workspace
                .mounts
                .into_iter()
                .map(|mount| MountRecord {
                    name: mount.name,
                    host_path: mount.host_path,
                    host_dev: mount.host_dev,
                    host_ino: mount.host_ino,
                    artifacts: mount.artifacts,
                })
                .collect(),
        });
        {
            let mut journal = service.journal();
            journal.append(std::slice::from_ref(&record)).map_err(Error::Journal)?;
            service.attach_source(number);
            service.change(|state| state.apply(&record, Instant::now()));
        }
        if service.settings.scan == ScanPolicy::Always {
            let record = service.state().workspace(number).cloned();
            if let (Some(record), Some(since)) = (record, service.attached_at(number)) {
                let number = want_scan(service, &record, since)?;
                self.start_scans(BTreeMap::from([(number, since)]));
            }
        }
        let observer = Arc::new(Observer::new(service.clone(), mounts, reader));
        Ok(Attachment { service: service.clone(), number, observer })
    }

    /// The workspace was unmounted. What it left is registered through its host paths.
    pub fn detach(&self, id: &WorkspaceId, owner_uid: u32) {
        let called = self.service().state().workspaces_called(owner_uid, id);
        let attached = self.service().attached();
        for number in called.into_iter().filter(|number| attached.contains(number)) {
            self.service().detach(number);
        }
    }

    /// Whether anything is followed, or was ever registered, that was written in a workspace of that name.
    pub fn knows_workspace(&self, owner_uid: u32, id: &WorkspaceId) -> Result<bool, Error> {
        if !self.service().state().workspaces_called(owner_uid, id).is_empty() {
            return Ok(true);
        }
        let any = Filter {
            workspace: Some(id.clone()),
            states: Vec::new(),
            all_versions: true,
            limit: 1,
            ..Filter::default()
        };
        Ok(!self.service().catalog.list(Some(owner_uid), &any)?.rows.is_empty())
    }

    /// Notes what belongs to a run, before its first write.
    pub fn begin_run(&self, run: RunRecord) {
        let RunRecord { id, graph_id, node_id } = run;
        let record = Record::Run(RunInfo { id, graph_id, node_id });
        let mut journal = self.service().journal();
        journal.append_or_rewrite_later(std::slice::from_ref(&record));
        self.service().change(|state| state.apply(&record, Instant::now()));
        self.service().inputs.begin_run(id);
    }

    /// The run ended and was drained; what it still has to register keeps its graph. Waits a moment until what it had read is
    /// stored.
    pub fn end_run(&self, id: RunId) {
        self.service().inputs.end_run(id, Instant::now() + INPUTS_PATIENCE);
        self.service().state().end_runs([id]);
    }

    /// Waits until what the scope names is registered, at most until the deadline, and says what is not.
    pub fn drain(&self, scope: DrainScope, deadline: Instant) -> Drained {
        self.service().drain(scope, deadline)
    }

    /// `owner` of `None` sees everyone's. CREATING is a state of the journal, not of a row, and lists nothing here.
    pub fn list(&self, owner: Option<u32>, query: &ArtifactQuery) -> Result<ArtifactPage, Error> {
        registry::list(&*self.service().catalog, owner, query)
    }

    /// `ID` and `ID@latest` are the latest version, `ID@7` is the seventh.
    pub fn get(&self, owner: Option<u32>, reference: &str) -> Result<Artifact, Error> {
        registry::get(&*self.service().catalog, owner, reference)
    }

    /// A version with its bytes.
    pub fn content(&self, owner: Option<u32>, reference: &str) -> Result<(Artifact, File), Error> {
        let service = self.service();
        registry::content(&*service.catalog, owner, reference, |digest| {
            fetch::open(service, digest)
        })
    }

    /// What a version was made from, or what was made from it.
    pub fn lineage(
        &self,
        owner: Option<u32>,
        reference: &str,
        query: &LineageQuery,
    ) -> Result<Lineage, Error> {
        let service = self.service();
        let is_live = |run| service.inputs.is_live(run);
        let walk = lineage::Walk { catalog: &*service.catalog, owner, is_live: &is_live };
        walk.from(reference, query)
    }

    /// The versions that a run produced, including those that it wrote again with the same bytes.
    pub fn of_run<T>(&self, run: RunId, take: impl Fn(Artifact) -> T) -> Result<Vec<T>, Error> {
        registry::of_run(&*self.service().catalog, run, take)
    }

    /// The artifacts of one workspace as files. Its calls may wait for the catalog.
    pub fn views(&self, owner_uid: u32, workspace: WorkspaceId) -> Arc<dyn ViewSource> {
        let scope = Scope { owner_uid, workspace };
        Arc::new(views::Views::new(Arc::clone(&self.handle.service), scope))
    }

    /// Files that were opened for writing and are not registered.
    pub fn pending(&self) -> usize {
        self.service().state().len()
    }

    /// Ends the service after every workspace was unmounted: registers what is left, at most until the deadline, and
    /// removes this instance's directory when nothing is. What is left then is recovered by the next daemon.
    pub fn shutdown(&self, deadline: Instant) -> Drained {
        for workspace in self.service().attached() {
            self.service().detach(workspace);
        }
        let drained = self.drain(DrainScope::All, deadline);
        self.service().inputs.end_all(deadline);
        self.handle.stop();
        drained
    }
}

/// Notes that a scan is to be done, in a workspace of its own that is the given one otherwise. Answers its number.
fn want_scan(service: &Service, of: &WorkspaceRecord, since: i64) -> Result<u32, Error> {
    let number = service.next_workspace();
    let own = Record::Workspace(WorkspaceRecord { number, ..of.clone() });
    let wanted = Record::ScanWanted { workspace: number, since };
    service.append_and_apply(&[own, wanted]).map_err(Error::Journal)?;
    Ok(number)
}

/// Does a scan and notes that it is done.
fn scan_one(service: &Service, workspace: u32, since: i64) -> Result<Scanned, ScanError> {
    let scanned = scan::scan(service, workspace, since)?;
    tracing::info!(
        files = scanned.files,
        found = scanned.found,
        refused = scanned.refused,
        "scanned a workspace's directories"
    );
    // Without this record the next start scans once more.
    let record = Record::Scanned { workspace };
    let mut journal = service.journal();
    journal.append_or_rewrite_later(std::slice::from_ref(&record));
    service.change(|state| state.apply(&record, Instant::now()));
    Ok(scanned)
}

impl Handle {
    fn stop(&self) {
        self.service.stop();
        self.sweeper.stop();
        if let Some(scheduler) = &self.scheduler {
            scheduler.stop();
        }
        for uploader in &self.uploaders {
            uploader.stop_within(UPLOADERS_PATIENCE);
        }
        self.service.watch.join();
        self.service.forget_sources();
        // No record may follow: once the lock is free another daemon reads the journal.
        self.service.journal().close();
        let instance = self.service.instance.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(instance) = instance
            && self.service.state().is_empty()
        {
            let directory = instance.directory.clone();
            if let Err(error) = instance.remove() {
                tracing::warn!(%error, directory = %directory.display(), "the instance's directory stays behind");
            }
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop();
    }
}
