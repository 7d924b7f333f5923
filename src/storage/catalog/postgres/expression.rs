//! An expression as a SQL condition: the same answers as [`crate::model::expression::evaluate`], found by PostgreSQL.
//!
//! Texts that come from outside are bound, never written into the statement. A comparison is NULL where what it looks at is NULL
//! or missing; `coalesce` makes that false at once, so that `NOT` sees true and false only.

use super::document::{decimal, write_text};
use super::list::PATH_SEEN;
use super::pattern::{self, Subject, Untranslatable};
use super::statement::{Statement, Value as Sql};
use super::text::escape;
use crate::model::expression::{Check, Expression, Field, Key, Kind, Relation, Step, Test, Value};
use crate::model::glob::Glob;
use crate::model::id::RunId;
use jiff::Timestamp;

/// Adds the condition, about the version `v` and its artifact `a`.
pub(super) fn add(
    statement: &mut Statement,
    expression: &Expression,
    now: Timestamp,
) -> Result<(), Untranslatable> {
    match expression {
        Expression::And(parts) => joined(statement, parts, " AND ", now)?,
        Expression::Or(parts) => joined(statement, parts, " OR ", now)?,
        Expression::Not(inner) => {
            statement.text("NOT (");
            add(statement, inner, now)?;
            statement.text(")");
        }
        Expression::Test(test) => add_test(statement, test, now)?,
    }
    Ok(())
}

fn joined(
    statement: &mut Statement,
    parts: &[Expression],
    word: &str,
    now: Timestamp,
) -> Result<(), Untranslatable> {
    statement.text("(");
    for (position, part) in parts.iter().enumerate() {
        if position > 0 {
            statement.text(word);
        }
        add(statement, part, now)?;
    }
    statement.text(")");
    Ok(())
}

fn add_test(statement: &mut Statement, test: &Test, now: Timestamp) -> Result<(), Untranslatable> {
    match &test.check {
        Check::Exists => exists(statement, &test.key),
        Check::Like(glob) => like(statement, &test.key, glob)?,
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
    Ok(())
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
            statement.text("(");
            found(statement, steps);
            statement.text(" IS NOT NULL)");
        }
        Key::Field(field) => match place(*field) {
            Place::Column(column) => {
                statement.text(&format!("({column} IS NOT NULL)"));
            }
            Place::Table(table) => {
                statement.text(&format!("EXISTS (SELECT 1 FROM {table})"));
            }
        },
    }
}

/// What is at the end of the way into the metadata; NULL when the way does not go that far. A path that is strict goes into an
/// object by a name only, and into an array by a number only; its errors are silenced (PostgreSQL 15, 9.16.2.2).
fn found(statement: &mut Statement, steps: &[Step]) {
    statement.text("jsonb_path_query_first(v.metadata, ");
    statement.value(Sql::Text(Some(json_path(steps)))).text("::jsonpath, '{}', TRUE)");
}

fn like(statement: &mut Statement, key: &Key, glob: &Glob) -> Result<(), Untranslatable> {
    // The bytes of a text, one character each, as the patterns want them.
    let matches = |bytes: &str| format!("{} ~ ", pattern::subject(glob, bytes));
    match key {
        Key::Metadata(steps) => {
            statement.text("coalesce((SELECT jsonb_typeof(found) = 'string' AND ");
            statement.text(&matches("convert_to(found #>> '{}', 'UTF8')"));
            statement.value(Sql::Text(Some(pattern::expression(glob, Subject::Text)?)));
            statement.text(" FROM (SELECT ");
            found(statement, steps);
            statement.text(" AS found) AS f), FALSE)");
        }
        Key::Field(field) => {
            let of_path = field.kind() == Kind::Path;
            let subject = if of_path { Subject::Path } else { Subject::Text };
            let expression = Sql::Text(Some(pattern::expression(glob, subject)?));
            match place(*field) {
                Place::Column(column) if of_path => {
                    statement.text(&format!("coalesce({}", matches(column)));
                    statement.value(expression).text(", FALSE)");
                }
                Place::Column(column) => {
                    let bytes = format!("convert_to({column}, 'UTF8')");
                    statement.text(&format!("coalesce({}", matches(&bytes)));
                    statement.value(expression).text(", FALSE)");
                }
                Place::Table(table) => {
                    let matches = matches("convert_to(name, 'UTF8')");
                    statement.text(&format!("EXISTS (SELECT 1 FROM {table} AND {matches}"));
                    statement.value(expression).text(")");
                }
            }
        }
    }
    Ok(())
}

fn compare(
    statement: &mut Statement,
    key: &Key,
    relation: Relation,
    value: &Value,
    now: Timestamp,
) {
    match key {
        Key::Metadata(steps) => compare_metadata(statement, steps, relation, value),
        Key::Field(field) => {
            let relation = relation.as_str();
            let Some((cast, value)) = bound(*field, value, now) else {
                statement.text("FALSE");
                return;
            };
            match place(*field) {
                Place::Column(column) => {
                    statement.text(&format!("coalesce({column} {relation} ")).value(value);
                    statement.text(cast).text(", FALSE)");
                }
                Place::Table(table) => {
                    statement.text(&format!("EXISTS (SELECT 1 FROM {table} AND name {relation} "));
                    statement.value(value).text(")");
                }
            }
        }
    }
}

fn compare_metadata(statement: &mut Statement, steps: &[Step], relation: Relation, value: &Value) {
    let json = match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => decimal(*value),
        Value::Text(text) => {
            let mut json = String::new();
            write_text(&mut json, text);
            json
        }
        // The parser takes no times here.
        Value::Time(_) | Value::Ago(_) => {
            statement.text("FALSE");
            return;
        }
    };
    if relation == Relation::Equal {
        // Beside the exact question one that the index of the metadata answers.
        statement.text("(");
        if let Some(document) = containing(steps, &json) {
            statement.text("v.metadata @> ").value(Sql::Text(Some(document)));
            statement.text("::jsonb AND ");
        }
        statement.text("coalesce(");
        found(statement, steps);
        statement.text(" = ").value(Sql::Text(Some(json))).text("::jsonb, FALSE))");
        return;
    }
    // Values have an order among those of their kind only; reading one as another kind would be an error of the statement.
    let (kind, read, value, cast) = match value {
        Value::Int(_) | Value::Float(_) => ("number", "found::numeric", json, "::numeric"),
        Value::Text(text) => {
            ("string", "(found #>> '{}') COLLATE \"C\"", escape(text).into_owned(), "")
        }
        Value::Null | Value::Bool(_) | Value::Time(_) | Value::Ago(_) => {
            statement.text("FALSE");
            return;
        }
    };
    statement.text("coalesce((SELECT CASE WHEN jsonb_typeof(found) = ").text(&format!("'{kind}'"));
    statement.text(&format!(" THEN {read} {} ", relation.as_str()));
    statement.value(Sql::Text(Some(value))).text(cast).text(" ELSE FALSE END FROM (SELECT ");
    found(statement, steps);
    statement.text(" AS found OFFSET 0) AS f), FALSE)");
}

/// The value as the column of the field has it, and a cast; nothing for a value that the field never has.
fn bound(field: Field, value: &Value, now: Timestamp) -> Option<(&'static str, Sql)> {
    let plain = |value: Sql| Some(("", value));
    match (field.kind(), value) {
        (Kind::Path, Value::Text(text)) => plain(Sql::from(text.as_bytes())),
        (Kind::Run, Value::Text(text)) => plain(Sql::from(text.parse::<RunId>().ok()?.as_uuid())),
        (_, Value::Text(text)) => plain(Sql::from(text)),
        (_, Value::Int(value)) => plain(Sql::from(*value)),
        (_, Value::Float(value)) => Some(("::numeric", Sql::Text(Some(decimal(*value))))),
        (_, Value::Bool(value)) => plain(Sql::from(*value)),
        (_, Value::Null) => None,
        (_, Value::Time(_) | Value::Ago(_)) => plain(Sql::from(value.microsecond(now)?)),
    }
}

/// A path of SQL/JSON. A name in quotes is written as JSON writes it.
fn json_path(steps: &[Step]) -> String {
    let mut path = "strict $".to_owned();
    for step in steps {
        match step {
            Step::Name(name) => {
                path.push('.');
                write_text(&mut path, name);
            }
            Step::Index(index) => path.push_str(&format!("[{index}]")),
        }
    }
    path
}

/// A document that everything contains which has that value there; nothing where the way goes through an array.
fn containing(steps: &[Step], json: &str) -> Option<String> {
    let mut document = String::new();
    for step in steps {
        let Step::Name(name) = step else { return None };
        document.push('{');
        write_text(&mut document, name);
        document.push(':');
    }
    document.push_str(json);
    document.push_str(&"}".repeat(steps.len()));
    Some(document)
}
