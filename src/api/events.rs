//! Events: pages of them, and server-sent events (HTML Living Standard, section 9.2) for whoever wants to hear on.
//!
//! Several daemons write into one catalog, so that a subscriber looks into it again after each pause; the pause is how late it
//! may hear of another daemon's changes. This daemon's own wake it. What a slow reader has not taken waits in a pipe of limited size, and after that in the catalog.

use super::Api;
use super::auth::Caller;
use super::error::ApiError;
use super::input::{Question, Segments};
use crate::artifact::Artifacts;
use crate::wire::life::{EventPage, EventQuery};
use crate::workspace::registry::Workspaces;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio_util::io::ReaderStream;

/// How late an event of another daemon may be told. A look is one row of an index when nothing has happened.
const PAUSE: Duration = Duration::from_millis(400);

/// How long a subscriber that was woken waits for more, so that a thousand changes a second are no thousand looks.
const GATHER: Duration = Duration::from_millis(20);

/// A comment after so long without an event, so that a reader that is gone is noticed.
const QUIET: Duration = Duration::from_secs(10);

/// What is written ahead of a reader.
const AHEAD_BYTES: usize = 64 << 10;

/// Events read at once.
const PAGE: u32 = 500;

pub async fn all(
    State(api): State<Api>,
    caller: Caller,
    Question(query): Question<EventQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    answer(api, &caller, None, query, &headers).await
}

pub async fn of_artifact(
    State(api): State<Api>,
    caller: Caller,
    Segments(reference): Segments<String>,
    Question(query): Question<EventQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    answer(api, &caller, Some(reference), query, &headers).await
}

/// Whose events, and from where on.
#[derive(Debug, Clone)]
struct Subscription {
    owner: Option<u32>,
    reference: Option<String>,
    query: EventQuery,
    artifacts: Artifacts,
}

impl Subscription {
    async fn page(&self, api: &Api) -> Result<EventPage, ApiError> {
        let Self { owner, reference, query, artifacts } = self.clone();
        let page = move |_: &Workspaces| artifacts.events(owner, reference.as_deref(), &query);
        Ok(api.blocking(page).await??)
    }
}

async fn answer(
    api: Api,
    caller: &Caller,
    reference: Option<String>,
    mut query: EventQuery,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let follow = query.follow || accepts.is_some_and(|kinds| kinds.contains("text/event-stream"));
    if let Some(last) = headers.get("last-event-id") {
        let last = last.to_str().ok().and_then(|text| text.parse().ok());
        query.after = Some(last.ok_or_else(|| {
            ApiError::invalid(
                "Last-Event-ID is not the number of an event: repeat the `id` of the last one",
            )
        })?);
    }
    if query.after.is_some_and(|after| after < 0) {
        return Err(ApiError::invalid("`after` is below 0: use the `next` of the page before"));
    }
    let mut subscription = Subscription {
        owner: caller.artifact_owner(),
        reference,
        query,
        artifacts: caller.artifacts.clone(),
    };
    if !follow {
        return Ok(Json(subscription.page(&api).await?).into_response());
    }
    if subscription.query.after.is_none() {
        subscription.query.after = {
            let artifacts = caller.artifacts.clone();
            Some(api.blocking(move |_| artifacts.newest_event()).await??)
        };
    }
    subscription.query.limit = Some(PAGE);
    // What is wrong with the request is answered before the stream begins.
    let first = subscription.page(&api).await?;
    let place = api.subscribers.clone().try_acquire_owned().map_err(|_| {
        ApiError::busy("too many subscribers of events at a time: close some, or ask for pages")
    })?;
    let (reader, writer) = tokio::io::duplex(AHEAD_BYTES);
    tokio::spawn(async move {
        let _place = place;
        tell(&api, subscription, first, writer).await;
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream")];
    Ok((headers, Body::from_stream(ReaderStream::new(reader))).into_response())
}

/// Writes until the reader is gone or the daemon stops. A failure ends the stream; the reader comes back with the last id.
async fn tell(
    api: &Api,
    mut subscription: Subscription,
    mut page: EventPage,
    mut writer: DuplexStream,
) {
    let mut quiet_since = Instant::now();
    let mut happened = api.happened.subscribe();
    // What happened between the first page and this moment is looked for at once.
    happened.mark_changed();
    loop {
        let mut text = String::new();
        for event in &page.events {
            let data = serde_json::to_string(event).expect("events have text keys only");
            text.push_str(&format!("id: {}\nevent: {}\ndata: {data}\n\n", event.seq, event.kind));
        }
        if text.is_empty() && quiet_since.elapsed() >= QUIET {
            text.push_str(":\n\n");
        }
        if !text.is_empty() {
            quiet_since = Instant::now();
        }
        tokio::select! {
            written = writer.write_all(text.as_bytes()) => if written.is_err() { return },
            () = stopping(api) => return,
        }
        subscription.query.after = Some(page.next);
        if page.events.len() < PAGE as usize {
            // What happens from here on, also during the next look, is seen as a change the next time.
            tokio::select! {
                _ = happened.changed() => tokio::time::sleep(GATHER).await,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
        if api.stopping.load(Ordering::Relaxed) {
            return;
        }
        page = match subscription.page(api).await {
            Ok(page) => page,
            Err(error) => {
                tracing::warn!(error = error.detail, "a stream of events ends");
                return;
            }
        };
    }
}

/// A reader that takes nothing must not hold up the daemon's end.
async fn stopping(api: &Api) {
    while !api.stopping.load(Ordering::Relaxed) {
        tokio::time::sleep(PAUSE).await;
    }
}
