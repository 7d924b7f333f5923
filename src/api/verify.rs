//! Verification of the store, part by part.

use super::Api;
use super::auth::Caller;
use super::error::ApiError;
use super::input::Body;
use super::life::voice;
use crate::wire::verify::{VerifyReport, VerifyRequest};
use axum::Json;
use axum::extract::State;

/// Whoever the daemon or the backend belongs to, and root, verify the whole store; others what their own versions name.
pub async fn verify(
    State(api): State<Api>,
    caller: Caller,
    Body(request): Body<VerifyRequest>,
) -> Result<Json<VerifyReport>, ApiError> {
    let uid = caller.actor.uid;
    let whole = uid == 0 || uid == api.about.uid || caller.backend.is_some();
    let voice = voice(&caller);
    Ok(Json(api.wait(move |_| caller.artifacts.verify(&voice, whole, &request)).await??))
}
