//! `belljar artifact register`, `update`, `versions` and `events`: what people say of artifacts, and what happened to them.
//!
//! Files to be registered are opened here, with the caller's own rights, and sent as descriptors.

use super::connect::Connection;
use super::exit::{DONE, FAILED, Failure};
use super::{Outcome, output};
use crate::client::ClientError;
use crate::config::units::parse_duration;
use crate::model::artifact::{ArtifactState, ArtifactType};
use crate::model::id::WorkspaceId;
use crate::model::names::{Alias, Label, Tag};
use crate::model::path::{escape, unescape};
use crate::wire::artifact::ArtifactPage;
use crate::wire::life::{
    Event, EventQuery, NameChange, Object, REGISTER_ITEMS_MAX, RegisterItem, RegisterOutcome,
    RegisterRequest, Registered, UpdateRequest, VersionsQuery,
};
use crate::wire::run::Argument;
use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, Args)]
pub struct RegisterArguments {
    /// Files on the host, or, with -w, as seen in the workspace (/workspace/output/x.csv).
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The workspace in which the paths are seen.
    #[arg(short = 'w', long, value_name = "ID")]
    workspace: Option<WorkspaceId>,
    /// A name for the artifact, an alias of its id; for one file.
    #[arg(long, value_name = "NAME")]
    alias: Option<Alias>,
    /// Take the alias from the artifact that has it.
    #[arg(long)]
    move_alias: bool,
    /// file, image, report, data, model, log, or a word of your own [default: by its content].
    #[arg(long = "type", value_name = "TYPE", value_parser = parse_type)]
    artifact_type: Option<ArtifactType>,
    /// READY, or CREATING to hold the version until `update --state READY`.
    #[arg(long, value_name = "STATE")]
    state: Option<ArtifactState>,
    /// A label for the version; may be repeated.
    #[arg(long = "label", value_name = "LABEL")]
    labels: Vec<Label>,
    /// A tag; may be repeated.
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<Tag>,
    /// A JSON object, or @FILE with one.
    #[arg(long, value_name = "JSON", value_parser = parse_metadata)]
    metadata: Option<Object>,
    #[arg(long, value_name = "TYPE/SUBTYPE")]
    mime: Option<String>,
    #[arg(long, value_name = "ID")]
    graph_id: Option<String>,
    #[arg(long, value_name = "ID")]
    node_id: Option<String>,
    /// Number of the version that it was made from.
    #[arg(long, value_name = "N")]
    parent_version: Option<u64>,
    /// Wait at most so long for what was written before to be registered [default: 30s].
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// One JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct UpdateArguments {
    #[arg(value_name = "ID[@VERSION]", value_parser = NonEmptyStringValueParser::new())]
    reference: String,
    #[arg(long = "type", value_name = "TYPE", value_parser = parse_type)]
    artifact_type: Option<ArtifactType>,
    /// READY for what is held as CREATING, archived or deleted; ARCHIVED; DELETED.
    #[arg(long, value_name = "STATE")]
    state: Option<ArtifactState>,
    /// A JSON object, or @FILE with one, merged into the metadata (RFC 7396: null removes a key).
    #[arg(long, value_name = "JSON", value_parser = parse_metadata)]
    metadata: Option<Object>,
    #[arg(long, value_name = "TYPE/SUBTYPE")]
    mime: Option<String>,
    #[arg(long, value_name = "ID")]
    graph_id: Option<String>,
    #[arg(long, value_name = "ID")]
    node_id: Option<String>,
    /// Another name for the artifact; may be repeated.
    #[arg(long = "alias", value_name = "NAME")]
    aliases: Vec<Alias>,
    #[arg(long, value_name = "NAME")]
    remove_alias: Vec<Alias>,
    /// Take aliases from the artifacts that have them.
    #[arg(long)]
    move_alias: bool,
    /// Let a label point to this version; may be repeated.
    #[arg(long = "label", value_name = "LABEL")]
    labels: Vec<Label>,
    #[arg(long, value_name = "LABEL")]
    remove_label: Vec<Label>,
    /// May be repeated.
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<Tag>,
    #[arg(long, value_name = "TAG")]
    remove_tag: Vec<Tag>,
    /// One JSON document.
    #[arg(long)]
    json: bool,
}

impl UpdateArguments {
    fn changes_anything(&self) -> bool {
        let texts = [&self.mime, &self.graph_id, &self.node_id];
        self.artifact_type.is_some()
            || self.metadata.is_some()
            || self.state.is_some()
            || texts.iter().any(|text| text.is_some())
            || !(self.aliases.is_empty() && self.remove_alias.is_empty())
            || !(self.labels.is_empty() && self.remove_label.is_empty())
            || !(self.tags.is_empty() && self.remove_tag.is_empty())
    }
}

#[derive(Debug, Args)]
pub struct EventsArguments {
    /// Only those of this artifact.
    #[arg(value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    reference: Option<String>,
    /// Only those behind the event of this number.
    #[arg(long, value_name = "N")]
    after: Option<i64>,
    /// At most so many.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    limit: u32,
    /// Go on with those to come.
    #[arg(long)]
    follow: bool,
    /// One JSON document; with --follow one line for each event.
    #[arg(long)]
    json: bool,
}

fn parse_type(text: &str) -> Result<ArtifactType, String> {
    if text.is_empty() {
        return Err("a type is a word: file, image, report, data, model, log, or your own".into());
    }
    Ok(ArtifactType::new(text))
}

fn parse_metadata(text: &str) -> Result<Object, String> {
    // The parser of arguments shows an error without its causes.
    read_metadata(text).map_err(|error| format!("{error:#}"))
}

fn read_metadata(text: &str) -> anyhow::Result<Object> {
    let text = match text.strip_prefix('@') {
        Some(path) => {
            std::fs::read_to_string(path).with_context(|| format!("read metadata from {path}"))?
        }
        None => text.to_owned(),
    };
    match serde_json::from_str(&text).context("metadata is not JSON")? {
        serde_json::Value::Object(object) => Ok(object),
        _ => bail!("metadata is not a JSON object: write {{\"name\": value, …}}"),
    }
}

/// Opens what the caller may read; a fifo is not waited for, and what is no file is refused by the daemon.
fn open(path: &Path) -> io::Result<File> {
    let options = nix::fcntl::OFlag::O_NONBLOCK | nix::fcntl::OFlag::O_NOCTTY;
    OpenOptions::new().read(true).custom_flags(options.bits()).open(path)
}

/// The path as the kernel knows it, so that a file has one name however it was written.
fn settled(path: &Path) -> anyhow::Result<PathBuf> {
    let shown = escape(path.as_os_str().as_bytes());
    let absolute = std::path::absolute(path).with_context(|| format!("resolve {shown}"))?;
    if let Ok(real) = absolute.canonicalize() {
        return Ok(real);
    }
    // It need not exist yet, but the directory must.
    let (Some(directory), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        bail!("{shown} is a directory, not a file");
    };
    let directory = directory.canonicalize();
    Ok(directory.with_context(|| format!("the directory of {shown}"))?.join(name))
}

fn argument(path: &Path) -> Argument {
    match path.to_str() {
        Some(text) => Argument::Text(text.to_owned()),
        None => Argument::Bytes { base64: STANDARD.encode(path.as_os_str().as_bytes()) },
    }
}

pub fn register(connection: &Connection, arguments: RegisterArguments) -> Outcome {
    if arguments.alias.is_some() && arguments.paths.len() > 1 {
        return Err(Failure::usage("--alias names one artifact, and several paths were given"));
    }
    let mut results = Vec::new();
    for paths in arguments.paths.chunks(REGISTER_ITEMS_MAX) {
        results.extend(register_some(connection, &arguments, paths)?);
    }
    let failed = results.iter().any(|result| matches!(result, Registered::Error(_)));
    if arguments.json {
        output::print_json(&RegisterOutcome { results });
        return Ok(if failed { FAILED } else { DONE });
    }
    for result in &results {
        match result {
            Registered::Artifact(artifact) => output::print(&format!(
                "{}@{}  {}  {}\n",
                artifact.id,
                artifact.version,
                artifact.state,
                output::plain(&artifact.path)
            )),
            Registered::Error(problem) => output::complain(&problem.detail),
        }
    }
    Ok(if failed { FAILED } else { DONE })
}

fn register_some(
    connection: &Connection,
    arguments: &RegisterArguments,
    paths: &[PathBuf],
) -> Result<Vec<Registered>, Failure> {
    let held = arguments.state == Some(ArtifactState::Creating);
    let (mut items, mut files) = (Vec::new(), Vec::new());
    for path in paths {
        // A path that is seen in a workspace is no path of ours.
        let inside = arguments.workspace.is_some() && path.starts_with("/workspace");
        let path = if inside { path.clone() } else { settled(path)? };
        let mut item = RegisterItem::of(argument(&path));
        if !inside && !held {
            let shown = escape(path.as_os_str().as_bytes());
            let file = open(&path).with_context(|| format!("open {shown}"))?;
            item.descriptor = Some(u32::try_from(files.len()).unwrap_or(u32::MAX));
            files.push(file);
        }
        items.push(RegisterItem {
            workspace: arguments.workspace.clone(),
            artifact_id: arguments.alias.clone(),
            move_alias: arguments.move_alias,
            artifact_type: arguments.artifact_type.clone(),
            state: arguments.state,
            labels: arguments.labels.clone(),
            tags: arguments.tags.clone(),
            metadata: arguments.metadata.clone(),
            mime: arguments.mime.clone(),
            graph_id: arguments.graph_id.clone(),
            node_id: arguments.node_id.clone(),
            parent_version: arguments.parent_version,
            ..item
        });
    }
    let timeout_ms = arguments.timeout.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX));
    let mut request = RegisterRequest { items, descriptors: None, timeout_ms };
    let client = &connection.client;
    let _leash = if files.is_empty() {
        None
    } else {
        let descriptors: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        let (token, leash) = client.send_descriptors(&descriptors)?;
        request.descriptors = Some(token);
        Some(leash)
    };
    Ok(connection.block_on(client.register(&request))?.results)
}

pub fn update(connection: &Connection, arguments: UpdateArguments) -> Outcome {
    let client = &connection.client;
    let UpdateArguments { reference, state, json, .. } = &arguments;
    if !arguments.changes_anything() {
        return Err(Failure::usage(format!(
            "nothing is to be changed of {reference}: say what, for instance with --tag, --label, --metadata or --state"
        )));
    }
    let mut request = UpdateRequest {
        artifact_type: arguments.artifact_type.clone(),
        mime: arguments.mime.clone(),
        graph_id: arguments.graph_id.clone(),
        node_id: arguments.node_id.clone(),
        metadata: arguments.metadata.clone(),
        aliases: NameChange {
            add: arguments.aliases.clone(),
            remove: arguments.remove_alias.clone(),
        },
        move_aliases: arguments.move_alias,
        labels: NameChange {
            add: arguments.labels.clone(),
            remove: arguments.remove_label.clone(),
        },
        tags: NameChange { add: arguments.tags.clone(), remove: arguments.remove_tag.clone() },
        state: *state,
        descriptors: None,
    };
    let mut leash = None;
    if *state == Some(ArtifactState::Ready) {
        let artifact = connection.block_on(client.artifact(reference))?;
        // What lies in a workspace was captured; what lies elsewhere is copied as it is at this moment.
        let path = unescape(&artifact.host_path).map(OsString::from_vec).map(PathBuf::from);
        if artifact.held
            && artifact.workspace_id.is_none()
            && let Some(path) = path
        {
            match open(&path) {
                Ok(file) => {
                    let (token, held) = client.send_descriptors(&[file.as_fd()])?;
                    request.descriptors = Some(token);
                    leash = Some(held);
                }
                // The daemon then says that there is no content.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(anyhow::Error::new(error)
                        .context(format!("open {}", artifact.host_path))
                        .into());
                }
            }
        }
    }
    let artifact = connection.block_on(client.update_artifact(reference, &request))?;
    drop(leash);
    if *json {
        output::print_json(&artifact);
    }
    Ok(DONE)
}

pub fn versions(connection: &Connection, reference: &str) -> Result<ArtifactPage, ClientError> {
    let mut all = ArtifactPage { artifacts: Vec::new(), next: None };
    let mut query = VersionsQuery { limit: Some(1_000), cursor: None };
    loop {
        let page = connection.block_on(connection.client.versions(reference, &query))?;
        all.artifacts.extend(page.artifacts);
        query.cursor = page.next.and_then(|next| next.parse().ok());
        if query.cursor.is_none() {
            return Ok(all);
        }
    }
}

pub fn events(connection: &Connection, arguments: &EventsArguments) -> Outcome {
    let client = &connection.client;
    let reference = arguments.reference.as_deref();
    if !arguments.follow {
        let query =
            EventQuery { after: arguments.after, limit: Some(arguments.limit), follow: false };
        let page = connection.block_on(client.events(reference, &query))?;
        if arguments.json {
            output::print_json(&page);
        } else {
            page.events.iter().for_each(print_event);
            if page.events.len() == arguments.limit as usize {
                output::remark(&format!("there may be more; --after {} shows them", page.next));
            }
        }
        return Ok(DONE);
    }
    let mut stream = connection.block_on(client.follow_events(reference, arguments.after))?;
    while let Some(event) =
        connection.block_on(stream.next()).context("the stream of events broke off")?
    {
        if arguments.json {
            let line = serde_json::to_string(&event).expect("events have text keys only");
            output::print(&format!("{line}\n"));
        } else {
            print_event(&event);
        }
    }
    Ok(DONE)
}

fn print_event(event: &Event) {
    let version = event.version.map_or(String::new(), |version| format!("@{version}"));
    let detail = serde_json::Value::Object(event.detail.clone()).to_string();
    let line = format!(
        "{}  {}  {}{version}  {}  {}  {detail}",
        event.seq,
        output::time(event.at),
        event.artifact,
        event.kind,
        event.actor
    );
    output::print(&format!("{}\n", output::plain(&line)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_an_object_or_a_sentence_says_so() {
        assert_eq!(parse_metadata(r#"{"a": 1}"#).expect("legal")["a"], 1);
        let error = parse_metadata("[1]").expect_err("no object").to_string();
        assert!(error.contains("not a JSON object"), "{error}");
        assert!(parse_metadata("{a}").expect_err("no JSON").to_string().contains("not JSON"));
        assert!(
            format!("{:#}", parse_metadata("@/nonexistent").expect_err("no file"))
                .contains("/nonexistent")
        );
    }
}
