//! Processes: fork, pidfd, inherited descriptors, signal dispositions, privileges and the user namespace of an ordinary
//! user's daemon.

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sched::CloneFlags;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::Pid;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};

/// Which side of a [`fork`] this is.
#[derive(Debug)]
pub enum Fork {
    Parent { child: Pid },
    Child,
}

/// fork(2), refused with EINVAL in a process that has several threads: the child may then run any code, since no lock of
/// another thread can be held in it.
pub fn fork() -> io::Result<Fork> {
    // A directory's link count is 2 and one for each directory in it: here one for each thread (proc_pid_task(5)).
    if std::fs::metadata("/proc/self/task")?.nlink() != 3 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: fork is unsafe because only async-signal-safe functions may be called in the child of a process with several
    // threads; this one has a single thread, as just seen, and a single thread cannot start another meanwhile.
    Ok(match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Fork::Parent { child },
        nix::unistd::ForkResult::Child => Fork::Child,
    })
}

/// Ends the process at once, without the exit handlers and buffers that belong to the process it was forked from.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` takes any number and does not return.
    unsafe { libc::_exit(code) }
}

/// pidfd_open(2): a process, by a descriptor that never names another one. Readable once the process has ended.
pub fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: the call takes numbers only.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so that its result is a fresh descriptor which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(result as RawFd) })
}

/// pidfd_send_signal(2); ESRCH when the process has ended and was reaped.
pub fn pidfd_send_signal(process: impl AsFd, signal: i32) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed for the call; a null `info` means as kill(2) does.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets this thread run when others do not want to (setpriority(2): on Linux a priority is the thread's own). It is a wish:
/// a thread whose priority stays as it is works all the same.
pub fn lower_thread_priority() {
    // SAFETY: the call takes numbers only; 0 means the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 10) };
}

/// Whether kill(2) knows the number as a signal.
pub fn is_signal(number: i32) -> bool {
    usize::try_from(number).is_ok_and(|number| (1..=KERNEL_SIGNALS).contains(&number))
}

/// kill(2) with any signal number, real-time ones too. A negative `pid` is a process group, -1 everything in reach.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: the call takes numbers only.
    if unsafe { libc::kill(pid, signal) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Puts `/dev/null` in the place of standard input, output and error: whoever is at their other ends no longer waits for this process.
pub fn release_stdio() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    Ok(())
}

/// Makes these standard input, output and error.
pub fn take_stdio([input, output, error]: [OwnedFd; 3]) -> io::Result<()> {
    nix::unistd::dup2_stdin(&input)?;
    nix::unistd::dup2_stdout(&output)?;
    nix::unistd::dup2_stderr(&error)?;
    Ok(())
}

/// Takes over every descriptor from 3 on that the parent passed: they are numbered without a gap. What lies behind a gap is
/// closed. All become close-on-exec. Works once, and belongs at the very start of `main`.
pub fn take_inherited_descriptors() -> io::Result<Vec<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Err(io::Error::other("the inherited descriptors were taken before"));
    }
    let mut taken = Vec::new();
    for number in 3.. {
        // SAFETY: F_SETFD takes numbers only, and fails with EBADF for a descriptor that is not open.
        if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
            close_from(number)?;
            break;
        }
        // SAFETY: it is open, and this function runs once, before anything in this process opened a descriptor that lasts:
        // it was inherited and nobody owns it.
        taken.push(unsafe { OwnedFd::from_raw_fd(number) });
    }
    Ok(taken)
}

/// close_range(2) to the end: for descriptors that nothing in this process owns.
fn close_from(first: RawFd) -> io::Result<()> {
    close_range(first, 0)
}

/// Makes every descriptor from `first` on close-on-exec, whoever owns it.
pub fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    close_range(first, libc::CLOSE_RANGE_CLOEXEC as libc::c_int)
}

/// Descriptors from `first` on that an execve(2) would leave open.
pub fn open_over_exec(first: RawFd) -> io::Result<Vec<RawFd>> {
    let mut left = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // SAFETY: F_GETFD takes numbers only, and fails with EBADF for a descriptor that is not open.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        if number >= first && flags >= 0 && flags & libc::FD_CLOEXEC == 0 {
            left.push(number);
        }
    }
    Ok(left)
}

fn close_range(first: RawFd, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: with the close-on-exec flag nothing is closed here. Without it the only caller is
    // `take_inherited_descriptors`, at the start of the process, where nothing owns a descriptor yet.
    let result = unsafe { libc::close_range(first as libc::c_uint, libc::c_uint::MAX, flags) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A file in memory with these bytes, which nobody can change any more (memfd_create(2), seals). Its offset is 0.
pub fn sealed_memfd(name: &CStr, bytes: &[u8]) -> io::Result<OwnedFd> {
    let descriptor = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = File::from(descriptor);
    file.write_all(bytes)?;
    io::Seek::rewind(&mut file)?;
    let seals = SealFlag::F_SEAL_SEAL
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_WRITE;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}

/// Signals that the kernel knows (`_NSIG`); a signal set has one bit for each.
const KERNEL_SIGNALS: usize = 64;

/// Gives every signal its default disposition and unblocks it. execve(2) keeps what is ignored and what is blocked, and the
/// Rust runtime ignores SIGPIPE.
pub fn reset_signals() -> io::Result<()> {
    // All zeroes: SIG_DFL, no flags, an empty mask. At least as large as the kernel's `struct sigaction` on any machine.
    let default = [0u64; 8];
    // The system call, since the C library refuses the two signals that it keeps for itself, and they are inherited too.
    for signal in 1..=KERNEL_SIGNALS {
        // SAFETY: the kernel reads one `struct sigaction` from `default`, which is larger, and writes nothing. SIGKILL and
        // SIGSTOP have no disposition to set: EINVAL, which changes nothing.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                KERNEL_SIGNALS / 8,
            )
        };
    }
    nix::sys::signal::SigSet::empty().thread_set_mask()?;
    Ok(())
}

/// Empties the capability bounding set (capabilities(7)): no execve(2) can give a capability again. Needs CAP_SETPCAP.
pub fn drop_bounding_set() -> io::Result<()> {
    for capability in 0..64 {
        // By number up to the first that the kernel does not know, so that a capability younger than this program goes too.
        // SAFETY: the call takes numbers only.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } < 0 {
            let error = io::Error::last_os_error();
            return if capability > 0 && error.raw_os_error() == Some(libc::EINVAL) {
                Ok(())
            } else {
                Err(error)
            };
        }
    }
    Ok(())
}

/// Locks the secure bits (capabilities(7)) so that user id 0 means nothing to execve(2), and so that neither kept nor
/// ambient capabilities can come into being. Needs CAP_SETPCAP.
pub fn lock_secure_bits() -> io::Result<()> {
    let bits = libc::SECBIT_NOROOT
        | libc::SECBIT_NOROOT_LOCKED
        | libc::SECBIT_KEEP_CAPS_LOCKED
        | libc::SECBIT_NO_CAP_AMBIENT_RAISE
        | libc::SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED;
    // SAFETY: the call takes numbers only.
    if unsafe { libc::prctl(libc::PR_SET_SECUREBITS, bits, 0, 0, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Replaces the inherited session keyring by an empty one (session-keyring(7)): the possessor of a keyring may read its keys
/// whatever its user id is. A kernel without keyrings has nothing to leave.
pub fn leave_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a null name means a fresh anonymous keyring.
    let result = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        )
    };
    match io::Error::last_os_error() {
        _ if result >= 0 => Ok(()),
        error if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        error => Err(error),
    }
}

/// Why an ordinary user's daemon has no user namespace.
#[derive(Debug, thiserror::Error)]
pub enum UserNamespaceError {
    #[error("create a user namespace: {source}{hint}")]
    Create { hint: String, source: io::Error },
    #[error("write {file} of the new user namespace: {source}{hint}")]
    Map { file: &'static str, hint: String, source: io::Error },
    #[error("give the new mount namespace its own mounts: {source}{hint}")]
    Propagation { hint: String, source: io::Error },
}

/// Enters a user namespace that maps only the caller, to itself, together with a mount namespace that the caller may then change:
/// all capabilities within, none outside. Must be called before any thread exists.
///
/// Mounts that the host makes later still arrive here (slave propagation); none that is made here reaches the host.
pub fn enter_user_namespace() -> Result<(), UserNamespaceError> {
    unshare_user(CloneFlags::CLONE_NEWNS)?;
    use nix::mount::{MsFlags, mount};
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .map_err(|e| UserNamespaceError::Propagation {
            hint: user_namespace_hint(),
            source: e.into(),
        })
}

/// Enters a user namespace that maps only the caller, to itself, and the namespaces of `more` as owned by it.
pub fn unshare_user(more: CloneFlags) -> Result<(), UserNamespaceError> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    nix::sched::unshare(CloneFlags::CLONE_NEWUSER | more).map_err(|e| {
        UserNamespaceError::Create { hint: user_namespace_hint(), source: e.into() }
    })?;
    // Without setgroups(2) denied, an unprivileged process may not write a group map (user_namespaces(7)).
    for (file, text) in [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("{uid} {uid} 1")),
        ("/proc/self/gid_map", format!("{gid} {gid} 1")),
    ] {
        std::fs::write(file, text).map_err(|source| UserNamespaceError::Map {
            file,
            hint: user_namespace_hint(),
            source,
        })?;
    }
    Ok(())
}

/// What on this machine keeps an ordinary user from a user namespace, with the fix; empty when nothing known does.
fn user_namespace_hint() -> String {
    let setting =
        |path: &str| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let is = |path: &str, value: &str| setting(path).as_deref() == Some(value);
    if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        return "; this machine forbids it to ordinary users: an administrator can run `sysctl kernel.unprivileged_userns_clone=1`, or run belljard as root".to_owned();
    }
    if is("/proc/sys/user/max_user_namespaces", "0") {
        return "; this machine allows none (user.max_user_namespaces is 0): an administrator can raise it with sysctl, or run belljard as root".to_owned();
    }
    if is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        return "; AppArmor restricts it to programs with a profile: an administrator can allow belljar and belljard in one, or run `sysctl kernel.apparmor_restrict_unprivileged_userns=0`, or run belljard as root".to_owned();
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_sealed_memfd_can_be_read_and_not_changed() {
        let descriptor = sealed_memfd(c"test", b"plan").expect("memfd");
        let mut file = File::from(descriptor);
        let mut text = String::new();
        file.read_to_string(&mut text).expect("read");
        assert_eq!(text, "plan");
        let error = file.write_all(b"x").expect_err("sealed");
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    fn fork_is_refused_in_a_process_with_threads() {
        // The test harness runs each test on a thread of its own.
        let error = fork().expect_err("two threads at least");
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn a_pidfd_of_a_process_that_ended_signals_nobody() {
        let mut child = std::process::Command::new("true").spawn().expect("spawn");
        let process = pidfd_open(Pid::from_raw(child.id() as i32)).expect("pidfd");
        child.wait().expect("wait");
        let error = pidfd_send_signal(&process, libc::SIGTERM).expect_err("gone");
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
    }
}
