//! What can be set about artifacts, with its defaults and bounds.

use super::rules::IGNORED_BY_DEFAULT;
use crate::config::SecretPolicy;
use crate::config::cleanup::CleanupPolicy;
use crate::config::rules::Rule;
use crate::config::storage::KeepLocal;
use crate::model::artifact::ScanPolicy;
use crate::storage::catalog::postgres::PostgresSettings;
use crate::storage::remote::RemoteStore;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Settings of [`Artifacts`](super::Artifacts).
#[derive(Debug, Clone)]
pub struct Settings {
    /// Holds the catalog, the contents and the instances' journals; shared by all daemons of one user.
    pub state_dir: PathBuf,
    /// The database in which the catalog is; `catalog.sqlite` in the state directory without one.
    pub catalog: Option<PostgresSettings>,
    /// Whether a database that is away is waited for at the start.
    pub waits_for_database: bool,
    /// Where contents are; in the state directory without one.
    pub contents: Option<PathBuf>,
    /// Names this daemon's own part of the state directory.
    pub instance: Uuid,
    /// Noted for recovery: where this daemon's mounts are.
    pub runtime_dir: Option<PathBuf>,
    /// How long a file must be quiet before its copy is taken. Chosen: longer than the pause between the close and the
    /// rename of a file that is written aside and moved into place.
    pub debounce: Duration,
    /// After this time a file that is closed is copied even if it never gets quiet.
    pub debounce_max: Duration,
    /// Above this size content stays in place and only the digest is kept.
    pub content_bytes_max: u64,
    /// Of inputs above this size no digest is taken.
    pub input_bytes_max: u64,
    /// Most inputs of a run that are noted; about 500 bytes of memory each while the run goes on. 0: none
    /// are noted for any run.
    pub inputs_max: u64,
    /// Files above this size are copied on a thread of their own.
    pub large_bytes: u64,
    /// Threads that copy small files. Two, because one computes while the other waits for the disk.
    pub threads: usize,
    /// Most files that may be written and not registered at the same time; about 600 bytes of memory each. From three
    /// quarters on opening another file for writing takes ever longer; at the bound it waits a second and fails with ENFILE.
    pub files_max: usize,
    pub scan: ScanPolicy,
    /// What is never an artifact; see [`rules`](super::rules).
    pub ignore: Vec<String>,
    /// How long a deletion can be taken back; after it the content is given up.
    pub undo_window: Duration,
    /// The configuration's clean-up policies, in a daemon that runs policies.
    pub cleanup: Option<Vec<CleanupPolicy>>,
    /// What the user says about files by their names; outranks `ignore`.
    pub rules: Vec<Rule>,
    /// What happens to a content in which a secret of its workspace stands.
    pub secrets: SecretPolicy,
    /// After so long between taking contents and storing their rows it is looked whether the contents are still there. Far less than
    /// a content that nobody names yet is left alone for: [`BlobStore::place`](crate::storage::BlobStore::place).
    pub doubt: Duration,
    /// How long recovery waits until what it found is registered; what takes longer is registered meanwhile.
    pub recovery_wait: Duration,
    /// Gets a copy of every content.
    pub remote: Option<Arc<dyn RemoteStore>>,
    /// Which contents stay here that the remote store has.
    pub keep_local: KeepLocal,
}

impl Settings {
    pub fn new(state_dir: PathBuf, instance: Uuid) -> Self {
        Self {
            state_dir,
            catalog: None,
            waits_for_database: true,
            contents: None,
            instance,
            runtime_dir: None,
            debounce: Duration::from_millis(150),
            debounce_max: Duration::from_secs(5),
            content_bytes_max: 1 << 30,
            input_bytes_max: 256 << 20,
            inputs_max: 10_000,
            large_bytes: 64 << 20,
            threads: 2,
            files_max: 1_000_000,
            scan: ScanPolicy::OnUnclean,
            ignore: IGNORED_BY_DEFAULT.iter().map(|&pattern| pattern.to_owned()).collect(),
            undo_window: Duration::from_secs(7 * 24 * 3_600),
            cleanup: None,
            rules: Vec::new(),
            secrets: SecretPolicy::Warn,
            doubt: Duration::from_secs(60),
            recovery_wait: Duration::from_secs(10),
            remote: None,
            keep_local: KeepLocal::All,
        }
    }
}
