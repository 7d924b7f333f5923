//! The books: which workspaces and runs there are, whose they are, and who may change them now.
//!
//! The lock of `state` is never held while a workspace is made, mounted or ended. Whoever makes, replaces or ends a
//! workspace claims its name for as long as that takes: others who want the same name wait, and nobody else does.

use super::contents::{Contents, ENTRIES_MAX, Secret, VARIABLE_VALUE_BYTES_MAX};
use super::holders::LeaseNumber;
use super::lifecycle::{self, Workspace};
use super::run::{self, Run};
use super::wanted::Wanted;
use super::{Actor, Definition, Error, RunDefinition, RunDoor, Settings, recovery};
use crate::artifact::backend::Chosen;
use crate::artifact::{self, Artifacts, DrainScope};
use crate::model::id::{RunId, SecretName, VariableName, WorkspaceId};
use crate::sandbox::fault::Faults;
use crate::sandbox::launcher::Launcher;
use crate::sandbox::plan::Basis;
use crate::sandbox::spare::Spares;
use crate::secret::SecretValue;
use crate::vfs::descriptors::DescriptorBudget;
use crate::wire;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

/// Receipts of ended runs that are kept for whoever asks late. Chosen, not measured: some kilobytes each.
const RECEIPTS_MAX: usize = 1024;

/// How long the end of the daemon waits for the clients of runs that it ended to fetch their receipts. One that has died
/// fetches none. Chosen, not measured.
const COLLECT_MAX: Duration = Duration::from_secs(1);

/// How long removing a workspace waits for files written in it to be registered; what is not by then stays in the journal.
/// Well below the minute that a client waits for an answer.
const REMOVE_DRAIN: Duration = Duration::from_secs(30);

type Key = (u32, WorkspaceId);

#[derive(Default)]
struct State {
    workspaces: BTreeMap<Key, Arc<Workspace>>,
    runs: BTreeMap<RunId, Arc<Run>>,
    /// Names of workspaces that are being made, replaced or ended.
    claimed: BTreeSet<Key>,
    /// Ended runs, oldest first.
    ended: VecDeque<RunId>,
    closing: bool,
}

/// What all clones share.
pub struct Inner {
    pub(super) settings: Settings,
    pub(super) artifacts: Artifacts,
    pub(super) door: Arc<dyn RunDoor>,
    pub(super) launcher: Launcher,
    pub(super) spares: Spares,
    descriptors: Arc<DescriptorBudget>,
    state: Mutex<State>,
    /// A claim was given up.
    unclaimed: Condvar,
}

/// A claimed name; dropping it lets others have it.
pub(super) struct Claim {
    workspaces: Workspaces,
    key: Key,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.workspaces.state().claimed.remove(&self.key);
        self.workspaces.0.unclaimed.notify_all();
    }
}

/// A client's hold on a workspace, until it is released.
#[derive(Debug)]
pub struct Lease {
    workspace: Weak<Workspace>,
    number: LeaseNumber,
}

/// All workspaces of a daemon.
#[derive(Clone)]
pub struct Workspaces(pub(super) Arc<Inner>);

impl std::fmt::Debug for Workspaces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Workspaces")
    }
}

impl Workspaces {
    pub fn new(
        settings: Settings,
        artifacts: Artifacts,
        door: Arc<dyn RunDoor>,
        launcher: Launcher,
    ) -> Result<Self, Error> {
        // Nobody else uses this runtime directory: what is here was left by an instance that did not end in order.
        recovery::remove_cgroups(&settings.runtime_dir);
        for name in ["runs", "scratch", "cgroups"] {
            let directory = settings.runtime_dir.join(name);
            let _ = std::fs::remove_dir_all(&directory);
            lifecycle::make_private_directory(&directory)?;
        }
        let scratch = settings.runtime_dir.join("scratch");
        let mut basis = Basis { tmp_size_bytes: settings.tmp_size_bytes, ..Basis::new(scratch) };
        // What cannot be read is refused when a run is to start.
        basis.faults = Faults::from_environment().unwrap_or_default();
        let spares = Spares::start(launcher.clone(), basis, settings.spares).map_err(|source| {
            Error::Io { doing: "begin sandboxes in advance".to_owned(), source }
        })?;
        Ok(Self(Arc::new(Inner {
            settings,
            artifacts,
            door,
            launcher,
            spares,
            descriptors: lifecycle::descriptor_budget(),
            state: Mutex::default(),
            unclaimed: Condvar::new(),
        })))
    }

    /// Removes what dead instances left: their mounts, then their places in the state directory. Answers how many
    /// mounts there were.
    pub fn recover(&self, dead: artifact::Recovered) -> usize {
        let own = &self.0.settings.runtime_dir;
        let mut unmounted = 0;
        for instance in dead.instances {
            match instance.info().and_then(|info| info.runtime_dir.as_deref()) {
                // The directory is ours now; only the mounts were the dead instance's.
                Some(runtime) if runtime == own => {
                    unmounted += recovery::unmount_below(&own.join("workspaces"));
                }
                Some(runtime) => unmounted += recovery::clean_up(runtime),
                None => {}
            }
            if let Err(error) = instance.remove() {
                tracing::warn!(
                    error = crate::telemetry::sentence(&error),
                    "remove what a dead instance has left"
                );
            }
        }
        unmounted
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no panic under this lock")
    }

    /// Waits until nobody else changes the existence of this workspace.
    pub(super) fn claim(&self, key: Key) -> Claim {
        let mut state = self.state();
        while !state.claimed.insert(key.clone()) {
            state = self.0.unclaimed.wait(state).expect("no panic under this lock");
        }
        Claim { workspaces: self.clone(), key }
    }

    fn find(&self, actor: &Actor, id: &WorkspaceId) -> Result<Arc<Workspace>, Error> {
        let state = self.state();
        if let Some(workspace) = state.workspaces.get(&(actor.uid, id.clone())) {
            return Ok(Arc::clone(workspace));
        }
        // Root sees everybody's; a name that two users have must be said with the owner, which the API has no word for.
        let mut others = state.workspaces.values().filter(|workspace| workspace.id == *id);
        match (actor.uid, others.next(), others.next()) {
            (0, Some(workspace), None) => Ok(Arc::clone(workspace)),
            (0, Some(_), Some(_)) => Err(Error::Conflict {
                message: format!("workspace {id} exists for several users; act as one of them"),
            }),
            _ => Err(Error::NotFound { what: "workspace", id: id.to_string() }),
        }
    }

    pub(super) fn running_in(&self, workspace: &Workspace) -> Vec<RunId> {
        let state = self.state();
        let runs = state.runs.values().filter(|run| {
            run.is_running()
                && run.owner.uid == workspace.owner.uid
                && run.workspace == workspace.id
        });
        runs.map(|run| run.id).collect()
    }

    /// Whether a run is in the workspace that will look after it when it goes.
    pub(super) fn is_occupied(&self, workspace: &Workspace) -> bool {
        let state = self.state();
        state.runs.values().any(|run| {
            run.is_present()
                && run.owner.uid == workspace.owner.uid
                && run.workspace == workspace.id
        })
    }

    /// Makes a workspace that stays. The same id with the same mount points is the same workspace, which takes the secrets and
    /// variables given; other mount points replace it when nothing runs in it.
    pub fn create(
        &self,
        actor: &Actor,
        definition: Definition,
    ) -> Result<wire::workspace::Workspace, Error> {
        let (workspace, _, _claim) = self.obtain(actor, definition)?;
        workspace.holders.keep();
        Ok(workspace.view(self.running_in(&workspace)))
    }

    /// The same for one that ends with the last of its leases, unless it is kept.
    pub fn lease(
        &self,
        actor: &Actor,
        definition: Definition,
    ) -> Result<(wire::workspace::Workspace, Lease), Error> {
        let (workspace, _, _claim) = self.obtain(actor, definition)?;
        let number = workspace.holders.lease();
        let lease = Lease { workspace: Arc::downgrade(&workspace), number };
        Ok((workspace.view(self.running_in(&workspace)), lease))
    }

    /// Gives a lease up; the workspace ends if nobody holds it, at once or with the last run in it.
    pub fn release(&self, lease: &Lease) {
        // One that was removed or replaced meanwhile is gone, or going.
        let Some(workspace) = lease.workspace.upgrade() else { return };
        let _claim = self.claim((workspace.owner.uid, workspace.id.clone()));
        workspace.holders.release(lease.number);
        if !self.is_occupied(&workspace) {
            self.end_unless_held(&workspace, REMOVE_DRAIN);
        }
    }

    /// Ends a workspace that nobody wants; the caller has claimed its name and knows that nothing runs in it.
    pub(super) fn end_unless_held(&self, workspace: &Arc<Workspace>, patience: Duration) {
        if workspace.holders.is_held() {
            return;
        }
        let key = (workspace.owner.uid, workspace.id.clone());
        let is_in_the_books =
            self.state().workspaces.get(&key).is_some_and(|found| Arc::ptr_eq(found, workspace));
        if is_in_the_books {
            // A run waits for its own files; what the holders of a lease wrote beside it nobody has waited for.
            let waits = workspace.holders.was_leased() && !workspace.is_cut_off();
            self.end(workspace, if waits { patience.max(REMOVE_DRAIN) } else { patience });
        }
    }

    /// The workspace that a definition names, and whether it was made for it. It cannot be ended while the claim lives.
    pub(super) fn obtain(
        &self,
        actor: &Actor,
        mut definition: Definition,
    ) -> Result<(Arc<Workspace>, bool, Claim), Error> {
        check_contents(&definition)?;
        // Before the claim: a directory that does not answer holds up nobody else.
        let wanted = Wanted::look(std::mem::take(&mut definition.mounts))?;
        let id = definition.id.clone().unwrap_or_else(WorkspaceId::generate);
        let key = (actor.uid, id.clone());
        let claim = self.claim(key.clone());
        let existing = self.state().workspaces.get(&key).cloned();
        if let Some(existing) = existing {
            let usable = !existing.is_cut_off();
            if !usable && wanted.is_empty() {
                return Err(Error::Conflict {
                    message: format!(
                        "workspace {id} was cut off from its files, because a host directory did not answer when a run had to end; when it answers, make the workspace again with its mount points, or remove it with `belljar workspace rm {id}`"
                    ),
                });
            }
            // Naming no mount point means the workspace as it is.
            let difference = if wanted.is_empty() { None } else { existing.difference(&wanted) };
            let difference = difference.or_else(|| existing.kept_elsewhere(&definition.backend));
            if usable && difference.is_none() {
                existing.check_directories()?;
                fill(&existing.contents, definition)?;
                return Ok((existing, false, claim));
            }
            let running = self.running_in(&existing);
            if let Some(run) = running.first() {
                return Err(Error::Conflict {
                    message: format!(
                        "workspace {id} {}, and run {run} is in progress in it; wait for the run or end it, or use another id",
                        difference.as_deref().unwrap_or("was cut off from its files")
                    ),
                });
            }
            let leases = existing.holders.leases();
            if usable && leases > 0 {
                return Err(Error::Conflict {
                    message: format!(
                        "workspace {id} {}, and {leases} clients hold it as it is; close it there, remove it with `belljar workspace rm {id}`, or use another id",
                        difference.as_deref().unwrap_or("is wanted otherwise")
                    ),
                });
            }
            self.end(&existing, REMOVE_DRAIN);
        }
        {
            let state = self.state();
            if state.closing {
                return Err(Error::Unavailable { message: "the daemon is stopping".to_owned() });
            }
            let own = state.workspaces.keys().filter(|(uid, _)| *uid == actor.uid).count();
            let bound = self.0.settings.workspaces_per_user_max;
            if own >= bound {
                return Err(Error::Unavailable {
                    message: format!(
                        "user {} has {own} workspaces, as many as the configuration allows (workspaces.per_user_max); remove one with `belljar workspace rm`",
                        actor.uid
                    ),
                });
            }
        }
        let kept = match definition.backend.take() {
            Some(Chosen { id, artifacts }) => (artifacts, Some(id)),
            None => (self.0.artifacts.clone(), None),
        };
        let workspace = Arc::new(Workspace::make(
            &self.0.settings.runtime_dir,
            kept,
            &self.0.descriptors,
            *actor,
            id,
            &wanted,
        )?);
        if let Err(error) = fill(&workspace.contents, definition) {
            workspace.end();
            return Err(error);
        }
        let stopping = {
            let mut state = self.state();
            if !state.closing {
                state.workspaces.insert(key, Arc::clone(&workspace));
            }
            state.closing
        };
        if stopping {
            // The end of all workspaces has been and did not see this one.
            workspace.end();
            return Err(Error::Unavailable { message: "the daemon is stopping".to_owned() });
        }
        Ok((workspace, true, claim))
    }

    pub fn list(&self, actor: &Actor) -> Vec<wire::workspace::Workspace> {
        let visible: Vec<Arc<Workspace>> = {
            let state = self.state();
            let all = state.workspaces.values();
            all.filter(|w| actor.uid == 0 || w.owner.uid == actor.uid).cloned().collect()
        };
        visible.iter().map(|workspace| workspace.view(self.running_in(workspace))).collect()
    }

    pub fn show(
        &self,
        actor: &Actor,
        id: &WorkspaceId,
    ) -> Result<wire::workspace::Workspace, Error> {
        let workspace = self.find(actor, id)?;
        Ok(workspace.view(self.running_in(&workspace)))
    }

    /// Unmounts the workspace and forgets it; its artifacts stay.
    pub fn remove(&self, actor: &Actor, id: &WorkspaceId) -> Result<(), Error> {
        let found = self.find(actor, id)?;
        let _claim = self.claim((found.owner.uid, id.clone()));
        // Another may have had the claim before.
        let workspace = self.find(actor, id)?;
        if let Some(run) = self.running_in(&workspace).first() {
            return Err(Error::Conflict {
                message: format!(
                    "workspace {id} cannot be removed while run {run} is in progress in it; wait for the run or end it"
                ),
            });
        }
        self.end(&workspace, REMOVE_DRAIN);
        Ok(())
    }

    /// Ends a workspace in which nothing runs, after waiting for its files to be registered for at most `patience`; the
    /// caller has claimed it.
    pub(super) fn end(&self, workspace: &Workspace, patience: Duration) {
        self.state().workspaces.remove(&(workspace.owner.uid, workspace.id.clone()));
        let scope =
            DrainScope::Workspace { owner_uid: workspace.owner.uid, id: workspace.id.clone() };
        let drained = workspace.artifacts.drain(scope, Instant::now() + patience);
        if !drained.complete {
            tracing::warn!(workspace = %workspace.id, files = drained.incomplete.len(), "a workspace ends with files that are not registered; they stay in the journal");
        }
        workspace.end();
    }

    pub fn set_secret(
        &self,
        actor: &Actor,
        id: &WorkspaceId,
        name: SecretName,
        value: SecretValue,
        sensitive: bool,
    ) -> Result<(), Error> {
        let workspace = self.find(actor, id)?;
        if !workspace.contents.set_secret(name, Secret { value, sensitive }) {
            return Err(too_many("secrets"));
        }
        Ok(())
    }

    pub fn secrets(
        &self,
        actor: &Actor,
        id: &WorkspaceId,
    ) -> Result<Vec<wire::workspace::Secret>, Error> {
        let secrets = self.find(actor, id)?.contents.secrets();
        let each = secrets.into_iter().map(|(name, sensitive, size)| wire::workspace::Secret {
            name,
            sensitive,
            size: size as u64,
        });
        Ok(each.collect())
    }

    /// The value, for the workspace's owner alone: not even root asks for another user's.
    pub fn secret_value(
        &self,
        actor: &Actor,
        id: &WorkspaceId,
        name: &SecretName,
    ) -> Result<SecretValue, Error> {
        let workspace = self.find(actor, id)?;
        if workspace.owner.uid != actor.uid {
            return Err(Error::Forbidden {
                message: format!(
                    "the secrets of workspace {id} belong to user {}",
                    workspace.owner.uid
                ),
            });
        }
        let secret = workspace.contents.secret_entry(name);
        tracing::info!(workspace = %id, secret = %name, uid = actor.uid, pid = actor.pid, "a secret was read through the API");
        secret
            .map(|secret| secret.value)
            .ok_or_else(|| Error::NotFound { what: "secret", id: name.to_string() })
    }

    pub fn remove_secret(
        &self,
        actor: &Actor,
        id: &WorkspaceId,
        name: &SecretName,
    ) -> Result<(), Error> {
        match self.find(actor, id)?.contents.remove_secret(name) {
            true => Ok(()),
            false => Err(Error::NotFound { what: "secret", id: name.to_string() }),
        }
    }

    pub fn set_env(
        &self,
        actor: &Actor,
        id: &WorkspaceId,
        name: VariableName,
        value: String,
    ) -> Result<(), Error> {
        let workspace = self.find(actor, id)?;
        check_variable(&name, &value)?;
        match workspace.contents.set_env(name, value) {
            true => Ok(()),
            false => Err(too_many("variables")),
        }
    }

    pub fn env(
        &self,
        actor: &Actor,
        id: &WorkspaceId,
    ) -> Result<BTreeMap<VariableName, String>, Error> {
        Ok(self.find(actor, id)?.contents.env())
    }

    pub fn remove_env(
        &self,
        actor: &Actor,
        id: &WorkspaceId,
        name: &VariableName,
    ) -> Result<(), Error> {
        match self.find(actor, id)?.contents.remove_env(name) {
            true => Ok(()),
            false => Err(Error::NotFound { what: "variable", id: name.to_string() }),
        }
    }

    /// Starts a command; returns when it was executed. Its workspace is made if there is none.
    pub fn start_run(
        &self,
        actor: &Actor,
        definition: RunDefinition,
    ) -> Result<wire::run::RunStarted, Error> {
        run::start(self, actor, definition)
    }

    fn run(&self, actor: &Actor, id: RunId) -> Result<Arc<Run>, Error> {
        let run = self.state().runs.get(&id).cloned();
        run.filter(|run| actor.uid == 0 || run.owner.uid == actor.uid)
            .ok_or_else(|| Error::NotFound { what: "run", id: id.to_string() })
    }

    /// What happened in a run; waits until it has ended and its files are registered.
    pub fn receipt(&self, actor: &Actor, id: RunId) -> Result<wire::run::Receipt, Error> {
        Ok(self.run(actor, id)?.wait())
    }

    pub fn signal(&self, actor: &Actor, id: RunId, signal: i32) -> Result<(), Error> {
        self.run(actor, id)?.signal(signal)
    }

    /// Ends a run whose client has gone away.
    pub fn cancel(&self, id: RunId) {
        let run = self.state().runs.get(&id).cloned();
        if let Some(run) = run {
            run.cancel();
        }
    }

    /// Workspaces, and runs in progress.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.state();
        (state.workspaces.len(), state.runs.values().filter(|run| run.is_running()).count())
    }

    /// Whether this process may ask the kernel to carry file data itself.
    pub fn passthrough(&self) -> bool {
        nix::unistd::geteuid().is_root()
    }

    /// Ends all runs, then all workspaces; what was written is registered as far as the deadline allows.
    pub fn shutdown(&self, deadline: Instant) {
        let runs: Vec<Arc<Run>> = {
            let mut state = self.state();
            state.closing = true;
            state.runs.values().filter(|run| run.is_running()).cloned().collect()
        };
        for run in &runs {
            run.cancel();
        }
        for run in &runs {
            run.wait_until(deadline);
        }
        let workspaces: Vec<Arc<Workspace>> = self.state().workspaces.values().cloned().collect();
        let mut drained = vec![self.0.artifacts.drain(DrainScope::All, deadline)];
        for workspace in workspaces.iter().filter(|workspace| workspace.backend.is_some()) {
            let (owner_uid, id) = (workspace.owner.uid, workspace.id.clone());
            let scope = DrainScope::Workspace { owner_uid, id };
            drained.push(workspace.artifacts.drain(scope, deadline));
        }
        let files: usize = drained.iter().map(|drained| drained.incomplete.len()).sum();
        if files > 0 {
            tracing::warn!(files, "files are not registered at the end; they stay in the journal");
        }
        // Whoever waits for the end of a run that was just ended hears of it.
        let patience = deadline.min(Instant::now() + COLLECT_MAX);
        while runs.iter().any(|run| !run.is_collected()) && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.0.spares.stop();
        let workspaces = std::mem::take(&mut self.state().workspaces);
        for workspace in workspaces.values() {
            workspace.end();
        }
        for name in ["runs", "scratch", "cgroups"] {
            let _ = std::fs::remove_dir_all(self.0.settings.runtime_dir.join(name));
        }
        let owners = self.0.settings.runtime_dir.join("workspaces");
        recovery::remove_empty_below(&owners);
    }

    /// Enters a run in the books, unless its user has too many.
    pub(super) fn admit(&self, run: &Arc<Run>) -> Result<(), Error> {
        let mut state = self.state();
        if state.closing {
            return Err(Error::Unavailable { message: "the daemon is stopping".to_owned() });
        }
        let uid = run.owner.uid;
        let running = state
            .runs
            .values()
            .filter(|other| other.is_running() && other.owner.uid == uid)
            .count();
        let bound = self.0.settings.runs_per_user_max;
        if running >= bound {
            return Err(Error::Unavailable {
                message: format!(
                    "user {} has {running} runs in progress, as many as the configuration allows (runs.per_user_max); wait for one to end",
                    run.owner.uid
                ),
            });
        }
        state.runs.insert(run.id, Arc::clone(run));
        Ok(())
    }

    pub(super) fn forget_run(&self, id: RunId) {
        self.state().runs.remove(&id);
    }

    /// Keeps the receipt of an ended run, and the number of receipts bounded.
    pub(super) fn retire(&self, id: RunId) {
        let mut state = self.state();
        state.ended.push_back(id);
        if state.ended.len() > RECEIPTS_MAX
            && let Some(oldest) = state.ended.pop_front()
        {
            state.runs.remove(&oldest);
        }
    }
}

fn too_many(what: &str) -> Error {
    Error::Unavailable {
        message: format!(
            "the workspace has {ENTRIES_MAX} {what}, the most it can hold; remove one first"
        ),
    }
}

fn check_variable(name: &VariableName, value: &str) -> Result<(), Error> {
    if value.contains('\0') {
        return Err(Error::Invalid {
            message: format!(
                "variable {name} is not allowed: its value holds a NUL byte, which no environment can"
            ),
        });
    }
    if value.len() > VARIABLE_VALUE_BYTES_MAX {
        return Err(Error::Invalid {
            message: format!(
                "variable {name} is not allowed: its value has {} bytes, more than the {VARIABLE_VALUE_BYTES_MAX} of one variable",
                value.len()
            ),
        });
    }
    Ok(())
}

fn check_contents(definition: &Definition) -> Result<(), Error> {
    definition.env.iter().try_for_each(|(name, value)| check_variable(name, value))?;
    if definition.secrets.len() > ENTRIES_MAX {
        return Err(too_many("secrets"));
    }
    if definition.env.len() > ENTRIES_MAX {
        return Err(too_many("variables"));
    }
    Ok(())
}

/// Adds a definition's secrets and variables to a workspace's own.
fn fill(contents: &Contents, definition: Definition) -> Result<(), Error> {
    for (name, (value, sensitive)) in definition.secrets {
        if !contents.set_secret(name, Secret { value, sensitive }) {
            return Err(too_many("secrets"));
        }
    }
    for (name, value) in definition.env {
        if !contents.set_env(name, value) {
            return Err(too_many("variables"));
        }
    }
    Ok(())
}
