//! Several values in one field of a query, separated by commas: `state=READY,ARCHIVED`.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt::Display;
use std::str::FromStr;

/// At least one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List<T>(Vec<T>);

impl<T> List<T> {
    /// Nothing when there are no values.
    pub fn of(values: Vec<T>) -> Option<Self> {
        if values.is_empty() { None } else { Some(Self(values)) }
    }

    pub fn values(&self) -> &[T] {
        &self.0
    }
}

impl<T: Display> Serialize for List<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let words: Vec<String> = self.0.iter().map(T::to_string).collect();
        serializer.serialize_str(&words.join(","))
    }
}

impl<'de, T: FromStr<Err: Display>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let values: Result<Vec<T>, _> = text.split(',').map(str::parse).collect();
        values.map(Self).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::artifact::ArtifactState;

    #[test]
    fn values_are_joined_by_commas_and_each_is_checked() {
        let states: List<ArtifactState> =
            serde_json::from_str("\"READY,archived\"").expect("legal");
        assert_eq!(states.values(), [ArtifactState::Ready, ArtifactState::Archived]);
        assert_eq!(serde_json::to_string(&states).expect("text"), "\"READY,ARCHIVED\"");
        for bad in ["\"\"", "\"READY,\"", "\"REDY\""] {
            let error = serde_json::from_str::<List<ArtifactState>>(bad).expect_err("refused");
            assert!(error.to_string().contains("unknown state"), "{error}");
        }
    }
}
