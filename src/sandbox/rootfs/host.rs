//! What the host lends to every sandbox, read-only: programs, libraries, and the few files of `/etc` that programs need to run.
//!
//! Nothing else of `/etc` appears inside. In particular no directory that may hold private keys: user id 0 without capabilities still
//! owns them and could read them.

use super::{LENT, attach, because};
use crate::sandbox::plan::Basis;
use crate::sandbox::protocol::SetupFailure;
use crate::sys::mount::{self, OpenTree};
use crate::wire::run::Network;
use nix::fcntl::AT_FDCWD;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Beside `/usr`: links into it on a merged-usr system, directories of their own elsewhere.
const PROGRAMS: [&str; 6] = ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

/// What of `/etc` appears inside, where the host has it.
const ETC: [&str; 31] = [
    // The dynamic loader and the alternatives system.
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "alternatives",
    // Trust in certificates; the private keys beside them stay outside.
    "ssl/certs",
    "ssl/openssl.cnf",
    "ssl/cert.pem",
    "ca-certificates",
    "ca-certificates.conf",
    "pki/ca-trust",
    "pki/tls/certs",
    "pki/tls/cert.pem",
    "pki/tls/openssl.cnf",
    "crypto-policies",
    // Names of things.
    "localtime",
    "timezone",
    "mime.types",
    "protocols",
    "services",
    "rpc",
    "os-release",
    "debian_version",
    "locale.alias",
    // Settings of programs and libraries that fail or change their output without them.
    "fonts",
    "inputrc",
    "magic",
    "terminfo",
    "perl",
    "R",
    "xml",
    "OpenCL",
];

/// Likewise, by the beginning of the name: one directory for each version.
const ETC_PREFIXES: [&str; 3] = ["python3", "java", "ImageMagick"];

/// What name look-up needs besides, with the host's network. `hosts` is written by `etc`.
const ETC_NETWORK: [&str; 3] = ["resolv.conf", "host.conf", "gai.conf"];

/// Everything that may be lent by its name.
pub fn names() -> impl Iterator<Item = PathBuf> {
    let etc = ETC.into_iter().chain(ETC_NETWORK);
    let etc = etc.map(|name| Path::new("/etc").join(name));
    [PathBuf::from("/usr")].into_iter().chain(PROGRAMS.map(PathBuf::from)).chain(etc)
}

/// Whether a mount at this place would be lent with what is around it.
pub fn lends_from(place: &[u8]) -> bool {
    let place = Path::new(OsStr::from_bytes(place));
    ["/usr", "/etc"].into_iter().chain(PROGRAMS).any(|lent| place.starts_with(lent))
}

/// Copies of the host's mounts, detached and read-only.
#[derive(Debug, Default)]
pub struct Lent {
    trees: Vec<(PathBuf, OwnedFd)>,
    links: Vec<(PathBuf, PathBuf)>,
}

/// Takes the copies. The root must still be the host's.
pub fn gather(basis: &Basis) -> Result<Lent, SetupFailure> {
    let mut lent = Lent::default();
    if basis.rootfs.is_none() {
        lent.lend_system()?;
    }
    match basis.network {
        Network::None => {}
        Network::Host => {
            for name in ETC_NETWORK {
                lent.lend_if_present(Path::new("/etc").join(name))?;
            }
        }
    }
    Ok(lent)
}

impl Lent {
    /// Programs, and their files in `/etc`.
    fn lend_system(&mut self) -> Result<(), SetupFailure> {
        self.lend(PathBuf::from("/usr"))?;
        for path in PROGRAMS {
            self.lend_or_link(PathBuf::from(path))?;
        }
        let etc = Path::new("/etc");
        for name in ETC {
            self.lend_or_link(etc.join(name))?;
        }
        for entry in std::fs::read_dir(etc).map_err(because("read the host's /etc"))? {
            let name = entry.map_err(because("read the host's /etc"))?.file_name();
            if ETC_PREFIXES.iter().any(|prefix| name.as_bytes().starts_with(prefix.as_bytes())) {
                self.lend_or_link(etc.join(name))?;
            }
        }
        Ok(())
    }

    /// Where the copies will be.
    pub fn places(&self) -> Vec<&Path> {
        self.trees.iter().map(|(path, _)| path.as_path()).collect()
    }

    /// A link into `/usr` stays a link, since some programs read the name of the time zone from it; a link to anywhere else
    /// would lead nowhere inside, and what it points to is lent in its place.
    fn lend_or_link(&mut self, path: PathBuf) -> Result<(), SetupFailure> {
        if let Ok(target) = std::fs::read_link(&path)
            && path.canonicalize().is_ok_and(|real| real.starts_with("/usr"))
        {
            self.links.push((path, target));
            return Ok(());
        }
        self.lend_if_present(path)
    }

    fn lend_if_present(&mut self, path: PathBuf) -> Result<(), SetupFailure> {
        match clone(&path) {
            Ok(tree) => self.trees.push((path, tree)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&path, error)),
        }
        Ok(())
    }

    fn lend(&mut self, path: PathBuf) -> Result<(), SetupFailure> {
        let tree = clone(&path).map_err(|error| failed(&path, error))?;
        self.trees.push((path, tree));
        Ok(())
    }

    /// Puts everything at its place in the new root.
    pub fn attach(self) -> Result<(), SetupFailure> {
        for (path, tree) in &self.trees {
            attach(tree, path, &format!("bind {} read-only", path.display()))?;
        }
        for (path, target) in &self.links {
            if let Some(parent) = path.parent() {
                super::make_directories(parent, None)
                    .map_err(because(format_args!("make {}", parent.display())))?;
            }
            std::os::unix::fs::symlink(target, path)
                .map_err(because(format_args!("link {}", path.display())))?;
        }
        Ok(())
    }
}

/// Recursive, since the kernel refuses to copy a tree in a user namespace without the mounts that cover parts of it.
fn clone(path: &Path) -> io::Result<OwnedFd> {
    let tree = mount::open_tree(AT_FDCWD, path, OpenTree::CLONE | OpenTree::RECURSIVE)?;
    mount::mount_setattr(&tree, "", true, LENT, true)?;
    Ok(tree)
}

fn failed(path: &Path, error: io::Error) -> SetupFailure {
    because(format_args!("bind {} read-only", path.display()))(error)
}
