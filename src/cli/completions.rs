//! `belljar completions`.

use super::output;
use clap::{Args, Command};
use clap_complete::Shell;

#[derive(Debug, Args)]
pub struct CompletionsArguments {
    /// The shell to complete in.
    shell: Shell,
}

pub fn run(arguments: &CompletionsArguments, command: &mut Command) {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, command, "belljar", &mut script);
    output::print(&String::from_utf8_lossy(&script));
}
