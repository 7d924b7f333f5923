//! Binds the API socket and its companion, and takes them away again.
//!
//! A socket file is bound under another name, given its owner and mode, and then renamed into place: nobody ever meets
//! it with a wrong mode, and a stale file of a dead daemon is replaced in one step. A lock file keeps two daemons from
//! doing this to each other.

use crate::sys::unix_socket::{self, Address};
use crate::wire::daemon::COMPANION_SUFFIX;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Gid, Group, chown, geteuid};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A daemon that was killed holds its lock until its last thread has left the kernel. Chosen: a thread that reads a
/// slow disk takes a second or two.
const DYING_MAX: Duration = Duration::from_secs(5);

/// The group whose members may use root's daemon.
const GROUP: &str = "belljar";

/// Why nobody can be served at a socket.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("another daemon has {}: stop it, or give this one another `socket`", path.display())]
    Busy { path: PathBuf },
    #[error(
        "the socket {} belongs to uid {owner}: it is not ours to replace; remove it as that user, or choose another one with BELLJAR_SOCKET",
        path.display()
    )]
    Foreign { path: PathBuf, owner: u32 },
    #[error("{} exists and is no socket: move it away, or choose another path with BELLJAR_SOCKET", path.display())]
    NotASocket { path: PathBuf },
    #[error("{doing} {}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Who may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// The daemon's own user.
    Owner,
    /// The group `belljar` too, when there is one.
    Group,
    /// Everyone who can reach the file: it lies in a directory that only one sandbox sees.
    Everyone,
}

/// Both sockets, bound.
#[derive(Debug)]
pub struct Bound {
    pub api: UnixListener,
    pub companion: OwnedFd,
    pub files: SocketFiles,
}

/// The socket files; dropping this removes them and lets another daemon bind.
#[derive(Debug)]
pub struct SocketFiles {
    paths: Vec<PathBuf>,
    _lock: Option<Flock<File>>,
}

impl Drop for SocketFiles {
    fn drop(&mut self) {
        for path in &self.paths {
            // Whoever removed it before us did what we wanted.
            let _ = fs::remove_file(path);
        }
    }
}

/// Binds `socket` and its companion for a daemon.
pub fn bind(socket: &Path, audience: Audience) -> Result<Bound, ListenError> {
    let lock = lock(socket)?;
    refuse_if_in_use(socket)?;
    let companion_path = with_suffix(socket, COMPANION_SUFFIX);
    // The companion first: whoever sees the API socket can use both.
    let companion = into_place(&companion_path, audience, unix_socket::listen_seqpacket)?;
    let mut files = SocketFiles { paths: vec![companion_path], _lock: Some(lock) };
    let api = into_place(socket, audience, listen_stream)?;
    files.paths.push(socket.to_owned());
    Ok(Bound { api, companion, files })
}

/// Binds one socket without companion, for one run.
pub fn bind_alone(
    socket: &Path,
    audience: Audience,
) -> Result<(UnixListener, SocketFiles), ListenError> {
    let listener = into_place(socket, audience, listen_stream)?;
    Ok((listener, SocketFiles { paths: vec![socket.to_owned()], _lock: None }))
}

fn listen_stream(path: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(Address::of(path)?.path())?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn lock(socket: &Path) -> Result<Flock<File>, ListenError> {
    let path = with_suffix(socket, ".lock");
    let failed = |source| ListenError::Io { doing: "open lock file", path: path.clone(), source };
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
        .open(&path)
        .map_err(failed)?;
    let deadline = Instant::now() + DYING_MAX;
    let mut file = file;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((again, Errno::EWOULDBLOCK)) if Instant::now() < deadline => {
                // A live daemon answers, and then there is nothing to wait for.
                refuse_if_in_use(socket)?;
                file = again;
                std::thread::sleep(Duration::from_millis(20));
            }
            Err((_, Errno::EWOULDBLOCK)) => {
                return Err(ListenError::Busy { path: socket.to_owned() });
            }
            Err((_, errno)) => {
                return Err(ListenError::Io { doing: "lock", path, source: errno.into() });
            }
        }
    }
}

/// A stale socket is ours and nobody answers at it; everything else stays.
fn refuse_if_in_use(socket: &Path) -> Result<(), ListenError> {
    let path = || socket.to_owned();
    let found = match fs::symlink_metadata(socket) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(ListenError::Io { doing: "look at", path: path(), source }),
    };
    if !found.file_type().is_socket() {
        return Err(ListenError::NotASocket { path: path() });
    }
    if found.uid() != geteuid().as_raw() {
        return Err(ListenError::Foreign { path: path(), owner: found.uid() });
    }
    let answered = Address::of(socket).and_then(|address| UnixStream::connect(address.path()));
    match answered {
        Ok(_) => Err(ListenError::Busy { path: path() }),
        Err(_) => Ok(()),
    }
}

fn into_place<T>(
    path: &Path,
    audience: Audience,
    bind: impl FnOnce(&Path) -> io::Result<T>,
) -> Result<T, ListenError> {
    let failed = |doing| {
        let path = path.to_owned();
        move |source| ListenError::Io { doing, path, source }
    };
    let fresh = with_suffix(path, ".new");
    match fs::remove_file(&fresh) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("remove what is left of")(error)),
    }
    let listener = bind(&fresh).map_err(failed("bind socket"))?;
    let finished = (|| {
        let mode = match audience {
            Audience::Owner => 0o600,
            Audience::Group => {
                if let Some(group) = group() {
                    chown(&fresh, None, Some(group)).map_err(io::Error::from)?;
                }
                0o660
            }
            Audience::Everyone => 0o666,
        };
        fs::set_permissions(&fresh, Permissions::from_mode(mode))?;
        fs::rename(&fresh, path)
    })();
    if let Err(error) = finished {
        let _ = fs::remove_file(&fresh);
        return Err(failed("put in place socket")(error));
    }
    Ok(listener)
}

fn group() -> Option<Gid> {
    Group::from_name(GROUP).ok().flatten().map(|group| group.gid)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("temporary directory");
        let socket = directory.path().join("b.sock");
        (directory, socket)
    }

    #[test]
    fn sockets_have_their_mode_and_are_gone_after_the_daemon() {
        let (directory, socket) = directory();
        let bound = bind(&socket, Audience::Owner).expect("binds");
        for path in [socket.clone(), with_suffix(&socket, ".fds")] {
            let mode = fs::metadata(&path).expect("exists").mode();
            assert_eq!(mode & 0o777, 0o600, "{}", path.display());
        }
        UnixStream::connect(&socket).expect("answers under its final name");
        drop(bound);
        let left: Vec<_> = fs::read_dir(directory.path()).expect("list").flatten().collect();
        assert!(left.iter().all(|entry| entry.file_name() == "b.sock.lock"), "{left:?}");
    }

    #[test]
    fn a_second_daemon_is_told_of_the_first() {
        let (_directory, socket) = directory();
        let _first = bind(&socket, Audience::Owner).expect("binds");
        let error = bind(&socket, Audience::Owner).expect_err("busy").to_string();
        assert!(error.contains("another daemon") && error.contains("b.sock"), "{error}");
        // Also when the lock of the first is on another file system, or was removed.
        fs::remove_file(with_suffix(&socket, ".lock")).expect("remove");
        assert!(matches!(bind(&socket, Audience::Owner), Err(ListenError::Busy { .. })));
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let (_directory, socket) = directory();
        drop(UnixListener::bind(&socket).expect("bind"));
        assert!(socket.exists());
        let _bound = bind(&socket, Audience::Owner).expect("replaces it");
        UnixStream::connect(&socket).expect("answers");
    }

    #[test]
    fn what_is_no_socket_or_not_ours_stays() {
        let (_directory, socket) = directory();
        fs::write(&socket, "precious").expect("write");
        assert!(matches!(bind(&socket, Audience::Owner), Err(ListenError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(&socket).expect("still there"), "precious");
        fs::remove_file(&socket).expect("remove");
        drop(UnixListener::bind(&socket).expect("bind"));
        // Only root can give a file away.
        if geteuid().is_root() {
            std::os::unix::fs::chown(&socket, Some(12345), None).expect("chown");
            let error = bind(&socket, Audience::Owner).expect_err("foreign").to_string();
            assert!(error.contains("uid 12345") && error.contains("BELLJAR_SOCKET"), "{error}");
        }
    }

    #[test]
    fn a_long_path_does_not_break_the_socket() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let deep = directory.path().join("d".repeat(150));
        fs::create_dir(&deep).expect("create");
        let socket = deep.join("b.sock");
        let _bound = bind(&socket, Audience::Owner).expect("binds");
        crate::client::Client::at(&socket).probe().expect("answers");
    }
}
