//! What the daemon says of itself.

use super::Api;
use super::auth::Caller;
use super::error::ApiError;
use crate::model::path::escape;
use crate::wire::daemon::{DaemonStatus, Version};
use axum::Json;
use axum::extract::State;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::Ordering;

/// The process answers.
pub async fn health() -> &'static str {
    "ok\n"
}

/// New work is taken. The socket appears only after recovery, so this is false during shutdown alone.
pub async fn ready(State(api): State<Api>) -> Result<&'static str, ApiError> {
    if api.stopping.load(Ordering::Relaxed) {
        return Err(ApiError::busy("the daemon is stopping"));
    }
    Ok("ready\n")
}

pub async fn version() -> Json<Version> {
    Json(Version {
        name: "belljard".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        api: "v1".to_owned(),
    })
}

pub async fn daemon(
    State(api): State<Api>,
    _caller: Caller,
) -> Result<Json<DaemonStatus>, ApiError> {
    let backends = api.backends.clone();
    let (workspaces, runs, pending, passthrough) = api
        .blocking(move |workspaces| {
            let (count, runs) = workspaces.counts();
            (count, runs, backends.pending(), workspaces.passthrough())
        })
        .await?;
    let about = &api.about;
    Ok(Json(DaemonStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uid: about.uid,
        instance: about.instance.to_string(),
        embedded: about.embedded,
        state_dir: text(&about.state_dir),
        runtime_dir: text(&about.runtime_dir),
        uptime_ms: u64::try_from(about.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        workspaces: workspaces as u64,
        runs: runs as u64,
        pending_artifacts: pending as u64,
        passthrough,
    }))
}

fn text(path: &Path) -> String {
    escape(path.as_os_str().as_bytes())
}
