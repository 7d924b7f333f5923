//! Backends: the places for artifacts that users ask for at run time, besides the daemon's own.
//!
//! A daemon keeps places for the user whose daemon it is, and for nobody else. Each is an artifact service of its own, with its own journal, rows and contents: a file belongs to the one that was
//! chosen when its workspace was made, or when it was registered. [Decision 21](../../../../../docs/decisions/0021-backends-at-run-time.md)
//! says why.
//!
//! Locking: `known` is held for a look or an exchange. `opening` of one backend is held while that one is opened, which may
//! take as long as a database or a bucket takes; nobody else waits for it.

mod definition;
mod opening;

use super::error::Error;
use super::{Artifacts, Drained, Settings};
use crate::model::id::BackendId;
use crate::telemetry::sentence;
use crate::wire::backend::{Backend, BackendRequest, BackendState};
use definition::{Definition, DirectoryWish, Secrets};
use opening::{Host, Opened};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Backends of one user at a time; each has some threads and connections. Chosen, not measured.
const PER_USER_MAX: usize = 16;

/// How long a backend that could not be opened is left alone before the next try. Chosen, not measured.
const PAUSE: Duration = Duration::from_secs(15);

/// How often the thread that opens backends looks whether the daemon stops.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

type OnEvents = Arc<dyn Fn() + Send + Sync>;

/// All places for artifacts of one daemon. Clones share them.
#[derive(Clone)]
pub struct Backends(Arc<Inner>);

struct Inner {
    own: Artifacts,
    host: Host,
    known: Mutex<BTreeMap<BackendId, Arc<Entry>>>,
    on_events: Mutex<Option<OnEvents>>,
    stopping: AtomicBool,
}

/// One backend that somebody has asked this daemon for.
struct Entry {
    definition: Mutex<Definition>,
    opening: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Clone)]
enum State {
    Closed { why: Option<String> },
    Open { opened: Opened, problem: Option<String> },
}

/// A chosen backend.
#[derive(Debug, Clone)]
pub struct Chosen {
    pub id: BackendId,
    pub artifacts: Artifacts,
}

impl std::fmt::Debug for Backends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Backends")
    }
}

/// A panic aborts the process, so that a poisoned lock cannot be met.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Entry {
    fn opened(&self) -> Option<Opened> {
        match &*lock(&self.state) {
            State::Open { opened, .. } => Some(opened.clone()),
            State::Closed { .. } => None,
        }
    }

    fn shown(&self, id: &BackendId) -> Backend {
        let definition = lock(&self.definition).clone();
        let (state, problem, pending) = match lock(&self.state).clone() {
            State::Open { opened, problem } => {
                (BackendState::Open, problem, opened.artifacts.pending())
            }
            State::Closed { why } if definition.needs_secrets() => {
                let waits = || {
                    "its password was in the memory of an earlier daemon: set the backend again"
                        .to_owned()
                };
                (BackendState::WaitingForCredentials, Some(why.unwrap_or_else(waits)), 0)
            }
            State::Closed { why: Some(why) } => (BackendState::Unavailable, Some(why), 0),
            State::Closed { why: None } => (BackendState::Closed, None, 0),
        };
        Backend {
            id: id.clone(),
            owner_uid: definition.owner_uid,
            kind: definition.kind(),
            place: definition.place(),
            state,
            problem,
            pending_artifacts: pending as u64,
        }
    }
}

impl Backends {
    /// `settings` are those that the daemon's own service was opened with, `uid` is who the daemon is.
    pub fn new(own: Artifacts, settings: Settings, uid: u32) -> Self {
        Self(Arc::new(Inner {
            own,
            host: Host { settings, uid },
            known: Mutex::default(),
            on_events: Mutex::default(),
            stopping: AtomicBool::new(false),
        }))
    }

    /// The daemon's own place.
    pub fn own(&self) -> &Artifacts {
        &self.0.own
    }

    /// As [`Artifacts::on_events`], of every place.
    pub fn on_events(&self, call: OnEvents) {
        *lock(&self.0.on_events) = Some(Arc::clone(&call));
        self.0.own.on_events(Box::new(move || call()));
    }

    /// Opens what earlier daemons had open, on a thread of its own, and goes on trying until each is open: files that were
    /// written and not registered are waiting there.
    pub fn open_known(&self) {
        let backends = self.clone();
        let work = move || {
            let mut left = backends.on_disk();
            while !left.is_empty() {
                left.retain(|definition| !backends.try_known(definition));
                let next = Instant::now() + PAUSE;
                while Instant::now() < next && !left.is_empty() {
                    if backends.0.stopping.load(Ordering::Relaxed) {
                        return;
                    }
                    std::thread::sleep(LOOK_PAUSE);
                }
            }
        };
        if let Err(error) = std::thread::Builder::new().name("backends".to_owned()).spawn(work) {
            tracing::error!(%error, "start the thread that opens backends; each is opened when it is set again");
        }
    }

    /// Whether nothing more is to be done for it.
    fn try_known(&self, definition: &Definition) -> bool {
        let (id, entry) = self.entry(definition);
        if definition.needs_secrets() {
            tracing::warn!(backend = %id, place = definition.place(), "a backend waits for its owner to give its password again");
            return true;
        }
        let before = match &*lock(&entry.state) {
            State::Closed { why } => why.clone(),
            State::Open { .. } => return true,
        };
        let opened = self.open(&id, &entry, definition, &Secrets::default());
        if let Err(error) = &opened {
            let why = sentence(error);
            // Said once, as long as nothing changes.
            if before.as_ref() != Some(&why) {
                tracing::warn!(backend = %id, %why, "a backend cannot be opened; it is tried again");
            }
        }
        opened.is_ok()
    }

    fn entry(&self, definition: &Definition) -> (BackendId, Arc<Entry>) {
        let id = definition.id();
        let entry = || {
            Arc::new(Entry {
                definition: Mutex::new(definition.clone()),
                opening: Mutex::default(),
                state: Mutex::new(State::Closed { why: None }),
            })
        };
        let entry = Arc::clone(lock(&self.0.known).entry(id.clone()).or_insert_with(entry));
        (id, entry)
    }

    /// Opens it unless it is open.
    fn open(
        &self,
        id: &BackendId,
        entry: &Entry,
        definition: &Definition,
        secrets: &Secrets,
    ) -> Result<Opened, Error> {
        let _opening = lock(&entry.opening);
        if let Some(opened) = entry.opened() {
            return Ok(opened);
        }
        if self.0.stopping.load(Ordering::Relaxed) {
            return Err(Error::BackendClosed {
                id: id.clone(),
                why: "the daemon is stopping".to_owned(),
            });
        }
        let is_new = self.definition_on_disk(id).is_none();
        match self.0.host.open(definition, secrets, is_new) {
            Ok(opened) => {
                if let Some(call) = lock(&self.0.on_events).clone() {
                    opened.artifacts.on_events(Box::new(move || call()));
                }
                *lock(&entry.state) = State::Open { opened: opened.clone(), problem: None };
                tracing::info!(backend = %id, owner = definition.owner_uid, place = definition.place(), "a backend is open");
                Ok(opened)
            }
            Err(error) => {
                *lock(&entry.state) = State::Closed { why: Some(sentence(&error)) };
                Err(error)
            }
        }
    }

    /// Opens a place for a user and answers how it is called from then on. The same place may be asked for again, with other
    /// keys. May take as long as a database or a bucket takes to answer.
    pub fn set(&self, uid: u32, request: BackendRequest) -> Result<Backend, Error> {
        let ours = self.0.host.uid;
        if uid != ours {
            return Err(Error::BackendRefused {
                why: format!(
                    "this daemon is that of uid {ours} and keeps artifacts for others only where its configuration says: start one of your own with `belljard serve`, and name its socket in BELLJAR_SOCKET"
                ),
            });
        }
        let (definition, secrets, wish) = Definition::of_request(request, uid)?;
        let definition = self.settled(definition, wish)?;
        let unusable = |source| match source {
            refused @ Error::BackendRefused { .. } => refused,
            source => {
                let place = definition.place();
                Error::BackendUnusable { place, source: Box::new(source) }
            }
        };
        // Before anything is made or changed, so that a refusal leaves all as it was.
        let problem = self.0.host.check(&definition, &secrets).map_err(unusable)?;
        let (id, entry) = self.entry(&definition);
        let opened = match self.open(&id, &entry, &definition, &secrets) {
            Ok(opened) => opened,
            Err(error) => {
                // Of a first try that failed nothing is left.
                if self.definition_on_disk(&id).is_none() {
                    lock(&self.0.known).remove(&id);
                    // Refused before its directory was claimed: nobody knows its node. Removed only if nothing else is there.
                    if matches!(error, Error::BackendRefused { .. }) {
                        let directory = self.directory().join(id.as_str());
                        let _ = fs::remove_file(directory.join("node"));
                        let _ = fs::remove_dir(directory);
                    }
                }
                return Err(unusable(error));
            }
        };
        // Somebody else may set the same one at the same moment.
        let _opening = lock(&entry.opening);
        if let Some(bucket) = &opened.bucket {
            opening::give(bucket, &secrets).map_err(unusable)?;
            opened.artifacts.retry_uploads()?;
        }
        self.write_down(&id, &definition)?;
        *lock(&entry.definition) = definition;
        *lock(&entry.state) = State::Open { opened, problem };
        Ok(entry.shown(&id))
    }

    fn settled(&self, definition: Definition, wish: DirectoryWish) -> Result<Definition, Error> {
        let given = definition.directory().map(std::borrow::ToOwned::to_owned);
        let is_known = given.is_some_and(|given| {
            self.on_disk().iter().any(|known| known.directory() == Some(&given))
        });
        // In the place of one that is away nothing is made.
        let wish = DirectoryWish { create: wish.create && !is_known, ..wish };
        let definition = self.0.host.settle(definition, wish)?;
        let uid = definition.owner_uid;
        let id = definition.id();
        let known = self.list(Some(uid));
        if known.len() >= PER_USER_MAX && !known.iter().any(|backend| backend.id == id) {
            return Err(Error::BackendRefused {
                why: format!(
                    "you have {PER_USER_MAX} backends, as many as a user may have: use one of them (`belljar storage backends`)"
                ),
            });
        }
        Ok(definition)
    }

    /// A user's backend, if it is open.
    pub fn find(&self, uid: u32, id: &BackendId) -> Option<Chosen> {
        let entry = lock(&self.0.known).get(id).cloned()?;
        if lock(&entry.definition).owner_uid != uid {
            return None;
        }
        let artifacts = entry.opened()?.artifacts;
        Some(Chosen { id: id.clone(), artifacts })
    }

    /// A user's backend, opened if it can be without keys or passwords. May block as [`set`](Self::set) does.
    pub fn reopen(&self, uid: u32, id: &BackendId) -> Result<Chosen, Error> {
        let known = lock(&self.0.known).get(id).map(|entry| lock(&entry.definition).clone());
        let definition = known.or_else(|| self.definition_on_disk(id));
        let definition = definition
            .filter(|definition| definition.owner_uid == uid)
            .ok_or_else(|| Error::NoSuchBackend { id: id.clone() })?;
        let (_, entry) = self.entry(&definition);
        if entry.opened().is_none() && definition.needs_secrets() {
            let why = "its password was in the memory of an earlier daemon".to_owned();
            return Err(Error::BackendClosed { id: id.clone(), why });
        }
        let opened = self.open(id, &entry, &definition, &Secrets::default());
        let opened = opened
            .map_err(|error| Error::BackendClosed { id: id.clone(), why: sentence(&error) })?;
        Ok(Chosen { id: id.clone(), artifacts: opened.artifacts })
    }

    /// Refuses where keys were given to an earlier daemon and not to this one; for clients that can give them again.
    pub fn must_have_keys(&self, id: &BackendId) -> Result<(), Error> {
        let Some(entry) = lock(&self.0.known).get(id).cloned() else { return Ok(()) };
        let given = lock(&entry.definition).has_keys_given();
        let bucket = entry.opened().and_then(|opened| opened.bucket);
        if given && bucket.is_some_and(|bucket| !bucket.has_credentials_given()) {
            let why = "its keys were in the memory of an earlier daemon".to_owned();
            return Err(Error::BackendClosed { id: id.clone(), why });
        }
        Ok(())
    }

    /// Those of a user, or of everybody.
    pub fn list(&self, owner: Option<u32>) -> Vec<Backend> {
        for definition in self.on_disk() {
            self.entry(&definition);
        }
        let known = lock(&self.0.known).clone();
        let shown = known.iter().map(|(id, entry)| entry.shown(id));
        shown.filter(|backend| owner.is_none_or(|uid| uid == backend.owner_uid)).collect()
    }

    /// Files of all places that were opened for writing and are not registered.
    pub fn pending(&self) -> usize {
        let others = self.all_open().iter().map(Artifacts::pending).sum::<usize>();
        self.0.own.pending() + others
    }

    fn all_open(&self) -> Vec<Artifacts> {
        let known = lock(&self.0.known);
        known.values().filter_map(|entry| Some(entry.opened()?.artifacts)).collect()
    }

    /// [`Artifacts::shutdown`] of every place, the daemon's own last.
    pub fn shutdown(&self, deadline: Instant) -> Drained {
        self.0.stopping.store(true, Ordering::Relaxed);
        let mut all = self.all_open();
        all.push(self.0.own.clone());
        let mut drained = Drained { complete: true, incomplete: Vec::new(), unnamed: 0 };
        for artifacts in all {
            let one = artifacts.shutdown(deadline);
            drained.complete &= one.complete;
            drained.incomplete.extend(one.incomplete);
            drained.unnamed += one.unnamed;
        }
        drained
    }

    fn directory(&self) -> PathBuf {
        self.0.host.settings.state_dir.join("backends")
    }

    /// What earlier daemons wrote down. What cannot be read is told and left alone.
    fn on_disk(&self) -> Vec<Definition> {
        let entries = match fs::read_dir(self.directory()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                tracing::error!(%error, directory = %self.directory().display(), "list the backends");
                return Vec::new();
            }
            Ok(entries) => entries,
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter_map(|name| self.definition_on_disk(&name.parse().ok()?)).collect()
    }

    fn definition_on_disk(&self, id: &BackendId) -> Option<Definition> {
        let path = self.directory().join(id.as_str()).join("backend.json");
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            read => read.and_then(|text| {
                serde_json::from_slice::<Definition>(&text).map_err(io::Error::other)
            }),
        };
        match text {
            Ok(definition) if definition.id() == *id => Some(definition),
            Ok(_) => {
                tracing::error!(path = %path.display(), "a backend's definition is not the one that its directory is named after");
                None
            }
            Err(error) => {
                tracing::error!(%error, path = %path.display(), "read a backend's definition");
                None
            }
        }
    }

    /// Written aside and moved into place, so that a crash leaves the old one or the new one.
    fn write_down(&self, id: &BackendId, definition: &Definition) -> Result<(), Error> {
        let directory = self.directory().join(id.as_str());
        let path = directory.join("backend.json");
        let new = directory.join(format!(".backend-{}", self.0.host.settings.instance));
        let write = || {
            DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)?;
            file.write_all(&serde_json::to_vec(definition)?)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&directory)?.sync_all()?;
            File::open(self.directory())?.sync_all()
        };
        write().map_err(|source| Error::State { doing: "write down the backend in", path, source })
    }
}
