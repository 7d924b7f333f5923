//! Stores: the state of uploads, the collection of what nobody names, and the backends that users ask for.

use super::Api;
use super::auth::Caller;
use super::error::ApiError;
use super::input::Body;
use crate::wire::backend::{Backend, BackendList, BackendRequest};
use crate::wire::storage::{CollectReport, CollectRequest, StorageStatus};
use axum::Json;
use axum::extract::State;

/// Waits until the remote store has answered whether it is there.
pub async fn status(
    State(api): State<Api>,
    caller: Caller,
) -> Result<Json<StorageStatus>, ApiError> {
    Ok(Json(api.wait(move |_| caller.artifacts.storage_status()).await??))
}

/// For whoever the daemon belongs to, and root: a store is everyone's.
pub async fn collect(
    State(api): State<Api>,
    caller: Caller,
    Body(request): Body<CollectRequest>,
) -> Result<Json<CollectReport>, ApiError> {
    // A backend is its owner's alone.
    let shared = caller.backend.is_none();
    if shared && caller.actor.uid != 0 && caller.actor.uid != api.about.uid {
        let detail = "only root, or the user whose daemon it is, may look for garbage in a store that all users share";
        return Err(ApiError::forbidden(detail));
    }
    Ok(Json(api.wait(move |_| caller.artifacts.collect(&request)).await??))
}

/// Answers how the place is called from here on.
pub async fn set_backend(
    State(api): State<Api>,
    caller: Caller,
    Body(request): Body<BackendRequest>,
) -> Result<Json<Backend>, ApiError> {
    let uid = caller.actor.uid;
    let backends = api.backends.clone();
    Ok(Json(api.wait(move |_| backends.set(uid, request)).await??))
}

/// The caller's own; root sees everybody's.
pub async fn backends(
    State(api): State<Api>,
    caller: Caller,
) -> Result<Json<BackendList>, ApiError> {
    let owner = caller.artifact_owner();
    let all = api.backends.clone();
    Ok(Json(BackendList { backends: api.blocking(move |_| all.list(owner)).await? }))
}
