//! Everything that is learned from a content while it passes by: digest, beginning, metadata, secrets.
//!
//! A large content is examined on a thread of its own, beside the one that reads and writes it: on two processors the
//! examination then costs little that copying does not cost anyway. At most [`BUFFERS`] chunks are on their way.

use super::copy::BUFFER_BYTES;
use super::detect::HEAD_BYTES;
use super::inspect::Inspector;
use crate::model::digest::Digest;
use crate::secret::find::{Finder, Found, Scan};
use crate::storage::Metadata;
use std::ffi::OsStr;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Scope, ScopedJoinHandle};

/// From this size on a thread is worth its start. Chosen: reading so much takes ten times as long as starting one.
pub(super) const BESIDE_BYTES_MIN: u64 = 4 << 20;

/// Chunks of one content in memory when it is examined beside: one read, one examined, one waiting.
const BUFFERS: usize = 3;

/// A content on its way.
pub(super) struct Examination<'a> {
    hasher: blake3::Hasher,
    head: Vec<u8>,
    inspector: Inspector,
    scan: Option<Scan<'a>>,
}

/// What was learned.
#[derive(Debug)]
pub(super) struct Examined {
    pub digest: Digest,
    pub head: Vec<u8>,
    pub metadata: Metadata,
    pub found: Vec<Found>,
}

impl<'a> Examination<'a> {
    pub fn new(name: &OsStr, finder: Option<&'a Finder>) -> Self {
        Self {
            hasher: blake3::Hasher::new(),
            head: Vec::new(),
            inspector: Inspector::new(name),
            scan: finder.filter(|finder| !finder.is_empty()).map(Finder::scan),
        }
    }

    fn update(&mut self, chunk: &[u8]) {
        if self.head.len() < HEAD_BYTES {
            let missing = HEAD_BYTES - self.head.len();
            self.head.extend_from_slice(&chunk[..chunk.len().min(missing)]);
        }
        self.hasher.update(chunk);
        self.inspector.update(chunk);
        if let Some(scan) = &mut self.scan {
            scan.update(chunk);
        }
    }

    fn finish(self) -> Examined {
        Examined {
            digest: Digest::from_bytes(*self.hasher.finalize().as_bytes()),
            head: self.head,
            metadata: self.inspector.finish(),
            found: self.scan.map(Scan::finish).unwrap_or_default(),
        }
    }
}

/// Where chunks are examined.
pub(super) enum Examiner<'scope, 'a> {
    Here {
        examination: Box<Examination<'a>>,
        buffer: Vec<u8>,
    },
    Beside {
        chunks: Sender<(Vec<u8>, usize)>,
        free: Receiver<Vec<u8>>,
        thread: ScopedJoinHandle<'scope, Examined>,
    },
}

const ALIVE: &str = "the examining thread ends after this side does, as a panic aborts the process";

impl<'scope, 'a: 'scope> Examiner<'scope, 'a> {
    /// On this thread, with a buffer that is lent.
    pub fn here(examination: Examination<'a>, mut buffer: Vec<u8>) -> Self {
        buffer.resize(BUFFER_BYTES, 0);
        Examiner::Here { examination: Box::new(examination), buffer }
    }

    pub fn beside<'env>(
        scope: &'scope Scope<'scope, 'env>,
        mut examination: Examination<'a>,
    ) -> io::Result<Self> {
        let (chunks, taken) = channel::<(Vec<u8>, usize)>();
        let (given, free) = channel();
        for _ in 0..BUFFERS {
            given.send(vec![0; BUFFER_BYTES]).expect("the other end is in this function");
        }
        let thread = std::thread::Builder::new().name("examine".to_owned()).spawn_scoped(
            scope,
            move || {
                for (buffer, filled) in taken {
                    examination.update(&buffer[..filled]);
                    // Nobody needs a buffer after the last chunk.
                    let _ = given.send(buffer);
                }
                examination.finish()
            },
        )?;
        Ok(Examiner::Beside { chunks, free, thread })
    }
}

impl Examiner<'_, '_> {
    /// A buffer of [`BUFFER_BYTES`] to read into; waits for one.
    pub fn buffer(&mut self) -> Vec<u8> {
        match self {
            Examiner::Here { buffer, .. } => std::mem::take(buffer),
            Examiner::Beside { free, .. } => free.recv().expect(ALIVE),
        }
    }

    /// Examines the first `filled` bytes of a buffer that [`buffer`](Self::buffer) gave; without any it is given back.
    pub fn examine(&mut self, bytes: Vec<u8>, filled: usize) {
        match self {
            Examiner::Here { examination, buffer } => {
                examination.update(&bytes[..filled]);
                *buffer = bytes;
            }
            Examiner::Beside { chunks, .. } => chunks.send((bytes, filled)).expect(ALIVE),
        }
    }

    /// What was learned, and the buffer that was lent.
    pub fn finish(self) -> (Examined, Vec<u8>) {
        match self {
            Examiner::Here { examination, buffer } => (examination.finish(), buffer),
            Examiner::Beside { chunks, thread, .. } => {
                drop(chunks);
                (thread.join().expect(ALIVE), Vec::new())
            }
        }
    }
}
