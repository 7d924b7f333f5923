//! Contents: the error that every store shares, and the stores.

pub mod directory;
pub mod local;
mod placing;
pub mod s3;
mod survey;

use crate::model::digest::Digest;
use std::io;
use std::path::PathBuf;

/// What can go wrong with a content.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("cannot open the blob store at {}", path.display())]
    OpenStore {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot {doing} in the blob store at {}", path.display())]
    Store {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the blob store has no content {digest}")]
    Missing { digest: Digest },
}

impl BlobError {
    pub fn is_transient(&self) -> bool {
        match self {
            BlobError::OpenStore { source, .. } | BlobError::Store { source, .. } => {
                crate::storage::is_transient(source)
            }
            BlobError::Missing { .. } => false,
        }
    }
}
