//! Who calls, and what this listener lets a caller do.
//!
//! On the daemon's own socket the caller is the peer, as the kernel says. On a run's own listener the scope comes from
//! the listener and never from the peer: every process in that sandbox is that run.

use super::Api;
use super::error::ApiError;
use super::gate::Peer;
use crate::model::id::WorkspaceId;
use crate::workspace::{Actor, RunScope};
use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;

/// The author of a request, and how far it reaches.
#[derive(Debug, Clone)]
pub struct Caller {
    pub actor: Actor,
    /// `Some` on a run's own listener.
    pub scope: Option<RunScope>,
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
            return Ok(Self { actor: scope.owner, scope: Some(scope.clone()) });
        }
        let ours = api.about.uid;
        if ours != 0 && peer.actor.uid != ours && peer.actor.uid != 0 {
            return Err(ApiError::forbidden(format!(
                "this daemon serves uid {ours} only, and you are uid {}: start one of your own with `belljard serve`",
                peer.actor.uid
            )));
        }
        Ok(Self { actor: peer.actor, scope: None })
    }
}
