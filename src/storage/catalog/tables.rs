//! The statements of one write transaction, each by what it does: what a catalog in a database writes down for itself.
//!
//! [`change`](super::change) decides what is done with them. While one of these exists no other process writes to the catalog,
//! so that what was read stays so until the transaction ends.

use super::CatalogError;
use crate::model::artifact::Author;
use crate::model::cleanup::{Action, Criteria, PlanState};
use crate::model::digest::Digest;
use crate::model::id::{ArtifactId, PlanId, PolicyName, RunId};
use crate::model::names::{Alias, Label, Tag};
use crate::storage::lineage::{Input, InputBounds};
use crate::storage::retention::{LastRun, NamedContent, NewPlan, PolicyRow, Seen};
use crate::storage::{SecretFinding, VersionRow, Which};
use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

pub(super) type Answer<T> = Result<T, CatalogError>;

/// A version with its key.
pub(super) type Stored = (i64, VersionRow);

/// An event to be written.
#[derive(Debug, Clone)]
pub(super) struct Told<'a> {
    pub at: Timestamp,
    pub owner_uid: u32,
    pub artifact: ArtifactId,
    pub number: u64,
    pub kind: &'a str,
    pub author: &'a Author,
    pub detail: &'a Value,
}

/// An item of a plan that is not applied yet.
#[derive(Debug)]
pub(super) struct OpenItem {
    pub position: i64,
    pub version: i64,
    pub action: Action,
    pub reason: String,
    pub seen: Seen,
}

/// All of them.
pub(super) trait Tables: Versions + Names + Plans {}

impl<T: Versions + Names + Plans> Tables for T {}

/// Artifacts, their versions, and what is written with these.
pub(super) trait Versions {
    fn find(&self, owner: Option<u32>, id: ArtifactId, which: Which) -> Answer<Option<Stored>>;

    /// The latest version of a file.
    fn at_path(&self, owner: u32, host_path: &[u8]) -> Answer<Option<Stored>>;

    fn by_key(&self, version: i64) -> Answer<Option<Stored>>;

    /// All of an artifact, the oldest first.
    fn of_artifact(&self, id: ArtifactId) -> Answer<Vec<Stored>>;

    /// Those that name a content and keep it.
    fn naming(&self, digest: &Digest) -> Answer<Vec<Stored>>;

    /// Those that were deleted before that time and can be given up.
    fn due_for_sweep(&self, deleted_before: Timestamp, limit: u32) -> Answer<Vec<Stored>>;

    /// The highest number of an artifact; 0 when there is none.
    fn newest(&self, id: ArtifactId) -> Answer<u64>;

    /// Writes down what a row, which is stored as `before`, has become; its key, its number, its origin and its time of creation
    /// stay.
    fn write(&self, version: i64, before: &VersionRow, row: &VersionRow) -> Answer<()>;

    /// A new artifact of that row's id, owner and path.
    fn insert_artifact(&self, row: &VersionRow) -> Answer<()>;

    /// A new version of the row's artifact; answers its key. Tags and what was found of secrets are written on their own.
    fn insert_version(&self, row: &VersionRow) -> Answer<i64>;

    /// Notes which version is the latest, after one came, was deleted or came back.
    fn follow_latest(&self, id: ArtifactId) -> Answer<()>;

    /// Notes that the run produced the version, and what it had read by then: all that it can have been made from.
    fn note_production(
        &self,
        run: RunId,
        version: i64,
        created_at: Timestamp,
        bounds: Option<InputBounds>,
    ) -> Answer<()>;

    /// One whose secret and encoding are known already stays as it is.
    fn add_findings(&self, version: i64, found: &[SecretFinding]) -> Answer<()>;

    fn tell(&self, told: &Told<'_>) -> Answer<()>;

    /// The content's place is to be looked at.
    fn look_again(&self, digest: &Digest) -> Answer<()>;

    /// A version names the content since this transaction: it is sent, where contents are to be sent and the store has it not.
    fn queue_upload(&self, content: NamedContent, now: Timestamp) -> Answer<()>;

    fn placed(&self, digest: &Digest, turn: i64) -> Answer<()>;

    /// One whose run and number are known already stays as it is.
    fn note_inputs(&self, inputs: &[Input]) -> Answer<()>;
}

/// Aliases, labels and tags.
pub(super) trait Names {
    fn holder(&self, owner: u32, alias: &Alias) -> Answer<Option<ArtifactId>>;

    fn aliases(&self, id: ArtifactId) -> Answer<Vec<String>>;

    fn set_alias(&self, owner: u32, alias: &Alias, id: ArtifactId) -> Answer<()>;

    /// Whether the artifact had it.
    fn remove_alias(&self, owner: u32, alias: &Alias, id: ArtifactId) -> Answer<bool>;

    fn labelled(&self, id: ArtifactId, label: &Label) -> Answer<Option<u64>>;

    fn labels(&self, id: ArtifactId) -> Answer<Vec<String>>;

    fn set_label(&self, version: i64, label: &Label) -> Answer<()>;

    /// Whether the artifact had it.
    fn remove_label(&self, id: ArtifactId, label: &Label) -> Answer<bool>;

    fn add_tag(&self, version: i64, tag: &Tag) -> Answer<()>;

    fn remove_tag(&self, version: i64, tag: &Tag) -> Answer<()>;
}

/// Clean-up plans and policies.
pub(super) trait Plans {
    /// The plan with its items, in the order in which they are applied; those of the owner's plans go that are too many.
    fn insert_plan(&self, id: PlanId, plan: &NewPlan) -> Answer<()>;

    fn plan_state(&self, owner: Option<u32>, id: PlanId) -> Answer<Option<(i64, PlanState)>>;

    fn open_items(&self, plan: i64, limit: u32) -> Answer<Vec<OpenItem>>;

    fn count_open_items(&self, plan: i64) -> Answer<u64>;

    /// `why` it was skipped; nothing when it was done.
    fn end_item(&self, plan: i64, position: i64, why: Option<&str>) -> Answer<()>;

    fn set_plan_state(
        &self,
        plan: i64,
        state: PlanState,
        applied_at: Option<Timestamp>,
    ) -> Answer<()>;

    fn set_policy(
        &self,
        owner: Option<u32>,
        name: &PolicyName,
        criteria: &Criteria,
        every_ms: u64,
        next_at: Timestamp,
    ) -> Answer<()>;

    fn policy(&self, owner: Option<u32>, name: &PolicyName) -> Answer<Option<PolicyRow>>;

    fn remove_policy(&self, owner: Option<u32>, name: &PolicyName) -> Answer<bool>;

    /// The policy that is due for longest becomes the holder's, unless any is somebody's; leases that ran out are void.
    fn claim_policy(
        &self,
        holder: Uuid,
        now: Timestamp,
        until: Timestamp,
    ) -> Answer<Option<PolicyRow>>;

    fn renew_claim(&self, holder: Uuid, now: Timestamp, until: Timestamp) -> Answer<bool>;

    fn end_claim(&self, holder: Uuid, last: &LastRun, now: Timestamp) -> Answer<()>;
}
