//! What runs had read before they wrote, as the catalog keeps it.
//!
//! A run's inputs are numbered from 1 in the order in which they were opened. A version knows how many of its run's inputs
//! had been opened when its file was opened last for writing, and how many when it was closed; the inputs themselves
//! are stored once for the run.

use super::VersionRow;
use crate::model::digest::Digest;
use crate::model::id::{ArtifactId, MountName, RunId};
use crate::model::path::VirtualPath;
use jiff::Timestamp;

/// How many of its run's inputs a version can have been made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InputBounds {
    /// Opened before the file was opened last for writing.
    pub before: u64,
    /// Opened before the file was closed. [`InputBounds::ALL`] where that moment was not seen.
    pub until: u64,
}

impl InputBounds {
    pub const ALL: u64 = i64::MAX as u64;

    /// Both together: the same bytes were written twice.
    pub fn widened(self, other: Option<InputBounds>) -> InputBounds {
        let other = other.unwrap_or(self);
        InputBounds { before: self.before.max(other.before), until: self.until.max(other.until) }
    }
}

/// A file that a run had open for reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    pub run: RunId,
    pub number: u64,
    /// Of the workspace; with the host path and the digest it tells whether the input is a version.
    pub owner_uid: u32,
    /// `None`: not one file; `reason` says what it stands for.
    pub place: Option<InputPlace>,
    pub size: Option<u64>,
    pub modified_at: Option<Timestamp>,
    /// `None`: not available, and `reason` says why.
    pub digest: Option<Digest>,
    pub reason: Option<String>,
    pub opened_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputPlace {
    pub mount: MountName,
    pub path: VirtualPath,
    pub host_path: Vec<u8>,
}

/// One number of one artifact.
pub type VersionKey = (ArtifactId, u64);

/// What a version's run had read.
#[derive(Debug, Clone, Default)]
pub struct MadeFrom {
    /// `None`: it was not seen.
    pub bounds: Option<InputBounds>,
    /// Other runs that wrote the same bytes again.
    pub also_by: Vec<RunId>,
    /// In order, each with the version that it is, where it is one.
    pub inputs: Vec<(Input, Option<VersionKey>)>,
}

/// A version whose run had read another.
#[derive(Debug, Clone)]
pub struct Use {
    pub version: VersionRow,
    pub run: RunId,
    /// The input was opened when the file was open for writing already.
    pub while_open: bool,
}
