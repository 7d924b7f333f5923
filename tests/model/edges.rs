//! What generated requests meet too rarely: many nodes in use at once, trees deeper than a stack, and a host that moves files
//! about under nodes that have no handle.

use crate::kernel::MOUNTS;
use crate::unmounted;
use belljar::vfs::Vfs;
use belljar::vfs::backing::NewMode;
use belljar::vfs::error::Error;
use belljar::vfs::observer::{FileKey, FileSource, Location, Tracking, WriteObserver, Writer};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

struct Deaf;

impl WriteObserver for Deaf {
    fn dirtied(&self, _: FileKey, _: &Location, _: Writer) -> io::Result<Tracking> {
        Ok(Tracking::Ignored)
    }

    fn closed(&self, _: FileKey, _: bool) {}

    fn named(
        &self,
        _: FileKey,
        _: Option<&Location>,
        _: &Location,
        _: Writer,
        _: bool,
    ) -> Tracking {
        Tracking::Ignored
    }

    fn directory_moved(&self, _: &Location, _: &Location, _: Writer) {}

    fn removed(&self, _: &Location) {}
}

struct World {
    directory: tempfile::TempDir,
    vfs: Vfs,
    root: u64,
}

impl World {
    fn new(descriptors_max: usize) -> Self {
        Self::below(&std::env::temp_dir(), descriptors_max)
    }

    fn below(place: &Path, descriptors_max: usize) -> Self {
        let directory = tempfile::tempdir_in(place).unwrap();
        let vfs = unmounted::vfs(directory.path(), &MOUNTS, Arc::new(Deaf), descriptors_max);
        let root = unmounted::mount_point(&vfs, "rw");
        Self { directory, vfs, root }
    }

    fn host(&self, path: &str) -> PathBuf {
        self.directory.path().join("rw").join(path)
    }

    fn lookup(&self, parent: u64, name: &str) -> u64 {
        self.vfs.lookup(parent, OsStr::new(name)).unwrap().node
    }

    /// Makes the file system give up the descriptors of all other nodes.
    fn press(&self) {
        for i in 0..20 {
            let name = format!("press-{i}");
            fs::write(self.host(&name), "").unwrap();
            let node = self.lookup(self.root, &name);
            self.vfs.getattr(node, None).unwrap();
        }
    }

    fn text(&self, node: u64) -> Result<String, Error> {
        let handle = self.vfs.open(&unmounted::ourselves(), node, OFlag::O_RDONLY)?;
        let data = self.vfs.read(handle, 0, 100).unwrap();
        self.vfs.release(handle);
        Ok(String::from_utf8(data).unwrap())
    }
}

fn is_stale<T: std::fmt::Debug>(result: Result<T, Error>) {
    assert_eq!(result.expect_err("is not the file that was meant").to_errno(), Errno::ESTALE);
}

/// Nodes that are used again and again must not be spared for ever: a process has no more descriptors than its limit.
#[test]
fn nodes_in_constant_use_keep_no_more_descriptors_than_allowed() {
    // More than are looked at in one call, so that all of those can be in use.
    const MAX: usize = 50;
    let _alone = crate::alone();
    let world = World::new(MAX);
    let before = unmounted::descriptors();
    let mut nodes = Vec::new();
    for i in 0..300 {
        let name = format!("{i}");
        fs::write(world.host(&name), "").unwrap();
        nodes.push(world.lookup(world.root, &name));
        for node in &nodes {
            world.vfs.getattr(*node, None).unwrap();
        }
        let kept = unmounted::descriptors() - before;
        assert!(kept <= MAX, "{kept} descriptors are kept for {} nodes", nodes.len());
    }
}

/// A process makes such trees with mkdir(2) and chdir(2) alone, and must not end the daemon with it.
fn deep(descriptors_max: usize) {
    const DEPTH: u32 = 8_000;
    let world = World::below(&unmounted::in_memory(), descriptors_max);
    let new = NewMode { mode: 0o755, umask: 0 };
    let mut nodes = vec![world.root];
    for _ in 0..DEPTH {
        let parent = nodes[nodes.len() - 1];
        let made = world.vfs.mkdir(&unmounted::ourselves(), parent, "d".as_ref(), new).unwrap();
        nodes.push(made.node);
    }
    // The ones far up gave up their descriptors.
    for node in nodes.iter().rev().step_by(2000) {
        assert_eq!(world.vfs.getattr(*node, None).unwrap().node, *node);
    }
    let World { directory, vfs, .. } = world;
    drop(vfs);
    // The library's own removal is a recursion.
    let removed = std::process::Command::new("rm").arg("-rf").arg(directory.path()).status();
    assert!(removed.unwrap().success());
}

#[test]
fn a_tree_deeper_than_a_stack_is_served_and_given_up() {
    assert!(unmounted::is_root(), "opening inodes by handle needs root");
    let _alone = crate::alone();
    belljar::sys::credentials::own_umask_zero().unwrap();
    deep(4);
}

#[test]
fn a_tree_deeper_than_a_stack_is_found_again_without_handles() {
    let _alone = crate::alone();
    if unmounted::must_run_here("edges::a_tree_deeper_than_a_stack_is_found_again_without_handles")
    {
        belljar::sys::credentials::own_umask_zero().unwrap();
        deep(4);
    }
}

#[test]
fn without_handles_a_node_is_the_file_that_was_meant_or_stale() {
    let _alone = crate::alone();
    if unmounted::must_run_here("edges::without_handles_a_node_is_the_file_that_was_meant_or_stale")
    {
        one_of_several_names_is_enough();
        a_renamed_directory_is_found_again_with_what_is_below();
        what_took_the_place_of_a_file_is_not_it();
    }
}

fn one_of_several_names_is_enough() {
    let world = World::new(2);
    fs::write(world.host("a"), "text").unwrap();
    fs::hard_link(world.host("a"), world.host("b")).unwrap();
    let node = world.lookup(world.root, "a");
    assert_eq!(world.lookup(world.root, "b"), node);
    fs::remove_file(world.host("a")).unwrap();
    world.press();
    assert_eq!(world.text(node).unwrap(), "text");
}

fn a_renamed_directory_is_found_again_with_what_is_below() {
    let world = World::new(2);
    fs::create_dir_all(world.host("d/e")).unwrap();
    fs::write(world.host("d/e/a"), "text").unwrap();
    let d = world.lookup(world.root, "d");
    let e = world.lookup(d, "e");
    let a = world.lookup(e, "a");
    fs::rename(world.host("d"), world.host("moved")).unwrap();
    // Others have the names by now.
    fs::create_dir_all(world.host("d/e")).unwrap();
    fs::write(world.host("d/e/a"), "other").unwrap();
    world.press();
    is_stale(world.text(a));
    is_stale(world.vfs.getattr(e, None));
    is_stale(world.vfs.lookup(d, "e".as_ref()));
    assert_eq!(world.lookup(world.root, "moved"), d);
    world.press();
    assert_eq!(world.text(a).unwrap(), "text");
    let other = world.lookup(world.root, "d");
    assert_ne!(other, d);
}

/// ext4 gives the number of a file that is removed to the next that is made.
fn what_took_the_place_of_a_file_is_not_it() {
    let tick = || std::thread::sleep(std::time::Duration::from_millis(20));
    let mut reused = [0; 2];
    for round in 0..20 {
        let world = World::new(2);
        fs::write(world.host("a"), "text").unwrap();
        let number = fs::metadata(world.host("a")).unwrap().ino();
        let node = world.lookup(world.root, "a");
        world.press();
        tick();
        fs::remove_file(world.host("a")).unwrap();
        is_stale(world.vfs.getattr(node, None));
        let fifo = round % 2;
        if fifo == 1 {
            nix::unistd::mkfifo(&world.host("a"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        } else {
            fs::write(world.host("a"), "other").unwrap();
        }
        reused[fifo] += u32::from(fs::symlink_metadata(world.host("a")).unwrap().ino() == number);
        is_stale(world.text(node));
        is_stale(world.vfs.getattr(node, None));
        let other = world.lookup(world.root, "a");
        assert_ne!(other, node);
        if fifo == 1 {
            // Opening it for reading would wait for a writer, and the test with it.
            let refused = world.text(other).expect_err("is no regular file");
            assert_eq!(refused.to_errno(), Errno::EOPNOTSUPP);
        } else {
            assert_eq!(world.text(other).unwrap(), "other");
        }
        is_stale(world.text(node));
        // The end of the one must not take the other's number from it.
        world.vfs.forget(node, 1);
        assert_eq!(world.lookup(world.root, "a"), other);
    }
    let kind = nix::sys::statfs::statfs(&std::env::temp_dir()).unwrap().filesystem_type();
    if kind == nix::sys::statfs::EXT4_SUPER_MAGIC {
        assert!(reused.iter().all(|count| *count > 0), "no number was used again: {reused:?}");
    }
}

/// ext4 gives the number of a file that is removed to the next that is made.
#[test]
fn a_file_has_no_place_where_another_has_its_number_and_name() {
    assert!(unmounted::is_root(), "opening inodes by handle needs root");
    let _alone = crate::alone();
    let mut reused = 0;
    for _ in 0..20 {
        let world = World::new(2);
        fs::write(world.host("a"), "text").unwrap();
        let number = fs::metadata(world.host("a")).unwrap().ino();
        let file = FileKey(world.lookup(world.root, "a"));
        assert_eq!(world.vfs.locations(file).len(), 1);
        world.press();
        fs::remove_file(world.host("a")).unwrap();
        fs::write(world.host("a"), "other").unwrap();
        reused += u32::from(fs::metadata(world.host("a")).unwrap().ino() == number);
        assert_eq!(world.vfs.locations(file), [], "the place of another file");
        FileSource::open(&world.vfs, file).expect_err("the file is gone");
    }
    let kind = nix::sys::statfs::statfs(&std::env::temp_dir()).unwrap().filesystem_type();
    if kind == nix::sys::statfs::EXT4_SUPER_MAGIC {
        assert!(reused > 0, "no number was used again");
    }
}

/// The kernel goes on with a file that it knows, for who has it open with O_PATH, say.
#[test]
fn a_file_that_the_host_renamed_is_reached_after_its_last_name_is_removed() {
    assert!(unmounted::is_root(), "opening inodes by handle needs root");
    let _alone = crate::alone();
    let world = World::new(2);
    fs::write(world.host("a"), "text").unwrap();
    let node = world.lookup(world.root, "a");
    fs::rename(world.host("a"), world.host("b")).unwrap();
    assert_eq!(world.lookup(world.root, "b"), node);
    world.vfs.unlink(&unmounted::ourselves(), world.root, "b".as_ref()).unwrap();
    world.press();
    assert_eq!(world.text(node).unwrap(), "text");
}
