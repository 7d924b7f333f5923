//! The life of versions over the rows in memory.

use super::{MemoryCatalog, Tables};
use crate::model::artifact::{ArtifactState, Author};
use crate::model::digest::Digest;
use crate::model::id::ArtifactId;
use crate::model::names::{Alias, Label};
use crate::storage::life::{
    self, Amendment, Declaration, DeclaredContent, Event, EventFilter, Life, NAMES_MAX, Placement,
    Refusal, Wanted, merge_metadata,
};
use crate::storage::{CatalogError, NewVersion, VersionRow, Which};
use jiff::Timestamp;
use serde_json::{Value, json};

impl Tables {
    /// The row with its names.
    pub(super) fn shown(&self, position: usize) -> VersionRow {
        let mut row = self.rows[position].clone();
        let (id, number) = (row.id, row.number);
        let aliases = self.aliases.iter().filter(|(_, named)| **named == id);
        row.aliases = aliases.map(|((_, alias), _)| alias.to_string()).collect();
        let labels = self.labels.iter().filter(|((of, _), at)| *of == id && **at == number);
        row.labels = labels.map(|((_, label), _)| label.to_string()).collect();
        row
    }

    pub(super) fn tell(&mut self, position: usize, kind: &str, author: &Author, detail: Value) {
        let row = &self.rows[position];
        let Value::Object(detail) = detail else { return };
        self.events.push(Event {
            seq: self.events.len() as i64 + 1,
            at: row.updated_at,
            owner_uid: row.owner_uid,
            artifact: row.id,
            version: Some(row.number),
            kind: kind.to_owned(),
            actor: author.to_string(),
            detail,
        });
    }

    fn look_again(&mut self, digest: Option<Digest>) {
        if let Some(digest) = digest {
            *self.placements.entry(digest).or_default() += 1;
        }
    }

    pub(super) fn move_to(&mut self, position: usize, next: ArtifactState, author: &Author) {
        let told = json!({ "from": self.rows[position].state, "to": next });
        self.move_telling(position, next, author, told);
    }

    pub(super) fn move_telling(
        &mut self,
        position: usize,
        next: ArtifactState,
        author: &Author,
        told: Value,
    ) {
        let row = &mut self.rows[position];
        let digest = row.digest.filter(|_| row.content_kept);
        row.move_to(next, Timestamp::now());
        self.look_again(digest);
        self.tell(position, "state", author, told);
    }

    fn fill(&mut self, position: usize, content: &DeclaredContent) {
        let old = self.rows[position].digest;
        self.rows[position].fill(content);
        self.look_again(old.filter(|old| *old != content.digest));
    }

    /// What was captured under a held version is that version's content.
    pub(super) fn capture_into(&mut self, position: usize, new: &NewVersion) {
        let old = self.rows[position].digest;
        self.rows[position].capture(new);
        self.look_again(old.filter(|old| *old != new.digest));
        self.tell(position, "updated", &new.author(), json!({ "content": new.digest }));
        self.note_secrets(&new.secrets, position, &Author::Belljar);
    }

    /// Whether the amendment may be made, to a version of this owner's artifact; `row` is nothing for one to come.
    fn check(
        &self,
        owner: u32,
        id: Option<ArtifactId>,
        row: Option<&VersionRow>,
        amendment: &Amendment,
    ) -> Result<(), Refusal> {
        for alias in &amendment.aliases.add {
            match self.aliases.get(&(owner, alias.clone())) {
                Some(&holder) if Some(holder) != id && !amendment.move_aliases => {
                    return Err(Refusal::AliasTaken { alias: alias.clone(), holder });
                }
                _ => {}
            }
        }
        let aliases = self.aliases.iter().filter(|(_, of)| Some(**of) == id);
        let aliases: Vec<String> = aliases.map(|((_, alias), _)| alias.to_string()).collect();
        let labels = self.labels.keys().filter(|(of, _)| Some(*of) == id);
        let labels: Vec<String> = labels.map(|(_, label)| label.to_string()).collect();
        let tags = row.map(|row| row.tags.clone()).unwrap_or_default();
        for (what, count) in [
            ("aliases of an artifact", amendment.aliases.applied_to(&aliases).len()),
            ("labels of an artifact", amendment.labels.applied_to(&labels).len()),
            ("tags of a version", amendment.tags.applied_to(&tags).len()),
        ] {
            if count > NAMES_MAX {
                return Err(Refusal::TooMany { what });
            }
        }
        if let Some(patch) = &amendment.metadata {
            let content = match row {
                Some(row) => life::content_for(row, amendment),
                None => amendment.content.as_ref(),
            };
            merge_metadata(&life::metadata_under(row, content), patch)?;
        }
        let number = row.map(|row| row.number);
        if let (Some(parent), Some(id)) = (amendment.parent, id) {
            let there = self.rows.iter().any(|row| row.id == id && row.number == parent);
            if !there || number.is_some_and(|number| parent >= number) {
                return Err(Refusal::NoSuchParent { id, parent });
            }
        }
        Ok(())
    }

    /// Makes a change that was checked.
    fn apply(&mut self, position: usize, amendment: &Amendment, author: &Author, at: Timestamp) {
        let (owner, id) = (self.rows[position].owner_uid, self.rows[position].id);
        let number = self.rows[position].number;
        for alias in &amendment.aliases.add {
            let before = self.aliases.insert((owner, alias.clone()), id);
            if before != Some(id) {
                let from = before.map(|id| id.to_string());
                self.tell(position, "alias-added", author, json!({ "alias": alias, "from": from }));
            }
        }
        for alias in &amendment.aliases.remove {
            if self.aliases.get(&(owner, alias.clone())) == Some(&id) {
                self.aliases.remove(&(owner, alias.clone()));
                self.tell(position, "alias-removed", author, json!({ "alias": alias }));
            }
        }
        for label in &amendment.labels.add {
            let before = self.labels.insert((id, label.clone()), number);
            if before != Some(number) {
                self.tell(position, "label-set", author, json!({ "label": label, "from": before }));
            }
        }
        for label in &amendment.labels.remove {
            if self.labels.remove(&(id, label.clone())).is_some() {
                self.tell(position, "label-removed", author, json!({ "label": label }));
            }
        }
        let row = &mut self.rows[position];
        let before = row.clone();
        let content = life::content_for(&before, amendment);
        row.amend(amendment, at).expect("it was checked");
        let changes = life::changes(&before, row);
        if !changes.is_empty() {
            self.tell(position, "updated", author, Value::Object(changes));
        }
        if let Some(content) = content {
            self.fill(position, content);
        }
        if let Some(content) = &amendment.content {
            self.note_secrets(&content.secrets, position, author);
        }
        if amendment.ready && self.rows[position].held_open() {
            self.move_to(position, ArtifactState::Ready, author);
        }
    }

    fn declare(&mut self, new: &Declaration, author: &Author) -> Result<VersionRow, Refusal> {
        let known = self
            .rows
            .iter()
            .find(|row| row.owner_uid == new.owner_uid && row.host_path == new.host_path)
            .map(|row| row.id);
        let latest = known.and_then(|id| self.latest(id));
        let row = latest.map(|latest| &self.rows[latest]);
        if life::amends(row, new)? {
            let position = latest.expect("only a version can be amended");
            let amendment = life::declared_over(new);
            self.check(new.owner_uid, known, Some(&self.rows[position]), &amendment)?;
            self.apply(position, &amendment, author, new.at);
            return Ok(self.shown(position));
        }
        self.check(new.owner_uid, known, None, &life::declared_over(new))?;
        let of_artifact = self.rows.iter().filter(|row| Some(row.id) == known);
        let number = of_artifact.map(|row| row.number).max().unwrap_or(0) + 1;
        let content = new.content.as_ref().filter(|_| !new.held);
        let id = known.unwrap_or_else(ArtifactId::generate);
        let row = VersionRow::declared(new, id, number, latest.map(|at| self.rows[at].number));
        let state = row.state;
        self.rows.push(row);
        let position = self.rows.len() - 1;
        self.produced.extend(new.run.map(|run| (run, position)));
        let kind = if number == 1 { "created" } else { "version" };
        self.tell(position, kind, author, json!({ "state": state }));
        if let Some(content) = content {
            self.note_secrets(&content.secrets, position, author);
        }
        let amendment = Amendment { ready: false, content: None, ..new.amendment.clone() };
        self.apply(position, &amendment, author, new.at);
        Ok(self.shown(position))
    }
}

impl Life for MemoryCatalog {
    fn with_alias(
        &self,
        owner: Option<u32>,
        alias: &Alias,
    ) -> Result<Vec<ArtifactId>, CatalogError> {
        let tables = self.tables();
        let named = tables.aliases.iter();
        let named = named.filter(|((of, name), _)| name == alias && owner.is_none_or(|o| o == *of));
        Ok(named.map(|(_, id)| *id).collect())
    }

    fn with_label(&self, id: ArtifactId, label: &Label) -> Result<Option<u64>, CatalogError> {
        Ok(self.tables().labels.get(&(id, label.clone())).copied())
    }

    fn at_path(&self, owner: u32, host_path: &[u8]) -> Result<Option<VersionRow>, CatalogError> {
        let tables = self.tables();
        let mut rows = tables.rows.iter();
        let known = rows.find(|row| row.owner_uid == owner && row.host_path == host_path);
        Ok(known.and_then(|row| tables.latest(row.id)).map(|position| tables.shown(position)))
    }

    fn versions(
        &self,
        owner: Option<u32>,
        id: ArtifactId,
        below: Option<u64>,
        limit: u32,
    ) -> Result<Vec<VersionRow>, CatalogError> {
        let tables = self.tables();
        let meant = |row: &VersionRow| {
            row.id == id
                && owner.is_none_or(|owner| owner == row.owner_uid)
                && below.is_none_or(|below| row.number < below)
        };
        let positions = (0..tables.rows.len()).rev().filter(|&p| meant(&tables.rows[p]));
        Ok(positions.take(limit as usize).map(|position| tables.shown(position)).collect())
    }

    fn declare(
        &self,
        batch: &[Declaration],
        author: &Author,
    ) -> Result<Vec<Result<VersionRow, Refusal>>, CatalogError> {
        let mut tables = self.tables();
        let declare = |new: &Declaration| {
            let outcome = tables.declare(new, author);
            let kept = outcome.as_ref().ok().and_then(VersionRow::kept_content);
            tables.queue_upload(kept, new.at);
            outcome
        };
        Ok(batch.iter().map(declare).collect())
    }

    fn amend(
        &self,
        owner: Option<u32>,
        id: ArtifactId,
        number: u64,
        amendment: &Amendment,
        author: &Author,
    ) -> Result<Option<VersionRow>, CatalogError> {
        let mut tables = self.tables();
        let Some(position) = tables.find(owner, id, Which::Number(number)) else { return Ok(None) };
        let row = &tables.rows[position];
        life::may_amend(row, amendment)?;
        tables.check(row.owner_uid, Some(id), Some(row), amendment)?;
        let now = Timestamp::now();
        tables.apply(position, amendment, author, now);
        let kept = tables.rows[position].kept_content();
        tables.queue_upload(kept.filter(|_| amendment.content.is_some()), now);
        Ok(Some(tables.shown(position)))
    }

    fn pin(
        &self,
        owner: Option<u32>,
        id: ArtifactId,
        number: u64,
        pinned: bool,
        author: &Author,
    ) -> Result<Option<VersionRow>, CatalogError> {
        let mut tables = self.tables();
        let Some(position) = tables.find(owner, id, Which::Number(number)) else { return Ok(None) };
        life::may_amend(&tables.rows[position], &Amendment::default())?;
        if tables.rows[position].pinned != pinned {
            let row = &mut tables.rows[position];
            row.pinned = pinned;
            row.updated_at = Timestamp::now();
            let kind = if pinned { "pinned" } else { "unpinned" };
            tables.tell(position, kind, author, json!({}));
        }
        Ok(Some(tables.shown(position)))
    }

    fn events(&self, filter: EventFilter) -> Result<Vec<Event>, CatalogError> {
        let tables = self.tables();
        let meant = |event: &&Event| {
            event.seq > filter.after
                && filter.owner.is_none_or(|owner| owner == event.owner_uid)
                && filter.artifact.is_none_or(|artifact| artifact == event.artifact)
        };
        Ok(tables.events.iter().filter(meant).take(filter.limit as usize).cloned().collect())
    }

    fn newest_event(&self) -> Result<i64, CatalogError> {
        Ok(self.tables().events.len() as i64)
    }

    fn sweep(&self, deleted_before: Timestamp, limit: u32) -> Result<u32, CatalogError> {
        let mut tables = self.tables();
        let due = |row: &VersionRow| {
            row.state == ArtifactState::Deleted
                && row.swept_at.is_none()
                && !row.pinned
                && row.deleted_at.is_some_and(|deleted| deleted < deleted_before)
        };
        let positions = (0..tables.rows.len()).filter(|&position| due(&tables.rows[position]));
        let positions: Vec<usize> = positions.take(limit as usize).collect();
        for &position in &positions {
            let row = &mut tables.rows[position];
            row.updated_at = Timestamp::now();
            row.swept_at = Some(row.updated_at);
            let digest = row.digest.filter(|_| row.content_kept);
            tables.look_again(digest);
            tables.tell(position, "swept", &Author::Belljar, json!({}));
        }
        Ok(u32::try_from(positions.len()).unwrap_or(limit))
    }

    fn placements(&self, limit: u32) -> Result<Vec<Placement>, CatalogError> {
        let tables = self.tables();
        Ok(tables.placements.iter().take(limit as usize).map(|(d, turn)| (*d, *turn)).collect())
    }

    fn wanted(&self, digest: &Digest) -> Result<Wanted, CatalogError> {
        let tables = self.tables();
        let mut wanted = Wanted { main: false, archive: false, undo: false };
        for row in tables.rows.iter().filter(|row| row.digest == Some(*digest) && row.content_kept)
        {
            match row.state {
                ArtifactState::Ready | ArtifactState::Creating => wanted.main = true,
                ArtifactState::Archived => wanted.archive = true,
                ArtifactState::Deleted => wanted.undo |= row.swept_at.is_none(),
            }
        }
        Ok(wanted)
    }

    fn placed(&self, (digest, turn): &Placement) -> Result<(), CatalogError> {
        let mut tables = self.tables();
        if tables.placements.get(digest) == Some(turn) {
            tables.placements.remove(digest);
        }
        Ok(())
    }
}
