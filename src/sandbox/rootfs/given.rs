//! A root that the user names (`--rootfs`) instead of what the host lends: its entries, read-only, each at its place in the
//! sandbox's own root. [Decision 19](../../../docs/decisions/0019-rootfs.md).
//!
//! Nothing has to be in it and nothing is made in it. What the sandbox makes itself is left out at the top; in `/etc` and `/var`,
//! where the sandbox has files too, the entries are lent one by one. A link stays a link, and leads nowhere but into the new root.

use super::{attach, because};
use crate::sandbox::plan::Basis;
use crate::sandbox::protocol::{SetupFailure, errno_text};
use crate::sys::mount::{self, OpenTree};
use crate::sys::openat2::open_beneath;
use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, open, openat, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstatat};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Entries of the root, and of `/etc` and `/var` in it, together: each is a mount. Chosen, not measured: a Debian with a desktop has
/// 300.
const ENTRIES_MAX: usize = 4_096;

/// Longest file that is merged with one of the sandbox's own, in bytes. Chosen, not measured.
const MERGED_BYTES_MAX: u64 = 1 << 20;

/// What the sandbox makes itself.
const OWN: [&str; 7] = ["dev", "home", "proc", "run", "sys", "tmp", "workspace"];

/// Directories in which the sandbox makes something itself, and what.
const SHARED: [(&str, &[&str]); 2] =
    [("etc", &["group", "hostname", "hosts", "mtab", "passwd"]), ("var", &["run", "tmp"])];

/// Where the whole of it is for a moment.
const PLACE: &str = "/.given";

/// A root that was given, in its place.
#[derive(Debug)]
pub struct Given {
    /// As the user knows it.
    name: String,
    /// Directories whose entries are lent without them, so that their own permissions stand in nobody's way any more.
    opened: Vec<(String, OwnedFd)>,
}

impl Given {
    /// Puts everything at its place in the new root, which must be this process's. `besides` are paths that somebody else fills.
    pub fn attach(tree: &OwnedFd, basis: &Basis, besides: &[&Path]) -> Result<Self, SetupFailure> {
        let name = basis.rootfs.clone().unwrap_or_default();
        // Attached first: the kernel copies no part of a mount that is detached and was made in another namespace.
        attach(tree, Path::new(PLACE), &format!("attach {name}"))?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let top = open(PLACE, flags, Mode::empty())
            .map_err(because(format_args!("open the directory {name}")))?;
        let mut lender = Lender { given: Self { name, opened: Vec::new() }, besides, count: 0 };
        lender.lend_top(top)?;
        mount::unmount_detach(PLACE).map_err(because("detach the given root"))?;
        std::fs::remove_dir(PLACE).map_err(because("remove the given root's first place"))?;
        Ok(lender.given)
    }

    /// Whether the run's user could have gone through those directories itself. To be asked as that user, without privileges.
    pub fn check_permissions(&self) -> Result<(), SetupFailure> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        for (path, directory) in &self.opened {
            // The look-up of `.` asks for the right to search as well (path_resolution(7)).
            openat(directory, ".", flags, Mode::empty()).map_err(|errno| {
                let message = format!(
                    "{path} cannot be read by the run's user: {}; change its mode, or name another directory",
                    errno_text(&errno.into())
                );
                SetupFailure::setup(super::STEP, message)
            })?;
        }
        Ok(())
    }

    /// Its own text of a file of `/etc`, where that is a plain file of bearable length.
    pub fn text(&self, name: &str) -> Option<String> {
        let place = format!("{}/etc", self.name);
        let (_, etc) = self.opened.iter().find(|(path, _)| *path == place)?;
        let file = File::from(
            open_beneath(etc, Path::new(name), OFlag::O_RDONLY | OFlag::O_NONBLOCK).ok()?,
        );
        if !file.metadata().ok()?.is_file() {
            return None;
        }
        let mut bytes = Vec::new();
        file.take(MERGED_BYTES_MAX + 1).read_to_end(&mut bytes).ok()?;
        let whole = bytes.len() as u64 <= MERGED_BYTES_MAX;
        whole.then(|| String::from_utf8_lossy(&bytes).into_owned())
    }
}

struct Lender<'a> {
    given: Given,
    besides: &'a [&'a Path],
    count: usize,
}

impl Lender<'_> {
    fn lend_top(&mut self, top: OwnedFd) -> Result<(), SetupFailure> {
        for entry in self.entries(&top, "")? {
            let at = Path::new("/").join(&entry.name);
            let shared = SHARED.iter().find(|(name, _)| entry.name == OsStr::new(name));
            match shared {
                // Something else of that name gives way to the sandbox's directory.
                Some((name, own)) if entry.kind == SFlag::S_IFDIR => {
                    self.lend_inside(&top, name, own)?
                }
                Some(_) => {}
                None if OWN.iter().any(|own| entry.name == OsStr::new(own)) => {}
                None => self.lend(&top, &entry, &at)?,
            }
        }
        let name = self.given.name.clone();
        self.given.opened.push((name, top));
        Ok(())
    }

    fn lend_inside(&mut self, top: &OwnedFd, name: &str, own: &[&str]) -> Result<(), SetupFailure> {
        let place = Path::new("/").join(name);
        let shown = format!("{}/{name}", self.given.name);
        let directory = open_beneath(top, Path::new(name), OFlag::O_RDONLY | OFlag::O_DIRECTORY)
            .map_err(because(format_args!("open {shown}")))?;
        super::make_directories(&place, None)
            .map_err(because(format_args!("make {}", place.display())))?;
        for entry in self.entries(&directory, name)? {
            let at = place.join(&entry.name);
            let taken = own.iter().any(|own| entry.name == OsStr::new(own))
                || self.besides.iter().any(|besides| at == *besides);
            if !taken {
                self.lend(&directory, &entry, &at)?;
            }
        }
        self.given.opened.push((shown, directory));
        Ok(())
    }

    fn lend(&self, directory: &OwnedFd, entry: &Entry, at: &Path) -> Result<(), SetupFailure> {
        let what = format!("lend {}{}", self.given.name, at.display());
        match entry.kind {
            SFlag::S_IFLNK => {
                let target = readlinkat(directory, entry.name.as_path()).map_err(because(&what))?;
                std::os::unix::fs::symlink(target, at).map_err(because(&what))
            }
            SFlag::S_IFDIR | SFlag::S_IFREG => {
                // Recursive, as in `host`: a part must not uncover what another mount hides.
                let flags = OpenTree::CLONE | OpenTree::RECURSIVE | OpenTree::NO_FOLLOW;
                let tree = mount::open_tree(directory, entry.name.as_path(), flags)
                    .map_err(because(&what))?;
                attach(&tree, at, &what)
            }
            // A socket, a named pipe or a device is no part of a system's files.
            _ => Ok(()),
        }
    }

    fn entries(&mut self, directory: &OwnedFd, below: &str) -> Result<Vec<Entry>, SetupFailure> {
        let what = format!("list {}/{below}", self.given.name);
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut listing =
            Dir::openat(directory, ".", flags, Mode::empty()).map_err(because(&what))?;
        let mut entries = Vec::new();
        for entry in listing.iter() {
            let entry = entry.map_err(because(&what))?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            self.count += 1;
            if self.count > ENTRIES_MAX {
                let message = format!(
                    "{} has more than {ENTRIES_MAX} entries at its top and in its etc and var: name the root of a system",
                    self.given.name
                );
                return Err(SetupFailure::setup(super::STEP, message));
            }
            let stat =
                fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(because(&what))?;
            let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
            entries.push(Entry { name: name.into(), kind });
        }
        Ok(entries)
    }
}

struct Entry {
    name: PathBuf,
    kind: SFlag,
}
