//! Changes of artifacts: registering, updating, and the events that tell of them.

use super::run::Argument;
use super::workspace::DescriptorToken;
use crate::model::artifact::{ArtifactState, ArtifactType};
use crate::model::id::{ArtifactId, WorkspaceId};
use crate::model::names::{Alias, Label, Tag};
use jiff::Timestamp;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

/// Most files in one [`RegisterRequest`]: as many as descriptors fit into one message.
pub const REGISTER_ITEMS_MAX: usize = super::daemon::DESCRIPTORS_MAX;

/// A JSON object.
pub type Object = serde_json::Map<String, serde_json::Value>;

/// Says what is wrong by name: serde alone would say where in the text.
fn metadata<'de, D: Deserializer<'de>>(source: D) -> Result<Option<Object>, D::Error> {
    match serde_json::Value::deserialize(source)? {
        serde_json::Value::Object(object) => Ok(Some(object)),
        serde_json::Value::Null => Ok(None),
        _ => Err(D::Error::custom("metadata is not a JSON object: send {\"name\": value, …}")),
    }
}

/// Body of `POST /v1/artifacts`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterRequest {
    /// At most 128.
    pub items: Vec<RegisterItem>,
    /// Names the descriptors sent over the companion socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub descriptors: Option<DescriptorToken>,
    /// How long to wait for files that were closed before to be registered; 30,000 when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// One file to be registered.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterItem {
    /// As seen in `workspace` (`/workspace/output/x`), or on the host; never opened by the daemon.
    pub path: Argument,
    /// Position, counted from 0, of the file's descriptor among those of the token, open for reading.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub descriptor: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<WorkspaceId>,
    /// A name for the artifact: an alias of its identity.
    #[serde(default, alias = "alias", skip_serializing_if = "Option::is_none")]
    pub artifact_id: Option<Alias>,
    /// Whether `artifact_id` may be taken from another artifact.
    #[serde(default)]
    pub move_alias: bool,
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<ArtifactType>,
    /// READY when missing; CREATING holds the version until somebody says READY.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<ArtifactState>,
    /// A label for the version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Label>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<Label>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Tag>,
    /// Merged into what is known already (RFC 7396).
    #[serde(default, deserialize_with = "metadata", skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Object>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mime: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graph_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_version: Option<u64>,
}

impl RegisterItem {
    /// A path and nothing else.
    pub fn of(path: Argument) -> Self {
        Self {
            path,
            descriptor: None,
            workspace: None,
            artifact_id: None,
            move_alias: false,
            artifact_type: None,
            state: None,
            version: None,
            labels: Vec::new(),
            tags: Vec::new(),
            metadata: None,
            mime: None,
            graph_id: None,
            node_id: None,
            parent_version: None,
        }
    }
}

/// What became of one item: each is done or refused by itself, in the order of the request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Registered {
    Artifact(Box<super::artifact::Artifact>),
    Error(super::problem::Problem),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RegisterOutcome {
    pub results: Vec<Registered>,
}

/// Names to add and to remove.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NameChange<T> {
    pub add: Vec<T>,
    pub remove: Vec<T>,
}

impl<T> Default for NameChange<T> {
    fn default() -> Self {
        Self { add: Vec::new(), remove: Vec::new() }
    }
}

/// Body of `PATCH /v1/artifacts/{reference}`. What is missing stays as it is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpdateRequest {
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<ArtifactType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mime: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub graph_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
    /// A merge patch (RFC 7396).
    #[serde(deserialize_with = "metadata", skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Object>,
    pub aliases: NameChange<Alias>,
    /// Whether added aliases may be taken from other artifacts.
    pub move_aliases: bool,
    /// Added ones point to this version from here on.
    pub labels: NameChange<Label>,
    pub tags: NameChange<Tag>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<ArtifactState>,
    /// Names one descriptor: the file whose content a held version gets with `state: READY`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub descriptors: Option<DescriptorToken>,
}

/// Query of `GET /v1/artifacts/{reference}/versions`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VersionsQuery {
    /// At most 1,000; 100 when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Where the page before ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<u64>,
}

/// Something that happened to an artifact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Grows from event to event; gaps mean nothing.
    pub seq: i64,
    pub at: Timestamp,
    pub artifact: ArtifactId,
    /// `None`: the artifact as a whole.
    pub version: Option<u64>,
    pub kind: String,
    /// `uid:N`, `run:UUID`, or `belljar` for the daemon by itself.
    pub actor: String,
    pub detail: Object,
}

/// Query of `GET /v1/events` and `GET /v1/artifacts/{reference}/events`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EventQuery {
    /// Only those behind this number; all when missing, and with `follow` those to come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<i64>,
    /// At most 1,000; 100 when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Server-sent events, as with `Accept: text/event-stream`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub follow: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EventPage {
    pub events: Vec<Event>,
    /// `after` of the next page, also when that is still empty.
    pub next: i64,
}
