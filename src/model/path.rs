//! Paths inside a mount point, checked once and then carried as proof.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// A file below a mount point's directory: relative, normalised, without `..`; empty means the directory itself.
///
/// Names are bytes, as in the kernel: a name that is not UTF-8 is legal (path_resolution(7)).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct VirtualPath(PathBuf);

/// A path that would not stay below its mount point.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("path {given:?} is not allowed: it must be relative, without `.` or `..` or empty names")]
pub struct InvalidVirtualPath {
    given: PathBuf,
}

impl VirtualPath {
    /// The mount point's own directory.
    pub fn root() -> Self {
        Self::default()
    }

    pub fn parse(path: impl AsRef<Path>) -> Result<Self, InvalidVirtualPath> {
        let path = path.as_ref();
        let mut clean = PathBuf::new();
        for component in path.components() {
            match component {
                Component::Normal(name) if !name.as_bytes().contains(&0) => clean.push(name),
                _ => return Err(InvalidVirtualPath { given: path.to_owned() }),
            }
        }
        Ok(Self(clean))
    }

    /// Builds a path from the names on the way down. Names come from the kernel, which never sends `/`, `.` or `..` as a name to create or look up below a directory.
    pub fn from_names<'a>(
        names: impl IntoIterator<Item = &'a OsStr>,
    ) -> Result<Self, InvalidVirtualPath> {
        let mut bytes = Vec::new();
        for name in names {
            if !bytes.is_empty() {
                bytes.push(b'/');
            }
            bytes.extend_from_slice(name.as_bytes());
        }
        Self::parse(PathBuf::from(OsString::from_vec(bytes)))
    }

    pub fn as_path(&self) -> &Path {
        &self.0
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_os_str().as_bytes()
    }

    pub fn is_root(&self) -> bool {
        self.0.as_os_str().is_empty()
    }

    /// The last name, or nothing for the root.
    pub fn name(&self) -> Option<&OsStr> {
        self.0.file_name()
    }
}

impl fmt::Debug for VirtualPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Renders bytes of a path as text for people and JSON: UTF-8 as it is, every other byte as `\xNN`, and a backslash
/// doubled so that the text can be read back without doubt. Control characters are escaped too: names are chosen by
/// sandboxed programs and must not reach a terminal raw.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                c if c.is_control() => {
                    let mut buffer = [0; 4];
                    for byte in c.encode_utf8(&mut buffer).bytes() {
                        text.push_str(&format!("\\x{byte:02x}"));
                    }
                }
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// The bytes that [`escape`] rendered; `None` for text that it never writes.
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match tail {
            [b'\\', tail @ ..] => {
                bytes.push(b'\\');
                rest = tail;
            }
            [b'x', high, low, tail @ ..] => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                bytes.push(u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()?);
                rest = tail;
            }
            _ => return None,
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_climbs_is_refused() {
        for bad in ["/etc", "..", "a/../b", "../a", "./a"] {
            assert!(VirtualPath::parse(bad).is_err(), "{bad:?} was accepted");
        }
        assert_eq!(VirtualPath::parse("a/b").expect("legal").as_path(), Path::new("a/b"));
        assert!(VirtualPath::parse("").expect("the root").is_root());
    }

    #[test]
    fn bytes_that_are_not_utf8_and_controls_are_escaped() {
        assert_eq!(escape(b"a\xff\\b\x1b[31m\n"), "a\\xff\\\\b\\x1b[31m\\x0a");
        assert_eq!(escape("grüße.csv".as_bytes()), "grüße.csv");
    }

    #[test]
    fn what_was_escaped_is_read_back() {
        for bytes in [&b"a\xff\\b\x1b[31m\n"[..], "grüße.csv".as_bytes(), b"", b"\\x41"] {
            assert_eq!(unescape(&escape(bytes)).as_deref(), Some(bytes));
        }
        for never in ["\\", "\\x4", "\\q", "\\xgg"] {
            assert_eq!(unescape(never), None);
        }
    }
}
