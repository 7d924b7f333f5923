//! `/proc` of a sandbox: only its own processes, and nothing of the kernel's that can be written or that is nobody's business.

use super::{LENT, attach, because};
use crate::sandbox::plan::{Basis, SandboxPlan};
use crate::sandbox::protocol::SetupFailure;
use crate::sys::mount::{self, MountAttr, OpenTree};
use nix::fcntl::AT_FDCWD;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Covered for every user, although others may read them: keys, addresses and physical memory.
const MASKED: [&str; 6] = ["kcore", "keys", "key-users", "kallsyms", "iomem", "sched_debug"];

/// A detached `/proc` of this process's pid namespace.
pub fn create() -> Result<OwnedFd, SetupFailure> {
    let context = mount::fsopen(c"proc").map_err(because("mount /proc"))?;
    let made = (|| {
        // A process that may not be traced does not show at all: neither the first process nor its environment.
        mount::fsconfig_set_string(&context, c"hidepid", c"ptraceable")?;
        mount::fsconfig_create(&context)?;
        mount::fsmount(&context, MountAttr::NO_SUID | MountAttr::NO_DEV | MountAttr::NO_EXEC)
    })();
    made.map_err(|error: io::Error| {
        let messages = mount::fs_context_messages(&context);
        let mut failure: SetupFailure = because("mount /proc")(error);
        if !messages.is_empty() {
            failure.message.push_str(&format!(": {messages}"));
        }
        if messages.contains("too revealing") {
            // `mount_too_revealing` in the kernel's fs/namespace.c.
            failure.message.push_str(
                "; parts of the /proc here are covered, and then the kernel gives no new one to a user namespace: run belljard as root, or start the container with a whole /proc (podman: --security-opt unmask=ALL, docker: --security-opt systempaths=unconfined)",
            );
        }
        failure
    })
}

/// Attaches it, and covers what nobody may read.
pub fn attach_masked(proc: &OwnedFd, basis: &Basis) -> Result<(), SetupFailure> {
    attach(proc, Path::new("/proc"), "attach /proc")?;
    if basis.user_namespace {
        // This namespace can have no child: the command cannot become root of one and reach more of the kernel.
        std::fs::write("/proc/sys/user/max_user_namespaces", "0")
            .map_err(because("forbid further user namespaces"))?;
    }
    MASKED.into_iter().try_for_each(mask)
}

/// Covers what only root may read, for root, and makes the whole of it read-only.
///
/// The whole, not `/proc/sys` alone: user id 0 owns the kernel's files, and when it changes the mode of one here, the mode changes in every
/// `/proc` of the machine.
pub fn restrict(proc: &OwnedFd, plan: &SandboxPlan) -> Result<(), SetupFailure> {
    if plan.user.uid == 0 {
        mask_what_only_root_may_read()?;
    }
    mount::mount_setattr(proc, "", false, MountAttr::READ_ONLY, false)
        .map_err(because("make /proc read-only"))
}

/// For an owner, the mode of a file needs no capability. By rule, since the list of such files grows with the kernel.
fn mask_what_only_root_may_read() -> Result<(), SetupFailure> {
    for entry in std::fs::read_dir("/proc").map_err(because("read /proc"))? {
        let entry = entry.map_err(because("read /proc"))?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| !MASKED.contains(name)) else { continue };
        let metadata = entry.metadata().map_err(because(format_args!("look at /proc/{name}")))?;
        if metadata.is_file() && metadata.permissions().mode() & 0o004 == 0 {
            mask(name)?;
        }
    }
    Ok(())
}

/// Covers a file with `/dev/null` on a mount without devices: opening it is EACCES.
fn mask(name: &str) -> Result<(), SetupFailure> {
    let path = format!("/proc/{name}");
    let what = format!("cover {path}");
    let tree = mount::open_tree(AT_FDCWD, "/dev/null", OpenTree::CLONE).map_err(because(&what))?;
    let attributes = LENT | MountAttr::NO_EXEC;
    mount::mount_setattr(&tree, "", false, attributes, true).map_err(because(&what))?;
    match mount::move_mount(&tree, AT_FDCWD, path.as_str()) {
        // This kernel has none.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        attached => attached.map_err(because(&what)),
    }
}
