//! With what requests to an S3 server are signed, and where that is from.
//!
//! A secret key is in memory that is overwritten when it is given back, as far as it is ours: the library that signs has
//! copies in plain text for as long as it uses them. It is in no `Debug`, log, error or row.
//!
//! Locking: `given` and `read` are held for a look or an exchange, `read` also while the file is read.

use super::refusal::NoCredentials;
use super::transport::Transport;
use crate::secret::SecretValue;
use async_trait::async_trait;
use object_store::aws::{AmazonS3Builder, AwsCredential, AwsCredentialProvider};
use object_store::{BackoffConfig, CredentialProvider, RetryConfig};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use zeroize::Zeroizing;

/// Largest credentials file. Chosen, not measured: a profile is below 300 bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// An access key and what belongs to it.
#[derive(Clone)]
pub struct Credentials {
    pub access_key: SecretValue,
    pub secret_key: SecretValue,
    pub session_token: Option<SecretValue>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials([redacted])")
    }
}

impl Credentials {
    /// The form in which the library wants them; `None` when they are nothing that can be in a header.
    fn plain(&self) -> Option<Arc<AwsCredential>> {
        let text = |value: &SecretValue| {
            let text = std::str::from_utf8(value.expose()).ok()?.trim();
            (!text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()))
                .then(|| text.to_owned())
        };
        let token = match &self.session_token {
            Some(token) => Some(text(token)?),
            None => None,
        };
        let (key_id, secret_key) = (text(&self.access_key)?, text(&self.secret_key)?);
        Some(Arc::new(AwsCredential { key_id, secret_key, token }))
    }
}

/// Where credentials are from, as long as none were given at run time.
#[derive(Debug, Clone)]
pub enum CredentialsSource {
    /// Nowhere: somebody has to give them.
    Nowhere,
    /// The environment of the daemon.
    Environment(Credentials),
    /// A profile in a file like `~/.aws/credentials`, read again when it changes.
    File { path: PathBuf, profile: String },
    /// What a cloud's machine says of its role, at this address.
    InstanceMetadata { endpoint: String },
}

/// What the library asks for credentials before each request.
#[derive(Debug)]
pub(super) struct Provider {
    given: RwLock<Option<Arc<AwsCredential>>>,
    source: Source,
    /// For sentences.
    from: String,
}

#[derive(Debug)]
enum Source {
    Nowhere,
    Fixed(Option<Arc<AwsCredential>>),
    File { path: PathBuf, profile: String, read: Mutex<Option<(Stamp, Arc<AwsCredential>)>> },
    Instance(AwsCredentialProvider),
}

/// By what a file is told to be unchanged: device, inode, size, and its last change in nanoseconds.
type Stamp = (u64, u64, u64, i64, i64);

impl Provider {
    pub fn new(
        source: &CredentialsSource,
        transport: &Transport,
    ) -> Result<Self, object_store::Error> {
        let (source, from) = match source {
            CredentialsSource::Nowhere => (Source::Nowhere, "nowhere".to_owned()),
            CredentialsSource::Environment(credentials) => {
                let from = "the daemon's environment (AWS_ACCESS_KEY_ID)".to_owned();
                (Source::Fixed(credentials.plain()), from)
            }
            CredentialsSource::File { path, profile } => {
                let from = format!("profile {profile} of {}", path.display());
                let (path, profile) = (path.clone(), profile.clone());
                (Source::File { path, profile, read: Mutex::default() }, from)
            }
            CredentialsSource::InstanceMetadata { endpoint } => {
                // The library builds this provider for stores only; the store is forgotten.
                let store = AmazonS3Builder::new()
                    .with_bucket_name("none")
                    .with_metadata_endpoint(endpoint)
                    .with_http_connector(transport.clone())
                    .with_retry(RetryConfig {
                        backoff: BackoffConfig::default(),
                        max_retries: 2,
                        retry_timeout: Duration::from_secs(5),
                    })
                    .build()?;
                let from = format!("the instance metadata at {endpoint}");
                (Source::Instance(store.credentials().clone()), from)
            }
        };
        Ok(Self { given: RwLock::default(), source, from })
    }

    /// Takes credentials that outrank every other source until the process ends; `None` forgets them.
    pub fn give(&self, credentials: Option<&Credentials>) -> Result<(), NoCredentials> {
        let plain = match credentials {
            Some(credentials) => Some(credentials.plain().ok_or_else(|| {
                NoCredentials("the credentials that were given are no text of one line".to_owned())
            })?),
            None => None,
        };
        *self.given.write().unwrap_or_else(PoisonError::into_inner) = plain;
        Ok(())
    }

    /// Whether some were given to this process.
    pub fn is_given(&self) -> bool {
        self.given.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Where the credentials are from that a request is signed with.
    pub fn from(&self) -> &str {
        match *self.given.read().unwrap_or_else(PoisonError::into_inner) {
            Some(_) => "what was given at run time",
            None => &self.from,
        }
    }

    async fn find(&self) -> Result<Arc<AwsCredential>, NoCredentials> {
        if let Some(given) = &*self.given.read().unwrap_or_else(PoisonError::into_inner) {
            return Ok(given.clone());
        }
        match &self.source {
            Source::Nowhere => Err(NoCredentials(
                "there are no credentials: set `storage.remote.credentials_file`, or AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY in the daemon's environment, or give them at run time"
                    .to_owned(),
            )),
            Source::Fixed(fixed) => fixed.clone().ok_or_else(|| {
                let from = &self.from;
                NoCredentials(format!("the credentials from {from} are no text of one line"))
            }),
            Source::File { path, profile, read } => {
                let mut read = read.lock().unwrap_or_else(PoisonError::into_inner);
                let no = |reason: String| {
                    NoCredentials(format!("{} gives no credentials: {reason}", path.display()))
                };
                let (file, stamp) = open(path).map_err(&no)?;
                if let Some((seen, credentials)) = &*read
                    && *seen == stamp
                {
                    return Ok(credentials.clone());
                }
                let credentials = read_profile(file, profile).map_err(&no)?;
                *read = Some((stamp, credentials.clone()));
                Ok(credentials)
            }
            Source::Instance(provider) => provider.get_credential().await.map_err(|_| {
                // What went wrong is in the library's text, with an answer that may have a key in it.
                NoCredentials(format!("{} gives no credentials: is there a role for this machine?", self.from))
            }),
        }
    }
}

#[async_trait]
impl CredentialProvider for Provider {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        self.find()
            .await
            .map_err(|error| object_store::Error::Generic { store: "S3", source: Box::new(error) })
    }
}

/// Opens a file that holds keys, unless others than its owner and group can read it or others than its owner change it.
fn open(path: &Path) -> Result<(File, Stamp), String> {
    let fail = |error: io::Error| format!("it cannot be read: {error}");
    let file = File::open(path).map_err(fail)?;
    let about = file.metadata().map_err(fail)?;
    if !about.is_file() {
        return Err("it is no file".to_owned());
    }
    let mode = about.mode() & 0o7777;
    if mode & 0o027 != 0 {
        return Err(format!(
            "others can read or change it (mode {mode:04o}): run `chmod 600 {}`",
            path.display()
        ));
    }
    let stamp = (about.dev(), about.ino(), about.size(), about.mtime(), about.mtime_nsec());
    Ok((file, stamp))
}

fn read_profile(file: File, profile: &str) -> Result<Arc<AwsCredential>, String> {
    let mut text = Zeroizing::new(String::new());
    file.take(FILE_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|error| format!("it cannot be read: {error}"))?;
    let found = parse(&text, profile)?;
    found.plain().ok_or_else(|| format!("profile {profile} has keys that are no text of one line"))
}

/// The keys of one profile of a file like `~/.aws/credentials`. Keys that are not ours are passed over, as tools of Amazon do.
fn parse(text: &str, profile: &str) -> Result<Credentials, String> {
    let (mut access, mut secret, mut token, mut seen, mut inside) =
        (None, None, None, false, false);
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            inside = name.trim() == profile;
            seen |= inside;
            continue;
        }
        let Some((key, value)) = line.split_once('=').filter(|_| inside) else { continue };
        let slot = match key.trim() {
            "aws_access_key_id" => &mut access,
            "aws_secret_access_key" => &mut secret,
            "aws_session_token" => &mut token,
            _ => continue,
        };
        let value = value.trim().as_bytes().to_vec();
        *slot = Some(SecretValue::new(value).map_err(|error| error.to_string())?);
    }
    if !seen {
        return Err(format!("it has no profile {profile}"));
    }
    let lacks = |key: &str| format!("its profile {profile} has no `{key}`");
    Ok(Credentials {
        access_key: access.ok_or_else(|| lacks("aws_access_key_id"))?,
        secret_key: secret.ok_or_else(|| lacks("aws_secret_access_key"))?,
        session_token: token,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const FILE: &str = "# keys\n[default]\naws_access_key_id = AKDEFAULT\naws_secret_access_key=one=two/+\n\n; more\n\
        [backup]\n region = x\n aws_secret_access_key = three\n aws_access_key_id = AKBACKUP\n aws_session_token = tok\n[bare]\n";

    fn provider(path: &Path, profile: &str) -> Provider {
        let transport =
            Transport::new(Duration::from_secs(1), Duration::from_secs(1)).expect("client");
        let source = CredentialsSource::File { path: path.to_owned(), profile: profile.to_owned() };
        Provider::new(&source, &transport).expect("provider")
    }

    fn find(provider: &Provider) -> Result<Arc<AwsCredential>, NoCredentials> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        runtime.block_on(provider.find())
    }

    fn write(path: &Path, text: &str, mode: u32) {
        std::fs::write(path, text).expect("write");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
    }

    #[test]
    fn a_profile_is_read_from_a_file_and_again_when_the_file_changes() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("credentials");
        write(&path, FILE, 0o600);
        let default = provider(&path, "default");
        let found = find(&default).expect("found");
        assert_eq!((found.key_id.as_str(), found.secret_key.as_str()), ("AKDEFAULT", "one=two/+"));
        assert_eq!(found.token, None);
        let backup = find(&provider(&path, "backup")).expect("found");
        assert_eq!((backup.key_id.as_str(), backup.token.as_deref()), ("AKBACKUP", Some("tok")));
        write(&path, &FILE.replace("AKDEFAULT", "AKROTATED"), 0o600);
        assert_eq!(find(&default).expect("found").key_id, "AKROTATED");
    }

    #[test]
    fn a_file_that_gives_nothing_says_why() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("credentials");
        let refused =
            |profile: &str| find(&provider(&path, profile)).expect_err("refused").to_string();
        assert!(refused("default").contains("No such file"));
        write(&path, FILE, 0o600);
        assert!(refused("other").contains("no profile other"));
        assert!(refused("bare").contains("no `aws_access_key_id`"));
        write(&path, FILE, 0o644);
        let told = refused("default");
        assert!(told.contains("mode 0644") && told.contains("chmod 600"), "{told}");
    }

    #[test]
    fn what_is_given_at_run_time_outranks_and_is_in_no_debug() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("credentials");
        write(&path, FILE, 0o600);
        let provider = provider(&path, "default");
        let secret = |text: &str| SecretValue::new(text.as_bytes().to_vec()).expect("small");
        let given = Credentials {
            access_key: secret("AKGIVEN"),
            secret_key: secret("hunter22hunter22"),
            session_token: Some(secret("tokentoken")),
        };
        provider.give(Some(&given)).expect("text");
        assert_eq!(find(&provider).expect("found").key_id, "AKGIVEN");
        assert!(provider.from().contains("run time"));
        let debug = format!("{provider:?} {given:?}");
        assert!(!debug.contains("hunter22") && !debug.contains("tokentoken"), "{debug}");
        let broken = Credentials { secret_key: secret("a\r\nHost: x"), ..given };
        assert!(provider.give(Some(&broken)).is_err(), "it would be part of a header");
        provider.give(None).expect("forgotten");
        assert_eq!(find(&provider).expect("found").key_id, "AKDEFAULT");
    }
}
