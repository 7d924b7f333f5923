//! Texts as PostgreSQL can hold them: it has every character but U+0000, which JSON and names that programs give may have.
//!
//! U+0000 is written as U+0001 U+0001 and U+0001 as U+0001 U+0002. Texts compare as they did before, no two become the same,
//! and those without either character, which are nearly all, stay as they are.

use std::borrow::Cow;

const ZERO: char = '\0';
const MARK: char = '\u{1}';

pub(super) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains([ZERO, MARK]) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.replace(MARK, "\u{1}\u{2}").replace(ZERO, "\u{1}\u{1}"))
}

pub(super) fn unescape(text: String) -> String {
    if !text.contains(MARK) {
        return text;
    }
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            MARK => match characters.next() {
                Some(MARK) => plain.push(ZERO),
                // U+0002 always: nothing else was written behind a mark.
                Some(_) | None => plain.push(MARK),
            },
            other => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_escaped_comes_back_and_keeps_its_order(
            one in "[\\x00-\\x03aé]{0,6}",
            other in "[\\x00-\\x03aé]{0,6}",
        ) {
            let (first, second) = (escape(&one), escape(&other));
            prop_assert!(!first.contains(ZERO));
            prop_assert_eq!(one.cmp(&other), first.cmp(&second));
            prop_assert_eq!(unescape(first.into_owned()), one);
        }
    }
}
