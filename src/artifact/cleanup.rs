//! Clean-up as callers ask for it: makes plans from what is there, keeps them, applies them, and keeps policies.

use super::choose::{Member, Unit, choose};
use super::error::Error;
use super::service::Service;
use super::{Artifacts, Voice};
use crate::config::units::format_duration;
use crate::model::artifact::{ArtifactState, Author};
use crate::model::cleanup::{Criteria, EVERY_MS_MAX, EVERY_MS_MIN};
use crate::model::id::{ArtifactId, PlanId, PolicyName};
use crate::model::order::{Order, OrderBy};
use crate::model::path::escape;
use crate::storage::retention::{ItemRow, NewItem, NewPlan, Outcome, PlanRow, PolicyRow, Seen};
use crate::storage::{Filter, VersionRow};
use crate::wire;
use crate::wire::cleanup::{
    ItemOutcome, Plan, PlanItem, PlanList, Policy, PolicyList, PolicyRequest, PolicyRun, Totals,
};
use jiff::Timestamp;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// Most versions that one plan is chosen from: about 250 MB of memory while it is made. Chosen, not measured.
const CANDIDATES_MAX: usize = 1_000_000;

/// Most versions that one plan names: about 10 MB of JSON. Chosen, not measured.
const ITEMS_MAX: usize = 20_000;

/// Items of one transaction, which other writers wait for. Chosen, not measured.
const BATCH: u32 = 100;

/// Plans that a list shows.
const PLANS_SHOWN: u32 = 100;

/// Policies of one user. Chosen, not measured.
const POLICIES_MAX: usize = 64;

const PAGE: u32 = 1_000;

/// How applying a plan ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Applied {
    Whole,
    /// The daemon stops, or the work was given to somebody else.
    Stopped,
}

/// What could go, and what must still be so of each when it goes.
#[derive(Default)]
struct Gathered {
    units: Vec<Unit>,
    ids: Vec<ArtifactId>,
    seen: Vec<Vec<Seen>>,
    count: usize,
}

impl Gathered {
    fn add(&mut self, id: ArtifactId, rows: &[VersionRow], newest: u64) -> Result<(), Error> {
        self.count += rows.len();
        if self.count > CANDIDATES_MAX {
            let why = format!(
                "more than {CANDIDATES_MAX} versions could go: narrow it, for instance to a type, a graph or a workspace"
            );
            return Err(Error::BadQuery { why });
        }
        self.ids.push(id);
        self.units.push(Unit { members: rows.iter().map(member).collect() });
        self.seen.push(rows.iter().map(|row| Seen::of(row, newest)).collect());
        Ok(())
    }
}

fn member(row: &VersionRow) -> Member {
    Member {
        number: row.number,
        state: row.state,
        made_at: row.created_at.as_millisecond(),
        archived_at: row.archived_at.map(Timestamp::as_millisecond),
        content: row.digest.filter(|_| row.content_kept).map(|digest| (digest, row.size)),
        protected: row.state == ArtifactState::Creating || row.held || row.pinned,
    }
}

fn filter(criteria: &Criteria, now: Timestamp) -> Result<Filter, Error> {
    Ok(Filter {
        types: criteria.types.clone(),
        graph: criteria.graph.clone(),
        workspace: criteria.workspace.clone(),
        label: criteria.label.clone(),
        tag: criteria.tag.clone(),
        expression: criteria.expression.as_deref().map(str::parse).transpose()?,
        states: vec![ArtifactState::Creating, ArtifactState::Ready, ArtifactState::Archived],
        all_versions: criteria.counts_versions(),
        order: Order { by: OrderBy::Created, descending: false },
        limit: PAGE,
        now,
        ..Filter::default()
    })
}

fn gather(
    service: &Service,
    owner: u32,
    criteria: &Criteria,
    now: Timestamp,
) -> Result<Gathered, Error> {
    let catalog = &*service.catalog;
    let mut filter = filter(criteria, now)?;
    let mut gathered = Gathered::default();
    loop {
        let page = catalog.list(Some(owner), &filter)?;
        for row in page.rows {
            if criteria.counts_versions() {
                // The artifact's newest version is looked up for what is chosen alone.
                gathered.add(row.id, std::slice::from_ref(&row), row.number)?;
                continue;
            }
            let mut rows = catalog.life().versions(Some(owner), row.id, None, u32::MAX)?;
            let newest = rows.first().map_or(row.number, |newest| newest.number);
            rows.retain(|version| version.state != ArtifactState::Deleted);
            // Otherwise it changed this moment, and it is not what the filter accepted.
            if rows.first().is_some_and(|latest| latest.number == row.number) {
                gathered.add(row.id, &rows, newest)?;
            }
        }
        filter.after = page.next;
        if filter.after.is_none() || service.is_stopping() {
            return Ok(gathered);
        }
    }
}

/// Decides what would go of one user's artifacts. Nothing is kept or touched.
pub(super) fn make_plan(
    service: &Service,
    owner: u32,
    criteria: &Criteria,
    policy: Option<PolicyName>,
) -> Result<NewPlan, Error> {
    criteria.check()?;
    let now = Timestamp::now();
    let gathered = gather(service, owner, criteria, now)?;
    let choices = choose(&gathered.units, criteria, now.as_millisecond());
    let more = choices.len() > ITEMS_MAX;
    let mut newest: HashMap<ArtifactId, u64> = HashMap::new();
    let (mut items, mut digests, mut bytes) = (Vec::new(), HashSet::new(), 0u64);
    for choice in choices.into_iter().take(ITEMS_MAX) {
        let id = gathered.ids[choice.unit];
        let member = &gathered.units[choice.unit].members[choice.member];
        let mut seen = gathered.seen[choice.unit][choice.member].clone();
        if criteria.counts_versions() {
            seen.newest = match newest.get(&id) {
                Some(&newest) => newest,
                None => {
                    let found = service.catalog.life().versions(Some(owner), id, None, 1)?;
                    let number = found.first().map_or(seen.newest, |row| row.number);
                    *newest.entry(id).or_insert(number)
                }
            };
        }
        if let Some((digest, size)) = member.content
            && digests.insert(digest)
        {
            bytes = bytes.saturating_add(size);
        }
        let (number, action, reason) = (member.number, choice.action, choice.reason);
        items.push(NewItem { id, number, action, reason, seen });
    }
    Ok(NewPlan { owner, policy, criteria: criteria.clone(), items, more, bytes, at: now })
}

/// Applies what is left of a plan, batch by batch, each of which `goes_on` is asked for.
pub(super) fn apply(
    service: &Service,
    owner: Option<u32>,
    id: PlanId,
    author: &Author,
    goes_on: &mut dyn FnMut() -> Result<bool, Error>,
) -> Result<Applied, Error> {
    loop {
        if service.is_stopping() || !goes_on()? {
            return Ok(Applied::Stopped);
        }
        let progress = service.catalog.retention().apply(owner, id, BATCH, author)?;
        if progress.ok_or(Error::NoSuchPlan { id })?.left == 0 {
            return Ok(Applied::Whole);
        }
    }
}

impl Artifacts {
    /// Makes and keeps a plan for one user's artifacts; nothing of it is done.
    pub fn plan_cleanup(&self, owner: u32, criteria: &Criteria) -> Result<Plan, Error> {
        let plan = make_plan(self.service(), owner, criteria, None)?;
        let id = self.service().catalog.retention().add_plan(&plan)?;
        self.cleanup_plan(Some(owner), id)
    }

    /// A plan with its items. `owner` of `None` sees everyone's.
    pub fn cleanup_plan(&self, owner: Option<u32>, id: PlanId) -> Result<Plan, Error> {
        let catalog = self.service().catalog.retention();
        let row = catalog.plan(owner, id)?.ok_or(Error::NoSuchPlan { id })?;
        let mut items = Vec::new();
        loop {
            let page = catalog.plan_items(id, items.len() as u64, PAGE)?;
            let last = page.len() < PAGE as usize;
            items.extend(page.into_iter().map(shown_item));
            if last {
                return Ok(Plan { items: Some(items), ..shown_plan(row) });
            }
        }
    }

    /// The latest plans, newest first, without their items.
    pub fn cleanup_plans(&self, owner: Option<u32>) -> Result<PlanList, Error> {
        let rows = self.service().catalog.retention().plans(owner, PLANS_SHOWN)?;
        Ok(PlanList { plans: rows.into_iter().map(shown_plan).collect() })
    }

    /// Does what a plan says and was not done yet.
    pub fn apply_cleanup(&self, voice: &Voice, id: PlanId) -> Result<Plan, Error> {
        apply(self.service(), voice.owner, id, &voice.author, &mut || Ok(true))?;
        self.cleanup_plan(voice.owner, id)
    }

    /// Makes or changes a policy of one user; it runs for the first time when its interval is over.
    pub fn set_policy(
        &self,
        owner: u32,
        name: &PolicyName,
        request: &PolicyRequest,
    ) -> Result<Policy, Error> {
        request.criteria.check()?;
        filter(&request.criteria, Timestamp::now())?;
        let every = Duration::from_millis(request.every_ms);
        if !(EVERY_MS_MIN..=EVERY_MS_MAX).contains(&request.every_ms) {
            let why = format!("every is {}: use 1s to 366d", format_duration(every));
            return Err(Error::BadRequest { why });
        }
        let catalog = self.service().catalog.retention();
        let own = catalog.policies(Some(owner))?;
        let mut own = own.iter().filter(|row| row.owner == Some(owner));
        if own.clone().count() >= POLICIES_MAX && !own.any(|row| row.name == *name) {
            let why = format!("you have {POLICIES_MAX} policies already: remove one first");
            return Err(Error::BadRequest { why });
        }
        let next = Timestamp::now() + every;
        let row =
            catalog.set_policy(Some(owner), name, &request.criteria, request.every_ms, next)?;
        Ok(shown_policy(row))
    }

    /// One user's policies, and those of the configuration; root sees everyone's.
    pub fn policies(&self, owner: Option<u32>) -> Result<PolicyList, Error> {
        let rows = self.service().catalog.retention().policies(owner)?;
        Ok(PolicyList { policies: rows.into_iter().map(shown_policy).collect() })
    }

    /// A user's own policy, else the configuration's of that name.
    pub fn policy(&self, owner: u32, name: &PolicyName) -> Result<Policy, Error> {
        let rows = self.service().catalog.retention().policies(Some(owner))?;
        let named = rows.into_iter().filter(|row| row.name == *name);
        let found = named.max_by_key(|row| row.owner.is_some());
        found.map(shown_policy).ok_or_else(|| Error::NoSuchPolicy { name: name.clone() })
    }

    pub fn remove_policy(&self, owner: u32, name: &PolicyName) -> Result<(), Error> {
        if self.service().catalog.retention().remove_policy(Some(owner), name)? {
            return Ok(());
        }
        Err(Error::NoSuchPolicy { name: name.clone() })
    }
}

fn shown_plan(row: PlanRow) -> Plan {
    let PlanRow { items, bytes, done, skipped, .. } = row;
    Plan {
        id: row.id,
        owner_uid: row.owner_uid,
        policy: row.policy,
        state: row.state,
        criteria: row.criteria,
        more: row.more,
        totals: Totals { items, bytes, done, skipped },
        created_at: row.created_at,
        applied_at: row.applied_at,
        items: None,
    }
}

fn shown_item(item: ItemRow) -> PlanItem {
    let row = item.version;
    let (outcome, why) = match item.outcome {
        None => (None, None),
        Some(Outcome::Done) => (Some(ItemOutcome::Done), None),
        Some(Outcome::Skipped(why)) => (Some(ItemOutcome::Skipped), Some(why)),
    };
    PlanItem {
        id: row.id,
        version: row.number,
        path: escape(&row.path_seen()),
        artifact_type: row.artifact_type,
        state: row.state,
        size: row.size,
        labels: row.labels,
        tags: row.tags,
        created_at: row.created_at,
        action: item.action,
        reason: item.reason,
        outcome,
        why,
    }
}

fn shown_policy(row: PolicyRow) -> wire::cleanup::Policy {
    let last = row.last.map(|last| PolicyRun {
        at: last.at,
        instance: last.instance,
        plans: last.plans,
        done: last.done,
        skipped: last.skipped,
        error: last.error,
    });
    Policy {
        name: row.name,
        owner_uid: row.owner,
        criteria: row.criteria,
        every_ms: row.every_ms,
        next_at: row.next_at,
        runs: row.runs,
        last,
    }
}
