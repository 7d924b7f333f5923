//! Connections for lists, which may take long: one each, so that a long question holds up nobody's look-ups, and a bound
//! on how long it may take.

use super::function;
use crate::storage::catalog::CatalogError;
use crate::storage::catalog::pool::Pool;
use rusqlite::{Connection, ErrorCode};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Most questions that are answered at once; others wait. Each connection has a cache of up to 2 MB. Chosen, not measured.
const CONNECTIONS_MAX: usize = 4;

/// How many steps of SQLite's machine pass between two looks at the clock: some tens of microseconds.
const STEPS_BETWEEN_LOOKS: i32 = 1_000;

#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    pool: Pool<Connection>,
}

impl Readers {
    /// Connections are opened when they are needed.
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), pool: Pool::new(CONNECTIONS_MAX) }
    }

    /// Asks on a connection of its own. The time to wait for one counts too.
    pub(super) fn ask<T>(
        &self,
        patience: Duration,
        question: impl FnOnce(&Connection) -> Result<T, CatalogError>,
    ) -> Result<T, CatalogError> {
        let give_up = Instant::now() + patience;
        let leased = self.pool.lease(give_up, || self.open());
        let mut connection = leased.ok_or(CatalogError::TooSlow { patience })??;
        let watch = move || Instant::now() >= give_up;
        let bounded = |source| CatalogError::Sql { doing: "bound the time of a question", source };
        connection.progress_handler(STEPS_BETWEEN_LOOKS, Some(watch)).map_err(bounded)?;
        question(&connection).map_err(|error| match error {
            CatalogError::Sql { source, .. }
                if source.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) =>
            {
                CatalogError::TooSlow { patience }
            }
            other => other,
        })
    }

    fn open(&self) -> Result<Connection, CatalogError> {
        let connection = super::connect(&self.path)?;
        let prepare = || {
            connection.pragma_update(None, "query_only", true)?;
            function::install(&connection)
        };
        prepare().map_err(|source| CatalogError::Open { path: self.path.clone(), source })?;
        Ok(connection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDLESS: &str =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";

    fn count(connection: &Connection, text: &str) -> Result<i64, CatalogError> {
        let counted = connection.query_row(text, [], |row| row.get(0));
        counted.map_err(|source| CatalogError::Sql { doing: "count", source })
    }

    #[test]
    fn a_question_that_takes_too_long_is_given_up_and_the_connection_is_good_again() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let readers = Readers::new(&directory.path().join("catalog.sqlite"));
        let patience = Duration::from_millis(50);
        for _ in 0..3 {
            let started = Instant::now();
            let error = readers.ask(patience, |c| count(c, ENDLESS)).expect_err("too slow");
            assert!(matches!(error, CatalogError::TooSlow { .. }), "{error}");
            assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
            let one = readers.ask(Duration::from_secs(10), |c| count(c, "SELECT 1"));
            assert_eq!(one.expect("answered"), 1);
        }
        assert_eq!(readers.pool.connections(), 1, "one at a time needs one connection");
    }

    #[test]
    fn who_finds_no_connection_free_waits_no_longer_than_their_patience() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let readers = Readers::new(&directory.path().join("catalog.sqlite"));
        let busy = std::sync::Barrier::new(CONNECTIONS_MAX + 1);
        std::thread::scope(|scope| {
            for _ in 0..CONNECTIONS_MAX {
                scope.spawn(|| {
                    readers
                        .ask(Duration::from_secs(10), |_| {
                            busy.wait();
                            // The other side has been refused.
                            busy.wait();
                            Ok(())
                        })
                        .expect("answered");
                });
            }
            busy.wait();
            let refused = readers.ask(Duration::from_millis(20), |_| Ok(()));
            assert!(matches!(refused, Err(CatalogError::TooSlow { .. })));
            busy.wait();
        });
        readers.ask(Duration::from_secs(10), |_| Ok(())).expect("free again");
    }

    #[test]
    fn a_question_cannot_change_anything() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let readers = Readers::new(&directory.path().join("catalog.sqlite"));
        let changed = readers.ask(Duration::from_secs(10), |c| count(c, "PRAGMA user_version = 9"));
        let still = readers.ask(Duration::from_secs(10), |c| count(c, "PRAGMA user_version"));
        assert!(changed.is_err());
        assert_eq!(still.expect("answered"), 0);
    }
}
