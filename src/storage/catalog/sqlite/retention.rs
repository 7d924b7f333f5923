//! Plans, policies and the books for verification in SQLite: what is asked, and the transaction of each change.

use super::row::{COLUMNS, collect, naming, rows, value};
use super::{SqliteCatalog, integer, lock, plans};
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
use rusqlite::params;
use uuid::Uuid;

const PLAN: &str = "SELECT p.id, p.owner_uid, p.policy, p.criteria, p.state, p.more, p.bytes, p.created_at, p.applied_at, \
         count(i.plan) AS items, count(*) FILTER (WHERE i.outcome = 'done') AS done, \
         count(*) FILTER (WHERE i.outcome = 'skipped') AS skipped \
     FROM plan p LEFT JOIN plan_item i ON i.plan = p.pk";

impl SqliteCatalog {
    fn plans(&self, rest: &str, parameters: impl rusqlite::Params) -> Answer<Vec<PlanRow>> {
        let text = format!("{PLAN} {rest}");
        let reader = lock(&self.reader);
        collect(&reader, "list clean-up plans", &text, parameters, |row| row::plan(row))
    }
}

impl Retention for SqliteCatalog {
    fn add_plan(&self, plan: &NewPlan) -> Result<PlanId, CatalogError> {
        let id = PlanId::generate();
        self.write("keep a clean-up plan", |tables| tables.insert_plan(id, plan))?;
        Ok(id)
    }

    fn plan(&self, owner: Option<u32>, id: PlanId) -> Result<Option<PlanRow>, CatalogError> {
        let rest = "WHERE p.id = ?1 AND (?2 IS NULL OR p.owner_uid = ?2) GROUP BY p.pk";
        Ok(self.plans(rest, params![id.as_uuid().as_bytes(), owner])?.pop())
    }

    fn plans(&self, owner: Option<u32>, limit: u32) -> Result<Vec<PlanRow>, CatalogError> {
        let rest = "WHERE ?1 IS NULL OR p.owner_uid = ?1 GROUP BY p.pk ORDER BY p.pk DESC LIMIT ?2";
        self.plans(rest, params![owner, limit])
    }

    fn plan_items(&self, id: PlanId, skip: u64, limit: u32) -> Result<Vec<ItemRow>, CatalogError> {
        let text = format!(
            "SELECT {COLUMNS}, i.action, i.reason, i.outcome, i.why FROM plan p JOIN plan_item i ON i.plan = p.pk \
             JOIN version v ON v.pk = i.version JOIN artifact a ON a.pk = v.artifact \
             WHERE p.id = ? AND i.position >= ? ORDER BY i.position LIMIT ?"
        );
        let id = *id.as_uuid().as_bytes();
        let parameters = params![id, integer(skip), limit];
        let reader = lock(&self.reader);
        collect(&reader, "read a clean-up plan", &text, parameters, |row| row::item(row))
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
        collect(&lock(&self.reader), "list unfinished plans", text, [], |row| {
            Ok(PlanId::from(row::uuid(row, "id")?))
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
        let rest =
            "WHERE ?1 IS NULL OR owner_uid IS NULL OR owner_uid = ?1 ORDER BY name, owner_uid";
        plans::policies(&lock(&self.reader), rest, [owner])
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
        if plans::due(&lock(&self.reader), now)?.is_none() {
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
        collect(&lock(&self.reader), "list users", text, [], |row| row::number(row, "owner_uid"))
    }

    fn named_contents(
        &self,
        owner: Option<u32>,
        after: Option<Digest>,
        limit: u32,
    ) -> Result<Vec<NamedContent>, CatalogError> {
        let text = "SELECT digest, max(size) AS size FROM version WHERE digest > ?1 AND content_kept AND swept_at IS NULL \
                 AND (?2 IS NULL OR owner_uid = ?2) GROUP BY digest ORDER BY digest LIMIT ?3";
        // Shorter than every digest, and so before them.
        let after = after.map_or(Vec::new(), |digest| digest.as_bytes().to_vec());
        let (reader, parameters) = (lock(&self.reader), params![after, owner, limit]);
        let doing = "list contents that versions name";
        collect(&reader, doing, text, parameters, |row| row::named_content(row))
    }

    fn naming(
        &self,
        owner: Option<u32>,
        digest: &Digest,
        limit: u32,
    ) -> Result<Vec<VersionRow>, CatalogError> {
        Ok(rows(naming(&lock(&self.reader), owner, digest, limit)?))
    }

    fn awaits_placement(&self, digest: &Digest) -> Result<bool, CatalogError> {
        let text = "SELECT count(*) FROM placement WHERE digest = ?";
        let doing = "look at a content's place";
        let count: Option<i64> = value(&lock(&self.reader), doing, text, [digest.as_bytes()])?;
        Ok(count.is_some_and(|count| count > 0))
    }

    fn lost(&self, owner: Option<u32>) -> Result<u64, CatalogError> {
        let text = "SELECT count(*) FROM version WHERE lost_at IS NOT NULL AND (?1 IS NULL OR owner_uid = ?1)";
        let count: Option<i64> = value(&lock(&self.reader), "count lost contents", text, [owner])?;
        Ok(count.unwrap_or(0).unsigned_abs())
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
