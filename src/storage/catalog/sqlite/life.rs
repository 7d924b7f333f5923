//! The life of versions in SQLite: what is asked, and the transaction of each change.

use super::row::{COLUMNS, at_path, collect, due_for_sweep, rows, select};
use super::{SqliteCatalog, integer, lock, names, sql};
use crate::model::artifact::Author;
use crate::model::digest::Digest;
use crate::model::id::ArtifactId;
use crate::model::names::{Alias, Label};
use crate::storage::catalog::change::Change;
use crate::storage::catalog::row;
use crate::storage::catalog::tables::Versions;
use crate::storage::life::{
    Amendment, Declaration, Event, EventFilter, Life, Placement, Refusal, Wanted,
};
use crate::storage::{CatalogError, VersionRow};
use jiff::Timestamp;
use rusqlite::params;

impl Life for SqliteCatalog {
    fn with_alias(
        &self,
        owner: Option<u32>,
        alias: &Alias,
    ) -> Result<Vec<ArtifactId>, CatalogError> {
        // The name is the second column of the key, so that looking for everyone's reads the table of aliases: root alone does.
        let text = "SELECT a.id FROM alias n JOIN artifact a ON a.pk = n.artifact \
             WHERE n.name = ?1 AND (?2 IS NULL OR n.owner_uid = ?2) ORDER BY n.owner_uid LIMIT 2";
        let parameters = params![alias.as_str(), owner];
        collect(&lock(&self.reader), "look up an alias", text, parameters, |row| row::artifact(row))
    }

    fn with_label(&self, id: ArtifactId, label: &Label) -> Result<Option<u64>, CatalogError> {
        names::labelled(&lock(&self.reader), id, label)
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
        Ok(rows(select(&lock(&self.reader), "list versions", &text, parameters)?))
    }

    fn declare(
        &self,
        batch: &[Declaration],
        author: &Author,
    ) -> Result<Vec<Result<VersionRow, Refusal>>, CatalogError> {
        self.write("register declared versions", |tables| {
            let each = |new: &Declaration| Change { tables, author, at: new.at }.declare(new);
            batch.iter().map(each).collect()
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
        self.write("change an artifact", |tables| {
            Change::by(tables, author).amend(owner, id, number, amendment)
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
        self.write("pin an artifact", |tables| {
            Change::by(tables, author).pin(owner, id, number, pinned)
        })
    }

    fn events(&self, filter: EventFilter) -> Result<Vec<Event>, CatalogError> {
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
        let parameters = params![filter.after, filter.owner, id, filter.limit];
        collect(&lock(&self.reader), "list events", &text, parameters, |row| row::event(row))
    }

    fn newest_event(&self) -> Result<i64, CatalogError> {
        let reader = lock(&self.reader);
        let newest =
            reader.query_row("SELECT coalesce(max(seq), 0) FROM event", [], |row| row.get(0));
        newest.map_err(sql("look for the newest event"))
    }

    fn sweep(&self, deleted_before: Timestamp, limit: u32) -> Result<u32, CatalogError> {
        // Without the writer's lock while there is nothing to do, which is nearly always.
        if due_for_sweep(&lock(&self.reader), deleted_before, 1)?.is_empty() {
            return Ok(0);
        }
        self.write("sweep deleted versions", |tables| {
            Change::by(tables, &Author::Belljar).sweep(deleted_before, limit)
        })
    }

    fn placements(&self, limit: u32) -> Result<Vec<Placement>, CatalogError> {
        let text = "SELECT digest, turn FROM placement LIMIT ?";
        collect(&lock(&self.reader), "list contents to be placed", text, [limit], |row| {
            Ok((row::digest(row)?, row::integer(row, "turn")?))
        })
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
        self.write("note that a content is placed", |tables| tables.placed(digest, *turn))
    }
}
