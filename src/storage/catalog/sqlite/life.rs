//! The life of versions in SQLite: each change in one transaction, with its events.

use super::register::note_secrets;
use super::row::{COLUMNS, find, select};
use super::{SqliteCatalog, integer, lock, sql};
use crate::model::artifact::{ArtifactState, Author};
use crate::model::digest::Digest;
use crate::model::id::ArtifactId;
use crate::model::names::{Alias, Label};
use crate::storage::life::{
    self, Amendment, Declaration, DeclaredContent, Event, EventFilter, Life, NAMES_MAX, Placement,
    Refusal, Wanted, merge_metadata,
};
use crate::storage::{CatalogError, Metadata, VersionRow, Which};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde_json::{Value, json};

/// A change under way: the transaction, who makes it, and when.
pub(super) struct Change<'a> {
    pub transaction: &'a Transaction<'a>,
    pub author: &'a Author,
    pub at: Timestamp,
    pub doing: &'static str,
}

pub(super) type Outcome<T> = Result<Result<T, Refusal>, CatalogError>;

impl Change<'_> {
    pub fn execute(
        &self,
        text: &str,
        parameters: impl rusqlite::Params,
    ) -> Result<usize, CatalogError> {
        let statement = self.transaction.prepare_cached(text);
        statement.and_then(|mut s| s.execute(parameters)).map_err(sql(self.doing))
    }

    pub fn tell(&self, row: &VersionRow, kind: &str, detail: &Value) -> Result<(), CatalogError> {
        tell(
            self.transaction,
            self.at,
            row.owner_uid,
            row.id,
            row.number,
            (kind, self.author, detail),
        )
        .map_err(sql(self.doing))
    }

    pub fn look_again(&self, digest: Option<Digest>) -> Result<(), CatalogError> {
        look_again(self.transaction, digest).map_err(sql(self.doing))
    }

    /// Moves a version to a state that is known to be legal.
    pub fn move_to(
        &self,
        pk: i64,
        row: &VersionRow,
        next: ArtifactState,
    ) -> Result<(), CatalogError> {
        self.move_telling(pk, row, next, &json!({ "from": row.state, "to": next }))
    }

    pub fn move_telling(
        &self,
        pk: i64,
        row: &VersionRow,
        next: ArtifactState,
        told: &Value,
    ) -> Result<(), CatalogError> {
        self.execute(
            "UPDATE version SET state = ?1, updated_at = ?2, held = held AND ?1 <> 'READY', \
                 deleted_at = CASE ?1 WHEN 'DELETED' THEN ?2 END, archived_at = CASE ?1 WHEN 'ARCHIVED' THEN ?2 END WHERE pk = ?3",
            params![next.as_str(), self.at.as_microsecond(), pk],
        )?;
        self.look_again(row.digest.filter(|_| row.content_kept))?;
        self.tell(row, "state", told)
    }

    /// Makes a change that was checked.
    pub fn apply(
        &self,
        pk: i64,
        before: &VersionRow,
        amendment: &Amendment,
    ) -> Result<(), CatalogError> {
        self.rename(pk, before, amendment)?;
        let mut row = before.clone();
        let content = life::content_for(before, amendment);
        if let Some(content) = content {
            row.metadata = life::metadata_under(Some(before), Some(content));
            row.mime = row.mime.or_else(|| content.mime.clone());
        }
        if let Some(artifact_type) = &amendment.artifact_type {
            row.artifact_type = artifact_type.clone();
        }
        row.mime = amendment.mime.clone().or(row.mime);
        row.graph_id = amendment.graph_id.clone().or(row.graph_id);
        row.node_id = amendment.node_id.clone().or(row.node_id);
        row.parent = amendment.parent.or(row.parent);
        row.tags = named(&before.tags, &amendment.tags);
        if let Some(patch) = &amendment.metadata {
            row.metadata = merge_metadata(&row.metadata, patch)?;
        }
        self.execute(
            "UPDATE version SET type = ?, mime = ?, graph_id = ?, node_id = ?, parent = ?, metadata = ?, updated_at = ? \
             WHERE pk = ?",
            params![
                row.artifact_type.as_str(),
                row.mime,
                row.graph_id,
                row.node_id,
                row.parent.map(integer),
                Value::Object(row.metadata.clone()).to_string(),
                self.at.as_microsecond(),
                pk
            ],
        )?;
        let changes = life::changes(before, &row);
        if !changes.is_empty() {
            self.tell(before, "updated", &Value::Object(changes))?;
        }
        if let Some(content) = content {
            self.fill(pk, before, content)?;
            row.digest = Some(content.digest);
            row.content_kept = content.kept;
        }
        if let Some(content) = &amendment.content {
            self.note_secrets(pk, before, content)?;
        }
        if amendment.ready && before.held_open() {
            self.move_to(pk, &row, ArtifactState::Ready)?;
        }
        Ok(())
    }

    fn rename(&self, pk: i64, row: &VersionRow, change: &Amendment) -> Result<(), CatalogError> {
        let id = *row.id.as_uuid().as_bytes();
        for alias in &change.aliases.add {
            let before = holder(self.transaction, row.owner_uid, alias)?;
            if before == Some(row.id) {
                continue;
            }
            self.execute(
                "INSERT INTO alias (owner_uid, name, artifact) SELECT ?1, ?2, pk FROM artifact WHERE id = ?3 \
                 ON CONFLICT (owner_uid, name) DO UPDATE SET artifact = excluded.artifact",
                params![row.owner_uid, alias.as_str(), id],
            )?;
            let from = before.map(|id| id.to_string());
            self.tell(row, "alias-added", &json!({ "alias": alias, "from": from }))?;
        }
        for alias in &change.aliases.remove {
            let removed = self.execute(
                "DELETE FROM alias WHERE owner_uid = ? AND name = ? AND artifact = (SELECT pk FROM artifact WHERE id = ?)",
                params![row.owner_uid, alias.as_str(), id],
            )?;
            if removed > 0 {
                self.tell(row, "alias-removed", &json!({ "alias": alias }))?;
            }
        }
        for label in &change.labels.add {
            let before = labelled(self.transaction, row.id, label)?;
            if before == Some(row.number) {
                continue;
            }
            self.execute(
                "INSERT INTO label (artifact, name, version, created_at) SELECT artifact, ?1, pk, created_at FROM version WHERE pk = ?2 \
                 ON CONFLICT (artifact, name) DO UPDATE SET version = excluded.version, created_at = excluded.created_at",
                params![label.as_str(), pk],
            )?;
            self.tell(row, "label-set", &json!({ "label": label, "from": before }))?;
        }
        for label in &change.labels.remove {
            let removed = self.execute(
                "DELETE FROM label WHERE name = ? AND artifact = (SELECT pk FROM artifact WHERE id = ?)",
                params![label.as_str(), id],
            )?;
            if removed > 0 {
                self.tell(row, "label-removed", &json!({ "label": label }))?;
            }
        }
        for tag in &change.tags.add {
            self.execute(
                "INSERT INTO tag (version, name, created_at) SELECT pk, ?2, created_at FROM version WHERE pk = ?1 ON CONFLICT DO NOTHING",
                params![pk, tag.as_str()],
            )?;
        }
        for tag in &change.tags.remove {
            self.execute(
                "DELETE FROM tag WHERE version = ? AND name = ?",
                params![pk, tag.as_str()],
            )?;
        }
        Ok(())
    }

    fn fill(
        &self,
        pk: i64,
        row: &VersionRow,
        content: &DeclaredContent,
    ) -> Result<(), CatalogError> {
        self.execute(
            "UPDATE version SET digest = ?, size = ?, content_kept = ?, suspected = ?, secret_scan = ?, updated_at = ? \
             WHERE pk = ?",
            params![
                content.digest.as_bytes(),
                integer(content.size),
                content.kept,
                content.suspected.as_ref().map(|suspected| suspected.as_str()),
                content.secrets.outcome.as_str(),
                self.at.as_microsecond(),
                pk
            ],
        )?;
        self.look_again(row.digest.filter(|old| *old != content.digest))
    }

    pub fn note_secrets(
        &self,
        pk: i64,
        row: &VersionRow,
        content: &DeclaredContent,
    ) -> Result<(), CatalogError> {
        let closed =
            note_secrets(self.transaction, &content.secrets, pk).map_err(sql(self.doing))?;
        if closed {
            self.tell(row, "quarantined", &life::quarantine(&content.secrets))?;
        }
        Ok(())
    }

    /// Whether the amendment may be made; `row` is nothing for a version to come.
    pub fn check(
        &self,
        owner: u32,
        id: Option<ArtifactId>,
        row: Option<&VersionRow>,
        amendment: &Amendment,
    ) -> Outcome<()> {
        for alias in &amendment.aliases.add {
            match holder(self.transaction, owner, alias)? {
                Some(holder) if Some(holder) != id && !amendment.move_aliases => {
                    return Ok(Err(Refusal::AliasTaken { alias: alias.clone(), holder }));
                }
                _ => {}
            }
        }
        let aliases = self.names_of(
            "SELECT name FROM alias WHERE artifact = (SELECT pk FROM artifact WHERE id = ?)",
            id,
        )?;
        let labels = self.names_of(
            "SELECT name FROM label WHERE artifact = (SELECT pk FROM artifact WHERE id = ?)",
            id,
        )?;
        let tags = row.map(|row| row.tags.clone()).unwrap_or_default();
        for (what, count) in [
            ("aliases of an artifact", named(&aliases, &amendment.aliases).len()),
            ("labels of an artifact", named(&labels, &amendment.labels).len()),
            ("tags of a version", named(&tags, &amendment.tags).len()),
        ] {
            if count > NAMES_MAX {
                return Ok(Err(Refusal::TooMany { what }));
            }
        }
        if let Some(patch) = &amendment.metadata {
            let content = match row {
                Some(row) => life::content_for(row, amendment),
                None => amendment.content.as_ref(),
            };
            if let Err(refusal) = merge_metadata(&life::metadata_under(row, content), patch) {
                return Ok(Err(refusal));
            }
        }
        if let (Some(parent), Some(id)) = (amendment.parent, id) {
            let there = find(self.transaction, None, id, Which::Number(parent))?.is_some();
            if !there || row.is_some_and(|row| parent >= row.number) {
                return Ok(Err(Refusal::NoSuchParent { id, parent }));
            }
        }
        Ok(Ok(()))
    }

    fn names_of(&self, text: &str, id: Option<ArtifactId>) -> Result<Vec<String>, CatalogError> {
        let Some(id) = id else { return Ok(Vec::new()) };
        let mut statement = self.transaction.prepare_cached(text).map_err(sql(self.doing))?;
        let names = statement.query_map([id.as_uuid().as_bytes()], |row| row.get(0));
        names.and_then(Iterator::collect).map_err(sql(self.doing))
    }
}

/// The names after a change, sorted.
fn named<T: ToString>(there: &[String], change: &life::Names<T>) -> Vec<String> {
    let mut names = there.to_vec();
    names.extend(change.add.iter().map(T::to_string));
    names.retain(|name| !change.remove.iter().any(|removed| removed.to_string() == *name));
    names.sort();
    names.dedup();
    names
}

/// Writes one event.
pub(super) fn tell(
    transaction: &Transaction,
    at: Timestamp,
    owner: u32,
    artifact: ArtifactId,
    number: u64,
    (kind, author, detail): (&str, &Author, &Value),
) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT INTO event (at, owner_uid, artifact, version, kind, actor, detail) VALUES (?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            at.as_microsecond(),
            owner,
            artifact.as_uuid().as_bytes(),
            integer(number),
            kind,
            author.to_string(),
            detail.to_string()
        ])
        .map(drop)
}

pub(super) fn look_again(
    transaction: &Transaction,
    digest: Option<Digest>,
) -> rusqlite::Result<()> {
    if let Some(digest) = digest {
        transaction
            .prepare_cached(
                "INSERT INTO placement (digest) VALUES (?) ON CONFLICT (digest) DO UPDATE SET turn = turn + 1",
            )?
            .execute([digest.as_bytes()])?;
    }
    Ok(())
}

fn uuid_of(bytes: [u8; 16]) -> ArtifactId {
    ArtifactId::from(uuid::Uuid::from_bytes(bytes))
}

fn holder(
    connection: &Connection,
    owner: u32,
    alias: &Alias,
) -> Result<Option<ArtifactId>, CatalogError> {
    let text = "SELECT a.id FROM alias n JOIN artifact a ON a.pk = n.artifact WHERE n.owner_uid = ? AND n.name = ?";
    let found = connection
        .prepare_cached(text)
        .and_then(|mut s| s.query_row(params![owner, alias.as_str()], |row| row.get(0)).optional())
        .map_err(sql("look up an alias"))?;
    Ok(found.map(uuid_of))
}

fn labelled(
    connection: &Connection,
    id: ArtifactId,
    label: &Label,
) -> Result<Option<u64>, CatalogError> {
    let text = "SELECT v.number FROM label l JOIN version v ON v.pk = l.version JOIN artifact a ON a.pk = l.artifact \
         WHERE a.id = ? AND l.name = ?";
    let found: Option<i64> = connection
        .prepare_cached(text)
        .and_then(|mut s| {
            s.query_row(params![id.as_uuid().as_bytes(), label.as_str()], |row| row.get(0))
                .optional()
        })
        .map_err(sql("look up a label"))?;
    Ok(found.map(i64::unsigned_abs))
}

pub(super) fn at_path(
    connection: &Connection,
    owner: u32,
    host_path: &[u8],
) -> Result<Option<(i64, VersionRow)>, CatalogError> {
    let text = format!(
        "SELECT {COLUMNS} FROM artifact a JOIN version v ON v.artifact = a.pk AND v.number = a.latest \
         WHERE a.owner_uid = ? AND a.host_path = ?"
    );
    Ok(select(connection, "look up a path", &text, params![owner, host_path])?.pop())
}

/// A row, with its time and its detail as they are stored.
fn event(row: &rusqlite::Row<'_>) -> rusqlite::Result<(Event, i64, String)> {
    let event = Event {
        seq: row.get(0)?,
        at: Timestamp::UNIX_EPOCH,
        owner_uid: row.get(2)?,
        artifact: uuid_of(row.get(3)?),
        version: row.get::<_, Option<i64>>(4)?.map(i64::unsigned_abs),
        kind: row.get(5)?,
        actor: row.get(6)?,
        detail: Metadata::new(),
    };
    Ok((event, row.get(1)?, row.get(7)?))
}

impl Life for SqliteCatalog {
    fn with_alias(
        &self,
        owner: Option<u32>,
        alias: &Alias,
    ) -> Result<Vec<ArtifactId>, CatalogError> {
        const DOING: &str = "look up an alias";
        let reader = lock(&self.reader);
        // The name is the second column of the key, so that looking for everyone's reads the table of aliases: root alone does.
        let text = "SELECT a.id FROM alias n JOIN artifact a ON a.pk = n.artifact \
             WHERE n.name = ?1 AND (?2 IS NULL OR n.owner_uid = ?2) ORDER BY n.owner_uid LIMIT 2";
        let mut statement = reader.prepare_cached(text).map_err(sql(DOING))?;
        let ids = statement.query_map(params![alias.as_str(), owner], |row| row.get(0));
        let ids: Vec<[u8; 16]> = ids.and_then(Iterator::collect).map_err(sql(DOING))?;
        Ok(ids.into_iter().map(uuid_of).collect())
    }

    fn with_label(&self, id: ArtifactId, label: &Label) -> Result<Option<u64>, CatalogError> {
        labelled(&lock(&self.reader), id, label)
    }

    fn at_path(&self, owner: u32, host_path: &[u8]) -> Result<Option<VersionRow>, CatalogError> {
        Ok(at_path(&lock(&self.reader), owner, host_path)?.map(|(_, row)| row))
    }

    fn versions(
        &self,
        owner: Option<u32>,
        id: ArtifactId,
        below: Option<u64>,
        limit: u32,
    ) -> Result<Vec<VersionRow>, CatalogError> {
        let text = format!(
            "SELECT {COLUMNS} FROM artifact a JOIN version v ON v.artifact = a.pk \
             WHERE a.id = ?1 AND (?2 IS NULL OR a.owner_uid = ?2) AND (?3 IS NULL OR v.number < ?3) \
             ORDER BY v.number DESC LIMIT ?4"
        );
        let id = *id.as_uuid().as_bytes();
        let parameters = params![id, owner, below.map(integer), limit];
        let rows = select(&lock(&self.reader), "list versions", &text, parameters)?;
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    }

    fn declare(
        &self,
        batch: &[Declaration],
        author: &Author,
    ) -> Result<Vec<Result<VersionRow, Refusal>>, CatalogError> {
        const DOING: &str = "register declared versions";
        self.write(DOING, |transaction| {
            let mut outcomes = Vec::with_capacity(batch.len());
            for new in batch {
                let change = Change { transaction, author, at: new.at, doing: DOING };
                let outcome = change.declare(new)?;
                let kept = outcome.as_ref().ok().and_then(VersionRow::kept_content);
                self.queue_upload(transaction, kept, new.at)?;
                outcomes.push(outcome);
            }
            Ok(outcomes)
        })
    }

    fn amend(
        &self,
        owner: Option<u32>,
        id: ArtifactId,
        number: u64,
        amendment: &Amendment,
        author: &Author,
    ) -> Result<Option<VersionRow>, CatalogError> {
        const DOING: &str = "change an artifact";
        self.write(DOING, |transaction| {
            let which = Which::Number(number);
            let Some((pk, row)) = find(transaction, owner, id, which)? else { return Ok(None) };
            life::may_amend(&row, amendment)?;
            let change = Change { transaction, author, at: Timestamp::now(), doing: DOING };
            change.check(row.owner_uid, Some(id), Some(&row), amendment)??;
            change.apply(pk, &row, amendment)?;
            let amended = find(transaction, owner, id, which)?.map(|(_, row)| row);
            let kept = amended.as_ref().and_then(VersionRow::kept_content);
            self.queue_upload(
                transaction,
                kept.filter(|_| amendment.content.is_some()),
                change.at,
            )?;
            Ok(amended)
        })
    }

    fn pin(
        &self,
        owner: Option<u32>,
        id: ArtifactId,
        number: u64,
        pinned: bool,
        author: &Author,
    ) -> Result<Option<VersionRow>, CatalogError> {
        const DOING: &str = "pin an artifact";
        self.write(DOING, |transaction| {
            let which = Which::Number(number);
            let Some((pk, row)) = find(transaction, owner, id, which)? else { return Ok(None) };
            life::may_amend(&row, &Amendment::default())?;
            if row.pinned != pinned {
                let change = Change { transaction, author, at: Timestamp::now(), doing: DOING };
                change.execute(
                    "UPDATE version SET pinned = ?, updated_at = ? WHERE pk = ?",
                    params![pinned, change.at.as_microsecond(), pk],
                )?;
                change.tell(&row, if pinned { "pinned" } else { "unpinned" }, &json!({}))?;
            }
            Ok(find(transaction, owner, id, which)?.map(|(_, row)| row))
        })
    }

    fn events(&self, filter: EventFilter) -> Result<Vec<Event>, CatalogError> {
        const DOING: &str = "list events";
        let id = filter.artifact.map(|id| *id.as_uuid().as_bytes());
        let mut text =
            "SELECT seq, at, owner_uid, artifact, version, kind, actor, detail FROM event WHERE seq > ?1"
                .to_owned();
        // Written only where asked for, so that each form has its index.
        text.push_str(if filter.owner.is_some() {
            " AND owner_uid = ?2"
        } else {
            " AND ?2 IS NULL"
        });
        text.push_str(if id.is_some() { " AND artifact = ?3" } else { " AND ?3 IS NULL" });
        text.push_str(" ORDER BY seq LIMIT ?4");
        let reader = lock(&self.reader);
        let mut statement = reader.prepare_cached(&text).map_err(sql(DOING))?;
        let parameters = params![filter.after, filter.owner, id, filter.limit];
        let rows = statement.query_map(parameters, event).map_err(sql(DOING))?;
        let mut events = Vec::new();
        for row in rows {
            let (mut event, at, detail) = row.map_err(sql(DOING))?;
            let damaged = |what: String| CatalogError::Damaged { what };
            event.at = Timestamp::from_microsecond(at).map_err(|e| damaged(e.to_string()))?;
            event.detail = serde_json::from_str(&detail).map_err(|e| damaged(e.to_string()))?;
            events.push(event);
        }
        Ok(events)
    }

    fn newest_event(&self) -> Result<i64, CatalogError> {
        let reader = lock(&self.reader);
        let newest =
            reader.query_row("SELECT coalesce(max(seq), 0) FROM event", [], |row| row.get(0));
        newest.map_err(sql("look for the newest event"))
    }

    fn sweep(&self, deleted_before: Timestamp, limit: u32) -> Result<u32, CatalogError> {
        const DOING: &str = "sweep deleted versions";
        let text = format!(
            "SELECT {COLUMNS} FROM version v JOIN artifact a ON a.pk = v.artifact \
             WHERE v.deleted_at < ? AND v.state = 'DELETED' AND v.swept_at IS NULL AND v.pinned = 0 LIMIT ?"
        );
        let parameters = params![deleted_before.as_microsecond(), limit];
        // Without the writer's lock while there is nothing to do, which is nearly always.
        if select(&lock(&self.reader), DOING, &text, parameters)?.is_empty() {
            return Ok(0);
        }
        self.write(DOING, |transaction| {
            let author = &Author::Belljar;
            let change = Change { transaction, author, at: Timestamp::now(), doing: DOING };
            let due = select(transaction, DOING, &text, parameters)?;
            for (pk, row) in &due {
                change.execute(
                    "UPDATE version SET swept_at = ?1, updated_at = ?1 WHERE pk = ?2",
                    params![change.at.as_microsecond(), pk],
                )?;
                change.look_again(row.digest.filter(|_| row.content_kept))?;
                change.tell(row, "swept", &json!({}))?;
            }
            Ok(u32::try_from(due.len()).unwrap_or(limit))
        })
    }

    fn placements(&self, limit: u32) -> Result<Vec<Placement>, CatalogError> {
        const DOING: &str = "list contents to be placed";
        let reader = lock(&self.reader);
        let text = "SELECT digest, turn FROM placement LIMIT ?";
        let mut statement = reader.prepare_cached(text).map_err(sql(DOING))?;
        let rows =
            statement.query_map([limit], |row| Ok((Digest::from_bytes(row.get(0)?), row.get(1)?)));
        rows.and_then(Iterator::collect).map_err(sql(DOING))
    }

    fn wanted(&self, digest: &Digest) -> Result<Wanted, CatalogError> {
        let text = "SELECT coalesce(max(state IN ('READY', 'CREATING')), 0), coalesce(max(state = 'ARCHIVED'), 0), \
                 coalesce(max(state = 'DELETED' AND swept_at IS NULL), 0) \
             FROM version WHERE digest = ? AND content_kept";
        let reader = lock(&self.reader);
        let wanted = reader.prepare_cached(text).and_then(|mut statement| {
            statement.query_row([digest.as_bytes()], |row| {
                Ok(Wanted { main: row.get(0)?, archive: row.get(1)?, undo: row.get(2)? })
            })
        });
        wanted.map_err(sql("look who needs a content"))
    }

    fn placed(&self, (digest, turn): &Placement) -> Result<(), CatalogError> {
        const DOING: &str = "note that a content is placed";
        self.write(DOING, |transaction| {
            let text = "DELETE FROM placement WHERE digest = ? AND turn = ?";
            transaction
                .execute(text, params![digest.as_bytes(), turn])
                .map(drop)
                .map_err(sql(DOING))
        })
    }
}
