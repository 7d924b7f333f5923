//! Identifiers: newtypes that are checked once, where text comes in, and cannot be swapped.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// Longest workspace id and mount name, in bytes. Chosen so that `<runtime>/workspaces/<uid>/<id>` stays far below PATH_MAX.
pub const NAME_BYTES_MAX: usize = 64;

/// Longest secret or variable name, in bytes. A directory entry holds at most 255 (NAME_MAX), and a secret is a file.
pub const VARIABLE_BYTES_MAX: usize = 255;

/// Text that is no legal identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    #[error(
        "{what} {given:?} is not allowed: use 1 to 64 of the characters A-Z a-z 0-9 . _ - and do not start with a dot"
    )]
    Name { what: &'static str, given: String },
    #[error(
        "{what} {given:?} is not allowed: use letters, digits and _, not starting with a digit, at most 255 in all"
    )]
    Variable { what: &'static str, given: String },
    #[error(
        "{what} {given:?} is not allowed: it must be a UUID such as 01890a5d-ac96-774b-bcce-b302099a8057"
    )]
    Uuid { what: &'static str, given: String },
}

fn is_name(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len())
        && !text.starts_with('.')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

fn is_variable(text: &str) -> bool {
    (1..=VARIABLE_BYTES_MAX).contains(&text.len())
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:ident, $variant:ident) => {
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
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                if $check(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(InvalidId::$variant { what: $what, given: text.to_owned() })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked_text!(
    /// A workspace, unique among the workspaces of its owner.
    WorkspaceId, "workspace id", is_name, Name
);
checked_text!(
    /// A mount point, unique in its workspace; it is the name of a directory under the workspace's root.
    MountName, "mount name", is_name, Name
);
checked_text!(
    /// A secret, unique in its workspace; it is the name of a file under `.belljar/secrets`.
    SecretName, "secret name", is_variable, Variable
);
checked_text!(
    /// An environment variable of a workspace.
    VariableName, "variable name", is_variable, Variable
);

checked_text!(
    /// A place for artifacts that a user has asked for, unique on the daemon.
    BackendId, "backend id", is_name, Name
);

impl WorkspaceId {
    /// A fresh id for a workspace that the user did not name.
    pub fn generate() -> Self {
        Self(format!("ws-{}", Uuid::now_v7().simple()))
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A fresh id; UUIDv7 (RFC 9562), so that ids sort by time of creation.
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            pub fn as_uuid(&self) -> Uuid {
                self.0
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Uuid::parse_str(text)
                    .map(Self)
                    .map_err(|_| InvalidId::Uuid { what: $what, given: text.to_owned() })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

uuid_id!(
    /// One command that ran, or runs, in a workspace.
    RunId, "run id"
);
uuid_id!(
    /// One artifact: an identity with numbered versions.
    ArtifactId, "artifact id"
);
uuid_id!(
    /// One clean-up plan.
    PlanId, "plan id"
);
checked_text!(
    /// A clean-up policy, unique among those of its owner.
    PolicyName, "policy name", is_name, Name
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_mount_directory_are_refused() {
        for bad in ["", ".", "..", ".belljar", "a/b", "a b", "ü", &"x".repeat(65)] {
            assert!(bad.parse::<MountName>().is_err(), "{bad:?} was accepted");
            assert!(bad.parse::<WorkspaceId>().is_err(), "{bad:?} was accepted");
        }
        for good in ["a", "input", "task_123", "a.b-c", &"x".repeat(64)] {
            assert_eq!(good.parse::<MountName>().expect("legal").as_str(), good);
        }
    }

    #[test]
    fn a_secret_name_with_an_equals_sign_is_refused_with_the_rule() {
        let error = "A=B".parse::<SecretName>().expect_err("must be refused");
        assert!(error.to_string().contains("secret name \"A=B\""), "{error}");
        assert!(error.to_string().contains("letters, digits and _"), "{error}");
        assert!("1A".parse::<SecretName>().is_err());
        assert!("_A1".parse::<SecretName>().is_ok());
    }

    #[test]
    fn generated_workspace_ids_are_legal() {
        let id = WorkspaceId::generate();
        assert_eq!(id.as_str().parse::<WorkspaceId>(), Ok(id));
    }
}
