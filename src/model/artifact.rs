//! What an artifact is: its type, its state and which state may follow which.

use crate::model::id::RunId;
use serde::{Deserialize, Serialize};
use std::fmt;

/// An artifact's type. The set is open: six types are known, a user may write any other word.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ArtifactType(String);

impl ArtifactType {
    pub const FILE: &str = "file";
    pub const IMAGE: &str = "image";
    pub const REPORT: &str = "report";
    pub const DATA: &str = "data";
    pub const MODEL: &str = "model";
    pub const LOG: &str = "log";

    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ArtifactType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Artifacts that belong together where they are shown as files: those of one type, or of one graph.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Shelf {
    Type(ArtifactType),
    Graph(String),
}

/// Where an artifact is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ArtifactState {
    /// Open for writing, or closed and its stable copy not yet taken.
    Creating,
    /// A stable copy was taken after the last close.
    Ready,
    /// Moved to the archive tier; can be restored.
    Archived,
    /// Marked for deletion.
    Deleted,
}

/// A text that names no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown state {given:?}: use CREATING, READY, ARCHIVED or DELETED")]
pub struct UnknownState {
    given: String,
}

impl ArtifactState {
    pub fn as_str(self) -> &'static str {
        match self {
            ArtifactState::Creating => "CREATING",
            ArtifactState::Ready => "READY",
            ArtifactState::Archived => "ARCHIVED",
            ArtifactState::Deleted => "DELETED",
        }
    }

    /// Whether an artifact in this state may go to `next`.
    pub fn may_become(self, next: ArtifactState) -> bool {
        use ArtifactState::{Archived, Creating, Deleted, Ready};
        match (self, next) {
            (Creating, Ready | Deleted) => true,
            (Ready, Archived | Deleted) => true,
            (Archived, Ready | Deleted) => true,
            // Within the undo window a deletion can be taken back; what was held comes back as it was.
            (Deleted, Ready | Creating) => true,
            (Creating, Creating | Archived)
            | (Ready, Creating | Ready)
            | (Archived, Creating | Archived)
            | (Deleted, Archived | Deleted) => false,
        }
    }
}

impl std::str::FromStr for ArtifactState {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        [Self::Creating, Self::Ready, Self::Archived, Self::Deleted]
            .into_iter()
            .find(|state| text.eq_ignore_ascii_case(state.as_str()))
            .ok_or_else(|| UnknownState { given: text.to_owned() })
    }
}

impl fmt::Display for ArtifactState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether a content was searched for the secrets of its workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecretScan {
    /// Searched for all of them that are looked for.
    Done,
    /// The workspace had none that is looked for.
    NothingToFind,
    /// The secrets were not known any more: they are in memory only, and the daemon that had them is gone.
    #[default]
    Unavailable,
}

/// A text that names no outcome of a search for secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown outcome {given:?} of a search for secrets")]
pub struct UnknownSecretScan {
    given: String,
}

impl SecretScan {
    pub fn as_str(self) -> &'static str {
        match self {
            SecretScan::Done => "done",
            SecretScan::NothingToFind => "nothing-to-find",
            SecretScan::Unavailable => "unavailable",
        }
    }
}

impl std::str::FromStr for SecretScan {
    type Err = UnknownSecretScan;

    fn from_str(text: &str) -> Result<Self, UnknownSecretScan> {
        [Self::Done, Self::NothingToFind, Self::Unavailable]
            .into_iter()
            .find(|outcome| text == outcome.as_str())
            .ok_or_else(|| UnknownSecretScan { given: text.to_owned() })
    }
}

/// How a version came to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The file system saw it being written.
    Observed,
    /// Somebody said so over the API.
    Declared,
}

/// Who changed something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Author {
    /// A user over the API.
    User(u32),
    /// A process of a run: written by it, or said over the run's own socket.
    Run(RunId),
    /// The daemon by itself.
    Belljar,
}

impl fmt::Display for Author {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Author::User(uid) => write!(f, "uid:{uid}"),
            Author::Run(run) => write!(f, "run:{run}"),
            Author::Belljar => f.write_str("belljar"),
        }
    }
}

/// A text that names no origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown origin {given:?}: it is observed or declared")]
pub struct UnknownOrigin {
    given: String,
}

impl Origin {
    pub fn as_str(self) -> &'static str {
        match self {
            Origin::Observed => "observed",
            Origin::Declared => "declared",
        }
    }
}

impl std::str::FromStr for Origin {
    type Err = UnknownOrigin;

    fn from_str(text: &str) -> Result<Self, UnknownOrigin> {
        [Self::Observed, Self::Declared]
            .into_iter()
            .find(|origin| text == origin.as_str())
            .ok_or_else(|| UnknownOrigin { given: text.to_owned() })
    }
}

/// When the directories of a workspace are looked through for changes that nobody noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScanPolicy {
    /// Only when somebody asks for it.
    Never,
    /// After the machine went down, or a journal was damaged.
    #[default]
    OnUnclean,
    /// Also whenever a workspace is made.
    Always,
}
