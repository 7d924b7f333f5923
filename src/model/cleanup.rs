//! What a clean-up is asked for: which artifacts are counted, how many may stay, and what happens to the others.

use crate::model::id::WorkspaceId;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How long an ARCHIVED version stays under `archive_first` when nobody says.
pub const ARCHIVED_FOR_MS_DEFAULT: u64 = 30 * 24 * 3_600 * 1_000;

/// How often a policy runs: at least and at most. Chosen, not measured.
pub const EVERY_MS_MIN: u64 = 1_000;
pub const EVERY_MS_MAX: u64 = 366 * 24 * 3_600 * 1_000;

/// Which artifacts are counted (all that is named must hold), and the limits (each of them is kept). Without a limit all that is
/// counted goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Criteria {
    /// One of these; any when there is none.
    #[serde(rename = "type", skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub graph: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace: Option<WorkspaceId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// An expression (docs/expressions.md).
    #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
    pub expression: Option<String>,
    /// Longer ago than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub older_than_ms: Option<u64>,
    /// The newest so many stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_artifacts: Option<u64>,
    /// The newest stay whose contents have so many bytes together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size: Option<u64>,
    /// Of each artifact the newest so many versions stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_versions: Option<u64>,
    /// Every version is counted by itself.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all_versions: bool,
    /// What is READY is archived; only what has been ARCHIVED for `archived_for_ms` is deleted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub archive_first: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archived_for_ms: Option<u64>,
}

/// Criteria that mean nothing or two things.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadCriteria {
    #[error(
        "no criterion is named: say what is to go, for instance older_than, max_artifacts, max_size, keep_versions, type or where"
    )]
    Empty,
    #[error(
        "keep_versions counts the versions of an artifact, and with all_versions or a label each version is counted by itself: use one of them"
    )]
    TwoWaysOfCounting,
    #[error("keep_versions is 0: keep at least 1, or leave it out to let whole artifacts go")]
    NoVersionKept,
    #[error("archived_for means something with archive_first alone: add it, or leave this out")]
    ArchivedForAlone,
}

impl Criteria {
    /// A label names versions, so that with it each is counted by itself.
    pub fn counts_versions(&self) -> bool {
        self.all_versions || self.label.is_some()
    }

    pub fn has_limit(&self) -> bool {
        self.older_than_ms.is_some()
            || self.max_artifacts.is_some()
            || self.max_size.is_some()
            || self.keep_versions.is_some()
    }

    fn has_filter(&self) -> bool {
        !self.types.is_empty()
            || self.graph.is_some()
            || self.workspace.is_some()
            || self.label.is_some()
            || self.tag.is_some()
            || self.expression.is_some()
    }

    /// The expression is checked by whoever parses it.
    pub fn check(&self) -> Result<(), BadCriteria> {
        if !self.has_limit() && !self.has_filter() {
            return Err(BadCriteria::Empty);
        }
        if self.keep_versions.is_some() && self.counts_versions() {
            return Err(BadCriteria::TwoWaysOfCounting);
        }
        if self.keep_versions == Some(0) {
            return Err(BadCriteria::NoVersionKept);
        }
        if self.archived_for_ms.is_some() && !self.archive_first {
            return Err(BadCriteria::ArchivedForAlone);
        }
        Ok(())
    }
}

/// What a plan does to a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Archive,
    Delete,
}

/// Where a plan is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum PlanState {
    Planned,
    /// Begun and not ended; whoever applies it again goes on where it stopped.
    Applying,
    Applied,
}

/// A word that is none of those.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown word {given:?} in a clean-up plan")]
pub struct UnknownWord {
    given: String,
}

macro_rules! words {
    ($name:ident, $($variant:ident => $word:literal),+) => {
        impl $name {
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;
            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                match text {
                    $($word => Ok($name::$variant),)+
                    _ => Err(UnknownWord { given: text.to_owned() }),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words!(Action, Archive => "archive", Delete => "delete");
words!(PlanState, Planned => "PLANNED", Applying => "APPLYING", Applied => "APPLIED");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn criteria_that_mean_nothing_or_two_things_are_refused() {
        let check = |json: &str| serde_json::from_str::<Criteria>(json).expect("JSON").check();
        assert_eq!(check("{}"), Err(BadCriteria::Empty));
        assert_eq!(check(r#"{"all_versions":true}"#), Err(BadCriteria::Empty));
        assert_eq!(check(r#"{"keep_versions":0}"#), Err(BadCriteria::NoVersionKept));
        let both = r#"{"keep_versions":2,"label":"x"}"#;
        assert_eq!(check(both), Err(BadCriteria::TwoWaysOfCounting));
        let alone = r#"{"max_size":2,"archived_for_ms":1}"#;
        assert_eq!(check(alone), Err(BadCriteria::ArchivedForAlone));
        assert_eq!(check(r#"{"type":["log"]}"#), Ok(()));
        assert!(serde_json::from_str::<Criteria>(r#"{"older":1}"#).is_err());
    }
}
