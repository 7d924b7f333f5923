//! Writing versions in PostgreSQL, in a transaction of the caller.
//!
//! Rows are written as columns of arrays, so that a batch of any size is one statement.

use super::document::Document;
use super::row::{COLUMNS, at_path, due_for_sweep, find, naming, select};
use super::session::Session;
use super::statement::{Value, integer, values};
use super::text::escape;
use crate::model::digest::Digest;
use crate::model::id::{ArtifactId, RunId};
use crate::storage::catalog::row;
use crate::storage::catalog::tables::{Answer, Stored, Told, Versions};
use crate::storage::catalog::upload::Books;
use crate::storage::lineage::{Input, InputBounds};
use crate::storage::retention::NamedContent;
use crate::storage::upload::Destination;
use crate::storage::{SecretFinding, VersionRow, Which};
use jiff::Timestamp;
use uuid::Uuid;

/// A transaction that writes, and what for.
pub(super) struct Writing<'a> {
    pub session: &'a Session,
    pub doing: &'static str,
    /// Where contents are to be sent.
    pub destination: Option<&'a Destination>,
}

impl Writing<'_> {
    pub fn execute(&self, text: &str, values: &[Value]) -> Answer<u64> {
        self.session.execute(self.doing, text, values)
    }

    /// Has contents sent that versions name since those times.
    pub fn queue_uploads(&self, contents: &[(NamedContent, Timestamp)]) -> Answer<()> {
        let Some(destination) = self.destination else { return Ok(()) };
        self.insert(destination, contents).map(drop)
    }

    /// Keys for so many new versions, in order.
    pub fn new_keys(&self, count: usize) -> Answer<Vec<i64>> {
        let text = "SELECT nextval('version_pk') AS pk FROM generate_series(1, $1)";
        let count = integer(count as u64);
        self.session.collect(self.doing, text, values![count], |row| row::integer(row, "pk"))
    }

    /// New versions under keys of [`new_keys`](Self::new_keys); their artifacts are there.
    pub fn insert_versions(&self, rows: &[(i64, &VersionRow)]) -> Answer<()> {
        let text = format!(
            "INSERT INTO version (pk, artifact, owner_uid, number, origin, created_at, {MUTABLE}) \
             SELECT u.pk, a.pk, u.owner_uid, u.number, u.origin, u.created_at, {} \
             FROM unnest($1, $2, $3, $4, $5, $6, {}) \
                 AS u (pk, id, owner_uid, number, origin, created_at, {MUTABLE}) JOIN artifact a ON a.id = u.id",
            MUTABLE.replace("metadata,", "metadata::jsonb,"),
            (7..7 + MUTABLE.split(',').count())
                .map(|number| format!("${number}"))
                .collect::<Vec<_>>()
                .join(", "),
        );
        let mut bound = vec![
            Value::Integers(rows.iter().map(|(pk, _)| Some(*pk)).collect()),
            Value::Uuids(rows.iter().map(|(_, row)| Some(row.id.as_uuid())).collect()),
            integers(rows, |row| Some(row.owner_uid.into())),
            integers(rows, |row| Some(integer(row.number))),
            texts(rows, |row| Some(row.origin.as_str())),
            integers(rows, |row| Some(row.created_at.as_microsecond())),
        ];
        bound.extend(mutable(rows));
        self.execute(&text, &bound).map(drop)
    }

    /// Events, in order.
    pub fn tell_all(&self, told: &[Told<'_>]) -> Answer<()> {
        let text = "INSERT INTO event (seq, at, owner_uid, artifact, version, kind, actor, detail) \
             SELECT nextval('event_seq'), u.* FROM (SELECT at, owner_uid, artifact, version, kind, actor, detail \
                 FROM unnest($1, $2, $3, $4, $5, $6, $7) \
                 WITH ORDINALITY AS u (at, owner_uid, artifact, version, kind, actor, detail, position) ORDER BY position) u";
        let text_of = |text: String| Some(escape(&text).into_owned());
        self.execute(
            text,
            &[
                Value::Integers(told.iter().map(|told| Some(told.at.as_microsecond())).collect()),
                Value::Integers(told.iter().map(|told| Some(told.owner_uid.into())).collect()),
                Value::Uuids(told.iter().map(|told| Some(told.artifact.as_uuid())).collect()),
                Value::Integers(told.iter().map(|told| Some(integer(told.number))).collect()),
                Value::Texts(told.iter().map(|told| Some(told.kind.to_owned())).collect()),
                Value::Texts(told.iter().map(|told| text_of(told.author.to_string())).collect()),
                Value::Texts(told.iter().map(|told| text_of(told.detail.to_string())).collect()),
            ],
        )
        .map(drop)
    }

    /// Which runs produced which versions, made at that time, and what each had read by then. A pair comes once.
    pub fn note_productions(
        &self,
        productions: &[(RunId, i64, Timestamp, Option<InputBounds>)],
    ) -> Answer<()> {
        let text = "INSERT INTO produced (run, version, created_at, inputs_before, inputs_until) \
             SELECT * FROM unnest($1, $2, $3, $4, $5) \
             ON CONFLICT (run, created_at, version) DO UPDATE SET \
                 inputs_before = greatest(produced.inputs_before, excluded.inputs_before), \
                 inputs_until = greatest(produced.inputs_until, excluded.inputs_until)";
        let of = |pick: fn(InputBounds) -> u64| {
            let bounds = productions.iter().map(|(_, _, _, bounds)| *bounds);
            Value::Integers(bounds.map(|bounds| bounds.map(|b| integer(pick(b)))).collect())
        };
        self.execute(
            text,
            &[
                Value::Uuids(productions.iter().map(|(run, ..)| Some(run.as_uuid())).collect()),
                Value::Integers(productions.iter().map(|(_, pk, ..)| Some(*pk)).collect()),
                Value::Integers(
                    productions.iter().map(|(_, _, at, _)| Some(at.as_microsecond())).collect(),
                ),
                of(|bounds| bounds.before),
                of(|bounds| bounds.until),
            ],
        )
        .map(drop)
    }

    /// What was found in versions. One whose secret and encoding are known already stays as it is.
    pub fn note_findings(&self, found: &[(i64, &SecretFinding)]) -> Answer<()> {
        if found.is_empty() {
            return Ok(());
        }
        let text = "INSERT INTO finding (version, secret, encoding, position) SELECT * FROM unnest($1, $2, $3, $4) \
             ON CONFLICT DO NOTHING";
        self.execute(
            text,
            &[
                Value::Integers(found.iter().map(|(pk, _)| Some(*pk)).collect()),
                Value::Texts(found.iter().map(|(_, f)| Some(f.secret.to_string())).collect()),
                Value::Texts(
                    found.iter().map(|(_, f)| Some(escape(&f.encoding).into_owned())).collect(),
                ),
                Value::Integers(found.iter().map(|(_, f)| Some(integer(f.position))).collect()),
            ],
        )
        .map(drop)
    }
}

/// The columns that change, in the order of [`mutable`].
const MUTABLE: &str = "parent, type, suspected, mime, state, held, pinned, quarantined, size, digest, content_kept, closes, \
     workspace, mount, path, run, graph_id, node_id, writer_pid, writer_uid, writer_command, metadata, metadata_text, \
     updated_at, deleted_at, swept_at, archived_at, lost_at, secret_scan";

type Rows<'a> = [(i64, &'a VersionRow)];

fn integers(rows: &Rows<'_>, of: impl Fn(&VersionRow) -> Option<i64>) -> Value {
    Value::Integers(rows.iter().map(|(_, row)| of(row)).collect())
}

fn texts<'a>(rows: &Rows<'a>, of: impl Fn(&'a VersionRow) -> Option<&'a str>) -> Value {
    let texts = rows.iter().map(|(_, row)| of(row).map(|text| escape(text).into_owned()));
    Value::Texts(texts.collect())
}

fn many_bytes<'a>(rows: &Rows<'a>, of: impl Fn(&'a VersionRow) -> Option<&'a [u8]>) -> Value {
    Value::ManyBytes(rows.iter().map(|(_, row)| of(row).map(<[u8]>::to_vec)).collect())
}

fn bools(rows: &Rows<'_>, of: impl Fn(&VersionRow) -> bool) -> Value {
    Value::Bools(rows.iter().map(|(_, row)| of(row)).collect())
}

fn mutable(rows: &Rows<'_>) -> Vec<Value> {
    let time = |time: Option<Timestamp>| time.map(Timestamp::as_microsecond);
    let (mut json, mut exact) = (Vec::new(), Vec::new());
    for (_, row) in rows {
        let document = Document::of(&row.metadata);
        json.push(Some(document.json));
        exact.push(document.exact);
    }
    vec![
        integers(rows, |row| row.parent.map(integer)),
        texts(rows, |row| Some(row.artifact_type.as_str())),
        texts(rows, |row| row.suspected.as_ref().map(|suspected| suspected.as_str())),
        texts(rows, |row| row.mime.as_deref()),
        texts(rows, |row| Some(row.state.as_str())),
        bools(rows, |row| row.held),
        bools(rows, |row| row.pinned),
        bools(rows, |row| row.quarantined),
        integers(rows, |row| Some(integer(row.size))),
        many_bytes(rows, |row| row.digest.as_ref().map(|digest| &digest.as_bytes()[..])),
        bools(rows, |row| row.content_kept),
        integers(rows, |row| Some(integer(row.closes))),
        texts(rows, |row| row.workspace.as_ref().map(|workspace| workspace.as_str())),
        texts(rows, |row| row.place.as_ref().map(|(mount, _)| mount.as_str())),
        many_bytes(rows, |row| row.place.as_ref().map(|(_, path)| path.as_bytes())),
        Value::Uuids(rows.iter().map(|(_, row)| row.run.map(|run| run.as_uuid())).collect()),
        texts(rows, |row| row.graph_id.as_deref()),
        texts(rows, |row| row.node_id.as_deref()),
        integers(rows, |row| row.writer.as_ref().map(|writer| writer.pid.into())),
        integers(rows, |row| row.writer.as_ref().map(|writer| writer.uid.into())),
        many_bytes(rows, |row| row.writer.as_ref().and_then(|writer| writer.command.as_deref())),
        Value::Texts(json),
        Value::Texts(exact),
        integers(rows, |row| Some(row.updated_at.as_microsecond())),
        integers(rows, |row| time(row.deleted_at)),
        integers(rows, |row| time(row.swept_at)),
        integers(rows, |row| time(row.archived_at)),
        integers(rows, |row| time(row.lost_at)),
        texts(rows, |row| row.secret_scan.map(|outcome| outcome.as_str())),
    ]
}

impl Versions for Writing<'_> {
    fn find(&self, owner: Option<u32>, id: ArtifactId, which: Which) -> Answer<Option<Stored>> {
        find(self.session, owner, id, which)
    }

    fn at_path(&self, owner: u32, host_path: &[u8]) -> Answer<Option<Stored>> {
        at_path(self.session, owner, host_path)
    }

    fn by_key(&self, version: i64) -> Answer<Option<Stored>> {
        let text = format!(
            "SELECT {COLUMNS} FROM version v JOIN artifact a ON a.pk = v.artifact WHERE v.pk = $1"
        );
        Ok(select(self.session, self.doing, &text, values![version])?.pop())
    }

    fn of_artifact(&self, id: ArtifactId) -> Answer<Vec<Stored>> {
        let text = format!(
            "SELECT {COLUMNS} FROM version v JOIN artifact a ON a.pk = v.artifact WHERE a.id = $1 ORDER BY v.number"
        );
        select(self.session, self.doing, &text, values![id.as_uuid()])
    }

    fn naming(&self, digest: &Digest) -> Answer<Vec<Stored>> {
        naming(self.session, None, digest, u32::MAX)
    }

    fn due_for_sweep(&self, deleted_before: Timestamp, limit: u32) -> Answer<Vec<Stored>> {
        due_for_sweep(self.session, deleted_before, limit)
    }

    fn newest(&self, id: ArtifactId) -> Answer<u64> {
        let text = "SELECT coalesce(max(v.number), 0) AS number FROM version v JOIN artifact a ON a.pk = v.artifact \
             WHERE a.id = $1";
        let newest = self
            .session
            .collect(self.doing, text, values![id.as_uuid()], |row| row::integer(row, "number"));
        Ok(newest?.pop().unwrap_or(0).unsigned_abs())
    }

    fn write(&self, version: i64, _before: &VersionRow, row: &VersionRow) -> Answer<()> {
        let numbered: Vec<String> = MUTABLE
            .split(',')
            .zip(2..)
            .map(|(name, number)| match name.trim() {
                "metadata" => format!("metadata = (${number})[1]::jsonb"),
                name => format!("{name} = (${number})[1]"),
            })
            .collect();
        let text = format!("UPDATE version SET {} WHERE pk = $1", numbered.join(", "));
        let mut bound = vec![Value::from(version)];
        bound.extend(mutable(&[(version, row)]));
        self.execute(&text, &bound).map(drop)
    }

    fn insert_artifact(&self, row: &VersionRow) -> Answer<()> {
        self.execute(
            "INSERT INTO artifact (id, owner_uid, host_path, latest, created_at) VALUES ($1, $2, $3, $4, $5)",
            values![
                row.id.as_uuid(),
                row.owner_uid,
                &row.host_path[..],
                row.number,
                row.created_at
            ],
        )
        .map(drop)
    }

    fn insert_version(&self, row: &VersionRow) -> Answer<i64> {
        let keys = self.new_keys(1)?;
        let key = *keys.first().ok_or_else(|| row::damaged("a sequence gives no number"))?;
        self.insert_versions(&[(key, row)])?;
        Ok(key)
    }

    fn queue_upload(&self, content: NamedContent, now: Timestamp) -> Answer<()> {
        self.queue_uploads(&[(content, now)])
    }

    fn follow_latest(&self, id: ArtifactId) -> Answer<()> {
        self.execute(
            "UPDATE artifact a SET latest = coalesce( \
                 (SELECT max(number) FROM version WHERE artifact = a.pk AND state <> 'DELETED'), \
                 (SELECT max(number) FROM version WHERE artifact = a.pk)) WHERE a.id = $1",
            values![id.as_uuid()],
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
        self.note_productions(&[(run, version, created_at, bounds)])
    }

    fn add_findings(&self, version: i64, found: &[SecretFinding]) -> Answer<()> {
        let found: Vec<_> = found.iter().map(|found| (version, found)).collect();
        self.note_findings(&found)
    }

    fn tell(&self, told: &Told<'_>) -> Answer<()> {
        self.tell_all(std::slice::from_ref(told))
    }

    fn look_again(&self, digest: &Digest) -> Answer<()> {
        let text = "INSERT INTO placement (digest) VALUES ($1) \
             ON CONFLICT (digest) DO UPDATE SET turn = placement.turn + 1";
        self.execute(text, values![digest]).map(drop)
    }

    fn placed(&self, digest: &Digest, turn: i64) -> Answer<()> {
        let text = "DELETE FROM placement WHERE digest = $1 AND turn = $2";
        self.execute(text, values![digest, turn]).map(drop)
    }

    fn note_inputs(&self, inputs: &[Input]) -> Answer<()> {
        let text = "INSERT INTO input (run, number, owner_uid, mount, path, host_path, size, modified_at, digest, reason, \
                 opened_at) SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING";
        let many =
            |of: &dyn Fn(&Input) -> Option<i64>| Value::Integers(inputs.iter().map(of).collect());
        let texts = |of: &dyn Fn(&Input) -> Option<String>| {
            let escaped = |text: String| escape(&text).into_owned();
            Value::Texts(inputs.iter().map(|input| of(input).map(escaped)).collect())
        };
        let bytes = |of: &dyn Fn(&Input) -> Option<Vec<u8>>| {
            Value::ManyBytes(inputs.iter().map(of).collect())
        };
        let runs: Vec<Option<Uuid>> =
            inputs.iter().map(|input| Some(input.run.as_uuid())).collect();
        self.execute(
            text,
            &[
                Value::Uuids(runs),
                many(&|input| Some(integer(input.number))),
                many(&|input| Some(input.owner_uid.into())),
                texts(&|input| input.place.as_ref().map(|place| place.mount.to_string())),
                bytes(&|input| input.place.as_ref().map(|place| place.path.as_bytes().to_vec())),
                bytes(&|input| input.place.as_ref().map(|place| place.host_path.clone())),
                many(&|input| input.size.map(integer)),
                many(&|input| input.modified_at.map(Timestamp::as_microsecond)),
                bytes(&|input| input.digest.as_ref().map(|digest| digest.as_bytes().to_vec())),
                texts(&|input| input.reason.clone()),
                many(&|input| Some(input.opened_at.as_microsecond())),
            ],
        )
        .map(drop)
    }
}
