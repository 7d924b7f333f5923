//! Filters of `belljar artifact ls`: options to a query, pages to one list.

use crate::client::{Client, ClientError};
use crate::config::units::parse_duration;
use crate::model::artifact::ArtifactState;
use crate::model::id::{RunId, WorkspaceId};
use crate::wire::artifact::{ArtifactPage, ArtifactQuery};
use anyhow::bail;
use clap::Args;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// Rows of one page; the API's own bound is the same.
const PAGE_ROWS: u32 = 1_000;

#[derive(Debug, Args)]
pub struct Filters {
    /// Only this type: file, image, report, data, model, log, or a word of your own.
    #[arg(long = "type", value_name = "TYPE")]
    artifact_type: Option<String>,
    /// Only those of this graph.
    #[arg(long, value_name = "ID")]
    graph: Option<String>,
    /// Only those of this workspace.
    #[arg(short = 'w', long, value_name = "ID")]
    workspace: Option<WorkspaceId>,
    /// Only those of this run.
    #[arg(long, value_name = "ID")]
    run: Option<RunId>,
    /// CREATING, READY, ARCHIVED or DELETED [default: READY].
    #[arg(long, value_name = "STATE")]
    state: Option<ArtifactState>,
    /// Only those made since: a date, a time, or how long ago (2h).
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<Timestamp>,
    /// Only those made before: a date, a time, or how long ago.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    before: Option<Timestamp>,
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

impl Filters {
    /// Asks page by page until the limit, or the end.
    pub async fn fetch(self, client: &Client) -> Result<ArtifactPage, ClientError> {
        let mut left = self.limit;
        let mut query = ArtifactQuery {
            artifact_type: self.artifact_type,
            graph: self.graph,
            workspace: self.workspace,
            run: self.run,
            state: self.state,
            since: self.since,
            before: self.before,
            all_versions: self.all_versions,
            limit: None,
            cursor: None,
        };
        let mut all = ArtifactPage { artifacts: Vec::new(), next: None };
        loop {
            query.limit = Some(left.min(PAGE_ROWS));
            let page = client.artifacts(&query).await?;
            let count = u32::try_from(page.artifacts.len()).unwrap_or(u32::MAX);
            left = left.saturating_sub(count);
            all.artifacts.extend(page.artifacts);
            all.next = page.next;
            if left == 0 || count == 0 || all.next.is_none() {
                return Ok(all);
            }
            query.cursor.clone_from(&all.next);
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
