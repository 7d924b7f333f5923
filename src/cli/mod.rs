//! The command line: arguments to calls, answers to text, failures to one sentence and an exit code.
//!
//! It knows the API by `client` and `wire` alone. That a daemon can be started inside this process comes in as
//! [`StartPrivate`], because the command line stands below the daemon.

pub mod artifact;
pub mod cleanup;
pub mod completions;
pub mod connect;
pub mod daemon;
pub mod directory;
pub mod doctor;
pub mod env;
pub mod exit;
pub mod life;
pub mod lineage;
pub mod manifest;
pub mod output;
pub mod query;
pub mod receipt;
pub mod run;
pub mod secret;
pub mod secret_source;
pub mod storage;
mod terminal;
pub mod verify;
pub mod workspace;

use crate::model::id::BackendId;
use clap::{Args, CommandFactory, Parser, Subcommand};
use connect::{Context, StartPrivate};
use exit::Failure;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs processes in sealed workspaces whose written files become artifacts by themselves.
#[derive(Debug, Parser)]
#[command(name = "belljar", version, disable_help_subcommand = true)]
pub struct CommandLine {
    #[command(flatten)]
    places: Places,
    #[command(subcommand)]
    command: Command,
}

/// Where things are; flags outrank the environment, which outranks the configuration file.
#[derive(Debug, Clone, Args)]
pub struct Places {
    /// Talk to the daemon at this socket (BELLJAR_SOCKET).
    #[arg(long, global = true, value_name = "PATH", help_heading = "Places")]
    socket: Option<PathBuf>,
    /// Catalog and contents of a daemon started for this command (BELLJAR_STATE_DIR).
    #[arg(long, global = true, value_name = "DIR", help_heading = "Places")]
    state_dir: Option<PathBuf>,
    /// Sockets and mounts of a daemon started for this command (BELLJAR_RUNTIME_DIR).
    #[arg(long, global = true, value_name = "DIR", help_heading = "Places")]
    runtime_dir: Option<PathBuf>,
    /// Configuration file (BELLJAR_CONFIG).
    #[arg(long, global = true, value_name = "FILE", help_heading = "Places")]
    config: Option<PathBuf>,
    /// Artifacts of this backend, not of the daemon's own place (BELLJAR_BACKEND; see `storage backends`).
    #[arg(long, global = true, value_name = "ID", help_heading = "Places")]
    backend: Option<BackendId>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a command in a workspace.
    Run(Box<run::RunArguments>),
    /// Make, list, show and remove workspaces.
    #[command(subcommand)]
    Workspace(workspace::WorkspaceCommand),
    /// Set, list and remove secrets of a workspace.
    #[command(subcommand)]
    Secret(secret::SecretCommand),
    /// Set, list and remove environment variables of a workspace.
    #[command(subcommand)]
    Env(env::EnvCommand),
    /// Find, read, register, change and remove artifacts.
    #[command(subcommand)]
    Artifact(artifact::ArtifactCommand),
    /// Ask about the remote store and what has still to be sent to it.
    #[command(subcommand)]
    Storage(storage::StorageCommand),
    /// Ask the daemon about itself.
    #[command(subcommand)]
    Daemon(daemon::DaemonCommand),
    /// Say what this machine can do and what to mend.
    Doctor(doctor::DoctorArguments),
    /// The trial of `doctor`.
    #[command(hide = true)]
    ProbeRun,
    /// Print completions for a shell.
    Completions(completions::CompletionsArguments),
}

/// Does what `arguments` say, the program's name first.
pub fn main(arguments: impl IntoIterator<Item = OsString>, start: StartPrivate) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let line = match CommandLine::try_parse_from(&arguments) {
        Ok(line) => line,
        Err(error) => {
            // Nothing can be done about a closed standard error.
            let _ = error.print();
            return ExitCode::from(match (error.use_stderr(), is_run(&arguments)) {
                (false, _) => exit::DONE,
                // 2 could be the command's own, so `run` has its own code for what is wrong around the command.
                (true, true) => exit::RUN_FAILED,
                (true, false) => exit::USAGE,
            });
        }
    };
    let context = Context::new(line.places, start);
    let running = matches!(line.command, Command::Run(_));
    let outcome = match line.command {
        Command::Run(arguments) => run::run(&context, *arguments),
        Command::Workspace(command) => workspace::run(&context, command),
        Command::Secret(command) => secret::run(&context, command),
        Command::Env(command) => env::run(&context, command),
        Command::Artifact(command) => artifact::run(&context, command),
        Command::Storage(command) => storage::run(&context, command),
        Command::Daemon(command) => daemon::run(&context, command),
        Command::Doctor(arguments) => doctor::run(&context, &arguments),
        Command::ProbeRun => doctor::trial::run(&context),
        Command::Completions(arguments) => {
            completions::run(&arguments, &mut CommandLine::command());
            Ok(exit::DONE)
        }
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            output::complain(&failure.text());
            ExitCode::from(if running { failure.exit_of_run() } else { failure.exit })
        }
    }
}

/// Whether the command is `run`: the first word that is no option and no option's value.
fn is_run(arguments: &[OsString]) -> bool {
    let mut words = arguments.iter().skip(1);
    while let Some(word) = words.next() {
        let word = word.to_string_lossy();
        if !word.starts_with('-') {
            return word == "run";
        }
        if ["--socket", "--state-dir", "--runtime-dir", "--config", "--backend"]
            .contains(&word.as_ref())
        {
            words.next();
        }
    }
    false
}

/// What a command answers: its exit code.
type Outcome = Result<u8, Failure>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn run_is_recognised_behind_options() {
        let is_run = |line: &str| is_run(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert!(is_run("belljar run --bogus"));
        assert!(is_run("belljar --socket run run --bogus"));
        assert!(is_run("belljar --socket=/x run"));
        assert!(!is_run("belljar artifact run"));
        assert!(!is_run("belljar --bogus"));
    }
}
