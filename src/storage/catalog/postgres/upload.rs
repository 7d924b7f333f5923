//! Uploads in PostgreSQL: what is asked, and the transaction of each change.

use super::PostgresCatalog;
use super::books::{digests, due, named, stored_in};
use super::statement::{Value, values};
use crate::model::digest::Digest;
use crate::storage::CatalogError;
use crate::storage::catalog::row;
use crate::storage::catalog::tables::Answer;
use crate::storage::catalog::upload::{self, DOING, NO_STORE};
use crate::storage::retention::NamedContent;
use crate::storage::upload::{
    Destination, GivenUp, QueueRow, Sent, StoreRow, Upload, Uploads, Whereabouts,
};
use jiff::Timestamp;
use std::collections::BTreeSet;
use uuid::Uuid;

impl PostgresCatalog {
    /// Changes the books by one statement.
    fn book(&self, text: &str, values: &[Value]) -> Answer<()> {
        self.write(DOING, |tables| tables.execute(text, values).map(drop))
    }
}

impl Uploads for PostgresCatalog {
    fn send_to(&self, destination: Destination) {
        // The first one stays.
        let _ = self.destination.set(destination);
    }

    fn note_node(&self, to: &Destination, now: Timestamp) -> Result<bool, CatalogError> {
        self.write(DOING, |tables| tables.note_node(to.node, &to.remote, &to.place, now))
    }

    fn catalog(&self) -> Result<Uuid, CatalogError> {
        let text = "SELECT uuid FROM identity";
        let read = |found: &super::PostgresRow<'_>| row::uuid(found, "uuid");
        let found = self.read(|session| session.collect(DOING, text, values![], read))?;
        let damaged = || CatalogError::Damaged { what: "its identity is missing".to_owned() };
        found.into_iter().next().ok_or_else(damaged)
    }

    fn note_keeper(&self, node: Uuid, place: &str, now: Timestamp) -> Result<(), CatalogError> {
        self.write(DOING, |tables| tables.note_node(node, NO_STORE, place, now).map(drop))
    }

    fn knows_others(&self, node: Uuid) -> Result<bool, CatalogError> {
        let text = "SELECT 1 AS other FROM node WHERE node <> $1 LIMIT 1";
        let others = self.read(|session| session.collect(DOING, text, values![node], |_| Ok(())));
        Ok(!others?.is_empty())
    }

    fn node_filled(&self, to: &Destination) -> Result<(), CatalogError> {
        let text = "UPDATE node SET filled = TRUE WHERE node = $1 AND remote = $2";
        self.book(text, values![to.node, &to.remote])
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
        if self.read(|session| due(session, to, now, 1))?.is_empty() {
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
        let text = "SELECT DISTINCT holder FROM upload WHERE node = $1 AND remote = $2 AND holder IS NOT NULL";
        let values = values![to.node, &to.remote];
        self.read(|session| session.collect(DOING, text, values, |row| row::uuid(row, "holder")))
    }

    fn let_go(&self, to: &Destination, holder: Uuid) -> Result<(), CatalogError> {
        let text = "UPDATE upload SET holder = NULL, state = CASE WHEN last_error IS NULL THEN 'waiting' ELSE 'failed' END \
             WHERE node = $1 AND remote = $2 AND holder = $3";
        self.book(text, values![to.node, &to.remote, holder])
    }

    fn hurry(&self, to: &Destination, now: Timestamp) -> Result<(), CatalogError> {
        let text = "UPDATE upload SET next_at = $3 WHERE node = $1 AND remote = $2 AND holder IS NULL AND next_at > $3";
        self.book(text, values![to.node, &to.remote, now])
    }

    fn whereabouts(&self, digest: &Digest) -> Result<Whereabouts, CatalogError> {
        let text = "SELECT u.node, coalesce(n.place, '') AS place, u.remote, u.state, u.last_error FROM upload u \
             LEFT JOIN node n ON n.node = u.node AND n.remote = u.remote WHERE u.digest = $1 ORDER BY u.remote, u.node";
        self.read(|session| {
            // What is queued first: an upload that is done between the two is stored then.
            let queued = session.collect(DOING, text, values![digest], |row| row::queued(row))?;
            Ok(Whereabouts { stored_in: stored_in(session, digest)?, queued })
        })
    }

    fn queued_until(&self, to: &Destination, until: Timestamp) -> Result<u64, CatalogError> {
        let text = "SELECT count(*) AS rows FROM upload \
             WHERE node = $1 AND remote = $2 AND created_at <= $3 AND state <> 'quarantined'";
        self.count(DOING, text, values![to.node, &to.remote, until])
    }

    fn queues(&self) -> Result<Vec<QueueRow>, CatalogError> {
        let nodes = "SELECT node, remote, place, seen_at, \
                 (SELECT last_error FROM upload u WHERE u.node = n.node AND u.remote = n.remote AND u.last_error IS NOT NULL \
                  ORDER BY u.failed_at DESC LIMIT 1) AS last_error FROM node n WHERE remote <> $1 ORDER BY node, remote";
        let counts = "SELECT node, remote, state, count(*) AS contents, sum(size)::BIGINT AS bytes, \
                 min(created_at) AS oldest_at FROM upload GROUP BY node, remote, state";
        self.read(|session| {
            let nodes = session.collect(DOING, nodes, values![NO_STORE], |row| row::node(row))?;
            let counted = session.collect(DOING, counts, &[], |row| upload::counted(row))?;
            Ok(upload::with_amounts(nodes, counted))
        })
    }

    fn stores(&self) -> Result<Vec<StoreRow>, CatalogError> {
        let text = "SELECT remote, sum(n)::BIGINT AS contents, sum(bytes)::BIGINT AS bytes, sum(removals)::BIGINT AS removals \
             FROM (SELECT remote, count(*) AS n, sum(size) AS bytes, 0 AS removals FROM remote_copy GROUP BY remote \
                 UNION ALL SELECT remote, 0, 0, count(*) FROM remote_removal GROUP BY remote) AS known \
             GROUP BY remote ORDER BY remote";
        self.read(|session| session.collect(DOING, text, &[], |row| row::store(row)))
    }

    fn stored(
        &self,
        remote: &str,
        first: u8,
        after: Option<Digest>,
        limit: u32,
    ) -> Result<Vec<NamedContent>, CatalogError> {
        let (after, end) = upload::range(first, after);
        let text = "SELECT digest, size FROM remote_copy WHERE digest > $1 AND digest < $2 AND remote = $3 \
             ORDER BY digest LIMIT $4";
        let values = values![&after[..], &end[..], remote, limit];
        self.read(|session| session.collect(DOING, text, values, |row| row::named_content(row)))
    }

    fn unnamed(&self, of: &[Digest]) -> Result<Vec<Digest>, CatalogError> {
        let text = "SELECT DISTINCT digest FROM upload WHERE digest = ANY ($1)";
        self.read(|session| {
            let named = named(session, of)?;
            let queued = session.collect(DOING, text, &[digests(of)], |row| row::digest(row))?;
            let queued: BTreeSet<Digest> = queued.into_iter().collect();
            let unnamed =
                of.iter().filter(|digest| !named.contains_key(digest) && !queued.contains(digest));
            Ok(unnamed.copied().collect())
        })
    }

    fn give_up(
        &self,
        digest: &Digest,
        also: Option<&str>,
        now: Timestamp,
    ) -> Result<GivenUp, CatalogError> {
        // Without the writer's lock where a version names it: as when contents change their tier.
        if !self.read(|session| named(session, &[*digest]))?.is_empty() {
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
        let text = "SELECT digest FROM remote_removal WHERE remote = $1 AND next_at <= $2 ORDER BY next_at LIMIT $3";
        if self
            .read(|session| session.collect(DOING, text, values![remote, now, 1_u32], |_| Ok(())))?
            .is_empty()
        {
            return Ok(Vec::new());
        }
        let text = format!(
            "UPDATE remote_removal SET next_at = $4 WHERE remote = $1 AND digest IN ({text}) RETURNING digest"
        );
        let values = values![remote, now, limit, until];
        self.write(DOING, |tables| {
            tables.session.collect(DOING, &text, values, |row| row::digest(row))
        })
    }

    fn removed(&self, remote: &str, digest: &Digest) -> Result<(), CatalogError> {
        let text = "DELETE FROM remote_removal WHERE remote = $1 AND digest = $2";
        self.book(text, values![remote, digest])
    }
}
