//! What a user says about files by their names: whether they are artifacts, of which type, with which metadata.

use crate::model::id::MountName;
use globset::GlobBuilder;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Most rules. Each file is matched against them one after the other. Chosen, not measured.
pub const RULES_MAX: usize = 256;

/// Most metadata of one rule, as JSON: it is stored with every version that the rule matches. Chosen, not measured.
const METADATA_BYTES_MAX: usize = 4 * 1024;

/// One entry of `artifacts.rules`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, try_from = "Entry")]
pub struct Rule {
    /// Globs; one of them must match.
    #[serde(rename = "match")]
    pub patterns: Vec<String>,
    /// Only in mount points of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount: Option<MountName>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<TypeName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignore: Option<bool>,
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    pub metadata: serde_json::Map<String, serde_json::Value>,
}

/// A rule as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(rename = "match")]
    patterns: Patterns,
    #[serde(default)]
    mount: Option<MountName>,
    #[serde(default, rename = "type")]
    artifact_type: Option<TypeName>,
    #[serde(default)]
    ignore: Option<bool>,
    #[serde(default)]
    metadata: serde_json::Map<String, serde_json::Value>,
}

impl TryFrom<Entry> for Rule {
    type Error = String;

    fn try_from(entry: Entry) -> Result<Self, String> {
        let Entry { patterns: Patterns(patterns), mount, artifact_type, ignore, metadata } = entry;
        if artifact_type.is_none() && ignore.is_none() && metadata.is_empty() {
            return Err(
                "a rule that matches and says nothing: add type, ignore or metadata".to_owned()
            );
        }
        let size = serde_json::to_vec(&metadata).map_or(usize::MAX, |text| text.len());
        if size > METADATA_BYTES_MAX {
            return Err(format!(
                "metadata has {size} bytes as JSON, more than the {METADATA_BYTES_MAX} a rule may add to each file"
            ));
        }
        Ok(Rule { patterns, mount, artifact_type, ignore, metadata })
    }
}

/// The name of an artifact's type that a user chose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct TypeName(String);

impl TypeName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TypeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TypeName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let legal = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.')
        };
        match text.len() {
            1..=64 if text.bytes().all(legal) => Ok(Self(text.to_owned())),
            _ => Err(format!(
                "type {text:?} is not allowed: use 1 to 64 of a-z, 0-9, dash, underscore and dot, such as image or model"
            )),
        }
    }
}

impl<'de> Deserialize<'de> for TypeName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

/// One glob or a list of them.
struct Patterns(Vec<String>);

impl<'de> Deserialize<'de> for Patterns {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Patterns;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a glob such as \"*.csv\", or a list of them")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Patterns, E> {
                Ok(Patterns(vec![checked(text)?]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Patterns, A::Error> {
                let mut patterns = Vec::new();
                while let Some(text) = list.next_element::<String>()? {
                    patterns.push(checked(&text)?);
                }
                if patterns.is_empty() {
                    return Err(de::Error::custom(
                        "`match` is an empty list, which matches nothing",
                    ));
                }
                Ok(Patterns(patterns))
            }
        }
        from.deserialize_any(OneOrMany)
    }
}

fn checked<E: de::Error>(text: &str) -> Result<String, E> {
    let refuse = |why: String| E::custom(format!("the pattern {text:?} is not allowed: {why}"));
    if text.trim_matches('/').is_empty() {
        return Err(refuse("it names nothing".to_owned()));
    }
    match GlobBuilder::new(text).literal_separator(true).build() {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(refuse(error.kind().to_string())),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, yaml};
    use std::path::Path;

    fn parse(text: &str) -> Result<Config, String> {
        yaml::parse(Path::new("b.yaml"), text).map_err(|error| error.to_string())
    }

    fn refusal(rule: &str) -> String {
        parse(&format!("artifacts:\n  rules:\n  - {rule}\n")).expect_err("must be refused")
    }

    #[test]
    fn a_rule_is_read_with_one_pattern_or_several() {
        let text = "artifacts:\n  rules:\n  - { match: '*.bin', type: model, metadata: { team: a, n: 1 } }\n  \
                    - { match: [a/, '*.x'], mount: output, ignore: true }\n";
        let rules = parse(text).expect("legal").artifacts.rules;
        assert_eq!(rules[0].patterns, ["*.bin"]);
        assert_eq!(rules[0].artifact_type.as_ref().map(|name| name.as_str()), Some("model"));
        assert_eq!(rules[0].metadata["n"], 1);
        assert_eq!(rules[1].patterns, ["a/", "*.x"]);
        assert_eq!((rules[1].ignore, rules[1].mount.is_some()), (Some(true), true));
    }

    #[test]
    fn a_bad_rule_is_named_with_its_place_and_the_fix() {
        let error = refusal("{ match: '[a', ignore: true }");
        assert!(error.starts_with("b.yaml:3:") && error.contains("\"[a\""), "{error}");
        let error = refusal("{ mtach: '*.x', ignore: true }");
        assert!(error.contains("`mtach`") && error.contains("`match`?"), "{error}");
        assert!(refusal("{ match: '*.x' }").contains("says nothing"));
        assert!(refusal("{ match: [], ignore: true }").contains("empty list"));
        assert!(refusal("{ match: /, ignore: true }").contains("names nothing"));
        assert!(refusal("{ match: a, type: 'My Type' }").contains("type \"My Type\""));
        assert!(refusal("{ match: a, mount: 'x/y', ignore: true }").contains("mount name"));
        let large = "x".repeat(5000);
        assert!(refusal(&format!("{{ match: a, metadata: {{ a: {large} }} }}")).contains("4096"));
    }
}
