//! Real S3 servers on loopback: s3s-fs in this process, moto and garage as processes of their own.

use belljar::secret::SecretValue;
use belljar::storage::blob::s3::{Credentials, CredentialsSource, Patience, S3Settings, S3Store};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub const ACCESS: &str = "AKIABELLJARTEST00001";
pub const SECRET: &str = "hunter22/hunter22+hunter22+hunter22hunter";
pub const BUCKET: &str = "artifacts";

/// A server that is not optimized needs its time to end an upload, on a busy machine.
pub const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(5),
    stall: Duration::from_secs(20),
    retry: Duration::from_secs(20),
    probe: Duration::from_secs(20),
};

/// For what never comes right.
pub const IMPATIENCE: Patience = Patience {
    connect: Duration::from_secs(2),
    stall: Duration::from_millis(1_500),
    retry: Duration::from_secs(3),
    probe: Duration::from_secs(3),
};

pub fn impatient(endpoint: String) -> S3Settings {
    S3Settings { patience: IMPATIENCE, ..settings(endpoint) }
}

pub fn credentials(access: &str, secret: &str) -> Credentials {
    let value = |text: &str| SecretValue::new(text.as_bytes().to_vec()).expect("small");
    Credentials { access_key: value(access), secret_key: value(secret), session_token: None }
}

pub fn settings(endpoint: String) -> S3Settings {
    S3Settings {
        bucket: BUCKET.to_owned(),
        prefix: "team/a/".to_owned(),
        region: "us-east-1".to_owned(),
        endpoint,
        path_style: true,
        credentials: CredentialsSource::Environment(credentials(ACCESS, SECRET)),
        patience: PATIENCE,
    }
}

pub fn store(settings: S3Settings) -> S3Store {
    S3Store::new(settings).expect("legal settings")
}

/// s3s-fs, whose objects are the files of a directory. Dropping its runtime cuts every connection, as a kill does.
pub struct S3s {
    pub address: SocketAddr,
    directory: TempDir,
    runtime: Option<Runtime>,
}

impl Drop for S3s {
    fn drop(&mut self) {
        self.kill();
    }
}

impl S3s {
    pub fn start() -> S3s {
        let directory = tempfile::tempdir().expect("temporary directory");
        std::fs::create_dir(directory.path().join(BUCKET)).expect("bucket");
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let runtime = Some(serve(listener, directory.path()));
        S3s { address, directory, runtime }
    }

    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }

    /// On the same port, with the same directory.
    pub fn start_again(&mut self) {
        assert!(self.runtime.is_none(), "it was killed");
        // std sets SO_REUSEADDR, so connections in TIME_WAIT are no hindrance.
        let listener = TcpListener::bind(self.address).expect("bind the same port");
        self.runtime = Some(serve(listener, self.directory.path()));
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn settings(&self) -> S3Settings {
        settings(self.url())
    }

    pub fn bucket(&self) -> PathBuf {
        self.directory.path().join(BUCKET)
    }

    /// What uploads in parts left behind: s3s-fs keeps all of them beside the buckets until they are completed or given up.
    pub fn leftovers(&self) -> Vec<String> {
        std::fs::read_dir(self.directory.path())
            .expect("readable")
            .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
            .filter(|name| name.contains("upload"))
            .collect()
    }
}

fn serve(listener: TcpListener, directory: &Path) -> Runtime {
    let mut service = s3s::service::S3ServiceBuilder::new(
        s3s_fs::FileSystem::new(directory).expect("a directory"),
    );
    service.set_auth(s3s::auth::SimpleAuth::from_single(ACCESS, SECRET));
    let service = service.build();
    listener.set_nonblocking(true).expect("non-blocking");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("runtime");
    runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).expect("listener");
        loop {
            let (socket, _) = listener.accept().await.expect("accept");
            let io = hyper_util::rt::TokioIo::new(socket);
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(io, service.clone());
            // Who hangs up in the middle is part of some tests.
            tokio::spawn(async move { drop(connection.await) });
        }
    });
    runtime
}

/// A server that is a process, ended by its number when the test ends.
pub struct Process {
    pub endpoint: String,
    child: Child,
    _directory: TempDir,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program of this project's tools or on the path.
fn program(name: &str, how: &str) -> PathBuf {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools");
    let ours = [tools.join("bin").join(name), tools.join("moto/bin").join(name)];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = ours.into_iter().chain(std::env::split_paths(&path).map(|dir| dir.join(name)));
    let missing = || panic!("{name} is not here; scripts/test installs it, or by hand: {how}");
    found.into_iter().find(|path| path.is_file()).unwrap_or_else(missing)
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.local_addr().expect("address").port()
}

/// Starts it so that it also ends with the thread that started it, and waits until it takes connections.
fn start(
    program: &Path,
    arguments: &[&str],
    port: u16,
    directory: TempDir,
    variables: &[(&str, &str)],
) -> Process {
    let log = std::fs::File::create(directory.path().join("log")).expect("log");
    let mut child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .arg(program)
        .args(arguments)
        .envs(variables.iter().copied())
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("setpriv, which is in the Debian package util-linux");
    let deadline = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let over = child.try_wait().expect("wait").is_some() || Instant::now() > deadline;
        if over {
            let said = std::fs::read_to_string(directory.path().join("log")).unwrap_or_default();
            let _ = child.kill();
            panic!("{} does not serve; it says: {said}", program.display());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Process { endpoint: format!("http://127.0.0.1:{port}"), child, _directory: directory }
}

/// moto with signatures checked: after its first three requests, by which a user with keys is made.
pub fn moto() -> (Process, Credentials) {
    moto_that_checks_after(3)
}

pub fn moto_that_checks_after(requests: u32) -> (Process, Credentials) {
    let server = program("moto_server", "pip install 'moto[server]'");
    let port = free_port();
    let directory = tempfile::tempdir().expect("temporary directory");
    let arguments = ["-H", "127.0.0.1", "-p", &port.to_string()];
    let requests = requests.to_string();
    let variables = [("INITIAL_NO_AUTH_ACTION_COUNT", requests.as_str())];
    let process = start(&server, &arguments, port, directory, &variables);
    let iam = |action: &str| {
        let body = format!("{action}&Version=2010-05-08");
        post(port, "/", &body)
    };
    iam("Action=CreateUser&UserName=belljar");
    let keys = iam("Action=CreateAccessKey&UserName=belljar");
    let element = |name: &str| {
        let (_, rest) = keys.split_once(&format!("<{name}>")).unwrap_or_else(|| panic!("{keys}"));
        rest.split_once('<').expect("an end").0.to_owned()
    };
    let policy = "%7B%22Version%22%3A%222012-10-17%22%2C%22Statement%22%3A%5B%7B%22Effect%22%3A%22Allow%22%2C%22Action%22%3A%22s3%3A%2A%22%2C%22Resource%22%3A%22%2A%22%7D%5D%7D";
    iam(&format!("Action=PutUserPolicy&UserName=belljar&PolicyName=p&PolicyDocument={policy}"));
    let keys = credentials(&element("AccessKeyId"), &element("SecretAccessKey"));
    make_bucket(&process.endpoint, "us-east-1", &keys);
    (process, keys)
}

fn post(port: u16, path: &str, body: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=x\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("send");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}

/// Makes the bucket by a signed request, as a store never makes one.
fn make_bucket(endpoint: &str, region: &str, keys: &Credentials) {
    use object_store::aws::{AwsAuthorizer, AwsCredential};
    use object_store::client::{HttpConnector, HttpRequestBody, ReqwestConnector};
    let text = |value: &SecretValue| String::from_utf8(value.expose().to_vec()).expect("text");
    let keys = AwsCredential {
        key_id: text(&keys.access_key),
        secret_key: text(&keys.secret_key),
        token: None,
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let mut request = hyper::http::Request::put(format!("{endpoint}/{BUCKET}"))
        .body(HttpRequestBody::empty())
        .expect("request");
    AwsAuthorizer::new(&keys, "s3", region).try_authorize(&mut request, None).expect("signed");
    // reqwest wants to know who does TLS, although none is done.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let options = object_store::ClientOptions::new().with_allow_http(true);
    let client = ReqwestConnector::default().connect(&options).expect("client");
    let answer = runtime.block_on(client.execute(request)).expect("answer");
    assert!(answer.status().is_success(), "the bucket cannot be made: {answer:?}");
}

/// garage, which checks signatures, hashes and checksums, and ignores conditions of puts.
pub fn garage() -> (Process, Credentials) {
    let server = program(
        "garage",
        "cargo install garage --version 2.5.0 --locked --no-default-features --features bundled-libs,lmdb",
    );
    let directory = tempfile::tempdir().expect("temporary directory");
    let place = directory.path().to_str().expect("text").to_owned();
    let (s3, rpc, admin) = (free_port(), free_port(), free_port());
    let (secret, key) = ("0".repeat(63) + "7", format!("GK{:0>24}", 1));
    let file = format!(
        "metadata_dir = \"{place}/meta\"\ndata_dir = \"{place}/data\"\ndb_engine = \"lmdb\"\nlmdb_map_size = 1073741824\n\
         metadata_fsync = false\nreplication_factor = 1\nrpc_bind_addr = \"127.0.0.1:{rpc}\"\n\
         rpc_public_addr = \"127.0.0.1:{rpc}\"\nrpc_secret = \"{secret}\"\n[s3_api]\ns3_region = \"garage\"\n\
         api_bind_addr = \"127.0.0.1:{s3}\"\n[admin]\napi_bind_addr = \"127.0.0.1:{admin}\"\nadmin_token = \"t\"\n"
    );
    let configuration = directory.path().join("garage.toml");
    std::fs::write(&configuration, file).expect("write");
    std::fs::set_permissions(&configuration, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .expect("chmod");
    let configuration = configuration.to_str().expect("text").to_owned();
    let variables = [("RUST_LOG", "garage=warn")];
    let arguments = ["-c", configuration.as_str(), "server"];
    let process = start(&server, &arguments, s3, directory, &variables);
    let tell = |arguments: &[&str]| {
        let output = Command::new(&server)
            .args(["-c", &configuration])
            .args(arguments)
            .output()
            .expect("garage runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "garage {arguments:?}: {said}");
        String::from_utf8(output.stdout).expect("text")
    };
    let id = tell(&["node", "id", "-q"]);
    let node = id.split('@').next().expect("a part").trim();
    tell(&["layout", "assign", "-z", "z", "-c", "10G", node]);
    tell(&["layout", "apply", "--version", "1"]);
    let secret_key = format!("{:0>64}", 2);
    tell(&["key", "import", "--yes", "-n", "t", &key, &secret_key]);
    tell(&["key", "allow", "--create-bucket", &key]);
    let keys = credentials(&key, &secret_key);
    make_bucket(&process.endpoint, "garage", &keys);
    (process, keys)
}
