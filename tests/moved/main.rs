//! Host directories that are moved, removed, replaced, unmounted and mounted over while a workspace shows them: it goes on
//! with the directory that it was made of, or says that it cannot, and never shows another.
#![allow(clippy::unwrap_used)]

mod recovery;
mod scene;
#[path = "../support/mod.rs"]
mod support;

use nix::sys::signal::Signal;
use scene::{Daemon, Inside, Scene, WRONG};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::{eventually, stderr, stdout, text};

/// How long the kernel may answer from what it knew: a second under the default cache policy (docs/semantics.md, 33).
const CACHE: Duration = Duration::from_millis(1200);

/// What the process inside meets afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// The same directory, wherever it is.
    GoesOn,
    /// An empty directory in which nothing can be made.
    Removed,
    /// The same directory, and EROFS for every change.
    ReadOnly,
}

struct Case {
    /// The workspace's id, and the name of the directory in which all of the case happens.
    name: &'static str,
    /// Whether the directory is the root of a file system of its own.
    mounted: bool,
    /// What is done on the host. Answers where the directory is afterwards, if it has a name.
    change: fn(&Scene, &Path) -> Option<PathBuf>,
    then: Then,
}

fn other(directory: &Path, name: &str) -> PathBuf {
    directory.with_file_name(name)
}

fn rename(from: &Path, to: &Path) -> Option<PathBuf> {
    fs::rename(from, to).unwrap();
    Some(to.to_owned())
}

const CASES: &[Case] = &[
    Case {
        name: "removed-empty",
        mounted: false,
        change: |_, directory| {
            for entry in fs::read_dir(directory).unwrap() {
                fs::remove_file(entry.unwrap().path()).unwrap();
            }
            fs::remove_dir(directory).unwrap();
            None
        },
        then: Then::Removed,
    },
    Case {
        name: "removed-and-made-again",
        mounted: false,
        change: |scene, directory| {
            fs::remove_dir_all(directory).unwrap();
            // On ext4 it has the same inode number, unless somebody holds the old one.
            scene.make_wrong(directory);
            None
        },
        then: Then::Removed,
    },
    Case {
        name: "replaced",
        mounted: false,
        change: |scene, directory| {
            let moved = rename(directory, &other(directory, "moved"));
            scene.make_wrong(directory);
            moved
        },
        then: Then::GoesOn,
    },
    Case {
        name: "replaced-by-a-link",
        mounted: false,
        change: |scene, directory| {
            let moved = rename(directory, &other(directory, "moved"));
            scene.make_wrong(&other(directory, "elsewhere"));
            std::os::unix::fs::symlink("elsewhere", directory).unwrap();
            moved
        },
        then: Then::GoesOn,
    },
    Case {
        name: "parent-renamed",
        mounted: false,
        change: |scene, directory| {
            let parent = directory.parent().unwrap();
            let moved = rename(parent, &other(parent, "parent-moved")).unwrap();
            scene.make_wrong(directory);
            Some(moved.join(directory.file_name().unwrap()))
        },
        then: Then::GoesOn,
    },
    Case {
        name: "unmounted",
        mounted: true,
        change: |scene, directory| {
            scene.succeeds("umount", &["{}"], directory);
            None
        },
        then: Then::GoesOn,
    },
    Case {
        name: "unmounted-lazily",
        mounted: true,
        change: |scene, directory| {
            scene.succeeds("umount", &["-l", "{}"], directory);
            None
        },
        then: Then::GoesOn,
    },
    Case {
        name: "file-system-replaced",
        mounted: true,
        change: |scene, directory| {
            scene.succeeds("umount", &["{}"], directory);
            scene.mount_tmpfs(directory);
            scene.make_wrong(directory);
            None
        },
        then: Then::GoesOn,
    },
    Case {
        name: "mounted-over",
        mounted: false,
        change: |scene, directory| {
            scene.mount_tmpfs(directory);
            scene.make_wrong(directory);
            None
        },
        then: Then::GoesOn,
    },
    Case {
        name: "remounted-read-only",
        mounted: true,
        change: |scene, directory| {
            // The last close is told to a FUSE server after close(2) has returned (RELEASE, fs/fuse/file.c).
            eventually("nothing is open for writing", || {
                let remount = scene.does("mount", &["-o", "remount,ro", "{}"], directory);
                remount.status.success()
            });
            Some(directory.to_owned())
        },
        then: Then::ReadOnly,
    },
    Case {
        name: "this-mount-read-only",
        mounted: true,
        change: |scene, directory| {
            // The mount at this place alone, not its file system.
            scene.succeeds("mount", &["-o", "remount,bind,ro", "{}"], directory);
            Some(directory.to_owned())
        },
        then: Then::GoesOn,
    },
];

/// One case in progress.
struct Stage<'a> {
    scene: &'a Scene,
    case: &'a Case,
    directory: PathBuf,
    inside: Option<Inside>,
    present: Option<PathBuf>,
    wrong: BTreeMap<PathBuf, String>,
}

impl<'a> Stage<'a> {
    fn set(scene: &'a Scene, case: &'a Case) -> Self {
        let directory = scene.path(case.name).join("parent/data");
        scene.make(&directory);
        scene.own(&scene.path(case.name));
        if case.mounted {
            // What is seen once the file system above it is gone.
            scene.make_wrong(&directory);
            scene.mount_tmpfs(&directory);
        }
        let mut inside = scene.stay(case.name, &directory);
        assert_eq!(inside.ask("write('w/kept')"), "ok", "{}", case.name);
        if case.then != Then::ReadOnly {
            assert_eq!(inside.ask("hold('w/open')"), "ok", "{}", case.name);
        }
        let (wrong, present) = (BTreeMap::new(), None);
        Self { scene, case, directory, inside: Some(inside), present, wrong }
    }

    fn change(&mut self) {
        // Closed a moment before: its copy is not taken yet, or being taken.
        assert_eq!(self.inside.as_mut().unwrap().ask("write('w/before')"), "ok");
        self.present = (self.case.change)(self.scene, &self.directory);
        self.wrong = self.wrong_files();
    }

    /// Every file of the case that is not the workspace's, and what it holds.
    fn wrong_files(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut open = vec![self.scene.path(self.case.name)];
        while let Some(directory) = open.pop() {
            if self.present.as_deref() == Some(&directory) {
                continue;
            }
            for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    open.push(entry.path());
                } else if entry.file_type().unwrap().is_file() {
                    found.insert(entry.path(), fs::read_to_string(entry.path()).unwrap());
                }
            }
        }
        found
    }

    fn go_on(&mut self) {
        let case = self.case.name;
        let mut ask = |call: &str, answer: &str| {
            assert_eq!(self.inside.as_mut().unwrap().ask(call), answer, "{case}: {call}");
        };
        for refused in ["write('r/kept')", "write('r/after')", "os.mkdir('r/d')"] {
            ask(refused, "EROFS");
        }
        match self.case.then {
            Then::GoesOn => {
                ask("ls('w')", "before kept open");
                ask("ls('r')", "before kept open");
                ask("read('w/kept')", "mine");
                ask("read('r/kept')", "mine");
                ask("write('w/after')", "ok");
                ask("finish('w/open')", "ok");
            }
            Then::Removed => {
                ask("ls('w')", "");
                ask("ls('r')", "");
                ask("read('w/kept')", "ENOENT");
                ask("write('w/after')", "ENOENT");
                ask("os.mkdir('w/d')", "ENOENT");
                // The file lives as long as it is open, as on the host.
                ask("finish('w/open')", "ok");
            }
            Then::ReadOnly => {
                ask("ls('w')", "before kept");
                ask("read('w/kept')", "mine");
                for refused in ["write('w/kept')", "write('w/after')", "os.mkdir('w/d')"] {
                    ask(refused, "EROFS");
                }
            }
        }
    }

    /// Others who come to the workspace meanwhile: without its mount points, and with what their path means by now.
    fn others_come(&self) {
        let case = self.case.name;
        let same = self.scene.run(case, None, "cat w/kept r/kept");
        match self.case.then {
            Then::GoesOn | Then::ReadOnly => {
                assert_eq!(stdout(&same), "mine\nmine\n", "{case}: {}", text(&same));
            }
            Then::Removed => {
                refused(&same, &[case, "mount", "removed on the host", "naming its mount points"]);
            }
        }
        let named = self.scene.run(case, Some(&self.directory), "ls w");
        if !self.directory.exists() {
            refused(&named, &["mount", "does not exist", "mkdir -p"]);
        } else if self.present.as_deref() == Some(&self.directory) {
            refused(&named, &["mount w", "you may not", "Read-only file system"]);
        } else {
            let words = ["another directory behind mount", "is in progress", "wait for the run"];
            refused(&named, &words);
        }
    }

    fn end(&mut self) {
        let case = self.case.name;
        let receipt = self.inside.take().unwrap().end();
        assert_eq!(receipt["complete"], true, "{case}: {receipt}");
        let artifacts = self.scene.artifacts(case);
        let names: Vec<_> = artifacts.keys().map(String::as_str).collect();
        assert!(artifacts.values().all(|content| content == "mine"), "{case}: {artifacts:?}");
        match self.case.then {
            Then::GoesOn => {
                assert_eq!(names, ["w/after", "w/before", "w/kept", "w/open"], "{case}");
            }
            Then::ReadOnly => assert_eq!(names, ["w/before", "w/kept"], "{case}"),
            // Gone with their directory before a copy was taken, or not (docs/semantics.md, 22).
            Then::Removed => assert!(!names.contains(&"w/after"), "{case}: {names:?}"),
        }
        if let (Some(present), Then::GoesOn) = (&self.present, self.case.then) {
            assert_eq!(fs::read_to_string(present.join("after")).unwrap(), "mine\n", "{case}");
        }
        assert_eq!(self.wrong_files(), self.wrong, "{case}: others' files were touched");
    }

    /// What the page on host directories tells the user to do.
    fn recover(&self) {
        let case = self.case.name;
        let path = &self.directory;
        match case {
            "remounted-read-only" => {
                self.scene.succeeds("mount", &["-o", "remount,rw", "{}"], path);
            }
            "this-mount-read-only" => {
                self.scene.succeeds("mount", &["-o", "remount,bind,rw", "{}"], path);
            }
            "removed-empty" => self.scene.make(path),
            _ => {}
        }
        let again = self.scene.run(case, Some(path), "echo again > w/again; cat r/again; ls w");
        assert!(again.status.success(), "{case}: {}", text(&again));
        assert_eq!(fs::read_to_string(path.join("again")).unwrap(), "again\n", "{case}");
        let others = stdout(&again).contains("marker");
        assert_eq!(others, path.join("marker").exists(), "{case}: {}", text(&again));
        assert_eq!(self.scene.artifacts(case)["w/again"], "again", "{case}");
        if case == "mounted-over" {
            self.scene.succeeds("umount", &["-l", "{}"], path);
            assert_eq!(fs::read_to_string(path.join("after")).unwrap(), "mine\n");
        }
    }
}

fn refused(output: &std::process::Output, words: &[&str]) {
    assert_eq!(output.status.code(), Some(125), "{}", text(output));
    for word in words {
        assert!(stderr(output).contains(word), "no {word:?} in {}", text(output));
    }
    assert!(!stdout(output).contains("marker"), "{}", text(output));
}

fn no_wrong_directory_is_served(daemon: Daemon) {
    let mut scene = Scene::new(daemon);
    scene.place.start_daemon();
    {
        let mut stages: Vec<_> = CASES.iter().map(|case| Stage::set(&scene, case)).collect();
        stages.iter_mut().for_each(Stage::change);
        std::thread::sleep(CACHE);
        stages.iter_mut().for_each(Stage::go_on);
        stages.iter().for_each(Stage::others_come);
        stages.iter_mut().for_each(Stage::end);
        let kept = scene.place.files_with(WRONG.as_bytes());
        assert!(kept.is_empty(), "others' content was kept: {kept:?}");
        stages.iter().for_each(Stage::recover);
    }
    assert!(scene.place.stop_daemon(Signal::SIGTERM).success());
}

#[test]
fn a_workspace_keeps_to_its_directory_whatever_is_done_to_the_path() {
    no_wrong_directory_is_served(Daemon::OfRoot);
}

#[test]
fn an_ordinary_users_workspace_keeps_to_its_directory_whatever_is_done_to_the_path() {
    no_wrong_directory_is_served(Daemon::OfOrdinaryUser);
}

/// The kernel refuses it, as it does for any open file, and nothing changes.
#[test]
fn a_file_open_for_writing_inside_keeps_the_host_from_remounting_read_only() {
    let mut scene = Scene::new(Daemon::OfRoot);
    scene.place.start_daemon();
    let directory = scene.path("data");
    scene.make(&directory);
    scene.mount_tmpfs(&directory);
    let mut inside = scene.stay("open", &directory);
    assert_eq!(inside.ask("hold('w/open')"), "ok");
    let output = scene.does("mount", &["-o", "remount,ro", "{}"], &directory);
    assert!(stderr(&output).contains("busy"), "{}", text(&output));
    assert_eq!(inside.ask("finish('w/open')"), "ok");
    assert_eq!(inside.end()["complete"], true);
    assert_eq!(scene.artifacts("open")["w/open"], "mine");
}

/// A machine whose mounts are not shared: an ordinary user's daemon sees those that were there when it started.
#[test]
fn a_file_system_that_the_daemon_cannot_see_is_refused_and_what_is_below_it_is_not_shown() {
    let mut scene = Scene::new(Daemon::OfOrdinaryUser);
    scene.succeeds("mount", &["--make-private", "{}"], &scene.path(""));
    scene.place.start_daemon();
    let directory = scene.path("data");
    scene.make_wrong(&directory);
    scene.mount_tmpfs(&directory);
    let output = scene.run("unseen", Some(&directory), "ls w r");
    refused(&output, &["mount ", "another mount namespace", "started anew"]);
    assert!(scene.place.stop_daemon(Signal::SIGTERM).success());
    scene.place.start_daemon();
    let output = scene.run("unseen", Some(&directory), "echo seen > w/f; cat r/f");
    assert_eq!(stdout(&output), "seen\n", "{}", text(&output));
    assert!(scene.place.stop_daemon(Signal::SIGTERM).success());
}
