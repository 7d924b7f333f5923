//! Workspaces and the runs in them.

use crate::artifact::{self, Artifacts};
use crate::model::access::Access;
use crate::model::id::{MountName, RunId, SecretName, VariableName, WorkspaceId};
use crate::secret::value::SecretValue;
use crate::wire;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

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
}

#[derive(Debug)]
pub struct Definition {
    pub id: Option<WorkspaceId>,
    pub mounts: Vec<MountDefinition>,
    pub secrets: BTreeMap<SecretName, (SecretValue, bool)>,
    pub env: BTreeMap<VariableName, String>,
}

#[derive(Debug)]
pub struct RunDefinition {
    pub workspace: Definition,
    pub keep: bool,
    pub command: Vec<OsString>,
    pub workdir: Option<PathBuf>,
    pub expose: Vec<(PathBuf, OwnedFd)>,
    pub secret_env: Vec<SecretName>,
    pub env: BTreeMap<VariableName, String>,
    pub graph_id: Option<String>,
    pub node_id: Option<String>,
    pub timeout: Option<Duration>,
    pub network: wire::run::Network,
    pub user: Option<wire::run::RunUser>,
    pub wait_children: bool,
    pub drain_timeout: Duration,
    pub term: Option<String>,
    pub stdio: [OwnedFd; 3],
    /// Layers that were asked for, are not in force, and were accepted so: they go into the receipt as they are.
    pub unenforced: Vec<wire::run::Layer>,
}

#[derive(Debug, Clone)]
pub struct Settings {
    /// The instance's own: mounts are made below `<runtime_dir>/workspaces`.
    pub runtime_dir: PathBuf,
    pub workspaces_per_user_max: usize,
    pub runs_per_user_max: usize,
    pub tmp_size_bytes: u64,
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

#[derive(Clone)]
pub struct Workspaces {
    artifacts: Artifacts,
    _door: Arc<dyn RunDoor>,
}

fn not_found(id: &WorkspaceId) -> Error {
    Error::NotFound { what: "workspace", id: id.to_string() }
}

impl Workspaces {
    pub fn new(
        _settings: Settings,
        artifacts: Artifacts,
        door: Arc<dyn RunDoor>,
    ) -> Result<Workspaces, Error> {
        Ok(Workspaces { artifacts, _door: door })
    }
    /// Removes what dead instances left mounted; answers how many mounts.
    pub fn recover(&self, _dead: &artifact::Recovered) -> usize {
        0
    }
    pub fn create(
        &self,
        _actor: &Actor,
        _d: Definition,
    ) -> Result<wire::workspace::Workspace, Error> {
        Err(Error::Unavailable { message: "stub".to_owned() })
    }
    pub fn list(&self, _actor: &Actor) -> Vec<wire::workspace::Workspace> {
        Vec::new()
    }
    pub fn show(
        &self,
        _actor: &Actor,
        id: &WorkspaceId,
    ) -> Result<wire::workspace::Workspace, Error> {
        Err(not_found(id))
    }
    pub fn remove(&self, _actor: &Actor, id: &WorkspaceId) -> Result<(), Error> {
        Err(not_found(id))
    }
    pub fn set_secret(
        &self,
        _actor: &Actor,
        id: &WorkspaceId,
        _name: SecretName,
        _value: SecretValue,
        _sensitive: bool,
    ) -> Result<(), Error> {
        Err(not_found(id))
    }
    pub fn secrets(
        &self,
        _actor: &Actor,
        id: &WorkspaceId,
    ) -> Result<Vec<wire::workspace::Secret>, Error> {
        Err(not_found(id))
    }
    pub fn secret_value(
        &self,
        _actor: &Actor,
        id: &WorkspaceId,
        _name: &SecretName,
    ) -> Result<SecretValue, Error> {
        Err(not_found(id))
    }
    pub fn remove_secret(
        &self,
        _actor: &Actor,
        id: &WorkspaceId,
        _name: &SecretName,
    ) -> Result<(), Error> {
        Err(not_found(id))
    }
    pub fn set_env(
        &self,
        _actor: &Actor,
        id: &WorkspaceId,
        _name: VariableName,
        _value: String,
    ) -> Result<(), Error> {
        Err(not_found(id))
    }
    pub fn env(
        &self,
        _actor: &Actor,
        id: &WorkspaceId,
    ) -> Result<BTreeMap<VariableName, String>, Error> {
        Err(not_found(id))
    }
    pub fn remove_env(
        &self,
        _actor: &Actor,
        id: &WorkspaceId,
        _name: &VariableName,
    ) -> Result<(), Error> {
        Err(not_found(id))
    }
    pub fn start_run(
        &self,
        _actor: &Actor,
        _run: RunDefinition,
    ) -> Result<wire::run::RunStarted, Error> {
        Err(Error::Unavailable { message: "stub".to_owned() })
    }
    pub fn receipt(&self, _actor: &Actor, run: RunId) -> Result<wire::run::Receipt, Error> {
        Err(Error::NotFound { what: "run", id: run.to_string() })
    }
    pub fn signal(&self, _actor: &Actor, run: RunId, _signal: i32) -> Result<(), Error> {
        Err(Error::NotFound { what: "run", id: run.to_string() })
    }
    pub fn cancel(&self, _run: RunId) {}
    pub fn artifacts(&self) -> &Artifacts {
        &self.artifacts
    }
    /// Workspaces, and runs in progress.
    pub fn counts(&self) -> (usize, usize) {
        (0, 0)
    }
    /// Whether the kernel carries file data itself, past the daemon, where a mount allows it.
    pub fn passthrough(&self) -> bool {
        false
    }
    pub fn shutdown(&self, _deadline: Instant) {}
}

impl std::fmt::Debug for Workspaces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Workspaces")
    }
}
