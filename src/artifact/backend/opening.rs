//! From a definition to a service that keeps artifacts there.
//!
//! The daemon may be root and the owner is not: directories are made and looked at as the owner, and neither the daemon's
//! environment nor its identity on this machine is lent to anybody.

use super::super::error::Error;
use super::super::settings::{ContentsAt, Settings};
use super::super::{Artifacts, node};
use super::definition::{Definition, DirectoryWish, Place, Secrets};
use crate::config::bucket::Bucket;
use crate::config::catalog::{Catalog, CatalogKind, Connection};
use crate::config::paths::Surroundings;
use crate::storage::blob::s3::{CredentialsSource, S3Settings, S3Store};
use crate::storage::catalog::postgres::{PostgresCatalog, PostgresSettings, SettingsError};
use crate::storage::remote::{RemoteError, RemoteFailure, RemoteStore};
use crate::sys::credentials::{Credentials, ScopedIdentity};
use crate::telemetry::sentence;
use crate::wire::backend::DirectoryIdentity;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

/// In a directory for contents: which state directory has the rows of what is in it.
const CLAIM: &str = "belljar-node";

/// Connections to the database of one backend. Chosen, not measured: half of what the daemon's own catalog has.
const POOL_SIZE: usize = 4;

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

    /// Whom to be to touch what is the owner's; nobody else when the daemon is the owner's own.
    fn owner(&self, definition: &Definition) -> Result<Option<Credentials>, Error> {
        let Definition { owner_uid, owner_gid, .. } = *definition;
        if owner_uid == self.uid {
            return Ok(None);
        }
        if !nix::unistd::geteuid().is_root() {
            return Err(refused(format!(
                "this daemon is of uid {} and acts for no other",
                self.uid
            )));
        }
        Ok(Some(Credentials::of_login(owner_uid, owner_gid)))
    }

    /// Does something as the owner.
    fn as_owner<T>(
        &self,
        definition: &Definition,
        work: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let Some(owner) = self.owner(definition)? else { return work() };
        let _acting = ScopedIdentity::assume(&owner)
            .map_err(|error| refused(format!("act as uid {}: {error}", owner.uid)))?;
        work()
    }

    /// The definition with its directory's real path, after making the directory if that is wished.
    pub fn settle(&self, definition: Definition, wish: DirectoryWish) -> Result<Definition, Error> {
        let Some(given) = definition.directory() else { return Ok(definition) };
        let real = self.as_owner(&definition, || real_directory(given, wish))?;
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

    /// Opens it and takes over what dead daemons left there.
    pub fn open(&self, definition: &Definition, secrets: &Secrets) -> Result<Opened, Error> {
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
                settings.catalog = Some(self.database(definition, full)?);
                // Somebody waits for the answer.
                settings.waits_for_database = false;
            }
        }
        if let Some(directory) = definition.directory() {
            self.as_owner(definition, || claim(directory, node))?;
            settings.contents =
                Some(ContentsAt { path: directory.to_owned(), owner: self.owner(definition)? });
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
                PostgresCatalog::open(&self.database(definition, full)?)?;
                Ok(None)
            }
        }
    }

    fn database(
        &self,
        definition: &Definition,
        connection: &Connection,
    ) -> Result<PostgresSettings, Error> {
        let foreign = definition.owner_uid != self.uid;
        if foreign {
            // Through a socket, or without a password, the server would take the owner for the daemon's user.
            let hosts = connection.get("host").or_else(|| connection.get("hostaddr"));
            if hosts
                .is_none_or(|hosts| hosts.split(',').any(|h| h.is_empty() || h.starts_with('/')))
            {
                return Err(refused(
                    "this daemon is another user's, and would come to the server's socket as that user: name the server's host, as in postgresql://user:password@localhost/database",
                ));
            }
            if connection.get("password").is_none() {
                return Err(refused(
                    "this daemon is another user's, and has no password for you: give user and password, as in postgresql://user:password@localhost/database",
                ));
            }
        }
        let catalog = Catalog {
            kind: CatalogKind::Postgres,
            connection: Some(connection.clone()),
            pool_size: POOL_SIZE,
            ..Catalog::default()
        };
        let around = match foreign {
            true => Surroundings::unknown(definition.owner_uid),
            false => Surroundings::ours(),
        };
        // It may name files, which are the owner's to read.
        self.as_owner(definition, || {
            PostgresSettings::new(&catalog, &|name| around.text(name)).map_err(|error| {
                refused(match error {
                    SettingsError::Connection => {
                        "the connection string has a value that is not understood".to_owned()
                    }
                    other => sentence(&other),
                })
            })
        })
    }

    fn bucket(
        &self,
        definition: &Definition,
        asked: &Bucket,
        secrets: &Secrets,
    ) -> Result<S3Store, Error> {
        let foreign = definition.owner_uid != self.uid;
        let Place::S3 { credentials_given, .. } = definition.place else {
            unreachable!("the definition has the bucket");
        };
        if foreign && !credentials_given {
            return Err(refused(
                "this daemon is another user's, and signs nothing for you with its own keys: give credentials",
            ));
        }
        let around = match foreign {
            true => Surroundings::unknown(definition.owner_uid),
            false => Surroundings::ours(),
        };
        let mut settings =
            S3Settings::resolve(asked, &around).map_err(|error| refused(error.to_string()))?;
        if credentials_given {
            settings.credentials = CredentialsSource::Nowhere;
        }
        let store = S3Store::new(settings)?;
        give(&store, secrets)?;
        Ok(store)
    }
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
fn claim(directory: &Path, node: Uuid) -> Result<(), Error> {
    let path = directory.join(CLAIM);
    let fail = |error: io::Error| {
        refused(format!("use {} for contents: {}", directory.display(), sentence(&error)))
    };
    let new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    match new {
        Ok(mut file) => {
            let written = writeln!(file, "{node}").and_then(|()| file.sync_all());
            written.and_then(|()| File::open(directory)?.sync_all()).map_err(fail)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let found = fs::read_to_string(&path).map_err(fail)?;
            if found.trim() == node.to_string() {
                return Ok(());
            }
            Err(refused(format!(
                "{} has contents of another catalog (node {}): use another directory",
                directory.display(),
                found.trim()
            )))
        }
        Err(error) => Err(fail(error)),
    }
}
