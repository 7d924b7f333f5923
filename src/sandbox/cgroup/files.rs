//! The small text files of a cgroup.

use crate::sandbox::protocol::errno_text;
use std::fs;
use std::path::Path;

/// Writes a setting and reads it back: what the kernel does not give back as it was written is not in force.
pub fn set(directory: &Path, file: &str, value: &str) -> Result<(), String> {
    let path = directory.join(file);
    fs::write(&path, value)
        .map_err(|error| format!("write {value} to {}: {}", path.display(), errno_text(&error)))?;
    let back = fs::read_to_string(&path)
        .map_err(|error| format!("read {} back: {}", path.display(), errno_text(&error)))?;
    if back.trim_end() == value {
        return Ok(());
    }
    let back = back.trim_end();
    Err(format!("{} says {back} after {value} was written", path.display()))
}

/// A file that is one number.
pub fn read_number(directory: &Path, file: &str) -> Option<u64> {
    fs::read_to_string(directory.join(file)).ok()?.trim_end().parse().ok()
}

/// The number behind a word, in a file with one on each line.
pub fn read_key(directory: &Path, file: &str, key: &str) -> Option<u64> {
    let text = fs::read_to_string(directory.join(file)).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    value?.parse().ok()
}

/// Process ids of its members, as this process's own pid namespace numbers them; 0 for one outside of it.
pub fn members(directory: &Path) -> Vec<i32> {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_does_not_come_back_is_an_error() {
        let directory = tempfile::tempdir().expect("temporary directory");
        assert_eq!(set(directory.path(), "pids.max", "7"), Ok(()));
        // A file that takes everything and keeps nothing.
        std::os::unix::fs::symlink("/dev/null", directory.path().join("memory.max")).expect("link");
        let error = set(directory.path(), "memory.max", "4096").expect_err("not kept");
        assert!(error.contains("memory.max says  after 4096 was written"), "{error}");
        let error = set(directory.path(), "none/cpu.max", "1").expect_err("no such directory");
        assert!(error.contains("none/cpu.max: ENOENT"), "{error}");
    }

    #[test]
    fn a_word_is_found_whole() {
        let directory = tempfile::tempdir().expect("temporary directory");
        fs::write(directory.path().join("memory.events"), "oom 3\noom_kill 2\noom_group_kill 1\n")
            .expect("write");
        assert_eq!(read_key(directory.path(), "memory.events", "oom"), Some(3));
        assert_eq!(read_key(directory.path(), "memory.events", "oom_kill"), Some(2));
        assert_eq!(read_key(directory.path(), "memory.events", "max"), None);
    }
}
