//! Uploads over the rows in memory.

use super::{MemoryCatalog, Tables};
use crate::model::digest::Digest;
use crate::storage::CatalogError;
use crate::storage::retention::NamedContent;
use crate::storage::upload::{
    Amount, Destination, GivenUp, QUARANTINE_PAUSE, QueueRow, Queued, REMOVAL_PAUSE, Sent,
    StoreRow, Upload, UploadState, Uploads, Whereabouts,
};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// The tables of uploads.
#[derive(Debug, Default)]
pub(super) struct Books {
    identity: Option<Uuid>,
    destination: Option<Destination>,
    nodes: BTreeMap<(Uuid, String), Node>,
    /// Nodes, wherever they send.
    keepers: BTreeSet<Uuid>,
    /// By digest, store and node.
    uploads: BTreeMap<(Digest, String, Uuid), Entry>,
    /// By store and digest, with the size.
    copies: BTreeMap<(String, Digest), u64>,
    /// When each is due.
    removals: BTreeMap<(String, Digest), Timestamp>,
}

#[derive(Debug)]
struct Node {
    place: String,
    seen_at: Timestamp,
    filled: bool,
}

#[derive(Debug)]
struct Entry {
    size: u64,
    created_at: Timestamp,
    next_at: Timestamp,
    attempts: u32,
    state: UploadState,
    holder: Option<Uuid>,
    failure: Option<(Timestamp, String)>,
}

impl Entry {
    fn release(&mut self) {
        self.holder = None;
        let failed = self.failure.is_some();
        self.state = if failed { UploadState::Failed } else { UploadState::Waiting };
    }
}

impl Books {
    fn queue(&mut self, to: &Destination, content: NamedContent, now: Timestamp) -> bool {
        if self.copies.contains_key(&(to.remote.clone(), content.digest)) {
            return false;
        }
        let key = (content.digest, to.remote.clone(), to.node);
        let new = !self.uploads.contains_key(&key);
        self.uploads.entry(key).or_insert(Entry {
            size: content.size,
            created_at: now,
            next_at: now,
            attempts: 0,
            state: UploadState::Waiting,
            holder: None,
            failure: None,
        });
        new
    }

    fn begin_removal(&mut self, remote: &str, digest: Digest, now: Timestamp) {
        let key = (remote.to_owned(), digest);
        self.copies.remove(&key);
        self.removals.entry(key).or_insert(now);
    }

    fn of_node(&mut self, to: &Destination) -> impl Iterator<Item = &mut Entry> {
        let meant =
            |(_, remote, node): &(Digest, String, Uuid)| (remote, node) == (&to.remote, &to.node);
        self.uploads.iter_mut().filter(move |(key, _)| meant(key)).map(|(_, entry)| entry)
    }
}

impl Tables {
    /// Has a content sent that a version names.
    pub(super) fn queue_upload(&mut self, content: Option<NamedContent>, now: Timestamp) {
        if let (Some(to), Some(content)) = (self.books.destination.clone(), content) {
            self.books.queue(&to, content, now);
        }
    }

    /// Whether a version names the content, and whether one of those is quarantined.
    fn content_named(&self, digest: &Digest) -> Option<bool> {
        let named = self.rows.iter().filter(|row| {
            row.digest == Some(*digest) && row.content_kept && row.swept_at.is_none()
        });
        named.map(|row| row.quarantined).max()
    }
}

impl Uploads for MemoryCatalog {
    fn send_to(&self, destination: Destination) {
        self.tables().books.destination.get_or_insert(destination);
    }

    fn note_node(&self, to: &Destination, now: Timestamp) -> Result<bool, CatalogError> {
        let mut tables = self.tables();
        let key = (to.node, to.remote.clone());
        let new = Node { place: String::new(), seen_at: now, filled: false };
        let node = tables.books.nodes.entry(key).or_insert(new);
        node.place.clone_from(&to.place);
        node.seen_at = now;
        Ok(node.filled)
    }

    fn catalog(&self) -> Result<Uuid, CatalogError> {
        Ok(*self.tables().books.identity.get_or_insert_with(Uuid::new_v4))
    }

    fn note_keeper(&self, node: Uuid, _: &str, _: Timestamp) -> Result<(), CatalogError> {
        self.tables().books.keepers.insert(node);
        Ok(())
    }

    fn knows_others(&self, node: Uuid) -> Result<bool, CatalogError> {
        let tables = self.tables();
        let senders = tables.books.nodes.keys().map(|(known, _)| known);
        Ok(senders.chain(&tables.books.keepers).any(|known| *known != node))
    }

    fn node_filled(&self, to: &Destination) -> Result<(), CatalogError> {
        if let Some(node) = self.tables().books.nodes.get_mut(&(to.node, to.remote.clone())) {
            node.filled = true;
        }
        Ok(())
    }

    fn queue(
        &self,
        to: &Destination,
        contents: &[NamedContent],
        now: Timestamp,
    ) -> Result<u64, CatalogError> {
        let mut tables = self.tables();
        let mut count = 0;
        for content in contents {
            if tables.content_named(&content.digest).is_some() {
                count += u64::from(tables.books.queue(to, *content, now));
            }
        }
        Ok(count)
    }

    fn send_again(
        &self,
        to: &Destination,
        content: &NamedContent,
        has_local: bool,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let mut tables = self.tables();
        tables.books.copies.remove(&(to.remote.clone(), content.digest));
        if !has_local {
            let nodes = tables.books.nodes.iter_mut();
            let of_store = nodes.filter(|((_, remote), _)| *remote == to.remote);
            of_store.for_each(|(_, node)| node.filled = false);
        } else if tables.content_named(&content.digest).is_some() {
            tables.books.queue(to, *content, now);
        }
        Ok(())
    }

    fn take(
        &self,
        to: &Destination,
        holder: Uuid,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<Upload>, CatalogError> {
        let mut tables = self.tables();
        let due = tables.books.uploads.iter().filter(|((_, remote, node), entry)| {
            (remote, node) == (&to.remote, &to.node)
                && entry.holder.is_none()
                && entry.next_at <= now
        });
        let mut due: Vec<_> = due.map(|((digest, _, _), entry)| (entry.next_at, *digest)).collect();
        due.sort();
        let mut taken = Vec::new();
        for (_, digest) in due.into_iter().take(limit as usize) {
            let named = tables.content_named(&digest);
            let books = &mut tables.books;
            let removing = books.removals.contains_key(&(to.remote.clone(), digest));
            let key = (digest, to.remote.clone(), to.node);
            let entry = books.uploads.get_mut(&key).expect("it was found under this lock");
            match named {
                None => drop(books.uploads.remove(&key)),
                Some(true) => {
                    entry.state = UploadState::Quarantined;
                    entry.next_at = now + QUARANTINE_PAUSE;
                }
                Some(false) if removing => {
                    entry.state = UploadState::Waiting;
                    entry.next_at = now + REMOVAL_PAUSE;
                }
                Some(false) => {
                    taken.push(Upload { digest, size: entry.size, attempts: entry.attempts });
                    entry.attempts += 1;
                    entry.state = UploadState::Uploading;
                    entry.holder = Some(holder);
                }
            }
        }
        Ok(taken)
    }

    fn settle(
        &self,
        to: &Destination,
        holder: Uuid,
        outcomes: &[(Upload, Sent)],
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let mut tables = self.tables();
        for (upload, sent) in outcomes {
            let digest = upload.digest;
            let named = tables.content_named(&digest).is_some();
            let books = &mut tables.books;
            if *sent == Sent::Done {
                books.uploads.retain(|(of, remote, _), _| *of != digest || *remote != to.remote);
                if named {
                    books.copies.insert((to.remote.clone(), digest), upload.size);
                } else {
                    books.begin_removal(&to.remote, digest, now);
                }
                continue;
            }
            let entry = books.uploads.get_mut(&(digest, to.remote.clone(), to.node));
            let Some(entry) = entry.filter(|entry| entry.holder == Some(holder)) else { continue };
            entry.release();
            match sent {
                Sent::Done => {}
                Sent::Failed { state, error, next_at } => {
                    entry.state = *state;
                    entry.next_at = *next_at;
                    entry.failure = Some((now, error.clone()));
                }
                Sent::Untouched => entry.attempts -= 1,
            }
        }
        Ok(())
    }

    fn holders(&self, to: &Destination) -> Result<Vec<Uuid>, CatalogError> {
        let mut tables = self.tables();
        let holders: BTreeSet<Uuid> =
            tables.books.of_node(to).filter_map(|entry| entry.holder).collect();
        Ok(holders.into_iter().collect())
    }

    fn let_go(&self, to: &Destination, holder: Uuid) -> Result<(), CatalogError> {
        let mut tables = self.tables();
        let held = tables.books.of_node(to).filter(|entry| entry.holder == Some(holder));
        held.for_each(Entry::release);
        Ok(())
    }

    fn hurry(&self, to: &Destination, now: Timestamp) -> Result<(), CatalogError> {
        let mut tables = self.tables();
        let free = tables.books.of_node(to).filter(|entry| entry.holder.is_none());
        free.for_each(|entry| entry.next_at = entry.next_at.min(now));
        Ok(())
    }

    fn whereabouts(&self, digest: &Digest) -> Result<Whereabouts, CatalogError> {
        let tables = self.tables();
        let books = &tables.books;
        let copies = books.copies.keys().filter(|(_, of)| of == digest);
        let stored_in = copies.map(|(remote, _)| remote.clone()).collect();
        let queued = books.uploads.iter().filter(|((of, _, _), _)| of == digest);
        let queued = queued.map(|((_, remote, node), entry)| Queued {
            node: *node,
            place: books
                .nodes
                .get(&(*node, remote.clone()))
                .map_or(String::new(), |node| node.place.clone()),
            remote: remote.clone(),
            state: entry.state,
            last_error: entry.failure.as_ref().map(|(_, error)| error.clone()),
        });
        Ok(Whereabouts { stored_in, queued: queued.collect() })
    }

    fn queued_until(&self, to: &Destination, until: Timestamp) -> Result<u64, CatalogError> {
        let mut tables = self.tables();
        let queued = tables
            .books
            .of_node(to)
            .filter(|entry| entry.created_at <= until && entry.state != UploadState::Quarantined);
        Ok(queued.count() as u64)
    }

    fn queues(&self) -> Result<Vec<QueueRow>, CatalogError> {
        let tables = self.tables();
        let books = &tables.books;
        let row = |((node, remote), known): (&(Uuid, String), &Node)| {
            let entries = || {
                let all = books.uploads.iter();
                let own = all.filter(|((_, to, of), _)| (of, to) == (node, remote));
                own.map(|(_, entry)| entry)
            };
            let mut amounts: BTreeMap<UploadState, Amount> = BTreeMap::new();
            for entry in entries() {
                let amount = amounts.entry(entry.state).or_default();
                amount.contents += 1;
                amount.bytes += entry.size;
            }
            let failures = entries().filter_map(|entry| entry.failure.as_ref());
            QueueRow {
                node: *node,
                place: known.place.clone(),
                remote: remote.clone(),
                seen_at: known.seen_at,
                amounts: amounts.into_iter().collect(),
                oldest_at: entries().map(|entry| entry.created_at).min(),
                last_error: failures.max().map(|(_, error)| error.clone()),
            }
        };
        Ok(books.nodes.iter().map(row).collect())
    }

    fn stores(&self) -> Result<Vec<StoreRow>, CatalogError> {
        let tables = self.tables();
        let mut stores: BTreeMap<&String, (Amount, u64)> = BTreeMap::new();
        for ((remote, _), size) in &tables.books.copies {
            let (stored, _) = stores.entry(remote).or_default();
            stored.contents += 1;
            stored.bytes += size;
        }
        for (remote, _) in tables.books.removals.keys() {
            stores.entry(remote).or_default().1 += 1;
        }
        let row = |(remote, (stored, removals)): (&String, _)| StoreRow {
            remote: remote.clone(),
            stored,
            removals,
        };
        Ok(stores.into_iter().map(row).collect())
    }

    fn stored(
        &self,
        remote: &str,
        first: u8,
        after: Option<Digest>,
        limit: u32,
    ) -> Result<Vec<NamedContent>, CatalogError> {
        let tables = self.tables();
        let meant = tables.books.copies.iter().filter(|((of, digest), _)| {
            of == remote && digest.as_bytes()[0] == first && Some(*digest) > after
        });
        let contents =
            meant.map(|((_, digest), size)| NamedContent { digest: *digest, size: *size });
        Ok(contents.take(limit as usize).collect())
    }

    fn unnamed(&self, digests: &[Digest]) -> Result<Vec<Digest>, CatalogError> {
        let tables = self.tables();
        let is_queued =
            |digest: &Digest| tables.books.uploads.keys().any(|(of, _, _)| of == digest);
        let unnamed = digests
            .iter()
            .filter(|digest| !is_queued(digest) && tables.content_named(digest).is_none());
        Ok(unnamed.copied().collect())
    }

    fn give_up(
        &self,
        digest: &Digest,
        also: Option<&str>,
        now: Timestamp,
    ) -> Result<GivenUp, CatalogError> {
        let mut tables = self.tables();
        if tables.content_named(digest).is_some() {
            return Ok(GivenUp::Nothing);
        }
        let books = &mut tables.books;
        if books.uploads.iter().any(|((of, _, _), entry)| of == digest && entry.holder.is_some()) {
            return Ok(GivenUp::Busy);
        }
        books.uploads.retain(|(of, _, _), _| of != digest);
        let copies = books.copies.keys().filter(|(_, of)| of == digest);
        let mut remotes: BTreeSet<String> = copies.map(|(remote, _)| remote.clone()).collect();
        remotes.extend(also.map(str::to_owned));
        for remote in &remotes {
            books.begin_removal(remote, *digest, now);
        }
        Ok(if remotes.is_empty() { GivenUp::Nothing } else { GivenUp::Removing })
    }

    fn take_removals(
        &self,
        remote: &str,
        now: Timestamp,
        until: Timestamp,
        limit: u32,
    ) -> Result<Vec<Digest>, CatalogError> {
        let mut tables = self.tables();
        let due = tables.books.removals.iter_mut();
        let due = due.filter(|((of, _), next_at)| of == remote && **next_at <= now);
        let taken = due.take(limit as usize).map(|((_, digest), next_at)| {
            *next_at = until;
            *digest
        });
        Ok(taken.collect())
    }

    fn removed(&self, remote: &str, digest: &Digest) -> Result<(), CatalogError> {
        self.tables().books.removals.remove(&(remote.to_owned(), *digest));
        Ok(())
    }
}
