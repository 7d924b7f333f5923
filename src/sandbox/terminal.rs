//! The run's own terminal: a pseudoterminal of which the command has one side, in the place of the caller's terminal, and the
//! client the other.
//!
//! It becomes the controlling terminal of the command's session, which is what job control takes (credentials(7)). The
//! caller's own terminal never comes here: no key can be pushed into it, and its modes cannot be changed.

use super::plan::SandboxPlan;
use super::protocol::{SetupFailure, errno_text};
use crate::sys::mount::{self, MountAttr, OpenTree};
use crate::sys::terminal::make_controlling;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, open};
use nix::sys::stat::{FileStat, Mode, fstat, minor};
use nix::sys::termios::tcgetsid;
use nix::unistd::{Gid, Uid, fchown, getpid, isatty};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

const STEP: &str = "terminal";

/// Where it has a name inside: ttyname(3) looks through `/dev` for it. The sandbox's own `/dev/pts` cannot have it, since it was
/// made in another.
pub const NAME: &str = "/dev/console";

/// Copies of the standard descriptors that are terminals.
fn standard() -> io::Result<Vec<OwnedFd>> {
    let (input, output, error) = (io::stdin(), io::stdout(), io::stderr());
    [input.as_fd(), output.as_fd(), error.as_fd()]
        .into_iter()
        .filter(|descriptor| isatty(descriptor).unwrap_or(false))
        .map(|descriptor| descriptor.try_clone_to_owned())
        .collect()
}

/// The one terminal of a plan that has one. Refused where the standard descriptors are several terminals: only one of them could
/// be the session's.
fn own() -> Result<OwnedFd, String> {
    let said = |error: io::Error| format!("look at the standard streams: {}", errno_text(&error));
    let mut found = standard().map_err(said)?.into_iter();
    let Some(first) = found.next() else {
        return Err("none of the standard streams is a terminal".to_owned());
    };
    let which = |terminal: &OwnedFd| fstat(terminal).map_err(|errno| said(errno.into()));
    let one = which(&first)?;
    for other in found {
        if !is_same(&one, &which(&other)?) {
            return Err("the standard streams are more than one terminal".to_owned());
        }
    }
    Ok(first)
}

fn is_same(one: &FileStat, other: &FileStat) -> bool {
    (one.st_dev, one.st_ino, one.st_rdev) == (other.st_dev, other.st_ino, other.st_rdev)
}

/// A copy of its entry in the host's `/dev/pts`, to attach at [`NAME`]. `None` where the entry there is another terminal: the client is
/// in another container than the daemon, and the terminal has no name inside.
///
/// The root must still be the host's.
pub fn gather(terminal: Option<&OwnedFd>) -> Result<Option<OwnedFd>, SetupFailure> {
    let Some(terminal) = terminal else { return Ok(None) };
    let named = || {
        let stat = fstat(terminal)?;
        // devpts(4): the number of a terminal is the minor number of its device.
        let path = format!("/dev/pts/{}", minor(stat.st_rdev));
        let tree = match mount::open_tree(AT_FDCWD, path.as_str(), OpenTree::CLONE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            tree => tree?,
        };
        if !is_same(&stat, &fstat(&tree)?) {
            return Ok(None);
        }
        // As for the other devices.
        let attributes = MountAttr::READ_ONLY | MountAttr::NO_SUID | MountAttr::NO_EXEC;
        mount::mount_setattr(&tree, "", false, attributes, true)?;
        Ok(Some(tree))
    };
    named().map_err(|error: io::Error| SetupFailure::because(STEP, "find its name", &error))
}

/// Makes it the user's, where the run's user is another than the client's: what it is opened by again, such as `/dev/stdin`, asks
/// for its owner and mode.
pub fn lend(plan: &SandboxPlan, uid: Uid, gid: Gid) -> io::Result<()> {
    if plan.terminal && plan.lend_streams {
        for terminal in standard()? {
            fchown(terminal, Some(uid), Some(gid))?;
        }
    }
    Ok(())
}

/// Makes it the controlling terminal of this process, which must lead a session.
pub fn take() -> Result<(), SetupFailure> {
    let terminal = own().map_err(|why| SetupFailure::setup(STEP, why))?;
    make_controlling(&terminal)
        .map_err(|e| SetupFailure::because(STEP, "make it the controlling terminal", &e))
}

/// The session's terminal is the run's own; without one there is none.
pub fn prove(wanted: bool) -> Result<(), String> {
    if wanted {
        return match tcgetsid(own()?) {
            Ok(session) if session == getpid() => Ok(()),
            Ok(session) => Err(format!("the terminal is that of session {session}")),
            Err(errno) => Err(format!("the terminal is no session's: {errno:?}")),
        };
    }
    match open("/dev/tty", OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC, Mode::empty()) {
        Err(Errno::ENXIO) => Ok(()),
        Err(errno) => Err(format!("opening /dev/tty was {errno:?}, not ENXIO")),
        Ok(_) => Err("the session has a terminal".to_owned()),
    }
}
