//! `belljar artifact lineage`: the answer as a tree.

use super::connect::Connection;
use super::exit::DONE;
use super::{Outcome, output};
use crate::wire::lineage::{
    Direction, Known, Lineage, LineageInput, LineageQuery, LineageVersion, Opened, VersionRef,
};
use clap::Args;
use std::collections::{HashMap, HashSet};
use std::fmt::Write;

/// Most inputs that are no artifacts and are written out below one version; `--all` and `--json` have all.
const PLAIN_MAX: usize = 20;

#[derive(Debug, Args)]
pub struct LineageOptions {
    #[arg(value_name = "ID[@VERSION]")]
    reference: String,
    /// What it was made from; this is the default.
    #[arg(long, conflicts_with = "used_by")]
    of: bool,
    /// The other way: what was made from it.
    #[arg(long)]
    used_by: bool,
    /// At most so many steps.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    depth: u32,
    /// Write out every input, however many there are.
    #[arg(long)]
    all: bool,
    /// One JSON document.
    #[arg(long)]
    json: bool,
}

pub fn show(connection: &Connection, options: LineageOptions) -> Outcome {
    let LineageOptions { reference, of: _, used_by, depth, all, json } = options;
    let direction = if used_by { Direction::UsedBy } else { Direction::Of };
    let query = LineageQuery { depth: Some(depth), direction };
    let lineage = connection.block_on(connection.client.lineage(&reference, &query))?;
    if json {
        output::print_json(&lineage);
        return Ok(DONE);
    }
    output::print(&tree(&lineage, if all { usize::MAX } else { PLAIN_MAX }));
    match direction {
        Direction::Of => output::remark(
            "listed is all that the runs had opened for reading by then; what they used of it is not known",
        ),
        Direction::UsedBy => output::remark(
            "listed is all that runs wrote which had read it; whether they used it is not known",
        ),
    }
    if lineage.truncated {
        output::remark("there is more than one answer holds: ask for one of the versions shown");
    }
    Ok(DONE)
}

/// A line below a version: what it says, the version that it leads to, and further lines of its own.
struct Branch {
    text: String,
    version: Option<VersionRef>,
}

struct Tree<'a> {
    versions: HashMap<VersionRef, &'a LineageVersion>,
    shown: HashSet<VersionRef>,
    plain_max: usize,
    text: String,
}

fn tree(lineage: &Lineage, plain_max: usize) -> String {
    let key = |version: &LineageVersion| VersionRef { id: version.id, version: version.version };
    let versions = lineage.versions.iter().map(|version| (key(version), version)).collect();
    let mut tree = Tree { versions, shown: HashSet::new(), plain_max, text: String::new() };
    if let Some(root) = tree.versions.get(&lineage.root) {
        let line = tree.version_line(root);
        tree.line("", &line);
        tree.below(lineage.root);
    }
    tree.text
}

impl Tree<'_> {
    fn line(&mut self, indent: &str, text: &str) {
        let _ = writeln!(self.text, "{indent}{}", output::plain(text));
    }

    fn version_line(&self, version: &LineageVersion) -> String {
        let size = output::size(version.size);
        format!("{}  {}@{}  {size}", version.path, version.id, version.version)
    }

    /// Everything below a version that was just written. A list of what is left to do and not a recursion.
    fn below(&mut self, root: VersionRef) {
        let mut next: Vec<(String, Branch, bool)> = Vec::new();
        self.open(root, "", &mut next);
        while let Some((indent, branch, last)) = next.pop() {
            let (corner, further) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            let again = branch.version.is_some_and(|version| self.shown.contains(&version));
            let text = if again { format!("{}  (see above)", branch.text) } else { branch.text };
            self.line(&format!("{indent}{corner}"), &text);
            if let Some(version) = branch.version.filter(|_| !again) {
                self.open(version, &format!("{indent}{further}"), &mut next);
            }
        }
    }

    fn open(&mut self, version: VersionRef, indent: &str, next: &mut Vec<(String, Branch, bool)>) {
        self.shown.insert(version);
        let Some(version) = self.versions.get(&version).copied() else { return };
        let mut branches = self.made_from(version);
        branches.extend(self.used_by(version));
        let count = branches.len();
        for (position, branch) in branches.into_iter().enumerate().rev() {
            next.push((indent.to_owned(), branch, position + 1 == count));
        }
    }

    fn made_from(&self, version: &LineageVersion) -> Vec<Branch> {
        let Some(made) = &version.made_from else {
            return Vec::new();
        };
        let mut branches = Vec::new();
        let mut plain = 0;
        for input in &made.inputs {
            if input.version.is_none() && input.path.is_some() {
                plain += 1;
                if plain > self.plain_max {
                    continue;
                }
            }
            branches.push(Branch { text: input_line(input), version: input.version });
        }
        if plain > self.plain_max {
            let text = format!("and {} files more; --all shows them", plain - self.plain_max);
            branches.push(Branch { text, version: None });
        }
        match made.known {
            Known::Complete => {}
            Known::Partial | Known::Unavailable => {
                let known = match made.known {
                    Known::Unavailable => "unavailable",
                    Known::Complete | Known::Partial => "not complete",
                };
                let reason = made.reason.as_deref().unwrap_or("not said why");
                branches.push(Branch { text: format!("{known}: {reason}"), version: None });
            }
        }
        branches
    }

    fn used_by(&self, version: &LineageVersion) -> Vec<Branch> {
        let uses = version.used_by.iter().flatten();
        uses.map(|one| {
            let known = self.versions.get(&one.version);
            let line = known.map_or_else(
                || format!("{}@{}", one.version.id, one.version.version),
                |version| self.version_line(version),
            );
            let text = format!("{line}  by run {}{}", one.run_id, when(one.opened));
            Branch { text, version: Some(one.version) }
        })
        .collect()
    }
}

fn when(opened: Opened) -> &'static str {
    match opened {
        Opened::Before => "",
        Opened::WhileOpen => "  (read while it was open)",
    }
}

fn input_line(input: &LineageInput) -> String {
    let path = input.path.as_deref().unwrap_or("…");
    let size = input.size.map_or_else(String::new, |size| format!("  {}", output::size(size)));
    let what = match (&input.version, &input.digest, &input.unavailable) {
        (Some(version), _, _) => format!("  {}@{}", version.id, version.version),
        (None, Some(digest), _) => format!("  {}", short(&digest.to_string())),
        (None, None, Some(reason)) => format!("  digest unavailable: {reason}"),
        (None, None, None) => String::new(),
    };
    format!("{path}{what}{size}{}", when(input.opened))
}

/// Enough of a digest to compare by eye.
fn short(digest: &str) -> &str {
    digest.get(.."blake3:".len() + 16).unwrap_or(digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::ArtifactId;

    fn lineage(ids: &[ArtifactId], edges: &[(usize, usize)]) -> Lineage {
        let reference = |at: usize| VersionRef { id: ids[at], version: 1 };
        let version = |at: usize| {
            let inputs = edges.iter().filter(|(of, _)| *of == at).map(|&(_, from)| {
                serde_json::json!({ "path": format!("/workspace/m/{from}"), "host_path": "h", "size": 1, "modified_at": null,
                    "digest": null, "unavailable": null, "opened": "before", "opened_at": "2026-01-01T00:00:00Z",
                    "version": reference(from) })
            });
            serde_json::json!({ "id": ids[at], "version": 1, "path": format!("/workspace/m/{at}"), "host_path": "h",
                "type": "file", "state": "READY", "size": 1, "digest": null, "run_id": null, "workspace_id": null,
                "created_at": "2026-01-01T00:00:00Z",
                "made_from": { "known": "complete", "reason": null, "also_by": [], "inputs": inputs.collect::<Vec<_>>() } })
        };
        let versions: Vec<_> = (0..ids.len()).map(version).collect();
        let whole = serde_json::json!({ "root": reference(0), "direction": "of", "depth": 9, "truncated": false, "versions": versions });
        serde_json::from_value(whole).expect("a lineage")
    }

    #[test]
    fn a_tree_shows_each_version_once_and_ends_at_a_cycle() {
        let ids: Vec<ArtifactId> = (0..3).map(|_| ArtifactId::generate()).collect();
        let text = tree(&lineage(&ids, &[(0, 1), (0, 2), (1, 2), (2, 0)]), 20);
        let names: Vec<&str> = text.lines().collect();
        assert_eq!(names.len(), 5, "{text}");
        assert!(names[1].starts_with("├─ /workspace/m/1"), "{text}");
        assert!(names[2].starts_with("│  └─ /workspace/m/2"), "{text}");
        assert!(
            names[3].starts_with("│     └─ /workspace/m/0") && names[3].ends_with("(see above)")
        );
        assert!(names[4].starts_with("└─ /workspace/m/2") && names[4].ends_with("(see above)"));
    }
}
