//! The statements of the books of uploads in PostgreSQL: each does what it does to all contents at once.

use super::session::Session;
use super::statement::{Value, integer, values};
use super::write::Writing;
use crate::model::digest::Digest;
use crate::storage::catalog::row;
use crate::storage::catalog::tables::Answer;
use crate::storage::catalog::upload::{Books, DOING, Failed};
use crate::storage::retention::NamedContent;
use crate::storage::upload::{Destination, Upload, UploadState};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// A column of digests.
pub(super) fn digests(digests: &[Digest]) -> Value {
    Value::ManyBytes(digests.iter().map(|digest| Some(digest.as_bytes().to_vec())).collect())
}

fn sizes<'a>(contents: impl Iterator<Item = &'a NamedContent>) -> [Value; 2] {
    let (digests, sizes) = contents
        .map(|NamedContent { digest, size }| {
            (Some(digest.as_bytes().to_vec()), Some(integer(*size)))
        })
        .unzip();
    [Value::ManyBytes(digests), Value::Integers(sizes)]
}

pub(super) fn named(session: &Session, of: &[Digest]) -> Answer<BTreeMap<Digest, bool>> {
    let text = "SELECT digest, bool_or(quarantined) AS quarantined FROM version \
         WHERE digest = ANY ($1) AND digest IS NOT NULL AND content_kept AND swept_at IS NULL GROUP BY digest";
    let found = session.collect(DOING, text, &[digests(of)], |row| {
        Ok((row::digest(row)?, row::flag(row, "quarantined")?))
    })?;
    Ok(found.into_iter().collect())
}

pub(super) fn due(
    session: &Session,
    to: &Destination,
    now: Timestamp,
    limit: u32,
) -> Answer<Vec<Upload>> {
    let text = "SELECT digest, size, attempts FROM upload \
         WHERE node = $1 AND remote = $2 AND holder IS NULL AND next_at <= $3 ORDER BY next_at LIMIT $4";
    let values = values![to.node, &to.remote, now, limit];
    session.collect(DOING, text, values, |row| row::upload(row))
}

pub(super) fn stored_in(session: &Session, digest: &Digest) -> Answer<Vec<String>> {
    let text = "SELECT remote FROM remote_copy WHERE digest = $1 ORDER BY remote";
    session.collect(DOING, text, values![digest], |row| row::text(row, "remote"))
}

impl Writing<'_> {
    /// Does that to contents, whose digests are the statement's first value; there may be none of them.
    fn to_all(&self, text: &str, of: &[Digest], rest: &[Value]) -> Answer<()> {
        if of.is_empty() {
            return Ok(());
        }
        let mut values = vec![digests(of)];
        values.extend_from_slice(rest);
        self.execute(text, &values).map(drop)
    }

    pub fn note_node(&self, node: Uuid, remote: &str, place: &str, now: Timestamp) -> Answer<bool> {
        let text = "INSERT INTO node (node, remote, place, seen_at) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (node, remote) DO UPDATE SET place = excluded.place, seen_at = excluded.seen_at RETURNING filled";
        let values = values![node, remote, place, now];
        let filled =
            self.session.collect(self.doing, text, values, |row| row::flag(row, "filled"))?;
        Ok(filled.first().copied().unwrap_or(false))
    }
}

impl Books for Writing<'_> {
    fn insert(&self, to: &Destination, contents: &[(NamedContent, Timestamp)]) -> Answer<u64> {
        if contents.is_empty() {
            return Ok(0);
        }
        let text = "INSERT INTO upload (digest, remote, node, size, created_at, next_at) \
             SELECT u.digest, $4, $5, u.size, u.since, u.since FROM unnest($1, $2, $3) AS u (digest, size, since) \
             WHERE NOT EXISTS (SELECT 1 FROM remote_copy c WHERE c.digest = u.digest AND c.remote = $4) \
             ON CONFLICT DO NOTHING";
        let [digests, sizes] = sizes(contents.iter().map(|(content, _)| content));
        let since = contents.iter().map(|(_, since)| Some(since.as_microsecond())).collect();
        let values =
            [digests, sizes, Value::Integers(since), Value::from(&to.remote), to.node.into()];
        self.execute(text, &values)
    }

    fn named(&self, digests: &[Digest]) -> Answer<BTreeMap<Digest, bool>> {
        named(self.session, digests)
    }

    fn due(&self, to: &Destination, now: Timestamp, limit: u32) -> Answer<Vec<Upload>> {
        due(self.session, to, now, limit)
    }

    fn being_removed(&self, remote: &str, of: &[Digest]) -> Answer<BTreeSet<Digest>> {
        let text = "SELECT digest FROM remote_removal WHERE digest = ANY ($1) AND remote = $2";
        let values = [digests(of), remote.into()];
        let found = self.session.collect(self.doing, text, &values, |row| row::digest(row))?;
        Ok(found.into_iter().collect())
    }

    fn drop_uploads(&self, remote: &str, node: Option<Uuid>, digests: &[Digest]) -> Answer<()> {
        let text = "DELETE FROM upload WHERE digest = ANY ($1) AND remote = $2 AND ($3 IS NULL OR node = $3)";
        self.to_all(text, digests, values![remote, node])
    }

    fn drop_all(&self, digest: &Digest) -> Answer<()> {
        self.execute("DELETE FROM upload WHERE digest = $1", values![digest]).map(drop)
    }

    fn put_off(
        &self,
        to: &Destination,
        digests: &[Digest],
        state: UploadState,
        until: Timestamp,
    ) -> Answer<()> {
        let text = "UPDATE upload SET state = $4, next_at = $5 WHERE digest = ANY ($1) AND remote = $2 AND node = $3";
        self.to_all(text, digests, values![&to.remote, to.node, state.as_str(), until])
    }

    fn hold(&self, to: &Destination, holder: Uuid, digests: &[Digest]) -> Answer<()> {
        let text = "UPDATE upload SET holder = $4, state = 'uploading', attempts = attempts + 1 \
             WHERE digest = ANY ($1) AND remote = $2 AND node = $3";
        self.to_all(text, digests, values![&to.remote, to.node, holder])
    }

    fn give_back(&self, to: &Destination, holder: Uuid, digests: &[Digest]) -> Answer<()> {
        let text = "UPDATE upload SET holder = NULL, attempts = attempts - 1, \
                 state = CASE WHEN last_error IS NULL THEN 'waiting' ELSE 'failed' END \
             WHERE digest = ANY ($1) AND remote = $2 AND node = $3 AND holder = $4";
        self.to_all(text, digests, values![&to.remote, to.node, holder])
    }

    fn note_failure(
        &self,
        to: &Destination,
        holder: Uuid,
        failed: &Failed<'_>,
        now: Timestamp,
    ) -> Answer<()> {
        let text = "UPDATE upload SET holder = NULL, state = $5, last_error = $6, next_at = $7, failed_at = $8 \
             WHERE digest = $1 AND remote = $2 AND node = $3 AND holder = $4";
        let Failed { digest, state, error, next_at } = failed;
        let (state, next_at) = (state.as_str(), *next_at);
        let values = values![digest, &to.remote, to.node, holder, state, *error, next_at, now];
        self.execute(text, values).map(drop)
    }

    fn note_copies(&self, remote: &str, contents: &[NamedContent], now: Timestamp) -> Answer<()> {
        if contents.is_empty() {
            return Ok(());
        }
        let text = "INSERT INTO remote_copy (digest, remote, size, stored_at) \
             SELECT u.digest, $3, u.size, $4 FROM unnest($1, $2) AS u (digest, size) \
             ON CONFLICT (digest, remote) DO UPDATE SET size = excluded.size, stored_at = excluded.stored_at";
        let [digests, sizes] = sizes(contents.iter());
        self.execute(text, &[digests, sizes, remote.into(), now.into()]).map(drop)
    }

    fn forget_copies(&self, remote: &str, digests: &[Digest]) -> Answer<()> {
        let text = "DELETE FROM remote_copy WHERE digest = ANY ($1) AND remote = $2";
        self.to_all(text, digests, values![remote])
    }

    fn insert_removals(&self, remote: &str, digests: &[Digest], now: Timestamp) -> Answer<()> {
        let text = "INSERT INTO remote_removal (digest, remote, created_at, next_at) \
             SELECT u.digest, $2, $3, $3 FROM unnest($1) AS u (digest) ON CONFLICT DO NOTHING";
        self.to_all(text, digests, values![remote, now])
    }

    fn is_held(&self, digest: &Digest) -> Answer<bool> {
        let text = "SELECT 1 AS held FROM upload WHERE digest = $1 AND holder IS NOT NULL LIMIT 1";
        let held = self.session.collect(self.doing, text, values![digest], |_| Ok(()))?;
        Ok(!held.is_empty())
    }

    fn stored_in(&self, digest: &Digest) -> Answer<Vec<String>> {
        stored_in(self.session, digest)
    }

    fn unfill(&self, remote: &str) -> Answer<()> {
        self.execute("UPDATE node SET filled = FALSE WHERE remote = $1", values![remote]).map(drop)
    }
}
