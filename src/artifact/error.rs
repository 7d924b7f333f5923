//! What can go wrong with artifacts.

use super::rules::BadPattern;
use crate::model::artifact::ArtifactState;
use crate::model::cleanup::BadCriteria;
use crate::model::digest::Digest;
use crate::model::expression::parse::SyntaxError;
use crate::model::id::{ArtifactId, BackendId, PlanId, PolicyName};
use crate::model::names::Alias;
use crate::storage::life::Refusal;
use crate::storage::remote::RemoteError;
use crate::storage::{BlobError, CatalogError, PlaceError};
use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {doing} {}", path.display())]
    State {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Rules(#[from] BadPattern),
    #[error(transparent)]
    Catalog(CatalogError),
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error(
        "the content of {digest} is on node {nodes} and not uploaded yet: wait until a daemon there has sent it"
    )]
    ContentElsewhere { digest: Digest, nodes: String },
    #[error(
        "the content of {digest} is in {stores}, which this daemon does not use: name that store in `storage.remote`"
    )]
    ContentInOtherStore { digest: Digest, stores: String },
    #[error("there is no remote store: name one in the daemon's configuration (`storage.remote`)")]
    NoRemote,
    #[error("{why}")]
    BackendRefused { why: String },
    #[error("cannot use {place} for artifacts")]
    BackendUnusable {
        place: String,
        #[source]
        source: Box<Error>,
    },
    #[error(
        "no backend {id} of yours: set it again, or see `belljar storage backends` for those that there are"
    )]
    NoSuchBackend { id: BackendId },
    #[error("backend {id} is not open: {why}; set it again")]
    BackendClosed { id: BackendId, why: String },
    #[error("cannot note the workspace in the journal")]
    Journal(#[source] io::Error),
    #[error("cannot scan the workspace's directories")]
    Scan(#[source] super::scan::ScanError),
    #[error("no clean-up plan {id}")]
    NoSuchPlan { id: PlanId },
    #[error("no clean-up policy {name} of yours")]
    NoSuchPolicy { name: PolicyName },
    #[error(transparent)]
    BadCriteria(#[from] BadCriteria),
    #[error(
        "the content of artifact {reference} is lost: it was gone from the store, or damaged there; the file was {host_path}"
    )]
    ContentLost { reference: String, host_path: String },
    #[error(
        "no artifact {reference}: `belljar artifact ls` lists those that there are, and `versions` the versions of one"
    )]
    NotFound { reference: String },
    #[error(
        "{given:?} names no version: use ID, ID@NUMBER, ID@latest or ID@label:NAME, where ID may be an alias"
    )]
    BadReference { given: String },
    #[error("the query is not allowed: {why}")]
    BadQuery { why: String },
    #[error(transparent)]
    BadExpression(#[from] SyntaxError),
    #[error("{source}; narrow it, for instance to a graph, a run, a type or a time")]
    TooSlow { source: CatalogError },
    #[error("artifact {id} version {version} is {from} and cannot become {to}")]
    IllegalTransition { id: ArtifactId, version: u64, from: ArtifactState, to: ArtifactState },
    #[error(
        "artifact {reference} is deleted and its content is not given out: restore it first (belljar artifact restore)"
    )]
    Deleted { reference: String },
    #[error(
        "the content of artifact {reference} was larger than the limit and was not kept; the file was {host_path}"
    )]
    ContentNotKept { reference: String, host_path: String },
    #[error(
        "artifact {reference} is CREATING and its content is not given out: say that it is whole (belljar artifact update ID --state READY)"
    )]
    NotReady { reference: String },
    #[error("{alias} is an alias of several users' artifacts: use the id")]
    Ambiguous { alias: Alias },
    #[error(transparent)]
    Refused(Refusal),
    #[error("{why}")]
    BadRequest { why: String },
    #[error("{why}")]
    OutsideScope { why: String },
    #[error("{path} is not registered yet: {why}; try again, or give it more time")]
    StillPending { path: String, why: String },
    #[error(
        "{path} kept changing while its copy was taken: register it when nothing writes to it, or as CREATING"
    )]
    Changing { path: String },
    #[error("cannot read the descriptor of {path}: open the file for reading")]
    Unreadable {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "the content of artifact {reference} was not kept: a secret of its workspace stands in it (artifacts.secrets: block)"
    )]
    ContentBlocked { reference: String },
    #[error(
        "artifact {reference} is quarantined, because a secret of its workspace stands in it: only its owner can read it"
    )]
    Quarantined { reference: String },
}

impl From<CatalogError> for Error {
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::IllegalTransition { id, number, from, to } => {
                Error::IllegalTransition { id, version: number, from, to }
            }
            source @ CatalogError::TooSlow { .. } => Error::TooSlow { source },
            CatalogError::Refused(refusal) => Error::Refused(refusal),
            other => Error::Catalog(other),
        }
    }
}

impl From<PlaceError> for Error {
    fn from(error: PlaceError) -> Self {
        match error {
            PlaceError::Blob(error) => error.into(),
            PlaceError::Catalog(error) => error.into(),
        }
    }
}
