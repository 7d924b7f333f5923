//! A run's own socket inside its sandbox.

use super::gate::Gate;
use super::listen::{Audience, SocketFiles, bind_alone};
use super::{Api, scoped_router, serve};
use crate::config::paths::SOCKET_NAME;
use crate::workspace::{RunDoor, RunScope};
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::OnceLock;
use tokio::net::UnixListener;
use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Connections of one run at a time. Chosen, not measured.
const CONNECTIONS_MAX: usize = 64;

/// Opens the sockets. It exists before the API does, because the workspaces need it and the API needs them.
pub struct Door {
    runtime: Handle,
    api: OnceLock<Api>,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Door")
    }
}

impl Door {
    pub fn new(runtime: Handle) -> Self {
        Self { runtime, api: OnceLock::new() }
    }

    /// Says what lies behind the door; before that, it does not open.
    pub fn lead_to(&self, api: Api) {
        self.api.set(api).expect("a daemon has one API");
    }
}

/// An open door; dropping it closes it.
struct Open {
    _files: SocketFiles,
    _serving: DropGuard,
}

impl RunDoor for Door {
    fn open(&self, directory: &Path, scope: RunScope) -> io::Result<Box<dyn Send>> {
        let api =
            self.api.get().cloned().ok_or_else(|| io::Error::other("the daemon is starting"))?;
        let socket = directory.join(SOCKET_NAME);
        let (listener, files) =
            bind_alone(&socket, Audience::Everyone).map_err(io::Error::other)?;
        // `from_std` registers with the runtime of the thread it is called on.
        let _inside = self.runtime.enter();
        let listener = UnixListener::from_std(listener)?;
        let stop = CancellationToken::new();
        let router = scoped_router(api, scope);
        let stopped = stop.clone();
        self.runtime.spawn(async move {
            let serving = serve(router, listener, Gate::new(CONNECTIONS_MAX), stopped.clone());
            tokio::select! {
                // The sandbox is gone; an answer would reach nobody.
                () = stopped.cancelled() => {}
                ended = serving => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "serve a run's socket");
                    }
                }
            }
        });
        Ok(Box::new(Open { _files: files, _serving: stop.drop_guard() }))
    }
}
