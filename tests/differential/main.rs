//! The same system calls in a workspace and in a plain directory of the same file system, made by processes of several
//! users, must come to the same: result, errno, data, attributes, listings, and what is there in the end.
//!
//! Steps are generated and shrunk by proptest. Cases that failed are kept in `regressions.txt` and come first.

#[path = "../mounted/mod.rs"]
mod mounted;
mod steps;
mod workers;

use belljar::model::mount::SetId;
use mounted::{Fixture, Setup};
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
            let inside = comparable(&request, self.inside.ask(step.who, &request));
            if step.who == 0 && makes_device(&request) {
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
    chown(at.join("d"), Some(12345), Some(12345)).unwrap();
    chown(at.join("g"), None, Some(12345)).unwrap();
    for (name, owner) in [("a", 12345), ("d/a", 12345), ("t/a", 12345), ("t/b", 12346)] {
        fs::write(at.join(name), name.repeat(5)).unwrap();
        chown(at.join(name), Some(owner), Some(owner)).unwrap();
    }
    symlink("d", at.join("s")).unwrap();
    symlink("l", at.join("l")).unwrap();
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
fn compare(passthrough: bool) {
    let time = Duration::from_secs(if long() { 300 } else { 20 });
    let world = RefCell::new(World::new(passthrough));
    let config = Config {
        cases: if long() { 20_000 } else { 600 },
        max_shrink_iters: 2000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(REGRESSIONS))),
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

#[test]
fn a_workspace_with_passthrough_does_what_a_plain_directory_does() {
    compare(true);
}

#[test]
fn a_workspace_without_passthrough_does_what_a_plain_directory_does() {
    compare(false);
}
