//! The file system without a kernel against a reference in memory: generated requests must be answered as the reference
//! says, node by node and handle by handle, and when all is given back nothing may be left.
//!
//! Steps are generated and shrunk by proptest. Cases that failed are kept in `regressions.txt` and come first.
#![allow(clippy::unwrap_used)]

mod budget;
mod concurrent;
mod edges;
mod handles;
mod heard;
mod host;
mod kernel;
mod names;
mod nodes;
mod operations;
mod reference;
mod refusal;
mod steps;
#[path = "../unmounted/mod.rs"]
mod unmounted;

use kernel::Kernel;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

const REGRESSIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/model/regressions.txt");

/// The tests count the descriptors of the process, so they come one after the other.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    // After a test that failed, the others are still worth something.
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Compares generated cases for a while; the ones that failed before always come first, whole.
fn compare() {
    belljar::sys::credentials::own_umask_zero().unwrap();
    let long = unmounted::long();
    // So few at once, because generating those for which no time is left would take longer than the time itself.
    const BATCH: u32 = 50;
    // On a machine that is busy, time alone could mean too few to meet anything. Chosen after what it takes to notice that
    // src/vfs was broken on purpose: some hundred cases.
    const CASES_MIN: u32 = 400;
    let until = Instant::now() + Duration::from_secs(if long { 240 } else { 8 });
    let mut cases = 0;
    while cases < CASES_MIN || Instant::now() < until {
        let config = Config {
            cases: BATCH,
            max_shrink_iters: 5000,
            // An ordinary user may not write beside the sources, and prints what failed like root.
            failure_persistence: unmounted::is_root()
                .then(|| Box::new(FileFailurePersistence::Direct(REGRESSIONS)) as Box<_>),
            ..Config::default()
        };
        let result = TestRunner::new(config).run(&operations::operations(100), |operations| {
            let mut kernel = Kernel::new(3);
            for operation in &operations {
                kernel.step(operation);
            }
            kernel.end();
            Ok(())
        });
        if let Err(failure) = result {
            panic!("{failure}");
        }
        cases += BATCH;
    }
    eprintln!("compared {cases} cases");
}

#[test]
fn with_handles_every_answer_is_the_references() {
    assert!(unmounted::is_root(), "opening inodes by handle needs root");
    let _alone = alone();
    compare();
}

#[test]
fn without_handles_every_answer_is_the_references() {
    let _alone = alone();
    if unmounted::must_run_here("without_handles_every_answer_is_the_references") {
        compare();
    }
}
