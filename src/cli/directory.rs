//! Host directories: `NAME=PATH` to an open descriptor.
//!
//! The client opens; the daemon never resolves a path that a client chose. Opening comes last, after a private daemon has
//! entered its own mount namespace: a descriptor of another one could not be cloned there (open_tree(2)).

use crate::client::Leash;
use crate::model::access::Access;
use crate::model::id::MountName;
use crate::model::mount::{CachePolicy, SetId};
use crate::model::path::escape;
use crate::wire::workspace::MountRequest;
use anyhow::{Context, anyhow, bail};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, access};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A mount point as the user asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountSpec {
    pub name: MountName,
    pub path: PathBuf,
    pub access: Access,
    pub artifacts: bool,
    pub cache: CachePolicy,
    pub suid: SetId,
    pub create: bool,
}

impl MountSpec {
    /// `NAME=PATH`; a relative path starts at the caller's directory.
    pub fn parse(text: &OsStr, access: Access) -> anyhow::Result<Self> {
        let bytes = text.as_bytes();
        let Some(split) = bytes.iter().position(|&byte| byte == b'=') else {
            bail!("{text:?} is no mount point: write NAME=PATH, such as input=/data/input");
        };
        let name = std::str::from_utf8(&bytes[..split])
            .map_err(|_| anyhow!("the mount name in {text:?} is not text"))?
            .parse::<MountName>()?;
        let path = Path::new(OsStr::from_bytes(&bytes[split + 1..]));
        if path.as_os_str().is_empty() {
            bail!("mount {name} has no path: write {name}=PATH");
        }
        let path = std::path::absolute(path)
            .with_context(|| format!("mount {name}: resolve {}", path.display()))?;
        let (cache, suid) = (CachePolicy::default(), SetId::default());
        Ok(Self { name, path, access, artifacts: true, cache, suid, create: false })
    }

    /// Refuses what cannot be mounted, before anything is started for it; makes what was asked to be made.
    pub fn prepare(&self) -> anyhow::Result<()> {
        let shown = escape(self.path.as_os_str().as_bytes());
        let mount = format!("mount {}", self.name);
        if self.create {
            fs::create_dir_all(&self.path).with_context(|| format!("{mount}: make {shown}"))?;
        }
        match fs::metadata(&self.path) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => {
                bail!("{mount}: {shown} is not a directory: mount the directory that holds it")
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(
                "{mount}: the directory {shown} does not exist: make it with `mkdir -p`, or correct the path"
            ),
            Err(error) => {
                return Err(error).with_context(|| format!("{mount}: look at {shown}"));
            }
        }
        let needed = match self.access {
            Access::ReadOnly => AccessFlags::R_OK | AccessFlags::X_OK,
            Access::ReadWrite => AccessFlags::R_OK | AccessFlags::X_OK | AccessFlags::W_OK,
        };
        access(&self.path, needed).map_err(|errno| {
            let verb = match self.access {
                Access::ReadOnly => "read",
                Access::ReadWrite => "read and write",
            };
            anyhow!("{mount}: you may not {verb} {shown} ({}): change its mode, or mount another directory", errno.desc())
        })
    }

    fn open(&self) -> anyhow::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let shown = escape(self.path.as_os_str().as_bytes());
        open(&self.path, flags, Mode::empty())
            .map_err(|errno| anyhow!("mount {}: open {shown}: {}", self.name, errno.desc()))
    }
}

/// The directory of `--rootfs`: there, and one that its user may read.
#[derive(Debug)]
pub struct RootDirectory(PathBuf);

impl RootDirectory {
    pub fn check(given: &Path) -> anyhow::Result<Self> {
        let path = std::path::absolute(given)
            .with_context(|| format!("rootfs {}: resolve it", given.display()))?;
        let shown = escape(path.as_os_str().as_bytes());
        match fs::metadata(&path) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => bail!("rootfs: {shown} is not a directory: unpack the system into one"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                bail!("rootfs: the directory {shown} does not exist: correct the path")
            }
            Err(error) => return Err(error).with_context(|| format!("rootfs: look at {shown}")),
        }
        access(&path, AccessFlags::R_OK | AccessFlags::X_OK).map_err(|errno| {
            anyhow!(
                "rootfs: you may not read {shown} ({}): change its mode, or name another directory",
                errno.desc()
            )
        })?;
        Ok(Self(path))
    }

    /// The directory, and its name.
    pub fn open(self) -> anyhow::Result<(String, OwnedFd)> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let opened = open(&self.0, flags, Mode::empty())
            .map_err(|errno| anyhow!("rootfs: open {}: {}", self.0.display(), errno.desc()))?;
        Ok((true_name(&opened, &self.0), opened))
    }
}

/// The same directory has one name, whatever links led to it.
fn true_name(directory: &OwnedFd, otherwise: &Path) -> String {
    let link = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let path = fs::read_link(link).unwrap_or_else(|_| otherwise.to_owned());
    escape(path.as_os_str().as_bytes())
}

/// Refuses a name that is used twice, whichever way it was given.
pub fn check_names(mounts: &[MountSpec]) -> anyhow::Result<()> {
    for (position, mount) in mounts.iter().enumerate() {
        if let Some(other) = mounts[..position].iter().find(|other| other.name == mount.name) {
            bail!(
                "mount name {} is used twice, for {} and {}: give each mount point a name of its own",
                mount.name,
                escape(other.path.as_os_str().as_bytes()),
                escape(mount.path.as_os_str().as_bytes())
            );
        }
    }
    Ok(())
}

/// Descriptors on their way to the daemon, in order.
#[derive(Debug, Default)]
pub struct Parcel {
    descriptors: Vec<OwnedFd>,
}

impl Parcel {
    /// Adds a descriptor and says at which position.
    pub fn add(&mut self, descriptor: OwnedFd) -> u32 {
        let position = u32::try_from(self.descriptors.len()).expect("far fewer than 2^32");
        self.descriptors.push(descriptor);
        position
    }

    /// Opens the directories of `mounts` and says how the request names them.
    pub fn add_mounts(&mut self, mounts: &[MountSpec]) -> anyhow::Result<Vec<MountRequest>> {
        let mut requests = Vec::with_capacity(mounts.len());
        for mount in mounts {
            let directory = mount.open()?;
            requests.push(MountRequest {
                name: mount.name.clone(),
                mode: mount.access,
                path: true_name(&directory, &mount.path),
                descriptor: self.add(directory),
                artifacts: mount.artifacts,
                cache: mount.cache,
                suid: mount.suid,
            });
        }
        Ok(requests)
    }

    pub fn is_empty(&self) -> bool {
        self.descriptors.is_empty()
    }

    pub fn send(
        self,
        client: &crate::client::Client,
    ) -> Result<(crate::wire::workspace::DescriptorToken, Leash), crate::client::ClientError> {
        let borrowed: Vec<BorrowedFd<'_>> = self.descriptors.iter().map(AsFd::as_fd).collect();
        client.send_descriptors(&borrowed)
    }
}

/// Collects `--ro` and `--rw` and whatever a manifest says.
pub fn collect(
    ro: &[OsString],
    rw: &[OsString],
    manifest: Vec<MountSpec>,
) -> anyhow::Result<Vec<MountSpec>> {
    let mut mounts = manifest;
    for (texts, access) in [(ro, Access::ReadOnly), (rw, Access::ReadWrite)] {
        for text in texts {
            mounts.push(MountSpec::parse(text, access)?);
        }
    }
    check_names(&mounts)?;
    Ok(mounts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        MountSpec::parse(OsStr::new(text), Access::ReadOnly).expect_err("refused").to_string()
    }

    #[test]
    fn a_mount_that_is_not_understood_is_refused_with_the_rule() {
        assert!(refusal("/data").contains("NAME=PATH"));
        assert!(refusal("in/put=/data").contains("mount name \"in/put\" is not allowed"));
        assert!(refusal(".belljar=/data").contains("do not start with a dot"));
        assert!(refusal("input=").contains("no path"));
    }

    #[test]
    fn a_relative_path_starts_at_the_callers_directory() {
        let spec = MountSpec::parse(OsStr::new("a=x/y"), Access::ReadWrite).expect("legal");
        assert_eq!(spec.path, std::env::current_dir().expect("has one").join("x/y"));
    }

    #[test]
    fn a_missing_directory_and_a_file_are_named_with_the_fix() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let spec = |path: PathBuf, create| MountSpec {
            name: "input".parse().expect("legal"),
            path,
            access: Access::ReadOnly,
            artifacts: true,
            cache: CachePolicy::default(),
            suid: SetId::default(),
            create,
        };
        let missing = directory.path().join("gone/deep");
        let error = spec(missing.clone(), false).prepare().expect_err("missing").to_string();
        assert!(error.contains("mount input") && error.contains("gone/deep"), "{error}");
        assert!(error.contains("does not exist") && error.contains("mkdir -p"), "{error}");
        spec(missing.clone(), true).prepare().expect("made");
        assert!(missing.is_dir());
        let file = directory.path().join("file");
        fs::write(&file, "").expect("write");
        let error = spec(file, false).prepare().expect_err("a file").to_string();
        assert!(error.contains("not a directory"), "{error}");
    }

    #[test]
    fn a_name_used_twice_is_refused_with_both_paths() {
        let ro = [OsString::from("a=/x")];
        let rw = [OsString::from("a=/y")];
        let error = collect(&ro, &rw, Vec::new()).expect_err("twice").to_string();
        assert!(error.contains("mount name a") && error.contains("/x and /y"), "{error}");
    }
}
