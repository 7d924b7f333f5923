//! Processes that wrote, each kept once and known by a number of the journal.
//!
//! A process that writes a thousand files is said once; one that shows other arguments after an execve(2) is another
//! one. What no followed file needs is forgotten from time to time and gets another number when it writes again.
//!
//! Invariant: a number is never given twice, so that a record which is lost can only leave a file without a writer.

use super::record::WriterRecord;
use crate::storage::Process;
use std::collections::HashMap;
use std::sync::Arc;

/// What a writer takes in a journal beside its command line.
const WRITER_BYTES: u64 = 26;

/// From this many on those that are not needed are looked for. Chosen, not measured: at 4 KiB each they are 4 MiB.
const KEPT_MIN: usize = 1_024;

#[derive(Debug, Default)]
pub(super) struct Writers {
    by_number: HashMap<u32, Arc<WriterRecord>>,
    by_process: HashMap<Process, u32>,
    /// Bytes of all their command lines.
    command_bytes: u64,
    last: u32,
    /// How many to keep before looking again for what is not needed.
    kept_max: usize,
}

impl Writers {
    pub fn get(&self, number: u32) -> Option<Arc<WriterRecord>> {
        self.by_number.get(&number).cloned()
    }

    /// A number that is given to nobody else.
    pub fn next(&mut self) -> u32 {
        self.last += 1;
        self.last
    }

    /// The process's number, and what the journal must say before it is used.
    ///
    /// Only here is anything forgotten, and not where a journal is read: the journal may name by its number whom the
    /// writing daemon still remembered.
    pub fn number_of(&mut self, process: &Process) -> (u32, Option<WriterRecord>) {
        if let Some(number) = self.by_process.get(process) {
            return (*number, None);
        }
        if self.by_number.len() >= self.kept_max.max(KEPT_MIN) {
            self.forget_unused();
            // Looking costs as much as there are: it is done again when there are twice as many.
            self.kept_max = self.by_number.len() * 2;
        }
        let number = self.next();
        (number, Some(WriterRecord { number, process: process.clone() }))
    }

    pub fn insert(&mut self, writer: WriterRecord) {
        self.last = self.last.max(writer.number);
        self.command_bytes += command_bytes(&writer);
        self.by_process.insert(writer.process.clone(), writer.number);
        self.by_number.insert(writer.number, Arc::new(writer));
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<WriterRecord>> {
        self.by_number.values()
    }

    /// About how much of a journal they take.
    pub fn journal_bytes(&self) -> u64 {
        self.command_bytes + self.by_number.len() as u64 * WRITER_BYTES
    }

    /// Forgets those that no file holds.
    pub fn forget_unused(&mut self) {
        self.by_number.retain(|_, writer| Arc::strong_count(writer) > 1);
        self.by_process.retain(|_, number| self.by_number.contains_key(number));
        self.command_bytes = self.by_number.values().map(|writer| command_bytes(writer)).sum();
    }
}

fn command_bytes(writer: &WriterRecord) -> u64 {
    writer.process.command.as_ref().map_or(0, |command| command.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32) -> Process {
        Process { pid, uid: 0, command: Some(b"cp\0a\0b".to_vec()) }
    }

    #[test]
    fn a_process_is_said_once_and_forgotten_when_no_file_needs_it() {
        let mut writers = Writers::default();
        let (first, record) = writers.number_of(&process(1));
        writers.insert(record.expect("it must be said"));
        assert_eq!(writers.number_of(&process(1)), (first, None));
        let held = writers.get(first).expect("known");
        for pid in 2..5_000 {
            let (_, record) = writers.number_of(&process(pid));
            writers.insert(record.expect("it must be said"));
        }
        assert!(writers.by_number.len() <= KEPT_MIN + 1, "{}", writers.by_number.len());
        assert_eq!(writers.number_of(&process(1)), (first, None), "a file holds it");
        drop(held);
        writers.forget_unused();
        let (again, record) = writers.number_of(&process(1));
        assert!(again > first && record.is_some(), "its number is not given twice");
        assert_eq!(writers.by_number.len(), writers.by_process.len());
    }
}
