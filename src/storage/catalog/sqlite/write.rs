//! Writing versions in SQLite, in a transaction of the caller.

use super::row::{COLUMNS, at_path, due_for_sweep, find, naming, select, value};
use super::{integer, sql};
use crate::model::digest::Digest;
use crate::model::id::{ArtifactId, RunId};
use crate::storage::catalog::tables::{Answer, Stored, Told, Versions};
use crate::storage::catalog::upload::Books;
use crate::storage::lineage::{Input, InputBounds};
use crate::storage::retention::NamedContent;
use crate::storage::upload::Destination;
use crate::storage::{SecretFinding, VersionRow, Which};
use jiff::Timestamp;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Transaction, params, params_from_iter};
use serde_json::Value;
use std::sync::LazyLock;

/// A transaction that writes, and what for.
pub(super) struct Writing<'a> {
    pub transaction: &'a Transaction<'a>,
    pub doing: &'static str,
    /// Where contents are to be sent.
    pub destination: Option<&'a Destination>,
}

impl Writing<'_> {
    pub fn execute(&self, text: &str, parameters: impl rusqlite::Params) -> Answer<usize> {
        let statement = self.transaction.prepare_cached(text);
        statement.and_then(|mut s| s.execute(parameters)).map_err(sql(self.doing))
    }

    pub fn value<T: rusqlite::types::FromSql>(
        &self,
        text: &str,
        parameters: impl rusqlite::Params,
    ) -> Answer<Option<T>> {
        value(self.transaction, self.doing, text, parameters)
    }
}

/// The columns that change, in the order of [`mutable`].
const MUTABLE: [&str; 28] = [
    "parent",
    "type",
    "suspected",
    "mime",
    "state",
    "held",
    "pinned",
    "quarantined",
    "size",
    "digest",
    "content_kept",
    "closes",
    "workspace",
    "mount",
    "path",
    "run",
    "graph_id",
    "node_id",
    "writer_pid",
    "writer_uid",
    "writer_command",
    "metadata",
    "updated_at",
    "deleted_at",
    "swept_at",
    "archived_at",
    "lost_at",
    "secret_scan",
];

fn mutable(row: &VersionRow) -> [ToSqlOutput<'_>; 28] {
    let time = |time: Option<Timestamp>| output(time.map(Timestamp::as_microsecond));
    let metadata = Value::Object(row.metadata.clone()).to_string();
    [
        output(row.parent.map(integer)),
        text_output(Some(row.artifact_type.as_str())),
        text_output(row.suspected.as_ref().map(|suspected| suspected.as_str())),
        text_output(row.mime.as_deref()),
        text_output(Some(row.state.as_str())),
        output(Some(row.held)),
        output(Some(row.pinned)),
        output(Some(row.quarantined)),
        output(Some(integer(row.size))),
        bytes_output(row.digest.as_ref().map(|digest| &digest.as_bytes()[..])),
        output(Some(row.content_kept)),
        output(Some(integer(row.closes))),
        text_output(row.workspace.as_ref().map(|workspace| workspace.as_str())),
        text_output(row.place.as_ref().map(|(mount, _)| mount.as_str())),
        bytes_output(row.place.as_ref().map(|(_, path)| path.as_bytes())),
        output(row.run.map(|run| run.as_uuid().as_bytes().to_vec())),
        text_output(row.graph_id.as_deref()),
        text_output(row.node_id.as_deref()),
        output(row.writer.as_ref().map(|writer| writer.pid)),
        output(row.writer.as_ref().map(|writer| writer.uid)),
        bytes_output(row.writer.as_ref().and_then(|writer| writer.command.as_deref())),
        output(Some(metadata)),
        time(Some(row.updated_at)),
        time(row.deleted_at),
        time(row.swept_at),
        time(row.archived_at),
        time(row.lost_at),
        text_output(row.secret_scan.map(|outcome| outcome.as_str())),
    ]
}

fn output<'a>(value: Option<impl Into<rusqlite::types::Value>>) -> ToSqlOutput<'a> {
    ToSqlOutput::Owned(value.map_or(rusqlite::types::Value::Null, Into::into))
}

fn text_output(text: Option<&str>) -> ToSqlOutput<'_> {
    ToSqlOutput::Borrowed(text.map_or(ValueRef::Null, |text| ValueRef::Text(text.as_bytes())))
}

fn bytes_output(bytes: Option<&[u8]>) -> ToSqlOutput<'_> {
    ToSqlOutput::Borrowed(bytes.map_or(ValueRef::Null, ValueRef::Blob))
}

impl Versions for Writing<'_> {
    fn find(&self, owner: Option<u32>, id: ArtifactId, which: Which) -> Answer<Option<Stored>> {
        find(self.transaction, owner, id, which)
    }

    fn at_path(&self, owner: u32, host_path: &[u8]) -> Answer<Option<Stored>> {
        at_path(self.transaction, owner, host_path)
    }

    fn by_key(&self, version: i64) -> Answer<Option<Stored>> {
        let text = format!(
            "SELECT {COLUMNS} FROM version v JOIN artifact a ON a.pk = v.artifact WHERE v.pk = ?"
        );
        Ok(select(self.transaction, self.doing, &text, [version])?.pop())
    }

    fn of_artifact(&self, id: ArtifactId) -> Answer<Vec<Stored>> {
        let text = format!(
            "SELECT {COLUMNS} FROM version v JOIN artifact a ON a.pk = v.artifact WHERE a.id = ? ORDER BY v.number"
        );
        select(self.transaction, self.doing, &text, [id.as_uuid().as_bytes()])
    }

    fn naming(&self, digest: &Digest) -> Answer<Vec<Stored>> {
        naming(self.transaction, None, digest, u32::MAX)
    }

    fn due_for_sweep(&self, deleted_before: Timestamp, limit: u32) -> Answer<Vec<Stored>> {
        due_for_sweep(self.transaction, deleted_before, limit)
    }

    fn newest(&self, id: ArtifactId) -> Answer<u64> {
        let text = "SELECT max(number) FROM version WHERE artifact = (SELECT pk FROM artifact WHERE id = ?)";
        let newest: Option<Option<i64>> = self.value(text, [id.as_uuid().as_bytes()])?;
        Ok(newest.flatten().unwrap_or(0).unsigned_abs())
    }

    fn write(&self, version: i64, before: &VersionRow, row: &VersionRow) -> Answer<()> {
        // Those that differ alone: each index with a column that is set is written anew, whether or not the value is another.
        let (before, after) = (mutable(before), mutable(row));
        let differing = || {
            let columns = MUTABLE.iter().zip(before.iter().zip(&after));
            columns.filter(|(_, (before, after))| before != after)
        };
        let set: Vec<String> = differing().map(|(name, _)| format!("{name} = ?")).collect();
        if set.is_empty() {
            return Ok(());
        }
        let text = format!("UPDATE version SET {} WHERE pk = ?", set.join(", "));
        let key = output(Some(version));
        let values = differing().map(|(_, (_, after))| after).chain([&key]);
        self.execute(&text, params_from_iter(values)).map(drop)
    }

    fn insert_artifact(&self, row: &VersionRow) -> Answer<()> {
        self.execute(
            "INSERT INTO artifact (id, owner_uid, host_path, latest, created_at) VALUES (?, ?, ?, ?, ?)",
            params![
                row.id.as_uuid().as_bytes(),
                row.owner_uid,
                row.host_path,
                integer(row.number),
                row.created_at.as_microsecond()
            ],
        )
        .map(drop)
    }

    fn insert_version(&self, row: &VersionRow) -> Answer<i64> {
        // VALUES, not SELECT: what could insert several rows has every page that it changes written to a journal of its own first.
        static TEXT: LazyLock<String> = LazyLock::new(|| {
            format!(
                "INSERT INTO version ({}, owner_uid, number, origin, created_at, artifact) \
                 VALUES ({} ?, ?, ?, ?, (SELECT pk FROM artifact WHERE id = ?))",
                MUTABLE.join(", "),
                "?, ".repeat(MUTABLE.len()),
            )
        });
        let id = row.id.as_uuid();
        let fixed = [
            output(Some(row.owner_uid)),
            output(Some(integer(row.number))),
            text_output(Some(row.origin.as_str())),
            output(Some(row.created_at.as_microsecond())),
            bytes_output(Some(&id.as_bytes()[..])),
        ];
        self.execute(&TEXT, params_from_iter(mutable(row).iter().chain(&fixed)))?;
        Ok(self.transaction.last_insert_rowid())
    }

    fn queue_upload(&self, content: NamedContent, now: Timestamp) -> Answer<()> {
        let Some(destination) = self.destination else { return Ok(()) };
        self.insert(destination, &[(content, now)]).map(drop)
    }

    fn follow_latest(&self, id: ArtifactId) -> Answer<()> {
        self.execute(
            "UPDATE artifact SET latest = coalesce( \
                 (SELECT max(number) FROM version WHERE artifact = pk_of.pk AND state <> 'DELETED'), \
                 (SELECT max(number) FROM version WHERE artifact = pk_of.pk)) \
             FROM (SELECT pk FROM artifact WHERE id = ?1) AS pk_of WHERE artifact.pk = pk_of.pk",
            [id.as_uuid().as_bytes()],
        )
        .map(drop)
    }

    fn note_production(
        &self,
        run: RunId,
        version: i64,
        created_at: Timestamp,
        bounds: Option<InputBounds>,
    ) -> Answer<()> {
        self.execute(
            "INSERT INTO produced (run, version, inputs_before, inputs_until, created_at) VALUES (?1, ?2, ?3, ?4, ?5) \
             ON CONFLICT (run, created_at, version) DO UPDATE SET \
                 inputs_before = coalesce(max(inputs_before, ?3), inputs_before, ?3), \
                 inputs_until = coalesce(max(inputs_until, ?4), inputs_until, ?4)",
            params![
                run.as_uuid().as_bytes(),
                version,
                bounds.map(|bounds| integer(bounds.before)),
                bounds.map(|bounds| integer(bounds.until)),
                created_at.as_microsecond(),
            ],
        )
        .map(drop)
    }

    fn add_findings(&self, version: i64, found: &[SecretFinding]) -> Answer<()> {
        for found in found {
            self.execute(
                "INSERT OR IGNORE INTO finding (version, secret, encoding, position) VALUES (?, ?, ?, ?)",
                params![version, found.secret.as_str(), found.encoding, integer(found.position)],
            )?;
        }
        Ok(())
    }

    fn tell(&self, told: &Told<'_>) -> Answer<()> {
        self.execute(
            "INSERT INTO event (at, owner_uid, artifact, version, kind, actor, detail) VALUES (?, ?, ?, ?, ?, ?, ?)",
            params![
                told.at.as_microsecond(),
                told.owner_uid,
                told.artifact.as_uuid().as_bytes(),
                integer(told.number),
                told.kind,
                told.author.to_string(),
                told.detail.to_string()
            ],
        )
        .map(drop)
    }

    fn look_again(&self, digest: &Digest) -> Answer<()> {
        let text = "INSERT INTO placement (digest) VALUES (?) ON CONFLICT (digest) DO UPDATE SET turn = turn + 1";
        self.execute(text, [digest.as_bytes()]).map(drop)
    }

    fn placed(&self, digest: &Digest, turn: i64) -> Answer<()> {
        let text = "DELETE FROM placement WHERE digest = ? AND turn = ?";
        self.execute(text, params![digest.as_bytes(), turn]).map(drop)
    }

    fn note_inputs(&self, inputs: &[Input]) -> Answer<()> {
        for input in inputs {
            let place = input.place.as_ref();
            self.execute(
                "INSERT OR IGNORE INTO input (run, number, owner_uid, mount, path, host_path, size, modified_at, digest, \
                     reason, opened_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
                params![
                    input.run.as_uuid().as_bytes(),
                    integer(input.number),
                    input.owner_uid,
                    place.map(|place| place.mount.as_str()),
                    place.map(|place| place.path.as_bytes()),
                    place.map(|place| &place.host_path),
                    input.size.map(integer),
                    input.modified_at.map(Timestamp::as_microsecond),
                    input.digest.as_ref().map(Digest::as_bytes),
                    input.reason,
                    input.opened_at.as_microsecond(),
                ],
            )?;
        }
        Ok(())
    }
}
