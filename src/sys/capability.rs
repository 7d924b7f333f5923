//! A thread's capability sets in one call each way.
//!
//! The crate `caps` asks for all sets and writes all of them to change one bit of one; who changes several at each request does
//! it here.

use nix::errno::Errno;
use std::io;

/// `_LINUX_CAPABILITY_VERSION_3` of linux/capability.h: sets of 64 bits, in two halves.
const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    /// 0: the calling thread.
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The sets of this thread; the bits are those of linux/capability.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CapabilitySets {
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
}

impl CapabilitySets {
    /// capget(2).
    pub fn of_this_thread() -> io::Result<Self> {
        let mut header = Header { version: VERSION_3, pid: 0 };
        let mut halves = [Half::default(); 2];
        // SAFETY: with this version the kernel reads and writes one header and writes two halves, which both are that large.
        let result =
            unsafe { libc::syscall(libc::SYS_capget, &raw mut header, halves.as_mut_ptr()) };
        Errno::result(result)?;
        let whole =
            |of: fn(&Half) -> u32| u64::from(of(&halves[1])) << 32 | u64::from(of(&halves[0]));
        Ok(Self {
            effective: whole(|half| half.effective),
            permitted: whole(|half| half.permitted),
            inheritable: whole(|half| half.inheritable),
        })
    }

    /// Makes these the sets of this thread (capset(2)): EPERM for what is not permitted.
    pub fn take_effect(self) -> io::Result<()> {
        let mut header = Header { version: VERSION_3, pid: 0 };
        let half = |shift: u32| Half {
            effective: (self.effective >> shift) as u32,
            permitted: (self.permitted >> shift) as u32,
            inheritable: (self.inheritable >> shift) as u32,
        };
        let halves = [half(0), half(32)];
        // SAFETY: with this version the kernel reads one header and two halves, which both are that large, and may write the
        // header's version.
        let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, halves.as_ptr()) };
        Errno::result(result).map(drop).map_err(io::Error::from)
    }
}
