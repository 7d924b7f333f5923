//! Is this file an artifact at all, and what do the user's rules say of it? Decided from its name alone.
//!
//! The first of the user's rules that matches says all that it says; what it leaves open is decided as without rules.
//!
//! A pattern that ends in `/` names a directory and is matched against every directory on the way; any other is matched
//! against the last name. `*.tmp` therefore ignores `a.tmp` and not `stage.tmp/a`, which a rename of the directory will
//! put in its place without touching the file.

use crate::config::rules::Rule;
use crate::model::id::MountName;
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
#[error("the pattern {pattern:?} is not allowed: {}", source.kind())]
pub struct BadPattern {
    pattern: String,
    #[source]
    source: globset::Error,
}

/// The user's rules and the patterns of what is ignored without them, ready to match.
#[derive(Debug)]
pub struct Rules {
    user: Vec<(Patterns, Rule)>,
    ignored: Patterns,
}

impl Rules {
    pub fn new<P: AsRef<str>>(ignored: &[P], user: &[Rule]) -> Result<Self, BadPattern> {
        let compile = |rule: &Rule| Ok((Patterns::new(&rule.patterns)?, rule.clone()));
        let user = user.iter().map(compile).collect::<Result<_, _>>()?;
        Ok(Self { user, ignored: Patterns::new(ignored)? })
    }

    /// Whether a file with this path is left alone.
    pub fn ignores(&self, mount: &MountName, path: &VirtualPath) -> bool {
        let said = self.rule_for(Some(mount), path).and_then(|rule| rule.ignore);
        path.name().is_none() || said.unwrap_or_else(|| self.ignored.matches(path))
    }

    /// Whether everything in a directory of this name is left alone: a rule of the user's may want some of it.
    pub fn ignores_directory(&self, name: &OsStr) -> bool {
        let wanted = self.user.iter().any(|(_, rule)| rule.ignore == Some(false));
        !wanted && self.ignored.directories.is_match(name)
    }

    /// The user's rule for a file; outside of every mount point, where its name alone is looked at, for none of a mount.
    pub fn rule_for(&self, mount: Option<&MountName>, path: &VirtualPath) -> Option<&Rule> {
        let mut rules = self.user.iter();
        let found = rules.find(|(patterns, rule)| {
            rule.mount.as_ref().is_none_or(|wanted| Some(wanted) == mount) && patterns.matches(path)
        });
        found.map(|(_, rule)| rule)
    }
}

/// Patterns of which one must match. One with a `/` before its end is matched against the whole path below the mount
/// point, one that ends in `/` against each directory on the way, any other against the last name.
#[derive(Debug)]
struct Patterns {
    directories: GlobSet,
    files: GlobSet,
    paths: GlobSet,
}

impl Patterns {
    fn new<P: AsRef<str>>(patterns: &[P]) -> Result<Self, BadPattern> {
        let (mut directories, mut files) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        let mut paths = GlobSetBuilder::new();
        for pattern in patterns.iter().map(AsRef::as_ref) {
            let bad = |source| BadPattern { pattern: pattern.to_owned(), source };
            let (set, glob) = match pattern.strip_suffix('/') {
                Some(name) => (&mut directories, name),
                None if pattern.contains('/') => (&mut paths, pattern.trim_start_matches('/')),
                None => (&mut files, pattern),
            };
            set.add(GlobBuilder::new(glob).literal_separator(true).build().map_err(bad)?);
        }
        let build = |set: GlobSetBuilder| {
            set.build().map_err(|source| BadPattern { pattern: "all together".to_owned(), source })
        };
        Ok(Self { directories: build(directories)?, files: build(files)?, paths: build(paths)? })
    }

    fn matches(&self, path: &VirtualPath) -> bool {
        let Some(name) = path.name() else { return false };
        let parent = path.as_path().parent();
        self.files.is_match(name)
            || self.paths.is_match(path.as_path())
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
        let rules = Rules::new(IGNORED_BY_DEFAULT, &[]).expect("the defaults are legal");
        let path = VirtualPath::parse(OsStr::from_bytes(path)).expect("path");
        rules.ignores(&"output".parse().expect("name"), &path)
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
        let error = Rules::new(&["[a"], &[]).expect_err("refused").to_string();
        assert!(error.contains("[a"), "{error}");
    }

    #[test]
    fn the_first_rule_that_matches_says_what_it_says() {
        let rule = |patterns: &[&str], mount: Option<&str>, ignore, of_type: Option<&str>| Rule {
            patterns: patterns.iter().map(|&pattern| pattern.to_owned()).collect(),
            mount: mount.map(|mount| mount.parse().expect("name")),
            artifact_type: of_type.map(|name| name.parse().expect("legal")),
            ignore,
            metadata: serde_json::Map::new(),
        };
        let rules = [
            rule(&["keep.tmp"], None, Some(false), None),
            rule(&["cache/", "scratch/**"], Some("output"), Some(true), None),
            rule(&["*.bin"], None, None, Some("model")),
            rule(&["*.bin", "*.tmp"], None, Some(true), None),
        ];
        let rules = Rules::new(IGNORED_BY_DEFAULT, &rules).expect("legal");
        let ignores = |mount: &str, path: &str| {
            let path = VirtualPath::parse(path).expect("path");
            rules.ignores(&mount.parse().expect("name"), &path)
        };
        assert!(!ignores("output", "a/keep.tmp"), "a rule outranks the default");
        assert!(ignores("output", "other.tmp"));
        assert!(ignores("output", "a/cache/x") && !ignores("data", "a/cache/x"));
        assert!(ignores("output", "scratch/x/y") && !ignores("output", "a/scratch/x"));
        assert!(!ignores("output", "w.bin"), "the rule that comes first says nothing of ignoring");
        let found = rules.rule_for(
            Some(&"data".parse().expect("name")),
            &VirtualPath::parse("w.bin").expect("path"),
        );
        let named = found.and_then(|rule| rule.artifact_type.as_ref()).map(ToString::to_string);
        assert_eq!(named.as_deref(), Some("model"));
    }
}
