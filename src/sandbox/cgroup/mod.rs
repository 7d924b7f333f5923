//! The cgroup of one run: made before the run, joined by its first process before anything else, and removed after it.
//!
//! It is one directory in each hierarchy that is needed: on a machine with version 2 one in all, with version 1 one for each
//! limit and one that freezes. All have the run's own id in their name, so that no name is ever used again.
//!
//! Invariant: what a limit is told to hold was read back from the kernel. A group that cannot hold any limit is not kept.
//!
//! The places are noted in a file before they are made. The file goes when they are gone, so that whoever finds one after this
//! process has died knows what to remove ([`recover`]).

mod files;
mod host;
mod v1;
mod v2;

use super::limits::Limit;
use super::protocol::errno_text;
use crate::model::id::RunId;
use crate::sys::process;
use host::{Controller, Host};
use nix::sys::signal::Signal;
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the removal of a cgroup may take: the kernel refuses it while a process that has ended is still on its way out.
/// Chosen, not measured: it is gone at once, unless somebody outside put a process into it.
const REMOVE_MAX: Duration = Duration::from_secs(2);

/// How often that is tried.
const REMOVE_PAUSE: Duration = Duration::from_millis(2);

/// A limit that no cgroup can hold here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    pub limit: Limit,
    pub reason: String,
    /// What somebody can do about it.
    pub fix: String,
}

/// What a run used, and what its limits did to it. What nothing measured is missing, or nought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Measured {
    pub cpu_us: Option<u64>,
    /// All its processes, their files in `/tmp` and the kernel's own for them, at one moment.
    pub peak_memory_bytes: Option<u64>,
    /// The first process included.
    pub peak_pids: Option<u64>,
    /// Processes that the kernel ended because there was no memory.
    pub kills: u64,
    /// Whether the run's own limit of memory was met; else it was the machine that had no more.
    pub limit_was_met: bool,
    pub refused_forks: u64,
}

/// What a directory is for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Purpose {
    /// The unified hierarchy.
    Unified(Vec<Limit>),
    Legacy(Limit),
    Freezer,
}

impl Purpose {
    fn join(&self) -> &'static str {
        match self {
            Purpose::Unified(_) => v2::JOIN,
            Purpose::Legacy(_) | Purpose::Freezer => v1::JOIN,
        }
    }
}

/// The cgroup of a run. Dropping it ends what is in it, and removes it.
#[derive(Debug)]
pub struct Group {
    directories: Vec<(PathBuf, Purpose)>,
    record: PathBuf,
}

/// Makes a cgroup that holds as many of these limits as it can, and says which it cannot.
pub fn make(run: RunId, asked: &[(Limit, u64)], record: &Path) -> (Option<Group>, Vec<Missing>) {
    let all_missing = |reason: String| {
        let fix = "run belljard where that can be done";
        asked
            .iter()
            .map(|(limit, _)| Missing {
                limit: *limit,
                reason: reason.clone(),
                fix: fix.to_owned(),
            })
            .collect()
    };
    let host = match Host::look() {
        Ok(host) => host,
        Err(error) => return (None, all_missing(format!("find cgroups: {}", errno_text(&error)))),
    };
    let (places, mut missing) = places(&host, asked);
    if places.is_empty() {
        return (None, missing);
    }
    let name = directory_name(run);
    let directories: Vec<_> =
        places.into_iter().map(|(base, purpose)| (base.join(&name), purpose)).collect();
    if let Err(error) = note(record, &directories) {
        return (
            None,
            all_missing(format!("note the cgroup in {}: {}", record.display(), errno_text(&error))),
        );
    }
    let mut group = Group { directories, record: record.to_owned() };
    group.directories.retain(|(directory, purpose)| {
        // By name and not recursively: the name is fresh, and what is above must be there.
        let Err(error) = fs::create_dir(directory) else { return true };
        let reason = format!("make {}: {}", directory.display(), errno_text(&error));
        let limits = match purpose {
            Purpose::Unified(limits) => limits.as_slice(),
            Purpose::Legacy(limit) => std::slice::from_ref(limit),
            Purpose::Freezer => &[],
        };
        missing.extend(limits.iter().map(|limit| Missing {
            limit: *limit,
            reason: reason.clone(),
            fix: writable_fix(directory),
        }));
        false
    });
    for (limit, setting) in asked {
        let Some((directory, purpose)) = group.place(*limit) else { continue };
        let held = match purpose {
            Purpose::Unified(_) => v2::hold(directory, *limit, *setting),
            Purpose::Legacy(_) | Purpose::Freezer => v1::hold(directory, *limit, *setting),
        };
        if let Err(reason) = held {
            missing.push(Missing { limit: *limit, reason, fix: writable_fix(directory) });
        }
    }
    let holds_something = missing.len() < asked.len();
    (holds_something.then_some(group), missing)
}

fn directory_name(run: RunId) -> String {
    format!("belljar-{run}")
}

fn writable_fix(directory: &Path) -> String {
    format!(
        "run belljard as root where {} can be written; in a container mount it read-write",
        directory.parent().unwrap_or(directory).display()
    )
}

fn controller(limit: Limit) -> Controller {
    match limit {
        Limit::Memory => Controller::Memory,
        Limit::Cpus => Controller::Cpu,
        Limit::Pids => Controller::Pids,
    }
}

/// Below which directories the run's own are to be made, and for what.
fn places(host: &Host, asked: &[(Limit, u64)]) -> (Vec<(PathBuf, Purpose)>, Vec<Missing>) {
    let mut places: Vec<(PathBuf, Purpose)> = Vec::new();
    let mut missing = Vec::new();
    for (limit, _) in asked {
        let controller = controller(*limit);
        if let Some(own) = host.legacy.get(&controller) {
            places.push((own.clone(), Purpose::Legacy(*limit)));
            continue;
        }
        let found = match &host.unified {
            Some(unified) => v2::base(unified, &[controller]),
            None => Err((
                format!(
                    "no cgroup hierarchy with the controller {} is mounted here",
                    controller.name()
                ),
                "mount cgroup2 at /sys/fs/cgroup".to_owned(),
            )),
        };
        match found {
            Ok(base) => {
                let same = places.iter_mut().find_map(|(place, purpose)| match purpose {
                    Purpose::Unified(limits) if *place == base => Some(limits),
                    Purpose::Unified(_) | Purpose::Legacy(_) | Purpose::Freezer => None,
                });
                match same {
                    Some(limits) => limits.push(*limit),
                    None => places.push((base, Purpose::Unified(vec![*limit]))),
                }
            }
            Err((reason, fix)) => missing.push(Missing { limit: *limit, reason, fix }),
        }
    }
    let kills = places.iter().any(|(_, purpose)| matches!(purpose, Purpose::Unified(_)));
    if let Some(own) = host.legacy.get(&Controller::Freezer)
        && !kills
        && !places.is_empty()
    {
        places.push((own.clone(), Purpose::Freezer));
    }
    (places, missing)
}

/// Writes down where a cgroup will be, one directory on each line: none of these paths has a newline in it, as they are of the
/// kernel's own tables and of a run's id.
fn note(record: &Path, directories: &[(PathBuf, Purpose)]) -> io::Result<()> {
    let mut text = Vec::new();
    for (directory, _) in directories {
        text.extend_from_slice(directory.as_os_str().as_bytes());
        text.push(b'\n');
    }
    fs::write(record, text)
}

impl Group {
    fn place(&self, limit: Limit) -> Option<&(PathBuf, Purpose)> {
        self.directories.iter().find(|(_, purpose)| match purpose {
            Purpose::Unified(limits) => limits.contains(&limit),
            Purpose::Legacy(held) => *held == limit,
            Purpose::Freezer => false,
        })
    }

    /// What holds a limit, for a person.
    pub fn holder(&self, limit: Limit) -> String {
        let (version, settings) = match (self.place(limit), limit) {
            (Some((_, Purpose::Unified(_))), Limit::Memory) => ("2", "memory.max, no swap"),
            (Some((_, Purpose::Unified(_))), Limit::Cpus) => ("2", "cpu.max"),
            (Some((_, Purpose::Unified(_))), Limit::Pids) => ("2", "pids.max"),
            (_, Limit::Memory) => ("1", "memory.limit_in_bytes, no swap"),
            (_, Limit::Cpus) => ("1", "cpu.cfs_quota_us"),
            (_, Limit::Pids) => ("1", "pids.max"),
        };
        format!("a cgroup of version {version} ({settings}; read back)")
    }

    /// Descriptors for the process that shall join, which writes 0 to each ([`join`]).
    pub fn doors(&self) -> io::Result<Vec<OwnedFd>> {
        let open = |(directory, purpose): &(PathBuf, Purpose)| {
            File::options().write(true).open(directory.join(purpose.join())).map(OwnedFd::from)
        };
        self.directories.iter().map(open).collect()
    }

    /// Whether somebody is in it everywhere.
    pub fn is_joined(&self) -> bool {
        self.directories.iter().all(|(directory, _)| !files::members(directory).is_empty())
    }

    /// Whether the kernel ends single processes where there is no memory, and not all of the run.
    pub fn is_killed_piecemeal(&self) -> bool {
        matches!(self.place(Limit::Memory), Some((_, Purpose::Legacy(_))))
    }

    /// Ends what is in it, and removes it; does nothing the second time.
    pub fn remove(&self) {
        let directories: Vec<_> = self.directories.iter().map(|(path, _)| path.clone()).collect();
        remove_all(&directories, &self.record);
    }

    pub fn measure(&self) -> Measured {
        let mut measured = Measured::default();
        for (directory, purpose) in &self.directories {
            match purpose {
                Purpose::Unified(_) => v2::measure(directory, &mut measured),
                Purpose::Legacy(limit) => v1::measure(directory, *limit, &mut measured),
                Purpose::Freezer => {}
            }
        }
        measured
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Joins: whoever calls this, which must have one thread, is in the cgroup afterwards, and all that it starts.
pub fn join(doors: Vec<OwnedFd>) -> io::Result<()> {
    doors.into_iter().try_for_each(|door| io::Write::write_all(&mut File::from(door), b"0"))
}

/// Ends what is in the cgroups that a dead instance noted in this directory, and removes them. Answers how many there were.
pub fn recover(records: &Path) -> usize {
    let mut removed = 0;
    for entry in fs::read_dir(records).into_iter().flatten().flatten() {
        let run = entry.file_name().to_str().and_then(|name| name.parse::<RunId>().ok());
        let (Some(run), Ok(text)) = (run, fs::read(entry.path())) else { continue };
        let name = directory_name(run);
        let directories: Vec<PathBuf> = text
            .split(|b| *b == b'\n')
            .map(|line| PathBuf::from(OsStr::from_bytes(line)))
            // The file was written by us; a line that is half there leads nowhere.
            .filter(|path| path.is_absolute() && path.file_name() == Some(OsStr::new(&name)))
            .filter(|path| is_cgroup(path))
            .collect();
        removed += usize::from(!directories.is_empty());
        remove_all(&directories, &entry.path());
    }
    removed
}

fn is_cgroup(directory: &Path) -> bool {
    statfs(directory).is_ok_and(|found| {
        [CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC].contains(&found.filesystem_type())
    })
}

/// Ends what is left in the directories and removes them, and then the note of them.
fn remove_all(directories: &[PathBuf], record: &Path) {
    let deadline = Instant::now() + REMOVE_MAX;
    let mut left: Vec<&PathBuf> = directories.iter().collect();
    loop {
        left.retain(|directory| match fs::remove_dir(directory) {
            Ok(()) => false,
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        });
        if left.is_empty() {
            // A note without cgroups does no harm.
            let _ = fs::remove_file(record);
            return;
        }
        if Instant::now() > deadline {
            break;
        }
        kill(&left);
        std::thread::sleep(REMOVE_PAUSE);
    }
    for directory in left {
        tracing::warn!(directory = %directory.display(), "a run's cgroup cannot be removed; rmdir(1) can when nothing is in it");
    }
}

/// Ends every process in these directories of one group, as far as one round can.
fn kill(directories: &[&PathBuf]) {
    for directory in directories {
        // Version 2, from Linux 5.14 on: all at once, and whatever is forked meanwhile.
        if fs::write(directory.join("cgroup.kill"), "1").is_ok() {
            return;
        }
    }
    // While all stand still nothing can fork. Only one of them has such a file.
    let freeze = |legacy: &str, unified: &str| {
        for directory in directories {
            let _ = write_existing(&directory.join("freezer.state"), legacy);
            let _ = write_existing(&directory.join("cgroup.freeze"), unified);
        }
    };
    freeze("FROZEN", "1");
    for directory in directories {
        for pid in files::members(directory) {
            kill_member(directory, pid);
        }
    }
    // A frozen process of version 1 dies only when it is let go.
    freeze("THAWED", "0");
}

fn write_existing(file: &Path, text: &str) -> io::Result<()> {
    io::Write::write_all(&mut File::options().write(true).open(file)?, text.as_bytes())
}

/// By a descriptor that is looked at again, so that nobody is hit who got the number meanwhile.
fn kill_member(directory: &Path, pid: i32) {
    if pid <= 0 {
        return;
    }
    if let Ok(process) = process::pidfd_open(Pid::from_raw(pid))
        && files::members(directory).contains(&pid)
    {
        // It may have ended.
        let _ = process::pidfd_send_signal(&process, Signal::SIGKILL as i32);
    }
}

/// Whether this machine swaps.
fn has_swap() -> bool {
    // A line of headings, then one for each.
    fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1)
}

#[cfg(test)]
mod tests {
    use super::host::Unified;
    use super::*;

    #[test]
    fn each_limit_is_held_where_its_controller_is() {
        let mut host = Host::default();
        host.legacy.insert(Controller::Memory, "/m".into());
        host.legacy.insert(Controller::Freezer, "/f".into());
        let (found, missing) = places(&host, &[(Limit::Memory, 1), (Limit::Pids, 2)]);
        assert_eq!(
            found,
            [("/m".into(), Purpose::Legacy(Limit::Memory)), ("/f".into(), Purpose::Freezer)]
        );
        assert_eq!(missing.len(), 1);
        assert_eq!(missing[0].limit, Limit::Pids);
        assert!(missing[0].reason.contains("controller pids"), "{missing:?}");
    }

    #[test]
    fn a_unified_hierarchy_without_the_controller_is_named() {
        let nowhere = PathBuf::from("/nonexistent/cgroup");
        let unified = Some(Unified { top: nowhere.clone(), own: nowhere });
        let (found, missing) = places(&Host { unified, ..Host::default() }, &[(Limit::Cpus, 1)]);
        assert!(found.is_empty());
        assert!(missing[0].reason.contains("/nonexistent/cgroup"), "{missing:?}");
        assert!(missing[0].fix.contains("Delegate=yes"), "{missing:?}");
    }

    #[test]
    fn a_note_that_names_something_else_removes_nothing() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let run = RunId::generate();
        let victim = directory.path().join(directory_name(run));
        fs::create_dir(&victim).expect("directory");
        let records = directory.path().join("cgroups");
        fs::create_dir(&records).expect("directory");
        // The name is right; it is no cgroup.
        fs::write(records.join(run.to_string()), victim.as_os_str().as_bytes()).expect("write");
        fs::write(records.join("README"), "/etc\n").expect("write");
        assert_eq!(recover(&records), 0);
        assert!(victim.exists());
    }
}
