//! Two public suites for file systems, pjdfstest and fsx, in a workspace and beside it: what holds in a plain directory
//! holds in a read-write mount point over it.
//!
//! No test harness: the program makes its mounts in a mount namespace of its own, so that they end with it however it ends,
//! and starts itself again as an ordinary user. An argument selects the tests whose names contain it.

mod fsx;
mod ground;
#[path = "../mounted/mod.rs"]
mod mounted;
#[path = "../ordinary/mod.rs"]
mod ordinary;
mod pjdfstest;
mod programs;
mod user;

use belljar::model::mount::{CachePolicy, SetId};
use ground::{Ground, fixture};
use mounted::Setup;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, umask};
use pjdfstest::{DEVICES, LINK_MAX, SET_ID_REFUSED};
use std::path::Path;
use std::time::{Duration, Instant};

type Test = (&'static str, fn());

macro_rules! tests {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), $name)),*] };
}

const TESTS: &[Test] = tests![
    pjdfstest_passes_over_ext4_where_it_passes_on_ext4,
    pjdfstest_passes_over_tmpfs_where_it_passes_on_tmpfs,
    pjdfstest_passes_without_passthrough,
    set_id_bits_are_all_that_is_refused_by_default,
    an_ordinary_users_workspace_passes_both_suites,
    fsx_reads_what_it_wrote_with_passthrough,
    fsx_reads_what_it_wrote_without_passthrough,
];

fn main() {
    // What the suites make is for several users.
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, directory] = &arguments[..]
        && mode == user::AS_USER
    {
        return user::run(Path::new(directory));
    }
    assert!(
        nix::unistd::geteuid().is_root(),
        "pjdfstest acts as several users, and file systems are mounted for it: run this as root"
    );
    unshare(CloneFlags::CLONE_NEWNS).expect("make a mount namespace: this needs CAP_SYS_ADMIN");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .expect("keep the mounts of this namespace to itself");
    let wanted = arguments.iter().find(|argument| !argument.starts_with('-'));
    let selected = TESTS.iter().filter(|(name, _)| wanted.is_none_or(|part| name.contains(part)));
    for (name, test) in selected {
        // Before it runs, so that the one that fails is known.
        println!("posix: {name}");
        let started = Instant::now();
        test();
        println!("posix: {name} ok in {:.1?}", started.elapsed());
    }
}

/// Time for fsx: the short form's, or ten times that.
fn time(seconds: u64) -> Duration {
    let long = std::env::var_os("BELLJAR_TEST_LONG").is_some_and(|value| value == "1");
    Duration::from_secs(if long { 10 * seconds } else { seconds })
}

fn compare(ground: &Ground, setup: Setup, exceptions: &[&[pjdfstest::Exception]]) {
    let other = Ground::tmpfs();
    let fixture = fixture(ground.path(), setup);
    let plain = pjdfstest::run(&ground.directory("plain"), other.path());
    let inside = pjdfstest::run(&fixture.rw(""), other.path());
    pjdfstest::compare(&plain, &inside, &exceptions.concat(), pjdfstest::Run::AsRoot);
}

fn pjdfstest_passes_over_ext4_where_it_passes_on_ext4() {
    let setup = Setup { suid: SetId::Allow, ..Setup::default() };
    compare(&Ground::ext4(), setup, &[DEVICES, LINK_MAX]);
}

fn pjdfstest_passes_over_tmpfs_where_it_passes_on_tmpfs() {
    let setup = Setup { suid: SetId::Allow, ..Setup::default() };
    compare(&Ground::tmpfs(), setup, &[DEVICES]);
}

fn pjdfstest_passes_without_passthrough() {
    let setup = Setup { suid: SetId::Allow, passthrough: false, ..Setup::default() };
    compare(&Ground::ext4(), setup, &[DEVICES, LINK_MAX]);
}

fn set_id_bits_are_all_that_is_refused_by_default() {
    compare(&Ground::ext4(), Setup::default(), &[DEVICES, LINK_MAX, SET_ID_REFUSED]);
}

fn an_ordinary_users_workspace_passes_both_suites() {
    user::run_again(&Ground::ext4());
}

fn fsx_reads_what_it_wrote_with_passthrough() {
    let ground = Ground::ext4();
    let fixture = fixture(ground.path(), Setup::default());
    let operations = fsx::exercise(&fixture, time(60));
    // posix_fadvise(2) with POSIX_FADV_WILLNEED reads ahead into the workspace's own pages, also of a file whose reads pass
    // through: measured, one in 170 operations here.
    let requests = fixture.vfs.data_requests();
    assert!(requests < operations / 50, "{requests} requests for {operations} operations");
}

fn fsx_reads_what_it_wrote_without_passthrough() {
    let ground = Ground::ext4();
    for (cache, seconds) in
        [(CachePolicy::Shared, 30), (CachePolicy::Exclusive, 15), (CachePolicy::None, 15)]
    {
        println!("posix: cache {cache:?}");
        let setup = Setup { passthrough: false, cache, ..Setup::default() };
        let fixture = fixture(ground.path(), setup);
        fsx::exercise(&fixture, time(seconds));
        assert!(fixture.vfs.data_requests() > 0, "no data came to the daemon");
    }
}
