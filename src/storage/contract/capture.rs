//! What a scan asks of a catalog.

use super::*;

const STAMP: Stamp =
    Stamp { inode: u64::MAX - 1, size: 3, mtime_ns: -1, ctime_ns: 1_700_000_000_123_456_789 };

#[test]
fn what_a_file_looked_like_is_noted_with_each_registration() {
    over_each_catalog(|catalog| {
        let seen = |content, stamp| {
            let new = NewVersion { stamp, ..new_version("a", content, None) };
            let registered = catalog.register(std::slice::from_ref(&new)).expect("register")[0];
            let other = new_version("never", "x", None).host_path;
            let paths = [other, new.host_path.clone()];
            let seen = catalog.last_seen(1000, &paths).expect("look up");
            assert_eq!(seen[0], LastSeen::Never);
            assert_eq!(catalog.last_seen(1001, &paths).expect("look up")[1], LastSeen::Never);
            (registered, seen[1])
        };
        assert_eq!(seen("one", Some(STAMP)), (Registered::Version(1), LastSeen::As(STAMP)));
        let later = Stamp { ctime_ns: STAMP.ctime_ns + 1, ..STAMP };
        let same = (Registered::Unchanged(1), LastSeen::As(later));
        assert_eq!(seen("one", Some(later)), same, "the same bytes are noted too");
        assert_eq!(seen("two", None), (Registered::Version(2), LastSeen::Unnoted));
        assert!(catalog.last_seen(1000, &[]).expect("look up").is_empty());
    });
}
