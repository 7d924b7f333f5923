//! Resource limits of the command (getrlimit(2)).

use super::layer::Proof;
use super::limits::Weaker;
use super::protocol::SetupFailure;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io;

const STEP: &str = "rlimits";

/// Open files, soft limit. What a login has by default: programs that use select(2) break above it, and one that needs more
/// raises it up to the hard limit, which stays. The daemon's own may be far higher.
const OPEN_FILES: u64 = 1024;

/// No core dump, which the host would write and which would hold secrets: of the command, nor of a process with its plan.
pub fn forbid_core_dumps() -> Result<(), SetupFailure> {
    limit("core", Resource::RLIMIT_CORE, 0, 0)
}

/// Reads the limit, and tries to raise it.
pub fn prove_no_core_dumps() -> Result<Proof, String> {
    match getrlimit(Resource::RLIMIT_CORE) {
        Ok((0, 0)) => {}
        other => return Err(format!("RLIMIT_CORE is not 0 but {other:?}")),
    }
    match setrlimit(Resource::RLIMIT_CORE, 1, 1) {
        Err(nix::errno::Errno::EPERM) => {
            Ok(Proof::of("RLIMIT_CORE is 0; raising it was tried: EPERM"))
        }
        other => Err(format!("raising RLIMIT_CORE was not EPERM but {other:?}")),
    }
}

/// What the command gets.
pub fn set() -> Result<(), SetupFailure> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)
        .map_err(|e| SetupFailure::because(STEP, "read the limit of open files", &e.into()))?;
    limit("open files", Resource::RLIMIT_NOFILE, OPEN_FILES.min(hard), hard)
}

/// What the command gets in the place of limits that are missing. In its own process, since the first one may have more in use already.
pub fn set_weaker(weaker: &Weaker) -> Result<(), SetupFailure> {
    if let Some(bytes) = weaker.address_space_bytes {
        limit("address space", Resource::RLIMIT_AS, bytes, bytes)?;
    }
    if let Some(processes) = weaker.processes {
        limit("processes", Resource::RLIMIT_NPROC, processes, processes)?;
    }
    Ok(())
}

fn limit(name: &str, resource: Resource, soft: u64, hard: u64) -> Result<(), SetupFailure> {
    setrlimit(resource, soft, hard)
        .map_err(|e| SetupFailure::because(STEP, format_args!("limit {name}"), &io::Error::from(e)))
}
