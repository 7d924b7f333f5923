//! `belljar daemon`.

use super::connect::Context;
use super::exit::DONE;
use super::{Outcome, output};
use crate::config::units::format_duration;
use clap::Subcommand;
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub enum DaemonCommand {
    /// Say which daemon answers and what it is doing.
    Status {
        /// One JSON document.
        #[arg(long)]
        json: bool,
    },
}

pub fn run(context: &Context, command: DaemonCommand) -> Outcome {
    let DaemonCommand::Status { json } = command;
    let connection = context.running("its state is known")?;
    let status = connection.block_on(connection.client.status())?;
    if json {
        output::print_json(&status);
        return Ok(DONE);
    }
    let yes = |yes| if yes { "yes" } else { "no" }.to_owned();
    let uptime = Duration::from_secs(status.uptime_ms / 1_000);
    let rows: Vec<Vec<String>> = [
        ("socket", connection.client.socket().display().to_string()),
        ("version", status.version),
        ("pid", status.pid.to_string()),
        ("uid", status.uid.to_string()),
        ("uptime", format_duration(uptime)),
        ("state directory", status.state_dir),
        ("runtime directory", status.runtime_dir),
        ("workspaces", status.workspaces.to_string()),
        ("runs", status.runs.to_string()),
        ("pending artifacts", status.pending_artifacts.to_string()),
        ("passthrough", yes(status.passthrough)),
    ]
    .into_iter()
    .map(|(key, value)| vec![key.to_owned(), value])
    .collect();
    output::print(output::table(&["", ""], &rows).trim_start_matches('\n'));
    Ok(DONE)
}
