//! Ways out of a sandbox, each tried from inside with a canary outside: mounts, namespaces, links, `..`, magic links, handles,
//! the first process, and links swapped in while the daemon works.
#![allow(clippy::unwrap_used)]

mod fence;
mod support;

use fence::{Outcomes, PYTHON, outcomes, picture_of};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::{ORDINARY, Place, text};

const ESCAPES: &str = include_str!("fence/escapes.py");

const TOKEN: &str = "nobody inside may read this";

/// A canary that everybody could read and write, were it not for the sandbox; `uid` owns what is mounted.
fn prepare(place: &Place, uid: u32) {
    fs::create_dir(place.path("canary")).unwrap();
    fs::write(place.path("canary/file"), TOKEN).unwrap();
    fs::write(place.path("output/mine"), "").unwrap();
    for (name, mode) in [("canary", 0o777), ("canary/file", 0o666), ("input/data.txt", 0o666)] {
        fs::set_permissions(place.path(name), Permissions::from_mode(mode)).unwrap();
    }
    fs::set_permissions(place.root(), Permissions::from_mode(0o755)).unwrap();
    for name in ["input", "input/data.txt", "output", "output/mine", "canary", "canary/file"] {
        chown(place.path(name), Some(uid), Some(uid)).unwrap();
    }
}

/// The layers that close namespaces to the command. What is behind them must hold alone, too.
const NO_NAMESPACES: &str = "seccomp:unnoticed,landlock:unnoticed";

fn escape(place: &Place, uid: u32, without: &str) -> Outcomes {
    prepare(place, uid);
    let pictures = || (picture_of(&place.path("canary")), picture_of(&place.path("input")));
    let before = pictures();
    let options = ["run", "--ro", "in=input", "--rw", "out=output", "--timeout", "60s"];
    let command = ["--", PYTHON, "-I", "-c", ESCAPES];
    let mut run = place.belljar(options.into_iter().chain(command));
    run.arg(place.path("canary/file"));
    if !without.is_empty() {
        run.env("BELLJAR_TEST_WITHOUT_LAYER", without);
    }
    let output = run.output().unwrap();
    let found = outcomes(&output);
    assert_eq!(before, pictures());
    assert!(!text(&output).contains(TOKEN), "the canary was read");
    place.assert_clean();
    found
}

/// What may come of attempts whose names begin like this, the first that fits; everything else is EPERM.
const ANSWERS: [(&str, &[&str]); 26] = [
    ("..", &["the root"]),
    ("descriptors of", &["EPERM", "EACCES", "ENOENT"]),
    // Standard input, output and error.
    ("descriptors", &["0 1 2"]),
    ("bind a socket", &["EROFS"]),
    ("link the", &["EXDEV"]),
    ("rename", &["EXDEV"]),
    ("map user 0", &["EROFS"]),
    ("write the input", &["EROFS"]),
    // /proc is read-only; a file's mode may speak first, and some kernels do not have the file.
    ("write /proc", &["EROFS", "EACCES", "ENOENT"]),
    // Hidden, or of another; what is covered has no device behind it.
    ("read /proc", &["EPERM", "EACCES", "ENOENT"]),
    ("root of pid 1", &["EPERM", "EACCES", "ENOENT"]),
    ("setns of pid 1", &["EPERM", "EACCES", "ENOENT"]),
    ("process_vm_readv", &["EPERM", "ESRCH"]),
    ("init_module", &["EPERM", "ENOSYS"]),
    ("swapon", &["EPERM", "ENOSYS"]),
    ("runtime directory", &["ENOENT"]),
    ("read ", &["ENOENT", "EPERM"]),
    ("write by", &["ENOENT", "EPERM"]),
    ("truncate by", &["ENOENT", "EPERM"]),
    ("name by", &["ENOENT", "EPERM"]),
    // EINVAL: locked together with the mounts around it, or no mount point at all. ENOENT: this kernel has no such file.
    ("remount", &["EPERM", "EINVAL"]),
    ("mount", &["EPERM", "EINVAL", "ENOENT", "ENODEV"]),
    ("umount", &["EPERM", "EINVAL", "ENOENT"]),
    ("move_mount", &["EPERM", "EINVAL", "ENOENT"]),
    ("open_tree", &["EPERM", "EINVAL"]),
    ("pivot_root", &["EPERM", "EINVAL"]),
];

/// Attempts that a namespace of the command's own makes possible, and that do no harm.
const CONTROLS: [(&str, &str); 6] = [
    ("inner: control: rbind and remount /tmp", "writable"),
    ("inner: control: rbind and remount /workspace/out", "writable"),
    ("inner: control: mount tmpfs", "done"),
    ("inner: control: umount it", "done"),
    // Above the root of its own mount namespace nobody climbs.
    ("inner: control: chroot", "the root"),
    ("inner: capabilities", "some"),
];

fn assert_held(found: &Outcomes) {
    let mut wrong = Vec::new();
    for (attempt, outcome) in found {
        let inner = attempt.strip_prefix("inner: ");
        let name = inner.unwrap_or(attempt);
        let control = name.starts_with("control: ") || name == "capabilities";
        if attempt == "namespaces" || (inner.is_some() && control) {
            continue;
        }
        let mut answers = ANSWERS.iter().filter(|(beginning, _)| name.starts_with(beginning));
        let right = match answers.next() {
            Some((_, answers)) => answers,
            // Copies of a mount without what is mounted on it would show what is covered.
            None if inner.is_some() && name.starts_with("bind and remount") => {
                &["EPERM", "EINVAL"][..]
            }
            None => &["EPERM"][..],
        };
        if !right.contains(&outcome.as_str()) {
            wrong.push(format!("{attempt}: {outcome}, and not {right:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn root_holds(uid: u32) {
    let found = escape(&Place::new(), uid, "");
    assert!(found.len() > 160, "only {} attempts were made", found.len());
    assert_eq!(found.get("namespaces").map(String::as_str), Some("EPERM"));
    assert_held(&found);
}

fn root_holds_without_filters(uid: u32) {
    let found = escape(&Place::new(), uid, NO_NAMESPACES);
    assert!(found.len() > 280, "only {} attempts were made", found.len());
    // The command may make namespaces of its own then, and must still be held.
    assert_eq!(found.get("namespaces").map(String::as_str), Some("done"));
    for (control, right) in CONTROLS {
        assert_eq!(found.get(control).map(String::as_str), Some(right), "{control}");
    }
    assert_held(&found);
}

#[test]
fn user_0_does_not_get_out() {
    root_holds(0);
}

#[test]
fn another_user_of_roots_daemon_does_not_get_out() {
    root_holds(ORDINARY);
}

#[test]
fn user_0_does_not_get_out_with_namespaces_of_its_own() {
    root_holds_without_filters(0);
}

#[test]
fn another_user_of_roots_daemon_does_not_get_out_with_namespaces_of_its_own() {
    root_holds_without_filters(ORDINARY);
}

#[test]
fn a_sandbox_that_an_ordinary_user_makes_is_not_left() {
    for (without, refused) in [("", "EPERM"), (NO_NAMESPACES, "ENOSPC")] {
        let found = escape(&Place::of_ordinary_user(), ORDINARY, without);
        assert!(found.len() > 160, "only {} attempts were made", found.len());
        assert_eq!(found.get("namespaces").map(String::as_str), Some(refused));
        assert_held(&found);
    }
}

/// Uses what is now a directory and now a link out of the mount, and itself exchanges the two. Prints what it read, how often it found
/// the directory and how often something else.
const RACE: &str = r#"
import ctypes, json, os, time
libc = ctypes.CDLL(None, use_errno=True)
read, found, missed = set(), 0, 0
def once(path):
    read.add(open(path + "/file").read())
    with open(path + "/file", "r+") as file: file.write("inside")
    open(path + "/new", "w").close()
    os.chmod(path + "/new", 0o600)
    os.setxattr(path + "/file", "user.x", b"x")
    os.rename(path + "/new", path + "/newer")
    os.mkdir(path + "/directory")
    read.update(name for name in os.listdir(path) if name not in ("file", "new", "newer", "directory"))
    os.truncate(path + "/file", 6)
    os.unlink(path + "/newer")
    os.rmdir(path + "/directory")
end = time.monotonic() + 4
turn = 0
while time.monotonic() < end:
    turn += 1
    for name in ["absolute", "relative"]:
        path = "/workspace/out/" + name
        if turn % 7 == 0:
            libc.renameat2(-100, path.encode(), -100, (path + ".other").encode(), 2)
        try:
            once(path)
            found += 1
        except OSError:
            missed += 1
print(json.dumps([sorted(read), found, missed]))
"#;

fn a_swapped_link_leads_nowhere_in(place: &Place, uid: u32) {
    prepare(place, uid);
    let canary = place.path("canary");
    for (name, target) in [("absolute", canary.as_path()), ("relative", Path::new("../canary"))] {
        let directory = place.path("output").join(name);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("file"), "inside").unwrap();
        for path in [&directory, &directory.join("file")] {
            chown(path, Some(uid), Some(uid)).unwrap();
        }
        symlink(target, directory.with_extension("other")).unwrap();
    }
    let before = picture_of(&canary);
    let ended = AtomicBool::new(false);
    let output = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                for name in ["absolute", "relative"] {
                    let one = place.path("output").join(name);
                    let other = one.with_extension("other");
                    let flags = RenameFlags::RENAME_EXCHANGE;
                    renameat2(AT_FDCWD, &one, AT_FDCWD, &other, flags).unwrap();
                }
                std::thread::sleep(Duration::from_micros(300));
            }
        });
        let options = ["run", "--ro", "in=input", "--rw", "out=output", "--timeout", "60s"];
        let command = ["--", PYTHON, "-I", "-c", RACE];
        let output = place.belljar(options.into_iter().chain(command)).output();
        ended.store(true, Ordering::Relaxed);
        output.unwrap()
    });
    assert!(output.status.success(), "{}", text(&output));
    let (read, found, missed): (Vec<String>, u32, u32) =
        serde_json::from_slice(&output.stdout).unwrap();
    // An empty file is one that this test is just writing.
    assert!(read.iter().all(|text| text == "inside" || text.is_empty()), "{read:?}");
    assert!(found > 5 && missed > 20, "found {found} times and missed {missed} times");
    assert_eq!(before, picture_of(&canary));
    place.assert_clean();
}

#[test]
fn a_link_that_is_swapped_in_leads_nowhere() {
    a_swapped_link_leads_nowhere_in(&Place::new(), 0);
    a_swapped_link_leads_nowhere_in(&Place::of_ordinary_user(), ORDINARY);
}
