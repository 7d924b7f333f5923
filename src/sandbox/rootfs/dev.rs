//! `/dev` of a sandbox: the devices that every program may expect, terminals of its own, shared memory, and nothing else.

use super::proof::MountTable;
use super::{attach, because, configure, size_option, tmpfs};
use crate::sandbox::layer::{LayerName, Proof};
use crate::sandbox::plan::{Basis, SandboxPlan};
use crate::sandbox::protocol::{SetupFailure, errno_text};
use crate::sandbox::terminal;
use crate::sys::mount::{self, MountAttr, OpenTree};
use nix::fcntl::AT_FDCWD;
use nix::sys::stat;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

pub const DEVICES: [&str; 6] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];

/// The numbers of these (Documentation/admin-guide/devices.txt of the kernel), in their order.
const NUMBERS: [(u64, u64); 6] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0)];

/// Major numbers of the terminals in a `/dev/pts`.
const UNIX98: std::ops::RangeInclusive<u64> = 136..=143;

/// What else is in `/dev`.
const OTHERS: [&str; 7] =
    ["/dev/fd", "/dev/stdin", "/dev/stdout", "/dev/stderr", "/dev/ptmx", "/dev/pts", "/dev/shm"];

/// What of the host's `/dev` appears inside.
#[derive(Debug)]
pub struct Gathered {
    /// In the order of [`DEVICES`].
    devices: Vec<OwnedFd>,
    terminal: Option<OwnedFd>,
}

/// Copies of the host's device files: only the host can make devices. Read-only concerns the file's mode and times, which its
/// owner could change otherwise; a device on a read-only mount takes data as ever.
pub fn gather(basis: &Basis, terminal: Option<&OwnedFd>) -> Result<Gathered, SetupFailure> {
    let devices = DEVICES
        .into_iter()
        .map(|path| {
            let copy = || {
                let tree = mount::open_tree(AT_FDCWD, path, OpenTree::CLONE | OpenTree::NO_FOLLOW)?;
                let attributes = MountAttr::READ_ONLY | MountAttr::NO_SUID | MountAttr::NO_EXEC;
                if basis.builds(LayerName::Devices) {
                    mount::mount_setattr(&tree, "", false, attributes, true)?;
                }
                Ok(tree)
            };
            copy().map_err(|error: io::Error| because(format_args!("bind {path}"))(error))
        })
        .collect::<Result<_, _>>()?;
    Ok(Gathered { devices, terminal: terminal::gather(terminal)? })
}

/// Fills `/dev`.
pub fn attach_all(gathered: Gathered, basis: &Basis) -> Result<(), SetupFailure> {
    let Gathered { devices, terminal } = gathered;
    let devices = DEVICES.into_iter().zip(&devices);
    for (path, tree) in devices.chain(terminal.iter().map(|tree| (terminal::NAME, tree))) {
        attach(tree, Path::new(path), &format!("attach {path}"))?;
    }
    for (target, path) in [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
        ("pts/ptmx", "/dev/ptmx"),
    ] {
        symlink(target, path).map_err(because(format_args!("link {path}")))?;
    }
    let terminals = terminals().map_err(because("make /dev/pts"))?;
    attach(&terminals, Path::new("/dev/pts"), "attach /dev/pts")?;
    let attributes = MountAttr::NO_SUID | MountAttr::NO_DEV;
    let shared = tmpfs(&[&size_option(basis), c"mode=1777"], attributes)
        .map_err(because("make /dev/shm"))?;
    attach(&shared, Path::new("/dev/shm"), "attach /dev/shm")
}

/// Looks at everything in `/dev`, and at whether its mounts let nobody change it.
pub fn prove(plan: &SandboxPlan, table: &MountTable) -> Result<Proof, String> {
    let entries = std::fs::read_dir("/dev").and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let entries = entries.map_err(|e| format!("list /dev: {}", errno_text(&e)))?;
    for entry in &entries {
        let path = entry.path();
        let known = DEVICES.iter().chain(&OTHERS).any(|known| path == Path::new(known));
        let is_terminal = plan.terminal && path == Path::new(terminal::NAME);
        if !known && !is_terminal {
            return Err(format!("{} is in /dev", path.display()));
        }
        if is_terminal {
            let rdev = entry.metadata().map_err(|e| errno_text(&e))?.rdev();
            if !UNIX98.contains(&stat::major(rdev)) || !table.is_read_only(&path)? {
                return Err(format!(
                    "{} is no terminal, or its mode can be changed",
                    path.display()
                ));
            }
        }
    }
    for (path, (major, minor)) in DEVICES.into_iter().zip(NUMBERS) {
        let metadata =
            std::fs::metadata(path).map_err(|e| format!("look at {path}: {}", errno_text(&e)))?;
        let (own_major, own_minor) = (stat::major(metadata.rdev()), stat::minor(metadata.rdev()));
        if (own_major, own_minor) != (major, minor) {
            return Err(format!("{path} is device {own_major}:{own_minor}"));
        }
        if !table.is_read_only(Path::new(path))? {
            return Err(format!("mode and owner of {path} can be changed"));
        }
    }
    Ok(Proof::of(
        "everything in /dev was looked at: six devices with their numbers, each on a read-only mount, and no other",
    ))
}

/// An instance of devpts that shares no terminal with any other.
fn terminals() -> io::Result<OwnedFd> {
    let context = mount::fsopen(c"devpts")?;
    configure(&context, &[c"newinstance", c"ptmxmode=0666", c"mode=0620"])?;
    mount::fsconfig_create(&context)?;
    // Read-only concerns names, modes and owners; terminals are still made and used.
    mount::fsmount(&context, MountAttr::READ_ONLY | MountAttr::NO_SUID | MountAttr::NO_EXEC)
}
