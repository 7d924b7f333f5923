//! Rows: the error that every catalog shares, and the catalogs.

mod change;
mod lineage;
mod migrate;
mod pool;
pub mod postgres;
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
    #[error("cannot open the catalog at {server}: {advice}")]
    Unreachable {
        server: String,
        advice: &'static str,
        #[source]
        source: postgres::Failure,
    },
    #[error("cannot {doing} in the catalog")]
    Server {
        doing: &'static str,
        #[source]
        source: postgres::Failure,
    },
    #[error(transparent)]
    Settings(#[from] postgres::SettingsError),
    #[error("the catalog cannot be used: {why}")]
    Unsuitable { why: String },
    #[error("all connections to the catalog were in use for {} s", patience.as_secs_f32())]
    Crowded { patience: Duration },
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
    /// Whether the same call may succeed later: a lock that another process holds, a full or failing disk, a server that is away.
    pub fn is_transient(&self) -> bool {
        use rusqlite::ErrorCode;
        match self {
            CatalogError::Open { source, .. } | CatalogError::Sql { source, .. } => matches!(
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
            ),
            CatalogError::Unreachable { source, .. } | CatalogError::Server { source, .. } => {
                source.is_transient()
            }
            CatalogError::Directory { source, .. } => crate::storage::is_transient(source),
            CatalogError::Crowded { .. } => true,
            CatalogError::NewerSchema { .. }
            | CatalogError::Settings(_)
            | CatalogError::Unsuitable { .. }
            | CatalogError::Damaged { .. }
            | CatalogError::IllegalTransition { .. }
            | CatalogError::TooSlow { .. }
            | CatalogError::Refused(_) => false,
        }
    }

    /// Whether the connection broke over which it was asked.
    fn is_lost_connection(&self) -> bool {
        matches!(self, CatalogError::Server { source, .. } if source.is_lost())
    }
}
