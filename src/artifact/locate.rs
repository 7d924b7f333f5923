//! Finds the file of a job again: through its file system while that lives, by its path when it is gone.
//!
//! By path only what the journal recorded is believed: the mount's directory must be the very one (device and inode),
//! the file is looked up beneath it through no link and must be the very one as well, is not opened before it is known to
//! be a regular file (opening a device can have effects), and is opened with the permissions of the workspace's owner
//! unless it is the owner's: a path in a directory that its owner controls could lead the daemon to a hard link of a file
//! that is not theirs.
//!
//! Numbers alone prove nothing once nobody holds the file: ext4 gives a removed directory's inode number to the next one,
//! and a tmpfs that is mounted in place of another gets its device number (get_anon_bdev, fs/super.c) and counts its inodes
//! from one again. What was born after the write was noted is therefore another, where the file system knows births
//! (statx(2), STATX_BTIME).

use super::record::{MountRecord, Place, WorkspaceRecord};
use crate::sys::credentials::{Credentials, ScopedIdentity};
use crate::sys::openat2::open_beneath;
use crate::vfs::inode::host_inode;
use crate::vfs::observer::{FileKey, FileSource};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::time::UNIX_EPOCH;
use uuid::Uuid;

/// Where a job's file is found.
#[derive(Debug)]
pub(super) enum Found {
    File(File),
    /// It has no name any more.
    Gone(&'static str),
    /// What has its name, or its mount point's path, is not it.
    Replaced(&'static str),
    /// Its mount point's directory is not there at this moment, as of a disk that is not mounted.
    Away(&'static str),
}

/// Why a mount point's directory cannot be looked into.
#[derive(Debug, Clone, Copy)]
pub(super) enum NoDirectory {
    /// It may come back.
    Away(&'static str),
    Replaced(&'static str),
}

impl NoDirectory {
    pub fn why(self) -> &'static str {
        match self {
            NoDirectory::Away(why) | NoDirectory::Replaced(why) => why,
        }
    }
}

/// A file that a journal names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sought<'a> {
    pub workspace: &'a WorkspaceRecord,
    pub place: &'a Place,
    pub key: FileKey,
    /// When the file, and its mount's directory, existed; in microseconds since 1970.
    pub existed_at: i64,
}

/// The file's present place; `None` when it has none. Of several names the oldest counts that is not ignored.
pub(super) fn place_by_source(
    source: &dyn FileSource,
    file: FileKey,
    workspace: &WorkspaceRecord,
    ignored: impl Fn(&Place) -> bool,
) -> Option<Place> {
    let places = source.locations(file).into_iter().filter_map(|location| {
        let mount = workspace.mounts.iter().position(|mount| mount.name == location.mount)?;
        Some(Place { mount: u16::try_from(mount).ok()?, path: location.path })
    });
    let places: Vec<Place> = places.collect();
    places.iter().find(|place| !ignored(place)).or(places.first()).cloned()
}

pub(super) fn open_by_path(sought: &Sought<'_>, this_boot: Uuid) -> io::Result<Found> {
    let Sought { workspace, place, key, existed_at } = *sought;
    let Some(mount) = workspace.mounts.get(usize::from(place.mount)) else {
        return Ok(Found::Gone("its mount point is not known"));
    };
    let directory = match mount_directory(workspace, mount, this_boot)? {
        Ok(directory) => directory,
        Err(NoDirectory::Away(why)) => return Ok(Found::Away(why)),
        Err(NoDirectory::Replaced(why)) => return Ok(Found::Replaced(why)),
    };
    let root = directory.metadata()?;
    if is_born_after(&root, existed_at) {
        return Ok(Found::Replaced("its mount point's directory was replaced by another"));
    }
    let path = place.path.as_path();
    let handle = match open_beneath(&directory, path, OFlag::O_PATH | OFlag::O_NOFOLLOW) {
        Ok(handle) => File::from(handle),
        Err(error) if is_gone(&error) => return Ok(Found::Gone("the file is gone")),
        Err(error) => return Err(error),
    };
    let metadata = handle.metadata()?;
    if !metadata.is_file() {
        return Ok(Found::Gone("it is not a regular file any more"));
    }
    let other_number = host_inode(key.0)
        .is_some_and(|inode| (metadata.dev(), metadata.ino()) != (root.dev(), inode));
    if other_number || is_born_after(&metadata, existed_at) {
        return Ok(Found::Replaced("another file has its name"));
    }
    // Whoever owns a file could give itself the permission to read it; for others' files the host decides.
    let _identity =
        if metadata.uid() == workspace.owner_uid { None } else { act_as_owner(workspace)? };
    // A descriptor made with O_PATH is opened for reading through /proc (proc(5), /proc/pid/fd): the same file, whatever
    // has its name by now.
    File::open(format!("/proc/self/fd/{}", handle.as_raw_fd())).map(Found::File)
}

/// Whether something was made after a time. Where the file system keeps no time of birth, the answer is no.
fn is_born_after(metadata: &Metadata, microseconds: i64) -> bool {
    let born = metadata.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
    born.is_some_and(|born| i64::try_from(born.as_micros()).is_ok_and(|born| born > microseconds))
}

/// The directory of a mount point, or why what is there is not it.
pub(super) fn mount_directory(
    workspace: &WorkspaceRecord,
    mount: &MountRecord,
    this_boot: Uuid,
) -> io::Result<Result<File, NoDirectory>> {
    let directory = match open_directory(mount) {
        Ok(directory) => directory,
        Err(error) if is_gone(&error) => {
            return Ok(Err(NoDirectory::Away("its mount point's directory is not there")));
        }
        Err(error) => return Err(error),
    };
    let metadata = directory.metadata()?;
    let same_boot = workspace.boot == this_boot;
    // Device numbers may be given anew at boot; inode numbers stay.
    let same_device = metadata.dev() == mount.host_dev;
    let same_inode = metadata.ino() == mount.host_ino;
    Ok(match (same_boot, same_device, same_inode) {
        (_, true, true) | (false, false, true) => Ok(directory),
        // What its file system was mounted over looks like this, and a directory that was exchanged for one elsewhere.
        (true, false, _) | (false, _, false) => {
            Err(NoDirectory::Away("another file system is where its mount point's directory was"))
        }
        (true, true, false) => {
            Err(NoDirectory::Replaced("its mount point's directory was replaced by another"))
        }
    })
}

/// This thread looks at files as the workspace's owner, where it could do more than that.
pub(super) fn act_as_owner(workspace: &WorkspaceRecord) -> io::Result<Option<ScopedIdentity>> {
    act_as(workspace.owner_uid)
}

/// The same for any user.
pub(super) fn act_as(owner: u32) -> io::Result<Option<ScopedIdentity>> {
    if owner == 0 || !nix::unistd::geteuid().is_root() {
        return Ok(None);
    }
    let login = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(owner)).ok().flatten();
    let gid = login.map_or(owner, |user| user.gid.as_raw());
    ScopedIdentity::assume(&Credentials::of_login(owner, gid)).map(Some)
}

fn open_directory(mount: &MountRecord) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_PATH | OFlag::O_DIRECTORY).bits())
        .open(&mount.host_path)
}

fn is_gone(error: &io::Error) -> bool {
    let raw = error.raw_os_error().map(Errno::from_raw);
    matches!(
        raw,
        Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EXDEV | Errno::ENAMETOOLONG)
    )
}
