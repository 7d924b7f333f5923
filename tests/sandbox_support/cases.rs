//! Promises of a sandbox that hold for every user: root's with and without another user id, and an ordinary user's own.

use super::Host;
use belljar::sandbox::layer::LayerName;
use belljar::sandbox::protocol::{Exit, FailureKind};
use belljar::wire::run::Network;
use std::fs;
use std::os::unix::fs::PermissionsExt;

pub fn the_exit_code_and_both_outputs_are_the_commands_own(host: &Host) {
    let outcome = host.run(&host.shell("echo out; echo err >&2; exit 7")).expect("starts");
    assert_eq!(outcome.ended.how, Exit::Exited(7));
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out\n", "err\n"));
    let outcome = host.run(&host.shell("kill -SEGV $$")).expect("starts");
    assert_eq!(outcome.ended.how, Exit::Signaled(11));
}

pub fn a_command_that_cannot_run_is_126_or_127_with_the_reason(host: &Host) {
    let output = host.path("workspace/output");
    let file = |name: &str, text: &[u8], mode: u32| {
        fs::write(output.join(name), text).expect("write");
        fs::set_permissions(output.join(name), fs::Permissions::from_mode(mode)).expect("chmod");
    };
    file("plain", b"#!/bin/sh\n", 0o644);
    file("garbage", b"\x01\x02\x03", 0o755);
    file("script", b"#!/does/not/exist\n", 0o755);
    fs::create_dir(output.join("directory")).expect("mkdir");
    for (command, kind, reason) in [
        ("no-such-program", FailureKind::NotFound, "PATH"),
        ("/no/such/program", FailureKind::NotFound, "does not exist"),
        ("output/plain/x", FailureKind::NotFound, "does not exist"),
        ("output/plain", FailureKind::NotExecutable, "EACCES"),
        ("/workspace/output/directory", FailureKind::NotExecutable, "it is a directory"),
        ("output/garbage", FailureKind::NotExecutable, "neither a program"),
        ("output/script", FailureKind::NotExecutable, "interpreter"),
    ] {
        let failure = host.run(&host.plan([command])).expect_err("must not start");
        assert_eq!(failure.kind, kind, "{failure}");
        assert!(failure.to_string().contains(reason), "{failure}");
        assert_eq!(failure.step, "command");
    }
}

pub fn a_program_is_found_in_the_path_of_the_sandbox(host: &Host) {
    let program = host.path("workspace/output/tool");
    fs::write(&program, "#!/bin/sh\necho found $1\n").expect("write");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
    let mut plan = host.plan(["tool", "it"]);
    plan.env.set("PATH", "/no/such/directory:/workspace/output:/usr/bin");
    assert_eq!(host.output(&plan), "found it\n");
}

pub fn a_working_directory_that_is_missing_is_named(host: &Host) {
    let mut plan = host.plan(["true"]);
    plan.workdir = "/workspace/nowhere".into();
    let failure = host.run(&plan).expect_err("must not start");
    assert_eq!(failure.kind, FailureKind::Setup);
    assert_eq!(
        failure.to_string(),
        "workdir: change to the working directory /workspace/nowhere: ENOENT (No such file or directory)"
    );
    plan.workdir = "/workspace/output".into();
    plan.argv = vec!["pwd".into()];
    assert_eq!(host.output(&plan), "/workspace/output\n");
}

pub fn a_failing_step_is_named(host: &Host) {
    let mut plan = host.plan(["true"]);
    plan.scratch = host.path("missing");
    let failure = host.run(&plan).expect_err("must not start");
    assert_eq!(failure.kind, FailureKind::Setup);
    let expected = format!(
        "rootfs: mount the root on {}: ENOENT (No such file or directory)",
        plan.scratch.display()
    );
    assert_eq!(failure.to_string(), expected);
}

pub fn the_environment_is_exactly_the_plans(host: &Host) {
    let mut plan = host.plan(["env"]);
    plan.env.set("EXTRA", "with = and\ttab");
    let mut expected: Vec<String> = plan
        .env
        .iter()
        .map(|(name, value)| format!("{}={}", name.display(), value.display()))
        .collect();
    let output = host.output(&plan);
    let mut seen: Vec<&str> = output.lines().collect();
    seen.sort_unstable();
    expected.sort_unstable();
    assert_eq!(seen, expected);
    let names: Vec<_> = plan.env.iter().map(|(name, _)| name.to_string_lossy()).collect();
    assert_eq!(
        names,
        [
            "BELLJAR_WORKSPACE",
            "BELLJAR_ROOT",
            "BELLJAR_RUN",
            "BELLJAR_SOCKET",
            "HOME",
            "PATH",
            "LANG",
            "TMPDIR",
            "EXTRA"
        ]
    );
}

pub fn the_command_holds_no_privilege_and_a_clean_process_state(host: &Host) {
    // cat changes none of this before it reads.
    let status = host.output(&host.plan(["cat", "/proc/self/status"]));
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} is missing")).trim()
    };
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), "1");
    for set in ["SigBlk:", "SigIgn:", "SigCgt:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    let ids = [host.uid.to_string().as_str(); 4].join("\t");
    assert_eq!(field("Uid:"), ids);
    assert_eq!(field("Gid:"), ids);
    assert_eq!(field("Groups:"), "");
    assert_eq!(field("Umask:"), "0022");
    let output =
        host.output(&host.shell("id -un; hostname; ulimit -c; ls /proc/self/fd | wc -l; echo ~"));
    // The fourth descriptor is that of ls itself.
    assert_eq!(output, "tester\nbelljar\n0\n4\n/home/tester\n");
    // Process id, session and process group: its own, and 2 since the first process is 1.
    let stat = host.output(&host.plan(["cat", "/proc/self/stat"]));
    let fields: Vec<&str> = stat.split_whitespace().collect();
    assert_eq!((fields[0], fields[3], fields[4], fields[5]), ("2", "1", "2", "2"), "{stat}");
}

pub fn the_first_process_can_be_neither_read_nor_traced(host: &Host) {
    let program = r#"
import os, ctypes
for name in ["environ", "mem", "maps", "fd", "root", "cwd", "exe", "ns/pid", "status", "oom_score_adj"]:
    path = "/proc/1/" + name
    for attempt in (lambda: os.listdir(path), lambda: os.readlink(path), lambda: open(path, "rb").read(1), lambda: open(path, "r+b")):
        try:
            attempt()
            print("could", path)
        except OSError:
            pass
libc = ctypes.CDLL(None, use_errno=True)
tracer = os.fork()
if tracer == 0:
    # PTRACE_SEIZE, which does not stop what it traces, in a process that lets go at once.
    os._exit(1 if libc.ptrace(0x4206, 1, 0, 0) == 0 else 0)
if os.waitpid(tracer, 0)[1] != 0: print("could trace")
for signal in (9, 19):
    os.kill(1, signal)
print("alive")
"#;
    assert_eq!(host.output(&host.python(program)), "alive\n");
}

/// Tries to make a file in every directory, to write to every file and to change every mode.
pub fn nothing_can_be_written_but_what_is_meant_to_be(host: &Host) {
    let program = r#"
import os, stat
allowed = ("/tmp", "/dev/shm", "/home/tester", "/workspace/output")
seen = set()
def inside(path): return any(path == a or path.startswith(a + "/") for a in allowed)
for top, directories, files in os.walk("/"):
    if top == "/proc":
        directories[:] = [d for d in directories if not d.isdigit()]
    if inside(top):
        seen.add(top)
    try:
        fd = os.open(top + "/belljar-probe", os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)
        os.close(fd); os.unlink(top + "/belljar-probe")
        if not inside(top): print("could create in", top)
    except OSError as e:
        if top in allowed: print("could not create in", top, e)
    if inside(top): continue
    try:
        os.chmod(top, stat.S_IMODE(os.stat(top).st_mode)); print("could chmod", top)
    except OSError: pass
    # Below /usr a file is on the same mount as its directory.
    if top.startswith("/usr/"): continue
    for name in files:
        path = top + "/" + name
        if os.path.islink(path): continue
        try:
            os.chmod(path, stat.S_IMODE(os.stat(path).st_mode)); print("could chmod", path)
        except OSError: pass
        if stat.S_ISREG(os.lstat(path).st_mode):
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK)); print("could write", path)
            except OSError: pass
        try:
            os.unlink(path); print("could remove", path)
        except OSError: pass
print(sorted(seen & set(allowed)))
"#;
    let output = host.output(&host.python(program));
    assert_eq!(output, "['/dev/shm', '/home/tester', '/tmp', '/workspace/output']\n");
    for path in
        ["/proc/sys/vm/overcommit_memory", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger"]
    {
        let outcome = host.run(&host.shell(&format!("echo 0 > {path}"))).expect("starts");
        assert_ne!(outcome.ended.how, Exit::Exited(0), "{path}");
    }
}

pub fn a_read_only_mount_is_erofs_and_a_read_write_one_reaches_the_host(host: &Host) {
    let outcome = host
        .run(&host.shell("cat input/data; echo made > output/made; touch input/x; touch x; echo c > .belljar/env; cat .belljar/env"))
        .expect("starts");
    assert_eq!(outcome.stdout, "input data\nA=b\n");
    assert_eq!(outcome.stderr.matches("Read-only file system").count(), 3, "{}", outcome.stderr);
    assert_eq!(fs::read_to_string(host.path("workspace/output/made")).expect("read"), "made\n");
    assert!(!host.path("workspace/input/x").exists());
    assert!(!host.path("workspace/x").exists());
}

pub fn nothing_of_the_hosts_mounts_is_left(host: &Host) {
    let mountinfo = host.output(&host.plan(["cat", "/proc/self/mountinfo"]));
    for line in mountinfo.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let (place, options) = (fields[4], fields[5].split(',').collect::<Vec<_>>());
        let known = ["/", "/bin", "/sbin", "/tmp", "/home/tester"].contains(&place)
            || ["/usr", "/lib", "/etc/", "/proc", "/dev/", "/run/belljar", "/workspace"]
                .iter()
                .any(|p| place.starts_with(p));
        assert!(known, "{line}");
        assert!(options.contains(&"nosuid"), "{line}");
        assert!(options.contains(&"nodev") || place.starts_with("/dev/"), "{line}");
        assert!(!line.contains("shared:") && !line.contains("master:"), "{line}");
        let writable = ["/tmp", "/dev/shm", "/home/tester", "/workspace/output"];
        assert_eq!(options.contains(&"rw"), writable.contains(&place), "{line}");
    }
    let root = host.output(&host.plan(["ls", "/"]));
    for name in root.split_whitespace() {
        let known =
            ["bin", "dev", "etc", "home", "proc", "run", "sbin", "tmp", "usr", "var", "workspace"];
        assert!(known.contains(&name) || name.starts_with("lib"), "{root}");
    }
}

pub fn an_exposed_path_appears_at_its_place_read_only(host: &Host) {
    let project = host.path("project");
    fs::create_dir_all(project.join("deep")).expect("mkdir");
    fs::write(project.join("deep/file"), "exposed\n").expect("write");
    fs::write(host.path("single"), "single\n").expect("write");
    for path in [host.path(""), project.clone(), project.join("deep"), host.path("single")] {
        // Whatever the user is, only the mount can refuse the write.
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("chmod");
    }
    let mut plan = host.shell(&format!(
        "cat {0}/deep/file {1}; touch {0}/x 2>&1; touch {1} 2>&1; touch $(dirname {0})/mine && echo mine",
        project.display(),
        host.path("single").display()
    ));
    // In both orders: a parent is attached before what is below it.
    plan.expose = vec![project.join("deep"), project, host.path("single")];
    let output = host.output(&plan);
    assert!(output.starts_with("exposed\nsingle\n"), "{output}");
    assert_eq!(output.matches("Read-only file system").count(), 2, "{output}");
    // Directories on the way below /tmp are the user's.
    assert!(output.ends_with("mine\n"), "{output}");
}

pub fn without_a_network_there_is_only_loopback(host: &Host) {
    let program = r#"
import socket
print([name for _, name in socket.if_nameindex()])
listener = socket.create_server(("127.0.0.1", 0))
socket.create_connection(listener.getsockname()).close()
try:
    socket.create_connection(("192.0.2.1", 80), timeout=1)
except OSError as error:
    print(error.strerror)
print(socket.gethostbyname("localhost"), socket.gethostbyname("belljar"))
"#;
    let plan = host.python(program);
    assert_eq!(host.output(&plan), "['lo']\nNetwork is unreachable\n127.0.0.1 127.0.0.1\n");
    let mut plan = host.plan(["readlink", "/proc/self/ns/net"]);
    plan.network = Network::Host;
    let host_namespace = fs::read_link("/proc/self/ns/net").expect("link");
    assert_eq!(host.output(&plan).trim(), host_namespace.to_string_lossy());
    plan.argv = vec!["cat".into(), "/etc/resolv.conf".into(), "/etc/hosts".into()];
    assert!(host.output(&plan).ends_with("127.0.0.1 localhost belljar\n"));
}

pub fn the_runs_own_socket_can_be_reached_and_nothing_else_made_there(host: &Host) {
    use std::io::Read;
    let socket = host.path("api/belljar.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).expect("bind");
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).expect("chmod");
    let program = r#"
import os, socket
peer = socket.socket(socket.AF_UNIX)
peer.connect(os.environ["BELLJAR_SOCKET"])
peer.sendall(b"hello")
try: os.unlink(os.environ["BELLJAR_SOCKET"])
except OSError as error: print(error.strerror)
"#;
    assert_eq!(host.output(&host.python(program)), "Read-only file system\n");
    let mut text = String::new();
    listener.accept().expect("accept").0.read_to_string(&mut text).expect("read");
    assert_eq!(text, "hello");
}

pub fn devices_and_terminals_work(host: &Host) {
    let program = r#"
import os, pty
near, far = pty.openpty()
os.write(far, b"through\n")
print(os.read(near, 100), os.isatty(far))
print(open("/dev/zero", "rb").read(2), len(open("/dev/urandom", "rb").read(8)), open("/dev/null", "rb").read())
open("/dev/null", "w").write("x")
open("/dev/stdout", "w").write("stdout\n")
try: os.write(os.open("/dev/full", os.O_WRONLY), b"x")
except OSError as error: print(error.strerror)
try: open("/dev/tty")
except OSError as error: print(error.strerror)
"#;
    let expected = "b'through\\r\\n' True\nb'\\x00\\x00' 8 b''\n";
    let output = host.output(&host.python(program));
    assert!(output.contains(expected), "{output}");
    // Standard output is a pipe that another user made, and can be opened by its name all the same.
    assert!(output.contains("stdout\n"), "{output}");
    assert!(output.ends_with("No space left on device\nNo such device or address\n"), "{output}");
}

pub fn signals_reach_the_command(host: &Host) {
    use std::io::{BufRead, BufReader};
    let program = r#"
import signal, sys
wanted = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH]
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
print("ready", flush=True)
for _ in wanted:
    print(signal.sigwait(wanted).name, flush=True)
signal.pthread_sigmask(signal.SIG_UNBLOCK, wanted)
signal.pause()
"#;
    let (mut sandbox, out, _err) = host.spawn(&host.python(program));
    sandbox.wait_started().expect("starts");
    let mut lines = BufReader::new(out).lines().map(|line| line.expect("line"));
    assert_eq!(lines.next().as_deref(), Some("ready"));
    use nix::sys::signal::Signal::*;
    for signal in [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH] {
        sandbox.signal(signal as i32).expect("send");
        assert_eq!(lines.next().as_deref(), Some(signal.as_str()));
    }
    sandbox.signal(SIGTERM as i32).expect("send");
    assert_eq!(sandbox.wait().how, Exit::Signaled(SIGTERM as i32));
    assert!(sandbox.signal(SIGTERM as i32).is_err(), "it has ended");
}

pub fn what_the_command_leaves_running_is_killed(host: &Host) {
    let (mut sandbox, _out, _err) =
        host.spawn(&host.shell("setsid sleep 1000 & (trap '' TERM HUP; sleep 1000) & exit 3"));
    let namespace = sandbox.wait_ready().expect("ready");
    sandbox.go().expect("starts");
    assert_eq!(sandbox.wait().how, Exit::Exited(3));
    assert_eq!(processes_in(namespace.ino), [0i32; 0]);
}

pub fn what_the_command_leaves_running_is_waited_for_on_request(host: &Host) {
    let mut plan = host.shell("(sleep 0.2; echo late) & exit 5");
    plan.wait_children = true;
    let outcome = host.run(&plan).expect("starts");
    assert_eq!((outcome.ended.how, outcome.stdout.as_str()), (Exit::Exited(5), "late\n"));
}

pub fn a_kill_or_a_drop_ends_everything(host: &Host) {
    let endless = host.shell("trap '' TERM INT HUP; sleep 1000 & sleep 1000");
    let (mut sandbox, _out, _err) = host.spawn(&endless);
    let namespace = sandbox.wait_ready().expect("ready");
    assert_eq!(sandbox.pid_namespace(), Some(namespace));
    assert!(!processes_in(namespace.ino).is_empty());
    sandbox.go().expect("starts");
    let remote = sandbox.remote();
    let killer = std::thread::spawn(move || remote.kill());
    assert_eq!(sandbox.wait().how, Exit::Vanished);
    killer.join().expect("killer");
    assert_eq!(processes_in(namespace.ino), [0i32; 0]);

    let (mut sandbox, _out, _err) = host.spawn(&endless);
    let namespace = sandbox.wait_ready().expect("ready");
    drop(sandbox);
    assert_eq!(processes_in(namespace.ino), [0i32; 0]);

    let (sandbox, _out, _err) = host.spawn(&endless);
    drop(sandbox);
}

pub fn usage_is_that_of_the_sandbox_alone(host: &Host) {
    // Touched memory of this process must not count as the command's.
    let ballast = vec![1u8; 256 << 20];
    let outcome = host.run(&host.plan(["true"])).expect("starts");
    assert!(outcome.ended.usage.peak_memory_bytes > 0);
    assert!(outcome.ended.usage.peak_memory_bytes < 64 << 20, "{:?}", outcome.ended);
    assert_eq!(ballast[ballast.len() - 1], 1);
    let program = "b = b'x' * (80 << 20)\nfor _ in range(3000000): pass";
    let outcome = host.run(&host.python(program)).expect("starts");
    assert!(outcome.ended.usage.peak_memory_bytes > 80 << 20, "{:?}", outcome.ended);
    assert!(outcome.ended.usage.cpu_us > 20_000, "{:?}", outcome.ended);
}

pub fn every_layer_is_proven_before_the_command_starts(host: &Host) {
    let mut plan = host.plan(["true"]);
    let (mut sandbox, _out, _err) = host.spawn(&plan);
    assert_eq!(sandbox.layers(), []);
    sandbox.wait_ready().expect("ready");
    let layers = sandbox.layers();
    let names: Vec<_> = layers.iter().map(|layer| layer.name.as_str()).collect();
    assert_eq!(names, LayerName::ALL.map(LayerName::as_str));
    for layer in &layers {
        assert!(layer.requested && layer.in_force, "{layer:?}");
        assert!(layer.proof.as_ref().is_some_and(|proof| proof.len() > 20), "{layer:?}");
        assert_eq!(layer.abi.is_some(), layer.name == "landlock", "{layer:?}");
    }
    drop(sandbox);
    plan.network = Network::Host;
    plan.mounts.retain(|(name, _)| name.as_str() != "input");
    let (mut sandbox, _out, _err) = host.spawn(&plan);
    sandbox.wait_ready().expect("ready");
    let layers = sandbox.layers();
    let one = |name: &str| layers.iter().find(|layer| layer.name == name).expect("listed");
    assert!(!one("network").requested && !one("network").in_force);
    assert!(!one("read-only-mounts").requested);
}

/// Processes of this host that live in a pid namespace.
pub fn processes_in(namespace: u64) -> Vec<i32> {
    use std::os::unix::fs::MetadataExt;
    fs::read_dir("/proc")
        .expect("proc")
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let found = fs::metadata(entry.path().join("ns/pid")).ok()?.ino() == namespace;
            entry.file_name().to_str()?.parse().ok().filter(|_| found)
        })
        .collect()
}

/// A promise, by its name.
pub type Case = (&'static str, fn(&Host));

/// One suite, run by each kind of user.
pub const ALL: &[Case] = &[
    (
        "the_exit_code_and_both_outputs_are_the_commands_own",
        the_exit_code_and_both_outputs_are_the_commands_own,
    ),
    (
        "a_command_that_cannot_run_is_126_or_127_with_the_reason",
        a_command_that_cannot_run_is_126_or_127_with_the_reason,
    ),
    (
        "a_program_is_found_in_the_path_of_the_sandbox",
        a_program_is_found_in_the_path_of_the_sandbox,
    ),
    ("a_working_directory_that_is_missing_is_named", a_working_directory_that_is_missing_is_named),
    ("a_failing_step_is_named", a_failing_step_is_named),
    ("the_environment_is_exactly_the_plans", the_environment_is_exactly_the_plans),
    (
        "the_command_holds_no_privilege_and_a_clean_process_state",
        the_command_holds_no_privilege_and_a_clean_process_state,
    ),
    (
        "the_first_process_can_be_neither_read_nor_traced",
        the_first_process_can_be_neither_read_nor_traced,
    ),
    (
        "nothing_can_be_written_but_what_is_meant_to_be",
        nothing_can_be_written_but_what_is_meant_to_be,
    ),
    (
        "a_read_only_mount_is_erofs_and_a_read_write_one_reaches_the_host",
        a_read_only_mount_is_erofs_and_a_read_write_one_reaches_the_host,
    ),
    ("nothing_of_the_hosts_mounts_is_left", nothing_of_the_hosts_mounts_is_left),
    (
        "an_exposed_path_appears_at_its_place_read_only",
        an_exposed_path_appears_at_its_place_read_only,
    ),
    ("without_a_network_there_is_only_loopback", without_a_network_there_is_only_loopback),
    (
        "the_runs_own_socket_can_be_reached_and_nothing_else_made_there",
        the_runs_own_socket_can_be_reached_and_nothing_else_made_there,
    ),
    ("devices_and_terminals_work", devices_and_terminals_work),
    ("signals_reach_the_command", signals_reach_the_command),
    ("what_the_command_leaves_running_is_killed", what_the_command_leaves_running_is_killed),
    (
        "what_the_command_leaves_running_is_waited_for_on_request",
        what_the_command_leaves_running_is_waited_for_on_request,
    ),
    ("a_kill_or_a_drop_ends_everything", a_kill_or_a_drop_ends_everything),
    ("usage_is_that_of_the_sandbox_alone", usage_is_that_of_the_sandbox_alone),
    (
        "every_layer_is_proven_before_the_command_starts",
        every_layer_is_proven_before_the_command_starts,
    ),
];
