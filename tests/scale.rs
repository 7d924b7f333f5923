//! Many files at once: as many nodes as a machine has files with few descriptors, and one directory of many entries.
//!
//! `BELLJAR_TEST_LONG=1` takes a million files and a directory of 100,000 entries.
#![allow(clippy::unwrap_used)]

mod mounted;
mod unmounted;

use belljar::model::access::Access;
use belljar::sys::directory::{Entry, getdents64};
use belljar::vfs::Vfs;
use mounted::{Fixture, Heard, Setup};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::{Arc, Mutex};
use unmounted::{Mount, is_root};

const MOUNTS: [Mount; 1] = [Mount { name: "rw", access: Access::ReadWrite, artifacts: true }];
const FILES_PER_DIRECTORY: usize = 1000;

/// The tests count descriptors and memory of the process, so they come one after the other.
static ALONE: Mutex<()> = Mutex::new(());

/// Bytes of this process in memory.
fn resident() -> usize {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = pages.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}

fn content(directory: usize, file: usize) -> String {
    format!("{directory}/{file}")
}

struct Tree {
    directory: tempfile::TempDir,
    vfs: Vfs,
    root: u64,
    /// Each directory with its files.
    nodes: Vec<(u64, Vec<u64>)>,
    descriptors_max: usize,
    descriptors_before: usize,
}

impl Tree {
    fn new() -> Self {
        let (directories, descriptors_max) =
            if unmounted::long() { (1000, 18_000) } else { (30, 1000) };
        let directory = tempfile::tempdir_in(unmounted::in_memory()).unwrap();
        for i in 0..directories {
            let path = directory.path().join(format!("rw/{i}"));
            fs::create_dir_all(&path).unwrap();
            for j in 0..FILES_PER_DIRECTORY {
                fs::write(path.join(format!("file-{j}")), content(i, j)).unwrap();
            }
        }
        let heard = Arc::new(Heard::default());
        let vfs = unmounted::vfs(directory.path(), &MOUNTS, heard, descriptors_max);
        let descriptors_before = unmounted::descriptors();
        let root = unmounted::mount_point(&vfs, "rw");
        let before = resident();
        let mut nodes = Vec::with_capacity(directories);
        for i in 0..directories {
            let parent = vfs.lookup(root, format!("{i}").as_ref()).unwrap().node;
            let files = (0..FILES_PER_DIRECTORY)
                .map(|j| vfs.lookup(parent, format!("file-{j}").as_ref()).unwrap().node);
            nodes.push((parent, files.collect::<Vec<_>>()));
        }
        let count = vfs.nodes();
        assert_eq!(count, 1 + directories * (FILES_PER_DIRECTORY + 1));
        let bytes = (resident() - before) / count;
        eprintln!("{count} nodes, {bytes} bytes each");
        assert!(bytes < 600, "a node takes {bytes} bytes");
        let tree = Self { directory, vfs, root, nodes, descriptors_max, descriptors_before };
        tree.check_descriptors();
        tree
    }

    fn check_descriptors(&self) {
        let kept = unmounted::descriptors() - self.descriptors_before;
        assert!(kept <= self.descriptors_max, "{kept} descriptors are kept");
    }

    /// Looks at every node, and reads one in a hundred. `stale` says of which directories nothing may be found.
    fn check(&self, stale: impl Fn(usize) -> bool) {
        let caller = unmounted::ourselves();
        for (i, (directory, files)) in self.nodes.iter().enumerate() {
            for (j, node) in files.iter().enumerate() {
                let result = self.vfs.getattr(*node, None);
                if stale(i) {
                    assert_eq!(result.expect_err("is lost").to_errno(), Errno::ESTALE);
                    continue;
                }
                let (told, expected) = (result.unwrap(), content(i, j));
                assert_eq!((told.node, told.size), (*node, expected.len() as u64));
                if (i * 7 + j) % 100 == 0 {
                    let handle = self.vfs.open(&caller, *node, OFlag::O_RDONLY).unwrap();
                    assert_eq!(self.vfs.read(handle, 0, 100).unwrap(), expected.as_bytes());
                    self.vfs.release(handle);
                }
            }
            if !stale(i) {
                assert_eq!(self.vfs.getattr(*directory, None).unwrap().node, *directory);
            }
        }
        self.check_descriptors();
    }

    fn end(self) {
        for (directory, files) in &self.nodes {
            for node in files {
                self.vfs.forget(*node, 1);
            }
            self.vfs.forget(*directory, 1);
        }
        assert_eq!(self.vfs.nodes(), 1, "nodes that nobody holds");
        drop(self.vfs);
        assert!(self.directory.path().exists());
    }
}

#[test]
fn very_many_nodes_are_reached_with_few_descriptors() {
    assert!(is_root(), "opening inodes by handle needs root");
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let tree = Tree::new();
    let name = |i: usize| format!("{i}");
    for i in (0..tree.nodes.len()).step_by(2) {
        let (from, to) = (name(i), format!("renamed-{i}"));
        let (from, to) = (OsStr::new(&from), OsStr::new(&to));
        tree.vfs.rename(&unmounted::ourselves(), (tree.root, from), (tree.root, to), 0).unwrap();
    }
    tree.check(|_| false);
    tree.end();
}

#[test]
fn very_many_nodes_are_found_again_without_handles() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !unmounted::must_run_here("very_many_nodes_are_found_again_without_handles") {
        return;
    }
    let tree = Tree::new();
    tree.check(|_| false);
    // Renamed by the host, and others have the names.
    let moved = |i: usize| i % 10 == 3;
    let host = |name: String| tree.directory.path().join("rw").join(name);
    for i in (0..tree.nodes.len()).filter(|i| moved(*i)) {
        fs::rename(host(format!("{i}")), host(format!("moved-{i}"))).unwrap();
        fs::create_dir(host(format!("{i}"))).unwrap();
        fs::write(host(format!("{i}/file-1")), "another").unwrap();
    }
    // All others are used meanwhile, so that the moved ones have given up their descriptors.
    let others = || tree.nodes.iter().enumerate().filter(|(i, _)| !moved(*i));
    for node in others().flat_map(|(_, (_, files))| files) {
        tree.vfs.getattr(*node, None).unwrap();
    }
    tree.check(moved);
    for i in (0..tree.nodes.len()).filter(|i| moved(*i)) {
        let found = tree.vfs.lookup(tree.root, format!("moved-{i}").as_ref()).unwrap().node;
        assert_eq!(found, tree.nodes[i].0, "the directory that was moved");
        tree.vfs.forget(found, 1);
    }
    tree.check(|_| false);
    tree.end();
}

/// Names of a large directory: short ones, ones of 255 bytes, and ones that are not UTF-8.
fn names() -> Vec<OsString> {
    let count = if unmounted::long() { 100_000 } else { 8000 };
    let name = |i: usize| {
        let mut name = format!("{i:06}").into_bytes();
        match i % 4 {
            0 => name.resize(255, b'n'),
            1 => name.extend(b"\xff\xfe\n"),
            _ => {}
        }
        OsString::from_vec(name)
    };
    (0..count).map(name).collect()
}

/// A listing that is taken up where it was left.
struct Listing {
    directory: File,
    offset: i64,
    entries: Vec<Entry>,
}

impl Listing {
    fn new(path: &Path) -> Self {
        Self { directory: File::open(path).unwrap(), offset: 0, entries: Vec::new() }
    }

    /// Reads some more; false at the end. The dots are left out.
    fn go_on(&mut self) -> bool {
        let more = getdents64(self.directory.as_fd(), self.offset).unwrap();
        let Some(last) = more.last() else { return false };
        self.offset = last.offset;
        self.entries
            .extend(more.into_iter().filter(|entry| entry.name != "." && entry.name != ".."));
        true
    }

    fn names(&self) -> BTreeSet<&OsStr> {
        let names: BTreeSet<_> = self.entries.iter().map(|entry| entry.name.as_os_str()).collect();
        assert_eq!(names.len(), self.entries.len(), "names were told twice");
        names
    }
}

#[test]
fn a_directory_of_very_many_entries_is_listed_whole_while_others_list_and_remove() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let fixture = Fixture::with(&Setup { descriptors_max: 100, ..Setup::default() });
    let names = names();
    fs::create_dir(fixture.host("d")).unwrap();
    for name in &names {
        File::create(fixture.host("d").join(name)).unwrap();
    }
    let path = fixture.rw("d");
    let all: BTreeSet<&OsStr> = names.iter().map(OsString::as_os_str).collect();

    // Two at once, through descriptors of their own.
    let (mut one, mut other) = (Listing::new(&path), Listing::new(&path));
    while one.go_on() {
        // The second is slower.
        if one.entries.len() % 3 == 0 {
            other.go_on();
        }
    }
    while other.go_on() {}
    assert!(one.names() == all, "the first listing");
    assert!(other.names() == all, "the second listing");

    // seekdir(3) to where telldir(3) was, in no order.
    for step in [7919, 104_729, 1_299_709] {
        let at = step % (names.len() - 1);
        let next = getdents64(one.directory.as_fd(), one.entries[at].offset).unwrap();
        assert_eq!(next[0].name, one.entries[at + 1].name, "after entry {at}");
        assert_eq!(next[0].offset, one.entries[at + 1].offset);
    }

    // What stays is told exactly once, while every second entry is removed.
    let stays = |name: &OsStr| name.as_bytes()[5].is_multiple_of(2);
    let mut listing = Listing::new(&path);
    let mut rest = names.iter().filter(|name| !stays(name));
    while listing.go_on() {
        for name in rest.by_ref().take(500) {
            fs::remove_file(path.join(name)).unwrap();
        }
    }
    for name in rest {
        fs::remove_file(path.join(name)).unwrap();
    }
    let kept: BTreeSet<&OsStr> = all.iter().copied().filter(|name| stays(name)).collect();
    let told: BTreeSet<&OsStr> = listing.names().into_iter().filter(|name| stays(name)).collect();
    assert!(told == kept, "what was there throughout");
    assert!(listing.names().is_subset(&all));

    // As rm -r does: each part is removed as soon as it is read.
    let mut listing = Listing::new(&path);
    let mut removed = 0;
    while listing.go_on() {
        for entry in listing.entries.drain(..) {
            fs::remove_file(path.join(&entry.name)).unwrap();
            removed += 1;
        }
    }
    assert_eq!(removed, kept.len());
    fs::remove_dir(&path).unwrap();
    assert!(!fixture.host("d").exists());
}
