//! Clean-up: plans and policies.

use crate::model::artifact::{ArtifactState, ArtifactType};
use crate::model::cleanup::{Action, Criteria, PlanState};
use crate::model::id::{ArtifactId, PlanId, PolicyName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Body of `POST /v1/cleanup/plans`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    pub criteria: Criteria,
    /// Whose artifacts; the caller's when missing. Root alone may name others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<u32>,
}

/// What would go, or went, and why.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    pub id: PlanId,
    pub owner_uid: u32,
    /// The policy that made it.
    pub policy: Option<PolicyName>,
    pub state: PlanState,
    pub criteria: Criteria,
    /// More would go than one plan may name: make another when this one is applied.
    pub more: bool,
    pub totals: Totals,
    pub created_at: Timestamp,
    pub applied_at: Option<Timestamp>,
    /// In the order in which they are applied; missing in a list of plans.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<Vec<PlanItem>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub items: u64,
    /// Of the contents that the items name, each counted once.
    pub bytes: u64,
    pub done: u64,
    pub skipped: u64,
}

/// One version of a plan.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlanItem {
    pub id: ArtifactId,
    pub version: u64,
    pub path: String,
    #[serde(rename = "type")]
    pub artifact_type: ArtifactType,
    /// As it is at this moment.
    pub state: ArtifactState,
    pub size: u64,
    pub labels: Vec<String>,
    pub tags: Vec<String>,
    pub created_at: Timestamp,
    pub action: Action,
    pub reason: String,
    /// `None` until it was applied.
    pub outcome: Option<ItemOutcome>,
    /// Why it was skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ItemOutcome {
    Done,
    Skipped,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlanList {
    pub plans: Vec<Plan>,
}

/// Body of `PUT /v1/cleanup/policies/{name}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRequest {
    pub criteria: Criteria,
    pub every_ms: u64,
}

/// What a daemon does again and again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Policy {
    pub name: PolicyName,
    /// `None`: of the daemon's configuration, for each user by themselves.
    pub owner_uid: Option<u32>,
    pub criteria: Criteria,
    pub every_ms: u64,
    pub next_at: Timestamp,
    pub runs: u64,
    pub last: Option<PolicyRun>,
}

/// How the last run of a policy went.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PolicyRun {
    pub at: Timestamp,
    /// The daemon that did it.
    pub instance: Uuid,
    /// Plans that named something.
    pub plans: Vec<PlanId>,
    pub done: u64,
    pub skipped: u64,
    /// Why it ended early.
    pub error: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PolicyList {
    pub policies: Vec<Policy>,
}
