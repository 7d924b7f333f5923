//! Read-only mount points under attack: every way to change a file, tried on every kind of object, from the host and
//! from inside sandboxes, beside a plain read-only bind mount of the same tree, which says what the answer should be.
#![allow(clippy::unwrap_used)]

mod fence;
mod mounted;
mod support;

use belljar::model::access::Access;
use fence::{
    ATTACKS, Exception, Outcomes, PYTHON, ReadOnlyBind, assert_same, attack, attack_writable,
    build, picture,
};
use mounted::{Fixture, Setup};
use nix::mount::{MntFlags, MsFlags};
use nix::sys::signal::Signal;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use support::{ORDINARY, Place, finish, stdout, text};

#[test]
fn every_attempt_would_change_a_tree_that_is_not_read_only() {
    let place = tempfile::tempdir().unwrap();
    let (root, out) = (place.path().join("tree"), place.path().join("out"));
    let arguments = ["control".as_ref(), root.as_os_str(), out.as_os_str()];
    let outcomes = fence::outcomes(&fence::attacker(0, &arguments).output().unwrap());
    assert!(outcomes.len() > 150, "only {} attempts", outcomes.len());
    for (attempt, outcome) in outcomes {
        let is_right = match outcome.as_str() {
            "changed" => true,
            // It has no name in the tree.
            "wrote" => attempt.contains("O_TMPFILE") || attempt.contains("private mapping"),
            "moved 7" => attempt.contains("private mapping"),
            // Calls that this kernel or the file system below the temporary directory does not know.
            "ENOTSUP" | "ENOSYS" => true,
            // For ioctl(2) alone; what cannot write; a directory below itself; a mapping's pages made, not changed.
            "opened, then EBADF" => attempt == "open O_ACCMODE",
            "EBADF" => attempt.contains("through O_PATH"),
            "EINVAL" => attempt == "rename into itself",
            "done" => attempt.starts_with("MADV_POPULATE_WRITE"),
            _ => false,
        };
        assert!(is_right, "{attempt} on a writable tree: {outcome}");
    }
}

/// The workspace's mount on the host is one mount, writable as a whole: there the kernel's other rules come before the
/// daemon is asked, and EROFS after them. Beyond that:
const ON_THE_HOST: [Exception; 5] = [
    Exception {
        attempts: &["rename"],
        object: None,
        answer: "EROFS",
        reason: "within one mount, that a mount point may not be changed comes before that there are two of them",
    },
    Exception {
        attempts: &["open O_ACCMODE"],
        object: None,
        answer: "EROFS",
        reason: "such a descriptor allows ioctl(2) alone; it is refused as a writer",
    },
    Exception {
        attempts: &["open O_TMPFILE"],
        object: None,
        answer: "ENOTSUP",
        reason: "the file system has no files without a name",
    },
    Exception {
        attempts: &["FS_IOC_SETFLAGS", "FS_IOC_FSSETXATTR", "FS_IOC_SETVERSION"],
        object: None,
        answer: "ENOTTY",
        reason: "no ioctl(2) is passed on",
    },
    Exception {
        attempts: &["file_setattr"],
        object: None,
        answer: "ENOTSUP",
        reason: "the attributes behind those of ioctl(2) are not passed on either",
    },
];

/// `table` is what the mount table says of the mount point.
fn attack_from_the_host(uid: u32, table: Access) {
    let writable = tempfile::tempdir().unwrap();
    fs::set_permissions(writable.path(), Permissions::from_mode(0o755)).unwrap();
    let others = attack_writable(uid, writable.path());
    for passthrough in [true, false] {
        let fixture = Fixture::with(&Setup { passthrough, ro: table, ..Setup::default() });
        let base = fixture.directory.path();
        for open in ["", "ro", "rw"] {
            fs::set_permissions(base.join(open), Permissions::from_mode(0o755)).unwrap();
        }
        build(&base.join("ro/tree"), &base.join("rw/out"), uid);
        build(&base.join("plain"), &base.join("out"), uid);
        let bind = ReadOnlyBind::new(&base.join("plain"), &base.join("bind"));
        let before = (picture(&base.join("ro")), picture(&base.join("plain")));
        let oracle = attack(uid, &base.join("bind"), &base.join("out"));
        let seen = attack(uid, &fixture.root.join("ro/tree"), &fixture.rw("out"));
        drop(bind);
        assert_eq!(before, (picture(&base.join("ro")), picture(&base.join("plain"))));
        let of = format!("passthrough {passthrough}, uid {uid}");
        match table {
            Access::ReadOnly => assert_same(&of, &oracle, &others, &seen, &ON_THE_HOST),
            // Then other rules may speak first, and only that nothing was done counts.
            Access::ReadWrite => {
                for (attempt, outcome) in seen.iter().filter(|(_, found)| !found.starts_with('E')) {
                    assert_eq!(oracle.get(attempt), Some(outcome), "{of}: {attempt}");
                }
            }
        }
    }
}

#[test]
fn nothing_changes_through_the_hosts_mount_as_root() {
    attack_from_the_host(0, Access::ReadOnly);
}

#[test]
fn nothing_changes_through_the_hosts_mount_as_the_files_owner() {
    attack_from_the_host(ORDINARY, Access::ReadOnly);
}

#[test]
fn nothing_changes_where_only_the_clone_of_the_hosts_mount_is_read_only() {
    attack_from_the_host(0, Access::ReadWrite);
}

/// In a sandbox the mount itself is read-only, as the exposed tree is. What is left:
const IN_A_SANDBOX: [Exception; 3] = [
    Exception {
        attempts: &["FICLONE"],
        object: None,
        answer: "EBADF",
        reason: "both mount points are of one file system, so that EXDEV does not come first",
    },
    Exception {
        attempts: &["open O_ACCMODE"],
        object: None,
        answer: "EROFS",
        reason: "such a descriptor allows ioctl(2) alone; it is refused as a writer",
    },
    Exception {
        attempts: &["FS_IOC_SETVERSION"],
        object: None,
        answer: "ENOTTY",
        reason: "no ioctl(2) is passed on, and this one is not the kernel's own",
    },
];

/// With a user namespace:
const OF_ANOTHER_USER: Exception = Exception {
    attempts: &["open", "creat", "truncate"],
    object: Some("open"),
    answer: "EACCES",
    reason: "the file's owner is no user of the namespace, and the kernel writes no such file of a file system made in it",
};

/// Attacks a read-only mount point from inside a sandbox of a place, beside an exposed tree, which is a plain read-only
/// bind mount in the same sandbox.
fn attack_from_a_sandbox(place: &Place, uid: u32, exceptions: &[Exception]) {
    build(&place.path("input/tree"), &place.path("output/out"), uid);
    build(&place.path("plain"), &place.path("output/out"), uid);
    for name in ["input", "output"] {
        chown(place.path(name), Some(uid), Some(uid)).unwrap();
    }
    let pictures = || (picture(&place.path("input")), picture(&place.path("plain")));
    let before = pictures();
    let plain = place.path("plain");
    let attack = |root: &str| {
        let plain = plain.to_str().unwrap();
        let options = ["run", "--ro", "in=input", "--rw", "out=output", "--expose", plain];
        let command = ["--timeout", "120s", "--", PYTHON, "-I", "-c", ATTACKS, "attack", root];
        let mut run = place.belljar(options.into_iter().chain(command));
        fence::outcomes(&run.arg("/workspace/out/out").output().unwrap())
    };
    let oracle = attack(plain.to_str().unwrap());
    let seen = attack("/workspace/in/tree");
    assert_eq!(before, pictures());
    assert_same(&format!("uid {uid}"), &oracle, &Outcomes::new(), &seen, exceptions);
    place.assert_clean();
}

#[test]
fn nothing_changes_from_a_sandbox_of_user_0() {
    attack_from_a_sandbox(&Place::new(), 0, &IN_A_SANDBOX);
}

#[test]
fn nothing_changes_from_a_sandbox_of_the_files_owner() {
    attack_from_a_sandbox(&Place::new(), ORDINARY, &IN_A_SANDBOX);
}

#[test]
fn nothing_changes_from_a_sandbox_that_the_files_owner_makes() {
    let [clone, ioctl, version] = IN_A_SANDBOX;
    let exceptions = [clone, ioctl, version, OF_ANOTHER_USER];
    attack_from_a_sandbox(&Place::of_ordinary_user(), ORDINARY, &exceptions);
}

/// Prints, for each path: whether access(2) lets it be written by the real and by the effective user, what statvfs(3),
/// findmnt(8) and the mount table say.
const ASK: &str = r#"
import os, subprocess, sys
for path in sys.argv[1:]:
    writable = os.access(path, os.W_OK), os.access(path, os.W_OK, effective_ids=True)
    says = "ro" if os.statvfs(path).f_flag & os.ST_RDONLY else "rw"
    found = subprocess.run(["findmnt", "-n", "-o", "OPTIONS,TARGET", "-T", path], capture_output=True, text=True, check=True)
    options, target = found.stdout.split()
    lines = [line.split(" ") for line in open("/proc/self/mountinfo")]
    listed = [line[5].split(",")[0] for line in lines if line[4] == target][-1]
    print(path, *writable, says, options.split(",")[0], listed)
"#;

fn every_answer_is_the_same_in(place: &Place) {
    fs::create_dir(place.path("shown")).unwrap();
    fs::set_permissions(place.path("shown"), Permissions::from_mode(0o777)).unwrap();
    fs::create_dir(place.path("input/below")).unwrap();
    fs::set_permissions(place.path("input/below"), Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(place.path("input/data.txt"), Permissions::from_mode(0o666)).unwrap();
    fs::write(place.path("output/mine"), "").unwrap();
    let owner = fs::metadata(place.path("output")).unwrap();
    chown(place.path("output/mine"), Some(owner.uid()), Some(owner.gid())).unwrap();
    for name in ["input", "output", "output/mine"] {
        fs::set_permissions(place.path(name), Permissions::from_mode(0o777)).unwrap();
    }
    let shown = place.path("shown");
    let options = ["run", "--ro", "in=input", "--rw", "out=output"];
    let expose = ["--expose", shown.to_str().unwrap(), "--", PYTHON, "-I", "-c", ASK];
    let read_only = ["/workspace/in", "/workspace/in/below", "/workspace/in/data.txt"];
    let read_only = read_only.into_iter().chain(["/workspace", "/workspace/.belljar"]);
    let read_only: Vec<&str> = read_only.chain(["/", "/usr", shown.to_str().unwrap()]).collect();
    let writable = ["/workspace/out", "/workspace/out/mine", "/tmp", "/dev/shm"];
    let paths = read_only.iter().copied().chain(writable);
    let output = place.output(options.into_iter().chain(expose).chain(paths));
    let expected: String = read_only
        .iter()
        .map(|path| format!("{path} False False ro ro ro\n"))
        .chain(writable.iter().map(|path| format!("{path} True True rw rw rw\n")))
        .collect();
    assert_eq!(stdout(&output), expected, "{}", text(&output));
    place.assert_clean();
}

#[test]
fn access_statvfs_and_the_mount_table_say_what_may_be_written() {
    every_answer_is_the_same_in(&Place::new());
    every_answer_is_the_same_in(&Place::of_ordinary_user());
}

/// Mounts memory at a directory of this thread's mount namespace.
fn mount_memory(at: &Path) {
    let none = None::<&str>;
    nix::mount::mount(Some("none"), at, Some("tmpfs"), MsFlags::empty(), Some("mode=0777"))
        .unwrap();
    nix::mount::mount(none, at, none, MsFlags::MS_SHARED, none).unwrap();
}

/// Unmounts at its end, whatever happened, so that the directory can be removed.
struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

fn what_the_host_mounts_later_stays_outside() {
    // Only this thread and what it starts; the machine's own mounts stay as they are.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("these tests need root");
    let none = None::<&str>;
    nix::mount::mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let mut place = Place::new();
    let source = place.path("input");
    let _memory = Unmount(source.clone());
    mount_memory(&source);
    for name in ["before", "after", "live"] {
        fs::create_dir(source.join(name)).unwrap();
    }
    mount_memory(&source.join("before"));
    fs::write(source.join("before/file"), "mounted before\n").unwrap();
    place.start_daemon();
    let create = ["workspace", "create", "w", "--ro", "input=input", "--rw", "output=output"];
    let made = place.output(create);
    assert!(made.status.success(), "{}", text(&made));

    // A sandbox that lives on while the host mounts, with the same directory exposed.
    let exposed = source.to_str().unwrap();
    let script = format!(
        "echo ready; read go; for d in /workspace/input {exposed}; do cd $d; cat before/file; ls -A after live; \
         for f in before/x before/file after/x live/x; do (: >> $f) 2>&1; done; done"
    );
    let run = ["run", "-w", "w", "--timeout", "60s", "--expose", exposed];
    let run = run.into_iter().chain(["--", "sh", "-c", &script]);
    let mut command = place.belljar(run);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut sandbox = command.spawn().unwrap();
    let mut out = BufReader::new(sandbox.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    for name in ["after", "live"] {
        mount_memory(&source.join(name));
        fs::write(source.join(name).join("mounted-later"), "").unwrap();
    }
    sandbox.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let mut seen = String::new();
    out.read_to_string(&mut seen).unwrap();
    let output = finish(sandbox);
    assert_eq!(seen.matches("mounted before\n").count(), 2, "{seen}{}", text(&output));
    assert!(!seen.contains("mounted-later"), "{seen}");
    assert_eq!(seen.matches("Read-only file system").count(), 8, "{seen}");

    // The same through the workspace's mount on the host.
    let on_host = place.path("runtime/workspaces/0/w/input");
    assert_eq!(fs::read_dir(on_host.join("after")).unwrap().count(), 0);
    for name in ["before/x", "before/file", "after/x", "live/x"] {
        let error = fs::OpenOptions::new().create(true).append(true).open(on_host.join(name));
        assert_eq!(error.unwrap_err().raw_os_error(), Some(nix::libc::EROFS), "{name}");
    }
    for name in ["before", "after", "live"] {
        assert!(!source.join(name).join("x").exists(), "{name}");
        // The workspace does not keep the host from unmounting, neither what was there before nor what came later.
        nix::mount::umount(&source.join(name)).expect(name);
        assert!(!source.join(name).join("x").exists(), "{name}");
    }
    // What was there before is still in the workspace.
    assert_eq!(fs::read_to_string(on_host.join("before/file")).unwrap(), "mounted before\n");
    let gone = place.output(["workspace", "rm", "w"]);
    assert!(gone.status.success(), "{}", text(&gone));
    assert!(place.stop_daemon(Signal::SIGTERM).success());
}

#[test]
fn what_the_host_mounts_below_the_source_later_is_neither_seen_nor_written() {
    // A thread of its own, since the mount namespace stays with it.
    std::thread::spawn(what_the_host_mounts_later_stays_outside).join().unwrap();
}
