//! Calls about stores.

use super::{Client, ClientError, encode};
use crate::wire::backend::{Backend, BackendList, BackendRequest};
use crate::wire::storage::{CollectReport, CollectRequest, StorageStatus};
use hyper::Method;
use hyper::body::Bytes;

impl Client {
    /// Takes as long as the remote store needs to say whether it is there.
    pub async fn storage(&self) -> Result<StorageStatus, ClientError> {
        let doing = "asking about stores";
        let answer = self.exchange(doing, Method::GET, "/v1/storage", Bytes::new()).await?;
        self.json(doing, answer).await
    }

    /// Takes as long as a database or a bucket needs to say whether it is there.
    pub async fn set_backend(&self, request: &BackendRequest) -> Result<Backend, ClientError> {
        let doing = "setting a backend";
        let body = encode(doing, request)?;
        let answer = self.exchange(doing, Method::PUT, "/v1/storage/backend", body).await?;
        self.json(doing, answer).await
    }

    pub async fn backends(&self) -> Result<BackendList, ClientError> {
        self.get("listing backends", "/v1/storage/backends").await
    }

    /// One part.
    pub async fn collect(&self, request: &CollectRequest) -> Result<CollectReport, ClientError> {
        let doing = "looking for contents that nobody names";
        let body = encode(doing, request)?;
        let answer = self.exchange(doing, Method::POST, "/v1/storage/gc", body).await?;
        self.json(doing, answer).await
    }
}
