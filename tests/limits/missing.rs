//! Limits that this machine, or this user, cannot have: refused by name before anything runs, or told as missing.

use crate::support::{Place, stderr, stdout, text};
use crate::world::{layer, receipt};
use std::fs;
use std::process::{Command, Output};

/// The same command where every cgroup file system is read-only.
const READ_ONLY: &str = "for at in $(awk '$3 ~ /^cgroup/ { print $2 }' /proc/self/mounts); do
    mount -o remount,bind,ro \"$at\"; done";

/// The same command where none is mounted.
const NONE: &str = "for at in $(awk '$3 ~ /^cgroup/ { print $2 }' /proc/self/mounts | sort -r); do
    umount -l \"$at\"; done";

/// `command` after `script`, in a mount namespace of its own.
fn within(script: &str, command: &Command) -> Output {
    let script = format!("set -e\n{script}\nexec \"$@\"");
    let mut outer = Command::new("unshare");
    outer.args(["--mount", "--propagation", "private", "bash", "-c", &script, "bash"]);
    outer.arg(command.get_program()).args(command.get_args()).env_clear();
    outer.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    outer.current_dir(command.get_current_dir().unwrap());
    outer.output().expect("unshare (Debian package util-linux) starts")
}

const LIMITS: [(&str, &str); 3] = [("memory", "256MiB"), ("cpus", "1.5"), ("pids", "30")];

fn refused_and_accepted(place: &Place, script: &str, reason: &str) {
    for (name, value) in LIMITS {
        let option = format!("--{name}");
        let command = place
            .run_command(&[&option, value, "--receipt", "r.json"], "touch /workspace/output/ran");
        let output = within(script, &command);
        assert_eq!(output.status.code(), Some(125), "{name}: {}", text(&output));
        let said = stderr(&output);
        for word in [
            &format!("{name}: the limit of {value}"),
            reason,
            &format!("--allow-unenforced {name}"),
        ] {
            assert!(said.contains(word), "{name}: {word:?} is not in: {said}");
        }
        assert!(!place.path("output/ran").exists(), "{name}: the command ran without its limit");
        assert_eq!(receipt(&place.path("r.json"))["reason"], "setup-failed");
        // Another one that may be missing does not help.
        let other = if name == "memory" { "pids" } else { "memory" };
        let command = place.run_command(&[&option, value, "--allow-unenforced", other], "true");
        assert_eq!(within(script, &command).status.code(), Some(125), "{name}");

        let options = [&option, value, "--allow-unenforced", name, "--receipt", "r.json"];
        let command = place.run_command(&options, "exec bash -c 'ulimit -v; ulimit -u'");
        let output = within(script, &command);
        assert!(output.status.success(), "{name}: {}", text(&output));
        let receipt = receipt(&place.path("r.json"));
        let layer = layer(&receipt, name);
        assert_eq!((&layer["requested"], &layer["in_force"]), (&true.into(), &false.into()));
        let detail = layer["detail"].as_str().unwrap();
        assert!(detail.contains("not held") && detail.contains(reason), "{detail}");
        let said = stdout(&output);
        let (space, processes) = said.trim().split_once('\n').expect("two lines");
        match name {
            "memory" => {
                assert!(detail.contains("RLIMIT_AS"), "{detail}");
                assert_eq!(space, (256 << 10).to_string());
            }
            "cpus" => assert!(detail.ends_with("nothing holds it"), "{detail}"),
            _ if detail.contains("RLIMIT_NPROC") => {
                // With the first process, and the outer one where the run has a user namespace of its own.
                assert!(["31", "32"].contains(&processes), "{processes}: {detail}");
            }
            _ => assert!(detail.contains("uid 0"), "{detail}"),
        }
        assert_eq!(receipt["usage"]["peak_memory_measured_by"], "rusage");
    }
    place.assert_clean();
}

#[test]
fn read_only_cgroups_are_named_and_nothing_runs() {
    let place = Place::new();
    refused_and_accepted(&place, READ_ONLY, "EROFS");
}

#[test]
fn a_machine_without_cgroups_is_named_and_nothing_runs() {
    let place = Place::new();
    refused_and_accepted(&place, NONE, "no cgroup hierarchy");
}

#[test]
fn an_ordinary_user_without_a_delegated_cgroup_is_told_so() {
    let place = Place::of_ordinary_user();
    let reason = if fs::metadata("/sys/fs/cgroup/cgroup.controllers").is_ok() {
        "not delegated to this user"
    } else {
        "EACCES"
    };
    refused_and_accepted(&place, "true", reason);
}

#[test]
fn what_is_weaker_still_stops_a_single_process() {
    let place = Place::of_ordinary_user();
    let hog = "python3 -c 'x = bytearray(300 << 20)'";
    let command = place.run_command(&["--memory", "64MiB", "--allow-unenforced", "memory"], hog);
    let output = within(NONE, &command);
    assert_ne!(output.status.code(), Some(0), "{}", text(&output));
    assert!(stderr(&output).contains("MemoryError"), "{}", text(&output));
    let bomb = "python3 -c 'import os, time
for number in range(100):
    if os.fork() == 0:
        time.sleep(20)'";
    let command = place.run_command(&["--pids", "10", "--allow-unenforced", "pids"], bomb);
    let output = within(NONE, &command);
    assert!(stderr(&output).contains("BlockingIOError"), "{}", text(&output));
}
