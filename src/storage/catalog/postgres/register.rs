//! Registering versions: a batch of any size in a handful of statements, since each of them is a way to the server and back
//! while all other daemons wait.
//!
//! What is known of the files of a batch is read at once, the batch is gone through in memory, and what it comes to is
//! written table by table.

use super::row::PostgresRow;
use super::statement::{Value, integer};
use super::write::Writing;
use crate::model::artifact::{ArtifactState, Author};
use crate::model::id::{ArtifactId, RunId};
use crate::storage::catalog::change::capture_into;
use crate::storage::catalog::row::{self, Columns, damaged};
use crate::storage::catalog::tables::{Answer, Told};
use crate::storage::life::quarantine;
use crate::storage::lineage::InputBounds;
use crate::storage::row::{Arrival, Latest};
use crate::storage::{NewVersion, Registered, SecretFinding, Stamp, VersionRow};
use jiff::Timestamp;
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, HashMap};

/// The latest version of a file.
struct Known {
    id: ArtifactId,
    version: i64,
    created_at: Timestamp,
    quarantined: bool,
    latest: Latest,
}

/// The files of a batch, by owner and path; nothing for one that was never registered.
type Files<'a> = HashMap<(u32, &'a [u8]), Option<Known>>;

/// What is to be written.
#[derive(Default)]
struct Book<'a> {
    /// Those that are new.
    artifacts: Vec<VersionRow>,
    versions: Vec<(i64, VersionRow)>,
    /// Of each artifact the latest number, where there is another one, and what its file looked like.
    latest: BTreeMap<ArtifactId, (Option<u64>, Option<Stamp>)>,
    productions: BTreeMap<(RunId, i64), (Timestamp, Option<InputBounds>)>,
    findings: Vec<(i64, &'a SecretFinding)>,
    /// Versions that were there before and are closed.
    closed: Vec<i64>,
    events: Vec<Note<'a>>,
}

/// An event to come.
struct Note<'a> {
    new: &'a NewVersion,
    artifact: ArtifactId,
    number: u64,
    kind: &'static str,
    author: Author,
    detail: Json,
}

/// Registers the batch in the transaction.
pub(super) fn register(tables: &Writing<'_>, batch: &[NewVersion]) -> Answer<Vec<Registered>> {
    let mut files = known_files(tables, batch)?;
    let mut keys = tables.new_keys(batch.len())?.into_iter();
    let mut book = Book::default();
    let mut registered = Vec::with_capacity(batch.len());
    for new in batch {
        let known = files
            .get_mut(&(new.owner_uid, &new.host_path[..]))
            .ok_or_else(|| damaged("a file of the batch was not looked for"))?;
        let arrival = Arrival::of(new, known.as_ref().map(|known| &known.latest));
        registered.push(match (arrival, known) {
            (Arrival::Unchanged, Some(known)) => {
                book.arrives(new, known);
                Registered::Unchanged(known.latest.number)
            }
            (Arrival::IntoHeld, Some(known)) => {
                // It is written at once, behind all that came before it.
                std::mem::take(&mut book).write(tables)?;
                capture_into(tables, known.version, new)?;
                book.arrives(new, known);
                Registered::Version(known.latest.number)
            }
            (Arrival::Next { number, parent }, known) => {
                let key = keys.next().ok_or_else(|| damaged("a sequence gave too few numbers"))?;
                let id = known.as_ref().map_or_else(ArtifactId::generate, |known| known.id);
                let row = VersionRow::captured(new, id, number, parent);
                if known.is_none() {
                    book.artifacts.push(row.clone());
                }
                book.versions.push((key, row));
                book.latest.entry(id).or_default().0 = Some(number);
                let kind = if number == 1 { "created" } else { "version" };
                let detail = json!({ "state": ArtifactState::Ready });
                book.tell(new, id, number, (kind, new.author(), detail));
                let arrived = Known {
                    id,
                    version: key,
                    created_at: new.captured_at,
                    quarantined: false,
                    latest: Latest::arrived(new, number),
                };
                book.arrives(new, known.insert(arrived));
                Registered::Version(number)
            }
            (Arrival::Unchanged | Arrival::IntoHeld, None) => {
                return Err(damaged("an arrival is of a version that is not known"));
            }
        });
    }
    book.write(tables)?;
    let kept = batch.iter().filter_map(|new| Some((new.kept_content()?, new.captured_at)));
    tables.queue_uploads(&kept.collect::<Vec<_>>())?;
    Ok(registered)
}

fn known_files<'a>(tables: &Writing<'_>, batch: &'a [NewVersion]) -> Answer<Files<'a>> {
    let text = "SELECT u.position, a.id, v.pk, v.number, v.state, v.held, v.digest, v.content_kept, v.quarantined, \
             v.created_at, (SELECT max(number) FROM version WHERE artifact = a.pk) AS highest \
         FROM unnest($1, $2) WITH ORDINALITY AS u (owner_uid, host_path, position) \
         JOIN artifact a ON a.owner_uid = u.owner_uid AND sha256(a.host_path) = sha256(u.host_path) \
             AND a.host_path = u.host_path \
         JOIN version v ON v.artifact = a.pk AND v.number = a.latest";
    let mut files: Files<'a> = Files::new();
    let mut paths: Vec<(u32, &[u8])> = Vec::new();
    for new in batch {
        let file = (new.owner_uid, &new.host_path[..]);
        if files.insert(file, None).is_none() {
            paths.push(file);
        }
    }
    let values = [
        Value::Integers(paths.iter().map(|(owner, _)| Some(i64::from(*owner))).collect()),
        Value::ManyBytes(paths.iter().map(|(_, path)| Some(path.to_vec())).collect()),
    ];
    let found = tables.session.collect(tables.doing, text, &values, known)?;
    for (position, known) in found {
        let position = usize::try_from(position - 1).map_err(damaged)?;
        let file = paths.get(position).ok_or_else(|| damaged("a file that was not asked for"))?;
        files.insert(*file, Some(known));
    }
    Ok(files)
}

fn known(columns: &PostgresRow<'_>) -> Answer<(i64, Known)> {
    let known = Known {
        id: row::artifact(columns)?,
        version: row::integer(columns, "pk")?,
        created_at: row::time(columns, "created_at")?,
        quarantined: columns.flag("quarantined")?,
        latest: Latest {
            number: row::integer(columns, "number")?.unsigned_abs(),
            highest: row::integer(columns, "highest")?.unsigned_abs(),
            state: row::word(columns, "state")?,
            held: columns.flag("held")?,
            digest: row::digest_if_any(columns)?,
            content_kept: columns.flag("content_kept")?,
        },
    };
    Ok((row::integer(columns, "position")?, known))
}

impl<'a> Book<'a> {
    /// Notes what comes with a content, whatever it became: the file's looks, its run, and what was found in it.
    fn arrives(&mut self, new: &'a NewVersion, known: &mut Known) {
        self.latest.entry(known.id).or_default().1 = new.stamp;
        if let Some(run) = new.run {
            let noted =
                self.productions.entry((run, known.version)).or_insert((known.created_at, None));
            noted.1 = new.inputs.map(|bounds| bounds.widened(noted.1)).or(noted.1);
        }
        self.findings.extend(new.secrets.found.iter().map(|found| (known.version, found)));
        if new.secrets.quarantined && !known.quarantined {
            known.quarantined = true;
            match self.versions.iter_mut().find(|(key, _)| *key == known.version) {
                Some((_, row)) => row.quarantined = true,
                None => self.closed.push(known.version),
            }
            let detail = quarantine(&new.secrets);
            let told = ("quarantined", Author::Belljar, detail);
            self.tell(new, known.id, known.latest.number, told);
        }
    }

    fn tell(
        &mut self,
        new: &'a NewVersion,
        artifact: ArtifactId,
        number: u64,
        (kind, author, detail): (&'static str, Author, Json),
    ) {
        self.events.push(Note { new, artifact, number, kind, author, detail });
    }

    fn write(mut self, tables: &Writing<'_>) -> Answer<()> {
        if !self.artifacts.is_empty() {
            self.insert_artifacts(tables)?;
        }
        if !self.latest.is_empty() {
            self.update_artifacts(tables)?;
        }
        if !self.versions.is_empty() {
            let rows: Vec<_> = self.versions.iter().map(|(key, row)| (*key, row)).collect();
            tables.insert_versions(&rows)?;
        }
        if !self.productions.is_empty() {
            let each = self.productions.iter();
            let productions: Vec<_> =
                each.map(|((run, key), (at, bounds))| (*run, *key, *at, *bounds)).collect();
            tables.note_productions(&productions)?;
        }
        tables.note_findings(&self.findings)?;
        if !self.closed.is_empty() {
            let closed = Value::Integers(self.closed.iter().copied().map(Some).collect());
            tables
                .execute("UPDATE version SET quarantined = TRUE WHERE pk = ANY ($1)", &[closed])?;
        }
        if self.events.is_empty() {
            return Ok(());
        }
        let told: Vec<_> = self
            .events
            .iter()
            .map(|note| Told {
                at: note.new.captured_at,
                owner_uid: note.new.owner_uid,
                artifact: note.artifact,
                number: note.number,
                kind: note.kind,
                author: &note.author,
                detail: &note.detail,
            })
            .collect();
        tables.tell_all(&told)
    }

    /// New artifacts, with all that is known of them.
    fn insert_artifacts(&mut self, tables: &Writing<'_>) -> Answer<()> {
        let rows = &self.artifacts;
        let seen: Vec<_> =
            rows.iter().map(|row| self.latest.remove(&row.id).unwrap_or_default()).collect();
        let mut values = vec![
            Value::Uuids(rows.iter().map(|row| Some(row.id.as_uuid())).collect()),
            Value::Integers(rows.iter().map(|row| Some(row.owner_uid.into())).collect()),
            Value::ManyBytes(rows.iter().map(|row| Some(row.host_path.clone())).collect()),
            Value::Integers(rows.iter().map(|row| Some(row.created_at.as_microsecond())).collect()),
            Value::Integers(
                rows.iter()
                    .zip(&seen)
                    .map(|(row, (latest, _))| Some(integer(latest.unwrap_or(row.number))))
                    .collect(),
            ),
        ];
        values.extend(stamps(seen.iter().map(|(_, stamp)| *stamp)));
        let text = "INSERT INTO artifact (id, owner_uid, host_path, created_at, latest, seen_inode, seen_size, seen_mtime, \
             seen_ctime) SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9)";
        tables.execute(text, &values).map(drop)
    }

    fn update_artifacts(&self, tables: &Writing<'_>) -> Answer<()> {
        let each = || self.latest.values();
        let mut values = vec![
            Value::Uuids(self.latest.keys().map(|id| Some(id.as_uuid())).collect()),
            Value::Integers(each().map(|(latest, _)| latest.map(integer)).collect()),
        ];
        values.extend(stamps(each().map(|(_, stamp)| *stamp)));
        let text = "UPDATE artifact a SET latest = coalesce(u.latest, a.latest), seen_inode = u.inode, seen_size = u.size, \
                 seen_mtime = u.mtime, seen_ctime = u.ctime \
             FROM unnest($1, $2, $3, $4, $5, $6) AS u (id, latest, inode, size, mtime, ctime) WHERE a.id = u.id";
        tables.execute(text, &values).map(drop)
    }
}

/// Stamps as an artifact's columns. Inode numbers use all 64 bits, and the database's integers are signed: the bits are kept.
fn stamps(stamps: impl Iterator<Item = Option<Stamp>>) -> [Value; 4] {
    let stamps: Vec<Option<Stamp>> = stamps.collect();
    let column =
        |of: fn(Stamp) -> i64| Value::Integers(stamps.iter().map(|stamp| stamp.map(of)).collect());
    [
        column(|stamp| stamp.inode.cast_signed()),
        column(|stamp| integer(stamp.size)),
        column(|stamp| stamp.mtime_ns),
        column(|stamp| stamp.ctime_ns),
    ]
}
