//! What the observer cannot note does not happen: the journal's disk is full, and nothing may be left of a create.

use crate::kernel::MOUNTS;
use crate::unmounted;
use belljar::vfs::Vfs;
use belljar::vfs::backing::NewMode;
use belljar::vfs::error::Error;
use belljar::vfs::observer::{FileKey, Location, Tracking, WriteObserver, Writer};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Notes nothing, and does on the host what the test wants done at that moment.
struct Full<F>(F);

impl<F: Fn() + Send + Sync> WriteObserver for Full<F> {
    fn dirtied(&self, _: FileKey, _: &Location, _: Writer) -> io::Result<Tracking> {
        (self.0)();
        Err(Errno::ENOSPC.into())
    }

    fn closed(&self, _: FileKey, _: bool) {
        panic!("nothing was opened");
    }

    fn named(
        &self,
        _: FileKey,
        _: Option<&Location>,
        _: &Location,
        _: Writer,
        _: bool,
    ) -> Tracking {
        panic!("nothing was named");
    }

    fn directory_moved(&self, _: &Location, _: &Location, _: Writer) {
        panic!("nothing was moved");
    }

    fn removed(&self, _: &Location) {
        panic!("nothing was there to be removed");
    }
}

type Way<'a> = &'a dyn Fn(&Vfs, u64) -> Result<(), Error>;

/// Both ways to make a regular file, each in a directory of its own; `meanwhile` happens when it is to be noted.
fn refused(meanwhile: impl Fn(&Path) + Clone + Send + Sync + 'static, check: impl Fn(&Path)) {
    let caller = unmounted::ourselves();
    let new = NewMode { mode: 0o100_644, umask: 0 };
    let name = "a".as_ref();
    let create = |vfs: &Vfs, root| vfs.create(&caller, root, name, OFlag::O_RDWR, new).map(|_| ());
    let mknod = |vfs: &Vfs, root| vfs.mknod(&caller, root, name, new).map(|_| ());
    let ways: [Way<'_>; 2] = [&create, &mknod];
    for way in ways {
        let _alone = crate::alone();
        belljar::sys::credentials::own_umask_zero().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let rw = directory.path().join("rw");
        let observer = Full({
            let (rw, meanwhile) = (rw.clone(), meanwhile.clone());
            move || meanwhile(&rw)
        });
        let vfs = unmounted::vfs(directory.path(), &MOUNTS, Arc::new(observer), 100);
        let root = unmounted::mount_point(&vfs, "rw");
        let before = unmounted::descriptors();
        let error = way(&vfs, root).expect_err("cannot be noted");
        assert_eq!(error.to_errno(), Errno::ENOSPC);
        check(&rw);
        assert_eq!(vfs.nodes(), MOUNTS.len(), "nodes that nobody holds");
        assert_eq!(unmounted::descriptors(), before, "descriptors");
    }
}

#[test]
fn a_file_whose_creation_cannot_be_noted_is_not_made() {
    let nothing = |_: &Path| {};
    refused(nothing, |rw| assert_eq!(fs::read_dir(rw).unwrap().count(), 0));
}

#[test]
fn what_the_host_has_put_in_the_place_of_such_a_file_stays() {
    let replace = |rw: &Path| {
        fs::write(rw.join("host"), "host's").unwrap();
        fs::rename(rw.join("host"), rw.join("a")).unwrap();
    };
    refused(replace, |rw| assert_eq!(fs::read_to_string(rw.join("a")).unwrap(), "host's"));
}
