//! `belljar storage`: how uploads are doing, what a remote store has that nobody names, and which backends there are.

use super::connect::{Connection, Context};
use super::exit::DONE;
use super::{Outcome, output};
use crate::config::units::parse_duration;
use crate::config::yaml;
use crate::wire::backend::{Backend, BackendList, BackendRequest, BackendState, DirectoryIdentity};
use crate::wire::storage::{
    Amount, CollectReport, CollectRequest, Queue, RemoteStatus, StorageStatus,
};
use anyhow::Context as _;
use clap::Subcommand;
use std::fs::{DirBuilder, File};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::Zeroizing;

#[derive(Debug, Subcommand)]
pub enum StorageCommand {
    /// Say what the remote store is doing and what has still to be sent to it.
    Status {
        /// One JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Open a place for artifacts besides the daemon's own, and print its id for --backend.
    Add {
        /// Describes it as `PUT /v1/storage/backend` does, as YAML or JSON; `-` is standard input.
        file: PathBuf,
    },
    /// List the places for artifacts that programs have asked for, besides the daemon's own.
    Backends {
        /// One JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Find contents in the remote store that no version names; only print them without --apply.
    Gc {
        /// Remove them.
        #[arg(long)]
        apply: bool,
        /// Only what was stored longer ago, at least 1h [default: 24h].
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        older_than: Option<Duration>,
        /// One JSON document.
        #[arg(long)]
        json: bool,
    },
}

pub fn run(context: &Context, command: StorageCommand) -> Outcome {
    let connection = context.running_or_private()?;
    match command {
        StorageCommand::Status { json } => {
            let status = connection.block_on(connection.client.storage())?;
            if json {
                output::print_json(&status);
            } else {
                print_status(&status);
            }
            Ok(DONE)
        }
        StorageCommand::Add { file } => {
            let backend = connection.block_on(connection.client.set_backend(&request(&file)?))?;
            output::print(&format!("{}\n", backend.id));
            if let Some(problem) = &backend.problem {
                output::remark(&format!("{}: {problem}", backend.place));
            }
            Ok(DONE)
        }
        StorageCommand::Backends { json } => {
            let list = connection.block_on(connection.client.backends())?;
            if json {
                output::print_json(&list);
            } else {
                print_backends(&list);
            }
            Ok(DONE)
        }
        StorageCommand::Gc { apply, older_than, json } => {
            collect(&connection, apply, older_than, json)
        }
    }
}

/// What a file says of a backend. Its directory is looked at as this process sees it, so that the daemon uses no other.
fn request(file: &Path) -> anyhow::Result<BackendRequest> {
    // It may hold keys and passwords.
    let mut text = Zeroizing::new(String::new());
    let read = match file.as_os_str().as_encoded_bytes() {
        b"-" => std::io::stdin().read_to_string(&mut text),
        _ => File::open(file).and_then(|mut file| file.read_to_string(&mut text)),
    };
    read.with_context(|| format!("read {}", file.display()))?;
    let request: Option<BackendRequest> = yaml::parse(file, &text)?;
    let mut request = request
        .with_context(|| format!("{} is empty: describe a backend in it", file.display()))?;
    if let Some(path) = request.base_path.as_ref().or(request.file_storage_path.as_ref()) {
        let make = request.create_dirs.unwrap_or(true);
        let made = match make {
            true => DirBuilder::new().recursive(true).mode(0o700).create(path),
            false => Ok(()),
        };
        let there = made.and_then(|()| std::fs::metadata(path));
        let there = there.with_context(|| format!("use the directory {path}"))?;
        request.directory = Some(DirectoryIdentity { device: there.dev(), inode: there.ino() });
    }
    Ok(request)
}

fn print_backends(list: &BackendList) {
    let state = |state| match state {
        BackendState::Open => "open",
        BackendState::WaitingForCredentials => "waiting-for-credentials",
        BackendState::Unavailable => "unavailable",
        BackendState::Closed => "closed",
    };
    let row = |backend: &Backend| {
        vec![
            backend.id.to_string(),
            backend.kind.as_str().to_owned(),
            backend.owner_uid.to_string(),
            state(backend.state).to_owned(),
            backend.pending_artifacts.to_string(),
            backend.place.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = list.backends.iter().map(row).collect();
    output::print(&output::table(&["ID", "KIND", "OWNER", "STATE", "PENDING", "PLACE"], &rows));
    for backend in &list.backends {
        if let Some(problem) = &backend.problem {
            output::print(&output::plain(&format!("{}: {problem}\n", backend.id)));
        }
    }
}

fn print_status(status: &StorageStatus) {
    match &status.remote {
        None => output::print("no remote store: contents are in the state directory alone\n"),
        Some(RemoteStatus { name, reachable, error }) => {
            let state = if *reachable { "reachable" } else { "not reachable" };
            output::print(&output::plain(&format!("{name}: {state}\n")));
            if let Some(error) = error {
                output::print(&output::plain(&format!("  last error: {error}\n")));
            }
        }
    }
    output::print(&format!("local copies kept: {}\n", status.keep_local));
    for stored in &status.stores {
        let removals = match stored.removals {
            0 => String::new(),
            count => format!(", {count} about to go"),
        };
        let size = output::size(stored.bytes);
        let line =
            format!("{} has {} contents, {size}{removals}\n", stored.remote, stored.contents);
        output::print(&output::plain(&line));
    }
    if status.queues.is_empty() {
        return;
    }
    let cell = |amount: &Amount| match amount.contents {
        0 => "-".to_owned(),
        contents => format!("{contents} ({})", output::size(amount.bytes)),
    };
    let row = |queue: &Queue| {
        let own = if queue.own { " *" } else { "" };
        vec![
            format!("{}{own}", queue.place),
            queue.remote.clone(),
            output::time(queue.last_seen),
            cell(&queue.waiting),
            cell(&queue.uploading),
            cell(&queue.failed),
            cell(&queue.waiting_for_credentials),
            cell(&queue.quarantined),
            queue.oldest_at.map_or("-".to_owned(), output::time),
        ]
    };
    let rows: Vec<Vec<String>> = status.queues.iter().map(row).collect();
    let header = [
        "NODE",
        "STORE",
        "SEEN",
        "WAITING",
        "UPLOADING",
        "FAILED",
        "WAITING-FOR-CREDENTIALS",
        "QUARANTINED",
        "OLDEST",
    ];
    output::print(&output::table(&header, &rows));
    for queue in &status.queues {
        if let Some(error) = &queue.last_error {
            output::print(&output::plain(&format!("{}: {error}\n", queue.place)));
        }
    }
}

fn collect(
    connection: &Connection,
    apply: bool,
    older_than: Option<Duration>,
    json: bool,
) -> Outcome {
    let older_than_ms = older_than.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let mut request = CollectRequest { apply, older_than_ms, cursor: None };
    let mut whole = CollectReport::default();
    loop {
        let part = connection.block_on(connection.client.collect(&request))?;
        whole.remote = part.remote;
        whole.contents += part.contents;
        whole.young += part.young;
        whole.garbage.contents += part.garbage.contents;
        whole.garbage.bytes += part.garbage.bytes;
        whole.removed += part.removed;
        if !json {
            for garbage in &part.found {
                let (size, time) = (output::size(garbage.size), output::time(garbage.stored_at));
                output::print(&format!("{} {size} stored {time}\n", garbage.digest));
            }
        }
        whole.found.extend(part.found);
        if part.next.is_none() {
            break;
        }
        request.cursor = part.next;
    }
    if json {
        output::print_json(&whole);
    }
    let Amount { contents, bytes } = whole.garbage;
    output::remark(&format!(
        "{}: {} contents looked at, nobody names {contents} of them with {}; {} were removed",
        whole.remote,
        whole.contents,
        output::size(bytes),
        whole.removed
    ));
    if whole.young > 0 {
        output::remark(&format!("{} more are named by nobody and too young to go", whole.young));
    }
    if contents > 0 && !apply {
        output::remark("nothing was removed: --apply does that");
    }
    Ok(DONE)
}
