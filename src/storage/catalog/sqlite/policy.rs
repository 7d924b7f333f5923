//! Policies in SQLite: their rows, and whose turn it is.

use super::retention::{json, time, to_json, word};
use super::sql;
use crate::model::cleanup::Criteria;
use crate::model::id::PolicyName;
use crate::storage::CatalogError;
use crate::storage::retention::{LastRun, PolicyRow};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use uuid::Uuid;

pub(super) const DOING: &str = "keep a clean-up policy";

pub(super) fn select(
    connection: &Connection,
    rest: &str,
    parameters: impl rusqlite::Params,
) -> Result<Vec<PolicyRow>, CatalogError> {
    let text =
        format!("SELECT owner_uid, name, criteria, every, next_at, runs, last FROM policy {rest}");
    let mut statement = connection.prepare_cached(&text).map_err(sql(DOING))?;
    let mut rows = statement.query(parameters).map_err(sql(DOING))?;
    let mut policies = Vec::new();
    while let Some(row) = rows.next().map_err(sql(DOING))? {
        let text = |at: usize| row.get::<_, String>(at).map_err(sql(DOING));
        let number = |at: usize| row.get::<_, i64>(at).map_err(sql(DOING));
        let last: Option<String> = row.get(6).map_err(sql(DOING))?;
        policies.push(PolicyRow {
            owner: row.get(0).map_err(sql(DOING))?,
            name: word(&text(1)?)?,
            criteria: json(&text(2)?)?,
            every_ms: number(3)?.unsigned_abs(),
            next_at: time(number(4)?)?,
            runs: number(5)?.unsigned_abs(),
            last: last.map(|text| json::<LastRun>(&text)).transpose()?,
        });
    }
    Ok(policies)
}

pub(super) fn set(
    transaction: &Transaction,
    owner: Option<u32>,
    name: &PolicyName,
    criteria: &Criteria,
    every_ms: u64,
    next_at: Timestamp,
) -> Result<PolicyRow, CatalogError> {
    // A daemon that is at it goes on by what it has read, and its end does not move the next run that is set here far away.
    transaction
        .execute(
            "INSERT INTO policy (owner_uid, name, criteria, every, next_at) VALUES (?1, ?2, ?3, ?4, ?5) \
             ON CONFLICT (coalesce(owner_uid, -1), name) DO UPDATE \
             SET criteria = excluded.criteria, every = excluded.every, next_at = excluded.next_at",
            params![
                owner,
                name.as_str(),
                to_json(criteria),
                super::integer(every_ms),
                next_at.as_microsecond()
            ],
        )
        .map_err(sql(DOING))?;
    let rest = "WHERE owner_uid IS ?1 AND name = ?2";
    let mut set = select(transaction, rest, params![owner, name.as_str()])?;
    Ok(set.pop().expect("the row was written in this transaction"))
}

/// The key of the policy that is due for longest, unless any is in somebody's hands.
pub(super) fn due(connection: &Connection, now: Timestamp) -> Result<Option<i64>, CatalogError> {
    let text = "SELECT pk FROM policy WHERE next_at <= ?1 \
         AND NOT EXISTS (SELECT 1 FROM policy WHERE lease_until > ?1) ORDER BY next_at LIMIT 1";
    let found = connection
        .prepare_cached(text)
        .and_then(|mut s| s.query_row([now.as_microsecond()], |row| row.get(0)).optional());
    found.map_err(sql(DOING))
}

pub(super) fn claim(
    transaction: &Transaction,
    holder: Uuid,
    now: Timestamp,
    until: Timestamp,
) -> Result<Option<PolicyRow>, CatalogError> {
    let Some(pk) = due(transaction, now)? else { return Ok(None) };
    // A lease that ran out, and what its holder may still say, is void.
    let text = "UPDATE policy SET holder = CASE WHEN pk = ?1 THEN ?2 END, lease_until = CASE WHEN pk = ?1 THEN ?3 END";
    let parameters = params![pk, holder.as_bytes(), until.as_microsecond()];
    transaction.execute(text, parameters).map_err(sql(DOING))?;
    Ok(select(transaction, "WHERE pk = ?", [pk])?.pop())
}
