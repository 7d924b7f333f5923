//! Contents and rows in memory, behind the same contracts: for tests that need no disk.
//!
//! Locking: each store has one lock, held for the length of one call.

mod life;
mod lineage;
pub mod remote;
mod retention;
mod upload;
mod view;

use super::life::{next_state, quarantine};
use super::lineage::{Input, InputBounds, MadeFrom, Use, VersionKey};
use super::row::{Arrival, Latest};
use super::view::ViewCatalog;
use super::{
    BlobBatch, BlobError, BlobStore, BlobWriter, Catalog, CatalogError, ContentCopy, Cursor,
    Filter, LastSeen, Life, NewVersion, PlaceError, Placed, Registered, SecretFinding,
    SecretSearch, Selected, Stamp, StoreEntry, StorePart, Tier, VersionPage, VersionRow, Wanted,
    Which,
};
use crate::model::artifact::{ArtifactState, Author};
use crate::model::digest::Digest;
use crate::model::id::{ArtifactId, RunId};
use crate::model::names::{Alias, Label};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Contents in a map. Tiers are no places of their own here: what is wanted by either is kept.
#[derive(Debug)]
pub struct MemoryBlobs {
    contents: Mutex<HashMap<Digest, (Instant, Vec<u8>)>>,
    youth: Duration,
}

impl Default for MemoryBlobs {
    fn default() -> Self {
        Self { contents: Mutex::default(), youth: Duration::from_secs(600) }
    }
}

impl MemoryBlobs {
    /// How long a content that was taken is left alone.
    pub fn with_youth(youth: Duration) -> Self {
        Self { youth, ..Self::default() }
    }
}

impl BlobStore for MemoryBlobs {
    fn begin(&self) -> Result<Box<dyn BlobBatch + '_>, BlobError> {
        Ok(Box::new(MemoryBatch { store: self, staged: Vec::new() }))
    }

    fn open(&self, digest: &Digest) -> Result<File, BlobError> {
        let contents = self.contents.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, content) = contents.get(digest).ok_or(BlobError::Missing { digest: *digest })?;
        let file = || {
            let memory =
                nix::sys::memfd::memfd_create(c"content", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?;
            let mut file = File::from(memory);
            file.write_all(content)?;
            file.rewind()?;
            Ok(file)
        };
        file().map_err(|source| BlobError::Store {
            doing: "open a content",
            path: "memory".into(),
            source,
        })
    }

    fn place(
        &self,
        digest: &Digest,
        wanted: &dyn Fn() -> Result<Wanted, CatalogError>,
    ) -> Result<Placed, PlaceError> {
        let mut contents = self.contents.lock().unwrap_or_else(PoisonError::into_inner);
        let Wanted { main, archive, undo } = wanted()?;
        let Some((taken, _)) = contents.get(digest) else { return Ok(Placed::Done) };
        if main || archive || undo {
            return Ok(Placed::Done);
        }
        if taken.elapsed() < self.youth {
            return Ok(Placed::Young);
        }
        contents.remove(digest);
        Ok(Placed::Done)
    }

    fn copies(&self, digest: &Digest) -> Result<Vec<ContentCopy>, BlobError> {
        match self.open(digest) {
            Ok(file) => Ok(vec![ContentCopy { tier: Tier::Main, file }]),
            Err(BlobError::Missing { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn survey(&self, part: StorePart, each: &mut dyn FnMut(StoreEntry)) -> Result<(), BlobError> {
        let StorePart::Contents(Tier::Main, first) = part else { return Ok(()) };
        let contents = self.contents.lock().unwrap_or_else(PoisonError::into_inner);
        for (digest, (taken, _)) in contents.iter().filter(|(d, _)| d.as_bytes()[0] == first) {
            let young = taken.elapsed() < self.youth;
            each(StoreEntry::Content { digest: *digest, tier: Tier::Main, young });
        }
        Ok(())
    }

    fn set_aside(&self, digest: &Digest, _tier: Tier) -> Result<PathBuf, BlobError> {
        let mut contents = self.contents.lock().unwrap_or_else(PoisonError::into_inner);
        contents.remove(digest);
        Ok("memory".into())
    }

    /// A batch that is dropped leaves nothing here.
    fn discard(&self, _path: &Path) -> Result<(), BlobError> {
        Ok(())
    }

    fn forget_instance(&self, _dead: Uuid) -> Result<(), BlobError> {
        Ok(())
    }
}

struct MemoryBatch<'a> {
    store: &'a MemoryBlobs,
    staged: Vec<(Digest, Vec<u8>)>,
}

impl BlobBatch for MemoryBatch<'_> {
    fn writer(&mut self) -> Result<Box<dyn BlobWriter + '_>, BlobError> {
        Ok(Box::new(MemoryWriter { staged: &mut self.staged, bytes: Vec::new() }))
    }

    fn commit(self: Box<Self>) -> Result<(), BlobError> {
        let mut contents = self.store.contents.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        contents.extend(self.staged.into_iter().map(|(digest, bytes)| (digest, (now, bytes))));
        Ok(())
    }
}

struct MemoryWriter<'a> {
    staged: &'a mut Vec<(Digest, Vec<u8>)>,
    bytes: Vec<u8>,
}

impl Write for MemoryWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobWriter for MemoryWriter<'_> {
    fn keep(self: Box<Self>, digest: &Digest) -> Result<(), BlobError> {
        self.staged.push((*digest, self.bytes));
        Ok(())
    }
}

/// Rows in a vector, in the order of registration.
#[derive(Debug, Default)]
pub struct MemoryCatalog {
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    rows: Vec<VersionRow>,
    /// Runs and the positions of the rows they produced.
    produced: BTreeSet<(RunId, usize)>,
    aliases: BTreeMap<(u32, Alias), ArtifactId>,
    labels: BTreeMap<(ArtifactId, Label), u64>,
    events: Vec<super::life::Event>,
    placements: BTreeMap<Digest, i64>,
    /// By owner and host path.
    stamps: HashMap<(u32, Vec<u8>), Option<Stamp>>,
    /// What they had read by then, where it was seen.
    bounds: HashMap<(RunId, usize), InputBounds>,
    inputs: BTreeMap<(RunId, u64), Input>,
    plans: Vec<retention::Plan>,
    policies: Vec<retention::Policy>,
    books: upload::Books,
}

impl Tables {
    fn latest(&self, id: ArtifactId) -> Option<usize> {
        let of_artifact = || self.rows.iter().enumerate().filter(|(_, row)| row.id == id);
        of_artifact()
            .filter(|(_, row)| row.state != ArtifactState::Deleted)
            .max_by_key(|(_, row)| row.number)
            .or_else(|| of_artifact().max_by_key(|(_, row)| row.number))
            .map(|(position, _)| position)
    }

    fn find(&self, owner: Option<u32>, id: ArtifactId, which: Which) -> Option<usize> {
        let position = match which {
            Which::Latest => self.latest(id),
            Which::Number(number) => {
                self.rows.iter().position(|row| row.id == id && row.number == number)
            }
        }?;
        owner.is_none_or(|owner| self.rows[position].owner_uid == owner).then_some(position)
    }

    fn register(&mut self, new: &NewVersion) -> Registered {
        self.stamps.insert((new.owner_uid, new.host_path.clone()), new.stamp);
        let known = self
            .rows
            .iter()
            .find(|row| row.owner_uid == new.owner_uid && row.host_path == new.host_path)
            .map(|row| row.id);
        let latest = known.and_then(|id| self.latest(id));
        let of_artifact = self.rows.iter().filter(|row| Some(row.id) == known);
        let highest = of_artifact.map(|row| row.number).max().unwrap_or(0);
        let seen = latest.map(|latest| Latest::of(&self.rows[latest], highest));
        let (number, parent) = match (Arrival::of(new, seen.as_ref()), latest) {
            (Arrival::Unchanged, Some(latest)) => {
                let number = self.rows[latest].number;
                self.note_production(new.run, latest, new.inputs);
                self.note_secrets(&new.secrets, latest, &Author::Belljar);
                return Registered::Unchanged(number);
            }
            (Arrival::IntoHeld, Some(held)) => {
                self.capture_into(held, new);
                self.produced.extend(new.run.map(|run| (run, held)));
                return Registered::Version(self.rows[held].number);
            }
            (Arrival::Next { number, parent }, _) => (number, parent),
            (Arrival::Unchanged | Arrival::IntoHeld, None) => {
                unreachable!("only a file that is known has a version that an arrival may be of")
            }
        };
        self.note_production(new.run, self.rows.len(), new.inputs);
        let id = known.unwrap_or_else(ArtifactId::generate);
        self.rows.push(VersionRow::captured(new, id, number, parent));
        let position = self.rows.len() - 1;
        let kind = if number == 1 { "created" } else { "version" };
        self.tell(position, kind, &new.author(), json!({ "state": ArtifactState::Ready }));
        self.note_secrets(&new.secrets, position, &Author::Belljar);
        Registered::Version(number)
    }

    pub(super) fn note_secrets(
        &mut self,
        secrets: &SecretSearch,
        position: usize,
        author: &Author,
    ) {
        let row = &mut self.rows[position];
        for found in &secrets.found {
            let same = |known: &SecretFinding| {
                known.secret == found.secret && known.encoding == found.encoding
            };
            if !row.secrets_found.iter().any(same) {
                row.secrets_found.push(found.clone());
            }
        }
        row.secrets_found.sort();
        if secrets.quarantined && !std::mem::replace(&mut row.quarantined, true) {
            self.tell(position, "quarantined", author, quarantine(secrets));
        }
    }

    fn matches(&self, position: usize, owner: Option<u32>, filter: &Filter) -> bool {
        let row = &self.rows[position];
        owner.is_none_or(|owner| row.owner_uid == owner)
            && (filter.wants_every_version() || self.latest(row.id) == Some(position))
            && filter.run.is_none_or(|run| self.produced.contains(&(run, position)))
            && filter.accepts(row)
    }
}

impl MemoryCatalog {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Catalog for MemoryCatalog {
    fn register(&self, batch: &[NewVersion]) -> Result<Vec<Registered>, CatalogError> {
        let mut tables = self.tables();
        let register = |new: &NewVersion| {
            let registered = tables.register(new);
            tables.queue_upload(new.kept_content(), new.captured_at);
            registered
        };
        Ok(batch.iter().map(register).collect())
    }

    fn list(&self, owner: Option<u32>, filter: &Filter) -> Result<VersionPage, CatalogError> {
        let tables = self.tables();
        let place = |&position: &usize| {
            Cursor::of(&tables.rows[position], position as i64, filter.order.by)
        };
        let behind = |position: &usize| {
            filter
                .after
                .as_ref()
                .is_none_or(|after| place(position).order(after, filter.order).is_gt())
        };
        let mut found: Vec<usize> = (0..tables.rows.len())
            .filter(behind)
            .filter(|&position| tables.matches(position, owner, filter))
            .collect();
        found.sort_by(|one, other| place(one).order(&place(other), filter.order));
        let more = found.len() > filter.limit as usize;
        found.truncate(filter.limit as usize);
        let next = found.last().filter(|_| more).map(place);
        Ok(VersionPage { rows: found.into_iter().map(|p| tables.shown(p)).collect(), next })
    }

    fn find(
        &self,
        owner: Option<u32>,
        id: ArtifactId,
        which: Which,
    ) -> Result<Option<VersionRow>, CatalogError> {
        let tables = self.tables();
        Ok(tables.find(owner, id, which).map(|position| tables.shown(position)))
    }

    fn change_state(
        &self,
        owner: Option<u32>,
        id: ArtifactId,
        selected: Selected,
        next: ArtifactState,
        author: &Author,
    ) -> Result<Option<VersionRow>, CatalogError> {
        let mut tables = self.tables();
        let which = match selected {
            Selected::Every => Which::Latest,
            Selected::One(which) => which,
        };
        let Some(found) = tables.find(owner, id, which) else { return Ok(None) };
        let mut moves = Vec::new();
        for (position, row) in tables.rows.iter().enumerate() {
            if row.id == id && (selected == Selected::Every || position == found) {
                match next_state(row, next) {
                    Ok(next) => moves.push((position, next)),
                    Err(error @ CatalogError::Refused(super::life::Refusal::Pinned { .. })) => {
                        return Err(error);
                    }
                    Err(_) => {}
                }
            }
        }
        let Some(&(last, _)) = moves.last() else {
            return Err(next_state(&tables.rows[found], next).expect_err("no move was possible"));
        };
        for (position, next) in moves {
            tables.move_to(position, next, author);
        }
        Ok(Some(tables.shown(last)))
    }

    fn life(&self) -> &dyn Life {
        self
    }

    fn retention(&self) -> &dyn super::Retention {
        self
    }

    fn uploads(&self) -> &dyn super::Uploads {
        self
    }

    fn last_seen(
        &self,
        owner_uid: u32,
        host_paths: &[Vec<u8>],
    ) -> Result<Vec<LastSeen>, CatalogError> {
        let tables = self.tables();
        let look = |path: &Vec<u8>| match tables.stamps.get(&(owner_uid, path.clone())) {
            None => LastSeen::Never,
            Some(None) => LastSeen::Unnoted,
            Some(Some(stamp)) => LastSeen::As(*stamp),
        };
        Ok(host_paths.iter().map(look).collect())
    }

    fn of_run(
        &self,
        run: RunId,
        limit: u32,
        each: &mut dyn FnMut(VersionRow),
    ) -> Result<(), CatalogError> {
        let tables = self.tables();
        let produced = tables.produced.iter().filter(|(producer, _)| *producer == run);
        produced.take(limit as usize).for_each(|(_, position)| each(tables.shown(*position)));
        Ok(())
    }

    fn views(&self) -> &dyn ViewCatalog {
        self
    }

    fn note_inputs(&self, inputs: &[Input]) -> Result<(), CatalogError> {
        let mut tables = self.tables();
        for input in inputs {
            tables.inputs.entry((input.run, input.number)).or_insert_with(|| input.clone());
        }
        Ok(())
    }

    fn made_from(&self, version: VersionKey, limit: u32) -> Result<MadeFrom, CatalogError> {
        Ok(self.tables().made_from(version, limit))
    }

    fn used_by(&self, version: VersionKey, limit: u32) -> Result<Vec<Use>, CatalogError> {
        Ok(self.tables().used_by(version, limit))
    }
}
