//! Artifacts as files below `.belljar/artifacts`, read by ordinary programs on the host and in sandboxes.
#![allow(clippy::unwrap_used)]

mod support;

use belljar::model::artifact::ArtifactType;
use belljar::model::digest::Digest;
use belljar::model::path::VirtualPath;
use belljar::storage::blob::local::LocalBlobs;
use belljar::storage::catalog::sqlite::SqliteCatalog;
use belljar::storage::{BlobStore, Catalog, NewVersion};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use support::{BELLJAR, ORDINARY, Place, eventually, stderr, stdout, text};

/// A daemon with a workspace `w` over `input` and `output`.
struct Scene {
    place: Place,
    views: PathBuf,
}

impl Scene {
    fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests run as root");
        let mut place = Place::new();
        place.start_daemon();
        let scene = Self { place, views: PathBuf::new() };
        scene.succeeds(&[
            "workspace",
            "create",
            "w",
            "--ro",
            "input=input",
            "--rw",
            "output=output",
        ]);
        let shown = scene.place.json(["workspace", "show", "w"]);
        let root = Path::new(shown["root"].as_str().unwrap());
        Self { views: root.join(".belljar/artifacts"), place: scene.place }
    }

    fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.place.output(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
        stdout(&output)
    }

    /// A command in the workspace.
    fn run(&self, options: &[&str], script: &str) -> Output {
        let command = ["--", "sh", "-c", script];
        self.place.output([&["run", "-w", "w"], options, &command].concat())
    }

    /// The same, which must succeed; what it printed.
    fn inside(&self, script: &str) -> String {
        let output = self.run(&[], script);
        assert!(output.status.success(), "{script}: {}", text(&output));
        stdout(&output)
    }

    fn end(mut self) {
        assert!(self.place.stop_daemon(Signal::SIGTERM).success());
        self.place.assert_clean();
    }
}

fn names(directory: &Path) -> Vec<OsString> {
    let mut names: Vec<OsString> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

fn errno<T>(result: io::Result<T>) -> Option<Errno> {
    result.err().map(|error| Errno::from_raw(error.raw_os_error().expect("an errno")))
}

/// Every file below a directory, with its content.
fn tree(directory: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            } else {
                let name = entry.path().strip_prefix(directory).unwrap().as_os_str().to_owned();
                found.insert(name, fs::read(entry.path()).unwrap());
            }
        }
    }
    found
}

#[test]
fn every_version_is_a_file_for_programs_that_know_nothing_of_belljar() {
    let scene = Scene::new();
    let graph = ["--graph-id", "nightly/7"];
    let first = scene.run(&graph, "mkdir output/sub; printf 'a,b\\n1,2\\n' > output/sub/x.csv");
    assert!(first.status.success(), "{}", text(&first));
    scene.inside("printf 'a,b\\n1,2\\n3,4\\n' > output/sub/x.csv");

    let (one, two) = ("a,b\n1,2\n", "a,b\n1,2\n3,4\n");
    let by_type = scene.views.join("by-type/data/output/sub");
    assert_eq!(names(&scene.views), ["by-graph", "by-id", "by-type"]);
    assert_eq!(names(&by_type), ["x.csv@1", "x.csv@2", "x.csv@latest"]);
    assert_eq!(fs::read_to_string(by_type.join("x.csv@1")).unwrap(), one);
    assert_eq!(fs::read_to_string(by_type.join("x.csv@2")).unwrap(), two);
    assert_eq!(fs::read_to_string(by_type.join("x.csv@latest")).unwrap(), two);
    // The first version alone was made by the graph, and it is not the latest.
    assert_eq!(names(&scene.views.join("by-graph")), ["nightly%2F7"]);
    let by_graph = scene.views.join("by-graph/nightly%2F7/output/sub");
    assert_eq!(names(&by_graph), ["x.csv@1"]);
    let id = scene.place.artifacts(&[])[0]["id"].as_str().unwrap().to_owned();
    let by_id = scene.views.join("by-id");
    assert_eq!(names(&by_id), [id.as_str()]);
    assert_eq!(names(&by_id.join(&id)), ["x.csv@1", "x.csv@2", "x.csv@latest"]);
    assert_eq!(fs::read_to_string(by_id.join(format!("{id}@latest"))).unwrap(), two);
    assert_eq!(fs::read_to_string(by_id.join(format!("{id}@1"))).unwrap(), one);

    // One version is one file, by whatever name.
    let files =
        [by_type.join("x.csv@1"), by_graph.join("x.csv@1"), by_id.join(&id).join("x.csv@1")];
    let inodes: BTreeSet<u64> =
        files.iter().map(|file| fs::metadata(file).unwrap().ino()).collect();
    assert_eq!(inodes.len(), 1);
    let metadata = fs::metadata(&files[0]).unwrap();
    assert_eq!((metadata.len(), metadata.mode()), (one.len() as u64, 0o100_444));
    let created = scene.succeeds(&["artifact", "show", &format!("{id}@1"), "--json"]);
    let created: serde_json::Value = serde_json::from_str(&created).unwrap();
    let created: jiff::Timestamp = created["created_at"].as_str().unwrap().parse().unwrap();
    assert_eq!(metadata.modified().unwrap(), std::time::SystemTime::from(created));

    for no in ["x.csv", "x.csv@3", "x.csv@0", "x.csv@01", "@1", "y@1"] {
        assert_eq!(errno(fs::metadata(by_type.join(no))), Some(Errno::ENOENT), "{no}");
    }
    for no in
        ["by-type/log", "by-type/data/input", "by-graph/nightly", "by-graph/nightly%2f7", "by-x"]
    {
        assert_eq!(errno(fs::metadata(scene.views.join(no))), Some(Errno::ENOENT), "{no}");
    }

    let sum = |path: &str| {
        let output =
            Command::new("sha256sum").arg(path).current_dir(&scene.views).output().unwrap();
        stdout(&output)
    };
    let path = "by-type/data/output/sub/x.csv@latest";
    let inside = scene.inside(&format!(
        "cp .belljar/artifacts/{path} /tmp/copy; cat /tmp/copy
         python3 -c 'import csv; print(sum(int(row[\"a\"]) for row in csv.DictReader(open(\".belljar/artifacts/{path}\"))))'
         cd .belljar/artifacts; sha256sum {path}; find by-type by-graph -type f | sort"
    ));
    let expected = format!(
        "{two}4\n{}by-graph/nightly%2F7/output/sub/x.csv@1\nby-type/data/output/sub/x.csv@1\nby-type/data/output/sub/x.csv@2\nby-type/data/output/sub/x.csv@latest\n",
        sum(path)
    );
    assert_eq!(inside, expected);
    scene.end();
}

#[test]
fn an_ordinary_users_own_daemon_shows_the_same() {
    let mut place = Place::of_ordinary_user();
    place.start_daemon();
    // Where the daemon is not root, every byte comes from it.
    let wrote = place.run(
        &["-w", "w"],
        "echo one > output/log.txt; python3 -c 'import sys; [print(n) for n in range(400000)]' > output/numbers.csv",
    );
    assert!(wrote.status.success(), "{}", text(&wrote));
    let read = place.run(
        &["-w", "w"],
        "cd .belljar/artifacts; find . -type f | grep 'by-type.*log.txt'; cmp by-type/*/output/numbers.csv@1 /workspace/output/numbers.csv && tail -c 7 by-type/*/output/numbers.csv@1; cat by-type/*/output/log.txt@latest; cp by-id/*/log.txt@1 /tmp; cat /tmp/log.txt@1; echo x > by-type/new",
    );
    let artifacts = place.artifacts(&[]);
    let log = artifacts.iter().find(|a| a["path"] == "/workspace/output/log.txt").unwrap();
    let kind = log["type"].as_str().unwrap();
    let file = format!("./by-type/{kind}/output/log.txt");
    assert_eq!(
        stdout(&read),
        format!("{file}@1\n{file}@latest\n399999\none\none\n"),
        "{}",
        text(&read)
    );
    assert!(stderr(&read).contains("Read-only file system"), "{}", text(&read));
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.assert_clean();
}

#[test]
fn an_embedded_run_sees_what_was_registered_in_its_workspace() {
    let place = Place::new();
    let output = place.run(&[], "ls -A .belljar/artifacts; find .belljar/artifacts -type f");
    assert_eq!(stdout(&output), "by-graph\nby-id\nby-type\n", "{}", text(&output));
    let first = place.run(&["-w", "w"], "echo kept > output/f.json");
    assert!(first.status.success(), "{}", text(&first));
    let second = place
        .run(&["-w", "w"], "rm output/f.json; cat .belljar/artifacts/by-type/*/output/f.json@1");
    assert_eq!(stdout(&second), "kept\n", "{}", text(&second));
    // Another workspace over the same directory has artifacts of its own.
    let other = place.run(&["-w", "other"], "find .belljar/artifacts -type f");
    assert_eq!(stdout(&other), "", "{}", text(&other));
    place.assert_clean();
}

#[test]
fn nothing_is_changed_through_the_views() {
    let scene = Scene::new();
    scene.inside("mkdir output/d; echo text > output/d/f.csv");
    let directory = scene.views.join("by-type/data/output/d");
    let file = directory.join("f.csv@1");
    let erofs = Some(Errno::EROFS);
    let open = |options: &mut OpenOptions| errno(options.open(&file));
    assert_eq!(open(OpenOptions::new().write(true)), erofs);
    assert_eq!(open(OpenOptions::new().append(true)), erofs);
    assert_eq!(open(OpenOptions::new().read(true).write(true)), erofs);
    assert_eq!(open(OpenOptions::new().write(true).truncate(true)), erofs);
    assert_eq!(errno(File::create(directory.join("new"))), erofs);
    assert_eq!(errno(fs::create_dir(directory.join("new"))), erofs);
    assert_eq!(errno(fs::create_dir(scene.views.join("by-type/new"))), erofs);
    assert_eq!(errno(fs::remove_file(&file)), erofs);
    assert_eq!(errno(fs::remove_dir(&directory)), erofs);
    assert_eq!(errno(fs::rename(&file, directory.join("g"))), erofs);
    assert_eq!(errno(fs::hard_link(&file, directory.join("g"))), erofs);
    assert_eq!(errno(std::os::unix::fs::symlink("f", directory.join("g"))), erofs);
    assert_eq!(errno(fs::set_permissions(&file, fs::Permissions::from_mode(0o600))), erofs);
    assert_eq!(errno(std::os::unix::fs::chown(&file, Some(1), Some(1))), erofs);
    let times = nix::sys::stat::utimensat(
        nix::fcntl::AT_FDCWD,
        &file,
        &nix::sys::time::TimeSpec::new(1, 0),
        &nix::sys::time::TimeSpec::new(1, 0),
        nix::sys::stat::UtimensatFlags::FollowSymlink,
    );
    assert_eq!(times, Err(Errno::EROFS));
    assert_eq!(fs::read_to_string(&file).unwrap(), "text\n");
    let inside = scene.run(
        &[],
        "cd .belljar/artifacts/by-type/data/output/d; echo x > f.csv@1; rm -f f.csv@1; mkdir n; chmod 600 f.csv@1; mount -o remount,rw /workspace/.belljar/artifacts; cat f.csv@1",
    );
    assert_eq!(stdout(&inside), "text\n", "{}", text(&inside));
    assert_eq!(stderr(&inside).matches("Read-only file system").count(), 4, "{}", text(&inside));
    scene.end();
}

#[test]
fn a_new_version_is_seen_within_a_second_and_a_deleted_one_is_gone() {
    const SEEN: Duration = Duration::from_millis(1_500);
    let scene = Scene::new();
    scene.inside("echo 1 > output/f.csv");
    let directory = scene.views.join("by-type/data/output");
    let latest = directory.join("f.csv@latest");
    assert_eq!(fs::read_to_string(&latest).unwrap(), "1\n");
    let mut held = File::open(directory.join("f.csv@1")).unwrap();
    let within = |what: &str, is_so: &dyn Fn() -> bool| {
        let begin = Instant::now();
        while !is_so() {
            assert!(begin.elapsed() < SEEN, "not within {SEEN:?}: {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    scene.inside("echo two > output/f.csv");
    within("the new version", &|| fs::read_to_string(&latest).unwrap() == "two\n");
    assert_eq!(fs::metadata(&latest).unwrap().len(), 4);

    let id = scene.place.artifacts(&[])[0]["id"].as_str().unwrap().to_owned();
    scene.succeeds(&["artifact", "rm", &format!("{id}@1")]);
    assert_eq!(names(&directory), ["f.csv@2", "f.csv@latest"]);
    within("the deletion", &|| {
        errno(fs::metadata(directory.join("f.csv@1"))) == Some(Errno::ENOENT)
    });
    // Who has it open reads on.
    let mut text = String::new();
    held.read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), held.metadata().unwrap().len()), ("1\n", 2));

    scene.succeeds(&["artifact", "rm", &format!("{id}@2")]);
    within("the deletion of the last", &|| names(&scene.views.join("by-type")).is_empty());
    assert!(names(&scene.views.join("by-id")).is_empty());
    scene.end();
}

#[test]
fn a_version_that_is_being_written_is_not_shown() {
    let scene = Scene::new();
    let root = scene.views.parent().unwrap().parent().unwrap().to_owned();
    let mut writer = File::create(root.join("output/f.csv")).unwrap();
    writer.write_all(b"half").unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(tree(&scene.views).is_empty());
    drop(writer);
    scene.succeeds(&["artifact", "sync"]);
    assert_eq!(fs::read(scene.views.join("by-type/data/output/f.csv@latest")).unwrap(), b"half");
    scene.end();
}

#[test]
fn names_of_any_bytes_are_shown_and_none_leads_elsewhere() {
    let scene = Scene::new();
    let long = "l".repeat(255);
    let script = format!(
        "cd output; printf 1 > 'line
break'; printf 2 > \"$(printf 'raw\\377')\"; printf 3 > 'a@3'; printf 4 > 'a'; printf 5 > {long}
         printf 6 > ' '; printf 7 > '...'; printf 8 > '@latest'; printf 9 > '%2E%2E'; mkdir 'd@1' 'x' 'a@1'
         printf 10 > 'd@1/in'; printf 11 > 'x/@1'; printf 12 > 'a@1/hidden'; printf 13 > 'a@1/hid@1'"
    );
    for graph in ["..", "a/../b", "."] {
        let output = scene.run(&["--graph-id", graph], "printf g > output/graph");
        assert!(output.status.success(), "{}", text(&output));
        scene.inside(&format!("printf '%s' '-{graph}' > output/graph"));
    }
    scene.inside(&script);

    let by_graph = names(&scene.views.join("by-graph"));
    assert_eq!(by_graph, ["%2E", "%2E.", "a%2F..%2Fb"]);
    for graph in by_graph {
        let graph = tree(&scene.views.join("by-graph").join(graph));
        assert!(graph.values().all(|content| content == b"g") && graph.len() == 1, "{graph:?}");
    }
    let by_type = tree(&scene.views.join("by-type"));
    let raw = OsString::from_vec(b"raw\xff".to_vec());
    let expected: [(&[u8], &str); 11] = [
        (b"line\nbreak", "1"),
        (raw.as_bytes(), "2"),
        (b"a@3", "3"),
        (b"a", "4"),
        (long.as_bytes(), "5"),
        (b" ", "6"),
        (b"...", "7"),
        (b"@latest", "8"),
        (b"%2E%2E", "9"),
        (b"d@1/in", "10"),
        (b"x/@1", "11"),
    ];
    for (name, content) in expected {
        for version in ["@1", "@latest"] {
            let end = [b"output/", name, version.as_bytes()].concat();
            let found = by_type.iter().find(|(path, _)| {
                path.as_bytes().splitn(2, |byte| *byte == b'/').nth(1) == Some(&end)
            });
            let found =
                found.unwrap_or_else(|| panic!("{name:?}{version} in {:?}", by_type.keys()));
            assert_eq!(found.1, content.as_bytes());
        }
    }
    // The version `1` of `a` has the name that the directory had; what is below it has its id still.
    assert!(!by_type.keys().any(|path| path.as_bytes().ends_with(b"hidden@1")));
    let by_id = tree(&scene.views.join("by-id"));
    let hidden = by_id.iter().find(|(path, _)| path.as_bytes().ends_with(b"/hidden@1"));
    assert_eq!(hidden.expect("by its id").1, b"12");
    // Each version is listed once by its number.
    let numbered = by_id.keys().filter(|path| !path.as_bytes().ends_with(b"@latest")).count();
    assert_eq!(numbered, scene.place.artifacts(&["--all-versions"]).len());
    scene.end();
}

/// Registers as many versions as there are paths, all with one content.
fn register(place: &Place, paths: impl Iterator<Item = String>) {
    let state = place.path("state");
    let content = b"the same\n";
    let digest = Digest::from_bytes(*blake3::hash(content).as_bytes());
    let blobs = LocalBlobs::open(&state.join("blobs"), uuid::Uuid::now_v7()).unwrap();
    let mut batch = blobs.begin().unwrap();
    let mut writer = batch.writer().unwrap();
    writer.write_all(content).unwrap();
    writer.keep(&digest).unwrap();
    batch.commit().unwrap();
    let new = |path: String| NewVersion {
        owner_uid: 0,
        host_path: format!("/elsewhere/{path}").into_bytes(),
        workspace: "w".parse().unwrap(),
        mount: "output".parse().unwrap(),
        path: VirtualPath::parse(&path).unwrap(),
        run: None,
        graph_id: Some("many".to_owned()),
        node_id: None,
        writer: None,
        artifact_type: ArtifactType::new("data"),
        suspected: None,
        mime: None,
        size: content.len() as u64,
        digest,
        content_kept: true,
        closes: 1,
        metadata: serde_json::Map::new(),
        secrets: Default::default(),
        stamp: None,
        inputs: None,
        captured_at: jiff::Timestamp::now(),
    };
    let catalog = SqliteCatalog::open(&state.join("catalog.sqlite")).unwrap();
    let all: Vec<NewVersion> = paths.map(new).collect();
    for batch in all.chunks(10_000) {
        catalog.register(batch).unwrap();
    }
}

/// Kilobytes that a process has in memory that belongs to no file.
fn anonymous_kilobytes(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn many_artifacts_are_listed_whole_and_the_daemon_stays_small() {
    let long = std::env::var_os("BELLJAR_TEST_LONG").is_some();
    let (files, directories) = if long { (100_000, 1_000) } else { (10_000, 100) };
    let scene = Scene::new();
    let flat = (0..files).map(|number| format!("flat/{number:06}.csv"));
    register(&scene.place, flat);
    let deep = (0..directories)
        .flat_map(|directory| (0..5).map(move |file| format!("deep/{directory}/{file}.csv")));
    register(&scene.place, deep);

    let before = anonymous_kilobytes(scene.place.daemon_pid());
    let begin = Instant::now();
    let flat = names(&scene.views.join("by-type/data/output/flat"));
    let listed = begin.elapsed();
    assert_eq!(flat.len(), 2 * files);
    for (number, pair) in flat.chunks(2).enumerate() {
        let name = format!("{number:06}.csv");
        assert_eq!(pair, [format!("{name}@1").as_str(), format!("{name}@latest").as_str()]);
    }
    let begin = Instant::now();
    assert_eq!(names(&scene.views.join("by-id")).len(), files + 5 * directories);
    let by_id = begin.elapsed();
    let begin = Instant::now();
    let inside = scene.inside(
        "cd .belljar/artifacts/by-graph/many/output; ls deep | wc -l; find deep -type f | wc -l; sha256sum flat/*99.csv@latest | cut -d' ' -f1 | uniq -c | wc -l",
    );
    let walked = begin.elapsed();
    assert_eq!(inside, format!("{directories}\n{}\n1\n", 10 * directories));
    let grown = anonymous_kilobytes(scene.place.daemon_pid()).saturating_sub(before);
    println!(
        "{files} files listed in {listed:?}, {files} ids in {by_id:?}, tree of {directories} directories walked in {walked:?}; the daemon grew by {grown} KiB"
    );
    assert!(grown < 32 * 1024, "the daemon grew by {grown} KiB");
    scene.end();
}

#[test]
fn a_listing_that_is_stepped_back_in_begins_anew() {
    let scene = Scene::new();
    register(&scene.place, (0..2_000).map(|number| format!("{number:06}.csv")));
    let script = r#"
import os, ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.opendir.restype = ctypes.c_void_p
libc.readdir.restype = ctypes.c_void_p
libc.readdir.argtypes = libc.rewinddir.argtypes = libc.telldir.argtypes = [ctypes.c_void_p]
libc.telldir.restype = ctypes.c_long
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
directory = libc.opendir(b".belljar/artifacts/by-type/data/output")
def name(entry): return ctypes.string_at(entry + 19)
def rest():
    names = []
    while entry := libc.readdir(directory): names.append(name(entry))
    return names
head = [name(libc.readdir(directory)) for _ in range(1000)]
place = libc.telldir(directory)
tail = rest()
libc.seekdir(directory, place)
assert rest() == tail
libc.rewinddir(directory)
assert rest() == head + tail
print(len(head + tail))
"#;
    fs::write(scene.place.path("input/walk.py"), script).unwrap();
    assert_eq!(scene.inside("python3 input/walk.py"), "4002\n");
    scene.end();
}

#[test]
fn what_has_no_content_kept_is_never_replaced_by_an_older_version() {
    let scene = Scene::new();
    scene.inside("echo 1 > output/f.csv");
    scene.inside("echo 2 > output/f.csv");
    let catalog = rusqlite::Connection::open(scene.place.path("state/catalog.sqlite")).unwrap();
    catalog.busy_timeout(Duration::from_secs(5)).unwrap();
    catalog.execute("UPDATE version SET content_kept = 0 WHERE number = 2", []).unwrap();
    let directory = scene.views.join("by-type/data/output");
    assert_eq!(names(&directory), ["f.csv@1"]);
    assert_eq!(errno(File::open(directory.join("f.csv@latest"))), Some(Errno::ENOENT));
    scene.end();
}

#[test]
fn a_quarantined_version_is_for_its_owner_alone() {
    let scene = Scene::new();
    scene.inside("echo token > output/f.csv; echo plain > output/g.csv");
    let catalog = rusqlite::Connection::open(scene.place.path("state/catalog.sqlite")).unwrap();
    catalog.busy_timeout(Duration::from_secs(5)).unwrap();
    let changed = catalog
        .execute("UPDATE version SET quarantined = 1 WHERE path = ?", [b"f.csv".as_slice()])
        .unwrap();
    assert_eq!(changed, 1);
    let directory = scene.views.join("by-type/data/output");
    assert_eq!(fs::metadata(directory.join("f.csv@1")).unwrap().mode(), 0o100_400);
    assert_eq!(fs::read_to_string(directory.join("f.csv@1")).unwrap(), "token\n");
    let user = ORDINARY.to_string();
    let output = scene.run(
        &["--user", &user],
        "cd .belljar/artifacts/by-type/data/output; cat f.csv@1; cat g.csv@1",
    );
    assert_eq!(stdout(&output), "plain\n", "{}", text(&output));
    assert!(stderr(&output).contains("f.csv@1: Permission denied"), "{}", text(&output));
    scene.end();
}

#[test]
fn another_user_sees_nothing() {
    let scene = Scene::new();
    scene.inside("echo mine > output/f.csv");
    for (open, mode) in [
        ("", 0o755),
        ("runtime", 0o755),
        ("runtime/belljar.sock", 0o666),
        ("runtime/belljar.sock.fds", 0o666),
    ] {
        fs::set_permissions(scene.place.path(open), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::create_dir(scene.place.path("home")).unwrap();
    std::os::unix::fs::chown(scene.place.path("home"), Some(ORDINARY), Some(ORDINARY)).unwrap();
    fs::copy(BELLJAR, scene.place.path("belljar")).unwrap();
    let as_user = |program: &Path, arguments: &[&str]| {
        Command::new("setpriv")
            .args([
                &format!("--reuid={ORDINARY}"),
                &format!("--regid={ORDINARY}"),
                "--clear-groups",
                "--",
            ])
            .arg(program)
            .args(arguments)
            .env("BELLJAR_SOCKET", scene.place.path("runtime/belljar.sock"))
            .env("HOME", scene.place.path("home"))
            .current_dir(scene.place.path("home"))
            .output()
            .unwrap()
    };
    let listed = as_user(Path::new("/bin/ls"), &[scene.views.to_str().unwrap()]);
    assert!(stderr(&listed).contains("Permission denied"), "{}", text(&listed));
    // A workspace of the same name is another one.
    let script = "echo theirs > o/g.csv; find .belljar/artifacts -type f";
    let run = ["run", "-w", "w", "--rw", "o=.", "--", "sh", "-c", script];
    let theirs = as_user(&scene.place.path("belljar"), &run);
    assert!(theirs.status.success(), "{}", text(&theirs));
    assert_eq!(stdout(&theirs), "", "{}", text(&theirs));
    let again = as_user(&scene.place.path("belljar"), &run);
    assert!(
        stdout(&again).contains("g.csv@1") && !stdout(&again).contains("f.csv"),
        "{}",
        text(&again)
    );
    let ours = tree(&scene.views);
    assert!(ours.values().all(|content| content == b"mine\n"), "{ours:?}");
    scene.end();
}

#[test]
fn a_secret_is_in_no_view() {
    let scene = Scene::new();
    fs::write(scene.place.path("key"), "hunter2hunter2").unwrap();
    scene.succeeds(&["secret", "set", "-w", "w", "KEY=@key"]);
    let output = scene.inside("cat .belljar/secrets/KEY > /dev/null; echo done > output/f.csv; ls -a .belljar/artifacts/..");
    assert!(output.contains("secrets"), "{output}");
    let inside = scene.inside(
        "cd .belljar/artifacts; grep -r hunter2 . ; for up in .. by-id/.. by-type/../.. ; do ls -d $up/secrets; done 2>/dev/null; cat secrets/KEY by-id/secrets/KEY by-type/../secrets/KEY 2>/dev/null; true",
    );
    // The way up leads to the run's own `.belljar`, as anywhere, and not through the views.
    assert_eq!(inside, "../secrets\nby-type/../../secrets\n");
    assert!(tree(&scene.views).values().all(|content| content == b"done\n"));
    assert!(!scene.views.join("../secrets").exists());
    scene.end();
}

#[test]
fn a_large_content_is_read_in_any_order_and_mapped() {
    let scene = Scene::new();
    let content: Vec<u8> =
        (0..3_000_017u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(scene.place.path("input/large"), &content).unwrap();
    scene.inside("cp input/large output/large.csv");
    let path = scene.views.join("by-type").join(names(&scene.views.join("by-type")).remove(0));
    let path = path.join("output/large.csv@latest");
    let file = File::open(&path).unwrap();
    let shown = scene.place.json(["workspace", "show", "w"]);
    if shown["mounts"][0]["passthrough"] == true {
        // The kernel reads by itself: nobody is asked.
        let daemon = nix::unistd::Pid::from_raw(scene.place.daemon_pid());
        nix::sys::signal::kill(daemon, Signal::SIGSTOP).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let reader = file.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut whole = vec![0; 3_000_017];
            reader.read_exact_at(&mut whole, 0).unwrap();
            let _ = tell.send(whole);
        });
        let read = told.recv_timeout(Duration::from_secs(5));
        nix::sys::signal::kill(daemon, Signal::SIGCONT).unwrap();
        assert!(read.expect("a read that needs no daemon") == content);
    }
    let mut part = vec![0; 100_000];
    for offset in [2_900_017u64, 0, 1_234_567] {
        file.read_exact_at(&mut part, offset).unwrap();
        assert!(part == content[offset as usize..][..part.len()], "at {offset}");
    }
    assert_eq!(file.read_at(&mut part, 3_000_017).unwrap(), 0);
    let others: Vec<File> = (0..8).map(|_| File::open(&path).unwrap()).collect();
    drop(file);
    for mut other in others {
        let mut whole = Vec::new();
        other.read_to_end(&mut whole).unwrap();
        assert!(whole == content);
    }
    let mapped = scene.inside(&format!(
        "python3 -c 'import mmap; f = open(\".belljar/artifacts/{}\", \"rb\"); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); print(len(m), m[1234567])'",
        path.strip_prefix(&scene.views).unwrap().display()
    ));
    assert_eq!(mapped, format!("3000017 {}\n", content[1_234_567]));
    scene.end();
}

#[test]
fn a_daemon_that_was_killed_leaves_no_views_mounted() {
    let mut scene = Scene::new();
    scene.inside("echo 1 > output/f.csv");
    let inode = fs::metadata(scene.views.join("by-type/data/output/f.csv@1")).unwrap().ino();
    scene.place.stop_daemon(Signal::SIGKILL);
    scene.place.start_daemon();
    eventually("the dead daemon's mounts are gone", || scene.place.mounts().is_empty());
    scene.succeeds(&["workspace", "create", "w", "--ro", "input=input", "--rw", "output=output"]);
    let again = fs::metadata(scene.views.join("by-type/data/output/f.csv@1")).unwrap().ino();
    assert_eq!(inode, again, "a version keeps its inode number");
    scene.succeeds(&["workspace", "rm", "w"]);
    assert!(scene.place.mounts().is_empty());
    scene.end();
}
