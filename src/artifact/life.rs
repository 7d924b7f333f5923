//! What callers do with artifacts that exist: change, archive, restore, delete, pin, and look at what happened.

use super::declare::{self, Patience};
use super::error::Error;
use super::reference::{find, resolve};
use super::registry::shown;
use super::{Artifacts, sweeper};
use crate::model::artifact::{ArtifactState, Author};
use crate::model::id::WorkspaceId;
use crate::storage::life::{Amendment, Event, EventFilter, Names};
use crate::storage::{Selected, VersionRow};
use crate::wire;
use crate::wire::artifact::{Artifact, ArtifactPage};
use crate::wire::life::{EventPage, NameChange, UpdateRequest};
use std::fs::File;

const LIMIT_DEFAULT: u32 = 100;
const LIMIT_MAX: u32 = 1_000;

/// On whose word, and how far it reaches.
#[derive(Debug, Clone)]
pub struct Voice {
    /// Whose artifacts can be meant; `None`: everyone's.
    pub owner: Option<u32>,
    pub author: Author,
    /// A run speaks of its own workspace's artifacts only.
    pub scope: Option<WorkspaceId>,
}

impl Voice {
    /// To whom something is out of reach, it is not there.
    fn reaches(&self, row: &VersionRow) -> bool {
        self.scope.as_ref().is_none_or(|scope| row.workspace.as_ref() == Some(scope))
    }
}

fn names<T>(change: NameChange<T>) -> Names<T> {
    Names { add: change.add, remove: change.remove }
}

fn limit(asked: Option<u32>) -> Result<u32, Error> {
    let limit = asked.unwrap_or(LIMIT_DEFAULT);
    if (1..=LIMIT_MAX).contains(&limit) {
        return Ok(limit);
    }
    Err(Error::BadQuery { why: format!("limit {limit} is not between 1 and {LIMIT_MAX}") })
}

impl Artifacts {
    /// Changes one version. `file` is the content that a held version gets when it is declared READY.
    pub fn update(
        &self,
        voice: &Voice,
        reference: &str,
        request: UpdateRequest,
        file: Option<File>,
        patience: Patience,
    ) -> Result<Artifact, Error> {
        let service = self.service();
        let row = find(&*service.catalog, voice.owner, reference)?;
        if !voice.reaches(&row) {
            return Err(Error::NotFound { reference: reference.to_owned() });
        }
        let exact = format!("{}@{}", row.id, row.number);
        let state = request.state;
        if let Some(state) =
            state.filter(|state| voice.scope.is_some() && *state != ArtifactState::Ready)
        {
            return Err(Error::OutsideScope {
                why: format!("a run cannot make an artifact {state}: ask the workspace's owner"),
            });
        }
        let readies = state == Some(ArtifactState::Ready) && row.held_open();
        if voice.scope.is_some() && (request.move_aliases || state.is_some() && !readies) {
            let why = "a run can neither take an alias from another artifact nor restore one: ask the workspace's owner";
            return Err(Error::OutsideScope { why: why.to_owned() });
        }
        let mut amendment = Amendment {
            artifact_type: request.artifact_type,
            mime: request.mime,
            graph_id: request.graph_id,
            node_id: request.node_id,
            parent: None,
            aliases: names(request.aliases),
            move_aliases: request.move_aliases,
            labels: names(request.labels),
            tags: names(request.tags),
            metadata: request.metadata,
            content: None,
            ready: readies,
        };
        declare::check(&amendment)?;
        if let Some(state) = state.filter(|_| !readies) {
            if !is_nothing(&amendment) {
                let why = format!("change the state to {state} in a request of its own");
                return Err(Error::BadRequest { why });
            }
            return match state {
                ArtifactState::Ready => self.restore(voice, &exact),
                ArtifactState::Archived => self.archive(voice, &exact),
                ArtifactState::Deleted => self.delete(voice, &exact),
                ArtifactState::Creating => Err(Error::IllegalTransition {
                    id: row.id,
                    version: row.number,
                    from: row.state,
                    to: state,
                }),
            };
        }
        if readies {
            amendment.content = declare::content_of_held(service, &row, file, patience)?;
        }
        let catalog = service.catalog.life();
        let amended = catalog.amend(voice.owner, row.id, row.number, &amendment, &voice.author)?;
        service.tell_of_events();
        amended.map(shown).ok_or_else(|| Error::NotFound { reference: reference.to_owned() })
    }

    /// To the archive tier: with `ID` every READY version, with `ID@…` that one.
    pub fn archive(&self, voice: &Voice, reference: &str) -> Result<Artifact, Error> {
        self.move_all(voice, reference, ArtifactState::Archived)
    }

    /// Back to READY, from ARCHIVED, or from DELETED within the undo window; a held version becomes CREATING again.
    pub fn restore(&self, voice: &Voice, reference: &str) -> Result<Artifact, Error> {
        self.move_all(voice, reference, ArtifactState::Ready)
    }

    /// Marks as DELETED: with `ID` every version, with `ID@…` that one. The content stays for the undo window.
    pub fn delete(&self, voice: &Voice, reference: &str) -> Result<Artifact, Error> {
        self.move_all(voice, reference, ArtifactState::Deleted)
    }

    fn move_all(
        &self,
        voice: &Voice,
        reference: &str,
        next: ArtifactState,
    ) -> Result<Artifact, Error> {
        let service = self.service();
        let (id, which) = resolve(&*service.catalog, voice.owner, reference)?;
        let selected = which.map_or(Selected::Every, Selected::One);
        let moved = service.catalog.change_state(voice.owner, id, selected, next, &voice.author)?;
        service.tell_of_events();
        let row = moved.ok_or_else(|| Error::NotFound { reference: reference.to_owned() })?;
        if next != ArtifactState::Deleted {
            // The others of many follow with the sweeper's next pass; every one can be read meanwhile.
            sweeper::settle_soon(service, row.digest.filter(|_| row.content_kept));
        }
        Ok(shown(row))
    }

    /// A pinned version is deleted by nobody until it is unpinned.
    pub fn pin(&self, voice: &Voice, reference: &str, pinned: bool) -> Result<Artifact, Error> {
        let service = self.service();
        let row = find(&*service.catalog, voice.owner, reference)?;
        let catalog = service.catalog.life();
        let changed = catalog.pin(voice.owner, row.id, row.number, pinned, &voice.author)?;
        service.tell_of_events();
        changed.map(shown).ok_or_else(|| Error::NotFound { reference: reference.to_owned() })
    }

    /// Versions of an artifact, newest first.
    pub fn versions(
        &self,
        owner: Option<u32>,
        reference: &str,
        query: &wire::life::VersionsQuery,
    ) -> Result<ArtifactPage, Error> {
        let limit = limit(query.limit)?;
        let catalog = &*self.service().catalog;
        let row = find(catalog, owner, reference)?;
        let mut rows = catalog.life().versions(owner, row.id, query.cursor, limit + 1)?;
        let more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        let next = rows.last().filter(|_| more).map(|row| row.number.to_string());
        Ok(ArtifactPage { artifacts: rows.into_iter().map(shown).collect(), next })
    }

    /// Events in the order in which they happened, of one artifact or of all.
    pub fn events(
        &self,
        owner: Option<u32>,
        reference: Option<&str>,
        query: &wire::life::EventQuery,
    ) -> Result<EventPage, Error> {
        let limit = limit(query.limit)?;
        let catalog = &*self.service().catalog;
        let artifact = match reference {
            Some(reference) => Some(find(catalog, owner, reference)?.id),
            None => None,
        };
        let after = query.after.unwrap_or(0);
        let events = catalog.life().events(EventFilter { owner, artifact, after, limit })?;
        let next = events.last().map_or(after, |event| event.seq);
        Ok(EventPage { events: events.into_iter().map(told).collect(), next })
    }

    /// The number of the newest event of anybody's.
    pub fn newest_event(&self) -> Result<i64, Error> {
        Ok(self.service().catalog.life().newest_event()?)
    }
}

fn is_nothing(amendment: &Amendment) -> bool {
    let Amendment {
        artifact_type,
        mime,
        graph_id,
        node_id,
        parent,
        aliases,
        move_aliases: _,
        labels,
        tags,
        metadata,
        content: _,
        ready: _,
    } = amendment;
    artifact_type.is_none()
        && mime.is_none()
        && graph_id.is_none()
        && node_id.is_none()
        && parent.is_none()
        && *aliases == Names::default()
        && *labels == Names::default()
        && *tags == Names::default()
        && metadata.is_none()
}

fn told(event: Event) -> wire::life::Event {
    wire::life::Event {
        seq: event.seq,
        at: event.at,
        artifact: event.artifact,
        version: event.version,
        kind: event.kind,
        actor: event.actor,
        detail: event.detail,
    }
}
