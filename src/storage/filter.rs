//! What a list of versions is asked for, and how a row looks to such a question.

use super::VersionRow;
use crate::model::artifact::ArtifactState;
use crate::model::expression::evaluate::{Datum, Subject};
use crate::model::expression::{Expression, Field};
use crate::model::glob::Glob;
use crate::model::id::{RunId, WorkspaceId};
use crate::model::order::{Order, OrderBy};
use jiff::Timestamp;
use std::cmp::Ordering;

/// What [`super::Catalog::list`] looks for. Everything that is named must hold.
#[derive(Debug, Clone)]
pub struct Filter {
    /// One of these; any when there is none.
    pub types: Vec<String>,
    pub graph: Option<String>,
    pub node: Option<String>,
    pub workspace: Option<WorkspaceId>,
    pub run: Option<RunId>,
    /// One of these; any when there is none.
    pub states: Vec<ArtifactState>,
    pub since: Option<Timestamp>,
    pub before: Option<Timestamp>,
    pub updated_since: Option<Timestamp>,
    pub updated_before: Option<Timestamp>,
    /// For the path inside the workspace or the one on the host.
    pub path: Option<Glob>,
    /// A label names versions: with it every version is looked at, as with `all_versions`.
    pub label: Option<String>,
    pub tag: Option<String>,
    pub alias: Option<String>,
    pub expression: Option<Expression>,
    /// The moment from which the expression's `7d` counts.
    pub now: Timestamp,
    pub all_versions: bool,
    pub order: Order,
    pub limit: u32,
    /// [`VersionPage::next`] of the page before.
    pub after: Option<Cursor>,
}

/// A place in a list, behind one of its rows. It stays where it is when rows are added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    pub key: SortKey,
    /// The catalog's own number of the version, which tells apart rows with the same key.
    pub version: i64,
}

/// What a row is sorted by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum SortKey {
    /// Times are microseconds since 1970.
    Number(i64),
    Bytes(Vec<u8>),
}

#[derive(Debug, Clone)]
pub struct VersionPage {
    pub rows: Vec<VersionRow>,
    /// Where the next page starts; `None` on the last.
    pub next: Option<Cursor>,
}

impl Default for Filter {
    /// The latest READY versions, a page of a hundred.
    fn default() -> Self {
        Self {
            types: Vec::new(),
            graph: None,
            node: None,
            workspace: None,
            run: None,
            states: vec![ArtifactState::Ready],
            since: None,
            before: None,
            updated_since: None,
            updated_before: None,
            path: None,
            label: None,
            tag: None,
            alias: None,
            expression: None,
            now: Timestamp::now(),
            all_versions: false,
            order: Order::default(),
            limit: 100,
            after: None,
        }
    }
}

impl Filter {
    /// Whether versions count that are not the latest of their artifact.
    pub fn wants_every_version(&self) -> bool {
        self.all_versions || self.label.is_some()
    }

    /// Whether the row by itself fulfils the filter. What only the catalog knows, the run's products, the latest version
    /// and the place in the list, is not looked at.
    pub(super) fn accepts(&self, row: &VersionRow) -> bool {
        fn same<T: PartialEq>(wanted: &Option<T>, found: Option<&T>) -> bool {
            wanted.as_ref().is_none_or(|wanted| found == Some(wanted))
        }
        fn among(wanted: &Option<String>, found: &[String]) -> bool {
            wanted.as_ref().is_none_or(|wanted| found.contains(wanted))
        }
        let types = || self.types.iter().any(|wanted| wanted == row.artifact_type.as_str());
        (self.states.is_empty() || self.states.contains(&row.state))
            && (self.types.is_empty() || types())
            && same(&self.graph, row.graph_id.as_ref())
            && same(&self.node, row.node_id.as_ref())
            && same(&self.workspace, row.workspace.as_ref())
            && within(self.since, self.before, row.created_at)
            && within(self.updated_since, self.updated_before, row.updated_at)
            && self
                .path
                .as_ref()
                .is_none_or(|glob| glob.matches(&row.path_seen()) || glob.matches(&row.host_path))
            && among(&self.label, &row.labels)
            && among(&self.tag, &row.tags)
            && among(&self.alias, &row.aliases)
            && self.expression.as_ref().is_none_or(|asked| asked.holds(row, self.now))
    }
}

/// Catalogs keep microseconds.
fn within(since: Option<Timestamp>, before: Option<Timestamp>, time: Timestamp) -> bool {
    let time = time.as_microsecond();
    since.is_none_or(|since| time >= since.as_microsecond())
        && before.is_none_or(|before| time < before.as_microsecond())
}

impl Cursor {
    pub(super) fn of(row: &VersionRow, version: i64, by: OrderBy) -> Self {
        let key = match by {
            OrderBy::Created => SortKey::Number(row.created_at.as_microsecond()),
            OrderBy::Updated => SortKey::Number(row.updated_at.as_microsecond()),
            OrderBy::Size => SortKey::Number(i64::try_from(row.size).unwrap_or(i64::MAX)),
            OrderBy::Path => SortKey::Bytes(row.path_seen()),
            OrderBy::Type => SortKey::Bytes(row.artifact_type.as_str().as_bytes().to_vec()),
        };
        Self { key, version }
    }

    /// Which of two places comes first.
    pub(super) fn order(&self, other: &Self, order: Order) -> Ordering {
        let ascending = self.key.cmp(&other.key).then_with(|| self.version.cmp(&other.version));
        if order.descending { ascending.reverse() } else { ascending }
    }
}

impl VersionRow {
    /// As seen inside the workspace, or the host's path where it lies in none. Names are bytes.
    pub fn path_seen(&self) -> Vec<u8> {
        match &self.place {
            Some((mount, path)) => {
                [b"/workspace/", mount.as_str().as_bytes(), b"/", path.as_bytes()].concat()
            }
            None => self.host_path.clone(),
        }
    }
}

impl Subject for VersionRow {
    fn any(&self, field: Field, test: &mut dyn FnMut(Datum<'_>) -> bool) -> bool {
        fn text(value: &str) -> Datum<'_> {
            Datum::Bytes(value.as_bytes())
        }
        fn number(value: u64) -> Datum<'static> {
            Datum::Int(i64::try_from(value).unwrap_or(i64::MAX))
        }
        match field {
            Field::Type => test(text(self.artifact_type.as_str())),
            Field::State => test(text(self.state.as_str())),
            Field::Origin => test(text(self.origin.as_str())),
            Field::Size => test(number(self.size)),
            Field::Version => test(number(self.number)),
            Field::Path => test(Datum::Bytes(&self.path_seen())),
            Field::HostPath => test(Datum::Bytes(&self.host_path)),
            Field::Graph => self.graph_id.as_deref().is_some_and(|graph| test(text(graph))),
            Field::Node => self.node_id.as_deref().is_some_and(|node| test(text(node))),
            Field::Run => self.run.is_some_and(|run| test(text(&run.to_string()))),
            Field::Workspace => self.workspace.as_ref().is_some_and(|id| test(text(id.as_str()))),
            Field::Mime => self.mime.as_deref().is_some_and(|mime| test(text(mime))),
            Field::CreatedAt => test(Datum::Int(self.created_at.as_microsecond())),
            Field::UpdatedAt => test(Datum::Int(self.updated_at.as_microsecond())),
            Field::Pinned => test(Datum::Bool(self.pinned)),
            Field::Held => test(Datum::Bool(self.held)),
            Field::Quarantined => test(Datum::Bool(self.quarantined)),
            Field::Label => self.labels.iter().any(|label| test(text(label))),
            Field::Tag => self.tags.iter().any(|tag| test(text(tag))),
            Field::Alias => self.aliases.iter().any(|alias| test(text(alias))),
        }
    }

    fn metadata(&self) -> &super::Metadata {
        &self.metadata
    }
}
