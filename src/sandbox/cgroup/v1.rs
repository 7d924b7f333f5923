//! One limit in a hierarchy of version 1, and what is measured there.
//!
//! The files are described in the kernel's `Documentation/admin-guide/cgroup-v1`, quotas in `scheduler/sched-bwc.rst`.

use super::files::{read_key, read_number, set};
use super::{Measured, has_swap};
use crate::sandbox::limits::{Limit, PERIOD_US};
use std::path::Path;

/// The file through which a process joins by itself: the thread that writes 0. It needs no lock that waits for all processors
/// (kernel/cgroup/cgroup.c, cgroup_procs_write_start), and the first process has one thread.
pub const JOIN: &str = "tasks";

/// The largest piece in which memory is charged: a peak that is closer to the limit has met it.
const HUGE_PAGE_BYTES: u64 = 2 << 20;

/// Writes a setting and reads it back; an error says what could not be done.
pub fn hold(directory: &Path, limit: Limit, setting: u64) -> Result<(), String> {
    let number = setting.to_string();
    match limit {
        Limit::Memory => {
            set(directory, "memory.limit_in_bytes", &number)?;
            // Memory and swap together: the same number means no swap. Not before the other one, which it may not be below.
            const SWAP: &str = "memory.memsw.limit_in_bytes";
            if directory.join(SWAP).exists() {
                set(directory, SWAP, &number)
            } else if has_swap() {
                Err("this kernel does not count swap for cgroups, and there is some".to_owned())
            } else {
                Ok(())
            }
        }
        Limit::Cpus => {
            set(directory, "cpu.cfs_period_us", &PERIOD_US.to_string())?;
            set(directory, "cpu.cfs_quota_us", &number)
        }
        Limit::Pids => set(directory, "pids.max", &number),
    }
}

/// What the run used, as far as the controller of this limit measures it.
pub fn measure(directory: &Path, limit: Limit, to: &mut Measured) {
    match limit {
        Limit::Memory => {
            to.peak_memory_bytes = read_number(directory, "memory.max_usage_in_bytes");
            to.kills = read_key(directory, "memory.oom_control", "oom_kill").unwrap_or(0);
            // The counters of failures stay at nought on some kernels (seen on Linux 6.18).
            let limit = read_number(directory, "memory.limit_in_bytes");
            to.limit_was_met = to
                .peak_memory_bytes
                .zip(limit)
                .is_some_and(|(peak, limit)| peak + HUGE_PAGE_BYTES >= limit);
        }
        // In a hierarchy of its own (cpuacct), or not at all.
        Limit::Cpus => {}
        Limit::Pids => {
            to.peak_pids = read_number(directory, "pids.peak");
            to.refused_forks = read_key(directory, "pids.events", "max").unwrap_or(0);
        }
    }
}
