//! Cursors as callers see them: a text that is good for the page after, of the same question and nothing else.
//!
//! The text holds the place in the list, a digest of the question, and the moment from which its relative times count, so
//! that all pages of a list mean the same by `7d`. It is no secret and no proof: who forges one finds their own artifacts
//! in another place of the list.

use crate::storage::{Cursor, SortKey};
use crate::wire::artifact::ArtifactQuery;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Longest cursor that is looked at: a path has at most 4,096 bytes (PATH_MAX), and is in it as base64 twice over.
const LENGTH_MAX: usize = 16 << 10;

/// Why a text is no cursor of this question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    Unreadable,
    OfAnotherQuestion,
}

/// Short names: the text travels in a URL.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    /// Digest of the question.
    q: String,
    /// The moment of the first page, in microseconds since 1970.
    t: i64,
    /// The version's own number.
    v: i64,
    k: Key,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Key {
    N(i64),
    /// In base64.
    B(String),
}

pub(super) fn encode(
    query: &ArtifactQuery,
    owner: Option<u32>,
    now: Timestamp,
    at: Cursor,
) -> String {
    let k = match at.key {
        SortKey::Number(number) => Key::N(number),
        SortKey::Bytes(bytes) => Key::B(URL_SAFE_NO_PAD.encode(bytes)),
    };
    let content = Content { q: digest(query, owner), t: now.as_microsecond(), v: at.version, k };
    let json = serde_json::to_vec(&content).expect("a cursor has text keys only");
    URL_SAFE_NO_PAD.encode(json)
}

/// The moment of the first page, and the place.
pub(super) fn decode(
    text: &str,
    query: &ArtifactQuery,
    owner: Option<u32>,
) -> Result<(Timestamp, Cursor), Refused> {
    let read = || {
        let json =
            URL_SAFE_NO_PAD.decode(Some(text).filter(|text| text.len() <= LENGTH_MAX)?).ok()?;
        let content: Content = serde_json::from_slice(&json).ok()?;
        let key = match &content.k {
            Key::N(number) => SortKey::Number(*number),
            Key::B(bytes) => SortKey::Bytes(URL_SAFE_NO_PAD.decode(bytes).ok()?),
        };
        let now = Timestamp::from_microsecond(content.t).ok()?;
        Some((content.q, now, Cursor { key, version: content.v }))
    };
    let (asked, now, at) = read().ok_or(Refused::Unreadable)?;
    if asked != digest(query, owner) {
        return Err(Refused::OfAnotherQuestion);
    }
    Ok((now, at))
}

/// Of all that decides which rows are in the list and in which order: not of the page's length.
fn digest(query: &ArtifactQuery, owner: Option<u32>) -> String {
    let asked = ArtifactQuery { limit: None, cursor: None, ..query.clone() };
    let text = serde_json::to_vec(&(asked, owner)).expect("a query has text keys only");
    URL_SAFE_NO_PAD.encode(&blake3::hash(&text).as_bytes()[..9])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_for_its_own_question() {
        let query = ArtifactQuery { graph: Some("g".into()), ..Default::default() };
        let now = Timestamp::from_microsecond(7_000_000).expect("a time");
        for key in [SortKey::Number(-5), SortKey::Bytes(b"/workspace/\xff".to_vec())] {
            let at = Cursor { key, version: 12 };
            let text = encode(&query, Some(1), now, at.clone());
            let longer =
                ArtifactQuery { limit: Some(7), cursor: Some(text.clone()), ..query.clone() };
            assert_eq!(decode(&text, &longer, Some(1)), Ok((now, at)));
            let other = ArtifactQuery { graph: Some("h".into()), ..query.clone() };
            assert_eq!(decode(&text, &other, Some(1)), Err(Refused::OfAnotherQuestion));
            assert_eq!(decode(&text, &query, Some(2)), Err(Refused::OfAnotherQuestion));
            assert_eq!(decode(&text[1..], &query, Some(1)), Err(Refused::Unreadable));
        }
        for bad in ["", "x", "12", "e30", &"A".repeat(20_000)] {
            assert_eq!(decode(bad, &query, None), Err(Refused::Unreadable), "{bad}");
        }
    }
}
