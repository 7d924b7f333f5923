//! Privileges, given up for good: all five capability sets empty, no way to gain one, and a proof read back from the kernel.

use super::layer::Proof;
use super::protocol::{SetupFailure, errno_text};
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

/// Gives up what the process holds.
pub fn drop_all() -> Result<(), SetupFailure> {
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Permitted] {
        // Clearing the permitted set clears the effective one in the same call.
        caps::clear(None, set).map_err(|error| {
            SetupFailure::setup(STEP, format_args!("empty the {set:?} set: {error}"))
        })?;
    }
    Ok(())
}

/// Forbids execve(2) to grant anything.
pub fn forbid_new_privileges() -> Result<(), SetupFailure> {
    nix::sys::prctl::set_no_new_privs()
        .map_err(|e| SetupFailure::because("no-new-privileges", "set no_new_privs", &e.into()))
}

/// Reads back what the kernel holds of this process. Whatever step was wrong, no command starts with a privilege.
pub fn prove() -> Result<Proof, String> {
    let status = status()?;
    for field in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let value = field_of(&status, field).unwrap_or("missing");
        if value != "0000000000000000" {
            return Err(format!("{field} is {value}, not empty"));
        }
    }
    // Needs CAP_SYS_CHROOT, and would do no harm.
    match nix::unistd::chroot("/") {
        Err(nix::errno::Errno::EPERM) => {}
        other => return Err(format!("chroot(2) was not EPERM but {other:?}")),
    }
    Ok(Proof::of("all five sets are 0 in /proc/self/status; chroot(2) was tried: EPERM"))
}

/// As [`prove`], of no_new_privs.
pub fn prove_no_new_privileges() -> Result<Proof, String> {
    let value = own_status("NoNewPrivs")?;
    if value != "1" {
        return Err(format!("NoNewPrivs is {value}, not 1"));
    }
    Ok(Proof::of("NoNewPrivs is 1 in /proc/self/status"))
}

/// A field of `/proc/self/status`.
pub fn own_status(field: &str) -> Result<String, String> {
    let status = status()?;
    field_of(&status, field)
        .map(str::to_owned)
        .ok_or_else(|| format!("/proc/self/status has no {field}: this kernel does not know it"))
}

fn status() -> Result<String, String> {
    std::fs::read_to_string("/proc/self/status")
        .map_err(|e| format!("read /proc/self/status: {}", errno_text(&e)))
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
