//! A workspace file system over a real FUSE mount in this process, and the directories behind it.
#![allow(dead_code)] // Each test file uses a part.

use belljar::fuse::adapter::WorkspaceFilesystem;
use belljar::fuse::session::{Mounted, Purpose, Session};
use belljar::model::access::Access;
use belljar::model::id::{RunId, SecretName};
use belljar::model::mount::{CachePolicy, SetId};
use belljar::policy::mount_table::{MountPoint, MountTable};
use belljar::secret::SecretValue;
use belljar::sys::mount::{MountAttr, OpenTree, mount_setattr, open_tree};
use belljar::vfs::control::{ControlSource, ControlTree, Secrets};
use belljar::vfs::descriptors::DescriptorBudget;
use belljar::vfs::observer::{FileKey, Location, Tracking, WriteObserver, Writer};
use belljar::vfs::{Attribution, Parts, Vfs};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// What the observer heard, as short lines.
#[derive(Default)]
pub struct Heard(Mutex<Vec<String>>);

impl Heard {
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn note(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }
}

pub fn place(at: &Location) -> String {
    format!("{}:{}", at.mount, at.path.as_path().display())
}

impl WriteObserver for Heard {
    fn dirtied(&self, _: FileKey, at: &Location, _: Writer) -> io::Result<Tracking> {
        self.note(format!("dirtied {}", place(at)));
        Ok(Tracking::Ignored)
    }

    fn closed(&self, _: FileKey, changed: bool) {
        self.note(format!("closed {changed}"));
    }

    fn named(
        &self,
        _: FileKey,
        from: Option<&Location>,
        to: &Location,
        _: Writer,
        open: bool,
    ) -> Tracking {
        let from = from.map_or("-".to_owned(), place);
        self.note(format!("named {from} {} open={open}", place(to)));
        Tracking::Ignored
    }

    fn directory_moved(&self, from: &Location, to: &Location, _: Writer) {
        self.note(format!("moved {} {}", place(from), place(to)));
    }

    fn removed(&self, at: &Location) {
        self.note(format!("removed {}", place(at)));
    }
}

struct NoRuns;

impl Attribution for NoRuns {
    fn run_of(&self, _: u32) -> Option<RunId> {
        None
    }
}

struct Control;

impl ControlSource for Control {
    fn environment(&self) -> Vec<u8> {
        b"NAME=value\n".to_vec()
    }

    fn manifest(&self) -> Vec<u8> {
        b"{}".to_vec()
    }

    fn secret_names(&self) -> Vec<SecretName> {
        vec!["KEY".parse().unwrap()]
    }

    fn secret(&self, _: &SecretName) -> Option<SecretValue> {
        SecretValue::new(b"value".to_vec()).ok()
    }
}

/// A detached, private clone of a directory's mounts, as the daemon makes it.
pub fn clone_of(path: &Path, access: Access) -> OwnedFd {
    let tree = open_tree(nix::fcntl::AT_FDCWD, path, OpenTree::CLONE | OpenTree::RECURSIVE)
        .expect("clone the directory's mount: these tests need root or a user namespace");
    let mut attributes = MountAttr::NO_SUID | MountAttr::NO_DEV;
    if access == Access::ReadOnly {
        attributes = attributes | MountAttr::READ_ONLY;
    }
    mount_setattr(&tree, "", true, attributes, true).expect("set attributes of the clone");
    File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&tree.as_fd())))
        .expect("open the clone")
        .into()
}

/// What a fixture is made of.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Where the host directories are made: the file system that is to be behind the mount points.
    pub below: PathBuf,
    pub passthrough: bool,
    pub descriptors_max: usize,
    pub cache: CachePolicy,
    pub suid: SetId,
    /// What the mount table says of `ro`. With read-write, only the clone's own fence is left.
    pub ro: Access,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            below: std::env::temp_dir(),
            passthrough: true,
            descriptors_max: 1000,
            cache: CachePolicy::default(),
            suid: SetId::default(),
            ro: Access::ReadOnly,
        }
    }
}

/// A mounted workspace with `rw` and `ro`, and the directories behind them.
pub struct Fixture {
    pub directory: tempfile::TempDir,
    /// The workspace's mount.
    pub root: PathBuf,
    pub heard: Arc<Heard>,
    pub vfs: Arc<Vfs>,
    session: Option<Session>,
}

impl Fixture {
    pub fn new(passthrough: bool) -> Self {
        Self::with(&Setup { passthrough, ..Setup::default() })
    }

    pub fn with(setup: &Setup) -> Self {
        let directory = tempfile::tempdir_in(&setup.below).unwrap();
        for name in ["rw", "ro", "mnt"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        fs::write(directory.path().join("ro/file"), "read me").unwrap();
        let mount = |name: &str, access| MountPoint {
            name: name.parse().unwrap(),
            access,
            host_path: directory.path().join(name),
            artifacts: true,
            cache: setup.cache,
            suid: setup.suid,
        };
        let heard = Arc::new(Heard::default());
        let vfs = Arc::new(
            Vfs::new(Parts {
                mounts: MountTable::new(vec![
                    mount("rw", Access::ReadWrite),
                    mount("ro", setup.ro),
                ])
                .unwrap(),
                directories: vec![
                    clone_of(&directory.path().join("rw"), Access::ReadWrite),
                    clone_of(&directory.path().join("ro"), Access::ReadOnly),
                ],
                control: ControlTree::new(Arc::new(Control), Secrets::Hidden),
                observer: heard.clone(),
                attribution: Arc::new(NoRuns),
                owner: None,
                descriptors: DescriptorBudget::new(setup.descriptors_max),
            })
            .unwrap(),
        );
        let stack_depth = u32::from(setup.passthrough);
        let mounted = Mounted::new(Purpose::Workspace { stack_depth })
            .expect("mount FUSE: these tests need /dev/fuse and the privilege to mount");
        assert_eq!(mounted.passthrough(), setup.passthrough, "the kernel agreed to passthrough");
        let filesystem = WorkspaceFilesystem::new(vfs.clone(), mounted.passthrough());
        let mut session = mounted.serve(filesystem, 2, "test").unwrap();
        let root = directory.path().join("mnt");
        session.attach(&root).unwrap();
        Self { directory, root, heard, vfs, session: Some(session) }
    }

    /// A path in the read-write mount point.
    pub fn rw(&self, path: &str) -> PathBuf {
        self.root.join("rw").join(path)
    }

    /// The same file in the host's directory.
    pub fn host(&self, path: &str) -> PathBuf {
        self.directory.path().join("rw").join(path)
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            session.end();
        }
    }
}
