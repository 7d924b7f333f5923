//! The sandbox as an ordinary user makes it: the same promises, with a user namespace instead of root.
//!
//! No test harness: a process must have a single thread to enter a user namespace, and the harness runs each test on a thread of its own.
//! Started as root it starts itself again as user 12345; started as anybody else it just runs.

mod sandbox_support;

use belljar::sandbox::protocol::Exit;
use belljar::sys::process::enter_user_namespace;
use sandbox_support::{Host, cases};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

const BELLJARD: &str = env!("CARGO_BIN_EXE_belljard");
const UID: u32 = 12345;

fn main() {
    let belljard = std::env::var_os("TEST_BELLJARD").unwrap_or(BELLJARD.into());
    match std::env::var("TEST_AS_USER").as_deref() {
        Ok("masked") => run_where_proc_is_masked(Path::new(&belljard)),
        Ok(_) => run(Path::new(&belljard)),
        Err(_) if nix::unistd::geteuid().is_root() => run_again_as_user(),
        Err(_) => run(Path::new(&belljard)),
    }
}

/// Copies both programs to where any user can execute them, whatever the mode of this directory is.
fn run_again_as_user() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let own = directory.path().join("suite");
    let belljard = directory.path().join("belljard");
    std::fs::copy("/proc/self/exe", &own).expect("copy");
    std::fs::copy(BELLJARD, &belljard).expect("copy");
    for path in [directory.path(), &own, &belljard] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("chmod");
    }
    // In a mount namespace of its own, since the second run covers a part of /proc.
    for (mode, prepare) in [("plain", "true"), ("masked", "mount --bind /dev/null /proc/version")] {
        let status = Command::new("unshare")
            .args(["--mount", "sh", "-c", &format!("{prepare} && exec \"$@\"")])
            .args(["sh", "setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups"])
            .arg(&own)
            .env("TEST_AS_USER", mode)
            .env("TEST_BELLJARD", &belljard)
            .current_dir("/")
            .status()
            .expect("unshare and setpriv are in util-linux");
        assert!(status.success(), "{mode}: {status}");
    }
}

fn run(belljard: &Path) {
    let uid = nix::unistd::geteuid().as_raw();
    enter_user_namespace().expect("an ordinary user can make user namespaces here");
    assert_eq!(nix::unistd::geteuid().as_raw(), uid);
    for (name, case) in cases::ALL {
        // Before it runs, so that the one that fails is known.
        println!("sandbox_user: {name}");
        case(&Host::new(belljard, uid));
    }
    println!("sandbox_user: the_command_can_make_no_user_namespace");
    let host = Host::new(belljard, uid);
    let outcome = host.run(&host.plan(["unshare", "--user", "true"])).expect("starts");
    assert_eq!(outcome.ended.how, Exit::Exited(1), "{outcome:?}");
    assert!(outcome.stderr.contains("Operation not permitted"), "{outcome:?}");

    println!("sandbox_user: another_user_is_refused_by_name");
    let mut plan = host.plan(["true"]);
    plan.user.uid = 0;
    let failure = host.run(&plan).expect_err("must not start");
    assert!(failure.to_string().starts_with("credentials: become uid 0"), "{failure}");

    println!("sandbox_user: no_run_leaves_a_descriptor_a_child_or_a_mount");
    let state = || {
        let descriptors = std::fs::read_dir("/proc/self/fd").expect("fd").count();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        (descriptors, mounts)
    };
    let before = state();
    for script in ["true", "exit 3", "sleep 1000 & true"] {
        host.run(&host.shell(script)).expect("starts");
        host.run(&host.plan(["no-such-program"])).expect_err("must not start");
    }
    assert_eq!(state(), before);
    let error = nix::sys::wait::wait().expect_err("no child");
    assert_eq!(error, nix::errno::Errno::ECHILD);
}

/// As in a container: a part of /proc is covered, and the kernel gives a user namespace no whole one.
fn run_where_proc_is_masked(belljard: &Path) {
    enter_user_namespace().expect("an ordinary user can make user namespaces here");
    println!("sandbox_user: a_masked_proc_is_named_with_the_fix");
    let host = Host::new(belljard, UID);
    let failure = host.run(&host.plan(["true"])).expect_err("must not start");
    let text = failure.to_string();
    assert!(text.starts_with("rootfs: mount /proc: EPERM (Operation not permitted)"), "{text}");
    assert!(text.contains("unmask=ALL"), "{text}");
}
