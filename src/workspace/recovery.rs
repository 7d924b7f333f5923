//! Cleaning up after an instance that did not end in order: its mounts, its cgroups and its directories.
//!
//! Whether the instance is dead is decided by its lock in the state directory, before this is called. A dead daemon's
//! FUSE mount answers everything with ENOTCONN; it is recognised in the mount table, never by touching it.

use crate::sandbox::cgroup;
use crate::sys::mount;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Unmounts what a dead instance with a runtime directory of its own left there, and removes the directory.
/// Answers how many mounts there were.
pub fn clean_up(own: &Path) -> usize {
    let unmounted = unmount_below(&own.join("workspaces"));
    remove_cgroups(own);
    // Only names that an instance makes are removed: the path comes from a file.
    for name in ["runs", "scratch", "cgroups"] {
        let _ = std::fs::remove_dir_all(own.join(name));
    }
    for name in ["belljar.sock", "belljar.sock.fds", "belljar.sock.lock"] {
        let _ = std::fs::remove_file(own.join(name));
    }
    let _ = std::fs::remove_dir(own);
    unmounted
}

/// Ends what is left in the cgroups of a dead instance's runs, and removes them.
pub fn remove_cgroups(own: &Path) {
    let removed = cgroup::recover(&own.join("cgroups"));
    if removed > 0 {
        tracing::info!(removed, "removed cgroups of runs that a dead instance had left");
    }
}

/// Unmounts every workspace below `workspaces` and removes the empty directories. Answers how many mounts there were.
pub fn unmount_below(workspaces: &Path) -> usize {
    let mut unmounted = 0;
    for at in mounted_below(workspaces) {
        match mount::unmount_detach(at.as_path()) {
            Ok(()) => {
                tracing::info!(at = %at.display(), "unmounted what a dead instance had left");
                unmounted += 1;
            }
            Err(error) => {
                tracing::warn!(%error, at = %at.display(), "unmount what a dead instance had left");
            }
        }
    }
    remove_empty_below(workspaces);
    unmounted
}

/// FUSE mounts of this program below a directory, but for those inside another of them: they go with it, and the way to them
/// leads through it, which does not answer.
fn mounted_below(directory: &Path) -> Vec<PathBuf> {
    let Ok(table) = std::fs::read("/proc/self/mountinfo") else { return Vec::new() };
    let found: Vec<PathBuf> = table
        .split(|b| *b == b'\n')
        .filter_map(|line| {
            let mut fields = line.split(|b| *b == b' ');
            let at = unescape(fields.nth(4)?);
            let mut fields = fields.skip_while(|field| *field != b"-");
            fields.next()?;
            (fields.next()? == b"fuse.belljar" && at.starts_with(directory)).then_some(at)
        })
        .collect();
    outermost(found)
}

fn outermost(mut mounts: Vec<PathBuf>) -> Vec<PathBuf> {
    mounts.sort_by_key(|at| at.components().count());
    let mut outermost: Vec<PathBuf> = Vec::new();
    for at in mounts {
        if !outermost.iter().any(|outer| at.starts_with(outer)) {
            outermost.push(at);
        }
    }
    outermost
}

/// Space, tab, newline and backslash are written as octal escapes (proc_pid_mountinfo(5)).
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = &after[3..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// Removes the empty directories of `<workspaces>/<uid>/<id>`; what is not empty is somebody's and stays.
pub fn remove_empty_below(workspaces: &Path) {
    let children = |directory: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(directory).into_iter().flatten();
        entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect()
    };
    for owner in children(workspaces) {
        for workspace in children(&owner) {
            let _ = std::fs::remove_dir(workspace);
        }
        let _ = std::fs::remove_dir(owner);
    }
    let _ = std::fs::remove_dir(workspaces);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_inside_another_goes_with_it() {
        let mounts =
            ["/r/1/a/.belljar/artifacts", "/r/1/a", "/r/1/ab", "/r/1/b/.belljar/artifacts"];
        let kept = outermost(mounts.map(PathBuf::from).to_vec());
        assert_eq!(kept, ["/r/1/a", "/r/1/ab", "/r/1/b/.belljar/artifacts"].map(PathBuf::from));
    }

    #[test]
    fn octal_escapes_of_the_mount_table_are_read_back() {
        assert_eq!(unescape(b"/a\\040b\\134c"), Path::new("/a b\\c"));
        assert_eq!(unescape(b"/plain"), Path::new("/plain"));
        assert_eq!(unescape(b"/end\\04"), Path::new("/end\\04"));
    }
}
