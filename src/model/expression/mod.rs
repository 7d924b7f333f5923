//! What artifacts are asked for: comparisons of their fields and metadata, joined by `and`, `or` and `not`.
//!
//! `docs/expressions.md` is the language for its users. This module has the values and how they are written down;
//! [`parse`] reads them, [`evaluate`] says whether an artifact fulfils them. A catalog may translate an expression into
//! its own language; the answers must be the same.
//!
//! Every test is true or false, never unknown: a test of what is not there is false, so that `not` of it is true.

pub mod evaluate;
pub mod parse;
#[cfg(test)]
pub(crate) mod samples;

use super::glob::Glob;
use jiff::Timestamp;
use std::fmt::{self, Display, Formatter, Write};

/// Longest expression, in bytes.
pub const LENGTH_MAX: usize = 4 << 10;

/// Deepest nesting of parentheses and `not`. It bounds the recursion of all who walk an expression.
pub const DEPTH_MAX: usize = 32;

/// Most comparisons and elements of lists together.
pub const TERMS_MAX: usize = 256;

#[derive(Debug, Clone, PartialEq)]
pub enum Expression {
    /// All of at least two.
    And(Vec<Expression>),
    /// Any of at least two.
    Or(Vec<Expression>),
    Not(Box<Expression>),
    Test(Test),
}

/// A question about one key.
#[derive(Debug, Clone, PartialEq)]
pub struct Test {
    pub key: Key,
    pub check: Check,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Check {
    Compare(Relation, Value),
    /// Equal to one of them.
    In(Vec<Value>),
    Like(Glob),
    Exists,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    Equal,
    /// There, and not equal.
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Relation {
    pub fn as_str(self) -> &'static str {
        match self {
            Relation::Equal => "=",
            Relation::NotEqual => "!=",
            Relation::Less => "<",
            Relation::LessOrEqual => "<=",
            Relation::Greater => ">",
            Relation::GreaterOrEqual => ">=",
        }
    }

    /// Whether it asks which of two is the greater.
    pub fn is_order(self) -> bool {
        !matches!(self, Relation::Equal | Relation::NotEqual)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Time(Timestamp),
    /// So many seconds before the moment at which the question is asked.
    Ago(u32),
}

/// What is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    Field(Field),
    /// The way down into the metadata; at least one step, and the first is a name.
    Metadata(Vec<Step>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Name(String),
    Index(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    Type,
    State,
    Origin,
    Size,
    Version,
    Path,
    HostPath,
    Graph,
    Node,
    Run,
    Workspace,
    Mime,
    CreatedAt,
    UpdatedAt,
    Pinned,
    Held,
    Quarantined,
    Label,
    Tag,
    Alias,
}

/// What values a field has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Path,
    Number,
    Time,
    Bool,
    State,
    Origin,
    Run,
}

impl Field {
    pub const ALL: [Field; 20] = [
        Field::Type,
        Field::State,
        Field::Origin,
        Field::Size,
        Field::Version,
        Field::Path,
        Field::HostPath,
        Field::Graph,
        Field::Node,
        Field::Run,
        Field::Workspace,
        Field::Mime,
        Field::CreatedAt,
        Field::UpdatedAt,
        Field::Pinned,
        Field::Held,
        Field::Quarantined,
        Field::Label,
        Field::Tag,
        Field::Alias,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Field::Type => "type",
            Field::State => "state",
            Field::Origin => "origin",
            Field::Size => "size",
            Field::Version => "version",
            Field::Path => "path",
            Field::HostPath => "host_path",
            Field::Graph => "graph",
            Field::Node => "node",
            Field::Run => "run",
            Field::Workspace => "workspace",
            Field::Mime => "mime",
            Field::CreatedAt => "created_at",
            Field::UpdatedAt => "updated_at",
            Field::Pinned => "pinned",
            Field::Held => "held",
            Field::Quarantined => "quarantined",
            Field::Label => "label",
            Field::Tag => "tag",
            Field::Alias => "alias",
        }
    }

    /// By its own name, or as JSON names it (`graph_id`).
    pub fn named(word: &str) -> Option<Field> {
        let own = match word {
            "graph_id" => "graph",
            "node_id" => "node",
            "run_id" => "run",
            "workspace_id" => "workspace",
            word => word,
        };
        Field::ALL.into_iter().find(|field| field.as_str() == own)
    }

    pub fn kind(self) -> Kind {
        match self {
            Field::Type
            | Field::Graph
            | Field::Node
            | Field::Workspace
            | Field::Mime
            | Field::Label
            | Field::Tag
            | Field::Alias => Kind::Text,
            Field::Path | Field::HostPath => Kind::Path,
            Field::Size | Field::Version => Kind::Number,
            Field::CreatedAt | Field::UpdatedAt => Kind::Time,
            Field::Pinned | Field::Held | Field::Quarantined => Kind::Bool,
            Field::State => Kind::State,
            Field::Origin => Kind::Origin,
            Field::Run => Kind::Run,
        }
    }
}

impl Display for Expression {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            // `and` binds tighter than `or`, so that only what it joins needs parentheses on both.
            Expression::Or(parts) => {
                join(f, parts, " or ", |part| matches!(part, Expression::Or(_)))
            }
            Expression::And(parts) => join(f, parts, " and ", Self::joins),
            Expression::Not(inner) if inner.joins() => write!(f, "not ({inner})"),
            Expression::Not(inner) => write!(f, "not {inner}"),
            Expression::Test(test) => test.fmt(f),
        }
    }
}

impl Expression {
    fn joins(&self) -> bool {
        matches!(self, Expression::And(_) | Expression::Or(_))
    }
}

fn join(
    f: &mut Formatter<'_>,
    parts: &[Expression],
    word: &str,
    enclosed: fn(&Expression) -> bool,
) -> fmt::Result {
    for (position, part) in parts.iter().enumerate() {
        if position > 0 {
            f.write_str(word)?;
        }
        if enclosed(part) {
            write!(f, "({part})")?;
        } else {
            part.fmt(f)?;
        }
    }
    Ok(())
}

impl Display for Test {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.check {
            Check::Compare(relation, value) => {
                write!(f, "{} {} {value}", self.key, relation.as_str())
            }
            Check::In(values) => {
                write!(f, "{} in [", self.key)?;
                for (position, value) in values.iter().enumerate() {
                    let comma = if position > 0 { ", " } else { "" };
                    write!(f, "{comma}{value}")?;
                }
                f.write_char(']')
            }
            Check::Like(glob) => {
                write!(f, "{} ~ ", self.key)?;
                quote(f, glob.as_str())
            }
            Check::Exists => write!(f, "exists {}", self.key),
        }
    }
}

impl Display for Key {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let steps = match self {
            Key::Field(field) => return f.write_str(field.as_str()),
            Key::Metadata(steps) => steps,
        };
        f.write_str("metadata")?;
        for step in steps {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Name(name) if parse::is_word(name) => write!(f, ".{name}")?,
                Step::Name(name) => {
                    f.write_char('.')?;
                    quote(f, name)?;
                }
            }
        }
        Ok(())
    }
}

impl Display for Value {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => f.write_str("null"),
            Value::Bool(value) => value.fmt(f),
            Value::Int(value) => value.fmt(f),
            // With a point or an exponent always, so that it is read as a float again.
            Value::Float(value) => write!(f, "{value:?}"),
            Value::Text(text) => quote(f, text),
            Value::Time(time) => write!(f, "\"{time}\""),
            Value::Ago(seconds) => write!(f, "{seconds}s"),
        }
    }
}

fn quote(f: &mut Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            '\n' => f.write_str("\\n")?,
            '\t' => f.write_str("\\t")?,
            '\r' => f.write_str("\\r")?,
            c if c.is_control() => write!(f, "\\u{{{:x}}}", u32::from(c))?,
            c => f.write_char(c)?,
        }
    }
    f.write_char('"')
}
