//! One HTTP request to an S3 server: bounded by progress instead of time, its answer told apart from its failures.
//!
//! reqwest bounds connecting and whole requests, and the time to an answer from the moment a request is begun; neither fits a
//! body that takes as long as the line needs. So bodies are handed over in pieces, and a request ends when no piece was taken,
//! or none came, for a while.
//!
//! Refusals become errors here, not statuses, since object_store shows its callers no status. Of its kinds of errors
//! `Request` makes it send the request again, whatever the method, and `Unknown` does not. Every request of ours may be sent
//! twice, conditional puts too, as what they leave is looked at afterwards.

use super::refusal::{Broken, Refusal};
use async_trait::async_trait;
use futures_util::stream;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::http::{HeaderMap, Method};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService,
};
use std::error::Error;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// A body is handed over in pieces of this size, in bytes; each is a sign of progress. At 10 KB/s one goes in 7 s.
const PIECE_BYTES: usize = 64 << 10;

/// Largest body of a refusal that is read. S3's have below 1 KiB.
const REFUSAL_BYTES_MAX: usize = 64 << 10;

/// The answer to the end of an upload in parts may take this many times as long as any other: servers put the parts together
/// before they say anything, s3s-fs without optimization more than 30 s for 2 GiB. The factor is chosen, not measured.
const COMPLETION_STALLS: u32 = 10;

const CHECKSUM: &str = "x-amz-checksum-sha256";

/// The SHA-256 of a content in base64, as it was sent and as the server says that it has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Checksums {
    pub sent: Option<String>,
    pub kept: Option<String>,
}

/// Makes requests of one kind of client.
#[derive(Debug, Clone)]
pub(super) struct Transport {
    client: reqwest::Client,
    /// How long nothing may go in either direction.
    stall: Duration,
}

impl Transport {
    pub fn new(connect: Duration, stall: Duration) -> Result<Transport, reqwest::Error> {
        let client = reqwest::Client::builder()
            .user_agent(concat!("belljar/", env!("CARGO_PKG_VERSION")))
            // A redirection is to another region, for which another signature is needed.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(connect)
            // So that a machine that is gone is noticed while an answer is waited for.
            .tcp_keepalive(Duration::from_secs(15))
            // Below the 20 s after which Amazon closes idle connections.
            .pool_idle_timeout(Duration::from_secs(15))
            .http1_only()
            .tls_backend_preconfigured(encryption())
            .build()?;
        Ok(Transport { client, stall })
    }
}

/// TLS with the machine's authorities, or those of SSL_CERT_FILE and SSL_CERT_DIR.
fn encryption() -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!("an authority for TLS cannot be read: {error}");
    }
    roots.add_parsable_certificates(found.certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring does TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

impl HttpConnector for Transport {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Transport {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let sent = text(&parts.headers, CHECKSUM);
        let asks = |what: &str| parts.uri.query().is_some_and(|query| query.contains(what));
        let completes = parts.method == Method::POST && asks("uploadId=");
        // object_store sends a request again whose answer does not come, and not one whose answer breaks off, objects excepted.
        let whole = parts.method == Method::POST || asks("list-type=");
        let stall = if completes { self.stall * COMPLETION_STALLS } else { self.stall };
        let url = parts.uri.to_string().parse().map_err(|error| {
            HttpError::new(HttpErrorKind::Unknown, Broken::Connect(format!("{error}")))
        })?;
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        let progress = Progress::default();
        *request.body_mut() = Some(match body.as_bytes() {
            // Small, and without a header that says its length.
            Some(whole) => whole.clone().into(),
            None => pieces(body, progress.clone()),
        });
        let answer = tokio::select! {
            answer = self.client.execute(request) => answer.map_err(|error| classify(&error))?,
            () = progress.stalls_for(stall) => return Err(stalled(stall)),
        };
        let (mut parts, body) = hyper::http::Response::<reqwest::Body>::from(answer).into_parts();
        let body = HttpResponseBody::new(Patient { body, stall: self.stall, waiting: None });
        if !parts.status.is_success() {
            let region = text(&parts.headers, "x-amz-bucket-region");
            let status = parts.status.as_u16();
            return Err(refused(Refusal::read(status, region.as_deref(), &beginning(body).await)));
        }
        if whole {
            let body = body.bytes().await?;
            // The only answer that may be a refusal in spite of its status, as it is begun before the work is done
            // (CompleteMultipartUpload in Amazon's API reference).
            if completes && let Some(refusal) = Refusal::in_success(&String::from_utf8_lossy(&body))
            {
                return Err(refused(refusal));
            }
            return Ok(HttpResponse::from_parts(parts, body.into()));
        }
        let kept = text(&parts.headers, CHECKSUM);
        if let (Some(sent), Some(kept)) = (&sent, &kept)
            && sent != kept
        {
            return Err(refused(Refusal::of_checksum(sent, kept)));
        }
        parts.extensions.insert(Checksums { sent, kept });
        Ok(HttpResponse::from_parts(parts, body))
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// As much of the body of a refusal as came, which may break off as anything may.
async fn beginning(body: HttpResponseBody) -> String {
    let mut body = std::pin::pin!(body);
    let mut start = Vec::new();
    while start.len() < REFUSAL_BYTES_MAX {
        match std::future::poll_fn(|context| body.as_mut().poll_frame(context)).await {
            Some(Ok(frame)) => start.extend(frame.into_data().unwrap_or_default()),
            Some(Err(_)) | None => break,
        }
    }
    start.truncate(REFUSAL_BYTES_MAX);
    String::from_utf8_lossy(&start).into_owned()
}

fn refused(refusal: Refusal) -> HttpError {
    match refusal.may_pass() {
        true => HttpError::new(HttpErrorKind::Request, refusal),
        false => HttpError::new(HttpErrorKind::Unknown, refusal),
    }
}

fn stalled(stall: Duration) -> HttpError {
    HttpError::new(HttpErrorKind::Request, Broken::Stalled(stall))
}

fn classify(error: &reqwest::Error) -> HttpError {
    let mut reason = error.to_string();
    let mut tls = false;
    let mut next = error.source();
    while let Some(error) = next {
        reason = error.to_string();
        tls |= error.is::<rustls::Error>();
        // What an io::Error wraps is not its source: that is the source of what it wraps.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    if tls {
        return HttpError::new(HttpErrorKind::Unknown, Broken::Tls(reason));
    }
    let broken = match (error.is_connect(), error.is_timeout()) {
        (true, true) => Broken::Connect("it does not answer".to_owned()),
        (true, false) => Broken::Connect(reason),
        (false, _) => Broken::Interrupted(reason),
    };
    HttpError::new(HttpErrorKind::Request, broken)
}

/// When a piece of a request's body was taken last. Locking: for reading and writing that moment.
#[derive(Debug, Clone)]
struct Progress(Arc<Mutex<Instant>>);

impl Default for Progress {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Progress {
    fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Returns when nothing was noted for this long.
    async fn stalls_for(&self, stall: Duration) {
        loop {
            let end = *self.0.lock().unwrap_or_else(PoisonError::into_inner) + stall;
            if end <= Instant::now() {
                return;
            }
            sleep_until(end).await;
        }
    }
}

/// The body in pieces, each noted when it is taken. The connection takes one when it has sent most of those before.
fn pieces(body: object_store::client::HttpRequestBody, progress: Progress) -> reqwest::Body {
    let state = (body, Bytes::new(), progress);
    reqwest::Body::wrap_stream(stream::unfold(state, |(mut body, mut rest, progress)| async {
        if rest.is_empty() {
            let frame =
                std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await?;
            match frame {
                Ok(frame) => rest = frame.into_data().unwrap_or_default(),
                Err(error) => return Some((Err(error), (body, rest, progress))),
            }
        }
        progress.note();
        let piece = rest.split_to(rest.len().min(PIECE_BYTES));
        Some((Ok(piece), (body, rest, progress)))
    }))
}

/// The body of an answer, which fails when nothing of it comes for a while. The time in which nobody asks does not count.
struct Patient {
    body: reqwest::Body,
    stall: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Body for Patient {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            self.waiting = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(|error| classify(&error))));
        }
        let stall = self.stall;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(stall)));
        ready!(waiting.as_mut().poll(context));
        self.waiting = None;
        Poll::Ready(Some(Err(stalled(stall))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
