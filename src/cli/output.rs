//! What reaches the terminal: results on standard output, everything else on standard error.
//!
//! Names of artifacts are chosen by sandboxed programs, so no control character ever reaches a terminal raw.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// Writes to standard output; a reader that has gone away is no failure of ours (`belljar artifact ls | head`).
pub fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// One JSON document.
pub fn print_json(value: &impl Serialize) {
    let mut text =
        serde_json::to_string_pretty(value).expect("what the API speaks has text keys only");
    text.push('\n');
    print(&text);
}

/// One JSON document with one list, written as its elements come, so that a long list is never in memory as a whole. When
/// it breaks off, the document does too and no reader takes it for complete.
pub struct JsonList {
    key: &'static str,
    begun: bool,
    elements: u64,
}

impl JsonList {
    /// Nothing is written before there is something to add, so that a failure at the start leaves no broken document.
    pub fn new(key: &'static str) -> Self {
        Self { key, begun: false, elements: 0 }
    }

    fn opening(&mut self) -> String {
        if std::mem::replace(&mut self.begun, true) {
            return String::new();
        }
        format!("{{\n  \"{}\": [", self.key)
    }

    pub fn add<T: Serialize>(&mut self, elements: &[T]) {
        print(&self.added(elements));
    }

    /// With one more key when it has a value.
    pub fn end(self, key: &str, value: Option<&String>) {
        print(&self.ended(key, value));
    }

    fn added<T: Serialize>(&mut self, elements: &[T]) -> String {
        let mut text = self.opening();
        for element in elements {
            let shown = serde_json::to_string_pretty(element)
                .expect("what the API speaks has text keys only")
                .replace('\n', "\n    ");
            text.push_str(if self.elements == 0 { "\n    " } else { ",\n    " });
            text.push_str(&shown);
            self.elements += 1;
        }
        text
    }

    fn ended(mut self, key: &str, value: Option<&String>) -> String {
        let mut text = self.opening();
        text.push_str(if self.elements == 0 { "]" } else { "\n  ]" });
        if let Some(value) = value {
            text.push_str(&format!(",\n  \"{key}\": {}", serde_json::Value::from(value.as_str())));
        }
        text.push_str("\n}\n");
        text
    }
}

/// A message about a failure.
pub fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "belljar: {}", plain(text));
}

/// A message that is none.
pub fn remark(text: &str) {
    complain(text);
}

pub fn is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Colours on standard error: a terminal that nobody asked to stay plain (no-color.org).
pub fn colours() -> bool {
    is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The text without control characters; line breaks of our own sentences stay.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// Columns as wide as their widest cell; the last is left ragged.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| plain(cell)).collect()).collect();
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let header: Vec<String> = header.iter().map(|&cell| cell.to_owned()).collect();
    for row in std::iter::once(&header).chain(&rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A size for people: three digits are enough.
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// A moment, in local time.
pub fn time(moment: Timestamp) -> String {
    moment.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_never_reach_the_terminal() {
        let text = table(&["NAME"], &[vec!["a\x1b[31mb".to_owned()]]);
        assert!(!text.contains('\x1b'), "{text:?}");
        assert_eq!(plain("a\nb\r"), "a\nb\u{fffd}");
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["ü".to_owned(), "x".to_owned()], vec!["long".to_owned(), "y".to_owned()]];
        assert_eq!(table(&["A", "B"], &rows), "A     B\nü     x\nlong  y\n");
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(
            [0, 1023, 1024, 1536, 5 << 30].map(size),
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "5.0 GiB"]
        );
    }

    #[test]
    fn a_list_in_parts_is_one_document() {
        let whole = |parts: &[&[u8]], next: Option<&String>| {
            let mut list = JsonList::new("numbers");
            let mut text = String::new();
            for part in parts {
                text.push_str(&list.added(part));
            }
            text + &list.ended("next", next)
        };
        let value = serde_json::json!({ "numbers": [1, 2, 3], "next": "c\"" });
        let text = whole(&[&[1, 2], &[], &[3]], Some(&"c\"".to_owned()));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).expect("JSON"), value);
        let pretty = serde_json::to_string_pretty(&serde_json::json!({ "numbers": [1, 2] }));
        assert_eq!(whole(&[&[1], &[2]], None), pretty.expect("text") + "\n");
        assert_eq!(whole(&[&[]], None), "{\n  \"numbers\": []\n}\n");
        assert_eq!(whole(&[], None), "{\n  \"numbers\": []\n}\n");
    }
}
