//! The mount calls that take descriptors instead of paths: open_tree(2), move_mount(2), mount_setattr(2), fsopen(2) and its
//! kin, which nix does not wrap.
//!
//! A mount made here is *detached* until [`move_mount`] attaches it: it is in nobody's mount table, and it is gone with its last
//! descriptor. Nothing is left to clean up when the process dies half way.

use nix::NixPath;
use std::ffi::CStr;
use std::io;
use std::ops::BitOr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

/// How [`open_tree`] opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenTree(libc::c_uint);

impl OpenTree {
    /// An O_PATH descriptor of what is there.
    pub const NONE: Self = Self(0);
    /// A detached copy of the mount at the path: the descriptor owns it.
    pub const CLONE: Self = Self(libc::OPEN_TREE_CLONE);
    /// With [`CLONE`](Self::CLONE): also the mounts below.
    pub const RECURSIVE: Self = Self(libc::AT_RECURSIVE as libc::c_uint);
    /// A symbolic link at the end of the path is the object, not where it points.
    pub const NO_FOLLOW: Self = Self(libc::AT_SYMLINK_NOFOLLOW as libc::c_uint);
}

impl BitOr for OpenTree {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Attributes of one mount (not of its file system).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MountAttr(u64);

impl MountAttr {
    pub const NONE: Self = Self(0);
    pub const READ_ONLY: Self = Self(libc::MOUNT_ATTR_RDONLY);
    pub const NO_SUID: Self = Self(libc::MOUNT_ATTR_NOSUID);
    pub const NO_DEV: Self = Self(libc::MOUNT_ATTR_NODEV);
    pub const NO_EXEC: Self = Self(libc::MOUNT_ATTR_NOEXEC);
    pub const NO_SYMLINK_FOLLOW: Self = Self(libc::MOUNT_ATTR_NOSYMFOLLOW);

    /// Both; as `|`, for constants.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOr for MountAttr {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// open_tree(2). An empty path means what `directory` itself names, which may also be a file. Close-on-exec.
pub fn open_tree<P: ?Sized + NixPath>(
    directory: impl AsFd,
    path: &P,
    flags: OpenTree,
) -> io::Result<OwnedFd> {
    let flags = flags.0 | libc::OPEN_TREE_CLOEXEC | empty_path(path);
    with_c_str(path, |path| {
        // SAFETY: the descriptor is borrowed for the call and `path` is a NUL-terminated string that outlives it.
        owned(unsafe {
            libc::syscall(libc::SYS_open_tree, directory.as_fd().as_raw_fd(), path.as_ptr(), flags)
        })
    })
}

/// move_mount(2): attaches the mount that `from` is (or is the root of) at `to_path` below `to_directory`; an empty
/// path means `to_directory` itself. A symbolic link at the end of the path is not followed.
pub fn move_mount<P: ?Sized + NixPath>(
    from: impl AsFd,
    to_directory: impl AsFd,
    to_path: &P,
) -> io::Result<()> {
    let mut flags = libc::MOVE_MOUNT_F_EMPTY_PATH;
    if to_path.is_empty() {
        flags |= libc::MOVE_MOUNT_T_EMPTY_PATH;
    }
    with_c_str(to_path, |to_path| {
        // SAFETY: both descriptors are borrowed for the call; both paths are NUL-terminated and outlive it.
        done(unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                from.as_fd().as_raw_fd(),
                c"".as_ptr(),
                to_directory.as_fd().as_raw_fd(),
                to_path.as_ptr(),
                flags,
            )
        })
    })
}

/// mount_setattr(2): adds attributes to the mount at `path` (empty: `mount` itself), `recursive` to every mount below too.
///
/// `private` also ends the propagation of mount events. A clone of a *shared* tree needs it: otherwise a file system that is
/// mounted below the source later appears inside the clone, without these attributes.
pub fn mount_setattr<P: ?Sized + NixPath>(
    mount: impl AsFd,
    path: &P,
    recursive: bool,
    set: MountAttr,
    private: bool,
) -> io::Result<()> {
    let mut attributes = libc::mount_attr {
        attr_set: set.0,
        attr_clr: 0,
        propagation: if private { libc::MS_PRIVATE } else { 0 },
        userns_fd: 0,
    };
    let mut flags = empty_path(path);
    if recursive {
        flags |= libc::AT_RECURSIVE as libc::c_uint;
    }
    with_c_str(path, |path| {
        // SAFETY: the descriptor is borrowed for the call, `path` is NUL-terminated, and the size passed is that of the
        // structure, which is initialised and outlives the call.
        done(unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                mount.as_fd().as_raw_fd(),
                path.as_ptr(),
                flags,
                &raw mut attributes,
                size_of::<libc::mount_attr>(),
            )
        })
    })
}

/// A detached copy of the tree that `directory` (or file) names, with these attributes on it and on every mount below, and cut off
/// from what is mounted in the source later. The descriptor may be O_PATH; it must come from the caller's mount namespace.
pub fn detach(directory: impl AsFd, attributes: MountAttr) -> io::Result<OwnedFd> {
    // Recursive, since a copy of a part of a tree must not uncover what another mount hides; the kernel refuses that (EINVAL)
    // in a user namespace.
    let tree = open_tree(directory, "", OpenTree::CLONE | OpenTree::RECURSIVE)?;
    mount_setattr(&tree, "", true, attributes, true)?;
    Ok(tree)
}

/// fsopen(2): a context in which a file system of this type is configured, then created.
pub fn fsopen(filesystem: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: `filesystem` is NUL-terminated and outlives the call.
    owned(unsafe { libc::syscall(libc::SYS_fsopen, filesystem.as_ptr(), libc::FSOPEN_CLOEXEC) })
}

/// fsconfig(2), `FSCONFIG_SET_STRING`: `key=value`.
pub fn fsconfig_set_string(context: impl AsFd, key: &CStr, value: &CStr) -> io::Result<()> {
    // SAFETY: `key` and `value` are NUL-terminated and outlive the call.
    done(unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_fd().as_raw_fd(),
            libc::FSCONFIG_SET_STRING,
            key.as_ptr(),
            value.as_ptr(),
            0,
        )
    })
}

/// fsconfig(2), `FSCONFIG_SET_FLAG`: `key` alone.
pub fn fsconfig_set_flag(context: impl AsFd, key: &CStr) -> io::Result<()> {
    // SAFETY: `key` is NUL-terminated and outlives the call; the value must be a null pointer for a flag.
    done(unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_fd().as_raw_fd(),
            libc::FSCONFIG_SET_FLAG,
            key.as_ptr(),
            std::ptr::null::<libc::c_char>(),
            0,
        )
    })
}

/// fsconfig(2), `FSCONFIG_CMD_CREATE`: makes the superblock.
pub fn fsconfig_create(context: impl AsFd) -> io::Result<()> {
    // SAFETY: the command takes neither key nor value; both must be null pointers.
    done(unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_fd().as_raw_fd(),
            libc::FSCONFIG_CMD_CREATE,
            std::ptr::null::<libc::c_char>(),
            std::ptr::null::<libc::c_char>(),
            0,
        )
    })
}

/// fsmount(2): a detached mount of the created superblock.
pub fn fsmount(context: impl AsFd, attributes: MountAttr) -> io::Result<OwnedFd> {
    // `FSMOUNT_CLOEXEC` (linux/mount.h), which libc does not name.
    const FSMOUNT_CLOEXEC: libc::c_uint = 1;
    // SAFETY: the descriptor is borrowed for the call; the other arguments are numbers.
    owned(unsafe {
        libc::syscall(
            libc::SYS_fsmount,
            context.as_fd().as_raw_fd(),
            FSMOUNT_CLOEXEC,
            attributes.0 as libc::c_uint,
        )
    })
}

/// What the kernel said about the last failure in this context, in its own words; empty when it said nothing.
///
/// One read(2) gives one message such as `e VFS: Mount too revealing`; ENODATA ends them (fsopen(2)).
pub fn fs_context_messages(context: impl AsFd) -> String {
    let mut text = String::new();
    // Bounded: the kernel keeps at most eight messages (`struct fc_log`).
    for _ in 0..8 {
        let mut buffer = [0; 256];
        match nix::unistd::read(context.as_fd(), &mut buffer) {
            Ok(length) if length > 0 => {
                if !text.is_empty() {
                    text.push_str("; ");
                }
                let message = String::from_utf8_lossy(&buffer[..length]);
                text.push_str(message.get(2..).unwrap_or(&message).trim_end());
            }
            Ok(_) | Err(_) => break,
        }
    }
    text
}

/// umount2(2), lazily, and never through a symbolic link: the mount leaves the tree at once and ends with its last user.
pub fn unmount_detach<P: ?Sized + NixPath>(path: &P) -> io::Result<()> {
    use nix::mount::MntFlags;
    Ok(nix::mount::umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?)
}

fn empty_path<P: ?Sized + NixPath>(path: &P) -> libc::c_uint {
    if path.is_empty() { libc::AT_EMPTY_PATH as libc::c_uint } else { 0 }
}

fn with_c_str<P: ?Sized + NixPath, T>(
    path: &P,
    call: impl FnOnce(&CStr) -> io::Result<T>,
) -> io::Result<T> {
    path.with_nix_path(call)?
}

fn done(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    done(result)?;
    // SAFETY: the call succeeded, so that its result is a fresh descriptor which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(result as RawFd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::AT_FDCWD;

    #[test]
    fn a_path_that_does_not_exist_is_enoent() {
        let error = open_tree(AT_FDCWD, "/does/not/exist", OpenTree::NONE).expect_err("must fail");
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }

    #[test]
    fn a_detached_tmpfs_can_be_used_without_being_mounted() {
        let context = fsopen(c"tmpfs").expect("needs CAP_SYS_ADMIN: run the tests as root");
        fsconfig_set_string(&context, c"mode", c"0711").expect("known key");
        fsconfig_create(&context).expect("create");
        let mount = fsmount(&context, MountAttr::NO_SUID | MountAttr::NO_DEV).expect("mount");
        let stat = nix::sys::stat::fstat(&mount).expect("stat");
        assert_eq!(stat.st_mode & 0o7777, 0o711);
        mount_setattr(&mount, "", true, MountAttr::READ_ONLY, true).expect("attributes");
        let error = nix::sys::stat::mkdirat(&mount, "x", nix::sys::stat::Mode::S_IRWXU);
        assert_eq!(error, Err(nix::errno::Errno::EROFS));
    }

    #[test]
    fn a_detached_copy_does_not_see_what_is_mounted_in_its_source_later() {
        use nix::mount::{MsFlags, mount};
        // A mount namespace for this thread alone.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
            .expect("needs CAP_SYS_ADMIN: run the tests as root");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private");
        let source = tempfile::tempdir().expect("temporary directory");
        let below = source.path().join("below");
        mount(Some("tmpfs"), source.path(), Some("tmpfs"), MsFlags::empty(), none).expect("tmpfs");
        mount(none, source.path(), none, MsFlags::MS_SHARED, none).expect("shared");
        std::fs::create_dir(&below).expect("mkdir");
        let directory = std::fs::File::open(source.path()).expect("open");
        let copy = detach(&directory, MountAttr::READ_ONLY).expect("detach");
        // Mount events reach only what is attached.
        let place = tempfile::tempdir().expect("temporary directory");
        move_mount(&copy, AT_FDCWD, place.path()).expect("attach");
        mount(Some("tmpfs"), &below, Some("tmpfs"), MsFlags::empty(), none).expect("tmpfs");
        let make = |name: &str| nix::sys::stat::mkdirat(&copy, name, nix::sys::stat::Mode::S_IRWXU);
        assert_eq!(make("x"), Err(nix::errno::Errno::EROFS));
        assert_eq!(make("below/x"), Err(nix::errno::Errno::EROFS));
    }

    #[test]
    fn the_kernel_says_which_option_it_refuses() {
        let context = fsopen(c"tmpfs").expect("needs CAP_SYS_ADMIN: run the tests as root");
        fsconfig_set_string(&context, c"nosuchkey", c"1").expect_err("unknown key");
        let messages = fs_context_messages(&context);
        assert!(messages.contains("nosuchkey"), "{messages:?}");
    }
}
