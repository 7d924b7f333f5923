//! Names of artifacts that are shown as files: `<name>@3`, `<name>@latest`, and words as names of directories.

use crate::storage::Which;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Longest name of a directory, in bytes; the host's file systems have the same limit.
const DIRECTORY_NAME_BYTES_MAX: usize = 255;

/// The name of a version of what is called `base`.
pub fn of_version(base: &[u8], which: Which) -> OsString {
    let mut name = base.to_vec();
    match which {
        Which::Latest => name.extend_from_slice(b"@latest"),
        Which::Number(number) => name.extend_from_slice(format!("@{number}").as_bytes()),
    }
    OsString::from_vec(name)
}

/// What [`of_version`] made a name from. What is behind the last `@` is the version, so a base may hold others.
pub fn read_version(name: &[u8]) -> Option<(&[u8], Which)> {
    let at = name.iter().rposition(|byte| *byte == b'@')?;
    let (base, version) = (&name[..at], &name[at + 1..]);
    if base.is_empty() {
        return None;
    }
    if version == b"latest" {
        return Some((base, Which::Latest));
    }
    let number: u64 = std::str::from_utf8(version).ok()?.parse().ok()?;
    // One version has one name: without `+` and zeros in front.
    (number > 0 && number.to_string().as_bytes() == version)
        .then_some((base, Which::Number(number)))
}

/// A word of a user's as the name of a directory: `%`, `/` and NUL are written as `%` and two hexadecimal digits, a word of dots
/// alone begins with `%2E`, and the empty word is `%`. `None` for a word whose name would be too long.
pub fn of_word(word: &str) -> Option<OsString> {
    let mut name = String::with_capacity(word.len());
    for (position, character) in word.chars().enumerate() {
        match character {
            '%' | '/' | '\0' => name.push_str(&format!("%{:02X}", u32::from(character))),
            '.' if position == 0 && matches!(word, "." | "..") => name.push_str("%2E"),
            character => name.push(character),
        }
    }
    if name.is_empty() {
        name.push('%');
    }
    (name.len() <= DIRECTORY_NAME_BYTES_MAX).then(|| name.into())
}

/// What [`of_word`] made a name from; nothing for a name that it does not make.
pub fn read_word(name: &OsStr) -> Option<String> {
    let mut word = Vec::new();
    let mut rest = name.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match (first, after) {
            (b'%', [high, low, ..]) => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).ok()?;
                word.push(u8::from_str_radix(digits, 16).ok()?);
                rest = &after[2..];
            }
            (b'%', []) if word.is_empty() => {}
            (b'%', _) => return None,
            (byte, _) => word.push(*byte),
        }
    }
    let word = String::from_utf8(word).ok()?;
    (of_word(&word).as_deref() == Some(name)).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_has_one_name_and_the_last_at_sign_begins_it() {
        for (base, which) in [
            (&b"a.csv"[..], Which::Number(3)),
            (b"a@7", Which::Latest),
            (b"\xff\n@", Which::Number(u64::MAX)),
        ] {
            let name = of_version(base, which);
            assert_eq!(read_version(name.as_bytes()), Some((base, which)));
        }
        for none in ["a", "@1", "a@", "a@0", "a@01", "a@+1", "a@Latest", "a@99999999999999999999"] {
            assert_eq!(read_version(none.as_bytes()), None, "{none}");
        }
    }

    #[test]
    fn every_word_is_one_name_of_a_directory() {
        let words =
            ["", ".", "..", "...", "a/b", "%2F", "%", "nightly@3", "..\0/", "ü", "a\nb", ".x", " "];
        let names: Vec<OsString> = words.iter().map(|word| of_word(word).expect(word)).collect();
        for (word, name) in words.iter().zip(&names) {
            assert_eq!(read_word(name).as_deref(), Some(*word), "{name:?}");
            let legal = !name.is_empty()
                && !name.as_bytes().iter().any(|byte| matches!(byte, b'/' | 0))
                && name != "."
                && name != "..";
            assert!(legal, "{name:?}");
        }
        let distinct: std::collections::BTreeSet<&OsString> = names.iter().collect();
        assert_eq!(distinct.len(), words.len());
        for other in ["%2f", "%41", "%2E", "%%", "a%", "%2", "%zz"] {
            let read = read_word(OsStr::new(other));
            assert!(read.is_none() || other == "%2E" && read.as_deref() == Some("."), "{other}");
        }
        assert_eq!(of_word(&"x".repeat(256)), None);
        assert_eq!(read_word(OsStr::new(&"x".repeat(256))), None);
    }
}
