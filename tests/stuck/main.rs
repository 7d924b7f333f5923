//! Host directories on a file system that does not answer, or fails: nobody else suffers, and everything can be ended.
//!
//! No test harness: the program is also the server of that file system, and one test at a time keeps what is measured in
//! seconds apart from what others do. An argument selects the tests whose names contain it.

mod server;
#[path = "../support/mod.rs"]
mod support;
mod troubled;

use belljar::client::{Client, ClientError};
use belljar::wire::workspace::{MountRequest, WorkspaceRequest};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use server::Trouble;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use support::{Place, eventually, stderr, stdout, text};
use troubled::{SERVE, Troubled};

/// How long others may take while somebody is stuck, on a busy machine. Without trouble it takes a tenth of a second.
const UNDISTURBED: Duration = Duration::from_secs(8);

/// How long ending a run may take whose processes cannot be killed.
const ENDED: Duration = Duration::from_secs(25);

type Test = (&'static str, fn());

macro_rules! tests {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), $name)),*] };
}

const TESTS: &[Test] = tests![
    a_run_that_waits_for_a_silent_directory_can_be_ended_and_others_go_on,
    copies_that_hang_hold_up_nobody_elses_artifacts,
    a_time_limit_holds_in_a_silent_directory,
    a_named_workspace_that_was_cut_off_says_so_and_can_be_made_again,
    a_workspace_over_a_silent_directory_is_not_made_and_the_answer_says_why,
    a_failing_file_system_tells_programs_its_own_errno,
    the_daemon_gives_up_its_place_although_a_directory_is_silent,
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [serve, plain, at] = &arguments[..]
        && serve == SERVE
    {
        return server::serve(Path::new(plain), Path::new(at));
    }
    let wanted = arguments.iter().find(|argument| !argument.starts_with('-'));
    let selected = TESTS.iter().filter(|(name, _)| wanted.is_none_or(|part| name.contains(part)));
    for (name, test) in selected {
        // Before it runs, so that the one that fails is known.
        println!("stuck: {name}");
        let started = Instant::now();
        test();
        println!("stuck: {name} ok in {:.1?}", started.elapsed());
    }
}

struct Scene {
    // Dropped in this order: what hangs is freed before anybody waits for the daemon.
    troubled: Troubled,
    place: Place,
}

impl Scene {
    fn new() -> Self {
        let mut place = Place::new();
        let troubled = Troubled::mount(place.root());
        place.start_daemon();
        Self { troubled, place }
    }

    /// Starts a run in the troubled directory and waits until its script has printed "ready".
    fn start(&self, options: &[&str], script: &str) -> Child {
        let mount = format!("out={}", self.troubled.directory.display());
        let mut arguments = vec!["run", "--rw", &mount];
        arguments.extend(options);
        arguments.extend(["--", "sh", "-c", script]);
        let mut child = self
            .place
            .belljar(&arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        child
    }

    /// Somebody else's run: it must go as if nothing were wrong.
    fn others_work(&self, name: &str) {
        let started = Instant::now();
        let script = format!("echo {name} > /workspace/output/{name}; ls /workspace/output");
        let output = self.place.run(&[], &script);
        let took = started.elapsed();
        assert!(output.status.success(), "{}", text(&output));
        assert!(took < UNDISTURBED, "it took {took:?}");
        let path = format!("/workspace/output/{name}");
        assert!(self.place.artifacts(&[]).iter().any(|a| a["path"] == path.as_str()));
    }

    /// No workspace of the troubled directory is mounted any more, and none of its runs is left.
    fn troubled_workspace_is_gone(&self) -> bool {
        let list = self.place.json(["workspace", "ls"]);
        list["workspaces"].as_array().unwrap().is_empty()
            && !self.place.mounts().iter().any(|at| at.contains("/workspaces/"))
    }
}

fn end_by_client(run: &mut Child) {
    kill(Pid::from_raw(run.id() as i32), Signal::SIGKILL).unwrap();
    run.wait().unwrap();
}

fn wait(mut run: Child, most: Duration) -> (Option<i32>, String) {
    let deadline = Instant::now() + most;
    loop {
        if run.try_wait().unwrap().is_some() {
            let output = run.wait_with_output().unwrap();
            return (output.status.code(), stderr(&output));
        }
        if Instant::now() > deadline {
            let _ = run.kill();
            panic!("the run did not end within {most:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn a_run_that_waits_for_a_silent_directory_can_be_ended_and_others_go_on() {
    let mut scene = Scene::new();
    let many = "for i in 1 2 3 4 5 6; do ls -l /workspace/out & done; wait";
    let script = format!("echo kept > /workspace/out/kept; echo ready; read go; {many}");
    let mut run = scene.start(&[], &script);
    scene.troubled.set(Trouble::Silence);
    run.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    std::thread::sleep(Duration::from_millis(500));
    scene.others_work("while-it-hangs");

    end_by_client(&mut run);
    scene.others_work("while-it-ends");
    let deadline = Instant::now() + ENDED;
    while !scene.troubled_workspace_is_gone() {
        assert!(Instant::now() < deadline, "the workspace is still there");
        std::thread::sleep(Duration::from_millis(100));
    }
    scene.others_work("afterwards");

    // Nothing that was closed is lost: it is registered when the file system answers.
    scene.troubled.set(Trouble::None);
    eventually("what was closed is registered", || {
        scene.place.artifacts(&[]).iter().any(|a| a["path"] == "/workspace/out/kept")
    });
    assert!(scene.place.stop_daemon(Signal::SIGTERM).success());
}

fn copies_that_hang_hold_up_nobody_elses_artifacts() {
    let mut scene = Scene::new();
    let script = "echo ready; read go; for i in $(seq 40); do echo $i > /workspace/out/$i; done; echo done; read end";
    let mut run = scene.start(&[], script);
    run.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    let mut line = String::new();
    BufReader::new(run.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "done\n");
    // The copies are due a moment after the closes; they meet a silent directory.
    scene.troubled.set(Trouble::Silence);
    std::thread::sleep(Duration::from_secs(1));
    for round in 0..3 {
        scene.others_work(&format!("round-{round}"));
    }
    scene.troubled.set(Trouble::None);
    run.stdin.as_mut().unwrap().write_all(b"end\n").unwrap();
    let (code, error) = wait(run, ENDED);
    assert_eq!(code, Some(0), "{error}");
    let artifacts = scene.place.artifacts(&[]);
    let of_run = artifacts.iter().filter(|a| a["path"].as_str().unwrap().contains("/out/"));
    assert_eq!(of_run.count(), 40);
}

fn a_time_limit_holds_in_a_silent_directory() {
    let mut scene = Scene::new();
    let run = scene.start(&["--timeout", "2s"], "echo ready; sleep 1; ls /workspace/out");
    scene.troubled.set(Trouble::Silence);
    let (code, error) = wait(run, ENDED);
    assert_eq!(code, Some(124), "{error}");
    scene.others_work("afterwards");
}

fn a_named_workspace_that_was_cut_off_says_so_and_can_be_made_again() {
    let mut scene = Scene::new();
    let run = scene.start(
        &["--workspace", "lasting", "--timeout", "2s"],
        "echo ready; sleep 1; ls /workspace/out",
    );
    scene.troubled.set(Trouble::Silence);
    let (code, error) = wait(run, ENDED);
    assert_eq!(code, Some(124), "{error}");
    let output = scene.place.output(["run", "--workspace", "lasting", "--", "true"]);
    assert_eq!(output.status.code(), Some(125), "{}", text(&output));
    let said = stderr(&output);
    assert!(said.contains("lasting") && said.contains("cut off"), "{said}");
    assert!(said.contains("belljar workspace rm lasting"), "{said}");
    scene.troubled.set(Trouble::None);
    let run = scene.start(&["--workspace", "lasting"], "echo new > /workspace/out/new; echo ready");
    let (code, error) = wait(run, ENDED);
    assert_eq!(code, Some(0), "{error}");
    assert_eq!(fs::read_to_string(scene.troubled.plain.join("new")).unwrap(), "new\n");
}

fn a_workspace_over_a_silent_directory_is_not_made_and_the_answer_says_why() {
    let mut scene = Scene::new();
    let client = Client::at(scene.place.path("runtime/belljar.sock"));
    let directory = fs::File::open(&scene.troubled.directory).unwrap();
    let (token, _leash) = client.send_descriptors(&[directory.as_fd()]).unwrap();
    scene.troubled.set(Trouble::Silence);
    let request = WorkspaceRequest {
        id: None,
        mounts: vec![MountRequest {
            name: "out".parse().unwrap(),
            mode: Default::default(),
            path: scene.troubled.directory.display().to_string(),
            descriptor: 0,
            artifacts: true,
            cache: Default::default(),
            suid: Default::default(),
        }],
        secrets: Default::default(),
        env: Default::default(),
        descriptors: Some(token),
        lease: false,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    std::thread::scope(|threads| {
        let refused = threads.spawn(|| runtime.block_on(client.create_workspace(&request)));
        std::thread::sleep(Duration::from_millis(500));
        scene.others_work("while-it-is-made");
        let refused = refused.join().unwrap();
        let Err(ClientError::Problem(problem)) = refused else { panic!("{refused:?}") };
        assert!(problem.detail.contains("mount out"), "{}", problem.detail);
        assert!(problem.detail.contains("did not answer within 10 s"), "{}", problem.detail);
    });
    scene.troubled.set(Trouble::None);
    drop(directory);
}

/// What a program is told, and what becomes of the rest, when the file system below fails.
fn a_failing_file_system_tells_programs_its_own_errno() {
    const SCRIPT: &str = r#"
import errno, os
def attempt(what, call):
    try:
        call()
        print(what, "ok")
    except OSError as error:
        print(what, errno.errorcode[error.errno])
def write(path):
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, b"x" * 4096)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
attempt("read", lambda: open("/workspace/out/old").read())
attempt("new", lambda: write("/workspace/out/new"))
attempt("over", lambda: write("/workspace/out/old"))
attempt("mkdir", lambda: os.mkdir("/workspace/out/d"))
attempt("unlink", lambda: os.unlink("/workspace/out/gone"))
attempt("chmod", lambda: os.chmod("/workspace/out/old", 0o600))
"#;
    let expected = [
        (Trouble::Full, ["ok", "ENOSPC", "ENOSPC", "ENOSPC", "ok", "ok"]),
        (Trouble::ReadOnly, ["ok", "EROFS", "EROFS", "EROFS", "EROFS", "EROFS"]),
        (Trouble::Broken, ["EIO"; 6]),
    ];
    for (trouble, expected) in expected {
        let mut scene = Scene::new();
        fs::write(scene.troubled.plain.join("old"), "old").unwrap();
        fs::write(scene.troubled.plain.join("gone"), "gone").unwrap();
        let script = format!("echo ready; read go; exec python3 -c '{SCRIPT}'");
        let mut run = scene.start(&["--drain-timeout", "3s"], &script);
        scene.troubled.set(trouble);
        run.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        scene.others_work("beside");
        let output = run.wait_with_output().unwrap();
        let said: Vec<String> = stdout(&output)
            .lines()
            .map(|line| line.split(' ').nth(1).unwrap().to_owned())
            .collect();
        assert_eq!(said, expected, "{trouble:?}: {}", text(&output));
        scene.troubled.set(Trouble::None);
        scene.others_work("after");
    }
}

fn the_daemon_gives_up_its_place_although_a_directory_is_silent() {
    let mut scene = Scene::new();
    let mut run = scene.start(&[], "echo ready; sleep 1; ls /workspace/out");
    scene.troubled.set(Trouble::Silence);
    std::thread::sleep(Duration::from_millis(1500));
    let pid = Pid::from_raw(scene.place.daemon_pid());
    kill(pid, Signal::SIGTERM).unwrap();
    let socket = scene.place.path("runtime/belljar.sock");
    let deadline = Instant::now() + Duration::from_secs(40);
    while socket.exists() || scene.place.mounts().iter().any(|at| at.contains("/workspaces/")) {
        assert!(Instant::now() < deadline, "the daemon has not unmounted and gone");
        std::thread::sleep(Duration::from_millis(100));
    }
    // The kernel keeps the threads that wait, and with them the process, until the file system answers.
    scene.troubled.set(Trouble::None);
    assert!(scene.place.stop_daemon(Signal::SIGTERM).code().is_some_and(|code| code == 0));
    end_by_client(&mut run);
}
