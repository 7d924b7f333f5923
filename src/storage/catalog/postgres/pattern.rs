//! Patterns as regular expressions of PostgreSQL, with the same meaning byte by byte.
//!
//! A pattern is an expression over bytes (globset 0.4, `Glob::regex`), and PostgreSQL's are over characters of valid text. So
//! what is looked at is read as Latin 1, where each byte is one character, and each place of the pattern becomes the set of
//! bytes that it stands for. In texts two bytes are written with two characters each (see [`text`](super::text)), in paths
//! none. PostgreSQL's `.` and `[^…]` stand for newlines too, as ours do (PostgreSQL 15, 9.7.3.3).

use crate::model::glob::{Glob, Part};
use std::fmt::Write;

/// Why a pattern could not be translated: the expression has something in it that globset never wrote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the pattern {pattern:?} has a part that is not understood: {rest:?}")]
pub struct Untranslatable {
    pattern: String,
    rest: String,
}

/// How bytes are written in what the expression is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    Text,
    Path,
}

/// A set of bytes.
#[derive(Clone)]
struct Bytes([bool; 256]);

impl Bytes {
    fn one(byte: u8) -> Self {
        let mut set = [false; 256];
        set[usize::from(byte)] = true;
        Self(set)
    }

    fn every() -> Self {
        Self([true; 256])
    }

    /// Ranges of its bytes from `least` on.
    fn ranges(&self, least: u8) -> Vec<(u8, u8)> {
        let mut ranges: Vec<(u8, u8)> = Vec::new();
        for byte in (least..=255).filter(|byte| self.0[usize::from(*byte)]) {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == byte => *last = byte,
                _ => ranges.push((byte, byte)),
            }
        }
        ranges
    }

    fn write(&self, to: &mut String, subject: Subject) {
        // A path has no byte 0, nor has text that PostgreSQL gives out.
        let (least, zero, mark) = match subject {
            Subject::Path => (1, false, false),
            Subject::Text => (2, self.0[0], self.0[1]),
        };
        let mut choices: Vec<String> = Vec::new();
        let ranges = self.ranges(least);
        if !ranges.is_empty() {
            let mut set = "[".to_owned();
            for (first, last) in ranges {
                write!(set, "\\u{first:04x}").expect("a String takes all");
                if last > first {
                    write!(set, "-\\u{last:04x}").expect("a String takes all");
                }
            }
            set.push(']');
            choices.push(set);
        }
        choices.extend(zero.then(|| "\\u0001\\u0001".to_owned()));
        choices.extend(mark.then(|| "\\u0001\\u0002".to_owned()));
        match &choices[..] {
            // Nothing matches: what follows the end of the text.
            [] => to.push_str("(?:$.)"),
            [one] if one.starts_with('[') => to.push_str(one),
            several => {
                write!(to, "(?:{})", several.join("|")).expect("a String takes all");
            }
        }
    }
}

/// The expression, for what [`subject`] selects.
pub(super) fn expression(glob: &Glob, subject: Subject) -> Result<String, Untranslatable> {
    let source = glob.regex();
    let fail =
        |rest: &str| Untranslatable { pattern: glob.as_str().to_owned(), rest: rest.to_owned() };
    let mut rest = source.strip_prefix("(?-u)").ok_or_else(|| fail(source))?;
    let mut translated = String::new();
    while let Some(first) = rest.chars().next() {
        match first {
            '^' | '$' | '*' | '?' | '|' | ')' => {
                translated.push(first);
                rest = &rest[1..];
            }
            '(' => {
                rest = rest.strip_prefix("(?:").ok_or_else(|| fail(rest))?;
                translated.push_str("(?:");
            }
            '.' => {
                Bytes::every().write(&mut translated, subject);
                rest = &rest[1..];
            }
            '[' => {
                let (set, tail) = class(&rest[1..]).ok_or_else(|| fail(rest))?;
                set.write(&mut translated, subject);
                rest = tail;
            }
            _ => {
                let (byte, tail) = byte(rest).ok_or_else(|| fail(rest))?;
                Bytes::one(byte).write(&mut translated, subject);
                rest = tail;
            }
        }
    }
    Ok(translated)
}

/// One byte of the expression: itself, escaped, or by its number.
fn byte(text: &str) -> Option<(u8, &str)> {
    let Some(escaped) = text.strip_prefix('\\') else {
        let byte = *text.as_bytes().first().filter(|byte| byte.is_ascii())?;
        return Some((byte, &text[1..]));
    };
    if let Some(digits) = escaped.strip_prefix('x') {
        let number = u8::from_str_radix(digits.get(..2)?, 16).ok()?;
        return Some((number, &digits[2..]));
    }
    let byte = *escaped.as_bytes().first().filter(|byte| byte.is_ascii_punctuation())?;
    Some((byte, &escaped[1..]))
}

/// The set behind `[`.
fn class(text: &str) -> Option<(Bytes, &str)> {
    let (negated, mut rest) = match text.strip_prefix('^') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut set = [false; 256];
    while !rest.starts_with(']') {
        let (first, tail) = byte(rest)?;
        let (last, tail) = match tail.strip_prefix('-') {
            Some(tail) => byte(tail)?,
            None => (first, tail),
        };
        for byte in first..=last {
            set[usize::from(byte)] = true;
        }
        rest = tail;
    }
    if negated {
        set = set.map(|there| !there);
    }
    Some((Bytes(set), &rest[1..]))
}

/// The part of a value that is matched, as SQL over its bytes.
pub(super) fn subject(glob: &Glob, bytes: &str) -> String {
    let whole = format!("convert_from({bytes}, 'LATIN1')");
    match glob.part() {
        Part::Whole => whole,
        Part::LastName => format!("substring({whole} FROM '[^/]*$')"),
        Part::BelowWorkspace => format!(
            "CASE WHEN starts_with({whole}, '/workspace/') THEN substr({whole}, 12) ELSE {whole} END"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_place_in_a_pattern_is_translated() {
        for pattern in [
            "*", "**", "a/**/b?", "**/x", "[!a-c]", "[é]", "{a,b*,}", "\\*", "a.b", "\u{1}",
            "[]-a]",
        ] {
            for glob in [Glob::of_text(pattern), Glob::of_path(pattern)] {
                let glob = glob.expect("legal");
                expression(&glob, Subject::Text).expect(pattern);
                expression(&glob, Subject::Path).expect(pattern);
            }
        }
    }

    #[test]
    fn a_byte_that_texts_write_with_two_characters_is_one_place() {
        let any = expression(&Glob::of_text("?").expect("legal"), Subject::Text).expect("known");
        assert_eq!(any, r"^(?:[\u0002-\u00ff]|\u0001\u0001|\u0001\u0002)$");
        let mark = expression(&Glob::of_text("\u{1}").expect("legal"), Subject::Path);
        assert_eq!(mark.expect("known"), r"^[\u0001]$");
    }
}
