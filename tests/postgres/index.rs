//! Whether what has an index is found by it.

use super::server::Server;
use super::support::eventually;
use super::{new_version, open};
use belljar::storage::{Catalog, Filter, NewVersion};

#[test]
fn a_value_of_the_metadata_is_found_by_its_index() {
    let server = Server::shared();
    let database = server.database();
    let catalog = open(&database);
    let new = |n: usize| {
        let metadata = serde_json::json!({ "case": n, "a.b": { "ü": "x" } });
        let metadata = metadata.as_object().unwrap().clone();
        NewVersion { metadata, ..new_version(&format!("f{n}"), &n.to_string()) }
    };
    let batch: Vec<NewVersion> = (0..3_000).map(new).collect();
    catalog.register(&batch).unwrap();
    server.execute(&database, "VACUUM ANALYZE");
    let asked = "metadata.case = 77.0 and metadata.'a.b'.'ü' = 'x'".parse().unwrap();
    let filter = Filter { expression: Some(asked), ..Filter::default() };
    let rows = catalog.list(None, &filter).unwrap().rows;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].host_path, b"/host/f77");
    // A session tells what it used when it ends.
    drop(catalog);
    let mut client = postgres::Client::connect(&database, postgres::NoTls).unwrap();
    eventually("the index was used", || {
        let text =
            "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'version_by_metadata'";
        client.query_one(text, &[]).unwrap().get::<_, i64>(0) > 0
    });
}
