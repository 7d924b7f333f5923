//! The sandbox as root makes it, for an ordinary user id and for user id 0. Needs root.

mod sandbox_support;

use belljar::sandbox::protocol::Exit;
use sandbox_support::{Host, cases};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const BELLJARD: &str = env!("CARGO_BIN_EXE_belljard");

macro_rules! for_both_users {
    ($($case:ident)*) => {
        $(
            mod $case {
                use super::*;
                #[test]
                fn as_uid_12345() {
                    cases::$case(&Host::new(Path::new(BELLJARD), 12345));
                }
                #[test]
                fn as_uid_0_without_capabilities() {
                    cases::$case(&Host::new(Path::new(BELLJARD), 0));
                }
            }
        )*
    };
}

for_both_users! {
    the_exit_code_and_both_outputs_are_the_commands_own
    a_command_that_cannot_run_is_126_or_127_with_the_reason
    a_program_is_found_in_the_path_of_the_sandbox
    a_working_directory_that_is_missing_is_named
    a_failing_step_is_named
    the_environment_is_exactly_the_plans
    the_command_holds_no_privilege_and_a_clean_process_state
    the_first_process_can_be_neither_read_nor_traced
    nothing_can_be_written_but_what_is_meant_to_be
    a_read_only_mount_is_erofs_and_a_read_write_one_reaches_the_host
    nothing_of_the_hosts_mounts_is_left
    an_exposed_path_appears_at_its_place_read_only
    without_a_network_there_is_only_loopback
    the_runs_own_socket_can_be_reached_and_nothing_else_made_there
    devices_and_terminals_work
    signals_reach_the_command
    what_the_command_leaves_running_is_killed
    what_the_command_leaves_running_is_waited_for_on_request
    a_kill_or_a_drop_ends_everything
    usage_is_that_of_the_sandbox_alone
    every_layer_is_proven_before_the_command_starts
}

#[test]
fn both_suites_run_every_case() {
    let text = include_str!("sandbox.rs");
    for (name, _) in cases::ALL {
        assert!(text.contains(&format!("\n    {name}\n")), "{name} is not run as root");
    }
}

/// The other half of [`a_daemon_that_is_killed_leaves_no_process`], which starts it in a process of its own; alone it has
/// nothing to do.
#[test]
fn daemon() {
    let Some(executable) = std::env::var_os("TEST_EXECUTABLE") else { return };
    let moment = std::env::var("TEST_MOMENT").expect("set");
    let host = Host::new(Path::new(&executable), 12345);
    let (mut sandbox, _out, _err) = host.spawn(&host.shell("sleep 1000 & sleep 1000"));
    if moment != "spawned" {
        let namespace = sandbox.wait_ready().expect("ready");
        println!("namespace {}", namespace.ino);
    }
    if ["started", "stopped"].contains(&moment.as_str()) {
        sandbox.go().expect("starts");
    }
    println!("waiting");
    // Until it is killed. The temporary directory is left to the test that does it.
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_daemon_that_is_killed_leaves_no_process() {
    // A start takes a few milliseconds: the delays fall into its different steps.
    let spawned = (0..8).map(|delay_ms| ("spawned", delay_ms));
    for (moment, delay_ms) in spawned.chain([("ready", 0), ("started", 0), ("stopped", 20)]) {
        // A program of its own, so that its processes can be told from those of other tests.
        // A link, since a fresh copy is busy (ETXTBSY) while a process that another test forks still holds it open.
        let beside = Path::new(BELLJARD).parent().expect("a directory");
        let directory = tempfile::tempdir_in(beside).expect("temporary directory");
        let executable = directory.path().join("belljard");
        fs::hard_link(BELLJARD, &executable).expect("link");
        let mut daemon = Command::new(std::env::current_exe().expect("own path"))
            .args(["--exact", "daemon", "--nocapture"])
            .env("TEST_EXECUTABLE", &executable)
            .env("TEST_MOMENT", moment)
            .env("TMPDIR", directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("spawn");
        let lines = BufReader::new(daemon.stdout.take().expect("piped")).lines();
        let mut namespace = None;
        let mut waiting = false;
        for line in lines {
            let line = line.expect("line");
            if let Some((_, ino)) = line.split_once("namespace ") {
                namespace = Some(ino.parse::<u64>().expect("number"));
            }
            if line.ends_with("waiting") {
                waiting = true;
                break;
            }
        }
        assert!(waiting, "the daemon failed");
        let left = || {
            namespace.map_or(0, |namespace| cases::processes_in(namespace).len())
                + fs::read_dir("/proc")
                    .expect("proc")
                    .filter_map(|entry| fs::read_link(entry.ok()?.path().join("exe")).ok())
                    .filter(|program| *program == executable)
                    .count()
        };
        std::thread::sleep(Duration::from_millis(delay_ms));
        if moment == "started" {
            assert!(left() >= 4, "outer and first twice, by program and by namespace");
        }
        if moment == "stopped" {
            // Somebody on the host stopped every process inside: they cannot notice that the daemon is gone.
            for pid in namespace.map(cases::processes_in).expect("started") {
                belljar::sys::process::kill(pid, nix::sys::signal::Signal::SIGSTOP as i32)
                    .expect("stop");
            }
        }
        daemon.kill().expect("kill");
        daemon.wait().expect("wait");
        let deadline = Instant::now() + Duration::from_secs(10);
        while left() > 0 {
            assert!(Instant::now() < deadline, "{moment} + {delay_ms} ms: {} left", left());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn a_sandbox_that_is_killed_while_it_starts_leaves_nothing() {
    let host = Host::new(Path::new(BELLJARD), 12345);
    for delay in 0..40 {
        let (mut sandbox, mut out, _err) = host.spawn(&host.shell("echo ran"));
        let remote = sandbox.remote();
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_micros(200 * delay));
            remote.kill();
        });
        let started = sandbox.wait_started();
        let ended = sandbox.wait();
        killer.join().expect("killer");
        // The output ends: no process holds it any more.
        let mut text = String::new();
        out.read_to_string(&mut text).expect("read");
        match started {
            Ok(()) => {}
            Err(failure) => {
                // Killed between the execve and the word of it, the command may have run.
                assert_eq!(ended.how, Exit::Vanished, "{failure}");
            }
        }
    }
}

#[test]
fn the_output_ends_with_the_command_although_the_first_process_lives_on() {
    let host = Host::new(Path::new(BELLJARD), 12345);
    let (mut sandbox, mut out, _err) =
        host.spawn(&host.shell("echo done; exec >&- 2>&-; exec sleep 1000"));
    sandbox.wait_started().expect("starts");
    let mut text = String::new();
    // Would wait for ever if another process of the sandbox held the pipe.
    out.read_to_string(&mut text).expect("read");
    assert_eq!(text, "done\n");
    sandbox.kill();
    assert_eq!(sandbox.wait().how, Exit::Vanished);
}

#[test]
fn private_keys_of_the_host_are_not_visible() {
    let host = Host::new(Path::new(BELLJARD), 0);
    let outcome = host.run(&host.plan([
        "ls",
        "/etc/ssl/private",
        "/etc/shadow",
        "/root",
        "/var/lib",
        "/sys",
    ]));
    let outcome = outcome.expect("starts");
    assert_eq!(outcome.stdout, "");
    assert_eq!(
        outcome.stderr.matches("No such file or directory").count(),
        5,
        "{}",
        outcome.stderr
    );
}
