//! The host directories that a workspace is asked to show: looked at once, with a bound on how long they may take.

use super::patience::within;
use super::{Error, MountDefinition};
use crate::model::path::escape;
use nix::sys::stat::{FileStat, SFlag, fstat, stat};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

/// Directories that exist and answered.
#[derive(Debug, Clone)]
pub struct Wanted {
    mounts: Arc<Vec<MountDefinition>>,
    looked: Arc<Vec<Looked>>,
}

/// What a directory was when it was looked at.
#[derive(Debug)]
pub struct Looked {
    pub stat: FileStat,
    /// The directory's true name, or the client's where this process knows none.
    pub host_path: PathBuf,
}

impl Looked {
    pub fn identity(&self) -> (u64, u64) {
        (self.stat.st_dev, self.stat.st_ino)
    }
}

impl Wanted {
    pub fn look(mounts: Vec<MountDefinition>) -> Result<Self, Error> {
        let mounts = Arc::new(mounts);
        let looked = if mounts.is_empty() {
            Vec::new()
        } else {
            ask(&mounts, |mounts| mounts.iter().map(look).collect())?
        };
        Ok(Self { mounts, looked: Arc::new(looked) })
    }

    pub fn is_empty(&self) -> bool {
        self.mounts.is_empty()
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&MountDefinition, &Looked)> {
        self.mounts.iter().zip(self.looked.iter())
    }

    /// Asks more about the directories, with the same bound.
    pub fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&[MountDefinition]) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        ask(&self.mounts, question)
    }
}

fn ask<T: Send + 'static>(
    mounts: &Arc<Vec<MountDefinition>>,
    question: impl FnOnce(&[MountDefinition]) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let one = |mount: &MountDefinition| {
        format!("{} ({})", mount.name, escape(mount.host_path.as_os_str().as_bytes()))
    };
    let what = match mounts.as_slice() {
        [mount] => format!("mount {}", one(mount)),
        mounts => format!("mounts {}", mounts.iter().map(one).collect::<Vec<_>>().join(", ")),
    };
    let mounts = Arc::clone(mounts);
    within(&what, move || question(&mounts))?
}

/// The kernel's name of a directory is preferred, for it is the same whatever links the client went through and whatever
/// the client says; one that leads elsewhere here (the client lives in another mount namespace, the directory was
/// removed) gives way to the client's.
fn look(mount: &MountDefinition) -> Result<Looked, Error> {
    let claimed = &mount.host_path;
    let found = fstat(mount.directory.as_fd()).map_err(|errno| Error::Io {
        doing: format!("look at {} for mount {}", claimed.display(), mount.name),
        source: errno.into(),
    })?;
    if SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT != SFlag::S_IFDIR {
        return Err(Error::Invalid {
            message: format!(
                "mount {}: {} is not a directory; name the directory that holds it",
                mount.name,
                claimed.display()
            ),
        });
    }
    let link = format!("/proc/self/fd/{}", mount.directory.as_raw_fd());
    let known = std::fs::read_link(link).ok().filter(|path| {
        stat(path).is_ok_and(|there| (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino))
    });
    Ok(Looked { stat: found, host_path: known.unwrap_or_else(|| claimed.clone()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn mount(file: &str, claimed: &str) -> MountDefinition {
        MountDefinition {
            name: "a".parse().expect("a name"),
            access: Default::default(),
            directory: File::open(file).expect("open").into(),
            host_path: claimed.into(),
            artifacts: false,
            cache: Default::default(),
            suid: Default::default(),
        }
    }

    #[test]
    fn a_directory_is_known_by_its_true_path_whatever_the_client_claims() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let real = directory.path().canonicalize().expect("exists");
        let mount = mount(real.to_str().expect("plain"), "/elsewhere");
        assert_eq!(look(&mount).expect("a directory").host_path, real);
        drop(directory);
        assert_eq!(look(&mount).expect("a directory").host_path, PathBuf::from("/elsewhere"));
    }

    #[test]
    fn a_file_is_refused() {
        let refused = Wanted::look(vec![mount("/dev/null", "/d")]);
        let error = refused.expect_err("a file").to_string();
        assert!(error.contains("mount a: /d is not a directory"), "{error}");
    }
}
