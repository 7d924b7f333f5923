//! The API as a client meets it: a daemon inside this process, its real sockets, requests as they go over the wire.
//!
//! Needs: nothing but a temporary directory; no request here mounts or runs anything.

use belljar::client::{Client, ClientError};
use belljar::config::Config;
use belljar::config::paths::{Paths, Surroundings};
use belljar::daemon::Embedded;
use belljar::wire::problem::Problem;
use belljar::wire::workspace::{MountRequest, WorkspaceRequest};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

struct Daemon {
    directory: tempfile::TempDir,
    embedded: Option<Embedded>,
    socket: PathBuf,
}

impl Daemon {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let config = Config {
            state_dir: Some(directory.path().join("state")),
            runtime_dir: Some(directory.path().join("run")),
            ..Config::default()
        };
        let paths = Paths::resolve(&config, &Surroundings::ours()).expect("resolves");
        let embedded = Embedded::start(&config, &paths).expect("starts");
        let socket = embedded.socket().to_owned();
        Self { directory, embedded: Some(embedded), socket }
    }

    fn client(&self) -> Client {
        Client::at(&self.socket)
    }

    /// One request as bytes; the answer's status, headers and body.
    fn exchange(&self, method: &str, path: &str, body: &str) -> (u16, String, String) {
        let mut stream = UnixStream::connect(&self.socket).expect("connects");
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .expect("sends");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("has a head");
        let status =
            head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("has a status");
        (status, head.to_lowercase(), body.to_owned())
    }

    fn check_problem(
        &self,
        method: &str,
        path: &str,
        body: &str,
        status: u16,
        code: &str,
    ) -> String {
        let (got, head, body) = self.exchange(method, path, body);
        assert_eq!(got, status, "{method} {path}: {body}");
        assert!(head.contains("content-type: application/problem+json"), "{head}");
        let problem: Problem = serde_json::from_str(&body).expect("a problem document");
        assert_eq!((problem.status, problem.code.as_str()), (status, code), "{}", problem.detail);
        problem.detail
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(embedded) = self.embedded.take() {
            embedded.stop();
        }
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}

#[test]
fn a_daemon_says_what_it_is() {
    let daemon = Daemon::start();
    assert_eq!(daemon.exchange("GET", "/healthz", "").0, 200);
    assert_eq!(daemon.exchange("GET", "/readyz", "").0, 200);
    assert!(daemon.exchange("GET", "/version", "").2.contains(env!("CARGO_PKG_VERSION")));
    let status = block_on(daemon.client().status()).expect("answers");
    assert!(status.embedded);
    assert_eq!(status.pid, std::process::id());
    assert!(daemon.exchange("GET", "/v1/daemon", "").1.contains("cache-control: no-store"));
}

#[test]
fn a_daemon_that_stopped_leaves_no_socket_and_no_directory() {
    let mut daemon = Daemon::start();
    daemon.embedded.take().expect("runs").stop();
    assert!(!daemon.socket.exists());
    let instances = daemon.directory.path().join("run/instances");
    assert_eq!(std::fs::read_dir(instances).expect("list").count(), 0);
}

#[test]
fn four_daemons_share_a_state_directory() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let config = Config {
        state_dir: Some(directory.path().join("state")),
        runtime_dir: Some(directory.path().join("run")),
        ..Config::default()
    };
    let paths = Paths::resolve(&config, &Surroundings::ours()).expect("resolves");
    let daemons: Vec<Embedded> =
        (0..4).map(|_| Embedded::start(&config, &paths).expect("starts")).collect();
    for daemon in &daemons {
        block_on(Client::at(daemon.socket()).status()).expect("answers");
    }
    daemons.into_iter().for_each(Embedded::stop);
}

#[test]
fn every_bad_request_is_a_problem_that_names_the_mistake() {
    let daemon = Daemon::start();
    let detail = daemon.check_problem("GET", "/v2/x", "", 404, "no-such-route");
    assert!(detail.contains("/v2/x"), "{detail}");
    daemon.check_problem("PATCH", "/v1/workspaces", "", 405, "method-not-allowed");
    let detail = daemon.check_problem("POST", "/v1/workspaces", "{", 400, "invalid-request");
    assert!(detail.contains("request body"), "{detail}");
    let body = r#"{"mount": []}"#;
    let detail = daemon.check_problem("POST", "/v1/workspaces", body, 400, "invalid-request");
    assert!(detail.contains("`mount`") && detail.contains("did you mean `mounts`"), "{detail}");
    let path = "/v1/workspaces/w/secrets/A%3DB";
    let detail = daemon.check_problem("PUT", path, r#"{"value":""}"#, 400, "invalid-request");
    assert!(detail.contains("secret name \"A=B\" is not allowed"), "{detail}");
    let detail = daemon.check_problem("GET", "/v1/workspaces/a%2Fb", "", 400, "invalid-request");
    assert!(detail.contains("workspace id \"a/b\" is not allowed"), "{detail}");
    let detail = daemon.check_problem("GET", "/v1/artifacts?typ=x", "", 400, "invalid-request");
    assert!(detail.contains("did you mean `type`"), "{detail}");
    let detail =
        daemon.check_problem("GET", "/v1/artifacts?limit=5000", "", 400, "invalid-request");
    assert!(detail.contains("1 to 1000"), "{detail}");
    let detail = daemon.check_problem("GET", "/v1/runs/x/receipt", "", 400, "invalid-request");
    assert!(!detail.is_empty());
    daemon.check_problem("GET", "/v1/workspaces/nobody", "", 404, "workspace-not-found");
}

#[test]
fn a_body_above_the_bound_is_refused_with_the_bound() {
    let daemon = Daemon::start();
    let mut stream = UnixStream::connect(&daemon.socket).expect("connects");
    // The announced length is enough: nobody reads the rest.
    write!(stream, "POST /v1/workspaces HTTP/1.1\r\nhost: x\r\ncontent-length: 9000000\r\n\r\n")
        .expect("sends");
    let mut answer = [0; 2048];
    let count = stream.read(&mut answer).expect("answers");
    let answer = String::from_utf8_lossy(&answer[..count]);
    assert!(answer.contains("413") && answer.contains("8MiB"), "{answer}");
}

#[test]
fn a_mount_needs_its_descriptor_and_each_descriptor_serves_once() {
    let daemon = Daemon::start();
    let client = daemon.client();
    let root = std::fs::File::open(daemon.directory.path()).expect("open");
    let mount = |name: &str, descriptor| MountRequest {
        cache: Default::default(),
        suid: Default::default(),
        name: name.parse().expect("legal"),
        mode: Default::default(),
        path: daemon.directory.path().display().to_string(),
        descriptor,
        artifacts: true,
    };
    let request = |mounts, descriptors| WorkspaceRequest {
        id: None,
        mounts,
        secrets: Default::default(),
        env: Default::default(),
        descriptors,
        lease: false,
    };
    let refusal = |request: &WorkspaceRequest| match block_on(client.create_workspace(request)) {
        Err(ClientError::Problem(problem)) => problem.detail,
        other => panic!("{other:?}"),
    };
    let detail = refusal(&request(vec![mount("a", 0)], None));
    assert!(detail.contains("mount a") && detail.contains("companion"), "{detail}");
    let (token, _leash) = client.send_descriptors(&[root.as_fd()]).expect("accepted");
    let twice = request(vec![mount("a", 0), mount("b", 0)], Some(token.clone()));
    assert!(refusal(&twice).contains("mount b is used twice"));
    // The request above has taken the token.
    let again = request(vec![mount("a", 0)], Some(token));
    assert!(refusal(&again).contains("token is not known"));
    let (token, _leash) = client.send_descriptors(&[root.as_fd()]).expect("accepted");
    let same = request(vec![mount("a", 0), mount("a", 0)], Some(token));
    assert!(refusal(&same).contains("mount name a is used twice"));
}
