//! What comes in with a request: body, path and query, checked, with a sentence for each mistake.
//!
//! A body may hold secrets. It is read into memory that is zeroed, is never logged, and the text of a refusal does not
//! repeat values from it.

use super::Api;
use super::error::ApiError;
use crate::config::units::format_size;
use crate::config::yaml::explain;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use std::time::Duration;
use zeroize::Zeroizing;

/// A client that sends its request more slowly than this holds a connection for nothing. Chosen, not measured.
const BODY_PATIENCE: Duration = Duration::from_secs(30);

/// First allocation for a body without a length.
const BODY_BYTES_USUAL: usize = 16 << 10;

/// A JSON body.
#[derive(Debug)]
pub struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Api> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> Result<Self, ApiError> {
        let reading = read(request, api.body_size_max);
        let bytes = tokio::time::timeout(BODY_PATIENCE, reading).await.map_err(|_| {
            let detail = "the request's body did not arrive within 30 s";
            ApiError::new(StatusCode::REQUEST_TIMEOUT, "request-timeout", detail)
        })??;
        serde_json::from_slice(&bytes).map(Body).map_err(|error| {
            ApiError::invalid(format!("request body: {}", without_values(&error.to_string())))
        })
    }
}

async fn read(request: Request, max: u64) -> Result<Zeroizing<Vec<u8>>, ApiError> {
    let too_large = || {
        let detail = format!(
            "the request's body is larger than {}: send less, or raise `api.body_size_max`",
            format_size(max)
        );
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", detail)
    };
    let max = usize::try_from(max).unwrap_or(usize::MAX);
    let announced = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let capacity = announced.unwrap_or(BODY_BYTES_USUAL);
    if capacity > max {
        return Err(too_large());
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|error| ApiError::invalid(format!("the request's body broke off: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > max {
            return Err(too_large());
        }
        if bytes.len() + data.len() > bytes.capacity() {
            // `Vec` would leave the old buffer behind as it is; this one is zeroed when it is replaced.
            let room = (bytes.len() + data.len()).max(2 * bytes.capacity());
            let mut larger = Zeroizing::new(Vec::with_capacity(room));
            larger.extend_from_slice(&bytes);
            bytes = larger;
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// serde repeats a text of the wrong kind (`invalid type: string "…"`); that text could be a secret in the wrong place.
fn without_values(message: &str) -> String {
    let (Some(start), Some(end)) = (message.find("string \""), message.rfind('"')) else {
        return explain(message);
    };
    let start = start + "string ".len();
    if end <= start {
        return explain(message);
    }
    format!("{}…{}", &message[..start], &message[end + 1..])
}

/// Segments of the path, each an identifier that is checked as it is parsed.
#[derive(Debug)]
pub struct Segments<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<Api> for Segments<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        match Path::<T>::from_request_parts(parts, api).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(path_problem(&rejection)),
        }
    }
}

fn path_problem(rejection: &PathRejection) -> ApiError {
    let text = rejection.body_text();
    ApiError::invalid(text.strip_prefix("Invalid URL: ").unwrap_or(&text))
}

/// The query.
#[derive(Debug)]
pub struct Question<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<Api> for Question<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        match Query::<T>::from_request_parts(parts, api).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(query_problem(&rejection)),
        }
    }
}

fn query_problem(rejection: &QueryRejection) -> ApiError {
    let text = rejection.body_text();
    let text = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
    ApiError::invalid(format!("query: {}", explain(text)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::workspace::WorkspaceRequest;

    fn refusal(body: &str) -> String {
        let error = serde_json::from_str::<WorkspaceRequest>(body).expect_err("must be refused");
        without_values(&error.to_string())
    }

    #[test]
    fn a_refusal_never_repeats_a_value() {
        let text = refusal(r#"{"secrets": {"A": "hunter2"}}"#);
        assert!(!text.contains("hunter2"), "{text}");
        let text = refusal(r#"{"secrets": {"A": {"value": "x", "sensitive": "hunt\"er2"}}}"#);
        assert!(!text.contains("er2"), "{text}");
    }

    #[test]
    fn a_refusal_names_the_unknown_field_and_the_nearest_known_one() {
        let text = refusal(r#"{"mount": []}"#);
        assert!(text.contains("unknown key `mount`") && text.contains("`mounts`"), "{text}");
    }

    #[test]
    fn a_refusal_says_why_a_secret_name_is_not_allowed() {
        let text = refusal(r#"{"secrets": {"A=B": {"value": ""}}}"#);
        assert!(text.contains("secret name \"A=B\" is not allowed"), "{text}");
        assert!(text.contains("letters, digits and _"), "{text}");
    }
}
