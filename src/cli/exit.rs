//! Exit codes, and the failures that lead to them.

use crate::client::ClientError;
use crate::wire::problem::{COMMAND_NOT_EXECUTABLE, COMMAND_NOT_FOUND};

pub const DONE: u8 = 0;
pub const FAILED: u8 = 1;
pub const USAGE: u8 = 2;
pub const UNREACHABLE: u8 = 3;
pub const NO_SUCH_OBJECT: u8 = 4;
/// `belljar run` alone: Belljar failed before or around the command.
pub const RUN_FAILED: u8 = 125;
pub const NOT_EXECUTABLE: u8 = 126;
pub const NOT_FOUND: u8 = 127;

/// A sentence for people and a code for programs.
#[derive(Debug)]
pub struct Failure {
    pub exit: u8,
    /// The code that `run` leaves with instead; the codes above 2 of both sets mean the same.
    run_exit: u8,
    error: anyhow::Error,
}

impl Failure {
    /// The arguments are wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit: USAGE, run_exit: RUN_FAILED, error: anyhow::Error::msg(message.into()) }
    }

    /// There is no daemon, and one is needed.
    pub fn unreachable(message: impl Into<String>) -> Self {
        Self { exit: UNREACHABLE, run_exit: UNREACHABLE, error: anyhow::Error::msg(message.into()) }
    }

    /// A signal ended the command line itself before there was a command to forward it to.
    pub fn interrupted(signal: i32) -> Self {
        let exit = 128u8.saturating_add(u8::try_from(signal).unwrap_or(0));
        let error = anyhow::anyhow!("interrupted by signal {signal} before the command started");
        Self { exit, run_exit: exit, error }
    }

    pub fn exit_of_run(&self) -> u8 {
        self.run_exit
    }

    /// The error and its causes in one sentence.
    pub fn text(&self) -> String {
        let mut text = self.error.to_string();
        for cause in self.error.chain().skip(1) {
            let cause = cause.to_string();
            // A transparent error and its source read the same.
            if !text.ends_with(&cause) {
                text.push_str(": ");
                text.push_str(&cause);
            }
        }
        text
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { exit: FAILED, run_exit: RUN_FAILED, error }
    }
}

impl Failure {
    /// The daemon could be reached when the run was started, so that whatever happens after is a failure around the command.
    pub fn of_a_started_run(error: ClientError) -> Self {
        let unreachable = error.is_unreachable();
        let failure = Self::from(error);
        if !unreachable {
            return failure;
        }
        let what = "the daemon went away while the command ran; the command was ended, and files that it closed are registered when a daemon starts again";
        Self { exit: FAILED, run_exit: RUN_FAILED, error: failure.error.context(what) }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        if error.is_unreachable() {
            return Self { exit: UNREACHABLE, run_exit: UNREACHABLE, error: error.into() };
        }
        let (exit, run_exit) = match &error {
            ClientError::Problem(problem) => (
                match problem.status {
                    404 => NO_SUCH_OBJECT,
                    400 => USAGE,
                    _ => FAILED,
                },
                match problem.code.as_str() {
                    COMMAND_NOT_FOUND => NOT_FOUND,
                    COMMAND_NOT_EXECUTABLE => NOT_EXECUTABLE,
                    _ => RUN_FAILED,
                },
            ),
            _ => (FAILED, RUN_FAILED),
        };
        Self { exit, run_exit, error: error.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::problem::Problem;

    fn codes(status: u16, code: &str) -> (u8, u8) {
        let problem = Problem {
            code: code.to_owned(),
            status,
            title: String::new(),
            detail: "why".to_owned(),
        };
        let failure = Failure::from(ClientError::Problem(problem));
        (failure.exit, failure.exit_of_run())
    }

    #[test]
    fn each_problem_has_its_documented_code() {
        assert_eq!(codes(404, "workspace-not-found"), (4, 125));
        assert_eq!(codes(400, "invalid-request"), (2, 125));
        assert_eq!(codes(409, "conflict"), (1, 125));
        assert_eq!(codes(422, "setup-failed"), (1, 125));
        assert_eq!(codes(422, "command-not-executable"), (1, 126));
        assert_eq!(codes(422, "command-not-found"), (1, 127));
        assert_eq!(Failure::unreachable("").exit_of_run(), 3);
        assert_eq!(Failure::interrupted(2).exit_of_run(), 130);
    }
}
