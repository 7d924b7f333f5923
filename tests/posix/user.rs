//! The same as an ordinary user, in a user namespace that knows one user and has no passthrough.

use crate::fsx;
use crate::ground::{Ground, fixture};
use crate::mounted::Setup;
use crate::ordinary::{self, ORDINARY};
use crate::pjdfstest::{self, LINK_MAX, Run};
use crate::programs;
use belljar::model::mount::SetId;
use belljar::sys::process::enter_user_namespace;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

/// The argument with which the program starts itself again.
pub const AS_USER: &str = "as-user";

/// Starts this program again as an ordinary user, with copies of all programs that this user can execute.
pub fn run_again(ground: &Ground) {
    let programs = ground.directory("programs");
    for name in ["pjdfstest", "fsx"] {
        fs::copy(programs::find(name), programs.join(name)).unwrap();
        fs::set_permissions(programs.join(name), Permissions::from_mode(0o755)).unwrap();
    }
    let directory = ground.directory("user");
    chown(&directory, Some(ORDINARY), Some(ORDINARY)).unwrap();
    let arguments = [AS_USER.as_ref(), directory.as_os_str()];
    ordinary::run_again(&programs, &ground.directory("device"), arguments, |command| {
        command.env(programs::DIRECTORY, &programs).env("TMPDIR", &directory);
    });
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
