//! Artifacts: questions, deletion, and waiting until they are registered.

use super::Api;
use super::auth::Caller;
use super::error::ApiError;
use super::input::{Body, Question, Segments};
use crate::artifact::{self, DrainScope};
use crate::wire;
use crate::wire::artifact::{Artifact, ArtifactPage, ArtifactQuery, SyncOutcome, SyncRequest};
use crate::workspace::RunScope;
use axum::Json;
use axum::extract::State;
use std::time::{Duration, Instant};

/// Largest page.
pub const LIMIT_MAX: u32 = 1_000;

/// Patience when the request names none, and the most it may name.
const SYNC_PATIENCE: Duration = Duration::from_secs(60);
const SYNC_PATIENCE_MAX: Duration = Duration::from_secs(3_600);

pub async fn list(
    State(api): State<Api>,
    caller: Caller,
    Question(mut query): Question<ArtifactQuery>,
) -> Result<Json<ArtifactPage>, ApiError> {
    if let Some(limit) = query.limit.filter(|limit| !(1..=LIMIT_MAX).contains(limit)) {
        return Err(ApiError::invalid(format!(
            "limit is {limit}: use 1 to {LIMIT_MAX}, and the answer's `next` for more"
        )));
    }
    if let Some(scope) = &caller.scope {
        caller.may_see(query.workspace.as_ref().unwrap_or(&scope.workspace))?;
        query.workspace = Some(scope.workspace.clone());
    }
    let owner = caller.artifact_owner();
    Ok(Json(api.blocking(move |_| caller.artifacts.list(owner, &query)).await??))
}

pub async fn show(
    State(api): State<Api>,
    caller: Caller,
    Segments(reference): Segments<String>,
) -> Result<Json<Artifact>, ApiError> {
    let owner = caller.artifact_owner();
    let wanted = reference.clone();
    let artifact = api.blocking(move |_| caller.artifacts.get(owner, &wanted)).await??;
    within_scope(caller.scope.as_ref(), &artifact, reference)?;
    Ok(Json(artifact))
}

pub async fn remove(
    State(api): State<Api>,
    caller: Caller,
    Segments(reference): Segments<String>,
) -> Result<Json<Artifact>, ApiError> {
    let voice = super::life::voice(&caller);
    Ok(Json(api.blocking(move |_| caller.artifacts.delete(&voice, &reference)).await??))
}

/// Waits until what was closed before is registered.
pub async fn sync(
    State(api): State<Api>,
    caller: Caller,
    Body(request): Body<SyncRequest>,
) -> Result<Json<SyncOutcome>, ApiError> {
    let patience = request.timeout_ms.map_or(SYNC_PATIENCE, Duration::from_millis);
    let deadline = Instant::now() + patience.min(SYNC_PATIENCE_MAX);
    if request.scan && caller.scope.is_some() {
        return Err(ApiError::forbidden(
            "a scan is for the workspace's owner, and not done through a run's own socket",
        ));
    }
    let (drained, scanned, uploaded) = api
        .wait(move |workspaces| {
            let actor = caller.actor;
            let scope = match request.workspace {
                Some(id) => {
                    // A workspace that is gone may still have files on their way; they are the caller's own then.
                    let owner_uid = match workspaces.show(&actor, &id) {
                        Ok(found) => found.owner_uid,
                        Err(_) if caller.artifacts.knows_workspace(actor.uid, &id)? => actor.uid,
                        Err(unknown) => return Err(ApiError::from(unknown)),
                    };
                    DrainScope::Workspace { owner_uid, id }
                }
                None if actor.uid == 0 => DrainScope::All,
                None => DrainScope::Owner(actor.uid),
            };
            let artifacts = &caller.artifacts;
            if request.wait_upload {
                artifacts.must_have_remote()?;
            }
            let scanned = match &scope {
                _ if !request.scan => None,
                DrainScope::Workspace { owner_uid, id } => {
                    Some(artifacts.scan(Some(*owner_uid), Some(id))?)
                }
                DrainScope::Owner(uid) => Some(artifacts.scan(Some(*uid), None)?),
                DrainScope::All | DrainScope::Run(_) => Some(artifacts.scan(None, None)?),
            };
            let drained = artifacts.drain(scope, deadline);
            let wait = || artifacts.wait_sent(deadline);
            let uploaded = request.wait_upload.then(wait).transpose()?;
            Ok::<_, ApiError>((drained, scanned, uploaded))
        })
        .await??;
    let scanned = scanned.map(|scanned| wire::artifact::Scanned {
        files: scanned.files,
        found: scanned.found,
        refused: scanned.refused,
    });
    let incomplete =
        drained.incomplete.into_iter().map(|(path, why)| format!("{path}: {why}")).collect();
    Ok(Json(SyncOutcome { complete: drained.complete, incomplete, uploaded, scanned }))
}

/// Through a run's own socket, an artifact of another workspace is as good as none.
pub fn within_scope(
    scope: Option<&RunScope>,
    artifact: &Artifact,
    reference: String,
) -> Result<(), ApiError> {
    match scope {
        Some(scope) if Some(&scope.workspace) != artifact.workspace_id.as_ref() => {
            Err(artifact::Error::NotFound { reference }.into())
        }
        Some(_) | None => Ok(()),
    }
}
