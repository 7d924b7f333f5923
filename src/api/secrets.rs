//! Secrets of a workspace: names for whoever may see it, values for their owner.

use super::Api;
use super::auth::Caller;
use super::error::ApiError;
use super::input::{Body, Segments};
use crate::model::id::{SecretName, WorkspaceId};
use crate::secret::SecretValue;
use crate::wire::workspace::{SecretList, SecretRequest};
use axum::Json;
use axum::body::{Body as Payload, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

pub async fn list(
    State(api): State<Api>,
    caller: Caller,
    Segments(id): Segments<WorkspaceId>,
) -> Result<Json<SecretList>, ApiError> {
    caller.may_see(&id)?;
    let secrets = api.blocking(move |workspaces| workspaces.secrets(&caller.actor, &id)).await??;
    Ok(Json(SecretList { secrets }))
}

pub async fn set(
    State(api): State<Api>,
    caller: Caller,
    Segments((id, name)): Segments<(WorkspaceId, SecretName)>,
    Body(request): Body<SecretRequest>,
) -> Result<StatusCode, ApiError> {
    let value = decode(&name, &request)?;
    let sensitive = request.sensitive;
    api.blocking(move |workspaces| {
        workspaces.set_secret(&caller.actor, &id, name, value, sensitive)
    })
    .await??;
    Ok(StatusCode::NO_CONTENT)
}

/// The value's bytes, exactly.
pub async fn value(
    State(api): State<Api>,
    caller: Caller,
    Segments((id, name)): Segments<(WorkspaceId, SecretName)>,
) -> Result<Response, ApiError> {
    caller.may_see(&id)?;
    let value = api
        .blocking(move |workspaces| workspaces.secret_value(&caller.actor, &id, &name))
        .await??;
    let body = Payload::from(Bytes::from_owner(Exposed(value)));
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], body).into_response())
}

/// Lends the value to the response; it is zeroed when the response is gone.
struct Exposed(SecretValue);

impl AsRef<[u8]> for Exposed {
    fn as_ref(&self) -> &[u8] {
        self.0.expose()
    }
}

pub async fn remove(
    State(api): State<Api>,
    caller: Caller,
    Segments((id, name)): Segments<(WorkspaceId, SecretName)>,
) -> Result<StatusCode, ApiError> {
    api.blocking(move |workspaces| workspaces.remove_secret(&caller.actor, &id, &name)).await??;
    Ok(StatusCode::NO_CONTENT)
}

/// Base64 to bytes, in memory that is zeroed.
pub fn decode(name: &SecretName, request: &SecretRequest) -> Result<SecretValue, ApiError> {
    // The error's own text would repeat a byte of the value.
    let bytes = STANDARD.decode(&request.value).map_err(|_| {
        ApiError::invalid(format!("secret {name} is not base64 with padding (RFC 4648)"))
    })?;
    SecretValue::new(bytes).map_err(|error| ApiError::invalid(format!("secret {name}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::SECRET_BYTES_MAX;

    fn request(value: String) -> SecretRequest {
        SecretRequest { value, sensitive: true }
    }

    #[test]
    fn any_bytes_survive_the_way() {
        let name: SecretName = "KEY".parse().expect("legal");
        let bytes: Vec<u8> = (0..=255).chain([0, b'\n', 0xff]).collect();
        let value = decode(&name, &request(STANDARD.encode(&bytes))).expect("decodes");
        assert_eq!(value.expose(), bytes);
        assert!(decode(&name, &request(String::new())).expect("empty is a value").is_empty());
    }

    #[test]
    fn a_bad_value_is_refused_by_name_without_repeating_it() {
        let name: SecretName = "KEY".parse().expect("legal");
        let error = decode(&name, &request("hunter2!".to_owned())).expect_err("no base64").detail;
        assert!(error.contains("KEY") && !error.contains("hunter"), "{error}");
        let largest = STANDARD.encode(vec![7; SECRET_BYTES_MAX]);
        assert!(decode(&name, &request(largest)).is_ok());
        let larger = STANDARD.encode(vec![7; SECRET_BYTES_MAX + 1]);
        assert!(decode(&name, &request(larger)).expect_err("too large").detail.contains("1048576"));
    }
}
