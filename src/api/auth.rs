//! Who calls, and what this listener lets a caller do.
//!
//! On the daemon's own socket the caller is the peer, as the kernel says. On a run's own listener the scope comes from
//! the listener and never from the peer: every process in that sandbox is that run.

use super::Api;
use super::error::ApiError;
use super::gate::Peer;
use crate::artifact::Artifacts;
use crate::artifact::backend::Chosen;
use crate::model::id::{BackendId, WorkspaceId};
use crate::wire::backend::{BACKEND_HEADER, CREDENTIALS_HEADER};
use crate::workspace::{Actor, RunScope};
use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;

/// The author of a request, and how far it reaches.
#[derive(Debug, Clone)]
pub struct Caller {
    pub actor: Actor,
    /// `Some` on a run's own listener.
    pub scope: Option<RunScope>,
    /// The artifacts that the request is about: the daemon's own, or those of a backend of the caller's.
    pub artifacts: Artifacts,
    /// The backend, if the request named one.
    pub backend: Option<Chosen>,
}

impl Caller {
    /// Whose artifacts are visible: root sees all, except through a run's own listener.
    pub fn artifact_owner(&self) -> Option<u32> {
        match (&self.scope, self.actor.uid) {
            (None, 0) => None,
            (Some(_), uid) | (None, uid) => Some(uid),
        }
    }

    /// Refuses another workspace than the run's own.
    pub fn may_see(&self, workspace: &WorkspaceId) -> Result<(), ApiError> {
        match &self.scope {
            Some(scope) if scope.workspace != *workspace => Err(ApiError::forbidden(format!(
                "this socket serves workspace {} only, not {workspace}",
                scope.workspace
            ))),
            Some(_) | None => Ok(()),
        }
    }
}

impl FromRequestParts<Api> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let Some(ConnectInfo(peer)) = parts.extensions.get::<ConnectInfo<Peer>>() else {
            return Err(ApiError::forbidden("the caller's credentials are not known"));
        };
        if peer.crowded {
            return Err(ApiError::busy(format!(
                "uid {} has too many connections at a time: close some, or raise `api.connections_per_user_max`",
                peer.actor.uid
            )));
        }
        if let Some(scope) = parts.extensions.get::<RunScope>() {
            if parts.headers.contains_key(BACKEND_HEADER) {
                return Err(ApiError::forbidden(
                    "a run's artifacts are kept where its workspace's are: leave the backend out",
                ));
            }
            return Ok(Self {
                actor: scope.owner,
                scope: Some(scope.clone()),
                artifacts: scope.artifacts.clone(),
                backend: None,
            });
        }
        let ours = api.about.uid;
        if ours != 0 && peer.actor.uid != ours && peer.actor.uid != 0 {
            return Err(ApiError::forbidden(format!(
                "this daemon serves uid {ours} only, and you are uid {}: start one of your own with `belljard serve`",
                peer.actor.uid
            )));
        }
        let backend = backend(parts, api, peer.actor.uid).await?;
        let artifacts = backend.as_ref().map_or(api.backends.own(), |chosen| &chosen.artifacts);
        Ok(Self { actor: peer.actor, scope: None, artifacts: artifacts.clone(), backend })
    }
}

/// The backend that the request names, opened if it has to be.
async fn backend(parts: &Parts, api: &Api, uid: u32) -> Result<Option<Chosen>, ApiError> {
    let Some(named) = parts.headers.get(BACKEND_HEADER) else { return Ok(None) };
    // By these a backend that is not open is opened and seen.
    if matches!(parts.uri.path(), "/v1/storage/backend" | "/v1/storage/backends" | "/v1/daemon") {
        return Ok(None);
    }
    let id: BackendId = named
        .to_str()
        .map_err(|_| ApiError::invalid(format!("the header {BACKEND_HEADER} is no backend's id")))?
        .parse()
        .map_err(|error| ApiError::invalid(format!("the header {BACKEND_HEADER}: {error}")))?;
    let chosen = match api.backends.find(uid, &id) {
        Some(chosen) => chosen,
        None => {
            let backends = api.backends.clone();
            api.wait(move |_| backends.reopen(uid, &id)).await??
        }
    };
    if parts.headers.contains_key(CREDENTIALS_HEADER) {
        api.backends.must_have_keys(&chosen.id)?;
    }
    Ok(Some(chosen))
}
