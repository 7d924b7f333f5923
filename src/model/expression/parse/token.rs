//! The words of an expression, each with its place.

use super::SyntaxError;
use crate::model::expression::{Relation, Value};

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Word(String),
    Text(String),
    /// A number, or how long ago.
    Value(Value),
    Relation(Relation),
    Tilde,
    Open,
    Close,
    OpenList,
    CloseList,
    Comma,
    Dot,
    End,
}

impl Token {
    pub(super) fn is_keyword(&self, word: &str) -> bool {
        matches!(self, Token::Word(found) if found.eq_ignore_ascii_case(word))
    }

    pub(super) fn shown(&self) -> String {
        match self {
            Token::Word(word) => format!("`{word}`"),
            Token::Text(_) => "a text".to_owned(),
            Token::Value(value) => format!("`{value}`"),
            Token::Relation(relation) => format!("`{}`", relation.as_str()),
            Token::Tilde => "`~`".to_owned(),
            Token::Open => "`(`".to_owned(),
            Token::Close => "`)`".to_owned(),
            Token::OpenList => "`[`".to_owned(),
            Token::CloseList => "`]`".to_owned(),
            Token::Comma => "`,`".to_owned(),
            Token::Dot => "`.`".to_owned(),
            Token::End => "the end".to_owned(),
        }
    }
}

/// Whether the text is one word: a key that needs no quotes.
pub fn is_word(text: &str) -> bool {
    text.starts_with(begins_word) && text.chars().all(continues_word)
}

fn begins_word(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_'
}

fn continues_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

pub(super) fn tokens(text: &str) -> Result<Vec<(usize, Token)>, SyntaxError> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        if c.is_whitespace() {
            at += c.len_utf8();
            continue;
        }
        let rest = &text[at..];
        let (token, length) = match c {
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            '[' => (Token::OpenList, 1),
            ']' => (Token::CloseList, 1),
            ',' => (Token::Comma, 1),
            '.' => (Token::Dot, 1),
            '~' => (Token::Tilde, 1),
            '=' | '!' | '<' | '>' => relation(rest, at)?,
            '"' | '\'' => quoted(rest, at)?,
            '-' | '0'..='9' => number(rest, at)?,
            c if begins_word(c) => {
                let length = span(rest, continues_word);
                (Token::Word(rest[..length].to_owned()), length)
            }
            c => return Err(SyntaxError::new(at, format!("{c:?} has no meaning here"))),
        };
        found.push((at, token));
        at += length;
    }
    found.push((text.len(), Token::End));
    Ok(found)
}

/// How many bytes of the start of the text fulfil the test.
fn span(text: &str, test: impl Fn(char) -> bool) -> usize {
    text.find(|c| !test(c)).unwrap_or(text.len())
}

fn relation(rest: &str, at: usize) -> Result<(Token, usize), SyntaxError> {
    let known = [
        ("==", Relation::Equal),
        ("!=", Relation::NotEqual),
        ("<=", Relation::LessOrEqual),
        (">=", Relation::GreaterOrEqual),
        ("=", Relation::Equal),
        ("<", Relation::Less),
        (">", Relation::Greater),
    ];
    known
        .into_iter()
        .find(|(text, _)| rest.starts_with(text))
        .map(|(text, relation)| (Token::Relation(relation), text.len()))
        .ok_or_else(|| SyntaxError::new(at, "`!` alone has no meaning: write != or not"))
}

fn quoted(rest: &str, at: usize) -> Result<(Token, usize), SyntaxError> {
    let mut text = String::new();
    let mut chars = rest.char_indices();
    let (_, quote) = chars.next().expect("the caller saw the quote");
    while let Some((place, c)) = chars.next() {
        match c {
            c if c == quote => return Ok((Token::Text(text), place + 1)),
            '\\' => {
                let bad = || {
                    let why = r#"after \ comes one of \ " ' n t r, or u{HEX} for a character by its number"#;
                    SyntaxError::new(at + place, why)
                };
                text.push(match chars.next().ok_or_else(bad)?.1 {
                    c @ ('\\' | '"' | '\'') => c,
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    'u' => {
                        let rest = chars.as_str();
                        let digits = rest
                            .strip_prefix('{')
                            .and_then(|rest| rest.split_once('}'))
                            .ok_or_else(bad)?
                            .0;
                        let legal = !digits.is_empty()
                            && digits.len() <= 6
                            && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                        let code = u32::from_str_radix(digits, 16).ok().filter(|_| legal);
                        let c = code.and_then(char::from_u32).ok_or_else(bad)?;
                        // The digits and both braces; `chars` goes on behind them.
                        for _ in 0..digits.len() + 2 {
                            chars.next();
                        }
                        c
                    }
                    _ => return Err(bad()),
                });
                if text.ends_with('\0') {
                    let why = "a text cannot hold the character 0";
                    return Err(SyntaxError::new(at + place, why));
                }
            }
            '\0' => {
                return Err(SyntaxError::new(at + place, "a text cannot hold the character 0"));
            }
            c => text.push(c),
        }
    }
    Err(SyntaxError::new(at, format!("the text has no closing {quote}")))
}

fn number(rest: &str, at: usize) -> Result<(Token, usize), SyntaxError> {
    let digit = |c: char| c.is_ascii_digit();
    let bad = |why: &str| SyntaxError::new(at, why);
    let sign = usize::from(rest.starts_with('-'));
    let whole = span(&rest[sign..], digit);
    if whole == 0 {
        return Err(bad("expected digits after the minus"));
    }
    let mut length = sign + whole;
    let mut float = false;
    if let Some(fraction) = rest[length..].strip_prefix('.')
        && fraction.starts_with(digit)
    {
        float = true;
        length += 1 + span(fraction, digit);
    }
    if let Some(exponent) = rest[length..].strip_prefix(['e', 'E']) {
        let signed = usize::from(exponent.starts_with(['+', '-']));
        let digits = span(&exponent[signed..], digit);
        if digits > 0 {
            float = true;
            length += 1 + signed + digits;
        }
    }
    let unit = span(&rest[length..], continues_word);
    let (digits, unit) = (&rest[..length], &rest[length..length + unit]);
    let value = if !unit.is_empty() {
        let amount = digits.parse().ok().filter(|_| sign == 0);
        with_unit(amount, unit).ok_or_else(|| {
            bad("expected a number, a size such as 64MiB, or how long ago as a whole number with s, m, h, d or w, at most 100 years")
        })?
    } else if float {
        let value: f64 = digits.parse().map_err(|_| bad("this is no number"))?;
        if !value.is_finite() {
            return Err(bad("the number is too large for a float of 64 bits"));
        }
        Value::Float(value)
    } else {
        let too_large =
            |_| bad("an integer is between -9223372036854775808 and 9223372036854775807");
        Value::Int(digits.parse().map_err(too_large)?)
    };
    Ok((Token::Value(value), length + unit.len()))
}

fn with_unit(amount: Option<i64>, unit: &str) -> Option<Value> {
    /// A hundred years: more than any artifact is old.
    const AGO_MAX: u32 = 100 * 366 * 86_400;
    let amount = amount?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => {
            let factor: i64 = match unit {
                "KiB" => 1 << 10,
                "MiB" => 1 << 20,
                "GiB" => 1 << 30,
                "TiB" => 1 << 40,
                _ => return None,
            };
            return amount.checked_mul(factor).map(Value::Int);
        }
    };
    let seconds = u32::try_from(amount.checked_mul(seconds)?).ok()?;
    Some(Value::Ago(seconds)).filter(|_| seconds <= AGO_MAX)
}
