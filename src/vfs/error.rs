//! What can go wrong in the file system, and the errno that the caller sees for it.

use crate::policy::mount_table::ReadOnly;
use nix::errno::Errno;
use std::io;

/// Why an operation was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    ReadOnly(#[from] ReadOnly),
    /// The node or handle is not known: the kernel would only name it after a bug of ours.
    #[error("node or handle {0} is unknown")]
    Unknown(u64),
    #[error("no such entry")]
    NotFound,
    #[error("the name is not one that a directory can hold")]
    BadName,
    /// Between two mount points, or out of one.
    #[error("the two names are in different mount points")]
    CrossMount,
    /// The operation changes what Belljar itself provides: the workspace's root and `.belljar`.
    #[error("the workspace's own directories cannot be changed")]
    Provided,
    #[error("{0} is refused in a workspace")]
    Refused(&'static str),
    #[error("{0} is not supported")]
    NotSupported(&'static str),
    #[error("not a directory")]
    NotDirectory,
    #[error("no such attribute")]
    NoAttribute,
    /// The write could not be noted, so it must not happen.
    #[error("note the write in the journal")]
    Journal(#[source] io::Error),
    #[error("{doing}")]
    Os {
        doing: &'static str,
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Names what was being done when a system call failed.
    pub fn os(doing: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Os { doing, source }
    }

    /// The same for calls through nix.
    pub fn errno(doing: &'static str) -> impl FnOnce(Errno) -> Error {
        move |errno| Error::Os { doing, source: errno.into() }
    }

    /// The errno for the caller.
    pub fn to_errno(&self) -> Errno {
        match self {
            Error::ReadOnly(_) => Errno::EROFS,
            Error::Unknown(_) => Errno::ESTALE,
            Error::NotFound => Errno::ENOENT,
            Error::BadName => Errno::EINVAL,
            Error::CrossMount => Errno::EXDEV,
            Error::Provided => Errno::EROFS,
            Error::Refused(_) => Errno::EPERM,
            Error::NotSupported(_) => Errno::EOPNOTSUPP,
            Error::NotDirectory => Errno::ENOTDIR,
            Error::NoAttribute => Errno::ENODATA,
            Error::Journal(source) => match source.raw_os_error().map(Errno::from_raw) {
                // What the user can do something about is said as it is.
                Some(errno @ (Errno::ENOSPC | Errno::EDQUOT | Errno::EROFS)) => errno,
                _ => Errno::EIO,
            },
            Error::Os { source, .. } => source.raw_os_error().map_or(Errno::EIO, Errno::from_raw),
        }
    }
}
