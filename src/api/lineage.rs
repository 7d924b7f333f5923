//! What an artifact was made from. On the daemon's own socket only: the way leads through other workspaces.

use super::Api;
use super::auth::Caller;
use super::error::ApiError;
use super::input::{Question, Segments};
use crate::wire::lineage::{Lineage, LineageQuery};
use axum::Json;
use axum::extract::State;

pub async fn show(
    State(api): State<Api>,
    caller: Caller,
    Segments(reference): Segments<String>,
    Question(query): Question<LineageQuery>,
) -> Result<Json<Lineage>, ApiError> {
    let owner = caller.artifact_owner();
    Ok(Json(api.blocking(move |_| caller.artifacts.lineage(owner, &reference, &query)).await??))
}
