//! Is this file an artifact at all? Decided from its name alone.
//!
//! A pattern that ends in `/` names a directory and is matched against every directory on the way; any other is matched
//! against the last name. `*.tmp` therefore ignores `a.tmp` and not `stage.tmp/a`, which a rename of the directory will
//! put in its place without touching the file.

use crate::model::path::VirtualPath;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use std::ffi::OsStr;
use std::path::Component;

/// What is never worth a version: version control, packages, caches, editors' and SQLite's side files.
pub const IGNORED_BY_DEFAULT: &[&str] = &[
    ".git/",
    "node_modules/",
    "__pycache__/",
    ".venv/",
    "*.tmp",
    "*.swp",
    "*~",
    ".~lock*",
    "*-journal",
    "*-wal",
    "*-shm",
];

/// A pattern that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the ignore pattern {pattern:?} is not allowed: {}", source.kind())]
pub struct BadPattern {
    pattern: String,
    #[source]
    source: globset::Error,
}

/// The ignore patterns, ready to match.
#[derive(Debug)]
pub struct Rules {
    directories: GlobSet,
    files: GlobSet,
}

impl Rules {
    pub fn new<P: AsRef<str>>(patterns: &[P]) -> Result<Self, BadPattern> {
        let (mut directories, mut files) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        for pattern in patterns.iter().map(AsRef::as_ref) {
            let bad = |source| BadPattern { pattern: pattern.to_owned(), source };
            let (set, glob) = match pattern.strip_suffix('/') {
                Some(name) => (&mut directories, name),
                None => (&mut files, pattern),
            };
            set.add(GlobBuilder::new(glob).literal_separator(true).build().map_err(bad)?);
        }
        let build = |set: GlobSetBuilder| {
            set.build().map_err(|source| BadPattern { pattern: "all together".to_owned(), source })
        };
        Ok(Self { directories: build(directories)?, files: build(files)? })
    }

    /// Whether everything in a directory of this name is left alone.
    pub fn ignores_directory(&self, name: &OsStr) -> bool {
        self.directories.is_match(name)
    }

    /// Whether a file with this path is left alone.
    pub fn ignores(&self, path: &VirtualPath) -> bool {
        let Some(name) = path.name() else { return true };
        let parent = path.as_path().parent();
        self.files.is_match(name)
            || parent.is_some_and(|parent| {
                parent.components().any(|component| match component {
                    Component::Normal(name) => self.directories.is_match(name),
                    // A `VirtualPath` has no other components.
                    Component::Prefix(_)
                    | Component::RootDir
                    | Component::CurDir
                    | Component::ParentDir => false,
                })
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    fn ignored(path: &[u8]) -> bool {
        let rules = Rules::new(IGNORED_BY_DEFAULT).expect("the defaults are legal");
        rules.ignores(&VirtualPath::parse(OsStr::from_bytes(path)).expect("path"))
    }

    #[test]
    fn side_files_are_ignored_at_every_depth() {
        for path in [
            ".git/config",
            "a/.git/objects/ab",
            "x/node_modules/y/z.js",
            "a/__pycache__/m.pyc",
            ".venv/bin/python",
            "out.tmp",
            "a/.main.c.swp",
            "notes.txt~",
            ".~lock.report.odt#",
            "db.sqlite-journal",
            "db.sqlite-wal",
            "db.sqlite-shm",
        ] {
            assert!(ignored(path.as_bytes()), "{path} was taken");
        }
        assert!(ignored(b"\xff\xfe.tmp"));
    }

    #[test]
    fn everything_else_is_taken() {
        for path in
            ["git", "a/b.csv", "stage.tmp/part-0", ".gitignore", "node_modules", "a~b", "x.tmp.csv"]
        {
            assert!(!ignored(path.as_bytes()), "{path} was ignored");
        }
        assert!(!ignored(b"line\nbreak\xff.csv"));
    }

    #[test]
    fn a_bad_pattern_is_named() {
        let error = Rules::new(&["[a"]).expect_err("refused").to_string();
        assert!(error.contains("[a"), "{error}");
    }
}
