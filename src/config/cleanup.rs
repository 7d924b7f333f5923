//! Clean-up policies as a person writes them into the configuration.

use super::units;
use crate::model::cleanup::{Criteria, EVERY_MS_MAX, EVERY_MS_MIN};
use crate::model::expression::Expression;
use crate::model::id::{PolicyName, WorkspaceId};
use serde::{Deserialize, Deserializer, Serialize, de};
use std::time::Duration;

/// Most policies of the configuration. Chosen, not measured.
pub const POLICIES_MAX: usize = 64;

/// One entry of `artifacts.cleanup`, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CleanupPolicy {
    pub name: PolicyName,
    #[serde(with = "units::duration")]
    pub every: Duration,
    #[serde(flatten)]
    pub criteria: Criteria,
}

/// An entry as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: PolicyName,
    #[serde(with = "units::duration")]
    every: Duration,
    #[serde(default, rename = "type")]
    types: Types,
    graph: Option<String>,
    workspace: Option<WorkspaceId>,
    label: Option<String>,
    tag: Option<String>,
    #[serde(rename = "where")]
    expression: Option<String>,
    older_than: Option<Span>,
    max_artifacts: Option<u64>,
    max_size: Option<Bytes>,
    keep_versions: Option<u64>,
    #[serde(default)]
    all_versions: bool,
    #[serde(default)]
    archive_first: bool,
    archived_for: Option<Span>,
}

#[derive(Deserialize)]
struct Span(#[serde(with = "units::duration")] Duration);

#[derive(Deserialize)]
struct Bytes(#[serde(with = "units::size")] u64);

/// One type or a list of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Types {
    One(String),
    Many(Vec<String>),
}

impl Default for Types {
    fn default() -> Self {
        Types::Many(Vec::new())
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl<'de> Deserialize<'de> for CleanupPolicy {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let entry = Entry::deserialize(from)?;
        let criteria = Criteria {
            types: match entry.types {
                Types::One(name) => vec![name],
                Types::Many(names) => names,
            },
            graph: entry.graph,
            workspace: entry.workspace,
            label: entry.label,
            tag: entry.tag,
            expression: entry.expression,
            older_than_ms: entry.older_than.map(|Span(age)| ms(age)),
            max_artifacts: entry.max_artifacts,
            max_size: entry.max_size.map(|Bytes(size)| size),
            keep_versions: entry.keep_versions,
            all_versions: entry.all_versions,
            archive_first: entry.archive_first,
            archived_for_ms: entry.archived_for.map(|Span(age)| ms(age)),
        };
        let name = &entry.name;
        let refused = |why: String| de::Error::custom(format!("policy {name}: {why}"));
        criteria.check().map_err(|error| refused(error.to_string()))?;
        if let Some(expression) = &criteria.expression {
            expression.parse::<Expression>().map_err(|error| refused(error.to_string()))?;
        }
        if !(EVERY_MS_MIN..=EVERY_MS_MAX).contains(&ms(entry.every)) {
            let given = units::format_duration(entry.every);
            return Err(refused(format!("every is {given}: use 1s to 366d")));
        }
        Ok(Self { name: entry.name, every: entry.every, criteria })
    }
}

/// A name that two policies have.
pub fn repeated(policies: &[CleanupPolicy]) -> Option<&PolicyName> {
    let names = policies.iter().map(|policy| &policy.name).enumerate();
    names
        .into_iter()
        .find(|(at, name)| policies[..*at].iter().any(|other| other.name == **name))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, yaml};
    use std::path::Path;

    fn read(entry: &str) -> Result<Config, String> {
        let text = format!("artifacts:\n  cleanup:\n    - {entry}\n");
        yaml::parse::<Config>(Path::new("b.yaml"), &text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_policy_is_written_with_units_and_one_type_or_several() {
        let config = read("{ name: a, every: 1h, type: log, older_than: 30d, max_size: 2GiB }");
        let policy = config.expect("legal").artifacts.cleanup.remove(0);
        assert_eq!(policy.every, Duration::from_secs(3_600));
        let expected = Criteria {
            types: vec!["log".into()],
            older_than_ms: Some(30 * 86_400_000),
            max_size: Some(2 << 30),
            ..Criteria::default()
        };
        assert_eq!(policy.criteria, expected);
        assert!(read("{ name: a, every: 1h, type: [log, data], keep_versions: 3 }").is_ok());
    }

    #[test]
    fn a_policy_that_cannot_be_meant_is_refused_with_its_name() {
        for (entry, words) in [
            ("{ name: a, every: 1h }", "no criterion"),
            ("{ name: a, every: 1ms, type: log }", "1s to 366d"),
            ("{ name: a, every: 1h, where: 'size >' }", "policy a"),
            ("{ name: a, every: 1h, older: 3d }", "older"),
            ("{ name: ../a, every: 1h, type: log }", "not allowed"),
        ] {
            let error = read(entry).expect_err("refused");
            assert!(error.contains(words), "{entry}: {error}");
        }
    }
}
