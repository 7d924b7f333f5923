//! The root file system of a sandbox: what is in it, in which order it is built, and that nothing of the host's is left.
//!
//! Built by the first process in a mount namespace of its own. While `/` is still the host's, detached copies are taken
//! of what the host lends, already read-only. Then the new root takes its place, the host's mounts leave the namespace,
//! and everything is attached by paths that can only resolve inside the new root: in [`begin`] what every run has alike, in
//! [`finish`] what a plan adds.
//!
//! Invariant: the root itself, and whatever is not meant to be written, is on a read-only mount, so that not even the owner of a
//! file (user id 0 owns most of them) can write to it or change its mode.

mod dev;
mod etc;
mod given;
mod host;
mod proc;
mod proof;
mod survey;

pub use dev::prove as prove_devices;
pub use given::Given;
pub use proof::{MountTable, prove_read_only_mounts, prove_root};
pub use survey::{Survey, Surveyor};

use super::layer::LayerName;
use super::plan::{API_DIRECTORY, Basis, SandboxPlan, WORKSPACE};
use super::protocol::SetupFailure;
use crate::model::access::Access;
use crate::sys::mount::{self, MountAttr, OpenTree};
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat, umask};
use nix::unistd::{Gid, Uid, chdir, chown, fchdir, pivot_root};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

const STEP: &str = "rootfs";

/// Room for the directories and small files of the root itself, in bytes; read-only once it is built.
const ROOT_SIZE: &CStr = c"size=4m";

/// Attributes of what the host lends.
const LENT: MountAttr = MountAttr::READ_ONLY.and(MountAttr::NO_SUID).and(MountAttr::NO_DEV);

/// The mounts that the daemon hands over, detached.
#[derive(Debug)]
pub struct Handed {
    pub workspace: OwnedFd,
    pub control: OwnedFd,
    pub artifacts: Option<OwnedFd>,
    pub api_directory: Option<OwnedFd>,
    pub expose: Vec<OwnedFd>,
}

/// A root file system that waits for what a plan adds.
#[derive(Debug)]
pub struct Begun {
    root: OwnedFd,
    proc: OwnedFd,
    given: Option<Given>,
}

/// What a basis says that it is begun with.
#[derive(Debug, Default)]
pub struct Lent {
    /// The run's own terminal.
    pub terminal: Option<OwnedFd>,
    /// The mount of a root in the place of what the host lends.
    pub rootfs: Option<OwnedFd>,
}

/// Builds of the root file system what every run of that basis has alike, and enters it.
pub fn begin(basis: &Basis, with: &Lent) -> Result<Begun, SetupFailure> {
    // For the files made here, and for the command, whatever the daemon's own is.
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    mount::mount_setattr(AT_FDCWD, "/", true, MountAttr::NONE, true)
        .map_err(because("make every mount private"))?;
    let lent = host::gather(basis)?;
    let host_hosts = etc::host_hosts(basis);
    let devices = dev::gather(basis, with.terminal.as_ref())?;
    // The kernel gives a new /proc to a user namespace only where a whole one is visible: before the host's is gone.
    let proc = proc::create()?;
    let root = enter_new_root(basis)?;
    let given = match &with.rootfs {
        Some(tree) => Some(Given::attach(tree, basis, &lent.places())?),
        None => None,
    };
    lent.attach()?;
    etc::write(host_hosts)?;
    dev::attach_all(devices, basis)?;
    proc::attach_masked(&proc, basis)?;
    temporary_directory(basis)?;
    Ok(Begun { root, proc, given })
}

/// Completes it for a plan. The working directory is then `/`. Returns the root that was given, whose permissions are still to be
/// checked.
pub fn finish(
    plan: &SandboxPlan,
    begun: Begun,
    handed: Handed,
) -> Result<Option<Given>, SetupFailure> {
    let Begun { root, proc, given } = begun;
    etc::write_identity(plan, given.as_ref())?;
    proc::restrict(&proc, plan)?;
    home(plan)?;
    workspace(plan, handed.workspace, handed.control, handed.artifacts)?;
    if let Some(directory) = handed.api_directory {
        let attributes = LENT | MountAttr::NO_EXEC;
        attach_with(&directory, Path::new(API_DIRECTORY), attributes, "attach the run's socket")?;
    }
    expose(plan, handed.expose)?;
    if plan.builds(LayerName::RootFilesystem) {
        mount::mount_setattr(&root, "", false, LENT, false)
            .map_err(because("make the root read-only"))?;
    }
    chdir("/").map_err(because("change to the root"))?;
    Ok(given)
}

/// Mounts an empty file system, makes it the root and takes every mount of the host out of this namespace.
fn enter_new_root(basis: &Basis) -> Result<OwnedFd, SetupFailure> {
    let root = tmpfs(&[ROOT_SIZE, c"mode=0755"], MountAttr::NO_SUID | MountAttr::NO_DEV)
        .map_err(because("make the root file system"))?;
    let scratch = basis.scratch.as_path();
    mount::move_mount(&root, AT_FDCWD, scratch)
        .map_err(because(format_args!("mount the root on {}", scratch.display())))?;
    fchdir(&root).map_err(because("change to the new root"))?;
    // pivot_root(2), "pivot_root(".", ".")": the old root ends on top of the new one, where `.` finds it.
    pivot_root(".", ".").map_err(because("change the root"))?;
    mount::unmount_detach(".").map_err(because("remove the host's mounts"))?;
    chdir("/").map_err(because("change to the root"))?;
    Ok(root)
}

/// Of `/tmp` and HOME, private and in memory.
const WRITABLE: MountAttr = MountAttr::NO_SUID.and(MountAttr::NO_DEV);

fn temporary_directory(basis: &Basis) -> Result<(), SetupFailure> {
    let tmp =
        tmpfs(&[&size_option(basis), c"mode=1777"], WRITABLE).map_err(because("make /tmp"))?;
    attach(&tmp, Path::new("/tmp"), "attach /tmp")
}

fn home(plan: &SandboxPlan) -> Result<(), SetupFailure> {
    let size = option("size", plan.tmp_size_bytes);
    let (uid, gid) = (option("uid", plan.user.uid), option("gid", plan.user.gid));
    let home = tmpfs(&[&size, c"mode=0700", &uid, &gid], WRITABLE)
        .map_err(because("make the home directory"))?;
    attach(&home, &plan.home, "attach the home directory")
}

/// The workspace: read-only as a whole, and each read-write mount a mount of its own above that.
fn workspace(
    plan: &SandboxPlan,
    workspace: OwnedFd,
    control: OwnedFd,
    artifacts: Option<OwnedFd>,
) -> Result<(), SetupFailure> {
    let lendable = MountAttr::NO_SUID | MountAttr::NO_DEV;
    // Attached first: the kernel copies no part of a mount that is detached and was made in another namespace.
    attach_with(&workspace, Path::new(WORKSPACE), lendable, "attach the workspace")?;
    // Each writable part is copied before the whole becomes read-only, and keeps what it had.
    let mut writable = Vec::new();
    for (name, access) in &plan.mounts {
        match access {
            Access::ReadOnly => {}
            Access::ReadWrite => {
                let flags = OpenTree::CLONE | OpenTree::RECURSIVE | OpenTree::NO_FOLLOW;
                let copy = mount::open_tree(&workspace, name.as_str(), flags)
                    .map_err(because(format_args!("bind {WORKSPACE}/{name}")))?;
                writable.push((name, copy));
            }
        }
    }
    if plan.builds(LayerName::ReadOnlyMounts) {
        mount::mount_setattr(&workspace, "", true, LENT, true)
            .map_err(because("make the workspace read-only"))?;
    }
    for (name, copy) in writable {
        mount::move_mount(&copy, &workspace, name.as_str())
            .map_err(because(format_args!("attach {WORKSPACE}/{name}")))?;
    }
    mount::mount_setattr(&control, "", true, LENT | MountAttr::NO_EXEC, true)
        .map_err(because("restrict /workspace/.belljar"))?;
    mount::move_mount(&control, &workspace, ".belljar")
        .map_err(because("attach /workspace/.belljar"))?;
    let Some(artifacts) = artifacts else { return Ok(()) };
    mount::mount_setattr(&artifacts, "", true, LENT | MountAttr::NO_EXEC, true)
        .map_err(because("restrict /workspace/.belljar/artifacts"))?;
    mount::move_mount(&artifacts, &control, "artifacts")
        .map_err(because("attach /workspace/.belljar/artifacts"))
}

/// Exposed paths, parents before what is below them.
fn expose(plan: &SandboxPlan, trees: Vec<OwnedFd>) -> Result<(), SetupFailure> {
    let mut exposed: Vec<(&PathBuf, OwnedFd)> = plan.expose.iter().zip(trees).collect();
    exposed.sort_by_key(|(path, _)| path.components().count());
    for (path, tree) in exposed {
        let what = format!("expose {}", path.display());
        // What has to be made on the way belongs to the user where the user may write anyway.
        let inside = |place: &Path| path.starts_with(place) && path != place;
        let owner = if inside(&plan.home) || inside(Path::new("/tmp")) {
            Some((Uid::from_raw(plan.user.uid), Gid::from_raw(plan.user.gid)))
        } else {
            None
        };
        mount::mount_setattr(&tree, "", true, LENT, true).map_err(because(&what))?;
        make_mount_point(&tree, path, owner).map_err(|error| {
            let no_place = error.kind() == io::ErrorKind::ReadOnlyFilesystem;
            let mut failure: SetupFailure = because(&what)(error);
            if let (Some(given), true) = (&plan.rootfs, no_place) {
                failure
                    .message
                    .push_str(&format!("; make that place in {given}, or expose it elsewhere"));
            }
            failure
        })?;
        mount::move_mount(&tree, AT_FDCWD, path).map_err(because(&what))?;
    }
    Ok(())
}

/// A detached file system in memory. Options are `key=value`.
fn tmpfs(options: &[&CStr], attributes: MountAttr) -> io::Result<OwnedFd> {
    let context = mount::fsopen(c"tmpfs")?;
    configure(&context, options)?;
    mount::fsconfig_create(&context)?;
    mount::fsmount(&context, attributes)
}

fn configure(context: &OwnedFd, options: &[&CStr]) -> io::Result<()> {
    for option in options {
        let bytes = option.to_bytes();
        let at = bytes.iter().position(|b| *b == b'=').unwrap_or(bytes.len());
        let key = CString::new(&bytes[..at])?;
        match bytes.get(at + 1..) {
            Some(value) => mount::fsconfig_set_string(context, &key, &CString::new(value)?)?,
            None => mount::fsconfig_set_flag(context, &key)?,
        }
    }
    Ok(())
}

fn option(key: &str, value: impl std::fmt::Display) -> CString {
    CString::new(format!("{key}={value}")).expect("neither a key of ours nor a number holds a NUL")
}

fn size_option(basis: &Basis) -> CString {
    option("size", basis.tmp_size_bytes)
}

/// Attaches a detached mount, making its mount point when there is none.
fn attach(tree: &OwnedFd, at: &Path, what: &str) -> Result<(), SetupFailure> {
    make_mount_point(tree, at, None).map_err(because(what))?;
    mount::move_mount(tree, AT_FDCWD, at).map_err(because(what))
}

/// Like [`attach`], with attributes for it and all mounts below.
fn attach_with(
    tree: &OwnedFd,
    at: &Path,
    attributes: MountAttr,
    what: &str,
) -> Result<(), SetupFailure> {
    mount::mount_setattr(tree, "", true, attributes, true).map_err(because(what))?;
    attach(tree, at, what)
}

/// Makes an empty directory or file, as the tree needs, and the directories above. A link on the way resolves in the new root.
fn make_mount_point(tree: &OwnedFd, at: &Path, owner: Option<(Uid, Gid)>) -> io::Result<()> {
    if is_directory(tree)? {
        return make_directories(at, owner);
    }
    if let Some(parent) = at.parent() {
        make_directories(parent, owner)?;
    }
    match std::fs::OpenOptions::new().write(true).create_new(true).open(at) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

fn is_directory(tree: impl AsFd) -> io::Result<bool> {
    let kind = SFlag::from_bits_truncate(fstat(tree)?.st_mode) & SFlag::S_IFMT;
    Ok(kind == SFlag::S_IFDIR)
}

fn make_directories(path: &Path, owner: Option<(Uid, Gid)>) -> io::Result<()> {
    use nix::errno::Errno;
    match mkdirat(AT_FDCWD, path, Mode::from_bits_truncate(0o755)) {
        Ok(()) => {}
        // On a read-only mount the kernel says EROFS before it says whether the directory exists.
        Err(Errno::EEXIST | Errno::EROFS) if path.is_dir() => return Ok(()),
        Err(Errno::ENOENT) => {
            let parent = path.parent().ok_or(io::ErrorKind::NotFound)?;
            make_directories(parent, owner)?;
            mkdirat(AT_FDCWD, path, Mode::from_bits_truncate(0o755))?;
        }
        Err(errno) => return Err(errno.into()),
    }
    if let Some((uid, gid)) = owner {
        chown(path, Some(uid), Some(gid))?;
    }
    Ok(())
}

/// Names what was being done when the kernel refused.
fn because<E: Into<io::Error>>(what: impl std::fmt::Display) -> impl FnOnce(E) -> SetupFailure {
    move |error| SetupFailure::because(STEP, what, &error.into())
}
