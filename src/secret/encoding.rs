//! How a secret looks when a program has written it down: as it is, and in the encodings that programs use.
//!
//! Every spelling is a byte string that stands in a file if, and practically only if, the value was put there in that
//! encoding. All of them are in memory that is overwritten when it is given back; what a program wrote by other means
//! (encrypted, compressed, cut in pieces, spelled backwards) is not recognised by anything here.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use std::fmt::{self, Write};
use zeroize::Zeroizing;

/// Shortest value that is looked for, in bytes. In a gigabyte of random bytes eight given ones stand with a
/// probability of 2^-34; six given ones would stand there once in 260,000 files, and short words are everywhere.
pub const LOOKED_FOR_BYTES_MIN: usize = 8;

/// A value of fewer different bytes is not looked for: `00000000` and `--------` stand in files for other reasons.
/// Chosen, not measured.
const DIFFERENT_BYTES_MIN: usize = 4;

/// How much of a long value is looked for. Long enough that nothing else is equal to it by chance, short enough that
/// the bytes kept between two chunks are few.
const PIECE_BYTES: usize = 64;

/// How a value was written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Encoding {
    Raw,
    /// RFC 4648, section 4, at any of the three positions in a group of three bytes.
    Base64,
    /// RFC 4648, section 5.
    Base64Url,
    Hex,
    /// Percent-encoded (RFC 3986), also as forms do it.
    Url,
    /// Inside a JSON string.
    Json,
}

impl Encoding {
    pub fn as_str(self) -> &'static str {
        match self {
            Encoding::Raw => "raw",
            Encoding::Base64 => "base64",
            Encoding::Base64Url => "base64url",
            Encoding::Hex => "hex",
            Encoding::Url => "url",
            Encoding::Json => "json",
        }
    }

    /// Whether programs break this encoding into lines without changing what it stands for.
    pub fn may_be_wrapped(self) -> bool {
        match self {
            Encoding::Base64 | Encoding::Base64Url | Encoding::Hex => true,
            Encoding::Raw | Encoding::Url | Encoding::Json => false,
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How much of a value a spelling is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Of a value that is longer, the 64 bytes in it that differ most: enough to find it, whatever its size.
    Piece,
    /// All of it, as is needed to hide it.
    Whole,
}

/// One spelling of a value.
#[derive(Clone)]
pub struct Spelling {
    pub encoding: Encoding,
    pub bytes: Zeroizing<Vec<u8>>,
}

/// What of a value is looked for; nothing when it is too short or too simple to be told from other bytes.
///
/// White space around it is left out: a value read from a file often ends in a newline that no program keeps.
pub fn looked_for(value: &[u8]) -> Option<&[u8]> {
    let value = value.trim_ascii();
    let different = differences(value);
    (value.len() >= LOOKED_FOR_BYTES_MIN && different >= DIFFERENT_BYTES_MIN).then_some(value)
}

fn differences(bytes: &[u8]) -> usize {
    let mut seen = [false; 256];
    bytes.iter().filter(|byte| !std::mem::replace(&mut seen[usize::from(**byte)], true)).count()
}

/// Every spelling of a value, each once; none when it is not looked for.
pub fn spellings(value: &[u8], extent: Extent) -> Vec<Spelling> {
    let Some(value) = looked_for(value) else { return Vec::new() };
    let value = match extent {
        Extent::Piece => piece(value),
        Extent::Whole => value,
    };
    let mut all = Spellings(vec![Spelling {
        encoding: Encoding::Raw,
        bytes: Zeroizing::new(value.to_vec()),
    }]);
    for before in 0..3 {
        all.add(Encoding::Base64, base64(&STANDARD, value, before));
        all.add(Encoding::Base64Url, base64(&URL_SAFE, value, before));
    }
    all.add(Encoding::Hex, hex(value, |byte, out| write!(out, "{byte:02x}")));
    all.add(Encoding::Hex, hex(value, |byte, out| write!(out, "{byte:02X}")));
    for kept in [RFC_3986, COMPONENT, PYTHON] {
        all.add(Encoding::Url, percent(value, kept, false, true));
        all.add(Encoding::Url, percent(value, kept, false, false));
    }
    all.add(Encoding::Url, percent(value, FORM, true, true));
    all.add(Encoding::Url, percent(value, FORM, true, false));
    // Some escape every byte.
    all.add(Encoding::Url, hex(value, |byte, out| write!(out, "%{byte:02X}")));
    all.add(Encoding::Url, hex(value, |byte, out| write!(out, "%{byte:02x}")));
    // JSON strings are text. A piece may have been cut inside a character.
    let text = value.utf8_chunks().map(|chunk| chunk.valid()).max_by_key(|text| text.len());
    if let Some(text) = text.filter(|text| text.len() >= LOOKED_FOR_BYTES_MIN)
        && (text.len() == value.len() || extent == Extent::Piece)
    {
        for ascii in [false, true] {
            for slash in [false, true] {
                all.add(Encoding::Json, json(text, ascii, slash));
            }
        }
    }
    all.0
}

struct Spellings(Vec<Spelling>);

impl Spellings {
    /// Adds a spelling that differs from all before and is long enough to mean something.
    fn add(&mut self, encoding: Encoding, bytes: Zeroizing<Vec<u8>>) {
        let known = self.0.iter().any(|spelling| spelling.bytes == bytes);
        if !known && bytes.len() >= LOOKED_FOR_BYTES_MIN {
            self.0.push(Spelling { encoding, bytes });
        }
    }
}

/// The part of a long value with the most different bytes: the first lines of a key file are those of every key file.
fn piece(value: &[u8]) -> &[u8] {
    if value.len() <= PIECE_BYTES {
        return value;
    }
    let starts = (0..value.len() - PIECE_BYTES + 1).step_by(PIECE_BYTES / 4).rev();
    let start = starts.max_by_key(|start| differences(&value[*start..start + PIECE_BYTES]));
    let start = start.unwrap_or(0);
    &value[start..start + PIECE_BYTES]
}

/// The characters that stand for the value, and for nothing else, when `before` bytes precede it in a group of three.
fn base64(engine: &impl Engine, value: &[u8], before: usize) -> Zeroizing<Vec<u8>> {
    let mut padded = Zeroizing::new(vec![0; before]);
    padded.extend_from_slice(value);
    let text = Zeroizing::new(engine.encode(&padded));
    // A character holds six bits; those that share bits with a neighbour of the value are left out.
    let first = (before * 8).div_ceil(6);
    let end = padded.len() * 8 / 6;
    Zeroizing::new(text.as_bytes()[first..end].to_vec())
}

fn hex(value: &[u8], digit: impl Fn(u8, &mut String) -> fmt::Result) -> Zeroizing<Vec<u8>> {
    let mut text = String::with_capacity(value.len() * 2);
    for &byte in value {
        digit(byte, &mut text).expect("a string takes every text");
    }
    Zeroizing::new(text.into_bytes())
}

/// Signs besides letters and digits that are left as they are: by RFC 3986, by JavaScript's `encodeURIComponent`, by
/// Python's `urllib.parse.quote`, and in a form (the WHATWG's URL standard).
const RFC_3986: &[u8] = b"-._~";
const COMPONENT: &[u8] = b"-._~!'()*";
const PYTHON: &[u8] = b"-._~/";
const FORM: &[u8] = b"-._*";

fn percent(value: &[u8], kept: &[u8], form: bool, upper: bool) -> Zeroizing<Vec<u8>> {
    let mut text = String::with_capacity(value.len() * 3);
    for &byte in value {
        let written = match byte {
            b' ' if form => text.write_char('+'),
            _ if byte.is_ascii_alphanumeric() || kept.contains(&byte) => {
                text.write_char(char::from(byte))
            }
            _ if upper => write!(text, "%{byte:02X}"),
            _ => write!(text, "%{byte:02x}"),
        };
        written.expect("a string takes every text");
    }
    Zeroizing::new(text.into_bytes())
}

/// `ascii` writes everything beyond ASCII as `\uXXXX`, as Python does; `slash` writes `\/`, as PHP does.
fn json(value: &str, ascii: bool, slash: bool) -> Zeroizing<Vec<u8>> {
    let mut text = String::with_capacity(value.len() * 6);
    for character in value.chars() {
        let written = match character {
            '"' => text.write_str("\\\""),
            '\\' => text.write_str("\\\\"),
            '/' if slash => text.write_str("\\/"),
            '\n' => text.write_str("\\n"),
            '\r' => text.write_str("\\r"),
            '\t' => text.write_str("\\t"),
            '\u{8}' => text.write_str("\\b"),
            '\u{c}' => text.write_str("\\f"),
            _ if character < ' ' => write!(text, "\\u{:04x}", u32::from(character)),
            _ if ascii && !character.is_ascii() => {
                let mut units = [0; 2];
                let units = character.encode_utf16(&mut units);
                units.iter().try_for_each(|unit| write!(text, "\\u{unit:04x}"))
            }
            _ => text.write_char(character),
        };
        written.expect("a string takes every text");
    }
    Zeroizing::new(text.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: &[u8], encoding: Encoding) -> Vec<String> {
        let all = spellings(value, Extent::Piece).into_iter();
        all.filter(|spelling| spelling.encoding == encoding)
            .map(|spelling| String::from_utf8_lossy(&spelling.bytes).into_owned())
            .collect()
    }

    #[test]
    fn what_is_short_or_simple_is_not_looked_for() {
        for value in ["", "hunter2", "aaaaaaaaaaaaaaaa", "00000000", " short \n", "abcabcabcabc"] {
            assert!(looked_for(value.as_bytes()).is_none(), "{value:?}");
        }
        assert_eq!(looked_for(b"hunter22\n"), Some(&b"hunter22"[..]));
    }

    #[test]
    fn a_token_has_no_spelling_twice() {
        let all = spellings(b"sk-abcdef0123456789", Extent::Piece);
        let mut bytes: Vec<_> = all.iter().map(|spelling| spelling.bytes.to_vec()).collect();
        bytes.sort();
        let count = bytes.len();
        bytes.dedup();
        assert_eq!(bytes.len(), count);
        let url = of(b"sk-abcdef0123456789", Encoding::Url);
        assert!(url.iter().all(|text| text.starts_with("%73%6")), "nothing in it must be escaped");
    }

    #[test]
    fn the_base64_of_a_value_stands_in_every_text_that_has_the_value_in_it() {
        proptest::proptest!(|(before: Vec<u8>, value in "[ -~\u{e4}]{8,80}", after: Vec<u8>)| {
            if looked_for(value.as_bytes()).is_none() {
                return Ok(());
            }
            let whole = [&before, value.as_bytes(), &after].concat();
            for (engine, encoding) in [(STANDARD, Encoding::Base64), (URL_SAFE, Encoding::Base64Url)] {
                let text = engine.encode(&whole);
                let mut spelled = of(value.as_bytes(), encoding);
                // The two alphabets differ in two signs; what has none of them is the same in both.
                spelled.extend(of(value.as_bytes(), Encoding::Base64));
                proptest::prop_assert!(spelled.iter().any(|spelling| text.contains(spelling)));
            }
        });
    }

    #[test]
    fn signs_are_escaped_as_other_programs_do_it() {
        let url = of(b"p@ss/w rd'!", Encoding::Url);
        for expected in ["p%40ss%2Fw%20rd%27%21", "p%40ss%2fw%20rd%27%21", "p%40ss%2Fw+rd%27%21"] {
            assert!(url.iter().any(|found| found == expected), "{expected} is not in {url:?}");
        }
        assert!(url.iter().any(|found| found == "p%40ss%2Fw%20rd'!"), "JavaScript's: {url:?}");
        let json = of("gr\u{fc}\u{df}e/\"x\"\n1".as_bytes(), Encoding::Json);
        for expected in ["gr\u{fc}\u{df}e/\\\"x\\\"\\n1", "gr\\u00fc\\u00dfe\\/\\\"x\\\"\\n1"] {
            assert!(json.iter().any(|found| found == expected), "{expected} is not in {json:?}");
        }
    }

    #[test]
    fn of_a_long_value_the_most_varied_part_is_looked_for() {
        let mut key = b"-----BEGIN PRIVATE KEY-----\n".repeat(6);
        key.extend((0..200u8).map(|n| b'A' + n % 50));
        let piece = piece(&key);
        assert_eq!(piece.len(), PIECE_BYTES);
        let of_the_body = piece.iter().filter(|byte| (b'A'..b'A' + 50).contains(byte)).count();
        assert!(of_the_body > 48, "{}", piece.escape_ascii());
    }
}
