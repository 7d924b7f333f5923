//! Uploads in SQLite: queued with the rows that need them, taken, settled, and given up.

use super::row::{collect, value};
use super::write::Writing;
use super::{SqliteCatalog, integer, lock};
use crate::model::digest::Digest;
use crate::storage::CatalogError;
use crate::storage::catalog::row;
use crate::storage::catalog::tables::Answer;
use crate::storage::catalog::upload::{self, Books, DOING, Failed, NO_STORE};
use crate::storage::retention::NamedContent;
use crate::storage::upload::{
    Destination, GivenUp, QueueRow, Sent, StoreRow, Upload, UploadState, Uploads, Whereabouts,
};
use jiff::Timestamp;
use rusqlite::{Connection, params};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

fn named(connection: &Connection, digests: &[Digest]) -> Answer<BTreeMap<Digest, bool>> {
    let text = "SELECT max(quarantined) FROM version WHERE digest = ? AND content_kept AND swept_at IS NULL";
    let mut named = BTreeMap::new();
    for digest in digests {
        let quarantined: Option<Option<bool>> =
            value(connection, DOING, text, [digest.as_bytes()])?;
        named.extend(quarantined.flatten().map(|quarantined| (*digest, quarantined)));
    }
    Ok(named)
}

fn due(
    connection: &Connection,
    to: &Destination,
    now: Timestamp,
    limit: u32,
) -> Answer<Vec<Upload>> {
    let text = "SELECT digest, size, attempts FROM upload WHERE node = ? AND remote = ? AND holder IS NULL AND next_at <= ? \
         ORDER BY next_at LIMIT ?";
    let parameters = params![to.node.as_bytes(), to.remote, now.as_microsecond(), limit];
    collect(connection, DOING, text, parameters, |row| row::upload(row))
}

fn stored_in(connection: &Connection, digest: &Digest) -> Answer<Vec<String>> {
    let text = "SELECT remote FROM remote_copy WHERE digest = ? ORDER BY remote";
    collect(connection, DOING, text, [digest.as_bytes()], |row| row::text(row, "remote"))
}

impl Books for Writing<'_> {
    fn insert(&self, to: &Destination, contents: &[(NamedContent, Timestamp)]) -> Answer<u64> {
        let text = "INSERT INTO upload (digest, remote, node, size, created_at, next_at) SELECT ?1, ?2, ?3, ?4, ?5, ?5 \
             WHERE NOT EXISTS (SELECT 1 FROM remote_copy WHERE digest = ?1 AND remote = ?2) ON CONFLICT DO NOTHING";
        let mut count = 0;
        for (NamedContent { digest, size }, since) in contents {
            let (digest, node) = (digest.as_bytes(), to.node.as_bytes());
            let since = since.as_microsecond();
            count +=
                self.execute(text, params![digest, to.remote, node, integer(*size), since])? as u64;
        }
        Ok(count)
    }

    fn named(&self, digests: &[Digest]) -> Answer<BTreeMap<Digest, bool>> {
        named(self.transaction, digests)
    }

    fn due(&self, to: &Destination, now: Timestamp, limit: u32) -> Answer<Vec<Upload>> {
        due(self.transaction, to, now, limit)
    }

    fn being_removed(&self, remote: &str, digests: &[Digest]) -> Answer<BTreeSet<Digest>> {
        let text = "SELECT 1 FROM remote_removal WHERE remote = ? AND digest = ?";
        let mut removing = BTreeSet::new();
        for digest in digests {
            if self.value::<i64>(text, params![remote, digest.as_bytes()])?.is_some() {
                removing.insert(*digest);
            }
        }
        Ok(removing)
    }

    fn drop_uploads(&self, remote: &str, node: Option<Uuid>, digests: &[Digest]) -> Answer<()> {
        let text =
            "DELETE FROM upload WHERE digest = ?1 AND remote = ?2 AND (?3 IS NULL OR node = ?3)";
        let node = node.map(Uuid::into_bytes);
        digests.iter().try_for_each(|digest| {
            self.execute(text, params![digest.as_bytes(), remote, node]).map(drop)
        })
    }

    fn drop_all(&self, digest: &Digest) -> Answer<()> {
        self.execute("DELETE FROM upload WHERE digest = ?", [digest.as_bytes()]).map(drop)
    }

    fn put_off(
        &self,
        to: &Destination,
        digests: &[Digest],
        state: UploadState,
        until: Timestamp,
    ) -> Answer<()> {
        let text = "UPDATE upload SET state = ?4, next_at = ?5 WHERE digest = ?1 AND remote = ?2 AND node = ?3";
        digests.iter().try_for_each(|digest| {
            let (digest, node) = (digest.as_bytes(), to.node.as_bytes());
            let until = until.as_microsecond();
            self.execute(text, params![digest, to.remote, node, state.as_str(), until]).map(drop)
        })
    }

    fn hold(&self, to: &Destination, holder: Uuid, digests: &[Digest]) -> Answer<()> {
        let text = "UPDATE upload SET holder = ?4, state = 'uploading', attempts = attempts + 1 \
             WHERE digest = ?1 AND remote = ?2 AND node = ?3";
        digests.iter().try_for_each(|digest| {
            let (digest, node) = (digest.as_bytes(), to.node.as_bytes());
            self.execute(text, params![digest, to.remote, node, holder.as_bytes()]).map(drop)
        })
    }

    fn give_back(&self, to: &Destination, holder: Uuid, digests: &[Digest]) -> Answer<()> {
        let text = "UPDATE upload SET holder = NULL, attempts = attempts - 1, \
                 state = CASE WHEN last_error IS NULL THEN 'waiting' ELSE 'failed' END \
             WHERE digest = ?1 AND remote = ?2 AND node = ?3 AND holder = ?4";
        digests.iter().try_for_each(|digest| {
            let (digest, node) = (digest.as_bytes(), to.node.as_bytes());
            self.execute(text, params![digest, to.remote, node, holder.as_bytes()]).map(drop)
        })
    }

    fn note_failure(
        &self,
        to: &Destination,
        holder: Uuid,
        failed: &Failed<'_>,
        now: Timestamp,
    ) -> Answer<()> {
        self.execute(
            "UPDATE upload SET holder = NULL, state = ?5, last_error = ?6, next_at = ?7, failed_at = ?8 \
             WHERE digest = ?1 AND remote = ?2 AND node = ?3 AND holder = ?4",
            params![
                failed.digest.as_bytes(),
                to.remote,
                to.node.as_bytes(),
                holder.as_bytes(),
                failed.state.as_str(),
                failed.error,
                failed.next_at.as_microsecond(),
                now.as_microsecond()
            ],
        )
        .map(drop)
    }

    fn note_copies(&self, remote: &str, contents: &[NamedContent], now: Timestamp) -> Answer<()> {
        let text = "INSERT INTO remote_copy (digest, remote, size, stored_at) VALUES (?, ?, ?, ?) \
             ON CONFLICT (digest, remote) DO UPDATE SET size = excluded.size, stored_at = excluded.stored_at";
        contents.iter().try_for_each(|NamedContent { digest, size }| {
            let (size, now) = (integer(*size), now.as_microsecond());
            self.execute(text, params![digest.as_bytes(), remote, size, now]).map(drop)
        })
    }

    fn forget_copies(&self, remote: &str, digests: &[Digest]) -> Answer<()> {
        let text = "DELETE FROM remote_copy WHERE digest = ? AND remote = ?";
        digests
            .iter()
            .try_for_each(|digest| self.execute(text, params![digest.as_bytes(), remote]).map(drop))
    }

    fn insert_removals(&self, remote: &str, digests: &[Digest], now: Timestamp) -> Answer<()> {
        let text = "INSERT INTO remote_removal (digest, remote, created_at, next_at) VALUES (?1, ?2, ?3, ?3) \
             ON CONFLICT DO NOTHING";
        digests.iter().try_for_each(|digest| {
            self.execute(text, params![digest.as_bytes(), remote, now.as_microsecond()]).map(drop)
        })
    }

    fn is_held(&self, digest: &Digest) -> Answer<bool> {
        let text = "SELECT 1 FROM upload WHERE digest = ? AND holder IS NOT NULL LIMIT 1";
        Ok(self.value::<i64>(text, [digest.as_bytes()])?.is_some())
    }

    fn stored_in(&self, digest: &Digest) -> Answer<Vec<String>> {
        stored_in(self.transaction, digest)
    }

    fn unfill(&self, remote: &str) -> Answer<()> {
        self.execute("UPDATE node SET filled = 0 WHERE remote = ?", [remote]).map(drop)
    }
}

impl Writing<'_> {
    fn note_node(&self, node: Uuid, remote: &str, place: &str, now: Timestamp) -> Answer<bool> {
        let text = "INSERT INTO node (node, remote, place, seen_at) VALUES (?, ?, ?, ?) \
             ON CONFLICT (node, remote) DO UPDATE SET place = excluded.place, seen_at = excluded.seen_at RETURNING filled";
        let parameters = params![node.as_bytes(), remote, place, now.as_microsecond()];
        Ok(self.value(text, parameters)?.unwrap_or(false))
    }
}

impl Uploads for SqliteCatalog {
    fn send_to(&self, destination: Destination) {
        // The first one stays.
        let _ = self.destination.set(destination);
    }

    fn note_node(&self, to: &Destination, now: Timestamp) -> Result<bool, CatalogError> {
        self.write(DOING, |tables| tables.note_node(to.node, &to.remote, &to.place, now))
    }

    fn catalog(&self) -> Result<Uuid, CatalogError> {
        let text = "SELECT uuid FROM identity";
        let found: Option<Vec<u8>> = value(&lock(&self.reader), DOING, text, [])?;
        let uuid = found.and_then(|bytes| Uuid::from_slice(&bytes).ok());
        uuid.ok_or_else(|| CatalogError::Damaged { what: "its identity is missing".to_owned() })
    }

    fn note_keeper(&self, node: Uuid, place: &str, now: Timestamp) -> Result<(), CatalogError> {
        self.write(DOING, |tables| tables.note_node(node, NO_STORE, place, now).map(drop))
    }

    fn knows_others(&self, node: Uuid) -> Result<bool, CatalogError> {
        let text = "SELECT 1 FROM node WHERE node <> ? LIMIT 1";
        Ok(value::<i64>(&lock(&self.reader), DOING, text, [node.as_bytes()])?.is_some())
    }

    fn node_filled(&self, to: &Destination) -> Result<(), CatalogError> {
        let text = "UPDATE node SET filled = 1 WHERE node = ? AND remote = ?";
        let parameters = params![to.node.as_bytes(), to.remote];
        self.write(DOING, |tables| tables.execute(text, parameters).map(drop))
    }

    fn queue(
        &self,
        to: &Destination,
        contents: &[NamedContent],
        now: Timestamp,
    ) -> Result<u64, CatalogError> {
        self.write(DOING, |tables| upload::queue(tables, to, contents, now))
    }

    fn send_again(
        &self,
        to: &Destination,
        content: &NamedContent,
        has_local: bool,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        self.write(DOING, |tables| upload::send_again(tables, to, content, has_local, now))
    }

    fn take(
        &self,
        to: &Destination,
        holder: Uuid,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<Upload>, CatalogError> {
        // Without the writer's lock while nothing is due, which is nearly always.
        if due(&lock(&self.reader), to, now, 1)?.is_empty() {
            return Ok(Vec::new());
        }
        self.write(DOING, |tables| upload::take(tables, to, holder, now, limit))
    }

    fn settle(
        &self,
        to: &Destination,
        holder: Uuid,
        outcomes: &[(Upload, Sent)],
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        self.write(DOING, |tables| upload::settle(tables, to, holder, outcomes, now))
    }

    fn holders(&self, to: &Destination) -> Result<Vec<Uuid>, CatalogError> {
        let text = "SELECT DISTINCT holder FROM upload WHERE node = ? AND remote = ? AND holder IS NOT NULL";
        let parameters = params![to.node.as_bytes(), to.remote];
        collect(&lock(&self.reader), DOING, text, parameters, |row| row::uuid(row, "holder"))
    }

    fn let_go(&self, to: &Destination, holder: Uuid) -> Result<(), CatalogError> {
        let text = "UPDATE upload SET holder = NULL, state = CASE WHEN last_error IS NULL THEN 'waiting' ELSE 'failed' END \
             WHERE node = ? AND remote = ? AND holder = ?";
        let parameters = params![to.node.as_bytes(), to.remote, holder.as_bytes()];
        self.write(DOING, |tables| tables.execute(text, parameters).map(drop))
    }

    fn hurry(&self, to: &Destination, now: Timestamp) -> Result<(), CatalogError> {
        let text = "UPDATE upload SET next_at = ?3 WHERE node = ?1 AND remote = ?2 AND holder IS NULL AND next_at > ?3";
        let parameters = params![to.node.as_bytes(), to.remote, now.as_microsecond()];
        self.write(DOING, |tables| tables.execute(text, parameters).map(drop))
    }

    fn whereabouts(&self, digest: &Digest) -> Result<Whereabouts, CatalogError> {
        let reader = lock(&self.reader);
        let text = "SELECT u.node, coalesce(n.place, '') AS place, u.remote, u.state, u.last_error FROM upload u \
             LEFT JOIN node n ON n.node = u.node AND n.remote = u.remote WHERE u.digest = ? ORDER BY u.remote, u.node";
        let queued = collect(&reader, DOING, text, [digest.as_bytes()], |row| row::queued(row))?;
        Ok(Whereabouts { stored_in: stored_in(&reader, digest)?, queued })
    }

    fn queued_until(&self, to: &Destination, until: Timestamp) -> Result<u64, CatalogError> {
        let text = "SELECT count(*) FROM upload WHERE node = ? AND remote = ? AND created_at <= ? AND state <> 'quarantined'";
        let parameters = params![to.node.as_bytes(), to.remote, until.as_microsecond()];
        let count: Option<i64> = value(&lock(&self.reader), DOING, text, parameters)?;
        Ok(count.unwrap_or(0).unsigned_abs())
    }

    fn queues(&self) -> Result<Vec<QueueRow>, CatalogError> {
        let reader = lock(&self.reader);
        let text = "SELECT node, remote, place, seen_at, \
                 (SELECT last_error FROM upload u WHERE u.node = n.node AND u.remote = n.remote AND u.last_error IS NOT NULL \
                  ORDER BY u.failed_at DESC LIMIT 1) AS last_error FROM node n WHERE remote <> ? ORDER BY node, remote";
        let nodes = collect(&reader, DOING, text, [NO_STORE], |row| row::node(row))?;
        let text = "SELECT node, remote, state, count(*) AS contents, sum(size) AS bytes, min(created_at) AS oldest_at \
             FROM upload GROUP BY node, remote, state";
        let counted = collect(&reader, DOING, text, [], |row| upload::counted(row))?;
        Ok(upload::with_amounts(nodes, counted))
    }

    fn stores(&self) -> Result<Vec<StoreRow>, CatalogError> {
        let text = "SELECT remote, sum(n) AS contents, sum(bytes) AS bytes, sum(removals) AS removals FROM ( \
                 SELECT remote, count(*) AS n, coalesce(sum(size), 0) AS bytes, 0 AS removals FROM remote_copy GROUP BY remote \
                 UNION ALL SELECT remote, 0, 0, count(*) FROM remote_removal GROUP BY remote) GROUP BY remote ORDER BY remote";
        collect(&lock(&self.reader), DOING, text, [], |row| row::store(row))
    }

    fn stored(
        &self,
        remote: &str,
        first: u8,
        after: Option<Digest>,
        limit: u32,
    ) -> Result<Vec<NamedContent>, CatalogError> {
        let (after, end) = upload::range(first, after);
        let text = "SELECT digest, size FROM remote_copy WHERE digest > ? AND digest < ? AND remote = ? ORDER BY digest LIMIT ?";
        let parameters = params![after, end, remote, limit];
        collect(&lock(&self.reader), DOING, text, parameters, |row| row::named_content(row))
    }

    fn unnamed(&self, digests: &[Digest]) -> Result<Vec<Digest>, CatalogError> {
        let reader = lock(&self.reader);
        let named = named(&reader, digests)?;
        let text = "SELECT 1 FROM upload WHERE digest = ? LIMIT 1";
        let mut unnamed = Vec::new();
        for digest in digests.iter().filter(|digest| !named.contains_key(digest)) {
            if value::<i64>(&reader, DOING, text, [digest.as_bytes()])?.is_none() {
                unnamed.push(*digest);
            }
        }
        Ok(unnamed)
    }

    fn give_up(
        &self,
        digest: &Digest,
        also: Option<&str>,
        now: Timestamp,
    ) -> Result<GivenUp, CatalogError> {
        // Without the writer's lock where a version names it: as when contents change their tier.
        if !named(&lock(&self.reader), &[*digest])?.is_empty() {
            return Ok(GivenUp::Nothing);
        }
        self.write(DOING, |tables| upload::give_up(tables, digest, also, now))
    }

    fn take_removals(
        &self,
        remote: &str,
        now: Timestamp,
        until: Timestamp,
        limit: u32,
    ) -> Result<Vec<Digest>, CatalogError> {
        let text = "SELECT digest FROM remote_removal WHERE remote = ? AND next_at <= ? ORDER BY next_at LIMIT ?";
        let due = |connection: &Connection| {
            let parameters = params![remote, now.as_microsecond(), limit];
            collect(connection, DOING, text, parameters, |row| row::digest(row))
        };
        if due(&lock(&self.reader))?.is_empty() {
            return Ok(Vec::new());
        }
        self.write(DOING, |tables| {
            let taken = due(tables.transaction)?;
            for digest in &taken {
                let text = "UPDATE remote_removal SET next_at = ? WHERE remote = ? AND digest = ?";
                let parameters = params![until.as_microsecond(), remote, digest.as_bytes()];
                tables.execute(text, parameters)?;
            }
            Ok(taken)
        })
    }

    fn removed(&self, remote: &str, digest: &Digest) -> Result<(), CatalogError> {
        let text = "DELETE FROM remote_removal WHERE remote = ? AND digest = ?";
        self.write(DOING, |tables| {
            tables.execute(text, params![remote, digest.as_bytes()]).map(drop)
        })
    }
}
