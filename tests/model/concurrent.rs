//! Many threads at once, without the locks that the kernel holds: nothing may be left, lost or told twice in the end.

use crate::unmounted::{self, Mount};
use belljar::model::access::Access;
use belljar::vfs::Vfs;
use belljar::vfs::backing::{Caller, NewMode};
use belljar::vfs::error::Error;
use belljar::vfs::io::WriteFrom;
use belljar::vfs::observer::{FileKey, FileSource, Location, Tracking, WriteObserver, Writer};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const MOUNTS: [Mount; 1] = [Mount { name: "rw", access: Access::ReadWrite, artifacts: true }];
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// Notes what is told of each file.
#[derive(Default)]
struct Told {
    files: Mutex<HashMap<u64, File>>,
}

#[derive(Default)]
struct File {
    followed: bool,
    /// Told to be dirtied and not to be closed since.
    dirty: bool,
}

impl Told {
    fn follow(&self, file: FileKey, dirtied: bool) -> Tracking {
        let mut files = self.files.lock().unwrap();
        let told = files.entry(file.0).or_default();
        told.dirty |= dirtied;
        if std::mem::replace(&mut told.followed, true) {
            Tracking::Continues
        } else {
            Tracking::Began
        }
    }
}

impl WriteObserver for Told {
    fn dirtied(&self, file: FileKey, _: &Location, _: Writer) -> io::Result<Tracking> {
        Ok(self.follow(file, true))
    }

    fn closed(&self, file: FileKey, _: bool) {
        self.files.lock().unwrap().entry(file.0).or_default().dirty = false;
    }

    fn named(
        &self,
        file: FileKey,
        _: Option<&Location>,
        _: &Location,
        _: Writer,
        _: bool,
    ) -> Tracking {
        self.follow(file, false)
    }

    fn directory_moved(&self, _: &Location, _: &Location, _: Writer) {}

    fn removed(&self, _: &Location) {}
}

/// One thread: what it holds of the file system.
struct Thread<'a> {
    vfs: &'a Vfs,
    caller: Caller,
    /// State of a linear congruential generator; the same in every run, while the order of the threads is not.
    random: u64,
    /// Each with one reference.
    nodes: Vec<(u64, bool)>,
    /// Handles, each of a node that is held once more for it.
    handles: Vec<(u64, u64)>,
}

impl Thread<'_> {
    fn pick(&mut self, below: usize) -> usize {
        // The multiplier and increment of Knuth's MMIX.
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) as usize % below
    }

    fn name(&mut self) -> &'static OsStr {
        NAMES[self.pick(NAMES.len())].as_ref()
    }

    fn directory(&mut self) -> u64 {
        let directories: Vec<u64> =
            self.nodes.iter().filter(|(_, directory)| *directory).map(|(node, _)| *node).collect();
        directories[self.pick(directories.len())]
    }

    fn node(&mut self) -> u64 {
        let index = self.pick(self.nodes.len());
        self.nodes[index].0
    }

    fn step(&mut self) -> Result<(), Error> {
        let (directory, name) = (self.directory(), self.name());
        let new = NewMode { mode: 0o755, umask: 0 };
        match self.pick(13) {
            0..3 => {
                let told = self.vfs.lookup(directory, name)?;
                self.nodes.push((told.node, told.mode & 0o170_000 == 0o040_000));
            }
            3 => {
                let told = self.vfs.mkdir(&self.caller, directory, name, new)?;
                self.nodes.push((told.node, true));
            }
            4 => {
                let flags = OFlag::O_RDWR;
                let (told, handle) = self.vfs.create(&self.caller, directory, name, flags, new)?;
                self.handles.push((handle, told.node));
            }
            5 => self.vfs.unlink(&self.caller, directory, name)?,
            6 => self.vfs.rmdir(&self.caller, directory, name)?,
            7 => {
                let (to, to_name) = (self.directory(), self.name());
                let flags = [0, 0, 1, 2][self.pick(4)];
                self.vfs.rename(&self.caller, (directory, name), (to, to_name), flags)?;
            }
            8 => {
                let node = self.node();
                let told = self.vfs.link(&self.caller, node, directory, name)?;
                self.nodes.push((told.node, false));
            }
            9 => {
                // The look-up's reference becomes that of the handle.
                let told = self.vfs.lookup(directory, name)?;
                match self.vfs.open(&self.caller, told.node, OFlag::O_RDWR) {
                    Ok(handle) => self.handles.push((handle, told.node)),
                    Err(error) => {
                        self.vfs.forget(told.node, 1);
                        return Err(error);
                    }
                }
            }
            10 if !self.handles.is_empty() => {
                let index = self.pick(self.handles.len());
                self.vfs.write(self.handles[index].0, 0, b"data", WriteFrom::Caller)?;
            }
            11 if !self.handles.is_empty() => {
                let index = self.pick(self.handles.len());
                let (handle, node) = self.handles.swap_remove(index);
                self.vfs.release(handle);
                self.vfs.forget(node, 1);
            }
            _ => {
                let node = self.node();
                self.vfs.getattr(node, None)?;
            }
        }
        Ok(())
    }

    fn run(&mut self, until: Instant) {
        /// What the others may have made of a request meanwhile.
        const EXPECTED: [Errno; 9] = [
            Errno::ENOENT,
            Errno::EEXIST,
            Errno::ENOTEMPTY,
            Errno::ENOTDIR,
            Errno::EISDIR,
            Errno::EINVAL,
            // A link to a directory.
            Errno::EPERM,
            // The name was taken, or the node has no name any more.
            Errno::ESTALE,
            // Opening what is no regular file.
            Errno::EOPNOTSUPP,
        ];
        while Instant::now() < until {
            if let Err(error) = self.step() {
                let errno = error.to_errno();
                assert!(EXPECTED.contains(&errno), "{errno}: {error:?}");
            }
            // The mount point is the first and stays.
            if self.nodes.len() > 12 {
                let index = 1 + self.pick(self.nodes.len() - 1);
                let (node, _) = self.nodes.swap_remove(index);
                self.vfs.forget(node, 1);
            }
        }
        for (handle, node) in self.handles.drain(..) {
            self.vfs.release(handle);
            self.vfs.forget(node, 1);
        }
        for (node, _) in self.nodes.drain(..) {
            self.vfs.forget(node, 1);
        }
    }
}

fn on_threads(count: usize, work: impl Fn(usize) + Sync) {
    std::thread::scope(|scope| {
        for number in 0..count {
            let work = &work;
            scope.spawn(move || {
                belljar::sys::credentials::own_umask_zero().unwrap();
                work(number);
            });
        }
    });
}

fn duration() -> Duration {
    Duration::from_secs(if unmounted::long() { 60 } else { 4 })
}

/// What a directory's tree is, as the file system tells it; nodes are forgotten again.
fn listed(vfs: &Vfs, node: u64, at: &Path, into: &mut BTreeMap<PathBuf, u64>) {
    let handle = vfs.opendir(&unmounted::ourselves(), node).unwrap();
    let mut offset = 0;
    loop {
        let entries = vfs.readdir(handle, offset).unwrap();
        let Some(last) = entries.last() else { break };
        offset = last.offset;
        for entry in entries.iter().filter(|entry| entry.name != "." && entry.name != "..") {
            let told = vfs.lookup(node, &entry.name).unwrap();
            into.insert(at.join(&entry.name), told.size * u64::from(told.mode & 0o100_000 != 0));
            if told.mode & 0o170_000 == 0o040_000 {
                listed(vfs, told.node, &at.join(&entry.name), into);
            }
            vfs.forget(told.node, 1);
        }
    }
    vfs.releasedir(handle);
}

fn on_disk(root: &Path, at: &Path, into: &mut BTreeMap<PathBuf, u64>) {
    for entry in std::fs::read_dir(root.join(at)).unwrap() {
        let entry = entry.unwrap();
        let (path, stat) = (at.join(entry.file_name()), entry.metadata().unwrap());
        into.insert(path.clone(), stat.len() * u64::from(stat.is_file()));
        if stat.is_dir() {
            on_disk(root, &path, into);
        }
    }
}

fn everything_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let observer = Arc::new(Told::default());
    let before = unmounted::descriptors();
    {
        let vfs = unmounted::vfs(directory.path(), &MOUNTS, observer.clone(), 4);
        let until = Instant::now() + duration();
        on_threads(4, |number| {
            let root = unmounted::mount_point(&vfs, "rw");
            Thread {
                vfs: &vfs,
                caller: unmounted::ourselves(),
                random: number as u64,
                nodes: vec![(root, true)],
                handles: Vec::new(),
            }
            .run(until);
        });
        for (file, told) in observer.files.lock().unwrap().iter() {
            assert!(!told.dirty, "file {file} was dirtied and never closed");
        }
        let followed: BTreeSet<u64> = {
            let files = observer.files.lock().unwrap();
            files.iter().filter(|(_, told)| told.followed).map(|(file, _)| *file).collect()
        };
        assert!(!followed.is_empty(), "nothing was written");
        for file in followed {
            vfs.settled(FileKey(file));
        }
        assert_eq!(vfs.nodes(), 1, "nodes that nobody holds");

        let root = unmounted::mount_point(&vfs, "rw");
        let (mut told, mut there) = (BTreeMap::new(), BTreeMap::new());
        listed(&vfs, root, Path::new(""), &mut told);
        on_disk(&directory.path().join("rw"), Path::new(""), &mut there);
        assert_eq!(told, there);
        assert_eq!(vfs.nodes(), 1, "nodes of the listing");
    }
    assert_eq!(unmounted::descriptors(), before, "descriptors");
}

#[test]
fn with_handles_threads_leave_nothing_behind() {
    assert!(unmounted::is_root(), "opening inodes by handle needs root");
    let _alone = crate::alone();
    everything_at_once();
}

#[test]
fn without_handles_threads_leave_nothing_behind() {
    let _alone = crate::alone();
    if unmounted::must_run_here("concurrent::without_handles_threads_leave_nothing_behind") {
        everything_at_once();
    }
}

/// A node that is forgotten by one thread while another finds it and a third makes it anew. With more threads somebody
/// would always hold it.
#[test]
fn a_node_that_somebody_holds_is_never_unknown() {
    let _alone = crate::alone();
    let directory = tempfile::tempdir().unwrap();
    let vfs = unmounted::vfs(directory.path(), &MOUNTS, Arc::new(Told::default()), 100);
    std::fs::write(directory.path().join("rw/a"), "").unwrap();
    let root = unmounted::mount_point(&vfs, "rw");
    let until = Instant::now() + duration();
    on_threads(3, |_| {
        while Instant::now() < until {
            let node = vfs.lookup(root, "a".as_ref()).unwrap().node;
            vfs.getattr(node, None).expect("its look-up is not given back");
            vfs.forget(node, 1);
        }
    });
    vfs.forget(root, 1);
    assert_eq!(vfs.nodes(), 1);
}
