//! Reads out of a content what is cheap and certain, while it passes by: sizes of images, shape of tables and JSON, lines.
//!
//! A content is made by a program that may want to hurt the daemon. So every reader takes the bytes as they come, keeps
//! a state of a few kilobytes, recurses nowhere, reads no length from the file that it would then believe, and gives up
//! on what costs more than counting after [`LOOKED_AT_BYTES_MAX`]. What is not certain is left out.

pub mod image;
pub mod json;
pub mod table;

use super::detect::{ending, is_text};
use crate::storage::Metadata;
use json::Shape;
use std::ffi::OsStr;
use table::Table;

/// Tables and JSON are read up to this size. At 200 MB/s, the slowest of the readers, it is a third of a second.
pub const LOOKED_AT_BYTES_MAX: u64 = 64 << 20;

/// Longest name of a column or a key that is noted, in bytes, and how many of them. Chosen, not measured: enough to
/// recognise a table, and a row of the catalog stays below 10 KiB.
const NAME_BYTES_MAX: usize = 128;
const NAMES_MAX: usize = 64;

/// One content on its way through the readers.
#[derive(Debug)]
pub struct Inspector {
    ending: Vec<u8>,
    begun: bool,
    seen: u64,
    size: Option<(u32, u32)>,
    table: Option<Box<Table>>,
    shape: Option<Box<Shape>>,
    lines: Option<Lines>,
}

#[derive(Debug, Default)]
struct Lines {
    breaks: u64,
    ends_in_break: bool,
}

impl Inspector {
    /// `name` is the file's; its ending says what the content is meant to be.
    pub fn new(name: &OsStr) -> Self {
        Self {
            ending: ending(name).unwrap_or_default(),
            begun: false,
            seen: 0,
            size: None,
            table: None,
            shape: None,
            lines: None,
        }
    }

    pub fn update(&mut self, chunk: &[u8]) {
        if chunk.is_empty() {
            return;
        }
        if !self.begun {
            self.begun = true;
            self.begin(chunk);
        }
        self.seen += chunk.len() as u64;
        if self.seen > LOOKED_AT_BYTES_MAX {
            self.table = None;
            self.shape = None;
        }
        if let Some(table) = &mut self.table {
            table.update(chunk);
        }
        if let Some(shape) = &mut self.shape {
            shape.update(chunk);
        }
        if let Some(lines) = &mut self.lines {
            if memchr::memchr(0, chunk).is_some() {
                // It began as text and is none.
                (self.lines, self.table) = (None, None);
            } else {
                lines.breaks += memchr::memchr_iter(b'\n', chunk).count() as u64;
                lines.ends_in_break = chunk.last() == Some(&b'\n');
            }
        }
    }

    /// Chooses the readers by the first bytes.
    fn begin(&mut self, chunk: &[u8]) {
        self.size = image::size(chunk);
        if self.size.is_some() || !is_text(chunk) {
            return;
        }
        self.lines = Some(Lines::default());
        match &self.ending[..] {
            b"csv" => self.table = Some(Box::new(Table::new(table::delimiter(chunk)))),
            b"tsv" => self.table = Some(Box::new(Table::new(b'\t'))),
            b"json" | b"geojson" | b"ipynb" => self.shape = Some(Box::default()),
            b"" if chunk.trim_ascii_start().starts_with(b"{")
                || chunk.trim_ascii_start().starts_with(b"[") =>
            {
                self.shape = Some(Box::default());
            }
            b"svg" => self.size = image::svg_size(chunk),
            _ => {}
        }
    }

    /// What was found, under the keys that `docs/api.md` names.
    pub fn finish(self) -> Metadata {
        let mut metadata = Metadata::new();
        if let Some((width, height)) = self.size {
            metadata.insert("width".to_owned(), width.into());
            metadata.insert("height".to_owned(), height.into());
        }
        if let Some(table) = self.table {
            table.finish(&mut metadata);
        }
        if let Some(shape) = self.shape.and_then(|shape| shape.finish()) {
            metadata.insert("json".to_owned(), shape);
        }
        if let Some(Lines { breaks, ends_in_break }) = self.lines {
            metadata.insert("lines".to_owned(), (breaks + u64::from(!ends_in_break)).into());
        }
        metadata
    }
}

/// The part of a name that is noted: at most [`NAME_BYTES_MAX`], not cut inside a character.
fn shortened(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(NAME_BYTES_MAX)];
    let text = String::from_utf8_lossy(cut);
    if cut.len() < bytes.len() {
        text.trim_end_matches('\u{fffd}').to_owned()
    } else {
        text.into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;
    use std::time::{Duration, Instant};

    fn of(name: &str, chunks: &[&[u8]]) -> serde_json::Value {
        let mut inspector = Inspector::new(OsStr::new(name));
        for chunk in chunks {
            inspector.update(chunk);
        }
        inspector.finish().into()
    }

    #[test]
    fn each_kind_says_what_is_certain() {
        let table = of("t.csv", &[b"id,name\n1,\"a\nb\"\n2,c\n"]);
        assert_eq!(
            table,
            json!({"columns": 2, "column_names": ["id", "name"], "rows": 2, "lines": 4})
        );
        assert_eq!(of("run.log", &[b"one\ntwo\nthree"]), json!({"lines": 3}));
        let object = of("o.json", &[b"{\"a\": 1, \"b\": {\"c\": []}}"]);
        assert_eq!(
            object,
            json!({"json": {"type": "object", "keys": 2, "names": ["a", "b"]}, "lines": 1})
        );
        assert_eq!(
            of("x", &[b"[1, 2]"]),
            json!({"json": {"type": "array", "length": 2}, "lines": 1})
        );
        assert_eq!(
            of("i", &[b"GIF89a\x10\x00\x20\x00\x00\x00\x00"]),
            json!({"width": 16, "height": 32})
        );
        let svg = of("c.svg", &[b"<svg xmlns='x' width='40px' height=\"30\"></svg>"]);
        assert_eq!(svg, json!({"width": 40, "height": 30, "lines": 1}));
        assert_eq!(of("broken.json", &[b"{\"a\": }"]), json!({"lines": 1}));
        assert_eq!(of("empty.csv", &[]), json!({}));
        assert_eq!(of("not.csv", &[b"a,b\n1,\0\n"]), json!({}));
        assert_eq!(of("late.txt", &[b"text\n", b"\0\0"]), json!({}));
    }

    #[test]
    fn a_large_file_is_counted_and_not_read_further() {
        let line = b"1,2,3\n".repeat(10_000);
        let mut inspector = Inspector::new(OsStr::new("big.csv"));
        let chunks = LOOKED_AT_BYTES_MAX / line.len() as u64 + 2;
        for _ in 0..chunks {
            inspector.update(&line);
        }
        assert_eq!(serde_json::Value::from(inspector.finish()), json!({"lines": chunks * 10_000}));
    }

    #[test]
    fn hostile_files_cost_little() {
        let mebibyte = 1 << 20;
        let begin = Instant::now();
        let hostile: [(&str, &[u8], Vec<u8>); 7] = [
            ("quotes.csv", b"a,\"", b"\"".repeat(mebibyte)),
            ("open.csv", b"a,b\n\"", b"x\n,".repeat(mebibyte / 3)),
            ("columns.csv", b"a", b",column".repeat(mebibyte / 7)),
            ("deep.json", b"", b"[".repeat(mebibyte)),
            ("keys.json", b"{\"", b"k\":1,\"".repeat(mebibyte / 6)),
            ("string.json", b"\"", b"\\\\".repeat(mebibyte / 2)),
            ("bomb.svg", b"<svg ", b"width='9' ".repeat(mebibyte / 10)),
        ];
        for (name, first, rest) in &hostile {
            let mut inspector = Inspector::new(OsStr::new(name));
            inspector.update(first);
            for _ in 0..8 {
                inspector.update(rest);
            }
            let metadata = serde_json::Value::from(inspector.finish()).to_string();
            assert!(metadata.len() < 20_000, "{name}: {} bytes of metadata", metadata.len());
        }
        // 56 MiB in a build without optimization; a search that goes back on its way would take hours.
        assert!(begin.elapsed() < Duration::from_secs(120), "{:?}", begin.elapsed());
    }

    #[test]
    fn dimensions_are_given_as_they_are_and_nothing_is_made_of_them() {
        let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
        png.extend([0xff; 8]);
        assert_eq!(of("huge.png", &[&png]), json!({"width": u32::MAX, "height": u32::MAX}));
    }

    const SAMPLES: [(&str, &[u8]); 10] = [
        ("a.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x10\0\0\0\x20\x08\x06"),
        ("a.jpg", b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0\xff\xc0\0\x11\x08\0\x20\0\x10\x03"),
        ("a.gif", b"GIF89a\x10\0\x20\0\x80\0\0"),
        ("a.webp", b"RIFF\x24\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\x0f\0\0\x1f\0\0"),
        ("a.bmp", b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x10\0\0\0\x20\0\0\0\x01\0"),
        ("a.tif", b"II*\0\x08\0\0\0\x02\0\0\x01\x03\0\x01\0\0\0\x10\0\0\0\x01\x01\x03\0\x01\0\0\0\x20\0\0\0"),
        ("a.svg", b"<?xml version='1.0'?>\n<svg width='16' height='32' viewBox='0 0 1 1'>"),
        ("a.csv", b"a,b\n\"1\n\"\"2\",3\n"),
        ("a.json", b"{\"a\": [1, -2.5e3, \"x\\u00e4\\n\"], \"b\": {\"c\": null}}"),
        ("a.ipynb", b"[true, false, {\"x\": {}}]\n"),
    ];

    #[test]
    fn each_image_format_is_understood() {
        for (name, bytes) in &SAMPLES[..7] {
            let found = of(name, &[bytes]);
            assert_eq!((&found["width"], &found["height"]), (&json!(16), &json!(32)), "{name}");
        }
    }

    proptest! {
        #[test]
        fn mutated_and_cut_files_are_survived(
            sample in 0..SAMPLES.len(),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
            ends in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let (name, bytes) = SAMPLES[sample];
            let mut bytes = bytes.to_vec();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            bytes.extend(ends);
            of(name, &[&bytes]);
        }

        #[test]
        fn any_bytes_under_any_name_are_survived(
            name in "[a-z]{0,3}(\\.(png|jpg|csv|tsv|json|svg|log))?",
            start in proptest::sample::select(vec![
                &b""[..], b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"BM", b"II*\0", b"MM\0*", b"<svg ", b"{", b"[",
            ]),
            rest in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            of(&name, &[&[start, &rest].concat()]);
        }

        #[test]
        fn where_a_chunk_ends_makes_no_difference(sample in 7..SAMPLES.len(), size in 1..9usize) {
            let (name, bytes) = SAMPLES[sample];
            let mut inspector = Inspector::new(OsStr::new(name));
            // The first chunk chooses the readers.
            let (first, rest) = bytes.split_at(4);
            inspector.update(first);
            for chunk in rest.chunks(size) {
                inspector.update(chunk);
            }
            prop_assert_eq!(serde_json::Value::from(inspector.finish()), of(name, &[bytes]));
        }
    }
}
