//! Changes of a catalog in a database: what is checked, written and told of, whatever the database.
//!
//! A change is one transaction of [`Tables`], whose owner commits it. Rows become what [`row`](crate::storage::row) says, and
//! what may happen to them is decided in [`life`] and [`retention`](crate::storage::retention).

use super::CatalogError;
use super::tables::{Answer, OpenItem, Stored, Tables, Told};
use crate::model::artifact::{ArtifactState, Author};
use crate::model::cleanup::PlanState;
use crate::model::digest::Digest;
use crate::model::id::{ArtifactId, PlanId};
use crate::storage::life::{
    self, Amendment, Declaration, DeclaredContent, NAMES_MAX, Refusal, merge_metadata, next_state,
};
use crate::storage::retention::{Progress, judge};
use crate::storage::{NewVersion, SecretSearch, Selected, VersionRow, Which};
use jiff::Timestamp;
use serde_json::{Value, json};

/// A change under way: where it is written, who makes it, and when.
pub(super) struct Change<'a> {
    pub tables: &'a dyn Tables,
    pub author: &'a Author,
    pub at: Timestamp,
}

type Outcome<T> = Answer<Result<T, Refusal>>;

impl<'a> Change<'a> {
    pub fn by(tables: &'a dyn Tables, author: &'a Author) -> Self {
        Self { tables, author, at: Timestamp::now() }
    }

    fn tell(&self, row: &VersionRow, kind: &str, detail: &Value) -> Answer<()> {
        self.tables.tell(&Told {
            at: self.at,
            owner_uid: row.owner_uid,
            artifact: row.id,
            number: row.number,
            kind,
            author: self.author,
            detail,
        })
    }

    fn look_again(&self, digest: Option<Digest>) -> Answer<()> {
        digest.map_or(Ok(()), |digest| self.tables.look_again(&digest))
    }

    /// Has the row's content sent.
    fn send(&self, row: &VersionRow) -> Answer<()> {
        row.kept_content().map_or(Ok(()), |content| self.tables.queue_upload(content, self.at))
    }

    pub fn change_state(
        &self,
        owner: Option<u32>,
        id: ArtifactId,
        selected: Selected,
        next: ArtifactState,
    ) -> Answer<Option<VersionRow>> {
        let which = match selected {
            Selected::Every => Which::Latest,
            Selected::One(which) => which,
        };
        let Some(found) = self.tables.find(owner, id, which)? else { return Ok(None) };
        let candidates = match selected {
            Selected::One(_) => vec![found.clone()],
            Selected::Every => self.tables.of_artifact(id)?,
        };
        let mut moves: Vec<(Stored, ArtifactState)> = Vec::new();
        for candidate in candidates {
            match next_state(&candidate.1, next) {
                Ok(next) => moves.push((candidate, next)),
                Err(error @ CatalogError::Refused(Refusal::Pinned { .. })) => return Err(error),
                Err(_) => {}
            }
        }
        let Some(number) = moves.last().map(|((_, row), _)| row.number) else {
            let (_, row) = found;
            return Err(match next_state(&row, next) {
                Err(error) => error,
                Ok(to) => {
                    CatalogError::IllegalTransition { id, number: row.number, from: row.state, to }
                }
            });
        };
        for ((version, row), next) in moves {
            self.move_to(version, &row, next)?;
        }
        self.tables.follow_latest(id)?;
        self.reread(id, number).map(Some)
    }

    /// Moves a version to a state that is known to be legal.
    fn move_to(&self, version: i64, row: &VersionRow, next: ArtifactState) -> Answer<()> {
        self.move_telling(version, row, next, &json!({ "from": row.state, "to": next }))
    }

    fn move_telling(
        &self,
        version: i64,
        row: &VersionRow,
        next: ArtifactState,
        told: &Value,
    ) -> Answer<()> {
        let mut moved = row.clone();
        moved.move_to(next, self.at);
        self.tables.write(version, row, &moved)?;
        self.look_again(row.digest.filter(|_| row.content_kept))?;
        self.tell(row, "state", told)
    }

    pub fn amend(
        &self,
        owner: Option<u32>,
        id: ArtifactId,
        number: u64,
        amendment: &Amendment,
    ) -> Answer<Option<VersionRow>> {
        let found = self.tables.find(owner, id, Which::Number(number))?;
        let Some((version, row)) = found else { return Ok(None) };
        life::may_amend(&row, amendment)?;
        self.check(row.owner_uid, Some(id), Some(&row), amendment)??;
        self.apply(version, &row, amendment)?;
        let amended = self.reread(id, number)?;
        if amendment.content.is_some() {
            self.send(&amended)?;
        }
        Ok(Some(amended))
    }

    pub fn pin(
        &self,
        owner: Option<u32>,
        id: ArtifactId,
        number: u64,
        pinned: bool,
    ) -> Answer<Option<VersionRow>> {
        let found = self.tables.find(owner, id, Which::Number(number))?;
        let Some((version, before)) = found else { return Ok(None) };
        life::may_amend(&before, &Amendment::default())?;
        if before.pinned != pinned {
            let row = VersionRow { pinned, updated_at: self.at, ..before.clone() };
            self.tables.write(version, &before, &row)?;
            self.tell(&row, if pinned { "pinned" } else { "unpinned" }, &json!({}))?;
        }
        self.reread(id, number).map(Some)
    }

    /// As it is stored after the change.
    fn reread(&self, id: ArtifactId, number: u64) -> Answer<VersionRow> {
        let stored = self.tables.find(None, id, Which::Number(number))?;
        stored.map(|(_, row)| row).ok_or_else(|| CatalogError::Damaged {
            what: format!("version {number} of artifact {id}, which was just written"),
        })
    }

    pub fn declare(&self, new: &Declaration) -> Outcome<VersionRow> {
        let latest = self.tables.at_path(new.owner_uid, &new.host_path)?;
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
        let declared = match (&latest, amends) {
            (Some((version, row)), true) => {
                self.apply(*version, row, &life::declared_over(new))?;
                self.reread(row.id, row.number)?
            }
            _ => self.insert(row, new)?,
        };
        self.send(&declared)?;
        Ok(Ok(declared))
    }

    /// Writes the version that a declaration makes, as it is after everything that is said of it.
    fn insert(&self, latest: Option<&VersionRow>, new: &Declaration) -> Answer<VersionRow> {
        let (id, newest) = match latest {
            Some(row) => (row.id, self.tables.newest(row.id)?),
            None => (ArtifactId::generate(), 0),
        };
        let made = VersionRow::declared(new, id, newest + 1, latest.map(|row| row.number));
        let amendment = Amendment { content: None, ready: false, ..new.amendment.clone() };
        let mut row = made.clone();
        row.amend(&amendment, self.at)?;
        let changes = life::changes(&made, &row);
        let content = new.content.as_ref().filter(|_| !new.held);
        let secrets = content.map(|content| &content.secrets);
        row.quarantined = secrets.is_some_and(|secrets| secrets.quarantined);
        if latest.is_none() {
            self.tables.insert_artifact(&row)?;
        }
        let version = self.tables.insert_version(&row)?;
        if latest.is_some() {
            self.tables.follow_latest(id)?;
        }
        if let Some(run) = new.run {
            self.tables.note_production(run, version, row.created_at, None)?;
        }
        let kind = if row.number == 1 { "created" } else { "version" };
        self.tell(&row, kind, &json!({ "state": row.state }))?;
        if let Some(secrets) = secrets {
            self.tables.add_findings(version, &secrets.found)?;
            if row.quarantined {
                self.tell(&row, "quarantined", &life::quarantine(secrets))?;
            }
        }
        self.rename(version, &row, &amendment)?;
        if !changes.is_empty() {
            self.tell(&row, "updated", &Value::Object(changes))?;
        }
        if latest.is_some() || secrets.is_some_and(|secrets| !secrets.found.is_empty()) {
            return self.reread(id, row.number);
        }
        // Of a new artifact nothing is stored that is not said here; reading it back was a tenth of registering it (measured).
        row.aliases = amendment.aliases.applied_to(&[]);
        row.labels = amendment.labels.applied_to(&[]);
        row.truncate_times();
        Ok(row)
    }

    /// Makes a change that was checked.
    fn apply(&self, version: i64, before: &VersionRow, amendment: &Amendment) -> Answer<()> {
        self.rename(version, before, amendment)?;
        let content = life::content_for(before, amendment);
        let mut row = before.clone();
        row.amend(amendment, self.at)?;
        let changes = life::changes(before, &row);
        if let Some(content) = content {
            row.fill(content);
        }
        self.tables.write(version, before, &row)?;
        if !changes.is_empty() {
            self.tell(before, "updated", &Value::Object(changes))?;
        }
        if content.is_some() {
            self.look_again(before.digest.filter(|old| row.digest != Some(*old)))?;
        }
        if let Some(DeclaredContent { secrets, .. }) = &amendment.content {
            self.note_secrets(version, &mut row, secrets)?;
        }
        if amendment.ready && before.held_open() {
            self.move_to(version, &row, ArtifactState::Ready)?;
        }
        Ok(())
    }

    /// Moves aliases, labels and tags.
    fn rename(&self, version: i64, row: &VersionRow, change: &Amendment) -> Answer<()> {
        let tables = self.tables;
        for alias in &change.aliases.add {
            let before = tables.holder(row.owner_uid, alias)?;
            if before == Some(row.id) {
                continue;
            }
            tables.set_alias(row.owner_uid, alias, row.id)?;
            let from = before.map(|id| id.to_string());
            self.tell(row, "alias-added", &json!({ "alias": alias, "from": from }))?;
        }
        for alias in &change.aliases.remove {
            if tables.remove_alias(row.owner_uid, alias, row.id)? {
                self.tell(row, "alias-removed", &json!({ "alias": alias }))?;
            }
        }
        for label in &change.labels.add {
            let before = tables.labelled(row.id, label)?;
            if before == Some(row.number) {
                continue;
            }
            tables.set_label(version, label)?;
            self.tell(row, "label-set", &json!({ "label": label, "from": before }))?;
        }
        for label in &change.labels.remove {
            if tables.remove_label(row.id, label)? {
                self.tell(row, "label-removed", &json!({ "label": label }))?;
            }
        }
        for tag in &change.tags.add {
            tables.add_tag(version, tag)?;
        }
        for tag in &change.tags.remove {
            tables.remove_tag(version, tag)?;
        }
        Ok(())
    }

    /// Whether the amendment may be made; `row` is nothing for a version to come.
    fn check(
        &self,
        owner: u32,
        id: Option<ArtifactId>,
        row: Option<&VersionRow>,
        amendment: &Amendment,
    ) -> Outcome<()> {
        for alias in &amendment.aliases.add {
            match self.tables.holder(owner, alias)? {
                Some(holder) if Some(holder) != id && !amendment.move_aliases => {
                    return Ok(Err(Refusal::AliasTaken { alias: alias.clone(), holder }));
                }
                _ => {}
            }
        }
        let (aliases, labels) = match id {
            Some(id) => (self.tables.aliases(id)?, self.tables.labels(id)?),
            None => (Vec::new(), Vec::new()),
        };
        let tags = row.map(|row| row.tags.clone()).unwrap_or_default();
        for (what, count) in [
            ("aliases of an artifact", amendment.aliases.applied_to(&aliases).len()),
            ("labels of an artifact", amendment.labels.applied_to(&labels).len()),
            ("tags of a version", amendment.tags.applied_to(&tags).len()),
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
            let there = self.tables.find(None, id, Which::Number(parent))?.is_some();
            if !there || row.is_some_and(|row| parent >= row.number) {
                return Ok(Err(Refusal::NoSuchParent { id, parent }));
            }
        }
        Ok(Ok(()))
    }

    /// Adds what was found to a version; a secret may have been known later than the content. Tells when that closed it.
    fn note_secrets(
        &self,
        version: i64,
        row: &mut VersionRow,
        secrets: &SecretSearch,
    ) -> Answer<()> {
        self.tables.add_findings(version, &secrets.found)?;
        if secrets.quarantined && !row.quarantined {
            let before = row.clone();
            row.quarantined = true;
            self.tables.write(version, &before, row)?;
            self.tell(row, "quarantined", &life::quarantine(secrets))?;
        }
        Ok(())
    }

    /// Gives up what was deleted before that time.
    pub fn sweep(&self, deleted_before: Timestamp, limit: u32) -> Answer<u32> {
        let due = self.tables.due_for_sweep(deleted_before, limit)?;
        let swept = u32::try_from(due.len()).unwrap_or(limit);
        for (version, before) in due {
            let row = VersionRow { swept_at: Some(self.at), updated_at: self.at, ..before.clone() };
            self.tables.write(version, &before, &row)?;
            self.look_again(row.digest.filter(|_| row.content_kept))?;
            self.tell(&row, "swept", &json!({}))?;
        }
        Ok(swept)
    }

    pub fn apply_plan(
        &self,
        owner: Option<u32>,
        id: PlanId,
        limit: u32,
    ) -> Answer<Option<Progress>> {
        let Some((plan, state)) = self.tables.plan_state(owner, id)? else { return Ok(None) };
        match state {
            PlanState::Applied => return Ok(Some(Progress { left: 0 })),
            PlanState::Planned | PlanState::Applying => {}
        }
        for item in self.tables.open_items(plan, limit)? {
            self.do_item(plan, id, item)?;
        }
        let left = self.tables.count_open_items(plan)?;
        let (state, at) = match left {
            0 => (PlanState::Applied, Some(self.at)),
            _ => (PlanState::Applying, None),
        };
        self.tables.set_plan_state(plan, state, at)?;
        Ok(Some(Progress { left }))
    }

    /// Does one item of a plan and notes what became of it.
    fn do_item(&self, plan: i64, id: PlanId, item: OpenItem) -> Answer<()> {
        let OpenItem { position, version, action, reason, seen } = item;
        let (_, row) = self.tables.by_key(version)?.ok_or_else(|| CatalogError::Damaged {
            what: format!("a plan names version {version}, which there is not"),
        })?;
        let why = match judge(action, &seen, &row, self.tables.newest(row.id)?) {
            Ok(next) => {
                let told = json!({ "from": row.state, "to": next, "plan": id, "reason": reason });
                self.move_telling(version, &row, next, &told)?;
                self.tables.follow_latest(row.id)?;
                None
            }
            Err(why) => Some(why),
        };
        self.tables.end_item(plan, position, why.as_deref())
    }

    /// Notes on every version that names it that a content is gone.
    pub fn lose(&self, digest: &Digest) -> Answer<u64> {
        let rows = self.tables.naming(digest)?;
        let lost = rows.len() as u64;
        for (version, before) in rows {
            let (lost_at, updated_at) = (Some(self.at), self.at);
            let row = VersionRow { content_kept: false, lost_at, updated_at, ..before.clone() };
            self.tables.write(version, &before, &row)?;
            self.tell(&row, "content-lost", &json!({ "digest": digest }))?;
        }
        Ok(lost)
    }

    pub fn tell_mended(&self, digest: &Digest, how: &str) -> Answer<()> {
        for (_, row) in self.tables.naming(digest)? {
            self.tell(&row, "content-mended", &json!({ "digest": digest, "how": how }))?;
        }
        Ok(())
    }
}

/// What is captured under a held version becomes its content. Secrets that were found are noted by the caller.
pub(super) fn capture_into(tables: &dyn Tables, version: i64, new: &NewVersion) -> Answer<()> {
    let (_, before) = tables.by_key(version)?.ok_or_else(|| CatalogError::Damaged {
        what: format!("version {version}, which is held open, is not there"),
    })?;
    let mut row = before.clone();
    row.capture(new);
    tables.write(version, &before, &row)?;
    if let Some(old) = before.digest.filter(|old| *old != new.digest) {
        tables.look_again(&old)?;
    }
    tables.tell(&Told {
        at: new.captured_at,
        owner_uid: row.owner_uid,
        artifact: row.id,
        number: row.number,
        kind: "updated",
        author: &new.author(),
        detail: &json!({ "content": new.digest }),
    })
}
