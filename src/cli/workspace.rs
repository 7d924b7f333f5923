//! `belljar workspace`.

use super::connect::Context;
use super::directory::{Parcel, collect};
use super::exit::{DONE, Failure};
use super::manifest::Manifest;
use super::secret_source::SecretSources;
use super::{Outcome, output};
use crate::model::id::WorkspaceId;
use crate::model::mount::{CachePolicy, SetId};
use crate::wire::workspace::{Workspace, WorkspaceRequest};
use clap::{Args, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

const NEEDS: &str = "workspaces live";

#[derive(Debug, Subcommand)]
pub enum WorkspaceCommand {
    /// Make a workspace, or give it another definition.
    Create(CreateArguments),
    /// List workspaces.
    #[command(alias = "list")]
    Ls {
        /// One JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Show a workspace.
    Show {
        id: WorkspaceId,
        /// One JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Remove workspaces; their artifacts stay.
    Rm {
        #[arg(required = true)]
        id: Vec<WorkspaceId>,
    },
}

#[derive(Debug, Args)]
pub struct CreateArguments {
    /// Its name; the manifest's, or a fresh one, when left out.
    id: Option<WorkspaceId>,
    /// Read mounts, secrets and environment from this manifest.
    #[arg(short = 'f', long = "file", value_name = "MANIFEST")]
    manifest: Option<PathBuf>,
    /// Mount a host directory read-only.
    #[arg(long, value_name = "NAME=PATH")]
    ro: Vec<OsString>,
    /// Mount a host directory read-write.
    #[arg(long, value_name = "NAME=PATH")]
    rw: Vec<OsString>,
    /// One JSON document.
    #[arg(long)]
    json: bool,
}

pub fn run(context: &Context, command: WorkspaceCommand) -> Outcome {
    match command {
        WorkspaceCommand::Create(arguments) => create(context, arguments),
        WorkspaceCommand::Ls { json } => {
            let connection = context.running(NEEDS)?;
            let list = connection.block_on(connection.client.workspaces())?;
            if json {
                output::print_json(&list);
            } else {
                output::print(&table(&list.workspaces));
            }
            Ok(DONE)
        }
        WorkspaceCommand::Show { id, json } => {
            let connection = context.running(NEEDS)?;
            let workspace = connection.block_on(connection.client.workspace(&id))?;
            print(&workspace, json);
            Ok(DONE)
        }
        WorkspaceCommand::Rm { id } => {
            let connection = context.running(NEEDS)?;
            for id in &id {
                connection.block_on(connection.client.remove_workspace(id))?;
            }
            Ok(DONE)
        }
    }
}

fn create(context: &Context, arguments: CreateArguments) -> Outcome {
    let manifest = match &arguments.manifest {
        Some(path) => Manifest::read(path)?,
        None => Manifest::default(),
    };
    let id = match (arguments.id, manifest.id) {
        (Some(given), Some(written)) if given != written => {
            return Err(Failure::usage(format!(
                "{given} and the manifest's id {written} name different workspaces: leave one out"
            )));
        }
        (given, written) => given.or(written),
    };
    let mounts = collect(&arguments.ro, &arguments.rw, manifest.mounts)
        .map_err(|error| Failure::usage(format!("{error:#}")))?;
    for mount in &mounts {
        mount.prepare()?;
    }
    let mut sources = SecretSources::default();
    for (name, source) in manifest.secrets {
        sources.add(name, source)?;
    }
    let secrets = sources.requests()?;
    let connection = context.running(NEEDS)?;
    let mut parcel = Parcel::default();
    let mounts = parcel.add_mounts(&mounts)?;
    // The leash of a workspace is not kept: it lives until it is removed.
    let (descriptors, _leash) = if parcel.is_empty() {
        (None, None)
    } else {
        let (token, leash) = parcel.send(&connection.client)?;
        (Some(token), Some(leash))
    };
    let request =
        WorkspaceRequest { id, mounts, secrets, env: manifest.env, descriptors, lease: false };
    let workspace = connection.block_on(connection.client.create_workspace(&request))?;
    print(&workspace, arguments.json);
    Ok(DONE)
}

fn table(workspaces: &[Workspace]) -> String {
    let rows: Vec<Vec<String>> = workspaces
        .iter()
        .map(|workspace| {
            let mounts: Vec<String> = workspace
                .mounts
                .iter()
                .map(|mount| format!("{}:{}={}", mount.mode, mount.name, mount.path))
                .collect();
            vec![
                workspace.id.to_string(),
                workspace.owner_uid.to_string(),
                workspace.runs.len().to_string(),
                output::time(workspace.created_at),
                mounts.join(" "),
            ]
        })
        .collect();
    output::table(&["ID", "OWNER", "RUNS", "CREATED", "MOUNTS"], &rows)
}

fn print(workspace: &Workspace, json: bool) {
    if json {
        return output::print_json(workspace);
    }
    let names =
        |names: Vec<String>| if names.is_empty() { "-".to_owned() } else { names.join(" ") };
    let mut rows = vec![
        vec!["id".to_owned(), workspace.id.to_string()],
        vec!["owner".to_owned(), workspace.owner_uid.to_string()],
        vec!["root".to_owned(), workspace.root.clone()],
        vec!["created".to_owned(), output::time(workspace.created_at)],
    ];
    for mount in &workspace.mounts {
        let mut notes = Vec::new();
        if !mount.artifacts {
            notes.push("no artifacts".to_owned());
        }
        if mount.cache != CachePolicy::default() {
            notes.push(format!("cache: {}", mount.cache));
        }
        if mount.suid == SetId::Allow {
            notes.push("suid: allow".to_owned());
        }
        if mount.passthrough {
            notes.push("passthrough".to_owned());
        }
        let notes =
            if notes.is_empty() { String::new() } else { format!(" ({})", notes.join(", ")) };
        rows.push(vec![
            format!("mount {}", mount.name),
            format!("{} {}{notes}", mount.mode, mount.path),
        ]);
    }
    rows.push(vec![
        "secrets".to_owned(),
        names(workspace.secrets.iter().map(ToString::to_string).collect()),
    ]);
    rows.push(vec![
        "env".to_owned(),
        names(workspace.env.iter().map(ToString::to_string).collect()),
    ]);
    rows.push(vec![
        "runs".to_owned(),
        names(workspace.runs.iter().map(ToString::to_string).collect()),
    ]);
    let text = output::table(&["", ""], &rows);
    output::print(text.trim_start_matches('\n'));
}
