//! A FUSE mount and the threads that serve it.
//!
//! The mount and FUSE_INIT are made by our own code, so that a live connection can be handed to another server later.
//! fuser insists on a handshake of its own; it is given one over a socket pair, and then its descriptor is redirected
//! to the connection. A test pins this behaviour, and the manifest pins fuser's version.
//!
//! All threads of a session read one open file description of `/dev/fuse`: a request that one of them has read
//! survives the thread's process and can be sent again, which a cloned description would not allow.

use crate::sys::credentials;
use crate::sys::fuse_dev::{self, Audience, Connection, InitRequest, flags};
use crate::sys::mount::{self, MountAttr, OpenTree};
use fuser::{Config, Filesystem, Session as FuserSession, SessionACL};
use std::cell::Cell;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// What a session could not do.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("open /dev/fuse: {}", explain_device(source))]
    Device {
        #[source]
        source: io::Error,
    },
    #[error("mount a FUSE file system: {}", explain_mount(source))]
    Mount {
        #[source]
        source: io::Error,
    },
    #[error("{doing}")]
    Serve {
        doing: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("attach the file system at {}", at.display())]
    Attach {
        at: PathBuf,
        #[source]
        source: io::Error,
    },
}

fn explain_device(source: &io::Error) -> String {
    let hint = match source.kind() {
        io::ErrorKind::NotFound => {
            "the kernel module is not there; load it with `modprobe fuse`, or give the container the device (--device /dev/fuse)"
        }
        io::ErrorKind::PermissionDenied => {
            "this user may not open it; as root: chmod 0666 /dev/fuse"
        }
        _ => "",
    };
    if hint.is_empty() { source.to_string() } else { format!("{source}: {hint}") }
}

fn explain_mount(source: &io::Error) -> String {
    match source.raw_os_error().map(nix::errno::Errno::from_raw) {
        Some(nix::errno::Errno::EPERM) => format!(
            "{source}: mounting needs CAP_SYS_ADMIN, which a container gets with --cap-add SYS_ADMIN and an ordinary user in a user namespace"
        ),
        _ => source.to_string(),
    }
}

/// What the connection is used for; it decides what is asked of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A workspace's files. `stack_depth` 0 is without passthrough; 2 where a backing file system is itself stacked.
    Workspace { stack_depth: u32 },
    /// A `.belljar` directory.
    Control,
    /// Artifacts as files: contents that never change, read-only. The blob store may lie on a stacked file system.
    Views,
}

impl Purpose {
    fn init(self) -> InitRequest {
        let common = flags::ASYNC_READ | flags::BIG_WRITES | flags::PARALLEL_DIROPS;
        // Access control lists name users of the host, whom a user namespace does not know.
        let acl = if may_serve_everyone() { flags::POSIX_ACL } else { 0 };
        match self {
            // WRITEBACK_CACHE must stay off: the kernel has no passthrough with it. HANDLE_KILLPRIV_V2 spares a
            // GETXATTR(security.capability) at every write.
            Purpose::Workspace { stack_depth } => InitRequest {
                wanted: common
                    | flags::AUTO_INVAL_DATA
                    | flags::DO_READDIRPLUS
                    | flags::READDIRPLUS_AUTO
                    | flags::ASYNC_DIO
                    | flags::CACHE_SYMLINKS
                    | flags::HANDLE_KILLPRIV_V2
                    | flags::DIRECT_IO_ALLOW_MMAP
                    | flags::DONT_MASK
                    | acl
                    | flags::PASSTHROUGH,
                max_stack_depth: stack_depth,
            },
            Purpose::Control => InitRequest { wanted: common, max_stack_depth: 0 },
            // Without privilege the kernel registers no backing files, whatever was agreed on.
            Purpose::Views if may_serve_everyone() => {
                InitRequest { wanted: common | flags::PASSTHROUGH, max_stack_depth: 2 }
            }
            Purpose::Views => InitRequest { wanted: common, max_stack_depth: 0 },
        }
    }
}

/// A mounted file system that is not served yet: FUSE_INIT is answered, requests wait in the kernel.
#[derive(Debug)]
pub struct Mounted {
    device: OwnedFd,
    mount: OwnedFd,
    connection: Connection,
}

impl Mounted {
    /// Mounts, attached nowhere.
    pub fn new(purpose: Purpose) -> Result<Self, SessionError> {
        let device = fuse_dev::open().map_err(|source| SessionError::Device { source })?;
        // In a user namespace the only users are those of the namespace, and the owner's own processes outside it may
        // look in as well when nobody else is allowed (fs/fuse/dir.c, fuse_allow_current_process).
        let audience = if may_serve_everyone() { Audience::Everyone } else { Audience::Owner };
        let mount = fuse_dev::mount_detached(device.as_fd(), audience)
            .map_err(|source| SessionError::Mount { source })?;
        let connection = fuse_dev::initialize(device.as_fd(), purpose.init())
            .map_err(|source| SessionError::Serve { doing: "answer FUSE_INIT", source })?;
        Ok(Self { device, mount, connection })
    }

    pub fn passthrough(&self) -> bool {
        self.connection.passthrough()
    }

    /// Makes this mount and every clone of it read-only: the kernel refuses changes by itself.
    pub fn read_only(self) -> Result<Self, SessionError> {
        let attributes = MountAttr::READ_ONLY | MountAttr::NO_SUID | MountAttr::NO_DEV;
        mount::mount_setattr(&self.mount, "", false, attributes, false).map_err(|source| {
            SessionError::Serve { doing: "make a FUSE mount read-only", source }
        })?;
        Ok(self)
    }

    /// Starts `threads` threads that answer the kernel.
    pub fn serve(
        self,
        filesystem: impl Filesystem,
        threads: usize,
        name: &str,
    ) -> Result<Session, SessionError> {
        let failed = |doing| move |source| SessionError::Serve { doing, source };
        let minor = crate::sys::file::device_minor(self.mount.as_fd())
            .map_err(failed("ask for the mount's device number"))?;
        let session = adopt(filesystem, &self.device, self.connection, threads)
            .map_err(failed("hand the connection to the server"))?;
        let (serving, served) = std::sync::mpsc::sync_channel::<()>(0);
        std::thread::Builder::new()
            .name(format!("fuse-{name}"))
            .spawn(move || {
                let _serving = serving;
                if let Err(error) = session.run() {
                    tracing::error!(%error, "a FUSE session ended with an error");
                }
            })
            .map_err(failed("start the thread of the FUSE session"))?;
        Ok(Session { mount: self.mount, served, attached: None, minor })
    }
}

fn may_serve_everyone() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Makes a fuser session for a connection whose FUSE_INIT was answered already.
fn adopt<F: Filesystem>(
    filesystem: F,
    device: &OwnedFd,
    connection: Connection,
    threads: usize,
) -> io::Result<FuserSession<F>> {
    let (mut ours, theirs) = UnixStream::pair()?;
    ours.write_all(&fuse_dev::synthetic_init(connection))?;
    let mut config = Config::default();
    config.n_threads = Some(threads);
    config.acl = SessionACL::All;
    let session =
        FuserSession::from_fd(filesystem, OwnedFd::from(theirs), SessionACL::All, config)?;
    // fuser's answer to the handshake: read so that nothing is lost unseen, and otherwise of no use.
    let mut answer = [0; 256];
    let length = ours.read(&mut answer)?;
    if length < 16 || answer[4..8] != [0; 4] {
        return Err(io::Error::other("fuser refused the handshake"));
    }
    fuse_dev::redirect(device.as_fd(), session.as_fd())?;
    Ok(session)
}

/// How long the end of a session waits for its threads. One that acts on a host file system which does not answer cannot
/// be ended before that does; it goes by itself then. Chosen, not measured: threads that nothing holds are gone in
/// milliseconds.
const THREADS_END: Duration = Duration::from_secs(1);

/// A file system that is mounted and served. Dropping it without [`Session::end`] leaves the threads to the kernel,
/// which ends them with the mount.
#[derive(Debug)]
pub struct Session {
    mount: OwnedFd,
    /// Disconnected when the threads are gone.
    served: Receiver<()>,
    attached: Option<PathBuf>,
    minor: u64,
}

impl Session {
    /// Makes the file system visible at a directory of this mount namespace. The directory must not be its own mount.
    pub fn attach(&mut self, at: &Path) -> Result<(), SessionError> {
        mount::move_mount(self.mount.as_fd(), nix::fcntl::AT_FDCWD, at)
            .map_err(|source| SessionError::Attach { at: at.to_owned(), source })?;
        self.attached = Some(at.to_owned());
        Ok(())
    }

    /// The same in a directory of another session's file system, with which it goes: the way there could not be gone
    /// again when that one does not answer any more.
    pub fn attach_within(&self, at: &Path) -> Result<(), SessionError> {
        mount::move_mount(self.mount.as_fd(), nix::fcntl::AT_FDCWD, at)
            .map_err(|source| SessionError::Attach { at: at.to_owned(), source })
    }

    /// The mount itself, for the one sandbox that attaches it: kernels before 6.15 clone none that is attached nowhere
    /// (fs/namespace.c, `__do_loopback`; 6.1 answers EINVAL).
    pub fn hand_over_mount(&self) -> io::Result<OwnedFd> {
        self.mount.try_clone()
    }

    /// Another mount of the same file system for a sandbox, of one that is attached. No request is sent to the server for it.
    pub fn clone_mount(&self) -> io::Result<OwnedFd> {
        mount::open_tree(self.mount.as_fd(), c"", OpenTree::CLONE)
    }

    /// Ends the connection and leaves the mount: whoever uses it or waits for it gets ENOTCONN or ECONNABORTED.
    pub fn abort(&self) -> io::Result<()> {
        fuse_dev::abort(self.minor)
    }

    /// Unmounts and ends the connection. Whoever still has a file open gets ENOTCONN; nobody waits for an answer
    /// that will not come. Returns when the threads are gone, or after `THREADS_END`, or at once when the kernel must
    /// wait for others.
    pub fn end(mut self) {
        if let Some(at) = self.attached.take()
            && let Err(error) = mount::unmount_detach(at.as_path())
        {
            tracing::warn!(%error, at = %at.display(), "unmount a workspace");
        }
        let aborted = fuse_dev::abort(self.minor);
        let Session { mount, served, .. } = self;
        drop(mount);
        // Without the privilege to abort, the connection ends with its last user, who may be another process.
        if aborted.is_ok() && served.recv_timeout(THREADS_END) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!(
                "a thread that serves files waits for a host file system that does not answer; it ends when that does"
            );
        }
    }
}

thread_local! {
    static PREPARED: Cell<bool> = const { Cell::new(false) };
}

/// Makes the calling thread fit to act on host files; cheap after the first time. Called on threads that serve
/// requests, because fuser starts them itself.
///
/// Passthrough writes run with the credentials of the thread that registered the file: without CAP_FSETID the host's
/// file system takes set-id bits from a file that is written, without CAP_SYS_RESOURCE quotas and reserved blocks
/// hold, and device nodes cannot be made without CAP_MKNOD. CAP_FSETID stays at hand for callers who have it themselves.
pub(super) fn prepare_thread() {
    if PREPARED.replace(true) {
        return;
    }
    let prepared = credentials::own_umask_zero()
        .and_then(|()| credentials::suspend_capability(caps::Capability::CAP_FSETID))
        .and_then(|()| {
            credentials::drop_capabilities(&[
                caps::Capability::CAP_SYS_RESOURCE,
                caps::Capability::CAP_MKNOD,
            ])
        });
    if let Err(error) = prepared {
        // Serving on with too many powers would break promises silently; the process ends instead.
        tracing::error!(%error, "prepare a thread that serves files");
        std::process::abort();
    }
}
