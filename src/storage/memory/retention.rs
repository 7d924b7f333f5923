//! Plans and policies over the rows in memory.

use super::{MemoryCatalog, Tables};
use crate::model::artifact::Author;
use crate::model::cleanup::{Criteria, PlanState};
use crate::model::digest::Digest;
use crate::model::id::{PlanId, PolicyName};
use crate::storage::retention::{
    ItemRow, LastRun, NamedContent, NewItem, NewPlan, Outcome, PLANS_KEPT, PlanRow, PolicyRow,
    Progress, Retention, judge,
};
use crate::storage::{CatalogError, VersionRow};
use jiff::Timestamp;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

#[derive(Debug)]
pub(super) struct Plan {
    id: PlanId,
    new: NewPlan,
    state: PlanState,
    outcomes: Vec<Option<Outcome>>,
    applied_at: Option<Timestamp>,
}

impl Plan {
    fn shown(&self) -> PlanRow {
        let count = |wanted: fn(&Outcome) -> bool| {
            self.outcomes.iter().flatten().filter(|outcome| wanted(outcome)).count() as u64
        };
        PlanRow {
            id: self.id,
            owner_uid: self.new.owner,
            policy: self.new.policy.clone(),
            criteria: self.new.criteria.clone(),
            state: self.state,
            more: self.new.more,
            bytes: self.new.bytes,
            items: self.outcomes.len() as u64,
            done: count(|outcome| *outcome == Outcome::Done),
            skipped: count(|outcome| *outcome != Outcome::Done),
            created_at: self.new.at,
            applied_at: self.applied_at,
        }
    }
}

#[derive(Debug)]
pub(super) struct Policy {
    row: PolicyRow,
    claim: Option<(Uuid, Timestamp)>,
}

impl Policy {
    fn is_held(&self, now: Timestamp) -> bool {
        self.claim.is_some_and(|(_, until)| until > now)
    }
}

impl Tables {
    fn position_of(&self, item: &NewItem) -> usize {
        let same = |row: &VersionRow| row.id == item.id && row.number == item.number;
        self.rows.iter().position(same).expect("rows are never removed")
    }

    fn do_item(&mut self, plan: PlanId, item: &NewItem, author: &Author) -> Outcome {
        let position = self.position_of(item);
        let row = self.shown(position);
        let numbers = self.rows.iter().filter(|other| other.id == row.id).map(|row| row.number);
        let newest = numbers.max().expect("the row itself is one");
        match judge(item.action, &item.seen, &row, newest) {
            Ok(next) => {
                let told =
                    json!({ "from": row.state, "to": next, "plan": plan, "reason": item.reason });
                self.move_telling(position, next, author, told);
                Outcome::Done
            }
            Err(why) => Outcome::Skipped(why),
        }
    }

    fn naming(&self, owner: Option<u32>, digest: &Digest) -> Vec<usize> {
        let meant = |row: &VersionRow| {
            row.digest == Some(*digest)
                && row.content_kept
                && row.swept_at.is_none()
                && owner.is_none_or(|owner| owner == row.owner_uid)
        };
        (0..self.rows.len()).filter(|&position| meant(&self.rows[position])).collect()
    }
}

impl Retention for MemoryCatalog {
    fn add_plan(&self, plan: &NewPlan) -> Result<PlanId, CatalogError> {
        let mut tables = self.tables();
        let id = PlanId::generate();
        let outcomes = vec![None; plan.items.len()];
        let (new, state) = (plan.clone(), PlanState::Planned);
        tables.plans.push(Plan { id, new, state, outcomes, applied_at: None });
        let own = tables.plans.iter().filter(|kept| kept.new.owner == plan.owner).count();
        let mut surplus = own.saturating_sub(PLANS_KEPT as usize);
        tables.plans.retain(|kept| {
            let goes =
                surplus > 0 && kept.new.owner == plan.owner && kept.state != PlanState::Applying;
            surplus -= usize::from(goes);
            !goes
        });
        Ok(id)
    }

    fn plan(&self, owner: Option<u32>, id: PlanId) -> Result<Option<PlanRow>, CatalogError> {
        let tables = self.tables();
        let meant =
            |plan: &&Plan| plan.id == id && owner.is_none_or(|owner| owner == plan.new.owner);
        Ok(tables.plans.iter().find(meant).map(Plan::shown))
    }

    fn plans(&self, owner: Option<u32>, limit: u32) -> Result<Vec<PlanRow>, CatalogError> {
        let tables = self.tables();
        let plans = tables.plans.iter().rev();
        let plans = plans.filter(|plan| owner.is_none_or(|owner| owner == plan.new.owner));
        Ok(plans.take(limit as usize).map(Plan::shown).collect())
    }

    fn plan_items(&self, id: PlanId, skip: u64, limit: u32) -> Result<Vec<ItemRow>, CatalogError> {
        let tables = self.tables();
        let Some(plan) = tables.plans.iter().find(|plan| plan.id == id) else {
            return Ok(Vec::new());
        };
        let items = plan.new.items.iter().zip(&plan.outcomes);
        let items = items.skip(usize::try_from(skip).unwrap_or(usize::MAX)).take(limit as usize);
        let shown = items.map(|(item, outcome)| ItemRow {
            action: item.action,
            reason: item.reason.clone(),
            outcome: outcome.clone(),
            version: tables.shown(tables.position_of(item)),
        });
        Ok(shown.collect())
    }

    fn apply(
        &self,
        owner: Option<u32>,
        id: PlanId,
        limit: u32,
        author: &Author,
    ) -> Result<Option<Progress>, CatalogError> {
        let mut tables = self.tables();
        let meant =
            |plan: &Plan| plan.id == id && owner.is_none_or(|owner| owner == plan.new.owner);
        let Some(at) = tables.plans.iter().position(meant) else { return Ok(None) };
        if tables.plans[at].state == PlanState::Applied {
            return Ok(Some(Progress { left: 0 }));
        }
        let outcomes = tables.plans[at].outcomes.iter().enumerate();
        let open = outcomes.filter(|(_, outcome)| outcome.is_none()).map(|(number, _)| number);
        let open: Vec<usize> = open.take(limit as usize).collect();
        for number in open {
            let item = tables.plans[at].new.items[number].clone();
            let outcome = tables.do_item(id, &item, author);
            tables.plans[at].outcomes[number] = Some(outcome);
        }
        let plan = &mut tables.plans[at];
        let left = plan.outcomes.iter().filter(|outcome| outcome.is_none()).count() as u64;
        plan.state = if left == 0 { PlanState::Applied } else { PlanState::Applying };
        plan.applied_at = (left == 0).then(Timestamp::now);
        Ok(Some(Progress { left }))
    }

    fn unfinished_plans(&self) -> Result<Vec<PlanId>, CatalogError> {
        let tables = self.tables();
        let plans = tables.plans.iter().filter(|plan| plan.state == PlanState::Applying);
        Ok(plans.map(|plan| plan.id).collect())
    }

    fn set_policy(
        &self,
        owner: Option<u32>,
        name: &PolicyName,
        criteria: &Criteria,
        every_ms: u64,
        next_at: Timestamp,
    ) -> Result<PolicyRow, CatalogError> {
        let mut tables = self.tables();
        let same = |policy: &Policy| policy.row.owner == owner && policy.row.name == *name;
        let position = tables.policies.iter().position(same).unwrap_or_else(|| {
            let row = PolicyRow {
                owner,
                name: name.clone(),
                criteria: Criteria::default(),
                every_ms: 0,
                next_at,
                runs: 0,
                last: None,
            };
            tables.policies.push(Policy { row, claim: None });
            tables.policies.len() - 1
        });
        let row = &mut tables.policies[position].row;
        (row.criteria, row.every_ms, row.next_at) = (criteria.clone(), every_ms, next_at);
        Ok(row.clone())
    }

    fn policies(&self, owner: Option<u32>) -> Result<Vec<PolicyRow>, CatalogError> {
        let tables = self.tables();
        let rows = tables.policies.iter().map(|policy| &policy.row);
        let meant = |row: &&PolicyRow| owner.is_none() || row.owner.is_none() || row.owner == owner;
        let mut rows: Vec<PolicyRow> = rows.filter(meant).cloned().collect();
        rows.sort_by(|one, other| (&one.name, one.owner).cmp(&(&other.name, other.owner)));
        Ok(rows)
    }

    fn remove_policy(&self, owner: Option<u32>, name: &PolicyName) -> Result<bool, CatalogError> {
        let mut tables = self.tables();
        let before = tables.policies.len();
        tables.policies.retain(|policy| policy.row.owner != owner || policy.row.name != *name);
        Ok(tables.policies.len() < before)
    }

    fn claim_policy(
        &self,
        holder: Uuid,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Option<PolicyRow>, CatalogError> {
        let mut tables = self.tables();
        if tables.policies.iter().any(|policy| policy.is_held(now)) {
            return Ok(None);
        }
        let due = tables.policies.iter_mut().filter(|policy| policy.row.next_at <= now);
        let Some(due) = due.min_by_key(|policy| policy.row.next_at) else { return Ok(None) };
        due.claim = Some((holder, until));
        let claimed = due.row.clone();
        for policy in &mut tables.policies {
            if policy.row != claimed {
                policy.claim = None;
            }
        }
        Ok(Some(claimed))
    }

    fn renew_claim(
        &self,
        holder: Uuid,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool, CatalogError> {
        let mut tables = self.tables();
        let mut own = tables.policies.iter_mut().filter(|policy| {
            policy.is_held(now) && policy.claim.is_some_and(|(held, _)| held == holder)
        });
        Ok(own.next().map(|policy| policy.claim = Some((holder, until))).is_some())
    }

    fn end_claim(&self, holder: Uuid, last: &LastRun, now: Timestamp) -> Result<(), CatalogError> {
        let mut tables = self.tables();
        let policies = tables.policies.iter_mut();
        for policy in policies.filter(|policy| policy.claim.is_some_and(|(held, _)| held == holder))
        {
            policy.claim = None;
            policy.row.runs += 1;
            policy.row.last = Some(last.clone());
            let every = i64::try_from(policy.row.every_ms).unwrap_or(i64::MAX);
            let after = jiff::SignedDuration::from_millis(every);
            policy.row.next_at = now.checked_add(after).unwrap_or(Timestamp::MAX);
        }
        Ok(())
    }

    fn owners(&self) -> Result<Vec<u32>, CatalogError> {
        let tables = self.tables();
        let owners: BTreeSet<u32> = tables.rows.iter().map(|row| row.owner_uid).collect();
        Ok(owners.into_iter().collect())
    }

    fn named_contents(
        &self,
        owner: Option<u32>,
        after: Option<Digest>,
        limit: u32,
    ) -> Result<Vec<NamedContent>, CatalogError> {
        let tables = self.tables();
        let mut named: BTreeMap<Digest, u64> = BTreeMap::new();
        for row in &tables.rows {
            let meant = row.content_kept
                && row.swept_at.is_none()
                && owner.is_none_or(|owner| owner == row.owner_uid);
            if let Some(digest) = row.digest.filter(|digest| meant && Some(*digest) > after) {
                let size = named.entry(digest).or_default();
                *size = row.size.max(*size);
            }
        }
        let named = named.into_iter().take(limit as usize);
        Ok(named.map(|(digest, size)| NamedContent { digest, size }).collect())
    }

    fn naming(
        &self,
        owner: Option<u32>,
        digest: &Digest,
        limit: u32,
    ) -> Result<Vec<VersionRow>, CatalogError> {
        let tables = self.tables();
        let rows = tables.naming(owner, digest).into_iter().take(limit as usize);
        Ok(rows.map(|position| tables.shown(position)).collect())
    }

    fn awaits_placement(&self, digest: &Digest) -> Result<bool, CatalogError> {
        Ok(self.tables().placements.contains_key(digest))
    }

    fn lost(&self, owner: Option<u32>) -> Result<u64, CatalogError> {
        let tables = self.tables();
        let rows = tables.rows.iter().filter(|row| row.lost_at.is_some());
        Ok(rows.filter(|row| owner.is_none_or(|owner| owner == row.owner_uid)).count() as u64)
    }

    fn lose(
        &self,
        digest: &Digest,
        is_gone: &dyn Fn() -> bool,
        author: &Author,
    ) -> Result<u64, CatalogError> {
        let mut tables = self.tables();
        if !is_gone() {
            return Ok(0);
        }
        let positions = tables.naming(None, digest);
        for &position in &positions {
            let row = &mut tables.rows[position];
            row.content_kept = false;
            row.updated_at = Timestamp::now();
            row.lost_at = Some(row.updated_at);
            tables.tell(position, "content-lost", author, json!({ "digest": digest }));
        }
        Ok(positions.len() as u64)
    }

    fn tell_mended(&self, digest: &Digest, how: &str, author: &Author) -> Result<(), CatalogError> {
        let mut tables = self.tables();
        for position in tables.naming(None, digest) {
            let told = json!({ "digest": digest, "how": how });
            tables.tell(position, "content-mended", author, told);
        }
        Ok(())
    }
}
