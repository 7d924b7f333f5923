//! `sandbox-init`: the sandbox's half of a start, as the ordered list of its steps.
//!
//! Runs in this program executed anew, before any thread exists, so that general code may run on both sides of a fork. A step that
//! fails reports its name to the daemon and ends the process; no later step runs, and no command does.
//!
//! In two halves, so that the first can be done before anybody wants a run: `begin` does what every run has alike and knows no
//! plan; then the first process waits for one, and `set_up` does the rest.
//!
//! Descriptors: 0 to 2 are nobody's, 3 is the basis, 4 the socket to the daemon, then what the basis says: the run's terminal, a root
//! that was given; then the files through which cgroups are joined. With the plan come: the envelope, the command's 0 to 2, the
//! mounts workspace and control, those of the artifacts and of the run's socket directory if the envelope says so, and the exposed ones.

use super::command::Command;
use super::layer::LayerName;
use super::namespaces::Membership;
use super::plan::{Basis, SandboxPlan};
use super::protocol::{self, NamespaceId, Report, SetupFailure, Usage};
use super::reaper::Reaper;
use super::seccomp::Filter;
use super::{capabilities, cgroup, credentials, namespaces, rlimits, rootfs, seal};
use crate::sys::process::{self, Fork};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;

/// First argument that leads here.
pub const SUBCOMMAND: &str = "sandbox-init";

/// Second argument; the third is the descriptor of the basis.
pub const BASIS_OPTION: &str = "--basis-fd";

/// Where the basis is.
pub const BASIS_DESCRIPTOR: i32 = 3;

/// Longest plan, in bytes. Above what arguments and environment of one execve(2) can hold, as JSON numbers.
const PLAN_BYTES_MAX: u64 = 64 << 20;

const STEP: &str = "start";

/// What travels in the memfd of a plan.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Envelope<P> {
    pub plan: P,
    /// Whether there is a descriptor for the artifacts.
    pub artifacts: bool,
    /// Whether there is a descriptor for the directory with the run's socket.
    pub api_directory: bool,
    pub filter: Filter,
}

/// What the outer process starts with.
#[derive(Debug)]
struct Inherited {
    basis: Basis,
    socket: OwnedFd,
    lent: rootfs::Lent,
    cgroups: Vec<OwnedFd>,
}

/// What comes with a plan.
#[derive(Debug)]
struct Given {
    plan: SandboxPlan,
    filter: Filter,
    stdio: [OwnedFd; 3],
    handed: rootfs::Handed,
}

/// Entry point: `main` of a program calls it first of all when its first argument is [`SUBCOMMAND`], with the arguments after that.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if arguments != [BASIS_OPTION, "3"] {
        eprintln!("sandbox-init is a part of belljar that only belljar itself can start");
        return ExitCode::from(2);
    }
    let inherited = match inherit() {
        Ok(inherited) => inherited,
        Err(error) => {
            // There may be no socket to say it on; the daemon sees the process end.
            eprintln!("sandbox-init: {error}");
            return ExitCode::from(125);
        }
    };
    outer(inherited)
}

fn inherit() -> io::Result<Inherited> {
    let mut descriptors = process::take_inherited_descriptors()?.into_iter();
    let mut next = || descriptors.next().ok_or_else(|| io::Error::other("a descriptor is missing"));
    let basis: Basis = serde_json::from_slice(&read(next()?)?)?;
    let socket = next()?;
    let lent = rootfs::Lent {
        terminal: if basis.terminal { Some(next()?) } else { None },
        rootfs: if basis.rootfs.is_some() { Some(next()?) } else { None },
    };
    Ok(Inherited { basis, socket, lent, cgroups: descriptors.collect() })
}

fn read(memfd: OwnedFd) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::from(memfd).take(PLAN_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

impl Given {
    fn unpack(descriptors: Vec<OwnedFd>) -> io::Result<Self> {
        let mut descriptors = descriptors.into_iter();
        let mut next =
            || descriptors.next().ok_or_else(|| io::Error::other("a descriptor is missing"));
        let envelope: Envelope<SandboxPlan> = serde_json::from_slice(&read(next()?)?)?;
        let stdio = [next()?, next()?, next()?];
        let workspace = next()?;
        let control = next()?;
        let artifacts = if envelope.artifacts { Some(next()?) } else { None };
        let api_directory = if envelope.api_directory { Some(next()?) } else { None };
        let expose = envelope.plan.expose.iter().map(|_| next()).collect::<io::Result<Vec<_>>>()?;
        let handed = rootfs::Handed { workspace, control, artifacts, api_directory, expose };
        Ok(Self { plan: envelope.plan, filter: envelope.filter, stdio, handed })
    }
}

/// The outer process: enters what must exist before the fork, then only waits.
fn outer(inherited: Inherited) -> ExitCode {
    let socket = match inherited.socket.try_clone() {
        Ok(socket) => socket,
        Err(_) => return ExitCode::from(125),
    };
    match fork_first_process(inherited) {
        // The child never comes back here.
        Ok(first) => wait_for(first, &socket),
        Err(failure) => {
            let _ = protocol::send(&socket, &Report::Failed(failure), None);
            ExitCode::from(125)
        }
    }
}

fn fork_first_process(inherited: Inherited) -> Result<Pid, SetupFailure> {
    if inherited.basis.builds(LayerName::CoreDumps) {
        rlimits::forbid_core_dumps()?;
    }
    // Out of the caller's session and process group: keys of its terminal are the client's to forward. Nothing but a SIGKILL
    // ends this process before the first one has ended.
    let because = |what: &'static str| {
        move |e: nix::errno::Errno| SetupFailure::because(STEP, what, &io::Error::from(e))
    };
    nix::unistd::setsid().map_err(because("start a session"))?;
    SigSet::all().thread_block().map_err(because("block signals"))?;
    let before = Membership::of_this_process().map_err(|why| SetupFailure::setup(STEP, why))?;
    namespaces::enter_before_fork(&inherited.basis)?;
    match process::fork().map_err(|e| SetupFailure::because(STEP, "fork", &e))? {
        Fork::Parent { child } => Ok(child),
        Fork::Child => first(inherited, &before),
    }
}

/// Tells the daemon which process to hold on to, and reaps it. Ends it when the daemon is gone: it does so by itself, unless
/// somebody on the host stopped it.
fn wait_for(first: Pid, socket: &OwnedFd) -> ExitCode {
    let pidfd = process::pidfd_open(first);
    let told = pidfd
        .as_ref()
        .is_ok_and(|fd| protocol::send(socket, &Report::Forked, Some(fd.as_fd())).is_ok());
    let alone = prctl::set_dumpable(false).is_ok();
    match pidfd {
        Ok(pidfd) if told && alone => wait_for_either_end(&pidfd, socket),
        // The daemon is gone, or would never learn what it needs.
        Ok(_) | Err(_) => {}
    }
    // Too late when it has ended by itself, and until it is reaped its number is nobody else's.
    let _ = nix::sys::signal::kill(first, Signal::SIGKILL);
    while let Err(nix::errno::Errno::EINTR) = waitpid(first, None) {}
    // The first process waited for all others (zap_pid_ns_processes in the kernel), so that this counts every one.
    if let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) {
        let micros = |time: nix::sys::time::TimeVal| {
            use nix::sys::time::TimeValLike;
            u64::try_from(time.num_microseconds()).unwrap_or(0)
        };
        let used = Usage {
            cpu_us: micros(usage.user_time()) + micros(usage.system_time()),
            peak_memory_bytes: u64::try_from(usage.max_rss()).unwrap_or(0) * 1024,
        };
        let _ = protocol::send(socket, &Report::Used(used), None);
    }
    ExitCode::SUCCESS
}

/// Returns when the first process has ended or the other end of the socket is gone.
fn wait_for_either_end(first: &OwnedFd, socket: &OwnedFd) {
    let mut ends = [
        PollFd::new(first.as_fd(), PollFlags::POLLIN),
        // Nothing to read here: the orders are the first process's. A hang-up is told unasked.
        PollFd::new(socket.as_fd(), PollFlags::empty()),
    ];
    while let Err(nix::errno::Errno::EINTR) = poll(&mut ends, PollTimeout::NONE) {}
}

/// The first process of the new pid namespace. Never returns.
fn first(inherited: Inherited, before: &Membership) -> ! {
    let Inherited { basis, socket, lent, cgroups } = inherited;
    let done = match begin(&basis, lent, cgroups) {
        Ok(begun) => protocol::send(&socket, &Report::Prepared, None)
            .and_then(|()| protocol::receive_plan(&socket))
            .and_then(|descriptors| match descriptors {
                Some(descriptors) => follow(descriptors, begun, before, socket),
                // Nobody wants a run any more.
                None => Ok(()),
            }),
        Err(failure) => protocol::send(&socket, &Report::Failed(failure), None),
    };
    process::exit_now(if done.is_ok() { 0 } else { 125 })
}

/// Carries out a plan.
fn follow(
    descriptors: Vec<OwnedFd>,
    begun: rootfs::Begun,
    before: &Membership,
    socket: OwnedFd,
) -> io::Result<()> {
    let unpacked = Given::unpack(descriptors)
        .map_err(|e| SetupFailure::because(STEP, "unpack the plan", &e))
        .and_then(|Given { plan, filter, stdio, handed }| {
            process::take_stdio(stdio)
                .map_err(|e| SetupFailure::because(STEP, "take standard input and output", &e))?;
            let (command, ready) = set_up(&plan, begun, handed, before, &filter)?;
            Ok((plan, command, ready))
        });
    match unpacked {
        Ok((plan, command, ready)) => serve(&plan, socket, command, &ready),
        Err(failure) => protocol::send(&socket, &Report::Failed(failure), None),
    }
}

/// Before all steps: whatever this process uses and starts counts against the limits. The outer process stays outside, so that it
/// lives to tell how a run ended that the kernel killed as a whole.
fn join(cgroups: Vec<OwnedFd>) -> Result<(), SetupFailure> {
    cgroup::join(cgroups).map_err(|e| SetupFailure::because("limits", "join the run's cgroup", &e))
}

/// The steps before there is a plan, each with the reason for its place.
fn begin(
    basis: &Basis,
    lent: rootfs::Lent,
    cgroups: Vec<OwnedFd>,
) -> Result<rootfs::Begun, SetupFailure> {
    join(cgroups)?;
    // First, so that there is no moment in which the outer process can die alone.
    die_with_parent()?;
    namespaces::enter_after_fork(basis)?;
    // Needs the namespaces, and privileges that later steps give up.
    rootfs::begin(basis, &lent)
}

/// The steps that a plan asks for, each with the reason for its place.
fn set_up(
    plan: &SandboxPlan,
    begun: rootfs::Begun,
    handed: rootfs::Handed,
    before: &Membership,
    filter: &Filter,
) -> Result<(Command, Report), SetupFailure> {
    credentials::check(plan)?;
    // Needs privileges that the steps below give up.
    let given = rootfs::finish(plan, begun, handed)?;
    let namespace = own_pid_namespace()?;
    rlimits::set()?;
    // Takes a capability which the change of user takes away.
    if plan.builds(LayerName::Capabilities) {
        capabilities::forbid_regaining()?;
    }
    if plan.builds(LayerName::Credentials) {
        credentials::switch(plan)?;
    }
    if plan.builds(LayerName::Capabilities) {
        capabilities::drop_all()?;
    }
    if plan.builds(LayerName::NoNewPrivileges) {
        capabilities::forbid_new_privileges()?;
    }
    if let Some(given) = given {
        // As the user, whose rights alone count.
        given.check_permissions()?;
    }
    // After the change of user, which resets both: nobody with the same user id may trace this process or read its memory.
    prctl::set_dumpable(false)
        .map_err(|e| SetupFailure::because(STEP, "become undumpable", &e.into()))?;
    die_with_parent()?;
    let command = Command::prepare(plan)?;
    // Last, since it forbids what the steps above do, and proves what they did.
    let findings = seal::close(plan, before, filter)?;
    Ok((command, Report::Ready { namespace, findings }))
}

fn serve(plan: &SandboxPlan, socket: OwnedFd, command: Command, ready: &Report) -> io::Result<()> {
    let report = socket.try_clone()?;
    let reaper = match Reaper::new(socket, command, plan.wait_children) {
        Ok(reaper) => reaper,
        Err(error) => {
            let failure = SetupFailure::because(STEP, "read signals", &error);
            return protocol::send(&report, &Report::Failed(failure), None);
        }
    };
    protocol::send(&report, ready, None)?;
    reaper.run()
}

/// The second line of defence: the first one is the end of the daemon's socket.
fn die_with_parent() -> Result<(), SetupFailure> {
    prctl::set_pdeathsig(Signal::SIGKILL)
        .map_err(|e| SetupFailure::because(STEP, "die with the parent", &e.into()))
}

fn own_pid_namespace() -> Result<NamespaceId, SetupFailure> {
    let metadata = std::fs::metadata("/proc/self/ns/pid")
        .map_err(|e| SetupFailure::because(STEP, "identify the pid namespace", &e))?;
    Ok(NamespaceId { dev: metadata.dev(), ino: metadata.ino() })
}
