//! Calls about stores.

use super::{Client, ClientError, encode};
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

    /// One part.
    pub async fn collect(&self, request: &CollectRequest) -> Result<CollectReport, ClientError> {
        let doing = "looking for contents that nobody names";
        let body = encode(doing, request)?;
        let answer = self.exchange(doing, Method::POST, "/v1/storage/gc", body).await?;
        self.json(doing, answer).await
    }
}
