//! Lists of versions as statements.
//!
//! Keys are found first and rows read for one page only. PostgreSQL keeps statistics, by which it chooses among the indexes.

use super::expression;
use super::pattern::{self, Subject, Untranslatable};
use super::row::COLUMNS;
use super::statement::{Statement, Value};
use super::text::escape;
use super::view::first_letters;
use crate::model::order::OrderBy;
use crate::storage::{Filter, SortKey};

/// [`crate::storage::VersionRow::path_seen`] of the version `v` and its artifact `a`.
pub(super) const PATH_SEEN: &str = "CASE WHEN v.path IS NULL THEN a.host_path \
     ELSE convert_to('/workspace/' || v.mount || '/', 'UTF8') || v.path END";

/// The list's page, and one row more than was asked for, which tells whether there is a next one.
pub(super) fn statement(owner: Option<u32>, filter: &Filter) -> Result<Statement, Untranslatable> {
    let direction = if filter.order.descending { "DESC" } else { "ASC" };
    let key = match filter.order.by {
        OrderBy::Created => "v.created_at",
        OrderBy::Updated => "v.updated_at",
        OrderBy::Size => "v.size",
        OrderBy::Path => PATH_SEEN,
        OrderBy::Type => "v.type",
    };
    let mut statement = Statement::default();
    statement.text(&format!(
        "SELECT {COLUMNS} FROM (SELECT v.pk AS page_pk, {key} AS sort_key \
         FROM version v JOIN artifact a ON a.pk = v.artifact WHERE TRUE"
    ));
    conditions(&mut statement, owner, filter)?;
    if let Some(after) = &filter.after {
        let behind = if filter.order.descending { "<" } else { ">" };
        let value = match (&after.key, filter.order.by) {
            (SortKey::Number(number), _) => Value::from(*number),
            (SortKey::Bytes(bytes), OrderBy::Type) => {
                let text = String::from_utf8_lossy(bytes);
                Value::Text(Some(escape(&text).into_owned()))
            }
            (SortKey::Bytes(bytes), _) => Value::from(&bytes[..]),
        };
        statement.text(&format!(" AND ({key}, v.pk) {behind} (")).value(value);
        statement.text(", ").value(after.version).text(")");
    }
    statement.text(&format!(" ORDER BY {key} {direction}, v.pk {direction} LIMIT "));
    statement.value(i64::from(filter.limit) + 1);
    statement.text(&format!(
        ") AS page JOIN version v ON v.pk = page.page_pk JOIN artifact a ON a.pk = v.artifact \
         ORDER BY page.sort_key {direction}, page.page_pk {direction}"
    ));
    Ok(statement)
}

fn texts<'a>(texts: impl Iterator<Item = &'a str>) -> Value {
    Value::Texts(texts.map(|text| Some(escape(text).into_owned())).collect())
}

fn conditions(
    statement: &mut Statement,
    owner: Option<u32>,
    filter: &Filter,
) -> Result<(), Untranslatable> {
    match &filter.states[..] {
        [] => {}
        [state] => {
            statement.and("v.state =", state.as_str());
        }
        several => {
            let states = texts(several.iter().map(|state| state.as_str()));
            statement.and("v.state = ANY (", states).text(")");
        }
    }
    match &filter.types[..] {
        [] => {}
        [name] => {
            statement.and("v.type =", name);
        }
        several => {
            let names = texts(several.iter().map(String::as_str));
            statement.and("v.type = ANY (", names).text(")");
        }
    }
    if !filter.wants_every_version() {
        statement.text(" AND v.number = a.latest");
    }
    if let Some(owner) = owner {
        statement.and("v.owner_uid =", owner);
    }
    if let Some(graph) = &filter.graph {
        statement.and("v.graph_id =", graph);
        statement.and("left(v.graph_id, 200) =", first_letters(graph));
    }
    if let Some(node) = &filter.node {
        statement.and("v.node_id =", node);
    }
    if let Some(workspace) = &filter.workspace {
        statement.and("v.workspace =", workspace.as_str());
    }
    if let Some(run) = filter.run {
        let produced = "EXISTS (SELECT 1 FROM produced p WHERE p.version = v.pk AND p.created_at = v.created_at AND p.run =";
        statement.and(produced, run.as_uuid()).text(")");
    }
    for (table, name) in [("label", &filter.label), ("tag", &filter.tag)] {
        if let Some(name) = name {
            let named =
                format!("EXISTS (SELECT 1 FROM {table} n WHERE n.version = v.pk AND n.name =");
            statement.and(&named, name).text(")");
        }
    }
    if let Some(alias) = &filter.alias {
        let named = "EXISTS (SELECT 1 FROM alias n WHERE n.artifact = v.artifact AND n.name =";
        statement.and(named, alias);
        if let Some(owner) = owner {
            statement.and("n.owner_uid =", owner);
        }
        statement.text(")");
    }
    for (condition, time) in [
        ("v.created_at >=", filter.since),
        ("v.created_at <", filter.before),
        ("v.updated_at >=", filter.updated_since),
        ("v.updated_at <", filter.updated_before),
    ] {
        if let Some(time) = time {
            statement.and(condition, time);
        }
    }
    if let Some(glob) = &filter.path {
        let matching = pattern::expression(glob, Subject::Path)?;
        statement.and(&format!("({} ~", pattern::subject(glob, "a.host_path")), &matching);
        statement.text(&format!(" OR {} ~ ", pattern::subject(glob, PATH_SEEN)));
        statement.value(&matching).text(")");
    }
    if let Some(asked) = &filter.expression {
        statement.text(" AND ");
        expression::add(statement, asked, filter.now)?;
    }
    Ok(())
}
