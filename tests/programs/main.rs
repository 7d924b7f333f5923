//! Real programs behave in a workspace as in a plain directory: same exit code, same output, same tree.
//!
//! Each script can be run by hand in an empty directory, with the files that its test names. Everything is tried everywhere
//! when `BELLJAR_TEST_LONG=1`, which takes minutes longer; without it, what is slow is tried in fewer places.
#![allow(clippy::unwrap_used)]

#[path = "../mounted/mod.rs"]
mod mounted;
mod needs;
#[path = "../support/mod.rs"]
mod support;
mod world;

use needs::{need, npm_cache, python_tests, toolchain};

use std::path::Path;
use world::{Program, Sandbox, is_long, same, stdout};

const SAMPLE_TREE: (&str, &str) = ("sample_tree.py", include_str!("sample_tree.py"));

/// The user of a database server, which refuses to be root's. Any that nothing else runs as.
const SERVER_USER: u32 = 12346;

const ROOT: u32 = 0;

/// `.git/index` has inode numbers and times; absolute paths are not the same in a sandbox.
const GIT: Program = Program {
    script: include_str!("git.sh"),
    arguments: &[],
    files: &[],
    lent: None,
    instead: &[],
    tree: Some(&[
        "--content-varies=*/index",
        "--content-varies=tree/.git",
        "--content-varies=*/gitdir",
        "--content-varies=*/config",
        "--content-varies=*/logs/*",
        "--content-varies=*/FETCH_HEAD",
    ]),
    user: ROOT,
};

#[test]
fn git_finds_every_object_and_no_change() {
    need("git", "git");
    GIT.is_the_same_in_workspaces();
}

#[test]
fn git_finds_every_object_and_no_change_in_a_users_sandbox() {
    need("git", "git");
    GIT.is_the_same_in_a_users_sandbox();
}

/// The order of transactions is not the same.
const SQLITE: Program = Program {
    script: include_str!("sqlite.sh"),
    arguments: &[],
    files: &[("sqlite.py", include_str!("sqlite.py"))],
    lent: None,
    instead: &[],
    tree: Some(&["--content-varies=*.db", "--content-varies=*-journal"]),
    user: ROOT,
};

#[test]
fn sqlite_loses_no_transaction() {
    need("/usr/bin/python3", "python3");
    SQLITE.is_the_same_in_workspaces();
}

#[test]
fn sqlite_loses_no_transaction_in_a_users_sandbox() {
    need("/usr/bin/python3", "python3");
    SQLITE.is_the_same_in_a_users_sandbox();
}

fn postgres() -> Program<'static> {
    Program {
        script: include_str!("postgres.sh"),
        arguments: if is_long() { &["30"] } else { &["3"] },
        files: &[],
        lent: None,
        instead: &[],
        tree: None,
        user: SERVER_USER,
    }
}

#[test]
fn postgresql_recovers_and_its_checksums_are_right() {
    need("/usr/lib/postgresql/*/bin/postgres", "postgresql");
    postgres().is_the_same_in_workspaces();
    if is_long() {
        postgres().is_the_same_in_a_users_sandbox();
    }
}

fn rsync<'a>(arguments: &'a [&'a str]) -> Program<'a> {
    Program {
        script: include_str!("rsync.sh"),
        arguments,
        files: &[SAMPLE_TREE],
        lent: None,
        instead: &[],
        tree: Some(&["--times=here/*"]),
        user: ROOT,
    }
}

#[test]
fn rsync_copies_a_tree_in_and_out_and_finds_no_difference() {
    need("rsync", "rsync");
    need("setfacl", "acl");
    rsync(&["acls"]).is_the_same_in_workspaces();
}

/// An ordinary user's daemon knows no access control lists.
#[test]
fn rsync_copies_a_tree_and_finds_no_difference_in_a_users_sandbox() {
    need("rsync", "rsync");
    rsync(&["inside"]).is_the_same_in_a_users_sandbox();
}

fn tar<'a>(arguments: &'a [&'a str]) -> Program<'a> {
    Program {
        script: include_str!("tar.sh"),
        arguments,
        files: &[SAMPLE_TREE],
        lent: None,
        instead: &[],
        tree: Some(&["--times=source/*", "--times=unpacked-*/*", "--content-varies=sparse.tar"]),
        user: ROOT,
    }
}

#[test]
fn tar_unpacks_what_it_packed() {
    need("setfacl", "acl");
    tar(&["acls"]).is_the_same_in_workspaces();
}

/// An ordinary user's daemon knows no access control lists.
#[test]
fn tar_unpacks_what_it_packed_in_a_users_sandbox() {
    tar(&[]).is_the_same_in_a_users_sandbox();
}

const MAKE: Program = Program {
    script: include_str!("make.sh"),
    arguments: &[],
    files: &[],
    lent: None,
    instead: &[],
    tree: Some(&[]),
    user: ROOT,
};

#[test]
fn make_compiles_what_changed_and_nothing_else() {
    need("make", "build-essential");
    MAKE.is_the_same_in_workspaces();
}

#[test]
fn make_compiles_what_changed_and_nothing_else_in_a_users_sandbox() {
    need("make", "build-essential");
    MAKE.is_the_same_in_a_users_sandbox();
}

/// The tests that a host file system may fail are failed by a workspace too, and no others.
const PYTHON_TESTS: Program = Program {
    script: include_str!("python-tests.sh"),
    arguments: &["."],
    files: &[],
    lent: None,
    // They want to set `trusted.foo` as well. Only attributes of `user.` and lists are passed on.
    instead: &[
        (
            "test.test_shutil.TestCopy.test_copy2_xattr ok",
            "test.test_shutil.TestCopy.test_copy2_xattr skipped",
        ),
        (
            "test.test_shutil.TestCopy.test_copyxattr ok",
            "test.test_shutil.TestCopy.test_copyxattr skipped",
        ),
        (
            "test.test_shutil.TestCopy.test_copyxattr_symlinks ok",
            "test.test_shutil.TestCopy.test_copyxattr_symlinks skipped",
        ),
    ],
    tree: Some(&[]),
    user: ROOT,
};

#[test]
fn pythons_own_tests_come_out_as_in_a_plain_directory() {
    python_tests();
    PYTHON_TESTS.is_the_same_in_workspaces();
}

/// What a sandbox forbids is forbidden in its own `/tmp` as well.
#[test]
fn pythons_own_tests_come_out_as_in_the_same_users_sandbox_outside_of_the_workspace() {
    python_tests();
    let sandbox = Sandbox::new(&PYTHON_TESTS);
    let results = ["/tmp", "."].map(|directory| {
        let program = Program { arguments: &[directory], ..PYTHON_TESTS };
        let ended = sandbox.run(&program.command());
        assert!(ended.status.success(), "{directory}: {}", support::text(&ended));
        stdout(&ended)
    });
    assert!(results[0].lines().count() > 400, "{}", results[0]);
    same("in the workspace", &results[0], &results[1]);
    sandbox.place.assert_clean();
}

fn cargo(toolchain: &Path) -> Program<'_> {
    Program {
        script: include_str!("cargo.sh"),
        arguments: &[],
        files: &[],
        lent: Some(toolchain),
        instead: &[],
        // Their names and contents have times in them.
        tree: Some(&["--leave-out=target/debug/*", "--content-varies=target/.rustc_info.json"]),
        user: ROOT,
    }
}

#[test]
fn cargo_compiles_what_changed_and_nothing_else() {
    let toolchain = toolchain();
    cargo(&toolchain).is_the_same_in_workspaces();
    if is_long() {
        cargo(&toolchain).is_the_same_in_a_users_sandbox();
    }
}

fn npm(cache: &Path) -> Program<'_> {
    Program {
        script: include_str!("npm.sh"),
        arguments: if is_long() { &["twice"] } else { &[] },
        lent: Some(cache),
        instead: &[],
        files: &[
            ("package.json", include_str!("npm/package.json")),
            ("package-lock.json", include_str!("npm/package-lock.json")),
        ],
        tree: Some(&[]),
        user: ROOT,
    }
}

#[test]
fn npm_installs_packages_that_work() {
    let cache = npm_cache();
    if is_long() {
        npm(&cache).is_the_same_in_workspaces();
        npm(&cache).is_the_same_in_a_users_sandbox();
    } else {
        npm(&cache).is_the_same_in_workspaces_with(&[true]);
    }
}
