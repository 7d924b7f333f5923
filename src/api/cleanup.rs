//! Clean-up: plans and policies.

use super::Api;
use super::auth::Caller;
use super::error::ApiError;
use super::input::{Body, Segments};
use super::life::voice;
use crate::model::id::{PlanId, PolicyName};
use crate::wire::cleanup::{Plan, PlanList, PlanRequest, Policy, PolicyList, PolicyRequest};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

pub async fn plan(
    State(api): State<Api>,
    caller: Caller,
    Body(request): Body<PlanRequest>,
) -> Result<(StatusCode, Json<Plan>), ApiError> {
    let own = caller.actor.uid;
    let owner = request.owner.unwrap_or(own);
    if own != 0 && owner != own {
        return Err(ApiError::forbidden(format!(
            "root alone may clean up the artifacts of user {owner}"
        )));
    }
    let made = api.wait(move |_| caller.artifacts.plan_cleanup(owner, &request.criteria)).await??;
    Ok((StatusCode::CREATED, Json(made)))
}

pub async fn plans(State(api): State<Api>, caller: Caller) -> Result<Json<PlanList>, ApiError> {
    let owner = caller.artifact_owner();
    Ok(Json(api.blocking(move |_| caller.artifacts.cleanup_plans(owner)).await??))
}

pub async fn show(
    State(api): State<Api>,
    caller: Caller,
    Segments(id): Segments<PlanId>,
) -> Result<Json<Plan>, ApiError> {
    let owner = caller.artifact_owner();
    Ok(Json(api.blocking(move |_| caller.artifacts.cleanup_plan(owner, id)).await??))
}

pub async fn apply(
    State(api): State<Api>,
    caller: Caller,
    Segments(id): Segments<PlanId>,
) -> Result<Json<Plan>, ApiError> {
    let voice = voice(&caller);
    Ok(Json(api.wait(move |_| caller.artifacts.apply_cleanup(&voice, id)).await??))
}

pub async fn policies(
    State(api): State<Api>,
    caller: Caller,
) -> Result<Json<PolicyList>, ApiError> {
    let owner = caller.artifact_owner();
    Ok(Json(api.blocking(move |_| caller.artifacts.policies(owner)).await??))
}

pub async fn policy(
    State(api): State<Api>,
    caller: Caller,
    Segments(name): Segments<PolicyName>,
) -> Result<Json<Policy>, ApiError> {
    let owner = caller.actor.uid;
    Ok(Json(api.blocking(move |_| caller.artifacts.policy(owner, &name)).await??))
}

pub async fn set_policy(
    State(api): State<Api>,
    caller: Caller,
    Segments(name): Segments<PolicyName>,
    Body(request): Body<PolicyRequest>,
) -> Result<Json<Policy>, ApiError> {
    let owner = caller.actor.uid;
    Ok(Json(api.blocking(move |_| caller.artifacts.set_policy(owner, &name, &request)).await??))
}

pub async fn remove_policy(
    State(api): State<Api>,
    caller: Caller,
    Segments(name): Segments<PolicyName>,
) -> Result<StatusCode, ApiError> {
    let owner = caller.actor.uid;
    api.blocking(move |_| caller.artifacts.remove_policy(owner, &name)).await??;
    Ok(StatusCode::NO_CONTENT)
}
