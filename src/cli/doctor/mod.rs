//! `belljar doctor`: what this machine can do, what it cannot, and the fix.
//!
//! Each check tries the thing itself where that is possible without leaving a trace, and reads settings only to name the
//! fix. `machine` asks the kernel, `places` looks at directories and the daemon, [`trial`] mounts and runs for real.

mod machine;
mod places;
pub mod trial;

use super::connect::Context;
use super::exit::{DONE, FAILED};
use super::{Outcome, output};
use clap::Args;
use serde::Serialize;

/// Hidden argument of the binaries: try to make a user namespace, and say by the exit code whether it went well. A
/// process of its own, because a namespace cannot be left again.
pub const PROBE_NAMESPACE: &str = "probe-user-namespace";

#[derive(Debug, Args)]
pub struct DoctorArguments {
    /// One JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// It works, with less.
    Warning,
    /// `belljar run` cannot work.
    Failure,
}

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    detail: String,
    /// What to do; missing when there is nothing to mend.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    checks: Vec<Check>,
    /// Of the trial; missing when it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    times: Option<trial::Times>,
}

impl Check {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, detail: detail.into(), fix: None }
    }

    fn warning(name: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warning, detail: detail.into(), fix: Some(fix.into()) }
    }

    fn failure(name: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Failure, detail: detail.into(), fix: Some(fix.into()) }
    }
}

pub fn run(context: &Context, arguments: &DoctorArguments) -> Outcome {
    let (mut trial, tried) = trial::check();
    let mut checks = vec![
        machine::fuse_device(),
        machine::namespaces(),
        machine::passthrough(tried.as_ref().map(|tried| tried.passthrough)),
        machine::landlock(),
        machine::seccomp(),
        machine::descriptors(),
    ];
    checks.extend(machine::limits());
    match context.settings() {
        Ok((_, paths)) => {
            checks.push(Check::ok("configuration", "read and checked"));
            checks.extend(places::checks(context, &paths));
        }
        Err(failure) => checks.push(Check::failure(
            "configuration",
            failure.text(),
            "correct the file; `belljard check-config FILE` checks it alone",
        )),
    }
    // A cause that was found is the better advice.
    if trial.verdict == Verdict::Failure
        && let Some(cause) = checks.iter().find(|check| check.verdict == Verdict::Failure)
    {
        trial.fix = Some(format!("mend {} first", cause.name));
    }
    checks.push(trial);
    let ok = checks.iter().all(|check| check.verdict != Verdict::Failure);
    if arguments.json {
        output::print_json(&Report { ok, checks, times: tried.map(|tried| tried.times) });
    } else {
        for check in &checks {
            let sign = match check.verdict {
                Verdict::Ok => "ok  ",
                Verdict::Warning => "warn",
                Verdict::Failure => "FAIL",
            };
            output::print(&output::plain(&format!("{sign}  {}: {}\n", check.name, check.detail)));
            if let Some(fix) = &check.fix {
                output::print(&output::plain(&format!("      {fix}\n")));
            }
        }
    }
    Ok(if ok { DONE } else { FAILED })
}
