//! Clean-up plans and policies in SQLite, in a transaction of the caller.

use super::integer;
use super::row::{collect, find};
use super::write::Writing;
use crate::model::cleanup::{Criteria, PlanState};
use crate::model::id::{PlanId, PolicyName};
use crate::storage::Which;
use crate::storage::catalog::row::{self, damaged, to_json};
use crate::storage::catalog::tables::{Answer, OpenItem, Plans};
use crate::storage::retention::{LastRun, NewPlan, PLANS_KEPT, PolicyRow};
use jiff::Timestamp;
use rusqlite::{Connection, params};
use uuid::Uuid;

pub(super) const POLICIES: &str = "keep a clean-up policy";

/// Policies, by what follows the names of their columns.
pub(super) fn policies(
    connection: &Connection,
    rest: &str,
    parameters: impl rusqlite::Params,
) -> Answer<Vec<PolicyRow>> {
    let text =
        format!("SELECT owner_uid, name, criteria, every, next_at, runs, last FROM policy {rest}");
    collect(connection, POLICIES, &text, parameters, |row| row::policy(row))
}

/// The key of the policy that is due for longest, unless any is in somebody's hands.
pub(super) fn due(connection: &Connection, now: Timestamp) -> Answer<Option<i64>> {
    let text = "SELECT pk FROM policy WHERE next_at <= ?1 \
         AND NOT EXISTS (SELECT 1 FROM policy WHERE lease_until > ?1) ORDER BY next_at LIMIT 1";
    super::row::value(connection, POLICIES, text, [now.as_microsecond()])
}

impl Plans for Writing<'_> {
    fn insert_plan(&self, id: PlanId, plan: &NewPlan) -> Answer<()> {
        self.execute(
            "INSERT INTO plan (id, owner_uid, policy, criteria, state, more, bytes, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            params![
                id.as_uuid().as_bytes(),
                plan.owner,
                plan.policy.as_ref().map(PolicyName::as_str),
                to_json(&plan.criteria),
                PlanState::Planned.as_str(),
                plan.more,
                integer(plan.bytes),
                plan.at.as_microsecond()
            ],
        )?;
        let key = self.transaction.last_insert_rowid();
        for (position, item) in (0i64..).zip(&plan.items) {
            let which = Which::Number(item.number);
            let (version, _) = find(self.transaction, Some(plan.owner), item.id, which)?
                .ok_or_else(|| damaged(format!("version {} is gone", item.number)))?;
            self.execute(
                "INSERT INTO plan_item (plan, position, version, action, reason, seen) VALUES (?, ?, ?, ?, ?, ?)",
                params![key, position, version, item.action.as_str(), item.reason, to_json(&item.seen)],
            )?;
        }
        let old = "SELECT pk FROM plan WHERE owner_uid = ?1 AND state <> 'APPLYING' AND pk <= \
             (SELECT pk FROM plan WHERE owner_uid = ?1 ORDER BY pk DESC LIMIT 1 OFFSET ?2)";
        let parameters = params![plan.owner, PLANS_KEPT];
        self.execute(&format!("DELETE FROM plan_item WHERE plan IN ({old})"), parameters)?;
        self.execute(&format!("DELETE FROM plan WHERE pk IN ({old})"), parameters).map(drop)
    }

    fn plan_state(&self, owner: Option<u32>, id: PlanId) -> Answer<Option<(i64, PlanState)>> {
        let text = "SELECT pk, state FROM plan WHERE id = ?1 AND (?2 IS NULL OR owner_uid = ?2)";
        let id = id.as_uuid();
        let parameters = params![id.as_bytes(), owner];
        let read = |columns: &super::row::SqliteRow<'_>| {
            Ok((row::integer(columns, "pk")?, row::word(columns, "state")?))
        };
        Ok(collect(self.transaction, self.doing, text, parameters, read)?.pop())
    }

    fn open_items(&self, plan: i64, limit: u32) -> Answer<Vec<OpenItem>> {
        let text = "SELECT position, version, action, reason, seen FROM plan_item \
             WHERE plan = ? AND outcome IS NULL ORDER BY position LIMIT ?";
        let parameters = params![plan, limit];
        collect(self.transaction, self.doing, text, parameters, |row| row::open_item(row))
    }

    fn count_open_items(&self, plan: i64) -> Answer<u64> {
        let text = "SELECT count(*) FROM plan_item WHERE plan = ? AND outcome IS NULL";
        Ok(self.value::<i64>(text, [plan])?.unwrap_or(0).unsigned_abs())
    }

    fn end_item(&self, plan: i64, position: i64, why: Option<&str>) -> Answer<()> {
        self.execute(
            "UPDATE plan_item SET outcome = CASE WHEN ?1 IS NULL THEN 'done' ELSE 'skipped' END, why = ?1 \
             WHERE plan = ?2 AND position = ?3",
            params![why, plan, position],
        )
        .map(drop)
    }

    fn set_plan_state(
        &self,
        plan: i64,
        state: PlanState,
        applied_at: Option<Timestamp>,
    ) -> Answer<()> {
        self.execute(
            "UPDATE plan SET state = ?1, applied_at = ?2 WHERE pk = ?3",
            params![state.as_str(), applied_at.map(Timestamp::as_microsecond), plan],
        )
        .map(drop)
    }

    fn set_policy(
        &self,
        owner: Option<u32>,
        name: &PolicyName,
        criteria: &Criteria,
        every_ms: u64,
        next_at: Timestamp,
    ) -> Answer<()> {
        // A daemon that is at it goes on by what it has read, and its end does not move the next run that is set here far
        // away.
        self.execute(
            "INSERT INTO policy (owner_uid, name, criteria, every, next_at) VALUES (?1, ?2, ?3, ?4, ?5) \
             ON CONFLICT (coalesce(owner_uid, -1), name) DO UPDATE \
             SET criteria = excluded.criteria, every = excluded.every, next_at = excluded.next_at",
            params![
                owner,
                name.as_str(),
                to_json(criteria),
                integer(every_ms),
                next_at.as_microsecond()
            ],
        )
        .map(drop)
    }

    fn policy(&self, owner: Option<u32>, name: &PolicyName) -> Answer<Option<PolicyRow>> {
        let rest = "WHERE owner_uid IS ?1 AND name = ?2";
        Ok(policies(self.transaction, rest, params![owner, name.as_str()])?.pop())
    }

    fn remove_policy(&self, owner: Option<u32>, name: &PolicyName) -> Answer<bool> {
        let text = "DELETE FROM policy WHERE owner_uid IS ? AND name = ?";
        Ok(self.execute(text, params![owner, name.as_str()])? > 0)
    }

    fn claim_policy(
        &self,
        holder: Uuid,
        now: Timestamp,
        until: Timestamp,
    ) -> Answer<Option<PolicyRow>> {
        let Some(pk) = due(self.transaction, now)? else { return Ok(None) };
        // A lease that ran out, and what its holder may still say, is void.
        self.execute(
            "UPDATE policy SET holder = CASE WHEN pk = ?1 THEN ?2 END, lease_until = CASE WHEN pk = ?1 THEN ?3 END",
            params![pk, holder.as_bytes(), until.as_microsecond()],
        )?;
        Ok(policies(self.transaction, "WHERE pk = ?", [pk])?.pop())
    }

    fn renew_claim(&self, holder: Uuid, now: Timestamp, until: Timestamp) -> Answer<bool> {
        let text = "UPDATE policy SET lease_until = ? WHERE holder = ? AND lease_until > ?";
        let parameters = params![until.as_microsecond(), holder.as_bytes(), now.as_microsecond()];
        Ok(self.execute(text, parameters)? > 0)
    }

    fn end_claim(&self, holder: Uuid, last: &LastRun, now: Timestamp) -> Answer<()> {
        let text = "UPDATE policy SET holder = NULL, lease_until = NULL, runs = runs + 1, last = ?, \
             next_at = ? + every * 1000 WHERE holder = ?";
        let parameters = params![to_json(last), now.as_microsecond(), holder.as_bytes()];
        self.execute(text, parameters).map(drop)
    }
}
