//! The host directories behind the mount points: every look at and change of a host file goes through here.
//!
//! A path never goes further than one name: a child is opened below its parent's descriptor with openat2(2), which
//! follows no link of any kind. Functions that change something ask for a [`WriteGrant`].

use super::error::Error;
use crate::policy::mount_table::WriteGrant;
use crate::sys::credentials::{Credentials, ScopedIdentity};
use crate::sys::handle::{self, FileHandle};
use crate::sys::{self};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::{FileStat, Mode, SFlag};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// Who asks, as the kernel said it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    /// In the daemon's pid namespace; 0 when the caller has no number there.
    pub pid: u32,
}

/// Which host inode a node stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    pub device: u64,
    pub inode: u64,
}

impl Identity {
    pub fn of(stat: &FileStat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino }
    }
}

/// The directory behind a mount point, on a detached clone of the host's mounts that nobody else can reach.
#[derive(Debug)]
pub struct BackingRoot {
    pub descriptor: Arc<OwnedFd>,
    pub identity: Identity,
    pub stat: FileStat,
    /// Whether inodes can be reopened by handle: privilege, a file system with handles, and a real descriptor are needed.
    handles: bool,
}

impl BackingRoot {
    /// `directory` is the root of the clone.
    pub fn new(directory: OwnedFd) -> Result<Self, Error> {
        let stat = nix::sys::stat::fstat(&directory).map_err(Error::errno("stat the directory"))?;
        if stat.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFDIR.bits() {
            return Err(Error::NotDirectory);
        }
        // FUSE has handles, but only for inodes that the kernel remembers, unless its server says otherwise, which
        // nobody can ask (fs/fuse/inode.c, fuse_get_dentry).
        let fuse = nix::sys::statfs::fstatfs(&directory)
            .is_ok_and(|stat| stat.filesystem_type() == nix::sys::statfs::FUSE_SUPER_MAGIC);
        let handles = !fuse
            && match handle::name_to_handle_at(directory.as_fd()) {
                Ok(Some(own)) => handle::open_by_handle_at(directory.as_fd(), &own).is_ok(),
                Ok(None) | Err(_) => false,
            };
        Ok(Self { identity: Identity::of(&stat), descriptor: Arc::new(directory), stat, handles })
    }

    /// Handles name inodes of the root's own file system only.
    fn has_handles(&self, device: u64) -> bool {
        self.handles && device == self.identity.device
    }

    pub fn open_by_handle(&self, handle: &FileHandle) -> Result<OwnedFd, Error> {
        handle::open_by_handle_at(self.descriptor.as_fd(), handle)
            .map_err(Error::os("open an inode by its handle"))
    }
}

/// A host file that was found below a directory.
#[derive(Debug)]
pub struct Found {
    /// Opened with `O_PATH`.
    pub descriptor: OwnedFd,
    pub stat: FileStat,
    pub generation: Generation,
}

/// What tells an inode from an earlier one of the same number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Generation {
    /// Opens the inode as well.
    Handle(FileHandle),
    /// Without handles, when the inode was made. The clock of file systems goes on in steps of some milliseconds: two
    /// inodes of the same number and type within one step are taken for one.
    Birth(Option<(i64, u32)>),
}

/// Refuses names that are no single entry of a directory.
pub fn check_name(name: &OsStr) -> Result<(), Error> {
    match name.as_bytes() {
        b"" | b"." | b".." => Err(Error::BadName),
        bytes if bytes.iter().any(|b| matches!(b, 0 | b'/')) => Err(Error::BadName),
        _ => Ok(()),
    }
}

const BENEATH: ResolveFlag = ResolveFlag::RESOLVE_BENEATH
    .union(ResolveFlag::RESOLVE_NO_SYMLINKS)
    .union(ResolveFlag::RESOLVE_NO_MAGICLINKS);

fn open_beneath(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    flags: OFlag,
    mode: Mode,
) -> nix::Result<OwnedFd> {
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).mode(mode).resolve(BENEATH);
    nix::fcntl::openat2(parent, name, how)
}

/// Opens the child with `O_PATH`; a symbolic link is opened itself.
pub fn open_child(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Error> {
    check_name(name)?;
    open_beneath(parent, name, OFlag::O_PATH | OFlag::O_NOFOLLOW, Mode::empty())
        .map_err(Error::errno("look up an entry"))
}

pub fn find(root: &BackingRoot, parent: BorrowedFd<'_>, name: &OsStr) -> Result<Found, Error> {
    found(root, open_child(parent, name)?)
}

/// Completes what is known of a file just opened.
pub fn found(root: &BackingRoot, descriptor: OwnedFd) -> Result<Found, Error> {
    let stat = stat(descriptor.as_fd())?;
    let handle = if root.has_handles(stat.st_dev) {
        handle::name_to_handle_at(descriptor.as_fd()).map_err(Error::os("ask for a file handle"))?
    } else {
        None
    };
    let generation = match handle {
        Some(handle) => Generation::Handle(handle),
        None => Generation::Birth(birth(descriptor.as_fd())?),
    };
    Ok(Found { descriptor, stat, generation })
}

pub fn birth(file: BorrowedFd<'_>) -> Result<Option<(i64, u32)>, Error> {
    sys::file::birth(file).map_err(Error::os("ask when a file was made"))
}

pub fn stat(file: BorrowedFd<'_>) -> Result<FileStat, Error> {
    nix::sys::stat::fstat(file).map_err(Error::errno("stat"))
}

/// The identity of what a name refers to at this moment, links not followed.
pub fn identity_at(parent: BorrowedFd<'_>, name: &OsStr) -> Result<Identity, Error> {
    nix::sys::stat::fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)
        .map(|stat| Identity::of(&stat))
        .map_err(Error::errno("stat an entry"))
}

pub fn readlink(link: BorrowedFd<'_>) -> Result<OsString, Error> {
    nix::fcntl::readlinkat(link, "").map_err(Error::errno("read a symbolic link"))
}

/// Whether this process can act as other users: only as root of the host's own user namespace.
pub fn can_change_identity() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Acts as the caller until the guard is dropped: what is made belongs to it, and the host's file system grants what
/// it would grant the caller itself, access control lists included. The kernel has checked modes already
/// (`default_permissions`), but from attributes that may be a second old, and it does not know every rule of the host.
/// `None` where this process is the only user it can be.
pub fn act_as(caller: &Caller) -> Result<Option<ScopedIdentity>, Error> {
    if !can_change_identity() {
        return Ok(None);
    }
    // A process that is gone, or that has no number here, is taken for one without groups and capabilities.
    let credentials = Credentials::of_process(caller.pid, caller.uid, caller.gid)
        .unwrap_or_else(|_| Credentials::of_user(caller.uid, caller.gid, Vec::new()));
    act_with(&credentials).map(Some)
}

/// The same with credentials that are known.
pub fn act_with(credentials: &Credentials) -> Result<ScopedIdentity, Error> {
    ScopedIdentity::assume(credentials).map_err(Error::os("act as another user"))
}

/// The caller's umask for this thread, which owns one (unshare(2), CLONE_FS). The kernel leaves applying it to us
/// (FUSE_DONT_MASK), because a directory's default access control list takes its place.
struct ScopedUmask;

impl ScopedUmask {
    fn set(umask: u32) -> Self {
        nix::sys::stat::umask(Mode::from_bits_truncate(umask & 0o777));
        Self
    }
}

impl Drop for ScopedUmask {
    fn drop(&mut self) {
        nix::sys::stat::umask(Mode::empty());
    }
}

/// The mode of what is made, and the caller's umask.
#[derive(Debug, Clone, Copy)]
pub struct NewMode {
    pub mode: u32,
    pub umask: u32,
}

pub fn create(
    _grant: &WriteGrant,
    caller: &Caller,
    parent: BorrowedFd<'_>,
    name: &OsStr,
    flags: OFlag,
    new: NewMode,
) -> Result<OwnedFd, Error> {
    check_name(name)?;
    let _identity = act_as(caller)?;
    let _umask = ScopedUmask::set(new.umask);
    // The kernel believes that it made the file and checks no permission to it, so it must really be made here.
    let made = flags | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
    match open_beneath(parent, name, made, Mode::from_bits_truncate(new.mode & 0o7777)) {
        // Somebody took the name since the kernel looked. ESTALE makes it look again and open what is there
        // (fs/namei.c, do_filp_open: LOOKUP_REVAL).
        Err(Errno::EEXIST) if !flags.contains(OFlag::O_EXCL) => {
            Err(Error::Os { doing: "create a file", source: Errno::ESTALE.into() })
        }
        result => result.map_err(Error::errno("create a file")),
    }
}

pub fn mkdir(
    _grant: &WriteGrant,
    caller: &Caller,
    parent: BorrowedFd<'_>,
    name: &OsStr,
    new: NewMode,
) -> Result<(), Error> {
    check_name(name)?;
    let _identity = act_as(caller)?;
    let _umask = ScopedUmask::set(new.umask);
    nix::sys::stat::mkdirat(parent, name, Mode::from_bits_truncate(new.mode))
        .map_err(Error::errno("create a directory"))
}

/// Makes a FIFO or a socket; devices are refused. Regular files are made by [`create`].
pub fn mknod(
    _grant: &WriteGrant,
    caller: &Caller,
    parent: BorrowedFd<'_>,
    name: &OsStr,
    new: NewMode,
) -> Result<(), Error> {
    check_name(name)?;
    let kind = SFlag::from_bits_truncate(new.mode & SFlag::S_IFMT.bits());
    if kind == SFlag::S_IFCHR || kind == SFlag::S_IFBLK {
        return Err(Error::Refused("making a device node"));
    }
    let _identity = act_as(caller)?;
    let _umask = ScopedUmask::set(new.umask);
    nix::sys::stat::mknodat(parent, name, kind, Mode::from_bits_truncate(new.mode), 0)
        .map_err(Error::errno("make a node"))
}

pub fn symlink(
    _grant: &WriteGrant,
    caller: &Caller,
    parent: BorrowedFd<'_>,
    name: &OsStr,
    target: &OsStr,
) -> Result<(), Error> {
    check_name(name)?;
    let _identity = act_as(caller)?;
    nix::unistd::symlinkat(target, parent, name).map_err(Error::errno("create a symbolic link"))
}

pub fn link(
    _grant: &WriteGrant,
    caller: &Caller,
    file: BorrowedFd<'_>,
    parent: BorrowedFd<'_>,
    name: &OsStr,
) -> Result<(), Error> {
    check_name(name)?;
    let _identity = act_as(caller)?;
    sys::file::link_to(file, parent, name).map_err(Error::os("create a hard link"))
}

pub fn rename(
    _grant: &WriteGrant,
    caller: &Caller,
    from: (BorrowedFd<'_>, &OsStr),
    to: (BorrowedFd<'_>, &OsStr),
    flags: u32,
) -> Result<(), Error> {
    check_name(from.1)?;
    check_name(to.1)?;
    let _identity = act_as(caller)?;
    sys::file::renameat2(from.0, from.1, to.0, to.1, flags).map_err(Error::os("rename"))
}

/// Whether a name of a file or of a directory is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    Unlink,
    Rmdir,
}

pub fn remove(
    _grant: &WriteGrant,
    caller: &Caller,
    parent: BorrowedFd<'_>,
    name: &OsStr,
    removal: Removal,
) -> Result<(), Error> {
    check_name(name)?;
    let flag = match removal {
        Removal::Unlink => nix::unistd::UnlinkatFlags::NoRemoveDir,
        Removal::Rmdir => nix::unistd::UnlinkatFlags::RemoveDir,
    };
    let _identity = act_as(caller)?;
    nix::unistd::unlinkat(parent, name, flag).map_err(Error::errno("remove a name"))
}

pub fn chmod(_grant: &WriteGrant, file: BorrowedFd<'_>, mode: u32) -> Result<(), Error> {
    sys::file::chmod(file, mode).map_err(Error::os("change a mode"))
}

pub fn chown(
    _grant: &WriteGrant,
    file: BorrowedFd<'_>,
    uid: Option<u32>,
    gid: Option<u32>,
) -> Result<(), Error> {
    nix::unistd::fchownat(
        file,
        "",
        uid.map(nix::unistd::Uid::from_raw),
        gid.map(nix::unistd::Gid::from_raw),
        AtFlags::AT_EMPTY_PATH | AtFlags::AT_SYMLINK_NOFOLLOW,
    )
    .map_err(Error::errno("change an owner"))
}

pub fn truncate(_grant: &WriteGrant, file: BorrowedFd<'_>, size: u64) -> Result<(), Error> {
    let size = i64::try_from(size)
        .map_err(|_| Error::Os { doing: "change a size", source: Errno::EFBIG.into() })?;
    nix::unistd::ftruncate(file, size).map_err(Error::errno("change a size"))
}

pub fn set_times(
    _grant: &WriteGrant,
    file: BorrowedFd<'_>,
    access: sys::file::TimeChange,
    modification: sys::file::TimeChange,
) -> Result<(), Error> {
    sys::file::set_times(file, access, modification).map_err(Error::os("change times"))
}

pub fn setxattr(
    _grant: &WriteGrant,
    file: BorrowedFd<'_>,
    name: &OsStr,
    value: &[u8],
    flags: i32,
) -> Result<(), Error> {
    sys::file::setxattr(file, name, value, flags).map_err(Error::os("set an attribute"))
}

pub fn removexattr(_grant: &WriteGrant, file: BorrowedFd<'_>, name: &OsStr) -> Result<(), Error> {
    sys::file::removexattr(file, name).map_err(Error::os("remove an attribute"))
}
