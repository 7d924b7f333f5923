//! The questions in PostgreSQL of which the ways between versions and inputs consist.

use super::row::{COLUMNS, select};
use super::session::Session;
use super::statement::{Value, values};
use crate::model::digest::Digest;
use crate::model::id::RunId;
use crate::storage::catalog::lineage::{Start, Ways};
use crate::storage::catalog::row;
use crate::storage::catalog::tables::{Answer, Stored};
use crate::storage::lineage::{Input, InputBounds, VersionKey};
use std::collections::HashMap;

const DOING: &str = "read what a version was made from";

const INPUT: &str = "SELECT number, owner_uid, mount, path, host_path, size, modified_at, digest, reason, opened_at, run FROM input";

/// A session that is asked about lineage.
pub(super) struct Lineage<'a>(pub &'a Session);

impl Ways for Lineage<'_> {
    fn start(&self, (id, number): VersionKey) -> Answer<Option<Start>> {
        let text = "SELECT v.pk, v.run, v.owner_uid, a.host_path, v.digest \
             FROM artifact a JOIN version v ON v.artifact = a.pk WHERE a.id = $1 AND v.number = $2";
        let values = values![id.as_uuid(), number];
        Ok(self.0.collect(DOING, text, values, |row| row::start(row))?.pop())
    }

    fn producers(&self, version: i64) -> Answer<Vec<(RunId, Option<InputBounds>)>> {
        let text = "SELECT run, inputs_before, inputs_until FROM produced WHERE version = $1 ORDER BY run LIMIT 100";
        self.0.collect(DOING, text, values![version], |row| row::production(row))
    }

    fn inputs_of(&self, run: RunId, until: u64, limit: u32) -> Answer<Vec<Input>> {
        let text = format!("{INPUT} WHERE run = $1 AND number <= $2 ORDER BY number LIMIT $3");
        let values = values![run.as_uuid(), until, limit];
        self.0.collect(DOING, &text, values, |row| row::input(row))
    }

    fn inputs_like(
        &self,
        owner: u32,
        host_path: &[u8],
        digest: &Digest,
        limit: u32,
    ) -> Answer<Vec<Input>> {
        let text = format!(
            "{INPUT} WHERE digest = $1 AND owner_uid = $2 AND host_path = $3 ORDER BY run, number LIMIT $4"
        );
        let values = values![digest, owner, host_path, limit];
        self.0.collect(DOING, &text, values, |row| row::input(row))
    }

    fn recognise(&self, inputs: &[Input]) -> Answer<Vec<Option<VersionKey>>> {
        let text = "SELECT u.position, found.id, found.number \
             FROM unnest($1, $2, $3, $4) WITH ORDINALITY AS u (owner_uid, host_path, digest, opened_at, position) \
             CROSS JOIN LATERAL (SELECT a.id, v.number FROM artifact a JOIN version v ON v.artifact = a.pk \
                 WHERE a.owner_uid = u.owner_uid AND sha256(a.host_path) = sha256(u.host_path) \
                     AND a.host_path = u.host_path AND v.digest = u.digest \
                 ORDER BY v.created_at <= u.opened_at DESC, abs(v.created_at - u.opened_at), v.number DESC LIMIT 1) found";
        let places = inputs.iter().map(|input| input.place.as_ref().map(|p| p.host_path.clone()));
        let digests = inputs.iter().map(|input| input.digest.map(|d| d.as_bytes().to_vec()));
        let times = inputs.iter().map(|input| Some(input.opened_at.as_microsecond()));
        let values = [
            Value::Integers(inputs.iter().map(|input| Some(input.owner_uid.into())).collect()),
            Value::ManyBytes(places.collect()),
            Value::ManyBytes(digests.collect()),
            Value::Integers(times.collect()),
        ];
        let found = self.0.collect(DOING, text, &values, |row| {
            Ok((row::integer(row, "position")?, row::key(row)?))
        })?;
        let found: HashMap<i64, VersionKey> = found.into_iter().collect();
        Ok((1..).zip(inputs).map(|(position, _)| found.get(&position).copied()).collect())
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
             WHERE p.run = $1 AND p.inputs_until >= $2 AND (p.inputs_before >= $2) = $3 ORDER BY v.pk LIMIT $4"
        );
        select(self.0, DOING, &text, values![run.as_uuid(), input, !while_open, limit])
    }
}
