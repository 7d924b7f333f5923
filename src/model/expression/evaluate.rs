//! Whether an artifact fulfils an expression, looked at in memory.

use super::{Check, Expression, Field, Key, Relation, Step, Test, Value};
use jiff::Timestamp;
use serde_json::{Map, Value as Json};
use std::cmp::Ordering;

/// What is asked about.
pub trait Subject {
    /// Whether one of the values that the field has fulfils the test; false where it has none.
    fn any(&self, field: Field, test: &mut dyn FnMut(Datum<'_>) -> bool) -> bool;

    fn metadata(&self) -> &Map<String, Json>;
}

/// One value of a field. Texts and paths are bytes, times are microseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Datum<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Bytes(&'a [u8]),
    /// A list or an object, which no value of an expression equals.
    Compound,
}

impl Expression {
    /// `now` is the moment from which `7d` counts.
    pub fn holds(&self, subject: &dyn Subject, now: Timestamp) -> bool {
        match self {
            Expression::And(parts) => parts.iter().all(|part| part.holds(subject, now)),
            Expression::Or(parts) => parts.iter().any(|part| part.holds(subject, now)),
            Expression::Not(inner) => !inner.holds(subject, now),
            Expression::Test(test) => test.holds(subject, now),
        }
    }
}

impl Test {
    fn holds(&self, subject: &dyn Subject, now: Timestamp) -> bool {
        let any = |test: &mut dyn FnMut(Datum<'_>) -> bool| match &self.key {
            Key::Field(field) => subject.any(*field, test),
            Key::Metadata(steps) => descend(subject.metadata(), steps).is_some_and(test),
        };
        let equal = |value: &Value| {
            let wanted = value.datum(now);
            any(&mut |found| compare(found, wanted) == Some(Ordering::Equal))
        };
        match &self.check {
            Check::Exists => any(&mut |_| true),
            Check::In(values) => values.iter().any(equal),
            Check::Like(glob) => any(&mut |found| match found {
                Datum::Bytes(text) => glob.matches(text),
                Datum::Null
                | Datum::Bool(_)
                | Datum::Int(_)
                | Datum::Float(_)
                | Datum::Compound => false,
            }),
            Check::Compare(Relation::Equal, value) => equal(value),
            Check::Compare(Relation::NotEqual, value) => any(&mut |_| true) && !equal(value),
            Check::Compare(relation, value) => {
                let wanted = value.datum(now);
                any(&mut |found| compare(found, wanted).is_some_and(|order| relation.allows(order)))
            }
        }
    }
}

impl Relation {
    fn allows(self, order: Ordering) -> bool {
        match self {
            Relation::Equal => order.is_eq(),
            Relation::NotEqual => order.is_ne(),
            Relation::Less => order.is_lt(),
            Relation::LessOrEqual => order.is_le(),
            Relation::Greater => order.is_gt(),
            Relation::GreaterOrEqual => order.is_ge(),
        }
    }
}

impl Value {
    /// The moment that a time is, in microseconds since 1970; nothing for values that are none.
    pub fn microsecond(&self, now: Timestamp) -> Option<i64> {
        match self {
            Value::Time(time) => Some(time.as_microsecond()),
            Value::Ago(seconds) => {
                Some(now.as_microsecond().saturating_sub(i64::from(*seconds) * 1_000_000))
            }
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) => None,
        }
    }

    fn datum(&self, now: Timestamp) -> Datum<'_> {
        match self {
            Value::Null => Datum::Null,
            Value::Bool(value) => Datum::Bool(*value),
            Value::Int(value) => Datum::Int(*value),
            Value::Float(value) => Datum::Float(*value),
            Value::Text(text) => Datum::Bytes(text.as_bytes()),
            Value::Time(_) | Value::Ago(_) => self.microsecond(now).map_or(Datum::Null, Datum::Int),
        }
    }
}

fn descend<'a>(metadata: &'a Map<String, Json>, steps: &[Step]) -> Option<Datum<'a>> {
    let (first, rest) = steps.split_first()?;
    let Step::Name(name) = first else { return None };
    let mut found = metadata.get(name)?;
    for step in rest {
        found = match step {
            Step::Name(name) => found.as_object()?.get(name)?,
            Step::Index(index) => found.as_array()?.get(usize::try_from(*index).ok()?)?,
        };
    }
    Some(match found {
        Json::Null => Datum::Null,
        Json::Bool(value) => Datum::Bool(*value),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(value), _) => Datum::Int(value),
            (None, Some(value)) => Datum::Float(value),
            (None, None) => Datum::Compound,
        },
        Json::String(text) => Datum::Bytes(text.as_bytes()),
        Json::Array(_) | Json::Object(_) => Datum::Compound,
    })
}

/// Nothing for values of different kinds.
fn compare(left: Datum<'_>, right: Datum<'_>) -> Option<Ordering> {
    use Datum::{Bool, Bytes, Float, Int, Null};
    match (left, right) {
        (Null, Null) => Some(Ordering::Equal),
        (Bool(left), Bool(right)) => Some(left.cmp(&right)),
        (Bytes(left), Bytes(right)) => Some(left.cmp(right)),
        (Int(left), Int(right)) => Some(left.cmp(&right)),
        (Float(left), Float(right)) => left.partial_cmp(&right),
        (Int(left), Float(right)) => Some(compare_exactly(left, right)),
        (Float(left), Int(right)) => Some(compare_exactly(right, left).reverse()),
        (Null | Bool(_) | Int(_) | Float(_) | Bytes(_) | Datum::Compound, _) => None,
    }
}

/// By what the numbers are, without rounding the integer to a float first.
fn compare_exactly(integer: i64, float: f64) -> Ordering {
    // The floats next to the range of i64; 2^63 itself is outside.
    const BELOW: f64 = -9_223_372_036_854_775_808.0;
    const ABOVE: f64 = 9_223_372_036_854_775_808.0;
    if float < BELOW {
        return Ordering::Greater;
    }
    if float >= ABOVE {
        return Ordering::Less;
    }
    let whole = float.trunc();
    let fraction = float - whole;
    integer.cmp(&(whole as i64)).then(0.0_f64.total_cmp(&(fraction + 0.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An artifact with two tags, a size, a time and metadata.
    struct Sample(Map<String, Json>);

    impl Subject for Sample {
        fn any(&self, field: Field, test: &mut dyn FnMut(Datum<'_>) -> bool) -> bool {
            match field {
                Field::Tag => {
                    ["nightly", "draft"].iter().any(|tag| test(Datum::Bytes(tag.as_bytes())))
                }
                Field::Size => test(Datum::Int(11 << 20)),
                Field::Type => test(Datum::Bytes(b"data")),
                Field::Path => test(Datum::Bytes(b"/workspace/output/a/x.csv")),
                Field::CreatedAt => test(Datum::Int(
                    super::super::samples::now().as_microsecond() - 8 * 86_400_000_000,
                )),
                Field::Pinned => test(Datum::Bool(false)),
                _ => false,
            }
        }

        fn metadata(&self) -> &Map<String, Json> {
            &self.0
        }
    }

    fn holds(text: &str) -> bool {
        let metadata = serde_json::json!({
            "accuracy": 0.95, "n": "10", "one": 1, "none": null, "draft": false, "big": i64::MAX,
            "hyper": { "depth": 3 }, "shape": [640, 480], "learning rate": 1e-3,
        });
        let expression: Expression = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        let sample = Sample(metadata.as_object().expect("an object").clone());
        expression.holds(&sample, super::super::samples::now())
    }

    #[test]
    fn comparisons_mean_what_the_language_says() {
        for yes in [
            "metadata.accuracy > 0.9",
            "type in ['data', 'model'] and size > 10MiB",
            "path ~ 'output/**/*.csv'",
            "path ~ '*.csv' and not path ~ '*.tsv'",
            "created_at < 7d and created_at > 9d and not pinned",
            "created_at = '2026-04-23T14:00:00+02:00'",
            "metadata.one = 1.0 and metadata.one >= 1",
            "metadata.n != 10 and not metadata.n = 10 and metadata.n = '10'",
            "metadata.none = null and exists metadata.none and metadata.one != null",
            "metadata.hyper.depth in (2, 3)",
            "metadata.shape[1] = 480 and exists metadata.shape and not exists metadata.shape[2]",
            "metadata.'learning rate' < 0.01",
            "metadata.big < 9223372036854775808.0 and metadata.big > 9223372036854774784.0",
            "tag = 'draft' and tag ~ 'night*' and tag > 'm'",
            "not metadata.nothing = 1 and not metadata.nothing != 1 and not metadata.nothing < 1",
            "metadata.draft != true and metadata.shape != 1",
            "not (label = 'x' or label != 'x' or exists label)",
        ] {
            assert!(holds(yes), "{yes} is false");
        }
        for no in [
            "tag != 'draft'",
            "metadata.n > 9",
            "metadata.hyper = 3",
            "metadata.hyper.depth.more = 3",
            "metadata.one = true",
            "metadata.shape[0].x = 1",
            "type = 'Data'",
            "metadata.n ~ '1'",
        ] {
            assert!(!holds(no), "{no} is true");
        }
    }

    #[test]
    fn every_example_of_the_documentation_can_be_read() {
        let page = include_str!("../../../docs/expressions.md");
        let examples: Vec<&str> = page
            .lines()
            .filter_map(|line| {
                line.strip_prefix("belljar artifact ls --where '")?.strip_suffix('\'')
            })
            .collect();
        assert_eq!(examples.len(), 4);
        for example in examples {
            example.parse::<Expression>().unwrap_or_else(|error| panic!("{example}: {error}"));
        }
        for field in Field::ALL {
            assert!(
                page.contains(&format!("`{}`", field.as_str())),
                "{} is not documented",
                field.as_str()
            );
        }
    }
}
