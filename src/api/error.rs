//! Failures to HTTP: each to a status, a stable code and one sentence, exhaustively.
//!
//! This is one of the two edges at which errors are translated. The sentence carries the causes, because whoever reads
//! it must be able to mend them; what only the daemon's operator can mend is logged as well, once, by [`super::log`].

use crate::artifact;
use crate::storage::life::Refusal;
use crate::storage::remote::RemoteError;
use crate::telemetry::sentence;
use crate::wire::problem::{
    COMMAND_NOT_EXECUTABLE, COMMAND_NOT_FOUND, MEDIA_TYPE, Problem, SETUP_FAILED,
};
use crate::workspace;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::error::Error;
use std::io;

/// An answer that is an error.
#[derive(Debug, Clone)]
pub struct ApiError {
    pub status: StatusCode,
    pub code: &'static str,
    pub detail: String,
}

impl ApiError {
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid-request", detail)
    }

    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    pub fn not_found(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, detail)
    }

    pub fn busy(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail)
    }

    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into() }
    }

    /// A failure of the system underneath. A full disk has a code and a fix of its own: it is the one that users meet.
    fn of_system(error: &(dyn Error + 'static)) -> Self {
        let detail = sentence(error);
        if is_disk_full(error) {
            let detail = format!(
                "{detail}: free some space there, or move the state directory with BELLJAR_STATE_DIR"
            );
            return Self::new(StatusCode::INSUFFICIENT_STORAGE, "disk-full", detail);
        }
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }
}

fn is_disk_full(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<io::Error>()
            && matches!(io.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        {
            return true;
        }
        next = cause.source();
    }
    false
}

impl From<workspace::Error> for ApiError {
    fn from(error: workspace::Error) -> Self {
        use workspace::Error as E;
        let detail = sentence(&error);
        match error {
            E::NotFound { what, .. } => {
                let code = match what {
                    "workspace" => "workspace-not-found",
                    "run" => "run-not-found",
                    "secret" => "secret-not-found",
                    "variable" => "variable-not-found",
                    _ => "not-found",
                };
                Self::not_found(code, detail)
            }
            E::Conflict { .. } => Self::new(StatusCode::CONFLICT, "conflict", detail),
            E::Forbidden { .. } => Self::forbidden(detail),
            E::Invalid { .. } => Self::invalid(detail),
            E::SetupFailed { exit_code, .. } => {
                let code = match exit_code {
                    127 => COMMAND_NOT_FOUND,
                    126 => COMMAND_NOT_EXECUTABLE,
                    _ => SETUP_FAILED,
                };
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail)
            }
            E::Unavailable { .. } => Self::busy(detail),
            E::Io { .. } => Self::of_system(&error),
            E::Artifact(error) => error.into(),
        }
    }
}

impl From<artifact::Error> for ApiError {
    fn from(error: artifact::Error) -> Self {
        use artifact::Error as E;
        let detail = sentence(&error);
        match error {
            E::NotFound { .. } => Self::not_found("artifact-not-found", detail),
            E::NoSuchPlan { .. } => Self::not_found("plan-not-found", detail),
            E::NoSuchPolicy { .. } => Self::not_found("policy-not-found", detail),
            E::ContentLost { .. } => Self::new(StatusCode::GONE, "content-lost", detail),
            E::BadCriteria(_)
            | E::BadReference { .. }
            | E::BadQuery { .. }
            | E::BadRequest { .. }
            | E::Unreadable { .. } => Self::invalid(detail),
            E::BadExpression(_) => Self::new(StatusCode::BAD_REQUEST, "invalid-expression", detail),
            E::TooSlow { .. } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "query-too-slow", detail)
            }
            E::NotReady { .. } => Self::new(StatusCode::CONFLICT, "not-ready", detail),
            E::Ambiguous { .. } => Self::new(StatusCode::CONFLICT, "ambiguous-alias", detail),
            E::Changing { .. } => Self::new(StatusCode::CONFLICT, "changing", detail),
            E::OutsideScope { .. } => Self::forbidden(detail),
            E::StillPending { .. } => Self::busy(detail),
            E::Refused(refusal) => refusal.into(),
            E::IllegalTransition { .. } => {
                Self::new(StatusCode::CONFLICT, "illegal-transition", detail)
            }
            E::ContentNotKept { .. } => Self::new(StatusCode::GONE, "content-not-kept", detail),
            E::ContentBlocked { .. } => Self::new(StatusCode::GONE, "content-not-kept", detail),
            E::Quarantined { .. } => {
                Self::new(StatusCode::FORBIDDEN, "artifact-quarantined", detail)
            }
            E::Deleted { .. } => Self::new(StatusCode::GONE, "artifact-deleted", detail),
            E::BackendRefused { .. } => {
                Self::new(StatusCode::BAD_REQUEST, "backend-refused", detail)
            }
            E::BackendUnusable { .. } => {
                Self::new(StatusCode::BAD_GATEWAY, "backend-unavailable", detail)
            }
            E::NoSuchBackend { .. } => Self::not_found("backend-not-found", detail),
            E::BackendClosed { .. } => Self::new(StatusCode::CONFLICT, "backend-not-open", detail),
            E::NoRemote => Self::new(StatusCode::CONFLICT, "no-remote-store", detail),
            E::ContentElsewhere { .. } | E::ContentInOtherStore { .. } => {
                Self::new(StatusCode::CONFLICT, "content-elsewhere", detail)
            }
            E::Remote(RemoteError::Local { .. }) => Self::of_system(&error),
            E::Remote(
                RemoteError::Store { .. }
                | RemoteError::Missing { .. }
                | RemoteError::Damaged { .. },
            ) => Self::new(StatusCode::BAD_GATEWAY, "remote-store", detail),
            E::State { .. }
            | E::Rules(_)
            | E::Catalog(_)
            | E::Blob(_)
            | E::Journal(_)
            | E::Scan(_) => Self::of_system(&error),
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let detail = refusal.to_string();
        let (status, code) = match refusal {
            Refusal::AliasTaken { .. } => (StatusCode::CONFLICT, "alias-taken"),
            Refusal::NoContent { .. } | Refusal::NothingCaptured { .. } => {
                (StatusCode::CONFLICT, "no-content")
            }
            Refusal::Pinned { .. } => (StatusCode::CONFLICT, "pinned"),
            Refusal::NotHeld { .. } => (StatusCode::CONFLICT, "illegal-transition"),
            Refusal::IsDeleted { .. } => (StatusCode::GONE, "artifact-deleted"),
            Refusal::Swept { .. } => (StatusCode::GONE, "artifact-swept"),
            Refusal::MetadataTooLarge { .. } => {
                (StatusCode::PAYLOAD_TOO_LARGE, "metadata-too-large")
            }
            Refusal::NoSuchParent { .. } | Refusal::MetadataTooDeep | Refusal::TooMany { .. } => {
                (StatusCode::BAD_REQUEST, "invalid-request")
            }
        };
        Self::new(status, code, detail)
    }
}

impl ApiError {
    /// As a document, for one of several answers in one.
    pub fn problem(self) -> Problem {
        Problem {
            code: self.code.to_owned(),
            status: self.status.as_u16(),
            title: self.status.canonical_reason().unwrap_or("Error").to_owned(),
            detail: self.detail,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let problem = Problem {
            code: self.code.to_owned(),
            status: self.status.as_u16(),
            title: self.status.canonical_reason().unwrap_or("Error").to_owned(),
            detail: self.detail.clone(),
        };
        let body = serde_json::to_vec(&problem).expect("a problem has text keys only");
        let status = self.status;
        let mut response = (status, [(header::CONTENT_TYPE, MEDIA_TYPE)], body).into_response();
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(error: impl Into<ApiError>, status: u16, code: &str) -> String {
        let error: ApiError = error.into();
        assert_eq!((error.status.as_u16(), error.code), (status, code), "{}", error.detail);
        error.detail
    }

    #[test]
    fn every_failure_has_its_status_and_stable_code() {
        use workspace::Error as E;
        let message = || "why".to_owned();
        let missing = |what| E::NotFound { what, id: "x".to_owned() };
        check(missing("workspace"), 404, "workspace-not-found");
        check(missing("run"), 404, "run-not-found");
        check(E::Conflict { message: message() }, 409, "conflict");
        check(E::Forbidden { message: message() }, 403, "forbidden");
        check(E::Invalid { message: message() }, 400, "invalid-request");
        check(E::Unavailable { message: message() }, 503, "unavailable");
        for (exit_code, code) in
            [(125, "setup-failed"), (126, "command-not-executable"), (127, "command-not-found")]
        {
            check(E::SetupFailed { message: message(), exit_code }, 422, code);
        }
    }

    #[test]
    fn a_full_disk_is_named_with_the_fix() {
        let source = io::Error::from_raw_os_error(nix::errno::Errno::ENOSPC as i32);
        let doing = "write /var/lib/belljar/catalog.sqlite".to_owned();
        let detail = check(workspace::Error::Io { doing, source }, 507, "disk-full");
        assert!(detail.contains("catalog.sqlite") && detail.contains("No space left"), "{detail}");
        assert!(detail.contains("BELLJAR_STATE_DIR"), "{detail}");
    }

    #[test]
    fn an_error_is_a_problem_document() {
        let response = ApiError::invalid("no").into_response();
        assert_eq!(response.headers()[header::CONTENT_TYPE], MEDIA_TYPE);
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    }
}
