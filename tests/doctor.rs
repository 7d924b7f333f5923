//! `belljar doctor` says the truth: on this machine, and where something is taken away on purpose.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::Value;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Output};
use support::{ORDINARY, Place, stdout, text};

/// What `belljar doctor --json` says after `script`, in a mount namespace of its own.
fn doctor(place: &Place, script: &str) -> (Value, Output) {
    let command = place.belljar(["doctor", "--json"]);
    let script = format!("set -e\n{script}\nexec \"$@\"");
    let mut outer = Command::new("unshare");
    outer.args(["--mount", "--propagation", "private", "bash", "-c", &script, "bash"]);
    outer.arg(command.get_program()).args(command.get_args()).env_clear();
    outer.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let temporary = place.path("tmp");
    fs::create_dir_all(&temporary).unwrap();
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o1777)).unwrap();
    outer.env("TMPDIR", &temporary).current_dir(place.root());
    let output = outer.output().expect("unshare (Debian package util-linux) starts");
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", text(&output)));
    let ok = report["checks"].as_array().unwrap().iter().all(|c| c["verdict"] != "failure");
    assert_eq!(report["ok"], ok, "{report}");
    assert_eq!(output.status.code(), Some(i32::from(!ok)), "{}", text(&output));
    for check in report["checks"].as_array().unwrap() {
        let needs_fix = check["verdict"] != "ok";
        assert_eq!(check["fix"].is_string(), needs_fix, "{check}");
    }
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0, "the trial left something");
    (report, output)
}

/// Asserts the verdict of one check, and that each of the words is in what it says or advises.
#[track_caller]
fn says(report: &Value, name: &str, verdict: &str, words: &[&str]) {
    let checks = report["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == name);
    let check = check.unwrap_or_else(|| panic!("{name} is missing in {report}"));
    assert_eq!(check["verdict"], verdict, "{check}");
    for word in words {
        assert!(check.to_string().contains(word), "{word:?} is not in {check}");
    }
}

/// A directory of devices in the place of `/dev`, with these lines for more.
fn devices(place: &Place, more: &str) -> String {
    let at = place.path("dev");
    fs::create_dir_all(&at).unwrap();
    let at = at.display();
    format!(
        "mount -t tmpfs -o mode=755 none {at}
for d in 'null 3' 'zero 5' 'full 7' 'random 8' 'urandom 9'; do mknod -m 666 {at}/${{d% *}} c 1 ${{d#* }}; done
{}
mount --bind {at} /dev",
        more.replace("DEV", &at.to_string())
    )
}

#[test]
fn a_machine_on_which_runs_work_is_well_and_the_trial_was_real() {
    let place = Place::new();
    let (report, output) = doctor(&place, "true");
    assert!(output.status.success(), "{}", text(&output));
    says(&report, "/dev/fuse", "ok", &["mode 0"]);
    says(&report, "mounting", "ok", &["CAP_SYS_ADMIN"]);
    says(&report, "a run", "ok", &["ms", "namespaces", "root-filesystem", "capabilities"]);
    says(&report, "catalog", "ok", &["none yet"]);
    says(&report, "daemon", "ok", &["private"]);
    for name in ["start_ms", "mount_ms", "run_ms"] {
        let ms = report["times"][name].as_f64().unwrap();
        assert!(ms > 0.05 && ms < 30_000.0, "{name}: {ms}");
    }
    for name in ["passthrough", "Landlock", "seccomp", "open files", "free space", "configuration"]
    {
        assert!(report.to_string().contains(&format!("\"name\":\"{name}\"")), "{name}: {report}");
    }
    assert!(fs::read_dir(place.path("state")).unwrap().next().is_none(), "doctor left a trace");
    let people = place.output(["doctor"]);
    assert!(
        people.status.success() && stdout(&people).contains("ok    /dev/fuse:"),
        "{}",
        text(&people)
    );
    place.assert_clean();
}

#[test]
fn a_catalog_and_a_daemon_that_are_there_are_asked() {
    let mut place = Place::new();
    assert!(place.run(&[], "true").status.success());
    let (report, _) = doctor(&place, "true");
    says(&report, "catalog", "ok", &["answers"]);
    place.start_daemon();
    let (report, _) = doctor(&place, "true");
    says(&report, "daemon", "ok", &["answers at", "belljar.sock"]);
    says(&report, "catalog", "ok", &["answers"]);
    assert!(place.stop_daemon(nix::sys::signal::Signal::SIGTERM).success());
    fs::write(place.path("state/catalog.sqlite"), "no database".repeat(1000)).unwrap();
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(place.path(&format!("state/catalog.sqlite{suffix}")));
    }
    let (report, _) = doctor(&place, "true");
    says(&report, "catalog", "failure", &["catalog", "BELLJAR_STATE_DIR"]);
    says(&report, "a run", "ok", &[]);
}

#[test]
fn a_missing_or_wrong_device_is_named_with_the_fix() {
    let place = Place::new();
    let (report, _) = doctor(&place, &devices(&place, ""));
    says(
        &report,
        "/dev/fuse",
        "failure",
        &["does not exist", "modprobe fuse", "--device /dev/fuse"],
    );
    says(&report, "a run", "failure", &["mend /dev/fuse first"]);
    assert!(report["times"].is_null(), "{report}");
    let (report, _) = doctor(&place, &devices(&place, "mknod -m 666 DEV/fuse c 1 3"));
    says(&report, "/dev/fuse", "failure", &["not the device of FUSE", "mknod"]);
}

#[test]
fn an_ordinary_user_is_told_what_keeps_it_from_running() {
    let place = Place::of_ordinary_user();
    let (report, output) = doctor(&place, "true");
    assert!(output.status.success(), "{}", text(&output));
    says(&report, "mounting", "ok", &["user namespace"]);
    says(&report, "a run", "ok", &["namespaces"]);
    says(&report, "passthrough", "warning", &["root"]);

    // Without the open device that the place gives this user.
    let uid = ORDINARY.to_string();
    let script = devices(&place, "mknod -m 600 DEV/fuse c 10 229");
    let script = format!("set -e\n{script}\nexec \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "bash", "-c", &script, "bash"]);
    command.args(["setpriv", "--reuid", &uid, "--regid", &uid, "--clear-groups"]);
    command.arg(place.path("belljar")).args(["doctor", "--json"]).env("HOME", place.root());
    command.env("BELLJAR_STATE_DIR", "/root/state");
    command.env("BELLJAR_RUNTIME_DIR", place.path("runtime"));
    let output = command.current_dir("/").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    says(&report, "/dev/fuse", "failure", &["uid 12345", "mode 0600", "chmod 666 /dev/fuse"]);
    says(&report, "state directory", "failure", &["BELLJAR_STATE_DIR"]);
    says(&report, "a run", "failure", &["mend /dev/fuse first"]);
}

#[test]
fn a_machine_that_allows_no_user_namespaces_is_named_with_the_setting() {
    let place = Place::of_ordinary_user();
    // A user namespace in which no more can be made, and a process in it without capabilities.
    let script = "echo 0 >/proc/sys/user/max_user_namespaces
exec setpriv --bounding-set=-all --inh-caps=-all -- \"$@\"";
    let mut command = Command::new("setpriv");
    let uid = ORDINARY.to_string();
    command.args(["--reuid", &uid, "--regid", &uid, "--clear-groups"]);
    command.args(["unshare", "--user", "--map-root-user", "bash", "-ec", script, "bash"]);
    command.arg(place.path("belljar")).args(["doctor", "--json"]);
    command.env("HOME", place.root()).env("BELLJAR_RUNTIME_DIR", place.path("runtime"));
    command.env("BELLJAR_STATE_DIR", place.path("state")).current_dir("/");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    says(&report, "mounting", "failure", &["sysctl user.max_user_namespaces"]);
}

#[test]
fn limits_that_cannot_be_held_are_warnings_with_the_fix() {
    let place = Place::new();
    let read_only = "for at in $(awk '$3 ~ /^cgroup/ { print $2 }' /proc/self/mounts); do mount -o remount,bind,ro \"$at\"; done";
    let (report, output) = doctor(&place, read_only);
    assert!(output.status.success(), "a run works without limits: {}", text(&output));
    for name in ["--memory", "--cpus", "--pids"] {
        says(&report, name, "warning", &["EROFS", "read-write"]);
    }
}

#[test]
fn too_few_open_files_are_named_with_the_fix() {
    let place = Place::new();
    let (report, _) = doctor(&place, "ulimit -n 40");
    says(&report, "open files", "failure", &["may have 40", "LimitNOFILE"]);
    let (report, _) = doctor(&place, "ulimit -n 1000");
    says(&report, "open files", "warning", &["may have 1000"]);
    says(&report, "a run", "ok", &[]);
}

#[test]
fn a_directory_that_others_could_change_is_named() {
    let place = Place::new();
    fs::set_permissions(place.path("state"), fs::Permissions::from_mode(0o777)).unwrap();
    fs::remove_dir(place.path("runtime")).unwrap();
    symlink("/tmp", place.path("runtime")).unwrap();
    let (report, _) = doctor(&place, "true");
    says(&report, "state directory", "failure", &["may be written by others", "BELLJAR_STATE_DIR"]);
    says(&report, "runtime directory", "failure", &["is not a directory", "BELLJAR_RUNTIME_DIR"]);
    fs::remove_file(place.path("runtime")).unwrap();
}
