//! The thread that runs clean-up policies when they are due, and ends plans that somebody began to apply.
//!
//! Several daemons work on one catalog. A policy is claimed there for a time before it is run, and the claim is renewed before
//! each batch: at most one policy of a catalog runs at a time, and a daemon that died or was stopped for long loses its claim.
//! A plan needs no claim, because each of its items is done once whoever applies it; one that does not advance between two
//! looks is taken up.

use super::cleanup::{Applied, apply, make_plan};
use super::error::Error;
use super::service::Service;
use super::ticker::Ticker;
use crate::model::artifact::Author;
use crate::model::id::PlanId;
use crate::storage::retention::{LastRun, PolicyRow};
use jiff::{SignedDuration, Timestamp};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Pause between looks, each two short queries. The shortest schedule is a second.
const PAUSE: Duration = Duration::from_millis(500);

/// How long a claim lasts without being renewed: longer than making the plan of a large catalog takes. Chosen, not measured.
const LEASE: SignedDuration = SignedDuration::from_mins(10);

pub(super) fn start(service: &Arc<Service>) -> io::Result<Ticker> {
    let service = service.clone();
    let mut looks = Looks::default();
    Ticker::start("belljar-cleanup", move || {
        if let Err(error) = looks.look(&service) {
            let reason = crate::telemetry::sentence(&error);
            tracing::warn!(%reason, "clean-up policies are not run; it is tried again");
        }
        PAUSE
    })
}

/// What the thread remembers from look to look.
#[derive(Default)]
struct Looks {
    /// The configuration's policies are in the catalog.
    configured: bool,
    /// Unfinished plans and how many of their items were done.
    plans: HashMap<PlanId, u64>,
}

impl Looks {
    fn look(&mut self, service: &Service) -> Result<(), Error> {
        if !self.configured {
            configure(service)?;
            self.configured = true;
        }
        self.end_plans(service)?;
        let catalog = service.catalog.retention();
        while !service.is_stopping() {
            let now = Timestamp::now();
            let instance = service.settings.instance;
            let Some(policy) = catalog.claim_policy(instance, now, now + LEASE)? else { break };
            let last = run(service, &policy);
            if let Some(why) = &last.error {
                tracing::warn!(policy = %policy.name, %why, "a clean-up policy ended early");
            }
            catalog.end_claim(instance, &last, Timestamp::now())?;
        }
        Ok(())
    }

    /// Ends what somebody began. A plan that advanced since the last look is in somebody's hands still.
    fn end_plans(&mut self, service: &Service) -> Result<(), Error> {
        let catalog = service.catalog.retention();
        let mut seen = HashMap::new();
        for id in catalog.unfinished_plans()? {
            let Some(plan) = catalog.plan(None, id)? else { continue };
            let handled = plan.done + plan.skipped;
            if self.plans.get(&id) == Some(&handled) {
                tracing::info!(plan = %id, "taking up a clean-up plan that was begun");
                apply(service, None, id, &Author::Belljar, &mut || Ok(true))?;
            } else {
                seen.insert(id, handled);
            }
        }
        self.plans = seen;
        Ok(())
    }
}

/// Brings the catalog's list of configured policies up to date. What did not change keeps its next run.
fn configure(service: &Service) -> Result<(), Error> {
    let configured = service.settings.cleanup.as_deref().unwrap_or_default();
    let catalog = service.catalog.retention();
    let known = catalog.policies(None)?;
    let mut known: Vec<PolicyRow> = known.into_iter().filter(|row| row.owner.is_none()).collect();
    for policy in configured {
        let every_ms = u64::try_from(policy.every.as_millis()).unwrap_or(u64::MAX);
        let at = known.iter().position(|row| row.name == policy.name);
        let known = at.map(|at| known.swap_remove(at));
        let same =
            known.is_some_and(|row| row.every_ms == every_ms && row.criteria == policy.criteria);
        if !same {
            let next = Timestamp::now() + policy.every;
            catalog.set_policy(None, &policy.name, &policy.criteria, every_ms, next)?;
        }
    }
    for gone in known {
        catalog.remove_policy(None, &gone.name)?;
    }
    Ok(())
}

/// Runs a policy that is claimed, for its owner or for each user.
fn run(service: &Service, policy: &PolicyRow) -> LastRun {
    let mut last = LastRun {
        at: Timestamp::now(),
        instance: service.settings.instance,
        plans: Vec::new(),
        done: 0,
        skipped: 0,
        error: None,
    };
    if let Err(error) = run_for_each(service, policy, &mut last) {
        last.error = Some(crate::telemetry::sentence(&error));
    }
    last
}

fn run_for_each(service: &Service, policy: &PolicyRow, last: &mut LastRun) -> Result<(), Error> {
    let catalog = service.catalog.retention();
    let mut renew = || {
        let now = Timestamp::now();
        Ok(catalog.renew_claim(service.settings.instance, now, now + LEASE)?)
    };
    let owners = match policy.owner {
        Some(owner) => vec![owner],
        None => catalog.owners()?,
    };
    for owner in owners {
        // As long as more would go than one plan may name.
        loop {
            let name = Some(policy.name.clone());
            let plan = make_plan(service, owner, &policy.criteria, name)?;
            if plan.items.is_empty() {
                break;
            }
            let id = catalog.add_plan(&plan)?;
            last.plans.push(id);
            let applied = apply(service, Some(owner), id, &Author::Belljar, &mut renew)?;
            let row = catalog.plan(Some(owner), id)?.ok_or(Error::NoSuchPlan { id })?;
            last.done += row.done;
            last.skipped += row.skipped;
            tracing::info!(
                policy = %policy.name, owner, plan = %id, done = row.done, skipped = row.skipped,
                "a clean-up policy ran"
            );
            match applied {
                Applied::Stopped => {
                    let why = "it was stopped; the plan is ended by the next daemon that looks";
                    return Err(Error::BadRequest { why: why.to_owned() });
                }
                Applied::Whole if plan.more && row.done > 0 => {}
                Applied::Whole => break,
            }
        }
    }
    Ok(())
}
