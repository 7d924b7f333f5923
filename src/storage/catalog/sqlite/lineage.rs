//! The questions in SQLite of which the ways between versions and inputs consist.

use super::integer;
use super::row::{COLUMNS, collect, select};
use crate::model::digest::Digest;
use crate::model::id::RunId;
use crate::storage::catalog::lineage::{Start, Ways};
use crate::storage::catalog::row;
use crate::storage::catalog::tables::{Answer, Stored};
use crate::storage::lineage::{Input, InputBounds, VersionKey};
use rusqlite::{Connection, params};

const DOING: &str = "read what a version was made from";

const INPUT: &str = "SELECT number, owner_uid, mount, path, host_path, size, modified_at, digest, reason, opened_at, run FROM input";

/// A connection that is asked about lineage.
pub(super) struct Lineage<'a>(pub &'a Connection);

impl Ways for Lineage<'_> {
    fn start(&self, (id, number): VersionKey) -> Answer<Option<Start>> {
        let text = "SELECT v.pk, v.run, v.owner_uid, a.host_path, v.digest \
             FROM artifact a JOIN version v ON v.artifact = a.pk WHERE a.id = ? AND v.number = ?";
        let id = id.as_uuid();
        let parameters = params![id.as_bytes(), integer(number)];
        Ok(collect(self.0, DOING, text, parameters, |row| row::start(row))?.pop())
    }

    fn producers(&self, version: i64) -> Answer<Vec<(RunId, Option<InputBounds>)>> {
        let text = "SELECT run, inputs_before, inputs_until FROM produced WHERE version = ? ORDER BY run LIMIT 100";
        collect(self.0, DOING, text, [version], |row| row::production(row))
    }

    fn inputs_of(&self, run: RunId, until: u64, limit: u32) -> Answer<Vec<Input>> {
        let text = format!("{INPUT} WHERE run = ? AND number <= ? ORDER BY number LIMIT ?");
        let run = run.as_uuid();
        let parameters = params![run.as_bytes(), integer(until), limit];
        collect(self.0, DOING, &text, parameters, |row| row::input(row))
    }

    fn inputs_like(
        &self,
        owner: u32,
        host_path: &[u8],
        digest: &Digest,
        limit: u32,
    ) -> Answer<Vec<Input>> {
        let text = format!(
            "{INPUT} WHERE digest = ? AND owner_uid = ? AND host_path = ? ORDER BY run, number LIMIT ?"
        );
        let parameters = params![digest.as_bytes(), owner, host_path, limit];
        collect(self.0, DOING, &text, parameters, |row| row::input(row))
    }

    fn recognise(&self, inputs: &[Input]) -> Answer<Vec<Option<VersionKey>>> {
        let text = "SELECT a.id, v.number FROM artifact a JOIN version v ON v.artifact = a.pk \
             WHERE a.owner_uid = ?1 AND a.host_path = ?2 AND v.digest = ?3 \
             ORDER BY v.created_at <= ?4 DESC, abs(v.created_at - ?4), v.number DESC LIMIT 1";
        let one = |input: &Input| {
            let (Some(place), Some(digest)) = (&input.place, &input.digest) else {
                return Ok(None);
            };
            let parameters = params![
                input.owner_uid,
                place.host_path,
                digest.as_bytes(),
                input.opened_at.as_microsecond()
            ];
            Ok(collect(self.0, DOING, text, parameters, |row| row::key(row))?.pop())
        };
        inputs.iter().map(one).collect()
    }

    fn made_after(
        &self,
        run: RunId,
        input: u64,
        while_open: bool,
        limit: u32,
    ) -> Answer<Vec<Stored>> {
        let text = format!(
            "SELECT {COLUMNS} FROM produced p JOIN version v ON v.pk = p.version JOIN artifact a ON a.pk = v.artifact \
             WHERE p.run = ?1 AND p.inputs_until >= ?2 AND (p.inputs_before >= ?2) = ?3 ORDER BY v.pk LIMIT ?4"
        );
        let run = run.as_uuid();
        select(self.0, DOING, &text, params![run.as_bytes(), integer(input), !while_open, limit])
    }
}
