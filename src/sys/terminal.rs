//! Pseudoterminals (pty(7)) and the controls of terminals that take an ioctl (ioctl_tty(2)).

pub use nix::pty::Winsize as WindowSize;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Both sides of a fresh pseudoterminal. Close-on-exec; the controlling terminal of nobody.
#[derive(Debug)]
pub struct Pair {
    pub master: OwnedFd,
    pub slave: OwnedFd,
}

/// Makes a pseudoterminal in this mount namespace's `/dev/pts`. No name is looked up for the slave side: it is opened through
/// the master (TIOCGPTPEER), so that it is certainly its other end.
pub fn open_pair() -> io::Result<Pair> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = open("/dev/ptmx", flags, Mode::empty())?;
    let unlocked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int, which outlives the call; the descriptor is owned here.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) })?;
    // SAFETY: TIOCGPTPEER takes flags of open(2) as a number; the descriptor is owned here.
    let slave = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags.bits()) };
    check(slave)?;
    // SAFETY: the call succeeded, so that its result is a fresh descriptor which nobody else owns.
    let slave = unsafe { OwnedFd::from_raw_fd(slave as RawFd) };
    Ok(Pair { master, slave })
}

/// TIOCGWINSZ.
pub fn window_size(terminal: impl AsFd) -> io::Result<WindowSize> {
    let mut size = WindowSize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    let number = terminal.as_fd().as_raw_fd();
    // SAFETY: TIOCGWINSZ writes one `winsize`, which outlives the call; the descriptor is borrowed for it.
    check(unsafe { libc::ioctl(number, libc::TIOCGWINSZ, &raw mut size) })?;
    Ok(size)
}

/// TIOCSWINSZ; the kernel tells the terminal's foreground process group when it is another size.
pub fn set_window_size(terminal: impl AsFd, size: &WindowSize) -> io::Result<()> {
    let number = terminal.as_fd().as_raw_fd();
    // SAFETY: TIOCSWINSZ reads one `winsize`, which outlives the call; the descriptor is borrowed for it.
    check(unsafe { libc::ioctl(number, libc::TIOCSWINSZ, std::ptr::from_ref(size)) })
}

/// TIOCSCTTY: makes it the controlling terminal of the caller's session, whose leader the caller must be. EPERM where it is another
/// session's.
pub fn make_controlling(terminal: impl AsFd) -> io::Result<()> {
    // SAFETY: the request takes a number, and 0 means not to take it from another session; the descriptor is borrowed.
    check(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSCTTY, 0) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::{isatty, read, write};

    #[test]
    fn what_is_written_on_one_side_is_read_on_the_other() {
        let pair = open_pair().expect("a pseudoterminal");
        assert_eq!((isatty(&pair.master), isatty(&pair.slave)), (Ok(true), Ok(true)));
        write(&pair.slave, b"out\n").expect("write");
        let mut buffer = [0; 16];
        let length = read(&pair.master, &mut buffer).expect("read");
        assert_eq!(&buffer[..length], b"out\r\n");
        write(&pair.master, b"in\n").expect("write");
        let length = read(&pair.slave, &mut buffer).expect("read");
        assert_eq!(&buffer[..length], b"in\n");
    }

    #[test]
    fn both_sides_have_one_size() {
        let pair = open_pair().expect("a pseudoterminal");
        let size = WindowSize { ws_row: 33, ws_col: 44, ws_xpixel: 0, ws_ypixel: 0 };
        set_window_size(&pair.master, &size).expect("set");
        let found = window_size(&pair.slave).expect("get");
        assert_eq!((found.ws_row, found.ws_col), (33, 44));
        assert!(window_size(std::fs::File::open("/dev/null").expect("open")).is_err());
    }

    #[test]
    fn the_terminal_of_a_process_that_leads_no_session_stays_nobodys() {
        let pair = open_pair().expect("a pseudoterminal");
        let refused = make_controlling(&pair.slave).expect_err("a test leads no session");
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    }
}
