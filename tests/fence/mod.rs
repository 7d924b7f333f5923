//! What the tests of the read-only fence share: the attacker, the tree that it attacks, and a look at all of that tree.
#![allow(dead_code)] // Each test file uses a part.

use belljar::sys::mount::{MountAttr, OpenTree, mount_setattr, move_mount, open_tree};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Tries every way to change a file; its first lines say how it is used.
pub const ATTACKS: &str = include_str!("attacks.py");

pub const PYTHON: &str = "/usr/bin/python3";

/// What came of each attempt.
pub type Outcomes = BTreeMap<String, String>;

/// The attacker with these arguments, as a user of the host.
pub fn attacker(uid: u32, arguments: &[&OsStr]) -> Command {
    assert!(Path::new(PYTHON).exists(), "{PYTHON}, of Debian's package python3, is needed");
    let mut command = Command::new("timeout");
    command.args(["120", "setpriv"]);
    command.args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups", "--"]);
    command.args([PYTHON, "-I", "-c", ATTACKS]).args(arguments).current_dir("/");
    command
}

/// Makes the tree of objects at `root` and the writable directory `out`.
pub fn build(root: &Path, out: &Path, uid: u32) {
    let owner = uid.to_string();
    let arguments = ["build".as_ref(), root.as_os_str(), out.as_os_str(), owner.as_ref()];
    let output = attacker(nix::unistd::geteuid().as_raw(), &arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What the attacker printed.
pub fn outcomes(output: &Output) -> Outcomes {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the attacker failed: {}\n{said}", output.status);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}\n{said}"))
}

/// Tries everything from the host.
pub fn attack(uid: u32, root: &Path, out: &Path) -> Outcomes {
    let arguments = ["attack".as_ref(), root.as_os_str(), out.as_os_str()];
    outcomes(&attacker(uid, &arguments).output().unwrap())
}

/// A plain read-only bind mount, which the kernel alone guards: what it answers is right.
pub struct ReadOnlyBind(PathBuf);

impl ReadOnlyBind {
    pub fn new(of: &Path, at: &Path) -> Self {
        let tree = open_tree(nix::fcntl::AT_FDCWD, of, OpenTree::CLONE)
            .expect("bind a directory: these tests need root");
        let attributes = MountAttr::READ_ONLY | MountAttr::NO_SUID | MountAttr::NO_DEV;
        mount_setattr(&tree, "", false, attributes, true).unwrap();
        fs::create_dir(at).unwrap();
        move_mount(&tree, nix::fcntl::AT_FDCWD, at).unwrap();
        Self(at.to_owned())
    }
}

impl Drop for ReadOnlyBind {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// As [`picture_of`], of a tree that [`build`] made.
pub fn picture(root: &Path) -> Vec<String> {
    let seen = picture_of(root);
    assert!(seen.len() > 10, "the tree is there");
    seen
}

/// All that can be known of a tree on the host, but the times of access.
pub fn picture_of(root: &Path) -> Vec<String> {
    let mut seen = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let is = fs::symlink_metadata(&path).unwrap();
        let content = if is.is_file() {
            blake3::hash(&fs::read(&path).unwrap()).to_string()
        } else if is.is_symlink() {
            fs::read_link(&path).unwrap().display().to_string()
        } else {
            String::new()
        };
        seen.push(format!(
            "{} inode {} mode {:o} owner {}:{} links {} device {} size {} blocks {} mtime {}.{} ctime {}.{} {content} {:?}",
            path.display(), is.ino(), is.mode(), is.uid(), is.gid(), is.nlink(), is.rdev(), is.size(), is.blocks(),
            is.mtime(), is.mtime_nsec(), is.ctime(), is.ctime_nsec(), attributes(&path),
        ));
        if is.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    seen.sort();
    seen
}

/// Extended attributes of a file itself, with their values.
fn attributes(path: &Path) -> Vec<(String, Vec<u8>)> {
    use nix::fcntl::{OFlag, open};
    let kind = fs::symlink_metadata(path).unwrap().file_type();
    // Others cannot be opened without an effect, and hold no attributes here.
    if !kind.is_file() && !kind.is_dir() {
        return Vec::new();
    }
    let file = open(path, OFlag::O_RDONLY | OFlag::O_NOFOLLOW, nix::sys::stat::Mode::empty());
    let file = file.unwrap();
    let names = belljar::sys::file::listxattr(std::os::fd::AsFd::as_fd(&file)).unwrap();
    let value = |name: &[u8]| {
        let mut buffer = vec![0; 4096];
        let name = OsStr::from_bytes(name);
        let file = std::os::fd::AsFd::as_fd(&file);
        let length = belljar::sys::file::getxattr(file, name, &mut buffer).unwrap();
        buffer.truncate(length);
        buffer
    };
    let named = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    named.map(|name| (String::from_utf8_lossy(name).into_owned(), value(name))).collect()
}

/// Tries everything on a tree that may be changed, made anew for each attempt: what the kernel's other rules answer.
pub fn attack_writable(uid: u32, directory: &Path) -> Outcomes {
    let (root, out, uid) = (directory.join("tree"), directory.join("out"), uid.to_string());
    let arguments = ["writable".as_ref(), root.as_os_str(), out.as_os_str(), uid.as_ref()];
    outcomes(&attacker(0, &arguments).output().unwrap())
}

/// An answer that is neither that of a read-only bind mount nor that of a writable one, and why it is right.
pub struct Exception {
    /// Beginnings of the attempts' names.
    pub attempts: &'static [&'static str],
    /// The object, where it is about one only.
    pub object: Option<&'static str>,
    pub answer: &'static str,
    pub reason: &'static str,
}

/// Asserts that an attacker met the answers of a plain read-only bind mount, or, where `others` says what a writable mount
/// refuses for reasons of its own, that refusal. Each exception must be of use.
pub fn assert_same(
    of: &str,
    oracle: &Outcomes,
    others: &Outcomes,
    seen: &Outcomes,
    exceptions: &[Exception],
) {
    assert!(seen.len() > 1500, "{of}: only {} attempts were made", seen.len());
    assert!(oracle.keys().eq(seen.keys()), "{of}: the same attempts were made");
    let mut wrong = Vec::new();
    let mut used = vec![false; exceptions.len()];
    for ((attempt, expected), (_, found)) in oracle.iter().zip(seen) {
        let is_errno = found.starts_with('E');
        if expected == found || (is_errno && others.get(attempt) == Some(found)) {
            continue;
        }
        let excuse = exceptions.iter().position(|exception| {
            exception.answer == found
                && exception.object.is_none_or(|object| attempt.ends_with(&format!(" {object}")))
                && exception.attempts.iter().any(|beginning| attempt.starts_with(beginning))
        });
        match excuse {
            Some(index) => used[index] = true,
            None => wrong.push(format!("{attempt}: {found}, and on a bind mount {expected}")),
        }
    }
    assert!(wrong.is_empty(), "{of}: {} differ\n{}", wrong.len(), wrong.join("\n"));
    for (exception, used) in exceptions.iter().zip(used) {
        assert!(used, "{of}: nothing needs the exception: {}", exception.reason);
    }
}
