//! Lists of versions: which index leads to them, and the statement that says so.
//!
//! SQLite chooses indexes by statistics that this catalog does not keep, and without them it takes the index of an owner
//! of everything as readily as that of a small graph. So the choice is made here: what is asked for is counted in its
//! indexes up to a bound, the smallest leads, and the statement names its index (sqlite.org/lang_indexedby: a statement that
//! cannot use the index fails).
//!
//! Keys are found first and rows read for one page only. Where several states or types are wanted, each has its own
//! part of the statement, whose first page comes from the index in order; the parts are merged.

use super::function::{GLOB, PATH_SEEN};
use super::row::{COLUMNS, select};
use super::statement::Statement;
use super::{expression, sql};
use crate::model::artifact::ArtifactState;
use crate::model::order::OrderBy;
use crate::storage::catalog::CatalogError;
use crate::storage::{Cursor, Filter, SortKey, VersionPage};
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

const DOING: &str = "list artifacts";

/// Up to so many rows are fetched one by one and sorted; more are walked in the order of an index instead. Both cost about
/// the same here for a page of a hundred of 1,000,000 rows, at 5 µs a row fetched and 2.5 µs a row walked
/// (docs/benchmarks.md).
const FEW: u32 = 10_000;

/// Most types that have a part of the statement each.
const TYPES_APART_MAX: usize = 8;

const STATES: [ArtifactState; 4] = [
    ArtifactState::Creating,
    ArtifactState::Ready,
    ArtifactState::Archived,
    ArtifactState::Deleted,
];

/// What leads to the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lead {
    Run,
    Label,
    Tag,
    Alias,
    Graph,
    Workspace,
    Type,
    Owner,
    Updated,
    /// Everything in the state, newest first.
    State,
}

impl Lead {
    /// In the order in which they are preferred when all are many.
    const COUNTED: [Lead; 8] = [
        Lead::Alias,
        Lead::Label,
        Lead::Run,
        Lead::Tag,
        Lead::Graph,
        Lead::Workspace,
        Lead::Type,
        Lead::Owner,
    ];

    /// The versions and which index leads to them.
    fn versions(self) -> &'static str {
        match self {
            Lead::Run => "produced way CROSS JOIN version v ON v.pk = way.version",
            Lead::Label => {
                "label way INDEXED BY label_by_name CROSS JOIN version v ON v.pk = way.version"
            }
            Lead::Tag => {
                "tag way INDEXED BY tag_by_name CROSS JOIN version v ON v.pk = way.version"
            }
            // Looked up by their keys, which come from another table.
            Lead::Alias => "version v NOT INDEXED",
            Lead::Graph => "version v INDEXED BY version_by_graph",
            Lead::Workspace => "version v INDEXED BY version_by_workspace",
            Lead::Type => "version v INDEXED BY version_by_type",
            Lead::Owner => "version v INDEXED BY version_by_owner",
            Lead::Updated => "version v INDEXED BY version_by_updated",
            Lead::State => "version v INDEXED BY version_by_state",
        }
    }

    /// Which column of the table `way` has what is asked for, where another table than `version` leads in order of time.
    fn way(self) -> Option<&'static str> {
        match self {
            Lead::Run => Some("way.run ="),
            Lead::Label | Lead::Tag => Some("way.name ="),
            Lead::Alias
            | Lead::Graph
            | Lead::Workspace
            | Lead::Type
            | Lead::Owner
            | Lead::Updated
            | Lead::State => None,
        }
    }

    /// Whether it finds its versions in another table than `version`.
    fn is_elsewhere(self) -> bool {
        self == Lead::Alias || self.way().is_some()
    }
}

struct Question<'a> {
    owner: Option<u32>,
    filter: &'a Filter,
}

pub(super) fn list(
    connection: &Connection,
    owner: Option<u32>,
    filter: &Filter,
) -> Result<VersionPage, CatalogError> {
    let question = Question { owner, filter };
    let lead = question.lead(connection)?;
    let statement = question.statement(lead);
    let mut rows = select(connection, DOING, &statement.text, params_from_iter(statement.values))?;
    let more = rows.len() > filter.limit as usize;
    rows.truncate(filter.limit as usize);
    let next = rows.last().filter(|_| more).map(|(pk, row)| Cursor::of(row, *pk, filter.order.by));
    Ok(VersionPage { rows: rows.into_iter().map(|(_, row)| row).collect(), next })
}

impl Question<'_> {
    fn lead(&self, connection: &Connection) -> Result<Lead, CatalogError> {
        let asked: Vec<Lead> =
            Lead::COUNTED.into_iter().filter(|lead| self.names(*lead).is_some()).collect();
        let usual = self.usual(&asked);
        // One index alone, which also gives the order, needs no count.
        let choices = asked.len() + usize::from(usual == Lead::Updated);
        if choices < 2 && !asked.iter().any(|lead| self.is_set(*lead)) {
            return Ok(usual);
        }
        let mut least: Option<(u32, Lead)> = None;
        for lead in asked {
            let bound = least.map_or(FEW, |(count, _)| count);
            if let Some(count) = self.count(connection, lead, bound)? {
                least = Some((count, lead));
            }
        }
        Ok(least.map_or(usual, |(_, lead)| lead))
    }

    /// Whether it gives keys in an order that is not the one asked for, so that all of them are fetched and sorted.
    fn is_set(&self, lead: Lead) -> bool {
        lead == Lead::Alias || (lead.way().is_some() && self.filter.order.by != OrderBy::Created)
    }

    /// What leads when everything that is asked for is many.
    fn usual(&self, asked: &[Lead]) -> Lead {
        if let Some(lead) = asked.iter().find(|lead| !self.is_set(**lead) && **lead != Lead::Owner)
        {
            return *lead;
        }
        let updated = self.filter.order.by == OrderBy::Updated
            || self.filter.updated_since.is_some()
            || self.filter.updated_before.is_some();
        match (updated, self.owner) {
            (true, _) => Lead::Updated,
            (false, Some(_)) => Lead::Owner,
            (false, None) => Lead::State,
        }
    }

    /// The keys in the index of the lead, when that is asked for at all.
    fn names(&self, lead: Lead) -> Option<Statement> {
        let filter = self.filter;
        let mut keys = Statement::default();
        let single = |text: &Option<String>| text.clone().map(Value::from);
        let (table, value) = match lead {
            Lead::Run => {
                let run = filter.run.map(|run| Value::from(run.as_uuid().as_bytes().to_vec()));
                ("version FROM produced WHERE run =", run)
            }
            Lead::Label => ("version FROM label WHERE name =", single(&filter.label)),
            Lead::Tag => ("version FROM tag WHERE name =", single(&filter.tag)),
            Lead::Alias => (
                "named.pk AS version FROM alias CROSS JOIN version named ON named.artifact = alias.artifact \
                 WHERE alias.name =",
                single(&filter.alias),
            ),
            Lead::Graph => ("pk FROM version WHERE graph_id =", single(&filter.graph)),
            Lead::Workspace => {
                let workspace = filter.workspace.clone().map(|id| Value::from(String::from(id)));
                ("pk FROM version WHERE workspace =", workspace)
            }
            Lead::Owner => ("pk FROM version WHERE owner_uid =", self.owner.map(Value::from)),
            Lead::Type => {
                if filter.types.is_empty() || filter.types.len() > TYPES_APART_MAX {
                    return None;
                }
                keys.text("SELECT pk FROM version WHERE type IN ");
                keys.list(filter.types.iter().cloned());
                return Some(keys);
            }
            Lead::Updated | Lead::State => return None,
        };
        keys.text(&format!("SELECT {table} "));
        keys.value(value?);
        if lead == Lead::Alias
            && let Some(owner) = self.owner
        {
            keys.and("alias.owner_uid =", owner);
        }
        Some(keys)
    }

    /// How many keys there are; nothing when there are as many as the bound.
    fn count(
        &self,
        connection: &Connection,
        lead: Lead,
        bound: u32,
    ) -> Result<Option<u32>, CatalogError> {
        let Some(keys) = self.names(lead) else { return Ok(None) };
        let mut counting = Statement::default();
        counting.text(&format!("SELECT count(*) FROM ({} LIMIT ", keys.text));
        counting.values = keys.values;
        counting.value(i64::from(bound));
        counting.text(")");
        let count = connection
            .prepare_cached(&counting.text)
            .and_then(|mut prepared| {
                prepared.query_row(params_from_iter(counting.values), |row| row.get::<_, u32>(0))
            })
            .map_err(sql(DOING))?;
        Ok(Some(count).filter(|count| *count < bound))
    }

    fn statement(&self, lead: Lead) -> Statement {
        let order = self.filter.order;
        let direction = if order.descending { "DESC" } else { "ASC" };
        let mut statement = Statement::default();
        statement.text(&format!("SELECT {COLUMNS} FROM ("));
        let parts = self.parts(lead);
        let several = parts.len() > 1;
        if several {
            statement.text("SELECT pk, sort_key FROM (");
        }
        for (position, (states, types)) in parts.into_iter().enumerate() {
            if position > 0 {
                statement.text(" UNION ALL ");
            }
            if several {
                statement.text("SELECT * FROM (");
            }
            self.part(&mut statement, lead, &states, &types);
            if several {
                statement.text(")");
            }
        }
        if several {
            statement.text(&format!(") ORDER BY sort_key {direction}, pk {direction}"));
            self.limit(&mut statement);
        }
        statement.text(&format!(
            ") AS page CROSS JOIN version v ON v.pk = page.pk CROSS JOIN artifact a ON a.pk = v.artifact \
             ORDER BY page.sort_key {direction}, page.pk {direction}"
        ));
        statement
    }

    /// The states and types of each part; empty means any.
    fn parts(&self, lead: Lead) -> Vec<(Vec<ArtifactState>, Vec<String>)> {
        let filter = self.filter;
        if lead.is_elsewhere() {
            return vec![(filter.states.clone(), filter.types.clone())];
        }
        let states = if filter.states.is_empty() { &STATES[..] } else { &filter.states };
        let mut states: Vec<_> = states.to_vec();
        states.sort_by_key(|state| state.as_str());
        states.dedup();
        let mut types = filter.types.clone();
        types.sort();
        types.dedup();
        let of_state = |state: &ArtifactState| match lead {
            Lead::Type => {
                let alone = |name: &String| (vec![*state], vec![name.clone()]);
                types.iter().map(alone).collect()
            }
            Lead::Run
            | Lead::Label
            | Lead::Tag
            | Lead::Alias
            | Lead::Graph
            | Lead::Workspace
            | Lead::Owner
            | Lead::Updated
            | Lead::State => vec![(vec![*state], types.clone())],
        };
        states.iter().flat_map(of_state).collect()
    }

    /// The keys of one part, in order.
    fn part(
        &self,
        statement: &mut Statement,
        lead: Lead,
        states: &[ArtifactState],
        types: &[String],
    ) {
        let order = self.filter.order;
        let (pk, created_at) = self.ends(lead);
        let key = match order.by {
            OrderBy::Created => created_at,
            OrderBy::Updated => "v.updated_at",
            OrderBy::Size => "v.size",
            OrderBy::Path => PATH_SEEN,
            OrderBy::Type => "CAST(v.type AS BLOB)",
        };
        statement.text(&format!(
            "SELECT {pk} AS pk, {key} AS sort_key FROM {} CROSS JOIN artifact a ON a.pk = v.artifact WHERE ",
            lead.versions()
        ));
        self.conditions(statement, lead, states, types);
        if let Some(after) = &self.filter.after {
            let behind = if order.descending { "<" } else { ">" };
            let value = match &after.key {
                SortKey::Number(number) => Value::from(*number),
                SortKey::Bytes(bytes) => Value::from(bytes.clone()),
            };
            // The first bound is what an index can use.
            statement.and(&format!("{key} {behind}="), value.clone());
            statement.text(&format!(" AND ({key}, {pk}) {behind} ("));
            statement.value(value);
            statement.text(", ");
            statement.value(after.version);
            statement.text(")");
        }
        let direction = if order.descending { "DESC" } else { "ASC" };
        statement.text(&format!(" ORDER BY {key} {direction}, {pk} {direction}"));
        self.limit(statement);
    }

    /// The key and the time of a version where the lead's index ends with them.
    fn ends(&self, lead: Lead) -> (&'static str, &'static str) {
        if lead.way().is_some() {
            ("way.version", "way.created_at")
        } else {
            ("v.pk", "v.created_at")
        }
    }

    /// One more than asked for tells whether there is a next page.
    fn limit(&self, statement: &mut Statement) {
        statement.text(" LIMIT ");
        statement.value(i64::from(self.filter.limit) + 1);
    }

    fn conditions(
        &self,
        statement: &mut Statement,
        lead: Lead,
        states: &[ArtifactState],
        types: &[String],
    ) {
        let filter = self.filter;
        match states {
            [] => statement.text("TRUE"),
            [state] => {
                statement.text("v.state = ");
                statement.value(state.as_str().to_owned());
            }
            several => {
                statement.text("v.state IN ");
                statement.list(several.iter().map(|state| state.as_str().to_owned()));
            }
        }
        match types {
            [] => {}
            [name] => statement.and("v.type =", name.clone()),
            several => {
                statement.text(" AND v.type IN ");
                statement.list(several.iter().cloned());
            }
        }
        if !filter.wants_every_version() {
            statement.text(" AND v.number = a.latest");
        }
        for set in Lead::COUNTED.into_iter().filter(|lead| lead.is_elsewhere()) {
            let Some(keys) = self.names(set) else { continue };
            match (set == lead, set.way()) {
                (true, Some(way)) => statement.text(&format!(" AND {way} ?")),
                (true, None) => statement.text(&format!(" AND v.pk IN ({})", keys.text)),
                (false, _) => {
                    let own = if set == Lead::Alias {
                        "named.pk = v.pk"
                    } else if set == Lead::Run {
                        // The key of the table.
                        "created_at = v.created_at AND version = v.pk"
                    } else {
                        "version = v.pk"
                    };
                    statement.text(&format!(" AND EXISTS ({} AND {own})", keys.text));
                }
            }
            statement.values.extend(keys.values);
        }
        let workspace = filter.workspace.clone().map(String::from);
        for (condition, text) in
            [("v.graph_id =", filter.graph.clone()), ("v.workspace =", workspace)]
        {
            if let Some(text) = text {
                statement.and(condition, text);
            }
        }
        if let Some(owner) = self.owner {
            statement.and("v.owner_uid =", owner);
        }
        if let Some(node) = &filter.node {
            statement.and("v.node_id =", node.clone());
        }
        let (_, created_at) = self.ends(lead);
        for (column, condition, time) in [
            (created_at, ">=", filter.since),
            (created_at, "<", filter.before),
            ("v.updated_at", ">=", filter.updated_since),
            ("v.updated_at", "<", filter.updated_before),
        ] {
            if let Some(time) = time {
                statement.and(&format!("{column} {condition}"), time.as_microsecond());
            }
        }
        if let Some(glob) = &filter.path {
            let pattern = || Value::from(glob.as_str().to_owned());
            statement.text(&format!(" AND ({GLOB}(1, "));
            statement.value(pattern());
            statement.text(&format!(", a.host_path) OR {GLOB}(1, "));
            statement.value(pattern());
            statement.text(&format!(", {PATH_SEEN}))"));
        }
        if let Some(asked) = &filter.expression {
            statement.text(" AND ");
            expression::add(statement, asked, filter.now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::catalog::migrate;
    use crate::storage::catalog::sqlite::{function, keep_plans};

    /// A catalog of 400 versions of 400 artifacts, most of them like each other.
    fn catalog() -> Connection {
        let mut connection = Connection::open_in_memory().expect("open");
        keep_plans(&connection).expect("set");
        migrate::migrate(&mut connection).expect("migrate");
        function::install(&connection).expect("install");
        let rows = "
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
            INSERT INTO artifact (pk, id, owner_uid, host_path, latest, created_at)
                SELECT i, randomblob(16), 1000, CAST('/f' || i AS BLOB), 1, i FROM n;
            INSERT INTO version (artifact, owner_uid, number, origin, type, state, size, content_kept, closes, workspace,
                    mount, path, run, graph_id, created_at, updated_at)
                SELECT pk, 1000, 1, 'observed', 'data', 'READY', 1, 1, 1, 'w', 'm', x'61', x'00', iif(pk % 100, 'g', 'rare'),
                    pk, pk FROM artifact;
            INSERT INTO tag SELECT pk, 't', created_at FROM version WHERE pk % 50 = 0;
            INSERT INTO label SELECT artifact, 'l', pk, created_at FROM version WHERE pk % 50 = 1;
            INSERT INTO alias SELECT 1000, 'n' || pk, pk FROM artifact;
            INSERT INTO produced (run, created_at, version) SELECT randomblob(16), created_at, pk FROM version;";
        connection.execute_batch(rows).expect("rows");
        connection
    }

    fn plan(connection: &Connection, owner: Option<u32>, filter: &Filter) -> (Lead, String) {
        let question = Question { owner, filter };
        let lead = question.lead(connection).expect("count");
        let statement = question.statement(lead);
        let text = format!("EXPLAIN QUERY PLAN {}", statement.text);
        let mut explained = connection.prepare(&text).expect("a statement");
        let lines = explained
            .query_map(params_from_iter(statement.values), |row| row.get::<_, String>("detail"))
            .expect("a plan");
        (lead, lines.map(|line| line.expect("text")).collect::<Vec<_>>().join("\n"))
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn every_indexed_filter_is_answered_by_its_index_and_nothing_is_scanned() {
        let connection = catalog();
        let run = || Some("01890a5d-ac96-774b-bcce-b302099a8057".parse().expect("id"));
        let time = || Some("2026-05-01T00:00:00Z".parse().expect("a time"));
        let size = || "size".parse().expect("legal");
        let none = Filter::default;
        let key = "SEARCH v USING INTEGER PRIMARY KEY (rowid=?)";
        for (owner, filter, expected) in [
            (None, none(), "version_by_state (state=?)"),
            (
                None,
                Filter { since: time(), ..none() },
                "version_by_state (state=? AND created_at>?)",
            ),
            (
                None,
                Filter { states: Vec::new(), before: time(), ..none() },
                "version_by_state (state=? AND created_at<?)",
            ),
            (Some(1000), none(), "version_by_owner (owner_uid=? AND state=?)"),
            (
                Some(1000),
                Filter { since: time(), before: time(), ..none() },
                "version_by_owner (owner_uid=? AND state=? AND created_at>? AND created_at<?)",
            ),
            (
                None,
                Filter { graph: some("g"), ..none() },
                "version_by_graph (graph_id=? AND state=?)",
            ),
            (
                Some(1000),
                Filter { graph: some("rare"), ..none() },
                "version_by_graph (graph_id=? AND state=?)",
            ),
            (
                None,
                Filter { workspace: Some("w".parse().expect("id")), ..none() },
                "version_by_workspace (workspace=? AND state=?)",
            ),
            (
                None,
                Filter { types: vec!["data".into()], ..none() },
                "version_by_type (type=? AND state=?)",
            ),
            (
                None,
                Filter { types: vec!["data".into(), "log".into()], states: Vec::new(), ..none() },
                "version_by_type (type=? AND state=?)",
            ),
            (
                None,
                Filter {
                    updated_since: time(),
                    order: "updated".parse().expect("legal"),
                    ..none()
                },
                "version_by_updated (state=? AND updated_at>?)",
            ),
            (None, Filter { run: run(), ..none() }, "PRIMARY KEY (run=?)"),
            (None, Filter { label: some("l"), ..none() }, "label_by_name (name=?)"),
            (Some(1000), Filter { tag: some("t"), ..none() }, "tag_by_name (name=?)"),
            (
                None,
                Filter { tag: some("t"), since: time(), before: time(), ..none() },
                "tag_by_name (name=? AND created_at>? AND created_at<?)",
            ),
            (None, Filter { tag: some("t"), order: size(), ..none() }, key),
            (None, Filter { alias: some("n5"), ..none() }, key),
            (Some(1000), Filter { alias: some("n5"), tag: some("t"), ..none() }, key),
        ] {
            let sorted = filter.alias.is_some() || filter.order == size();
            let (lead, plan) = plan(&connection, owner, &filter);
            assert!(plan.contains(expected), "{lead:?}: {expected} is not in\n{plan}");
            for table in [
                "v", "a", "way", "version", "artifact", "named", "label", "tag", "alias",
                "produced",
            ] {
                let scan = |line: &str| {
                    line.trim() == format!("SCAN {table}")
                        || line.contains(&format!("SCAN {table} "))
                };
                assert!(!plan.lines().any(scan), "{lead:?}:\n{plan}");
            }
            // The order comes from the index as well; the page itself and merged parts are sorted.
            let several = filter.states.len() != 1;
            let sorts = plan.matches("USE TEMP B-TREE FOR ORDER BY").count();
            assert!(sorted || several || sorts <= 1, "{lead:?}:\n{plan}");
        }
    }

    #[test]
    fn the_smallest_of_what_is_asked_for_leads() {
        let connection = catalog();
        let lead = |filter: Filter| plan(&connection, Some(1000), &filter).0;
        let none = Filter::default;
        let types = || vec!["data".to_owned()];
        assert_eq!(lead(Filter { graph: some("rare"), types: types(), ..none() }), Lead::Graph);
        assert_eq!(lead(Filter { graph: some("g"), tag: some("t"), ..none() }), Lead::Tag);
        assert_eq!(lead(Filter { graph: some("rare"), tag: some("t"), ..none() }), Lead::Graph);
        assert_eq!(
            lead(Filter { types: vec!["model".into()], tag: some("t"), ..none() }),
            Lead::Type
        );
    }
}
