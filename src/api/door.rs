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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::descriptors::Tokens;
    use crate::api::{About, Parts};
    use crate::artifact::backend::Backends;
    use crate::artifact::{self, Artifacts};
    use crate::model::id::RunId;
    use crate::sandbox::launcher::Launcher;
    use crate::sandbox::spare::Keep;
    use crate::workspace::registry::Workspaces;
    use crate::workspace::{self, Actor};
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::time::{Duration, Instant};
    use tokio::sync::Semaphore;
    use uuid::Uuid;

    fn door(directory: &Path, runtime: Handle) -> Arc<Door> {
        let (state_dir, runtime_dir) = (directory.join("state"), directory.join("run"));
        std::fs::create_dir_all(&state_dir).expect("make");
        std::fs::create_dir_all(&runtime_dir).expect("make");
        let instance = Uuid::now_v7();
        let own = artifact::Settings::new(state_dir.clone(), instance);
        let artifacts = Artifacts::open(own.clone()).expect("opens");
        let uid = nix::unistd::geteuid().as_raw();
        let door = Arc::new(Door::new(runtime));
        let settings = workspace::Settings {
            runtime_dir: runtime_dir.clone(),
            workspaces_per_user_max: 4,
            runs_per_user_max: 4,
            tmp_size_bytes: 1 << 20,
            spares: Keep::None,
        };
        let workspaces = Workspaces::new(
            settings,
            artifacts.clone(),
            door.clone(),
            Launcher::start().expect("starts"),
        )
        .expect("sets up");
        door.lead_to(Api::new(Parts {
            workspaces,
            backends: Backends::new(artifacts, own, uid),
            tokens: Tokens::new(4, Duration::from_secs(60)),
            about: About {
                instance,
                uid,
                embedded: true,
                state_dir,
                runtime_dir,
                started: Instant::now(),
            },
            body_size_max: 1 << 20,
            drain_timeout: Duration::from_secs(1),
            waits: Semaphore::new(4),
            subscribers: Arc::new(Semaphore::new(4)),
            happened: tokio::sync::watch::Sender::new(()),
            stopping: AtomicBool::new(false),
        }));
        door
    }

    fn status(socket: &Path, method: &str, path: &str) -> u16 {
        let mut stream = UnixStream::connect(socket).expect("connects");
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        )
        .expect("sends");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answers");
        answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("has a status")
    }

    #[test]
    fn a_runs_socket_serves_its_own_workspace_and_nothing_else() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let door = door(directory.path(), runtime.handle().clone());
        let inside = directory.path().join("inside");
        std::fs::create_dir(&inside).expect("make");
        let scope = RunScope {
            run: RunId::generate(),
            workspace: "own".parse().expect("legal"),
            owner: Actor { uid: nix::unistd::geteuid().as_raw(), gid: 0, pid: 1 },
            artifacts: door.api.get().expect("it leads there").backends.own().clone(),
        };
        let open = door.open(&inside, scope).expect("opens");
        let socket = inside.join(SOCKET_NAME);
        assert_eq!(status(&socket, "GET", "/healthz"), 200);
        // The workspace is not there, which only its own run may learn.
        assert_eq!(status(&socket, "GET", "/v1/workspaces/own/secrets"), 404);
        assert_eq!(status(&socket, "GET", "/v1/workspaces/own/secrets/KEY"), 404);
        assert_eq!(status(&socket, "GET", "/v1/artifacts"), 200);
        for (method, path) in [
            ("GET", "/v1/workspaces/other/secrets"),
            ("GET", "/v1/workspaces/other/secrets/KEY"),
            ("GET", "/v1/workspaces/other/env"),
            ("GET", "/v1/artifacts?workspace=other"),
            ("GET", "/v1/workspaces"),
            ("GET", "/v1/workspaces/own"),
            ("POST", "/v1/workspaces"),
            ("DELETE", "/v1/workspaces/own"),
            ("PUT", "/v1/workspaces/own/secrets/KEY"),
            ("DELETE", "/v1/workspaces/own/secrets/KEY"),
            ("PUT", "/v1/workspaces/own/env/A"),
            ("POST", "/v1/runs"),
            ("PUT", "/v1/storage/backend"),
            ("GET", "/v1/storage/backends"),
            ("POST", "/v1/artifacts/sync"),
            ("DELETE", "/v1/artifacts/x"),
            ("POST", "/v1/artifacts/x/archive"),
            ("POST", "/v1/artifacts/x/restore"),
            ("POST", "/v1/artifacts/x/pin"),
            ("GET", "/v1/artifacts/x/events"),
            ("GET", "/v1/events"),
            ("GET", "/v1/daemon"),
        ] {
            assert_eq!(status(&socket, method, path), 403, "{method} {path}");
        }
        drop(open);
        assert!(!socket.exists());
    }
}
