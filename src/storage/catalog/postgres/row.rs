//! Reading rows of PostgreSQL: their columns as every catalog names them, and the statements that bring them.

use super::session::{Session, failed};
use super::statement::{Value, values};
use super::text::unescape;
use crate::model::digest::Digest;
use crate::model::id::ArtifactId;
use crate::storage::catalog::row::{Columns, version};
use crate::storage::catalog::tables::{Answer, Stored};
use crate::storage::{VersionRow, Which};
use jiff::Timestamp;
use postgres::Row;
use postgres::types::FromSql;
use uuid::Uuid;

/// What a statement selects that is read with [`select`], from `version v JOIN artifact a`. Names are the readers'.
pub(super) const COLUMNS: &str = "v.pk, a.id, v.number, v.parent, v.origin, v.owner_uid, a.host_path, v.workspace, v.mount, v.path, \
     v.run, v.graph_id, v.node_id, v.writer_pid, v.writer_uid, v.writer_command, v.type, v.suspected, v.mime, v.state, v.held, \
     v.pinned, v.quarantined, v.size, v.digest, v.content_kept, v.closes, \
     coalesce(v.metadata_text, v.metadata::text) AS metadata, v.created_at, v.updated_at, v.deleted_at, \
     v.swept_at, v.archived_at, v.lost_at, v.secret_scan, \
     (SELECT coalesce(json_agg(json_build_array(secret, encoding, position) ORDER BY secret, encoding)::text, '[]') \
         FROM finding WHERE version = v.pk) AS findings, \
     (SELECT coalesce(json_agg(name ORDER BY name)::text, '[]') FROM alias WHERE artifact = a.pk) AS aliases, \
     (SELECT coalesce(json_agg(name ORDER BY name)::text, '[]') FROM label WHERE version = v.pk) AS labels, \
     (SELECT coalesce(json_agg(name ORDER BY name)::text, '[]') FROM tag WHERE version = v.pk) AS tags";

/// How an artifact is found by its path: by the index of `a`, whose key is a hash, and by the path itself.
pub(super) const AT_PATH: &str =
    "a.owner_uid = $1 AND sha256(a.host_path) = sha256($2) AND a.host_path = $2";

/// One row of a statement.
pub(super) struct PostgresRow<'a> {
    pub row: &'a Row,
    pub doing: &'static str,
}

impl PostgresRow<'_> {
    fn get<'r, T: FromSql<'r>>(&'r self, name: &str) -> Answer<T> {
        self.row.try_get(name).map_err(failed(self.doing))
    }
}

impl Columns for PostgresRow<'_> {
    fn text(&self, name: &str) -> Answer<Option<String>> {
        Ok(self.get::<Option<String>>(name)?.map(unescape))
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
        self.get(name)
    }
}

/// Runs a statement that selects [`COLUMNS`]; each row comes with its version's key.
pub(super) fn select(
    session: &Session,
    doing: &'static str,
    text: &str,
    values: &[Value],
) -> Answer<Vec<Stored>> {
    session.collect(doing, text, values, |row| version(row))
}

/// The rows without their keys.
pub(super) fn rows(stored: Vec<Stored>) -> Vec<VersionRow> {
    stored.into_iter().map(|(_, row)| row).collect()
}

pub(super) fn find(
    session: &Session,
    owner: Option<u32>,
    id: ArtifactId,
    which: Which,
) -> Answer<Option<Stored>> {
    let number = match which {
        Which::Latest => None,
        Which::Number(number) => Some(number),
    };
    let text = format!(
        "SELECT {COLUMNS} FROM artifact a JOIN version v ON v.artifact = a.pk AND v.number = coalesce($3, a.latest) \
         WHERE a.id = $1 AND ($2 IS NULL OR a.owner_uid = $2)"
    );
    let values = values![id.as_uuid(), owner, number];
    Ok(select(session, "look up an artifact", &text, values)?.pop())
}

/// The latest version of a file.
pub(super) fn at_path(session: &Session, owner: u32, host_path: &[u8]) -> Answer<Option<Stored>> {
    let text = format!(
        "SELECT {COLUMNS} FROM artifact a JOIN version v ON v.artifact = a.pk AND v.number = a.latest WHERE {AT_PATH}"
    );
    Ok(select(session, "look up a path", &text, values![owner, host_path])?.pop())
}

/// Versions that name a content and keep it.
pub(super) fn naming(
    session: &Session,
    owner: Option<u32>,
    digest: &Digest,
    limit: u32,
) -> Answer<Vec<Stored>> {
    let text = format!(
        "SELECT {COLUMNS} FROM version v JOIN artifact a ON a.pk = v.artifact \
         WHERE v.digest = $1 AND v.content_kept AND v.swept_at IS NULL AND ($2 IS NULL OR v.owner_uid = $2) LIMIT $3"
    );
    select(session, "look who names a content", &text, values![digest, owner, limit])
}

/// Versions that were deleted before that time and can be given up.
pub(super) fn due_for_sweep(
    session: &Session,
    deleted_before: Timestamp,
    limit: u32,
) -> Answer<Vec<Stored>> {
    let text = format!(
        "SELECT {COLUMNS} FROM version v JOIN artifact a ON a.pk = v.artifact \
         WHERE v.deleted_at < $1 AND v.deleted_at IS NOT NULL AND v.state = 'DELETED' AND v.swept_at IS NULL \
             AND NOT v.pinned LIMIT $2"
    );
    select(session, "sweep deleted versions", &text, values![deleted_before, limit])
}
