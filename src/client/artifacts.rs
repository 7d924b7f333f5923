//! Calls about artifacts: questions, contents, changes and events.

use super::{Client, ClientError, Content, EventStream, encode, query_string, segment};
use crate::wire::artifact::{Artifact, ArtifactPage, ArtifactQuery, SyncOutcome, SyncRequest};
use crate::wire::life::{
    EventPage, EventQuery, RegisterOutcome, RegisterRequest, UpdateRequest, VersionsQuery,
};
use crate::wire::lineage::{Lineage, LineageQuery};
use hyper::Method;
use hyper::body::Bytes;
use hyper::header;

impl Client {
    pub async fn artifacts(&self, query: &ArtifactQuery) -> Result<ArtifactPage, ClientError> {
        let path = format!("/v1/artifacts{}", query_string(query));
        self.get("listing artifacts", &path).await
    }

    pub async fn artifact(&self, reference: &str) -> Result<Artifact, ClientError> {
        let path = format!("/v1/artifacts/{}", segment(reference));
        self.get("showing an artifact", &path).await
    }

    /// Waits, as long as the request allows, until files that were closed before are registered.
    pub async fn register(
        &self,
        request: &RegisterRequest,
    ) -> Result<RegisterOutcome, ClientError> {
        let doing = "registering artifacts";
        let body = encode(doing, request)?;
        let answer = self.exchange(doing, Method::POST, "/v1/artifacts", body).await?;
        self.json(doing, answer).await
    }

    pub async fn update_artifact(
        &self,
        reference: &str,
        request: &UpdateRequest,
    ) -> Result<Artifact, ClientError> {
        let doing = "updating an artifact";
        let body = encode(doing, request)?;
        let path = format!("/v1/artifacts/{}", segment(reference));
        let answer = self.exchange(doing, Method::PATCH, &path, body).await?;
        self.json(doing, answer).await
    }

    pub async fn archive_artifact(&self, reference: &str) -> Result<Artifact, ClientError> {
        self.change("archiving an artifact", Method::POST, reference, "archive").await
    }

    pub async fn restore_artifact(&self, reference: &str) -> Result<Artifact, ClientError> {
        self.change("restoring an artifact", Method::POST, reference, "restore").await
    }

    pub async fn pin_artifact(&self, reference: &str) -> Result<Artifact, ClientError> {
        self.change("pinning an artifact", Method::POST, reference, "pin").await
    }

    pub async fn unpin_artifact(&self, reference: &str) -> Result<Artifact, ClientError> {
        self.change("unpinning an artifact", Method::DELETE, reference, "pin").await
    }

    async fn change(
        &self,
        doing: &str,
        method: Method,
        reference: &str,
        what: &str,
    ) -> Result<Artifact, ClientError> {
        let path = format!("/v1/artifacts/{}/{what}", segment(reference));
        let answer = self.patient(doing, method, &path, Bytes::new()).await?;
        self.json(doing, answer).await
    }

    pub async fn versions(
        &self,
        reference: &str,
        query: &VersionsQuery,
    ) -> Result<ArtifactPage, ClientError> {
        let query = query_string(query);
        let path = format!("/v1/artifacts/{}/versions{query}", segment(reference));
        self.get("listing versions", &path).await
    }

    pub async fn events(
        &self,
        reference: Option<&str>,
        query: &EventQuery,
    ) -> Result<EventPage, ClientError> {
        self.get("listing events", &events_path(reference, query)).await
    }

    /// Events as they come, until the daemon stops or the value is dropped.
    pub async fn follow_events(
        &self,
        reference: Option<&str>,
        after: Option<i64>,
    ) -> Result<EventStream, ClientError> {
        let query = EventQuery { after, limit: None, follow: true };
        let path = events_path(reference, &query);
        let answer = self.exchange("following events", Method::GET, &path, Bytes::new()).await?;
        Ok(EventStream { body: answer.into_body(), pending: Vec::new() })
    }

    pub async fn remove_artifact(&self, reference: &str) -> Result<Artifact, ClientError> {
        let doing = "removing an artifact";
        let path = format!("/v1/artifacts/{}", segment(reference));
        let answer = self.patient(doing, Method::DELETE, &path, Bytes::new()).await?;
        self.json(doing, answer).await
    }

    /// What an artifact was made from, or what was made from it.
    pub async fn lineage(
        &self,
        reference: &str,
        query: &LineageQuery,
    ) -> Result<Lineage, ClientError> {
        let path = format!("/v1/artifacts/{}/lineage{}", segment(reference), query_string(query));
        self.get("asking what an artifact was made from", &path).await
    }

    pub async fn content(&self, reference: &str) -> Result<Content, ClientError> {
        let doing = "reading an artifact";
        let path = format!("/v1/artifacts/{}/content", segment(reference));
        let answer = self.patient(doing, Method::GET, &path, Bytes::new()).await?;
        let size = answer
            .headers()
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .ok_or_else(|| ClientError::Answer {
                doing: doing.to_owned(),
                reason: "it has no length".to_owned(),
            })?;
        Ok(Content { size, body: answer.into_body() })
    }

    /// Waits, as long as the request allows, until what was closed before is registered.
    pub async fn sync(&self, request: &SyncRequest) -> Result<SyncOutcome, ClientError> {
        let doing = "waiting for artifacts";
        let body = encode(doing, request)?;
        let answer = self.exchange(doing, Method::POST, "/v1/artifacts/sync", body).await?;
        self.json(doing, answer).await
    }
}

fn events_path(reference: Option<&str>, query: &EventQuery) -> String {
    let query = query_string(query);
    match reference {
        Some(reference) => format!("/v1/artifacts/{}/events{query}", segment(reference)),
        None => format!("/v1/events{query}"),
    }
}
