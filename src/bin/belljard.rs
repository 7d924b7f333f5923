//! The daemon. Its sandboxes' first processes are this program too, dispatched before any thread exists.

use anyhow::Context;
use belljar::cli;
use belljar::config::paths::{Paths, Surroundings};
use belljar::config::{Config, Overrides};
use belljar::daemon::{self, Until};
use belljar::sandbox::init;
use belljar::telemetry::{self, LogFormat};
use clap::{Args, Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The Belljar daemon.
#[derive(Debug, Parser)]
#[command(name = "belljard", version, disable_help_subcommand = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM.
    Serve(ServeArguments),
    /// Check a configuration file and say what is wrong with it.
    CheckConfig { file: PathBuf },
}

#[derive(Debug, Args)]
struct ServeArguments {
    /// Configuration file (BELLJAR_CONFIG).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Catalog, contents and journals (BELLJAR_STATE_DIR).
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Sockets and mounts (BELLJAR_RUNTIME_DIR).
    #[arg(long, value_name = "DIR")]
    runtime_dir: Option<PathBuf>,
    /// The API's socket (BELLJAR_SOCKET).
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// What to log: a level, or levels by module (BELLJAR_LOG).
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// One JSON object per line instead of text.
    #[arg(long)]
    log_json: bool,
    /// Stop when standard input ends, too: with the program that holds the other end of the pipe.
    #[arg(long)]
    until_stdin_ends: bool,
}

fn main() -> ExitCode {
    telemetry::abort_on_panic();
    if std::env::args_os().nth(1).is_some_and(|word| word == init::SUBCOMMAND) {
        return init::main(std::env::args_os().skip(2));
    }
    let outcome = match CommandLine::parse().command {
        Command::Serve(arguments) => serve(arguments),
        Command::CheckConfig { file } => check_config(&file),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = cli::exit::Failure::from(error).text();
            eprintln!("belljard: {text}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: ServeArguments) -> anyhow::Result<()> {
    let absolute =
        |path: Option<PathBuf>| path.map(|path| std::path::absolute(&path).unwrap_or(path));
    let overrides = Overrides {
        config: absolute(arguments.config),
        state_dir: absolute(arguments.state_dir),
        runtime_dir: absolute(arguments.runtime_dir),
        socket: absolute(arguments.socket),
        log_filter: arguments.log,
        log_format: arguments.log_json.then_some(LogFormat::Json),
    };
    let around = Surroundings::ours();
    let config = Config::load(&overrides, &around)?;
    let paths = Paths::resolve(&config, &around)?;
    telemetry::init(config.log.format, &config.log.filter, cli::output::colours())?;
    daemon::acquire_mount_privilege()?;
    let until = if arguments.until_stdin_ends { Until::StdinEnds } else { Until::Signal };
    daemon::run(&config, &paths, until).context("the daemon cannot run")
}

fn check_config(file: &Path) -> anyhow::Result<()> {
    daemon::check(&Config::read(file)?)?;
    println!("{} is fine", file.display());
    Ok(())
}
