//! Uploads in SQLite: queued with the rows that need them, taken, settled, and given up.

use super::{SqliteCatalog, integer, lock, sql};
use crate::model::digest::Digest;
use crate::storage::CatalogError;
use crate::storage::catalog::row::damaged;
use crate::storage::retention::NamedContent;
use crate::storage::upload::{
    Amount, Destination, GivenUp, QUARANTINE_PAUSE, QueueRow, Queued, REMOVAL_PAUSE, Sent,
    StoreRow, Upload, UploadState, Uploads, Whereabouts,
};
use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, Params, Row, Transaction, params};
use std::collections::BTreeMap;
use uuid::Uuid;

const DOING: &str = "keep the books of uploads";

fn execute(
    transaction: &Transaction,
    text: &str,
    parameters: impl Params,
) -> Result<usize, CatalogError> {
    let statement = transaction.prepare_cached(text);
    statement.and_then(|mut s| s.execute(parameters)).map_err(sql(DOING))
}

fn rows<T>(
    connection: &Connection,
    text: &str,
    parameters: impl Params,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>, CatalogError> {
    let mut statement = connection.prepare_cached(text).map_err(sql(DOING))?;
    let rows = statement.query_map(parameters, read);
    rows.and_then(Iterator::collect).map_err(sql(DOING))
}

fn one<T: rusqlite::types::FromSql>(
    connection: &Connection,
    text: &str,
    parameters: impl Params,
) -> Result<T, CatalogError> {
    let statement = connection.prepare_cached(text);
    statement.and_then(|mut s| s.query_row(parameters, |row| row.get(0))).map_err(sql(DOING))
}

fn digest(row: &Row<'_>) -> rusqlite::Result<Digest> {
    row.get(0).map(Digest::from_bytes)
}

fn named_content(row: &Row<'_>) -> rusqlite::Result<NamedContent> {
    Ok(NamedContent { digest: digest(row)?, size: row.get::<_, i64>(1)?.unsigned_abs() })
}

fn time(microseconds: i64) -> Result<Timestamp, CatalogError> {
    Timestamp::from_microsecond(microseconds).map_err(damaged)
}

fn state_of(text: &str) -> Result<UploadState, CatalogError> {
    UploadState::parse(text).ok_or_else(|| damaged(format!("an upload is in state {text:?}")))
}

/// Queues a content that a version just came to name, in that transaction.
pub(super) fn queue(
    transaction: &Transaction,
    to: &Destination,
    content: NamedContent,
    now: Timestamp,
) -> Result<usize, CatalogError> {
    execute(
        transaction,
        "INSERT INTO upload (digest, remote, node, size, created_at, next_at) SELECT ?1, ?2, ?3, ?4, ?5, ?5 \
         WHERE NOT EXISTS (SELECT 1 FROM remote_copy WHERE digest = ?1 AND remote = ?2) ON CONFLICT DO NOTHING",
        params![
            content.digest.as_bytes(),
            to.remote,
            to.node.as_bytes(),
            integer(content.size),
            now.as_microsecond()
        ],
    )
}

/// Whether a version names the content, and whether one of those is quarantined.
fn naming(connection: &Connection, digest: &Digest) -> Result<Option<bool>, CatalogError> {
    let text = "SELECT max(quarantined) FROM version WHERE digest = ? AND content_kept AND swept_at IS NULL";
    one(connection, text, [digest.as_bytes()])
}

fn begin_removal(
    transaction: &Transaction,
    digest: &Digest,
    remote: &str,
    now: Timestamp,
) -> Result<(), CatalogError> {
    let text = "DELETE FROM remote_copy WHERE digest = ? AND remote = ?";
    execute(transaction, text, params![digest.as_bytes(), remote])?;
    let text = "INSERT INTO remote_removal (digest, remote, created_at, next_at) VALUES (?1, ?2, ?3, ?3) ON CONFLICT DO NOTHING";
    execute(transaction, text, params![digest.as_bytes(), remote, now.as_microsecond()]).map(drop)
}

fn take(
    transaction: &Transaction,
    to: &Destination,
    holder: Uuid,
    now: Timestamp,
    limit: u32,
) -> Result<Vec<Upload>, CatalogError> {
    let due = due(transaction, to, now, limit)?;
    let mut taken = Vec::new();
    for upload in due {
        let key = params![upload.digest.as_bytes(), to.remote, to.node.as_bytes()];
        let removing: bool = one(
            transaction,
            "SELECT EXISTS (SELECT 1 FROM remote_removal WHERE digest = ? AND remote = ?)",
            params![upload.digest.as_bytes(), to.remote],
        )?;
        let put_off = |state: UploadState, pause: SignedDuration| {
            execute(
                transaction,
                "UPDATE upload SET state = ?4, next_at = ?5 WHERE digest = ?1 AND remote = ?2 AND node = ?3",
                params![
                    upload.digest.as_bytes(),
                    to.remote,
                    to.node.as_bytes(),
                    state.as_str(),
                    (now + pause).as_microsecond()
                ],
            )
        };
        match naming(transaction, &upload.digest)? {
            None => {
                let text = "DELETE FROM upload WHERE digest = ? AND remote = ? AND node = ?";
                execute(transaction, text, key)?;
            }
            Some(true) => {
                put_off(UploadState::Quarantined, QUARANTINE_PAUSE)?;
            }
            Some(false) if removing => {
                put_off(UploadState::Waiting, REMOVAL_PAUSE)?;
            }
            Some(false) => {
                execute(
                    transaction,
                    "UPDATE upload SET holder = ?4, state = 'uploading', attempts = attempts + 1 \
                     WHERE digest = ?1 AND remote = ?2 AND node = ?3",
                    params![
                        upload.digest.as_bytes(),
                        to.remote,
                        to.node.as_bytes(),
                        holder.as_bytes()
                    ],
                )?;
                taken.push(upload);
            }
        }
    }
    Ok(taken)
}

fn due(
    connection: &Connection,
    to: &Destination,
    now: Timestamp,
    limit: u32,
) -> Result<Vec<Upload>, CatalogError> {
    rows(
        connection,
        "SELECT digest, size, attempts FROM upload WHERE node = ? AND remote = ? AND holder IS NULL AND next_at <= ? \
         ORDER BY next_at LIMIT ?",
        params![to.node.as_bytes(), to.remote, now.as_microsecond(), limit],
        |row| {
            let NamedContent { digest, size } = named_content(row)?;
            Ok(Upload { digest, size, attempts: row.get(2)? })
        },
    )
}

fn settle(
    transaction: &Transaction,
    to: &Destination,
    holder: Uuid,
    (upload, sent): &(Upload, Sent),
    now: Timestamp,
) -> Result<(), CatalogError> {
    let digest = upload.digest.as_bytes();
    match sent {
        Sent::Done => {
            execute(
                transaction,
                "DELETE FROM upload WHERE digest = ? AND remote = ?",
                params![digest, to.remote],
            )?;
            if naming(transaction, &upload.digest)?.is_none() {
                // It was swept while it was sent.
                return begin_removal(transaction, &upload.digest, &to.remote, now);
            }
            execute(
                transaction,
                "INSERT INTO remote_copy (digest, remote, size, stored_at) VALUES (?, ?, ?, ?) \
                 ON CONFLICT (digest, remote) DO UPDATE SET size = excluded.size, stored_at = excluded.stored_at",
                params![digest, to.remote, integer(upload.size), now.as_microsecond()],
            )
        }
        Sent::Failed { state, error, next_at } => execute(
            transaction,
            "UPDATE upload SET holder = NULL, state = ?5, last_error = ?6, next_at = ?7, failed_at = ?8 \
             WHERE digest = ?1 AND remote = ?2 AND node = ?3 AND holder = ?4",
            params![
                digest,
                to.remote,
                to.node.as_bytes(),
                holder.as_bytes(),
                state.as_str(),
                error,
                next_at.as_microsecond(),
                now.as_microsecond()
            ],
        ),
        Sent::Untouched => execute(
            transaction,
            "UPDATE upload SET holder = NULL, attempts = attempts - 1, \
                 state = CASE WHEN last_error IS NULL THEN 'waiting' ELSE 'failed' END \
             WHERE digest = ?1 AND remote = ?2 AND node = ?3 AND holder = ?4",
            params![digest, to.remote, to.node.as_bytes(), holder.as_bytes()],
        ),
    }
    .map(drop)
}

fn give_up(
    transaction: &Transaction,
    digest: &Digest,
    also: Option<&str>,
    now: Timestamp,
) -> Result<GivenUp, CatalogError> {
    if naming(transaction, digest)?.is_some() {
        return Ok(GivenUp::Nothing);
    }
    let text = "SELECT count(*) FROM upload WHERE digest = ? AND holder IS NOT NULL";
    if one::<i64>(transaction, text, [digest.as_bytes()])? > 0 {
        return Ok(GivenUp::Busy);
    }
    execute(transaction, "DELETE FROM upload WHERE digest = ?", [digest.as_bytes()])?;
    let text = "SELECT remote FROM remote_copy WHERE digest = ?";
    let mut remotes: Vec<String> = rows(transaction, text, [digest.as_bytes()], |row| row.get(0))?;
    remotes.extend(also.map(str::to_owned).filter(|also| !remotes.contains(also)));
    for remote in &remotes {
        begin_removal(transaction, digest, remote, now)?;
    }
    Ok(if remotes.is_empty() { GivenUp::Nothing } else { GivenUp::Removing })
}

impl Uploads for SqliteCatalog {
    fn send_to(&self, destination: Destination) {
        // The first one stays.
        let _ = self.destination.set(destination);
    }

    fn note_node(&self, to: &Destination, now: Timestamp) -> Result<bool, CatalogError> {
        self.write(DOING, |tables| {
            let transaction = tables.transaction;
            execute(
                transaction,
                "INSERT INTO node (node, remote, place, seen_at) VALUES (?, ?, ?, ?) \
                 ON CONFLICT (node, remote) DO UPDATE SET place = excluded.place, seen_at = excluded.seen_at",
                params![to.node.as_bytes(), to.remote, to.place, now.as_microsecond()],
            )?;
            let text = "SELECT filled FROM node WHERE node = ? AND remote = ?";
            one(transaction, text, params![to.node.as_bytes(), to.remote])
        })
    }

    fn node_filled(&self, to: &Destination) -> Result<(), CatalogError> {
        self.write(DOING, |tables| {
            let transaction = tables.transaction;
            let text = "UPDATE node SET filled = 1 WHERE node = ? AND remote = ?";
            execute(transaction, text, params![to.node.as_bytes(), to.remote]).map(drop)
        })
    }

    fn queue(
        &self,
        to: &Destination,
        contents: &[NamedContent],
        now: Timestamp,
    ) -> Result<u64, CatalogError> {
        self.write(DOING, |tables| {
            let transaction = tables.transaction;
            let mut count = 0;
            for content in contents {
                if naming(transaction, &content.digest)?.is_some() {
                    count += queue(transaction, to, *content, now)? as u64;
                }
            }
            Ok(count)
        })
    }

    fn send_again(
        &self,
        to: &Destination,
        content: &NamedContent,
        has_local: bool,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        self.write(DOING, |tables| {
            let transaction = tables.transaction;
            let text = "DELETE FROM remote_copy WHERE digest = ? AND remote = ?";
            execute(transaction, text, params![content.digest.as_bytes(), to.remote])?;
            if !has_local {
                let text = "UPDATE node SET filled = 0 WHERE remote = ?";
                return execute(transaction, text, [&to.remote]).map(drop);
            }
            if naming(transaction, &content.digest)?.is_some() {
                queue(transaction, to, *content, now)?;
            }
            Ok(())
        })
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
        self.write(DOING, |tables| take(tables.transaction, to, holder, now, limit))
    }

    fn settle(
        &self,
        to: &Destination,
        holder: Uuid,
        outcomes: &[(Upload, Sent)],
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        self.write(DOING, |tables| {
            let transaction = tables.transaction;
            outcomes.iter().try_for_each(|outcome| settle(transaction, to, holder, outcome, now))
        })
    }

    fn holders(&self, to: &Destination) -> Result<Vec<Uuid>, CatalogError> {
        rows(
            &lock(&self.reader),
            "SELECT DISTINCT holder FROM upload WHERE node = ? AND remote = ? AND holder IS NOT NULL",
            params![to.node.as_bytes(), to.remote],
            |row| row.get(0).map(Uuid::from_bytes),
        )
    }

    fn let_go(&self, to: &Destination, holder: Uuid) -> Result<(), CatalogError> {
        self.write(DOING, |tables| {
            let transaction = tables.transaction;
            let text = "UPDATE upload SET holder = NULL, state = CASE WHEN last_error IS NULL THEN 'waiting' ELSE 'failed' END \
                 WHERE node = ? AND remote = ? AND holder = ?";
            let parameters = params![to.node.as_bytes(), to.remote, holder.as_bytes()];
            execute(transaction, text, parameters).map(drop)
        })
    }

    fn hurry(&self, to: &Destination, now: Timestamp) -> Result<(), CatalogError> {
        self.write(DOING, |tables| {
            let transaction = tables.transaction;
            let text = "UPDATE upload SET next_at = ?3 WHERE node = ?1 AND remote = ?2 AND holder IS NULL AND next_at > ?3";
            let parameters = params![to.node.as_bytes(), to.remote, now.as_microsecond()];
            execute(transaction, text, parameters).map(drop)
        })
    }

    fn whereabouts(&self, digest: &Digest) -> Result<Whereabouts, CatalogError> {
        let reader = lock(&self.reader);
        let text = "SELECT remote FROM remote_copy WHERE digest = ? ORDER BY remote";
        let stored_in = rows(&reader, text, [digest.as_bytes()], |row| row.get(0))?;
        let queued = rows(
            &reader,
            "SELECT u.node, coalesce(n.place, ''), u.remote, u.state, u.last_error FROM upload u \
             LEFT JOIN node n ON n.node = u.node AND n.remote = u.remote WHERE u.digest = ? ORDER BY u.remote, u.node",
            [digest.as_bytes()],
            |row| {
                let state: String = row.get(3)?;
                let queued = Queued {
                    node: Uuid::from_bytes(row.get(0)?),
                    place: row.get(1)?,
                    remote: row.get(2)?,
                    state: UploadState::Waiting,
                    last_error: row.get(4)?,
                };
                Ok((queued, state))
            },
        )?;
        let with_state = |(queued, state): (Queued, String)| {
            Ok::<_, CatalogError>(Queued { state: state_of(&state)?, ..queued })
        };
        let queued = queued.into_iter().map(with_state).collect::<Result<_, _>>()?;
        Ok(Whereabouts { stored_in, queued })
    }

    fn queued_until(&self, to: &Destination, until: Timestamp) -> Result<u64, CatalogError> {
        let text = "SELECT count(*) FROM upload WHERE node = ? AND remote = ? AND created_at <= ? AND state <> 'quarantined'";
        let parameters = params![to.node.as_bytes(), to.remote, until.as_microsecond()];
        Ok(one::<i64>(&lock(&self.reader), text, parameters)?.unsigned_abs())
    }

    fn queues(&self) -> Result<Vec<QueueRow>, CatalogError> {
        let reader = lock(&self.reader);
        let text = "SELECT node, remote, place, seen_at, \
                 (SELECT last_error FROM upload u WHERE u.node = n.node AND u.remote = n.remote AND u.last_error IS NOT NULL \
                  ORDER BY u.failed_at DESC LIMIT 1) FROM node n ORDER BY node, remote";
        let nodes = rows(&reader, text, [], |row| {
            let node = Uuid::from_bytes(row.get(0)?);
            let (remote, place, seen): (String, String, i64) =
                (row.get(1)?, row.get(2)?, row.get(3)?);
            Ok((node, remote, place, seen, row.get::<_, Option<String>>(4)?))
        })?;
        let text = "SELECT node, remote, state, count(*), sum(size), min(created_at) FROM upload GROUP BY node, remote, state";
        let counted = rows(&reader, text, [], |row| {
            let key = (Uuid::from_bytes(row.get(0)?), row.get::<_, String>(1)?);
            let count = |at| row.get::<_, i64>(at).map(i64::unsigned_abs);
            let amount = Amount { contents: count(3)?, bytes: count(4)? };
            Ok((key, row.get::<_, String>(2)?, amount, row.get::<_, i64>(5)?))
        })?;
        let mut amounts: BTreeMap<(Uuid, String), Vec<_>> = BTreeMap::new();
        for (key, state, amount, oldest) in counted {
            amounts.entry(key).or_default().push((state_of(&state)?, amount, oldest));
        }
        let row = |(node, remote, place, seen, last_error)| {
            let of_node = amounts.remove(&(node, String::clone(&remote))).unwrap_or_default();
            let oldest = of_node.iter().map(|(_, _, oldest)| *oldest).min();
            let mut amounts: Vec<_> = of_node.into_iter().map(|(s, a, _)| (s, a)).collect();
            amounts.sort_unstable_by_key(|(state, _)| *state);
            Ok(QueueRow {
                node,
                place,
                remote,
                seen_at: time(seen)?,
                amounts,
                oldest_at: oldest.map(time).transpose()?,
                last_error,
            })
        };
        nodes.into_iter().map(row).collect()
    }

    fn stores(&self) -> Result<Vec<StoreRow>, CatalogError> {
        let reader = lock(&self.reader);
        let text = "SELECT remote, sum(n), sum(bytes), sum(removals) FROM ( \
                 SELECT remote, count(*) AS n, coalesce(sum(size), 0) AS bytes, 0 AS removals FROM remote_copy GROUP BY remote \
                 UNION ALL SELECT remote, 0, 0, count(*) FROM remote_removal GROUP BY remote) GROUP BY remote ORDER BY remote";
        rows(&reader, text, [], |row| {
            let count = |at| row.get::<_, i64>(at).map(i64::unsigned_abs);
            let stored = Amount { contents: count(1)?, bytes: count(2)? };
            Ok(StoreRow { remote: row.get(0)?, stored, removals: count(3)? })
        })
    }

    fn stored(
        &self,
        remote: &str,
        first: u8,
        after: Option<Digest>,
        limit: u32,
    ) -> Result<Vec<NamedContent>, CatalogError> {
        // Bytes are compared from the left, so that a prefix stands before all that begins with it.
        let after = after.map_or(vec![first], |digest| digest.as_bytes().to_vec());
        let end = [&[first][..], &[0xff; 32]].concat();
        rows(
            &lock(&self.reader),
            "SELECT digest, size FROM remote_copy WHERE digest > ? AND digest < ? AND remote = ? ORDER BY digest LIMIT ?",
            params![after, end, remote, limit],
            named_content,
        )
    }

    fn unnamed(&self, digests: &[Digest]) -> Result<Vec<Digest>, CatalogError> {
        let reader = lock(&self.reader);
        let mut unnamed = Vec::new();
        for digest in digests {
            let text = "SELECT EXISTS (SELECT 1 FROM upload WHERE digest = ?)";
            let queued: bool = one(&reader, text, [digest.as_bytes()])?;
            if !queued && naming(&reader, digest)?.is_none() {
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
        if naming(&lock(&self.reader), digest)?.is_some() {
            return Ok(GivenUp::Nothing);
        }
        self.write(DOING, |tables| give_up(tables.transaction, digest, also, now))
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
            rows(connection, text, params![remote, now.as_microsecond(), limit], digest)
        };
        if due(&lock(&self.reader))?.is_empty() {
            return Ok(Vec::new());
        }
        self.write(DOING, |tables| {
            let transaction = tables.transaction;
            let taken = due(transaction)?;
            for digest in &taken {
                let text = "UPDATE remote_removal SET next_at = ? WHERE remote = ? AND digest = ?";
                let parameters = params![until.as_microsecond(), remote, digest.as_bytes()];
                execute(transaction, text, parameters)?;
            }
            Ok(taken)
        })
    }

    fn removed(&self, remote: &str, digest: &Digest) -> Result<(), CatalogError> {
        self.write(DOING, |tables| {
            let transaction = tables.transaction;
            let text = "DELETE FROM remote_removal WHERE remote = ? AND digest = ?";
            execute(transaction, text, params![remote, digest.as_bytes()]).map(drop)
        })
    }
}
