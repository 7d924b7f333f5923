//! Unix socket addresses without the 108-byte limit.
//!
//! `sun_path` holds 108 bytes (unix(7)), fewer than many a temporary directory has. A longer path is reached through a
//! descriptor of its directory: `/proc/self/fd/N/name` is short and means the same file.

use nix::fcntl::{OFlag, open};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, connect, listen, socket,
};
use nix::sys::stat::Mode;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use tokio::io::unix::AsyncFd;

/// Longest path that fits with its final zero byte.
const SUN_PATH_MAX: usize = 107;

/// A name of a socket that fits into an address, for as long as this value lives.
#[derive(Debug)]
pub struct Address {
    path: PathBuf,
    _directory: Option<OwnedFd>,
}

impl Address {
    pub fn of(path: &Path) -> io::Result<Address> {
        if path.as_os_str().as_bytes().len() <= SUN_PATH_MAX {
            return Ok(Address { path: path.to_owned(), _directory: None });
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = open(parent, flags, Mode::empty())?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
        Ok(Address { path, _directory: Some(directory) })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A listening SOCK_SEQPACKET socket at `path`, close-on-exec and non-blocking.
pub fn listen_seqpacket(path: &Path) -> io::Result<OwnedFd> {
    let address = Address::of(path)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    bind(listener.as_raw_fd(), &UnixAddr::new(address.path())?)?;
    // Chosen, not measured: clients come one by one and are accepted at once.
    listen(&listener, Backlog::new(128)?)?;
    Ok(listener)
}

/// The next connection that waits at `listener`, close-on-exec and non-blocking.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let connection = accept4(listener.as_raw_fd(), flags)?;
    // SAFETY: accept4(2) has just made this descriptor for us and nothing else in the process knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(connection) })
}

/// A non-blocking socket that tokio watches. It lends its descriptor and never exchanges it.
#[derive(Debug)]
pub struct Watched(AsyncFd<OwnedFd>);

impl Watched {
    pub fn new(socket: OwnedFd) -> io::Result<Watched> {
        // SAFETY: the descriptor must stay the same open one until tokio forgets it. `OwnedFd` closes it only when it is
        // dropped, `AsyncFd` deregisters before it drops what it owns, and this type never lends it mutably.
        let watched = unsafe { AsyncFd::register(socket) }?;
        Ok(Watched(watched))
    }

    /// Calls `read` each time there is something to read, until it does not say that it would block.
    pub async fn when_readable<T>(
        &self,
        mut read: impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(outcome) = ready.try_io(|socket| read(socket.as_fd())) {
                return outcome;
            }
        }
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A blocking SOCK_SEQPACKET connection to `path`, close-on-exec.
pub fn connect_seqpacket(path: &Path) -> io::Result<OwnedFd> {
    let address = Address::of(path)?;
    let connection =
        socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    connect(connection.as_raw_fd(), &UnixAddr::new(address.path())?)?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_longer_than_an_address_is_bound_and_reached() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let deep = directory.path().join("x".repeat(120));
        std::fs::create_dir(&deep).expect("create");
        let path = deep.join("s.sock");
        let _listener = listen_seqpacket(&path).expect("listens");
        assert!(path.exists());
        connect_seqpacket(&path).expect("connects");
    }
}
