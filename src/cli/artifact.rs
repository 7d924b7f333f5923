//! `belljar artifact`.

use super::connect::{Connection, Context};
use super::exit::{DONE, FAILED};
use super::lineage::{self, LineageOptions};
use super::query::Filters;
use super::{Outcome, cleanup, life, output, verify};
use crate::client::ClientError;
use crate::config::units::parse_duration;
use crate::model::artifact::{ArtifactState, SecretScan};
use crate::model::id::WorkspaceId;
use crate::wire::artifact::{Artifact, ArtifactPage, Process, SyncRequest};
use anyhow::{Context as _, bail};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[derive(Debug, Subcommand)]
pub enum ArtifactCommand {
    /// List artifacts.
    #[command(alias = "list")]
    Ls {
        #[command(flatten)]
        filters: Box<Filters>,
        /// One JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Show one version of an artifact: ID, ID@2, ID@latest, ID@label:NAME, where ID may be an alias.
    Show {
        #[arg(value_name = "ID[@VERSION]", value_parser = NonEmptyStringValueParser::new())]
        reference: String,
        /// One JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Write the content to standard output.
    Cat {
        #[arg(value_name = "ID[@VERSION]", value_parser = NonEmptyStringValueParser::new())]
        reference: String,
    },
    /// Write the content to a file.
    Get {
        #[arg(value_name = "ID[@VERSION]", value_parser = NonEmptyStringValueParser::new())]
        reference: String,
        /// A file or a directory; the artifact's own name in the current directory when left out.
        destination: Option<PathBuf>,
        /// Overwrite a file.
        #[arg(long)]
        force: bool,
    },
    /// Register files, or say more of those that were captured.
    Register(Box<life::RegisterArguments>),
    /// Change type, metadata, names or state of a version.
    Update(Box<life::UpdateArguments>),
    /// Move to the archive tier: ID means every version, ID@2 that one.
    Archive(References),
    /// Bring back what was archived, or deleted within the undo window.
    Restore(References),
    /// Mark artifacts as deleted; they can be restored until the undo window is over.
    Rm(References),
    /// Keep versions from being deleted.
    Pin(References),
    /// Let pinned versions be deleted again.
    Unpin(References),
    /// Show what an artifact was made from: all that the run which wrote it had read before.
    Lineage(LineageOptions),
    /// List the versions of an artifact, newest first.
    Versions {
        #[arg(value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
        reference: String,
        /// One JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Plan what is to go, and do it with --apply.
    Cleanup(Box<cleanup::CleanupArguments>),
    /// Make, list and remove clean-up policies.
    #[command(subcommand)]
    Policy(cleanup::PolicyCommand),
    /// Check that contents and what is known of them agree; exit code 1 when something is wrong.
    Verify(verify::VerifyArguments),
    /// List what happened, oldest first.
    Events(life::EventsArguments),
    /// Wait until everything that was closed before is registered.
    Sync {
        /// Only this workspace.
        #[arg(short = 'w', long, value_name = "ID")]
        workspace: Option<WorkspaceId>,
        /// At most this long [default: 60s].
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        timeout: Option<Duration>,
        /// Look first for files that were changed in the hosts' directories, past the workspaces.
        #[arg(long)]
        scan: bool,
        /// Wait, too, until everything is uploaded that was registered before.
        #[arg(long)]
        wait_upload: bool,
        /// One JSON document.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub struct References {
    #[arg(required = true, value_name = "ID[@VERSION]", value_parser = NonEmptyStringValueParser::new())]
    reference: Vec<String>,
    /// One JSON document.
    #[arg(long)]
    json: bool,
}

impl References {
    /// Does the same with each; the first failure ends it.
    fn each(
        self,
        connection: &Connection,
        act: impl AsyncFn(String) -> Result<Artifact, ClientError>,
    ) -> Outcome {
        let mut artifacts = Vec::with_capacity(self.reference.len());
        for reference in self.reference {
            artifacts.push(connection.block_on(act(reference))?);
        }
        if self.json {
            output::print_json(&ArtifactPage { artifacts, next: None });
        }
        Ok(DONE)
    }
}

pub fn run(context: &Context, command: ArtifactCommand) -> Outcome {
    let connection = context.running_or_private()?;
    let client = &connection.client;
    match command {
        ArtifactCommand::Ls { filters, json } => {
            if json {
                let mut list = output::JsonList::new("artifacts");
                let next = connection.block_on(filters.fetch(client, |page| list.add(&page)))?;
                list.end("next", next.as_ref());
            } else {
                let mut artifacts = Vec::new();
                let fetched = filters.fetch(client, |page| artifacts.extend(page));
                let next = connection.block_on(fetched)?;
                print_page(&ArtifactPage { artifacts, next });
            }
            Ok(DONE)
        }
        ArtifactCommand::Show { reference, json } => {
            let artifact = connection.block_on(client.artifact(&reference))?;
            if json {
                output::print_json(&artifact);
            } else {
                print_one(&artifact);
            }
            Ok(DONE)
        }
        ArtifactCommand::Cat { reference } => cat(&connection, &reference),
        ArtifactCommand::Get { reference, destination, force } => {
            get(&connection, &reference, destination.as_deref(), force)
        }
        ArtifactCommand::Lineage(options) => lineage::show(&connection, options),
        ArtifactCommand::Register(arguments) => life::register(&connection, *arguments),
        ArtifactCommand::Update(arguments) => life::update(&connection, *arguments),
        ArtifactCommand::Cleanup(arguments) => cleanup::cleanup(&connection, *arguments),
        ArtifactCommand::Policy(command) => cleanup::policy(&connection, command),
        ArtifactCommand::Verify(arguments) => verify::verify(&connection, arguments),
        ArtifactCommand::Events(arguments) => life::events(&connection, &arguments),
        ArtifactCommand::Versions { reference, json } => {
            let page = life::versions(&connection, &reference)?;
            if json {
                output::print_json(&page);
            } else {
                print_page(&page);
            }
            Ok(DONE)
        }
        ArtifactCommand::Archive(references) => references
            .each(&connection, async |reference| client.archive_artifact(&reference).await),
        ArtifactCommand::Restore(references) => references
            .each(&connection, async |reference| client.restore_artifact(&reference).await),
        ArtifactCommand::Rm(references) => {
            references.each(&connection, async |reference| client.remove_artifact(&reference).await)
        }
        ArtifactCommand::Pin(references) => {
            references.each(&connection, async |reference| client.pin_artifact(&reference).await)
        }
        ArtifactCommand::Unpin(references) => {
            references.each(&connection, async |reference| client.unpin_artifact(&reference).await)
        }
        ArtifactCommand::Sync { workspace, timeout, scan, wait_upload, json } => {
            let timeout_ms =
                timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
            let request = SyncRequest { workspace, timeout_ms, scan, wait_upload };
            let outcome = connection.block_on(client.sync(&request))?;
            if let Some(scanned) = outcome.scanned.filter(|_| !json) {
                output::remark(&format!(
                    "{} files looked at, {} had changed, {} directories could not be looked into",
                    scanned.files, scanned.found, scanned.refused
                ));
            }
            if json {
                output::print_json(&outcome);
            } else if !outcome.complete {
                output::complain("not everything is registered yet:");
                for line in &outcome.incomplete {
                    output::complain(&format!("  {line}"));
                }
            }
            let sent = outcome.uploaded != Some(false);
            if !sent && !json {
                output::complain("not everything is uploaded yet: see `belljar storage status`");
            }
            Ok(if outcome.complete && sent { DONE } else { FAILED })
        }
    }
}

fn print_page(page: &ArtifactPage) {
    let rows: Vec<Vec<String>> = page
        .artifacts
        .iter()
        .map(|artifact| {
            vec![
                artifact.id.to_string(),
                artifact.version.to_string(),
                artifact.artifact_type.to_string(),
                shown_state(artifact),
                output::size(artifact.size),
                output::time(artifact.created_at),
                artifact.path.clone(),
            ]
        })
        .collect();
    output::print(&output::table(
        &["ID", "VERSION", "TYPE", "STATE", "SIZE", "CREATED", "PATH"],
        &rows,
    ));
    if page.next.is_some() {
        output::remark("there are more; --limit shows them");
    }
}

fn print_one(artifact: &Artifact) {
    let dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let rows: Vec<Vec<String>> = [
        ("id", artifact.id.to_string()),
        ("version", artifact.version.to_string()),
        ("type", shown_type(artifact)),
        ("state", shown_state(artifact)),
        ("origin", artifact.origin.as_str().to_owned()),
        ("made from", dash(artifact.parent_version.map(|version| format!("version {version}")))),
        ("secrets", shown_secrets(artifact)),
        ("size", format!("{} ({} bytes)", output::size(artifact.size), artifact.size)),
        ("mime", dash(artifact.mime.clone())),
        ("digest", dash(artifact.digest.map(|digest| digest.to_string()))),
        ("content", shown_content(artifact).to_owned()),
        ("path", artifact.path.clone()),
        ("host path", artifact.host_path.clone()),
        ("workspace", dash(artifact.workspace_id.as_ref().map(|id| id.to_string()))),
        ("run", artifact.run_id.map_or("unattributed".to_owned(), |run| run.to_string())),
        ("graph", dash(artifact.graph_id.clone())),
        ("node", dash(artifact.node_id.clone())),
        ("writer", dash(artifact.writer.as_ref().map(written_by))),
        ("aliases", artifact.aliases.join(" ")),
        ("labels", artifact.labels.join(" ")),
        ("tags", artifact.tags.join(" ")),
        ("metadata", shown_metadata(artifact)),
        ("created", output::time(artifact.created_at)),
        ("updated", output::time(artifact.updated_at)),
        ("deleted", dash(artifact.deleted_at.map(output::time))),
    ]
    .into_iter()
    .map(|(key, value)| vec![key.to_owned(), value])
    .collect();
    output::print(output::table(&["", ""], &rows).trim_start_matches('\n'));
}

/// The state, and what else keeps the version or is wrong with it.
fn shown_state(artifact: &Artifact) -> String {
    let marks = [
        (artifact.held && artifact.state == ArtifactState::Creating, "held"),
        (artifact.pinned, "pinned"),
        (artifact.quarantined, "quarantined"),
        (!artifact.secrets_found.is_empty(), "holds a secret"),
    ];
    let mut text = artifact.state.to_string();
    for (_, mark) in marks.iter().filter(|(set, _)| *set) {
        text.push_str(&format!(", {mark}"));
    }
    text
}

fn shown_content(artifact: &Artifact) -> &'static str {
    match (artifact.digest, artifact.content_kept) {
        (None, _) => "none yet",
        (Some(_), true) => "kept",
        (Some(_), false) => "digest only",
    }
}

fn shown_type(artifact: &Artifact) -> String {
    match &artifact.suspected_type {
        Some(suspected) => format!("{} (could be {suspected})", artifact.artifact_type),
        None => artifact.artifact_type.to_string(),
    }
}

fn shown_secrets(artifact: &Artifact) -> String {
    if !artifact.secrets_found.is_empty() {
        let found = artifact.secrets_found.iter().map(|found| {
            format!("{} ({}, at byte {})", found.name, found.encoding, found.position)
        });
        return found.collect::<Vec<_>>().join(", ");
    }
    let text = match artifact.secret_scan {
        Some(SecretScan::Done) => "none found",
        Some(SecretScan::NothingToFind) => "none to look for",
        Some(SecretScan::Unavailable) => "not looked for: they were not known any more",
        None => "not looked for",
    };
    text.to_owned()
}

fn written_by(writer: &Process) -> String {
    let command = writer.command.as_ref().map_or("command not known".to_owned(), |c| c.join(" "));
    format!("{command} (process {}, user {})", writer.pid, writer.uid)
}

fn shown_metadata(artifact: &Artifact) -> String {
    if artifact.metadata.is_empty() {
        return String::new();
    }
    serde_json::Value::Object(artifact.metadata.clone()).to_string()
}

fn cat(connection: &Connection, reference: &str) -> Outcome {
    let copied = connection.block_on(async {
        let mut content = connection.client.content(reference).await?;
        let mut out = io::stdout().lock();
        loop {
            let chunk = match content.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(error) => return Ok(Err(error).context("the content broke off")),
            };
            match out.write_all(&chunk).and_then(|()| out.flush()) {
                Ok(()) => {}
                // A reader that has seen enough.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
                Err(error) => return Ok(Err(error).context("write to standard output")),
            }
        }
        Ok::<_, crate::client::ClientError>(Ok(()))
    });
    copied??;
    Ok(DONE)
}

fn get(
    connection: &Connection,
    reference: &str,
    destination: Option<&Path>,
    force: bool,
) -> Outcome {
    let artifact = connection.block_on(connection.client.artifact(reference))?;
    let destination = match destination {
        Some(path) if path.is_dir() => path.join(own_name(&artifact)?),
        Some(path) => path.to_owned(),
        None => PathBuf::from(own_name(&artifact)?),
    };
    // `show` resolved the version, so that what was looked at is what is fetched.
    let exact = format!("{}@{}", artifact.id, artifact.version);
    let partial = Partial::create(&destination, force)?;
    let mut content = connection.block_on(connection.client.content(&exact))?;
    let filled = connection.block_on(async {
        let mut progress = Progress::new(content.size);
        let mut file = &partial.file;
        while let Some(chunk) = content.chunk().await.context("the content broke off")? {
            file.write_all(&chunk).with_context(|| format!("write {}", partial.path.display()))?;
            progress.add(chunk.len());
        }
        progress.end();
        if progress.done != artifact.size {
            bail!("{} of {} bytes arrived", progress.done, artifact.size);
        }
        Ok(())
    });
    filled?;
    partial.finish()?;
    output::remark(&format!("{exact} is in {}", destination.display()));
    Ok(DONE)
}

/// The last name of the artifact's path. It was chosen by a sandboxed program: a dot name or a control character must not
/// be made here without being asked for.
fn own_name(artifact: &Artifact) -> anyhow::Result<String> {
    let name = artifact.path.rsplit('/').next().unwrap_or_default();
    if name.is_empty() || name.starts_with('.') || name.contains('\\') {
        bail!(
            "{:?} is not a name to take over: say where to put it, `artifact get ID DEST`",
            artifact.path
        );
    }
    Ok(name.to_owned())
}

/// A file that has its name only when it is whole.
struct Partial {
    file: File,
    path: PathBuf,
    destination: PathBuf,
    force: bool,
}

impl Partial {
    fn create(destination: &Path, force: bool) -> anyhow::Result<Self> {
        let refuse = || {
            format!("{} exists already: choose another name, or add --force", destination.display())
        };
        if !force && fs::symlink_metadata(destination).is_ok() {
            bail!(refuse());
        }
        let mut name = destination.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let path = destination.with_file_name(name);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .with_context(|| format!("make {}", path.display()))?;
        Ok(Self { file, path, destination: destination.to_owned(), force })
    }

    fn finish(self) -> anyhow::Result<()> {
        let put = if self.force {
            fs::rename(&self.path, &self.destination)
        } else {
            // Unlike rename, link never replaces what appeared meanwhile; the other name goes when this value does.
            fs::hard_link(&self.path, &self.destination)
        };
        put.with_context(|| format!("put {} in place", self.destination.display()))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Gone already after a rename.
        let _ = fs::remove_file(&self.path);
    }
}

/// A line that grows on a terminal, and nothing elsewhere.
struct Progress {
    done: u64,
    total: u64,
    shown: Option<Instant>,
    terminal: bool,
}

impl Progress {
    fn new(total: u64) -> Self {
        Self { done: 0, total, shown: None, terminal: output::is_terminal() }
    }

    fn add(&mut self, bytes: usize) {
        self.done += bytes as u64;
        // Ten times a second is as often as anyone reads.
        let due = self.shown.is_none_or(|shown| shown.elapsed() >= Duration::from_millis(100));
        if self.terminal && due {
            self.shown = Some(Instant::now());
            let (done, total) = (output::size(self.done), output::size(self.total));
            let _ = write!(io::stderr(), "\r\x1b[K{done} of {total}");
        }
    }

    fn end(&self) {
        if self.terminal && self.shown.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_whole_and_never_overwrites_unasked() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("x.csv");
        let mut partial = Partial::create(&path, false).expect("makes it");
        partial.file.write_all(b"new").expect("write");
        assert!(!path.exists());
        // Somebody else was quicker.
        fs::write(&path, "theirs").expect("write");
        assert!(partial.finish().is_err());
        assert_eq!(fs::read_to_string(&path).expect("read"), "theirs");
        let error = Partial::create(&path, false).err().expect("refused").to_string();
        assert!(error.contains("exists already") && error.contains("--force"), "{error}");
        let mut partial = Partial::create(&path, true).expect("makes it");
        partial.file.write_all(b"new").expect("write");
        partial.finish().expect("replaces it");
        assert_eq!(fs::read_to_string(&path).expect("read"), "new");
        assert_eq!(fs::read_dir(directory.path()).expect("list").count(), 1);
    }
}
