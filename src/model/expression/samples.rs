//! Expressions and metadata by chance, for tests of all who read, write, evaluate or translate expressions.

use super::{Check, Expression, Field, Key, Kind, Relation, Step, Test, Value};
use crate::model::glob::Glob;
use jiff::Timestamp;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value as Json};

/// Few names, so that expressions meet what is there; odd ones, because a name is any text.
const NAMES: &[&str] = &[
    "a",
    "b",
    "and",
    "a.b",
    "q\"uote",
    "back\\slash",
    "ü",
    "",
    " ",
    "0",
    "line\nbreak",
    "[0]",
    "$",
    "it's",
    "\u{1}",
];

const TEXTS: &[&str] = &[
    "",
    "x",
    "X",
    "xy",
    "10",
    "é",
    "a/b",
    "null",
    "true",
    "it's \"so\"",
    "a\\b",
    "\u{1f600}",
    "x\ny",
    "\u{7f}",
    "\u{1}",
    "\u{1}\u{1}",
    "\u{1}\u{2}",
];

/// Texts that metadata can have and no expression can name.
const UNNAMED: &[&str] = &["\0", "x\0y", "\0\u{1}"];

const PATTERNS: &[&str] = &[
    "*",
    "x*",
    "*/b",
    "?",
    "??",
    "[!x]",
    "[!\u{2}]*",
    "[w-y]*",
    "**",
    "{x,10}",
    "\\*",
    "[é]?",
    "/workspace/**",
    "m/*",
    "**/*.csv",
];

/// The moment at which samples are asked about.
pub(crate) fn now() -> Timestamp {
    "2026-05-01T12:00:00Z".parse().expect("a time")
}

fn number() -> impl Strategy<Value = Value> {
    // Fifteen digits are exact in every reader of JSON.
    let float = (-999_999_999_999_999_i64..=999_999_999_999_999, 0..20_i32);
    prop_oneof![
        4 => (-2_i64..4).prop_map(Value::Int),
        1 => select(vec![i64::MIN, i64::MAX, i64::MAX - 1, 1 << 53, (1 << 53) + 1, (1 << 62) + 1]).prop_map(Value::Int),
        4 => select(vec![-1.0, 0.0, -0.0, 0.5, 1.0, 2.5, 9007199254740992.0, 4611686018427387904.0, 9223372036854775808.0, 1e300, -1e16, 5e-324])
            .prop_map(Value::Float),
        1 => float.prop_map(|(digits, shift)| {
            Value::Float(format!("{digits}e-{shift}").parse().expect("a float"))
        }),
    ]
}

fn text() -> impl Strategy<Value = String> {
    select(TEXTS).prop_map(str::to_owned)
}

fn metadata_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        number(),
        text().prop_map(Value::Text),
        any::<bool>().prop_map(Value::Bool),
        Just(Value::Null)
    ]
}

fn field_value(field: Field) -> BoxedStrategy<Value> {
    match field.kind() {
        Kind::Number => number().boxed(),
        Kind::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        Kind::Text => prop_oneof![
            text(),
            select(vec!["data", "log", "g", "text/csv", "w"]).prop_map(str::to_owned)
        ]
        .prop_map(Value::Text)
        .boxed(),
        Kind::Path => select(vec!["/workspace/m/x", "/workspace/m/a/x.csv", "/host/x", ""])
            .prop_map(|text| Value::Text(text.to_owned()))
            .boxed(),
        Kind::Time => prop_oneof![
            (0..200_u32).prop_map(|seconds| Value::Ago(seconds * 10)),
            (-2_000..10_i64).prop_map(|seconds| {
                Value::Time(now() + jiff::SignedDuration::from_secs(seconds))
            })
        ]
        .boxed(),
        Kind::State => select(vec!["READY", "ARCHIVED", "DELETED"])
            .prop_map(|text| Value::Text(text.to_owned()))
            .boxed(),
        Kind::Origin => select(vec!["observed", "declared"])
            .prop_map(|text| Value::Text(text.to_owned()))
            .boxed(),
        Kind::Run => select(vec![
            "01890a5d-ac96-774b-bcce-b302099a8057",
            "01890a5d-ac96-774b-bcce-b302099a8058",
        ])
        .prop_map(|text| Value::Text(text.to_owned()))
        .boxed(),
    }
}

fn check(
    value: BoxedStrategy<Value>,
    globs: Option<fn(&str) -> Glob>,
    ordered: bool,
) -> BoxedStrategy<Check> {
    let equality = select(vec![Relation::Equal, Relation::NotEqual]);
    let order = select(vec![
        Relation::Less,
        Relation::LessOrEqual,
        Relation::Greater,
        Relation::GreaterOrEqual,
    ]);
    let equal =
        (equality, value.clone()).prop_map(|(relation, value)| Check::Compare(relation, value));
    let mut checks = vec![
        equal.boxed(),
        vec(value.clone(), 1..4).prop_map(Check::In).boxed(),
        Just(Check::Exists).boxed(),
    ];
    if ordered {
        let comparable = value
            .prop_filter("has an order", |value| !matches!(value, Value::Null | Value::Bool(_)));
        let compare = (order, comparable);
        checks.push(compare.prop_map(|(relation, value)| Check::Compare(relation, value)).boxed());
    }
    if let Some(glob) = globs {
        checks.push(select(PATTERNS).prop_map(move |text| Check::Like(glob(text))).boxed());
    }
    proptest::strategy::Union::new(checks).boxed()
}

fn test() -> impl Strategy<Value = Test> {
    let of_text: fn(&str) -> Glob = |text| Glob::of_text(text).expect("legal");
    let of_path: fn(&str) -> Glob = |text| Glob::of_path(text).expect("legal");
    let name = || select(NAMES).prop_map(|name| Step::Name(name.to_owned()));
    let step = prop_oneof![3 => name(), 2 => (0..3_u32).prop_map(Step::Index)];
    let keys = (name(), vec(step, 0..3))
        .prop_map(|(first, rest)| Key::Metadata(std::iter::once(first).chain(rest).collect()));
    let of_metadata = (keys, check(metadata_value().boxed(), Some(of_text), true))
        .prop_map(|(key, check)| Test { key, check });
    let of_field = select(&Field::ALL[..]).prop_flat_map(move |field| {
        let globs = match field.kind() {
            Kind::Text => Some(of_text),
            Kind::Path => Some(of_path),
            Kind::Number | Kind::Time | Kind::Bool | Kind::State | Kind::Origin | Kind::Run => None,
        };
        let ordered = matches!(field.kind(), Kind::Text | Kind::Path | Kind::Number | Kind::Time);
        check(field_value(field), globs, ordered)
            .prop_map(move |check| Test { key: Key::Field(field), check })
    });
    prop_oneof![2 => of_metadata, 1 => of_field]
}

pub(crate) fn expression() -> impl Strategy<Value = Expression> {
    test().prop_map(Expression::Test).prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 2..4).prop_map(Expression::And),
            vec(inner.clone(), 2..4).prop_map(Expression::Or),
            inner.prop_map(|inner| Expression::Not(Box::new(inner))),
        ]
    })
}

pub(crate) fn metadata() -> impl Strategy<Value = Map<String, Json>> {
    let leaf = prop_oneof![
        metadata_value().prop_map(|value| match value {
            Value::Bool(value) => Json::from(value),
            Value::Int(value) => Json::from(value),
            Value::Float(value) => Json::from(value),
            Value::Text(text) => Json::from(text),
            Value::Null | Value::Time(_) | Value::Ago(_) => Json::Null,
        }),
        Just(Json::from(u64::MAX)),
        select(UNNAMED).prop_map(Json::from),
    ];
    let object = |value: BoxedStrategy<Json>| {
        vec((select(NAMES), value), 0..6).prop_map(|pairs| {
            pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>()
        })
    };
    let value = leaf.prop_recursive(2, 12, 4, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Json::Array),
            object(inner).prop_map(Json::Object)
        ]
    });
    object(value.boxed())
}
