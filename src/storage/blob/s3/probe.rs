//! Whether a bucket can be used, and whether its server refuses to overwrite when told so.
//!
//! Servers exist that answer such a put with success and overwrite, so the answer alone proves nothing: what is kept is read
//! again.

use super::S3Store;
use super::refusal::{Broken, Refusal, found};
use crate::storage::remote::{RemoteAbilities, RemoteError, RemoteFailure};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, PutResult};
use uuid::Uuid;

/// Where objects are that live for the time of a probe, below the prefix.
const PROBES: &str = "probes";

const PUT: &str = "put the object of a probe";

impl S3Store {
    pub(super) async fn probe(&self) -> Result<RemoteAbilities, RemoteError> {
        let id = Uuid::new_v4();
        let key = Path::from(format!("{}{PROBES}/{id}", self.settings.prefix));
        let first = self.create(&key, format!("first {id}")).await;
        let first = match first {
            Err(error) if found::<Broken>(&error).is_some_and(Broken::is_before_any_request) => {
                // Nothing is there to delete, and each further request would take as long to fail.
                return Err(self.fail(PUT)(error));
            }
            tried => tried,
        };
        let outcome = self.try_out(&key, id, first).await;
        let deleted = self.prober.delete(&key).await;
        let abilities = outcome?;
        match deleted {
            Err(error) if !found::<Refusal>(&error).is_some_and(Refusal::is_missing_key) => {
                Err(self.fail("delete the object of a probe")(error))
            }
            Ok(()) | Err(_) => Ok(abilities),
        }
    }

    /// A put that is refused where an object is there.
    async fn create(&self, key: &Path, text: String) -> Result<PutResult, object_store::Error> {
        let payload = PutPayload::from(text);
        self.prober.put_opts(key, payload, PutOptions::from(PutMode::Create)).await
    }

    /// `tried` is what came of the first put.
    async fn try_out(
        &self,
        key: &Path,
        id: Uuid,
        tried: Result<PutResult, object_store::Error>,
    ) -> Result<RemoteAbilities, RemoteError> {
        let put = self.fail(PUT);
        let first = format!("first {id}");
        let refused = match tried {
            Ok(_) => match self.create(key, format!("second {id}")).await {
                Ok(_) => false,
                Err(error) if found::<Refusal>(&error).is_some_and(Refusal::is_taken) => true,
                Err(error) if found::<Refusal>(&error).is_some_and(|r| !r.may_pass()) => false,
                Err(error) => return Err(put(error)),
            },
            Err(error) => {
                // It may not know such puts at all; what is wrong besides, the plain one tells.
                tracing::debug!("a conditional put failed: {error}");
                let payload = PutPayload::from(first.clone());
                self.prober.put(key, payload).await.map_err(&put)?;
                false
            }
        };
        let get = self.fail("get the object of a probe");
        let kept = self.prober.get(key).await.map_err(&get)?.bytes().await.map_err(&get)?;
        if !refused && !kept.ends_with(id.to_string().as_bytes()) {
            return Err(RemoteError::Store {
                doing: "get the object of a probe",
                store: self.name.clone(),
                reason: "it gives other bytes than were put".to_owned(),
                kind: RemoteFailure::Configuration,
            });
        }
        Ok(RemoteAbilities { conditional_put: refused && kept == first.as_bytes() })
    }
}
