//! The `.belljar` directory: files that exist nowhere but here, made when they are opened.
//!
//! One tree is shown on the host, without secrets; another inside each sandbox, with the secrets of its workspace,
//! owned by the run's user. A file's content is fixed when it is opened, so that a reader never sees half of two values.

use super::attributes::{Attributes, Time};
use super::error::Error;
use crate::model::id::SecretName;
use crate::secret::SecretValue;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::sync::{Arc, Mutex};
use zeroize::Zeroizing;

/// The `.belljar` directory itself.
pub const ROOT: u64 = 2;
const ENVIRONMENT: u64 = 3;
const MANIFEST: u64 = 4;
const SECRETS: u64 = 5;
/// Where the artifacts are mounted; empty by itself.
const ARTIFACTS: u64 = 6;
/// Name of the directory of artifacts below [`ROOT`].
pub const ARTIFACTS_NAME: &str = "artifacts";
/// Secrets are numbered upwards from here as their names are first seen.
const FIRST_SECRET: u64 = 1 << 32;

const DIRECTORY_MODE: u32 = 0o040_555;
const FILE_MODE: u32 = 0o100_444;
const SECRETS_MODE: u32 = 0o040_500;
const SECRET_MODE: u32 = 0o100_400;

/// Where the contents come from.
pub trait ControlSource: Send + Sync {
    /// `NAME=VALUE` lines.
    fn environment(&self) -> Vec<u8>;
    /// The workspace as JSON, without any value of a secret.
    fn manifest(&self) -> Vec<u8>;
    fn secret_names(&self) -> Vec<SecretName>;
    fn secret(&self, name: &SecretName) -> Option<SecretValue>;
}

/// Whether a tree shows secrets, and to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrets {
    Hidden,
    OwnedBy { uid: u32, gid: u32 },
}

/// One `.belljar` directory.
pub struct ControlTree {
    source: Arc<dyn ControlSource>,
    secrets: Secrets,
    /// Numbers given to secret names; a name keeps its number when the secret is set anew.
    numbers: Mutex<Numbers>,
    created: Time,
}

#[derive(Default)]
struct Numbers {
    by_name: HashMap<SecretName, u64>,
    by_number: HashMap<u64, SecretName>,
}

impl std::fmt::Debug for ControlTree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlTree").field("secrets", &self.secrets).finish_non_exhaustive()
    }
}

/// An entry of a directory listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub name: OsString,
    pub attributes: Attributes,
}

impl ControlTree {
    pub fn new(source: Arc<dyn ControlSource>, secrets: Secrets) -> Self {
        Self { source, secrets, numbers: Mutex::default(), created: Time::now() }
    }

    fn number(&self, name: &SecretName) -> u64 {
        let mut numbers = self.numbers.lock().expect("no panic under this lock");
        if let Some(number) = numbers.by_name.get(name) {
            return *number;
        }
        let number = FIRST_SECRET + numbers.by_name.len() as u64;
        numbers.by_name.insert(name.clone(), number);
        numbers.by_number.insert(number, name.clone());
        number
    }

    /// Which secret a node is.
    pub fn secret_of(&self, node: u64) -> Option<SecretName> {
        self.numbers.lock().expect("no panic under this lock").by_number.get(&node).cloned()
    }

    fn shows_secrets(&self) -> bool {
        matches!(self.secrets, Secrets::OwnedBy { .. })
    }

    pub fn lookup(&self, parent: u64, name: &OsStr) -> Result<Attributes, Error> {
        let node = match parent {
            ROOT => match name.to_str() {
                Some("env") => ENVIRONMENT,
                Some("workspace.json") => MANIFEST,
                Some(ARTIFACTS_NAME) => ARTIFACTS,
                Some("secrets") if self.shows_secrets() => SECRETS,
                _ => return Err(Error::NotFound),
            },
            SECRETS if self.shows_secrets() => {
                let name = name.to_str().and_then(|name| name.parse().ok());
                let name: SecretName = name.ok_or(Error::NotFound)?;
                if !self.source.secret_names().contains(&name) {
                    return Err(Error::NotFound);
                }
                self.number(&name)
            }
            ARTIFACTS => return Err(Error::NotFound),
            _ => return Err(Error::NotDirectory),
        };
        self.attributes(node)
    }

    pub fn attributes(&self, node: u64) -> Result<Attributes, Error> {
        let (mode, size) = match node {
            ROOT | ARTIFACTS => (DIRECTORY_MODE, 0),
            ENVIRONMENT => (FILE_MODE, self.source.environment().len()),
            MANIFEST => (FILE_MODE, self.source.manifest().len()),
            SECRETS if self.shows_secrets() => (SECRETS_MODE, 0),
            _ => {
                let name = self.secret_of(node).ok_or(Error::Unknown(node))?;
                (SECRET_MODE, self.source.secret(&name).ok_or(Error::NotFound)?.len())
            }
        };
        let (uid, gid) = match self.secrets {
            Secrets::OwnedBy { uid, gid } if node == SECRETS || node >= FIRST_SECRET => (uid, gid),
            Secrets::OwnedBy { .. } | Secrets::Hidden => {
                (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())
            }
        };
        Ok(Attributes {
            node,
            size: size as u64,
            blocks: (size as u64).div_ceil(512),
            atime: self.created,
            mtime: self.created,
            ctime: self.created,
            mode,
            nlink: if mode & 0o040_000 != 0 { 2 } else { 1 },
            uid,
            gid,
            rdev: 0,
            blksize: 4096,
        })
    }

    pub fn list(&self, node: u64) -> Result<Vec<Listed>, Error> {
        let names: Vec<OsString> = match node {
            ROOT => {
                let secrets = self.shows_secrets().then_some("secrets");
                ["env", "workspace.json", ARTIFACTS_NAME]
                    .into_iter()
                    .chain(secrets)
                    .map(OsString::from)
                    .collect()
            }
            SECRETS if self.shows_secrets() => {
                self.source.secret_names().iter().map(|name| name.as_str().into()).collect()
            }
            ARTIFACTS => Vec::new(),
            _ => return Err(Error::NotDirectory),
        };
        let listed = names.into_iter().filter_map(|name| {
            // A secret may be removed between the two looks.
            let attributes = self.lookup(node, &name).ok()?;
            Some(Listed { name, attributes })
        });
        Ok(listed.collect())
    }

    /// The content at this moment. It is zeroed when the last handle to it dies.
    pub fn open(&self, node: u64) -> Result<Arc<Zeroizing<Vec<u8>>>, Error> {
        let content = match node {
            ENVIRONMENT => self.source.environment(),
            MANIFEST => self.source.manifest(),
            _ => {
                let name = self.secret_of(node).ok_or(Error::Unknown(node))?;
                self.source.secret(&name).ok_or(Error::NotFound)?.expose().to_vec()
            }
        };
        Ok(Arc::new(Zeroizing::new(content)))
    }
}
