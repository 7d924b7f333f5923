//! What a user has asked for as a place for artifacts: checked, without its secrets, and with an id.
//!
//! The same user who asks for the same place gets the same id, so that what was kept there is found again after every
//! restart. The definition is written down; keys and passwords are not.

use super::super::error::Error;
use crate::config::bucket::{Bucket, Endpoint, check_scheme};
use crate::config::catalog::Connection;
use crate::model::id::BackendId;
use crate::secret::SecretValue;
use crate::storage::blob::s3::Credentials as S3Credentials;
use crate::wire::backend::{BackendKind, BackendRequest, DirectoryIdentity, Hidden};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A place for artifacts, and whose it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    pub owner_uid: u32,
    pub place: Place,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Place {
    Local {
        path: PathBuf,
    },
    S3 {
        bucket: Bucket,
        /// The owner gave keys, which are gone with the daemon that had them.
        credentials_given: bool,
    },
    Database {
        /// Without a password.
        connection: Connection,
        /// The owner gave one, which is gone with the daemon that had it.
        password_given: bool,
        path: PathBuf,
    },
}

/// What is told with a request and written nowhere.
#[derive(Default)]
pub struct Secrets {
    pub s3: Option<S3Credentials>,
    /// The connection with its password.
    pub connection: Option<Connection>,
}

/// What the request says of a directory besides its path.
#[derive(Debug, Clone, Copy)]
pub struct DirectoryWish {
    pub create: bool,
    pub identity: Option<DirectoryIdentity>,
}

fn refused(why: impl Into<String>) -> Error {
    Error::BackendRefused { why: why.into() }
}

/// The fields of a request that are there, taken one by one; what is left over does not belong to its kind.
struct Fields(BackendRequest);

impl Fields {
    fn text(
        &mut self,
        name: &'static str,
        of: fn(&mut BackendRequest) -> &mut Option<String>,
    ) -> Result<String, Error> {
        of(&mut self.0)
            .take()
            .ok_or_else(|| refused(format!("a {} backend needs `{name}`", self.0.kind.as_str())))
    }

    fn path(
        &mut self,
        name: &'static str,
        of: fn(&mut BackendRequest) -> &mut Option<String>,
    ) -> Result<PathBuf, Error> {
        let path = PathBuf::from(self.text(name, of)?);
        if !path.is_absolute() {
            return Err(refused(format!(
                "{name} {} is relative, and the daemon has no directory of yours to start from: write it from the root",
                path.display()
            )));
        }
        Ok(path)
    }

    fn must_be_used_up(&self) -> Result<(), Error> {
        let BackendRequest {
            kind,
            base_path,
            create_dirs,
            bucket,
            prefix,
            region,
            endpoint,
            allow_http,
            credentials,
            connection_string,
            file_storage_path,
            directory,
        } = &self.0;
        let left = [
            ("base_path", base_path.is_some()),
            ("create_dirs", create_dirs.is_some()),
            ("bucket", bucket.is_some()),
            ("prefix", prefix.is_some()),
            ("region", region.is_some()),
            ("endpoint", endpoint.is_some()),
            ("allow_http", *allow_http),
            ("credentials", credentials.is_some()),
            ("connection_string", connection_string.is_some()),
            ("file_storage_path", file_storage_path.is_some()),
            ("directory", directory.is_some()),
        ];
        match left.iter().find(|(_, there)| *there) {
            Some((name, _)) => {
                Err(refused(format!("a {} backend has no `{name}`: leave it out", kind.as_str())))
            }
            None => Ok(()),
        }
    }
}

impl Definition {
    /// Reads a request. What only the machine can tell, such as whether a directory is there, is told when it is opened.
    pub fn of_request(
        request: BackendRequest,
        owner_uid: u32,
    ) -> Result<(Self, Secrets, DirectoryWish), Error> {
        let mut secrets = Secrets::default();
        let mut wish = DirectoryWish { create: true, identity: None };
        let mut fields = Fields(request);
        let place = match fields.0.kind {
            BackendKind::Local => {
                wish.create = fields.0.create_dirs.take().unwrap_or(true);
                wish.identity = fields.0.directory.take();
                Place::Local { path: fields.path("base_path", |request| &mut request.base_path)? }
            }
            BackendKind::S3 => {
                let bucket = bucket(&mut fields)?;
                secrets.s3 = fields.0.credentials.take().map(credentials).transpose()?;
                Place::S3 { bucket, credentials_given: secrets.s3.is_some() }
            }
            BackendKind::Database => {
                wish.identity = fields.0.directory.take();
                let text = fields.0.connection_string.take();
                let Some(text) = text else {
                    return Err(refused("a database backend needs `connection_string`"));
                };
                let full = connection(&text)?;
                let bare = full.without_password();
                let password_given = full.get("password").is_some();
                secrets.connection = Some(full);
                let path =
                    fields.path("file_storage_path", |request| &mut request.file_storage_path)?;
                Place::Database { connection: bare, password_given, path }
            }
        };
        fields.must_be_used_up()?;
        Ok((Self { owner_uid, place }, secrets, wish))
    }

    /// Of owner and place alone: keys and passwords may change.
    pub fn id(&self) -> BackendId {
        let place = match &self.place {
            Place::Local { path } => serde_json::json!(["local", path]),
            Place::S3 { bucket, .. } => serde_json::json!(["s3", bucket]),
            Place::Database { connection, path, .. } => {
                serde_json::json!(["database", connection, path])
            }
        };
        let text = serde_json::json!([self.owner_uid, place]).to_string();
        let digest = blake3::hash(text.as_bytes()).to_hex();
        digest[..32].parse().expect("hexadecimal digits are a name")
    }

    pub fn kind(&self) -> BackendKind {
        match self.place {
            Place::Local { .. } => BackendKind::Local,
            Place::S3 { .. } => BackendKind::S3,
            Place::Database { .. } => BackendKind::Database,
        }
    }

    /// For people.
    pub fn place(&self) -> String {
        match &self.place {
            Place::Local { path } => path.display().to_string(),
            Place::S3 { bucket, .. } => {
                let at = bucket.endpoint.as_ref().map(|endpoint| format!(" at {endpoint}"));
                format!("s3://{}/{}{}", bucket.bucket, bucket.prefix, at.unwrap_or_default())
            }
            Place::Database { connection, path, .. } => {
                format!("{connection}, contents in {}", path.display())
            }
        }
    }

    /// Whether it can be opened only by somebody who gives what is written nowhere.
    pub fn needs_secrets(&self) -> bool {
        match self.place {
            Place::Local { .. } => false,
            // It opens without; its uploads wait.
            Place::S3 { .. } => false,
            Place::Database { password_given, .. } => password_given,
        }
    }

    /// Whether its owner gave keys for a bucket.
    pub fn has_keys_given(&self) -> bool {
        match self.place {
            Place::S3 { credentials_given, .. } => credentials_given,
            Place::Local { .. } | Place::Database { .. } => false,
        }
    }

    /// The directory for contents, unless they are among the daemon's own things.
    pub fn directory(&self) -> Option<&Path> {
        match &self.place {
            Place::Local { path } | Place::Database { path, .. } => Some(path),
            Place::S3 { .. } => None,
        }
    }

    pub fn with_directory(mut self, directory: PathBuf) -> Self {
        match &mut self.place {
            Place::Local { path } | Place::Database { path, .. } => *path = directory,
            Place::S3 { .. } => {}
        }
        self
    }
}

fn bucket(fields: &mut Fields) -> Result<Bucket, Error> {
    let name = fields.text("bucket", |request| &mut request.bucket)?;
    let request = &mut fields.0;
    let prefix = request.prefix.take().unwrap_or_default();
    let endpoint = request.endpoint.take();
    let mut bucket = Bucket {
        bucket: name,
        prefix,
        region: request.region.take(),
        endpoint,
        path_style: None,
        allow_http: std::mem::take(&mut request.allow_http),
        credentials_file: None,
        profile: None,
        instance_metadata: false,
    };
    // What never leaves the machine needs no encryption.
    let endpoint = bucket.endpoint.as_deref().map(Endpoint::parse);
    if let Some(Ok(endpoint)) = endpoint
        && endpoint.is_loopback()
        && check_scheme(&endpoint, false).is_err()
    {
        bucket.allow_http = true;
    }
    bucket.check().map_err(|why| refused(why.replace("`storage.remote.", "`")))?;
    Ok(bucket)
}

fn credentials(given: crate::wire::backend::BackendCredentials) -> Result<S3Credentials, Error> {
    let value = |name: &str, hidden: &Hidden| {
        SecretValue::new(hidden.0.clone().into_bytes())
            .map_err(|error| refused(format!("`credentials.{name}` cannot be used: {error}")))
    };
    Ok(S3Credentials {
        access_key: value("access_key_id", &given.access_key_id)?,
        secret_key: value("secret_access_key", &given.secret_access_key)?,
        session_token: match &given.session_token {
            Some(token) => Some(value("session_token", token)?),
            None => None,
        },
    })
}

fn connection(text: &Hidden) -> Result<Connection, Error> {
    text.0
        .parse()
        .map_err(|error| refused(format!("the connection string cannot be used: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<(Definition, Secrets, DirectoryWish), Error> {
        Definition::of_request(serde_json::from_str(json).expect("a request"), 7)
    }

    fn refusal(json: &str) -> String {
        read(json).err().unwrap_or_else(|| panic!("{json} was accepted")).to_string()
    }

    #[test]
    fn the_same_place_of_the_same_user_has_the_same_id_whatever_the_password() {
        let id = |password: &str, uid| {
            let json = format!(
                r#"{{"kind":"database","connection_string":"postgresql://me{password}@db/art","file_storage_path":"/files"}}"#
            );
            let request = serde_json::from_str(&json).expect("a request");
            Definition::of_request(request, uid).expect("legal").0.id()
        };
        assert_eq!(id(":hunter2", 7), id(":other", 7));
        assert_eq!(id(":hunter2", 7), id("", 7));
        assert_ne!(id("", 7), id("", 8));
        let local = |path: &str| {
            read(&format!(r#"{{"kind":"local","base_path":"{path}"}}"#)).expect("legal").0.id()
        };
        assert_ne!(local("/a"), local("/b"));
    }

    #[test]
    fn what_is_written_down_or_shown_has_no_secret() {
        let (database, secrets, _) = read(
            r#"{"kind":"database","connection_string":"postgresql://me:hunter2@db/art","file_storage_path":"/files"}"#,
        )
        .expect("legal");
        assert!(secrets.connection.expect("kept").get("password") == Some("hunter2"));
        let (s3, _, _) = read(
            r#"{"kind":"s3","bucket":"abc","credentials":{"access_key_id":"AKID","secret_access_key":"hunter2"}}"#,
        )
        .expect("legal");
        for definition in [database, s3] {
            let text = serde_json::to_string(&definition).expect("JSON");
            let shown = format!("{text} {definition:?} {}", definition.place());
            assert!(!shown.contains("hunter2") && !shown.contains("***"), "{shown}");
            assert_eq!(serde_json::from_str::<Definition>(&text).expect("reads"), definition);
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_field() {
        for (json, words) in [
            (r#"{"kind":"local"}"#, "needs `base_path`"),
            (r#"{"kind":"local","base_path":"a/b"}"#, "relative"),
            (r#"{"kind":"local","base_path":"/a","bucket":"abc"}"#, "no `bucket`"),
            (r#"{"kind":"s3"}"#, "needs `bucket`"),
            (r#"{"kind":"s3","bucket":"A"}"#, "`bucket` is"),
            (
                r#"{"kind":"s3","bucket":"abc","endpoint":"http://db.example.org"}"#,
                "`allow_http: true`",
            ),
            (r#"{"kind":"s3","bucket":"abc","base_path":"/x"}"#, "no `base_path`"),
            (r#"{"kind":"database","file_storage_path":"/x"}"#, "needs `connection_string`"),
            (
                r#"{"kind":"database","connection_string":"x","file_storage_path":"/x"}"#,
                "cannot be read",
            ),
            (r#"{"kind":"database","connection_string":"dbname=x"}"#, "needs `file_storage_path`"),
        ] {
            let error = refusal(json);
            assert!(error.contains(words), "{json}: {error}");
        }
    }

    #[test]
    fn a_server_of_this_machine_may_speak_without_encryption() {
        for host in ["127.0.0.1:9000", "localhost:9000", "[::1]:9000"] {
            let json = format!(r#"{{"kind":"s3","bucket":"abc","endpoint":"http://{host}"}}"#);
            assert!(read(&json).is_ok(), "{host}");
        }
    }
}
