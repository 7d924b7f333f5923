//! Written files that become artifacts by themselves.

use crate::model::id::{RunId, WorkspaceId};
use crate::wire;
use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use uuid::Uuid;

#[derive(Debug, Clone)]
pub struct Settings {
    pub state_dir: PathBuf,
    /// Recorded in instance.json, so that whoever takes over a dead instance finds its mounts.
    pub runtime_dir: PathBuf,
    pub instance: Uuid,
    pub debounce: Duration,
    pub debounce_max: Duration,
    pub content_size_max_bytes: u64,
}

impl Settings {
    pub fn new(state_dir: PathBuf, runtime_dir: PathBuf, instance: Uuid) -> Self {
        Self {
            state_dir,
            runtime_dir,
            instance,
            debounce: Duration::from_millis(150),
            debounce_max: Duration::from_secs(5),
            content_size_max_bytes: 1 << 30,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no artifact {reference}")]
    NotFound { reference: String },
    #[error("reference {given:?} is not allowed")]
    BadReference { given: String },
    #[error("artifact {reference} is {from} and cannot become {to}")]
    IllegalTransition { reference: String, from: String, to: String },
    #[error("the content of {reference} was not kept")]
    ContentNotKept { reference: String },
    #[error("{doing}")]
    Io {
        doing: String,
        #[source]
        source: std::io::Error,
    },
}

#[derive(Debug, Clone)]
pub struct InstanceRecord {
    pub uuid: Uuid,
    pub runtime_dir: PathBuf,
}

#[derive(Debug, Clone, Default)]
pub struct Recovered {
    pub instances: Vec<InstanceRecord>,
    pub files: usize,
}

#[derive(Debug, Clone)]
pub enum DrainScope {
    Run(RunId),
    Workspace(u32, WorkspaceId),
    Owner(u32),
    All,
}

#[derive(Debug, Clone, Default)]
pub struct Drained {
    pub complete: bool,
    /// Location as text, and the reason.
    pub incomplete: Vec<(String, String)>,
}

#[derive(Debug, Clone)]
pub struct Artifacts;

impl Artifacts {
    pub fn open(_settings: Settings) -> Result<Artifacts, Error> {
        Ok(Artifacts)
    }
    pub fn recover(&self) -> Result<Recovered, Error> {
        Ok(Recovered::default())
    }
    pub fn drain(&self, _scope: DrainScope, _deadline: Instant) -> Drained {
        Drained { complete: true, incomplete: Vec::new() }
    }
    pub fn list(
        &self,
        _owner: Option<u32>,
        _q: &wire::artifact::ArtifactQuery,
    ) -> Result<wire::artifact::ArtifactPage, Error> {
        Ok(wire::artifact::ArtifactPage { artifacts: Vec::new(), next: None })
    }
    pub fn get(
        &self,
        _owner: Option<u32>,
        reference: &str,
    ) -> Result<wire::artifact::Artifact, Error> {
        Err(Error::NotFound { reference: reference.to_owned() })
    }
    pub fn content(
        &self,
        _owner: Option<u32>,
        reference: &str,
    ) -> Result<(wire::artifact::Artifact, File), Error> {
        Err(Error::NotFound { reference: reference.to_owned() })
    }
    pub fn delete(
        &self,
        _owner: Option<u32>,
        reference: &str,
    ) -> Result<wire::artifact::Artifact, Error> {
        Err(Error::NotFound { reference: reference.to_owned() })
    }
    pub fn pending(&self) -> usize {
        0
    }
    pub fn shutdown(&self, _deadline: Instant) -> Drained {
        Drained { complete: true, incomplete: Vec::new() }
    }
}
