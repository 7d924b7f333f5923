//! The composition root: builds every part once, serves, and takes all apart again in order.
//!
//! Start: directories → sockets (a client that comes early waits in the backlog) → catalog and journal → workspaces →
//! recovery of dead instances → requests are answered.
//!
//! Stop: nothing new is begun → runs are ended and their artifacts drained, mounts taken away → the last answers go out →
//! journal and catalog are closed → the sockets go. Whatever is not finished at the deadline stays in the journal, where
//! the next start finds it.

use crate::api::descriptors::Tokens;
use crate::api::door::Door;
use crate::api::gate::Gate;
use crate::api::listen::{Audience, Bound, ListenError, SocketFiles, bind};
use crate::api::{self, About, Api};
use crate::artifact::backend::Backends;
use crate::artifact::{self, Artifacts};
use crate::config::Config;
use crate::config::catalog::CatalogKind;
use crate::config::paths::{Paths, PathsError, SOCKET_NAME, Surroundings};
use crate::config::storage::Remote;
use crate::sandbox::launcher::Launcher;
use crate::sandbox::spare::Keep;
use crate::storage::blob::directory::DirectoryRemote;
use crate::storage::blob::s3::{S3Settings, S3SettingsError, S3Store};
use crate::storage::catalog::postgres::{PostgresSettings, SettingsError};
use crate::storage::remote::{RemoteError, RemoteStore};
use crate::sys::process::enter_user_namespace;
use crate::workspace;
use crate::workspace::registry::Workspaces;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::net::UnixListener;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Threads for calls that block. tokio's own default, written down because [`WAITS_MAX`] must stay below it.
const BLOCKING_THREADS_MAX: usize = 512;

/// Calls that may wait for runs at a time; the rest of the threads is left to short calls.
const WAITS_MAX: usize = 384;

/// Streams of events at a time. Each looks into the catalog some times a second. Chosen, not measured.
const SUBSCRIBERS_MAX: usize = 64;

/// Threads that serve requests. A request is decoded and handed on; two keep one slow decode from stopping the rest.
const WORKER_THREADS: usize = 2;

/// Descriptors this process may hold, if the hard limit allows: the file system keeps one for each file it knows.
/// Chosen, not measured.
const DESCRIPTORS_WANTED: u64 = 262_144;

/// How long the end of an embedded daemon may take. Each of its runs has waited for its own files already; what is not
/// registered by then is in the journal, and a person waits for the prompt.
const EMBEDDED_STOP_MAX: Duration = Duration::from_secs(3);

/// Why a daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error(transparent)]
    Paths(#[from] PathsError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("the catalog's database cannot be used as it is configured")]
    Database(#[source] SettingsError),
    #[error("open the catalog under {} (BELLJAR_STATE_DIR chooses another place)", state_dir.display())]
    Artifacts {
        state_dir: PathBuf,
        #[source]
        source: artifact::Error,
    },
    #[error("open the catalog that `catalog.connection` names")]
    SharedCatalog(#[source] artifact::Error),
    #[error("use `storage.remote` of the configuration")]
    RemoteSettings(#[source] S3SettingsError),
    #[error(transparent)]
    RemoteStore(RemoteError),
    #[error("set up workspaces")]
    Workspaces(#[source] workspace::Error),
    #[error("{doing}")]
    Io {
        doing: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "mounting needs root, or a user namespace of our own, and none can be had here: {reason}; `belljar doctor` says more"
    )]
    NoPrivilege { reason: String },
}

/// Makes sure that this process may mount: it is privileged, or enters a user and a mount namespace of its own.
///
/// Must be called before any thread exists (user_namespaces(7): unshare fails in a process with threads).
pub fn acquire_mount_privilege() -> Result<(), DaemonError> {
    let privileged = caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_SYS_ADMIN)
        .unwrap_or(false);
    if privileged {
        return Ok(());
    }
    enter_user_namespace().map_err(|error| DaemonError::NoPrivilege { reason: error.to_string() })
}

/// Whether what the configuration names beside itself can be used; nothing is started and no server is asked.
pub fn check(config: &Config) -> Result<(), DaemonError> {
    database(config).map(drop)
}

/// What ends the service, besides SIGTERM, SIGINT and SIGHUP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Nothing.
    Signal,
    /// The end of standard input: whoever holds the other end of the pipe has gone, whatever its end was.
    StdinEnds,
}

/// Runs the service until it is told to stop.
pub fn run(config: &Config, paths: &Paths, until: Until) -> Result<(), DaemonError> {
    let runtime = runtime()?;
    // Before anything is made, so that a signal during start-up still takes it all away again.
    let (mut terminate, mut interrupt, mut hang_up) = runtime
        .block_on(async {
            Ok((
                signal(SignalKind::terminate())?,
                signal(SignalKind::interrupt())?,
                signal(SignalKind::hangup())?,
            ))
        })
        .map_err(|source| DaemonError::Io { doing: "listen for signals".to_owned(), source })?;
    let running = Running::start(config, paths, Kind::Service, runtime.handle())?;
    tracing::info!(
        socket = %paths.socket.display(),
        state_dir = %paths.state_dir.display(),
        instance = %running.about().instance,
        "ready"
    );
    notify(&[sd_notify::NotifyState::Ready]);
    runtime.block_on(async {
        tokio::select! {
            () = stdin_ends(until) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hang_up.recv() => {}
        }
    });
    tracing::info!("stopping");
    notify(&[sd_notify::NotifyState::Stopping]);
    runtime.spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::warn!("asked to stop twice: leaving at once; the next start recovers");
        std::process::exit(1);
    });
    running.stop(&runtime, Instant::now() + config.shutdown_timeout);
    runtime.shutdown_timeout(Duration::from_secs(1));
    tracing::info!("stopped");
    Ok(())
}

/// Resolves at the end of standard input if that is to end the service, else never.
async fn stdin_ends(until: Until) {
    match until {
        Until::Signal => std::future::pending().await,
        Until::StdinEnds => {
            let (told, hears) = tokio::sync::oneshot::channel::<()>();
            // Not one of the runtime's threads: a read of standard input cannot be given up, and the end of the runtime
            // would wait for it.
            let reading = std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
                let _told = told;
                // An error is an end too: nobody can be heard there any more.
                let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
            });
            if let Err(error) = reading {
                tracing::error!(%error, "start the thread that reads standard input; stopping, because its end would not be seen");
                return;
            }
            let _ = hears.await;
        }
    }
}

/// systemd may not be there, and then nobody wants to hear it.
fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "notify the service manager");
    }
}

fn runtime() -> Result<Runtime, DaemonError> {
    Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("belljar-api")
        .enable_all()
        .build()
        .map_err(|source| DaemonError::Io { doing: "start threads".to_owned(), source })
}

/// The same daemon inside another program, with a socket of its own, for as long as this value lives.
pub struct Embedded {
    runtime: Runtime,
    running: Running,
    socket: PathBuf,
    shutdown_timeout: Duration,
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Embedded {
    pub fn start(config: &Config, paths: &Paths) -> Result<Embedded, DaemonError> {
        let runtime = runtime()?;
        let running = Running::start(config, paths, Kind::Embedded, runtime.handle())?;
        let socket = running.about().runtime_dir.join(SOCKET_NAME);
        Ok(Embedded { runtime, running, socket, shutdown_timeout: config.shutdown_timeout })
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Ends what runs, drains, unmounts and removes what was made. Blocks; never from an async task.
    pub fn stop(self) {
        let patience = self.shutdown_timeout.min(EMBEDDED_STOP_MAX);
        self.running.stop(&self.runtime, Instant::now() + patience);
        self.runtime.shutdown_timeout(Duration::from_secs(1));
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Service,
    Embedded,
}

/// Everything that was built.
struct Running {
    api: Api,
    stop: CancellationToken,
    serving: JoinSet<()>,
    /// Last, so that the sockets go when all else is gone.
    files: SocketFiles,
}

impl Running {
    fn start(
        config: &Config,
        paths: &Paths,
        kind: Kind,
        handle: &Handle,
    ) -> Result<Running, DaemonError> {
        crate::sys::memory::map_large_blocks();
        raise_descriptor_limit();
        paths.prepare()?;
        let instance = Uuid::now_v7();
        let (runtime_dir, socket, audience) = match (kind, paths.uid) {
            (Kind::Service, 0) => {
                (paths.runtime_dir.clone(), paths.socket.clone(), Audience::Group)
            }
            (Kind::Service, _) => {
                (paths.runtime_dir.clone(), paths.socket.clone(), Audience::Owner)
            }
            (Kind::Embedded, _) => {
                let own = make_instance_directory(&paths.runtime_dir, instance)?;
                let socket = own.join(SOCKET_NAME);
                (own, socket, Audience::Owner)
            }
        };
        // Before recovery opens files of earlier workspaces.
        let launcher = Launcher::start().map_err(|source| DaemonError::Io {
            doing: "start the thread that starts sandboxes".to_owned(),
            source,
        })?;
        let bound = bind(&socket, audience)?;
        let mut settings = artifact::Settings::new(paths.state_dir.clone(), instance);
        settings.catalog = database(config)?;
        settings.runtime_dir = Some(runtime_dir.clone());
        settings.debounce = config.artifacts.debounce;
        settings.debounce_max = config.artifacts.debounce_max;
        settings.content_bytes_max = config.artifacts.content_size_max;
        settings.undo_window = config.artifacts.undo_window;
        // The daemon of one command ends with it and would hold it up.
        settings.cleanup = (kind == Kind::Service).then(|| config.artifacts.cleanup.clone());
        settings.scan = config.artifacts.scan;
        settings.rules.clone_from(&config.artifacts.rules);
        settings.secrets = config.artifacts.secrets;
        settings.input_bytes_max = config.artifacts.input_size_max;
        settings.inputs_max = config.artifacts.inputs_max;
        settings.remote = config.storage.remote.as_ref().map(remote_store).transpose()?;
        settings.keep_local = config.storage.keep_local;
        let failed = |source| match config.catalog.kind {
            CatalogKind::Sqlite => {
                DaemonError::Artifacts { state_dir: paths.state_dir.clone(), source }
            }
            CatalogKind::Postgres => DaemonError::SharedCatalog(source),
        };
        let artifacts = Artifacts::open(settings.clone()).map_err(failed)?;
        let backends = Backends::new(artifacts.clone(), settings, paths.uid);
        let door = Arc::new(Door::new(handle.clone()));
        let settings = workspace::Settings {
            runtime_dir: runtime_dir.clone(),
            workspaces_per_user_max: config.workspaces.per_user_max,
            runs_per_user_max: config.runs.per_user_max,
            tmp_size_bytes: config.runs.tmp_size,
            spares: match kind {
                Kind::Service => Keep::Always,
                Kind::Embedded => Keep::OnDemand,
            },
        };
        let workspaces = Workspaces::new(settings, artifacts.clone(), door.clone(), launcher)
            .map_err(DaemonError::Workspaces)?;
        let recovered = artifacts.recover().map_err(failed)?;
        let (instances, files) = (recovered.instances.len(), recovered.files);
        let mounts = workspaces.recover(recovered);
        if instances > 0 {
            tracing::info!(instances, files, mounts, "recovered what dead daemons left");
        }
        let happened = watch::Sender::new(());
        let tell = happened.clone();
        backends.on_events(Arc::new(move || tell.send_replace(())));
        if kind == Kind::Service {
            // The daemon of one command opens what the command asks for.
            backends.open_known();
        }
        let api = Api::new(api::Parts {
            workspaces,
            backends,
            tokens: Tokens::new(config.api.waiting_tokens_per_user_max, config.api.token_lifetime),
            about: About {
                instance,
                uid: paths.uid,
                embedded: kind == Kind::Embedded,
                state_dir: paths.state_dir.clone(),
                runtime_dir,
                started: Instant::now(),
            },
            body_size_max: config.api.body_size_max,
            drain_timeout: config.runs.drain_timeout,
            waits: Semaphore::new(WAITS_MAX),
            subscribers: Arc::new(Semaphore::new(SUBSCRIBERS_MAX)),
            happened,
            stopping: AtomicBool::new(false),
        });
        door.lead_to(api.clone());
        let connections = config.api.connections_per_user_max;
        Running::serve(api, bound, connections, handle)
    }

    fn serve(
        api: Api,
        bound: Bound,
        connections: usize,
        handle: &Handle,
    ) -> Result<Running, DaemonError> {
        let Bound { api: listener, companion, files } = bound;
        let _inside = handle.enter();
        let listener = UnixListener::from_std(listener).map_err(|source| DaemonError::Io {
            doing: "watch the API socket".to_owned(),
            source,
        })?;
        let stop = CancellationToken::new();
        let mut serving = JoinSet::new();
        let http =
            api::serve(api::router(api.clone()), listener, Gate::new(connections), stop.clone());
        serving.spawn_on(
            async move {
                if let Err(error) = http.await {
                    tracing::error!(%error, "serve the API socket");
                }
            },
            handle,
        );
        let descriptors = api.tokens.clone().serve(companion, Gate::new(connections));
        let stopped = stop.clone();
        serving.spawn_on(
            async move {
                tokio::select! {
                    () = stopped.cancelled() => {}
                    ended = descriptors => {
                        if let Err(error) = ended {
                            tracing::error!(%error, "serve the companion socket");
                        }
                    }
                }
            },
            handle,
        );
        Ok(Running { api, stop, serving, files })
    }

    fn about(&self) -> &About {
        &self.api.about
    }

    fn stop(self, runtime: &Runtime, deadline: Instant) {
        let Running { api, stop, mut serving, files } = self;
        api.stopping.store(true, Ordering::Relaxed);
        // Connections are still taken meanwhile: whoever started a run asks for its receipt over a new one.
        api.workspaces.shutdown(deadline);
        stop.cancel();
        // Whoever waits for a receipt has it once the runs are over; a client that does not read is left behind.
        let answers = runtime.block_on(async {
            let last = async { while serving.join_next().await.is_some() {} };
            tokio::time::timeout_at(deadline.into(), last).await
        });
        if answers.is_err() {
            tracing::warn!("some requests were not answered before the deadline");
        }
        let drained = api.backends.shutdown(deadline);
        if !drained.complete {
            let count = drained.incomplete.len();
            tracing::warn!(count, "artifacts are not registered yet; the next start does it");
        }
        drop(files);
        if api.about.embedded {
            remove_instance_directory(&api.about.runtime_dir);
        }
    }
}

/// The store that the configuration names; what is missing there is found out when it is used.
fn remote_store(remote: &Remote) -> Result<Arc<dyn RemoteStore>, DaemonError> {
    Ok(match remote {
        Remote::Directory { path } => Arc::new(DirectoryRemote::new(path.clone())),
        Remote::S3(bucket) => {
            let settings = S3Settings::resolve(bucket, &Surroundings::ours())
                .map_err(DaemonError::RemoteSettings)?;
            Arc::new(S3Store::new(settings).map_err(DaemonError::RemoteStore)?)
        }
    })
}

/// The database that the configuration names, with what our own environment adds.
fn database(config: &Config) -> Result<Option<PostgresSettings>, DaemonError> {
    match config.catalog.kind {
        CatalogKind::Sqlite => Ok(None),
        CatalogKind::Postgres => {
            let around = Surroundings::ours();
            let settings = PostgresSettings::new(&config.catalog, &|name| around.text(name));
            settings.map(Some).map_err(DaemonError::Database)
        }
    }
}

fn make_instance_directory(runtime_dir: &Path, instance: Uuid) -> Result<PathBuf, DaemonError> {
    let path = runtime_dir.join("instances").join(instance.to_string());
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(|source| {
        DaemonError::Io { doing: format!("make directory {}", path.display()), source }
    })?;
    Ok(path)
}

/// Removes what an embedded daemon made in its directory, by name and only when empty: had a mount stayed behind,
/// removing recursively would reach through it into the user's files.
fn remove_instance_directory(own: &Path) {
    let mut lock = own.join(SOCKET_NAME).into_os_string();
    lock.push(".lock");
    let _ = fs::remove_file(lock);
    let mounts = own.join("workspaces");
    for owner in fs::read_dir(&mounts).into_iter().flatten().flatten() {
        let _ = fs::remove_dir(owner.path());
    }
    let _ = fs::remove_dir(&mounts);
    if let Err(error) = fs::remove_dir(own) {
        tracing::warn!(%error, directory = %own.display(), "remove the instance's directory");
    }
}

fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        let wanted = hard.min(DESCRIPTORS_WANTED);
        if soft >= wanted { Ok(()) } else { setrlimit(Resource::RLIMIT_NOFILE, wanted, hard) }
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "raise the limit of open files");
    }
}
