//! The catalog that several daemons share: a schema of a PostgreSQL database.
//!
//! One writer at a time, over all daemons: every transaction that writes takes one advisory lock of the database first and
//! has it until its commit. So a version's number is given once, events become visible in the order of their numbers, and
//! what was decided in a transaction is still so when it ends. Reading waits for nobody.
//!
//! A connection that was lost, as by a restart of the server, is replaced: a question is asked once more, and so is the
//! beginning of a transaction. A transaction that was under way fails with an error that says to try again; whether its commit was
//! done is not known then, and registering is made for being repeated.
//!
//! Locking: `turn` is held while this process writes, so that its threads wait here and not at the server with a connection
//! each. `pool` has its own lock.

mod books;
mod document;
mod expression;
mod failure;
mod life;
mod lineage;
mod list;
mod migrate;
mod names;
mod pattern;
mod plans;
mod register;
mod retention;
mod row;
mod session;
mod settings;
mod statement;
mod text;
mod tls;
mod upload;
mod view;
mod write;

pub use failure::Failure;
pub use settings::{PostgresSettings, SettingsError};

use super::CatalogError;
use super::change::Change;
use super::lineage::{made_from, used_by};
use super::pool::{Lease, Pool};
use super::row::{seen, version};
use super::tables::{Answer, Versions};
use crate::model::artifact::{ArtifactState, Author};
use crate::model::id::{ArtifactId, RunId};
use crate::storage::life::Life;
use crate::storage::lineage::{Input, MadeFrom, Use, VersionKey};
use crate::storage::retention::Retention;
use crate::storage::upload::{Destination, Uploads};
use crate::storage::view::ViewCatalog;
use crate::storage::{
    Catalog, Cursor, Filter, LastSeen, NewVersion, Registered, Selected, VersionPage, VersionRow,
    Which,
};
use lineage::Lineage;
use postgres::error::SqlState;
use row::{COLUMNS, PostgresRow, find};
use session::Session;
use statement::{Statement, Value, values};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use write::Writing;

/// How long a list may take before it is given up; as long as with SQLite.
const LIST_PATIENCE: Duration = Duration::from_secs(10);

/// How long a call waits for a free connection: longer than a list may have one.
const LEASE_PATIENCE: Duration = Duration::from_secs(30);

/// Rows of a run that are fetched at a time, of about 2 KB each.
const RUN_PAGE: i64 = 1_000;

/// A catalog in a PostgreSQL database.
pub struct PostgresCatalog {
    settings: PostgresSettings,
    /// `None` while it is dropped.
    pool: Option<Pool<Session>>,
    turn: Mutex<()>,
    /// Where contents are to be sent, once that is told.
    destination: OnceLock<Destination>,
}

impl fmt::Debug for PostgresCatalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresCatalog").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// A client has a runtime of its own, which must not end on a thread of another one (tokio: "Cannot drop a runtime in a context
/// where blocking is not allowed"), and the last clone of a catalog may.
impl Drop for PostgresCatalog {
    fn drop(&mut self) {
        let pool = self.pool.take();
        let closing = std::thread::Builder::new().name("close-catalog".to_owned());
        if let Err(error) = closing.spawn(move || drop(pool)) {
            tracing::warn!(%error, "close the connections to the catalog");
        }
    }
}

/// Begins a transaction and waits for the turn to write.
fn begin(schema: &str) -> String {
    // Any number that is the same in all daemons will do; a hash keeps out of other programs' way.
    let name = format!("belljar catalog {schema}");
    let hash = blake3::hash(name.as_bytes());
    let first = hash.as_bytes().first_chunk().expect("a hash has 32 bytes");
    let key = i64::from_le_bytes(*first);
    format!("BEGIN; SELECT pg_advisory_xact_lock({key})")
}

impl PostgresCatalog {
    /// Connects, makes the schema when it is missing and brings it up to date.
    pub fn open(settings: &PostgresSettings) -> Result<Self, CatalogError> {
        let pool = Pool::new(settings.pool_size);
        let catalog = Self {
            settings: settings.clone(),
            pool: Some(pool),
            turn: Mutex::new(()),
            destination: OnceLock::new(),
        };
        let session = catalog.lease(Instant::now() + LEASE_PATIENCE)?;
        let migrated = migrate::migrate(&session, settings);
        // A right that is missing is as much of a reason as a password that is wrong.
        migrated.map_err(|error| match error {
            CatalogError::Server { source, .. } => CatalogError::Unreachable {
                server: settings.server.clone(),
                advice: source.advice(),
                source,
            },
            other => other,
        })?;
        drop(session);
        Ok(catalog)
    }

    fn pool(&self) -> &Pool<Session> {
        self.pool.as_ref().expect("the pool is there until the catalog is dropped")
    }

    fn lease(&self, give_up: Instant) -> Answer<Lease<'_, Session>> {
        loop {
            let leased = self.pool().lease(give_up, || Session::open(&self.settings));
            let session = leased.ok_or(CatalogError::Crowded { patience: LEASE_PATIENCE })??;
            // The server said good-bye while nobody asked.
            if !session.is_closed() {
                return Ok(session);
            }
            session.discard();
        }
    }

    /// Does something over a connection. Nothing was done when the connection turns out to be lost, and it is done over a new one.
    fn over<T>(
        &self,
        give_up: Instant,
        act: impl Fn(&Session) -> Answer<T>,
    ) -> Answer<(Lease<'_, Session>, T)> {
        let session = self.lease(give_up)?;
        let error = match act(&session) {
            Ok(done) => return Ok((session, done)),
            Err(error) => error,
        };
        if !error.is_lost_connection() {
            return Err(error);
        }
        // The others were made to the same server.
        session.discard();
        self.pool().forget_idle();
        let session = self.lease(give_up)?;
        match act(&session) {
            Ok(done) => Ok((session, done)),
            Err(error) => {
                session.discard();
                Err(error)
            }
        }
    }

    fn read<T>(&self, ask: impl Fn(&Session) -> Answer<T>) -> Answer<T> {
        self.over(Instant::now() + LEASE_PATIENCE, ask).map(|(_, answer)| answer)
    }

    /// Runs `act` in one transaction while nobody else writes, and commits it.
    fn write<T>(
        &self,
        doing: &'static str,
        act: impl FnOnce(&Writing<'_>) -> Answer<T>,
    ) -> Answer<T> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = begin(&self.settings.schema);
        let begun = |session: &Session| {
            session.batch(doing, &begin).inspect_err(|_| {
                // Nobody has the turn for good because this one gave up waiting for it.
                let _ = session.batch(doing, "ROLLBACK");
            })
        };
        let (session, ()) = self.over(Instant::now() + LEASE_PATIENCE, begun)?;
        let outcome =
            act(&Writing { session: &session, doing, destination: self.destination.get() })
                .and_then(|done| session.batch(doing, "COMMIT").map(|()| done));
        if outcome.is_err() && session.batch(doing, "ROLLBACK").is_err() {
            session.discard();
        }
        outcome
    }
}

impl Catalog for PostgresCatalog {
    fn register(&self, batch: &[NewVersion]) -> Result<Vec<Registered>, CatalogError> {
        self.write("register versions", |tables| register::register(tables, batch))
    }

    fn list(&self, owner: Option<u32>, filter: &Filter) -> Result<VersionPage, CatalogError> {
        const DOING: &str = "list artifacts";
        let patience = LIST_PATIENCE;
        let statement = list::statement(owner, filter)
            .map_err(|error| CatalogError::Unsuitable { why: error.to_string() })?;
        let give_up = Instant::now() + patience;
        let ask = |session: &Session| {
            let left = give_up.saturating_duration_since(Instant::now()).as_millis().max(1);
            let begin = format!("BEGIN READ ONLY; SET LOCAL statement_timeout = {left}");
            session.batch(DOING, &begin)?;
            let Statement { text, values } = &statement;
            let found = row::select(session, DOING, text, values);
            session.batch(DOING, "ROLLBACK")?;
            found
        };
        let (_, mut rows) = self.over(give_up, ask).map_err(|error| match error {
            CatalogError::Server { source, .. } if source.is(&SqlState::QUERY_CANCELED) => {
                CatalogError::TooSlow { patience }
            }
            CatalogError::Crowded { .. } => CatalogError::TooSlow { patience },
            other => other,
        })?;
        let more = rows.len() > filter.limit as usize;
        rows.truncate(filter.limit as usize);
        let next =
            rows.last().filter(|_| more).map(|(pk, row)| Cursor::of(row, *pk, filter.order.by));
        Ok(VersionPage { rows: row::rows(rows), next })
    }

    fn find(
        &self,
        owner: Option<u32>,
        id: ArtifactId,
        which: Which,
    ) -> Result<Option<VersionRow>, CatalogError> {
        Ok(self.read(|session| find(session, owner, id, which))?.map(|(_, row)| row))
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
        let text = "SELECT u.position, a.seen_inode, a.seen_size, a.seen_mtime, a.seen_ctime \
             FROM unnest($2) WITH ORDINALITY AS u (host_path, position) \
             JOIN artifact a ON a.owner_uid = $1 AND sha256(a.host_path) = sha256(u.host_path) AND a.host_path = u.host_path";
        let paths = host_paths.iter().cloned().map(Some).collect();
        let values = [Value::from(owner_uid), Value::ManyBytes(paths)];
        let position = |columns: &PostgresRow<'_>| super::row::integer(columns, "position");
        let found: HashMap<i64, LastSeen> = self
            .read(|session| {
                session.collect("look up files", text, &values, |columns| {
                    Ok((position(columns)?, seen(columns)?))
                })
            })?
            .into_iter()
            .collect();
        let each = (1..).zip(host_paths);
        Ok(each.map(|(at, _)| found.get(&at).copied().unwrap_or(LastSeen::Never)).collect())
    }

    fn of_run(
        &self,
        run: RunId,
        limit: u32,
        each: &mut dyn FnMut(VersionRow),
    ) -> Result<(), CatalogError> {
        let text = format!(
            "SELECT {COLUMNS} FROM produced p JOIN version v ON v.pk = p.version JOIN artifact a ON a.pk = v.artifact \
             WHERE p.run = $1 AND (p.created_at, p.version) > ($2, $3) ORDER BY p.created_at, p.version LIMIT $4"
        );
        let mut left = i64::from(limit);
        let mut after = (i64::MIN, i64::MIN);
        while left > 0 {
            let page = left.min(RUN_PAGE);
            let values = values![run.as_uuid(), after.0, after.1, page];
            let doing = "list a run's artifacts";
            let rows =
                self.read(|session| session.collect(doing, &text, values, |row| version(row)))?;
            let found = rows.len() as i64;
            for (key, row) in rows {
                after = (row.created_at.as_microsecond(), key);
                each(row);
            }
            left = if found < page { 0 } else { left - found };
        }
        Ok(())
    }

    fn views(&self) -> &dyn ViewCatalog {
        self
    }

    fn note_inputs(&self, inputs: &[Input]) -> Result<(), CatalogError> {
        self.write("note what a run read", |tables| tables.note_inputs(inputs))
    }

    fn made_from(&self, version: VersionKey, limit: u32) -> Result<MadeFrom, CatalogError> {
        self.read(|session| made_from(&Lineage(session), version, limit))
    }

    fn used_by(&self, version: VersionKey, limit: u32) -> Result<Vec<Use>, CatalogError> {
        self.read(|session| used_by(&Lineage(session), version, limit))
    }
}
