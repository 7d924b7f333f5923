//! What registered files looked like when they were registered last.

use super::integer;
use super::row::collect;
use crate::storage::catalog::row;
use crate::storage::catalog::tables::Answer;
use crate::storage::{LastSeen, Stamp};
use rusqlite::{Connection, Transaction, params};

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
) -> Answer<LastSeen> {
    let text = "SELECT seen_inode, seen_size, seen_mtime, seen_ctime FROM artifact WHERE owner_uid = ? AND host_path = ?";
    let parameters = params![owner_uid, host_path];
    let found = collect(connection, "look up files", text, parameters, |row| row::seen(row))?.pop();
    Ok(found.unwrap_or(LastSeen::Never))
}
