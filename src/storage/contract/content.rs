//! What every catalog must keep of the secrets that were found in a content.

use super::*;

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
