//! Credentials of one thread: acting as the process that asks, and the set-up of threads that serve the kernel.
//!
//! The raw calls are used because the C library's wrappers change every thread of the process (nptl(7)).

use caps::{CapSet, Capability};
use nix::errno::Errno;
use std::io;

/// Whose permissions an access to a file is checked against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Capabilities that go past permission checks; the bits are those of linux/capability.h.
    pub capabilities: u64,
}

/// Capabilities that matter to the permission of an access. A thread that serves files has all of them in force.
const ACCESS: [(u64, Capability); 4] = [
    (1 << 0, Capability::CAP_CHOWN),
    (1 << 1, Capability::CAP_DAC_OVERRIDE),
    (1 << 2, Capability::CAP_DAC_READ_SEARCH),
    (1 << 3, Capability::CAP_FOWNER),
];

/// Lets a file keep or get a set-group-id bit of a group that the caller is not in (inode(7)). A thread that serves files
/// has it in the permitted set only: what is written must lose its set-id bits, whoever writes.
const SET_ID: (u64, Capability) = (1 << 4, Capability::CAP_FSETID);

impl Credentials {
    /// A user without any capability.
    pub fn of_user(uid: u32, gid: u32, groups: Vec<u32>) -> Self {
        Self { uid, gid, groups, capabilities: 0 }
    }

    /// What a user has after logging in: the groups of the user data base, or none where the user is not in it.
    pub fn of_login(uid: u32, gid: u32) -> Self {
        let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok().flatten();
        let groups = user.and_then(|user| {
            let name = std::ffi::CString::new(user.name).ok()?;
            nix::unistd::getgrouplist(&name, nix::unistd::Gid::from_raw(gid)).ok()
        });
        let groups = groups.unwrap_or_default().into_iter().map(nix::unistd::Gid::as_raw);
        Self::of_user(uid, gid, groups.collect())
    }

    /// Those of a process that waits for an answer of ours, so that its number cannot become another's. `uid` and `gid`
    /// are the file system ids that the kernel sent along; groups and capabilities are read from `/proc/PID/status`.
    pub fn of_process(pid: u32, uid: u32, gid: u32) -> io::Result<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
        };
        let groups = field("Groups:")?.split_whitespace().filter_map(|id| id.parse().ok());
        let capabilities = u64::from_str_radix(field("CapEff:")?.trim(), 16)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(Self { uid, gid, groups: groups.collect(), capabilities })
    }
}

/// The thread accesses files as somebody else until this is dropped (credentials(7), setfsuid(2)).
///
/// Becoming a user other than 0 takes the file system capabilities from the effective set; becoming 0 again gives
/// back those that are in the permitted set (capabilities(7), "Effect of user ID changes on capabilities").
#[derive(Debug)]
pub struct ScopedIdentity {
    /// The thread's own groups, where they were changed.
    groups: Option<Vec<u32>>,
    /// Whether CAP_FSETID was in force.
    set_id: bool,
    /// A thread's identity must be restored on the thread where it was changed.
    _not_send: std::marker::PhantomData<*const ()>,
}

impl ScopedIdentity {
    /// Only for a thread whose effective uid and gid are 0.
    pub fn assume(who: &Credentials) -> io::Result<Self> {
        let set_id = has_effective(SET_ID.1)?;
        let mut scoped = Self { groups: None, set_id, _not_send: std::marker::PhantomData };
        let own = nix::unistd::getgroups()?;
        let own: Vec<u32> = own.into_iter().map(nix::unistd::Gid::as_raw).collect();
        if own != who.groups {
            set_groups(&who.groups)?;
            scoped.groups = Some(own);
        }
        // The gid first: as another user the thread may not change it.
        set_fsgid(who.gid);
        set_fsuid(who.uid);
        // The calls report no error; asking with an invalid id (-1) tells what is in force.
        if set_fsuid(u32::MAX) != who.uid || set_fsgid(u32::MAX) != who.gid {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        for (bit, capability) in ACCESS {
            let has = who.capabilities & bit != 0;
            if has != (who.uid == 0) {
                let change = if has { caps::raise } else { caps::drop };
                change(None, CapSet::Effective, capability).map_err(io::Error::other)?;
            }
        }
        scoped.set_effective(SET_ID.1, who.capabilities & SET_ID.0 != 0)?;
        Ok(scoped)
    }

    /// Puts a capability in force that the thread may use, or takes it out of force.
    fn set_effective(&self, capability: Capability, wanted: bool) -> io::Result<()> {
        if has_effective(capability)? == wanted {
            return Ok(());
        }
        if !wanted {
            caps::drop(None, CapSet::Effective, capability).map_err(io::Error::other)
        } else if caps::has_cap(None, CapSet::Permitted, capability).map_err(io::Error::other)? {
            caps::raise(None, CapSet::Effective, capability).map_err(io::Error::other)
        } else {
            // A daemon without it serves callers who have it with less than they could do themselves.
            Ok(())
        }
    }
}

fn has_effective(capability: Capability) -> io::Result<bool> {
    caps::has_cap(None, CapSet::Effective, capability).map_err(io::Error::other)
}

impl Drop for ScopedIdentity {
    fn drop(&mut self) {
        // As another user first, so that becoming 0 brings back every capability, also those that uid 0 had given up.
        set_fsuid(NOBODY);
        set_fsuid(0);
        set_fsgid(0);
        self.set_effective(SET_ID.1, self.set_id)
            .expect("a thread can put a capability back as it was");
        if let Some(own) = &self.groups {
            set_groups(own).expect("a thread that could take groups can take its own back");
        }
        assert_eq!(set_fsuid(u32::MAX), 0, "a thread must not go on serving as another user");
    }
}

/// Any uid other than 0.
const NOBODY: u32 = 65534;

fn set_fsuid(uid: u32) -> u32 {
    // SAFETY: setfsuid takes an integer and touches no memory.
    (unsafe { libc::syscall(libc::SYS_setfsuid, uid) }) as u32
}

fn set_fsgid(gid: u32) -> u32 {
    // SAFETY: setfsgid takes an integer and touches no memory.
    (unsafe { libc::syscall(libc::SYS_setfsgid, gid) }) as u32
}

fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: the kernel reads `groups.len()` ids from a slice of that length.
    let result = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// Gives this thread its own umask, root and working directory (unshare(2), CLONE_FS), sets the umask to 0, since the
/// kernel has applied the caller's umask to every mode in a FUSE request, and leaves the supplementary groups that the
/// daemon was started with.
pub fn own_umask_zero() -> io::Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    if nix::unistd::geteuid().is_root() {
        set_groups(&[])?;
    }
    Ok(())
}

/// Takes a capability out of force on this thread, which can put it in force again.
pub fn suspend_capability(unwanted: Capability) -> io::Result<()> {
    caps::drop(None, CapSet::Effective, unwanted).map_err(io::Error::other)
}

/// Takes capabilities from this thread for good: from the effective set, and from the permitted set so that becoming
/// uid 0 again does not bring them back.
pub fn drop_capabilities(unwanted: &[Capability]) -> io::Result<()> {
    for capability in unwanted {
        for set in [CapSet::Effective, CapSet::Permitted] {
            if caps::has_cap(None, set, *capability).map_err(io::Error::other)? {
                caps::drop(None, set, *capability).map_err(io::Error::other)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effective(capability: Capability) -> bool {
        caps::has_cap(None, CapSet::Effective, capability).expect("own capabilities")
    }

    #[test]
    fn a_thread_has_the_others_powers_for_a_while_and_then_its_own_again() {
        assert!(nix::unistd::geteuid().is_root(), "only root can act as another user");
        let before: Vec<bool> = ACCESS.iter().map(|(_, c)| effective(*c)).collect();
        let directory = tempfile::tempdir().expect("temporary directory");
        let file = directory.path().join("f");
        std::fs::write(&file, "x").expect("write");
        let mode = |mode| std::fs::Permissions::from_mode(mode);
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(directory.path(), mode(0o755)).expect("chmod");
        std::fs::set_permissions(&file, mode(0o040)).expect("chmod");
        std::os::unix::fs::chown(&file, Some(1), Some(4321)).expect("chown");
        let reads = |who: &Credentials| {
            let _scope = ScopedIdentity::assume(who).expect("assume");
            std::fs::read(&file).is_ok()
        };
        assert!(!reads(&Credentials::of_user(12345, 12345, Vec::new())));
        assert!(reads(&Credentials::of_user(12345, 12345, vec![7, 4321])));
        assert!(!reads(&Credentials::of_user(0, 0, Vec::new())), "uid 0 without capabilities");
        let root = Credentials { capabilities: !0, ..Credentials::of_user(0, 0, Vec::new()) };
        assert!(reads(&root));
        let after: Vec<bool> = ACCESS.iter().map(|(_, c)| effective(*c)).collect();
        assert_eq!(before, after);
        assert!(std::fs::read(&file).is_ok());
    }

    #[test]
    fn a_set_group_id_bit_of_a_strange_group_takes_the_callers_capability() {
        use std::os::unix::fs::PermissionsExt;
        suspend_capability(Capability::CAP_FSETID).expect("suspend");
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        std::os::unix::fs::chown(file.path(), Some(1), Some(4321)).expect("chown");
        let keeps_bit = |who: &Credentials| {
            let _scope = ScopedIdentity::assume(who).expect("assume");
            let wanted = std::fs::Permissions::from_mode(0o2755);
            std::fs::set_permissions(file.path(), wanted).expect("chmod");
            file.path().metadata().expect("stat").permissions().mode() & 0o2000 != 0
        };
        let root = Credentials { capabilities: !0, ..Credentials::of_user(0, 0, Vec::new()) };
        assert!(keeps_bit(&root));
        assert!(!effective(Capability::CAP_FSETID), "not in force afterwards");
        assert!(!keeps_bit(&Credentials::of_user(1, 1, Vec::new())));
        assert!(keeps_bit(&Credentials::of_user(1, 4321, Vec::new())));
        assert!(!effective(Capability::CAP_FSETID), "not in force afterwards");
    }

    #[test]
    fn the_credentials_of_this_process_are_read() {
        let own = Credentials::of_process(std::process::id(), 5, 6).expect("own status");
        assert_eq!((own.uid, own.gid), (5, 6));
        assert_eq!(own.capabilities & 2 != 0, effective(Capability::CAP_DAC_OVERRIDE));
    }
}
