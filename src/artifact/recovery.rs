//! Takes over what dead daemons left: what they had not registered, and what they had half-written.
//!
//! A dead instance's journal is read, what it says is written into this daemon's own journal and made durable, and only
//! then the dead journal is removed. A crash at any point leaves one journal or both, never none; a file that is in
//! both is registered once. The directory itself stays until the caller has unmounted what the instance had mounted.

use super::dirty_set::DirtySet;
use super::error::Error;
use super::instance::{Instance, InstanceInfo, claim_dead};
use super::journal;
use super::record::{EntryRecord, FileRef, Record, WorkspaceRecord, WriterRecord};
use super::schedule::DrainScope;
use super::service::Service;
use crate::model::artifact::ScanPolicy;
use crate::model::id::RunId;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::time::Instant;
use uuid::Uuid;

/// Records that are appended to the journal at once.
const CHUNK: usize = 4096;

/// What recovery found.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Dead instances. Each stays locked until it is removed or dropped; one that is dropped is found again next time.
    pub instances: Vec<InstanceRecord>,
    /// Files that were written and not registered.
    pub files: usize,
    /// How many of all followed files are still not registered.
    pub pending: usize,
    /// Instances whose journal could not be taken over; it is left as it is and the log says why.
    pub unreadable: Vec<Uuid>,
}

/// A dead instance whose journal has been taken over.
#[derive(Debug)]
pub struct InstanceRecord {
    instance: Instance,
    info: Option<InstanceInfo>,
}

impl InstanceRecord {
    pub fn uuid(&self) -> Uuid {
        self.instance.uuid
    }

    /// What it said of itself; nothing when that cannot be read.
    pub fn info(&self) -> Option<&InstanceInfo> {
        self.info.as_ref()
    }

    /// Removes the instance's directory: nothing of it is left to clean up.
    pub fn remove(self) -> Result<(), Error> {
        let path = self.instance.directory.clone();
        self.instance.remove().map_err(|source| Error::State {
            doing: "remove the dead instance",
            path,
            source,
        })
    }
}

pub(super) fn recover(service: &Service) -> Result<Recovered, Error> {
    let settings = &service.settings;
    let claimed =
        claim_dead(&settings.state_dir, settings.instance).map_err(|source| Error::State {
            doing: "look for dead instances in",
            path: settings.state_dir.clone(),
            source,
        })?;
    let mut recovered = Recovered::default();
    for instance in claimed {
        match take_over(service, &instance, scan_since(service, &instance)) {
            Ok(files) => {
                recovered.files += files;
                let info = instance.info();
                recovered.instances.push(InstanceRecord { instance, info });
            }
            Err(error) => {
                tracing::error!(instance = %instance.uuid, %error, "a dead instance's journal cannot be taken over");
                recovered.unreadable.push(instance.uuid);
            }
        }
    }
    if recovered.files > 0 {
        service.drain(DrainScope::All, Instant::now() + settings.recovery_wait);
    }
    recovered.pending = service.state().len();
    Ok(recovered)
}

/// From when on changes count that a dead instance's journal may not know of: since it started, if it ended with the
/// machine; what was appended last may then never have reached the disk. `None`: the journal knows all.
fn scan_since(service: &Service, dead: &Instance) -> Option<i64> {
    let info = dead.info();
    match info {
        Some(info) if info.boot == service.boot => None,
        Some(info) => Some(info.started_at.as_microsecond()),
        // What it said of itself did not reach the disk, or is damaged.
        None => Some(dead.made_at()),
    }
}

/// Answers how many files were taken over.
fn take_over(service: &Service, dead: &Instance, since: Option<i64>) -> io::Result<usize> {
    let decoded = journal::read(&dead.journal())?;
    if decoded.damaged_bytes > 0 {
        tracing::error!(
            instance = %dead.uuid,
            bytes = decoded.damaged_bytes,
            "a dead instance's journal is damaged; what could be read is recovered"
        );
    }
    let now = Instant::now();
    let mut left = DirtySet::default();
    for record in &decoded.records {
        left.apply(record, now);
    }
    // The runs died with their daemon.
    left.end_runs(runs(&decoded.records));
    let since = since.or((decoded.damaged_bytes > 0).then(|| dead.made_at()));
    if let Some(since) = since.filter(|_| service.settings.scan != ScanPolicy::Never) {
        for record in &decoded.records {
            if let Record::Workspace(WorkspaceRecord { number: workspace, .. }) = *record {
                left.apply(&Record::ScanWanted { workspace, since }, now);
            }
        }
    }
    let (records, workspaces, files) = renumber(service, left.records(|_| false));
    if !records.is_empty() {
        adopt(service, &records, &workspaces)?;
    }
    match fs::remove_file(dead.journal()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    service.blobs.forget_instance(dead.uuid).map_err(io::Error::other)?;
    Ok(files)
}

fn adopt(service: &Service, records: &[Record], workspaces: &[u32]) -> io::Result<()> {
    let file = {
        let mut journal = service.journal();
        for chunk in records.chunks(CHUNK) {
            journal.append(chunk)?;
        }
        service.change(|state| {
            let now = Instant::now();
            for record in records {
                state.apply(record, now);
            }
            for workspace in workspaces {
                state.orphan(*workspace, now);
            }
            state.end_runs(runs(records));
        });
        journal.try_clone_file()?
    };
    // The only fsync of a journal: the other copy of these records is about to be removed.
    file.sync_all()
}

fn runs(records: &[Record]) -> impl Iterator<Item = RunId> {
    records.iter().filter_map(|record| match record {
        Record::Run(run) => Some(run.id),
        _ => None,
    })
}

/// Gives the dead instance's workspaces numbers of this journal.
fn renumber(service: &Service, records: Vec<Record>) -> (Vec<Record>, Vec<u32>, usize) {
    let mut numbers = HashMap::new();
    let mut writers = HashMap::new();
    let mut followed = HashSet::new();
    let mut files = 0;
    let mut renumbered = Vec::with_capacity(records.len());
    for record in records {
        renumbered.push(match record {
            Record::Workspace(workspace) => {
                let number = service.next_workspace();
                numbers.insert(workspace.number, number);
                Record::Workspace(WorkspaceRecord { number, ..workspace })
            }
            // Without its name a file cannot be found again.
            Record::Entry(entry) if entry.nameless => continue,
            Record::Entry(entry) => {
                // A file of a workspace that the journal does not name (its record was damaged) cannot be found.
                let Some(&workspace) = numbers.get(&entry.file.workspace) else { continue };
                files += 1;
                let file = FileRef { workspace, ..entry.file };
                followed.insert(file);
                Record::Entry(EntryRecord { file, ..entry })
            }
            Record::Writer(writer) => {
                let number = service.state().next_writer();
                writers.insert(writer.number, number);
                Record::Writer(WriterRecord { number, ..writer })
            }
            Record::WrittenBy { file, writer } => {
                let Some(&workspace) = numbers.get(&file.workspace) else { continue };
                let file = FileRef { workspace, ..file };
                match writers.get(&writer) {
                    Some(&writer) if followed.contains(&file) => Record::WrittenBy { file, writer },
                    _ => continue,
                }
            }
            Record::NamedBefore { file, at } => {
                let Some(&workspace) = numbers.get(&file.workspace) else { continue };
                let file = FileRef { workspace, ..file };
                if !followed.contains(&file) {
                    continue;
                }
                Record::NamedBefore { file, at }
            }
            Record::ScanWanted { workspace, since } => {
                let Some(&workspace) = numbers.get(&workspace) else { continue };
                Record::ScanWanted { workspace, since }
            }
            other => other,
        });
    }
    (renumbered, numbers.into_values().collect(), files)
}
