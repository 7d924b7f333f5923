//! Environment variables of a workspace.

use super::Api;
use super::auth::Caller;
use super::error::ApiError;
use super::input::{Body, Segments};
use crate::model::id::{VariableName, WorkspaceId};
use crate::wire::workspace::{Environment, VariableRequest};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

pub async fn list(
    State(api): State<Api>,
    caller: Caller,
    Segments(id): Segments<WorkspaceId>,
) -> Result<Json<Environment>, ApiError> {
    caller.may_see(&id)?;
    let env = api.blocking(move |workspaces| workspaces.env(&caller.actor, &id)).await??;
    Ok(Json(Environment { env }))
}

pub async fn set(
    State(api): State<Api>,
    caller: Caller,
    Segments((id, name)): Segments<(WorkspaceId, VariableName)>,
    Body(request): Body<VariableRequest>,
) -> Result<StatusCode, ApiError> {
    check_value(&name, &request.value)?;
    api.blocking(move |workspaces| workspaces.set_env(&caller.actor, &id, name, request.value))
        .await??;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn remove(
    State(api): State<Api>,
    caller: Caller,
    Segments((id, name)): Segments<(WorkspaceId, VariableName)>,
) -> Result<StatusCode, ApiError> {
    api.blocking(move |workspaces| workspaces.remove_env(&caller.actor, &id, &name)).await??;
    Ok(StatusCode::NO_CONTENT)
}

/// A zero byte would end the value early (execve(2)).
pub fn check_value(name: &VariableName, value: &str) -> Result<(), ApiError> {
    if value.contains('\0') {
        return Err(ApiError::invalid(format!(
            "the value of variable {name} has a zero byte, which no environment can hold: use a secret, which is a file"
        )));
    }
    Ok(())
}
