//! The embedded catalog: one SQLite file that several processes use at the same time.
//!
//! Write-ahead logging, so that readers and the one writer do not wait for each other; every write is one IMMEDIATE
//! transaction, so that it never has to give up half-way because it read first (sqlite.org/lang_transaction, SQLITE_BUSY
//! on upgrade). `synchronous=FULL`: a commit is on the disk when it returns.
//!
//! Locking: `writer` and `reader` are held for the length of one call and never both. Lists, which may take long, have
//! connections of their own.

mod expression;
mod function;
mod life;
mod lineage;
mod list;
mod names;
mod plans;
mod readers;
mod register;
mod retention;
mod row;
mod seen;
mod statement;
mod upload;
mod view;
mod write;

use super::{CatalogError, migrate};
use crate::model::artifact::{ArtifactState, Author};
use crate::model::id::{ArtifactId, RunId};
use crate::storage::catalog::change::Change;
use crate::storage::catalog::lineage::{made_from, used_by};
use crate::storage::catalog::row::version;
use crate::storage::catalog::tables::Versions;
use crate::storage::life::Life;
use crate::storage::lineage::{Input, MadeFrom, Use, VersionKey};
use crate::storage::retention::Retention;
use crate::storage::upload::{Destination, Uploads};
use crate::storage::view::ViewCatalog;
use crate::storage::{
    Catalog, Filter, LastSeen, NewVersion, Registered, Selected, VersionPage, VersionRow, Which,
};
use lineage::Lineage;
use readers::Readers;
use register::register;
use row::{COLUMNS, find};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, TransactionBehavior, params};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use write::Writing;

/// How long a call waits for another process's transaction before it answers SQLITE_BUSY, which callers retry.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long opening is tried: changing a fresh file to write-ahead logging answers SQLITE_BUSY without waiting when
/// several processes do it at once.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// After so many pages of 4 KiB the write-ahead log is copied into the file. A page that several batches changed is copied
/// once: with the usual 1,000, full after three or four batches, a fifth more was written and a batch took a sixth longer
/// (measured). The log of 16 MiB is read again after a crash.
const CHECKPOINT_PAGES: u32 = 4_000;

/// How long a list may take before it is given up. Chosen: longer than a whole look at a catalog of 1,000,000 versions.
const LIST_PATIENCE: Duration = Duration::from_secs(10);

/// A catalog in one SQLite file.
#[derive(Debug)]
pub struct SqliteCatalog {
    writer: Mutex<Connection>,
    reader: Mutex<Connection>,
    lists: Readers,
    /// Where contents are to be sent, once that is told.
    destination: OnceLock<Destination>,
}

impl SqliteCatalog {
    /// Opens the file, makes it when it is missing and brings its schema up to date.
    pub fn open(path: &Path) -> Result<Self, CatalogError> {
        let give_up = Instant::now() + OPEN_TIMEOUT;
        loop {
            match Self::try_open(path) {
                Err(error) if error.is_transient() && Instant::now() < give_up => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                result => return result,
            }
        }
    }

    fn try_open(path: &Path) -> Result<Self, CatalogError> {
        let mut writer = connect(path)?;
        migrate::migrate(&mut writer)?;
        writer
            .pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)
            .map_err(|source| CatalogError::Open { path: path.to_owned(), source })?;
        let reader = connect(path)?;
        reader
            .pragma_update(None, "query_only", true)
            .map_err(|source| CatalogError::Open { path: path.to_owned(), source })?;
        Ok(Self {
            writer: Mutex::new(writer),
            reader: Mutex::new(reader),
            lists: Readers::new(path),
            destination: OnceLock::new(),
        })
    }

    /// Runs `act` in one IMMEDIATE transaction and commits it.
    fn write<T>(
        &self,
        doing: &'static str,
        act: impl FnOnce(&Writing<'_>) -> Result<T, CatalogError>,
    ) -> Result<T, CatalogError> {
        let mut writer = lock(&self.writer);
        let transaction =
            writer.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql(doing))?;
        let outcome = act(&Writing {
            transaction: &transaction,
            doing,
            destination: self.destination.get(),
        })?;
        transaction.commit().map_err(sql(doing))?;
        Ok(outcome)
    }
}

fn connect(path: &Path) -> Result<Connection, CatalogError> {
    let connect = || -> rusqlite::Result<Connection> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        keep_plans(&connection)?;
        // Writing down a change has a statement for each set of columns that differ.
        connection.set_prepared_statement_cache_capacity(64);
        Ok(connection)
    };
    connect().map_err(|source| CatalogError::Open { path: path.to_owned(), source })
}

/// Plans do not look at bound values (sqlite.org/queryplanner-ng, "query planner stability guarantee"). Otherwise a value that
/// could decide whether a partial index serves has its statement prepared anew at each use: that was nearly half of what
/// SQLite took to register a version (measured).
fn keep_plans(connection: &Connection) -> rusqlite::Result<bool> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)
}

/// A panic aborts the process, so that a poisoned lock cannot be met.
fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

fn sql(doing: &'static str) -> impl Fn(rusqlite::Error) -> CatalogError {
    move |source| CatalogError::Sql { doing, source }
}

/// SQLite integers are signed; sizes and numbers beyond that do not exist on any file system.
fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Catalog for SqliteCatalog {
    fn register(&self, batch: &[NewVersion]) -> Result<Vec<Registered>, CatalogError> {
        self.write("register versions", |tables| {
            let each = |new: &NewVersion| {
                let registered = register(tables, new)?;
                new.kept_content()
                    .map_or(Ok(()), |content| tables.queue_upload(content, new.captured_at))?;
                Ok(registered)
            };
            batch.iter().map(each).collect()
        })
    }

    fn list(&self, owner: Option<u32>, filter: &Filter) -> Result<VersionPage, CatalogError> {
        self.lists.ask(LIST_PATIENCE, |connection| list::list(connection, owner, filter))
    }

    fn find(
        &self,
        owner: Option<u32>,
        id: ArtifactId,
        which: Which,
    ) -> Result<Option<VersionRow>, CatalogError> {
        Ok(find(&lock(&self.reader), owner, id, which)?.map(|(_, row)| row))
    }

    fn change_state(
        &self,
        owner: Option<u32>,
        id: ArtifactId,
        selected: Selected,
        next: ArtifactState,
        author: &Author,
    ) -> Result<Option<VersionRow>, CatalogError> {
        self.write("change the state of an artifact", |tables| {
            Change::by(tables, author).change_state(owner, id, selected, next)
        })
    }

    fn life(&self) -> &dyn Life {
        self
    }

    fn retention(&self) -> &dyn Retention {
        self
    }

    fn uploads(&self) -> &dyn Uploads {
        self
    }

    fn last_seen(
        &self,
        owner_uid: u32,
        host_paths: &[Vec<u8>],
    ) -> Result<Vec<LastSeen>, CatalogError> {
        let reader = lock(&self.reader);
        host_paths.iter().map(|path| seen::last_seen(&reader, owner_uid, path)).collect()
    }

    fn of_run(
        &self,
        run: RunId,
        limit: u32,
        each: &mut dyn FnMut(VersionRow),
    ) -> Result<(), CatalogError> {
        let text = format!(
            "SELECT {COLUMNS} FROM produced p JOIN version v ON v.pk = p.version JOIN artifact a ON a.pk = v.artifact \
             WHERE p.run = ? ORDER BY p.created_at, p.version LIMIT ?"
        );
        let reader = lock(&self.reader);
        let run = run.as_uuid();
        let parameters = params![run.as_bytes(), limit];
        row::each(&reader, "list a run's artifacts", &text, parameters, |columns| {
            each(version(columns)?.1);
            Ok(())
        })
    }

    fn views(&self) -> &dyn ViewCatalog {
        self
    }

    fn note_inputs(&self, inputs: &[Input]) -> Result<(), CatalogError> {
        self.write("note what a run read", |tables| tables.note_inputs(inputs))
    }

    fn made_from(&self, version: VersionKey, limit: u32) -> Result<MadeFrom, CatalogError> {
        made_from(&Lineage(&lock(&self.reader)), version, limit)
    }

    fn used_by(&self, version: VersionKey, limit: u32) -> Result<Vec<Use>, CatalogError> {
        used_by(&Lineage(&lock(&self.reader)), version, limit)
    }
}
