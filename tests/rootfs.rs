//! A directory as the command's root: the command sees it and nothing of the host's, and can change nothing in it.
//!
//! The root is a busybox and a few files. Needs what `tests/run.rs` needs, and a busybox without libraries (Debian package
//! busybox-static).
#![allow(clippy::unwrap_used)]

mod support;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::Value;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Output;
use support::{ORDINARY, Place, stdout, text};

const PROGRAMS: [&str; 16] = [
    "cat", "chmod", "echo", "env", "grep", "id", "ls", "mkdir", "mount", "mv", "pwd", "readlink",
    "rm", "sh", "sort", "touch",
];

/// What nobody inside may read or change, on the host beside the root.
const TOKEN: &str = "outside of the root";

fn busybox() -> PathBuf {
    let found = ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from);
    let found = found.into_iter().find(|path| path.exists());
    found.expect("busybox is missing: apt-get install busybox-static")
}

/// Makes the root `root` in a place, of a merged-usr system.
fn make_root(place: &Place) -> PathBuf {
    let root = place.path("root");
    for directory in
        ["usr/bin", "etc/app", "var/lib/app", "opt/dev", "home/somebody", "run/app", "tmp", "dev"]
    {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    symlink("usr/bin", root.join("bin")).unwrap();
    fs::copy(busybox(), root.join("usr/bin/busybox")).unwrap();
    for program in PROGRAMS {
        symlink("busybox", root.join("usr/bin").join(program)).unwrap();
    }
    for (file, content) in [
        ("etc/release", "a root of ours\n"),
        ("etc/app/conf", "a setting\n"),
        ("etc/hosts", "198.51.100.1 theirs\n"),
        ("etc/passwd", "root:x:0:0:theirs:/root:/bin/sh\nmail:x:8:8::/var/mail:/bin/sh\n"),
        ("etc/nsswitch.conf", "hosts: files\n"),
        ("var/lib/app/data", "its data\n"),
        ("home/somebody/file", "of somebody\n"),
        ("run/app/file", "of a service\n"),
        ("tmp/file", "left over\n"),
        ("file", "at the top\n"),
    ] {
        fs::write(root.join(file), content).unwrap();
    }
    if nix::unistd::geteuid().is_root() {
        let null = makedev(1, 3);
        mknod(&root.join("opt/dev/null"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), null)
            .unwrap();
    }
    fs::set_permissions(place.root(), Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(place.path("outside")).unwrap();
    fs::write(place.path("outside/file"), TOKEN).unwrap();
    fs::set_permissions(place.path("outside"), Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(place.path("outside/file"), Permissions::from_mode(0o666)).unwrap();
    root
}

fn run(place: &Place, options: &[&str], script: &str) -> Output {
    let root = [&["--rootfs", "root"], options].concat();
    place.run(&root, script)
}

/// Everything below a directory, with what would tell of a change.
fn picture(directory: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(path) = open.pop() {
        let found = path.symlink_metadata().unwrap();
        let content = if found.is_file() { fs::read(&path).unwrap().len() } else { 0 };
        all.push(format!(
            "{} {:o} {} {} {} {content}",
            path.display(),
            found.mode(),
            found.uid(),
            found.mtime_nsec(),
            found.ctime_nsec()
        ));
        if found.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    all.sort();
    all
}

fn the_command_sees_the_root(place: &Place, options: &[&str], uid: u32) {
    make_root(place);
    let script = r#"
        set -e
        echo $(ls -A /)
        readlink /bin
        test ! -e /usr/lib && test ! -e /usr/bin/python3
        cat /etc/release /etc/app/conf /var/lib/app/data /file /etc/nsswitch.conf
        grep -c theirs /etc/hosts /etc/passwd || true
        grep mail: /etc/passwd
        id -u; id -un; pwd
        echo $(ls -A /home) $(ls -A /run) $(ls -A /tmp) $(ls -A /var)
        cat input/data.txt
        echo written > output/file; echo x > /tmp/x; echo x > ~/x; echo x > /dev/null; echo x > /var/tmp/y
        grep -q BELLJAR= /workspace/.belljar/env || true
        test -S $BELLJAR_SOCKET
    "#;
    let output = run(place, &[options, &["--receipt", "receipt.json"]].concat(), script);
    assert!(output.status.success(), "{}", text(&output));
    let user = if uid == 0 { "root" } else { "belljar" };
    let expected = format!(
        "bin dev etc file home opt proc run tmp usr var workspace\nusr/bin\na root of ours\na setting\nits data\nat the top\n\
         hosts: files\n/etc/hosts:0\n/etc/passwd:0\nmail:x:8:8::/var/mail:/bin/sh\n{uid}\n{user}\n/workspace\n\
         {user} belljar lib run tmp\nthe input\n"
    );
    assert_eq!(stdout(&output), expected, "{}", text(&output));
    assert_eq!(fs::read_to_string(place.path("output/file")).unwrap(), "written\n");
    let receipt: Value =
        serde_json::from_slice(&fs::read(place.path("receipt.json")).unwrap()).unwrap();
    let layers = receipt["enforcement"].as_array().unwrap();
    let layer = layers.iter().find(|layer| layer["name"] == "root-filesystem").unwrap();
    assert_eq!(layer["in_force"], true);
    let root = place.path("root").canonicalize().unwrap();
    assert!(layer["detail"].as_str().unwrap().contains(root.to_str().unwrap()), "{layer}");
}

#[test]
fn user_0_sees_the_root_and_nothing_of_the_hosts() {
    let place = Place::new();
    the_command_sees_the_root(&place, &[], 0);
    place.assert_clean();
}

#[test]
fn another_user_of_a_running_daemon_sees_the_root_and_nothing_of_the_hosts() {
    let mut place = Place::new();
    place.start_daemon();
    for name in ["input", "output"] {
        chown(place.path(name), Some(ORDINARY), Some(ORDINARY)).unwrap();
    }
    the_command_sees_the_root(&place, &[], ORDINARY);
}

#[test]
fn an_ordinary_user_sees_the_root_and_nothing_of_the_hosts() {
    let place = Place::of_ordinary_user();
    the_command_sees_the_root(&place, &[], ORDINARY);
    place.assert_clean();
}

fn nothing_of_the_root_can_be_changed(place: &Place) {
    let root = make_root(place);
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    // The command's own by every mode.
    let user = fs::metadata(place.path("output")).unwrap().uid();
    for path in ["", "usr", "etc", "etc/release", "file", "usr/bin/busybox", "var/lib/app"] {
        chown(root.join(path), Some(user), Some(user)).unwrap();
        fs::set_permissions(root.join(path), Permissions::from_mode(0o777)).unwrap();
    }
    let before = picture(&root);
    let script = r#"
        for place in / /usr /usr/bin /bin /etc /etc/app /var /var/lib /var/lib/app /opt /dev /run /home; do
            touch $place/made 2>/dev/null && echo made in $place
            mkdir $place/made 2>/dev/null && echo directory made in $place
        done
        for file in /file /etc/release /etc/passwd /etc/hosts /usr/bin/busybox /var/lib/app/data; do
            (echo changed >> $file) 2>/dev/null && echo $file was written
            chmod 700 $file 2>/dev/null && echo $file has another mode
            touch $file 2>/dev/null && echo $file has other times
            rm -f $file 2>/dev/null && echo $file was removed
            mv $file $file.moved 2>/dev/null && echo $file was moved
        done
        mount -o remount,rw / 2>/dev/null && echo remounted
        mount -o remount,rw,bind /usr 2>/dev/null && echo remounted
        # No device of the root's is one.
        (echo x > /opt/dev/null) 2>/dev/null && echo a device works
        echo end
    "#;
    let output = run(place, &[], script);
    assert_eq!(stdout(&output), "end\n", "{}", text(&output));
    assert_eq!(picture(&root), before);
}

#[test]
fn nothing_of_the_root_can_be_changed_by_user_0() {
    nothing_of_the_root_can_be_changed(&Place::new());
}

#[test]
fn nothing_of_the_root_can_be_changed_by_an_ordinary_user() {
    nothing_of_the_root_can_be_changed(&Place::of_ordinary_user());
}

/// What is lost when one works: a file of the host's beside the root.
fn links_lead_nowhere_but_into_the_root(place: &Place) {
    let root = make_root(place);
    let outside = place.path("outside");
    let climbing = format!("../../../../../../../..{}", outside.display());
    symlink(&outside, root.join("absolute")).unwrap();
    symlink(&climbing, root.join("climbing")).unwrap();
    symlink(&climbing, root.join("usr/climbing")).unwrap();
    symlink(&climbing, root.join("etc/climbing")).unwrap();
    symlink(outside.join("file"), root.join("etc/group")).unwrap();
    // In the place of what the sandbox makes itself.
    for own in ["tmp", "home", "run", "dev"] {
        fs::remove_dir_all(root.join(own)).unwrap();
    }
    for own in ["tmp", "home", "run", "dev", "proc", "sys", "workspace"] {
        symlink(&outside, root.join(own)).unwrap();
    }
    for (own, name) in [("etc/passwd", "file"), ("etc/hosts", "file"), ("etc/hostname", "made")] {
        let _ = fs::remove_file(root.join(own));
        symlink(outside.join(name), root.join(own)).unwrap();
    }
    symlink(&outside, root.join("var/tmp")).unwrap();
    let before = picture(&outside);
    let script = r#"
        for link in /absolute /climbing /usr/climbing /etc/climbing; do
            ls $link/ 2>/dev/null && echo $link leads somewhere
        done
        cat /etc/group /etc/passwd /etc/hosts /etc/hostname
        echo x > /tmp/file; echo x > ~/file; echo x > /var/tmp/file2; echo x > /dev/null
        readlink /tmp /home /run /dev /proc /workspace
        echo end
    "#;
    let output = run(place, &[], script);
    assert!(stdout(&output).ends_with("end\n"), "{}", text(&output));
    assert!(
        !text(&output).contains(TOKEN) && !text(&output).contains("leads"),
        "{}",
        text(&output)
    );
    assert_eq!(picture(&outside), before);
    // A directory of the sandbox's that is a link in the root gives way whole.
    fs::remove_dir_all(root.join("etc")).unwrap();
    symlink(&outside, root.join("etc")).unwrap();
    let output = run(place, &[], "cat /etc/hostname && test ! -L /etc && test ! -e /etc/file");
    assert_eq!(stdout(&output), "belljar\n", "{}", text(&output));
    assert_eq!(picture(&outside), before);
}

#[test]
fn links_lead_user_0_nowhere_but_into_the_root() {
    links_lead_nowhere_but_into_the_root(&Place::new());
}

#[test]
fn links_lead_an_ordinary_user_nowhere_but_into_the_root() {
    links_lead_nowhere_but_into_the_root(&Place::of_ordinary_user());
}

fn refused(place: &Place, options: &[&str]) -> String {
    let output = place.run(options, "echo ran");
    assert_eq!(output.status.code(), Some(125), "{}", text(&output));
    assert!(stdout(&output).is_empty(), "{}", text(&output));
    support::stderr(&output)
}

#[test]
fn what_cannot_be_a_root_is_named() {
    let place = Place::of_ordinary_user();
    make_root(&place);
    let said = refused(&place, &["--rootfs", "nowhere"]);
    assert!(said.contains("nowhere does not exist"), "{said}");
    let said = refused(&place, &["--rootfs", "root/file"]);
    assert!(said.contains("root/file is not a directory"), "{said}");
    fs::set_permissions(place.path("root"), Permissions::from_mode(0o700)).unwrap();
    let said = refused(&place, &["--rootfs", "root"]);
    assert!(said.contains("you may not read") && said.contains("/root"), "{said}");
    // With nothing in it there is no command, and the message says whose programs are looked for.
    fs::create_dir(place.path("empty")).unwrap();
    let output = place.run(&["--rootfs", "empty"], "true");
    assert_eq!(output.status.code(), Some(127), "{}", text(&output));
    assert!(text(&output).contains("its programs are those of"), "{}", text(&output));
}

#[test]
fn a_root_opens_nothing_to_its_user_that_its_own_modes_close() {
    let place = Place::new();
    let root = make_root(&place);
    for (closed, named) in [("etc", "/root/etc cannot be read"), ("", "/root cannot be read")] {
        fs::set_permissions(root.join(closed), Permissions::from_mode(0o700)).unwrap();
        let said = refused(&place, &["--rootfs", "root", "--user", "12345"]);
        assert!(said.contains(named) && said.contains("EACCES"), "{said}");
        fs::set_permissions(root.join(closed), Permissions::from_mode(0o755)).unwrap();
    }
    // The same for a directory that can be listed, but not entered.
    fs::set_permissions(&root, Permissions::from_mode(0o744)).unwrap();
    assert!(refused(&place, &["--rootfs", "root", "--user", "12345"]).contains("EACCES"));
    fs::set_permissions(&root, Permissions::from_mode(0o755)).unwrap();
    let output = run(&place, &["--user", "12345"], "id -u");
    assert_eq!(stdout(&output), "12345\n", "{}", text(&output));
}

#[test]
fn a_manifest_names_a_root_from_the_hosts_root_on() {
    let place = Place::new();
    let root = make_root(&place);
    let manifest = place.path("m.yaml");
    fs::write(&manifest, format!("rootfs: {}\n", root.display())).unwrap();
    let output = place.run(&["-f", "m.yaml"], "cat /etc/release");
    assert_eq!(stdout(&output), "a root of ours\n", "{}", text(&output));
    fs::write(&manifest, "rootfs: root\n").unwrap();
    let said = refused(&place, &["-f", "m.yaml"]);
    assert!(said.contains("rootfs") && said.contains("relative"), "{said}");
}

#[test]
fn exposed_paths_appear_in_the_root_where_it_has_their_place() {
    let place = Place::new();
    let root = make_root(&place);
    let shown = place.path("outside");
    let path = shown.to_str().unwrap();
    // Below its own /tmp the sandbox makes the place; elsewhere the root must have it.
    let output = run(&place, &["--expose", path], &format!("cat {path}/file"));
    assert_eq!(stdout(&output), TOKEN, "{}", text(&output));
    let said = refused(&place, &["--rootfs", "root", "--expose", "/usr/share"]);
    assert!(said.contains("/usr/share") && said.contains("make that place in"), "{said}");
    fs::create_dir(root.join("usr/share")).unwrap();
    let output = run(&place, &["--expose", "/usr/share"], "ls /usr/share");
    assert!(stdout(&output).contains("doc"), "{}", text(&output));
}

#[test]
fn names_are_looked_up_as_on_the_host_with_its_network() {
    let place = Place::new();
    let root = make_root(&place);
    fs::write(root.join("etc/resolv.conf"), "nameserver 198.51.100.2\n").unwrap();
    let show = "cat /etc/resolv.conf 2>/dev/null";
    assert_eq!(stdout(&run(&place, &[], show)), "nameserver 198.51.100.2\n");
    let host = fs::read_to_string("/etc/resolv.conf");
    let expected = host.unwrap_or_else(|_| "nameserver 198.51.100.2\n".to_owned());
    assert_eq!(stdout(&run(&place, &["--network", "host"], show)), expected);
}
