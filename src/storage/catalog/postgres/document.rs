//! Metadata as JSONB, so that expressions are answered by the database, and as it was written where that would change it.
//!
//! A JSONB number is a decimal of any length. Numbers are written so that decimals compare exactly as
//! [`evaluate`](crate::model::expression::evaluate) compares the numbers themselves: integers of 64 bits as they are; floats from
//! 2^53 on, which are whole, with all their digits; smaller ones by their shortest form, which lies on the same side of every
//! integer and keeps their order among each other.

use super::text::escape;
use crate::storage::Metadata;
use serde_json::{Number, Value};
use std::fmt::Write;

/// From here on every float is a whole number, and its shortest form may be another one.
const WHOLE: f64 = 9_007_199_254_740_992.0;

/// Metadata as it is stored.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Document {
    pub json: String,
    /// Only where reading `json` would not give the same.
    pub exact: Option<String>,
}

impl Document {
    pub fn of(metadata: &Metadata) -> Self {
        let mut json = String::new();
        write_object(&mut json, metadata);
        let written = serde_json::to_string(metadata).expect("its keys are texts");
        let read = serde_json::from_str::<Metadata>(&json);
        let same = read
            .is_ok_and(|read| serde_json::to_string(&read).expect("its keys are texts") == written);
        Self { json, exact: (!same).then_some(written) }
    }
}

fn write_object(json: &mut String, object: &Metadata) {
    json.push('{');
    for (position, (key, value)) in object.iter().enumerate() {
        if position > 0 {
            json.push(',');
        }
        write_text(json, key);
        json.push(':');
        write_value(json, value);
    }
    json.push('}');
}

fn write_value(json: &mut String, value: &Value) {
    match value {
        Value::Null => json.push_str("null"),
        Value::Bool(value) => json.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => json.push_str(&of_number(number)),
        Value::String(text) => write_text(json, text),
        Value::Array(items) => {
            json.push('[');
            for (position, item) in items.iter().enumerate() {
                if position > 0 {
                    json.push(',');
                }
                write_value(json, item);
            }
            json.push(']');
        }
        Value::Object(object) => write_object(json, object),
    }
}

/// A text as a JSON string.
pub(super) fn write_text(json: &mut String, text: &str) {
    let quoted = Value::from(escape(text).as_ref());
    write!(json, "{quoted}").expect("a String takes all");
}

fn of_number(number: &Number) -> String {
    match (number.as_i64(), number.as_f64()) {
        (Some(value), _) => value.to_string(),
        (None, Some(value)) => decimal(value),
        // Only with serde_json's arbitrary precision, which this program does not use.
        (None, None) => number.to_string(),
    }
}

/// A float as a decimal that compares as the float does.
pub(super) fn decimal(value: f64) -> String {
    if value == 0.0 {
        return "0.0".to_owned();
    }
    if value.abs() >= WHOLE {
        return format!("{value:.0}");
    }
    let shortest = value.to_string();
    if shortest.contains('.') { shortest } else { format!("{shortest}.0") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(json: &str) -> Document {
        Document::of(&serde_json::from_str(json).expect("an object"))
    }

    #[test]
    fn only_what_jsonb_would_change_is_kept_twice() {
        for plain in [
            r#"{"a":1,"b":[0.95,-3,1.5,100000.0,{"":true,"ü":null}],"c":"x\ny"}"#,
            r#"{"large":9223372036854775807,"small":-9223372036854775808}"#,
        ] {
            assert_eq!(document(plain), Document { json: plain.to_owned(), exact: None });
        }
        for changed in [
            r#"{"a":"\u0000"}"#,
            r#"{"\u0000":1}"#,
            r#"{"a":"\u0001"}"#,
            r#"{"a":-0.0}"#,
            r#"{"a":1e+16}"#,
            r#"{"a":18446744073709551615}"#,
        ] {
            let document = document(changed);
            assert!(document.exact.is_some(), "{changed}: {document:?}");
            assert!(!document.json.contains("\\u0000"), "{document:?}");
        }
    }

    #[test]
    fn decimals_are_what_the_floats_are() {
        assert_eq!(decimal(-0.0), "0.0");
        assert_eq!(decimal(1.0), "1.0");
        assert_eq!(decimal(2.0_f64.powi(62)), "4611686018427387904");
        assert_eq!(decimal(u64::MAX as f64), "18446744073709551616");
        assert!(decimal(f64::MIN_POSITIVE).starts_with("0.000"));
        assert_eq!(decimal(f64::MAX).len(), 309);
    }
}
