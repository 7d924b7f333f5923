//! Replaces secrets in what is shown or stored with `***`.
//!
//! A secret that is cut by the end of what was written so far must not leave in two halves: a stream holds back as many
//! bytes as the longest spelling has, less one, and a secret's neighbours leave with it.

use super::find::Finder;
use std::io::{self, Write};
use zeroize::Zeroizing;

/// What stands in the place of a secret.
pub const MASK: &str = "***";

/// A stream without secrets: everything written to it goes on to the writer below, later and masked.
///
/// Made over a finder of whole values ([`Extent::Whole`](super::encoding::Extent::Whole)); one of pieces would leave the
/// rest of a long value standing. [`finish`](Self::finish) writes what is held back; dropping the stream drops it.
pub struct Masker<'a, W: Write> {
    finder: &'a Finder,
    below: W,
    held: Zeroizing<Vec<u8>>,
    /// So many bytes at the begin of `held` belong to a secret whose mask is written already.
    masked: usize,
}

impl<'a, W: Write> Masker<'a, W> {
    pub fn new(finder: &'a Finder, below: W) -> Self {
        Self { finder, below, held: Zeroizing::new(Vec::new()), masked: 0 }
    }

    /// Writes what begins before `end` of the held bytes, masked, and forgets it.
    fn release(&mut self, end: usize) -> io::Result<()> {
        let mut covered = self.masked;
        for (start, stop) in self.finder.ranges(&self.held) {
            if start >= end {
                break;
            }
            if start >= covered {
                self.below.write_all(&self.held[covered..start])?;
                self.below.write_all(MASK.as_bytes())?;
            }
            covered = covered.max(stop);
        }
        if covered < end {
            self.below.write_all(&self.held[covered..end])?;
        }
        self.masked = covered.saturating_sub(end);
        self.held.drain(..end);
        Ok(())
    }

    /// Writes the rest and gives the writer back.
    pub fn finish(mut self) -> io::Result<W> {
        self.release(self.held.len())?;
        self.below.flush()?;
        Ok(self.below)
    }
}

impl<W: Write> Write for Masker<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.held.extend_from_slice(bytes);
        let kept = self.finder.longest().saturating_sub(1);
        if self.held.len() > kept {
            self.release(self.held.len() - kept)?;
        }
        Ok(bytes.len())
    }

    /// Flushes what has left; what is held back stays, since it may be the begin of a secret.
    fn flush(&mut self) -> io::Result<()> {
        self.below.flush()
    }
}

/// The bytes without secrets.
pub fn mask_bytes(finder: &Finder, bytes: &[u8]) -> Vec<u8> {
    let mut masker = Masker::new(finder, Vec::with_capacity(bytes.len()));
    masker.held.extend_from_slice(bytes);
    masker.finish().expect("a vector takes everything")
}

/// The text without secrets.
pub fn mask_text(finder: &Finder, text: &str) -> String {
    let masked = mask_bytes(finder, text.as_bytes());
    // A value that is no text of its own can be cut out of the middle of a character.
    String::from_utf8(masked)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::SecretValue;
    use crate::secret::encoding::{Extent, spellings};

    fn finder(secrets: &[&[u8]]) -> Finder {
        let values: Vec<SecretValue> =
            secrets.iter().map(|bytes| SecretValue::new(bytes.to_vec()).expect("small")).collect();
        let named = values.iter().map(|value| ("KEY".parse().expect("legal"), value));
        Finder::new(named, Extent::Whole)
    }

    fn masked(finder: &Finder, pieces: &[&[u8]]) -> Vec<u8> {
        let mut masker = Masker::new(finder, Vec::new());
        for piece in pieces {
            masker.write_all(piece).expect("a vector takes everything");
        }
        masker.finish().expect("a vector takes everything")
    }

    #[test]
    fn every_spelling_is_masked_wherever_a_write_ends() {
        let long: Vec<u8> = (0..300u16).map(|n| b'!' + (n * 7 % 90) as u8).collect();
        for secret in [&b"hunter22"[..], b"top \"secret\"/\n & more", &long] {
            let finder = finder(&[secret]);
            for spelling in spellings(secret, Extent::Whole) {
                let text = [b"before ", &spelling.bytes[..], b" after"].concat();
                for border in 0..=text.len() {
                    let (first, second) = text.split_at(border);
                    let out = masked(&finder, &[first, second]);
                    assert_eq!(out.escape_ascii().to_string(), "before *** after");
                }
                let single: Vec<&[u8]> = text.chunks(1).collect();
                assert_eq!(masked(&finder, &single), b"before *** after");
            }
        }
    }

    #[test]
    fn what_overlaps_is_masked_as_one_and_neighbours_one_by_one() {
        let finder = finder(&[b"abcd1234", b"1234efgh"]);
        assert_eq!(masked(&finder, &[b"abcd1234efgh!"]), b"***!");
        assert_eq!(masked(&finder, &[b"abcd12", b"34ef", b"gh!"]), b"***!");
        let out = masked(&finder, &[b"abcd1234.1234efgh"]);
        assert_eq!(out, b"***.***");
    }

    #[test]
    fn nothing_else_changes_and_no_more_is_held_back_than_the_longest_spelling() {
        let finder = finder(&[b"hunter22"]);
        let mut masker = Masker::new(&finder, Vec::new());
        masker.write_all(&[b'x'; 1000]).expect("a vector takes everything");
        assert!(masker.below.len() > 1000 - finder.longest());
        let all: Vec<u8> = (0..=255).cycle().take(5000).collect();
        assert_eq!(masked(&finder, &[&all]), all);
        let nothing = super::super::find::Finder::new([], Extent::Whole);
        assert_eq!(masked(&nothing, &[b"a", b"b"]), b"ab");
    }

    #[test]
    fn no_secret_survives_any_way_of_writing() {
        let finder = finder(&[b"s3cr3t-value"]);
        proptest::proptest!(|(parts in proptest::collection::vec(
            proptest::prop_oneof![
                proptest::strategy::Just("s3cr3t-value"),
                proptest::strategy::Just("s3cr3t-"),
                proptest::strategy::Just("value"),
                proptest::strategy::Just("s"),
                proptest::strategy::Just("xyz"),
            ], 0..20))| {
            let pieces: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
            let out = String::from_utf8(masked(&finder, &pieces)).expect("ASCII");
            let expected = parts.concat().replace("s3cr3t-value", MASK);
            proptest::prop_assert_eq!(out, expected);
        });
    }

    #[test]
    fn text_stays_text() {
        let finder = finder(&[b"p\xc3\xa4ssw\xc3\xb6rd"]);
        assert_eq!(mask_text(&finder, "pässwörd für alle"), "*** für alle");
    }
}
