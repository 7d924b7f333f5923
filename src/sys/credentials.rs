//! Credentials of one thread: the file system identity and the set-up of threads that serve the kernel.
//!
//! The raw calls are used because the C library's wrappers change every thread of the process (nptl(7)).

use std::io;

/// The thread's file system uid and gid are another user's until this is dropped (setfsuid(2)).
///
/// Becoming a user other than 0 takes the file system capabilities from the effective set; becoming 0 again gives
/// back those that are in the permitted set (capabilities(7), "Effect of user ID changes on capabilities").
#[derive(Debug)]
pub struct ScopedIdentity {
    /// A thread's identity must be restored on the thread where it was changed.
    _not_send: std::marker::PhantomData<*const ()>,
}

impl ScopedIdentity {
    /// Only for a thread whose effective uid and gid are 0.
    pub fn assume(uid: u32, gid: u32) -> io::Result<Self> {
        // The gid first: as another user the thread may not change it.
        set_fsgid(gid);
        set_fsuid(uid);
        let scoped = Self { _not_send: std::marker::PhantomData };
        // The calls report no error; asking with an invalid id (-1) tells what is in force.
        if set_fsuid(u32::MAX) != uid || set_fsgid(u32::MAX) != gid {
            drop(scoped);
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        if uid != 0 {
            // The kernel has checked the caller's permission to the directory with all its groups
            // (`default_permissions`); this thread has only one of them and must not fail where the caller may write.
            caps::raise(None, caps::CapSet::Effective, caps::Capability::CAP_DAC_OVERRIDE)
                .map_err(io::Error::other)?;
        }
        Ok(scoped)
    }
}

impl Drop for ScopedIdentity {
    fn drop(&mut self) {
        set_fsuid(0);
        set_fsgid(0);
        assert_eq!(set_fsuid(u32::MAX), 0, "a thread must not go on serving as another user");
    }
}

fn set_fsuid(uid: u32) -> u32 {
    // SAFETY: setfsuid takes an integer and touches no memory.
    (unsafe { libc::syscall(libc::SYS_setfsuid, uid) }) as u32
}

fn set_fsgid(gid: u32) -> u32 {
    // SAFETY: setfsgid takes an integer and touches no memory.
    (unsafe { libc::syscall(libc::SYS_setfsgid, gid) }) as u32
}

/// Gives this thread its own umask, root and working directory (unshare(2), CLONE_FS) and sets the umask to 0: the
/// kernel has applied the caller's umask to every mode in a FUSE request.
pub fn own_umask_zero() -> io::Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    Ok(())
}

/// Takes capabilities from this thread for good: from the effective set, and from the permitted set so that becoming
/// uid 0 again does not bring them back.
pub fn drop_capabilities(unwanted: &[caps::Capability]) -> io::Result<()> {
    for capability in unwanted {
        for set in [caps::CapSet::Effective, caps::CapSet::Permitted] {
            if caps::has_cap(None, set, *capability).map_err(io::Error::other)? {
                caps::drop(None, set, *capability).map_err(io::Error::other)?;
            }
        }
    }
    Ok(())
}
