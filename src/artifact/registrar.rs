//! Makes versions of what is due: stable copy, content, row, acknowledgement, in this order.
//!
//! Each thread takes a batch of due files, copies them one after the other, and makes the batch durable at once. While
//! one thread waits for the disk the next batch gathers by itself, so that the load sets the size of a batch and no
//! timer does. Nothing is forgotten before its row is durable: whatever fails comes up again.

use super::copy::{Copied, CopyError, Limits, Subject, copy};
use super::input_digests;
use super::learn::learn;
use super::locate::{Found, Sought, open_by_path, place_by_source};
use super::record::Place;
use super::schedule::{Job, Lane, Need, Postponed};
use super::secrets::mask_command;
use super::service::{Service, VANISHED};
use super::watch::{Pulse, Role};
use crate::config::SecretPolicy;
use crate::storage::{BlobBatch, CatalogError, NewVersion, is_transient};
use crate::vfs::inode::host_inode;
use jiff::Timestamp;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Most files in one batch; each holds a descriptor until the batch is durable, and 1,024 is a usual limit on them.
const BATCH_FILES_MAX: usize = 128;

/// After this much content, or this time, a batch is made durable before more is copied.
const BATCH_BYTES: u64 = 64 << 20;
const BATCH_TIME: Duration = Duration::from_millis(500);

/// From this try on an error that is not expected to go away is not waited for.
const HOPELESS_TRIES: u32 = 3;

/// How long a file is waited for whose directory is not there: a disk that somebody has to bring back. Chosen, not measured.
const AWAY_MICROSECONDS_MAX: i64 = 7 * 24 * 3_600 * 1_000_000;

/// How much older than its opening a file's change time must be to prove that the opening changed nothing. The clock of
/// file times lags behind by a tick of up to 10 ms; the rest is for clocks that are set.
const UNTOUCHED_MICROSECONDS: i64 = 2_000_000;

/// A registrar thread: works until the service stops.
pub(super) fn run(service: &Service, role: Role, pulse: &Pulse) {
    let lane = match role {
        Role::Copies(lane) => lane,
        Role::Inputs => return input_digests::run(service, pulse),
    };
    let mut buffer = Vec::new();
    let count = match lane {
        Lane::Small => BATCH_FILES_MAX,
        Lane::Large => 1,
    };
    while let Some(jobs) = service.wait_for_jobs(lane, count) {
        register(service, lane, jobs, &mut buffer, pulse);
        if service.watch.retires(pulse) {
            return;
        }
    }
}

/// What a batch came to.
#[derive(Default)]
struct Outcome {
    ready: Vec<(Job, NewVersion)>,
    done: Vec<Job>,
    postponed: Vec<(Job, Postponed)>,
    bytes: u64,
}

enum Prepared {
    Version(Box<NewVersion>),
    Nothing(&'static str),
    /// What is at its path is not it.
    Lost {
        host_path: PathBuf,
        why: &'static str,
    },
    /// Its mount point's directory is not there; it is waited for, and nobody waits for that.
    Away {
        host_path: PathBuf,
        why: &'static str,
    },
    Postponed(Postponed),
}

/// The jobs are of one workspace: one whose file system does not answer holds up no other's files.
fn register(service: &Service, lane: Lane, jobs: Vec<Job>, buffer: &mut Vec<u8>, pulse: &Pulse) {
    let mut jobs = jobs.into_iter().peekable();
    while jobs.peek().is_some() {
        let (started, began) = (Instant::now(), Timestamp::now());
        let mut outcome = Outcome::default();
        let (mut lost, mut away) = (0, 0);
        let mut batch = match service.blobs.begin() {
            Ok(batch) => batch,
            Err(error) => {
                let reason = service.failing(&error);
                let failed =
                    |job| (job, Postponed::Failed { reason: reason.clone(), hopeless: false });
                outcome.postponed.extend(jobs.map(failed));
                return service.finish(outcome.done, outcome.postponed);
            }
        };
        while outcome.bytes < BATCH_BYTES && started.elapsed() < BATCH_TIME {
            let Some(job) = jobs.next() else { break };
            pulse.at(job.file.workspace);
            service.watch.begin();
            let prepared = prepare(service, lane, &job, &mut *batch, buffer, pulse);
            pulse.rest();
            match prepared {
                Prepared::Version(version) => {
                    outcome.bytes += version.size;
                    outcome.ready.push((job, *version));
                }
                Prepared::Nothing(why) => {
                    tracing::debug!(path = ?job.place.path, why, "no version made");
                    outcome.done.push(job);
                }
                Prepared::Lost { host_path, why } => {
                    // Of a whole directory that was exchanged, one stands for all of the batch.
                    if lost == 0 {
                        tracing::warn!(?host_path, workspace = %job.workspace.id, why, "a file that was written is not kept: its workspace had ended, and it is not at its path any more");
                    }
                    lost += 1;
                    outcome.done.push(job);
                }
                Prepared::Away { host_path, why } => {
                    if service.state().tries(job.file) == 0 {
                        if away == 0 {
                            tracing::warn!(?host_path, workspace = %job.workspace.id, why, "a written file is registered when its directory is back");
                        }
                        away += 1;
                    }
                    let why = Postponed::Failed { reason: why.to_owned(), hopeless: true };
                    outcome.postponed.push((job, why));
                }
                Prepared::Postponed(why) => outcome.postponed.push((job, why)),
            }
        }
        if away > 1 {
            tracing::warn!(
                files = away - 1,
                "more files of this workspace wait for their directory"
            );
        }
        if lost > 1 {
            tracing::warn!(
                files = lost - 1,
                "more files of this workspace are not kept for such a reason"
            );
        }
        commit(service, batch, outcome, began);
    }
}

/// Copies the job's file into the batch.
fn prepare(
    service: &Service,
    lane: Lane,
    job: &Job,
    batch: &mut dyn BlobBatch,
    buffer: &mut Vec<u8>,
    pulse: &Pulse,
) -> Prepared {
    if job.need == Need::Nothing {
        return Prepared::Nothing("it was opened and not changed");
    }
    let source = service.source(job.file.workspace);
    let place = match &source {
        Some(source) => place_by_source(&**source, job.file.file, &job.workspace, |place| {
            let mount = job.workspace.mounts.get(usize::from(place.mount));
            mount.is_some_and(|mount| service.ignores(&mount.name, &place.path))
        }),
        None => (!job.nameless).then(|| oldest_by_path(service, job)),
    };
    let Some(place) = place else { return Prepared::Nothing("it has no name any more") };
    let Some(mount) = job.workspace.mounts.get(usize::from(place.mount)) else {
        return Prepared::Nothing("its mount point is not known");
    };
    if !mount.artifacts || service.ignores(&mount.name, &place.path) {
        return Prepared::Nothing("it is ignored by rule");
    }
    // Looked at before the copy: if the file is opened again meanwhile, the copy does not count.
    let inputs = service.inputs.bounds_of(job.file, job.run_id);
    let file = match &source {
        Some(source) => source.open(job.file.file).map(Found::File),
        None => {
            let sought = Sought {
                workspace: &job.workspace,
                place: &place,
                key: job.file.file,
                existed_at: job.existed_at,
            };
            open_by_path(&sought, service.boot)
        }
    };
    let file = match file {
        Ok(Found::File(file)) => file,
        Ok(Found::Gone(why)) => return Prepared::Nothing(why),
        Ok(Found::Replaced(why)) => {
            return Prepared::Lost { host_path: mount.host_path.join(place.path.as_path()), why };
        }
        Ok(Found::Away(why)) => {
            let host_path = mount.host_path.join(place.path.as_path());
            let waited = Timestamp::now().as_microsecond().saturating_sub(job.existed_at);
            if waited > AWAY_MICROSECONDS_MAX {
                return Prepared::Lost { host_path, why };
            }
            return Prepared::Away { host_path, why };
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            tracing::warn!(path = ?place.path, workspace = %job.workspace.id, "a file is not kept: the workspace's owner may not read it");
            return Prepared::Nothing("its workspace's owner may not read it");
        }
        Err(error) => return unreadable(service, job, &error),
    };
    if let Need::RegisterIfTouchedSince(time) = job.need
        && is_untouched_since(&file, time)
    {
        return Prepared::Nothing("it was open when its workspace went away and not changed");
    }
    let limits = Limits {
        kept_bytes_max: service.settings.content_bytes_max,
        lane_bytes_max: match lane {
            Lane::Small => service.settings.large_bytes,
            Lane::Large => u64::MAX,
        },
    };
    let wanted = || {
        pulse.advance();
        !service.is_stopping() && service.state().is_current(job)
    };
    let finder = service.finder(job.file.workspace);
    let policy = service.settings.secrets;
    let subject = Subject {
        name: place.path.name().unwrap_or_default(),
        finder: finder.as_deref(),
        blocks: policy == SecretPolicy::Block,
    };
    match copy(&file, batch, limits, subject, buffer, &wanted) {
        Ok(Copied::Stable(content)) => {
            let digest = content.examined.digest;
            // Whoever reads the file as it is needs no other look at its bytes.
            service.inputs.learn(content.read, digest);
            let rule = service.rules.rule_for(Some(&mount.name), &place.path);
            let learned = learn(service, subject.name, rule, content.examined, finder.as_deref());
            if let Some(first) = learned.secrets.found.first() {
                tracing::warn!(path = ?place.path, workspace = %job.workspace.id, secret = %first.secret, encoding = first.encoding, count = learned.secrets.found.len(), ?policy, "a secret stands in a written file");
            }
            let mut version = Box::new(NewVersion {
                owner_uid: job.workspace.owner_uid,
                host_path: mount
                    .host_path
                    .join(place.path.as_path())
                    .as_os_str()
                    .as_bytes()
                    .to_vec(),
                workspace: job.workspace.id.clone(),
                mount: mount.name.clone(),
                run: job.run_id,
                graph_id: job.run.as_ref().and_then(|run| run.graph_id.clone()),
                node_id: job.run.as_ref().and_then(|run| run.node_id.clone()),
                writer: job.writer.as_ref().map(|writer| writer.process.clone()),
                artifact_type: learned.artifact_type,
                suspected: learned.suspected,
                mime: learned.mime,
                size: content.size,
                digest,
                content_kept: content.kept,
                stamp: Some(content.stamp),
                closes: job.closes.max(1),
                metadata: learned.metadata,
                secrets: learned.secrets,
                inputs,
                captured_at: Timestamp::now(),
                path: place.path,
            });
            // Masked already when it was noted; a secret may have come since.
            if let Some(writer) = &mut version.writer
                && let Some(masker) = service.masker(job.file.workspace)
            {
                writer.command = mask_command(&masker, writer.command.take());
            }
            Prepared::Version(version)
        }
        Ok(Copied::NotAFile) => Prepared::Nothing("it is not a regular file any more"),
        Ok(Copied::TooLarge) => Prepared::Postponed(Postponed::Large),
        Ok(Copied::Unstable | Copied::Unwanted) => Prepared::Postponed(Postponed::Failed {
            reason: "it changed while its copy was taken".to_owned(),
            hopeless: false,
        }),
        Err(CopyError::Read(error)) => unreadable(service, job, &error),
        Err(error @ (CopyError::Write(_) | CopyError::Blob(_))) => {
            Prepared::Postponed(Postponed::Failed {
                reason: service.failing(&error),
                hopeless: false,
            })
        }
    }
}

/// The oldest of the file's names that is still there and not ignored, as its file system would answer; else the last one.
/// Only what is proven to be the file is taken for it: by its inode's number.
fn oldest_by_path(service: &Service, job: &Job) -> Place {
    let is_it = |place: &&Place| {
        let mount = job.workspace.mounts.get(usize::from(place.mount));
        let wanted = mount.is_some_and(|m| m.artifacts && !service.ignores(&m.name, &place.path));
        let (workspace, key) = (&job.workspace, job.file.file);
        let sought = Sought { workspace, place, key, existed_at: job.existed_at };
        wanted && matches!(open_by_path(&sought, service.boot), Ok(Found::File(_)))
    };
    let proven = host_inode(job.file.file.0).is_some();
    let older = job.older.iter().filter(|_| proven).find(is_it);
    older.unwrap_or(&job.place).clone()
}

/// The file itself could not be opened or read.
fn unreadable(service: &Service, job: &Job, error: &io::Error) -> Prepared {
    let often = service.state().tries(job.file) + 1 >= HOPELESS_TRIES;
    if often && error.kind() == io::ErrorKind::NotFound {
        return Prepared::Nothing("it is gone");
    }
    let hopeless = often && !is_transient(error);
    if hopeless {
        tracing::warn!(path = ?job.place.path, workspace = %job.workspace.id, %error, "a written file cannot be read");
    }
    Prepared::Postponed(Postponed::Failed { reason: format!("cannot read it: {error}"), hopeless })
}

/// Whether the file is proven not to have changed since `time`. With a clock that was set back it is not proven.
fn is_untouched_since(file: &File, time: i64) -> bool {
    let now = Timestamp::now().as_microsecond();
    file.metadata().is_ok_and(|metadata| {
        let changed = metadata.ctime().saturating_mul(1_000_000);
        now >= time && changed.saturating_add(UNTOUCHED_MICROSECONDS) < time
    })
}

/// Content first, rows second, acknowledgement last.
fn commit(
    service: &Service,
    batch: Box<dyn BlobBatch + '_>,
    mut outcome: Outcome,
    began: Timestamp,
) {
    let failed = |reason: &str, hopeless| Postponed::Failed { reason: reason.to_owned(), hopeless };
    if !outcome.ready.is_empty() {
        if let Err(error) = batch.commit() {
            let reason = service.failing(&error);
            let ready = outcome.ready.drain(..);
            outcome.postponed.extend(ready.map(|(job, _)| (job, failed(&reason, false))));
        }
        // What was written to since its copy was taken is not ready any more.
        let (current, overtaken) = {
            let state = service.state();
            outcome.ready.into_iter().partition::<Vec<_>, _>(|(job, _)| state.is_current(job))
        };
        let changed = "it changed while its copy was taken";
        outcome
            .postponed
            .extend(overtaken.into_iter().map(|(job, _)| (job, failed(changed, false))));
        for (job, result) in store_rows(service, current, began) {
            match result {
                Ok(()) => outcome.done.push(job),
                Err((reason, hopeless)) => outcome.postponed.push((job, failed(&reason, hopeless))),
            }
        }
    }
    service.finish(outcome.done, outcome.postponed);
}

type Stored = Vec<(Job, Result<(), (String, bool)>)>;

/// Stores all rows together, or, when one of them is refused, each alone, so that one bad row holds up no other.
fn store_rows(service: &Service, ready: Vec<(Job, NewVersion)>, began: Timestamp) -> Stored {
    if ready.is_empty() {
        return Vec::new();
    }
    let (jobs, versions): (Vec<Job>, Vec<NewVersion>) = ready.into_iter().unzip();
    let refused = |error: &CatalogError| Err((service.failing(error), !error.is_transient()));
    let kept = |version: &NewVersion| {
        let vanished = version.content_kept && {
            let looked = service.has_vanished(began, &version.digest);
            looked.map_err(|error| (service.failing(&error), false))?
        };
        // Its row is there: taken once more, the content is all that is added.
        if vanished { Err((VANISHED.to_owned(), false)) } else { Ok(()) }
    };
    match service.catalog.register(&versions) {
        Ok(_) => {
            service.working();
            service.tell_of_events();
            jobs.into_iter().zip(&versions).map(|(job, version)| (job, kept(version))).collect()
        }
        Err(error) if error.is_transient() || jobs.len() == 1 => {
            let result = refused(&error);
            jobs.into_iter().map(|job| (job, result.clone())).collect()
        }
        Err(_) => jobs
            .into_iter()
            .zip(&versions)
            .map(|(job, version)| {
                let stored = service.catalog.register(std::slice::from_ref(version));
                service.tell_of_events();
                (job, stored.map_or_else(|error| refused(&error), |_| kept(version)))
            })
            .collect(),
    }
}
