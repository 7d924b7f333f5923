//! Credentials of one thread: acting as the process that asks, and the set-up of threads that serve the kernel.
//!
//! The raw calls are used because the C library's wrappers change every thread of the process (nptl(7)).

use super::capability::CapabilitySets;
use caps::{CapSet, Capability};
use nix::errno::Errno;
use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

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

/// What the kernel takes out of force when a thread's file system uid leaves 0 and puts in force when it comes back to 0
/// (CAP_FS_MASK, linux/capability.h): CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, LINUX_IMMUTABLE, MKNOD, MAC_OVERRIDE.
const FILE_CAPABILITIES: u64 = 0b1_1111 | 1 << 9 | 1 << 27 | 1 << 32;

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
    /// are the file system ids that the kernel sent along; groups and capabilities are read from `/proc/PID/status`, anew each
    /// time, because a process can change both at any moment.
    pub fn of_process(pid: u32, uid: u32, gid: u32) -> io::Result<Self> {
        STATUS_FILE.with_borrow_mut(|file| {
            let status = file.read(pid)?;
            // The name of the program, in the first line, may be of any bytes but a newline.
            let field = |name: &str| {
                let mut lines = status.split(|byte| *byte == b'\n');
                let line = lines.find_map(|line| line.strip_prefix(name.as_bytes()));
                line.and_then(|line| std::str::from_utf8(line).ok())
                    .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
            };
            let groups = field("Groups:")?.split_whitespace().filter_map(|id| id.parse().ok());
            let capabilities = u64::from_str_radix(field("CapEff:")?.trim(), 16)
                .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            Ok(Self { uid, gid, groups: groups.collect(), capabilities })
        })
    }
}

/// `/proc/PID/status` of the process that this thread was asked about last, open: reading it again from its beginning tells
/// what is so at that moment, and opening it is what costs. An open one stands for the process and not for its number: when the
/// process has ended, reading it fails with ESRCH, also when another has its number (fs/proc/base.c, `proc_single_show`).
/// One and no more: each thread of each workspace has it for good, and descriptors are few.
struct StatusFile {
    open: Option<(u32, File)>,
    text: Vec<u8>,
}

/// Read at once. The file has about 1,500 bytes and 11 for each group at most.
const STATUS_BYTES_USUAL: usize = 4096;

thread_local! {
    static STATUS_FILE: RefCell<StatusFile> =
        const { RefCell::new(StatusFile { open: None, text: Vec::new() }) };
}

impl StatusFile {
    fn read(&mut self, pid: u32) -> io::Result<&[u8]> {
        if let Some((other, file)) = self.open.take()
            && other == pid
            && self.fill(&file).is_ok()
        {
            self.open = Some((pid, file));
            return Ok(&self.text);
        }
        let file = File::open(format!("/proc/{pid}/status"))?;
        self.fill(&file)?;
        self.open = Some((pid, file));
        Ok(&self.text)
    }

    fn fill(&mut self, file: &File) -> io::Result<()> {
        self.text.clear();
        loop {
            let filled = self.text.len();
            self.text.resize(filled + STATUS_BYTES_USUAL, 0);
            let read = file.read_at(&mut self.text[filled..], filled as u64)?;
            self.text.truncate(filled + read);
            // The capabilities come last of what is looked for, and the line after them shows that theirs is whole.
            let whole = self.text.windows(7).any(|part| part == b"CapBnd:");
            if read == 0 || whole {
                return Ok(());
            }
        }
    }
}

/// As whom a thread accesses files.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    sets: CapabilitySets,
}

thread_local! {
    /// What this thread is, so that it need not ask at each request. Everything that changes it is in this module; `None`
    /// until it was asked for, and after a change that is made once.
    static PRESENT: RefCell<Option<Identity>> = const { RefCell::new(None) };
}

impl Identity {
    fn of_this_thread() -> io::Result<Self> {
        let groups = nix::unistd::getgroups()?.into_iter().map(nix::unistd::Gid::as_raw).collect();
        // Asking with an invalid id (-1) tells what is in force and changes nothing (setfsuid(2), NOTES).
        let (uid, gid) = (set_fsuid(u32::MAX), set_fsgid(u32::MAX));
        Ok(Self { uid, gid, groups, sets: CapabilitySets::of_this_thread()? })
    }

    /// What this thread becomes for somebody. A capability that the thread may not use stays out of force: it then serves
    /// callers who have it with less than they could do themselves.
    fn as_that_of(&self, who: &Credentials) -> Self {
        let wanted = who.capabilities & FILE_CAPABILITIES & self.sets.permitted;
        let effective = self.sets.effective & !FILE_CAPABILITIES | wanted;
        Self {
            uid: who.uid,
            gid: who.gid,
            groups: who.groups.clone(),
            sets: CapabilitySets { effective, ..self.sets },
        }
    }

    /// Makes this thread, which is `from`, this one. The groups and the gid come first on the way to another user, who may
    /// change neither, and back again the uid does.
    fn take_effect(&self, from: &Self) -> io::Result<()> {
        let mut effective = from.sets.effective;
        let returns = self.uid == 0;
        if returns && from.uid != 0 {
            set_fsuid(0);
            effective |= from.sets.permitted & FILE_CAPABILITIES;
        }
        if self.groups != from.groups {
            set_groups(&self.groups)?;
        }
        if self.gid != from.gid {
            set_fsgid(self.gid);
        }
        if !returns && self.uid != from.uid {
            set_fsuid(self.uid);
            if from.uid == 0 {
                effective &= !FILE_CAPABILITIES;
            }
        }
        // The calls report no error.
        let uid_failed = self.uid != from.uid && set_fsuid(u32::MAX) != self.uid;
        if uid_failed || self.gid != from.gid && set_fsgid(u32::MAX) != self.gid {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        if effective != self.sets.effective {
            self.sets.take_effect()?;
        }
        Ok(())
    }
}

/// The thread accesses files as somebody else until this is dropped (credentials(7), setfsuid(2)).
#[derive(Debug)]
pub struct ScopedIdentity {
    /// What the thread was; nothing where it stayed that.
    before: Option<Identity>,
    /// A thread's identity must be restored on the thread where it was changed.
    _not_send: std::marker::PhantomData<*const ()>,
}

impl ScopedIdentity {
    /// Only for a thread whose effective uid and gid are 0.
    pub fn assume(who: &Credentials) -> io::Result<Self> {
        let present = match PRESENT.take() {
            Some(present) => present,
            None => Identity::of_this_thread()?,
        };
        debug_assert_eq!(present, Identity::of_this_thread()?, "changed past this module");
        let next = present.as_that_of(who);
        if next == present {
            PRESENT.set(Some(present));
            return Ok(Self { before: None, _not_send: std::marker::PhantomData });
        }
        // From here on dropping it puts back what was, also when only a part was changed.
        let scoped = Self { before: Some(present), _not_send: std::marker::PhantomData };
        next.take_effect(scoped.before.as_ref().expect("it was given just above"))?;
        PRESENT.set(Some(next));
        Ok(scoped)
    }
}

impl Drop for ScopedIdentity {
    fn drop(&mut self) {
        let Some(before) = self.before.take() else { return };
        let restored = match PRESENT.take() {
            Some(present) => before.take_effect(&present),
            // Becoming it failed half-way.
            None => Identity::of_this_thread().and_then(|present| before.take_effect(&present)),
        };
        restored.expect("a thread must not go on serving as another user");
        PRESENT.set(Some(before));
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
        PRESENT.set(None);
        set_groups(&[])?;
    }
    Ok(())
}

/// Takes a capability out of force on this thread, which can put it in force again.
pub fn suspend_capability(unwanted: Capability) -> io::Result<()> {
    PRESENT.set(None);
    caps::drop(None, CapSet::Effective, unwanted).map_err(io::Error::other)
}

/// Takes capabilities from this thread for good: from the effective set, and from the permitted set so that becoming
/// uid 0 again does not bring them back.
pub fn drop_capabilities(unwanted: &[Capability]) -> io::Result<()> {
    PRESENT.set(None);
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
        let before = Identity::of_this_thread().expect("own identity");
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
        assert_eq!(before, Identity::of_this_thread().expect("own identity"));
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
    fn what_a_process_gave_up_it_has_no_more_the_next_time() {
        use std::io::{BufRead, BufReader, Write};
        use std::process::{Command, Stdio};
        // The name is not UTF-8.
        let script = "printf '\\377' > /proc/self/comm; echo up; read go; exec setpriv --reuid 7 --regid 8 --groups 9,10 --bounding-set -all \
            --inh-caps -all sh -c 'echo up; read go'";
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("spawn");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut input = child.stdin.take().expect("piped");
        let mut look = || {
            lines.next().expect("a line").expect("read");
            let seen = Credentials::of_process(child.id(), 7, 8).expect("status");
            input.write_all(b"go\n").expect("write");
            seen
        };
        let before = look();
        assert_ne!(before.capabilities, 0, "only root has something to give up");
        let after = look();
        assert_eq!((after.capabilities, after.groups), (0, vec![9, 10]));
        child.wait().expect("wait");
        assert!(Credentials::of_process(child.id(), 7, 8).is_err(), "it is gone");
    }

    #[test]
    fn the_credentials_of_this_process_are_read() {
        let own = Credentials::of_process(std::process::id(), 5, 6).expect("own status");
        assert_eq!((own.uid, own.gid), (5, 6));
        assert_eq!(own.capabilities & 2 != 0, effective(Capability::CAP_DAC_OVERRIDE));
    }
}
