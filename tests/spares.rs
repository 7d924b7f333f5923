//! Sandboxes that are begun before a run wants them: one is used by one run, only while the host lends what it did then, and none
//! outlives its daemon.
//!
//! Needs: root, /dev/fuse, user namespaces; unshare(1) and nsenter(1) of util-linux.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use support::{Place, eventually, stdout, text};

/// First processes of sandboxes below a daemon, by their numbers on the host.
fn first_processes(daemon: i32) -> Vec<i32> {
    children(daemon).into_iter().flat_map(children).collect()
}

/// Children that are sandboxes' outer or first processes.
fn children(parent: i32) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let read = |name: &str| fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        // Behind the name, which is in brackets and may hold anything: state, parent.
        let stat = read("stat");
        let above = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1));
        if above == Some(&parent.to_string()) && read("cmdline").contains("\0sandbox-init\0") {
            found.push(pid);
        }
    }
    found
}

/// The spare that waits and is wholly begun: its root is its own.
fn spare(daemon: i32) -> i32 {
    let mut found = None;
    eventually("a sandbox is begun in advance", || {
        let is_begun = |pid: &&i32| {
            Path::new(&format!("/proc/{pid}/root/etc/nsswitch.conf")).exists()
                && !Path::new(&format!("/proc/{pid}/root/home")).exists()
                && Path::new(&format!("/proc/{pid}/root/tmp")).exists()
        };
        found = first_processes(daemon).iter().find(is_begun).copied();
        found.is_some()
    });
    found.unwrap()
}

fn has_ended(pid: i32) -> bool {
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    // Of a process that waits to be reaped it is empty.
    !command.contains("sandbox-init")
}

fn namespace(pid: i32) -> String {
    fs::read_link(format!("/proc/{pid}/ns/pid")).unwrap().display().to_string()
}

fn namespace_of_a_run(place: &Place) -> String {
    let output = place.output(["run", "--quiet", "--", "readlink", "/proc/self/ns/pid"]);
    assert!(output.status.success(), "{}", text(&output));
    stdout(&output).trim().to_owned()
}

#[test]
fn a_run_uses_the_sandbox_that_was_begun_and_the_next_has_another() {
    let mut place = Place::new();
    place.start_daemon();
    let daemon = place.daemon_pid();
    let first = namespace(spare(daemon));
    assert_eq!(namespace_of_a_run(&place), first);
    let second = namespace(spare(daemon));
    assert_ne!(second, first, "a sandbox serves one run");
    assert_eq!(namespace_of_a_run(&place), second);
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.assert_clean();
}

#[test]
fn what_asks_for_more_than_a_spare_has_gets_a_sandbox_of_its_own() {
    let mut place = Place::new();
    place.start_daemon();
    let begun = namespace(spare(place.daemon_pid()));
    let command = ["--", "readlink", "/proc/self/ns/pid"];
    let output = place.output(["run", "--quiet", "--network", "host"].iter().chain(&command));
    assert!(output.status.success(), "{}", text(&output));
    assert_ne!(stdout(&output).trim(), begun);
    assert_eq!(namespace_of_a_run(&place), begun, "and leaves the spare to others");
}

#[test]
fn a_spare_that_was_killed_holds_up_nobody() {
    let mut place = Place::new();
    place.start_daemon();
    let daemon = place.daemon_pid();
    for _ in 0..3 {
        let first = spare(daemon);
        kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
        eventually("the spare has ended", || has_ended(first));
        // Not that it is another: the number of a namespace that is gone may be given again.
        namespace_of_a_run(&place);
    }
}

#[test]
fn no_spare_outlives_its_daemon() {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let mut place = Place::new();
        place.start_daemon();
        let first = spare(place.daemon_pid());
        place.stop_daemon(signal);
        eventually("the spare has ended", || has_ended(first));
    }
}

/// A daemon in a mount namespace in which `/etc` is a copy.
struct Elsewhere {
    daemon: Child,
    etc: PathBuf,
}

impl Elsewhere {
    fn start(place: &Place) -> Self {
        let etc = place.path("etc");
        let plain = place.belljard(["serve"]);
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-ec"])
            .arg("cp -a /etc \"$1\"; mount --bind \"$1\" /etc; exec \"$0\" serve")
            .arg(plain.get_program())
            .arg(&etc)
            .env_clear()
            .envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let daemon = command.spawn().expect("unshare(1): install the package util-linux");
        let elsewhere = Self { daemon, etc };
        eventually("the daemon answers", || place.output(["daemon", "status"]).status.success());
        elsewhere
    }

    fn pid(&self) -> i32 {
        self.daemon.id() as i32
    }

    fn mount(&self, at: &str) {
        let target = self.pid().to_string();
        let mounted = Command::new("nsenter")
            .args(["--target", &target, "--mount", "mount", "-t", "tmpfs", "belljar-test", at])
            .status()
            .expect("nsenter(1): install the package util-linux");
        assert!(mounted.success());
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        // In order, so that nothing of it is left; its mounts go with its namespace.
        let _ = kill(Pid::from_raw(self.pid()), Signal::SIGTERM);
        let _ = self.daemon.wait();
    }
}

#[test]
fn what_the_host_lends_is_what_it_has_when_the_run_starts() {
    let place = Place::new();
    let elsewhere = Elsewhere::start(&place);
    let seen = |script: &str| {
        let output = place.output(["run", "--quiet", "--", "sh", "-c", script]);
        assert!(output.status.success(), "{}", text(&output));
        stdout(&output)
    };
    let etc = |name: &str| elsewhere.etc.join(name);

    spare(elsewhere.pid());
    fs::write(etc("new"), "Belljar/Elsewhere\n").unwrap();
    fs::rename(etc("new"), etc("timezone")).unwrap();
    assert_eq!(seen("cat /etc/timezone"), "Belljar/Elsewhere\n", "another file in its place");

    spare(elsewhere.pid());
    fs::write(etc("timezone"), "Belljar/In_place\n").unwrap();
    assert_eq!(seen("cat /etc/timezone"), "Belljar/In_place\n", "another content");

    spare(elsewhere.pid());
    fs::create_dir(etc("python3-of-a-test")).unwrap();
    fs::write(etc("python3-of-a-test/file"), "there\n").unwrap();
    assert_eq!(seen("cat /etc/python3-of-a-test/file"), "there\n", "a name that was not there");

    spare(elsewhere.pid());
    let _ = fs::remove_file(etc("localtime"));
    std::os::unix::fs::symlink("/usr/share/zoneinfo/Asia/Tokyo", etc("localtime")).unwrap();
    let link = seen("readlink /etc/localtime || cat /etc/localtime | wc -c");
    assert_ne!(link, "", "a link in its place");
    assert!(
        !Path::new("/usr/share/zoneinfo/Asia/Tokyo").exists() || link.contains("Tokyo"),
        "{link}"
    );

    spare(elsewhere.pid());
    assert_ne!(seen("stat -f -c %T /usr/local"), "tmpfs\n");
    spare(elsewhere.pid());
    elsewhere.mount("/usr/local");
    assert_eq!(seen("stat -f -c %T /usr/local"), "tmpfs\n", "a mount below what is lent");
}
