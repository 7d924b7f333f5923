//! Looks for secrets in a stream of bytes, in every spelling and across the borders of chunks.
//!
//! The search is that of Wu and Manber ("A fast algorithm for multi-pattern searching", 1994): the last three bytes of
//! a window of eight say how far the window may move, which on most data is six bytes at a time. It is written here, and
//! not taken from a crate, because every byte that a pattern was made of, tables included, is in memory that is
//! overwritten when it is given back; automata of crates keep their copies. Not overwritten are the bytes of the
//! stream itself in the caller's buffer.
//!
//! A spelling that programs break into lines is looked for a second time in the stream without its line breaks,
//! where lines are found that could be such.

use super::encoding::{Encoding, Extent, LOOKED_FOR_BYTES_MIN, Spelling, spellings};
use super::value::SecretValue;
use crate::model::id::SecretName;
use zeroize::{Zeroize, Zeroizing};

/// Bytes of the window; every spelling has at least as many.
const WINDOW: usize = LOOKED_FOR_BYTES_MIN;

/// Bytes that decide how far the window moves.
const BLOCK: usize = 3;

/// Least and largest size of the table of moves, as powers of two. The least is in the processor's nearest cache. Blocks
/// share entries, which costs moves and never a finding.
const TABLE_BITS_MIN: u32 = 14;
const TABLE_BITS_MAX: u32 = 20;

/// Parts of the bytes in which the search goes on at the same time.
const PARTS: usize = 4;

/// So many signs of an encoding on both sides of a line break make it worth a second look: the shortest spelling of the
/// shortest secret in base64 has ten.
const SIGNS_MIN: usize = 10;

/// Secrets in all their spellings, ready to be looked for.
pub struct Finder {
    names: Vec<SecretName>,
    patterns: Vec<Pattern>,
    /// How far the window may move, by the hash of its last block.
    moves: Zeroizing<Vec<u8>>,
    /// Patterns by the hash of the block that ends their first window, sorted.
    ending: Vec<(u32, u32)>,
    /// What is left of a hash of 32 bits indexes the table.
    shift: u32,
    longest: usize,
    longest_wrapped: usize,
}

struct Pattern {
    secret: usize,
    spelling: Spelling,
}

/// A secret that stands in the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub secret: SecretName,
    pub encoding: Encoding,
    /// Where its first byte is, counted from 0.
    pub position: u64,
}

impl std::fmt::Debug for Finder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Finder").field("secrets", &self.names.len()).finish_non_exhaustive()
    }
}

impl Drop for Finder {
    fn drop(&mut self) {
        for (hash, _) in &mut self.ending {
            hash.zeroize();
        }
    }
}

impl Finder {
    pub fn new<'a>(
        secrets: impl IntoIterator<Item = (SecretName, &'a SecretValue)>,
        extent: Extent,
    ) -> Self {
        let mut names: Vec<SecretName> = Vec::new();
        let mut patterns: Vec<Pattern> = Vec::new();
        for (name, value) in secrets {
            let secret = names.iter().position(|known| *known == name).unwrap_or_else(|| {
                names.push(name);
                names.len() - 1
            });
            let spellings = spellings(value.expose(), extent).into_iter();
            patterns.extend(spellings.map(|spelling| Pattern { secret, spelling }));
        }
        Self::over(names, patterns)
    }

    fn over(names: Vec<SecretName>, mut patterns: Vec<Pattern>) -> Self {
        // Longest first: what is masked or named is the larger of two that begin at the same place.
        patterns.sort_by_key(|pattern| std::cmp::Reverse(pattern.spelling.bytes.len()));
        let farthest = (WINDOW - BLOCK + 1) as u8;
        // Sixteen entries for each block keep most of them free.
        let blocks = u32::try_from(patterns.len() * (WINDOW - BLOCK + 1)).unwrap_or(u32::MAX);
        let bits =
            (blocks.saturating_mul(16).max(1).ilog2() + 1).clamp(TABLE_BITS_MIN, TABLE_BITS_MAX);
        let table = if patterns.is_empty() { 0 } else { 1 << bits };
        let longest = |wanted: fn(Encoding) -> bool| {
            let lengths = patterns.iter().filter(|p| wanted(p.spelling.encoding));
            lengths.map(|p| p.spelling.bytes.len()).max().unwrap_or(0)
        };
        let mut finder = Self {
            longest: longest(|_| true),
            longest_wrapped: longest(Encoding::may_be_wrapped),
            names,
            moves: Zeroizing::new(vec![farthest; table]),
            ending: Vec::with_capacity(patterns.len()),
            shift: 32 - bits,
            patterns,
        };
        for number in 0..finder.patterns.len() {
            let window = Zeroizing::new(finder.patterns[number].spelling.bytes[..WINDOW].to_vec());
            for (at, block) in window.windows(BLOCK).enumerate() {
                let entry = finder.hash(block) as usize;
                finder.moves[entry] = finder.moves[entry].min((WINDOW - BLOCK - at) as u8);
            }
            let last = finder.hash(&window[WINDOW - BLOCK..]);
            finder.ending.push((last, u32::try_from(number).unwrap_or(u32::MAX)));
        }
        finder.ending.sort_unstable();
        finder
    }

    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Bytes of the longest spelling.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Reports each pattern in `bytes` with the place where it begins, in no order.
    ///
    /// The window moves in four parts of `bytes` in turn: each move waits for the memory, and four wait at once.
    fn each(&self, bytes: &[u8], mut report: impl FnMut(&Pattern, usize)) {
        if self.is_empty() || bytes.len() < WINDOW {
            return;
        }
        let ends = bytes.len() - WINDOW + 1;
        let bound = |part: usize| WINDOW + ends * part / PARTS;
        let mut at: [usize; PARTS] = std::array::from_fn(bound);
        let stop: [usize; PARTS] = std::array::from_fn(|part| bound(part + 1));
        while (0..PARTS).all(|part| at[part] < stop[part]) {
            for end in &mut at {
                *end += self.step(bytes, *end, &mut report);
            }
        }
        for part in 0..PARTS {
            while at[part] < stop[part] {
                at[part] += self.step(bytes, at[part], &mut report);
            }
        }
    }

    /// Looks at the window that ends before `end`; answers how far the next one is.
    #[inline(always)]
    fn step(&self, bytes: &[u8], end: usize, report: &mut impl FnMut(&Pattern, usize)) -> usize {
        let hash = self.hash(&bytes[end - BLOCK..end]);
        match self.moves[hash as usize] {
            0 => {
                self.compare(&bytes[end - WINDOW..], end - WINDOW, hash, report);
                1
            }
            step => usize::from(step),
        }
    }

    fn hash(&self, block: &[u8]) -> u32 {
        let number = u32::from_le_bytes([block[0], block[1], block[2], 0]);
        // Knuth's multiplier: the high bits depend on all three bytes.
        number.wrapping_mul(2_654_435_761) >> self.shift
    }

    #[cold]
    fn compare(
        &self,
        rest: &[u8],
        start: usize,
        hash: u32,
        report: &mut impl FnMut(&Pattern, usize),
    ) {
        let first = self.ending.partition_point(|(other, _)| *other < hash);
        for (_, number) in self.ending[first..].iter().take_while(|(other, _)| *other == hash) {
            let pattern = &self.patterns[*number as usize];
            if rest.starts_with(&pattern.spelling.bytes) {
                report(pattern, start);
            }
        }
    }

    /// Where secrets stand in `bytes`: begin and end of each, in the order of the begins.
    pub(super) fn ranges(&self, bytes: &[u8]) -> Vec<(usize, usize)> {
        let mut ranges = Vec::new();
        self.each(bytes, |pattern, start| {
            ranges.push((start, start + pattern.spelling.bytes.len()));
        });
        ranges.sort_unstable();
        ranges
    }

    /// Begins to look through a stream.
    pub fn scan(&self) -> Scan<'_> {
        Scan {
            finder: self,
            found: vec![None; self.names.len() * ENCODINGS.len()],
            position: 0,
            tail: Zeroizing::new(Vec::new()),
            joined: Zeroizing::new(Vec::new()),
            unwrapped: Unwrapped::default(),
        }
    }
}

const ENCODINGS: [Encoding; 6] = [
    Encoding::Raw,
    Encoding::Base64,
    Encoding::Base64Url,
    Encoding::Hex,
    Encoding::Url,
    Encoding::Json,
];

/// A stream on its way through a [`Finder`]. Memory: the longest spelling, and one chunk where lines are joined.
pub struct Scan<'a> {
    finder: &'a Finder,
    /// First place of each secret in each encoding.
    found: Vec<Option<u64>>,
    /// Bytes of the stream that were seen.
    position: u64,
    /// The last bytes that were seen, one fewer than the longest spelling has.
    tail: Zeroizing<Vec<u8>>,
    joined: Zeroizing<Vec<u8>>,
    unwrapped: Unwrapped,
}

impl Scan<'_> {
    pub fn update(&mut self, chunk: &[u8]) {
        if self.finder.is_empty() || chunk.is_empty() {
            return;
        }
        let kept = self.finder.longest - 1;
        let tail_from = self.position - self.tail.len() as u64;
        if !self.tail.is_empty() {
            let mut joined = std::mem::take(&mut self.joined);
            joined.clear();
            joined.extend_from_slice(&self.tail);
            joined.extend_from_slice(&chunk[..chunk.len().min(kept)]);
            self.look(&joined, |start| tail_from + start as u64, |_| true);
            self.joined = joined;
        }
        let from = self.position;
        self.look(chunk, |start| from + start as u64, |_| true);
        if self.finder.longest_wrapped > 0 {
            self.look_unwrapped(chunk);
        }
        keep_last(&mut self.tail, chunk, kept);
        self.position += chunk.len() as u64;
    }

    fn look(&mut self, bytes: &[u8], at: impl Fn(usize) -> u64, wanted: fn(Encoding) -> bool) {
        let Scan { finder, found, .. } = self;
        finder.each(bytes, |pattern, start| {
            let encoding = pattern.spelling.encoding;
            let slot = &mut found[pattern.secret * ENCODINGS.len() + encoding as usize];
            if wanted(encoding) && slot.is_none_or(|known| at(start) < known) {
                *slot = Some(at(start));
            }
        });
    }

    /// The same in the stream without line breaks.
    fn look_unwrapped(&mut self, chunk: &[u8]) {
        let border = &self.tail[self.tail.len().saturating_sub(2 * SIGNS_MIN)..];
        let head = &chunk[..chunk.len().min(2 * SIGNS_MIN)];
        let worth_it = has_wrapped_signs(chunk) || has_wrapped_signs(&[border, head].concat());
        let kept = self.finder.longest_wrapped - 1;
        // Without a second look only the last signs are needed, for the next chunk.
        let used = if worth_it { chunk } else { last_signs(chunk, kept) };
        let from = self.position + (chunk.len() - used.len()) as u64;
        self.unwrapped.append(used, from);
        if worth_it {
            let unwrapped = std::mem::take(&mut self.unwrapped);
            self.look(&unwrapped.signs, |at| unwrapped.place(at), Encoding::may_be_wrapped);
            self.unwrapped = unwrapped;
        }
        self.unwrapped.keep_last(kept);
    }

    /// What was found, by secret and encoding.
    pub fn finish(self) -> Vec<Found> {
        let places = self.found.iter().enumerate();
        places
            .filter_map(|(slot, position)| {
                Some(Found {
                    secret: self.finder.names[slot / ENCODINGS.len()].clone(),
                    encoding: ENCODINGS[slot % ENCODINGS.len()],
                    position: (*position)?,
                })
            })
            .collect()
    }
}

/// A part of the stream without its line breaks.
#[derive(Default)]
struct Unwrapped {
    signs: Zeroizing<Vec<u8>>,
    /// Where lines begin: in `signs`, and in the stream.
    lines: Vec<(usize, u64)>,
}

impl Unwrapped {
    fn append(&mut self, bytes: &[u8], position: u64) {
        let mut start = 0;
        let breaks = memchr::memchr2_iter(b'\n', b'\r', bytes).chain([bytes.len()]);
        for end in breaks {
            if end > start {
                self.lines.push((self.signs.len(), position + start as u64));
                self.signs.extend_from_slice(&bytes[start..end]);
            }
            start = end + 1;
        }
    }

    fn place(&self, at: usize) -> u64 {
        let after = self.lines.partition_point(|(begin, _)| *begin <= at);
        let (begin, position) = self.lines[after.saturating_sub(1)];
        position + (at - begin) as u64
    }

    fn keep_last(&mut self, count: usize) {
        let cut = self.signs.len().saturating_sub(count);
        if cut == 0 {
            return;
        }
        let after = self.lines.partition_point(|(begin, _)| *begin <= cut);
        self.lines.drain(..after.saturating_sub(1));
        for (begin, position) in &mut self.lines {
            *position += cut.saturating_sub(*begin) as u64;
            *begin = begin.saturating_sub(cut);
        }
        self.signs.drain(..cut);
    }
}

/// The end of `bytes` that has `count` signs which are no line breaks.
fn last_signs(bytes: &[u8], count: usize) -> &[u8] {
    let signs = bytes.iter().enumerate().rev().filter(|(_, byte)| !matches!(byte, b'\n' | b'\r'));
    let start = signs.take(count).last().map_or(bytes.len(), |(at, _)| at);
    &bytes[start..]
}

/// Whether somewhere an encoded text goes on behind a line break.
fn has_wrapped_signs(bytes: &[u8]) -> bool {
    let is_sign = |byte: &&u8| byte.is_ascii_alphanumeric() || b"+/-_".contains(byte);
    let is_break = |byte: &&u8| matches!(byte, b'\n' | b'\r');
    memchr::memchr_iter(b'\n', bytes).any(|at| {
        let (before, after) = (&bytes[..at], &bytes[at + 1..]);
        let before = before.strip_suffix(b"\r").unwrap_or(before);
        if !(before.last().as_ref().is_some_and(is_sign)
            && after.first().as_ref().is_some_and(is_sign))
        {
            return false;
        }
        // Twice as many bytes: even lines of a single sign are seen.
        let signs = |bytes: &mut dyn Iterator<Item = &u8>| {
            let near = bytes.take(2 * SIGNS_MIN).filter(|byte| !is_break(byte));
            near.take_while(is_sign).count()
        };
        signs(&mut before.iter().rev()) + signs(&mut after.iter()) >= SIGNS_MIN
    })
}

/// Keeps the last `count` bytes of `tail` followed by `chunk`.
fn keep_last(tail: &mut Zeroizing<Vec<u8>>, chunk: &[u8], count: usize) {
    if chunk.len() >= count {
        tail.clear();
        tail.extend_from_slice(&chunk[chunk.len() - count..]);
        return;
    }
    let surplus = (tail.len() + chunk.len()).saturating_sub(count);
    tail.drain(..surplus);
    tail.extend_from_slice(chunk);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::encoding::spellings;

    fn value(bytes: &[u8]) -> SecretValue {
        SecretValue::new(bytes.to_vec()).expect("small")
    }

    fn finder(secrets: &[&[u8]]) -> Finder {
        let values: Vec<SecretValue> = secrets.iter().map(|bytes| value(bytes)).collect();
        let named = values
            .iter()
            .enumerate()
            .map(|(number, value)| (format!("KEY_{number}").parse().expect("legal"), value));
        Finder::new(named, Extent::Piece)
    }

    fn scan(finder: &Finder, chunks: &[&[u8]]) -> Vec<Found> {
        let mut scan = finder.scan();
        for chunk in chunks {
            scan.update(chunk);
        }
        scan.finish()
    }

    /// Bytes that look like nothing and are the same in each run.
    fn noise(count: usize, seed: u64) -> Vec<u8> {
        let mut bytes = vec![0; count];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    const SECRETS: [&[u8]; 4] = [
        b"hunter22",
        b"sk-live-4eC39HqLyjWDarjtT1zdp7dc",
        "p\u{e4}ss \"w\u{f6}rd\"/x?y=1&\nline two".as_bytes(),
        b"\x00\x01\xfe\xff binary \x80 secret \x7f\x0a\xc3",
    ];

    #[test]
    fn every_spelling_is_found_wherever_a_chunk_ends() {
        let finder = finder(&SECRETS);
        for (number, secret) in SECRETS.iter().enumerate() {
            for spelling in spellings(secret, Extent::Piece) {
                let mut content = noise(300, 1);
                content.extend_from_slice(&spelling.bytes);
                content.extend(noise(300, 2));
                for border in 290..320 + spelling.bytes.len() {
                    let (first, second) = content.split_at(border);
                    let (second, third) = second.split_at(1.min(second.len()));
                    let found = scan(&finder, &[first, second, third]);
                    let expected = Found {
                        secret: format!("KEY_{number}").parse().expect("legal"),
                        encoding: spelling.encoding,
                        position: 300,
                    };
                    assert!(found.contains(&expected), "{expected:?} at {border}: {found:?}");
                }
            }
        }
    }

    #[test]
    fn a_spelling_that_is_broken_into_lines_is_found_at_every_width_and_border() {
        let finder = finder(&SECRETS);
        for secret in SECRETS {
            for spelling in spellings(secret, Extent::Piece) {
                if !spelling.encoding.may_be_wrapped() {
                    continue;
                }
                for (width, end) in [(1, "\n"), (3, "\r\n"), (5, "\n"), (64, "\n"), (76, "\r\n")] {
                    let text = [&b"AAAA"[..], &spelling.bytes, b"BBBB"].concat();
                    let lines: Vec<Vec<u8>> =
                        text.chunks(width).map(|line| [line, end.as_bytes()].concat()).collect();
                    let content = [b"-- ".to_vec(), lines.concat(), noise(50, 3)].concat();
                    for border in 0..content.len() {
                        let (first, second) = content.split_at(border);
                        let found = scan(&finder, &[first, second]);
                        let sign = 3 + 4 + 4 / width * end.len();
                        let expected = found.iter().find(|f| f.encoding == spelling.encoding);
                        let at = expected.map(|f| f.position as usize);
                        assert_eq!(at, Some(sign), "width {width} border {border}");
                    }
                }
            }
        }
    }

    #[test]
    fn one_byte_at_a_time_finds_the_same() {
        let finder = finder(&SECRETS);
        let mut content = noise(1000, 4);
        for spelling in SECRETS.iter().flat_map(|secret| spellings(secret, Extent::Piece)) {
            content.extend_from_slice(&spelling.bytes);
            content.push(b'|');
        }
        let single: Vec<&[u8]> = content.chunks(1).collect();
        let whole = scan(&finder, &[&content]);
        assert_eq!(scan(&finder, &single), whole);
        assert!(whole.len() >= 18, "{whole:?}");
    }

    #[test]
    fn one_byte_at_a_time_finds_what_is_broken_into_lines() {
        let finder = finder(&SECRETS);
        let spellings = spellings(SECRETS[1], Extent::Piece).into_iter();
        for spelling in spellings.filter(|spelling| spelling.encoding.may_be_wrapped()) {
            let lines: Vec<_> =
                spelling.bytes.chunks(7).map(|line| [line, b"\r\n"].concat()).collect();
            let content = lines.concat();
            for size in [1, 2, 9] {
                let chunks: Vec<&[u8]> = content.chunks(size).collect();
                let found = scan(&finder, &chunks);
                assert!(found.iter().any(|f| f.position == 0), "{size}: {found:?}");
            }
        }
    }

    #[test]
    fn the_first_place_counts_and_each_secret_has_its_own_name() {
        let finder = finder(&[b"first-secret", b"second-secret"]);
        let content = b"..second-secret..first-secret..second-secret";
        let found = scan(&finder, &[content]);
        let places: Vec<_> = found.iter().map(|f| (f.secret.to_string(), f.position)).collect();
        assert_eq!(places, [("KEY_0".to_owned(), 17), ("KEY_1".to_owned(), 2)]);
    }

    #[test]
    fn what_is_too_short_is_not_looked_for() {
        let finder = finder(&[b"short", b"", b"        "]);
        assert!(finder.is_empty());
        assert!(scan(&finder, &[b"short and        wide"]).is_empty());
    }

    #[test]
    fn a_search_by_hand_finds_the_same_places() {
        proptest::proptest!(|(content in "[ab\n]{0,400}", cut in 0..400usize)| {
            let secret = b"abba\nbab1".map(|byte| if byte == b'1' { b'a' } else { byte });
            // Too few different bytes to be looked for as a secret, which is what makes matches likely; the search
            // itself does not care.
            let pattern = Pattern {
                secret: 0,
                spelling: Spelling { encoding: Encoding::Raw, bytes: Zeroizing::new(secret.to_vec()) },
            };
            let finder = Finder::over(vec!["KEY".parse().expect("legal")], vec![pattern]);
            let (first, second) = content.as_bytes().split_at(cut.min(content.len()));
            let expected = content.as_bytes().windows(secret.len()).position(|w| w == secret);
            let found = scan(&finder, &[first, second]);
            let place = found.first().map(|found| found.position as usize);
            proptest::prop_assert_eq!(place, expected);
        });
    }

    #[test]
    fn debug_shows_nothing_of_the_values() {
        let finder = finder(&[b"hunter22"]);
        assert_eq!(format!("{finder:?}"), "Finder { secrets: 1, .. }");
    }
}
