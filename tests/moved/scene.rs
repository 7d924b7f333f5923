//! A daemon, host directories that this test moves about, and processes inside that stay meanwhile.

use crate::support::{ORDINARY, Place, stdout, text};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

/// What a file holds that no workspace may ever show, take for its own or change.
pub const WRONG: &str = "WRONG";

/// Answers each line, a call of one of these, with one line: what it gives, or its errno.
const INSIDE: &str = r#"
import errno, os, sys
held = {}
def read(path): return open(path).read().strip()
def write(path):
    with open(path, "w") as file: file.write("mine\n")
    return "ok"
def ls(path): return " ".join(sorted(os.listdir(path)))
def hold(path):
    held[path] = open(path, "w")
    return "ok"
def finish(path):
    held[path].write("mine\n")
    held[path].close()
    return "ok"
os.chdir("/workspace")
print("ready", flush=True)
for line in sys.stdin:
    try: print(eval(line), flush=True)
    except OSError as error: print(errno.errorcode[error.errno], flush=True)
"#;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Daemon {
    OfRoot,
    OfOrdinaryUser,
}

pub struct Scene {
    pub place: Place,
    pub daemon: Daemon,
}

impl Scene {
    pub fn new(daemon: Daemon) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "only root can mount and unmount on the host");
        let place = match daemon {
            Daemon::OfRoot => Place::new(),
            Daemon::OfOrdinaryUser => Place::of_ordinary_user(),
        };
        let scene = Self { place, daemon };
        fs::create_dir(scene.path("")).unwrap();
        // Shared, as an ordinary host's mounts are: what is mounted below is seen by daemons in namespaces of their own.
        scene.succeeds("mount", &["--bind", "{}", "{}"], &scene.path(""));
        scene.succeeds("mount", &["--make-shared", "{}"], &scene.path(""));
        scene.own(&scene.path(""));
        scene
    }

    /// A path below the directory that is the host's in this test.
    pub fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.place.path("host") } else { self.place.path("host").join(name) }
    }

    /// Gives everything below to the daemon's user.
    pub fn own(&self, path: &Path) {
        if self.daemon == Daemon::OfRoot {
            return;
        }
        chown(path, Some(ORDINARY), Some(ORDINARY)).unwrap();
        if path.is_dir() {
            for entry in fs::read_dir(path).unwrap() {
                self.own(&entry.unwrap().path());
            }
        }
    }

    pub fn make(&self, directory: &Path) {
        fs::create_dir_all(directory).unwrap();
        self.own(directory);
    }

    /// Makes a directory whose files are not the workspace's, with the names that the workspace's have.
    pub fn make_wrong(&self, directory: &Path) {
        self.make(directory);
        for name in ["kept", "open", "before", "after", "marker"] {
            fs::write(directory.join(name), WRONG).unwrap();
        }
        self.own(directory);
    }

    /// Runs a command of the host's; `{}` is the path.
    pub fn does(&self, program: &str, arguments: &[&str], path: &Path) -> Output {
        let arguments = arguments.iter().map(|argument| match *argument {
            "{}" => path.as_os_str(),
            other => other.as_ref(),
        });
        Command::new(program).args(arguments).output().unwrap()
    }

    pub fn succeeds(&self, program: &str, arguments: &[&str], path: &Path) {
        let output = self.does(program, arguments, path);
        assert!(output.status.success(), "{program} {arguments:?} {path:?}: {}", text(&output));
    }

    /// Mounts an empty file system in memory.
    pub fn mount_tmpfs(&self, at: &Path) {
        self.succeeds("mount", &["-t", "tmpfs", "-o", "mode=0755", "moved", "{}"], at);
        self.own(at);
    }

    /// `belljar run -w ID` with these mount points, of a shell script.
    pub fn run(&self, id: &str, directory: Option<&Path>, script: &str) -> Output {
        self.place.output(arguments(id, directory, &[], &["sh", "-c", script]))
    }

    /// Starts a process that stays in the workspace `id`, whose mount points `w` and `r` are both the directory.
    pub fn stay(&self, id: &str, directory: &Path) -> Inside {
        let receipt = self.place.path(&format!("{id}.receipt"));
        let options = ["--receipt".as_ref(), receipt.as_os_str()];
        let command = ["/usr/bin/python3", "-c", INSIDE];
        let mut command = self.place.belljar(arguments(id, Some(directory), &options, &command));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut inside = Inside {
            child: Some(child),
            input: Some(input),
            output: BufReader::new(output),
            receipt,
        };
        assert_eq!(inside.answer(), "ready", "{id}");
        inside
    }

    /// Path and content of each artifact of a workspace, `/workspace/` left out.
    pub fn artifacts(&self, id: &str) -> BTreeMap<String, String> {
        let list = self.place.artifacts(&["--workspace", id]);
        let one = |artifact: &Value| {
            let path = artifact["path"].as_str().unwrap().trim_start_matches("/workspace/");
            let cat = self.place.output(["artifact", "cat", artifact["id"].as_str().unwrap()]);
            assert!(cat.status.success(), "{}", text(&cat));
            (path.to_owned(), stdout(&cat).trim().to_owned())
        };
        list.iter().map(one).collect()
    }
}

fn arguments(
    id: &str,
    directory: Option<&Path>,
    options: &[&OsStr],
    command: &[&str],
) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["run".into(), "-w".into(), id.into()];
    if let Some(directory) = directory {
        for (option, name) in [("--rw", "w="), ("--ro", "r=")] {
            let mut mount = OsString::from(name);
            mount.push(directory);
            arguments.extend([option.into(), mount]);
        }
    }
    arguments.extend(options.iter().map(|&option| option.to_owned()));
    arguments.push("--".into());
    arguments.extend(command.iter().map(OsString::from));
    arguments
}

/// A process inside that does what it is told. It ends with its value.
pub struct Inside {
    child: Option<Child>,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    receipt: PathBuf,
}

impl Inside {
    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        if line.is_empty() {
            let output = self.child.take().unwrap().wait_with_output().unwrap();
            panic!("the process inside has ended: {}", text(&output));
        }
        line.trim().to_owned()
    }

    pub fn ask(&mut self, call: &str) -> String {
        writeln!(self.input.as_mut().unwrap(), "{call}").unwrap();
        self.answer()
    }

    /// Lets the process end and gives the run's receipt.
    pub fn end(mut self) -> Value {
        drop(self.input.take());
        let output = crate::support::finish(self.child.take().unwrap());
        assert!(output.status.success(), "{}", text(&output));
        serde_json::from_slice(&fs::read(&self.receipt).unwrap()).unwrap()
    }

    /// Waits for the client of a daemon that was killed.
    pub fn lost(mut self) {
        let output = crate::support::finish(self.child.take().unwrap());
        assert_eq!(output.status.code(), Some(125), "{}", text(&output));
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        drop(self.input.take());
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
