//! The workspace file system over a real FUSE mount, compared with the host directory behind it.

mod mounted;

use belljar::model::mount::CachePolicy;
use belljar::vfs::backing::{Caller, NewMode};
use belljar::vfs::observer::{FileKey, FileSource};
use mounted::{Fixture, Setup, place};
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

/// Both ways in which data can travel must show the same behaviour.
fn both(check: impl Fn(Fixture)) {
    check(Fixture::new(true));
    check(Fixture::new(false));
}

fn errno(result: io::Result<impl Sized>) -> i32 {
    result.err().expect("must be refused").raw_os_error().expect("an errno")
}

#[test]
fn the_root_shows_the_mount_points_and_the_control_directory() {
    both(|f| {
        let mut names: Vec<_> =
            fs::read_dir(&f.root).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [".belljar", "ro", "rw"]);
        assert_eq!(fs::read_to_string(f.root.join(".belljar/env")).unwrap(), "NAME=value\n");
        assert_eq!(errno(fs::metadata(f.root.join(".belljar/secrets"))), libc_errno("ENOENT"));
        assert_eq!(errno(fs::write(f.root.join("x"), "")), libc_errno("EROFS"));
        assert_eq!(errno(fs::create_dir(f.root.join("x"))), libc_errno("EROFS"));
        assert_eq!(errno(fs::remove_dir(f.root.join("rw"))), libc_errno("EROFS"));
        assert_eq!(errno(fs::write(f.root.join(".belljar/env"), "")), libc_errno("EROFS"));
    });
}

fn libc_errno(name: &str) -> i32 {
    use nix::errno::Errno;
    (match name {
        "ENOENT" => Errno::ENOENT,
        "EROFS" => Errno::EROFS,
        "EXDEV" => Errno::EXDEV,
        "EPERM" => Errno::EPERM,
        "EEXIST" => Errno::EEXIST,
        "ENOTEMPTY" => Errno::ENOTEMPTY,
        "EOPNOTSUPP" => Errno::EOPNOTSUPP,
        other => panic!("name {other} here"),
    }) as i32
}

#[test]
fn what_is_written_is_on_the_host_and_the_other_way_round() {
    both(|f| {
        fs::write(f.rw("a"), "inside").unwrap();
        assert_eq!(fs::read(f.host("a")).unwrap(), b"inside");
        fs::write(f.host("b"), "outside").unwrap();
        assert_eq!(fs::read(f.rw("b")).unwrap(), b"outside");

        let big: Vec<u8> = (0..3_000_000u32).map(|i| (i * 7) as u8).collect();
        fs::write(f.rw("big"), &big).unwrap();
        assert!(fs::read(f.host("big")).unwrap() == big);
        assert!(fs::read(f.rw("big")).unwrap() == big);

        let mut file = OpenOptions::new().append(true).read(true).open(f.rw("a")).unwrap();
        file.write_all(b" and more").unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "inside and more");

        let file = OpenOptions::new().write(true).truncate(true).open(f.rw("a")).unwrap();
        file.write_all_at(b"x", 10).unwrap();
        file.sync_all().unwrap();
        assert_eq!(fs::metadata(f.host("a")).unwrap().len(), 11);
        file.set_len(3).unwrap();
        assert_eq!(fs::read(f.host("a")).unwrap(), [0, 0, 0]);
    });
}

#[test]
fn with_passthrough_no_data_comes_to_the_daemon_and_without_all_does() {
    let data = vec![7u8; 1 << 20];
    for passthrough in [true, false] {
        let f = Fixture::new(passthrough);
        fs::write(f.rw("a"), &data).unwrap();
        assert!(fs::read(f.rw("a")).unwrap() == data);
        let mut opened = OpenOptions::new().append(true).open(f.rw("a")).unwrap();
        opened.write_all(b"more").unwrap();
        let requests = f.vfs.data_requests();
        assert_eq!(requests == 0, passthrough, "{requests} requests");
    }
}

/// The kernel writes pages of a map through whichever writable handle it finds, also one that appends.
#[test]
fn a_shared_map_and_appending_writes_keep_to_their_places() {
    const SCRIPT: &str = r#"
import mmap, os, sys
inside, host = sys.argv[1:]
with open(inside, "wb") as file:
    file.write(b"." * 8192)
appending = os.open(inside, os.O_RDWR | os.O_APPEND)
pages = mmap.mmap(appending, 8192)
pages[0:5] = b"first"
pages.flush()
os.write(appending, b"end")
with open(host, "ab") as other:
    other.write(b", the host's too")
os.write(appending, b", and ours")
pages[8187:8192] = b"last>"
pages.flush()
pages.close()
os.close(appending)
"#;
    both(|f| {
        let done = std::process::Command::new("python3")
            .args(["-c", SCRIPT])
            .args([f.rw("mapped"), f.host("mapped")])
            .status()
            .expect("start python3 (Debian package python3)");
        assert!(done.success());
        let mut expected = vec![b'.'; 8192];
        expected[..5].copy_from_slice(b"first");
        expected[8187..].copy_from_slice(b"last>");
        expected.extend(b"end, the host's too, and ours");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace("....", "");
        assert_eq!(text(fs::read(f.host("mapped")).unwrap()), text(expected));
    });
}

#[test]
fn names_and_attributes_change_as_on_the_host() {
    both(|f| {
        fs::create_dir_all(f.rw("d/e")).unwrap();
        fs::write(f.rw("d/e/x"), "1").unwrap();
        fs::rename(f.rw("d/e/x"), f.rw("y")).unwrap();
        assert!(f.host("y").exists() && !f.host("d/e/x").exists());
        fs::hard_link(f.rw("y"), f.rw("z")).unwrap();
        assert_eq!(fs::metadata(f.host("z")).unwrap().nlink(), 2);
        assert_eq!(fs::metadata(f.rw("z")).unwrap().ino(), fs::metadata(f.rw("y")).unwrap().ino());
        symlink("y", f.rw("s")).unwrap();
        assert_eq!(fs::read_link(f.host("s")).unwrap(), Path::new("y"));
        assert_eq!(fs::read(f.rw("s")).unwrap(), b"1");
        fs::remove_file(f.rw("y")).unwrap();
        assert!(!f.host("y").exists());
        assert_eq!(errno(fs::remove_dir(f.rw("d"))), libc_errno("ENOTEMPTY"));
        fs::remove_dir_all(f.rw("d")).unwrap();
        assert!(!f.host("d").exists());

        fs::set_permissions(f.rw("z"), fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(fs::metadata(f.host("z")).unwrap().mode() & 0o7777, 0o640);
        let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(12345);
        let file = OpenOptions::new().write(true).open(f.rw("z")).unwrap();
        file.set_modified(time).unwrap();
        assert_eq!(fs::metadata(f.host("z")).unwrap().mtime(), 12345);
        assert_eq!(fs::metadata(f.rw("z")).unwrap().mtime(), 12345);

        let refused = fs::set_permissions(f.rw("z"), fs::Permissions::from_mode(0o4755));
        assert_eq!(errno(refused), libc_errno("EPERM"));
        assert_eq!(errno(fs::rename(f.rw("z"), f.root.join("ro/z"))), libc_errno("EROFS"));
        assert_eq!(errno(fs::hard_link(f.root.join("ro/file"), f.rw("l"))), libc_errno("EXDEV"));
        let exclusive = OpenOptions::new().write(true).create_new(true).open(f.rw("z"));
        assert_eq!(errno(exclusive), libc_errno("EEXIST"));
    });
}

#[test]
fn a_removed_file_lives_while_it_is_open() {
    both(|f| {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(f.rw("gone"))
            .unwrap();
        file.write_all(b"still here").unwrap();
        fs::remove_file(f.rw("gone")).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "still here");
        assert_eq!(file.metadata().unwrap().nlink(), 0);
    });
}

/// Such a descriptor is no open file to the daemon, which has few descriptors of its own to keep.
#[test]
fn a_removed_file_lives_while_only_a_path_descriptor_knows_it() {
    let f =
        Fixture::with(&Setup { descriptors_max: 4, cache: CachePolicy::None, ..Setup::default() });
    for (name, end) in [("removed", None), ("replaced", Some("other"))] {
        fs::write(f.host(name), "four").unwrap();
        fs::write(f.host("other"), "").unwrap();
        let known = OpenOptions::new()
            .read(true)
            .custom_flags(nix::fcntl::OFlag::O_PATH.bits())
            .open(f.rw(name))
            .unwrap();
        match end {
            None => fs::remove_file(f.rw(name)).unwrap(),
            Some(other) => fs::rename(f.rw(other), f.rw(name)).unwrap(),
        }
        for i in 0..40 {
            fs::write(f.rw(&format!("{i}")), "").unwrap();
        }
        let metadata = known.metadata().unwrap();
        assert_eq!((metadata.len(), metadata.nlink()), (4, 0), "{name}");
    }
}

/// fstat(2) reaches the daemon without a handle (fs/fuse/dir.c, fuse_update_get_attr). With few descriptors it has to find
/// what has no name left: on ext4 by the file's handle, on ramfs, which has none, by what is open.
#[test]
fn what_the_host_removed_answers_for_as_long_as_it_is_open() {
    let ramfs = Ramfs::new();
    for below in [std::env::temp_dir(), ramfs.0.path().to_owned()] {
        for passthrough in [true, false] {
            removed_by_the_host(&Setup {
                below: below.clone(),
                passthrough,
                descriptors_max: 4,
                cache: CachePolicy::None,
                ..Setup::default()
            });
        }
    }
}

fn removed_by_the_host(setup: &Setup) {
    let f = Fixture::with(setup);
    fs::write(f.host("file"), "four").unwrap();
    fs::create_dir(f.host("directory")).unwrap();
    let mut file = OpenOptions::new().read(true).write(true).open(f.rw("file")).unwrap();
    let directory = fs::File::open(f.rw("directory")).unwrap();
    fs::remove_file(f.host("file")).unwrap();
    fs::remove_dir(f.host("directory")).unwrap();
    let press = || {
        for i in 0..40 {
            fs::write(f.rw(&format!("{i}")), "").unwrap();
        }
    };
    press();
    let metadata = file.metadata().unwrap();
    assert_eq!((metadata.len(), metadata.nlink()), (4, 0));
    press();
    file.set_len(2).unwrap();
    press();
    file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
    press();
    let metadata = file.metadata().unwrap();
    assert_eq!((metadata.len(), metadata.mode() & 0o777), (2, 0o600));
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "fo");
    assert!(directory.metadata().unwrap().is_dir());
}

/// A file system without file handles, for as long as the test runs.
struct Ramfs(tempfile::TempDir);

impl Ramfs {
    fn new() -> Self {
        use nix::mount::{MsFlags, mount};
        let directory = tempfile::tempdir().unwrap();
        mount(Some("ramfs"), directory.path(), Some("ramfs"), MsFlags::empty(), None::<&str>)
            .expect("mount a ramfs: these tests need the privilege to mount");
        let handle = belljar::sys::handle::name_to_handle_at(
            fs::File::open(directory.path()).unwrap().as_fd(),
        );
        assert!(handle.unwrap().is_none(), "ramfs has file handles");
        Self(directory)
    }
}

impl Drop for Ramfs {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_directory_of_many_files_is_listed_whole_with_few_descriptors() {
    let f = Fixture::with(&Setup { descriptors_max: 16, ..Setup::default() });
    for i in 0..3000 {
        fs::write(f.host(&format!("file-{i:04}")), format!("{i}")).unwrap();
    }
    let mut names: Vec<_> = fs::read_dir(f.rw(""))
        .unwrap()
        .map(|e| {
            let e = e.unwrap();
            assert!(e.metadata().unwrap().is_file());
            e.file_name().into_string().unwrap()
        })
        .collect();
    names.sort();
    assert_eq!(names.len(), 3000);
    assert_eq!(names[2999], "file-2999");
    for i in (0..3000).step_by(97) {
        assert_eq!(fs::read_to_string(f.rw(&format!("file-{i:04}"))).unwrap(), i.to_string());
    }
    let open = fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(open < 500, "{open} descriptors are open");
    // Inode numbers are the same after everything was forgotten.
    let before = fs::metadata(f.rw("file-0000")).unwrap().ino();
    fs::write("/proc/sys/vm/drop_caches", "2").expect("drop the kernel's caches as root");
    assert_eq!(fs::metadata(f.rw("file-0000")).unwrap().ino(), before);
}

#[test]
fn the_observer_hears_of_each_write_once() {
    both(|f| {
        let settle = || std::thread::sleep(std::time::Duration::from_millis(50));
        fs::write(f.rw("a"), "1").unwrap();
        settle(); // RELEASE is sent after close has returned.
        assert_eq!(f.heard.take(), ["dirtied rw:a", "closed true"]);

        fs::read(f.rw("a")).unwrap();
        settle();
        assert!(f.heard.take().is_empty());

        drop(OpenOptions::new().read(true).write(true).open(f.rw("a")).unwrap());
        settle();
        assert_eq!(f.heard.take(), ["dirtied rw:a", "closed false"]);

        fs::rename(f.rw("a"), f.rw("b")).unwrap();
        assert_eq!(f.heard.take(), ["named rw:a rw:b open=false"]);

        fs::create_dir(f.rw("d")).unwrap();
        fs::rename(f.rw("d"), f.rw("e")).unwrap();
        assert_eq!(f.heard.take(), ["moved rw:d rw:e"]);

        fs::hard_link(f.rw("b"), f.rw("e/c")).unwrap();
        assert_eq!(f.heard.take(), ["named - rw:e/c open=false"]);

        fs::remove_file(f.rw("b")).unwrap();
        assert_eq!(f.heard.take(), ["removed rw:b"]);

        let mode = nix::sys::stat::Mode::S_IRUSR;
        nix::sys::stat::mknod(&f.rw("n"), nix::sys::stat::SFlag::S_IFREG, mode, 0).unwrap();
        assert_eq!(f.heard.take(), ["dirtied rw:n", "closed true"]);
        assert_eq!(fs::metadata(f.host("n")).unwrap().mode(), 0o100_400);
        let again = nix::sys::stat::mknod(&f.rw("n"), nix::sys::stat::SFlag::empty(), mode, 0);
        assert_eq!(again, Err(nix::errno::Errno::EEXIST));

        nix::unistd::truncate(&f.rw("e/c"), 5).unwrap();
        settle();
        assert_eq!(f.heard.take(), ["dirtied rw:e/c", "closed true"]);
        assert_eq!(fs::metadata(f.host("e/c")).unwrap().len(), 5);
    });
}

#[test]
fn the_source_finds_a_followed_file_under_its_present_name() {
    let f = Fixture::new(true);
    fs::create_dir(f.rw("d")).unwrap();
    fs::write(f.rw("d/a"), "content").unwrap();
    let key = FileKey(fs::metadata(f.rw("d/a")).unwrap().ino());
    assert_eq!(place(&f.vfs.locations(key)[0]), "rw:d/a");
    fs::rename(f.rw("d"), f.rw("e")).unwrap();
    assert_eq!(place(&f.vfs.locations(key)[0]), "rw:e/a");
    let mut text = String::new();
    FileSource::open(&*f.vfs, key).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "content");
    fs::write(f.rw("b"), "other").unwrap();
    fs::rename(f.rw("b"), f.rw("e/a")).unwrap();
    assert!(f.vfs.locations(key).is_empty(), "the name belongs to another file");
}

/// The kernel checks no permission to a file that it believes was made for the caller. So when somebody took the name
/// between the kernel's look and the create, nothing may be opened.
#[test]
fn a_create_that_finds_the_name_taken_opens_nothing_and_lets_the_kernel_look_again() {
    let f = Fixture::new(true);
    let directory = f.vfs.lookup(belljar::vfs::ROOT, "rw".as_ref()).unwrap().node;
    let caller = Caller { uid: 12345, gid: 12345, pid: 0 };
    let new = NewMode { mode: 0o100_644, umask: 0o022 };
    let create = |name: &str| {
        f.vfs.create(&caller, directory, name.as_ref(), nix::fcntl::OFlag::O_RDWR, new)
    };
    fs::set_permissions(f.host(""), fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(f.host("taken"), "root's").unwrap();
    fs::set_permissions(f.host("taken"), fs::Permissions::from_mode(0o600)).unwrap();
    let error = create("taken").expect_err("must not be opened");
    assert_eq!(error.to_errno(), nix::errno::Errno::ESTALE);
    let (made, handle) = create("free").expect("is made");
    assert_eq!((made.uid, made.gid, made.mode & 0o777), (12345, 12345, 0o644));
    f.vfs.release(handle);
    // From outside all of this is invisible: the open goes to the file that is there.
    let mut opened = OpenOptions::new().create(true).append(true).open(f.rw("taken")).unwrap();
    opened.write_all(b" and more").unwrap();
    assert_eq!(fs::read(f.host("taken")).unwrap(), b"root's and more");
}

#[test]
fn no_device_is_made_and_fifos_and_sockets_are() {
    both(|f| {
        for kind in ["c", "b"] {
            let path = f.rw(kind);
            let output =
                std::process::Command::new("mknod").arg(&path).args([kind, "1", "3"]).output();
            let said = String::from_utf8(output.unwrap().stderr).unwrap();
            assert!(said.contains("Operation not permitted"), "{said}");
            assert!(!path.exists());
        }
        nix::unistd::mkfifo(&f.rw("fifo"), nix::sys::stat::Mode::from_bits_truncate(0o600))
            .unwrap();
        std::os::unix::net::UnixListener::bind(f.rw("socket")).unwrap();
        for name in ["fifo", "socket"] {
            let [inside, host] = [f.rw(name), f.host(name)].map(|at| fs::metadata(at).unwrap());
            assert_eq!(inside.mode(), host.mode());
            assert_ne!(inside.mode() & 0o170_000, 0o100_000);
        }
    });
}

#[test]
fn a_file_without_a_name_is_refused_with_the_errno_that_programs_know() {
    both(|f| {
        let made = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(nix::fcntl::OFlag::O_TMPFILE.bits())
            .open(f.rw(""));
        assert_eq!(errno(made), libc_errno("EOPNOTSUPP"));
    });
}
