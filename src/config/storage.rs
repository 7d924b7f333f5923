//! Where contents are kept besides the state directory, and for how long they stay in it.

use super::bucket::Bucket;
use super::units::{format_duration, parse_duration};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// A store that gets a copy of every content.
    pub remote: Option<Remote>,
    pub keep_local: KeepLocal,
}

/// A store that is reached over a network, or lies on another file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Remote {
    /// A directory that must exist, such as one on a network mount.
    Directory {
        path: PathBuf,
    },
    S3(Bucket),
}

impl Remote {
    /// Whether all of it can be used, or which key cannot and why.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Remote::Directory { .. } => Ok(()),
            Remote::S3(bucket) => bucket.check(),
        }
    }
}

/// Which contents stay in the state directory that the remote store has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeepLocal {
    #[default]
    All,
    /// Those that were written or read within this time.
    For(Duration),
}

impl Serialize for KeepLocal {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            KeepLocal::All => to.serialize_str("all"),
            KeepLocal::For(time) => to.serialize_str(&format_duration(*time)),
        }
    }
}

impl<'de> Deserialize<'de> for KeepLocal {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = super::units::scalar(from, "`all` or a duration such as 30d")?;
        if text == "all" {
            return Ok(KeepLocal::All);
        }
        parse_duration(&text)
            .map(KeepLocal::For)
            .map_err(|error| de::Error::custom(format!("{error}, or `all`")))
    }
}
