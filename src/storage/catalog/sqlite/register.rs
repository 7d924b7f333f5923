//! Registering versions: the rows of a batch, in the transaction of the caller.

use super::life::{look_again, tell};
use super::lineage::note_production;
use super::{integer, seen};
use crate::model::artifact::{ArtifactState, Author, Origin};
use crate::model::digest::Digest;
use crate::model::id::ArtifactId;
use crate::storage::life::quarantine;
use crate::storage::{NewVersion, Registered, SecretSearch};
use rusqlite::{OptionalExtension, Transaction, params};
use serde_json::json;

/// The latest version of a file that is registered already.
struct Known {
    artifact: i64,
    id: ArtifactId,
    version: i64,
    number: i64,
    ready: bool,
    /// Registered as CREATING by somebody who has not said READY yet.
    held_open: bool,
    digest: Option<Digest>,
    content_kept: bool,
    highest: i64,
    created_at: i64,
}

pub(super) fn register(
    transaction: &Transaction,
    new: &NewVersion,
) -> rusqlite::Result<Registered> {
    let now = new.captured_at.as_microsecond();
    let known = transaction
        .prepare_cached(
            "SELECT a.pk, v.pk, v.number, v.state, v.digest, v.content_kept, \
                 (SELECT max(number) FROM version WHERE artifact = a.pk), v.held AND v.state = 'CREATING', a.id, \
                 v.created_at \
             FROM artifact a JOIN version v ON v.artifact = a.pk AND v.number = a.latest \
             WHERE a.owner_uid = ? AND a.host_path = ?",
        )?
        .query_row(params![new.owner_uid, new.host_path], |row| {
            Ok(Known {
                artifact: row.get(0)?,
                version: row.get(1)?,
                number: row.get(2)?,
                ready: row.get_ref(3)?.as_str()? == ArtifactState::Ready.as_str(),
                digest: row.get::<_, Option<[u8; 32]>>(4)?.map(Digest::from_bytes),
                content_kept: row.get(5)?,
                highest: row.get(6)?,
                held_open: row.get(7)?,
                id: ArtifactId::from(uuid::Uuid::from_bytes(row.get(8)?)),
                created_at: row.get(9)?,
            })
        })
        .optional()?;
    if let Some(known) = &known
        && known.ready
        && known.digest == Some(new.digest)
        // A content that was too large before and is kept under today's settings is worth a version.
        && (known.content_kept || !new.content_kept)
    {
        note_producer(transaction, new, known.version, known.created_at)?;
        seen::note(transaction, known.artifact, new.stamp.as_ref())?;
        close_leaky(transaction, new, known.version, known.id, known.number)?;
        return Ok(Registered::Unchanged(known.number.unsigned_abs()));
    }
    if let Some(known) = known.as_ref().filter(|known| known.held_open) {
        capture_into(transaction, new, known)?;
        seen::note(transaction, known.artifact, new.stamp.as_ref())?;
        note_producer(transaction, new, known.version, known.created_at)?;
        return Ok(Registered::Version(known.number.unsigned_abs()));
    }
    let (artifact, id, number, parent) = match known {
        Some(Known { artifact, id, highest, number: latest, .. }) => {
            let number = highest + 1;
            transaction
                .prepare_cached("UPDATE artifact SET latest = ? WHERE pk = ?")?
                .execute([number, artifact])?;
            seen::note(transaction, artifact, new.stamp.as_ref())?;
            // What was there when the file was opened is what the new version was made from.
            (artifact, id, number, Some(latest))
        }
        None => {
            let id = ArtifactId::generate();
            let seen = seen::columns(new.stamp.as_ref());
            transaction
                .prepare_cached(
                    "INSERT INTO artifact (id, owner_uid, host_path, latest, created_at, seen_inode, seen_size, seen_mtime, \
                         seen_ctime) VALUES (?, ?, ?, 1, ?, ?, ?, ?, ?)",
                )?
                .execute(params![
                    id.as_uuid().as_bytes(),
                    new.owner_uid,
                    new.host_path,
                    now,
                    seen.inode,
                    seen.size,
                    seen.mtime,
                    seen.ctime
                ])?;
            (transaction.last_insert_rowid(), id, 1, None)
        }
    };
    transaction
        .prepare_cached(
            "INSERT INTO version (artifact, owner_uid, number, parent, origin, type, suspected, mime, state, size, digest, \
                 content_kept, closes, workspace, mount, path, run, graph_id, node_id, writer_pid, writer_uid, \
                 writer_command, metadata, created_at, updated_at, secret_scan) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, \
                 ?23, ?24, ?24, ?25)",
        )?
        .execute(params![
            artifact,
            new.owner_uid,
            number,
            parent,
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
            serde_json::Value::Object(new.metadata.clone()).to_string(),
            now,
            new.secrets.outcome.as_str()
        ])?;
    let version = transaction.last_insert_rowid();
    note_producer(transaction, new, version, now)?;
    let kind = if number == 1 { "created" } else { "version" };
    let detail = json!({ "state": ArtifactState::Ready });
    let told = (kind, &new.author(), &detail);
    tell(transaction, new.captured_at, new.owner_uid, id, number.unsigned_abs(), told)?;
    close_leaky(transaction, new, version, id, number)?;
    Ok(Registered::Version(number.unsigned_abs()))
}

/// What is captured under a held version is that version's content, until somebody says READY. What its user said of it stays.
fn capture_into(
    transaction: &Transaction,
    new: &NewVersion,
    known: &Known,
) -> rusqlite::Result<()> {
    let text: String = transaction
        .prepare_cached("SELECT metadata FROM version WHERE pk = ?")?
        .query_row([known.version], |row| row.get(0))?;
    let mut metadata = new.metadata.clone();
    // Only this program writes the column; what could not be read here could not be read anywhere.
    metadata.extend(serde_json::from_str::<crate::storage::Metadata>(&text).unwrap_or_default());
    transaction
        .prepare_cached(
            "UPDATE version SET size = ?2, digest = ?3, content_kept = ?4, closes = closes + ?5, workspace = ?6, mount = ?7, \
                 path = ?8, run = coalesce(?9, run), graph_id = coalesce(graph_id, ?10), node_id = coalesce(node_id, ?11), \
                 writer_pid = ?12, writer_uid = ?13, writer_command = ?14, suspected = ?15, mime = coalesce(mime, ?16), \
                 metadata = ?17, updated_at = ?18, secret_scan = ?19 WHERE pk = ?1",
        )?
        .execute(params![
            known.version,
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
            new.suspected.as_ref().map(|suspected| suspected.as_str()),
            new.mime,
            serde_json::Value::Object(metadata).to_string(),
            new.captured_at.as_microsecond(),
            new.secrets.outcome.as_str()
        ])?;
    look_again(transaction, known.digest.filter(|old| *old != new.digest))?;
    let detail = json!({ "content": new.digest });
    let told = ("updated", &new.author(), &detail);
    let number = known.number.unsigned_abs();
    tell(transaction, new.captured_at, new.owner_uid, known.id, number, told)?;
    close_leaky(transaction, new, known.version, known.id, known.number)
}

/// Notes what was found in a captured content, and tells when that closed the version.
fn close_leaky(
    transaction: &Transaction,
    new: &NewVersion,
    version: i64,
    id: ArtifactId,
    number: i64,
) -> rusqlite::Result<()> {
    if note_secrets(transaction, &new.secrets, version)? {
        let detail = quarantine(&new.secrets);
        let told = ("quarantined", &Author::Belljar, &detail);
        tell(transaction, new.captured_at, new.owner_uid, id, number.unsigned_abs(), told)?;
    }
    Ok(())
}

/// Adds what was found to a version; a secret may have been known later than the content. Answers whether that closed it.
pub(super) fn note_secrets(
    transaction: &Transaction,
    secrets: &SecretSearch,
    version: i64,
) -> rusqlite::Result<bool> {
    for found in &secrets.found {
        transaction
            .prepare_cached(
                "INSERT OR IGNORE INTO finding (version, secret, encoding, position) VALUES (?, ?, ?, ?)",
            )?
            .execute(params![
                version,
                found.secret.as_str(),
                found.encoding,
                integer(found.position)
            ])?;
    }
    if !secrets.quarantined {
        return Ok(false);
    }
    let closed = transaction
        .prepare_cached("UPDATE version SET quarantined = 1 WHERE pk = ? AND quarantined = 0")?
        .execute([version])?;
    Ok(closed > 0)
}

fn note_producer(
    transaction: &Transaction,
    new: &NewVersion,
    version: i64,
    created_at: i64,
) -> rusqlite::Result<()> {
    match new.run {
        Some(run) => note_production(transaction, run, (version, created_at), new.inputs),
        None => Ok(()),
    }
}
