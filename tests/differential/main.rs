//! The same system calls in a workspace and in a plain directory of the same file system, made by processes of several
//! users, must come to the same: result, errno, data, attributes, listings, and what is there in the end.
//!
//! As root the processes are those of several users; as an ordinary user, in a user namespace that knows no other and has no
//! passthrough, they are his.
//!
//! No test harness: the program starts itself again as an ordinary user, and a process must have a single thread to enter a
//! user namespace. An argument selects the tests whose names contain it.
//!
//! Steps are generated and shrunk by proptest. Cases that failed are kept in `regressions.txt` and come first.

#[path = "../mounted/mod.rs"]
mod mounted;
#[path = "../ordinary/mod.rs"]
mod ordinary;
mod steps;
mod workers;

use belljar::model::mount::SetId;
use belljar::sys::process::enter_user_namespace;
use mounted::{Fixture, Setup};
use ordinary::ORDINARY;
use proptest::test_runner::{
    Config, FileFailurePersistence, TestCaseError, TestCaseResult, TestRunner,
};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::{Duration, Instant};
use steps::Step;
use workers::Workers;

const REGRESSIONS: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/differential/regressions.txt");

/// A path that climbs meets these before it leaves the case.
const PADDING: &str = "p/p/p/p/p/p/p/p";

/// A mounted workspace and a plain directory beside it.
struct World {
    inside: Workers,
    plain: Workers,
    /// Looks at what the workspace's host directory has.
    host: Workers,
    cases: u32,
    fixture: Fixture,
}

impl World {
    fn new(passthrough: bool) -> Self {
        let fixture = Fixture::with(&Setup {
            passthrough,
            suid: SetId::Allow,
            descriptors_max: 4,
            ..Setup::default()
        });
        let directory = fixture.directory.path();
        fs::set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(directory.join("plain")).unwrap();
        Self {
            inside: Workers::below(&fixture.root.join("rw")),
            plain: Workers::below(&directory.join("plain")),
            host: Workers::below(&directory.join("rw")),
            cases: 0,
            fixture,
        }
    }

    fn run(&mut self, steps: &[Step]) -> TestCaseResult {
        self.cases += 1;
        let directory = format!("{}/{PADDING}", self.cases);
        for parent in [&self.fixture.host(""), &self.fixture.directory.path().join("plain")] {
            furnish(&parent.join(&directory));
        }
        for side in [&mut self.inside, &mut self.plain, &mut self.host] {
            side.begin(&directory);
        }
        for (number, step) in steps::openings().iter().chain(steps).enumerate() {
            let request = serde_json::to_value(&step.op).unwrap();
            if is_foreign(&request) {
                continue;
            }
            let inside = comparable(&request, self.inside.ask(step.who, &request));
            if step.who == 0 && nix::unistd::geteuid().is_root() && makes_device(&request) {
                // In a workspace also root makes no device node; outside it would.
                if inside.get("ok").is_some() {
                    return Err(TestCaseError::fail(format!("step {number} {step:?}: {inside}")));
                }
                continue;
            }
            let plain = comparable(&request, self.plain.ask(step.who, &request));
            if inside != plain {
                return Err(TestCaseError::fail(format!(
                    "step {number} {step:?}\n inside: {inside}\n  plain: {plain}"
                )));
            }
        }
        let request = json!({ "op": "tree" });
        let [inside, host, plain] = [&mut self.inside, &mut self.host, &mut self.plain]
            .map(|side| comparable(&request, side.ask(0, &request)));
        for (name, tree) in [("the workspace", inside), ("its host directory", host)] {
            if tree != plain {
                return Err(TestCaseError::fail(format!(
                    "in the end {name} has\n{}\n and the plain directory\n{}",
                    only_in(&tree, &plain),
                    only_in(&plain, &tree)
                )));
            }
        }
        Ok(())
    }
}

/// What `tree` has that `other` has not, or has otherwise.
fn only_in(tree: &Value, other: &Value) -> String {
    let Some(entries) = tree["ok"].as_object() else { return tree.to_string() };
    let differs = |(path, told): &(&String, &Value)| other["ok"].get(path) != Some(told);
    entries.iter().filter(differs).map(|(path, told)| format!("  {path}: {told}\n")).collect()
}

/// What every case finds: files, directories of each kind, links.
fn furnish(at: &Path) {
    fs::create_dir_all(at).unwrap();
    let open = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    open(at, 0o777);
    for (name, mode) in [("d", 0o755), ("t", 0o1777), ("g", 0o2777)] {
        fs::create_dir(at.join(name)).unwrap();
        open(&at.join(name), mode);
    }
    let give = |name: &str, uid, gid| {
        if nix::unistd::geteuid().is_root() {
            chown(at.join(name), uid, gid).unwrap();
        }
    };
    give("d", Some(12345), Some(12345));
    give("g", None, Some(12345));
    for (name, owner) in [("a", 12345), ("d/a", 12345), ("t/a", 12345), ("t/b", 12346)] {
        fs::write(at.join(name), name.repeat(5)).unwrap();
        give(name, Some(owner), Some(owner));
    }
    symlink("d", at.join("s")).unwrap();
    symlink("l", at.join("l")).unwrap();
}

/// Access control lists name users of the host, whom a user namespace does not know: an ordinary user's workspace has none.
fn is_foreign(request: &Value) -> bool {
    let name = request["name"].as_str().unwrap_or_default();
    !nix::unistd::geteuid().is_root() && name.starts_with("system.posix_acl")
}

fn makes_device(request: &Value) -> bool {
    let kind = request["mode"].as_u64().unwrap_or(0) & 0o170_000;
    request["op"] == "mknod" && [0o020_000, 0o060_000].contains(&kind)
}

/// An answer without what is meant to differ. Each line says why.
fn comparable(request: &Value, mut answer: Value) -> Value {
    let tree = request["op"] == "tree";
    let strip = |told: &mut Value| {
        let Some(told) = told.as_object_mut() else { return };
        // Who writes a file takes its set-id bits also as root, who keeps them elsewhere.
        if let Some(mode) = told.get("mode").and_then(Value::as_u64)
            && mode & 0o170_000 == 0o100_000
        {
            told.insert("mode".to_owned(), (mode & !0o6000).into());
        }
        // The kernel keeps pages of a workspace's file, and reading those tells the host nothing.
        told.remove("atime");
    };
    match answer.get_mut("ok") {
        Some(Value::Object(entries)) if tree => entries.values_mut().for_each(strip),
        Some(told) => strip(told),
        None => {}
    }
    answer
}

fn long() -> bool {
    std::env::var_os("BELLJAR_TEST_LONG").is_some_and(|value| value == "1")
}

/// Compares generated cases for a while; the ones that failed before always come first, whole.
fn compare(passthrough: bool, regressions: &'static str) {
    let time = Duration::from_secs(if long() { 300 } else { 20 });
    let world = RefCell::new(World::new(passthrough));
    let config = Config {
        cases: if long() { 20_000 } else { 600 },
        max_shrink_iters: 2000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(regressions))),
        ..Config::default()
    };
    let until = Instant::now() + time;
    let result =
        TestRunner::new(config).run(&steps::steps(if long() { 80 } else { 40 }), |steps| {
            // A slow machine compares fewer; it must not compare none.
            if Instant::now() > until && world.borrow().cases > 50 {
                return Ok(());
            }
            world.borrow_mut().run(&steps)
        });
    if let Err(failure) = result {
        panic!("{failure}");
    }
    let cases = world.borrow().cases;
    eprintln!("compared {cases} cases");
    assert!(cases > 10, "only {cases} cases were compared");
}

fn a_workspace_with_passthrough_does_what_a_plain_directory_does() {
    compare(true, REGRESSIONS);
}

fn a_workspace_without_passthrough_does_what_a_plain_directory_does() {
    compare(false, REGRESSIONS);
}

fn an_ordinary_users_workspace_does_what_a_plain_directory_does() {
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    let [programs, device, own] = ["programs", "device", "own"].map(|name| {
        let directory = place.path().join(name);
        fs::create_dir(&directory).unwrap();
        directory
    });
    fs::set_permissions(&programs, Permissions::from_mode(0o755)).unwrap();
    chown(&own, Some(ORDINARY), Some(ORDINARY)).unwrap();
    // The user may be kept from the project's directory.
    let regressions = own.join("regressions.txt");
    fs::copy(REGRESSIONS, &regressions).unwrap();
    ordinary::run_again(
        &programs,
        &device,
        [AS_USER.as_ref(), regressions.as_os_str()],
        |command| {
            command.env("TMPDIR", &own);
        },
    );
}

/// The argument with which the program starts itself again.
const AS_USER: &str = "as-user";

type Test = (&'static str, fn());

const TESTS: [Test; 3] = [
    (
        "a_workspace_with_passthrough_does_what_a_plain_directory_does",
        a_workspace_with_passthrough_does_what_a_plain_directory_does,
    ),
    (
        "a_workspace_without_passthrough_does_what_a_plain_directory_does",
        a_workspace_without_passthrough_does_what_a_plain_directory_does,
    ),
    (
        "an_ordinary_users_workspace_does_what_a_plain_directory_does",
        an_ordinary_users_workspace_does_what_a_plain_directory_does,
    ),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, regressions] = &arguments[..]
        && mode == AS_USER
    {
        enter_user_namespace().expect("an ordinary user can make user namespaces here");
        return compare(false, regressions.clone().leak());
    }
    assert!(
        nix::unistd::geteuid().is_root(),
        "only root can act as several users: run this as root"
    );
    let wanted = arguments.iter().find(|argument| !argument.starts_with('-'));
    for (name, test) in
        TESTS.iter().filter(|(name, _)| wanted.is_none_or(|part| name.contains(part)))
    {
        // Before it runs, so that the one that fails is known.
        println!("differential: {name}");
        test();
    }
}
