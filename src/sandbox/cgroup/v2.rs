//! Limits in the unified hierarchy, and in which of its directories runs may have cgroups.
//!
//! A cgroup gives controllers to those below it only while no process is in it itself, the real root excepted
//! (`Documentation/admin-guide/cgroup-v2.rst`, No Internal Process Constraint). So in a cgroup that was delegated to
//! us, as by systemd's `Delegate=`, its processes move to a leaf first; everybody else's cgroups are left as they are.

use super::files::{members, read_key, read_number, set};
use super::host::{Controller, Unified};
use super::{Measured, has_swap};
use crate::sandbox::limits::{Limit, PERIOD_US};
use crate::sandbox::protocol::errno_text;
use crate::sys::file::getxattr;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The file through which a process joins: who writes 0 means itself.
pub const JOIN: &str = "cgroup.procs";

/// Where the processes of a delegated cgroup go.
const LEAF: &str = "belljar.daemon";

/// How often the processes of a delegated cgroup are moved away before that is given up: they can fork meanwhile. Chosen.
const MOVES_MAX: usize = 16;

/// One thread at a time makes room. Held while files of cgroups are read and written, which waits for nobody.
static MAKING_ROOM: Mutex<()> = Mutex::new(());

/// A directory of the hierarchy that gives these controllers to the cgroups below it; an error has the reason and the fix.
pub fn base(unified: &Unified, controllers: &[Controller]) -> Result<PathBuf, (String, String)> {
    let _alone = MAKING_ROOM.lock().unwrap_or_else(PoisonError::into_inner);
    let delegated = delegated(&unified.own);
    let root = nix::unistd::geteuid().is_root();
    match (&delegated, root) {
        (Some(own), _) => make_room(own, controllers)
            .map(|()| own.clone())
            .map_err(|reason| (reason, DELEGATE.to_owned())),
        (None, true) => enable(&unified.top, controllers)
            .map(|()| unified.top.clone())
            .map_err(|reason| (reason, top_fix(&unified.top))),
        (None, false) => Err((
            format!("the cgroup {} is not delegated to this user", unified.own.display()),
            "start it as `systemd-run --user --scope -p Delegate=yes belljar …`, or run belljard as root"
                .to_owned(),
        )),
    }
}

const DELEGATE: &str =
    "give the service `Delegate=yes` and nothing else in its cgroup, or run belljard as root";

fn top_fix(top: &Path) -> String {
    let top = top.display();
    format!(
        "run belljard under systemd with `Delegate=yes`; in a container move its processes out of the way: \
`mkdir {top}/rest; for p in $(cat {top}/cgroup.procs); do echo $p >{top}/rest/cgroup.procs; done`"
    )
}

/// The cgroup below which this process may do as it likes: its own, or, where it has moved to the leaf, that one's parent.
fn delegated(own: &Path) -> Option<PathBuf> {
    let own = match own.parent() {
        Some(parent) if own.file_name() == Some(OsStr::new(LEAF)) => parent,
        _ => own,
    };
    let opened = File::open(own).ok()?;
    // systemd.resource-control(5) marks them so, the second one for services of users, who cannot read the first.
    let marked = ["trusted.delegate", "user.delegate"].into_iter().any(|name| {
        let mut value = [0; 8];
        let read = getxattr(opened.as_fd(), OsStr::new(name), &mut value);
        read.is_ok_and(|length| value.get(..length) == Some(b"1"))
    });
    // What belongs to an ordinary user was given to it: who makes cgroups is root.
    let uid = nix::unistd::geteuid();
    let owned = !uid.is_root() && opened.metadata().is_ok_and(|found| found.uid() == uid.as_raw());
    (marked || owned).then(|| own.to_owned())
}

/// Moves the processes of a delegated cgroup to its leaf and gives controllers to what is below it.
fn make_room(own: &Path, controllers: &[Controller]) -> Result<(), String> {
    if lacking(own, controllers).is_empty() {
        return Ok(());
    }
    let leaf = own.join(LEAF);
    match fs::create_dir(&leaf) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(format!("make {}: {}", leaf.display(), errno_text(&error)));
        }
        Ok(()) | Err(_) => {}
    }
    for _ in 0..MOVES_MAX {
        let inside = members(own);
        if inside.is_empty() {
            break;
        }
        for pid in inside {
            match fs::write(leaf.join("cgroup.procs"), pid.to_string()) {
                // It has ended.
                Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ESRCH as i32) => {}
                Err(error) => {
                    return Err(format!(
                        "move process {pid} to {}: {}",
                        leaf.display(),
                        errno_text(&error)
                    ));
                }
                Ok(()) => {}
            }
        }
    }
    enable(own, controllers)
}

/// Gives controllers to what is below a cgroup.
fn enable(base: &Path, controllers: &[Controller]) -> Result<(), String> {
    let lacking = lacking(base, controllers);
    if lacking.is_empty() {
        return Ok(());
    }
    let available = fs::read_to_string(base.join("cgroup.controllers")).unwrap_or_default();
    for controller in &lacking {
        if !available.split_whitespace().any(|name| name == controller.name()) {
            return Err(format!(
                "the cgroup {} has no controller named {}",
                base.display(),
                controller.name()
            ));
        }
    }
    let file = base.join("cgroup.subtree_control");
    let text = lacking.iter().map(|c| format!("+{}", c.name())).collect::<Vec<_>>().join(" ");
    fs::write(&file, &text)
        .map_err(|error| format!("write {text} to {}: {}", file.display(), errno_text(&error)))
}

fn lacking(base: &Path, controllers: &[Controller]) -> Vec<Controller> {
    let given = fs::read_to_string(base.join("cgroup.subtree_control")).unwrap_or_default();
    let lacks = |c: &Controller| given.split_whitespace().all(|name| name != c.name());
    controllers.iter().copied().filter(lacks).collect()
}

/// Writes a setting and reads it back; an error says what could not be done.
pub fn hold(directory: &Path, limit: Limit, setting: u64) -> Result<(), String> {
    match limit {
        Limit::Memory => {
            set(directory, "memory.max", &setting.to_string())?;
            if directory.join("memory.swap.max").exists() {
                set(directory, "memory.swap.max", "0")?;
            } else if has_swap() {
                return Err(
                    "this kernel does not count swap for cgroups, and there is some".to_owned()
                );
            }
            // One process less would leave the rest in a state that nobody has thought of.
            set(directory, "memory.oom.group", "1")
        }
        Limit::Cpus => set(directory, "cpu.max", &format!("{setting} {PERIOD_US}")),
        Limit::Pids => set(directory, "pids.max", &setting.to_string()),
    }
}

/// What the run used, as far as the controllers of this cgroup measure it.
pub fn measure(directory: &Path, to: &mut Measured) {
    to.cpu_us = read_key(directory, "cpu.stat", "usage_usec");
    to.peak_memory_bytes = read_number(directory, "memory.peak");
    to.kills = read_key(directory, "memory.events", "oom_kill").unwrap_or(0);
    to.limit_was_met = read_key(directory, "memory.events", "oom").is_some_and(|n| n > 0);
    to.peak_pids = read_number(directory, "pids.peak");
    to.refused_forks = read_key(directory, "pids.events", "max").unwrap_or(0);
}
