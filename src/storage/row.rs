//! What becomes of a version's row when something happens to it: decided here, for every catalog.
//!
//! Pure: from a row and what happened to the row that is stored next. Catalogs only find rows and write them down.

use super::life::{Amendment, Declaration, DeclaredContent, content_for, metadata_under};
use super::{NewVersion, VersionRow, life};
use crate::model::artifact::{ArtifactState, Origin};
use crate::model::digest::Digest;
use crate::model::id::ArtifactId;
use crate::storage::life::{Refusal, merge_metadata};
use jiff::Timestamp;

/// The latest version of a file, as far as the arrival of another content is concerned.
#[derive(Debug, Clone)]
pub(super) struct Latest {
    pub number: u64,
    /// Of its artifact; above `number` when later ones are DELETED.
    pub highest: u64,
    pub state: ArtifactState,
    pub held: bool,
    pub digest: Option<Digest>,
    pub content_kept: bool,
}

/// What a captured content becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    /// The latest version has it already.
    Unchanged,
    /// The content of the latest version, which is held open.
    IntoHeld,
    Next {
        number: u64,
        parent: Option<u64>,
    },
}

impl Arrival {
    pub fn of(new: &NewVersion, latest: Option<&Latest>) -> Self {
        let Some(latest) = latest else { return Arrival::Next { number: 1, parent: None } };
        let same = latest.state == ArtifactState::Ready && latest.digest == Some(new.digest);
        // A content that was too large before and is kept under today's settings is worth a version.
        if same && (latest.content_kept || !new.content_kept) {
            return Arrival::Unchanged;
        }
        if latest.held && latest.state == ArtifactState::Creating {
            return Arrival::IntoHeld;
        }
        // What was there when the file was opened is what the new version was made from.
        Arrival::Next { number: latest.highest + 1, parent: Some(latest.number) }
    }
}

impl Latest {
    pub fn of(row: &VersionRow, highest: u64) -> Self {
        Self {
            number: row.number,
            highest,
            state: row.state,
            held: row.held,
            digest: row.digest,
            content_kept: row.content_kept,
        }
    }

    /// The version that arrived under the number, when it is the latest from here on.
    pub fn arrived(new: &NewVersion, number: u64) -> Self {
        Self {
            number,
            highest: number,
            state: ArtifactState::Ready,
            held: false,
            digest: Some(new.digest),
            content_kept: new.content_kept,
        }
    }
}

impl VersionRow {
    /// A captured file's, without what was found of secrets.
    pub(super) fn captured(
        new: &NewVersion,
        id: ArtifactId,
        number: u64,
        parent: Option<u64>,
    ) -> Self {
        Self {
            id,
            aliases: Vec::new(),
            number,
            parent,
            labels: Vec::new(),
            tags: Vec::new(),
            owner_uid: new.owner_uid,
            host_path: new.host_path.clone(),
            origin: Origin::Observed,
            workspace: Some(new.workspace.clone()),
            place: Some((new.mount.clone(), new.path.clone())),
            run: new.run,
            graph_id: new.graph_id.clone(),
            node_id: new.node_id.clone(),
            writer: new.writer.clone(),
            artifact_type: new.artifact_type.clone(),
            suspected: new.suspected.clone(),
            mime: new.mime.clone(),
            state: ArtifactState::Ready,
            held: false,
            pinned: false,
            quarantined: false,
            secret_scan: Some(new.secrets.outcome),
            secrets_found: Vec::new(),
            size: new.size,
            digest: Some(new.digest),
            content_kept: new.content_kept,
            closes: new.closes,
            metadata: new.metadata.clone(),
            created_at: new.captured_at,
            updated_at: new.captured_at,
            deleted_at: None,
            swept_at: None,
            archived_at: None,
            lost_at: None,
        }
    }

    /// A declared file's, before it is amended and without what was found of secrets.
    pub(super) fn declared(
        new: &Declaration,
        id: ArtifactId,
        number: u64,
        parent: Option<u64>,
    ) -> Self {
        let (workspace, place) = match new.place.clone() {
            Some((workspace, mount, path)) => (Some(workspace), Some((mount, path))),
            None => (None, None),
        };
        let content = new.content.as_ref().filter(|_| !new.held);
        Self {
            id,
            aliases: Vec::new(),
            number,
            parent,
            labels: Vec::new(),
            tags: Vec::new(),
            owner_uid: new.owner_uid,
            host_path: new.host_path.clone(),
            origin: Origin::Declared,
            workspace,
            place,
            run: new.run,
            graph_id: None,
            node_id: None,
            writer: None,
            artifact_type: life::declared_type(new),
            suspected: content.and_then(|content| content.suspected.clone()),
            mime: content.and_then(|content| content.mime.clone()),
            state: if new.held { ArtifactState::Creating } else { ArtifactState::Ready },
            held: new.held,
            pinned: false,
            quarantined: false,
            secret_scan: content.map(|content| content.secrets.outcome),
            secrets_found: Vec::new(),
            size: content.map_or(0, |content| content.size),
            digest: content.map(|content| content.digest),
            content_kept: content.is_some_and(|content| content.kept),
            closes: u64::from(content.is_some()),
            metadata: metadata_under(None, content),
            created_at: new.at,
            updated_at: new.at,
            deleted_at: None,
            swept_at: None,
            archived_at: None,
            lost_at: None,
        }
    }

    /// What is captured under a held version is that version's content, until somebody says READY. What its user said of it
    /// stays.
    pub(super) fn capture(&mut self, new: &NewVersion) {
        self.digest = Some(new.digest);
        self.size = new.size;
        self.content_kept = new.content_kept;
        self.suspected.clone_from(&new.suspected);
        self.secret_scan = Some(new.secrets.outcome);
        self.closes += new.closes;
        self.workspace = Some(new.workspace.clone());
        self.place = Some((new.mount.clone(), new.path.clone()));
        self.run = new.run.or(self.run);
        self.graph_id = self.graph_id.take().or_else(|| new.graph_id.clone());
        self.node_id = self.node_id.take().or_else(|| new.node_id.clone());
        self.writer.clone_from(&new.writer);
        self.mime = self.mime.take().or_else(|| new.mime.clone());
        let mut metadata = new.metadata.clone();
        metadata.extend(std::mem::take(&mut self.metadata));
        self.metadata = metadata;
        self.updated_at = new.captured_at;
    }

    /// Takes a content that somebody sent.
    pub(super) fn fill(&mut self, content: &DeclaredContent) {
        self.digest = Some(content.digest);
        self.size = content.size;
        self.content_kept = content.kept;
        self.suspected.clone_from(&content.suspected);
        self.secret_scan = Some(content.secrets.outcome);
    }

    /// Goes to a state that is known to be legal.
    pub(super) fn move_to(&mut self, next: ArtifactState, at: Timestamp) {
        self.held &= next != ArtifactState::Ready;
        self.state = next;
        self.updated_at = at;
        self.deleted_at = (next == ArtifactState::Deleted).then_some(at);
        self.archived_at = (next == ArtifactState::Archived).then_some(at);
    }

    /// Its times of creation and change as catalogs keep them, in microseconds.
    pub(super) fn truncate_times(&mut self) {
        for time in [&mut self.created_at, &mut self.updated_at] {
            // A number of microseconds that came from a time is one again.
            *time = Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(*time);
        }
    }

    /// Takes what an amendment says of the version itself: neither its content nor the names of its artifact.
    pub(super) fn amend(&mut self, amendment: &Amendment, at: Timestamp) -> Result<(), Refusal> {
        if let Some(content) = content_for(self, amendment) {
            self.metadata = metadata_under(Some(self), Some(content));
            self.mime = self.mime.take().or_else(|| content.mime.clone());
        }
        if let Some(artifact_type) = &amendment.artifact_type {
            self.artifact_type = artifact_type.clone();
        }
        self.mime = amendment.mime.clone().or(self.mime.take());
        self.graph_id = amendment.graph_id.clone().or(self.graph_id.take());
        self.node_id = amendment.node_id.clone().or(self.node_id.take());
        self.parent = amendment.parent.or(self.parent);
        self.tags = amendment.tags.applied_to(&self.tags);
        if let Some(patch) = &amendment.metadata {
            self.metadata = merge_metadata(&self.metadata, patch)?;
        }
        self.updated_at = at;
        Ok(())
    }
}
