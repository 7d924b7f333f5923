//! One log line for each request: the route, never the path or the body, for both are chosen by the caller.

use super::error::ApiError;
use super::gate::Peer;
use axum::extract::{ConnectInfo, MatchedPath, Request};
use axum::middleware::Next;
use axum::response::Response;
use std::time::Instant;

pub async fn requests(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "unknown".to_owned(), |path| path.as_str().to_owned());
    let uid = request.extensions().get::<ConnectInfo<Peer>>().map(|peer| peer.0.actor.uid);
    let response = next.run(request).await;
    let status = response.status().as_u16();
    let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    match response.extensions().get::<ApiError>() {
        // The caller cannot mend these, so the operator must hear of them. A refused request is the caller's own affair,
        // and its text may repeat what the caller sent.
        Some(error) if response.status().is_server_error() => {
            tracing::error!(%method, route, uid, status, ms, code = error.code, detail = error.detail, "request failed");
        }
        Some(error) => {
            tracing::info!(%method, route, uid, status, ms, code = error.code, "request refused")
        }
        None => tracing::debug!(%method, route, uid, status, ms, "request"),
    }
    response
}
