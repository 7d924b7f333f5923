//! Many file systems in one process: what they keep together is bounded, and nothing is lost by it.

use crate::unmounted::{self, Mount};
use belljar::model::access::Access;
use belljar::vfs::Vfs;
use belljar::vfs::descriptors::DescriptorBudget;
use nix::fcntl::OFlag;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

const MOUNTS: [Mount; 1] = [Mount { name: "rw", access: Access::ReadWrite, artifacts: true }];
/// Each has more files than all may keep descriptors.
const FILES: usize = 300;
const SYSTEMS: usize = 40;
const BUDGET: usize = 200;

struct System {
    vfs: Vfs,
    files: Vec<u64>,
    directory: tempfile::TempDir,
}

impl System {
    fn new(budget: &Arc<DescriptorBudget>) -> Self {
        let directory = tempfile::tempdir_in(unmounted::in_memory()).unwrap();
        let observer = Arc::new(crate::heard::Heard::default());
        let vfs = unmounted::vfs_within(budget, directory.path(), &MOUNTS, observer);
        Self { vfs, files: Vec::new(), directory }
    }

    fn find_all(&mut self) {
        let root = unmounted::mount_point(&self.vfs, "rw");
        for i in 0..FILES {
            let name = format!("{i}");
            fs::write(self.directory.path().join("rw").join(&name), &name).unwrap();
            self.files.push(self.vfs.lookup(root, name.as_ref()).unwrap().node);
        }
    }

    fn check(&self) {
        for (i, node) in self.files.iter().enumerate() {
            let expected = format!("{i}");
            let told = self.vfs.getattr(*node, None).unwrap();
            assert_eq!((told.node, told.size), (*node, expected.len() as u64));
            if i % 50 == 0 {
                let caller = unmounted::ourselves();
                let handle = self.vfs.open(&caller, *node, OFlag::O_RDONLY).unwrap();
                assert_eq!(self.vfs.read(handle, 0, 100).unwrap(), expected.as_bytes());
                self.vfs.release(handle);
            }
        }
    }
}

/// Waits for descriptors that are closed on another thread.
fn settles(kept: impl Fn() -> usize, expected: impl Fn(usize) -> bool) -> usize {
    let until = Instant::now() + Duration::from_secs(10);
    while !expected(kept()) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
    kept()
}

fn share_one_budget() {
    let budget = DescriptorBudget::new(BUDGET);
    let before = unmounted::descriptors();
    let mut systems = vec![System::new(&budget)];
    // Each has its mount point open, whatever is kept.
    let own = unmounted::descriptors() - before;
    let kept = |systems: &[System]| unmounted::descriptors() - before - own * systems.len();
    systems[0].find_all();
    assert_eq!(kept(&systems), BUDGET, "one alone has the whole budget");
    while systems.len() < SYSTEMS {
        systems.push(System::new(&budget));
        systems.last_mut().unwrap().find_all();
        let kept = settles(|| kept(&systems), |kept| kept <= BUDGET);
        assert!(kept <= BUDGET, "{kept} descriptors are kept by {} systems", systems.len());
    }
    for system in &systems {
        system.check();
    }
    let together = kept(&systems);
    assert!((BUDGET / 2..=BUDGET).contains(&together), "{together} descriptors are kept");
    systems.truncate(1);
    systems[0].check();
    let alone = settles(|| kept(&systems), |kept| kept == BUDGET);
    assert_eq!(alone, BUDGET, "one that is alone again has the whole budget");
}

#[test]
fn many_file_systems_keep_no_more_descriptors_than_all_may() {
    assert!(unmounted::is_root(), "opening inodes by handle needs root");
    let _alone = crate::alone();
    share_one_budget();
}

#[test]
fn many_file_systems_without_handles_keep_no_more_descriptors_than_all_may() {
    let _alone = crate::alone();
    if unmounted::must_run_here(
        "budget::many_file_systems_without_handles_keep_no_more_descriptors_than_all_may",
    ) {
        share_one_budget();
    }
}
