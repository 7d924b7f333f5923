//! The catalog in PostgreSQL when something is wrong with the server, with the way to it, or with the settings; several daemons
//! over one; and a daemon that has its catalog there.
#![allow(clippy::unwrap_used)]

mod daemon;
mod faults;
mod index;
mod refusals;
#[path = "../../src/storage/contract/server.rs"]
mod server;
mod several;
#[path = "../support/mod.rs"]
mod support;

use belljar::config::catalog::Catalog as CatalogSettings;
use belljar::model::artifact::ArtifactType;
use belljar::model::digest::Digest;
use belljar::model::path::VirtualPath;
use belljar::storage::catalog::postgres::{PostgresCatalog, PostgresSettings};
use belljar::storage::{Catalog, Filter, NewVersion, Registered};
use jiff::Timestamp;
use std::time::{Duration, Instant};

/// Settings as a configuration file has them.
fn settings(connection: &str) -> PostgresSettings {
    let catalog = CatalogSettings {
        connection: Some(connection.parse().unwrap()),
        connect_timeout: Duration::from_secs(5),
        ..CatalogSettings::default()
    };
    PostgresSettings::new(&catalog, &|_| None).unwrap()
}

fn open(connection: &str) -> PostgresCatalog {
    PostgresCatalog::open(&settings(connection)).unwrap()
}

fn new_version(path: &str, content: &str) -> NewVersion {
    NewVersion {
        owner_uid: 1000,
        host_path: format!("/host/{path}").into_bytes(),
        workspace: "w".parse().unwrap(),
        mount: "output".parse().unwrap(),
        path: VirtualPath::parse(path).unwrap(),
        run: None,
        graph_id: None,
        node_id: None,
        writer: None,
        artifact_type: ArtifactType::new("data"),
        suspected: None,
        mime: None,
        size: content.len() as u64,
        digest: Digest::from_bytes(*blake3::hash(content.as_bytes()).as_bytes()),
        content_kept: true,
        stamp: None,
        closes: 1,
        metadata: Default::default(),
        secrets: Default::default(),
        inputs: None,
        captured_at: Timestamp::now(),
    }
}

/// Registers as the registrar does: what may succeed later is tried again.
fn register_at_last(catalog: &PostgresCatalog, batch: &[NewVersion]) -> (Vec<Registered>, u32) {
    let give_up = Instant::now() + support::SOON;
    let mut failures = 0;
    loop {
        match catalog.register(batch) {
            Ok(registered) => return (registered, failures),
            Err(error) => {
                let why = belljar::telemetry::sentence(&error);
                assert!(error.is_transient(), "{why}: {error:?}");
                assert!(Instant::now() < give_up, "{why}");
                failures += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Every version, as path and number, sorted.
fn versions(catalog: &dyn Catalog) -> Vec<(String, u64)> {
    let filter = Filter { all_versions: true, limit: 100_000, ..Filter::default() };
    let rows = catalog.list(None, &filter).unwrap().rows;
    let name = |path: &[u8]| String::from_utf8(path.to_vec()).unwrap();
    let mut found: Vec<_> = rows.iter().map(|row| (name(&row.host_path), row.number)).collect();
    found.sort();
    found
}
