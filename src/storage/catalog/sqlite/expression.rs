//! An expression as a SQL condition: the same answers as [`crate::model::expression::evaluate`], found by SQLite.
//!
//! Texts that come from outside are bound, never written into the statement. A comparison is NULL where what it looks at
//! is NULL or missing; `IS TRUE` makes that false at once, so that `NOT` sees true and false only.

use super::function::{GLOB, PATH_SEEN};
use super::statement::Statement;
use crate::model::expression::{Check, Expression, Field, Key, Kind, Relation, Step, Test, Value};
use crate::model::id::RunId;
use jiff::Timestamp;
use rusqlite::types::Value as Sql;

/// Adds the condition, about the version `v` and its artifact `a`.
pub(super) fn add(statement: &mut Statement, expression: &Expression, now: Timestamp) {
    match expression {
        Expression::And(parts) => joined(statement, parts, " AND ", now),
        Expression::Or(parts) => joined(statement, parts, " OR ", now),
        Expression::Not(inner) => {
            statement.text("NOT (");
            add(statement, inner, now);
            statement.text(")");
        }
        Expression::Test(test) => add_test(statement, test, now),
    }
}

fn joined(statement: &mut Statement, parts: &[Expression], word: &str, now: Timestamp) {
    statement.text("(");
    for (position, part) in parts.iter().enumerate() {
        if position > 0 {
            statement.text(word);
        }
        add(statement, part, now);
    }
    statement.text(")");
}

fn add_test(statement: &mut Statement, test: &Test, now: Timestamp) {
    match &test.check {
        Check::Exists => exists(statement, &test.key),
        Check::Like(glob) => like(statement, &test.key, glob.as_str()),
        Check::Compare(Relation::NotEqual, value) => {
            statement.text("(");
            exists(statement, &test.key);
            statement.text(" AND NOT ");
            compare(statement, &test.key, Relation::Equal, value, now);
            statement.text(")");
        }
        Check::Compare(relation, value) => compare(statement, &test.key, *relation, value, now),
        Check::In(values) => {
            statement.text("(");
            for (position, value) in values.iter().enumerate() {
                if position > 0 {
                    statement.text(" OR ");
                }
                compare(statement, &test.key, Relation::Equal, value, now);
            }
            statement.text(")");
        }
    }
}

/// Where a field is.
enum Place {
    Column(&'static str),
    /// Rows of another table that name the version or its artifact.
    Table(&'static str),
}

fn place(field: Field) -> Place {
    match field {
        Field::Type => Place::Column("v.type"),
        Field::State => Place::Column("v.state"),
        Field::Origin => Place::Column("v.origin"),
        Field::Size => Place::Column("v.size"),
        Field::Version => Place::Column("v.number"),
        Field::Path => Place::Column(PATH_SEEN),
        Field::HostPath => Place::Column("a.host_path"),
        Field::Graph => Place::Column("v.graph_id"),
        Field::Node => Place::Column("v.node_id"),
        Field::Run => Place::Column("v.run"),
        Field::Workspace => Place::Column("v.workspace"),
        Field::Mime => Place::Column("v.mime"),
        Field::CreatedAt => Place::Column("v.created_at"),
        Field::UpdatedAt => Place::Column("v.updated_at"),
        Field::Pinned => Place::Column("v.pinned"),
        Field::Held => Place::Column("v.held"),
        Field::Quarantined => Place::Column("v.quarantined"),
        Field::Label => Place::Table("label WHERE version = v.pk"),
        Field::Tag => Place::Table("tag WHERE version = v.pk"),
        Field::Alias => Place::Table("alias WHERE artifact = v.artifact"),
    }
}

fn exists(statement: &mut Statement, key: &Key) {
    match key {
        Key::Metadata(steps) => {
            statement.text("(json_type(v.metadata, ");
            statement.value(Sql::from(json_path(steps)));
            statement.text(") IS NOT NULL)");
        }
        Key::Field(field) => match place(*field) {
            Place::Column(column) => statement.text(&format!("({column} IS NOT NULL)")),
            Place::Table(table) => statement.text(&format!("EXISTS (SELECT 1 FROM {table})")),
        },
    }
}

fn like(statement: &mut Statement, key: &Key, pattern: &str) {
    let pattern = Sql::from(pattern.to_owned());
    match key {
        Key::Metadata(steps) => {
            let path = json_path(steps);
            statement.text("(json_type(v.metadata, ");
            statement.value(Sql::from(path.clone()));
            statement.text(&format!(") = 'text' AND {GLOB}(0, "));
            statement.value(pattern);
            statement.text(", json_extract(v.metadata, ");
            statement.value(Sql::from(path));
            statement.text("))) IS TRUE");
        }
        Key::Field(field) => {
            let of_path = i32::from(field.kind() == Kind::Path);
            match place(*field) {
                Place::Column(column) => {
                    statement.text(&format!("({column} IS NOT NULL AND {GLOB}({of_path}, "));
                    statement.value(pattern);
                    statement.text(&format!(", {column})) IS TRUE"));
                }
                Place::Table(table) => {
                    statement
                        .text(&format!("EXISTS (SELECT 1 FROM {table} AND {GLOB}({of_path}, "));
                    statement.value(pattern);
                    statement.text(", name))");
                }
            }
        }
    }
}

fn compare(
    statement: &mut Statement,
    key: &Key,
    relation: Relation,
    value: &Value,
    now: Timestamp,
) {
    match key {
        Key::Metadata(steps) => compare_metadata(statement, json_path(steps), relation, value),
        Key::Field(field) => {
            let value = bound(*field, value, now);
            match place(*field) {
                Place::Column(column) => {
                    statement.text(&format!("({column} {} ", relation.as_str()));
                    statement.value(value);
                    statement.text(") IS TRUE");
                }
                Place::Table(table) => {
                    statement.text(&format!(
                        "EXISTS (SELECT 1 FROM {table} AND name {} ",
                        relation.as_str()
                    ));
                    statement.value(value);
                    statement.text(")");
                }
            }
        }
    }
}

/// json_extract makes 1 of true, and numbers and texts are never equal only when their kind is asked for first.
fn compare_metadata(statement: &mut Statement, path: String, relation: Relation, value: &Value) {
    let (kinds, value) = match value {
        Value::Null => ("('null')", None),
        Value::Bool(true) => ("('true')", None),
        Value::Bool(false) => ("('false')", None),
        Value::Int(value) => ("('integer', 'real')", Some(Sql::from(*value))),
        Value::Float(value) => ("('integer', 'real')", Some(Sql::from(*value))),
        Value::Text(text) => ("('text')", Some(Sql::from(text.clone()))),
        // The parser takes no times here.
        Value::Time(_) | Value::Ago(_) => return statement.text("FALSE"),
    };
    statement.text("(json_type(v.metadata, ");
    statement.value(Sql::from(path.clone()));
    statement.text(&format!(") IN {kinds}"));
    if let Some(value) = value {
        statement.text(" AND json_extract(v.metadata, ");
        statement.value(Sql::from(path));
        statement.text(&format!(") {} ", relation.as_str()));
        statement.value(value);
    }
    statement.text(") IS TRUE");
}

/// The value as the column of the field has it.
fn bound(field: Field, value: &Value, now: Timestamp) -> Sql {
    match (field.kind(), value) {
        (Kind::Path, Value::Text(text)) => Sql::from(text.clone().into_bytes()),
        (Kind::Run, Value::Text(text)) => text
            .parse::<RunId>()
            .map_or(Sql::Null, |run| Sql::from(run.as_uuid().as_bytes().to_vec())),
        (_, Value::Text(text)) => Sql::from(text.clone()),
        (_, Value::Int(value)) => Sql::from(*value),
        (_, Value::Float(value)) => Sql::from(*value),
        (_, Value::Bool(value)) => Sql::from(*value),
        (_, Value::Null) => Sql::Null,
        (_, Value::Time(_) | Value::Ago(_)) => value.microsecond(now).map_or(Sql::Null, Sql::from),
    }
}

/// A path of SQLite's JSON functions (sqlite.org/json1, path arguments). A name in quotes is written as JSON writes it.
fn json_path(steps: &[Step]) -> String {
    let mut path = "$".to_owned();
    for step in steps {
        match step {
            Step::Name(name) => {
                path.push('.');
                path.push_str(&serde_json::Value::from(name.as_str()).to_string());
            }
            Step::Index(index) => path.push_str(&format!("[{index}]")),
        }
    }
    path
}
