//! The command line as a person meets it: the real program, its messages and exit codes.
//!
//! Where a run is needed, a fake daemon answers with what the test says: it speaks the same HTTP over the same two
//! sockets, takes the descriptors and writes down what it was asked. What only a real run can show is elsewhere.
//!
//! Needs: nothing but a temporary directory.

use axum::extract::{Path as Segment, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use belljar::sys::{scm_rights, unix_socket};
use belljar::wire::daemon::CompanionAnswer;
use belljar::wire::problem::Problem;
use belljar::wire::run::{Reason, Receipt, RunRequest, RunStarted, SignalRequest, Usage};
use belljar::wire::workspace::DescriptorToken;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

struct Room {
    directory: tempfile::TempDir,
}

impl Room {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("temporary directory") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_belljar"));
        command
            .args(arguments)
            .env_remove("BELLJAR_SOCKET")
            .env_remove("BELLJAR_CONFIG")
            .env("BELLJAR_STATE_DIR", self.path("state"))
            .env("BELLJAR_RUNTIME_DIR", self.path("run"))
            .stdin(Stdio::null());
        command
    }

    /// Runs and checks the exit code and that the message has each of `words`.
    fn check(&self, arguments: &[&str], exit: i32, words: &[&str]) {
        check(self.command(arguments).output().expect("starts"), arguments, exit, words);
        // Whatever was refused was refused before anything was made for it.
        for left in ["run/instances", "run/workspaces"] {
            let left = fs::read_dir(self.path(left)).map(Iterator::count).unwrap_or(0);
            assert_eq!(left, 0, "{arguments:?} left something behind");
        }
    }
}

fn check(output: Output, arguments: &[&str], exit: i32, words: &[&str]) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(exit), "{arguments:?}: {message}");
    for word in words {
        assert!(message.contains(word), "{arguments:?}: no {word:?} in: {message}");
    }
}

#[test]
fn bad_mounts_are_refused_with_the_name_the_reason_and_the_fix() {
    let room = Room::new();
    let run = |mount: &[&str], words: &[&str]| {
        let mut arguments = vec!["run"];
        arguments.extend(mount);
        arguments.extend(["--", "true"]);
        room.check(&arguments, 125, words);
    };
    run(
        &["--ro", "input=/nonexistent/x"],
        &["mount input", "/nonexistent/x", "does not exist", "mkdir -p"],
    );
    run(&["--ro", "input=/dev/null"], &["mount input", "not a directory"]);
    run(&["--ro", "in/put=/tmp"], &["mount name \"in/put\"", "not allowed", "A-Z"]);
    run(&["--ro", "/tmp"], &["NAME=PATH"]);
    run(&["--ro", "a=/tmp", "--rw", "a=/usr"], &["mount name a is used twice", "/tmp and /usr"]);
    run(&["--expose", "/nonexistent/venv"], &["--expose /nonexistent/venv"]);
}

#[test]
fn a_bad_manifest_is_refused_with_file_line_and_fix() {
    let room = Room::new();
    let manifest = room.path("m.yaml");
    let given = manifest.display().to_string();
    let run = |text: &str, words: &[&str]| {
        fs::write(&manifest, text).expect("write");
        let mut words = words.to_vec();
        words.push("m.yaml");
        room.check(&["run", "-f", &given, "--", "true"], 125, &words);
    };
    run(
        "mounts:\n- { name: a, path: data }\n",
        &["mount a", "\"data\" is relative", "starting with /"],
    );
    run(
        "mounts:\n- { name: a, path: /x, mode: wr }\n",
        &["m.yaml:2:", "unknown mode \"wr\"", "`rw`"],
    );
    run("mount: []\n", &["m.yaml:1:1", "unknown key `mount`", "did you mean `mounts`?"]);
    run("secrets: { 'A=B': { file: /x } }\n", &["secret name \"A=B\" is not allowed"]);
    run(
        "mounts: [{ name: a, path: /tmp }, { name: a, path: /usr }]\n",
        &["mount name a is used twice"],
    );
    room.check(&["run", "-f", "/nonexistent.yaml", "--", "true"], 125, &["/nonexistent.yaml"]);
}

#[test]
fn bad_secrets_are_refused_without_showing_a_value() {
    let room = Room::new();
    let run = |secret: &str, words: &[&str]| {
        room.check(&["run", "--secret", secret, "--", "true"], 125, words);
    };
    run("A=B=@/key", &["\"A=B\" is not allowed", "no `=`"]);
    run("A-B=@/key", &["secret name \"A-B\" is not allowed"]);
    run("A=@/nonexistent", &["secret A", "/nonexistent", "No such file"]);
    run("BELLJAR_TEST_NOT_SET", &["BELLJAR_TEST_NOT_SET is not set"]);
    let arguments = ["run", "--secret", "A=hunter2", "--secret", "A=hunter2", "--", "true"];
    let output = room.command(&arguments).output().expect("starts");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("hunter2"));
    check(output, &arguments, 125, &["secret A is given twice"]);
}

#[test]
fn wrong_usage_is_2_and_125_for_run() {
    let room = Room::new();
    room.check(&["artifact", "--bogus"], 2, &["--bogus"]);
    room.check(&["run", "--bogus", "--", "true"], 125, &["--bogus"]);
    room.check(&["run"], 125, &["COMMAND"]);
    room.check(&["run", "--timeout", "soon", "--", "true"], 125, &["\"soon\" is not a duration"]);
    room.check(&["run", "--timeout", "0", "--", "true"], 125, &["before it starts"]);
    room.check(&["run", "--user", "root", "--", "true"], 125, &["UID:GID"]);
    room.check(&["workspace", "create", "a/b"], 2, &["workspace id \"a/b\""]);
}

#[test]
fn a_limit_that_makes_no_sense_is_refused_by_name() {
    let room = Room::new();
    let run = |option: &str, value: &str, words: &[&str]| {
        room.check(&["run", option, value, "--", "true"], 125, words);
    };
    run("--memory", "1KiB", &["memory: 1024 bytes are too few", "4MiB"]);
    run("--memory", "4611686018427387905", &["memory:", "more than a kernel can count"]);
    run("--cpus", "0", &["--cpus", "above 0"]);
    run("--cpus", "0.001", &["cpus: 0.001", "0.01"]);
    run("--pids", "0", &["--pids", "0"]);
    run("--pids", "4294967295", &["pids: 4294967295", "more than a kernel"]);
    room.check(&["run", "--rootfs", "/x", "--", "true"], 125, &["rootfs", "/x does not exist"]);
    let typo = ["run", "--memory", "1G", "--allow-unenforced", "memori", "--", "true"];
    room.check(&typo, 125, &["did you mean `memory`?"]);
    let manifest = room.path("m.yaml");
    for (limits, words) in [
        ("cpus: 0", ["cpus: 0 is not a share", "0.01"]),
        ("pids: 0", ["pids: 0", "at least 1"]),
        ("memory: 64KiB", ["memory: 65536 bytes", "4MiB"]),
    ] {
        fs::write(&manifest, format!("limits: {{ {limits} }}\n")).expect("write");
        let file = manifest.display().to_string();
        room.check(&["run", "-f", &file, "--", "true"], 125, &words);
    }
}

#[test]
fn a_named_socket_where_nobody_answers_is_3() {
    let room = Room::new();
    for arguments in [&["run", "--", "true"][..], &["artifact", "ls"], &["daemon", "status"]] {
        let mut command = room.command(arguments);
        let output = command.env("BELLJAR_SOCKET", "/nonexistent/b.sock").output().expect("starts");
        check(output, arguments, 3, &["/nonexistent/b.sock", "BELLJAR_SOCKET", "belljard serve"]);
        assert!(!room.path("state").exists(), "a private daemon was started all the same");
    }
}

#[test]
fn what_lives_in_a_daemon_needs_one() {
    let room = Room::new();
    let secret = ["secret", "set", "-w", "w", "A=x"];
    for arguments in
        [&["workspace", "ls"][..], &secret, &["daemon", "status"], &["env", "ls", "-w", "w"]]
    {
        let output = room.command(arguments).output().expect("starts");
        // A daemon of the whole machine would answer; this test cannot tell it to go away.
        if !Path::new("/run/belljar/belljar.sock").exists() {
            check(output, arguments, 3, &["no daemon is running", "belljard serve"]);
        }
    }
}

#[test]
fn an_artifact_that_does_not_exist_is_4() {
    let room = Room::new();
    let nobody = "01890a5d-ac96-774b-bcce-b302099a8057";
    room.check(&["artifact", "show", nobody], 4, &[nobody]);
    let output = room.command(&["artifact", "ls", "--json"]).output().expect("starts");
    assert!(output.status.success());
    let page: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("one JSON document");
    assert_eq!(page["artifacts"], serde_json::json!([]));
}

#[test]
fn doctor_reports_in_json_and_completions_are_made() {
    let room = Room::new();
    let output = room.command(&["doctor", "--json"]).output().expect("starts");
    let report: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("one JSON document");
    let names: Vec<&str> = report["checks"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|check| check["name"].as_str())
        .collect();
    for name in ["/dev/fuse", "mounting", "passthrough", "state directory", "runtime directory"] {
        assert!(names.contains(&name), "{name} is missing in {names:?}");
    }
    assert_eq!(report["ok"].as_bool(), Some(output.status.success()));
    assert!(!room.path("state").exists(), "doctor left a trace");
    for shell in ["bash", "zsh", "fish"] {
        let output = room.command(&["completions", shell]).output().expect("starts");
        assert!(String::from_utf8_lossy(&output.stdout).contains("belljar"), "{shell}");
    }
}

#[test]
fn a_failed_run_leaves_a_receipt_that_says_why() {
    let room = Room::new();
    let receipt = room.path("r.json");
    let given = receipt.display().to_string();
    room.check(
        &["run", "--receipt", &given, "--ro", "a=/nonexistent", "--", "true"],
        125,
        &["mount a"],
    );
    let written: serde_json::Value =
        serde_json::from_slice(&fs::read(&receipt).expect("written")).expect("JSON");
    assert_eq!((&written["exit_code"], &written["reason"]), (&125.into(), &"setup-failed".into()));
    assert!(written["message"].as_str().expect("text").contains("/nonexistent"));
    room.check(
        &["run", "--receipt", "/nonexistent/r.json", "--", "true"],
        125,
        &["/nonexistent/r.json", "--receipt"],
    );
}

// ---- Against a fake daemon ---------------------------------------------------------------------------------------

/// What the fake daemon answers, and what it has seen.
struct Fake {
    problem: Option<(u16, &'static str)>,
    receipt: Receipt,
    /// Whether the receipt waits for a signal.
    until_signal: bool,
    requests: Mutex<Vec<RunRequest>>,
    descriptors: Mutex<Vec<OwnedFd>>,
    signals: Mutex<Vec<i32>>,
    ended: Notify,
    hung_up: Mutex<bool>,
}

fn receipt(exit_code: u8, reason: Reason) -> Receipt {
    let now = jiff::Timestamp::now();
    Receipt {
        run_id: belljar::model::id::RunId::generate(),
        workspace_id: "w".parse().expect("legal"),
        exit_code,
        reason,
        message: "what happened".to_owned(),
        run_as_root: false,
        enforcement: Vec::new(),
        usage: Usage::default(),
        artifacts: Vec::new(),
        complete: true,
        incomplete: Vec::new(),
        uploaded: None,
        started_at: now,
        ended_at: now,
    }
}

fn fake(exit_code: u8, reason: Reason) -> Fake {
    Fake {
        problem: None,
        receipt: receipt(exit_code, reason),
        until_signal: false,
        requests: Mutex::default(),
        descriptors: Mutex::default(),
        signals: Mutex::default(),
        ended: Notify::new(),
        hung_up: Mutex::new(false),
    }
}

impl Fake {
    fn serve(self, room: &Room) -> (Arc<Fake>, tokio::runtime::Runtime, PathBuf) {
        let socket = room.path("fake.sock");
        let fake = Arc::new(self);
        let companion =
            unix_socket::listen_seqpacket(&room.path("fake.sock.fds")).expect("listens");
        let companion_of = fake.clone();
        std::thread::spawn(move || companion_of.take_descriptors(companion));
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let routes = Router::new()
            .route("/v1/runs", post(start))
            .route("/v1/runs/{id}/receipt", get(end))
            .route("/v1/runs/{id}/signal", post(forward))
            .with_state(fake.clone());
        let _inside = runtime.enter();
        let listener = tokio::net::UnixListener::bind(&socket).expect("binds");
        runtime.spawn(async move { axum::serve(listener, routes).await });
        (fake, runtime, socket)
    }

    fn take_descriptors(&self, listener: OwnedFd) {
        use std::os::fd::AsFd;
        let wait = |fd: &OwnedFd| {
            use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
            let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::NONE).expect("poll");
        };
        wait(&listener);
        let connection = unix_socket::accept(listener.as_fd()).expect("accepts");
        wait(&connection);
        let message = scm_rights::receive(&connection, &mut [0; 16]).expect("receives");
        let mut descriptors = message.descriptors;
        // A run that has ended holds no output open; whoever reads the program's would wait for ever.
        for output in &mut descriptors[1..3] {
            *output = File::open("/dev/null").expect("open").into();
        }
        self.descriptors.lock().expect("whole").extend(descriptors);
        let answer = CompanionAnswer::Token(DescriptorToken("t".to_owned()));
        scm_rights::send(&connection, &serde_json::to_vec(&answer).expect("JSON"), &[])
            .expect("sends");
        wait(&connection);
        *self.hung_up.lock().expect("whole") = true;
    }
}

async fn start(
    State(fake): State<Arc<Fake>>,
    Json(request): Json<RunRequest>,
) -> Result<Json<RunStarted>, (StatusCode, Json<Problem>)> {
    fake.requests.lock().expect("whole").push(request);
    if let Some((status, code)) = fake.problem {
        let status_code = StatusCode::from_u16(status).expect("legal");
        let detail = "the reason, in a sentence".to_owned();
        let problem = Problem { code: code.to_owned(), status, title: String::new(), detail };
        return Err((status_code, Json(problem)));
    }
    let (run_id, workspace_id) = (fake.receipt.run_id, fake.receipt.workspace_id.clone());
    Ok(Json(RunStarted { run_id, workspace_id }))
}

async fn end(State(fake): State<Arc<Fake>>, Segment(_): Segment<String>) -> Json<Receipt> {
    if fake.until_signal {
        fake.ended.notified().await;
    }
    Json(fake.receipt.clone())
}

async fn forward(
    State(fake): State<Arc<Fake>>,
    Segment(_): Segment<String>,
    Json(request): Json<SignalRequest>,
) -> StatusCode {
    fake.signals.lock().expect("whole").push(request.signal);
    fake.ended.notify_one();
    StatusCode::NO_CONTENT
}

#[test]
fn the_exit_code_of_run_is_the_receipts() {
    for (code, reason) in
        [(0, Reason::Exited), (7, Reason::Exited), (124, Reason::Timeout), (137, Reason::Signal)]
    {
        let room = Room::new();
        let (_fake, _runtime, socket) = fake(code, reason).serve(&room);
        let file = room.path("r.json");
        let given = file.display().to_string();
        let arguments = ["run", "--receipt", &given, "--", "true"];
        let output =
            room.command(&arguments).env("BELLJAR_SOCKET", &socket).output().expect("starts");
        let words: &[&str] = if reason == Reason::Exited { &[] } else { &["what happened"] };
        check(output, &arguments, code.into(), words);
        let written: Receipt =
            serde_json::from_slice(&fs::read(file).expect("written")).expect("JSON");
        assert_eq!((written.exit_code, written.reason), (code, reason));
    }
}

#[test]
fn a_run_that_the_daemon_refuses_has_the_documented_code() {
    for (status, code, exit) in [
        (422, "setup-failed", 125),
        (422, "command-not-executable", 126),
        (422, "command-not-found", 127),
        (409, "conflict", 125),
        (507, "disk-full", 125),
    ] {
        let room = Room::new();
        let mut fake = fake(0, Reason::Exited);
        fake.problem = Some((status, code));
        let (_fake, _runtime, socket) = fake.serve(&room);
        let arguments = ["run", "--", "true"];
        let output =
            room.command(&arguments).env("BELLJAR_SOCKET", &socket).output().expect("starts");
        check(output, &arguments, exit, &["the reason, in a sentence"]);
    }
}

#[test]
fn a_run_sends_exactly_what_was_asked_and_the_descriptors_are_the_callers_own() {
    let room = Room::new();
    let (seen, _runtime, socket) = fake(0, Reason::Exited).serve(&room);
    let value: Vec<u8> = vec![0, b'\n', 0xff, b'x'];
    fs::write(room.path("key"), &value).expect("write");
    fs::create_dir(room.path("out")).expect("make");
    let key = format!("KEY=@{}", room.path("key").display());
    let arguments = [
        "run",
        "-w",
        "w1",
        "--rw",
        "output=out",
        "--secret",
        &key,
        "--secret",
        "PIPED=-",
        "--env",
        "A=b",
        "--timeout",
        "90s",
        "--workdir",
        "output",
        "--expose",
        "/usr",
        "--memory",
        "1GiB",
        "--allow-unenforced",
        "memory",
        "--",
        "sh",
        "-c",
        "exit 0",
    ];
    let mut child = room
        .command(&arguments)
        .current_dir(room.directory.path())
        .env("BELLJAR_SOCKET", &socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    child.stdin.take().expect("piped").write_all(b"through the pipe\0").expect("writes");
    let output = child.wait_with_output().expect("ends");
    check(output, &arguments, 0, &[]);
    let requests = seen.requests.lock().expect("whole");
    let sent = serde_json::to_value(&requests[0]).expect("JSON");
    assert_eq!(sent["command"], serde_json::json!(["sh", "-c", "exit 0"]));
    assert_eq!(sent["workspace"]["id"], "w1");
    assert_eq!(sent["env"], serde_json::json!({ "A": "b" }));
    assert_eq!(
        (&sent["timeout_ms"], &sent["workdir"]),
        (&90_000.into(), &"/workspace/output".into())
    );
    assert_eq!(sent["limits"], serde_json::json!({ "memory_bytes": 1 << 30 }));
    let decode = |name: &str| {
        use base64::Engine;
        let text = sent["workspace"]["secrets"][name]["value"].as_str().expect("text");
        base64::engine::general_purpose::STANDARD.decode(text).expect("base64")
    };
    assert_eq!(decode("KEY"), value);
    assert_eq!(decode("PIPED"), b"through the pipe\0");
    let mount = &sent["workspace"]["mounts"][0];
    let real = room.path("out").canonicalize().expect("exists");
    assert_eq!(mount["path"].as_str(), real.to_str());
    let position =
        |value: &serde_json::Value| value["descriptor"].as_u64().expect("a number") as usize;
    let descriptors = seen.descriptors.lock().expect("whole");
    let path = |index: usize| {
        use std::os::fd::AsRawFd;
        fs::read_link(format!("/proc/self/fd/{}", descriptors[index].as_raw_fd())).expect("open")
    };
    assert_eq!(path(position(mount)), real);
    assert_eq!(path(position(&sent["expose"][0])), Path::new("/usr"));
    // Standard input belongs to the secret, so the command has none.
    assert_eq!(path(0), Path::new("/dev/null"));
}

#[test]
fn signals_reach_the_run_and_the_leash_is_held_until_its_end() {
    let room = Room::new();
    let mut fake = fake(143, Reason::Signal);
    fake.until_signal = true;
    let (seen, _runtime, socket) = fake.serve(&room);
    let mut child = room
        .command(&["run", "--", "sleep", "60"])
        .env("BELLJAR_SOCKET", &socket)
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    wait_until(|| !seen.requests.lock().expect("whole").is_empty());
    // The request is there before its answer is; a signal in between would be an interruption of the start.
    std::thread::sleep(Duration::from_millis(300));
    assert!(!*seen.hung_up.lock().expect("whole"), "the leash was let go of during the run");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("small"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("kill");
    assert_eq!(child.wait().expect("ends").code(), Some(143));
    assert_eq!(*seen.signals.lock().expect("whole"), [15]);
    wait_until(|| *seen.hung_up.lock().expect("whole"));
}

#[test]
fn the_leash_breaks_when_the_client_is_killed() {
    let room = Room::new();
    let mut fake = fake(0, Reason::Exited);
    fake.until_signal = true;
    let (seen, _runtime, socket) = fake.serve(&room);
    let mut child = room
        .command(&["run", "--", "sleep", "60"])
        .env("BELLJAR_SOCKET", &socket)
        .spawn()
        .expect("starts");
    wait_until(|| !seen.requests.lock().expect("whole").is_empty());
    child.kill().expect("kill");
    child.wait().expect("ends");
    wait_until(|| *seen.hung_up.lock().expect("whole"));
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "it did not happen within 20 s");
        std::thread::sleep(Duration::from_millis(20));
    }
}

// ---- The service -------------------------------------------------------------------------------------------------

#[test]
fn the_service_says_ready_answers_and_leaves_nothing_after_sigterm() {
    let room = Room::new();
    // What systemd would listen at (sd_notify(3)).
    let notify = std::os::unix::net::UnixDatagram::bind(room.path("notify")).expect("binds");
    notify.set_read_timeout(Some(Duration::from_secs(20))).expect("sets");
    let log = File::create(room.path("log")).expect("make");
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_belljard"))
        .args(["serve", "--log-json"])
        .env_remove("BELLJAR_SOCKET")
        .env("BELLJAR_STATE_DIR", room.path("state"))
        .env("BELLJAR_RUNTIME_DIR", room.path("run"))
        .env("NOTIFY_SOCKET", room.path("notify"))
        .stderr(log)
        .spawn()
        .expect("starts");
    let heard = || {
        let mut text = [0; 256];
        let count = notify.recv(&mut text).expect("a notification");
        String::from_utf8_lossy(&text[..count]).into_owned()
    };
    assert!(heard().contains("READY=1"));
    let arguments = ["daemon", "status", "--json"];
    let output = room.command(&arguments).output().expect("starts");
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(status["embedded"], false);
    check(output, &arguments, 0, &[]);
    let arguments = ["workspace", "show", "nobody"];
    check(room.command(&arguments).output().expect("starts"), &arguments, 4, &["nobody"]);
    // A second daemon on the same socket is told of the first.
    let second = Command::new(env!("CARGO_BIN_EXE_belljard"))
        .arg("serve")
        .env_remove("BELLJAR_SOCKET")
        .env("BELLJAR_STATE_DIR", room.path("state"))
        .env("BELLJAR_RUNTIME_DIR", room.path("run"))
        .output()
        .expect("starts");
    check(second, &["serve"], 1, &["another daemon has", "belljar.sock"]);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.id()).expect("small"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("kill");
    assert!(heard().contains("STOPPING=1"));
    assert!(daemon.wait().expect("ends").success());
    assert!(!room.path("run/belljar.sock").exists());
    assert!(!room.path("run/belljar.sock.fds").exists());
    let mut text = String::new();
    File::open(room.path("log")).expect("open").read_to_string(&mut text).expect("read");
    for line in text.lines() {
        serde_json::from_str::<serde_json::Value>(line)
            .unwrap_or_else(|_| panic!("not JSON: {line}"));
    }
}

#[test]
fn check_config_names_the_mistake() {
    let room = Room::new();
    let file = room.path("c.yaml");
    let run = |text: &str, exit: i32, words: &[&str]| {
        fs::write(&file, text).expect("write");
        let output = Command::new(env!("CARGO_BIN_EXE_belljard"))
            .arg("check-config")
            .arg(&file)
            .output()
            .expect("starts");
        check(output, &["check-config"], exit, words);
    };
    run("log: { format: json }\n", 0, &[]);
    run("log:\n  fromat: json\n", 1, &["c.yaml:2:3", "`fromat`", "did you mean `format`?"]);
    run("runs: { per_user_max: 0 }\n", 1, &["c.yaml", "runs.per_user_max", "1 to 1024"]);
}
