//! landlock_create_ruleset(2), as far as it says what this kernel has.

use std::io;

/// `LANDLOCK_CREATE_RULESET_VERSION` of linux/landlock.h.
const VERSION: libc::c_uint = 1;

/// The version of the interface: ENOSYS without Landlock in the kernel, EOPNOTSUPP where it was left out at boot.
pub fn abi() -> io::Result<u32> {
    // SAFETY: with this flag the call takes no attributes and makes nothing; it answers a number.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0usize,
            VERSION,
        )
    };
    u32::try_from(version).map_err(|_| io::Error::last_os_error())
}
