//! Structured logs on standard error.
//!
//! What is logged: what the daemon did, to which workspace, run or artifact, and each failure once, where it is handled.
//! What is never logged: bodies of requests, values of secrets, command lines. Names of files are chosen by sandboxed
//! programs; whoever logs one escapes it first (`model::path::escape`).

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line for people.
    #[default]
    Text,
    /// One JSON object for programs.
    Json,
}

/// Logs cannot be set up as asked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error(
        "log filter {given:?} is not understood ({reason}): use a level such as `info`, or `info,belljar::api=debug`"
    )]
    Filter { given: String, reason: String },
    #[error("logs were set up twice")]
    Twice,
}

/// Checks a filter without using it.
pub fn check_filter(filter: &str) -> Result<(), LogError> {
    parse(filter).map(|_| ())
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|error| LogError::Filter { given: filter.to_owned(), reason: error.to_string() })
}

/// Sends every log line of this process to standard error; once in the life of the process.
pub fn init(format: LogFormat, filter: &str, colours: bool) -> Result<(), LogError> {
    let registry = tracing_subscriber::registry().with(parse(filter)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
    match format {
        LogFormat::Text => registry.with(lines).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    }
    .map_err(|_| LogError::Twice)
}

/// Lets a panic end the process, in builds that would unwind: elsewhere locks are taken as if none could be poisoned, and a
/// daemon whose thread has died would serve on without it.
pub fn abort_on_panic() {
    if cfg!(panic = "abort") {
        return;
    }
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::abort();
    }));
}

/// The error and its causes in one sentence, for a log or a person.
pub fn sentence(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // A transparent variant and its source read the same, and some name their cause themselves.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_filter_is_named() {
        let error = check_filter("belljar=loud").expect_err("no such level").to_string();
        assert!(error.contains("belljar=loud") && error.contains("info"), "{error}");
        assert!(check_filter("info,belljar::api=debug").is_ok());
    }
}
