//! How a run ended, as an exit code, a reason and a sentence; what it used, as the receipt has it.
//!
//! Pure: the kernel's words, the verdict of whoever ended the run, and what its cgroup counted come in.

use super::CommandDefinition;
use crate::config::units::format_size;
use crate::sandbox::cgroup::Measured;
use crate::sandbox::limits::Limit;
use crate::sandbox::protocol::Exit;
use crate::sandbox::spawn::Ended;
use crate::wire::run::{Meter, Reason, Usage};
use std::time::Duration;

/// Exit code of a timeout and of a failure of Belljar itself, as timeout(1) has them.
pub const EXIT_TIMEOUT: u8 = 124;
pub const EXIT_FAILED: u8 = 125;

/// As a shell says that SIGKILL ended something, which is what the kernel sends.
pub const EXIT_OUT_OF_MEMORY: u8 = 137;

/// Why a run was ended by us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Timeout,
    Cancelled,
    /// The kernel ended one of its processes for want of memory.
    OutOfMemory,
}

/// The first of: what we ended it for, what the kernel ended it for, what the command said.
pub fn outcome(
    ended: Ended,
    verdict: Option<Verdict>,
    measured: &Measured,
    run: &CommandDefinition,
) -> (u8, Reason, String) {
    let command = run.argv.first().map(|c| c.to_string_lossy()).unwrap_or_default();
    let out_of_memory = measured.kills > 0;
    match (verdict, ended.how) {
        (Some(Verdict::Timeout), _) => {
            let timeout = run.timeout.unwrap_or_default();
            let message = format!("{command} was ended after its timeout of {timeout:?}");
            (EXIT_TIMEOUT, Reason::Timeout, message)
        }
        (Some(Verdict::Cancelled), Exit::Vanished) => {
            let message =
                format!("{command} was ended because its client went away or the daemon stopped");
            (EXIT_FAILED, Reason::Cancelled, message)
        }
        (verdict, _) if out_of_memory || verdict == Some(Verdict::OutOfMemory) => {
            let limit = run.limits.setting(Limit::Memory).filter(|_| measured.limit_was_met);
            let message = match limit {
                Some(bytes) => format!(
                    "{command} was ended because the run met its memory limit of {}; give it more with --memory",
                    format_size(bytes)
                ),
                None => format!(
                    "{command} was ended because the machine had no memory left, with the run's own limit not met"
                ),
            };
            (EXIT_OUT_OF_MEMORY, Reason::OutOfMemory, message)
        }
        (_, Exit::Exited(code)) => {
            (code, Reason::Exited, format!("{command} exited with code {code}"))
        }
        (_, Exit::Signaled(signal)) => {
            let name = nix::sys::signal::Signal::try_from(signal)
                .map_or_else(|_| format!("signal {signal}"), |name| name.to_string());
            let code = 128u8.saturating_add(u8::try_from(signal).unwrap_or(u8::MAX));
            (code, Reason::Signal, format!("{command} was ended by {name}"))
        }
        (None | Some(Verdict::OutOfMemory), Exit::Vanished) => (
            EXIT_FAILED,
            Reason::Lost,
            format!(
                "the sandbox of {command} was killed from outside; how the command ended is not known"
            ),
        ),
    }
}

/// The cgroup's numbers where it has some, else those of getrusage(2).
pub fn usage(wall: Duration, ended: Ended, measured: &Measured) -> Usage {
    let meter = |number: Option<u64>| match number {
        Some(_) => Meter::Cgroup,
        None => Meter::Rusage,
    };
    Usage {
        wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
        cpu_ms: measured.cpu_us.unwrap_or(ended.usage.cpu_us) / 1000,
        cpu_measured_by: meter(measured.cpu_us),
        peak_memory_bytes: measured.peak_memory_bytes.unwrap_or(ended.usage.peak_memory_bytes),
        peak_memory_measured_by: meter(measured.peak_memory_bytes),
        peak_pids: measured.peak_pids,
        refused_forks: measured.refused_forks,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::limits::Bounds;
    use crate::sandbox::protocol;
    use crate::wire::run::{Limits, Network};

    fn run() -> CommandDefinition {
        let limits = Limits { memory_bytes: Some(64 << 20), ..Limits::default() };
        CommandDefinition {
            argv: vec!["job".into()],
            workdir: None,
            secret_env: Vec::new(),
            env: Default::default(),
            graph_id: None,
            node_id: None,
            timeout: Some(Duration::from_secs(3)),
            network: Network::None,
            user: None,
            wait_children: false,
            drain_timeout: Duration::ZERO,
            terminal: false,
            term: None,
            allow_unenforced: Vec::new(),
            wait_upload: false,
            limits: Bounds::check(&limits, Default::default()).expect("legal"),
        }
    }

    fn ended(how: Exit) -> Ended {
        let usage = protocol::Usage { cpu_us: 7_000, peak_memory_bytes: 4096 };
        Ended { how, usage }
    }

    #[test]
    fn each_end_has_its_code_and_reason() {
        let none = Measured::default();
        let killed = Measured { kills: 1, limit_was_met: true, ..none };
        let elsewhere = Measured { kills: 1, ..none };
        let memory = Some(Verdict::OutOfMemory);
        for (how, verdict, measured, code, reason, word) in [
            (Exit::Exited(3), None, none, 3, Reason::Exited, "code 3"),
            (Exit::Signaled(15), None, none, 143, Reason::Signal, "SIGTERM"),
            (Exit::Signaled(9), None, none, 137, Reason::Signal, "SIGKILL"),
            (Exit::Signaled(9), None, killed, 137, Reason::OutOfMemory, "limit of 64MiB"),
            // A shell that went on after its child was killed.
            (Exit::Exited(0), None, killed, 137, Reason::OutOfMemory, "64MiB"),
            (Exit::Vanished, memory, killed, 137, Reason::OutOfMemory, "64MiB"),
            (Exit::Vanished, None, killed, 137, Reason::OutOfMemory, "64MiB"),
            (Exit::Signaled(9), None, elsewhere, 137, Reason::OutOfMemory, "machine"),
            (Exit::Vanished, Some(Verdict::Timeout), killed, 124, Reason::Timeout, "3s"),
            (Exit::Exited(0), Some(Verdict::Timeout), none, 124, Reason::Timeout, "3s"),
            (Exit::Vanished, Some(Verdict::Cancelled), none, 125, Reason::Cancelled, "client"),
            (Exit::Vanished, None, none, 125, Reason::Lost, "outside"),
        ] {
            let (found, why, message) = outcome(ended(how), verdict, &measured, &run());
            assert_eq!((found, why), (code, reason), "{how:?} {verdict:?} {measured:?}");
            assert!(message.starts_with("job ") || why == Reason::Lost, "{message}");
            assert!(message.contains(word), "{message}");
        }
    }

    #[test]
    fn usage_says_what_it_is_from() {
        let wall = Duration::from_millis(20);
        let used = usage(wall, ended(Exit::Exited(0)), &Measured::default());
        assert_eq!((used.wall_ms, used.cpu_ms, used.peak_memory_bytes), (20, 7, 4096));
        assert_eq!(used.peak_memory_measured_by, Meter::Rusage);
        let measured = Measured { peak_memory_bytes: Some(9), ..Measured::default() };
        let used = usage(wall, ended(Exit::Exited(0)), &measured);
        assert_eq!((used.peak_memory_bytes, used.cpu_ms), (9, 7));
        assert_eq!(used.peak_memory_measured_by, Meter::Cgroup);
        assert_eq!(used.cpu_measured_by, Meter::Rusage);
    }
}
