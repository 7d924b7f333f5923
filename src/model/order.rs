//! In which order artifacts are listed: `created`, `size:asc`.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// By what, and from which end. The text names the direction only where it is not the usual one of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Order {
    pub by: OrderBy,
    pub descending: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderBy {
    Created,
    Updated,
    Size,
    /// As seen inside the workspace, byte by byte.
    Path,
    Type,
}

/// A text that names no order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown order {given:?}: use created, updated, size, path or type, with :asc or :desc for the other direction"
)]
pub struct UnknownOrder {
    given: String,
}

impl OrderBy {
    const ALL: [OrderBy; 5] =
        [OrderBy::Created, OrderBy::Updated, OrderBy::Size, OrderBy::Path, OrderBy::Type];

    pub fn as_str(self) -> &'static str {
        match self {
            OrderBy::Created => "created",
            OrderBy::Updated => "updated",
            OrderBy::Size => "size",
            OrderBy::Path => "path",
            OrderBy::Type => "type",
        }
    }

    /// Newest and largest come first, words in the order of the alphabet.
    fn usually_descends(self) -> bool {
        match self {
            OrderBy::Created | OrderBy::Updated | OrderBy::Size => true,
            OrderBy::Path | OrderBy::Type => false,
        }
    }
}

impl Default for Order {
    fn default() -> Self {
        Self { by: OrderBy::Created, descending: true }
    }
}

impl FromStr for Order {
    type Err = UnknownOrder;

    fn from_str(text: &str) -> Result<Self, UnknownOrder> {
        let unknown = || UnknownOrder { given: text.to_owned() };
        let (name, direction) = match text.split_once(':') {
            Some((name, direction)) => (name, Some(direction)),
            None => (text, None),
        };
        let by = OrderBy::ALL.into_iter().find(|by| by.as_str() == name).ok_or_else(unknown)?;
        let descending = match direction {
            None => by.usually_descends(),
            Some("asc") => false,
            Some("desc") => true,
            Some(_) => return Err(unknown()),
        };
        Ok(Self { by, descending })
    }
}

impl TryFrom<String> for Order {
    type Error = UnknownOrder;

    fn try_from(text: String) -> Result<Self, UnknownOrder> {
        text.parse()
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.by.as_str())?;
        match (self.descending, self.by.usually_descends()) {
            (true, true) | (false, false) => Ok(()),
            (true, false) => f.write_str(":desc"),
            (false, true) => f.write_str(":asc"),
        }
    }
}

impl From<Order> for String {
    fn from(order: Order) -> String {
        order.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_written_as_it_is_read_and_a_wrong_one_is_named() {
        for text in ["created", "created:asc", "updated", "size:asc", "path", "type:desc"] {
            assert_eq!(text.parse::<Order>().expect("legal").to_string(), text);
        }
        let long: Order = "size:desc".parse().expect("legal");
        assert_eq!(long.to_string(), "size");
        for bad in ["", "name", "size:", "size:up", "Size"] {
            let error = bad.parse::<Order>().expect_err("refused").to_string();
            assert!(error.contains(&format!("{bad:?}")) && error.contains("created"), "{error}");
        }
    }
}
