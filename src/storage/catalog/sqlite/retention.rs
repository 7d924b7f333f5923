//! Plans in SQLite: made once, applied item by item.

use super::life::Change;
use super::row::{COLUMNS, find, read_at, select};
use super::{SqliteCatalog, follow_latest, integer, lock, policy, sql};
use crate::model::artifact::Author;
use crate::model::cleanup::PlanState;
use crate::model::digest::Digest;
use crate::model::id::{PlanId, PolicyName};
use crate::storage::retention::{
    ItemRow, LastRun, NamedContent, NewPlan, Outcome, PLANS_KEPT, PlanRow, PolicyRow, Progress,
    Retention, Seen, judge,
};
use crate::storage::{CatalogError, VersionRow, Which};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::fmt::Display;
use std::str::FromStr;
use uuid::Uuid;

pub(super) fn damaged(what: impl Display) -> CatalogError {
    CatalogError::Damaged { what: what.to_string() }
}

pub(super) fn word<T: FromStr<Err: Display>>(text: &str) -> Result<T, CatalogError> {
    text.parse().map_err(damaged)
}

pub(super) fn json<T: DeserializeOwned>(text: &str) -> Result<T, CatalogError> {
    serde_json::from_str(text).map_err(damaged)
}

pub(super) fn time(microseconds: i64) -> Result<Timestamp, CatalogError> {
    Timestamp::from_microsecond(microseconds).map_err(damaged)
}

pub(super) fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("what is stored has text keys only")
}

const PLAN: &str = "SELECT p.id, p.owner_uid, p.policy, p.criteria, p.state, p.more, p.bytes, p.created_at, p.applied_at, \
         count(i.plan), count(*) FILTER (WHERE i.outcome = 'done'), count(*) FILTER (WHERE i.outcome = 'skipped') \
     FROM plan p LEFT JOIN plan_item i ON i.plan = p.pk";

/// What a plan's row holds as text, still to be parsed.
type PlanText = ([u8; 16], Option<String>, String, String, i64, Option<i64>);

fn plan_row(row: &Row<'_>) -> rusqlite::Result<(PlanRow, PlanText)> {
    let text = (row.get(0)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(7)?, row.get(8)?);
    let count = |at| row.get::<_, i64>(at).map(i64::unsigned_abs);
    let plan = PlanRow {
        id: PlanId::from(Uuid::nil()),
        owner_uid: row.get(1)?,
        policy: None,
        criteria: crate::model::cleanup::Criteria::default(),
        state: PlanState::Planned,
        more: row.get(5)?,
        bytes: count(6)?,
        items: count(9)?,
        done: count(10)?,
        skipped: count(11)?,
        created_at: Timestamp::UNIX_EPOCH,
        applied_at: None,
    };
    Ok((plan, text))
}

fn plans(
    connection: &Connection,
    rest: &str,
    parameters: impl rusqlite::Params,
) -> Result<Vec<PlanRow>, CatalogError> {
    const DOING: &str = "list clean-up plans";
    let mut statement = connection.prepare_cached(&format!("{PLAN} {rest}")).map_err(sql(DOING))?;
    let rows = statement.query_map(parameters, plan_row).map_err(sql(DOING))?;
    let mut plans = Vec::new();
    for row in rows {
        let (mut plan, (id, policy, criteria, state, created, applied)) =
            row.map_err(sql(DOING))?;
        plan.id = PlanId::from(Uuid::from_bytes(id));
        plan.policy = policy.map(|name| word::<PolicyName>(&name)).transpose()?;
        plan.criteria = json(&criteria)?;
        plan.state = word(&state)?;
        plan.created_at = time(created)?;
        plan.applied_at = applied.map(time).transpose()?;
        plans.push(plan);
    }
    Ok(plans)
}

/// Position, key of the version, action, what was seen.
type OpenItem = (i64, i64, String, String, String);

impl Change<'_> {
    /// Does one item of a plan and notes what became of it.
    fn do_item(&self, plan: i64, id: PlanId, item: OpenItem) -> Result<(), CatalogError> {
        let (position, pk, action, reason, seen) = item;
        let seen: Seen = json(&seen)?;
        let text = format!(
            "SELECT {COLUMNS} FROM version v JOIN artifact a ON a.pk = v.artifact WHERE v.pk = ?"
        );
        let (_, row) = select(self.transaction, self.doing, &text, [pk])?
            .pop()
            .ok_or_else(|| damaged(format!("a plan names version {pk}, which there is not")))?;
        let text = "SELECT max(number) FROM version WHERE artifact = (SELECT artifact FROM version WHERE pk = ?)";
        let newest: i64 = self
            .transaction
            .prepare_cached(text)
            .and_then(|mut statement| statement.query_row([pk], |row| row.get(0)))
            .map_err(sql(self.doing))?;
        let why = match judge(word(&action)?, &seen, &row, newest.unsigned_abs()) {
            Ok(next) => {
                let told = json!({ "from": row.state, "to": next, "plan": id, "reason": reason });
                self.move_telling(pk, &row, next, &told)?;
                follow_latest(self.transaction, row.id).map_err(sql(self.doing))?;
                None
            }
            Err(why) => Some(why),
        };
        self.execute(
            "UPDATE plan_item SET outcome = CASE WHEN ?1 IS NULL THEN 'done' ELSE 'skipped' END, why = ?1 \
             WHERE plan = ?2 AND position = ?3",
            params![why, plan, position],
        )?;
        Ok(())
    }

    fn open_items(&self, plan: i64, limit: u32) -> Result<Vec<OpenItem>, CatalogError> {
        let text = "SELECT position, version, action, reason, seen FROM plan_item \
             WHERE plan = ? AND outcome IS NULL ORDER BY position LIMIT ?";
        let mut statement = self.transaction.prepare_cached(text).map_err(sql(self.doing))?;
        let items = statement.query_map(params![plan, limit], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
        });
        items.and_then(Iterator::collect).map_err(sql(self.doing))
    }
}

impl Retention for SqliteCatalog {
    fn add_plan(&self, plan: &NewPlan) -> Result<PlanId, CatalogError> {
        const DOING: &str = "keep a clean-up plan";
        self.write(DOING, |transaction| {
            let id = PlanId::generate();
            let author = &Author::Belljar;
            let change = Change { transaction, author, at: plan.at, doing: DOING };
            change.execute(
                "INSERT INTO plan (id, owner_uid, policy, criteria, state, more, bytes, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                params![
                    id.as_uuid().as_bytes(),
                    plan.owner,
                    plan.policy.as_ref().map(PolicyName::as_str),
                    to_json(&plan.criteria),
                    PlanState::Planned.as_str(),
                    plan.more,
                    integer(plan.bytes),
                    plan.at.as_microsecond()
                ],
            )?;
            let key = transaction.last_insert_rowid();
            for (position, item) in (0i64..).zip(&plan.items) {
                let which = Which::Number(item.number);
                let (version, _) = find(transaction, Some(plan.owner), item.id, which)?
                    .ok_or_else(|| damaged(format!("version {} is gone", item.number)))?;
                change.execute(
                    "INSERT INTO plan_item (plan, position, version, action, reason, seen) VALUES (?, ?, ?, ?, ?, ?)",
                    params![key, position, version, item.action.as_str(), item.reason, to_json(&item.seen)],
                )?;
            }
            let old = "SELECT pk FROM plan WHERE owner_uid = ?1 AND state <> 'APPLYING' AND pk <= \
                 (SELECT pk FROM plan WHERE owner_uid = ?1 ORDER BY pk DESC LIMIT 1 OFFSET ?2)";
            let parameters = params![plan.owner, PLANS_KEPT];
            change.execute(&format!("DELETE FROM plan_item WHERE plan IN ({old})"), parameters)?;
            change.execute(&format!("DELETE FROM plan WHERE pk IN ({old})"), parameters)?;
            Ok(id)
        })
    }

    fn plan(&self, owner: Option<u32>, id: PlanId) -> Result<Option<PlanRow>, CatalogError> {
        let rest = "WHERE p.id = ?1 AND (?2 IS NULL OR p.owner_uid = ?2) GROUP BY p.pk";
        let id = *id.as_uuid().as_bytes();
        Ok(plans(&lock(&self.reader), rest, params![id, owner])?.pop())
    }

    fn plans(&self, owner: Option<u32>, limit: u32) -> Result<Vec<PlanRow>, CatalogError> {
        let rest = "WHERE ?1 IS NULL OR p.owner_uid = ?1 GROUP BY p.pk ORDER BY p.pk DESC LIMIT ?2";
        plans(&lock(&self.reader), rest, params![owner, limit])
    }

    fn plan_items(&self, id: PlanId, skip: u64, limit: u32) -> Result<Vec<ItemRow>, CatalogError> {
        const DOING: &str = "read a clean-up plan";
        let reader = lock(&self.reader);
        let text = format!(
            "SELECT {COLUMNS}, i.action, i.reason, i.outcome, i.why FROM plan p JOIN plan_item i ON i.plan = p.pk \
             JOIN version v ON v.pk = i.version JOIN artifact a ON a.pk = v.artifact \
             WHERE p.id = ? AND i.position >= ? ORDER BY i.position LIMIT ?"
        );
        let mut statement = reader.prepare_cached(&text).map_err(sql(DOING))?;
        let id = *id.as_uuid().as_bytes();
        let parameters = params![id, integer(skip), limit];
        let mut rows = statement.query(parameters).map_err(sql(DOING))?;
        let mut items = Vec::new();
        while let Some(row) = rows.next().map_err(sql(DOING))? {
            let text = |name: &str| row.get::<_, Option<String>>(name).map_err(sql(DOING));
            let outcome = text("outcome")?.map(|_| ());
            let why = text("why")?;
            items.push(ItemRow {
                action: word(&text("action")?.unwrap_or_default())?,
                reason: text("reason")?.unwrap_or_default(),
                outcome: outcome.map(|()| why.map_or(Outcome::Done, Outcome::Skipped)),
                version: read_at(row, DOING)?,
            });
        }
        Ok(items)
    }

    fn apply(
        &self,
        owner: Option<u32>,
        id: PlanId,
        limit: u32,
        author: &Author,
    ) -> Result<Option<Progress>, CatalogError> {
        const DOING: &str = "apply a clean-up plan";
        self.write(DOING, |transaction| {
            let text = "SELECT pk, state FROM plan WHERE id = ?1 AND (?2 IS NULL OR owner_uid = ?2)";
            let found: Option<(i64, String)> = transaction
                .query_row(text, params![id.as_uuid().as_bytes(), owner], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })
                .optional()
                .map_err(sql(DOING))?;
            let Some((plan, state)) = found else { return Ok(None) };
            match word::<PlanState>(&state)? {
                PlanState::Applied => return Ok(Some(Progress { left: 0 })),
                PlanState::Planned | PlanState::Applying => {}
            }
            let change = Change { transaction, author, at: Timestamp::now(), doing: DOING };
            for item in change.open_items(plan, limit)? {
                change.do_item(plan, id, item)?;
            }
            let text = "SELECT count(*) FROM plan_item WHERE plan = ? AND outcome IS NULL";
            let left: i64 =
                transaction.query_row(text, [plan], |row| row.get(0)).map_err(sql(DOING))?;
            let state = if left == 0 { PlanState::Applied } else { PlanState::Applying };
            change.execute(
                "UPDATE plan SET state = ?1, applied_at = CASE ?1 WHEN 'APPLIED' THEN ?2 END WHERE pk = ?3",
                params![state.as_str(), change.at.as_microsecond(), plan],
            )?;
            Ok(Some(Progress { left: left.unsigned_abs() }))
        })
    }

    fn unfinished_plans(&self) -> Result<Vec<PlanId>, CatalogError> {
        const DOING: &str = "list unfinished plans";
        let reader = lock(&self.reader);
        let text = "SELECT id FROM plan WHERE state = 'APPLYING' ORDER BY pk";
        let mut statement = reader.prepare_cached(text).map_err(sql(DOING))?;
        let ids = statement.query_map([], |row| row.get(0));
        let ids: Vec<[u8; 16]> = ids.and_then(Iterator::collect).map_err(sql(DOING))?;
        Ok(ids.into_iter().map(|id| PlanId::from(Uuid::from_bytes(id))).collect())
    }

    fn set_policy(
        &self,
        owner: Option<u32>,
        name: &PolicyName,
        criteria: &crate::model::cleanup::Criteria,
        every_ms: u64,
        next_at: Timestamp,
    ) -> Result<PolicyRow, CatalogError> {
        self.write(policy::DOING, |transaction| {
            policy::set(transaction, owner, name, criteria, every_ms, next_at)
        })
    }

    fn policies(&self, owner: Option<u32>) -> Result<Vec<PolicyRow>, CatalogError> {
        let rest =
            "WHERE ?1 IS NULL OR owner_uid IS NULL OR owner_uid = ?1 ORDER BY name, owner_uid";
        policy::select(&lock(&self.reader), rest, [owner])
    }

    fn remove_policy(&self, owner: Option<u32>, name: &PolicyName) -> Result<bool, CatalogError> {
        self.write(policy::DOING, |transaction| {
            let text = "DELETE FROM policy WHERE owner_uid IS ? AND name = ?";
            let removed = transaction.execute(text, params![owner, name.as_str()]);
            Ok(removed.map_err(sql(policy::DOING))? > 0)
        })
    }

    fn claim_policy(
        &self,
        holder: Uuid,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Option<PolicyRow>, CatalogError> {
        // Without the writer's lock while nothing is due, which is nearly always.
        if policy::due(&lock(&self.reader), now)?.is_none() {
            return Ok(None);
        }
        self.write(policy::DOING, |transaction| policy::claim(transaction, holder, now, until))
    }

    fn renew_claim(
        &self,
        holder: Uuid,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool, CatalogError> {
        self.write(policy::DOING, |transaction| {
            let text = "UPDATE policy SET lease_until = ? WHERE holder = ? AND lease_until > ?";
            let parameters =
                params![until.as_microsecond(), holder.as_bytes(), now.as_microsecond()];
            Ok(transaction.execute(text, parameters).map_err(sql(policy::DOING))? > 0)
        })
    }

    fn end_claim(&self, holder: Uuid, last: &LastRun, now: Timestamp) -> Result<(), CatalogError> {
        self.write(policy::DOING, |transaction| {
            let text = "UPDATE policy SET holder = NULL, lease_until = NULL, runs = runs + 1, last = ?, next_at = ? + every * 1000 WHERE holder = ?";
            let parameters = params![to_json(last), now.as_microsecond(), holder.as_bytes()];
            transaction.execute(text, parameters).map(drop).map_err(sql(policy::DOING))
        })
    }

    fn owners(&self) -> Result<Vec<u32>, CatalogError> {
        const DOING: &str = "list users";
        let reader = lock(&self.reader);
        let text = "SELECT DISTINCT owner_uid FROM artifact ORDER BY owner_uid";
        let mut statement = reader.prepare_cached(text).map_err(sql(DOING))?;
        let owners = statement.query_map([], |row| row.get(0));
        owners.and_then(Iterator::collect).map_err(sql(DOING))
    }

    fn named_contents(
        &self,
        owner: Option<u32>,
        after: Option<Digest>,
        limit: u32,
    ) -> Result<Vec<NamedContent>, CatalogError> {
        const DOING: &str = "list contents that versions name";
        let reader = lock(&self.reader);
        let text = "SELECT digest, max(size) FROM version WHERE digest > ?1 AND content_kept AND swept_at IS NULL \
                 AND (?2 IS NULL OR owner_uid = ?2) GROUP BY digest ORDER BY digest LIMIT ?3";
        let mut statement = reader.prepare_cached(text).map_err(sql(DOING))?;
        // Shorter than every digest, and so before them.
        let after = after.map_or(Vec::new(), |digest| digest.as_bytes().to_vec());
        let rows = statement.query_map(params![after, owner, limit], |row| {
            let size: i64 = row.get(1)?;
            Ok(NamedContent { digest: Digest::from_bytes(row.get(0)?), size: size.unsigned_abs() })
        });
        rows.and_then(Iterator::collect).map_err(sql(DOING))
    }

    fn naming(
        &self,
        owner: Option<u32>,
        digest: &Digest,
        limit: u32,
    ) -> Result<Vec<VersionRow>, CatalogError> {
        let rows = naming(&lock(&self.reader), owner, digest, limit)?;
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    }

    fn awaits_placement(&self, digest: &Digest) -> Result<bool, CatalogError> {
        let reader = lock(&self.reader);
        let text = "SELECT count(*) FROM placement WHERE digest = ?";
        let count = reader
            .prepare_cached(text)
            .and_then(|mut s| s.query_row([digest.as_bytes()], |row| row.get::<_, i64>(0)));
        Ok(count.map_err(sql("look at a content's place"))? > 0)
    }

    fn lost(&self, owner: Option<u32>) -> Result<u64, CatalogError> {
        let text = "SELECT count(*) FROM version WHERE lost_at IS NOT NULL AND (?1 IS NULL OR owner_uid = ?1)";
        let count: rusqlite::Result<i64> =
            lock(&self.reader).query_row(text, [owner], |row| row.get(0));
        Ok(count.map_err(sql("count lost contents"))?.unsigned_abs())
    }

    fn lose(
        &self,
        digest: &Digest,
        is_gone: &dyn Fn() -> bool,
        author: &Author,
    ) -> Result<u64, CatalogError> {
        const DOING: &str = "note that a content is lost";
        self.write(DOING, |transaction| {
            if !is_gone() {
                return Ok(0);
            }
            let change = Change { transaction, author, at: Timestamp::now(), doing: DOING };
            let rows = naming(transaction, None, digest, u32::MAX)?;
            for (pk, row) in &rows {
                change.execute(
                    "UPDATE version SET content_kept = 0, lost_at = ?1, updated_at = ?1 WHERE pk = ?2",
                    params![change.at.as_microsecond(), pk],
                )?;
                change.tell(row, "content-lost", &json!({ "digest": digest }))?;
            }
            Ok(rows.len() as u64)
        })
    }

    fn tell_mended(&self, digest: &Digest, how: &str, author: &Author) -> Result<(), CatalogError> {
        const DOING: &str = "tell that a content was mended";
        self.write(DOING, |transaction| {
            let change = Change { transaction, author, at: Timestamp::now(), doing: DOING };
            for (_, row) in naming(transaction, None, digest, u32::MAX)? {
                change.tell(&row, "content-mended", &json!({ "digest": digest, "how": how }))?;
            }
            Ok(())
        })
    }
}

fn naming(
    connection: &Connection,
    owner: Option<u32>,
    digest: &Digest,
    limit: u32,
) -> Result<Vec<(i64, VersionRow)>, CatalogError> {
    let text = format!(
        "SELECT {COLUMNS} FROM version v JOIN artifact a ON a.pk = v.artifact \
         WHERE v.digest = ?1 AND v.content_kept AND v.swept_at IS NULL AND (?2 IS NULL OR v.owner_uid = ?2) LIMIT ?3"
    );
    let parameters = params![digest.as_bytes(), owner, limit];
    select(connection, "look who names a content", &text, parameters)
}
