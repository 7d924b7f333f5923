//! `belljar artifact cleanup` and `belljar artifact policy`.

use super::connect::Connection;
use super::exit::{DONE, Failure};
use super::query::parse_expression;
use super::{Outcome, output};
use crate::config::units::{format_duration, format_size, parse_duration, parse_size};
use crate::model::cleanup::{Criteria, PlanState};
use crate::model::id::{PlanId, PolicyName, WorkspaceId};
use crate::wire::cleanup::{ItemOutcome, Plan, PlanRequest, Policy, PolicyRequest};
use clap::{Args, Subcommand};
use std::time::Duration;

/// What is counted, and the limits.
#[derive(Debug, Args)]
pub struct CriteriaArguments {
    /// Count only these types, separated by commas.
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',')]
    artifact_type: Vec<String>,
    /// Count only those of this graph.
    #[arg(long, value_name = "ID")]
    graph: Option<String>,
    /// Count only those of this workspace.
    #[arg(short = 'w', long, value_name = "ID")]
    workspace: Option<WorkspaceId>,
    /// Count only versions with this label, each by itself.
    #[arg(long, value_name = "NAME")]
    label: Option<String>,
    /// Count only those with this tag.
    #[arg(long, value_name = "NAME")]
    tag: Option<String>,
    /// Count only those that fulfil an expression: 'metadata.accuracy < 0.5'.
    #[arg(long = "where", value_name = "EXPR", value_parser = parse_expression)]
    expression: Option<String>,
    /// What was made longer ago goes: 30d, 12h.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    older_than: Option<Duration>,
    /// The newest so many stay.
    #[arg(long, value_name = "N")]
    max_artifacts: Option<u64>,
    /// The newest stay that fit into this size.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_size: Option<u64>,
    /// Of each artifact the newest so many versions stay.
    #[arg(long, value_name = "N")]
    keep_versions: Option<u64>,
    /// Count every version by itself.
    #[arg(long)]
    all_versions: bool,
    /// Archive what is READY, and delete only what has been archived for long.
    #[arg(long)]
    archive_first: bool,
    /// For how long [default: 30d].
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    archived_for: Option<Duration>,
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl CriteriaArguments {
    fn criteria(self) -> Result<Criteria, Failure> {
        let criteria = Criteria {
            types: self.artifact_type,
            graph: self.graph,
            workspace: self.workspace,
            label: self.label,
            tag: self.tag,
            expression: self.expression,
            older_than_ms: self.older_than.map(ms),
            max_artifacts: self.max_artifacts,
            max_size: self.max_size,
            keep_versions: self.keep_versions,
            all_versions: self.all_versions,
            archive_first: self.archive_first,
            archived_for_ms: self.archived_for.map(ms),
        };
        criteria.check().map_err(|error| Failure::usage(error.to_string()))?;
        Ok(criteria)
    }
}

#[derive(Debug, Args)]
pub struct CleanupArguments {
    #[command(flatten)]
    criteria: CriteriaArguments,
    /// Do it: the plan that was just made, or the one with this id.
    #[arg(long, value_name = "PLAN", num_args = 0..=1)]
    apply: Option<Option<PlanId>>,
    /// Show this plan.
    #[arg(long, value_name = "PLAN", conflicts_with = "apply")]
    show: Option<PlanId>,
    /// List the plans that were made.
    #[arg(long, conflicts_with_all = ["apply", "show"])]
    plans: bool,
    /// The artifacts of this user; for root.
    #[arg(long, value_name = "UID")]
    user: Option<u32>,
    /// One JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Make or change a policy: what a running daemon does again and again.
    Set {
        name: PolicyName,
        /// How often: 1h, 7d.
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        every: Duration,
        #[command(flatten)]
        criteria: Box<CriteriaArguments>,
        /// One JSON document.
        #[arg(long)]
        json: bool,
    },
    /// List policies, yours and the configuration's.
    #[command(alias = "list")]
    Ls {
        /// One JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Remove a policy of yours.
    Rm { name: PolicyName },
}

pub fn cleanup(connection: &Connection, arguments: CleanupArguments) -> Outcome {
    let client = &connection.client;
    let json = arguments.json;
    if arguments.plans {
        let list = connection.block_on(client.cleanup_plans())?;
        if json {
            output::print_json(&list);
        } else {
            print_plans(&list.plans);
        }
        return Ok(DONE);
    }
    let plan = match (arguments.show, arguments.apply) {
        (Some(id), _) => connection.block_on(client.cleanup_plan(id))?,
        (None, Some(Some(id))) => connection.block_on(client.apply_cleanup(id))?,
        (None, apply) => {
            let criteria = arguments.criteria.criteria()?;
            let request = PlanRequest { criteria, owner: arguments.user };
            let plan = connection.block_on(client.plan_cleanup(&request))?;
            match apply {
                Some(_) => connection.block_on(client.apply_cleanup(plan.id))?,
                None => plan,
            }
        }
    };
    if json {
        output::print_json(&plan);
    } else {
        print_plan(&plan);
    }
    Ok(DONE)
}

fn print_plan(plan: &Plan) {
    let items = plan.items.as_deref().unwrap_or_default();
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|item| {
            let outcome = match (item.outcome, &item.why) {
                (None, _) => "-".to_owned(),
                (Some(ItemOutcome::Done), _) => "done".to_owned(),
                (Some(ItemOutcome::Skipped), why) => {
                    format!("skipped: {}", why.as_deref().unwrap_or("-"))
                }
            };
            vec![
                format!("{}@{}", item.id, item.version),
                item.action.to_string(),
                output::size(item.size),
                item.path.clone(),
                item.reason.clone(),
                outcome,
            ]
        })
        .collect();
    let header = ["VERSION", "ACTION", "SIZE", "PATH", "REASON", "OUTCOME"];
    output::print(&output::table(&header, &rows));
    let totals = plan.totals;
    output::remark(&format!(
        "plan {}: {} versions, {} of content; {} done, {} skipped",
        plan.id,
        totals.items,
        output::size(totals.bytes),
        totals.done,
        totals.skipped
    ));
    if plan.more {
        output::remark(
            "more would go than one plan may name: make another when this one is applied",
        );
    }
    match plan.state {
        PlanState::Planned if totals.items > 0 => output::remark(&format!(
            "nothing was done; do it with: belljar artifact cleanup --apply {}",
            plan.id
        )),
        PlanState::Applying => output::remark(&format!(
            "it is not finished; go on with: belljar artifact cleanup --apply {}",
            plan.id
        )),
        PlanState::Planned | PlanState::Applied => {}
    }
}

fn print_plans(plans: &[Plan]) {
    let rows: Vec<Vec<String>> = plans
        .iter()
        .map(|plan| {
            vec![
                plan.id.to_string(),
                plan.state.to_string(),
                plan.policy.as_ref().map_or("-".to_owned(), ToString::to_string),
                plan.totals.items.to_string(),
                output::size(plan.totals.bytes),
                plan.totals.done.to_string(),
                plan.totals.skipped.to_string(),
                output::time(plan.created_at),
            ]
        })
        .collect();
    let header = ["ID", "STATE", "POLICY", "VERSIONS", "SIZE", "DONE", "SKIPPED", "CREATED"];
    output::print(&output::table(&header, &rows));
}

pub fn policy(connection: &Connection, command: PolicyCommand) -> Outcome {
    let client = &connection.client;
    match command {
        PolicyCommand::Set { name, every, criteria, json } => {
            let request = PolicyRequest { criteria: criteria.criteria()?, every_ms: ms(every) };
            let policy = connection.block_on(client.set_policy(&name, &request))?;
            if json {
                output::print_json(&policy);
            } else {
                output::remark(&format!(
                    "{name} runs every {} in a running daemon, for the first time at {}",
                    format_duration(Duration::from_millis(policy.every_ms)),
                    output::time(policy.next_at)
                ));
            }
        }
        PolicyCommand::Ls { json } => {
            let list = connection.block_on(client.policies())?;
            if json {
                output::print_json(&list);
            } else {
                print_policies(&list.policies);
            }
        }
        PolicyCommand::Rm { name } => connection.block_on(client.remove_policy(&name))?,
    }
    Ok(DONE)
}

fn print_policies(policies: &[Policy]) {
    let rows: Vec<Vec<String>> = policies
        .iter()
        .map(|policy| {
            let last = policy.last.as_ref().map_or("-".to_owned(), |last| {
                let how = match &last.error {
                    Some(error) => error.clone(),
                    None => format!("{} done, {} skipped", last.done, last.skipped),
                };
                format!("{}: {how}", output::time(last.at))
            });
            vec![
                policy.name.to_string(),
                policy.owner_uid.map_or("configuration".to_owned(), |uid| uid.to_string()),
                format_duration(Duration::from_millis(policy.every_ms)),
                output::time(policy.next_at),
                said(&policy.criteria),
                last,
            ]
        })
        .collect();
    let header = ["NAME", "USER", "EVERY", "NEXT", "CRITERIA", "LAST"];
    output::print(&output::table(&header, &rows));
}

/// As the options that say it.
fn said(criteria: &Criteria) -> String {
    let age = |ms: u64| format_duration(Duration::from_millis(ms));
    let words = [
        (!criteria.types.is_empty()).then(|| format!("--type {}", criteria.types.join(","))),
        criteria.graph.as_ref().map(|id| format!("--graph {id}")),
        criteria.workspace.as_ref().map(|id| format!("--workspace {id}")),
        criteria.label.as_ref().map(|name| format!("--label {name}")),
        criteria.tag.as_ref().map(|name| format!("--tag {name}")),
        criteria.expression.as_ref().map(|text| format!("--where '{text}'")),
        criteria.older_than_ms.map(|ms| format!("--older-than {}", age(ms))),
        criteria.max_artifacts.map(|most| format!("--max-artifacts {most}")),
        criteria.max_size.map(|most| format!("--max-size {}", format_size(most))),
        criteria.keep_versions.map(|kept| format!("--keep-versions {kept}")),
        criteria.all_versions.then(|| "--all-versions".to_owned()),
        criteria.archive_first.then(|| "--archive-first".to_owned()),
        criteria.archived_for_ms.map(|ms| format!("--archived-for {}", age(ms))),
    ];
    words.into_iter().flatten().collect::<Vec<_>>().join(" ")
}
