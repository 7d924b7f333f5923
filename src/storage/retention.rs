//! Plans, policies and the books that contents are checked against.
//!
//! The third part of the catalog's contract. What a plan does to a version is decided here, for every catalog.

use super::{CatalogError, VersionRow};
use crate::model::artifact::{ArtifactState, Author};
use crate::model::cleanup::{Action, Criteria, PlanState};
use crate::model::digest::Digest;
use crate::model::id::{ArtifactId, PlanId, PolicyName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Plans of one owner that are kept; the oldest go first, and one that is being applied stays. Chosen, not measured.
pub const PLANS_KEPT: u32 = 200;

/// What must still be so when an item is applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub state: ArtifactState,
    pub pinned: bool,
    pub labels: Vec<String>,
    pub tags: Vec<String>,
    pub aliases: Vec<String>,
    /// Microseconds since 1970.
    pub updated_at: i64,
    /// The artifact's highest version.
    pub newest: u64,
}

impl Seen {
    pub fn of(row: &VersionRow, newest: u64) -> Self {
        let sorted = |names: &[String]| {
            let mut names = names.to_vec();
            names.sort();
            names
        };
        Self {
            state: row.state,
            pinned: row.pinned,
            labels: sorted(&row.labels),
            tags: sorted(&row.tags),
            aliases: sorted(&row.aliases),
            updated_at: row.updated_at.as_microsecond(),
            newest,
        }
    }

    /// Why a version must not be touched that is `self` at this moment and was `then` when it was planned.
    pub(super) fn differs_from(&self, then: &Seen) -> Option<String> {
        let why = if self.pinned && !then.pinned {
            "it was pinned".to_owned()
        } else if self.state != then.state {
            format!("it became {}", self.state)
        } else if self.newest != then.newest {
            format!("version {} was made", self.newest)
        } else if (&self.labels, &self.tags, &self.aliases)
            != (&then.labels, &then.tags, &then.aliases)
        {
            "its labels, tags or aliases changed".to_owned()
        } else if self.updated_at != then.updated_at {
            "it was changed".to_owned()
        } else {
            return None;
        };
        Some(why)
    }
}

/// The state that an item's version gets, or why it is left alone.
pub(super) fn judge(
    action: Action,
    then: &Seen,
    row: &VersionRow,
    newest: u64,
) -> Result<ArtifactState, String> {
    if let Some(why) = Seen::of(row, newest).differs_from(then) {
        return Err(why);
    }
    if row.state == ArtifactState::Creating || row.held {
        return Err("it is held".to_owned());
    }
    let next = match action {
        Action::Archive => ArtifactState::Archived,
        Action::Delete => ArtifactState::Deleted,
    };
    super::life::next_state(row, next).map_err(|error| error.to_string())
}

/// One version of a plan to be made.
#[derive(Debug, Clone)]
pub struct NewItem {
    pub id: ArtifactId,
    pub number: u64,
    pub action: Action,
    pub reason: String,
    pub seen: Seen,
}

#[derive(Debug, Clone)]
pub struct NewPlan {
    pub owner: u32,
    pub policy: Option<PolicyName>,
    pub criteria: Criteria,
    pub items: Vec<NewItem>,
    pub more: bool,
    pub bytes: u64,
    pub at: Timestamp,
}

/// A plan without its items.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanRow {
    pub id: PlanId,
    pub owner_uid: u32,
    pub policy: Option<PolicyName>,
    pub criteria: Criteria,
    pub state: PlanState,
    pub more: bool,
    pub bytes: u64,
    pub items: u64,
    pub done: u64,
    pub skipped: u64,
    pub created_at: Timestamp,
    pub applied_at: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ItemRow {
    pub action: Action,
    pub reason: String,
    /// `None` until it was applied.
    pub outcome: Option<Outcome>,
    /// As it is at this moment.
    pub version: VersionRow,
}

/// What applying did with an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Skipped(String),
}

/// How far a plan is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Items that are not applied yet.
    pub left: u64,
}

/// What is done again and again.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyRow {
    /// `None`: of the configuration, for each user by themselves.
    pub owner: Option<u32>,
    pub name: PolicyName,
    pub criteria: Criteria,
    pub every_ms: u64,
    pub next_at: Timestamp,
    pub runs: u64,
    pub last: Option<LastRun>,
}

/// How the last run of a policy went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    pub at: Timestamp,
    /// The daemon that did it.
    pub instance: Uuid,
    /// Those that named something.
    pub plans: Vec<PlanId>,
    pub done: u64,
    pub skipped: u64,
    /// Why it ended early.
    pub error: Option<String>,
}

/// A content that versions name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamedContent {
    pub digest: Digest,
    pub size: u64,
}

/// See the module. `owner` of `None` is everyone's.
pub trait Retention {
    /// Keeps a plan; what it names is not touched.
    fn add_plan(&self, plan: &NewPlan) -> Result<PlanId, CatalogError>;

    fn plan(&self, owner: Option<u32>, id: PlanId) -> Result<Option<PlanRow>, CatalogError>;

    /// Newest first.
    fn plans(&self, owner: Option<u32>, limit: u32) -> Result<Vec<PlanRow>, CatalogError>;

    /// In the order in which they are applied, behind the first `skip`.
    fn plan_items(&self, id: PlanId, skip: u64, limit: u32) -> Result<Vec<ItemRow>, CatalogError>;

    /// Does the next items of a plan, at most `limit`, in one transaction with their outcomes; `None` when there is no such
    /// plan. An item that changed since it was planned is skipped. Each is done once, whoever applies the plan how often.
    fn apply(
        &self,
        owner: Option<u32>,
        id: PlanId,
        limit: u32,
        author: &Author,
    ) -> Result<Option<Progress>, CatalogError>;

    /// Plans that somebody began to apply and did not end.
    fn unfinished_plans(&self) -> Result<Vec<PlanId>, CatalogError>;

    /// Makes or changes a policy; its next run is `next_at`.
    fn set_policy(
        &self,
        owner: Option<u32>,
        name: &PolicyName,
        criteria: &Criteria,
        every_ms: u64,
        next_at: Timestamp,
    ) -> Result<PolicyRow, CatalogError>;

    /// Everyone's, or those of one user and of the configuration; by name.
    fn policies(&self, owner: Option<u32>) -> Result<Vec<PolicyRow>, CatalogError>;

    /// Whether there was one.
    fn remove_policy(&self, owner: Option<u32>, name: &PolicyName) -> Result<bool, CatalogError>;

    /// The policy that is due for longest, for `holder` alone until the lease ends; nothing while any policy is somebody's.
    fn claim_policy(
        &self,
        holder: Uuid,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Option<PolicyRow>, CatalogError>;

    /// Whether the policy is still the holder's, which it then is until the new time.
    fn renew_claim(
        &self,
        holder: Uuid,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool, CatalogError>;

    /// The run is over; the next one is due `every_ms` after `now`.
    fn end_claim(&self, holder: Uuid, last: &LastRun, now: Timestamp) -> Result<(), CatalogError>;

    /// Users that have artifacts.
    fn owners(&self) -> Result<Vec<u32>, CatalogError>;

    /// Contents that versions name and that are kept, in the order of their digests.
    fn named_contents(
        &self,
        owner: Option<u32>,
        after: Option<Digest>,
        limit: u32,
    ) -> Result<Vec<NamedContent>, CatalogError>;

    /// Versions that name a content and keep it, at most `limit`.
    fn naming(
        &self,
        owner: Option<u32>,
        digest: &Digest,
        limit: u32,
    ) -> Result<Vec<VersionRow>, CatalogError>;

    /// Whether the content's place is to be looked at anyway.
    fn awaits_placement(&self, digest: &Digest) -> Result<bool, CatalogError>;

    /// How many versions say that their content is lost.
    fn lost(&self, owner: Option<u32>) -> Result<u64, CatalogError>;

    /// Notes for ever, on every version that names it, that a content is gone; nothing when `is_gone` says no at that
    /// moment, at which no row can be added.
    fn lose(
        &self,
        digest: &Digest,
        is_gone: &dyn Fn() -> bool,
        author: &Author,
    ) -> Result<u64, CatalogError>;

    /// Tells of every version that names the content that it was mended.
    fn tell_mended(&self, digest: &Digest, how: &str, author: &Author) -> Result<(), CatalogError>;
}
