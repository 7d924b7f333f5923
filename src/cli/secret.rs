//! `belljar secret`.

use super::connect::Context;
use super::exit::{DONE, Failure};
use super::secret_source::SecretSource;
use super::{Outcome, output};
use crate::model::id::{SecretName, WorkspaceId};
use crate::secret::encoding::{LOOKED_FOR_BYTES_MIN, looked_for};
use crate::wire::workspace::SecretRequest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Subcommand;
use std::ffi::OsString;
use zeroize::Zeroizing;

const NEEDS: &str = "secrets live";

#[derive(Debug, Subcommand)]
pub enum SecretCommand {
    /// Set secrets of a workspace.
    Set {
        #[arg(short = 'w', long = "workspace", value_name = "ID")]
        workspace: WorkspaceId,
        /// The value need not be hidden in logs.
        #[arg(long)]
        not_sensitive: bool,
        /// NAME=@FILE, NAME=- (standard input), NAME (your variable), or NAME=VALUE, which `ps` shows to everyone on this
        /// machine.
        #[arg(required = true, value_name = "NAME[=SOURCE]")]
        secret: Vec<OsString>,
    },
    /// List the names of a workspace's secrets.
    #[command(alias = "list")]
    Ls {
        #[arg(short = 'w', long = "workspace", value_name = "ID")]
        workspace: WorkspaceId,
        /// One JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Remove secrets.
    Rm {
        #[arg(short = 'w', long = "workspace", value_name = "ID")]
        workspace: WorkspaceId,
        #[arg(required = true)]
        name: Vec<SecretName>,
    },
}

/// Whether the daemon can tell this value from other bytes.
fn is_looked_for(request: &SecretRequest) -> bool {
    let value = STANDARD.decode(&request.value).map(Zeroizing::new).unwrap_or_default();
    looked_for(&value).is_some()
}

pub fn run(context: &Context, command: SecretCommand) -> Outcome {
    match command {
        SecretCommand::Set { workspace, not_sensitive, secret } => {
            let mut sources = Vec::with_capacity(secret.len());
            for text in &secret {
                let source = SecretSource::parse(text);
                sources.push(source.map_err(|error| Failure::usage(format!("{error:#}")))?);
            }
            // The daemon first: a value from standard input should not be asked for in vain.
            let connection = context.running(NEEDS)?;
            for (name, source) in &sources {
                let request = source.request(name, !not_sensitive)?;
                let setting = connection.client.set_secret(&workspace, name, &request);
                connection.block_on(setting)?;
                if !not_sensitive && !is_looked_for(&request) {
                    output::remark(&format!(
                        "secret {name} is not looked for in artifacts: it has fewer than {LOOKED_FOR_BYTES_MIN} bytes, or too few different ones to be told from other text"
                    ));
                }
            }
            Ok(DONE)
        }
        SecretCommand::Ls { workspace, json } => {
            let connection = context.running(NEEDS)?;
            let list = connection.block_on(connection.client.secrets(&workspace))?;
            if json {
                output::print_json(&list);
                return Ok(DONE);
            }
            let rows: Vec<Vec<String>> = list
                .secrets
                .iter()
                .map(|secret| {
                    let sensitive = if secret.sensitive { "yes" } else { "no" };
                    vec![secret.name.to_string(), secret.size.to_string(), sensitive.to_owned()]
                })
                .collect();
            output::print(&output::table(&["NAME", "BYTES", "SENSITIVE"], &rows));
            Ok(DONE)
        }
        SecretCommand::Rm { workspace, name } => {
            let connection = context.running(NEEDS)?;
            for name in &name {
                connection.block_on(connection.client.remove_secret(&workspace, name))?;
            }
            Ok(DONE)
        }
    }
}
