//! Resource limits of the command (getrlimit(2)).

use super::protocol::SetupFailure;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io;

const STEP: &str = "rlimits";

/// Open files, soft limit. What a login has by default: programs that use select(2) break above it, and one that needs more
/// raises it up to the hard limit, which stays. The daemon's own may be far higher.
const OPEN_FILES: u64 = 1024;

/// No core dump, which would be written by the host and hold secrets; the usual number of open files.
pub fn set() -> Result<(), SetupFailure> {
    limit("core", Resource::RLIMIT_CORE, 0, 0)?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)
        .map_err(|e| SetupFailure::because(STEP, "read the limit of open files", &e.into()))?;
    limit("open files", Resource::RLIMIT_NOFILE, OPEN_FILES.min(hard), hard)
}

fn limit(name: &str, resource: Resource, soft: u64, hard: u64) -> Result<(), SetupFailure> {
    setrlimit(resource, soft, hard)
        .map_err(|e| SetupFailure::because(STEP, format_args!("limit {name}"), &io::Error::from(e)))
}
