//! Proofs that the root file system is as it was meant, from the kernel's own table of mounts (proc_pid_mountinfo(5)).
//!
//! Nothing is asked of a file system: one that does not answer must not hold up a start.

use crate::model::access::Access;
use crate::sandbox::layer::Proof;
use crate::sandbox::plan::{API_DIRECTORY, SandboxPlan, WORKSPACE};
use crate::sandbox::protocol::errno_text;
use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, mkdirat};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Mount points of this process in the order in which they were mounted, each with whether it is read-only.
#[derive(Debug)]
pub struct MountTable(Vec<(PathBuf, bool)>);

impl MountTable {
    pub fn read() -> Result<Self, String> {
        let text = std::fs::read("/proc/self/mountinfo")
            .map_err(|e| format!("read /proc/self/mountinfo: {}", errno_text(&e)))?;
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines
            .map(|line| {
                let mut fields = line.split(|byte| *byte == b' ');
                let place = fields.nth(4).map(unescape);
                let options = fields.next();
                match (place, options) {
                    (Some(place), Some(options)) => {
                        Ok((place, options.split(|byte| *byte == b',').any(|o| o == b"ro")))
                    }
                    _ => Err("/proc/self/mountinfo has a line of another form".to_owned()),
                }
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether the mount that a path is on is read-only.
    pub fn is_read_only(&self, path: &Path) -> Result<bool, String> {
        let above = self.0.iter().filter(|(place, _)| path.starts_with(place));
        // The deepest, and of several on one place the last.
        let found = above.max_by_key(|(place, _)| place.components().count());
        found
            .map(|(_, read_only)| *read_only)
            .ok_or_else(|| format!("{} is nowhere", path.display()))
    }
}

/// Spaces and the like are written as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, behind)) = rest.split_first() {
        let octal = behind.first_chunk::<3>().filter(|digits| {
            *first == b'\\' && digits.iter().all(|digit| (b'0'..=b'7').contains(digit))
        });
        match octal {
            Some([a, b, c]) => {
                let value = |digit: &u8| u32::from(digit - b'0');
                bytes.push((value(a) * 64 + value(b) * 8 + value(c)) as u8);
                rest = &behind[3..];
            }
            None => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

/// Every mount is read-only but those that are meant to be written; a directory is tried in the root.
pub fn prove_root(plan: &SandboxPlan, table: &MountTable) -> Result<Proof, String> {
    let writable = |place: &Path| {
        let own = ["/tmp", "/dev/shm"].iter().any(|own| place == Path::new(own));
        own || place == plan.home
    };
    let workspace = Path::new(WORKSPACE);
    // What a test took from the devices or the workspace is found by their own proofs.
    let mine = |place: &Path| {
        let others = place.starts_with(workspace) || place.starts_with("/dev");
        !others || place == Path::new("/dev/pts")
    };
    for (place, read_only) in &table.0 {
        if mine(place) && !read_only && !writable(place) {
            return Err(format!("{} can be written", place.display()));
        }
    }
    for place in ["/", "/usr", "/etc", "/proc", "/proc/sys", API_DIRECTORY] {
        let place = Path::new(place);
        if place.exists() && !table.is_read_only(place)? {
            return Err(format!("{} can be written", place.display()));
        }
    }
    // A given root need not have a /usr, and may have a link of that name.
    let other = if plan.rootfs.is_none() { "/usr" } else { "/etc" };
    for place in ["/.belljar-proof".to_owned(), format!("{other}/.belljar-proof")] {
        match mkdirat(AT_FDCWD, place.as_str(), Mode::S_IRWXU) {
            Err(Errno::EROFS) => {}
            other => return Err(format!("a directory {place} was not EROFS but {other:?}")),
        }
    }
    Ok(Proof::of(format!(
        "/proc/self/mountinfo has every other mount as read-only; a directory was tried in / and in {other}: EROFS"
    )))
}

/// The workspace as a whole and each read-only mount point of it are on read-only mounts.
pub fn prove_read_only_mounts(plan: &SandboxPlan, table: &MountTable) -> Result<Proof, String> {
    let workspace = Path::new(WORKSPACE);
    let own = [workspace.to_owned(), workspace.join(".belljar")];
    let read_only = plan.mounts.iter().filter(|(_, access)| *access == Access::ReadOnly);
    for place in own.into_iter().chain(read_only.map(|(name, _)| workspace.join(name.as_str()))) {
        if !table.is_read_only(&place)? {
            return Err(format!("{} can be written", place.display()));
        }
    }
    Ok(Proof::of("/proc/self/mountinfo has them, and the workspace around them, as read-only"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_on_the_deepest_mount_and_there_on_the_last() {
        let mount = |place: &str, read_only| (PathBuf::from(place), read_only);
        let table = MountTable(vec![
            mount("/", true),
            mount("/workspace", true),
            mount("/workspace/out", true),
            mount("/workspace/out", false),
        ]);
        let is = |path: &str| table.is_read_only(Path::new(path)).expect("mounted");
        assert!(is("/usr") && is("/workspace/output") && is("/workspace/in"));
        assert!(!is("/workspace/out/file"));
        assert!(table.is_read_only(Path::new("relative")).is_err());
    }

    #[test]
    fn an_escaped_mount_point_is_read_as_its_bytes() {
        assert_eq!(unescape(b"/a\\040b\\134"), PathBuf::from("/a b\\"));
        assert_eq!(unescape(b"/a\\04"), PathBuf::from("/a\\04"));
    }
}
