//! Contents in a bucket of an S3 server. [Decision 13](../../../../../docs/decisions/0013-contents-in-s3.md) has the names of
//! objects and why things are as they are.
//!
//! The library is asynchronous and this contract is not, so each store has a runtime of its own, on which a call waits: never
//! from an async task. Of a content at most a few parts are in memory at a time.
//!
//! Locking: `leftovers` is held for a look or an exchange.

mod claim;
mod credentials;
mod probe;
mod refusal;
mod settings;
mod transport;
mod upload;

pub use credentials::{Credentials, CredentialsSource};
pub use settings::{Patience, S3Settings, S3SettingsError};

use crate::model::digest::Digest;
use crate::storage::remote::{
    RemoteAbilities, RemoteContent, RemoteError, RemoteFailure, RemoteStore,
};
use credentials::Provider;
use futures_util::TryStreamExt;
use jiff::Timestamp;
use object_store::aws::{AmazonS3, AmazonS3Builder, Checksum};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, GetOptions, GetRange, GetResult, HeaderMap, HeaderValue,
    ObjectMeta, ObjectStore, ObjectStoreExt, RetryConfig,
};
use refusal::{Place, Refusal, explain, found};
use std::fs::File;
use std::future::Future;
use std::io::Write;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Runtime;
use transport::{Checksums, Transport};
use upload::Leftover;
use uuid::Uuid;

/// Where contents are below the prefix.
const CONTENTS: &str = "blobs";

/// A bucket, or a part of one.
pub struct S3Store {
    name: String,
    settings: S3Settings,
    provider: Arc<Provider>,
    /// For everything that changes the bucket.
    writer: Arc<AmazonS3>,
    /// Asks for checksums with what it gets, in a header that a request to change something must not have.
    reader: AmazonS3,
    /// As the writer, with less patience.
    prober: AmazonS3,
    /// Whether the server was seen to refuse to overwrite.
    conditional_put: AtomicBool,
    leftovers: Mutex<Vec<Leftover>>,
    /// `None` only while the store is dropped.
    runtime: Option<Runtime>,
}

impl std::fmt::Debug for S3Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Store")
            .field("name", &self.name)
            .field("endpoint", &self.settings.endpoint)
            .finish_non_exhaustive()
    }
}

impl Drop for S3Store {
    /// A runtime that is dropped waits for its threads, which an async task that drops the store may not do.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl S3Store {
    /// Asks the server for nothing.
    pub fn new(settings: S3Settings) -> Result<S3Store, RemoteError> {
        let name = format!("s3://{}/{}", settings.bucket, settings.prefix);
        let refused = |reason: String| RemoteError::Store {
            doing: "use the settings",
            store: name.clone(),
            reason,
            kind: RemoteFailure::Configuration,
        };
        let Patience { connect, stall, retry, probe } = settings.patience;
        let transport =
            Transport::new(connect, stall).map_err(|error| refused(error.to_string()))?;
        // A machine without a cloud around it does not answer at that address at all.
        let brief = Duration::from_secs(2);
        let metadata = Transport::new(brief, brief).map_err(|error| refused(error.to_string()))?;
        let provider = Provider::new(&settings.credentials, &metadata)
            .map_err(|error| refused(error.to_string()))?;
        let provider = Arc::new(provider);
        let client = |patience: Duration, headers: HeaderMap| {
            AmazonS3Builder::new()
                .with_bucket_name(&settings.bucket)
                .with_region(&settings.region)
                .with_endpoint(settings.bucket_url())
                .with_virtual_hosted_style_request(!settings.path_style)
                .with_credentials(provider.clone())
                .with_checksum_algorithm(Checksum::SHA256)
                // One request deletes one object: servers differ in what they take for many.
                .with_disable_bulk_delete(true)
                .with_client_options(ClientOptions::new().with_default_headers(headers))
                .with_http_connector(transport.clone())
                .with_retry(RetryConfig {
                    backoff: BackoffConfig {
                        init_backoff: Duration::from_millis(100),
                        max_backoff: Duration::from_secs(5),
                        base: 2.0,
                    },
                    // The time ends it.
                    max_retries: usize::MAX,
                    retry_timeout: patience,
                })
                .build()
                .map_err(|error| refused(error.to_string()))
        };
        let mut with_checksum = HeaderMap::new();
        with_checksum.insert("x-amz-checksum-mode", HeaderValue::from_static("ENABLED"));
        let (writer, reader) = (client(retry, HeaderMap::new())?, client(retry, with_checksum)?);
        let prober = client(probe, HeaderMap::new())?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("s3")
            .enable_all()
            .build()
            .map_err(|source| RemoteError::Local { doing: "start threads for a store", source })?;
        Ok(S3Store {
            name,
            settings,
            provider,
            writer: Arc::new(writer),
            reader,
            prober,
            conditional_put: AtomicBool::new(false),
            leftovers: Mutex::default(),
            runtime: Some(runtime),
        })
    }

    /// Whether this process was given credentials at run time.
    pub fn has_credentials_given(&self) -> bool {
        self.provider.is_given()
    }

    /// Signs with these from the next request on, instead of what the settings say; `None` goes back to that.
    pub fn give_credentials(&self, credentials: Option<&Credentials>) -> Result<(), RemoteError> {
        self.provider.give(credentials).map_err(|refusal::NoCredentials(reason)| {
            let (doing, store) = ("sign requests", self.name.clone());
            RemoteError::Store { doing, store, reason, kind: RemoteFailure::Credentials }
        })
    }

    /// The server's address, without the bucket.
    pub fn endpoint(&self) -> &str {
        &self.settings.endpoint
    }

    fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.as_ref().expect("only a dropped store has none").block_on(work)
    }

    fn fail(&self, doing: &'static str) -> impl Fn(object_store::Error) -> RemoteError + '_ {
        move |error| {
            let S3Settings { endpoint, bucket, region, .. } = &self.settings;
            let credentials = self.provider.from();
            explain(doing, &self.name, &Place { endpoint, bucket, region, credentials }, &error)
        }
    }

    fn missing(&self, digest: &Digest) -> RemoteError {
        RemoteError::Missing { store: self.name.clone(), digest: *digest }
    }

    fn damaged(&self, digest: &Digest, reason: String) -> RemoteError {
        RemoteError::Damaged { store: self.name.clone(), digest: *digest, reason }
    }

    /// `<prefix>blobs/aa/<62 digits>`: a server that keeps objects in directories has not all of them in one.
    fn key(&self, digest: &Digest) -> Path {
        let hex = digest.hex();
        let (first, rest) = hex.split_at(2);
        Path::from(format!("{}{CONTENTS}/{first}/{rest}", self.settings.prefix))
    }

    /// Size and checksum of an object, as far as a question without a body in its answer can tell: every refusal is `None`
    /// that is not of a kind that passes.
    async fn look(&self, key: &Path) -> object_store::Result<Option<(u64, Checksums)>> {
        match self.ask(key, None, true).await {
            Ok(result) => {
                let checksums = result.extensions.get::<Checksums>().cloned().unwrap_or_default();
                Ok(Some((result.meta.size, checksums)))
            }
            Err(error) => match found::<Refusal>(&error) {
                Some(refusal) if !refusal.may_pass() => Ok(None),
                Some(_) | None => Err(error),
            },
        }
    }

    async fn ask(
        &self,
        key: &Path,
        range: Option<Range<u64>>,
        head: bool,
    ) -> object_store::Result<GetResult> {
        let range = range.map(GetRange::Bounded);
        self.reader.get_opts(key, GetOptions { range, head, ..GetOptions::default() }).await
    }

    async fn fetch(
        &self,
        digest: &Digest,
        range: Option<Range<u64>>,
        into: &mut dyn Write,
    ) -> Result<u64, RemoteError> {
        let fail = self.fail("get a content");
        let whole = range.is_none();
        let result = match self.ask(&self.key(digest), range, false).await {
            Ok(result) => result,
            Err(error) => match found::<Refusal>(&error) {
                Some(refusal) if refusal.is_missing_key() => return Err(self.missing(digest)),
                // What is asked for begins behind the content's end.
                Some(refusal) if refusal.status == 416 => return Ok(0),
                Some(_) | None => return Err(fail(error)),
            },
        };
        let size = result.range.end.saturating_sub(result.range.start);
        let (mut written, mut hasher) = (0_u64, blake3::Hasher::new());
        let mut stream = result.into_stream();
        while let Some(bytes) = stream.try_next().await.map_err(&fail)? {
            into.write_all(&bytes)
                .map_err(|source| RemoteError::Local { doing: "write a content", source })?;
            if whole {
                hasher.update(&bytes);
            }
            written += bytes.len() as u64;
        }
        if written != size {
            return Err(self.damaged(digest, format!("{written} bytes came of {size}")));
        }
        if whole && hasher.finalize() != *digest.as_bytes() {
            return Err(self.damaged(digest, "their digest is another".to_owned()));
        }
        Ok(written)
    }

    /// The content that an object is; nothing for what we did not put there.
    fn content(&self, object: &ObjectMeta) -> Option<RemoteContent> {
        let place = format!("{}{CONTENTS}/", self.settings.prefix);
        let (first, rest) = object.location.as_ref().strip_prefix(&place)?.split_once('/')?;
        let digest = format!("blake3:{first}{rest}").parse().ok()?;
        // The same digits in capitals are another object.
        if self.key(&digest) != object.location {
            return None;
        }
        let changed = object.last_modified;
        let nanoseconds = i32::try_from(changed.timestamp_subsec_nanos()).ok()?;
        let stored_at = Timestamp::new(changed.timestamp(), nanoseconds).ok()?;
        Some(RemoteContent { digest, size: object.size, stored_at })
    }
}

impl RemoteStore for S3Store {
    fn name(&self) -> &str {
        &self.name
    }

    fn put(&self, digest: &Digest, content: &File, size: u64) -> Result<(), RemoteError> {
        self.wait(self.upload(digest, content, size))
    }

    fn get(
        &self,
        digest: &Digest,
        range: Option<Range<u64>>,
        into: &mut dyn Write,
    ) -> Result<u64, RemoteError> {
        match range {
            // No request can ask for nothing.
            Some(range) if range.is_empty() => match self.size(digest)? {
                Some(_) => Ok(0),
                None => Err(self.missing(digest)),
            },
            range => self.wait(self.fetch(digest, range, into)),
        }
    }

    fn size(&self, digest: &Digest) -> Result<Option<u64>, RemoteError> {
        let fail = self.fail("look for a content");
        let key = self.key(digest);
        self.wait(async {
            if let Some((size, _)) = self.look(&key).await.map_err(&fail)? {
                return Ok(Some(size));
            }
            // Refusals of HEAD have no body that says what is missing, the content or the bucket.
            match self.ask(&key, Some(0..1), false).await {
                Ok(result) => Ok(Some(result.meta.size)),
                Err(error) => match found::<Refusal>(&error) {
                    Some(refusal) if refusal.is_missing_key() => Ok(None),
                    Some(_) | None => Err(fail(error)),
                },
            }
        })
    }

    fn delete(&self, digest: &Digest) -> Result<(), RemoteError> {
        let key = self.key(digest);
        match self.wait(self.writer.delete(&key)) {
            Ok(()) => Ok(()),
            Err(error) if found::<Refusal>(&error).is_some_and(Refusal::is_missing_key) => Ok(()),
            Err(error) => Err(self.fail("delete a content")(error)),
        }
    }

    fn list(&self, first: u8, each: &mut dyn FnMut(RemoteContent)) -> Result<(), RemoteError> {
        let fail = self.fail("list contents");
        let place = Path::from(format!("{}{CONTENTS}/{first:02x}", self.settings.prefix));
        self.wait(async {
            let mut objects = self.writer.list(Some(&place));
            while let Some(object) = objects.try_next().await.map_err(&fail)? {
                if let Some(content) = self.content(&object) {
                    each(content);
                }
            }
            Ok(())
        })
    }

    fn claim(&self, catalog: Uuid) -> Result<(), RemoteError> {
        self.wait(self.claim_for(catalog))
    }

    fn check(&self) -> Result<RemoteAbilities, RemoteError> {
        let abilities = self.wait(self.probe())?;
        self.conditional_put.store(abilities.conditional_put, Ordering::Relaxed);
        Ok(abilities)
    }
}
