//! One program's script, run in a plain directory and in workspaces, and what came of it compared.
//!
//! A script works below the directory it is started in. What it prints to standard output and the tree that it leaves
//! must be the same everywhere. Each run has processes, mounts and System V objects of its own, which end with it. Everywhere but in a
//! sandbox the directory is also `/mnt`, so that programs that note absolute paths note the same one.

use crate::mounted::Fixture;
use crate::support::{ORDINARY, Place, text};
use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Nothing here takes longer on a busy machine with two processors; measured at most 60 seconds.
const TIME_MAX_S: u32 = 300;

const TREE: &str = include_str!("tree.py");

/// What is run, and what of its result must be the same.
#[derive(Debug, Clone, Copy)]
pub struct Program<'a> {
    pub script: &'a str,
    pub arguments: &'a [&'a str],
    /// Files that are in the directory before, by name.
    pub files: &'a [(&'a str, &'a str)],
    /// A directory of the machine's that it may read: the variable `LENT` says where.
    pub lent: Option<&'a Path>,
    /// Lines of the output that a workspace has instead of others, by design.
    pub instead: &'a [(&'a str, &'a str)],
    /// Options of `tree.py`; nothing when trees differ from run to run.
    pub tree: Option<&'a [&'a str]>,
    /// Who runs it where root may choose.
    pub user: u32,
}

/// What came of a run.
#[derive(Debug)]
struct Outcome {
    stdout: String,
    tree: String,
}

/// A long form of the tests does everything everywhere.
pub fn is_long() -> bool {
    std::env::var_os("BELLJAR_TEST_LONG").is_some_and(|value| value == "1")
}

impl Program<'_> {
    /// In workspaces of root's, with the kernel passing data through and without.
    pub fn is_the_same_in_workspaces(&self) {
        self.is_the_same_in_workspaces_with(&[true, false]);
    }

    /// In workspaces of root's; of each it is said whether the kernel passes data through.
    pub fn is_the_same_in_workspaces_with(&self, passthrough: &[bool]) {
        let plain = tempfile::tempdir().unwrap();
        open(plain.path());
        make(&plain.path().join("plain"), self.user, self.files);
        let expected = self.expected(&plain.path().join("plain"), plain.path(), self.user);
        for &passthrough in passthrough {
            let fixture = Fixture::new(passthrough);
            let directory = fixture.directory.path();
            open(directory);
            make(&fixture.host(""), self.user, self.files);
            let what = if passthrough { "with passthrough" } else { "without passthrough" };
            let run =
                |at: &Path, command: &[OsString]| self.run_in(at, directory, self.user, command);
            let ended = run(&fixture.rw(""), &self.command());
            let tree = run(&fixture.rw(""), &self.tree_command("."));
            self.compare(what, &expected, &ended, &tree);
            let host = run(&fixture.host(""), &self.tree_command("."));
            same("the host's directory", &expected.tree, &stdout(&host));
        }
    }

    /// In a sandbox that an ordinary user made.
    pub fn is_the_same_in_a_users_sandbox(&self) {
        let sandbox = Sandbox::new(self);
        let place = &sandbox.place;
        make(&place.path("plain"), ORDINARY, self.files);
        let expected = self.expected(&place.path("plain"), place.root(), ORDINARY);
        let ended = sandbox.run(&self.command());
        let tree = sandbox.run(&self.tree_command("."));
        self.compare("in a sandbox", &expected, &ended, &tree);
        let command = self.tree_command(".");
        let host = self.run_in(&place.path("output"), place.root(), ORDINARY, &command);
        same("the host's directory", &expected.tree, &stdout(&host));
        place.assert_clean();
    }

    /// What comes of it in a plain directory, where it must succeed.
    fn expected(&self, plain: &Path, scratch_in: &Path, user: u32) -> Outcome {
        let ended = self.run_in(plain, scratch_in, user, &self.command());
        assert!(ended.status.success(), "in a plain directory: {}", text(&ended));
        let tree = self.run_in(plain, scratch_in, user, &self.tree_command("."));
        assert!(tree.status.success(), "in a plain directory: {}", text(&tree));
        let replace = |line: &str| {
            let other = self.instead.iter().find(|(plain, _)| *plain == line);
            format!("{}\n", other.map_or(line, |(_, inside)| inside))
        };
        Outcome { stdout: stdout(&ended).lines().map(replace).collect(), tree: stdout(&tree) }
    }

    fn compare(&self, what: &str, expected: &Outcome, ended: &Output, tree: &Output) {
        assert!(ended.status.success(), "{what}: {}", text(ended));
        same(what, &expected.stdout, &stdout(ended));
        assert!(tree.status.success(), "{what}: {}", text(tree));
        same(what, &expected.tree, &stdout(tree));
    }

    pub fn command(&self) -> Vec<OsString> {
        let words = ["bash", "-c", self.script, "script"];
        words.iter().chain(self.arguments).map(OsString::from).collect()
    }

    fn tree_command(&self, directory: &str) -> Vec<OsString> {
        let Some(options) = self.tree else { return vec!["true".into()] };
        let words = ["/usr/bin/python3", "-I", "-c", TREE, directory];
        words.iter().chain(options).map(OsString::from).collect()
    }

    /// Runs a command as a user in a directory that is mounted at `/mnt` for it. `scratch_in` is where it gets a directory
    /// for what is to be outside.
    fn run_in(
        &self,
        directory: &Path,
        scratch_in: &Path,
        user: u32,
        command: &[OsString],
    ) -> Output {
        // Some programs refuse a user without a name, and a sandbox gives one too.
        let script = r#"
            { cat /etc/passwd; echo "tester:x:$2:$2::/mnt:/bin/sh"; } >"$TMPDIR/passwd"
            mount --bind "$TMPDIR/passwd" /etc/passwd
            mkdir "$LENT"
            [ -z "$3" ] || mount --bind "$3" "$LENT"
            mount --bind "$1" /mnt
            cd /mnt
            setpriv --reuid="$2" --regid="$2" --clear-groups -- "${@:4}"
        "#;
        let scratch = tempfile::Builder::new().prefix("s").tempdir_in(scratch_in).unwrap();
        chown(scratch.path(), Some(user), Some(user)).unwrap();
        Command::new("timeout")
            .args(["--signal=KILL", &TIME_MAX_S.to_string(), "unshare"])
            .args(["--mount", "--propagation=private", "--ipc", "--pid", "--fork", "--kill-child"])
            .args(["--mount-proc", "bash", "-euc", script, "bash"])
            .arg(directory)
            .arg(user.to_string())
            .arg(self.lent.unwrap_or(Path::new("")))
            .args(command)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("LANG", "C.UTF-8")
            .env("HOME", scratch.path())
            .env("TMPDIR", scratch.path())
            .env("LENT", scratch.path().join("lent"))
            .current_dir("/")
            .stdin(Stdio::null())
            .output()
            .expect("start timeout (Debian package coreutils)")
    }
}

/// A place of an ordinary user's whose `output` a sandbox can write.
pub struct Sandbox {
    pub place: Place,
}

impl Sandbox {
    pub fn new(program: &Program) -> Self {
        let place = Place::of_ordinary_user();
        make(&place.path("output"), ORDINARY, program.files);
        match program.lent {
            // The machine's own may be closed to the user.
            Some(lent) => copy(lent, &place.path("lent")),
            None => fs::create_dir(place.path("lent")).unwrap(),
        }
        Self { place }
    }

    /// Runs a command in `output`, a read-write mount point.
    pub fn run(&self, command: &[OsString]) -> Output {
        let lent = self.place.path("lent");
        let variable = format!("LENT={}", lent.display());
        self.place
            .belljar(["run", "--quiet", "--rw", "output=output", "--workdir", "output"])
            .args(["--timeout", &format!("{TIME_MAX_S}s"), "--env", &variable, "--expose"])
            .arg(lent)
            .arg("--")
            .args(command)
            .output()
            .unwrap()
    }
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").args(["-rH", "--"]).args([from, to]).status().unwrap();
    assert!(done.success(), "copy {}", from.display());
}

/// Users other than root must get through a temporary directory.
fn open(directory: &Path) {
    fs::set_permissions(directory, Permissions::from_mode(0o711)).unwrap();
}

/// A user's directory with these files.
fn make(directory: &Path, user: u32, files: &[(&str, &str)]) {
    fs::create_dir_all(directory).unwrap();
    fs::set_permissions(directory, Permissions::from_mode(0o700)).unwrap();
    for (name, content) in files {
        fs::write(directory.join(name), content).unwrap();
        fs::set_permissions(directory.join(name), Permissions::from_mode(0o644)).unwrap();
        chown(directory.join(name), Some(user), Some(user)).unwrap();
    }
    chown(directory, Some(user), Some(user)).unwrap();
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("scripts print text")
}

/// Asserts that two texts have the same lines, and shows those that only one has.
pub fn same(what: &str, expected: &str, found: &str) {
    if expected == found {
        return;
    }
    let only = |these: &str, those: &str| -> String {
        let lines: Vec<_> =
            these.lines().filter(|line| !those.lines().any(|other| other == *line)).collect();
        let shown = lines.iter().take(20).map(|line| format!("  {line}\n")).collect::<String>();
        format!("{} lines, such as\n{shown}", lines.len())
    };
    panic!(
        "{what} is not as in a plain directory.\nOnly there: {}Only here: {}",
        only(expected, found),
        only(found, expected)
    );
}
