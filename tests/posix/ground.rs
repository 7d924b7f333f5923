//! The file systems that the suites run on: mounted for the test, in its own mount namespace.

use crate::mounted::{Fixture, Setup};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{EXT4_SUPER_MAGIC, statfs};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Space for the suites' files; the image is sparse.
const IMAGE_BYTES: u64 = 512 << 20;

/// A directory of one file system, for all users to walk through.
pub struct Ground {
    directory: TempDir,
    path: PathBuf,
    mounted: bool,
}

impl Ground {
    /// A tmpfs of its own.
    pub fn tmpfs() -> Self {
        let ground = Self::mounted();
        mount(Some("tmpfs"), &ground.path, Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))
            .expect("mount a tmpfs");
        ground
    }

    /// The temporary directory where that is ext4, else an image on a loop device.
    pub fn ext4() -> Self {
        let directory = directory();
        if statfs(directory.path()).unwrap().filesystem_type() == EXT4_SUPER_MAGIC {
            let path = directory.path().to_owned();
            return Self { directory, path, mounted: false };
        }
        let ground = Self::mounted();
        let image = ground.directory.path().join("image");
        File::create(&image).unwrap().set_len(IMAGE_BYTES).unwrap();
        command(Command::new("mkfs.ext4").arg("-q").arg(&image), "e2fsprogs");
        // The kernel gives the loop device back with the mount (LO_FLAGS_AUTOCLEAR).
        command(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&ground.path), "mount");
        ground
    }

    fn mounted() -> Self {
        let directory = directory();
        let path = directory.path().join("mounted");
        fs::create_dir(&path).unwrap();
        Self { directory, path, mounted: true }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A new directory in it.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        fs::create_dir(&path).unwrap();
        path
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if self.mounted {
            let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        }
    }
}

fn directory() -> TempDir {
    let directory = tempfile::Builder::new().prefix("belljar-test-").tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    directory
}

fn command(command: &mut Command, package: &str) {
    let output = command.output().unwrap_or_else(|error| {
        panic!("start {command:?} (Debian package {package}): {error}");
    });
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
}

/// A directory under a short name that is the same for all. The name of a socket has at most 107 bytes (unix(7)), and the
/// suites make some deep in the directory that they are given.
pub struct Stage;

impl Stage {
    /// Every Debian has it (Filesystem Hierarchy Standard, 3.12); what is on it stays as it is outside this mount namespace.
    pub const PATH: &str = "/mnt";

    pub fn of(directory: &Path) -> Self {
        mount(Some(directory), Self::PATH, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .unwrap_or_else(|error| {
                panic!("bind {} on {}: {error}", directory.display(), Self::PATH)
            });
        Self
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = umount2(Self::PATH, MntFlags::MNT_DETACH);
    }
}

/// A workspace over directories on a file system, for all users to walk through.
pub fn fixture(on: &Path, setup: Setup) -> Fixture {
    let fixture = Fixture::with(&Setup { below: on.to_owned(), ..setup });
    fs::set_permissions(fixture.directory.path(), Permissions::from_mode(0o755)).unwrap();
    fixture
}
