//! Reading rows of SQLite: their columns as every catalog names them, and the statements that bring them.

use super::sql;
use crate::model::id::ArtifactId;
use crate::storage::catalog::row::{Columns, version};
use crate::storage::catalog::tables::{Answer, Stored};
use crate::storage::{VersionRow, Which};
use rusqlite::types::FromSql;
use rusqlite::{Connection, OptionalExtension, Row, Statement, params};
use std::collections::HashMap;
use uuid::Uuid;

/// What a statement selects that is read with [`select`], from `version v JOIN artifact a`. Names are the readers'.
///
/// Aliases, labels and tags come as JSON arrays, so that one statement brings a whole row.
pub(super) const COLUMNS: &str = "v.pk, a.id, v.number, v.parent, v.origin, v.owner_uid, a.host_path, v.workspace, v.mount, v.path, \
     v.run, v.graph_id, v.node_id, v.writer_pid, v.writer_uid, v.writer_command, v.type, v.suspected, v.mime, v.state, v.held, \
     v.pinned, v.quarantined, v.size, v.digest, v.content_kept, v.closes, v.metadata, v.created_at, v.updated_at, v.deleted_at, \
     v.swept_at, v.archived_at, v.lost_at, v.secret_scan, \
     (SELECT json_group_array(json_array(secret, encoding, position)) FROM finding WHERE version = v.pk) AS findings, \
     (SELECT json_group_array(name) FROM alias WHERE artifact = a.pk) AS aliases, \
     (SELECT json_group_array(name) FROM label WHERE version = v.pk) AS labels, \
     (SELECT json_group_array(name) FROM tag WHERE version = v.pk) AS tags";

/// Where each column of a statement is, by name. rusqlite asks SQLite for one name after the other at every look: of a whole
/// row that was a tenth of what registering it cost (measured).
struct Positions(HashMap<String, usize>);

impl Positions {
    fn of(statement: &Statement<'_>) -> Self {
        let names = statement.column_names().zip(0..);
        Self(names.map(|(name, position)| (name.to_owned(), position)).collect())
    }
}

/// One row of a statement.
pub(super) struct SqliteRow<'a> {
    row: &'a Row<'a>,
    positions: &'a Positions,
    doing: &'static str,
}

impl SqliteRow<'_> {
    fn get<T: FromSql>(&self, name: &str) -> Answer<T> {
        let position = self.positions.0.get(name).copied();
        let found = position
            .ok_or_else(|| rusqlite::Error::InvalidColumnName(name.to_owned()))
            .and_then(|position| self.row.get(position));
        found.map_err(sql(self.doing))
    }
}

impl Columns for SqliteRow<'_> {
    fn text(&self, name: &str) -> Answer<Option<String>> {
        self.get(name)
    }

    fn bytes(&self, name: &str) -> Answer<Option<Vec<u8>>> {
        self.get(name)
    }

    fn integer(&self, name: &str) -> Answer<Option<i64>> {
        self.get(name)
    }

    fn flag(&self, name: &str) -> Answer<bool> {
        self.get(name)
    }

    fn uuid(&self, name: &str) -> Answer<Option<Uuid>> {
        Ok(self.get::<Option<[u8; 16]>>(name)?.map(Uuid::from_bytes))
    }
}

/// Runs a statement and tells of its rows one at a time.
pub(super) fn each(
    connection: &Connection,
    doing: &'static str,
    text: &str,
    parameters: impl rusqlite::Params,
    mut each: impl FnMut(&SqliteRow<'_>) -> Answer<()>,
) -> Answer<()> {
    let mut statement = connection.prepare_cached(text).map_err(sql(doing))?;
    let mut positions = None;
    let mut rows = statement.query(parameters).map_err(sql(doing))?;
    while let Some(row) = rows.next().map_err(sql(doing))? {
        // Most look-ups by a writer find nothing, and need no names.
        let positions = positions.get_or_insert_with(|| Positions::of(row.as_ref()));
        each(&SqliteRow { row, positions, doing })?;
    }
    Ok(())
}

/// Runs a statement and reads each of its rows.
pub(super) fn collect<T>(
    connection: &Connection,
    doing: &'static str,
    text: &str,
    parameters: impl rusqlite::Params,
    read: impl Fn(&SqliteRow<'_>) -> Answer<T>,
) -> Answer<Vec<T>> {
    let mut found = Vec::new();
    each(connection, doing, text, parameters, |row| {
        found.push(read(row)?);
        Ok(())
    })?;
    Ok(found)
}

/// Runs a statement that selects [`COLUMNS`]; each row comes with its version's key.
pub(super) fn select(
    connection: &Connection,
    doing: &'static str,
    text: &str,
    parameters: impl rusqlite::Params,
) -> Answer<Vec<Stored>> {
    collect(connection, doing, text, parameters, |row| version(row))
}

/// The rows without their keys.
pub(super) fn rows(stored: Vec<Stored>) -> Vec<VersionRow> {
    stored.into_iter().map(|(_, row)| row).collect()
}

/// The one value of the one row, when there is one.
pub(super) fn value<T: FromSql>(
    connection: &Connection,
    doing: &'static str,
    text: &str,
    parameters: impl rusqlite::Params,
) -> Answer<Option<T>> {
    let mut statement = connection.prepare_cached(text).map_err(sql(doing))?;
    statement.query_row(parameters, |row| row.get(0)).optional().map_err(sql(doing))
}

pub(super) fn find(
    connection: &Connection,
    owner: Option<u32>,
    id: ArtifactId,
    which: Which,
) -> Answer<Option<Stored>> {
    let number = match which {
        Which::Latest => None,
        Which::Number(number) => Some(super::integer(number)),
    };
    let text = format!(
        "SELECT {COLUMNS} FROM artifact a JOIN version v ON v.artifact = a.pk AND v.number = coalesce(?3, a.latest) \
         WHERE a.id = ?1 AND (?2 IS NULL OR a.owner_uid = ?2)"
    );
    let id = id.as_uuid();
    let parameters = params![id.as_bytes(), owner, number];
    Ok(select(connection, "look up an artifact", &text, parameters)?.pop())
}

/// The latest version of a file.
pub(super) fn at_path(
    connection: &Connection,
    owner: u32,
    host_path: &[u8],
) -> Answer<Option<Stored>> {
    let text = format!(
        "SELECT {COLUMNS} FROM artifact a JOIN version v ON v.artifact = a.pk AND v.number = a.latest \
         WHERE a.owner_uid = ? AND a.host_path = ?"
    );
    Ok(select(connection, "look up a path", &text, params![owner, host_path])?.pop())
}

/// Versions that name a content and keep it.
pub(super) fn naming(
    connection: &Connection,
    owner: Option<u32>,
    digest: &crate::model::digest::Digest,
    limit: u32,
) -> Answer<Vec<Stored>> {
    let text = format!(
        "SELECT {COLUMNS} FROM version v JOIN artifact a ON a.pk = v.artifact \
         WHERE v.digest = ?1 AND v.content_kept AND v.swept_at IS NULL AND (?2 IS NULL OR v.owner_uid = ?2) LIMIT ?3"
    );
    let parameters = params![digest.as_bytes(), owner, limit];
    select(connection, "look who names a content", &text, parameters)
}

/// Versions that were deleted before that time and can be given up.
pub(super) fn due_for_sweep(
    connection: &Connection,
    deleted_before: jiff::Timestamp,
    limit: u32,
) -> Answer<Vec<Stored>> {
    let text = format!(
        "SELECT {COLUMNS} FROM version v JOIN artifact a ON a.pk = v.artifact \
         WHERE v.deleted_at < ? AND v.state = 'DELETED' AND v.swept_at IS NULL AND v.pinned = 0 LIMIT ?"
    );
    let parameters = params![deleted_before.as_microsecond(), limit];
    select(connection, "sweep deleted versions", &text, parameters)
}
