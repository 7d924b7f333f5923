//! Finds the daemon, or starts a private one for the length of a command.
//!
//! Order: the socket that was named (flag or BELLJAR_SOCKET; it must answer), the user's own, the system's. A socket of
//! another user is an error wherever it is met, because silently going on would hide a trap.

use super::Places;
use super::exit::Failure;
use super::output;
use crate::client::{Client, ClientError};
use crate::config::paths::{Paths, Surroundings, system_socket};
use crate::config::{Config, Overrides};
use crate::model::id::BackendId;
use crate::telemetry;
use anyhow::Context as _;
use std::future::Future;
use std::path::Path;

/// Starts a daemon inside this process. Called at most once, before any thread exists.
pub type StartPrivate = fn(&Config, &Paths) -> anyhow::Result<Box<dyn PrivateDaemon>>;

/// A daemon inside this process.
pub trait PrivateDaemon {
    fn socket(&self) -> &Path;
    /// Ends, drains, unmounts; blocks.
    fn stop(self: Box<Self>);
}

/// What every command starts from.
#[derive(Debug)]
pub struct Context {
    overrides: Overrides,
    around: Surroundings,
    /// `--backend`.
    backend: Option<BackendId>,
    start: StartPrivate,
}

/// What a private daemon logs unless BELLJAR_LOG asks for more: not the failed requests, which the command itself reports.
const EMBEDDED_LOG: &str = "warn,belljar::api::log=off";

/// A daemon to talk to; a private one is stopped when this is dropped.
pub struct Connection {
    pub client: Client,
    private: Option<Box<dyn PrivateDaemon>>,
    runtime: tokio::runtime::Runtime,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("client", &self.client).finish_non_exhaustive()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(private) = self.private.take() {
            private.stop();
        }
    }
}

impl Context {
    pub fn new(places: Places, start: StartPrivate) -> Self {
        // On the command line a relative path starts at the caller's directory; without one it stays as it is and is refused.
        let absolute = |path: Option<std::path::PathBuf>| {
            path.map(|path| std::path::absolute(&path).unwrap_or(path))
        };
        let overrides = Overrides {
            config: absolute(places.config),
            state_dir: absolute(places.state_dir),
            runtime_dir: absolute(places.runtime_dir),
            socket: absolute(places.socket),
            log_filter: None,
            log_format: None,
        };
        Self { overrides, around: Surroundings::ours(), backend: places.backend, start }
    }

    /// Settings and places as they are in force.
    pub fn settings(&self) -> Result<(Config, Paths), Failure> {
        let config = Config::load(&self.overrides, &self.around).map_err(anyhow::Error::from)?;
        let paths = Paths::resolve(&config, &self.around).map_err(anyhow::Error::from)?;
        Ok((config, paths))
    }

    /// The backend whose artifacts the command is about.
    fn backend(&self) -> Result<Option<BackendId>, Failure> {
        let named = || self.around.text("BELLJAR_BACKEND");
        match &self.backend {
            Some(id) => Ok(Some(id.clone())),
            None => named()
                .map(|text| text.parse().context("BELLJAR_BACKEND"))
                .transpose()
                .map_err(Failure::from),
        }
    }

    /// The running daemon, if there is one.
    pub fn find(&self, paths: &Paths) -> Result<Option<Client>, Failure> {
        let named_by = match (&self.overrides.socket, self.around.path("BELLJAR_SOCKET")) {
            (Some(_), _) => Some("--socket"),
            (None, Some(_)) => Some("BELLJAR_SOCKET"),
            (None, None) => None,
        };
        let backend = self.backend()?;
        let client = Client::at(&paths.socket).with_backend(backend.clone());
        if let Some(named_by) = named_by {
            return match client.probe() {
                Ok(()) => Ok(Some(client)),
                Err(error @ ClientError::NotRunning { .. }) => {
                    let failure = Failure::from(error);
                    Err(Failure::unreachable(format!(
                        "{}; {named_by} names this socket: start `belljard serve` there, or leave {named_by} out to let this command start a private daemon",
                        failure.text()
                    )))
                }
                Err(error) => Err(error.into()),
            };
        }
        for client in [client, Client::at(system_socket()).with_backend(backend)] {
            match client.probe() {
                Ok(()) => return Ok(Some(client)),
                // A user who is not in the group of the system's daemon has a private one instead.
                Err(ClientError::NotRunning { .. } | ClientError::NotAllowed { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// For what lives only in a daemon, and would be gone with a private one.
    pub fn running(&self, what: &str) -> Result<Connection, Failure> {
        let (_, paths) = self.settings()?;
        match self.find(&paths)? {
            Some(client) => Ok(Connection::new(client, None)?),
            None => Err(Failure::unreachable(format!(
                "no daemon is running, and {what} in a daemon only: start one with `belljard serve` (it would listen at {})",
                paths.socket.display()
            ))),
        }
    }

    /// For everything else.
    pub fn running_or_private(&self) -> Result<Connection, Failure> {
        let (config, paths) = self.settings()?;
        if let Some(client) = self.find(&paths)? {
            return Ok(Connection::new(client, None)?);
        }
        self.start_private(&config, &paths)
    }

    /// A private daemon, whatever else is running.
    pub fn private(&self) -> Result<Connection, Failure> {
        let (config, paths) = self.settings()?;
        self.start_private(&config, &paths)
    }

    fn start_private(&self, config: &Config, paths: &Paths) -> Result<Connection, Failure> {
        // A command's own output must not drown in the daemon's; BELLJAR_LOG asks for more.
        let filter = self.around.text("BELLJAR_LOG").unwrap_or_else(|| EMBEDDED_LOG.to_owned());
        telemetry::init(config.log.format, &filter, output::colours())
            .map_err(anyhow::Error::from)?;
        let private = (self.start)(config, paths)
            .context("no daemon is running, and a private one could not be started")?;
        let client = Client::at(private.socket()).with_backend(self.backend()?);
        Ok(Connection::new(client, Some(private))?)
    }
}

impl Connection {
    fn new(client: Client, private: Option<Box<dyn PrivateDaemon>>) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the event loop")?;
        Ok(Connection { client, private, runtime })
    }

    /// Runs calls of one command. An answer that is read in parts may be begun in one call and ended in another.
    pub fn block_on<T>(&self, calls: impl Future<Output = T>) -> T {
        self.runtime.block_on(calls)
    }
}
