//! The shape of a JSON text at its top: which kind of value, how many members, the names of the first.
//!
//! A text is checked whole by the grammar of RFC 8259, byte by byte, so that a shape is only told of what is JSON. The
//! state is one bit for each level that is open, and no more than [`DEPTH_MAX`] may be.

use super::{NAME_BYTES_MAX, NAMES_MAX, shortened};
use serde_json::{Value, json};

/// Levels that may be open: the bits of a `u128`, and what serde_json allows as well.
pub const DEPTH_MAX: u32 = 127;

/// A JSON text of which a part was seen.
#[derive(Debug, Default)]
pub struct Shape {
    state: State,
    /// Whether each open level is an object, the innermost in the lowest bit.
    objects: u128,
    depth: u32,
    top: Option<&'static str>,
    members: u64,
    names: Vec<String>,
    /// The beginning of a key at the top, as it is written.
    name: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// A value must follow.
    #[default]
    Value,
    /// A value or the end of the array just opened.
    FirstElement,
    /// A key or the end of the object just opened.
    FirstKey,
    Key,
    Colon,
    AfterValue,
    Text {
        key: bool,
    },
    Escape {
        key: bool,
    },
    /// So many hexadecimal digits are missing.
    Unicode {
        key: bool,
        missing: u8,
    },
    Number(Number),
    /// What is left of `true`, `false` or `null`.
    Word(&'static [u8]),
    /// No JSON, or too deep.
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
}

impl Number {
    fn may_end(self) -> bool {
        match self {
            Number::Zero | Number::Integer | Number::Fraction | Number::ExponentDigits => true,
            Number::Minus | Number::Point | Number::Exponent | Number::ExponentSign => false,
        }
    }

    /// The next state; nothing when the byte does not belong to the number.
    fn next(self, byte: u8) -> Option<Number> {
        use Number::*;
        Some(match (self, byte) {
            (Minus, b'0') => Zero,
            (Minus, b'1'..=b'9') | (Integer, b'0'..=b'9') => Integer,
            (Zero | Integer, b'.') => Point,
            (Point | Fraction, b'0'..=b'9') => Fraction,
            (Zero | Integer | Fraction, b'e' | b'E') => Exponent,
            (Exponent, b'+' | b'-') => ExponentSign,
            (Exponent | ExponentSign | ExponentDigits, b'0'..=b'9') => ExponentDigits,
            (
                Minus | Zero | Integer | Point | Fraction | Exponent | ExponentSign
                | ExponentDigits,
                _,
            ) => return None,
        })
    }
}

impl Shape {
    pub fn update(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let [byte, after @ ..] = rest {
            if self.state == State::Failed {
                return;
            }
            if let State::Text { key } = self.state {
                // The inside of a text at once.
                let special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
                let length = rest.iter().position(special).unwrap_or(rest.len());
                if length > 0 {
                    self.note_name(key, &rest[..length]);
                    rest = &rest[length..];
                    continue;
                }
            }
            self.step(*byte);
            rest = after;
        }
    }

    fn step(&mut self, byte: u8) {
        self.state = match self.state {
            State::Number(number) => match number.next(byte) {
                Some(next) => State::Number(next),
                None if number.may_end() => self.after_value(byte),
                None => State::Failed,
            },
            State::Word([wanted, rest @ ..]) if byte == *wanted => match rest {
                [] => State::AfterValue,
                rest => State::Word(rest),
            },
            State::Word(_) => State::Failed,
            State::Text { key } => match byte {
                b'"' if key => self.end_key(),
                b'"' => State::AfterValue,
                b'\\' => {
                    self.note_name(key, b"\\");
                    State::Escape { key }
                }
                // Control characters must be escaped; others do not come here.
                _ => State::Failed,
            },
            State::Escape { key } => {
                self.note_name(key, &[byte]);
                match byte {
                    b'u' => State::Unicode { key, missing: 4 },
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => State::Text { key },
                    _ => State::Failed,
                }
            }
            State::Unicode { key, missing } if byte.is_ascii_hexdigit() => {
                self.note_name(key, &[byte]);
                match missing {
                    1 => State::Text { key },
                    more => State::Unicode { key, missing: more - 1 },
                }
            }
            State::Unicode { .. } => State::Failed,
            state if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') => state,
            State::FirstElement if byte == b']' => self.close(false),
            State::Value | State::FirstElement => self.begin_value(byte),
            State::FirstKey if byte == b'}' => self.close(true),
            State::FirstKey | State::Key if byte == b'"' => {
                self.name.clear();
                State::Text { key: true }
            }
            State::Colon if byte == b':' => State::Value,
            State::AfterValue => self.after_value(byte),
            State::FirstKey | State::Key | State::Colon | State::Failed => State::Failed,
        };
    }

    fn begin_value(&mut self, byte: u8) -> State {
        if self.depth == 0 {
            self.top = Some(match byte {
                b'{' => "object",
                b'[' => "array",
                b'"' => "string",
                b't' | b'f' => "boolean",
                b'n' => "null",
                _ => "number",
            });
        } else if self.depth == 1 && self.objects & 1 == 0 {
            self.members += 1;
        }
        match byte {
            b'{' | b'[' if self.depth == DEPTH_MAX => State::Failed,
            b'{' => self.open(true),
            b'[' => self.open(false),
            b'"' => State::Text { key: false },
            b'-' => State::Number(Number::Minus),
            b'0' => State::Number(Number::Zero),
            b'1'..=b'9' => State::Number(Number::Integer),
            b't' => State::Word(b"rue"),
            b'f' => State::Word(b"alse"),
            b'n' => State::Word(b"ull"),
            _ => State::Failed,
        }
    }

    fn open(&mut self, object: bool) -> State {
        self.objects = self.objects << 1 | u128::from(object);
        self.depth += 1;
        if object { State::FirstKey } else { State::FirstElement }
    }

    fn close(&mut self, object: bool) -> State {
        if self.depth == 0 || (self.objects & 1 == 1) != object {
            return State::Failed;
        }
        self.objects >>= 1;
        self.depth -= 1;
        State::AfterValue
    }

    fn after_value(&mut self, byte: u8) -> State {
        let object = self.objects & 1 == 1;
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' => State::AfterValue,
            b',' if self.depth > 0 && object => State::Key,
            b',' if self.depth > 0 => State::Value,
            b'}' => self.close(true),
            b']' => self.close(false),
            _ => State::Failed,
        }
    }

    fn note_name(&mut self, key: bool, part: &[u8]) {
        if key && self.depth == 1 && self.names.len() < NAMES_MAX {
            let room = (NAME_BYTES_MAX + 1).saturating_sub(self.name.len());
            self.name.extend_from_slice(&part[..part.len().min(room)]);
        }
    }

    fn end_key(&mut self) -> State {
        if self.depth == 1 {
            self.members += 1;
            if self.names.len() < NAMES_MAX {
                let quoted = [b"\"", &self.name[..], b"\""].concat();
                // A name that was cut inside an escape is shown as it is written.
                let name =
                    serde_json::from_slice(&quoted).unwrap_or_else(|_| shortened(&self.name));
                self.names.push(shortened(name.as_bytes()));
            }
        }
        State::Colon
    }

    /// The shape; nothing when the text is no JSON, or deeper than is looked.
    pub fn finish(self) -> Option<Value> {
        let ended = match self.state {
            State::AfterValue => true,
            State::Number(number) => number.may_end(),
            State::Value
            | State::FirstElement
            | State::FirstKey
            | State::Key
            | State::Colon
            | State::Text { .. }
            | State::Escape { .. }
            | State::Unicode { .. }
            | State::Word(_)
            | State::Failed => false,
        };
        let top = self.top.filter(|_| ended && self.depth == 0)?;
        Some(match top {
            "object" => json!({ "type": top, "keys": self.members, "names": self.names }),
            "array" => json!({ "type": top, "length": self.members }),
            _ => json!({ "type": top }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(text: &str) -> Option<Value> {
        let mut shape = Shape::default();
        shape.update(text.as_bytes());
        shape.finish()
    }

    #[test]
    fn the_top_is_described() {
        let object = of("{\"a\\u00e4\": [1, [2]], \"b\": {\"c\": 1}, \"\": null}");
        assert_eq!(object, Some(json!({"type": "object", "keys": 3, "names": ["aä", "b", ""]})));
        assert_eq!(of(" [[1,2],{},3] "), Some(json!({"type": "array", "length": 3})));
        assert_eq!(of("{}"), Some(json!({"type": "object", "keys": 0, "names": []})));
        assert_eq!(of("-0.5e+3"), Some(json!({"type": "number"})));
        assert_eq!(of("true"), Some(json!({"type": "boolean"})));
    }

    #[test]
    fn what_is_too_deep_has_no_shape() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(of(&nested(DEPTH_MAX as usize)).is_some());
        assert!(of(&nested(DEPTH_MAX as usize + 1)).is_none());
    }

    proptest! {
        /// An implementation by others is the oracle: what it takes for JSON is, and nothing else.
        #[test]
        fn json_is_what_serde_json_takes_for_it(
            text in "([\\[\\]{},: \n]|\"a\"|\"\\\\[nu\"x]\"|true|null|-|0|12|\\.5|e|E\\+1){0,12}",
        ) {
            let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&text);
            let ours = of(&text);
            prop_assert_eq!(ours.is_some(), theirs.is_ok(), "{}", text);
            // A number that no f64 holds is JSON, and no value of theirs.
            if let (Some(ours), Ok(Value::Array(list))) = (ours, serde_json::from_str(&text)) {
                prop_assert_eq!(&ours["length"], &json!(list.len()));
            }
        }

        #[test]
        fn every_value_that_is_written_has_its_shape(names in proptest::collection::vec(".{0,12}", 0..9), depth in 0..40usize) {
            let mut inner = json!([1, "x", null]);
            for _ in 0..depth {
                inner = json!({ "x": [inner] });
            }
            let object: serde_json::Map<_, _> =
                names.into_iter().map(|name| (name, inner.clone())).collect();
            let names: Vec<_> = object.keys().cloned().collect();
            let text = serde_json::to_string_pretty(&object).expect("serialises");
            let expected = json!({ "type": "object", "keys": names.len(), "names": names });
            prop_assert_eq!(of(&text), Some(expected));
        }
    }
}
