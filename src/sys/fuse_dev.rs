//! The FUSE device: mount, FUSE_INIT and the calls that fuser does not offer.
//!
//! Belljar mounts and answers FUSE_INIT itself, so that whoever holds the descriptor can hand a live connection to a
//! new server later. Layouts and flags are those of linux/fuse.h (ABI 7.45).

use super::mount;
use nix::errno::Errno;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::OnceLock;

/// The kernel refuses a read buffer below this (FUSE_MIN_READ_BUFFER).
const READ_BUFFER_BYTES: usize = 8192;
const HEADER_IN_BYTES: usize = 40;
const INIT_IN_BYTES: usize = 64;
const FUSE_INIT: u32 = 26;
const FUSE_MAJOR: u32 = 7;
/// The ABI that fuser 0.18 speaks; the kernel takes the smaller of its own and this.
const FUSE_MINOR: u32 = 40;
/// `struct fuse_init_in` grew to 64 bytes with FUSE_INIT_EXT in ABI 7.36 (Linux 5.17).
const MINOR_WITH_INIT_EXT: u32 = 36;

/// Largest write request, in bytes; the kernel caps it at `fs.fuse.max_pages_limit`, 1 MiB by default.
const MAX_WRITE_BYTES: u32 = 1024 * 1024;
const MAX_PAGES: u16 = (MAX_WRITE_BYTES / 4096) as u16;
/// Requests the kernel may have in flight that nobody waits for; RELEASE is one of them, and a run that ends closes
/// all its files at once. Chosen, not measured.
const MAX_BACKGROUND: u16 = 64;

/// Capabilities of FUSE_INIT (linux/fuse.h).
pub mod flags {
    pub const ASYNC_READ: u64 = 1 << 0;
    pub const BIG_WRITES: u64 = 1 << 5;
    pub const DONT_MASK: u64 = 1 << 6;
    pub const AUTO_INVAL_DATA: u64 = 1 << 12;
    pub const DO_READDIRPLUS: u64 = 1 << 13;
    pub const READDIRPLUS_AUTO: u64 = 1 << 14;
    pub const ASYNC_DIO: u64 = 1 << 15;
    pub const PARALLEL_DIROPS: u64 = 1 << 18;
    pub const POSIX_ACL: u64 = 1 << 20;
    pub const MAX_PAGES: u64 = 1 << 22;
    pub const CACHE_SYMLINKS: u64 = 1 << 23;
    pub const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    pub const INIT_EXT: u64 = 1 << 30;
    pub const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;
    pub const PASSTHROUGH: u64 = 1 << 37;
}

/// Who may use a FUSE mount, besides the server's own user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Only processes of exactly the mounting user.
    Owner,
    /// Every user; the kernel still checks modes (`default_permissions`).
    Everyone,
}

/// What the server asks of the connection.
#[derive(Debug, Clone, Copy)]
pub struct InitRequest {
    pub wanted: u64,
    /// How deep the backing file systems may be stacked: 0 turns passthrough off.
    pub max_stack_depth: u32,
}

/// What the kernel and the server agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    pub minor: u32,
    pub flags: u64,
}

impl Connection {
    pub fn passthrough(&self) -> bool {
        self.flags & flags::PASSTHROUGH != 0
    }
}

/// Opens `/dev/fuse`. The mount must be made from the same user namespace as this open (fs/fuse/inode.c, `fuse_fill_super`).
pub fn open() -> io::Result<OwnedFd> {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open("/dev/fuse")?;
    Ok(file.into())
}

/// Makes a detached FUSE mount served through `device`. The kernel queues FUSE_INIT; [`initialize`] must answer it.
pub fn mount_detached(device: BorrowedFd<'_>, audience: Audience) -> io::Result<OwnedFd> {
    let context = mount::fsopen(c"fuse")?;
    let set = |key: &CStr, value: String| {
        let value = CString::new(value).expect("digits and words hold no NUL");
        mount::fsconfig_set_string(context.as_fd(), key, &value)
    };
    set(c"source", "belljar".to_owned())?;
    set(c"subtype", "belljar".to_owned())?;
    set(c"fd", device.as_raw_fd().to_string())?;
    // The root is a directory; the mode is in octal (fs/fuse/inode.c, OPT_ROOTMODE).
    set(c"rootmode", "40000".to_owned())?;
    set(c"user_id", nix::unistd::geteuid().to_string())?;
    set(c"group_id", nix::unistd::getegid().to_string())?;
    mount::fsconfig_set_flag(context.as_fd(), c"default_permissions")?;
    match audience {
        Audience::Everyone => mount::fsconfig_set_flag(context.as_fd(), c"allow_other")?,
        Audience::Owner => {}
    }
    mount::fsconfig_create(context.as_fd())?;
    mount::fsmount(context.as_fd(), mount::MountAttr::NO_SUID | mount::MountAttr::NO_DEV)
}

/// Answers the kernel's FUSE_INIT, which is the first request of a connection.
pub fn initialize(device: BorrowedFd<'_>, request: InitRequest) -> io::Result<Connection> {
    let mut file = File::from(device.try_clone_to_owned()?);
    let mut buffer = vec![0u8; READ_BUFFER_BYTES];
    let length = loop {
        match file.read(&mut buffer) {
            Ok(length) => break length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
    };
    let field = |at: usize| -> u32 {
        u32::from_ne_bytes(buffer[at..at + 4].try_into().expect("four bytes were sliced"))
    };
    if length < HEADER_IN_BYTES + INIT_IN_BYTES || field(4) != FUSE_INIT {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!(
                "the first FUSE request has {length} bytes and opcode {}, not FUSE_INIT of ABI 7.{MINOR_WITH_INIT_EXT} or later; Linux 5.17 is needed",
                field(4)
            ),
        ));
    }
    let unique = u64::from_ne_bytes(buffer[8..16].try_into().expect("eight bytes were sliced"));
    let (major, minor, max_readahead) = (field(40), field(44), field(48));
    if major != FUSE_MAJOR || minor < MINOR_WITH_INIT_EXT {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!(
                "the kernel speaks FUSE ABI {major}.{minor}; 7.{MINOR_WITH_INIT_EXT} (Linux 5.17) or later is needed"
            ),
        ));
    }
    let mut offered = u64::from(field(52));
    if offered & flags::INIT_EXT != 0 {
        offered |= u64::from(field(56)) << 32;
    }
    let mut agreed = offered & (request.wanted | flags::INIT_EXT | flags::MAX_PAGES);
    if request.max_stack_depth == 0 {
        agreed &= !flags::PASSTHROUGH;
    }
    let depth = if agreed & flags::PASSTHROUGH != 0 { request.max_stack_depth } else { 0 };

    let mut answer = Vec::with_capacity(80);
    answer.extend_from_slice(&80u32.to_ne_bytes());
    answer.extend_from_slice(&0i32.to_ne_bytes());
    answer.extend_from_slice(&unique.to_ne_bytes());
    answer.extend_from_slice(&FUSE_MAJOR.to_ne_bytes());
    answer.extend_from_slice(&FUSE_MINOR.to_ne_bytes());
    answer.extend_from_slice(&max_readahead.to_ne_bytes());
    answer.extend_from_slice(&((agreed & 0xffff_ffff) as u32).to_ne_bytes());
    answer.extend_from_slice(&MAX_BACKGROUND.to_ne_bytes());
    answer.extend_from_slice(&(MAX_BACKGROUND * 3 / 4).to_ne_bytes());
    answer.extend_from_slice(&MAX_WRITE_BYTES.to_ne_bytes());
    answer.extend_from_slice(&1u32.to_ne_bytes()); // time_gran: nanoseconds.
    answer.extend_from_slice(&MAX_PAGES.to_ne_bytes());
    answer.extend_from_slice(&0u16.to_ne_bytes()); // map_alignment: DAX only.
    answer.extend_from_slice(&((agreed >> 32) as u32).to_ne_bytes());
    answer.extend_from_slice(&depth.to_ne_bytes());
    answer.resize(80, 0); // request_timeout and what later ABIs add: zero is off.
    file.write_all(&answer)?;
    Ok(Connection { minor: minor.min(FUSE_MINOR), flags: agreed })
}

/// A FUSE_INIT request as the kernel would send it, for a server that insists on a handshake over a connection whose
/// own took place already.
pub fn synthetic_init(connection: Connection) -> Vec<u8> {
    let mut request = Vec::with_capacity(HEADER_IN_BYTES + INIT_IN_BYTES);
    request.extend_from_slice(&((HEADER_IN_BYTES + INIT_IN_BYTES) as u32).to_ne_bytes());
    request.extend_from_slice(&FUSE_INIT.to_ne_bytes());
    request.extend_from_slice(&1u64.to_ne_bytes());
    request.resize(HEADER_IN_BYTES, 0);
    request.extend_from_slice(&FUSE_MAJOR.to_ne_bytes());
    request.extend_from_slice(&connection.minor.to_ne_bytes());
    request.extend_from_slice(&(128 * 1024u32).to_ne_bytes());
    request.extend_from_slice(&((connection.flags & 0xffff_ffff) as u32).to_ne_bytes());
    request.extend_from_slice(&((connection.flags >> 32) as u32).to_ne_bytes());
    request.resize(HEADER_IN_BYTES + INIT_IN_BYTES, 0);
    request
}

/// Makes the descriptor number behind `target` refer to the open file of `source` (dup3(2)).
///
/// `target` keeps its number and its owner; only what it refers to changes. The caller must own the thing that holds
/// `target` and know that it only reads, writes and closes it.
pub fn redirect(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both numbers are open for the duration of the call because they are borrowed. dup3 closes what `target`
    // referred to and puts a new reference in its place in one step, so the number is never free for another thread
    // to be given; ownership of the number stays where it was.
    let result = unsafe { libc::dup3(source.as_raw_fd(), target.as_raw_fd(), libc::O_CLOEXEC) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// Where fusectl is mounted on most hosts (Documentation/filesystems/fuse/fuse.rst, "Control filesystem").
const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// Aborts the connection of the FUSE mount whose `st_dev` has this minor number: waiting callers get ENOTCONN or
/// ECONNABORTED and the server ENODEV. Needs the privilege to mount fusectl, or that the host has mounted it: there the
/// file to write to belongs to the user who made the mount.
pub fn abort(minor: u64) -> io::Result<()> {
    let hosts;
    let control = match own_fusectl() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            hosts = nix::fcntl::open(
                CONNECTIONS,
                nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_CLOEXEC,
                nix::sys::stat::Mode::empty(),
            )?;
            hosts.as_fd()
        }
        control => control?,
    };
    let file = nix::fcntl::openat(
        control,
        format!("{minor}/abort").as_str(),
        nix::fcntl::OFlag::O_WRONLY | nix::fcntl::OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )?;
    File::from(file).write_all(b"1")
}

/// Mounted when it is first needed, attached nowhere, and kept: letting go of a mount waits for all processors (fs/namespace.c,
/// `namespace_unlock`), which takes 0.1 ms on an idle machine and many on a busy one. A machine has one such file system, so that
/// connections made later appear in it.
fn own_fusectl() -> io::Result<BorrowedFd<'static>> {
    static KEPT: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(kept) = KEPT.get() {
        return Ok(kept.as_fd());
    }
    let context = mount::fsopen(c"fusectl")?;
    mount::fsconfig_create(context.as_fd())?;
    let mounted = mount::fsmount(context.as_fd(), mount::MountAttr::NONE)?;
    // Whoever was first wins.
    Ok(KEPT.get_or_init(|| mounted).as_fd())
}
