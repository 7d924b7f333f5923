//! Clean-up plans and policies in PostgreSQL, in a transaction of the caller.

use super::session::Session;
use super::statement::{Value, integer, values};
use super::text::escape;
use super::write::Writing;
use crate::model::cleanup::{Criteria, PlanState};
use crate::model::id::{PlanId, PolicyName};
use crate::storage::catalog::row::{self, damaged, to_json};
use crate::storage::catalog::tables::{Answer, OpenItem, Plans};
use crate::storage::retention::{LastRun, NewItem, NewPlan, PLANS_KEPT, PolicyRow};
use jiff::Timestamp;
use uuid::Uuid;

pub(super) const POLICIES: &str = "keep a clean-up policy";

/// Policies, by what follows the names of their columns.
pub(super) fn policies(session: &Session, rest: &str, values: &[Value]) -> Answer<Vec<PolicyRow>> {
    let text =
        format!("SELECT owner_uid, name, criteria, every, next_at, runs, last FROM policy {rest}");
    session.collect(POLICIES, &text, values, |row| row::policy(row))
}

/// The key of the policy that is due for longest, unless any is in somebody's hands.
pub(super) fn due(session: &Session, now: Timestamp) -> Answer<Option<i64>> {
    let text = "SELECT pk FROM policy WHERE next_at <= $1 \
         AND NOT EXISTS (SELECT 1 FROM policy WHERE lease_until > $1) ORDER BY next_at LIMIT 1";
    Ok(session.collect(POLICIES, text, values![now], |row| row::integer(row, "pk"))?.pop())
}

impl Plans for Writing<'_> {
    fn insert_plan(&self, id: PlanId, plan: &NewPlan) -> Answer<()> {
        self.execute(
            "INSERT INTO plan (id, owner_uid, policy, criteria, state, more, bytes, created_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            values![
                id.as_uuid(),
                plan.owner,
                plan.policy.as_ref().map(PolicyName::as_str),
                &to_json(&plan.criteria),
                PlanState::Planned.as_str(),
                plan.more,
                plan.bytes,
                plan.at
            ],
        )?;
        let many = |of: fn(&NewItem) -> String| {
            let texts = plan.items.iter().map(|item| Some(escape(&of(item)).into_owned()));
            Value::Texts(texts.collect())
        };
        let inserted = self.execute(
            "INSERT INTO plan_item (plan, position, version, action, reason, seen) \
             SELECT p.pk, u.position - 1, v.pk, u.action, u.reason, u.seen FROM plan p, unnest($3, $4, $5, $6, $7) \
                 WITH ORDINALITY AS u (id, number, action, reason, seen, position) \
             JOIN artifact a ON a.id = u.id AND a.owner_uid = $2 JOIN version v ON v.artifact = a.pk AND v.number = u.number \
             WHERE p.id = $1",
            &[
                Value::from(id.as_uuid()),
                Value::from(plan.owner),
                Value::Uuids(plan.items.iter().map(|item| Some(item.id.as_uuid())).collect()),
                Value::Integers(plan.items.iter().map(|i| Some(integer(i.number))).collect()),
                many(|item| item.action.as_str().to_owned()),
                many(|item| item.reason.clone()),
                many(|item| to_json(&item.seen)),
            ],
        )?;
        if inserted != plan.items.len() as u64 {
            return Err(damaged("a version that was to be planned is gone"));
        }
        let old = "SELECT pk FROM plan WHERE owner_uid = $1 AND state <> 'APPLYING' AND pk <= \
             (SELECT pk FROM plan WHERE owner_uid = $1 ORDER BY pk DESC LIMIT 1 OFFSET $2)";
        let values = values![plan.owner, PLANS_KEPT];
        self.execute(&format!("DELETE FROM plan_item WHERE plan IN ({old})"), values)?;
        self.execute(&format!("DELETE FROM plan WHERE pk IN ({old})"), values).map(drop)
    }

    fn plan_state(&self, owner: Option<u32>, id: PlanId) -> Answer<Option<(i64, PlanState)>> {
        let text = "SELECT pk, state FROM plan WHERE id = $1 AND ($2 IS NULL OR owner_uid = $2)";
        let found = self.session.collect(self.doing, text, values![id.as_uuid(), owner], |row| {
            Ok((row::integer(row, "pk")?, row::word(row, "state")?))
        });
        Ok(found?.pop())
    }

    fn open_items(&self, plan: i64, limit: u32) -> Answer<Vec<OpenItem>> {
        let text = "SELECT position, version, action, reason, seen FROM plan_item \
             WHERE plan = $1 AND outcome IS NULL ORDER BY position LIMIT $2";
        self.session.collect(self.doing, text, values![plan, limit], |row| row::open_item(row))
    }

    fn count_open_items(&self, plan: i64) -> Answer<u64> {
        let text = "SELECT count(*) AS items FROM plan_item WHERE plan = $1 AND outcome IS NULL";
        let counted =
            self.session.collect(self.doing, text, values![plan], |row| row::integer(row, "items"));
        Ok(counted?.pop().unwrap_or(0).unsigned_abs())
    }

    fn end_item(&self, plan: i64, position: i64, why: Option<&str>) -> Answer<()> {
        self.execute(
            "UPDATE plan_item SET outcome = CASE WHEN $1 IS NULL THEN 'done' ELSE 'skipped' END, why = $1 \
             WHERE plan = $2 AND position = $3",
            values![why, plan, position],
        )
        .map(drop)
    }

    fn set_plan_state(
        &self,
        plan: i64,
        state: PlanState,
        applied_at: Option<Timestamp>,
    ) -> Answer<()> {
        let text = "UPDATE plan SET state = $1, applied_at = $2 WHERE pk = $3";
        self.execute(text, values![state.as_str(), applied_at, plan]).map(drop)
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
            "INSERT INTO policy (owner_uid, name, criteria, every, next_at) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (coalesce(owner_uid, -1), name) DO UPDATE \
             SET criteria = excluded.criteria, every = excluded.every, next_at = excluded.next_at",
            values![owner, name.as_str(), &to_json(criteria), every_ms, next_at],
        )
        .map(drop)
    }

    fn policy(&self, owner: Option<u32>, name: &PolicyName) -> Answer<Option<PolicyRow>> {
        let rest = "WHERE owner_uid IS NOT DISTINCT FROM $1 AND name = $2";
        Ok(policies(self.session, rest, values![owner, name.as_str()])?.pop())
    }

    fn remove_policy(&self, owner: Option<u32>, name: &PolicyName) -> Answer<bool> {
        let text = "DELETE FROM policy WHERE owner_uid IS NOT DISTINCT FROM $1 AND name = $2";
        Ok(self.execute(text, values![owner, name.as_str()])? > 0)
    }

    fn claim_policy(
        &self,
        holder: Uuid,
        now: Timestamp,
        until: Timestamp,
    ) -> Answer<Option<PolicyRow>> {
        let Some(pk) = due(self.session, now)? else { return Ok(None) };
        // A lease that ran out, and what its holder may still say, is void.
        self.execute(
            "UPDATE policy SET holder = CASE WHEN pk = $1 THEN $2 END, lease_until = CASE WHEN pk = $1 THEN $3 END",
            values![pk, holder, until],
        )?;
        Ok(policies(self.session, "WHERE pk = $1", values![pk])?.pop())
    }

    fn renew_claim(&self, holder: Uuid, now: Timestamp, until: Timestamp) -> Answer<bool> {
        let text = "UPDATE policy SET lease_until = $1 WHERE holder = $2 AND lease_until > $3";
        Ok(self.execute(text, values![until, holder, now])? > 0)
    }

    fn end_claim(&self, holder: Uuid, last: &LastRun, now: Timestamp) -> Answer<()> {
        let text = "UPDATE policy SET holder = NULL, lease_until = NULL, runs = runs + 1, last = $1, \
             next_at = $2 + every * 1000 WHERE holder = $3";
        self.execute(text, values![&to_json(last), now, holder]).map(drop)
    }
}
