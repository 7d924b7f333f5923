//! Reading rows: from a statement's columns to a [`VersionRow`].

use super::{integer, sql};
use crate::model::artifact::ArtifactType;
use crate::model::digest::Digest;
use crate::model::id::ArtifactId;
use crate::model::path::VirtualPath;
use crate::storage::catalog::CatalogError;
use crate::storage::{Process, SecretFinding, VersionRow, Which};
use jiff::Timestamp;
use rusqlite::types::FromSql;
use rusqlite::{Connection, Row, params};
use std::ffi::OsStr;
use std::fmt::Display;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

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

pub(super) fn find(
    connection: &Connection,
    owner: Option<u32>,
    id: ArtifactId,
    which: Which,
) -> Result<Option<(i64, VersionRow)>, CatalogError> {
    let number = match which {
        Which::Latest => None,
        Which::Number(number) => Some(integer(number)),
    };
    let text = format!(
        "SELECT {COLUMNS} FROM artifact a JOIN version v ON v.artifact = a.pk AND v.number = coalesce(?3, a.latest) \
         WHERE a.id = ?1 AND (?2 IS NULL OR a.owner_uid = ?2)"
    );
    let id = id.as_uuid();
    let parameters = params![id.as_bytes(), owner, number];
    Ok(select(connection, "look up an artifact", &text, parameters)?.pop())
}

/// Runs a statement that selects [`COLUMNS`]; each row comes with its version's key.
pub(super) fn select(
    connection: &Connection,
    doing: &'static str,
    text: &str,
    parameters: impl rusqlite::Params,
) -> Result<Vec<(i64, VersionRow)>, CatalogError> {
    let mut found = Vec::new();
    each_row(connection, doing, text, parameters, |pk, row| found.push((pk, row)))?;
    Ok(found)
}

/// The same, one row at a time.
pub(super) fn each_row(
    connection: &Connection,
    doing: &'static str,
    text: &str,
    parameters: impl rusqlite::Params,
    mut each: impl FnMut(i64, VersionRow),
) -> Result<(), CatalogError> {
    let mut statement = connection.prepare_cached(text).map_err(sql(doing))?;
    let mut rows = statement.query(parameters).map_err(sql(doing))?;
    while let Some(row) = rows.next().map_err(sql(doing))? {
        let (pk, version) = read(&Columns { row, doing })?;
        each(pk, version);
    }
    Ok(())
}

/// The version in one row of a statement that selects more than [`COLUMNS`].
pub(super) fn read_at(row: &Row<'_>, doing: &'static str) -> Result<VersionRow, CatalogError> {
    Ok(read(&Columns { row, doing })?.1)
}

pub(super) struct Columns<'a> {
    pub row: &'a Row<'a>,
    pub doing: &'static str,
}

fn parse<T, E: Display>(parsed: Result<T, E>) -> Result<T, CatalogError> {
    parsed.map_err(|error| CatalogError::Damaged { what: error.to_string() })
}

pub(super) fn uuid<T: std::str::FromStr<Err = crate::model::id::InvalidId>>(
    bytes: [u8; 16],
) -> Result<T, CatalogError> {
    parse(uuid::Uuid::from_bytes(bytes).to_string().parse())
}

impl Columns<'_> {
    pub fn get<T: FromSql>(&self, name: &str) -> Result<T, CatalogError> {
        self.row.get(name).map_err(sql(self.doing))
    }

    fn text(&self, name: &str) -> Result<String, CatalogError> {
        self.get(name)
    }

    pub fn count(&self, name: &str) -> Result<u64, CatalogError> {
        Ok(self.get::<i64>(name)?.unsigned_abs())
    }

    fn time(&self, name: &str) -> Result<Option<Timestamp>, CatalogError> {
        let microseconds: Option<i64> = self.get(name)?;
        microseconds.map(|time| parse(Timestamp::from_microsecond(time))).transpose()
    }

    pub fn needed_time(&self, name: &str) -> Result<Timestamp, CatalogError> {
        parse(Timestamp::from_microsecond(self.get(name)?))
    }

    fn list(&self, name: &str) -> Result<Vec<String>, CatalogError> {
        parse(serde_json::from_str(&self.text(name)?))
    }
}

fn findings(columns: &Columns<'_>) -> Result<Vec<SecretFinding>, CatalogError> {
    let text = columns.text("findings")?;
    let found: Vec<(String, String, u64)> = parse(serde_json::from_str(&text))?;
    let finding = |(secret, encoding, position): (String, String, u64)| {
        Ok(SecretFinding { secret: parse(secret.parse())?, encoding, position })
    };
    found.into_iter().map(finding).collect()
}

fn read(columns: &Columns<'_>) -> Result<(i64, VersionRow), CatalogError> {
    let run: Option<[u8; 16]> = columns.get("run")?;
    let workspace: Option<String> = columns.get("workspace")?;
    let place =
        match (columns.get::<Option<String>>("mount")?, columns.get::<Option<Vec<u8>>>("path")?) {
            (Some(mount), Some(path)) => {
                let path = VirtualPath::parse(Path::new(OsStr::from_bytes(&path)));
                Some((parse(mount.parse())?, parse(path)?))
            }
            _ => None,
        };
    let writer = match (columns.get("writer_pid")?, columns.get("writer_uid")?) {
        (Some(pid), Some(uid)) => {
            Some(Process { pid, uid, command: columns.get("writer_command")? })
        }
        _ => None,
    };
    let version = VersionRow {
        id: uuid(columns.get("id")?)?,
        aliases: columns.list("aliases")?,
        number: columns.count("number")?,
        parent: columns.get::<Option<i64>>("parent")?.map(i64::unsigned_abs),
        labels: columns.list("labels")?,
        tags: columns.list("tags")?,
        owner_uid: columns.get("owner_uid")?,
        host_path: columns.get("host_path")?,
        origin: parse(columns.text("origin")?.parse())?,
        workspace: workspace.map(|workspace| parse(workspace.parse())).transpose()?,
        place,
        run: run.map(uuid).transpose()?,
        graph_id: columns.get("graph_id")?,
        node_id: columns.get("node_id")?,
        writer,
        artifact_type: ArtifactType::new(columns.text("type")?),
        suspected: columns.get::<Option<String>>("suspected")?.map(ArtifactType::new),
        mime: columns.get("mime")?,
        state: parse(columns.text("state")?.parse())?,
        held: columns.get("held")?,
        pinned: columns.get("pinned")?,
        quarantined: columns.get("quarantined")?,
        size: columns.count("size")?,
        digest: columns.get::<Option<[u8; 32]>>("digest")?.map(Digest::from_bytes),
        content_kept: columns.get("content_kept")?,
        closes: columns.count("closes")?,
        metadata: parse(serde_json::from_str(&columns.text("metadata")?))?,
        secret_scan: columns
            .get::<Option<String>>("secret_scan")?
            .map(|outcome| parse(outcome.parse()))
            .transpose()?,
        secrets_found: findings(columns)?,
        created_at: columns.needed_time("created_at")?,
        updated_at: columns.needed_time("updated_at")?,
        deleted_at: columns.time("deleted_at")?,
        swept_at: columns.time("swept_at")?,
        archived_at: columns.time("archived_at")?,
        lost_at: columns.time("lost_at")?,
    };
    Ok((columns.get("pk")?, version))
}
