//! One daemon's place in the state directory: `instances/<uuid>/{lock,journal,instance.json}`.
//!
//! The lock is held by flock(2) for the daemon's life and given back by the kernel however it ends. A directory whose
//! lock is free belonged to a dead daemon. A directory is made under a hidden name, locked, and renamed: it is never
//! visible with a free lock while its daemon starts.

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use uuid::Uuid;

/// Prefix of a directory that is being made.
const UNFINISHED: &str = ".new-";

/// After this time an unfinished directory with a free lock was left by a daemon that died while it started.
const UNFINISHED_AGE: Duration = Duration::from_secs(60);

/// What `instance.json` says, for recovery and for people who look.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InstanceInfo {
    pub uuid: Uuid,
    pub pid: u32,
    /// Which boot of the machine it ran in (`/proc/sys/kernel/random/boot_id`).
    pub boot: Uuid,
    /// Where its socket and mounts were; missing when the path is not UTF-8 or was not told.
    pub runtime_dir: Option<PathBuf>,
    pub started_at: jiff::Timestamp,
}

/// A directory under `instances/` whose lock this process holds.
#[derive(Debug)]
pub(super) struct Instance {
    pub uuid: Uuid,
    pub directory: PathBuf,
    _lock: Flock<File>,
}

impl Instance {
    pub fn create(state_dir: &Path, info: &InstanceInfo) -> io::Result<Self> {
        let instances = state_dir.join("instances");
        DirBuilder::new().recursive(true).mode(0o700).create(&instances)?;
        let unfinished = instances.join(format!("{UNFINISHED}{}", info.uuid));
        DirBuilder::new().mode(0o700).create(&unfinished)?;
        let lock = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(unfinished.join("lock"))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| e)?;
        let json = serde_json::to_vec(info).map_err(io::Error::other)?;
        fs::write(unfinished.join("instance.json"), json)?;
        let directory = instances.join(info.uuid.to_string());
        fs::rename(&unfinished, &directory)?;
        Ok(Self { uuid: info.uuid, directory, _lock: lock })
    }

    pub fn journal(&self) -> PathBuf {
        self.directory.join("journal")
    }

    pub fn info(&self) -> Option<InstanceInfo> {
        let bytes = fs::read(self.directory.join("instance.json")).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// When it was made, by the host's file system, in microseconds since 1970; the beginning of time when that cannot be
    /// told.
    pub fn made_at(&self) -> i64 {
        let lock = fs::metadata(self.directory.join("lock"));
        lock.map_or(i64::MIN, |metadata| metadata.mtime().saturating_mul(1_000_000))
    }

    /// Removes the directory. The lock file goes last, so that no moment shows a directory without one.
    pub fn remove(self) -> io::Result<()> {
        for name in ["journal", "journal.new", "instance.json", "lock"] {
            ignore_missing(fs::remove_file(self.directory.join(name)))?;
        }
        ignore_missing(fs::remove_dir(&self.directory))
    }
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Locks every directory whose daemon is dead. `own` is left alone: flock(2) would see that it is held as well, but a
/// look at the name is cheaper.
pub(super) fn claim_dead(state_dir: &Path, own: Uuid) -> io::Result<Vec<Instance>> {
    let mut claimed = Vec::new();
    for entry in fs::read_dir(state_dir.join("instances"))? {
        let directory = entry?.path();
        let Some(name) = directory.file_name().and_then(|name| name.to_str()) else { continue };
        if let Some(uuid) = name.strip_prefix(UNFINISHED) {
            if let Ok(uuid) = uuid.parse() {
                remove_unfinished(uuid, &directory)?;
            }
            continue;
        }
        let Ok(uuid) = name.parse::<Uuid>() else { continue };
        if uuid != own
            && let Some(lock) = try_lock(&directory)?
        {
            claimed.push(Instance { uuid, directory, _lock: lock });
        }
    }
    // Oldest first (UUIDv7 sorts by time), so that the last of several writers is registered last.
    claimed.sort_by_key(|instance| instance.uuid);
    Ok(claimed)
}

/// Whether a daemon holds that place in the state directory. The lock is tried for a moment; who looks at the same moment
/// to take over a dead one's place finds it taken, and leaves it to the next.
pub(super) fn is_alive(state_dir: &Path, uuid: Uuid) -> io::Result<bool> {
    let instances = state_dir.join("instances");
    let unfinished = instances.join(format!("{UNFINISHED}{uuid}"));
    let directory = instances.join(uuid.to_string());
    if unfinished.exists() {
        return Ok(true);
    }
    Ok(directory.exists() && try_lock(&directory)?.is_none())
}

fn remove_unfinished(uuid: Uuid, directory: &Path) -> io::Result<()> {
    let age = fs::symlink_metadata(directory)
        .and_then(|m| m.modified())
        .ok()
        .and_then(|t| t.elapsed().ok());
    if age.is_none_or(|age| age < UNFINISHED_AGE) {
        return Ok(());
    }
    match try_lock(directory)? {
        Some(lock) => Instance { uuid, directory: directory.to_owned(), _lock: lock }.remove(),
        // It died before it made the lock, or it lives.
        None => match fs::remove_dir(directory) {
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ENOTEMPTY as i32) => {
                Ok(())
            }
            result => ignore_missing(result),
        },
    }
}

/// The lock of an instance's directory, or nothing when a living daemon holds it or the directory is going away.
fn try_lock(directory: &Path) -> io::Result<Option<Flock<File>>> {
    let file = match OpenOptions::new().write(true).open(directory.join("lock")) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => return Ok(None),
        Err((_, error)) => return Err(error.into()),
    };
    // Whoever held it before may have removed the directory between the open and the lock.
    Ok((lock.metadata()?.nlink() > 0).then_some(lock))
}

/// This boot of the machine.
pub(super) fn boot_id() -> io::Result<Uuid> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    text.trim().parse().map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> InstanceInfo {
        InstanceInfo {
            uuid: Uuid::now_v7(),
            pid: 1,
            boot: boot_id().expect("boot id"),
            runtime_dir: None,
            started_at: jiff::Timestamp::now(),
        }
    }

    #[test]
    fn only_the_dead_are_claimed_and_only_once() {
        let state = tempfile::tempdir().expect("temporary directory");
        let own = Instance::create(state.path(), &info()).expect("create");
        let living = Instance::create(state.path(), &info()).expect("create");
        let dead = Instance::create(state.path(), &info()).expect("create");
        let uuid = dead.uuid;
        drop(dead);
        let claimed = claim_dead(state.path(), own.uuid).expect("claim");
        assert_eq!(claimed.iter().map(|c| c.uuid).collect::<Vec<_>>(), [uuid]);
        assert!(claim_dead(state.path(), own.uuid).expect("claim").is_empty());
        for instance in claimed {
            assert_eq!(instance.info().expect("info").uuid, uuid);
            instance.remove().expect("remove");
        }
        assert!(claim_dead(state.path(), own.uuid).expect("claim").is_empty());
        assert!(living.directory.exists());
    }
}
