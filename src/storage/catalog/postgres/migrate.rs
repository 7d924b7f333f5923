//! Brings a PostgreSQL catalog to the present schema.
//!
//! `schema_step` has one row for each step that was applied. All of it is one transaction that begins with the writers' lock, so
//! that of several daemons that start at once one applies the steps and the others find them applied.

use super::session::Session;
use super::settings::PostgresSettings;
use super::statement::values;
use crate::storage::CatalogError;
use crate::storage::catalog::row;
use crate::storage::catalog::tables::Answer;

/// Every step in order. A step that was released is never edited; the next one is appended.
const STEPS: &[&str] = &[
    include_str!("../schema/postgres/0001_catalog.sql"),
    include_str!("../schema/postgres/0002_uploads.sql"),
    include_str!("../schema/postgres/0003_identity.sql"),
];

/// The oldest server: numbers may be infinite from here on (PostgreSQL 14, E.1.3.2), and it is the oldest that is maintained.
const VERSION_MIN: i64 = 140_000;

const DOING: &str = "bring the schema up to date";

pub(super) fn migrate(session: &Session, settings: &PostgresSettings) -> Answer<()> {
    check_server(session)?;
    // Without the lock when all is there, so that a daemon can start while another one writes.
    let known = i64::try_from(STEPS.len()).expect("the number of steps is small");
    if applied(session)? == Some(known) {
        return Ok(());
    }
    session.batch(DOING, &super::begin(&settings.schema))?;
    let outcome = apply(session, &settings.schema, known);
    let end = if outcome.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let ended = session.batch(DOING, end);
    outcome.and(ended)
}

fn apply(session: &Session, schema: &str, known: i64) -> Answer<()> {
    let there = "SELECT 1 AS there FROM pg_namespace WHERE nspname = $1";
    // Making what is there takes a right that using it does not take.
    if session.collect(DOING, there, values![schema], |_| Ok(()))?.is_empty() {
        session.batch(DOING, &format!("CREATE SCHEMA \"{schema}\""))?;
    }
    let found = match applied(session)? {
        Some(found) => found,
        None => {
            session.batch(
                DOING,
                "CREATE TABLE schema_step (number BIGINT PRIMARY KEY, applied_at TIMESTAMPTZ NOT NULL DEFAULT now())",
            )?;
            0
        }
    };
    if found > known {
        return Err(CatalogError::NewerSchema { found, known });
    }
    let done = usize::try_from(found).map_err(row::damaged)?;
    for (number, step) in (1i64..).zip(STEPS).skip(done) {
        session.batch(DOING, step)?;
        session.execute(DOING, "INSERT INTO schema_step (number) VALUES ($1)", values![number])?;
    }
    Ok(())
}

/// The last step that was applied; nothing where there is no catalog.
fn applied(session: &Session) -> Answer<Option<i64>> {
    let there = "SELECT to_regclass('schema_step') IS NOT NULL AS there";
    let there =
        session.collect(DOING, there, &[], |columns| row::Columns::flag(columns, "there"))?;
    if there != [true] {
        return Ok(None);
    }
    let text = "SELECT coalesce(max(number), 0) AS number FROM schema_step";
    let found = session.collect(DOING, text, &[], |columns| row::integer(columns, "number"))?;
    Ok(found.first().copied())
}

fn check_server(session: &Session) -> Answer<()> {
    let text = "SELECT current_setting('server_encoding') AS encoding, \
         current_setting('server_version_num')::bigint AS number, current_setting('server_version') AS version";
    let found = session.collect(DOING, text, &[], |columns| {
        let encoding: String = row::word(columns, "encoding")?;
        let version: String = row::word(columns, "version")?;
        Ok((encoding, row::integer(columns, "number")?, version))
    })?;
    let (encoding, number, version) =
        found.into_iter().next().ok_or_else(|| row::damaged("the server tells no settings"))?;
    if encoding != "UTF8" {
        return Err(CatalogError::Unsuitable {
            why: format!(
                "its encoding is {encoding}, which cannot hold every name: make it with createdb --encoding UTF8 --template template0"
            ),
        });
    }
    if number < VERSION_MIN {
        return Err(CatalogError::Unsuitable {
            why: format!("the server is PostgreSQL {version}, and 14 is the oldest that will do"),
        });
    }
    Ok(())
}
