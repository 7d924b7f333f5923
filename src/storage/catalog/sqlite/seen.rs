//! What registered files looked like when they were registered last.

use super::integer;
use crate::storage::{LastSeen, Stamp};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

/// A stamp as an artifact's columns; nothing where it was not noted.
pub(super) struct Seen {
    pub inode: Option<i64>,
    pub size: Option<i64>,
    pub mtime: Option<i64>,
    pub ctime: Option<i64>,
}

/// Inode numbers use all 64 bits, and SQLite's integers are signed: the bits are kept, not the number.
pub(super) fn columns(stamp: Option<&Stamp>) -> Seen {
    Seen {
        inode: stamp.map(|stamp| stamp.inode.cast_signed()),
        size: stamp.map(|stamp| integer(stamp.size)),
        mtime: stamp.map(|stamp| stamp.mtime_ns),
        ctime: stamp.map(|stamp| stamp.ctime_ns),
    }
}

pub(super) fn note(
    transaction: &Transaction,
    artifact: i64,
    stamp: Option<&Stamp>,
) -> rusqlite::Result<()> {
    let seen = columns(stamp);
    transaction
        .prepare_cached(
            "UPDATE artifact SET seen_inode = ?, seen_size = ?, seen_mtime = ?, seen_ctime = ? WHERE pk = ?",
        )?
        .execute(params![
            seen.inode,
            seen.size,
            seen.mtime,
            seen.ctime,
            artifact
        ])
        .map(drop)
}

pub(super) fn last_seen(
    connection: &Connection,
    owner_uid: u32,
    host_path: &[u8],
) -> rusqlite::Result<LastSeen> {
    let mut statement = connection.prepare_cached(
        "SELECT seen_inode, seen_size, seen_mtime, seen_ctime FROM artifact WHERE owner_uid = ? AND host_path = ?",
    )?;
    let found = statement.query_row(params![owner_uid, host_path], |row| {
        let stamp = match (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?) {
            (Some(inode), Some(size), Some(mtime_ns), Some(ctime_ns)) => Some(Stamp {
                inode: i64::cast_unsigned(inode),
                size: i64::cast_unsigned(size),
                mtime_ns,
                ctime_ns,
            }),
            _ => None,
        };
        Ok(stamp.map_or(LastSeen::Unnoted, LastSeen::As))
    });
    Ok(found.optional()?.unwrap_or(LastSeen::Never))
}
