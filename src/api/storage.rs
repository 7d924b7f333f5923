//! Stores: the state of uploads, and the collection of what nobody names.

use super::Api;
use super::auth::Caller;
use super::error::ApiError;
use super::input::Body;
use crate::wire::storage::{CollectReport, CollectRequest, StorageStatus};
use axum::Json;
use axum::extract::State;

/// Waits until the remote store has answered whether it is there.
pub async fn status(
    State(api): State<Api>,
    _caller: Caller,
) -> Result<Json<StorageStatus>, ApiError> {
    Ok(Json(api.wait(|workspaces| workspaces.artifacts().storage_status()).await??))
}

/// For whoever the daemon belongs to, and root: a store is everyone's.
pub async fn collect(
    State(api): State<Api>,
    caller: Caller,
    Body(request): Body<CollectRequest>,
) -> Result<Json<CollectReport>, ApiError> {
    if caller.actor.uid != 0 && caller.actor.uid != api.about.uid {
        let detail = "only root, or the user whose daemon it is, may look for garbage in a store that all users share";
        return Err(ApiError::forbidden(detail));
    }
    Ok(Json(api.wait(move |workspaces| workspaces.artifacts().collect(&request)).await??))
}
