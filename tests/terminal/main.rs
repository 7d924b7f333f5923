//! A run with a terminal: a shell in it is usable, the caller gets the terminal back as it was, and nothing gets into it.
//!
//! The test is the other side of the caller's terminal. Needs what `tests/run.rs` needs, setsid (Debian package util-linux) and
//! script (bsdutils).
#![allow(clippy::unwrap_used)]

mod screen;
#[path = "../support/mod.rs"]
mod support;

use nix::sys::signal::Signal;
use nix::sys::termios::LocalFlags;
use screen::{Client, Other, Screen};
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::process::Command;
use support::{ORDINARY, Place, eventually};

const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";
const CTRL_Z: &str = "\x1a";

/// A job that says when it is continued. A key ends it without Python's own handler, which sleeps on when the signal comes just before.
const STOPPABLE: &str = "/usr/bin/python3 -c \"import signal, time; signal.signal(2, signal.SIG_DFL); signal.pthread_sigmask(signal.SIG_BLOCK, [18]); print('be' + 'gun', flush=True); signal.sigwait([18]); print('conti' + 'nued', flush=True); time.sleep(100)\"\n";

/// Large enough that nothing on the way holds all of it.
const LINES: usize = 1_000_000;

fn run(place: &Place, options: &[&str], command: &[&str]) -> Command {
    let mut run = place.belljar(["run", "--quiet", "--rw", "output=output"]);
    run.args(options).arg("--").args(command).env("TERM", "dumb");
    run
}

/// A shell in a sandbox, with a prompt of ours.
fn shell(place: &Place, options: &[&str]) -> Command {
    let options = [&["--env", "PS1=> "], options].concat();
    run(place, &options, &["bash", "--norc", "--noediting"])
}

fn is_raw(screen: &Screen) -> bool {
    !screen.modes().local_flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO)
}

fn a_shell_is_usable(place: &Place, options: &[&str], uid: u32) {
    let mut screen = Screen::new();
    let before = screen.modes();
    let mut client = screen.start(&shell(place, options), Other::Nothing);
    // Nothing comes before the prompt: no warning that there is no job control.
    assert_eq!(screen.until("> "), "> ");
    assert!(is_raw(&screen));

    assert_eq!(screen.ask("for n in 0 1 2; do test -t $n && echo $n; done"), "0\n1\n2\n");
    assert_eq!(screen.ask("echo $TERM $(id -u)"), format!("dumb {uid}\n"));
    assert_eq!(screen.ask("tty && tty < /dev/tty"), "/dev/console\n/dev/tty\n");
    // By their names they can be opened again.
    assert_eq!(screen.ask("echo one > /dev/stdout; echo two > /dev/console"), "one\ntwo\n");

    assert_eq!(screen.ask("stty size"), "33 99\n");
    screen.ask("trap 'echo resized' WINCH");
    screen.resize(50, 111);
    eventually("the size follows", || screen.ask("stty size").contains("50 111"));
    assert!(screen.ask("trap - WINCH; sleep 0.1").contains("") && client.state() != 'T');

    // A key ends the job, and not the shell.
    screen.type_in("sh -c 'echo be''gun; exec sleep 100'\n");
    screen.until("begun\r\n");
    screen.type_in(CTRL_C);
    screen.until("> ");
    assert_eq!(screen.ask("echo $?"), "130\n");

    // One process that forks nothing: a shell that is stopped while it does is not seen as stopped (vfork(2)).
    screen.type_in(STOPPABLE);
    screen.until("begun\r\n");
    screen.type_in(CTRL_Z);
    assert!(screen.until("> ").contains("Stopped"));
    let jobs = screen.ask("jobs");
    assert!(jobs.contains("Stopped") && jobs.contains("python3"), "{jobs}");
    screen.type_in("fg\n");
    screen.until("continued\r\n");
    screen.type_in(CTRL_C);
    screen.until("> ");
    screen.ask("sleep 102 &");
    assert!(screen.ask("bg; jobs").contains("Running"));
    assert_eq!(screen.ask("kill %1; wait %1; echo $((100 + $?))").lines().last(), Some("243"));

    // Programs make terminals of their own, too.
    let nested = screen.ask("script -qec 'tty; stty size; exit 5' /dev/null; echo $?");
    assert!(nested.contains("/dev/pts/0\n50 111\n5\n"), "{nested}");

    screen.type_in("exit 7\n");
    let (rest, status) = screen.rest(&mut client);
    assert_eq!(status.code(), Some(7), "{rest}");
    assert_eq!(screen.modes(), before);
}

#[test]
fn a_shell_of_user_0_is_usable() {
    let place = Place::new();
    a_shell_is_usable(&place, &[], 0);
    place.assert_clean();
}

#[test]
fn a_shell_of_another_user_of_roots_is_usable() {
    let place = Place::new();
    a_shell_is_usable(&place, &["--user", "12345:12345"], ORDINARY);
    place.assert_clean();
}

#[test]
fn a_shell_of_an_ordinary_user_is_usable() {
    let place = Place::of_ordinary_user();
    a_shell_is_usable(&place, &[], ORDINARY);
    place.assert_clean();
}

#[test]
fn a_shell_of_a_running_daemon_is_usable() {
    let mut place = Place::new();
    place.start_daemon();
    a_shell_is_usable(&place, &[], 0);
}

/// The command's standard streams, as it sees them itself.
const KINDS: &str = "for n in 0 3 2; do test -t $n && echo tty || { test -p /dev/fd/$n && echo pipe || echo other; }; done 3>&1 >&2; ";

#[test]
fn a_pipe_behind_the_run_stays_the_callers_and_the_terminal_its_own() {
    let place = Place::new();
    let mut screen = Screen::new();
    let (mut output, far) = std::io::pipe().unwrap();
    let before = screen.modes();
    let script = format!("{KINDS} while read -r line; do echo \"got $line\"; done; echo end");
    let command = run(&place, &[], &["bash", "-c", &script]);
    let mut client = screen.start(&command, Other::Output(far.into()));
    assert_eq!(screen.until("tty\r\n").replace("\r\n", " "), "tty ");
    assert_eq!(screen.until("tty\r\n").replace("\r\n", " "), "pipe tty ");
    // A pager behind the pipe uses the terminal too: its modes are not the run's to change.
    assert_eq!(screen.modes(), before);
    screen.type_in("one\n");
    let mut got = [0; 8];
    output.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"got one\n");
    screen.type_in("half");
    screen.type_in(CTRL_D);
    screen.type_in(" and half\n");
    let mut rest = [0; 18];
    output.read_exact(&mut rest).unwrap();
    assert_eq!(&rest, b"got half and half\n");
    screen.type_in(CTRL_D);
    let (shown, status) = screen.rest(&mut client);
    // What was typed is shown once, by the caller's terminal.
    assert_eq!(shown.matches("half").count(), 2, "{shown}");
    assert_eq!(status.code(), Some(0), "{shown}");
    let mut end = String::new();
    output.read_to_string(&mut end).unwrap();
    assert_eq!(end, "end\n");
    assert_eq!(screen.modes(), before);
}

#[test]
fn what_a_pager_behind_the_run_is_typed_is_left_to_it() {
    let place = Place::new();
    let mut screen = Screen::new();
    let script = r#"
        "$@" | bash -c 'stty -F /dev/tty -icanon -echo; echo ready >&2; read -rN 3 key < /dev/tty; echo "key $key" >&2; cat; stty -F /dev/tty icanon echo'
    "#;
    let inner = run(&place, &[], &["bash", "-c", "read -t 2 -r line; echo \"line <$line>\""]);
    let mut command = Command::new("bash");
    command.args(["-c", script, "bash"]).arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command.current_dir(place.root());
    let mut client = screen.start(&command, Other::Nothing);
    screen.until("ready");
    screen.type_in("abc");
    screen.until("key abc");
    screen.until("line <>");
    let (shown, status) = screen.rest(&mut client);
    assert!(status.success(), "{shown}");
}

#[test]
fn a_pipe_before_the_run_stays_the_callers_and_the_terminal_its_own() {
    let place = Place::new();
    let mut screen = Screen::new();
    let before = screen.modes();
    let (far, mut input) = std::io::pipe().unwrap();
    let script = format!("{KINDS} cat; tty < /dev/tty");
    let command = run(&place, &[], &["bash", "-c", &script]);
    let mut client = screen.start(&command, Other::Input(far.into()));
    screen.until("tty\r\ntty\r\n");
    assert_eq!(screen.modes(), before);
    std::io::Write::write_all(&mut input, b"through the pipe\n").unwrap();
    drop(input);
    assert_eq!(screen.until("/dev/tty\r\n"), "through the pipe\r\n/dev/tty\r\n");
    let (shown, status) = screen.rest(&mut client);
    assert_eq!(status.code(), Some(0), "{shown}");
    assert_eq!(screen.modes(), before);
}

/// A pager in a pipeline reads its text from the pipe and keys from the terminal.
fn keys_reach_a_command_that_asks_for_them(screen: &mut Screen, client: &mut Client) {
    // Ended by both terminals: nobody could know that no other program ends its lines so.
    screen.until("asks\r\r\n");
    eventually("the terminal is taken", || is_raw(screen));
    // No line is needed, and no key is the caller's.
    screen.type_in("ab");
    screen.type_in(CTRL_C);
    screen.until("keys 3\r\r\n");
    eventually("the terminal is given back", || !is_raw(screen));
    let (shown, status) = screen.rest(client);
    assert_eq!(status.code(), Some(0), "{shown}");
}

const ASKS: &str = "trap '' INT; s=$(stty -F /dev/tty -g); stty -F /dev/tty raw -echo opost onlcr; echo asks >/dev/tty; keys=$(head -c3 </dev/tty); echo keys ${#keys} >/dev/tty; stty -F /dev/tty $s; sleep 1";

#[test]
fn keys_reach_a_pager_at_the_end_of_a_pipeline() {
    let place = Place::new();
    let mut screen = Screen::new();
    let before = screen.modes();
    let (far, input) = std::io::pipe().unwrap();
    let mut client =
        screen.start(&run(&place, &[], &["bash", "-c", ASKS]), Other::Input(far.into()));
    keys_reach_a_command_that_asks_for_them(&mut screen, &mut client);
    assert_eq!(screen.modes(), before);
    drop(input);
}

#[test]
fn keys_reach_a_menu_whose_choice_goes_into_a_pipe() {
    let place = Place::new();
    let mut screen = Screen::new();
    let before = screen.modes();
    let (output, far) = std::io::pipe().unwrap();
    let mut client =
        screen.start(&run(&place, &[], &["bash", "-c", ASKS]), Other::Output(far.into()));
    keys_reach_a_command_that_asks_for_them(&mut screen, &mut client);
    assert_eq!(screen.modes(), before);
    drop(output);
}

#[test]
fn a_session_without_the_terminal_is_noticed_and_nothing_runs() {
    let place = Place::new();
    let mut screen = Screen::new();
    let mut command = run(&place, &[], &["echo", "ran"]);
    command.env("BELLJAR_TEST_WITHOUT_LAYER", "session");
    let mut client = screen.start(&command, Other::Nothing);
    let (shown, status) = screen.rest(&mut client);
    assert_eq!(status.code(), Some(125), "{shown}");
    assert!(shown.contains("session: not in force") && !shown.contains("ran\r"), "{shown}");
}

#[test]
fn without_a_terminal_there_is_none() {
    let place = Place::new();
    let output = place.run(&["--receipt", "receipt.json"], "tty; ls /dev; : < /dev/tty");
    let said = support::text(&output);
    assert!(said.contains("not a tty") && said.contains("No such device or address"), "{said}");
    assert!(!said.contains("console"), "{said}");
    let session = session_layer(&place);
    assert!(session["proof"].as_str().unwrap().contains("ENXIO"), "{session}");
}

fn session_layer(place: &Place) -> Value {
    let receipt: Value =
        serde_json::from_slice(&fs::read(place.path("receipt.json")).unwrap()).unwrap();
    let layers = receipt["enforcement"].as_array().unwrap();
    layers.iter().find(|layer| layer["name"] == "session").unwrap().clone()
}

#[test]
fn the_receipt_says_that_the_terminal_is_the_runs_own() {
    let place = Place::new();
    let mut screen = Screen::new();
    let command = run(&place, &["--receipt", "receipt.json"], &["true"]);
    let mut client = screen.start(&command, Other::Nothing);
    assert!(screen.rest(&mut client).1.success());
    let session = session_layer(&place);
    assert_eq!((&session["in_force"], &session["requested"]), (&true.into(), &true.into()));
    assert!(session["proof"].as_str().unwrap().contains("terminal is the run's own"), "{session}");
}

fn much_output_is_complete_and_in_order(place: &Place) {
    let mut screen = Screen::new();
    let last = LINES.to_string();
    // Right behind the last byte the command ends.
    let command = run(place, &[], &["seq", "-w", "1", &last]);
    let mut client = screen.start(&command, Other::Nothing);
    let (shown, status) = screen.rest(&mut client);
    assert!(status.success(), "{status}");
    let width = last.len() + 2;
    assert_eq!(shown.len(), LINES * width);
    let wrong = shown.as_bytes().chunks(width).zip(1..).find(|(line, number)| {
        line.strip_suffix(b"\r\n") != Some(format!("{number:0w$}", w = last.len()).as_bytes())
    });
    assert!(wrong.is_none(), "{wrong:?}");
}

#[test]
fn much_output_is_complete_and_in_order_without_a_daemon() {
    much_output_is_complete_and_in_order(&Place::new());
}

#[test]
fn much_output_is_complete_and_in_order_for_an_ordinary_user() {
    much_output_is_complete_and_in_order(&Place::of_ordinary_user());
}

#[test]
fn much_output_is_complete_and_in_order_with_a_daemon() {
    let mut place = Place::new();
    place.start_daemon();
    much_output_is_complete_and_in_order(&place);
}

/// A command that says when it runs and then waits.
const WAITS: &[&str] = &["sh", "-c", "echo on the way; exec sleep 100"];

/// Starts it, and returns when the terminal is taken.
fn waiting(place: &Place, screen: &mut Screen, options: &[&str]) -> Client {
    let client = screen.start(&run(place, options, WAITS), Other::Nothing);
    screen.until("on the way");
    assert!(is_raw(screen));
    client
}

#[test]
fn the_terminal_is_given_back_when_the_client_is_told_to_end() {
    let place = Place::new();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        let mut screen = Screen::new();
        let before = screen.modes();
        let mut client = waiting(&place, &mut screen, &[]);
        client.signal(signal);
        let (shown, status) = screen.rest(&mut client);
        assert_eq!(status.code(), Some(128 + signal as i32), "{shown}");
        assert_eq!(screen.modes(), before);
    }
    place.assert_clean();
}

#[test]
fn the_terminal_is_given_back_at_the_timeout() {
    let place = Place::new();
    let mut screen = Screen::new();
    let before = screen.modes();
    let mut client = waiting(&place, &mut screen, &["--timeout", "1s"]);
    let (shown, status) = screen.rest(&mut client);
    assert_eq!(status.code(), Some(124), "{shown}");
    assert_eq!(screen.modes(), before);
}

#[test]
fn the_terminal_is_given_back_when_the_daemon_is_killed() {
    let mut place = Place::new();
    place.start_daemon();
    let mut screen = Screen::new();
    let before = screen.modes();
    let mut client = waiting(&place, &mut screen, &[]);
    place.stop_daemon(Signal::SIGKILL);
    let (shown, status) = screen.rest(&mut client);
    assert_eq!(status.code(), Some(125), "{shown}");
    assert!(shown.contains("the daemon"), "{shown}");
    assert_eq!(screen.modes(), before);
}

#[test]
fn a_client_that_is_stopped_gives_the_terminal_back_and_takes_it_again() {
    let place = Place::new();
    let mut screen = Screen::new();
    let before = screen.modes();
    let mut client = screen.start(&shell(&place, &[]), Other::Nothing);
    screen.until("> ");
    for _ in 0..2 {
        client.signal(Signal::SIGTSTP);
        eventually("the client stops", || client.state() == 'T');
        assert_eq!(screen.modes(), before);
        screen.resize(20, 40);
        client.signal(Signal::SIGCONT);
        eventually("the terminal is taken again", || is_raw(&screen));
        assert_eq!(screen.ask("stty size"), "20 40\n");
        screen.resize(21, 41);
    }
    screen.type_in("exit\n");
    let (shown, status) = screen.rest(&mut client);
    assert_eq!(status.code(), Some(0), "{shown}");
    assert_eq!(screen.modes(), before);
}

#[test]
fn a_terminal_that_is_closed_ends_the_run() {
    let mut place = Place::new();
    place.start_daemon();
    let endings = [
        ("echo on the way; exec sleep 100", 129, "signal"),
        // One that will not hear of it.
        ("trap '' HUP; echo on the way; while :; do sleep 1; done", 125, "cancelled"),
    ];
    for (script, code, reason) in endings {
        let mut screen = Screen::new();
        let command = run(&place, &["--receipt", "receipt.json"], &["sh", "-c", script]);
        let mut client = screen.start(&command, Other::Nothing);
        screen.until("on the way");
        drop(screen);
        assert_eq!(client.wait().code(), Some(code));
        let receipt: Value =
            serde_json::from_slice(&fs::read(place.path("receipt.json")).unwrap()).unwrap();
        assert_eq!(receipt["reason"], reason, "{receipt}");
    }
}

/// The caller's own shell, with the client as one of its jobs.
fn callers_shell(place: &Place, screen: &mut Screen) -> Client {
    let run = run(place, &[], &[]);
    // Not in its environment before: the shell that starts it would take the prompt out.
    let mut bash = Command::new("env");
    bash.args(["PS1=> ", "bash", "--norc", "--noediting", "-i"]).current_dir(place.root());
    for (name, value) in run.get_envs() {
        bash.env(name, value.unwrap_or_default());
    }
    let client = screen.start(&bash, Other::Nothing);
    screen.until("> ");
    screen.ask(&format!("run() {{ {} run --quiet --rw output=output \"$@\"; }}", support::BELLJAR));
    client
}

#[test]
fn a_run_in_the_background_goes_on_beside_the_shell_and_comes_to_the_foreground() {
    let place = Place::new();
    let mut screen = Screen::new();
    let mut shell = callers_shell(&place, &mut screen);
    screen.ask("run -- sh -c 'while ! test -e /workspace/output/go; do sleep 0.1; done; read -r line; echo \"read $line\"; exit 3' &");
    assert_eq!(screen.ask("echo $((6 * 7))"), "42\n");
    fs::write(place.path("output/go"), "").unwrap();
    assert!(screen.ask("sleep 0.5; jobs").contains("Running"));
    screen.type_in("fg\n");
    screen.until("fi; exit 3".get(4..).unwrap());
    eventually("the terminal is taken", || is_raw(&screen));
    screen.type_in("typed\r");
    screen.until("read typed");
    screen.until("> ");
    assert_eq!(screen.ask("echo $?"), "3\n");
    screen.type_in("exit\n");
    assert!(screen.rest(&mut shell).1.success());
}

#[test]
fn a_run_that_the_callers_shell_stops_is_continued() {
    let place = Place::new();
    let mut screen = Screen::new();
    let mut outer = callers_shell(&place, &mut screen);
    screen.type_in("run --env PS1='i''n> ' -- bash --norc --noediting\n");
    screen.until("in> ");
    let client = child_of(&outer);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(client), Signal::SIGSTOP).unwrap();
    // The shell tells, and has its own modes.
    screen.until("Stopped");
    screen.until("> ");
    assert_eq!(screen.ask("echo $((6 * 7))"), "42\n");
    screen.type_in("fg\n");
    eventually("the terminal is taken again", || is_raw(&screen));
    screen.type_in("echo $((7 * 8))\r");
    screen.until("56");
    screen.type_in("exit 4\r");
    screen.until("\n> ");
    assert_eq!(screen.ask("echo $?"), "4\n");
    screen.type_in("exit\n");
    assert!(screen.rest(&mut outer).1.success());
}

fn child_of(parent: &Client) -> i32 {
    let children =
        fs::read_to_string(format!("/proc/{0}/task/{0}/children", parent.pid())).unwrap();
    children.split_whitespace().next().unwrap().parse().unwrap()
}

/// What is lost when one works: a command typed into the caller's shell, or that shell's terminal.
const INTO_THE_CALLERS_TERMINAL: &str = r#"
import fcntl, glob, os, sys, termios
caller = int(sys.argv[1])
def attempt(name, do):
    try: print("attempt", name + ":", do(), flush=True)
    except OSError as e: print("attempt", name + ":", "errno", e.errno, flush=True)
def type_into(path):
    terminal = os.open(path, os.O_RDWR | os.O_NOCTTY)
    for key in b"touch typed\n": fcntl.ioctl(terminal, termios.TIOCSTI, bytes([key]))
    return "typed"
for path in ["/dev/stdin", "/dev/tty", "/dev/console"]: attempt("typing through " + path, lambda: type_into(path))
def selection(path): return fcntl.ioctl(os.open(path, os.O_RDWR), 0x541C, b"")
attempt("the console's selection", lambda: selection("/dev/tty"))
# Everything that has a name, and everything that some process in reach has open.
found = []
for path in glob.glob("/dev/**", recursive=True) + glob.glob("/proc/[0-9]*/fd/*"):
    try:
        if os.stat(path).st_rdev == caller: found.append(path)
    except OSError: pass
print("attempt the caller's terminal by name:", found, flush=True)
# Its own terminal is its own to spoil.
modes = termios.tcgetattr(0)
modes[3] &= ~(termios.ECHO | termios.ICANON | termios.ISIG)
termios.tcsetattr(0, termios.TCSANOW, modes)
fcntl.ioctl(0, termios.TIOCSWINSZ, bytes([1, 0, 1, 0, 0, 0, 0, 0]))
fcntl.ioctl(0, termios.TIOCEXCL)
os.write(1, b"last\n")
"#;

fn nothing_gets_into_the_callers_terminal(place: &Place, without: &str) {
    let mut screen = Screen::new();
    let before = screen.modes();
    let program = place.path("output/attempts.py");
    fs::write(&program, INTO_THE_CALLERS_TERMINAL).unwrap();
    let device = screen.device().to_string();
    let mut command =
        run(place, &[], &["/usr/bin/python3", "-I", "/workspace/output/attempts.py", &device]);
    if !without.is_empty() {
        command.env("BELLJAR_TEST_WITHOUT_LAYER", without);
    }
    let mut client = screen.start(&command, Other::Nothing);
    let (shown, status) = screen.rest(&mut client);
    assert!(status.success(), "{shown}");
    let typing = if without.is_empty() { "errno 1" } else { "typed" };
    for path in ["/dev/stdin", "/dev/tty", "/dev/console"] {
        let outcome = format!("attempt typing through {path}: {typing}");
        assert!(shown.contains(&outcome), "{shown}");
    }
    assert!(shown.contains("attempt the caller's terminal by name: []"), "{shown}");
    if without.is_empty() {
        assert!(shown.contains("attempt the console's selection: errno 1"), "{shown}");
    }
    assert_eq!(screen.modes(), before);
    let size = belljar::sys::terminal::window_size(&screen.slave).unwrap();
    assert_eq!((size.ws_row, size.ws_col), (33, 99));
    // A shell that reads the terminal now finds nothing in it but what a person types.
    let mut reader = Command::new("bash");
    reader.args(["-c", "read -r line; echo \"found <$line>\""]);
    let mut reading = screen.start(&reader, Other::Nothing);
    screen.type_in("by hand\n");
    screen.until("found <by hand>");
    assert!(screen.rest(&mut reading).1.success());
}

#[test]
fn nothing_gets_into_the_callers_terminal_as_user_0() {
    nothing_gets_into_the_callers_terminal(&Place::new(), "");
}

#[test]
fn nothing_gets_into_the_callers_terminal_as_an_ordinary_user() {
    nothing_gets_into_the_callers_terminal(&Place::of_ordinary_user(), "");
}

#[test]
fn the_terminal_alone_keeps_the_callers_from_the_command_where_calls_are_not_filtered() {
    nothing_gets_into_the_callers_terminal(&Place::new(), "seccomp:unnoticed");
}
