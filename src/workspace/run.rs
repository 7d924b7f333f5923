//! One command in a workspace, from its plan to its receipt.
//!
//! Threads: the caller's thread starts the command and returns; a thread of the run waits for its end, drains its
//! files and writes the receipt; with a timeout, another one watches the clock, and where a limit of memory is held by a cgroup of
//! version 1, one watches that. All of them end with the run.

use super::clone::clone_opened;
use super::contents::Contents;
use super::lifecycle::Workspace;
use super::outcome::{EXIT_FAILED, Verdict, outcome, usage};
use super::registry::Workspaces;
use super::{Actor, CommandDefinition, Error, RunDefinition, RunScope};
use crate::artifact::{self, Artifacts, DrainScope, RunRecord, SecretSource};
use crate::fuse::control::ControlFilesystem;
use crate::fuse::session::{Mounted, Purpose, Session};
use crate::model::access::Access;
use crate::model::id::{RunId, WorkspaceId};
use crate::sandbox::cgroup::Group;
use crate::sandbox::fault::Faults;
use crate::sandbox::limits;
use crate::sandbox::plan::{Environment, Identity, SandboxPlan};
use crate::sandbox::protocol::{FailureKind, SetupFailure};
use crate::sandbox::spawn::{Remote, Sandbox, SandboxDescriptors, SpawnError, spawn};
use crate::secret::mask::mask_text;
use crate::sys::mount::{MountAttr, OpenTree, open_tree};
use crate::telemetry::sentence;
use crate::vfs::control::{ControlTree, Secrets};
use crate::wire::run::{Layer, Network, Receipt, ReceiptArtifact, RunStarted};
use jiff::Timestamp;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// After SIGTERM at the timeout, how long a command may take to end by itself. Chosen, not measured.
const TERMINATE_GRACE: Duration = Duration::from_secs(2);

/// How long the files of a run are waited for whose workspace was cut off. What does not answer now will hardly answer then.
const CUT_OFF_DRAIN: Duration = Duration::from_secs(2);

/// How often a run is looked at in which the kernel ends single processes where there is no memory. Chosen, not measured.
const MEMORY_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
struct State {
    verdict: Option<Verdict>,
    receipt: Option<Receipt>,
    remote: Option<Remote>,
}

/// A run in the books. The lock is never held while waiting for anything but itself.
#[derive(Debug)]
pub struct Run {
    pub id: RunId,
    pub owner: Actor,
    pub workspace: WorkspaceId,
    state: Mutex<State>,
    ended: Condvar,
    /// Somebody has the receipt.
    collected: AtomicBool,
    /// It has looked after its workspace for the last time. Changed under the claim of the workspace's name.
    departed: AtomicBool,
}

impl Run {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }

    pub fn is_running(&self) -> bool {
        self.state().receipt.is_none()
    }

    /// Whether it will end its workspace when that is not wanted any more.
    pub fn is_present(&self) -> bool {
        self.is_running() && !self.departed.load(Ordering::Relaxed)
    }

    pub fn is_collected(&self) -> bool {
        self.collected.load(Ordering::Relaxed)
    }

    /// Waits until the run has its receipt.
    pub fn wait(&self) -> Receipt {
        let mut state = self.state();
        loop {
            if let Some(receipt) = &state.receipt {
                self.collected.store(true, Ordering::Relaxed);
                return receipt.clone();
            }
            state = self.ended.wait(state).expect("no panic under this lock");
        }
    }

    /// Waits until the run has its receipt or the deadline has come; true when it has.
    pub fn wait_until(&self, deadline: Instant) -> bool {
        let mut state = self.state();
        while state.receipt.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.ended.wait_timeout(state, left).expect("no panic under this lock").0;
        }
        true
    }

    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        if nix::sys::signal::Signal::try_from(signal).is_err() {
            return Err(Error::Invalid { message: format!("signal {signal} does not exist") });
        }
        let state = self.state();
        match &state.remote {
            // A command that has just ended needs no signal any more.
            Some(remote) => drop(remote.signal(signal)),
            None if state.receipt.is_some() => {}
            None => {
                return Err(Error::Conflict {
                    message: format!("run {} has not started its command yet", self.id),
                });
            }
        }
        Ok(())
    }

    pub fn cancel(&self) {
        self.end_as(Verdict::Cancelled);
    }

    fn end_as(&self, verdict: Verdict) {
        let mut state = self.state();
        if state.receipt.is_some() {
            return;
        }
        state.verdict.get_or_insert(verdict);
        if let Some(remote) = &state.remote {
            remote.kill();
        }
    }

    /// Ends the run with SIGTERM and then SIGKILL when its time is over.
    fn watch_clock(&self, timeout: Duration) {
        if self.wait_until(Instant::now() + timeout) {
            return;
        }
        {
            let mut state = self.state();
            state.verdict.get_or_insert(Verdict::Timeout);
            if let Some(remote) = &state.remote {
                let _ = remote.signal(nix::sys::signal::Signal::SIGTERM as i32);
            }
        }
        if !self.wait_until(Instant::now() + TERMINATE_GRACE) {
            self.end_as(Verdict::Timeout);
        }
    }

    /// Ends the run as a whole when the kernel has ended one of its processes for want of memory; what is left would go on with a part
    /// missing. A cgroup of version 2 does that by itself.
    fn watch_memory(&self, group: &Group) {
        while !self.wait_until(Instant::now() + MEMORY_PAUSE) {
            if group.measure().kills > 0 {
                return self.end_as(Verdict::OutOfMemory);
            }
        }
    }

    fn finish(&self, receipt: Receipt) {
        let mut state = self.state();
        state.receipt = Some(receipt);
        state.remote = None;
        drop(state);
        self.ended.notify_all();
    }
}

/// What belongs to one run and ends with it.
struct Surroundings {
    workspace: Arc<Workspace>,
    control: Option<Session>,
    /// The run's own listener; dropping it closes it.
    door: Option<Box<dyn Send>>,
    directory: PathBuf,
    /// Holds the run's limits.
    group: Option<Arc<Group>>,
    /// What the receipt says of them.
    limits: Vec<Layer>,
}

impl Surroundings {
    /// `patience` is how long a workspace that ends with the run may wait for files that are not registered.
    fn end(self, workspaces: &Workspaces, run: &Run, patience: Duration) {
        let Surroundings { workspace, control, door, directory, group, .. } = self;
        if let Some(group) = group {
            group.remove();
        }
        drop(door);
        if let Some(control) = control {
            control.end();
        }
        if let Err(error) = std::fs::remove_dir_all(&directory)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, directory = %directory.display(), "remove a run's directory");
        }
        workspace.runs.leave(run.id);
        let _claim = workspaces.claim((workspace.owner.uid, workspace.id.clone()));
        run.departed.store(true, Ordering::Relaxed);
        // Somebody else may use it, or have come to want it meanwhile.
        if !workspaces.is_occupied(&workspace) {
            workspaces.end_unless_held(&workspace, patience);
        }
    }
}

pub(super) fn start(
    workspaces: &Workspaces,
    actor: &Actor,
    definition: RunDefinition,
) -> Result<RunStarted, Error> {
    let started_at = Timestamp::now();
    let clock = Instant::now();
    let RunDefinition { workspace: wanted, keep, expose, rootfs, stdio, command } = definition;
    if command.network == Network::None
        && !command.limits.any()
        && !command.terminal
        && rootfs.is_none()
    {
        workspaces.0.spares.expect_run();
    }
    let lent = Lent { expose, rootfs, stdio };
    let keep = keep || wanted.id.is_some();
    let (workspace, made, claim) = workspaces.obtain(actor, wanted)?;
    if made && keep {
        workspace.holders.keep();
    }
    let id = RunId::generate();
    let run = Arc::new(Run {
        id,
        owner: *actor,
        workspace: workspace.id.clone(),
        state: Mutex::default(),
        ended: Condvar::new(),
        collected: AtomicBool::new(false),
        departed: AtomicBool::new(false),
    });
    let mut around = Surroundings {
        directory: workspaces.0.settings.runtime_dir.join("runs").join(id.to_string()),
        workspace,
        control: None,
        door: None,
        group: None,
        limits: Vec::new(),
    };
    let admitted = workspaces.admit(&run);
    drop(claim);
    if let Err(error) = admitted {
        around.end(workspaces, &run, Duration::ZERO);
        return Err(error);
    }
    match launch(workspaces, &run, &mut around, &command, lent) {
        Ok(sandbox) => {
            let started = RunStarted { run_id: id, workspace_id: run.workspace.clone() };
            if let Some(timeout) = command.timeout {
                let watched = Arc::clone(&run);
                spawn_thread("run-clock", move || watched.watch_clock(timeout));
            }
            if let Some(group) = around.group.clone().filter(|group| group.is_killed_piecemeal()) {
                let watched = Arc::clone(&run);
                spawn_thread("run-memory", move || watched.watch_memory(&group));
            }
            let workspaces = workspaces.clone();
            spawn_thread("run", move || {
                conclude(&workspaces, &run, sandbox, around, &command, started_at, clock);
            });
            Ok(started)
        }
        Err(error) => {
            let error = masked(error, &around.workspace.contents);
            let artifacts = around.workspace.artifacts.clone();
            around.end(workspaces, &run, Duration::ZERO);
            workspaces.0.spares.run_ended();
            workspaces.forget_run(id);
            artifacts.end_run(id);
            Err(error)
        }
    }
}

fn spawn_thread(name: &str, body: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .expect("a process that has just started a sandbox can start a thread");
}

/// What the client lends to one run.
struct Lent {
    expose: Vec<(PathBuf, OwnedFd)>,
    rootfs: Option<(PathBuf, OwnedFd)>,
    stdio: [OwnedFd; 3],
}

/// Makes everything that the sandbox needs and executes the command in it.
fn launch(
    workspaces: &Workspaces,
    run: &Arc<Run>,
    around: &mut Surroundings,
    definition: &CommandDefinition,
    lent: Lent,
) -> Result<Sandbox, Error> {
    let Lent { expose, rootfs, stdio } = lent;
    let workspace = Arc::clone(&around.workspace);
    if definition.wait_upload {
        workspace.artifacts.must_have_remote()?;
    }
    let settings = &workspaces.0.settings;
    let user = identity(&run.owner, definition, &workspace)?;
    let mut plan = SandboxPlan::new(
        run.id,
        workspace.id.clone(),
        user.clone(),
        definition.argv.clone(),
        settings.runtime_dir.join("scratch"),
    );
    plan.mounts =
        workspace.mounts().iter().map(|(_, mount)| (mount.name.clone(), mount.access)).collect();
    plan.expose = expose.iter().map(|(path, _)| path.clone()).collect();
    plan.rootfs = rootfs.as_ref().map(|(path, _)| path.display().to_string());
    plan.env = environment(run, &plan.home, definition, &workspace.contents)?;
    if let Some(workdir) = &definition.workdir {
        plan.workdir.clone_from(workdir);
    }
    plan.network = definition.network;
    plan.terminal = definition.terminal;
    plan.lend_streams = run.owner.uid == 0;
    plan.tmp_size_bytes = settings.tmp_size_bytes;
    plan.wait_children = definition.wait_children;
    plan.allow_unenforced.clone_from(&definition.allow_unenforced);
    plan.faults = Faults::from_environment().map_err(|error| Error::SetupFailed {
        message: error.to_string(),
        exit_code: EXIT_FAILED,
    })?;
    let record = settings.runtime_dir.join("cgroups").join(run.id.to_string());
    let limits =
        limits::enforce(&definition.limits, run.id, &plan.user, plan.user_namespace, &record)
            .map_err(|error| Error::SetupFailed {
                message: sentence(&error),
                exit_code: EXIT_FAILED,
            })?;
    plan.weaker = limits.weaker;
    around.limits = limits.layers;
    around.group = limits.group.map(Arc::new);
    let group = around.group.clone();

    let control = serve_control(&workspace, run.id, &user)?;
    let control_mount = control.hand_over_mount();
    around.control = Some(control);
    let control_mount = control_mount.map_err(|source| Error::Io {
        doing: "hand over the mount of the run's .belljar directory".to_owned(),
        source,
    })?;
    let api_directory = open_door(workspaces, run, around)?;
    let descriptors = SandboxDescriptors {
        workspace: workspace.clone_mount()?,
        control: control_mount,
        artifacts: Some(workspace.clone_views()?),
        api_directory: Some(api_directory),
        cgroups: match &group {
            Some(group) => group.doors().map_err(|source| Error::Io {
                doing: "open the run's cgroup".to_owned(),
                source,
            })?,
            None => Vec::new(),
        },
        rootfs: rootfs
            .map(|(path, descriptor)| clone_lent("rootfs", &path, &descriptor))
            .transpose()?,
        expose: expose
            .into_iter()
            .map(|(path, descriptor)| clone_lent("expose", &path, &descriptor))
            .collect::<Result<_, _>>()?,
        stdio,
    };

    let begun = match workspaces.0.spares.take(&plan, &descriptors) {
        Some(spare) => spare.take(&plan, descriptors),
        None => spawn(&workspaces.0.launcher, &plan, descriptors),
    };
    let mut sandbox = begun.map_err(|error| match error {
        SpawnError::Plan(invalid) => {
            Error::Invalid { message: format!("start a sandbox: {invalid}") }
        }
        other => Error::SetupFailed { message: sentence(&other), exit_code: EXIT_FAILED },
    })?;
    sandbox.set_last_resort({
        let workspace = Arc::clone(&workspace);
        move || workspace.cut_off()
    });
    let failed = |failure| setup_failed(&failure, &plan, group.as_deref());
    let namespace = sandbox.wait_ready().map_err(failed)?;
    if group.as_ref().is_some_and(|group| !group.is_joined()) {
        return Err(Error::SetupFailed {
            message: "limits: the sandbox is not in its cgroup although it joined it; something on this machine moves processes between cgroups".to_owned(),
            exit_code: EXIT_FAILED,
        });
    }
    workspace.runs.enter(namespace, run.id);
    workspace.artifacts.begin_run(RunRecord {
        id: run.id,
        graph_id: definition.graph_id.clone(),
        node_id: definition.node_id.clone(),
    });
    {
        // From here on the run can be signalled and cancelled; a cancellation that came before is carried out.
        let mut state = run.state();
        state.remote = Some(sandbox.remote());
        if state.verdict.is_some() {
            return Err(Error::Unavailable { message: "the run was cancelled".to_owned() });
        }
    }
    sandbox.go().map_err(failed)?;
    Ok(sandbox)
}

/// Waits for the end of the command, then for its files, then writes the receipt.
fn conclude(
    workspaces: &Workspaces,
    run: &Arc<Run>,
    mut sandbox: Sandbox,
    mut around: Surroundings,
    definition: &CommandDefinition,
    started_at: Timestamp,
    clock: Instant,
) {
    let ended = sandbox.wait();
    let wall = clock.elapsed();
    let mut enforcement = sandbox.layers();
    drop(sandbox);
    enforcement.append(&mut around.limits);
    let measured = around.group.as_ref().map(|group| group.measure()).unwrap_or_default();
    if let Some(group) = &around.group {
        group.remove();
    }
    let artifacts = around.workspace.artifacts.clone();
    let patience = if around.workspace.is_cut_off() {
        // Nobody will close what is open, and copies wait for the same directory.
        definition.drain_timeout.min(CUT_OFF_DRAIN)
    } else {
        definition.drain_timeout
    };
    let deadline = Instant::now() + patience;
    let drained = artifacts.drain(DrainScope::Run(run.id), deadline);
    let mut incomplete: Vec<String> =
        drained.incomplete.iter().map(|(path, why)| format!("{path}: {why}")).collect();
    let listed = artifacts.of_run(run.id, |artifact| ReceiptArtifact {
        id: artifact.id,
        version: artifact.version,
        path: artifact.path,
        artifact_type: artifact.artifact_type,
        state: artifact.state,
        size: artifact.size,
        digest: artifact.digest,
        uploaded: None,
    });
    let mut registered = listed.unwrap_or_else(|error| {
        incomplete.push(format!("the list of this run's artifacts: {}", sentence(&error)));
        Vec::new()
    });
    let mut uploaded = None;
    if definition.wait_upload {
        let waited = wait_uploaded(&artifacts, &mut registered, deadline);
        uploaded = Some(waited.unwrap_or_else(|error| {
            tracing::warn!(run = %run.id, reason = sentence(&error), "a run's uploads are not waited for");
            false
        }));
    }
    artifacts.end_run(run.id);
    let verdict = run.state().verdict;
    let (exit_code, reason, message) = outcome(ended, verdict, &measured, definition);
    // It names the command, whose name can be made of anything.
    let message = mask_text(&around.workspace.contents.masker(), &message);
    let run_as_root = run_as_root(run, definition, &around.workspace);
    let receipt = Receipt {
        run_id: run.id,
        workspace_id: run.workspace.clone(),
        exit_code,
        reason,
        message,
        run_as_root,
        enforcement,
        usage: usage(wall, ended, &measured),
        artifacts: registered,
        complete: drained.complete && incomplete.is_empty(),
        incomplete,
        uploaded,
        started_at,
        ended_at: Timestamp::now(),
    };
    // Everything of the run is gone before anybody hears that it has ended.
    // What the run's own drain did not see registered is not waited for twice: it stays in the journal.
    around.end(workspaces, run, Duration::ZERO);
    run.finish(receipt);
    workspaces.0.spares.run_ended();
    workspaces.retire(run.id);
}

/// Waits until the artifacts' contents are uploaded, and notes with each whether it is.
fn wait_uploaded(
    artifacts: &Artifacts,
    listed: &mut [ReceiptArtifact],
    deadline: Instant,
) -> Result<bool, artifact::Error> {
    let digests: Vec<_> = listed.iter().filter_map(|artifact| artifact.digest).collect();
    let mut stored = artifacts.wait_uploaded(&digests, deadline)?.into_iter();
    for artifact in &mut *listed {
        artifact.uploaded = Some(artifact.digest.is_some() && stored.next() == Some(true));
    }
    Ok(listed.iter().all(|artifact| artifact.uploaded == Some(true)))
}

/// The same failure without secrets: what it says of the command was given by the caller.
fn masked(error: Error, contents: &Contents) -> Error {
    match error {
        Error::SetupFailed { message, exit_code } => {
            let message = mask_text(&contents.masker(), &message);
            Error::SetupFailed { message, exit_code }
        }
        Error::Invalid { message } => {
            Error::Invalid { message: mask_text(&contents.masker(), &message) }
        }
        other => other,
    }
}

/// Who the command will be: an ordinary user is itself; root names somebody, or is the owner of the first read-write mount.
fn identity(
    actor: &Actor,
    definition: &CommandDefinition,
    workspace: &Workspace,
) -> Result<Identity, Error> {
    if actor.uid != 0 {
        match definition.user {
            Some(user) if user.uid != actor.uid || user.gid.is_some_and(|gid| gid != actor.gid) => {
                return Err(Error::Forbidden {
                    message: format!(
                        "run as user {}: only root may run as another user; leave out --user to run as yourself",
                        user.uid
                    ),
                });
            }
            Some(_) | None => return Ok(Identity::unnamed(actor.uid, actor.gid)),
        }
    }
    if let Some(user) = definition.user {
        return Ok(Identity::unnamed(user.uid, user.gid.unwrap_or(user.uid)));
    }
    let first_writable = workspace
        .mounts()
        .iter()
        .zip(&workspace.owners)
        .find(|((_, mount), _)| mount.access == Access::ReadWrite);
    let (uid, gid) = first_writable.map_or((0, 0), |(_, owner)| *owner);
    Ok(Identity::unnamed(uid, gid))
}

fn run_as_root(run: &Run, definition: &CommandDefinition, workspace: &Workspace) -> bool {
    identity(&run.owner, definition, workspace).is_ok_and(|user| user.uid == 0)
}

fn environment(
    run: &Run,
    home: &Path,
    definition: &CommandDefinition,
    contents: &Contents,
) -> Result<Environment, Error> {
    let term = definition.term.as_deref().map(OsStr::new);
    let mut env = Environment::base(&run.workspace, run.id, home, term);
    for (name, value) in contents.env().iter().chain(&definition.env) {
        env.set(name.as_str(), value);
    }
    for name in &definition.secret_env {
        let secret = contents.secret_entry(name).ok_or_else(|| Error::Invalid {
            message: format!("--secret-env {name}: the workspace has no secret of that name; give it with --secret {name}=@FILE"),
        })?;
        if secret.value.expose().contains(&0) {
            return Err(Error::Invalid {
                message: format!(
                    "--secret-env {name}: the value holds a NUL byte, which no environment can; read it from /workspace/.belljar/secrets/{name}"
                ),
            });
        }
        tracing::info!(run = %run.id, secret = %name, uid = run.owner.uid, pid = run.owner.pid, "a secret was given to a run as a variable");
        env.set(name.as_str(), OsStr::from_bytes(secret.value.expose()));
    }
    Ok(env)
}

/// Mounts and serves the run's own `.belljar`, with secrets owned by the run's user.
fn serve_control(workspace: &Workspace, run: RunId, user: &Identity) -> Result<Session, Error> {
    let secrets = Secrets::OwnedBy { uid: user.uid, gid: user.gid };
    let tree = ControlTree::new(workspace.contents.clone(), secrets);
    let filesystem = ControlFilesystem::new(tree, run, workspace.runs.clone());
    let served =
        Mounted::new(Purpose::Control).and_then(|mounted| mounted.serve(filesystem, 1, "control"));
    served.map_err(|error| Error::Unavailable { message: sentence(&error) })
}

/// Opens the run's own listener and gives a mount of its directory.
fn open_door(
    workspaces: &Workspaces,
    run: &Run,
    around: &mut Surroundings,
) -> Result<OwnedFd, Error> {
    let directory = &around.directory;
    let failed = |source| Error::Io {
        doing: format!("make the run's own socket below {}", directory.display()),
        source,
    };
    // Open to the run's user; the directory above is the daemon's alone.
    std::fs::DirBuilder::new().mode(0o755).create(directory).map_err(failed)?;
    let scope = RunScope {
        run: run.id,
        workspace: run.workspace.clone(),
        owner: run.owner,
        artifacts: around.workspace.artifacts.clone(),
    };
    around.door = Some(workspaces.0.door.open(directory, scope).map_err(failed)?);
    open_tree(nix::fcntl::AT_FDCWD, directory.as_path(), OpenTree::CLONE).map_err(failed)
}

fn clone_lent(what: &str, path: &Path, opened: &OwnedFd) -> Result<OwnedFd, Error> {
    let attributes = MountAttr::READ_ONLY | MountAttr::NO_SUID | MountAttr::NO_DEV;
    clone_opened(&format!("{what} {}", path.display()), opened, attributes)
}

fn setup_failed(failure: &SetupFailure, plan: &SandboxPlan, group: Option<&Group>) -> Error {
    let command = plan.argv.first().map(|c| c.to_string_lossy()).unwrap_or_default();
    let message = match failure.kind {
        FailureKind::NotFound | FailureKind::NotExecutable => {
            format!("run {command}: {}", failure.message)
        }
        FailureKind::Setup if group.is_some_and(|group| group.measure().kills > 0) => {
            format!("memory: the limit is too small to set up the sandbox for {command}; give more")
        }
        FailureKind::Setup => format!("set up the sandbox for {command}: {failure}"),
    };
    Error::SetupFailed { message, exit_code: failure.kind.exit_code() }
}
