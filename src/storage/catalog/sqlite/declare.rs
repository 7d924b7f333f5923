//! Registering what somebody declares: found among the rows and amended, or a row of its own.

use super::integer;
use super::life::{Change, Outcome, at_path};
use super::row::find;
use crate::model::artifact::{ArtifactState, Origin};
use crate::model::id::ArtifactId;
use crate::storage::life::{self, Amendment, Declaration};
use crate::storage::{CatalogError, VersionRow, Which};
use rusqlite::params;
use serde_json::{Value, json};

impl Change<'_> {
    pub fn declare(&self, new: &Declaration) -> Outcome<VersionRow> {
        let latest = at_path(self.transaction, new.owner_uid, &new.host_path)?;
        let row = latest.as_ref().map(|(_, row)| row);
        let id = row.map(|row| row.id);
        let amends = match life::amends(row, new) {
            Ok(amends) => amends,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let amended = row.filter(|_| amends);
        if let Err(refusal) = self.check(new.owner_uid, id, amended, &life::declared_over(new))? {
            return Ok(Err(refusal));
        }
        let (id, number) = match (&latest, amends) {
            (Some((pk, row)), true) => {
                self.apply(*pk, row, &life::declared_over(new))?;
                (row.id, row.number)
            }
            _ => self.insert(row, new)?,
        };
        let stored = find(self.transaction, None, id, Which::Number(number))?;
        stored.map(|(_, row)| Ok(row)).ok_or_else(|| CatalogError::Damaged {
            what: format!("version {number} of artifact {id}, which was just written"),
        })
    }

    fn insert(
        &self,
        latest: Option<&VersionRow>,
        new: &Declaration,
    ) -> Result<(ArtifactId, u64), CatalogError> {
        let at = self.at.as_microsecond();
        let id = latest.map_or_else(ArtifactId::generate, |row| row.id);
        let bytes = *id.as_uuid().as_bytes();
        if latest.is_none() {
            self.execute(
                "INSERT INTO artifact (id, owner_uid, host_path, latest, created_at) VALUES (?, ?, ?, 1, ?)",
                params![bytes, new.owner_uid, new.host_path, at],
            )?;
        }
        let content = new.content.as_ref().filter(|_| !new.held);
        let state = if new.held { ArtifactState::Creating } else { ArtifactState::Ready };
        self.execute(
            "INSERT INTO version (artifact, owner_uid, number, parent, origin, type, state, held, size, digest, content_kept, \
                 closes, workspace, mount, path, run, suspected, mime, metadata, secret_scan, created_at, updated_at) \
             SELECT pk, owner_uid, coalesce((SELECT max(number) FROM version WHERE artifact = artifact.pk), 0) + 1, ?2, ?3, ?4, \
                 ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?19 FROM artifact WHERE id = ?1",
            params![
                bytes,
                latest.map(|row| integer(row.number)),
                Origin::Declared.as_str(),
                life::declared_type(new).as_str(),
                state.as_str(),
                new.held,
                integer(content.map_or(0, |content| content.size)),
                content.map(|content| *content.digest.as_bytes()),
                content.is_some_and(|content| content.kept),
                i64::from(content.is_some()),
                new.place.as_ref().map(|(workspace, _, _)| workspace.as_str()),
                new.place.as_ref().map(|(_, mount, _)| mount.as_str()),
                new.place.as_ref().map(|(_, _, path)| path.as_bytes()),
                new.run.as_ref().map(|run| *run.as_uuid().as_bytes()),
                content.and_then(|content| content.suspected.as_ref()).map(|of_type| of_type.as_str()),
                content.and_then(|content| content.mime.as_deref()),
                Value::Object(life::metadata_under(None, content)).to_string(),
                content.map(|content| content.secrets.outcome.as_str()),
                at
            ],
        )?;
        let pk = self.transaction.last_insert_rowid();
        self.execute(
            "UPDATE artifact SET latest = (SELECT number FROM version WHERE pk = ?1) WHERE id = ?2",
            params![pk, bytes],
        )?;
        if let Some(run) = &new.run {
            self.execute(
                "INSERT INTO produced (run, created_at, version) VALUES (?, ?, ?)",
                params![run.as_uuid().as_bytes(), at, pk],
            )?;
        }
        let Some((_, row)) = find(self.transaction, None, id, Which::Latest)? else {
            return Err(CatalogError::Damaged {
                what: format!("artifact {id}, which was just written"),
            });
        };
        let kind = if row.number == 1 { "created" } else { "version" };
        self.tell(&row, kind, &json!({ "state": state }))?;
        if let Some(content) = content {
            self.note_secrets(pk, &row, content)?;
        }
        let amendment = Amendment { content: None, ready: false, ..new.amendment.clone() };
        self.apply(pk, &row, &amendment)?;
        Ok((id, row.number))
    }
}
