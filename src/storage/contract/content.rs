//! What every catalog must keep of the secrets that were found in a content.

use super::*;
use crate::storage::life::{self, EventFilter};

fn search(found: &[(&str, &str, u64)], quarantined: bool) -> SecretSearch {
    let finding = |(secret, encoding, position): &(&str, &str, u64)| SecretFinding {
        secret: secret.parse().expect("legal"),
        encoding: (*encoding).to_owned(),
        position: *position,
    };
    let found = found.iter().map(finding).collect();
    SecretSearch { outcome: SecretScan::Done, found, quarantined }
}

fn register(catalog: &dyn Catalog, new: NewVersion) -> VersionRow {
    catalog.register(&[new]).expect("register");
    catalog.list(None, &every()).expect("list").rows.remove(0)
}

#[test]
fn what_was_found_comes_back_with_the_row() {
    over_each_catalog(|catalog| {
        let secrets =
            search(&[("API_KEY", "base64", 7), ("API_KEY", "raw", 0), ("B", "hex", 1 << 40)], true);
        let row = register(
            catalog,
            NewVersion { secrets: secrets.clone(), ..new_version("a", "x", None) },
        );
        assert_eq!(row.secrets_found, secrets.found);
        assert_eq!((row.secret_scan, row.quarantined), (Some(SecretScan::Done), true));
        let row = register(catalog, new_version("b", "y", None));
        assert_eq!((row.secret_scan, row.quarantined), (Some(SecretScan::Unavailable), false));
        assert!(row.secrets_found.is_empty());
    });
}

#[test]
fn a_secret_that_is_known_later_than_the_content_is_noted_with_it() {
    over_each_catalog(|catalog| {
        let first = NewVersion {
            secrets: search(&[("A", "raw", 3)], false),
            ..new_version("a", "x", None)
        };
        assert!(!register(catalog, first.clone()).quarantined);
        let again = NewVersion { secrets: search(&[("B", "raw", 5)], false), ..first.clone() };
        let row = register(catalog, again);
        let names: Vec<_> =
            row.secrets_found.iter().map(|found| found.secret.to_string()).collect();
        assert_eq!((row.number, names), (1, vec!["A".to_owned(), "B".to_owned()]));
        // It would not be stored today; the one that is stored is closed.
        let blocked =
            NewVersion { content_kept: false, secrets: search(&[("B", "raw", 5)], true), ..first };
        let row = register(catalog, blocked);
        assert_eq!((row.number, row.quarantined, row.content_kept), (1, true, true));
    });
}

fn declared(path: &str, text: &str, secrets: SecretSearch) -> life::Declaration {
    let object = |value: serde_json::Value| value.as_object().expect("an object").clone();
    life::Declaration {
        owner_uid: 1000,
        host_path: path.as_bytes().to_vec(),
        place: None,
        run: None,
        content: Some(life::DeclaredContent {
            digest: Digest::from_bytes(*blake3::hash(text.as_bytes()).as_bytes()),
            size: text.len() as u64,
            kept: true,
            artifact_type: ArtifactType::new("image"),
            suspected: Some(ArtifactType::new("data")),
            mime: Some("image/png".to_owned()),
            metadata: object(serde_json::json!({ "width": 2, "height": 3 })),
            secrets,
        }),
        held: false,
        amendment: life::Amendment {
            metadata: Some(object(serde_json::json!({ "height": "tall", "by": "me" }))),
            ..life::Amendment::default()
        },
        at: Timestamp::now(),
    }
}

#[test]
fn what_is_sent_is_known_as_well_as_what_is_captured() {
    over_each_catalog(|catalog| {
        let author = Author::User(1000);
        let declare = |new: life::Declaration| {
            catalog.life().declare(&[new], &author).expect("declare").remove(0).expect("done")
        };
        let check = |row: &VersionRow| {
            let suspected = row.suspected.as_ref().map(|of_type| of_type.as_str());
            assert_eq!((suspected, row.mime.as_deref()), (Some("data"), Some("image/png")));
            // What somebody says wins over what the content says.
            let expected = serde_json::json!({ "width": 2, "height": "tall", "by": "me" });
            assert_eq!(serde_json::Value::Object(row.metadata.clone()), expected);
            assert_eq!((row.secret_scan, row.quarantined), (Some(SecretScan::Done), true));
            assert_eq!(row.secrets_found.len(), 1);
        };
        let leak = search(&[("A", "raw", 3)], true);
        let row = declare(declared("/sent", "x", leak.clone()));
        check(&row);
        assert_eq!(row.artifact_type.as_str(), "image");
        // Held first, and sent when it is ready.
        let mut held = declared("/held", "x", leak.clone());
        (held.held, held.content) = (true, None);
        declare(held);
        let row = declare(declared("/held", "x", leak.clone()));
        assert_eq!((row.number, row.state), (1, ArtifactState::Ready));
        check(&row);
        // The same bytes, of which more is known.
        let clean = declare(declared("/later", "y", search(&[], false)));
        assert!(!clean.quarantined);
        let row = declare(declared("/later", "y", leak));
        assert_eq!((row.number, row.quarantined), (1, true));
    });
}

#[test]
fn closing_a_version_is_told_once() {
    over_each_catalog(|catalog| {
        let leak = search(&[("B", "hex", 9), ("A", "raw", 3), ("A", "hex", 5)], true);
        let new = NewVersion { secrets: leak.clone(), ..new_version("a", "x", None) };
        catalog.register(&[new.clone(), new]).expect("register");
        let author = Author::User(1000);
        catalog.life().declare(&[declared("/sent", "x", leak.clone())], &author).expect("declare");
        catalog.life().declare(&[declared("/sent", "x", leak)], &author).expect("declare");
        let all = EventFilter { owner: None, artifact: None, after: 0, limit: 100 };
        let events = catalog.life().events(all).expect("events");
        let told = events.iter().filter(|event| event.kind == "quarantined");
        let told: Vec<_> = told
            .map(|event| (event.actor.as_str(), serde_json::Value::Object(event.detail.clone())))
            .collect();
        let detail = serde_json::json!({ "secrets": ["A", "B"] });
        assert_eq!(told, [("belljar", detail.clone()), ("uid:1000", detail)]);
    });
}
