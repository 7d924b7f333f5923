//! Privileges, given up for good: all five capability sets empty, no way to gain one, and a proof read back from the kernel.

use super::protocol::SetupFailure;
use crate::sys::process;
use caps::CapSet;

const STEP: &str = "capabilities";

/// The part that takes a capability itself (CAP_SETPCAP), and so comes before the change of user, which would take it away.
pub fn forbid_regaining() -> Result<(), SetupFailure> {
    process::lock_secure_bits()
        .map_err(|e| SetupFailure::because(STEP, "lock the secure bits", &e))?;
    process::drop_bounding_set()
        .map_err(|e| SetupFailure::because(STEP, "empty the bounding set", &e))
}

/// Gives up what the process holds, and forbids execve(2) to grant anything (no_new_privs).
pub fn drop_all() -> Result<(), SetupFailure> {
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Permitted] {
        // Clearing the permitted set clears the effective one in the same call.
        caps::clear(None, set).map_err(|error| {
            SetupFailure::setup(STEP, format_args!("empty the {set:?} set: {error}"))
        })?;
    }
    nix::sys::prctl::set_no_new_privs()
        .map_err(|e| SetupFailure::because(STEP, "set no_new_privs", &e.into()))
}

/// Reads back what the kernel holds of this process. Whatever step was wrong, no command starts with a privilege.
pub fn verify() -> Result<(), SetupFailure> {
    let status = std::fs::read_to_string("/proc/self/status")
        .map_err(|e| SetupFailure::because(STEP, "read /proc/self/status", &e))?;
    for field in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let value = field_of(&status, field);
        if value != Some("0000000000000000") {
            let value = value.unwrap_or("missing");
            return Err(SetupFailure::setup(STEP, format_args!("{field} is {value}, not empty")));
        }
    }
    if field_of(&status, "NoNewPrivs") != Some("1") {
        return Err(SetupFailure::setup(STEP, "no_new_privs is not in force"));
    }
    Ok(())
}

fn field_of<'a>(status: &'a str, field: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let status = "Name:\tx\nCapInh:\t0000000000000000\nCapInhX:\t1\n";
        assert_eq!(field_of(status, "CapInh"), Some("0000000000000000"));
        assert_eq!(field_of(status, "CapPrm"), None);
    }
}
