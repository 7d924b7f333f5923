//! Brings a SQLite catalog to the present schema.
//!
//! `PRAGMA user_version` counts the applied steps. It is read and written inside one IMMEDIATE transaction, so that of
//! several processes that start at once one applies the steps and the others find them applied. refinery reads
//! what was applied in one deferred transaction and applies the rest in another, which is not safe in that case
//! (refinery-core 0.10: drivers/rusqlite.rs).

use super::CatalogError;
use rusqlite::{Connection, TransactionBehavior};

/// Every step in order. A step that was released is never edited; the next one is appended.
const STEPS: &[&str] = &[
    include_str!("schema/sqlite/0001_artifacts.sql"),
    include_str!("schema/sqlite/0002_life.sql"),
    include_str!("schema/sqlite/0003_placement.sql"),
    include_str!("schema/sqlite/0004_query.sql"),
    include_str!("schema/sqlite/0005_content.sql"),
    include_str!("schema/sqlite/0006_capture.sql"),
    include_str!("schema/sqlite/0007_views.sql"),
    include_str!("schema/sqlite/0008_lineage.sql"),
    include_str!("schema/sqlite/0009_retention.sql"),
    include_str!("schema/sqlite/0010_speed.sql"),
    include_str!("schema/sqlite/0011_uploads.sql"),
    include_str!("schema/sqlite/0012_identity.sql"),
];

/// "Blja" (sqlite3 file header, application id), so that file(1) and a careful user can tell what the file is.
const APPLICATION_ID: i32 = 0x426c_6a61;

pub(super) fn migrate(connection: &mut Connection) -> Result<(), CatalogError> {
    let known = i64::try_from(STEPS.len()).expect("the number of steps is small");
    let sql = |source| CatalogError::Sql { doing: "bring the schema up to date", source };
    let version = |connection: &Connection| {
        connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0)).map_err(sql)
    };
    if version(connection)? == known {
        return Ok(());
    }
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql)?;
    let found = version(&transaction)?;
    if found > known {
        return Err(CatalogError::NewerSchema { found, known });
    }
    let done = usize::try_from(found).map_err(|_| CatalogError::Damaged {
        what: format!("schema number {found} is negative"),
    })?;
    for step in STEPS.iter().skip(done) {
        transaction.execute_batch(step).map_err(sql)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(sql)?;
    transaction.pragma_update(None, "user_version", known).map_err(sql)?;
    transaction.commit().map_err(sql)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrating_twice_changes_nothing() {
        let mut connection = Connection::open_in_memory().expect("open");
        migrate(&mut connection).expect("first");
        migrate(&mut connection).expect("second");
    }

    #[test]
    fn rows_of_an_older_schema_are_kept() {
        let mut connection = Connection::open_in_memory().expect("open");
        connection.pragma_update(None, "foreign_keys", true).expect("set");
        connection.execute_batch(STEPS[0]).expect("first step");
        connection.pragma_update(None, "user_version", 1).expect("set");
        let rows = "INSERT INTO artifact VALUES (4, x'01', 1000, x'2f61', 1, 5);
            INSERT INTO version VALUES (9, 4, 1, 'data', 'DELETED', 3, x'02', 1, 1, 'w', 'm', x'61', x'03', 'g', NULL, '{}', 5, 6);
            INSERT INTO produced VALUES (x'03', 9);";
        connection.execute_batch(rows).expect("rows");
        migrate(&mut connection).expect("migrate");
        let read = "SELECT v.owner_uid, v.origin, v.deleted_at, v.path, p.version FROM version v JOIN produced p ON p.version = v.pk";
        let row = connection
            .query_row(read, [], |row| {
                let path: Vec<u8> = row.get(3)?;
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, path, row.get(4)?))
            })
            .expect("one row");
        assert_eq!(row, (1000, "observed".to_owned(), 6, b"a".to_vec(), 9));
        let next = "INSERT INTO version (artifact, owner_uid, number, origin, type, state, size, content_kept, closes, created_at, updated_at)
            VALUES (4, 1000, 2, 'observed', 'file', 'READY', 0, 0, 1, 7, 7)";
        connection.execute(next, []).expect("insert");
        assert_eq!(connection.last_insert_rowid(), 10, "keys are not used again");
    }

    #[test]
    fn a_newer_schema_is_refused() {
        let mut connection = Connection::open_in_memory().expect("open");
        connection.pragma_update(None, "user_version", 99).expect("set");
        let error = migrate(&mut connection).expect_err("refused");
        assert!(matches!(error, CatalogError::NewerSchema { found: 99, .. }), "{error}");
    }
}
