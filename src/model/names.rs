//! Names that users give: aliases of artifacts, labels and tags of versions.

use crate::model::id::ArtifactId;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Longest alias, in bytes: as long as a file's name may be (NAME_MAX).
pub const ALIAS_BYTES_MAX: usize = 255;

/// Longest label and tag, in bytes; as long as a workspace's id.
pub const WORD_BYTES_MAX: usize = 64;

/// Longest type, MIME type, graph and node id, in bytes. Chosen, not measured.
const TEXT_BYTES_MAX: usize = 255;

/// Whether a text that only means something to those who gave it may stand with a version; or why not.
pub fn check_text(what: &str, text: &str) -> Result<(), String> {
    if (1..=TEXT_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(format!(
        "{what} is not allowed: use 1 to {TEXT_BYTES_MAX} bytes without control characters"
    ))
}

/// Text that is no legal name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    #[error(
        "alias {given:?} is not allowed: use 1 to 255 bytes without @, / and control characters, and not the form of a UUID"
    )]
    Alias { given: String },
    #[error("{what} {given:?} is not allowed: use 1 to 64 of the characters A-Z a-z 0-9 . _ -")]
    Word { what: &'static str, given: String },
}

fn is_alias(text: &str) -> bool {
    (1..=ALIAS_BYTES_MAX).contains(&text.len())
        && !text.contains(['@', '/'])
        && !text.chars().any(char::is_control)
        // An alias stands where an id may stand, and must never be taken for one.
        && text.parse::<ArtifactId>().is_err()
}

fn is_word(text: &str) -> bool {
    (1..=WORD_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

macro_rules! checked_name {
    ($(#[$doc:meta])* $name:ident, $check:ident, $given:ident => $error:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                if $check(text) {
                    return Ok(Self(text.to_owned()));
                }
                let $given = text.to_owned();
                Err($error)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked_name!(
    /// Another name of an artifact, unique among those of its owner.
    Alias, is_alias, given => InvalidName::Alias { given }
);
checked_name!(
    /// Points to one version of an artifact, and can move to another.
    Label, is_word, given => InvalidName::Word { what: "label", given }
);
checked_name!(
    /// A word on a version.
    Tag, is_word, given => InvalidName::Word { what: "tag", given }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_is_never_taken_for_a_reference_a_path_or_an_id() {
        let id = ArtifactId::generate().to_string();
        let bare = id.replace('-', "");
        for bad in ["", "a@2", "a/b", "a\nb", &id, &bare, &"x".repeat(256)] {
            let error = bad.parse::<Alias>().expect_err(bad).to_string();
            assert!(error.contains("1 to 255 bytes"), "{error}");
        }
        for good in ["report_001", "Bericht für März", "a:b", &"x".repeat(255)] {
            assert_eq!(good.parse::<Alias>().expect("legal").as_str(), good);
        }
    }

    #[test]
    fn labels_and_tags_are_words() {
        for bad in ["", "a b", "ü", "a@b", &"x".repeat(65)] {
            assert!(bad.parse::<Label>().is_err() && bad.parse::<Tag>().is_err(), "{bad:?}");
        }
        for good in ["v3", "1.0.0", "latest", &"x".repeat(64)] {
            assert!(good.parse::<Label>().is_ok() && good.parse::<Tag>().is_ok(), "{good:?}");
        }
    }

    #[test]
    fn a_text_with_a_version_is_short_and_on_one_line() {
        for good in ["a", "train/2024 ü", &"x".repeat(255)] {
            assert_eq!(check_text("graph_id", good), Ok(()));
        }
        for bad in ["", "a\nb", "\0", &"x".repeat(256), &"ü".repeat(128)] {
            assert!(check_text("graph_id", bad).expect_err(bad).starts_with("graph_id is not"));
        }
    }
}
