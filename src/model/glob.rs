//! Patterns for texts and paths: `*`, `**`, `?`, `[a-z]`, `{a,b}`.
//!
//! In a path `*` and `?` stop at a slash and `**` does not. A path pattern without a slash is matched against the last
//! name, as in the ignore patterns; one that begins with a slash against the whole path; any other against what is
//! below the workspace. In any other text a slash is a character like others. `?` stands for one byte.

use globset::{GlobBuilder, GlobMatcher};
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Longest pattern, in bytes. Chosen, not measured: a pattern becomes an automaton that is many times as large.
pub const PATTERN_BYTES_MAX: usize = 1_024;

/// Where a sandbox sees its mount points.
const WORKSPACE: &[u8] = b"/workspace/";

/// A pattern, ready to match. Two are equal when their texts and what they are for are.
#[derive(Debug, Clone)]
pub struct Glob {
    pattern: String,
    subject: Subject,
    matcher: GlobMatcher,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Text,
    LastName,
    BelowWorkspace,
    WholePath,
}

/// What of a value a pattern is matched against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Whole,
    /// What is behind the last slash.
    LastName,
    /// What is behind `/workspace/`; all of what does not begin so.
    BelowWorkspace,
}

/// A pattern that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the pattern {pattern:?} is not allowed: {why}")]
pub struct BadGlob {
    pattern: String,
    why: String,
}

impl Glob {
    pub fn of_path(pattern: &str) -> Result<Self, BadGlob> {
        let subject = match pattern {
            whole if whole.starts_with('/') => Subject::WholePath,
            below if below.contains('/') => Subject::BelowWorkspace,
            _ => Subject::LastName,
        };
        Self::new(pattern, subject)
    }

    pub fn of_text(pattern: &str) -> Result<Self, BadGlob> {
        Self::new(pattern, Subject::Text)
    }

    fn new(pattern: &str, subject: Subject) -> Result<Self, BadGlob> {
        let bad = |why: String| BadGlob { pattern: pattern.to_owned(), why };
        if pattern.len() > PATTERN_BYTES_MAX {
            let mut shown = pattern.chars().take(20).collect::<String>();
            shown.push('…');
            let why = format!("it is longer than {PATTERN_BYTES_MAX} bytes");
            return Err(BadGlob { pattern: shown, why });
        }
        let built = GlobBuilder::new(pattern)
            .literal_separator(subject != Subject::Text)
            .backslash_escape(true)
            .build();
        let matcher = built.map_err(|error| bad(error.kind().to_string()))?.compile_matcher();
        Ok(Self { pattern: pattern.to_owned(), subject, matcher })
    }

    pub fn as_str(&self) -> &str {
        &self.pattern
    }

    /// The same as an expression of the regex crate, over the bytes of the part that is matched.
    pub fn regex(&self) -> &str {
        self.matcher.glob().regex()
    }

    pub fn part(&self) -> Part {
        match self.subject {
            Subject::Text | Subject::WholePath => Part::Whole,
            Subject::LastName => Part::LastName,
            Subject::BelowWorkspace => Part::BelowWorkspace,
        }
    }

    pub fn is_for_paths(&self) -> bool {
        self.subject != Subject::Text
    }

    /// Names are bytes, as in the kernel.
    pub fn matches(&self, subject: &[u8]) -> bool {
        let part = match self.part() {
            Part::Whole => subject,
            Part::LastName => subject.rsplit(|byte| *byte == b'/').next().unwrap_or(subject),
            Part::BelowWorkspace => subject.strip_prefix(WORKSPACE).unwrap_or(subject),
        };
        self.matcher.is_match(Path::new(OsStr::from_bytes(part)))
    }
}

impl PartialEq for Glob {
    fn eq(&self, other: &Self) -> bool {
        self.pattern == other.pattern && self.subject == other.subject
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.pattern)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_pattern_means_the_last_name_the_part_below_the_workspace_or_all() {
        let path = "/workspace/output/a/x.csv";
        let matches = |pattern| Glob::of_path(pattern).expect("legal").matches(path.as_bytes());
        for yes in [
            "*.csv",
            "x.{csv,tsv}",
            "output/**/*.csv",
            "output/*/x.csv",
            "**/a/*",
            "/workspace/**",
            "/workspace/output/a/[w-y].csv",
        ] {
            assert!(matches(yes), "{yes} did not match");
        }
        for no in ["*.json", "a", "output/*.csv", "/workspace/*", "/output/**", "workspace/**"] {
            assert!(!matches(no), "{no} matched");
        }
        let host = Glob::of_path("/data/*/x?y").expect("legal");
        assert!(host.matches(b"/data/out/x\xffy"));
    }

    #[test]
    fn in_a_text_a_slash_is_a_character_like_others() {
        let glob = Glob::of_text("text/*").expect("legal");
        assert!(glob.matches(b"text/csv") && glob.matches(b"text/a/b"));
    }

    #[test]
    fn a_bad_pattern_is_named_and_a_long_one_cut() {
        let error = Glob::of_text("[a").expect_err("refused").to_string();
        assert!(error.contains("\"[a\""), "{error}");
        let error = Glob::of_path(&"a".repeat(2_000)).expect_err("refused").to_string();
        assert!(error.contains("1024 bytes") && error.len() < 120, "{error}");
    }
}
