//! From text to an expression, with the place and what was expected where it is none.
//!
//! Recursive descent over tokens. The text comes from anybody: its length, depth and number of terms are bounded, and
//! values are checked against the field that they are compared with, so that a misspelt state is an error and not an
//! answer of nothing.

mod token;

use super::{
    Check, DEPTH_MAX, Expression, Field, Key, Kind, LENGTH_MAX, Relation, Step, TERMS_MAX, Test,
    Value,
};
use crate::model::artifact::{ArtifactState, Origin};
use crate::model::glob::Glob;
use crate::model::id::RunId;
use jiff::Timestamp;
use std::str::FromStr;
use token::{Token, tokens};

pub use token::is_word;

/// A text that is no expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the expression is not understood at column {}: {why}", at + 1)]
pub struct SyntaxError {
    /// Where, in bytes from the start.
    pub at: usize,
    pub why: String,
}

impl SyntaxError {
    fn new(at: usize, why: impl Into<String>) -> Self {
        Self { at, why: why.into() }
    }

    /// The text with a caret below the place, for a terminal. Control characters are shown as spaces, so that the caret
    /// stands where it should.
    pub fn caret(&self, text: &str) -> String {
        let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let before = text.char_indices().take_while(|(at, _)| *at < self.at).count();
        format!("{line}\n{}^", " ".repeat(before))
    }
}

impl FromStr for Expression {
    type Err = SyntaxError;

    fn from_str(text: &str) -> Result<Self, SyntaxError> {
        if text.len() > LENGTH_MAX {
            let why = format!("it has {} bytes, {LENGTH_MAX} are allowed", text.len());
            return Err(SyntaxError::new(LENGTH_MAX, why));
        }
        let mut parser = Parser { tokens: tokens(text)?, next: 0, depth: 0, terms: 0 };
        let expression = parser.any_of()?;
        match parser.peek() {
            Token::End => Ok(expression),
            other => {
                Err(parser
                    .wrong(format!("expected `and`, `or` or the end, found {}", other.shown())))
            }
        }
    }
}

struct Parser {
    /// Ends with [`Token::End`], which is never taken.
    tokens: Vec<(usize, Token)>,
    next: usize,
    depth: usize,
    terms: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.next].1
    }

    fn at(&self) -> usize {
        self.tokens[self.next].0
    }

    fn take(&mut self) -> Token {
        let token = self.peek().clone();
        if token != Token::End {
            self.next += 1;
        }
        token
    }

    fn wrong(&self, why: impl Into<String>) -> SyntaxError {
        SyntaxError::new(self.at(), why)
    }

    /// Takes the token when it is this one.
    fn took(&mut self, token: &Token) -> bool {
        let is = self.peek() == token;
        if is {
            self.next += 1;
        }
        is
    }

    fn took_word(&mut self, word: &str) -> bool {
        let is = self.peek().is_keyword(word);
        if is {
            self.next += 1;
        }
        is
    }

    fn expect(&mut self, token: &Token) -> Result<(), SyntaxError> {
        if self.took(token) {
            return Ok(());
        }
        Err(self.wrong(format!("expected {}, found {}", token.shown(), self.peek().shown())))
    }

    fn any_of(&mut self) -> Result<Expression, SyntaxError> {
        let mut parts = vec![self.all_of()?];
        while self.took_word("or") {
            parts.push(self.all_of()?);
        }
        Ok(only(&mut parts).unwrap_or(Expression::Or(parts)))
    }

    fn all_of(&mut self) -> Result<Expression, SyntaxError> {
        let mut parts = vec![self.one()?];
        while self.took_word("and") {
            parts.push(self.one()?);
        }
        Ok(only(&mut parts).unwrap_or(Expression::And(parts)))
    }

    fn one(&mut self) -> Result<Expression, SyntaxError> {
        let start = self.at();
        let negated = self.took_word("not");
        if !negated && !self.took(&Token::Open) {
            return Ok(Expression::Test(self.test()?));
        }
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            let why = format!("parentheses and `not` are nested deeper than {DEPTH_MAX}");
            return Err(SyntaxError::new(start, why));
        }
        let inner = if negated {
            Expression::Not(Box::new(self.one()?))
        } else {
            let inner = self.any_of()?;
            self.expect(&Token::Close)?;
            inner
        };
        self.depth -= 1;
        Ok(inner)
    }

    fn term(&mut self) -> Result<(), SyntaxError> {
        self.terms += 1;
        if self.terms > TERMS_MAX {
            return Err(self.wrong(format!(
                "there are more than {TERMS_MAX} comparisons and elements of lists"
            )));
        }
        Ok(())
    }

    fn test(&mut self) -> Result<Test, SyntaxError> {
        self.term()?;
        if self.took_word("exists") {
            return Ok(Test { key: self.key()?, check: Check::Exists });
        }
        let key = self.key()?;
        if self.took_word("in") {
            let values = self.list(&key)?;
            return Ok(Test { key, check: Check::In(values) });
        }
        if self.took(&Token::Tilde) {
            let glob = self.glob(&key)?;
            return Ok(Test { key, check: Check::Like(glob) });
        }
        if let Token::Relation(relation) = *self.peek() {
            self.next += 1;
            let value = self.value(&key, relation)?;
            return Ok(Test { key, check: Check::Compare(relation, value) });
        }
        if let Key::Field(field) = key
            && field.kind() == Kind::Bool
        {
            return Ok(Test { key, check: Check::Compare(Relation::Equal, Value::Bool(true)) });
        }
        Err(self.wrong(format!(
            "expected =, !=, <, <=, >, >=, ~ or `in` after {key}, found {}",
            self.peek().shown()
        )))
    }

    fn key(&mut self) -> Result<Key, SyntaxError> {
        let start = self.at();
        let word = match self.take() {
            Token::Word(word) => word,
            other => {
                let why = format!(
                    "expected a key such as type, size or metadata.accuracy, found {}",
                    other.shown()
                );
                return Err(SyntaxError::new(start, why));
            }
        };
        if word != "metadata" {
            return Field::named(&word).map(Key::Field).ok_or_else(|| unknown(start, &word));
        }
        let mut steps = Vec::new();
        loop {
            if self.took(&Token::Dot) {
                let at = self.at();
                match self.take() {
                    Token::Word(name) | Token::Text(name) => steps.push(Step::Name(name)),
                    other => {
                        let why = format!(
                            "expected a name after the dot, in quotes when it is not made of letters, digits, _ and -; found {}",
                            other.shown()
                        );
                        return Err(SyntaxError::new(at, why));
                    }
                }
            } else if !steps.is_empty() && self.took(&Token::OpenList) {
                let at = self.at();
                let index = match self.take() {
                    Token::Value(Value::Int(index)) => u32::try_from(index).ok(),
                    _ => None,
                };
                let why = "expected the position in the list, counted from 0";
                steps.push(Step::Index(index.ok_or_else(|| SyntaxError::new(at, why))?));
                self.expect(&Token::CloseList)?;
            } else {
                break;
            }
        }
        if steps.is_empty() {
            return Err(self.wrong("metadata is an object: name a key of it, metadata.NAME"));
        }
        Ok(Key::Metadata(steps))
    }

    fn list(&mut self, key: &Key) -> Result<Vec<Value>, SyntaxError> {
        let close = match self.peek() {
            Token::OpenList => Token::CloseList,
            Token::Open => Token::Close,
            other => {
                return Err(self.wrong(format!(
                    "expected a list such as [1, 2] after `in`, found {}",
                    other.shown()
                )));
            }
        };
        self.next += 1;
        let mut values = Vec::new();
        loop {
            self.term()?;
            values.push(self.value(key, Relation::Equal)?);
            if self.took(&close) {
                return Ok(values);
            }
            self.expect(&Token::Comma)?;
        }
    }

    fn glob(&mut self, key: &Key) -> Result<Glob, SyntaxError> {
        let at = self.at();
        let Token::Text(pattern) = self.take() else {
            return Err(SyntaxError::new(at, "expected a pattern in quotes, such as \"*.csv\""));
        };
        let glob = match key {
            Key::Metadata(_) => Glob::of_text(&pattern),
            Key::Field(field) => match field.kind() {
                Kind::Path => Glob::of_path(&pattern),
                Kind::Text => Glob::of_text(&pattern),
                Kind::Number | Kind::Time | Kind::Bool | Kind::State | Kind::Origin | Kind::Run => {
                    let why = format!("{key} is no free text: patterns do not apply to it");
                    return Err(SyntaxError::new(at, why));
                }
            },
        };
        glob.map_err(|error| SyntaxError::new(at, error.to_string()))
    }

    fn value(&mut self, key: &Key, relation: Relation) -> Result<Value, SyntaxError> {
        let at = self.at();
        let value = match self.take() {
            Token::Value(value) => value,
            Token::Text(text) => Value::Text(text),
            Token::Word(word) => match word.to_ascii_lowercase().as_str() {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                "null" => Value::Null,
                _ => {
                    let why = format!("expected a value; a text needs quotes: \"{word}\"");
                    return Err(SyntaxError::new(at, why));
                }
            },
            other => {
                let why = format!(
                    "expected a number, a text in quotes, true, false or null, found {}",
                    other.shown()
                );
                return Err(SyntaxError::new(at, why));
            }
        };
        fitting(key, relation, value).map_err(|why| SyntaxError::new(at, why))
    }
}

fn only(parts: &mut Vec<Expression>) -> Option<Expression> {
    if parts.len() == 1 { parts.pop() } else { None }
}

fn unknown(at: usize, word: &str) -> SyntaxError {
    let near = Field::ALL
        .into_iter()
        .map(|field| (strsim::damerau_levenshtein(field.as_str(), word), field.as_str()))
        .min()
        .filter(|(distance, _)| *distance <= 2);
    let advice = match near {
        Some((_, name)) => format!("did you mean {name}?"),
        None => {
            let names = Field::ALL.map(Field::as_str).join(", ");
            format!("there are {names}, and metadata.NAME")
        }
    };
    SyntaxError::new(at, format!("there is no key {word:?}: {advice}"))
}

/// The value as the field has it, or why it never could.
fn fitting(key: &Key, relation: Relation, value: Value) -> Result<Value, String> {
    let field = match key {
        Key::Metadata(_) => {
            return match value {
                Value::Null | Value::Bool(_) if relation.is_order() => {
                    Err(format!("{value} is not greater or less than anything: use = or !="))
                }
                Value::Ago(_) => {
                    Err("metadata has no times: write a number or a text in quotes".to_owned())
                }
                value => Ok(value),
            };
        }
        Key::Field(field) => *field,
    };
    let name = field.as_str();
    if value == Value::Null {
        return Err(format!("a field is never null: write `not exists {name}`"));
    }
    let unordered = |value: Value| match relation.is_order() {
        true => Err(format!("{name} has no order: use = or !=")),
        false => Ok(value),
    };
    match (field.kind(), value) {
        (Kind::Text | Kind::Path, value @ Value::Text(_)) => Ok(value),
        (Kind::Number, value @ (Value::Int(_) | Value::Float(_))) => Ok(value),
        (Kind::Bool, value @ Value::Bool(_)) => unordered(value),
        (Kind::Time, value @ Value::Ago(_)) => Ok(value),
        (Kind::Time, Value::Text(text)) => match text.parse::<Timestamp>() {
            Ok(time) => Ok(Value::Time(time)),
            Err(_) => Err(format!("{text:?} is {EXPECTED_TIME}")),
        },
        (Kind::State, Value::Text(text)) => match text.parse::<ArtifactState>() {
            Ok(state) => unordered(Value::Text(state.as_str().to_owned())),
            Err(error) => Err(error.to_string()),
        },
        (Kind::Origin, Value::Text(text)) => match text.parse::<Origin>() {
            Ok(origin) => unordered(Value::Text(origin.as_str().to_owned())),
            Err(error) => Err(error.to_string()),
        },
        (Kind::Run, Value::Text(text)) => match text.parse::<RunId>() {
            Ok(run) => unordered(Value::Text(run.to_string())),
            Err(error) => Err(error.to_string()),
        },
        (Kind::Text | Kind::Path | Kind::State | Kind::Origin | Kind::Run, value) => {
            Err(format!("{name} is a text: write it in quotes, \"{value}\""))
        }
        (Kind::Number, _) => Err(format!("{name} is a number, such as 10 or 64MiB")),
        (Kind::Bool, _) => Err(format!("{name} is true or false")),
        (Kind::Time, value) => Err(format!("{value} is {EXPECTED_TIME}")),
    }
}

const EXPECTED_TIME: &str =
    "no time: write \"2026-05-01T12:30:00Z\" with its zone, or how long ago, such as 7d";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::expression::samples;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Expression {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn and_binds_tighter_than_or_and_not_tighter_than_both() {
        let shown = |text| parsed(text).to_string();
        for (text, same) in [
            ("size=1 OR size=2 AND not size=3", "size = 1 or size = 2 and not size = 3"),
            ("(size=1 or size=2) and pinned", "(size = 1 or size = 2) and pinned = true"),
            ("((size == 1))", "size = 1"),
            ("not (size<1 and size>-2)", "not (size < 1 and size > -2)"),
            ("size <= 64MiB", "size <= 67108864"),
            ("type in ('data', \"model\")", "type in [\"data\", \"model\"]"),
            ("created_at > 2w", "created_at > 1209600s"),
            ("state = 'ready'", "state = \"READY\""),
            (
                "run_id = '01890A5D-AC96-774B-BCCE-B302099A8057'",
                "run = \"01890a5d-ac96-774b-bcce-b302099a8057\"",
            ),
            ("metadata.'a b'.c[0].and = 1.50", "metadata.\"a b\".c[0].and = 1.5"),
            (
                "exists metadata.x and metadata.y ~ '*\\u{e9}'",
                "exists metadata.x and metadata.y ~ \"*é\"",
            ),
        ] {
            assert_eq!(shown(text), same);
        }
    }

    #[test]
    fn a_mistake_is_told_with_its_column_and_what_was_expected() {
        for (text, column, words) in [
            ("", 1, "expected a key"),
            ("size", 5, "expected =, !=, <"),
            ("size >", 7, "expected a number"),
            ("size > 10 type = 'a'", 11, "expected `and`, `or` or the end"),
            ("size > 'x'", 8, "size is a number"),
            ("type = data", 8, "\"data\""),
            ("tipe = 'data'", 1, "did you mean type?"),
            ("color = 'data'", 1, "metadata.NAME"),
            ("state = 'REDY'", 9, "unknown state"),
            ("state < 'READY'", 9, "no order"),
            ("graph = null", 9, "not exists graph"),
            ("created_at > 'yesterday'", 14, "no time"),
            ("created_at > 5", 14, "no time"),
            ("metadata.x > true", 14, "not greater or less"),
            ("metadata.x > 7d", 14, "no times"),
            ("metadata = 1", 10, "metadata.NAME"),
            ("metadata. = 1", 11, "a name after the dot"),
            ("metadata.a[x] = 1", 12, "position in the list"),
            ("metadata.a[-1] = 1", 12, "position in the list"),
            ("type in 'data'", 9, "a list"),
            ("type in []", 10, "expected a number, a text"),
            ("type in ['a' 'b']", 14, "expected `,`"),
            ("(size = 1", 10, "expected `)`"),
            ("size ~ 'x'", 8, "patterns do not apply"),
            ("path ~ '[a'", 8, "the pattern"),
            ("type = 'data", 8, "no closing '"),
            ("type = 'a\\q'", 10, "after \\ comes"),
            ("type = 'a\\u{0}'", 10, "character 0"),
            ("type = 'a\\u{110000}'", 10, "after \\ comes"),
            ("size = 9223372036854775808", 8, "between -9223372036854775808"),
            ("size = 1e999", 8, "too large"),
            ("size = 5parsecs", 8, "64MiB"),
            ("size ! 5", 6, "write !="),
            ("size = 1 & size = 2", 10, "'&' has no meaning"),
            ("é = 1", 1, "'é' has no meaning"),
            ("not", 4, "expected a key"),
            ("pinned = 1", 10, "true or false"),
            ("pinned < true", 10, "no order"),
            ("run = 'x'", 7, "x"),
        ] {
            let error = text.parse::<Expression>().expect_err(text);
            let shown = error.to_string();
            assert_eq!(error.at + 1, column, "{text}: {shown}");
            assert!(
                shown.contains(words) && shown.contains(&format!("column {column}")),
                "{shown}"
            );
        }
    }

    #[test]
    fn the_caret_stands_below_the_place() {
        let text = "type = 'ü' and\tsice = 1";
        let error = text.parse::<Expression>().expect_err("refused");
        assert_eq!(error.caret(text), format!("type = 'ü' and sice = 1\n{}^", " ".repeat(15)));
    }

    #[test]
    fn length_depth_and_terms_are_bounded() {
        let refused = |text: String, words: &str| {
            let error = text.parse::<Expression>().expect_err("refused").to_string();
            assert!(error.contains(words), "{error}");
        };
        refused(format!("type = '{}'", "a".repeat(LENGTH_MAX)), "4096 are allowed");
        let nested = |depth| format!("{}pinned{}", "(".repeat(depth), ")".repeat(depth));
        parsed(&nested(DEPTH_MAX));
        refused(nested(DEPTH_MAX + 1), "deeper than 32");
        parsed(&format!("{}pinned", "not ".repeat(DEPTH_MAX)));
        refused(format!("{}pinned", "not ".repeat(DEPTH_MAX + 1)), "deeper than 32");
        let many = |terms| vec!["pinned"; terms].join(" or ");
        parsed(&many(TERMS_MAX));
        refused(many(TERMS_MAX + 1), "more than 256");
        refused(format!("size in [{}]", vec!["1"; TERMS_MAX].join(",")), "more than 256");
    }

    /// Pieces that make more than noise of a random text.
    const PIECES: &str = r#"(size|metadata|\.|type|=|!|<|>|~|and|or|not|in|exists|\(|\)|\[|\]|,|'|"|\\|-|7d|1e|0|\PC| ){0,40}"#;

    proptest! {
        #[test]
        fn what_is_written_down_is_read_back_the_same(expression in samples::expression()) {
            let text = expression.to_string();
            prop_assert_eq!(text.parse::<Expression>(), Ok(expression), "{}", text);
        }

        #[test]
        fn no_text_makes_it_panic(text in PIECES) {
            match text.parse::<Expression>() {
                Ok(expression) => prop_assert_eq!(expression.to_string().parse(), Ok(expression)),
                Err(error) => prop_assert!(error.caret(&text).ends_with('^')),
            }
        }
    }
}
