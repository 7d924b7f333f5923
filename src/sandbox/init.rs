//! `sandbox-init`: the sandbox's half of a start, as the ordered list of its steps.
//!
//! Runs in this program executed anew, before any thread exists, so that general code may run on both sides of a fork. A step that
//! fails reports its name to the daemon and ends the process; no later step runs, and no command does.
//!
//! Descriptors: 0 to 2 are the command's, 3 is the plan, 4 the socket to the daemon, then the mounts: workspace,
//! control, the artifacts and the run's socket directory if the envelope says so, a root that was given, the files through which
//! cgroups are joined, and the exposed mounts.

use super::command::Command;
use super::layer::LayerName;
use super::namespaces::Membership;
use super::plan::SandboxPlan;
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

/// Where the plan is.
pub const PLAN_DESCRIPTOR: i32 = 3;

/// Longest plan, in bytes. Above what arguments and environment of one execve(2) can hold, as JSON numbers.
const PLAN_BYTES_MAX: u64 = 64 << 20;

const STEP: &str = "start";

/// What travels in the memfd.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Envelope<P> {
    pub plan: P,
    /// Whether there is a descriptor for the artifacts.
    pub artifacts: bool,
    /// Whether there is a descriptor for the directory with the run's socket.
    pub api_directory: bool,
    pub filter: Filter,
    /// How many cgroups there are to join.
    pub cgroups: usize,
}

/// What the outer process starts with.
#[derive(Debug)]
struct Inherited {
    plan: SandboxPlan,
    filter: Filter,
    socket: OwnedFd,
    cgroups: Vec<OwnedFd>,
    handed: rootfs::Handed,
}

/// Entry point: `main` of a program calls it first of all when its first argument is [`SUBCOMMAND`], with the arguments after that.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if arguments != ["--plan-fd", "3"] {
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
    let plan = File::from(next()?);
    let socket = next()?;
    // With an offset, not by reading on: the plan must be whole whoever read it before.
    let mut text = Vec::new();
    plan.take(PLAN_BYTES_MAX).read_to_end(&mut text)?;
    let envelope: Envelope<SandboxPlan> = serde_json::from_slice(&text)?;
    let workspace = next()?;
    let control = next()?;
    let artifacts = if envelope.artifacts { Some(next()?) } else { None };
    let api_directory = if envelope.api_directory { Some(next()?) } else { None };
    let rootfs = if envelope.plan.rootfs.is_some() { Some(next()?) } else { None };
    let cgroups = (0..envelope.cgroups).map(|_| next()).collect::<io::Result<Vec<_>>>()?;
    let expose = envelope.plan.expose.iter().map(|_| next()).collect::<io::Result<Vec<_>>>()?;
    let handed = rootfs::Handed { workspace, control, artifacts, api_directory, rootfs, expose };
    Ok(Inherited { plan: envelope.plan, filter: envelope.filter, socket, cgroups, handed })
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
    if inherited.plan.builds(LayerName::CoreDumps) {
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
    namespaces::enter_before_fork(&inherited.plan)?;
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
    // Whoever reads the command's output must see its end, and not that of this process.
    let alone = prctl::set_dumpable(false).is_ok() && process::release_stdio().is_ok();
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
    let Inherited { plan, filter, socket, cgroups, handed } = inherited;
    let code = match join(cgroups).and_then(|()| set_up(&plan, handed, before, &filter)) {
        Ok((command, ready)) => serve(&plan, socket, command, &ready),
        Err(failure) => protocol::send(&socket, &Report::Failed(failure), None),
    };
    process::exit_now(if code.is_ok() { 0 } else { 125 })
}

/// Before all steps: whatever this process uses and starts counts against the limits. The outer process stays outside, so that it
/// lives to tell how a run ended that the kernel killed as a whole.
fn join(cgroups: Vec<OwnedFd>) -> Result<(), SetupFailure> {
    cgroup::join(cgroups).map_err(|e| SetupFailure::because("limits", "join the run's cgroup", &e))
}

/// The steps, each with the reason for its place.
fn set_up(
    plan: &SandboxPlan,
    handed: rootfs::Handed,
    before: &Membership,
    filter: &Filter,
) -> Result<(Command, Report), SetupFailure> {
    // First, so that there is no moment in which the outer process can die alone.
    die_with_parent()?;
    credentials::check(plan)?;
    namespaces::enter_after_fork(plan)?;
    // Needs the namespaces, and privileges that the steps below give up.
    let given = rootfs::build(plan, handed)?;
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
