//! Starting a program as an ordinary user who can mount FUSE.
#![allow(dead_code)] // Each test uses a part.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A user that is nobody's. Tests act as it where an ordinary user is meant.
pub const ORDINARY: u32 = 12345;

/// `program`, about to be started by root as that user.
///
/// The device is closed to others on some machines. In a mount namespace of its own the user gets one that is open, without
/// a change to the machine; it lies at `device`, a directory of the test's own. What the machine mounts and unmounts
/// is seen there too, where it is shared.
pub fn command(program: &Path, device: &Path) -> Command {
    let script = r#"
        set -e
        mount -t tmpfs -o mode=755 none "$1"
        mknod "$1/fuse" c 10 229; chmod 666 "$1/fuse"; mount --bind "$1/fuse" /dev/fuse
        exec setpriv --reuid="$2" --regid="$2" --clear-groups --no-new-privs -- "${@:3}"
    "#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "slave", "bash", "-c", script, "bash"]);
    command.arg(device).arg(ORDINARY.to_string()).arg(program);
    command
}

/// A copy of this test's program below `directory`, which this user can execute, whatever the mode of the build's directory.
pub fn copy_of_this_program(directory: &Path) -> PathBuf {
    let copy = directory.join("test");
    std::fs::copy("/proc/self/exe", &copy).unwrap();
    std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o755)).unwrap();
    copy
}

/// Runs this test's program again as that user with these arguments; fails when it does.
pub fn run_again<S: AsRef<OsStr>>(
    programs: &Path,
    device: &Path,
    arguments: impl IntoIterator<Item = S>,
    adjust: impl FnOnce(&mut Command),
) {
    let mut command = command(&copy_of_this_program(programs), device);
    command.args(arguments).current_dir("/");
    adjust(&mut command);
    let status = command.status().expect("start unshare (Debian package util-linux)");
    assert!(status.success(), "as an ordinary user: {status}");
}
