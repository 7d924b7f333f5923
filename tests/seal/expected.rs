//! What each attempt must come to, by user.

use crate::host::Outcomes;
use crate::support::ORDINARY;

/// Whose sandbox it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// Uid 0 of root's daemon.
    Root,
    /// Another uid of root's daemon.
    Other,
    /// A user with an own daemon, and so with a user namespace.
    Ordinary,
}

impl User {
    pub fn uid(self) -> u32 {
        match self {
            User::Root => 0,
            User::Other | User::Ordinary => ORDINARY,
        }
    }
}

/// Attempts whose names begin like this, the first that fits, and what may come of them; of every other one, EPERM.
const ANSWERS: &[(&str, &[&str])] = &[
    // A file's mode may speak before its mount does.
    ("the host's programs: one cut short", &["EROFS", "EACCES"]),
    ("the host's programs", &["EROFS"]),
    ("the sandbox's root: who is who", &["EROFS", "EACCES"]),
    ("the sandbox's root", &["EROFS"]),
    ("the input: its mount", &["read-only"]),
    // Two mounts are two file systems to link(2), and which is asked first is the kernel's choice.
    ("the input: a hard link", &["EXDEV"]),
    ("the input", &["EROFS"]),
    ("the workspace", &["EROFS"]),
    // Before the owner is asked for, the mount is.
    ("the host's devices", &["EROFS"]),
    ("the host's memory: /dev/mem", &["ENOENT"]),
    ("the host's log: /dev/kmsg", &["ENOENT"]),
    ("the host's mounts: /dev/fuse", &["ENOENT"]),
    ("the host's machines: /dev/kvm", &["ENOENT"]),
    ("the host's secrets: a file of root's alone", &["EACCES"]),
    ("the host's home directories", &["ENOENT"]),
    ("the host's state", &["ENOENT"]),
    // ENOENT: a kernel without modules, or without the network's.
    ("the host's kernel: /proc/sys", &["EROFS", "EACCES", "ENOENT"]),
    ("the host's life", &["EROFS", "EACCES", "ENOENT"]),
    ("the host's memory: /proc/kcore", &["EACCES", "EPERM", "ENOENT"]),
    ("the host's secrets: /proc/keys", &["EACCES", "ENOENT"]),
    ("the kernel's addresses", &["EACCES", "ENOENT"]),
    ("the kernel's settings: /sys", &["ENOENT"]),
    ("the out-of-memory killer's choice", &["EROFS"]),
    ("the host's processes: its own test killed", &["ESRCH"]),
    ("the host's processes: their list", &[""]),
    ("the supervisor: stopped and killed", &["alive"]),
    ("the supervisor: traced", &["EPERM"]),
    // Hidden, or shown as what nobody may look into.
    ("the supervisor", &["EPERM", "ENOENT"]),
    ("root: a port", &["EACCES"]),
    ("root: a higher priority", &["EACCES"]),
    ("root: capabilities", &["0000000000000000"]),
    ("root: a program with capabilities", &["CapEff:\t0000000000000000"]),
    ("root: privileges by execve", &["1"]),
    ("the daemon's descriptors", &["0 1 2"]),
    ("the caller's terminal: its session", &["its own"]),
    ("the caller's terminal: /dev/tty", &["ENXIO"]),
    ("the command's secrets: a core dump", &["(0, 0)"]),
    ("the caller's environment", &["KeyError('CALLERS_OWN')"]),
    ("the sandbox's name", &["belljar"]),
    // Programs must use what was there before it.
    ("a namespace of its own, by clone3", &["ENOSYS"]),
    ("the kernel: the calls of x32", &["ENOSYS"]),
    ("the kernel: the calls of i386", &["SIGSYS"]),
    ("the host's services: loopback", &["ECONNREFUSED"]),
    ("the host's services: an abstract socket", &["ECONNREFUSED"]),
    ("the host's services: its sockets by path", &["ENOENT"]),
    ("the internet", &["ENETUNREACH"]),
    ("the network: its interfaces", &["lo"]),
    ("the host's memory: a segment", &["ENOENT"]),
];

/// What depends on the user.
fn of_user(user: User, attempt: &str) -> Option<Vec<String>> {
    let uid = user.uid();
    let answers = match attempt {
        "root: its ids" => vec![format!("({uid}, {uid}, {uid}) ({uid}, {uid}, {uid})")],
        // What `id` prints when it was executed from the workspace, where the file is root's with the bit.
        "root: a set-user-id program" => vec![format!("uid={uid}")],
        // The namespace has no such user.
        "root: becoming it" if user == User::Ordinary => vec!["EINVAL".to_owned()],
        "root: a file given away" if user == User::Ordinary => vec!["EINVAL".to_owned()],
        _ => return None,
    };
    Some(answers)
}

pub fn assert_all(user: User, found: &Outcomes) {
    assert!(found.len() >= 150, "only {} attempts were made", found.len());
    let mut used = vec![false; ANSWERS.len()];
    let mut wrong = Vec::new();
    for (attempt, outcome) in found {
        let row = ANSWERS.iter().position(|(beginning, _)| attempt.starts_with(beginning));
        if let Some(row) = row {
            used[row] = true;
        }
        let common = row.map_or(&["EPERM"][..], |row| ANSWERS[row].1);
        let right = of_user(user, attempt)
            .unwrap_or_else(|| common.iter().map(|text| (*text).to_owned()).collect());
        let is_right = if attempt == "root: a set-user-id program" {
            outcome.starts_with(&right[0])
        } else {
            right.contains(outcome)
        };
        if !is_right {
            wrong.push(format!("{attempt}: {outcome}, and not {right:?}"));
        }
    }
    assert!(wrong.is_empty(), "{user:?}: {} of {}\n{}", wrong.len(), found.len(), wrong.join("\n"));
    for ((beginning, _), used) in ANSWERS.iter().zip(used) {
        let absent =
            cfg!(not(target_arch = "x86_64")) && beginning.starts_with("the kernel: the calls");
        assert!(used || absent, "no attempt begins with {beginning:?}");
    }
}
