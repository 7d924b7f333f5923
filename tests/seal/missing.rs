//! A kernel without a layer, made by a system call filter around the whole program: the run is refused by name, or goes on by name.

use crate::expected::User;
use crate::host::Host;
use crate::support::{stderr, text};
use std::process::Command;

/// Refuses one system call with an errno to itself and to what it executes.
const WITHOUT: &str = r#"
import ctypes, os, struct, sys
number, errno = int(sys.argv[1]), int(sys.argv[2])
# Load the number; is it this one? Then the errno, else allow (linux/filter.h, linux/seccomp.h).
code = b"".join(struct.pack("HBBI", *i) for i in [(0x20, 0, 0, 0), (0x15, 0, 1, number), (6, 0, 0, 0x50000 | errno), (6, 0, 0, 0x7fff0000)])
buffer = ctypes.create_string_buffer(code)
program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 4, ctypes.addressof(buffer)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0, ctypes.get_errno()
os.execv(sys.argv[3], sys.argv[3:])
"#;

/// The number of landlock_create_ruleset(2) on every architecture.
const LANDLOCK: i32 = 444;

fn seccomp() -> i32 {
    if cfg!(target_arch = "x86_64") { 317 } else { 277 }
}

/// The same command on a kernel that answers one call with an errno.
fn on_a_kernel_without(command: &Command, number: i32, errno: i32) -> Command {
    let mut around = Command::new("/usr/bin/python3");
    around.args(["-I", "-c", WITHOUT, &number.to_string(), &errno.to_string()]);
    // Whoever becomes an ordinary user does it by name.
    let program = command.get_program();
    around.arg(if program == "unshare" { "/usr/bin/unshare".as_ref() } else { program });
    around.args(command.get_args()).env_clear();
    around.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    around.current_dir(command.get_current_dir().unwrap());
    around
}

const CASES: [(&str, i32, &str); 4] = [
    ("landlock", 38, "built without it"),
    ("landlock", 95, "switched off"),
    ("seccomp", 22, "EINVAL"),
    ("seccomp", 1, "EPERM"),
];

fn is_refused_by_name_or_goes_on_by_name(user: User) {
    let host = Host::new(user);
    for (layer, errno, why) in CASES {
        let number = if layer == "landlock" { LANDLOCK } else { seccomp() };
        let run = |options: &[&str], script: &str| {
            let command = host.command(options, "", &["sh", "-c", script]);
            on_a_kernel_without(&command, number, errno).output().unwrap()
        };
        let output = run(&[], "touch /workspace/out/ran");
        assert_eq!(output.status.code(), Some(125), "{layer}: {}", text(&output));
        let said = stderr(&output);
        let option = format!("--allow-unenforced {layer}");
        for word in [layer, why, "it takes", "nothing was run", &option] {
            assert!(said.contains(word), "{layer} with {errno}: {word:?} is missing in {said}");
        }
        assert!(!host.place.path("output/ran").exists());
        let other = if layer == "landlock" { "seccomp" } else { "landlock" };
        let output = run(&["--allow-unenforced", other], "touch /workspace/out/ran");
        assert_eq!(output.status.code(), Some(125), "only what was named: {}", text(&output));
        let options = ["--receipt", "receipt.json", "--allow-unenforced", layer];
        let output = run(&options, "echo ran");
        assert_eq!(output.stdout, b"ran\n", "{}", text(&output));
        let missing = host.layer(layer);
        assert_eq!((&missing["requested"], &missing["in_force"]), (&true.into(), &false.into()));
        assert!(missing["proof"].is_null() && missing["abi"].is_null(), "{missing}");
        assert!(missing["detail"].as_str().unwrap().contains(why), "{missing}");
        assert_eq!(host.layer(other)["in_force"], true);
    }
    host.place.assert_clean();
}

#[test]
fn a_layer_that_the_kernel_lacks_is_refused_by_name_or_goes_on_by_name() {
    is_refused_by_name_or_goes_on_by_name(User::Other);
}

#[test]
fn a_layer_that_the_kernel_lacks_is_missed_in_a_users_sandbox_too() {
    is_refused_by_name_or_goes_on_by_name(User::Ordinary);
}

#[test]
fn what_is_accepted_and_there_is_in_force() {
    let host = Host::new(User::Other);
    let accepted = ["--allow-unenforced", "seccomp", "--allow-unenforced", "landlock"];
    let options: Vec<_> = accepted.into_iter().chain(["--receipt", "receipt.json"]).collect();
    let output = host.run(&options, "", "grep Seccomp: /proc/self/status");
    assert_eq!(output.stdout, b"Seccomp:\t2\n", "{}", text(&output));
    for layer in ["landlock", "seccomp"] {
        assert_eq!(host.layer(layer)["in_force"], true);
    }
}

#[test]
fn a_layer_that_no_sandbox_can_do_without_is_no_option() {
    let host = Host::new(User::Other);
    for (name, hint) in [("namespaces", "landlock, seccomp"), ("secomp", "did you mean `seccomp`?")]
    {
        let output = host.run(&["--allow-unenforced", name], "", "true");
        assert_eq!(output.status.code(), Some(125), "{}", text(&output));
        assert!(stderr(&output).contains(hint), "{}", text(&output));
    }
}
