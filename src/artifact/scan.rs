//! Looks through the directories of a workspace for files that changed and that nobody noted.
//!
//! A file counts when it does not look as it did when it was registered last (inode, size, both times), or was never
//! registered and changed since a given time. It is put into the journal like any other, without run and writer, in a
//! workspace of the scan's own that has no file system: it is found by its path, as after a crash.
//!
//! The scan knows nothing of the kernel's requests and takes the locks they take only for what they take them for. It
//! holds one descriptor and at most 32 KiB of names for each level of the tree, stays on the directory's own file
//! system, follows no link, goes where the workspace's owner may go, and waits until what it found is registered before
//! it goes on. It works half of the time and rests the other half.

use super::locate::{act_as_owner, mount_directory};
use super::record::{EntryRecord, FileRef, MountRecord, Place, Record, WorkspaceRecord};
use super::service::Service;
use crate::model::id::MountName;
use crate::model::path::VirtualPath;
use crate::storage::{CatalogError, LastSeen, Stamp};
use crate::sys::directory::{Entry, getdents64};
use crate::sys::openat2::open_beneath;
use crate::vfs::observer::FileKey;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FileStat, SFlag, fstat, fstatat};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many directories below each other are looked into. Chosen, not measured: each holds a descriptor meanwhile.
const DEPTH_MAX: usize = 256;

/// How long a scan waits for what it found to be registered before it looks on.
const SETTLED_MAX: Duration = Duration::from_secs(30);

/// The clock of file times lags behind by a tick of up to 10 ms; the rest is for clocks that are set.
const CLOCK_MICROSECONDS: i64 = 2_000_000;

/// What a scan did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scanned {
    /// Files that were looked at.
    pub files: u64,
    /// Those that changed and were put on their way.
    pub found: u64,
    /// Directories that could not be looked into, those that are too deep included.
    pub refused: u64,
}

impl std::ops::AddAssign for Scanned {
    fn add_assign(&mut self, other: Self) {
        self.files += other.files;
        self.found += other.found;
        self.refused += other.refused;
    }
}

/// Why a scan ended early.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    #[error("look into a directory")]
    Directory(#[source] io::Error),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error("note a changed file in the journal")]
    Journal(#[source] io::Error),
    #[error("the service stops")]
    Stopping,
}

/// A scan in progress.
struct Scan<'a> {
    service: &'a Service,
    workspace: Arc<WorkspaceRecord>,
    /// Microseconds since 1970.
    since: i64,
    keys: u64,
    /// That directories are too deep is said once.
    was_deep: bool,
    done: Scanned,
}

/// A directory on the way down.
struct Level {
    directory: OwnedFd,
    path: VirtualPath,
    /// Where reading goes on.
    offset: i64,
    /// Directories of the entries read last that are not looked into yet.
    below: Vec<OsString>,
}

/// A regular file that the scan came by.
struct Seen {
    place: Place,
    stamp: Stamp,
}

/// Scans a workspace of the journal that no file system stands for.
pub(super) fn scan(service: &Service, workspace: u32, since: i64) -> Result<Scanned, ScanError> {
    let Some(workspace) = service.state().workspace(workspace).cloned() else {
        return Ok(Scanned::default());
    };
    let done = Scanned::default();
    let mut scan =
        Scan { service, workspace: workspace.clone(), since, keys: 0, was_deep: false, done };
    for (mount, position) in workspace.mounts.iter().zip(0..).filter(|(mount, _)| mount.artifacts) {
        scan.mount(mount, position)?;
    }
    Ok(scan.done)
}

impl Scan<'_> {
    fn mount(&mut self, mount: &MountRecord, position: u16) -> Result<(), ScanError> {
        let directory = match mount_directory(&self.workspace, mount, self.service.boot) {
            Ok(Ok(directory)) => directory,
            Ok(Err(none)) => {
                let why = none.why();
                tracing::info!(mount = %mount.name, workspace = %self.workspace.id, why, "not scanned");
                self.done.refused += 1;
                return Ok(());
            }
            Err(error) => return Err(ScanError::Directory(error)),
        };
        let device = fstat(&directory).map_err(|e| ScanError::Directory(e.into()))?.st_dev;
        let root = open_beneath(&directory, Path::new("."), OFlag::O_RDONLY | OFlag::O_DIRECTORY)
            .map_err(ScanError::Directory)?;
        let mut levels = vec![Level::new(root, VirtualPath::root())];
        while let Some(level) = levels.last_mut() {
            if self.service.is_stopping() {
                return Err(ScanError::Stopping);
            }
            if let Some(name) = level.below.pop() {
                if levels.len() >= DEPTH_MAX {
                    self.refuse_depth(levels.last().expect("just seen"));
                } else {
                    let above = levels.last().expect("just seen");
                    levels.extend(self.enter(above, &name, device));
                }
                continue;
            }
            let started = Instant::now();
            let seen = {
                let _identity = act_as_owner(&self.workspace).map_err(ScanError::Directory)?;
                let entries = match getdents64(level.directory.as_fd(), level.offset) {
                    Ok(entries) => entries,
                    Err(error) => {
                        tracing::warn!(path = ?level.path, %error, "a directory cannot be scanned");
                        self.done.refused += 1;
                        Vec::new()
                    }
                };
                let Some(last) = entries.last() else {
                    levels.pop();
                    continue;
                };
                level.offset = last.offset;
                look(self.service, level, &entries, (position, &mount.name))
            };
            self.register(mount, seen)?;
            std::thread::sleep(started.elapsed().min(Duration::from_secs(1)));
        }
        Ok(())
    }

    /// There are directories below one that is as deep as a scan goes.
    fn refuse_depth(&mut self, above: &Level) {
        self.done.refused += 1;
        if !std::mem::replace(&mut self.was_deep, true) {
            tracing::warn!(path = ?above.path, workspace = %self.workspace.id, levels = DEPTH_MAX, "directories are too deep to be scanned; what changes there is found when it is written through the workspace");
        }
    }

    /// A directory below another; nothing where it is gone, on another file system or closed to the owner.
    fn enter(&mut self, above: &Level, name: &OsStr, device: u64) -> Option<Level> {
        let path = VirtualPath::parse(above.path.as_path().join(name)).ok()?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        let opened = act_as_owner(&self.workspace)
            .and_then(|_identity| open_beneath(&above.directory, Path::new(name), flags));
        match opened {
            Ok(directory) => {
                let same = fstat(&directory).is_ok_and(|stat| stat.st_dev == device);
                same.then(|| Level::new(directory, path))
            }
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => None,
            Err(error) => {
                tracing::warn!(?path, %error, "a directory cannot be scanned");
                self.done.refused += 1;
                None
            }
        }
    }

    /// Puts those on their way that changed.
    fn register(&mut self, mount: &MountRecord, seen: Vec<Seen>) -> Result<(), ScanError> {
        self.done.files += seen.len() as u64;
        let host_path = |seen: &Seen| mount.host_path.join(seen.place.path.as_path());
        let bytes = |seen| host_path(seen).as_os_str().as_bytes().to_vec();
        let paths: Vec<Vec<u8>> = seen.iter().map(bytes).collect();
        let owner = self.workspace.owner_uid;
        let known = self.service.catalog.last_seen(owner, &paths)?;
        let changed = seen.into_iter().zip(known).filter(|(seen, known)| match known {
            LastSeen::As(stamp) => *stamp != seen.stamp,
            LastSeen::Unnoted => true,
            LastSeen::Never => {
                seen.stamp.ctime_ns / 1_000 >= self.since.saturating_sub(CLOCK_MICROSECONDS)
            }
        });
        let mut records = Vec::new();
        let mut last = None;
        for (seen, _) in changed {
            // What is on its way has its own entry, which knows who wrote it.
            if self.service.state().follows_path(owner, &host_path(&seen)) {
                continue;
            }
            self.keys += 1;
            let file = FileRef { workspace: self.workspace.number, file: FileKey(self.keys) };
            last = Some(file);
            records.push(Record::Entry(EntryRecord {
                file,
                at: seen.place,
                nameless: false,
                run: None,
                dirtied_at: jiff::Timestamp::now().as_microsecond(),
                changed: true,
                open: false,
                closes: 1,
            }));
        }
        self.done.found += records.len() as u64;
        let Some(last) = last else { return Ok(()) };
        self.service.append_and_apply(&records).map_err(ScanError::Journal)?;
        self.service.wait_until_settled(last, Instant::now() + SETTLED_MAX);
        Ok(())
    }
}

impl Level {
    fn new(directory: OwnedFd, path: VirtualPath) -> Self {
        Self { directory, path, offset: 0, below: Vec::new() }
    }
}

/// The regular files among the entries; directories are noted in the level.
fn look(
    service: &Service,
    level: &mut Level,
    entries: &[Entry],
    (mount, name): (u16, &MountName),
) -> Vec<Seen> {
    let mut seen = Vec::new();
    for entry in entries.iter().filter(|entry| entry.name != "." && entry.name != "..") {
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        // Gone meanwhile, or closed to the owner: nothing that could be read.
        let Ok(stat) = fstatat(&level.directory, entry.name.as_os_str(), flags) else { continue };
        let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
        if kind == SFlag::S_IFDIR && !service.rules.ignores_directory(&entry.name) {
            level.below.push(entry.name.clone());
        } else if kind == SFlag::S_IFREG {
            let path = VirtualPath::parse(level.path.as_path().join(&entry.name));
            let Ok(path) = path else { continue };
            if !service.ignores(name, &path) {
                seen.push(Seen { place: Place { mount, path }, stamp: stamp(&stat) });
            }
        }
    }
    seen
}

fn stamp(stat: &FileStat) -> Stamp {
    let ns = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
    Stamp {
        inode: stat.st_ino,
        size: stat.st_size.cast_unsigned(),
        mtime_ns: ns(stat.st_mtime, stat.st_mtime_nsec),
        ctime_ns: ns(stat.st_ctime, stat.st_ctime_nsec),
    }
}
