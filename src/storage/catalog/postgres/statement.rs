//! Statements and what they bind: values that say their own types, so that a statement needs no round trip of its own to be
//! prepared, and statements that grow.

use super::text::escape;
use crate::model::digest::Digest;
use jiff::Timestamp;
use postgres::types::{ToSql, Type};
use uuid::Uuid;

/// A value, or a column of them.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Integer(Option<i64>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
    Bool(bool),
    Uuid(Option<Uuid>),
    Integers(Vec<Option<i64>>),
    Texts(Vec<Option<String>>),
    ManyBytes(Vec<Option<Vec<u8>>>),
    Bools(Vec<bool>),
    Uuids(Vec<Option<Uuid>>),
}

impl Value {
    pub fn bound(&self) -> (&(dyn ToSql + Sync), Type) {
        match self {
            Value::Integer(value) => (value, Type::INT8),
            Value::Text(value) => (value, Type::TEXT),
            Value::Bytes(value) => (value, Type::BYTEA),
            Value::Bool(value) => (value, Type::BOOL),
            Value::Uuid(value) => (value, Type::UUID),
            Value::Integers(values) => (values, Type::INT8_ARRAY),
            Value::Texts(values) => (values, Type::TEXT_ARRAY),
            Value::ManyBytes(values) => (values, Type::BYTEA_ARRAY),
            Value::Bools(values) => (values, Type::BOOL_ARRAY),
            Value::Uuids(values) => (values, Type::UUID_ARRAY),
        }
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Value::Integer(Some(value))
    }
}

impl From<Option<i64>> for Value {
    fn from(value: Option<i64>) -> Self {
        Value::Integer(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Value::Integer(Some(i64::from(value)))
    }
}

impl From<Option<u32>> for Value {
    fn from(value: Option<u32>) -> Self {
        Value::Integer(value.map(i64::from))
    }
}

/// Counts and sizes are signed in the database; none that exists is beyond that.
impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Value::Integer(Some(integer(value)))
    }
}

impl From<Option<u64>> for Value {
    fn from(value: Option<u64>) -> Self {
        Value::Integer(value.map(integer))
    }
}

impl From<Timestamp> for Value {
    fn from(value: Timestamp) -> Self {
        Value::Integer(Some(value.as_microsecond()))
    }
}

impl From<Option<Timestamp>> for Value {
    fn from(value: Option<Timestamp>) -> Self {
        Value::Integer(value.map(Timestamp::as_microsecond))
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Value::Text(Some(escape(value).into_owned()))
    }
}

impl From<Option<&str>> for Value {
    fn from(value: Option<&str>) -> Self {
        Value::Text(value.map(|value| escape(value).into_owned()))
    }
}

impl From<&String> for Value {
    fn from(value: &String) -> Self {
        value.as_str().into()
    }
}

impl From<&[u8]> for Value {
    fn from(value: &[u8]) -> Self {
        Value::Bytes(Some(value.to_vec()))
    }
}

impl From<Option<&[u8]>> for Value {
    fn from(value: Option<&[u8]>) -> Self {
        Value::Bytes(value.map(<[u8]>::to_vec))
    }
}

impl From<&Digest> for Value {
    fn from(value: &Digest) -> Self {
        Value::Bytes(Some(value.as_bytes().to_vec()))
    }
}

impl From<Option<&Digest>> for Value {
    fn from(value: Option<&Digest>) -> Self {
        Value::Bytes(value.map(|digest| digest.as_bytes().to_vec()))
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Value::Bool(value)
    }
}

impl From<Uuid> for Value {
    fn from(value: Uuid) -> Self {
        Value::Uuid(Some(value))
    }
}

impl From<Option<Uuid>> for Value {
    fn from(value: Option<Uuid>) -> Self {
        Value::Uuid(value)
    }
}

/// Integers are signed in the database.
pub(super) fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// `[value, …]` of whatever can be one.
macro_rules! values {
    ($($value:expr),* $(,)?) => { &[$($crate::storage::catalog::postgres::statement::Value::from($value)),*] };
}
pub(super) use values;

/// A statement that grows: its text and, in the order of their numbers, the values that it binds.
#[derive(Debug, Default)]
pub(super) struct Statement {
    pub text: String,
    pub values: Vec<Value>,
}

impl Statement {
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    pub fn value(&mut self, value: impl Into<Value>) -> &mut Self {
        self.values.push(value.into());
        let number = self.values.len();
        self.text.push_str(&format!("${number}"));
        self
    }

    /// ` AND text $n`.
    pub fn and(&mut self, text: &str, value: impl Into<Value>) -> &mut Self {
        self.text(" AND ").text(text).text(" ").value(value)
    }
}
