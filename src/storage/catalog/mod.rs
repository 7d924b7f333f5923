//! Rows: the error that every catalog shares, and the catalogs.

mod change;
mod lineage;
mod migrate;
mod pool;
mod row;
pub mod sqlite;
mod tables;
mod upload;

use crate::model::artifact::ArtifactState;
use crate::model::id::ArtifactId;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// What can go wrong with the catalog.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("cannot open the catalog {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
    #[error("cannot make the directory of the catalog {}", path.display())]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "the catalog has schema {found} and this version knows schemas up to {known}: use the newer belljar that made it"
    )]
    NewerSchema { found: i64, known: i64 },
    #[error("cannot {doing} in the catalog")]
    Sql {
        doing: &'static str,
        #[source]
        source: rusqlite::Error,
    },
    #[error("the catalog has a row that cannot be read: {what}")]
    Damaged { what: String },
    #[error("artifact {id} version {number} is {from} and cannot become {to}")]
    IllegalTransition { id: ArtifactId, number: u64, from: ArtifactState, to: ArtifactState },
    #[error("the question took longer than {} s and was given up", patience.as_secs_f32())]
    TooSlow { patience: Duration },
    #[error(transparent)]
    Refused(#[from] crate::storage::life::Refusal),
}

impl CatalogError {
    /// Whether the same call may succeed later: a lock that another process holds, a full or failing disk.
    pub fn is_transient(&self) -> bool {
        use rusqlite::ErrorCode;
        let (CatalogError::Open { source, .. } | CatalogError::Sql { source, .. }) = self else {
            return matches!(self, CatalogError::Directory { source, .. } if crate::storage::is_transient(source));
        };
        matches!(
            source.sqlite_error_code(),
            Some(
                ErrorCode::DatabaseBusy
                    | ErrorCode::DatabaseLocked
                    | ErrorCode::DiskFull
                    | ErrorCode::SystemIoFailure
                    | ErrorCode::CannotOpen
                    | ErrorCode::OutOfMemory
                    | ErrorCode::ReadOnly
            )
        )
    }
}
