//! Changes of artifacts: register, update, archive, restore, pin, and their versions.

use super::Api;
use super::artifacts::within_scope;
use super::auth::Caller;
use super::descriptors::DescriptorSet;
use super::error::ApiError;
use super::input::{Body, Question, Segments};
use crate::artifact::Voice;
use crate::artifact::declare::{Patience, Registration};
use crate::model::artifact::Author;
use crate::model::path::escape;
use crate::wire::artifact::{Artifact, ArtifactPage};
use crate::wire::life::{
    REGISTER_ITEMS_MAX, RegisterItem, RegisterOutcome, RegisterRequest, Registered, UpdateRequest,
    VersionsQuery,
};
use crate::wire::run::Argument;
use axum::Json;
use axum::extract::State;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Patience when the request names none, and the most it may name. Below the minute that a client waits.
const PATIENCE: Duration = Duration::from_secs(30);
const PATIENCE_MAX: Duration = Duration::from_secs(3_600);

/// On whose word something is done.
pub fn voice(caller: &Caller) -> Voice {
    match &caller.scope {
        Some(scope) => Voice {
            owner: Some(scope.owner.uid),
            author: Author::Run(scope.run),
            scope: Some(scope.workspace.clone()),
        },
        None => Voice {
            owner: caller.artifact_owner(),
            author: Author::User(caller.actor.uid),
            scope: None,
        },
    }
}

pub async fn register(
    State(api): State<Api>,
    caller: Caller,
    Body(request): Body<RegisterRequest>,
) -> Result<Json<RegisterOutcome>, ApiError> {
    let count = request.items.len();
    if !(1..=REGISTER_ITEMS_MAX).contains(&count) {
        return Err(ApiError::invalid(format!(
            "{count} items: register 1 to {REGISTER_ITEMS_MAX} files in one request"
        )));
    }
    let mut set = match (&request.descriptors, &caller.scope) {
        (Some(_), Some(_)) => {
            return Err(ApiError::forbidden(
                "a run sends no descriptors: name files as they are seen in the workspace",
            ));
        }
        (Some(token), None) => Some(api.tokens.claim(caller.actor.uid, token)?),
        (None, _) => None,
    };
    let items = request.items.into_iter().enumerate();
    let items = items.map(|(position, item)| registration(position, item, set.as_mut()));
    let items = items.collect::<Result<Vec<_>, _>>()?;
    let patience = request.timeout_ms.map_or(PATIENCE, Duration::from_millis).min(PATIENCE_MAX);
    let patience = Patience(Instant::now() + patience);
    let run = caller.scope.as_ref().map(|scope| scope.run);
    let owner = caller.actor.uid;
    let outcomes = api
        .wait(move |_| {
            // The client's connection is held until its files are copied.
            let _set = set;
            caller.artifacts.register(owner, &voice(&caller), run, items, patience)
        })
        .await??;
    let results = outcomes.into_iter().map(|outcome| match outcome {
        Ok(artifact) => Registered::Artifact(Box::new(artifact)),
        Err(error) => Registered::Error(ApiError::from(error).problem()),
    });
    Ok(Json(RegisterOutcome { results: results.collect() }))
}

fn registration(
    position: usize,
    item: RegisterItem,
    set: Option<&mut DescriptorSet>,
) -> Result<Registration, ApiError> {
    let bytes = match &item.path {
        Argument::Text(text) => text.clone().into_bytes(),
        Argument::Bytes { base64 } => STANDARD.decode(base64).map_err(|error| {
            ApiError::invalid(format!("the path of item {position} is not base64: {error}"))
        })?,
    };
    if bytes.contains(&0) {
        return Err(ApiError::invalid(format!(
            "the path of item {position} has a zero byte, which no path can hold"
        )));
    }
    let path = PathBuf::from(OsString::from_vec(bytes));
    let what = escape(path.as_os_str().as_encoded_bytes());
    let file = match (item.descriptor, set) {
        (None, _) => None,
        (Some(number), Some(set)) => Some(File::from(set.take(number, &what)?)),
        (Some(_), None) => {
            return Err(ApiError::invalid(format!(
                "{what}: its descriptor was not sent; send it over the companion socket and name the token"
            )));
        }
    };
    Ok(Registration { path, file, item })
}

pub async fn update(
    State(api): State<Api>,
    caller: Caller,
    Segments(reference): Segments<String>,
    Body(request): Body<UpdateRequest>,
) -> Result<Json<Artifact>, ApiError> {
    let mut set = match (&request.descriptors, &caller.scope) {
        (Some(_), Some(_)) => {
            return Err(ApiError::forbidden(
                "a run sends no descriptors: what was written in the workspace is the content",
            ));
        }
        (Some(token), None) => Some(api.tokens.claim(caller.actor.uid, token)?),
        (None, _) => None,
    };
    let file = match &mut set {
        Some(set) => Some(File::from(set.take(0, &reference)?)),
        None => None,
    };
    let patience = Patience(Instant::now() + PATIENCE);
    let updated = api
        .wait(move |_| {
            let _set = set;
            caller.artifacts.update(&voice(&caller), &reference, request, file, patience)
        })
        .await??;
    Ok(Json(updated))
}

pub async fn archive(
    State(api): State<Api>,
    caller: Caller,
    Segments(reference): Segments<String>,
) -> Result<Json<Artifact>, ApiError> {
    let voice = voice(&caller);
    Ok(Json(api.blocking(move |_| caller.artifacts.archive(&voice, &reference)).await??))
}

pub async fn restore(
    State(api): State<Api>,
    caller: Caller,
    Segments(reference): Segments<String>,
) -> Result<Json<Artifact>, ApiError> {
    let voice = voice(&caller);
    Ok(Json(api.blocking(move |_| caller.artifacts.restore(&voice, &reference)).await??))
}

pub async fn pin(
    State(api): State<Api>,
    caller: Caller,
    Segments(reference): Segments<String>,
) -> Result<Json<Artifact>, ApiError> {
    let voice = voice(&caller);
    Ok(Json(api.blocking(move |_| caller.artifacts.pin(&voice, &reference, true)).await??))
}

pub async fn unpin(
    State(api): State<Api>,
    caller: Caller,
    Segments(reference): Segments<String>,
) -> Result<Json<Artifact>, ApiError> {
    let voice = voice(&caller);
    Ok(Json(api.blocking(move |_| caller.artifacts.pin(&voice, &reference, false)).await??))
}

pub async fn versions(
    State(api): State<Api>,
    caller: Caller,
    Segments(reference): Segments<String>,
    Question(query): Question<VersionsQuery>,
) -> Result<Json<ArtifactPage>, ApiError> {
    let owner = caller.artifact_owner();
    let wanted = reference.clone();
    let mut page =
        api.blocking(move |_| caller.artifacts.versions(owner, &wanted, &query)).await??;
    page.artifacts
        .retain(|artifact| within_scope(caller.scope.as_ref(), artifact, String::new()).is_ok());
    if page.artifacts.is_empty() {
        return Err(crate::artifact::Error::NotFound { reference }.into());
    }
    Ok(Json(page))
}
