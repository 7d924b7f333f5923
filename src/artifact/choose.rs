//! Decides what a clean-up takes: pure, from the versions that were found to those that go and why.
//!
//! What is counted are units: an artifact with its versions, or each version by itself. Each limit takes the oldest units that
//! are not protected, until it holds for what is left by the limits before it. What is protected counts and stays.

use crate::config::units::{format_duration, format_size};
use crate::model::artifact::ArtifactState;
use crate::model::cleanup::{ARCHIVED_FOR_MS_DEFAULT, Action, Criteria};
use crate::model::digest::Digest;
use std::collections::HashMap;
use std::time::Duration;

/// A version that could go.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub number: u64,
    pub state: ArtifactState,
    /// Milliseconds since 1970, as all times here.
    pub made_at: i64,
    pub archived_at: Option<i64>,
    /// Its content where it is kept, with the size.
    pub content: Option<(Digest, u64)>,
    /// CREATING, held or pinned.
    pub protected: bool,
}

/// What is counted as one: versions of one artifact, newest first, at least one.
#[derive(Debug, Clone)]
pub(super) struct Unit {
    pub members: Vec<Member>,
}

/// A version that goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    pub unit: usize,
    pub member: usize,
    pub action: Action,
    pub reason: String,
}

impl Unit {
    fn made_at(&self) -> i64 {
        self.members.first().map_or(i64::MAX, |newest| newest.made_at)
    }

    fn is_protected(&self) -> bool {
        self.members.iter().any(|member| member.protected)
    }
}

struct Chooser<'a> {
    units: &'a [Unit],
    /// Of each unit, from the oldest on.
    order: Vec<usize>,
    /// Why each member goes; nothing for what stays.
    going: Vec<Vec<Option<String>>>,
}

impl Chooser<'_> {
    fn stays(&self, unit: usize) -> bool {
        self.going[unit].iter().any(Option::is_none)
    }

    /// Lets what is left of a unit go.
    fn take(&mut self, unit: usize, reason: &str) {
        for going in self.going[unit].iter_mut().filter(|going| going.is_none()) {
            *going = Some(reason.to_owned());
        }
    }

    /// Units that are left and may go, from the oldest on.
    fn eligible(&self) -> Vec<usize> {
        let may = |&&unit: &&usize| self.stays(unit) && !self.units[unit].is_protected();
        self.order.iter().filter(may).copied().collect()
    }

    fn keep_versions(&mut self, kept: u64) {
        let kept_members = usize::try_from(kept).unwrap_or(usize::MAX);
        for (unit, going) in self.units.iter().zip(&mut self.going) {
            let members = unit.members.iter().zip(going).skip(kept_members);
            for (member, going) in members.filter(|(member, _)| !member.protected) {
                *going = Some(format!("version {}: the newest {kept} are kept", member.number));
            }
        }
    }

    fn max_size(&mut self, max: u64) {
        let mut naming: HashMap<Digest, u64> = HashMap::new();
        let mut total = 0u64;
        for &unit in &self.order {
            for (digest, size) in self.contents(unit) {
                let count = naming.entry(digest).or_default();
                total = total.saturating_add(if *count == 0 { size } else { 0 });
                *count += 1;
            }
        }
        let reason = format!("more than {} in all", format_size(max));
        for unit in self.eligible() {
            if total <= max {
                return;
            }
            for (digest, size) in self.contents(unit) {
                let count = naming.get_mut(&digest).expect("it was counted above");
                *count -= 1;
                total = total.saturating_sub(if *count == 0 { size } else { 0 });
            }
            self.take(unit, &reason);
        }
    }

    fn contents(&self, unit: usize) -> Vec<(Digest, u64)> {
        let members = self.units[unit].members.iter().zip(&self.going[unit]);
        members.filter(|(_, going)| going.is_none()).filter_map(|(m, _)| m.content).collect()
    }
}

/// What goes, from the oldest unit on; `now` in milliseconds.
pub(super) fn choose(units: &[Unit], criteria: &Criteria, now: i64) -> Vec<Choice> {
    let mut order: Vec<usize> = (0..units.len()).collect();
    order.sort_by_key(|&unit| (units[unit].made_at(), unit));
    let going = units.iter().map(|unit| vec![None; unit.members.len()]).collect();
    let mut chooser = Chooser { units, order, going };
    if !criteria.has_limit() {
        for unit in chooser.eligible() {
            chooser.take(unit, "it is what was asked for");
        }
    }
    if let Some(kept) = criteria.keep_versions {
        chooser.keep_versions(kept);
    }
    if let Some(age_max) = criteria.older_than_ms {
        let reason = format!("older than {}", format_duration(Duration::from_millis(age_max)));
        for unit in chooser.eligible() {
            if is_older(units[unit].made_at(), now, age_max) {
                chooser.take(unit, &reason);
            }
        }
    }
    if let Some(max) = criteria.max_artifacts {
        let left = chooser.order.iter().filter(|&&unit| chooser.stays(unit)).count() as u64;
        let surplus = usize::try_from(left.saturating_sub(max)).unwrap_or(usize::MAX);
        for unit in chooser.eligible().into_iter().take(surplus) {
            chooser.take(unit, &format!("more than {max}"));
        }
    }
    if let Some(max) = criteria.max_size {
        chooser.max_size(max);
    }
    choices(chooser, criteria, now)
}

fn choices(chooser: Chooser<'_>, criteria: &Criteria, now: i64) -> Vec<Choice> {
    let Chooser { units, order, mut going } = chooser;
    let archived_for = criteria.archived_for_ms.unwrap_or(ARCHIVED_FOR_MS_DEFAULT);
    let mut choices = Vec::new();
    for unit in order {
        // The oldest first: what is cut off at a plan's bound is the newest.
        for (member, found) in units[unit].members.iter().enumerate().rev() {
            let Some(reason) = going[unit][member].take() else { continue };
            let long_enough = found.archived_at.is_some_and(|at| is_older(at, now, archived_for));
            let (action, reason) = match (criteria.archive_first, found.state) {
                (false, _) => (Action::Delete, reason),
                (true, ArtifactState::Archived) if !long_enough => continue,
                (true, ArtifactState::Archived) => {
                    let stay = format_duration(Duration::from_millis(archived_for));
                    (Action::Delete, format!("{reason}; archived for longer than {stay}"))
                }
                (true, _) => (Action::Archive, reason),
            };
            choices.push(Choice { unit, member, action, reason });
        }
    }
    choices
}

fn is_older(at: i64, now: i64, age_ms: u64) -> bool {
    now.saturating_sub(at) > i64::try_from(age_ms).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
