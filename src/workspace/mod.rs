//! Workspaces and the runs in them: the only place that knows files, sandboxes and artifacts at once.
//!
//! What a workspace and a run are asked to be, and why they cannot. [`registry`] has the books, [`lifecycle`] makes and
//! ends one workspace, [`run`] does the same for a command in it.
//!
//! Every function here may block on the disk and none may be called from a thread that serves files or from an async
//! task.

pub mod attribution;
mod clone;
pub mod contents;
mod holders;
pub mod lifecycle;
mod outcome;
mod patience;
pub mod recovery;
pub mod registry;
pub mod run;
mod views;
mod wanted;

use crate::artifact::backend::Chosen;
use crate::artifact::{self, Artifacts};
use crate::model::access::Access;
use crate::model::id::{MountName, RunId, SecretName, VariableName, WorkspaceId};
use crate::model::mount::{CachePolicy, SetId};
use crate::sandbox::limits::Bounds;
use crate::sandbox::spare::Keep;
use crate::secret::SecretValue;
use crate::wire;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Who asks: peer credentials (unix(7), SO_PEERCRED). Uid 0 may see and do all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Actor {
    pub uid: u32,
    pub gid: u32,
    pub pid: i32,
}

/// What one run's own listener serves.
#[derive(Debug, Clone)]
pub struct RunScope {
    pub run: RunId,
    pub workspace: WorkspaceId,
    pub owner: Actor,
    /// Where the workspace's artifacts are kept.
    pub artifacts: Artifacts,
}

/// Opens a run's own listener inside a directory that only its sandbox sees; dropping the box closes it.
pub trait RunDoor: Send + Sync {
    fn open(&self, directory: &Path, scope: RunScope) -> io::Result<Box<dyn Send>>;
}

#[derive(Debug)]
pub struct MountDefinition {
    pub name: MountName,
    pub access: Access,
    pub directory: OwnedFd,
    pub host_path: PathBuf,
    pub artifacts: bool,
    pub cache: CachePolicy,
    pub suid: SetId,
}

#[derive(Debug)]
pub struct Definition {
    pub id: Option<WorkspaceId>,
    pub mounts: Vec<MountDefinition>,
    pub secrets: BTreeMap<SecretName, (SecretValue, bool)>,
    pub env: BTreeMap<VariableName, String>,
    /// Where its artifacts are kept. `None`: where those of the workspace are that is there, else the daemon's own place.
    pub backend: Option<Chosen>,
}

#[derive(Debug)]
pub struct RunDefinition {
    pub workspace: Definition,
    /// Keep a workspace that was made for this run and has no name.
    pub keep: bool,
    /// Host paths that appear inside, read-only.
    pub expose: Vec<(PathBuf, OwnedFd)>,
    /// The root file system instead of the host's, by the name that the client gives it.
    pub rootfs: Option<(PathBuf, OwnedFd)>,
    /// Standard input, output and error.
    pub stdio: [OwnedFd; 3],
    pub command: CommandDefinition,
}

/// What is executed, as whom, and for how long.
#[derive(Debug)]
pub struct CommandDefinition {
    pub argv: Vec<OsString>,
    pub workdir: Option<PathBuf>,
    pub secret_env: Vec<SecretName>,
    pub env: BTreeMap<VariableName, String>,
    pub graph_id: Option<String>,
    pub node_id: Option<String>,
    pub timeout: Option<Duration>,
    pub network: wire::run::Network,
    pub user: Option<wire::run::RunUser>,
    pub wait_children: bool,
    pub drain_timeout: Duration,
    /// Wait until the artifacts' contents are in the remote store, too.
    pub wait_upload: bool,
    /// The standard streams that are terminals are one of the run's own.
    pub terminal: bool,
    pub term: Option<String>,
    pub limits: Bounds,
    /// Layers of the sandbox that may be missing where this host does not have them.
    pub allow_unenforced: Vec<crate::sandbox::layer::LayerName>,
}

#[derive(Debug, Clone)]
pub struct Settings {
    /// The instance's own: mounts are made below `<runtime_dir>/workspaces`.
    pub runtime_dir: PathBuf,
    pub workspaces_per_user_max: usize,
    pub runs_per_user_max: usize,
    /// Room in each of a sandbox's `/tmp`, `/dev/shm` and HOME.
    pub tmp_size_bytes: u64,
    /// How many sandboxes are begun before a run wants them.
    pub spares: Keep,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no {what} {id}")]
    NotFound { what: &'static str, id: String },
    #[error("{message}")]
    Conflict { message: String },
    #[error("{message}")]
    Forbidden { message: String },
    #[error("{message}")]
    Invalid { message: String },
    #[error("{message}")]
    SetupFailed { message: String, exit_code: u8 },
    #[error("{message}")]
    Unavailable { message: String },
    #[error("{doing}")]
    Io {
        doing: String,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Artifact(#[from] artifact::Error),
}
