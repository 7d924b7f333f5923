//! Where sandboxes are started from: a thread with a descriptor table of its own, in which no file is open.
//!
//! A new process gets a copy of its parent's descriptors, and closes them when it executes a program. A daemon has files
//! open on the file systems of all its workspaces, and to close one asks its file system (FLUSH, fs/fuse/file.c), even while
//! another descriptor of it stays open. Started from the daemon's own table, a sandbox would hang in execve(2) for as long
//! as somebody else's file system does not answer.
//!
//! The keeper owns the empty table and does nothing else. For each order a thread copies that table, receives the order's
//! descriptors into its copy and starts the process; whatever hangs there is the order's own.

use crate::sys::descriptor_table::{number, spawn_alone};
use crate::sys::{packet, release, scm_rights};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long the start of a process may take. It takes milliseconds, unless a descriptor that is passed to it lies on a
/// file system that does not answer.
const START_MAX: Duration = Duration::from_secs(30);

/// A program to start, without its descriptors: the caller's mean nothing in another table.
#[derive(Debug)]
pub struct Program {
    pub path: PathBuf,
    pub arguments: Vec<String>,
    /// The number that the first descriptor after standard input, output and error gets.
    pub first_descriptor: i32,
}

#[derive(Debug)]
struct Order {
    program: Program,
    started: SyncSender<io::Result<Child>>,
}

/// Starts processes. They are children of this process, with no descriptors but those given and no environment.
#[derive(Debug, Clone)]
pub struct Launcher(Arc<Mutex<Keeper>>);

/// The way to the keeper. Under one lock, since an order and its descriptors go separately and must arrive as a pair.
#[derive(Debug)]
struct Keeper {
    orders: Sender<Order>,
    descriptors: OwnedFd,
}

impl Launcher {
    /// Starts the keeper. To be called before any file is open whose file system may not answer: the keeper begins with a
    /// copy of this process's table, and closes it.
    pub fn start() -> io::Result<Self> {
        let (descriptors, far) = packet::pair()?;
        let (orders, received) = channel();
        spawn_alone("launcher", far, move |far| keep(&far, &received))?;
        Ok(Self(Arc::new(Mutex::new(Keeper { orders, descriptors }))))
    }

    /// Starts a program with standard input, output and error and further descriptors, in that order, and waits until it is
    /// executed. Blocks for 30 s at most.
    pub fn launch(&self, program: Program, descriptors: Vec<OwnedFd>) -> io::Result<Child> {
        // Without room: a process that was started belongs to whoever sends it until somebody here has taken it.
        let (started, has_started) = sync_channel(0);
        {
            let keeper = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
            scm_rights::send(&keeper.descriptors, &[0], &borrowed)?;
            keeper.orders.send(Order { program, started }).map_err(io::Error::other)?;
        }
        // Standard output may be a file on the file system that does not answer.
        release::elsewhere(descriptors);
        has_started.recv_timeout(START_MAX).unwrap_or_else(|_| {
            Err(io::Error::other(format!(
                "it was not executed within {} s; a descriptor that it gets may be of a file system that does not answer",
                START_MAX.as_secs()
            )))
        })
    }
}

/// The keeper's life: it ends with the last [`Launcher`].
fn keep(descriptors: &OwnedFd, orders: &Receiver<Order>) {
    for Order { program, started } in orders {
        let (taken, is_taken) = sync_channel(1);
        let answer = started.clone();
        let order = descriptors.try_clone().and_then(|own| {
            spawn_alone("launch", own, move |own| {
                let received = receive(&own);
                drop(own);
                let _ = taken.send(());
                start(program, received, &started);
            })
        });
        match order {
            // Not before: the next order's descriptors are behind this one's.
            Ok(()) => drop(is_taken.recv()),
            Err(error) => {
                // They are still in the socket, and closed here.
                let _ = receive(descriptors);
                let _ = answer.send(Err(error));
            }
        }
    }
}

fn receive(socket: &OwnedFd) -> io::Result<Vec<OwnedFd>> {
    let message = scm_rights::receive(socket, &mut [0; 1])?;
    if message.truncated {
        return Err(io::Error::other(
            "not all descriptors arrived; the daemon may not open more files: raise its limit (LimitNOFILE=)",
        ));
    }
    Ok(message.descriptors)
}

fn start(
    program: Program,
    descriptors: io::Result<Vec<OwnedFd>>,
    started: &SyncSender<io::Result<Child>>,
) {
    let command = descriptors.and_then(|descriptors| command(program, descriptors));
    let (mut command, passed) = match command {
        Ok(command) => command,
        Err(error) => return drop(started.send(Err(error))),
    };
    // Nobody may be waiting any more for one that was executed too late.
    if let Err(late) = started.send(command.spawn())
        && let Ok(mut child) = late.0
    {
        let _ = child.kill();
        let _ = child.wait();
    }
    // Last, as it closes this table's copies of what was passed, which may take as long as it likes.
    drop((command, passed));
}

/// The command, and what it finds open beside standard input, output and error: in this table the numbers are the command's already, so
/// that nothing is left to do between fork and execve. Then the parent's memory is lent to the child instead of being copied
/// (posix_spawn(3)): a copy of a daemon's tables takes a third of a millisecond, and every page that its threads then write to is
/// copied as well.
fn command(program: Program, descriptors: Vec<OwnedFd>) -> io::Result<(Command, Vec<OwnedFd>)> {
    let mut passed = number(program.first_descriptor, descriptors, 3)?;
    let mut next = || passed.pop().map(Stdio::from).ok_or(io::Error::other("too few descriptors"));
    let (error, output, input) = (next()?, next()?, next()?);
    let mut command = Command::new(&program.path);
    command
        .args(&program.arguments)
        .env_clear()
        .current_dir("/")
        .stdin(input)
        .stdout(output)
        .stderr(error);
    Ok((command, passed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;

    fn shell(launcher: &Launcher, script: &str) -> String {
        let (mut output, far) = std::io::pipe().expect("pipe");
        let null = || OwnedFd::from(File::open("/dev/null").expect("open"));
        let (mut extra, end) = std::io::pipe().expect("pipe");
        let program = Program {
            path: "/bin/sh".into(),
            arguments: vec!["-c".to_owned(), script.to_owned()],
            first_descriptor: 7,
        };
        let given = vec![null(), far.into(), null(), end.into()];
        let mut child = launcher.launch(program, given).expect("starts");
        let mut text = String::new();
        output.read_to_string(&mut text).expect("read");
        extra.read_to_string(&mut text).expect("read");
        assert!(child.wait().expect("a child of this process").success());
        text
    }

    #[test]
    fn a_process_has_what_it_was_given_and_nothing_else() {
        let launcher = Launcher::start().expect("starts");
        // Without close-on-exec, so that only the table keeps it away.
        let secret = File::open("/etc/passwd").expect("open");
        nix::fcntl::fcntl(&secret, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))
            .expect("fcntl");
        let text = shell(
            &launcher,
            "for n in $(seq 0 40); do [ -e /proc/$$/fd/$n ] && echo -n $n,; done; echo extra >&7",
        );
        assert_eq!(text, "0,1,2,7,extra\n");
    }

    #[test]
    fn many_at_a_time_get_their_own() {
        let launcher = Launcher::start().expect("starts");
        std::thread::scope(|threads| {
            for number in 0..8 {
                let launcher = launcher.clone();
                threads.spawn(move || {
                    for turn in 0..10 {
                        let script = format!("echo {number}-{turn}; echo {number}+{turn} >&7");
                        let expected = format!("{number}-{turn}\n{number}+{turn}\n");
                        assert_eq!(shell(&launcher, &script), expected);
                    }
                });
            }
        });
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let launcher = Launcher::start().expect("starts");
        let null = || OwnedFd::from(File::open("/dev/null").expect("open"));
        let program =
            Program { path: "/nowhere/at/all".into(), arguments: Vec::new(), first_descriptor: 3 };
        let error = launcher.launch(program, vec![null(), null(), null()]).expect_err("no program");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
