//! From a definition to a service that keeps artifacts there.
//!
//! A directory is used as the daemon: it must be the daemon's own and nobody else's to change, since links in it would lead the
//! daemon anywhere, magic ones (proc(5), `/proc/PID/fd`) included, whatever user it acted as.

use super::super::error::Error;
use super::super::settings::Settings;
use super::super::{Artifacts, node};
use super::definition::{Definition, DirectoryWish, Place, Secrets};
use crate::config::bucket::Bucket;
use crate::config::catalog::{Catalog, CatalogKind, Connection};
use crate::config::paths::Surroundings;
use crate::storage::blob::s3::{CredentialsSource, S3Settings, S3Store};
use crate::storage::catalog::postgres::{PostgresCatalog, PostgresSettings, SettingsError};
use crate::storage::remote::{RemoteError, RemoteFailure, RemoteStore};
use crate::telemetry::sentence;
use crate::wire::backend::DirectoryIdentity;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

/// In a directory for contents: which state directory has the rows of what is in it.
const CLAIM: &str = "belljar-node";

/// Connections to the database of one backend. Chosen, not measured: half of what the daemon's own catalog has.
const POOL_SIZE: usize = 4;

/// Who root is in a user namespace without it (user_namespaces(7), `/proc/sys/kernel/overflowuid`).
const OVERFLOW_UID: u32 = 65_534;

/// A claim has 37 bytes.
const CLAIM_BYTES_MAX: u64 = 64;

/// A backend at work.
#[derive(Debug, Clone)]
pub(super) struct Opened {
    pub artifacts: Artifacts,
    pub bucket: Option<Arc<S3Store>>,
}

/// What opening needs to know of the daemon.
#[derive(Debug)]
pub(super) struct Host {
    /// What every backend's settings begin with; the state directory is the daemon's own.
    pub settings: Settings,
    /// Who the daemon is to the users of this machine.
    pub uid: u32,
}

impl Host {
    pub fn state_dir(&self, definition: &Definition) -> PathBuf {
        self.settings.state_dir.join("backends").join(definition.id().as_str())
    }

    /// The definition with its directory's real path, after making the directory if that is wished.
    pub fn settle(&self, definition: Definition, wish: DirectoryWish) -> Result<Definition, Error> {
        let Some(given) = definition.directory() else { return Ok(definition) };
        let real = real_directory(given, wish)?;
        self.must_be_ours(&real)?;
        let own = [Some(&self.settings.state_dir), self.settings.runtime_dir.as_ref()];
        for own in own.into_iter().flatten() {
            if real.starts_with(fs::canonicalize(own).unwrap_or_else(|_| own.clone())) {
                return Err(refused(format!(
                    "{} is inside {}, which is the daemon's own: choose another directory",
                    real.display(),
                    own.display()
                )));
            }
        }
        Ok(definition.with_directory(real))
    }

    /// Whether nobody else can put anything into the directory, or another in its place.
    fn must_be_ours(&self, real: &Path) -> Result<(), Error> {
        for directory in real.ancestors() {
            let there = fs::metadata(directory).map_err(|error| {
                refused(format!(
                    "look at the directory {}: {}",
                    directory.display(),
                    sentence(&error)
                ))
            })?;
            // An ordinary user's daemon meets root's files as those of a user that its namespace does not know.
            let owner = [self.uid, 0, OVERFLOW_UID].contains(&there.uid());
            let of_others = there.mode() & 0o022 != 0 && there.mode() & 0o1000 == 0;
            let own = directory != real || there.uid() == self.uid && there.mode() & 0o022 == 0;
            if !owner || of_others || !own {
                return Err(refused(format!(
                    "{} is a directory that others can change (owner {}, mode {:04o}), and would lead the daemon wherever they like: use one of uid {} that nobody else can write to",
                    directory.display(),
                    there.uid(),
                    there.mode() & 0o7777,
                    self.uid
                )));
            }
        }
        Ok(())
    }

    /// Opens it and takes over what dead daemons left there.
    ///
    /// A directory of one that is not new must have its claim: without it a file system is away, and the empty directory that it is
    /// mounted on is not the place.
    pub fn open(
        &self,
        definition: &Definition,
        secrets: &Secrets,
        is_new: bool,
    ) -> Result<Opened, Error> {
        let state_dir = self.state_dir(definition);
        let failed = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| Error::State { doing, path, source }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&state_dir)
            .map_err(failed("make the directory", &state_dir))?;
        let node =
            node::of(&state_dir).map_err(failed("tell which node it is from", &state_dir))?;
        let mut settings = Settings {
            state_dir,
            catalog: None,
            contents: None,
            remote: None,
            // Those of the configuration are about the daemon's own artifacts.
            cleanup: self.settings.cleanup.as_ref().map(|_| Vec::new()),
            ..self.settings.clone()
        };
        let mut bucket = None;
        match &definition.place {
            Place::Local { .. } => {}
            Place::S3 { bucket: asked, .. } => {
                // Rows of other state directories may name the same contents, and none knows of the others' when it removes one.
                let below = format!("{}/{node}", asked.prefix.trim_end_matches('/'));
                let prefix = below.trim_start_matches('/').to_owned();
                let own = Bucket { prefix, ..asked.clone() };
                let store = Arc::new(self.bucket(definition, &own, secrets)?);
                settings.remote = Some(Arc::clone(&store) as Arc<dyn RemoteStore>);
                bucket = Some(store);
            }
            Place::Database { connection, .. } => {
                let full = secrets.connection.as_ref().unwrap_or(connection);
                settings.catalog = Some(database(full)?);
                // Somebody waits for the answer.
                settings.waits_for_database = false;
            }
        }
        if let Some(directory) = definition.directory() {
            self.must_be_ours(directory)?;
            claim(directory, node, is_new)?;
            settings.contents = Some(directory.to_owned());
        }
        let artifacts = Artifacts::open(settings)?;
        let recovered = artifacts.recover()?;
        for instance in recovered.instances {
            if let Err(error) = instance.remove() {
                let why = sentence(&error);
                tracing::warn!(%why, "remove what a dead instance has left of a backend");
            }
        }
        Ok(Opened { artifacts, bucket })
    }

    /// Asks the server, if there is one, whether it lets in with what was given. One that is away at the moment is told about,
    /// and is a refusal only where nothing can be done without it.
    pub fn check(
        &self,
        definition: &Definition,
        secrets: &Secrets,
    ) -> Result<Option<String>, Error> {
        match &definition.place {
            Place::Local { .. } => Ok(None),
            Place::S3 { bucket, .. } => {
                let store = self.bucket(definition, bucket, secrets)?;
                match store.check() {
                    Ok(_) => Ok(None),
                    Err(error @ RemoteError::Store { kind: RemoteFailure::Transient, .. }) => {
                        Ok(Some(sentence(&error)))
                    }
                    Err(error) => Err(error.into()),
                }
            }
            Place::Database { connection, .. } => {
                let full = secrets.connection.as_ref().unwrap_or(connection);
                PostgresCatalog::open(&database(full)?)?;
                Ok(None)
            }
        }
    }

    fn bucket(
        &self,
        definition: &Definition,
        asked: &Bucket,
        secrets: &Secrets,
    ) -> Result<S3Store, Error> {
        let Place::S3 { credentials_given, .. } = definition.place else {
            unreachable!("the definition has the bucket");
        };
        let mut settings = S3Settings::resolve(asked, &Surroundings::ours())
            .map_err(|error| refused(error.to_string()))?;
        if credentials_given {
            settings.credentials = CredentialsSource::Nowhere;
        }
        let store = S3Store::new(settings)?;
        give(&store, secrets)?;
        Ok(store)
    }
}

fn database(connection: &Connection) -> Result<PostgresSettings, Error> {
    let catalog = Catalog {
        kind: CatalogKind::Postgres,
        connection: Some(connection.clone()),
        pool_size: POOL_SIZE,
        ..Catalog::default()
    };
    let around = Surroundings::ours();
    PostgresSettings::new(&catalog, &|name| around.text(name)).map_err(|error| {
        refused(match error {
            SettingsError::Connection => {
                "the connection string has a value that is not understood".to_owned()
            }
            other => sentence(&other),
        })
    })
}

/// Hands over the keys that came with a request, if any did.
pub(super) fn give(store: &S3Store, secrets: &Secrets) -> Result<(), Error> {
    match &secrets.s3 {
        Some(credentials) => Ok(store.give_credentials(Some(credentials))?),
        None => Ok(()),
    }
}

fn refused(why: impl Into<String>) -> Error {
    Error::BackendRefused { why: why.into() }
}

fn real_directory(given: &Path, wish: DirectoryWish) -> Result<PathBuf, Error> {
    let fail = |doing: &str, error: &io::Error| {
        refused(format!("{doing} the directory {}: {}", given.display(), sentence(error)))
    };
    if wish.create {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(given);
        made.map_err(|error| fail("make", &error))?;
    }
    let real = fs::canonicalize(given).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => refused(format!(
            "there is no directory {}: make it, or set create_dirs",
            given.display()
        )),
        _ => fail("find", &error),
    })?;
    let there = fs::metadata(&real).map_err(|error| fail("look at", &error))?;
    if !there.is_dir() {
        return Err(refused(format!("{} is no directory", given.display())));
    }
    if real.to_str().is_none() {
        return Err(refused(format!(
            "the directory {} is {:?}, whose name is not UTF-8: use another one",
            given.display(),
            real
        )));
    }
    match wish.identity {
        Some(DirectoryIdentity { device, inode })
            if (device, inode) != (there.dev(), there.ino()) =>
        {
            Err(refused(format!(
                "{} is another directory to the daemon than to you, because the two see different file systems: use a directory that both see",
                given.display()
            )))
        }
        _ => Ok(real),
    }
}

/// Makes sure that nobody else's rows are about the contents of this directory.
fn claim(directory: &Path, node: Uuid, is_new: bool) -> Result<(), Error> {
    let path = directory.join(CLAIM);
    let fail = |error: io::Error| {
        refused(format!("use {} for contents: {}", directory.display(), sentence(&error)))
    };
    let found = match read_claim(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !is_new => {
            return Err(refused(format!(
                "{} has nothing of this backend in it (no {CLAIM}): if a file system is mounted there, mount it",
                directory.display()
            )));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_claim(directory, &path, node).map_err(fail)?;
            read_claim(&path).map_err(fail)?
        }
        found => found.map_err(fail)?,
    };
    match found {
        Some(found) if found == node => Ok(()),
        Some(found) => Err(refused(format!(
            "{} has contents of another catalog (node {found}): use another directory, or remove {CLAIM} in it if that catalog is gone for good",
            directory.display()
        ))),
        None => Err(refused(format!("{} is none of ours: remove it", path.display()))),
    }
}

/// The node that a claim names; `None` where it is no claim.
fn read_claim(path: &Path) -> io::Result<Option<Uuid>> {
    let flags = nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    let mut text = String::new();
    if file.metadata()?.is_file() {
        file.take(CLAIM_BYTES_MAX).read_to_string(&mut text)?;
    }
    Ok(text.trim().parse().ok())
}

/// Written aside and linked, so that it is whole under its name and the claim of somebody faster stays.
fn make_claim(directory: &Path, path: &Path, node: Uuid) -> io::Result<()> {
    let new = directory.join(format!(".{CLAIM}-{}", Uuid::now_v7()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let written = writeln!(file, "{node}").and_then(|()| file.sync_all());
    let linked = written.and_then(|()| match fs::hard_link(&new, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => File::open(directory)?.sync_all(),
    });
    fs::remove_file(&new)?;
    linked
}
