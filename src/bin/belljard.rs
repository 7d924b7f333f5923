//! The daemon.

use belljar::sandbox::init;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == init::SUBCOMMAND) {
        return init::main(arguments);
    }
    eprintln!("belljard: nothing else is built yet");
    ExitCode::from(2)
}
