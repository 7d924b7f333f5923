//! Workspaces: a request with its descriptors to a definition.

use super::Api;
use super::auth::Caller;
use super::descriptors::DescriptorSet;
use super::environment::check_value;
use super::error::ApiError;
use super::input::{Body, Segments};
use super::secrets::decode;
use crate::model::id::WorkspaceId;
use crate::wire::workspace::{Workspace, WorkspaceList, WorkspaceRequest};
use crate::workspace::{Definition, MountDefinition};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use std::collections::BTreeMap;
use std::path::PathBuf;

pub async fn create(
    State(api): State<Api>,
    caller: Caller,
    Body(request): Body<WorkspaceRequest>,
) -> Result<(StatusCode, Json<Workspace>), ApiError> {
    let mut set = match &request.descriptors {
        Some(token) => Some(api.tokens.claim(caller.actor.uid, token)?),
        None => None,
    };
    let leased = request.lease;
    if leased && set.is_none() {
        return Err(ApiError::invalid(
            "a lease is the connection that descriptors were sent over, and none were sent: send some, the descriptor of /dev/null where there is no mount point, and name the token",
        ));
    }
    let mut definition = define(request, set.as_mut())?;
    definition.backend = caller.backend;
    let actor = caller.actor;
    if !leased {
        let workspace =
            api.blocking(move |workspaces| workspaces.create(&actor, definition)).await??;
        return Ok((StatusCode::CREATED, Json(workspace)));
    }
    // A task of its own: when the client goes away this handler is dropped half-way, and a workspace that had just been
    // made would have nobody to end it.
    let making = tokio::spawn(async move {
        let (workspace, lease) =
            api.blocking(move |workspaces| workspaces.lease(&actor, definition)).await??;
        tokio::spawn(async move {
            let Some(mut leash) = set.map(|set| set.leash) else { return };
            leash.broken().await;
            // Fails when the daemon is stopping, which ends all workspaces.
            let _ = api.blocking(move |workspaces| workspaces.release(&lease)).await;
        });
        Ok::<_, ApiError>(workspace)
    });
    let workspace = making
        .await
        .map_err(|error| ApiError::busy(format!("the daemon is stopping: {error}")))??;
    Ok((StatusCode::CREATED, Json(workspace)))
}

pub async fn list(State(api): State<Api>, caller: Caller) -> Result<Json<WorkspaceList>, ApiError> {
    let workspaces = api.blocking(move |workspaces| workspaces.list(&caller.actor)).await?;
    Ok(Json(WorkspaceList { workspaces }))
}

pub async fn show(
    State(api): State<Api>,
    caller: Caller,
    Segments(id): Segments<WorkspaceId>,
) -> Result<Json<Workspace>, ApiError> {
    Ok(Json(api.blocking(move |workspaces| workspaces.show(&caller.actor, &id)).await??))
}

pub async fn remove(
    State(api): State<Api>,
    caller: Caller,
    Segments(id): Segments<WorkspaceId>,
) -> Result<StatusCode, ApiError> {
    api.blocking(move |workspaces| workspaces.remove(&caller.actor, &id)).await??;
    Ok(StatusCode::NO_CONTENT)
}

/// Checks a request and joins it with its descriptors. Asks no file system: this runs on the threads that serve everybody.
pub fn define(
    request: WorkspaceRequest,
    mut set: Option<&mut DescriptorSet>,
) -> Result<Definition, ApiError> {
    let mut mounts: Vec<MountDefinition> = Vec::with_capacity(request.mounts.len());
    for mount in request.mounts {
        let name = mount.name;
        if mounts.iter().any(|other| other.name == name) {
            return Err(ApiError::invalid(format!(
                "mount name {name} is used twice: give each mount point a name of its own"
            )));
        }
        let what = format!("mount {name}");
        let set = set.as_deref_mut().ok_or_else(|| {
            ApiError::invalid(format!("{what}: its directory's descriptor was not sent; send it over the companion socket and name the token"))
        })?;
        let directory = set.take(mount.descriptor, &what)?;
        let host_path = claimed_path(&what, mount.path)?;
        mounts.push(MountDefinition {
            name,
            access: mount.mode,
            directory,
            host_path,
            artifacts: mount.artifacts,
            cache: mount.cache,
            suid: mount.suid,
        });
    }
    let mut secrets = BTreeMap::new();
    for (name, secret) in &request.secrets {
        secrets.insert(name.clone(), (decode(name, secret)?, secret.sensitive));
    }
    for (name, value) in &request.env {
        check_value(name, value)?;
    }
    Ok(Definition { id: request.id, mounts, secrets, env: request.env, backend: None })
}

/// What the client says where the directory is, for messages and for where the kernel's own name of it is of no use.
fn claimed_path(what: &str, claimed: String) -> Result<PathBuf, ApiError> {
    let claimed = PathBuf::from(claimed);
    if !claimed.is_absolute() {
        return Err(ApiError::invalid(format!(
            "{what}: path {claimed:?} is relative, and the daemon has no directory of yours to start from: write it from the root, starting with /"
        )));
    }
    Ok(claimed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(json: &str) -> WorkspaceRequest {
        serde_json::from_str(json).expect("legal")
    }

    #[test]
    fn a_mount_without_a_descriptor_or_with_a_name_used_twice_is_refused() {
        let one = r#"{"mounts":[{"name":"a","path":"/x","descriptor":0}]}"#;
        let error = define(request(one), None).expect_err("nothing sent").detail;
        assert!(error.contains("mount a") && error.contains("companion"), "{error}");
    }

    #[test]
    fn a_relative_path_is_refused() {
        let error = claimed_path("mount a", "data".to_owned()).expect_err("relative").detail;
        assert!(error.contains("\"data\" is relative"), "{error}");
    }
}
