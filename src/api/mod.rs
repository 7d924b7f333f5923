//! HTTP over the Unix socket: the route table on one screen.
//!
//! A handler checks what came in, calls `workspace` or `artifact` on a thread that may block, and says what came out. It
//! decides nothing about files or processes.

pub mod artifacts;
pub mod auth;
pub mod cleanup;
pub mod content;
pub mod descriptors;
pub mod door;
pub mod environment;
pub mod error;
pub mod events;
pub mod gate;
pub mod input;
pub mod life;
pub mod lineage;
pub mod listen;
pub mod log;
pub mod runs;
pub mod secrets;
pub mod status;
pub mod storage;
pub mod verify;
pub mod workspaces;

use crate::artifact::backend::Backends;
use crate::workspace::RunScope;
use crate::workspace::registry::Workspaces;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::routing::{get, post, put};
use axum::{Extension, Router};
use descriptors::Tokens;
use error::ApiError;
use gate::{Gate, Peer, PeerListener};
use std::io;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// What every handler works with.
#[derive(Debug, Clone)]
pub struct Api(Arc<Parts>);

#[derive(Debug)]
pub struct Parts {
    pub workspaces: Workspaces,
    pub backends: Backends,
    pub tokens: Tokens,
    pub about: About,
    pub body_size_max: u64,
    pub drain_timeout: Duration,
    /// Places for calls that wait for long on a thread of their own; see [`Api::wait`].
    pub waits: Semaphore,
    /// Places for streams of events.
    pub subscribers: Arc<Semaphore>,
    /// Told after each change of this daemon's that has events.
    pub happened: watch::Sender<()>,
    pub stopping: AtomicBool,
}

/// What the daemon says of itself.
#[derive(Debug, Clone)]
pub struct About {
    pub instance: Uuid,
    pub uid: u32,
    pub embedded: bool,
    pub state_dir: PathBuf,
    pub runtime_dir: PathBuf,
    pub started: Instant,
}

impl Deref for Api {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl Api {
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// Calls what may block on a thread that may.
    pub async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Workspaces) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let workspaces = self.workspaces.clone();
        tokio::task::spawn_blocking(move || call(&workspaces))
            .await
            .map_err(|error| ApiError::busy(format!("the daemon is stopping: {error}")))
    }

    /// As [`blocking`](Self::blocking), for calls that wait for minutes: bounded below the number of threads, so that
    /// they never keep the short ones from running.
    pub async fn wait<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Workspaces) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let _place = self.waits.try_acquire().map_err(|_| {
            ApiError::busy("too many calls wait for runs at a time: try again later")
        })?;
        self.blocking(call).await
    }
}

/// The daemon's own socket.
pub fn router(api: Api) -> Router {
    let routes = Router::new()
        .route("/healthz", get(status::health))
        .route("/readyz", get(status::ready))
        .route("/version", get(status::version))
        .route("/v1/daemon", get(status::daemon))
        .route("/v1/workspaces", post(workspaces::create).get(workspaces::list))
        .route("/v1/workspaces/{id}", get(workspaces::show).delete(workspaces::remove))
        .route("/v1/workspaces/{id}/secrets", get(secrets::list))
        .route(
            "/v1/workspaces/{id}/secrets/{name}",
            put(secrets::set).get(secrets::value).delete(secrets::remove),
        )
        .route("/v1/workspaces/{id}/env", get(environment::list))
        .route("/v1/workspaces/{id}/env/{name}", put(environment::set).delete(environment::remove))
        .route("/v1/runs", post(runs::start))
        .route("/v1/runs/{id}/receipt", get(runs::receipt))
        .route("/v1/runs/{id}/signal", post(runs::signal))
        .route("/v1/artifacts", get(artifacts::list).post(life::register))
        .route("/v1/artifacts/sync", post(artifacts::sync))
        .route("/v1/artifacts/verify", post(verify::verify))
        .route(
            "/v1/artifacts/{reference}",
            get(artifacts::show).patch(life::update).delete(artifacts::remove),
        )
        .route("/v1/artifacts/{reference}/content", get(content::read))
        .route("/v1/artifacts/{reference}/archive", post(life::archive))
        .route("/v1/artifacts/{reference}/restore", post(life::restore))
        .route("/v1/artifacts/{reference}/pin", post(life::pin).delete(life::unpin))
        .route("/v1/artifacts/{reference}/versions", get(life::versions))
        .route("/v1/artifacts/{reference}/events", get(events::of_artifact))
        .route("/v1/events", get(events::all))
        .route("/v1/artifacts/{reference}/lineage", get(lineage::show))
        .route("/v1/storage", get(storage::status))
        .route("/v1/storage/gc", post(storage::collect))
        .route("/v1/storage/backend", put(storage::set_backend))
        .route("/v1/storage/backends", get(storage::backends))
        .route("/v1/cleanup/plans", post(cleanup::plan).get(cleanup::plans))
        .route("/v1/cleanup/plans/{id}", get(cleanup::show))
        .route("/v1/cleanup/plans/{id}/apply", post(cleanup::apply))
        .route("/v1/cleanup/policies", get(cleanup::policies))
        .route(
            "/v1/cleanup/policies/{name}",
            put(cleanup::set_policy).get(cleanup::policy).delete(cleanup::remove_policy),
        )
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method);
    routes.layer(from_fn(log::requests)).with_state(api)
}

/// A run's own socket inside its sandbox: its workspace's secrets and environment, to read, and its artifacts, to read,
/// register and describe.
pub fn scoped_router(api: Api, scope: RunScope) -> Router {
    let routes = Router::new()
        .route("/healthz", get(status::health))
        .route("/version", get(status::version))
        .route("/v1/workspaces/{id}/secrets", get(secrets::list))
        .route("/v1/workspaces/{id}/secrets/{name}", get(secrets::value))
        .route("/v1/workspaces/{id}/env", get(environment::list))
        .route("/v1/artifacts", get(artifacts::list).post(life::register))
        .route("/v1/artifacts/{reference}", get(artifacts::show).patch(life::update))
        .route("/v1/artifacts/{reference}/content", get(content::read))
        .route("/v1/artifacts/{reference}/versions", get(life::versions))
        .fallback(outside_the_scope)
        .method_not_allowed_fallback(outside_the_scope);
    routes.layer(from_fn(log::requests)).layer(Extension(scope)).with_state(api)
}

/// Serves until told to stop, and then until the last request is answered.
pub async fn serve(
    router: Router,
    listener: UnixListener,
    gate: Gate,
    stop: CancellationToken,
) -> io::Result<()> {
    let service = router.layer(from_fn(no_store)).into_make_service_with_connect_info::<Peer>();
    axum::serve(PeerListener { listener, gate }, service)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

/// Secrets must not stay behind in a cache of the caller.
async fn no_store(request: Request, next: Next) -> axum::response::Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(
        axum::http::header::CACHE_CONTROL,
        axum::http::HeaderValue::from_static("no-store"),
    );
    response
}

async fn no_such_route(request: Request) -> ApiError {
    ApiError::not_found(
        "no-such-route",
        format!(
            "{} is no path of this API",
            crate::model::path::escape(request.uri().path().as_bytes())
        ),
    )
}

async fn no_such_method(request: Request) -> ApiError {
    ApiError::new(
        axum::http::StatusCode::METHOD_NOT_ALLOWED,
        "method-not-allowed",
        format!("{} is not possible here", request.method()),
    )
}

async fn outside_the_scope(request: Request) -> ApiError {
    ApiError::forbidden(format!(
        "{} {} is outside what a run may do through its own socket: it can read its workspace's secrets, environment and artifacts, and register and update artifacts",
        request.method(),
        crate::model::path::escape(request.uri().path().as_bytes())
    ))
}
