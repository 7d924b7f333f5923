//! What a run may use at most: checked, held by a cgroup or by something weaker, and told for the receipt.
//!
//! A limit is in force when a cgroup of the run holds it and its setting was read back as it was written. What is weaker is
//! named, and used only where the caller accepted that the limit itself is missing.

use super::cgroup::{self, Group, Missing};
use super::plan::Identity;
use crate::config::units::format_size;
use crate::model::id::RunId;
use crate::wire::run::{Layer, Limits};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

/// Least memory of a run, in bytes. The first process and the root file system are in it too: together 1 to 2 MiB
/// (measured), and below this the kernel might end the run before its command.
pub const MEMORY_BYTES_MIN: u64 = 4 << 20;

/// Above this a number of bytes is a mistake: the kernel counts pages in a signed number of this many bits.
const MEMORY_BYTES_MAX: u64 = 1 << 62;

/// Least part of a processor: the kernel takes no quota below 1 ms (kernel/sched/core.c, `min_cfs_quota_period`), and a period
/// has 100 ms.
const CPUS_MIN: f64 = 0.01;

/// Most processors; chosen, above any machine.
const CPUS_MAX: f64 = 65_536.0;

/// Most processes and threads that the kernel has numbers for (`PID_MAX_LIMIT`), without one for the first process.
const PIDS_MAX: u32 = (4 << 20) - 1;

/// In which the share of processors is given out, in microseconds; the kernel's default.
pub const PERIOD_US: u64 = 100_000;

/// What can be limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    Memory,
    Cpus,
    Pids,
}

impl Limit {
    pub const ALL: [Limit; 3] = [Limit::Memory, Limit::Cpus, Limit::Pids];

    /// As in options and receipts.
    pub fn name(self) -> &'static str {
        match self {
            Limit::Memory => "memory",
            Limit::Cpus => "cpus",
            Limit::Pids => "pids",
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A limit that is none.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InvalidLimit {
    #[error(
        "memory: {0} bytes are too few for a run: its first process alone needs some, so that at least {min} must be given",
        min = format_size(MEMORY_BYTES_MIN)
    )]
    MemoryTooSmall(u64),
    #[error("memory: {0} bytes are more than a kernel can count; leave the limit out to have none")]
    MemoryTooLarge(u64),
    #[error(
        "cpus: {0} is not a share of processors that the kernel can give: write a number from {CPUS_MIN} to {CPUS_MAX}, such as 2 or 1.5"
    )]
    Cpus(f64),
    #[error(
        "pids: 0 would not even let the command start; give at least 1, or leave the limit out"
    )]
    NoPids,
    #[error(
        "pids: {0} are more than a kernel has numbers for ({PIDS_MAX}); leave the limit out to have none"
    )]
    TooManyPids(u32),
}

/// Limits that can be, and which of them may be missing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bounds {
    /// Whole pages.
    memory_bytes: Option<u64>,
    /// Of each [`PERIOD_US`].
    quota_us: Option<u64>,
    pids: Option<u32>,
    may_miss: BTreeSet<Limit>,
}

impl Bounds {
    pub fn check(limits: &Limits, may_miss: BTreeSet<Limit>) -> Result<Self, InvalidLimit> {
        let Limits { memory_bytes, cpus, pids } = *limits;
        match memory_bytes {
            Some(bytes) if bytes < MEMORY_BYTES_MIN => {
                return Err(InvalidLimit::MemoryTooSmall(bytes));
            }
            Some(bytes) if bytes > MEMORY_BYTES_MAX => {
                return Err(InvalidLimit::MemoryTooLarge(bytes));
            }
            Some(_) | None => {}
        }
        if let Some(cpus) = cpus
            && !(CPUS_MIN..=CPUS_MAX).contains(&cpus)
        {
            return Err(InvalidLimit::Cpus(cpus));
        }
        match pids {
            Some(0) => return Err(InvalidLimit::NoPids),
            Some(pids) if pids > PIDS_MAX => return Err(InvalidLimit::TooManyPids(pids)),
            Some(_) | None => {}
        }
        let page = page_bytes();
        Ok(Self {
            memory_bytes: memory_bytes.map(|bytes| bytes / page * page),
            // In range, so that the cast is exact but for the fraction.
            quota_us: cpus.map(|cpus| (cpus * PERIOD_US as f64).round() as u64),
            pids,
            may_miss,
        })
    }

    /// Whether there is a limit.
    pub fn any(&self) -> bool {
        Limit::ALL.into_iter().any(|limit| self.setting(limit).is_some())
    }

    /// The number for the kernel, where this limit was asked for.
    pub fn setting(&self, limit: Limit) -> Option<u64> {
        match limit {
            Limit::Memory => self.memory_bytes,
            Limit::Cpus => self.quota_us,
            // The first process is counted too.
            Limit::Pids => self.pids.map(|pids| u64::from(pids) + 1),
        }
    }

    /// As a person reads it.
    fn text(&self, limit: Limit) -> String {
        match limit {
            Limit::Memory => format_size(self.memory_bytes.unwrap_or_default()),
            Limit::Cpus => {
                (self.quota_us.unwrap_or_default() as f64 / PERIOD_US as f64).to_string()
            }
            Limit::Pids => self.pids.unwrap_or_default().to_string(),
        }
    }
}

fn page_bytes() -> u64 {
    let found = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    // POSIX has every system know it; no machine has smaller pages.
    found.ok().flatten().and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(4096)
}

/// What the command gets by setrlimit(2) in the place of a limit that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Weaker {
    /// Address space of each process, in bytes.
    pub address_space_bytes: Option<u64>,
    /// Processes and threads of the user.
    pub processes: Option<u64>,
}

/// The limits of one run, about to be.
#[derive(Debug, Default)]
pub struct Enforced {
    /// Holds what is in force; missing when nothing is.
    pub group: Option<Group>,
    pub weaker: Weaker,
    /// One for each limit that was asked for.
    pub layers: Vec<Layer>,
}

/// A limit that cannot be in force and was not accepted to be missing.
#[derive(Debug, thiserror::Error)]
#[error(
    "{limit}: the limit of {asked} cannot be enforced here: {reason}. To mend it, {fix}. Or leave the limit out, or accept that with --allow-unenforced {limit}"
)]
pub struct NotEnforced {
    limit: Limit,
    asked: String,
    reason: String,
    fix: String,
}

/// Makes the cgroup of a run. `record` is where its place is noted, for whoever cleans up after this process.
pub fn enforce(
    bounds: &Bounds,
    run: RunId,
    user: &Identity,
    user_namespace: bool,
    record: &Path,
) -> Result<Enforced, NotEnforced> {
    let asked: Vec<(Limit, u64)> =
        Limit::ALL.into_iter().filter_map(|limit| Some((limit, bounds.setting(limit)?))).collect();
    if asked.is_empty() {
        return Ok(Enforced::default());
    }
    let (group, missing) = cgroup::make(run, &asked, record);
    let mut enforced = Enforced { group, ..Enforced::default() };
    for (limit, setting) in asked {
        let text = bounds.text(limit);
        let detail = match missing.iter().find(|missing| missing.limit == limit) {
            None => {
                let by = enforced.group.as_ref().map(|group| group.holder(limit));
                format!("{text}, held by {}", by.unwrap_or_default())
            }
            Some(Missing { reason, fix, .. }) if !bounds.may_miss.contains(&limit) => {
                // Dropping the group removes it.
                return Err(NotEnforced {
                    limit,
                    asked: text,
                    reason: reason.clone(),
                    fix: fix.clone(),
                });
            }
            Some(Missing { reason, .. }) => {
                let instead = weaker(limit, setting, user, user_namespace, &mut enforced.weaker);
                format!("{text} is not held, and the caller accepted that: {reason}; {instead}")
            }
        };
        let in_force = missing.iter().all(|missing| missing.limit != limit);
        enforced.layers.push(Layer {
            name: limit.name().to_owned(),
            requested: true,
            in_force,
            abi: None,
            proof: in_force
                .then(|| "the setting was read back from the cgroup as it was written".to_owned()),
            detail,
        });
    }
    Ok(enforced)
}

/// Whether each limit could be held here, by making a cgroup with generous ones and taking it away again. What holds it, or why not.
pub fn probe() -> Vec<(Limit, Result<String, Missing>)> {
    let asked = [(Limit::Memory, 1 << 30), (Limit::Cpus, PERIOD_US), (Limit::Pids, 1024)];
    let run = RunId::generate();
    let record = std::env::temp_dir().join(format!("belljar-{run}"));
    let (group, missing) = cgroup::make(run, &asked, &record);
    let tell = |limit: Limit| match missing.iter().find(|missing| missing.limit == limit) {
        Some(missing) => Err(missing.clone()),
        None => Ok(group.as_ref().map(|group| group.holder(limit)).unwrap_or_default()),
    };
    Limit::ALL.into_iter().map(|limit| (limit, tell(limit))).collect()
}

/// Sets what comes nearest, and says what it is worth.
fn weaker(
    limit: Limit,
    setting: u64,
    user: &Identity,
    user_namespace: bool,
    to: &mut Weaker,
) -> String {
    match limit {
        Limit::Memory => {
            to.address_space_bytes = Some(setting);
            "instead each process may map that much (RLIMIT_AS), and all together any amount"
                .to_owned()
        }
        Limit::Cpus => "nothing holds it".to_owned(),
        // The kernel never counts for uid 0 of the first user namespace (kernel/fork.c, copy_process: INIT_USER).
        Limit::Pids if user.uid == 0 && !user_namespace => {
            "nothing holds it, since the kernel does not count the processes of uid 0".to_owned()
        }
        Limit::Pids => {
            // In a user namespace of the run's own, its outer process is counted as well.
            to.processes = Some(setting + u64::from(user_namespace));
            let whose = if user_namespace { "in this sandbox" } else { "on this machine" };
            format!(
                "instead all processes and threads of uid {} {whose} are counted (RLIMIT_NPROC)",
                user.uid
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        memory_bytes: Option<u64>,
        cpus: Option<f64>,
        pids: Option<u32>,
    ) -> Result<Bounds, String> {
        let limits = Limits { memory_bytes, cpus, pids };
        Bounds::check(&limits, BTreeSet::new()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_limit_that_makes_no_sense_is_refused_with_what_does() {
        for bytes in [0, 1, MEMORY_BYTES_MIN - 1] {
            let error = check(Some(bytes), None, None).expect_err("too small");
            assert!(error.starts_with("memory:") && error.contains("4MiB"), "{error}");
        }
        assert!(check(Some(u64::MAX), None, None).expect_err("too large").contains("count"));
        for cpus in [0.0, -1.0, 0.001, f64::NAN, f64::INFINITY, 1e300] {
            let error = check(None, Some(cpus), None).expect_err("no share");
            assert!(error.starts_with("cpus:") && error.contains("0.01"), "{error}");
        }
        assert!(check(None, None, Some(0)).expect_err("none").starts_with("pids: 0"));
        assert!(check(None, None, Some(u32::MAX)).expect_err("many").starts_with("pids:"));
    }

    #[test]
    fn settings_are_what_the_kernel_can_give_back_as_written() {
        let bounds = check(Some(MEMORY_BYTES_MIN + 1), Some(1.5), Some(8)).expect("legal");
        assert_eq!(bounds.setting(Limit::Memory), Some(MEMORY_BYTES_MIN));
        assert_eq!(bounds.setting(Limit::Cpus), Some(150_000));
        assert_eq!(bounds.setting(Limit::Pids), Some(9), "the first process is one of them");
        assert_eq!(bounds.text(Limit::Cpus), "1.5");
        let none = check(None, None, None).expect("legal");
        assert!(Limit::ALL.into_iter().all(|limit| none.setting(limit).is_none()));
    }

    #[test]
    fn what_is_weaker_says_so() {
        let root = Identity::unnamed(0, 0);
        let user = Identity::unnamed(1000, 1000);
        let mut to = Weaker::default();
        assert!(weaker(Limit::Memory, 1 << 30, &user, false, &mut to).contains("RLIMIT_AS"));
        assert!(weaker(Limit::Cpus, 1, &user, false, &mut to).contains("nothing"));
        assert!(weaker(Limit::Pids, 9, &root, false, &mut to).contains("nothing"));
        assert_eq!(to, Weaker { address_space_bytes: Some(1 << 30), processes: None });
        assert!(weaker(Limit::Pids, 9, &root, true, &mut to).contains("in this sandbox"));
        assert_eq!(to.processes, Some(10));
        assert!(weaker(Limit::Pids, 9, &user, false, &mut to).contains("on this machine"));
        assert_eq!(to.processes, Some(9));
    }
}
