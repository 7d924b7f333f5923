//! Filters of `belljar artifact ls`: options to a query, pages to one list.

use crate::client::{Client, ClientError};
use crate::config::units::parse_duration;
use crate::model::artifact::ArtifactState;
use crate::model::expression::Expression;
use crate::model::expression::parse::SyntaxError;
use crate::model::id::{RunId, WorkspaceId};
use crate::model::order::Order;
use crate::wire::artifact::{Artifact, ArtifactQuery};
use crate::wire::list::List;
use anyhow::bail;
use clap::Args;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// Rows of one page; the API's own bound is the same.
const PAGE_ROWS: u32 = 1_000;

#[derive(Debug, Args)]
pub struct Filters {
    /// Only these types, separated by commas: file, image, report, data, model, log, or a word of your own.
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',')]
    artifact_type: Vec<String>,
    /// Only those of this graph.
    #[arg(long, value_name = "ID")]
    graph: Option<String>,
    /// Only those of this node.
    #[arg(long, value_name = "ID")]
    node: Option<String>,
    /// Only those of this workspace.
    #[arg(short = 'w', long, value_name = "ID")]
    workspace: Option<WorkspaceId>,
    /// Only those of this run.
    #[arg(long, value_name = "ID")]
    run: Option<RunId>,
    /// CREATING, READY, ARCHIVED or DELETED; several are separated by commas [default: READY].
    #[arg(long, value_name = "STATE", value_delimiter = ',')]
    state: Vec<ArtifactState>,
    /// Only those made since: a date, a time, or how long ago (2h).
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<Timestamp>,
    /// Only those made before: a date, a time, or how long ago.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    before: Option<Timestamp>,
    /// Only those changed since.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    updated_since: Option<Timestamp>,
    /// Only those last changed before.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    updated_before: Option<Timestamp>,
    /// Only those whose path inside the workspace or on the host matches: '*.csv', 'output/**', '/data/*/x'.
    #[arg(long, value_name = "GLOB")]
    path: Option<String>,
    /// Only versions with this label, also where they are not the latest.
    #[arg(long, value_name = "NAME")]
    label: Option<String>,
    /// Only those with this tag.
    #[arg(long, value_name = "NAME")]
    tag: Option<String>,
    /// Only the one with this name.
    #[arg(long, value_name = "NAME")]
    alias: Option<String>,
    /// Only those of this user; for root.
    #[arg(long, value_name = "UID")]
    owner: Option<u32>,
    /// Only those that fulfil an expression: 'metadata.accuracy > 0.9 and size < 10MiB'.
    #[arg(long = "where", value_name = "EXPR", value_parser = parse_expression)]
    expression: Option<String>,
    /// created, updated, size, path or type; with :asc or :desc [default: created, newest first].
    #[arg(long, value_name = "KEY")]
    order: Option<Order>,
    /// Every version instead of the latest of each artifact.
    #[arg(long)]
    all_versions: bool,
    /// At most so many.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// A timestamp with zone, a local date and time, a local date, or a duration back from now.
fn parse_time(text: &str) -> anyhow::Result<Timestamp> {
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(moment);
    }
    // A date alone parses as midnight.
    if let Ok(local) = text.parse::<DateTime>() {
        return Ok(local.to_zoned(TimeZone::system())?.timestamp());
    }
    if let Ok(ago) = parse_duration(text) {
        return Ok(Timestamp::now().checked_sub(SignedDuration::try_from(ago)?)?);
    }
    bail!(
        "{text:?} is no time: write 2026-05-01, 2026-05-01T12:30, a timestamp with zone, or how long ago, such as 2h"
    )
}

/// Checked here already, where the caret can stand below what was typed.
pub(super) fn parse_expression(text: &str) -> Result<String, String> {
    let parsed = text.parse::<Expression>().map(|_| text.to_owned());
    parsed.map_err(|error: SyntaxError| {
        format!("{error}\n\n  {}", error.caret(text).replace('\n', "\n  "))
    })
}

impl Filters {
    /// Asks page by page until the limit, or the end, and gives each page away as it comes. Answers whether there is more.
    pub async fn fetch(
        self,
        client: &Client,
        mut each: impl FnMut(Vec<Artifact>),
    ) -> Result<Option<String>, ClientError> {
        let mut left = self.limit;
        let mut query = ArtifactQuery {
            artifact_type: List::of(self.artifact_type),
            graph: self.graph,
            node: self.node,
            workspace: self.workspace,
            run: self.run,
            state: List::of(self.state),
            since: self.since,
            before: self.before,
            updated_since: self.updated_since,
            updated_before: self.updated_before,
            path: self.path,
            label: self.label,
            tag: self.tag,
            alias: self.alias,
            owner: self.owner,
            expression: self.expression,
            order: self.order,
            all_versions: self.all_versions,
            limit: None,
            cursor: None,
        };
        loop {
            query.limit = Some(left.min(PAGE_ROWS));
            let page = client.artifacts(&query).await?;
            let count = u32::try_from(page.artifacts.len()).unwrap_or(u32::MAX);
            left = left.saturating_sub(count);
            each(page.artifacts);
            if left == 0 || count == 0 || page.next.is_none() {
                return Ok(page.next);
            }
            query.cursor = page.next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let time = |text| parse_time(text).expect("legal");
        assert_eq!(time("2026-05-01T00:00:00Z").to_string(), "2026-05-01T00:00:00Z");
        let local = |text: &str| {
            text.parse::<DateTime>()
                .expect("legal")
                .to_zoned(TimeZone::system())
                .expect("exists")
                .timestamp()
        };
        assert_eq!(time("2026-05-01"), local("2026-05-01T00:00"));
        assert_eq!(time("2026-05-01T12:30"), local("2026-05-01T12:30"));
        let ago = Timestamp::now().duration_since(time("2h")).as_secs();
        assert!((7_199..=7_201).contains(&ago), "{ago}");
        assert!(
            parse_time("yesterdayish").expect_err("refused").to_string().contains("such as 2h")
        );
    }
}
