//! Plans, policies and the books for verification in PostgreSQL: what is asked, and the transaction of each change.

use super::row::{COLUMNS, naming, rows};
use super::statement::{Value, values};
use super::{PostgresCatalog, plans};
use crate::model::artifact::Author;
use crate::model::cleanup::Criteria;
use crate::model::digest::Digest;
use crate::model::id::{PlanId, PolicyName};
use crate::storage::catalog::change::Change;
use crate::storage::catalog::row;
use crate::storage::catalog::tables::{Answer, Plans};
use crate::storage::retention::{
    ItemRow, LastRun, NamedContent, NewPlan, PlanRow, PolicyRow, Progress, Retention,
};
use crate::storage::{CatalogError, VersionRow};
use jiff::Timestamp;
use uuid::Uuid;

const PLAN: &str = "SELECT p.id, p.owner_uid, p.policy, p.criteria, p.state, p.more, p.bytes, p.created_at, p.applied_at, \
         count(i.plan) AS items, count(*) FILTER (WHERE i.outcome = 'done') AS done, \
         count(*) FILTER (WHERE i.outcome = 'skipped') AS skipped \
     FROM plan p LEFT JOIN plan_item i ON i.plan = p.pk";

impl PostgresCatalog {
    fn select_plans(&self, rest: &str, values: &[Value]) -> Answer<Vec<PlanRow>> {
        let text = format!("{PLAN} {rest}");
        self.read(|session| {
            session.collect("list clean-up plans", &text, values, |row| row::plan(row))
        })
    }

    /// The one number that a statement counts.
    pub(super) fn count(&self, doing: &'static str, text: &str, values: &[Value]) -> Answer<u64> {
        let counted = self.read(|session| {
            session.collect(doing, text, values, |row| row::integer(row, "rows"))
        })?;
        Ok(counted.first().copied().unwrap_or(0).unsigned_abs())
    }
}

impl Retention for PostgresCatalog {
    fn add_plan(&self, plan: &NewPlan) -> Result<PlanId, CatalogError> {
        let id = PlanId::generate();
        self.write("keep a clean-up plan", |tables| tables.insert_plan(id, plan))?;
        Ok(id)
    }

    fn plan(&self, owner: Option<u32>, id: PlanId) -> Result<Option<PlanRow>, CatalogError> {
        let rest = "WHERE p.id = $1 AND ($2 IS NULL OR p.owner_uid = $2) GROUP BY p.pk";
        Ok(self.select_plans(rest, values![id.as_uuid(), owner])?.pop())
    }

    fn plans(&self, owner: Option<u32>, limit: u32) -> Result<Vec<PlanRow>, CatalogError> {
        let rest = "WHERE $1 IS NULL OR p.owner_uid = $1 GROUP BY p.pk ORDER BY p.pk DESC LIMIT $2";
        self.select_plans(rest, values![owner, limit])
    }

    fn plan_items(&self, id: PlanId, skip: u64, limit: u32) -> Result<Vec<ItemRow>, CatalogError> {
        let text = format!(
            "SELECT {COLUMNS}, i.action, i.reason, i.outcome, i.why FROM plan p JOIN plan_item i ON i.plan = p.pk \
             JOIN version v ON v.pk = i.version JOIN artifact a ON a.pk = v.artifact \
             WHERE p.id = $1 AND i.position >= $2 ORDER BY i.position LIMIT $3"
        );
        let values = values![id.as_uuid(), skip, limit];
        self.read(|session| {
            session.collect("read a clean-up plan", &text, values, |row| row::item(row))
        })
    }

    fn apply(
        &self,
        owner: Option<u32>,
        id: PlanId,
        limit: u32,
        author: &Author,
    ) -> Result<Option<Progress>, CatalogError> {
        self.write("apply a clean-up plan", |tables| {
            Change::by(tables, author).apply_plan(owner, id, limit)
        })
    }

    fn unfinished_plans(&self) -> Result<Vec<PlanId>, CatalogError> {
        let text = "SELECT id FROM plan WHERE state = 'APPLYING' ORDER BY pk";
        self.read(|session| {
            session.collect("list unfinished plans", text, &[], |row| {
                Ok(PlanId::from(row::uuid(row, "id")?))
            })
        })
    }

    fn set_policy(
        &self,
        owner: Option<u32>,
        name: &PolicyName,
        criteria: &Criteria,
        every_ms: u64,
        next_at: Timestamp,
    ) -> Result<PolicyRow, CatalogError> {
        self.write(plans::POLICIES, |tables| {
            tables.set_policy(owner, name, criteria, every_ms, next_at)?;
            Ok(tables.policy(owner, name)?.expect("it was written in this transaction"))
        })
    }

    fn policies(&self, owner: Option<u32>) -> Result<Vec<PolicyRow>, CatalogError> {
        let rest = "WHERE $1 IS NULL OR owner_uid IS NULL OR owner_uid = $1 \
             ORDER BY name, owner_uid NULLS FIRST";
        self.read(|session| plans::policies(session, rest, values![owner]))
    }

    fn remove_policy(&self, owner: Option<u32>, name: &PolicyName) -> Result<bool, CatalogError> {
        self.write(plans::POLICIES, |tables| tables.remove_policy(owner, name))
    }

    fn claim_policy(
        &self,
        holder: Uuid,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Option<PolicyRow>, CatalogError> {
        // Without the writer's lock while nothing is due, which is nearly always.
        if self.read(|session| plans::due(session, now))?.is_none() {
            return Ok(None);
        }
        self.write(plans::POLICIES, |tables| tables.claim_policy(holder, now, until))
    }

    fn renew_claim(
        &self,
        holder: Uuid,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool, CatalogError> {
        self.write(plans::POLICIES, |tables| tables.renew_claim(holder, now, until))
    }

    fn end_claim(&self, holder: Uuid, last: &LastRun, now: Timestamp) -> Result<(), CatalogError> {
        self.write(plans::POLICIES, |tables| tables.end_claim(holder, last, now))
    }

    fn owners(&self) -> Result<Vec<u32>, CatalogError> {
        let text = "SELECT DISTINCT owner_uid FROM artifact ORDER BY owner_uid";
        self.read(|session| {
            session.collect("list users", text, &[], |row| row::number(row, "owner_uid"))
        })
    }

    fn named_contents(
        &self,
        owner: Option<u32>,
        after: Option<Digest>,
        limit: u32,
    ) -> Result<Vec<NamedContent>, CatalogError> {
        let text = "SELECT digest, max(size) AS size FROM version WHERE digest > $1 AND content_kept AND swept_at IS NULL \
                 AND ($2 IS NULL OR owner_uid = $2) GROUP BY digest ORDER BY digest LIMIT $3";
        // Shorter than every digest, and so before them.
        let after = after.map_or(Vec::new(), |digest| digest.as_bytes().to_vec());
        let values = values![&after[..], owner, limit];
        let doing = "list contents that versions name";
        self.read(|session| session.collect(doing, text, values, |row| row::named_content(row)))
    }

    fn naming(
        &self,
        owner: Option<u32>,
        digest: &Digest,
        limit: u32,
    ) -> Result<Vec<VersionRow>, CatalogError> {
        Ok(rows(self.read(|session| naming(session, owner, digest, limit))?))
    }

    fn awaits_placement(&self, digest: &Digest) -> Result<bool, CatalogError> {
        let text = "SELECT count(*) AS rows FROM placement WHERE digest = $1";
        Ok(self.count("look at a content's place", text, values![digest])? > 0)
    }

    fn lost(&self, owner: Option<u32>) -> Result<u64, CatalogError> {
        let text = "SELECT count(*) AS rows FROM version WHERE lost_at IS NOT NULL AND ($1 IS NULL OR owner_uid = $1)";
        self.count("count lost contents", text, values![owner])
    }

    fn lose(
        &self,
        digest: &Digest,
        is_gone: &dyn Fn() -> bool,
        author: &Author,
    ) -> Result<u64, CatalogError> {
        self.write("note that a content is lost", |tables| match is_gone() {
            true => Change::by(tables, author).lose(digest),
            false => Ok(0),
        })
    }

    fn tell_mended(&self, digest: &Digest, how: &str, author: &Author) -> Result<(), CatalogError> {
        self.write("tell that a content was mended", |tables| {
            Change::by(tables, author).tell_mended(digest, how)
        })
    }
}
