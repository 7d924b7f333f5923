//! The API of a daemon as typed calls over its Unix socket.
//!
//! Before anything is sent, the daemon behind a socket must be this user's or root's: descriptors and secrets go through
//! it. One connection per call; a call that waits for a run then never stands in the way of one that signals it.

mod artifacts;
mod cleanup;
mod storage;

use crate::model::id::{BackendId, RunId, SecretName, VariableName, WorkspaceId};
use crate::sys::scm_rights;
use crate::sys::unix_socket::{Address, connect_seqpacket};
use crate::wire::backend::BACKEND_HEADER;
use crate::wire::daemon::{COMPANION_SUFFIX, CompanionAnswer, DESCRIPTORS_MAX, DaemonStatus};
use crate::wire::life::Event;
use crate::wire::problem::Problem;
use crate::wire::run::{Receipt, RunRequest, RunStarted, SignalRequest};
use crate::wire::workspace::{
    DescriptorToken, Environment, SecretList, SecretRequest, VariableRequest, Workspace,
    WorkspaceList, WorkspaceRequest,
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::geteuid;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::Zeroizing;

/// Largest answer that is not content. A page of 1,000 artifacts is below 2 MiB.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Patience with calls that the daemon answers at once. Mounting, the slowest, takes milliseconds; a machine that swaps
/// takes longer. Chosen, not measured.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a path segment may carry as it is (RFC 3986, `pchar` without its sub-delimiters).
const SEGMENT: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'@').remove(b':');

/// Why a call gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no daemon answers at {}", socket.display())]
    NotRunning {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "the socket {} belongs to uid {owner}, neither you nor root: not using it, because what is sent there could be read by that user; set BELLJAR_SOCKET to your own daemon's socket, or unset it",
        socket.display()
    )]
    Foreign { socket: PathBuf, owner: u32 },
    #[error(
        "{} may not be opened by you: join the group that it belongs to (usually `belljar`), or run a daemon of your own",
        socket.display()
    )]
    NotAllowed {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the daemon at {} went away while {doing}", socket.display())]
    Lost {
        socket: PathBuf,
        doing: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the daemon at {} has not answered for {} s while {doing}", socket.display(), PATIENCE.as_secs())]
    Silent { socket: PathBuf, doing: String },
    #[error("send {count} descriptors to the daemon: {reason}")]
    Descriptors { count: usize, reason: String },
    #[error("{}", .0.detail)]
    Problem(Problem),
    #[error(
        "the daemon's answer while {doing} is not understood ({reason}): are `belljar` and `belljard` of the same version?"
    )]
    Answer { doing: String, reason: String },
}

impl ClientError {
    /// Whether there is no daemon to talk to.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::NotRunning { .. } | Self::Foreign { .. } | Self::NotAllowed { .. } => true,
            Self::Lost { .. }
            | Self::Silent { .. }
            | Self::Descriptors { .. }
            | Self::Problem(_)
            | Self::Answer { .. } => false,
        }
    }
}

/// Keeps a set of descriptors alive in the daemon; for a run, dropping it ends the run.
#[derive(Debug)]
pub struct Leash {
    _connection: OwnedFd,
}

/// A daemon, by its socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    /// The backend whose artifacts the calls are about.
    backend: Option<BackendId>,
}

/// The content of an artifact, on its way.
#[derive(Debug)]
pub struct Content {
    pub size: u64,
    body: Incoming,
}

impl Content {
    /// The next piece; `None` at the end.
    pub async fn chunk(&mut self) -> io::Result<Option<Bytes>> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame.map_err(io::Error::other)?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

/// Events, on their way.
#[derive(Debug)]
pub struct EventStream {
    body: Incoming,
    /// What arrived and is not a whole event yet.
    pending: Vec<u8>,
}

impl EventStream {
    /// The next event; `None` at the end.
    pub async fn next(&mut self) -> io::Result<Option<Event>> {
        loop {
            while let Some(end) = self.pending.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = self.pending.drain(..end + 2).collect();
                let data =
                    block.split(|&byte| byte == b'\n').find_map(|l| l.strip_prefix(b"data: "));
                if let Some(data) = data {
                    return serde_json::from_slice(data).map(Some).map_err(io::Error::other);
                }
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            if let Ok(data) = frame.map_err(io::Error::other)?.into_data() {
                self.pending.extend_from_slice(&data);
            }
        }
    }
}

impl Client {
    pub fn at(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into(), backend: None }
    }

    /// The same for artifacts of a backend.
    pub fn with_backend(self, backend: Option<BackendId>) -> Self {
        Self { backend, ..self }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whether somebody trustworthy listens; nothing is sent.
    pub fn probe(&self) -> Result<(), ClientError> {
        self.check_owner_of_file()?;
        let stream = Address::of(&self.socket)
            .and_then(|address| UnixStream::connect(address.path()))
            .map_err(|source| self.unreachable(source))?;
        self.check_peer(&stream)
    }

    /// Says more than a refused connection would when the file is someone else's.
    fn check_owner_of_file(&self) -> Result<(), ClientError> {
        match std::fs::symlink_metadata(&self.socket) {
            Ok(found) if !is_trusted(found.uid()) => {
                Err(ClientError::Foreign { socket: self.socket.clone(), owner: found.uid() })
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// The file's owner could be exchanged between a look and a connection; the peer's credentials cannot (unix(7)).
    fn check_peer(&self, stream: impl AsFd) -> Result<(), ClientError> {
        let peer = getsockopt(&stream, sockopt::PeerCredentials)
            .map_err(|errno| self.unreachable(errno.into()))?;
        if is_trusted(peer.uid()) {
            return Ok(());
        }
        Err(ClientError::Foreign { socket: self.socket.clone(), owner: peer.uid() })
    }

    fn unreachable(&self, source: io::Error) -> ClientError {
        let socket = self.socket.clone();
        match source.kind() {
            io::ErrorKind::PermissionDenied => ClientError::NotAllowed { socket, source },
            _ => ClientError::NotRunning { socket, source },
        }
    }

    /// Sends descriptors over the companion socket. Blocks, for as long as the daemon takes to answer a local message.
    pub fn send_descriptors(
        &self,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(DescriptorToken, Leash), ClientError> {
        let count = descriptors.len();
        let fail = |reason: String| ClientError::Descriptors { count, reason };
        if count > DESCRIPTORS_MAX {
            return Err(fail(format!(
                "at most {DESCRIPTORS_MAX} fit into one request; use fewer mount points and exposed paths"
            )));
        }
        self.check_owner_of_file()?;
        let mut companion = OsString::from(self.socket.as_os_str());
        companion.push(COMPANION_SUFFIX);
        let connection =
            connect_seqpacket(Path::new(&companion)).map_err(|source| self.unreachable(source))?;
        self.check_peer(&connection)?;
        let patience = TimeVal::seconds(10);
        setsockopt(&connection, sockopt::ReceiveTimeout, &patience)
            .map_err(|errno| fail(errno.to_string()))?;
        scm_rights::send(&connection, b"d", descriptors)
            .map_err(|error| fail(error.to_string()))?;
        // A token or one sentence.
        let mut answer = [0; 4096];
        let message = scm_rights::receive(&connection, &mut answer)
            .map_err(|error| fail(format!("no answer: {error}")))?;
        if message.length == 0 {
            return Err(fail("the daemon closed the connection".to_owned()));
        }
        match serde_json::from_slice(&answer[..message.length]) {
            Ok(CompanionAnswer::Token(token)) => Ok((token, Leash { _connection: connection })),
            Ok(CompanionAnswer::Refused(reason)) => Err(fail(reason)),
            Err(error) => Err(fail(format!("answer not understood: {error}"))),
        }
    }

    pub async fn status(&self) -> Result<DaemonStatus, ClientError> {
        self.get("asking for its state", "/v1/daemon").await
    }

    pub async fn create_workspace(
        &self,
        request: &WorkspaceRequest,
    ) -> Result<Workspace, ClientError> {
        self.send("creating a workspace", Method::POST, "/v1/workspaces", request).await
    }

    pub async fn workspaces(&self) -> Result<WorkspaceList, ClientError> {
        self.get("listing workspaces", "/v1/workspaces").await
    }

    pub async fn workspace(&self, id: &WorkspaceId) -> Result<Workspace, ClientError> {
        self.get("showing a workspace", &format!("/v1/workspaces/{id}")).await
    }

    pub async fn remove_workspace(&self, id: &WorkspaceId) -> Result<(), ClientError> {
        self.delete("removing a workspace", &format!("/v1/workspaces/{id}")).await
    }

    pub async fn set_secret(
        &self,
        id: &WorkspaceId,
        name: &SecretName,
        secret: &SecretRequest,
    ) -> Result<(), ClientError> {
        let path = format!("/v1/workspaces/{id}/secrets/{name}");
        self.send_only("setting a secret", Method::PUT, &path, secret).await
    }

    pub async fn secrets(&self, id: &WorkspaceId) -> Result<SecretList, ClientError> {
        self.get("listing secrets", &format!("/v1/workspaces/{id}/secrets")).await
    }

    pub async fn remove_secret(
        &self,
        id: &WorkspaceId,
        name: &SecretName,
    ) -> Result<(), ClientError> {
        self.delete("removing a secret", &format!("/v1/workspaces/{id}/secrets/{name}")).await
    }

    pub async fn set_variable(
        &self,
        id: &WorkspaceId,
        name: &VariableName,
        value: String,
    ) -> Result<(), ClientError> {
        let path = format!("/v1/workspaces/{id}/env/{name}");
        self.send_only("setting a variable", Method::PUT, &path, &VariableRequest { value }).await
    }

    pub async fn environment(&self, id: &WorkspaceId) -> Result<Environment, ClientError> {
        self.get("listing variables", &format!("/v1/workspaces/{id}/env")).await
    }

    pub async fn remove_variable(
        &self,
        id: &WorkspaceId,
        name: &VariableName,
    ) -> Result<(), ClientError> {
        self.delete("removing a variable", &format!("/v1/workspaces/{id}/env/{name}")).await
    }

    pub async fn start_run(&self, request: &RunRequest) -> Result<RunStarted, ClientError> {
        self.send("starting a run", Method::POST, "/v1/runs", request).await
    }

    /// Waits until the run has ended and its artifacts are registered.
    pub async fn receipt(&self, run: RunId) -> Result<Receipt, ClientError> {
        let doing = "waiting for the run";
        let answer = self
            .exchange(doing, Method::GET, &format!("/v1/runs/{run}/receipt"), Bytes::new())
            .await?;
        self.json(doing, answer).await
    }

    pub async fn signal(&self, run: RunId, signal: i32) -> Result<(), ClientError> {
        let path = format!("/v1/runs/{run}/signal");
        self.send_only("sending a signal", Method::POST, &path, &SignalRequest { signal }).await
    }

    async fn get<T: DeserializeOwned>(&self, doing: &str, path: &str) -> Result<T, ClientError> {
        let answer = self.patient(doing, Method::GET, path, Bytes::new()).await?;
        self.json(doing, answer).await
    }

    async fn delete(&self, doing: &str, path: &str) -> Result<(), ClientError> {
        self.patient(doing, Method::DELETE, path, Bytes::new()).await.map(|_| ())
    }

    async fn send<T: DeserializeOwned>(
        &self,
        doing: &str,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let answer = self.patient(doing, method, path, encode(doing, body)?).await?;
        self.json(doing, answer).await
    }

    async fn send_only(
        &self,
        doing: &str,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<(), ClientError> {
        self.patient(doing, method, path, encode(doing, body)?).await.map(|_| ())
    }

    /// An exchange that must not take long.
    async fn patient(
        &self,
        doing: &str,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        match tokio::time::timeout(PATIENCE, self.exchange(doing, method, path, body)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                Err(ClientError::Silent { socket: self.socket.clone(), doing: doing.to_owned() })
            }
        }
    }

    async fn exchange(
        &self,
        doing: &str,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let lost = |source: hyper::Error| ClientError::Lost {
            socket: self.socket.clone(),
            doing: doing.to_owned(),
            source: source.into(),
        };
        self.check_owner_of_file()?;
        let address = Address::of(&self.socket).map_err(|source| self.unreachable(source))?;
        let stream = tokio::net::UnixStream::connect(address.path())
            .await
            .map_err(|source| self.unreachable(source))?;
        self.check_peer(&stream)?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "belljar")
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(backend) = &self.backend {
            request = request.header(BACKEND_HEADER, backend.as_str());
        }
        let request = request
            .body(Full::new(body))
            .expect("every path is built from checked identifiers and encoded segments");
        let answer = sender.send_request(request).await.map_err(lost)?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        Err(self.problem(doing, answer).await)
    }

    async fn problem(&self, doing: &str, answer: Response<Incoming>) -> ClientError {
        let status = answer.status();
        match self.json::<Problem>(doing, answer).await {
            Ok(problem) => ClientError::Problem(problem),
            Err(_) => ClientError::Answer { doing: doing.to_owned(), reason: describe(status) },
        }
    }

    async fn json<T: DeserializeOwned>(
        &self,
        doing: &str,
        answer: Response<Incoming>,
    ) -> Result<T, ClientError> {
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(
            |source| ClientError::Lost {
                socket: self.socket.clone(),
                doing: doing.to_owned(),
                source,
            },
        )?;
        serde_json::from_slice(&body.to_bytes()).map_err(|error| ClientError::Answer {
            doing: doing.to_owned(),
            reason: error.to_string(),
        })
    }
}

fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}

fn describe(status: StatusCode) -> String {
    format!("HTTP status {status} without a problem document")
}

fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

/// `?a=b&c=d`, or nothing.
fn query_string(query: &impl Serialize) -> String {
    let serde_json::Value::Object(fields) =
        serde_json::to_value(query).expect("a query has text keys only")
    else {
        return String::new();
    };
    let mut text = String::new();
    for (key, value) in fields {
        let value = match value {
            serde_json::Value::String(value) => value,
            other => other.to_string(),
        };
        text.push(if text.is_empty() { '?' } else { '&' });
        text.push_str(&format!("{key}={}", segment(&value)));
    }
    text
}

/// Renders a body in a buffer that is zeroed when it is dropped: it may hold secrets. The length is counted first, so
/// that the buffer never grows and leaves a copy behind.
fn encode(doing: &str, body: &impl Serialize) -> Result<Bytes, ClientError> {
    struct Counter(usize);
    impl io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let fail = |error: serde_json::Error| ClientError::Answer {
        doing: doing.to_owned(),
        reason: error.to_string(),
    };
    let mut counter = Counter(0);
    serde_json::to_writer(&mut counter, body).map_err(fail)?;
    let mut buffer = Zeroizing::new(Vec::with_capacity(counter.0));
    serde_json::to_writer(&mut *buffer, body).map_err(fail)?;
    Ok(Bytes::from_owner(buffer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::artifact::ArtifactQuery;
    use crate::wire::list::List;

    #[test]
    fn a_query_is_encoded_and_leaves_out_what_was_not_asked() {
        let query = ArtifactQuery {
            artifact_type: List::of(vec!["a b&c".to_owned()]),
            limit: Some(5),
            ..ArtifactQuery::default()
        };
        let text = query_string(&query);
        assert!(text.contains("type=a%20b%26c") && text.contains("limit=5"), "{text}");
        assert!(!text.contains("graph"), "{text}");
    }

    #[test]
    fn nobody_behind_the_socket_is_an_error_that_names_it() {
        let client = Client::at("/nonexistent/belljar.sock");
        let error = client.probe().expect_err("nobody");
        assert!(error.is_unreachable());
        assert!(error.to_string().contains("/nonexistent/belljar.sock"), "{error}");
    }

    #[test]
    fn a_socket_of_another_user_is_refused_before_anything_is_sent() {
        if !nix::unistd::geteuid().is_root() {
            // Only root can give a file away; the peer check below it is the same comparison.
            assert!(!is_trusted(geteuid().as_raw() + 1));
            return;
        }
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("s.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path).expect("bind");
        Client::at(&path).probe().expect("our own is fine");
        std::os::unix::fs::chown(&path, Some(12345), None).expect("chown");
        let error = Client::at(&path).probe().expect_err("foreign").to_string();
        assert!(error.contains("12345") && error.contains("BELLJAR_SOCKET"), "{error}");
        let error = Client::at(&path).send_descriptors(&[]).expect_err("foreign");
        assert!(error.is_unreachable(), "{error}");
    }

    #[test]
    fn more_descriptors_than_a_message_holds_are_refused_with_the_bound() {
        let null = std::fs::File::open("/dev/null").expect("open");
        let many = vec![null.as_fd(); DESCRIPTORS_MAX + 1];
        let error = Client::at("/nonexistent").send_descriptors(&many).expect_err("too many");
        assert!(error.to_string().contains("at most 128"), "{error}");
    }
}
