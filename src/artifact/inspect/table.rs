//! Columns and rows of a table in CSV or TSV, counted while it passes by.
//!
//! The rules of quoting are those of the crate csv-core, which allocates nothing and takes input as it comes; a quote that
//! is never closed makes the rest of the file one field, which is counted and not kept.

use super::{NAME_BYTES_MAX, NAMES_MAX, shortened};
use crate::storage::Metadata;
use csv_core::{ReadFieldResult, Reader, ReaderBuilder};

/// A table of which a part was seen.
#[derive(Debug)]
pub struct Table {
    reader: Reader,
    records: u64,
    /// Fields of the first record.
    columns: u64,
    names: Vec<String>,
    /// The beginning of the field that is being read, while it is one of the first record.
    name: Vec<u8>,
}

/// The sign between the fields of a file called `.csv`: the comma, unless the first line has none and another instead.
pub fn delimiter(head: &[u8]) -> u8 {
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let has = |sign: u8| memchr::memchr(sign, line).is_some();
    [b',', b';', b'\t'].into_iter().find(|sign| has(*sign)).unwrap_or(b',')
}

impl Table {
    pub fn new(delimiter: u8) -> Self {
        Self {
            reader: ReaderBuilder::new().delimiter(delimiter).build(),
            records: 0,
            columns: 0,
            names: Vec::new(),
            name: Vec::new(),
        }
    }

    pub fn update(&mut self, mut input: &[u8]) {
        // An empty input would tell the reader that the file ends.
        while !input.is_empty() {
            input = &input[self.step(input).0..];
        }
    }

    /// Answers how many bytes were read, and whether the table has ended.
    fn step(&mut self, input: &[u8]) -> (usize, bool) {
        let mut field = [0; 1024];
        let (result, read, written) = self.reader.read_field(input, &mut field);
        if self.records == 0 {
            // One byte more than is noted tells that it was cut.
            let room = (NAME_BYTES_MAX + 1).saturating_sub(self.name.len());
            self.name.extend_from_slice(&field[..written.min(room)]);
        }
        match result {
            ReadFieldResult::InputEmpty | ReadFieldResult::OutputFull => {}
            ReadFieldResult::Field { record_end } => {
                if self.records == 0 {
                    self.columns += 1;
                    if self.names.len() < NAMES_MAX {
                        self.names
                            .push(shortened(&self.name).trim_start_matches('\u{feff}').to_owned());
                    }
                    self.name.clear();
                }
                self.records += u64::from(record_end);
            }
            ReadFieldResult::End => return (read, true),
        }
        (read, false)
    }

    /// Notes the columns and the rows. The first record is taken for the names of the columns.
    pub fn finish(mut self, metadata: &mut Metadata) {
        while !self.step(&[]).1 {}
        if self.records > 0 {
            metadata.insert("columns".to_owned(), self.columns.into());
            metadata.insert("column_names".to_owned(), self.names.into());
            metadata.insert("rows".to_owned(), (self.records - 1).into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> (u64, u64, Vec<String>) {
        let mut table = Table::new(delimiter(text.as_bytes()));
        table.update(text.as_bytes());
        let mut found = Metadata::new();
        table.finish(&mut found);
        let names = serde_json::from_value(found["column_names"].clone()).expect("names");
        (found["columns"].as_u64().expect("columns"), found["rows"].as_u64().expect("rows"), names)
    }

    #[test]
    fn rows_and_columns_are_counted_as_spreadsheets_do() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        assert_eq!(of("a,b\n1,2\n3,4\n"), (2, 2, names(&["a", "b"])));
        assert_eq!(of("a,b\r\n1,2"), (2, 1, names(&["a", "b"])));
        assert_eq!(of("a;b;c\n1;2;3\n"), (3, 1, names(&["a", "b", "c"])));
        assert_eq!(
            of("\u{feff}\"x, y\",\"say \"\"hi\"\"\"\n\"line\nbreak\",2\n"),
            (2, 1, names(&["x, y", "say \"hi\""]))
        );
        assert_eq!(of("a\n\n\n1\n"), (1, 1, names(&["a"])));
        assert_eq!(of("only a header"), (1, 0, names(&["only a header"])));
    }

    #[test]
    fn names_are_cut_and_no_more_than_the_first_are_kept() {
        let header: Vec<String> = (0..200).map(|n| format!("{n}{}", "ä".repeat(200))).collect();
        let (columns, rows, names) = of(&header.join(","));
        assert_eq!((columns, rows, names.len()), (200, 0, NAMES_MAX));
        assert!(
            names.iter().all(|name| name.len() <= NAME_BYTES_MAX && !name.contains('\u{fffd}'))
        );
    }
}
