//! Registering versions: the rows of a batch, in the transaction of the caller.

use super::write::Writing;
use super::{integer, seen, sql};
use crate::model::artifact::{ArtifactState, Author, Origin};
use crate::model::digest::Digest;
use crate::model::id::ArtifactId;
use crate::storage::catalog::change::capture_into;
use crate::storage::catalog::row::damaged;
use crate::storage::catalog::tables::{Answer, Told, Versions};
use crate::storage::life::quarantine;
use crate::storage::row::{Arrival, Latest};
use crate::storage::{NewVersion, Registered};
use jiff::Timestamp;
use rusqlite::{OptionalExtension, Transaction, params};
use serde_json::{Value, json};

/// The latest version of a file that is registered already.
struct Known {
    artifact: i64,
    id: ArtifactId,
    version: i64,
    created_at: i64,
    latest: Latest,
}

fn known(transaction: &Transaction, new: &NewVersion) -> rusqlite::Result<Option<Known>> {
    transaction
        .prepare_cached(
            "SELECT a.pk, v.pk, v.number, v.state, v.digest, v.content_kept, \
                 (SELECT max(number) FROM version WHERE artifact = a.pk), v.held, a.id, v.created_at \
             FROM artifact a JOIN version v ON v.artifact = a.pk AND v.number = a.latest \
             WHERE a.owner_uid = ? AND a.host_path = ?",
        )?
        .query_row(params![new.owner_uid, new.host_path], |row| {
            let state = row.get_ref(3)?.as_str()?.parse();
            Ok(Known {
                artifact: row.get(0)?,
                id: ArtifactId::from(uuid::Uuid::from_bytes(row.get(8)?)),
                version: row.get(1)?,
                created_at: row.get(9)?,
                latest: Latest {
                    number: row.get::<_, i64>(2)?.unsigned_abs(),
                    highest: row.get::<_, i64>(6)?.unsigned_abs(),
                    state: state.map_err(|error| {
                        rusqlite::Error::FromSqlConversionFailure(
                            3,
                            rusqlite::types::Type::Text,
                            Box::new(error),
                        )
                    })?,
                    held: row.get(7)?,
                    digest: row.get::<_, Option<[u8; 32]>>(4)?.map(Digest::from_bytes),
                    content_kept: row.get(5)?,
                },
            })
        })
        .optional()
}

/// Registers one version in the transaction.
pub(super) fn register(tables: &Writing<'_>, new: &NewVersion) -> Answer<Registered> {
    let transaction = tables.transaction;
    let known = known(transaction, new).map_err(sql(tables.doing))?;
    let note_stamp = |artifact: i64| {
        seen::note(transaction, artifact, new.stamp.as_ref()).map_err(sql(tables.doing))
    };
    match (Arrival::of(new, known.as_ref().map(|known| &known.latest)), known) {
        (Arrival::Unchanged, Some(known)) => {
            note_producer(tables, new, known.version, known.created_at)?;
            note_stamp(known.artifact)?;
            note_secrets(tables, new, known.version, known.id, known.latest.number)?;
            Ok(Registered::Unchanged(known.latest.number))
        }
        (Arrival::IntoHeld, Some(known)) => {
            capture_into(tables, known.version, new)?;
            note_secrets(tables, new, known.version, known.id, known.latest.number)?;
            note_stamp(known.artifact)?;
            note_producer(tables, new, known.version, known.created_at)?;
            Ok(Registered::Version(known.latest.number))
        }
        (Arrival::Next { number, parent }, known) => {
            let artifact = match known {
                Some(known) => {
                    note_stamp(known.artifact)?;
                    tables.execute(
                        "UPDATE artifact SET latest = ? WHERE pk = ?",
                        params![integer(number), known.artifact],
                    )?;
                    (known.artifact, known.id)
                }
                None => insert_artifact(tables, new)?,
            };
            insert_version(tables, new, artifact, number, parent)?;
            Ok(Registered::Version(number))
        }
        (Arrival::Unchanged | Arrival::IntoHeld, None) => {
            Err(damaged("an arrival is of a version that is not known"))
        }
    }
}

fn insert_artifact(tables: &Writing<'_>, new: &NewVersion) -> Answer<(i64, ArtifactId)> {
    let id = ArtifactId::generate();
    let seen = seen::columns(new.stamp.as_ref());
    tables.execute(
        "INSERT INTO artifact (id, owner_uid, host_path, latest, created_at, seen_inode, seen_size, seen_mtime, seen_ctime) \
         VALUES (?, ?, ?, 1, ?, ?, ?, ?, ?)",
        params![
            id.as_uuid().as_bytes(),
            new.owner_uid,
            new.host_path,
            new.captured_at.as_microsecond(),
            seen.inode,
            seen.size,
            seen.mtime,
            seen.ctime
        ],
    )?;
    Ok((tables.transaction.last_insert_rowid(), id))
}

/// Written column by column, not as a row of [`VersionRow`](crate::storage::VersionRow), which would be copied for it: this is
/// what a daemon does most.
fn insert_version(
    tables: &Writing<'_>,
    new: &NewVersion,
    (artifact, id): (i64, ArtifactId),
    number: u64,
    parent: Option<u64>,
) -> Answer<()> {
    let now = new.captured_at.as_microsecond();
    tables.execute(
        "INSERT INTO version (artifact, owner_uid, number, parent, origin, type, suspected, mime, state, size, digest, \
             content_kept, closes, workspace, mount, path, run, graph_id, node_id, writer_pid, writer_uid, \
             writer_command, metadata, created_at, updated_at, secret_scan) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, \
             ?23, ?24, ?24, ?25)",
        params![
            artifact,
            new.owner_uid,
            integer(number),
            parent.map(integer),
            Origin::Observed.as_str(),
            new.artifact_type.as_str(),
            new.suspected.as_ref().map(|suspected| suspected.as_str()),
            new.mime,
            ArtifactState::Ready.as_str(),
            integer(new.size),
            new.digest.as_bytes(),
            new.content_kept,
            integer(new.closes),
            new.workspace.as_str(),
            new.mount.as_str(),
            new.path.as_bytes(),
            new.run.as_ref().map(|run| *run.as_uuid().as_bytes()),
            new.graph_id,
            new.node_id,
            new.writer.as_ref().map(|writer| writer.pid),
            new.writer.as_ref().map(|writer| writer.uid),
            new.writer.as_ref().and_then(|writer| writer.command.as_deref()),
            Value::Object(new.metadata.clone()).to_string(),
            now,
            new.secrets.outcome.as_str()
        ],
    )?;
    let version = tables.transaction.last_insert_rowid();
    note_producer(tables, new, version, now)?;
    let kind = if number == 1 { "created" } else { "version" };
    let detail = json!({ "state": ArtifactState::Ready });
    tell(tables, new, id, number, (kind, &new.author(), &detail))?;
    note_secrets(tables, new, version, id, number)
}

fn tell(
    tables: &Writing<'_>,
    new: &NewVersion,
    artifact: ArtifactId,
    number: u64,
    (kind, author, detail): (&str, &Author, &Value),
) -> Answer<()> {
    let (at, owner_uid) = (new.captured_at, new.owner_uid);
    tables.tell(&Told { at, owner_uid, artifact, number, kind, author, detail })
}

/// Notes what was found in a captured content, and tells when that closed the version.
fn note_secrets(
    tables: &Writing<'_>,
    new: &NewVersion,
    version: i64,
    id: ArtifactId,
    number: u64,
) -> Answer<()> {
    tables.add_findings(version, &new.secrets.found)?;
    if !new.secrets.quarantined {
        return Ok(());
    }
    let closed = tables.execute(
        "UPDATE version SET quarantined = 1 WHERE pk = ? AND quarantined = 0",
        [version],
    )?;
    if closed > 0 {
        let detail = quarantine(&new.secrets);
        tell(tables, new, id, number, ("quarantined", &Author::Belljar, &detail))?;
    }
    Ok(())
}

fn note_producer(
    tables: &Writing<'_>,
    new: &NewVersion,
    version: i64,
    created_at: i64,
) -> Answer<()> {
    let Some(run) = new.run else { return Ok(()) };
    let created_at = Timestamp::from_microsecond(created_at).map_err(damaged)?;
    tables.note_production(run, version, created_at, new.inputs)
}
