//! What happens to versions after they were captured: declared, named, amended, swept, told of.
//!
//! The second half of the catalog's contract. Every change is one transaction and writes its [`Event`]s in the same one.
//! What is refused is refused before anything of it was written.

use super::{CatalogError, Metadata, SecretSearch, VersionRow};
use crate::model::artifact::{ArtifactState, ArtifactType, Author};
use crate::model::digest::Digest;
use crate::model::id::{ArtifactId, MountName, RunId, WorkspaceId};
use crate::model::names::{Alias, Label, Tag};
use crate::model::path::VirtualPath;
use jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeSet;

/// Most metadata of one version, as JSON text. Every list of artifacts carries it.
pub const METADATA_BYTES_MAX: usize = 64 << 10;

/// Deepest nesting of metadata. A reader that recurses must not be led into its stack's end.
pub const METADATA_DEPTH_MAX: usize = 32;

/// Most aliases of an artifact, labels of an artifact, and tags of a version. Chosen, not measured.
pub const NAMES_MAX: usize = 64;

/// Why a change was not made. Nothing is wrong with the catalog.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "alias {alias} names another artifact already, {holder}: choose another name, or say that it is to move (--move-alias)"
    )]
    AliasTaken { alias: Alias, holder: ArtifactId },
    #[error(
        "artifact {id} version {number} has no content yet: write the file and close it, or send its descriptor along, before it becomes READY"
    )]
    NoContent { id: ArtifactId, number: u64 },
    #[error(
        "no version of {path} was captured: write the file and close it, send its descriptor along, or register it as CREATING"
    )]
    NothingCaptured { path: String },
    #[error("artifact {id} version {number} is pinned: unpin it first (belljar artifact unpin)")]
    Pinned { id: ArtifactId, number: u64 },
    #[error(
        "artifact {id} version {number} is DELETED and cannot be changed: restore it first (belljar artifact restore)"
    )]
    IsDeleted { id: ArtifactId, number: u64 },
    #[error(
        "artifact {id} version {number} was deleted longer ago than the undo window, and its content is gone"
    )]
    Swept { id: ArtifactId, number: u64 },
    #[error(
        "artifact {id} version {number} is not held: only what was registered as CREATING can be declared READY"
    )]
    NotHeld { id: ArtifactId, number: u64 },
    #[error(
        "artifact {id} has no version {parent} that could be the parent: name an older version"
    )]
    NoSuchParent { id: ArtifactId, parent: u64 },
    #[error(
        "the metadata would be {bytes} bytes of JSON, and at most {METADATA_BYTES_MAX} are kept with a version: put it into a file"
    )]
    MetadataTooLarge { bytes: usize },
    #[error("the metadata is nested deeper than {METADATA_DEPTH_MAX} levels: flatten it")]
    MetadataTooDeep,
    #[error("that would be more than {NAMES_MAX} {what}: remove some first")]
    TooMany { what: &'static str },
}

/// Names to add and to remove. What is there already, or is not, is no error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names<T> {
    pub add: Vec<T>,
    pub remove: Vec<T>,
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self { add: Vec::new(), remove: Vec::new() }
    }
}

impl<T: ToString> Names<T> {
    /// The names that are there after the change, sorted.
    pub(super) fn applied_to(&self, there: &[String]) -> Vec<String> {
        let mut names = there.to_vec();
        names.extend(self.add.iter().map(T::to_string));
        names.retain(|name| !self.remove.iter().any(|removed| removed.to_string() == *name));
        names.sort();
        names.dedup();
        names
    }
}

/// What is changed about one version, or its artifact. The default changes nothing.
#[derive(Debug, Clone, Default)]
pub struct Amendment {
    pub artifact_type: Option<ArtifactType>,
    pub mime: Option<String>,
    pub graph_id: Option<String>,
    pub node_id: Option<String>,
    pub parent: Option<u64>,
    /// Of the artifact. One that names another artifact moves only with `move_aliases`.
    pub aliases: Names<Alias>,
    pub move_aliases: bool,
    /// Point to this version from here on.
    pub labels: Names<Label>,
    pub tags: Names<Tag>,
    /// A merge patch (RFC 7396).
    pub metadata: Option<Metadata>,
    /// The content of a held version that becomes READY.
    pub content: Option<DeclaredContent>,
    /// A held version becomes READY.
    pub ready: bool,
}

/// A stable copy that somebody sent, and what was learned from it.
#[derive(Debug, Clone)]
pub struct DeclaredContent {
    pub digest: Digest,
    pub size: u64,
    pub kept: bool,
    pub artifact_type: ArtifactType,
    pub suspected: Option<ArtifactType>,
    pub mime: Option<String>,
    pub metadata: Metadata,
    pub secrets: SecretSearch,
}

/// A file that somebody registers.
#[derive(Debug, Clone)]
pub struct Declaration {
    pub owner_uid: u32,
    pub host_path: Vec<u8>,
    /// Where in a workspace; nothing outside of every mount point.
    pub place: Option<(WorkspaceId, MountName, VirtualPath)>,
    pub run: Option<RunId>,
    /// Nothing: what was captured is meant.
    pub content: Option<DeclaredContent>,
    /// CREATING until somebody says READY.
    pub held: bool,
    pub amendment: Amendment,
    pub at: Timestamp,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub seq: i64,
    pub at: Timestamp,
    pub owner_uid: u32,
    pub artifact: ArtifactId,
    /// `None`: the artifact as a whole.
    pub version: Option<u64>,
    pub kind: String,
    pub actor: String,
    pub detail: Metadata,
}

/// Which events.
#[derive(Debug, Clone, Copy)]
pub struct EventFilter {
    /// `None`: everyone's.
    pub owner: Option<u32>,
    pub artifact: Option<ArtifactId>,
    /// Those behind this one.
    pub after: i64,
    pub limit: u32,
}

/// Where versions need a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// By a version that is READY or held.
    pub main: bool,
    /// By one that is ARCHIVED.
    pub archive: bool,
    /// By one that is DELETED and may come back: wherever it is.
    pub undo: bool,
}

/// A content to be looked at, and which reason was the last when it was read.
pub type Placement = (Digest, i64);

/// See the module. `owner` of `None` is everyone's.
pub trait Life {
    /// Artifacts of that name; at most one for each owner.
    fn with_alias(
        &self,
        owner: Option<u32>,
        alias: &Alias,
    ) -> Result<Vec<ArtifactId>, CatalogError>;

    /// The version that a label of the artifact points to.
    fn with_label(&self, id: ArtifactId, label: &Label) -> Result<Option<u64>, CatalogError>;

    /// The latest version of a file.
    fn at_path(&self, owner: u32, host_path: &[u8]) -> Result<Option<VersionRow>, CatalogError>;

    /// Versions of an artifact below `below`, newest first.
    fn versions(
        &self,
        owner: Option<u32>,
        id: ArtifactId,
        below: Option<u64>,
        limit: u32,
    ) -> Result<Vec<VersionRow>, CatalogError>;

    /// Registers files by somebody's word. The same bytes as the latest version's make no version, and the latest is amended;
    /// a held version takes the content. Each is done or refused by itself, in order.
    fn declare(
        &self,
        batch: &[Declaration],
        author: &Author,
    ) -> Result<Vec<Result<VersionRow, Refusal>>, CatalogError>;

    /// Changes one version; `None` when there is none.
    fn amend(
        &self,
        owner: Option<u32>,
        id: ArtifactId,
        number: u64,
        amendment: &Amendment,
        author: &Author,
    ) -> Result<Option<VersionRow>, CatalogError>;

    /// Pins or unpins one version; `None` when there is none.
    fn pin(
        &self,
        owner: Option<u32>,
        id: ArtifactId,
        number: u64,
        pinned: bool,
        author: &Author,
    ) -> Result<Option<VersionRow>, CatalogError>;

    /// Events in the order in which they became visible: one with a lower number never appears after one with a higher.
    fn events(&self, filter: EventFilter) -> Result<Vec<Event>, CatalogError>;

    /// The number of the newest event; 0 without any.
    fn newest_event(&self) -> Result<i64, CatalogError>;

    /// Gives up, for ever, versions that were deleted before that time, and answers how many, at most `limit`.
    fn sweep(&self, deleted_before: Timestamp, limit: u32) -> Result<u32, CatalogError>;

    /// Contents whose place has to be looked at.
    fn placements(&self, limit: u32) -> Result<Vec<Placement>, CatalogError>;

    /// Where versions need the content at this moment.
    fn wanted(&self, digest: &Digest) -> Result<Wanted, CatalogError>;

    /// The content was put where it belongs; a reason that came meanwhile stays.
    fn placed(&self, placement: &Placement) -> Result<(), CatalogError>;
}

/// `target` with the patch merged into it as RFC 7396 says, or why it may not become that.
pub fn merge_metadata(target: &Metadata, patch: &Metadata) -> Result<Metadata, Refusal> {
    if depth(patch) > METADATA_DEPTH_MAX {
        return Err(Refusal::MetadataTooDeep);
    }
    let mut merged = target.clone();
    merge(&mut merged, patch);
    let bytes = Value::Object(merged.clone()).to_string().len();
    if bytes > METADATA_BYTES_MAX {
        return Err(Refusal::MetadataTooLarge { bytes });
    }
    Ok(merged)
}

fn merge(target: &mut Metadata, patch: &Metadata) {
    for (key, value) in patch {
        match value {
            Value::Null => {
                target.remove(key);
            }
            Value::Object(patch) => {
                let mut object = match target.remove(key) {
                    Some(Value::Object(object)) => object,
                    _ => Metadata::new(),
                };
                merge(&mut object, patch);
                target.insert(key.clone(), Value::Object(object));
            }
            other => {
                target.insert(key.clone(), other.clone());
            }
        }
    }
}

/// serde_json itself reads no more than 128 levels, so that this does not recurse further either.
fn depth(object: &Metadata) -> usize {
    fn of(value: &Value) -> usize {
        match value {
            Value::Object(object) => depth(object),
            Value::Array(items) => 1 + items.iter().map(of).max().unwrap_or(0),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
        }
    }
    1 + object.values().map(of).max().unwrap_or(0)
}

/// What a change of state does to one version: the state it gets, or why it stays. Decided here for every catalog.
pub(super) fn next_state(
    row: &VersionRow,
    asked: ArtifactState,
) -> Result<ArtifactState, CatalogError> {
    let (id, number) = (row.id, row.number);
    let illegal = |to| CatalogError::IllegalTransition { id, number, from: row.state, to };
    // What was held comes back as it was.
    let next = match (asked, row.state, row.held) {
        (ArtifactState::Ready, ArtifactState::Deleted, true) => ArtifactState::Creating,
        _ => asked,
    };
    if asked == ArtifactState::Deleted && row.pinned {
        return Err(Refusal::Pinned { id, number }.into());
    }
    if row.swept_at.is_some() {
        return Err(Refusal::Swept { id, number }.into());
    }
    // READY is said of a held version by amending it, which checks that there is a content.
    if !row.state.may_become(next)
        || row.state == ArtifactState::Creating && next == ArtifactState::Ready
    {
        return Err(illegal(next));
    }
    Ok(next)
}

/// Whether a declaration changes the latest version, instead of adding one; or why it is refused.
pub(super) fn amends(latest: Option<&VersionRow>, new: &Declaration) -> Result<bool, Refusal> {
    let Some(row) = latest else {
        return if new.held || new.content.is_some() { Ok(false) } else { Err(nothing(new)) };
    };
    let (id, number) = (row.id, row.number);
    match (row.state, new.held, &new.content) {
        // Holding what is held already, or declaring it READY.
        (ArtifactState::Creating, true, _) | (ArtifactState::Creating, false, Some(_)) => Ok(true),
        (ArtifactState::Creating, false, None) if row.digest.is_some() => Ok(true),
        (ArtifactState::Creating, false, None) => Err(Refusal::NoContent { id, number }),
        (ArtifactState::Ready | ArtifactState::Archived | ArtifactState::Deleted, true, _) => {
            Ok(false)
        }
        (ArtifactState::Ready | ArtifactState::Archived, false, Some(content)) => {
            let same = row.digest == Some(content.digest);
            // A content that was too large before and is kept under today's settings is worth a version.
            Ok(same && (row.content_kept || !content.kept))
        }
        (ArtifactState::Ready | ArtifactState::Archived, false, None) => Ok(true),
        (ArtifactState::Deleted, false, Some(_)) => Ok(false),
        (ArtifactState::Deleted, false, None) => Err(nothing(new)),
    }
}

fn nothing(new: &Declaration) -> Refusal {
    Refusal::NothingCaptured { path: crate::model::path::escape(&new.host_path) }
}

/// The amendment of a version that a declaration is about.
pub(super) fn declared_over(new: &Declaration) -> Amendment {
    Amendment { ready: !new.held, content: new.content.clone(), ..new.amendment.clone() }
}

/// The metadata under a patch: what a user said of the version before what its content says.
pub(super) fn metadata_under(
    row: Option<&VersionRow>,
    content: Option<&DeclaredContent>,
) -> Metadata {
    let mut metadata = content.map(|content| content.metadata.clone()).unwrap_or_default();
    metadata.extend(row.map(|row| row.metadata.clone()).unwrap_or_default());
    metadata
}

/// The content that a change gives to a version: to one that is held.
pub(super) fn content_for<'a>(
    row: &VersionRow,
    amendment: &'a Amendment,
) -> Option<&'a DeclaredContent> {
    amendment.content.as_ref().filter(|_| row.held_open())
}

/// What a `quarantined` event tells.
pub(super) fn quarantine(search: &SecretSearch) -> Value {
    let secrets: BTreeSet<&str> = search.found.iter().map(|found| found.secret.as_str()).collect();
    serde_json::json!({ "secrets": secrets })
}

pub(super) fn declared_type(new: &Declaration) -> ArtifactType {
    let detected = new.content.as_ref().map(|content| content.artifact_type.clone());
    let given = new.amendment.artifact_type.clone();
    given.or(detected).unwrap_or_else(|| ArtifactType::new(ArtifactType::FILE))
}

/// Whether a version can be changed in that way at all.
pub(super) fn may_amend(row: &VersionRow, amendment: &Amendment) -> Result<(), Refusal> {
    let (id, number) = (row.id, row.number);
    if row.state == ArtifactState::Deleted {
        return Err(Refusal::IsDeleted { id, number });
    }
    if amendment.ready && !row.held_open() {
        return Err(Refusal::NotHeld { id, number });
    }
    if amendment.ready && row.digest.is_none() && amendment.content.is_none() {
        return Err(Refusal::NoContent { id, number });
    }
    Ok(())
}

/// What an `updated` event tells: the fields that differ, as they are from here on.
pub(super) fn changes(before: &VersionRow, after: &VersionRow) -> Metadata {
    let mut changes = Metadata::new();
    let mut note = |name: &str, differs: bool, value: Value| {
        if differs {
            changes.insert(name.to_owned(), value);
        }
    };
    let text = |text: &Option<String>| Value::from(text.clone());
    let of_type = Value::from(after.artifact_type.as_str());
    note("type", before.artifact_type != after.artifact_type, of_type);
    note("mime", before.mime != after.mime, text(&after.mime));
    note("graph_id", before.graph_id != after.graph_id, text(&after.graph_id));
    note("node_id", before.node_id != after.node_id, text(&after.node_id));
    note("parent_version", before.parent != after.parent, Value::from(after.parent));
    note("tags", before.tags != after.tags, Value::from(after.tags.clone()));
    // Up to 64 KiB would be kept for ever with each event; the names of the keys tell what to look at.
    let keys = |row: &VersionRow| row.metadata.keys().cloned().collect::<Vec<_>>();
    note("metadata", before.metadata != after.metadata, Value::from(keys(after)));
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> Metadata {
        value.as_object().expect("an object").clone()
    }

    #[test]
    fn metadata_is_merged_as_the_rfc_says() {
        // The examples of RFC 7396, appendix A, whose target and patch are objects.
        for (target, patch, expected) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            let merged = merge_metadata(&object(target), &object(patch)).expect("merges");
            assert_eq!(Value::Object(merged), expected);
        }
    }

    #[test]
    fn metadata_that_is_too_large_or_too_deep_is_refused() {
        let large = object(json!({ "a": "x".repeat(METADATA_BYTES_MAX) }));
        let refused = merge_metadata(&Metadata::new(), &large).expect_err("too large");
        assert!(matches!(refused, Refusal::MetadataTooLarge { .. }), "{refused}");
        let mut deep = json!({});
        for _ in 0..METADATA_DEPTH_MAX {
            deep = json!({ "a": [deep] });
        }
        let refused = merge_metadata(&Metadata::new(), &object(deep)).expect_err("too deep");
        assert_eq!(refused, Refusal::MetadataTooDeep);
    }
}
