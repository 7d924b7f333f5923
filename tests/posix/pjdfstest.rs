//! pjdfstest: some four hundred cases of what POSIX says of names, modes, owners, times and errors.

use crate::ground::Stage;
use crate::programs::{self, Running};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Both users are accounts that every Debian has and nothing runs as. rename(2) changes the time of the last status
/// change on ext4 and on tmpfs. A nap lasts longer than the 4 ms tick that the kernel stamps files with where HZ is 250.
const CONFIGURATION: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.012
allow_remount = false
[dummy_auth]
entries = [["games", "games"], ["news", "news"]]
"#;

/// It takes two seconds; longer than this means that something hangs.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Failed { why: String },
    Skipped { why: String },
}

pub type Outcomes = BTreeMap<String, Outcome>;

/// Who ran it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    AsRoot,
    AsUser,
}

impl Run {
    /// How many cases must have passed on the plain directory, so that an empty run is none.
    fn passed_least(self) -> usize {
        match self {
            Run::AsRoot => 280,
            Run::AsUser => 240,
        }
    }

    /// Why a case may be skipped. tests/readonly.rs has what a remount would show.
    fn skipped_because(self) -> &'static [&'static str] {
        match self {
            Run::AsRoot => &["Remounts", "LINK_MAX"],
            Run::AsUser => &["Remounts", "LINK_MAX", "requires root", "CAP_SYS_ADMIN"],
        }
    }
}

/// Cases that pass on a plain directory and must fail in a workspace.
#[derive(Debug, Clone, Copy)]
pub struct Exception {
    /// A name, or `…::last` for all names with that end.
    pub cases: &'static str,
    pub reason: &'static str,
}

impl Exception {
    fn covers(&self, case: &str) -> bool {
        match self.cases.strip_prefix('…') {
            Some(end) => case.ends_with(end),
            None => case == self.cases,
        }
    }
}

const NO_DEVICES: &str = "a workspace makes no device nodes (docs/semantics.md, 6)";

/// What no workspace does.
pub const DEVICES: &[Exception] = &[
    Exception { cases: "…::block", reason: NO_DEVICES },
    Exception { cases: "…::char", reason: NO_DEVICES },
];

/// What cannot be asked of a FUSE mount, on a file system of which it can be asked.
pub const LINK_MAX: &[Exception] = &[Exception {
    cases: "link::link_count_max",
    reason: "pathconf(3) has the number from a table of file systems in the C library, which has no FUSE",
}];

/// What a mount point refuses unless it says `suid: allow`.
pub const SET_ID_REFUSED: &[Exception] = &[Exception {
    cases: "chmod::clear_isgid_bit",
    reason: "it begins with a file that has the set-group-id bit (docs/semantics.md, 6)",
}];

/// Runs all cases in `directory`; `other` is a directory of another file system.
pub fn run(directory: &Path, other: &Path) -> Outcomes {
    let scratch = tempfile::tempdir().unwrap();
    let configuration = scratch.path().join("pjdfstest.toml");
    std::fs::write(&configuration, CONFIGURATION).unwrap();
    let mut command = Command::new(programs::find("pjdfstest"));
    command.arg("-c").arg(&configuration).args(["-p", Stage::PATH, "-s"]).arg(other);
    let _stage = Stage::of(directory);
    command.env_remove("RUST_BACKTRACE").env("NO_COLOR", "1");
    let mut running = Running::start(&mut command, scratch.path().join("output"));
    let ended = running.wait(Instant::now() + PATIENCE);
    let output = running.output();
    // It fails when one case fails, which is not for it to judge.
    assert!(
        ended.is_some_and(|status| [Some(0), Some(1)].contains(&status.code())),
        "{command:?}: {ended:?}\n{output}"
    );
    outcomes(&output)
}

/// A case is a line of its name and its outcome; what belongs to it is indented. The last line counts all.
fn outcomes(output: &str) -> Outcomes {
    let mut outcomes = Outcomes::new();
    let mut last = None;
    for line in output.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let outcome = match words[..] {
            [_, "ok"] => Outcome::Passed,
            [_, "FAILED"] => Outcome::Failed { why: String::new() },
            [_, "skipped"] => Outcome::Skipped { why: String::new() },
            _ => {
                if let Some(Outcome::Failed { why } | Outcome::Skipped { why }) =
                    last.as_ref().and_then(|name: &String| outcomes.get_mut(name))
                {
                    why.push_str(line.trim());
                    why.push(' ');
                }
                continue;
            }
        };
        let name = words[0].to_owned();
        assert!(outcomes.insert(name.clone(), outcome).is_none(), "{name} twice:\n{output}");
        last = Some(name);
    }
    let total = format!("{} total", outcomes.len());
    assert!(output.contains(&total), "not every line was understood:\n{output}");
    outcomes
}

/// What passes on the plain directory passes in the workspace, but for the exceptions, which do not.
pub fn compare(plain: &Outcomes, inside: &Outcomes, exceptions: &[Exception], run: Run) {
    assert!(plain.keys().eq(inside.keys()), "not the same cases ran");
    let mut wrong = Vec::new();
    let mut passed = 0;
    for (name, on_plain) in plain {
        let in_workspace = &inside[name];
        let exception = exceptions.iter().find(|exception| exception.covers(name));
        match (on_plain, in_workspace, exception) {
            (Outcome::Passed, Outcome::Passed, None) => passed += 1,
            (Outcome::Passed, Outcome::Passed, Some(exception)) => {
                wrong.push(format!("{name} passes, and is an exception: {}", exception.reason));
            }
            (Outcome::Passed, Outcome::Failed { .. } | Outcome::Skipped { .. }, Some(_)) => {}
            (Outcome::Passed, other, _) => wrong.push(format!("{name}: {other:?}")),
            (Outcome::Skipped { why }, Outcome::Skipped { .. }, _) => {
                if !run.skipped_because().iter().any(|reason| why.contains(reason)) {
                    wrong.push(format!("{name} is skipped: {why}"));
                }
            }
            (Outcome::Skipped { .. }, other, _) => {
                wrong.push(format!("{name} is skipped on the plain directory only: {other:?}"));
            }
            // The plain directory sets the measure, and here it has none.
            (Outcome::Failed { why }, _, _) => println!("pjdfstest: {name} fails anyway: {why}"),
        }
    }
    for exception in exceptions {
        let covers = plain.keys().any(|name| exception.covers(name));
        if !covers {
            wrong.push(format!("no case is called {}", exception.cases));
        }
    }
    println!("pjdfstest: {} cases, {passed} pass in the workspace", plain.len());
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), plain.len(), wrong.join("\n"));
    assert!(passed >= run.passed_least(), "only {passed} cases passed");
}
