//! The same as an ordinary user, in a user namespace that knows one user and has no passthrough.

use crate::fsx;
use crate::ground::{Ground, fixture};
use crate::mounted::Setup;
use crate::pjdfstest::{self, LINK_MAX, Run};
use crate::programs;
use belljar::model::mount::SetId;
use belljar::sys::process::enter_user_namespace;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

/// The argument with which the program starts itself again.
pub const AS_USER: &str = "as-user";

/// A user that is nobody's.
const ORDINARY: u32 = 12345;

/// Starts this program again as an ordinary user, with copies of all programs that this user can execute.
pub fn run_again(ground: &Ground) {
    let programs = ground.directory("programs");
    let own = programs.join("posix");
    fs::copy("/proc/self/exe", &own).unwrap();
    for name in ["pjdfstest", "fsx"] {
        fs::copy(programs::find(name), programs.join(name)).unwrap();
    }
    for path in [&own, &programs.join("pjdfstest"), &programs.join("fsx")] {
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }
    let directory = ground.directory("user");
    chown(&directory, Some(ORDINARY), Some(ORDINARY)).unwrap();
    // The device is closed to others on some machines. In a mount namespace of its own the user gets one that is open,
    // without a change to the machine.
    let script = r#"
        set -e
        mount -t tmpfs none "$1"
        mknod "$1/fuse" c 10 229; chmod 666 "$1/fuse"; mount --bind "$1/fuse" /dev/fuse
        exec setpriv --reuid="$2" --regid="$2" --clear-groups --no-new-privs -- "${@:3}"
    "#;
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "bash", "-c", script, "bash"])
        .arg(ground.directory("device"))
        .arg(ORDINARY.to_string())
        .args([own.as_os_str(), AS_USER.as_ref(), directory.as_os_str()])
        .env(programs::DIRECTORY, &programs)
        .env("TMPDIR", &directory)
        .current_dir("/")
        .status()
        .expect("start unshare (Debian package util-linux)");
    assert!(status.success(), "as an ordinary user: {status}");
}

/// What the program does when it is started again.
pub fn run(directory: &Path) {
    enter_user_namespace().expect("an ordinary user can make user namespaces here");
    let setup = Setup { passthrough: false, suid: SetId::Allow, ..Setup::default() };
    let other = Ground::tmpfs();
    let tmpfs = Ground::tmpfs();
    for (below, exceptions) in [(directory, LINK_MAX), (tmpfs.path(), &[])] {
        let fixture = fixture(below, setup.clone());
        fs::create_dir(below.join("plain")).unwrap();
        let plain = pjdfstest::run(&below.join("plain"), other.path());
        let inside = pjdfstest::run(&fixture.rw(""), other.path());
        pjdfstest::compare(&plain, &inside, exceptions, Run::AsUser);
    }
    let fixture = fixture(directory, setup);
    fsx::exercise(&fixture, crate::time(30));
}
