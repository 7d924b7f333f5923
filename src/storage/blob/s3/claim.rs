//! Whose contents a bucket has: an object beside them names the catalog.

use super::S3Store;
use super::refusal::{Refusal, found};
use crate::storage::remote::{CLAIM, RemoteError, claimed_by};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use std::sync::atomic::Ordering;
use uuid::Uuid;

impl S3Store {
    pub(super) async fn claim_for(&self, catalog: Uuid) -> Result<(), RemoteError> {
        let key = Path::from(format!("{}{CLAIM}", self.settings.prefix));
        if let Some(text) = self.claim(&key).await? {
            return claimed_by(&self.name, &text, catalog);
        }
        let put = self.fail("claim the bucket");
        let payload = || PutPayload::from(format!("{catalog}\n"));
        let create = self.conditional_put.load(Ordering::Relaxed);
        let mode = if create { PutMode::Create } else { PutMode::Overwrite };
        match self.prober.put_opts(&key, payload(), PutOptions::from(mode)).await {
            Ok(_) => {}
            Err(error) if found::<Refusal>(&error).is_some_and(Refusal::is_taken) => {}
            Err(error) => return Err(put(error)),
        }
        // Of two that put it at once, one is read back by both; who overwrote the other sees it the next time.
        let text = self.claim(&key).await?.unwrap_or_default();
        claimed_by(&self.name, &text, catalog)
    }

    async fn claim(&self, key: &Path) -> Result<Option<String>, RemoteError> {
        let get = self.fail("see whose contents the bucket has");
        match self.prober.get(key).await {
            Ok(result) => {
                let bytes = result.bytes().await.map_err(&get)?;
                Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
            }
            Err(error) if found::<Refusal>(&error).is_some_and(Refusal::is_missing_key) => Ok(None),
            Err(error) => Err(get(error)),
        }
    }
}
