//! A workspace file system without a kernel, and the directories behind it.
#![allow(dead_code)] // Each test file uses a part.

use belljar::model::access::Access;
use belljar::model::id::{RunId, SecretName};
use belljar::model::mount::{CachePolicy, SetId};
use belljar::policy::mount_table::{MountPoint, MountTable};
use belljar::secret::SecretValue;
use belljar::vfs::backing::Caller;
use belljar::vfs::control::{ControlSource, ControlTree, Secrets};
use belljar::vfs::descriptors::DescriptorBudget;
use belljar::vfs::observer::WriteObserver;
use belljar::vfs::{Attribution, Parts, ROOT, Vfs};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

const ORDINARY: &str = "12345";

/// A mount point of the table, and whether its files are told of.
pub struct Mount {
    pub name: &'static str,
    pub access: Access,
    pub artifacts: bool,
}

struct Nothing;

impl Attribution for Nothing {
    fn run_of(&self, _: u32) -> Option<RunId> {
        None
    }
}

impl ControlSource for Nothing {
    fn environment(&self) -> Vec<u8> {
        Vec::new()
    }

    fn manifest(&self) -> Vec<u8> {
        Vec::new()
    }

    fn secret_names(&self) -> Vec<SecretName> {
        Vec::new()
    }

    fn secret(&self, _: &SecretName) -> Option<SecretValue> {
        None
    }
}

/// The file system of the mount points, whose directories are made below `directory` unless they are there.
pub fn vfs(
    directory: &Path,
    mounts: &[Mount],
    observer: Arc<dyn WriteObserver>,
    descriptors_max: usize,
) -> Vfs {
    vfs_within(&DescriptorBudget::new(descriptors_max), directory, mounts, observer)
}

/// The same, sharing a budget with others.
pub fn vfs_within(
    descriptors: &Arc<DescriptorBudget>,
    directory: &Path,
    mounts: &[Mount],
    observer: Arc<dyn WriteObserver>,
) -> Vfs {
    let points = mounts.iter().map(|mount| MountPoint {
        name: mount.name.parse().unwrap(),
        access: mount.access,
        host_path: directory.join(mount.name),
        artifacts: mount.artifacts,
        cache: CachePolicy::default(),
        suid: SetId::default(),
    });
    let open = |mount: &Mount| {
        let path = directory.join(mount.name);
        fs::create_dir_all(&path).unwrap();
        File::open(path).unwrap().into()
    };
    Vfs::new(Parts {
        mounts: MountTable::new(points.collect()).unwrap(),
        directories: mounts.iter().map(open).collect(),
        control: ControlTree::new(Arc::new(Nothing), Secrets::Hidden),
        observer,
        attribution: Arc::new(Nothing),
        owner: None,
        descriptors: Arc::clone(descriptors),
    })
    .unwrap()
}

/// This process, as the kernel would name it.
pub fn ourselves() -> Caller {
    Caller {
        uid: nix::unistd::geteuid().as_raw(),
        gid: nix::unistd::getegid().as_raw(),
        pid: std::process::id(),
    }
}

/// The node of a mount point's directory, with a reference.
pub fn mount_point(vfs: &Vfs, name: &str) -> u64 {
    vfs.lookup(ROOT, name.as_ref()).unwrap().node
}

/// Descriptors that this process has open, without those of /proc: each thread may keep one of who asked it last, and the listing has one.
pub fn descriptors() -> usize {
    let links = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
    // What was closed meanwhile by another thread has no link any more.
    links.filter_map(|path| fs::read_link(path).ok()).filter(|to| !to.starts_with("/proc")).count()
}

/// Whether this process has the privilege without which inodes cannot be opened by handle.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Runs a test of this program once more as an ordinary user, who has no handles. Only root can; an ordinary user has none
/// anyway. Gives back whether the test is still to be run here.
pub fn must_run_here(test: &str) -> bool {
    if !is_root() {
        return true;
    }
    let directory = tempfile::tempdir().unwrap();
    // The build's directory may be closed to others.
    let copy = directory.path().join("suite");
    fs::copy("/proc/self/exe", &copy).unwrap();
    for path in [directory.path(), &copy] {
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }
    let done = Command::new("setpriv")
        .args(["--reuid", ORDINARY, "--regid", ORDINARY, "--clear-groups"])
        .arg(&copy)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .current_dir("/")
        .output()
        .expect("start setpriv (Debian package util-linux)");
    let text = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "as user {ORDINARY}: {text}");
    assert!(text.contains("1 passed"), "as user {ORDINARY}, no test was run: {text}");
    eprintln!("as user {ORDINARY}: {text}");
    false
}

/// Where many files are made in no time: a file system in memory, where there is one.
pub fn in_memory() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() }
}

pub fn long() -> bool {
    std::env::var_os("BELLJAR_TEST_LONG").is_some_and(|value| value == "1")
}
