//! The command line. The children of a private daemon are this program too, so they are dispatched first.

use belljar::cli::connect::PrivateDaemon;
use belljar::cli::doctor::PROBE_NAMESPACE;
use belljar::config::Config;
use belljar::config::paths::Paths;
use belljar::daemon::{Embedded, acquire_mount_privilege};
use belljar::sandbox::init;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    belljar::telemetry::abort_on_panic();
    match std::env::args_os().nth(1) {
        Some(word) if word == init::SUBCOMMAND => {
            return init::main(std::env::args_os().skip(2));
        }
        Some(word) if word == PROBE_NAMESPACE => return probe_namespace(),
        Some(_) | None => {}
    }
    belljar::cli::main(std::env::args_os(), start_private)
}

struct Private(Embedded);

impl PrivateDaemon for Private {
    fn socket(&self) -> &Path {
        self.0.socket()
    }

    fn stop(self: Box<Self>) {
        self.0.stop();
    }
}

fn start_private(config: &Config, paths: &Paths) -> anyhow::Result<Box<dyn PrivateDaemon>> {
    acquire_mount_privilege()?;
    Ok(Box::new(Private(Embedded::start(config, paths)?)))
}

fn probe_namespace() -> ExitCode {
    match belljar::sys::process::enter_user_namespace() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
