//! What a change on the host looks like inside a workspace, and when, under each cache policy.

mod mounted;

use belljar::model::mount::{CachePolicy, SetId};
use mounted::{Fixture, Setup};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::time::{Duration, Instant};

/// The life of names and attributes under `shared`.
const SHARED: Duration = Duration::from_secs(1);
/// A busy machine's share on top.
const SLACK: Duration = Duration::from_secs(4);

fn both(cache: CachePolicy, check: impl Fn(&Fixture)) {
    for passthrough in [true, false] {
        check(&Fixture::with(&Setup { passthrough, cache, ..Setup::default() }));
    }
}

fn mode(f: &Fixture, name: &str) -> u32 {
    fs::metadata(f.rw(name)).unwrap().mode() & 0o777
}

fn chmod_on_host(f: &Fixture, name: &str, mode: u32) {
    fs::set_permissions(f.host(name), Permissions::from_mode(mode)).unwrap();
}

fn read(file: &File) -> String {
    let mut bytes = vec![0; 64];
    let length = file.read_at(&mut bytes, 0).unwrap();
    String::from_utf8(bytes[..length].to_vec()).unwrap()
}

/// How long it takes until `is_so`; at most [`SHARED`] and [`SLACK`].
fn after(is_so: impl Fn() -> bool) -> Duration {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < SHARED + SLACK, "the change is not seen");
        std::thread::sleep(Duration::from_millis(10));
    }
    started.elapsed()
}

/// Asks of every policy alike: a new name is seen at once, since what is absent is not remembered.
fn new_names_are_seen(f: &Fixture) {
    assert!(fs::metadata(f.rw("new")).is_err());
    fs::write(f.host("new"), "made outside").unwrap();
    assert_eq!(fs::read_to_string(f.rw("new")).unwrap(), "made outside");
}

/// Asks of every policy alike: what is done inside is seen inside at once, and on the host.
fn own_changes_are_seen(f: &Fixture) {
    fs::write(f.rw("own"), "1").unwrap();
    fs::hard_link(f.rw("own"), f.rw("own2")).unwrap();
    assert_eq!(fs::metadata(f.rw("own")).unwrap().nlink(), 2);
    fs::write(f.rw("own2"), "longer").unwrap();
    assert_eq!(fs::metadata(f.rw("own")).unwrap().len(), 6);
    assert_eq!(fs::read_to_string(f.rw("own")).unwrap(), "longer");
    fs::set_permissions(f.rw("own"), Permissions::from_mode(0o611)).unwrap();
    assert_eq!(
        (mode(f, "own2"), fs::metadata(f.host("own")).unwrap().mode() & 0o777),
        (0o611, 0o611)
    );
    fs::rename(f.rw("own2"), f.rw("own3")).unwrap();
    assert!(fs::metadata(f.rw("own2")).is_err());
    fs::write(f.rw("other"), "other").unwrap();
    fs::rename(f.rw("other"), f.rw("own3")).unwrap();
    assert_eq!(fs::read_to_string(f.rw("own3")).unwrap(), "other");
    assert_eq!(fs::metadata(f.rw("own")).unwrap().nlink(), 1);
    fs::remove_file(f.rw("own")).unwrap();
    assert!(fs::metadata(f.rw("own")).is_err());
}

#[test]
fn shared_shows_the_hosts_changes_within_a_second() {
    both(CachePolicy::Shared, |f| {
        new_names_are_seen(f);
        own_changes_are_seen(f);
        fs::write(f.host("file"), "before").unwrap();
        let open = File::open(f.rw("file")).unwrap();
        assert_eq!(read(&open), "before");
        chmod_on_host(f, "file", 0o600);
        assert!(after(|| mode(f, "file") == 0o600) < SHARED + SLACK);
        // Another content of the same length: an open sees it at once, a file that is open already within a second.
        fs::write(f.host("file"), "behind").unwrap();
        assert_eq!(read(&File::open(f.rw("file")).unwrap()), "behind");
        after(|| {
            let _ = open.metadata();
            read(&open) == "behind"
        });
        fs::remove_file(f.host("file")).unwrap();
        after(|| fs::metadata(f.rw("file")).is_err_and(|e| e.kind() == io::ErrorKind::NotFound));
        // A name that is put to another file.
        fs::write(f.host("a"), "the first").unwrap();
        assert_eq!(fs::read_to_string(f.rw("a")).unwrap(), "the first");
        fs::write(f.host("b"), "the second").unwrap();
        fs::rename(f.host("b"), f.host("a")).unwrap();
        after(|| fs::read_to_string(f.rw("a")).is_ok_and(|text| text == "the second"));
    });
}

#[test]
fn exclusive_asks_the_host_again_only_when_it_must() {
    both(CachePolicy::Exclusive, |f| {
        new_names_are_seen(f);
        own_changes_are_seen(f);
        fs::write(f.host("file"), "before").unwrap();
        chmod_on_host(f, "file", 0o644);
        assert_eq!(mode(f, "file"), 0o644);
        chmod_on_host(f, "file", 0o600);
        std::thread::sleep(SHARED + Duration::from_millis(500));
        assert_eq!(mode(f, "file"), 0o644, "the attributes are kept");
        fs::remove_file(f.host("file")).unwrap();
        assert!(fs::metadata(f.rw("file")).is_ok(), "the name is kept");
    });
}

/// What `exclusive` keeps is no way past what the host has closed meanwhile.
#[test]
fn a_mode_that_is_kept_opens_nothing_that_the_host_has_closed() {
    const STRANGER: u32 = 12345;
    let f = Fixture::with(&Setup { cache: CachePolicy::Exclusive, ..Setup::default() });
    for directory in [f.directory.path().to_owned(), f.host("")] {
        fs::set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
    }
    fs::write(f.host("file"), "closed soon").unwrap();
    chmod_on_host(&f, "file", 0o644);
    assert_eq!(mode(&f, "file"), 0o644);
    chmod_on_host(&f, "file", 0o600);
    assert_eq!(mode(&f, "file"), 0o644, "the old mode is still known");
    let read = std::process::Command::new("setpriv")
        .args([format!("--reuid={STRANGER}"), format!("--regid={STRANGER}")])
        .args(["--clear-groups", "--", "cat"])
        .arg(f.rw("file"))
        .output()
        .expect("start setpriv (Debian package util-linux)");
    assert!(!read.status.success());
    assert!(String::from_utf8_lossy(&read.stderr).contains("Permission denied"));
}

#[test]
fn none_shows_the_hosts_changes_at_once() {
    both(CachePolicy::None, |f| {
        new_names_are_seen(f);
        own_changes_are_seen(f);
        for round in 0..50 {
            let (old, new) = (format!("content {round:03}"), format!("changed {round:03}"));
            fs::write(f.host("file"), &old).unwrap();
            let open = File::open(f.rw("file")).unwrap();
            assert_eq!(read(&open), old);
            OpenOptions::new()
                .write(true)
                .open(f.host("file"))
                .unwrap()
                .write_all(new.as_bytes())
                .unwrap();
            assert_eq!(read(&open), new, "through a file that is open already");
            let wanted = 0o600 + (round & 0o77);
            chmod_on_host(f, "file", wanted);
            assert_eq!(mode(f, "file"), wanted);
            fs::remove_file(f.host("file")).unwrap();
            assert!(fs::metadata(f.rw("file")).is_err(), "the name is gone");
        }
    });
}

/// Without pages in the kernel a shared map must still work: databases and linkers use them.
#[test]
fn a_shared_map_works_under_every_policy() {
    const SCRIPT: &str = r#"
import mmap, os, sys
with open(sys.argv[1], "w+b") as file:
    file.write(bytes(10000))
    file.flush()
    pages = mmap.mmap(file.fileno(), 10000)
    pages[5000:5006] = b"mapped"
    pages.flush()
    file.seek(5000)
    assert file.read(6) == b"mapped"
    pages.close()
"#;
    for cache in [CachePolicy::Shared, CachePolicy::Exclusive, CachePolicy::None] {
        both(cache, |f| {
            let done = std::process::Command::new("python3")
                .args(["-c", SCRIPT])
                .arg(f.rw("map"))
                .status()
                .expect("start python3 (Debian package python3)");
            assert!(done.success(), "{cache:?}");
            assert_eq!(&fs::read(f.host("map")).unwrap()[5000..5006], b"mapped");
        });
    }
}

/// `suid: allow` beside the default, which refuses.
#[test]
fn set_id_bits_are_refused_unless_the_mount_point_allows_them() {
    for suid in [SetId::Refuse, SetId::Allow] {
        let f = Fixture::with(&Setup { suid, ..Setup::default() });
        fs::write(f.rw("file"), "x").unwrap();
        for bits in [0o4755, 0o2755, 0o6755] {
            let result = fs::set_permissions(f.rw("file"), Permissions::from_mode(bits));
            match suid {
                SetId::Refuse => {
                    let errno = result.expect_err("refused").raw_os_error();
                    assert_eq!(errno, Some(nix::errno::Errno::EPERM as i32));
                }
                SetId::Allow => {
                    result.unwrap();
                    assert_eq!(fs::metadata(f.host("file")).unwrap().mode() & 0o7777, bits);
                }
            }
        }
        // What is written loses them, also when root writes.
        chmod_on_host(&f, "file", 0o6755);
        std::thread::sleep(SHARED + Duration::from_millis(100));
        OpenOptions::new().append(true).open(f.rw("file")).unwrap().write_all(b"y").unwrap();
        assert_eq!(fs::metadata(f.host("file")).unwrap().mode() & 0o7777, 0o755, "{suid:?}");
        // On a directory the bit only says whose group new entries get.
        fs::create_dir(f.rw("directory")).unwrap();
        fs::set_permissions(f.rw("directory"), Permissions::from_mode(0o2775)).unwrap();
        assert_eq!(fs::metadata(f.host("directory")).unwrap().mode() & 0o7777, 0o2775);
    }
}
