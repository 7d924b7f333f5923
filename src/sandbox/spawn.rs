//! The daemon's half of a sandbox: start it, let it go, signal it, end it, and learn how it ended.
//!
//! A start has three phases. [`Spare::start`] begins a sandbox that nobody has a plan for yet; [`Spare::take`] gives it one.
//! [`Sandbox::wait_ready`] returns when everything is set up and nothing of the command runs; who writes can
//! then be told by the pid namespace. [`Sandbox::go`] executes the command.
//!
//! All calls here block: they belong on a thread that serves neither the kernel nor an async runtime, since the setup looks at
//! mounts which this daemon itself may serve. [`Remote`] is for other threads.

use super::init::{BASIS_DESCRIPTOR, BASIS_OPTION, Envelope, SUBCOMMAND};
use super::launcher::{Launcher, Program};
use super::layer::Finding;
use super::plan::{Basis, InvalidPlan, SandboxPlan};
use super::protocol::{self, Exit, NamespaceId, Order, Report, SetupFailure, Usage};
use super::receipt;
use super::rootfs;
use super::seccomp::{self, NoFilter};
use crate::sys::{packet, process, release};
use crate::wire::run::Layer;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{Shutdown, shutdown};
use nix::unistd::Pid;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// How long a setup or an execve may take before the sandbox is given up. Both take milliseconds; a slow network file system
/// under an exposed path may take seconds.
const SETUP_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the processes of a sandbox that is being ended may take to be gone before the last resort is used. A process
/// that waits for an answer of a FUSE server cannot be killed once the server has read the request (fs/fuse/dev.c,
/// request_wait_answer). Chosen, not measured: far longer than a disk takes, as the last resort costs others their work.
const UNKILLABLE_AFTER: Duration = Duration::from_secs(10);

/// How often an end that takes long is looked at.
const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// What a sandbox is made of, besides its plan.
#[derive(Debug)]
pub struct SandboxDescriptors {
    /// A detached mount of the workspace; it needs the plan's mounts and `.belljar` as directories.
    pub workspace: OwnedFd,
    /// A detached mount to attach at `.belljar`.
    pub control: OwnedFd,
    /// A detached mount to attach at `artifacts` of the control directory, which must be there then.
    pub artifacts: Option<OwnedFd>,
    /// A detached mount of a directory with `belljar.sock`.
    pub api_directory: Option<OwnedFd>,
    /// A detached mount of the root that the plan names.
    pub rootfs: Option<OwnedFd>,
    /// What the first process joins ([`Group::doors`](super::cgroup::Group::doors)).
    pub cgroups: Vec<OwnedFd>,
    /// Detached mounts, one for each exposed path of the plan; [`detach`](crate::sys::mount::detach) makes one.
    pub expose: Vec<OwnedFd>,
    /// Standard input, output and error.
    pub stdio: [OwnedFd; 3],
}

/// Why no sandbox was started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error(transparent)]
    Plan(#[from] InvalidPlan),
    #[error("the plan exposes {planned} paths and {given} descriptors were given")]
    Expose { planned: usize, given: usize },
    #[error("the plan and the descriptors do not both have a root of the user's")]
    Rootfs,
    #[error(transparent)]
    Filter(#[from] NoFilter),
    #[error("write the plan of the sandbox")]
    Write(#[source] io::Error),
    #[error("make a socket to the sandbox")]
    Socket(#[source] io::Error),
    #[error("give the sandbox its plan")]
    HandOver(#[source] io::Error),
    #[error("start {program}")]
    Start {
        program: String,
        #[source]
        source: io::Error,
    },
}

/// How a sandbox ended, and what it used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    pub how: Exit,
    pub usage: Usage,
}

/// A started sandbox. Dropping it ends it, and waits until nothing of it is left.
#[derive(Debug)]
pub struct Sandbox {
    outer: Child,
    remote: Remote,
    /// `None` in a [`Spare`].
    plan: Option<SandboxPlan>,
    findings: Vec<Finding>,
    prepared: bool,
    ready: Option<NamespaceId>,
    started: bool,
    exit: Option<Exit>,
    usage: Usage,
    ended: Option<Ended>,
    last_resort: LastResort,
}

/// What frees processes that cannot be killed; used once.
struct LastResort {
    free: Option<Box<dyn FnOnce() + Send>>,
    /// When the sandbox was first seen to be ending.
    ending: Option<Instant>,
}

impl std::fmt::Debug for LastResort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LastResort").field("ending", &self.ending).finish_non_exhaustive()
    }
}

impl LastResort {
    /// To be called from time to time; `ending` is whether nothing but the end is left.
    fn consider(&mut self, ending: bool) {
        if !ending {
            return;
        }
        let since = *self.ending.get_or_insert_with(Instant::now);
        if since.elapsed() >= UNKILLABLE_AFTER
            && let Some(free) = self.free.take()
        {
            free();
        }
    }
}

/// Signals and ends a sandbox, from any thread.
#[derive(Debug, Clone)]
pub struct Remote(Arc<Connection>);

#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    /// The outer process, which is not reaped before the sandbox is dropped or waited for.
    outer: OwnedFd,
    /// The first process, once it exists.
    first: OnceLock<OwnedFd>,
    /// It was told to end.
    killed: AtomicBool,
}

/// A sandbox that is begun and has no plan: what every run has alike is built or being built. Dropping it ends it.
#[derive(Debug)]
pub struct Spare(Sandbox);

/// Starts a sandbox. The command does not run yet.
pub fn spawn(
    launcher: &Launcher,
    plan: &SandboxPlan,
    mut descriptors: SandboxDescriptors,
) -> Result<Sandbox, SpawnError> {
    plan.check()?;
    if plan.rootfs.is_some() != descriptors.rootfs.is_some() {
        return Err(SpawnError::Rootfs);
    }
    let cgroups = std::mem::take(&mut descriptors.cgroups);
    let terminal = plan.terminal.then(|| terminal(&descriptors.stdio)).transpose();
    let lent = rootfs::Lent {
        terminal: terminal.map_err(SpawnError::Write)?,
        rootfs: descriptors.rootfs.take(),
    };
    Spare::start(launcher, plan.basis(), lent, cgroups)?.take(plan, descriptors)
}

/// The standard stream that is a terminal. Where there is none the sandbox says so, when it is to become the session's.
fn terminal(stdio: &[OwnedFd; 3]) -> io::Result<OwnedFd> {
    let found = stdio.iter().find(|stream| nix::unistd::isatty(stream).unwrap_or(false));
    found.unwrap_or(&stdio[0]).try_clone()
}

fn check_descriptors(
    plan: &SandboxPlan,
    descriptors: &SandboxDescriptors,
) -> Result<(), SpawnError> {
    plan.check()?;
    if plan.expose.len() != descriptors.expose.len() {
        let (planned, given) = (plan.expose.len(), descriptors.expose.len());
        return Err(SpawnError::Expose { planned, given });
    }
    Ok(())
}

impl Spare {
    /// Executes this program anew, with no environment and nothing but a basis, what that says, and the cgroups that the first
    /// process joins.
    pub fn start(
        launcher: &Launcher,
        basis: Basis,
        lent: rootfs::Lent,
        cgroups: Vec<OwnedFd>,
    ) -> Result<Self, SpawnError> {
        let memfd = serde_json::to_vec(&basis)
            .map_err(io::Error::from)
            .and_then(|text| process::sealed_memfd(c"belljar-sandbox-basis", &text))
            .map_err(SpawnError::Write)?;
        let (near, far) = packet::pair().map_err(SpawnError::Socket)?;
        let program = Program {
            path: basis.executable.clone(),
            arguments: vec![
                SUBCOMMAND.to_owned(),
                BASIS_OPTION.to_owned(),
                BASIS_DESCRIPTOR.to_string(),
            ],
            first_descriptor: BASIS_DESCRIPTOR,
        };
        let named =
            |source| SpawnError::Start { program: basis.executable.display().to_string(), source };
        // Of the command's own it never holds a copy: whoever reads the command's output must see its end.
        let mut given = Vec::with_capacity(7 + cgroups.len());
        for _ in 0..3 {
            let null = File::options().read(true).write(true).open("/dev/null").map_err(named)?;
            given.push(OwnedFd::from(null));
        }
        given.extend([memfd, far]);
        given.extend(lent.terminal);
        given.extend(lent.rootfs);
        given.extend(cgroups);
        let mut outer = launcher.launch(program, given).map_err(named)?;
        let pidfd = match process::pidfd_open(Pid::from_raw(outer.id().cast_signed())) {
            Ok(pidfd) => pidfd,
            Err(error) => {
                // With its socket gone it ends by itself; this only makes it sooner.
                drop(near);
                let _ = outer.kill();
                let _ = outer.wait();
                return Err(SpawnError::Socket(error));
            }
        };
        let sandbox = Sandbox {
            outer,
            remote: Remote(Arc::new(Connection {
                socket: near,
                outer: pidfd,
                first: OnceLock::new(),
                killed: AtomicBool::new(false),
            })),
            plan: None,
            findings: Vec::new(),
            prepared: false,
            ready: None,
            started: false,
            exit: None,
            usage: Usage::default(),
            ended: None,
            last_resort: LastResort { free: None, ending: None },
        };
        Ok(Self(sandbox))
    }

    /// Waits until everything is built that needs no plan.
    pub fn wait_prepared(&mut self) -> Result<(), SetupFailure> {
        let deadline = Instant::now() + SETUP_TIMEOUT;
        while !self.0.prepared {
            self.0.next_report(deadline, "become prepared")?;
        }
        Ok(())
    }

    /// Whether its processes have not ended meanwhile.
    pub fn is_alive(&self) -> bool {
        let now = Instant::now();
        let connection = &self.0.remote.0;
        let all = [Some(&connection.outer), connection.first.get()];
        all.into_iter().flatten().all(|process| matches!(readable(process, now), Ok(false)))
    }

    /// Gives it a plan with the basis that it was started with. A failure of what came before is told by [`Sandbox::wait_ready`].
    pub fn take(
        self,
        plan: &SandboxPlan,
        descriptors: SandboxDescriptors,
    ) -> Result<Sandbox, SpawnError> {
        let Self(mut sandbox) = self;
        check_descriptors(plan, &descriptors)?;
        let envelope = Envelope {
            plan,
            artifacts: descriptors.artifacts.is_some(),
            api_directory: descriptors.api_directory.is_some(),
            filter: seccomp::filter()?.clone(),
        };
        let memfd = serde_json::to_vec(&envelope)
            .map_err(io::Error::from)
            // It may hold secrets that the user wants in the environment.
            .map(Zeroizing::new)
            .and_then(|text| process::sealed_memfd(c"belljar-sandbox-plan", &text))
            .map_err(SpawnError::Write)?;
        let SandboxDescriptors {
            workspace, control, artifacts, api_directory, expose, stdio, ..
        } = descriptors;
        let given: Vec<OwnedFd> = [memfd]
            .into_iter()
            .chain(stdio)
            .chain([workspace, control])
            .chain(artifacts)
            .chain(api_directory)
            .chain(expose)
            .collect();
        let borrowed: Vec<BorrowedFd<'_>> = given.iter().map(AsFd::as_fd).collect();
        match protocol::send_plan(&sandbox.remote.0.socket, &borrowed) {
            Ok(()) => {}
            // It has ended, and what it said before is there to be read.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) => return Err(SpawnError::HandOver(error)),
        }
        // Standard output may be a file on a file system that does not answer.
        release::elsewhere(given);
        sandbox.plan = Some(plan.clone());
        Ok(sandbox)
    }
}

impl Sandbox {
    /// Waits until everything is set up, and tells the pid namespace in which the command will run.
    pub fn wait_ready(&mut self) -> Result<NamespaceId, SetupFailure> {
        let deadline = Instant::now() + SETUP_TIMEOUT;
        loop {
            if let Some(namespace) = self.ready {
                return Ok(namespace);
            }
            self.next_report(deadline, "become ready")?;
        }
    }

    /// Executes the command, and waits until that has succeeded.
    pub fn go(&mut self) -> Result<(), SetupFailure> {
        self.wait_ready()?;
        if let Err(error) = protocol::send(&self.remote.0.socket, &Order::Go, None) {
            return Err(self.vanished(format_args!(
                "tell the first process to go: {}",
                protocol::errno_text(&error)
            )));
        }
        let deadline = Instant::now() + SETUP_TIMEOUT;
        while !self.started {
            self.next_report(deadline, "execute the command")?;
        }
        Ok(())
    }

    /// Both phases of the start in one.
    pub fn wait_started(&mut self) -> Result<(), SetupFailure> {
        if self.started { Ok(()) } else { self.go() }
    }

    /// The pid namespace of the command, once ready.
    pub fn pid_namespace(&self) -> Option<NamespaceId> {
        self.ready
    }

    /// What is enforced, once ready.
    pub fn layers(&self) -> Vec<Layer> {
        self.plan.as_ref().map(|plan| receipt::layers(plan, &self.findings)).unwrap_or_default()
    }

    /// What to do when processes of a sandbox that is ending are not gone after ten seconds: they wait for a file system that
    /// does not answer, and `free` must cut them off from it.
    pub fn set_last_resort(&mut self, free: impl FnOnce() + Send + 'static) {
        self.last_resort.free = Some(Box::new(free));
    }

    /// For other threads.
    pub fn remote(&self) -> Remote {
        self.remote.clone()
    }

    /// See [`Remote::signal`].
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        self.remote.signal(signal)
    }

    /// See [`Remote::kill`].
    pub fn kill(&self) {
        self.remote.kill();
    }

    /// Waits until the sandbox has ended: every process in it is gone when this returns. One that was never told to go ends
    /// only by [`Remote::kill`].
    pub fn wait(&mut self) -> Ended {
        if let Some(ended) = self.ended {
            return ended;
        }
        // Ends when both the outer and the first process have closed their ends, which is at their own ends.
        loop {
            match readable(&self.remote.0.socket, Instant::now() + LOOK_PAUSE) {
                Ok(true) => {}
                Ok(false) => {
                    let ending = self.exit.is_some() || self.remote.is_killed();
                    self.last_resort.consider(ending);
                    continue;
                }
                Err(_) => break,
            }
            let Ok(Some((report, descriptor))) = protocol::receive(&self.remote.0.socket) else {
                break;
            };
            // A failure that nobody asked for: how it ended says that nothing ran.
            let _ = self.note(report, descriptor);
        }
        // Without these lines an outer process that somebody killed would leave the first one a moment longer.
        self.remote.kill();
        if let Some(first) = self.remote.0.first.get() {
            while let Ok(false) = readable(first, Instant::now() + LOOK_PAUSE) {
                self.last_resort.consider(true);
            }
        }
        // Fails only if somebody else reaped it, and then it is gone.
        let _ = self.outer.wait();
        let ended = Ended { how: self.exit.unwrap_or(Exit::Vanished), usage: self.usage };
        self.ended = Some(ended);
        ended
    }

    fn next_report(&mut self, deadline: Instant, what: &str) -> Result<(), SetupFailure> {
        match readable(&self.remote.0.socket, deadline) {
            Ok(true) => {}
            Ok(false) => {
                self.remote.kill();
                let seconds = SETUP_TIMEOUT.as_secs();
                let message = format!("it did not {what} within {seconds} s");
                return Err(SetupFailure::setup("start", message));
            }
            Err(error) => return Err(self.vanished(protocol::errno_text(&error))),
        }
        match protocol::receive(&self.remote.0.socket) {
            Ok(Some((report, descriptor))) => self.note(report, descriptor),
            Ok(None) => {
                Err(self.vanished(format_args!("it ended before it said that it could {what}")))
            }
            Err(error) => Err(self.vanished(protocol::errno_text(&error))),
        }
    }

    fn note(&mut self, report: Report, descriptor: Option<OwnedFd>) -> Result<(), SetupFailure> {
        match report {
            Report::Forked => {
                if let Some(first) = descriptor {
                    // Sent once.
                    let _ = self.remote.0.first.set(first);
                }
            }
            Report::Prepared => self.prepared = true,
            Report::Ready { namespace, findings } => {
                self.ready = Some(namespace);
                self.findings = findings;
            }
            Report::Started => self.started = true,
            Report::Ended(exit) => self.exit = Some(exit),
            Report::Used(usage) => self.usage = usage,
            Report::Failed(failure) => return Err(failure),
        }
        Ok(())
    }

    fn vanished(&self, why: impl std::fmt::Display) -> SetupFailure {
        self.remote.kill();
        SetupFailure::setup("start", format_args!("the sandbox's first process is gone: {why}"))
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.remote.kill();
        self.wait();
    }
}

impl Remote {
    /// Sends a signal to the command and what shares its process group. Nothing happens before the command runs; EPIPE
    /// after the sandbox has ended, EINVAL for what is no signal.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        if !process::is_signal(signal) {
            return Err(nix::errno::Errno::EINVAL.into());
        }
        protocol::send(&self.0.socket, &Order::Signal(signal), None)
    }

    fn is_killed(&self) -> bool {
        self.0.killed.load(Ordering::Relaxed)
    }

    /// Ends the sandbox and everything in it, at once.
    pub fn kill(&self) {
        self.0.killed.store(true, Ordering::Relaxed);
        // SIGKILL to the first process of a pid namespace ends all of it. Before that process is known, the outer one is the
        // only other; a first process that has just been forked finds its socket shut.
        let process = self.0.first.get().unwrap_or(&self.0.outer);
        let _ = process::pidfd_send_signal(process, nix::sys::signal::Signal::SIGKILL as i32);
        // Only writing ends: what the sandbox has already said can still be read.
        let _ = shutdown(self.0.socket.as_raw_fd(), Shutdown::Write);
    }
}

/// Waits until the descriptor can be read, which for a process's means that it has ended; false at the deadline.
fn readable(descriptor: &OwnedFd, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
