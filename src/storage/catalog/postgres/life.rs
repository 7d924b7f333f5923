//! The life of versions in PostgreSQL: what is asked, and the transaction of each change.

use super::row::{COLUMNS, at_path, due_for_sweep, rows, select};
use super::statement::{Statement, values};
use super::{PostgresCatalog, names};
use crate::model::artifact::Author;
use crate::model::digest::Digest;
use crate::model::id::ArtifactId;
use crate::model::names::{Alias, Label};
use crate::storage::catalog::change::Change;
use crate::storage::catalog::row::{self, Columns};
use crate::storage::catalog::tables::Versions;
use crate::storage::life::{
    Amendment, Declaration, Event, EventFilter, Life, Placement, Refusal, Wanted,
};
use crate::storage::{CatalogError, VersionRow};
use jiff::Timestamp;

impl Life for PostgresCatalog {
    fn with_alias(
        &self,
        owner: Option<u32>,
        alias: &Alias,
    ) -> Result<Vec<ArtifactId>, CatalogError> {
        let text = "SELECT a.id FROM alias n JOIN artifact a ON a.pk = n.artifact \
             WHERE n.name = $1 AND ($2 IS NULL OR n.owner_uid = $2) ORDER BY n.owner_uid LIMIT 2";
        let values = values![alias.as_str(), owner];
        self.read(|session| {
            session.collect("look up an alias", text, values, |row| row::artifact(row))
        })
    }

    fn with_label(&self, id: ArtifactId, label: &Label) -> Result<Option<u64>, CatalogError> {
        self.read(|session| names::labelled(session, id, label))
    }

    fn at_path(&self, owner: u32, host_path: &[u8]) -> Result<Option<VersionRow>, CatalogError> {
        Ok(self.read(|session| at_path(session, owner, host_path))?.map(|(_, row)| row))
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
             WHERE a.id = $1 AND ($2 IS NULL OR a.owner_uid = $2) AND ($3 IS NULL OR v.number < $3) \
             ORDER BY v.number DESC LIMIT $4"
        );
        let values = values![id.as_uuid(), owner, below, limit];
        Ok(rows(self.read(|session| select(session, "list versions", &text, values))?))
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
        let mut statement = Statement::default();
        statement
            .text("SELECT seq, at, owner_uid, artifact, version, kind, actor, detail FROM event")
            .text(" WHERE seq > ")
            .value(filter.after);
        if let Some(owner) = filter.owner {
            statement.and("owner_uid =", owner);
        }
        if let Some(id) = filter.artifact {
            statement.and("artifact =", id.as_uuid());
        }
        statement.text(" ORDER BY seq LIMIT ").value(filter.limit);
        self.read(|session| {
            session
                .collect("list events", &statement.text, &statement.values, |row| row::event(row))
        })
    }

    fn newest_event(&self) -> Result<i64, CatalogError> {
        let text = "SELECT coalesce(max(seq), 0) AS seq FROM event";
        let doing = "look for the newest event";
        let newest =
            self.read(|session| session.collect(doing, text, &[], |row| row::integer(row, "seq")))?;
        Ok(newest.first().copied().unwrap_or(0))
    }

    fn sweep(&self, deleted_before: Timestamp, limit: u32) -> Result<u32, CatalogError> {
        // Without the writer's lock while there is nothing to do, which is nearly always.
        if self.read(|session| due_for_sweep(session, deleted_before, 1))?.is_empty() {
            return Ok(0);
        }
        self.write("sweep deleted versions", |tables| {
            Change::by(tables, &Author::Belljar).sweep(deleted_before, limit)
        })
    }

    fn placements(&self, limit: u32) -> Result<Vec<Placement>, CatalogError> {
        let text = "SELECT digest, turn FROM placement LIMIT $1";
        self.read(|session| {
            session.collect("list contents to be placed", text, values![limit], |row| {
                Ok((row::digest(row)?, row::integer(row, "turn")?))
            })
        })
    }

    fn wanted(&self, digest: &Digest) -> Result<Wanted, CatalogError> {
        let text = "SELECT coalesce(bool_or(state IN ('READY', 'CREATING')), FALSE) AS main, \
                 coalesce(bool_or(state = 'ARCHIVED'), FALSE) AS archive, \
                 coalesce(bool_or(state = 'DELETED' AND swept_at IS NULL), FALSE) AS undo \
             FROM version WHERE digest = $1 AND content_kept";
        let wanted = self.read(|session| {
            session.collect("look who needs a content", text, values![digest], |row| {
                let (main, archive) = (row.flag("main")?, row.flag("archive")?);
                Ok(Wanted { main, archive, undo: row.flag("undo")? })
            })
        })?;
        wanted.first().copied().ok_or_else(|| row::damaged("a count has no row"))
    }

    fn placed(&self, (digest, turn): &Placement) -> Result<(), CatalogError> {
        self.write("note that a content is placed", |tables| tables.placed(digest, *turn))
    }
}
