//! From a version to what it was made from, and to what was made from it: a walk over the catalog, in the words of the API.
//!
//! Breadth first, each version once, so that a cycle ends by itself. Bounded in depth, in versions and in inputs; where a bound
//! is met the answer says so.

use super::error::Error;
use super::reference::find;
use crate::model::path::escape;
use crate::storage::lineage::{Input, InputBounds, MadeFrom};
use crate::storage::{Catalog, VersionRow};
use crate::wire::lineage::{
    Direction, Known, Lineage, LineageInput, LineageQuery, LineageUse, LineageVersion, Made,
    Opened, VersionRef,
};
use std::collections::{HashSet, VecDeque};

const DEPTH_DEFAULT: u32 = 10;
const DEPTH_MAX: u32 = 100;

/// Most versions and inputs of one answer. Chosen: together some 10 MB of JSON.
const VERSIONS_MAX: usize = 2_000;
const INPUTS_MAX: u32 = 20_000;

/// What the walk asks of a running service.
pub(super) struct Walk<'a> {
    pub catalog: &'a dyn Catalog,
    pub owner: Option<u32>,
    /// Whether a run goes on, or its inputs are not stored yet.
    pub is_live: &'a dyn Fn(crate::model::id::RunId) -> bool,
}

impl Walk<'_> {
    pub fn from(&self, reference: &str, query: &LineageQuery) -> Result<Lineage, Error> {
        let depth = query.depth.unwrap_or(DEPTH_DEFAULT);
        if !(1..=DEPTH_MAX).contains(&depth) {
            return Err(Error::BadQuery {
                why: format!("depth {depth} is not between 1 and {DEPTH_MAX}"),
            });
        }
        let root = find(self.catalog, self.owner, reference)?;
        let mut lineage = Lineage {
            root: VersionRef { id: root.id, version: root.number },
            direction: query.direction,
            depth,
            truncated: false,
            versions: Vec::new(),
        };
        let mut left = INPUTS_MAX;
        let mut known = HashSet::from([lineage.root]);
        let mut next = VecDeque::from([(root, 0)]);
        while let Some((row, level)) = next.pop_front() {
            let mut version = shown(&row);
            if level < depth {
                let further = match query.direction {
                    Direction::Of => self.made_from(&row, &mut version, &mut left)?,
                    Direction::UsedBy => self.used_by(&row, &mut version, &mut left)?,
                };
                for reference in further {
                    if known.contains(&reference) {
                        continue;
                    }
                    if known.len() >= VERSIONS_MAX {
                        lineage.truncated = true;
                        break;
                    }
                    let which = crate::storage::Which::Number(reference.version);
                    if let Some(row) = self.catalog.find(self.owner, reference.id, which)? {
                        known.insert(reference);
                        next.push_back((row, level + 1));
                    }
                }
            }
            lineage.truncated |= left == 0;
            lineage.versions.push(version);
        }
        Ok(lineage)
    }

    fn made_from(
        &self,
        row: &VersionRow,
        version: &mut LineageVersion,
        left: &mut u32,
    ) -> Result<Vec<VersionRef>, Error> {
        let found = self.catalog.made_from((row.id, row.number), *left)?;
        *left -= u32::try_from(found.inputs.len()).unwrap_or(u32::MAX).min(*left);
        let (known, reason) = self.how_much(row, &found, *left == 0);
        let bounds = found.bounds.unwrap_or(InputBounds { before: 0, until: 0 });
        let also_by = found.also_by;
        let inputs: Vec<LineageInput> = found
            .inputs
            .into_iter()
            .map(|(input, key)| {
                let version = key.map(|(id, version)| VersionRef { id, version });
                shown_input(input, version, bounds)
            })
            .collect();
        let further = inputs.iter().filter_map(|input| input.version).collect();
        version.made_from = Some(Made { known, reason, also_by, inputs });
        Ok(further)
    }

    fn how_much(&self, row: &VersionRow, found: &MadeFrom, cut: bool) -> (Known, Option<String>) {
        let because = |known, reason: &str| (known, Some(reason.to_owned()));
        let Some(run) = row.run else {
            return because(Known::Unavailable, "it was written by a process outside every run");
        };
        let Some(bounds) = found.bounds else {
            return because(
                Known::Unavailable,
                "what its run had read is not known: the daemon that saw it ended before the file was registered, the file was registered by hand, or inputs are not noted (artifacts.inputs_max is 0)",
            );
        };
        if let Some((rest, _)) = found.inputs.iter().find(|(input, _)| is_rest(input)) {
            return (Known::Partial, rest.reason.clone());
        }
        let stored = found.inputs.len() as u64;
        if stored == bounds.until {
            return (Known::Complete, None);
        }
        if cut {
            return because(Known::Partial, "there are more inputs than one answer holds");
        }
        if (self.is_live)(run) {
            return because(
                Known::Partial,
                "its run goes on, and not all that it read is stored yet",
            );
        }
        let reason = match bounds.until {
            InputBounds::ALL => {
                "it was open for writing when its run ended, and what was read meanwhile may be missing"
            }
            _ => "the daemon that saw it ended before all that its run had read was stored",
        };
        because(if stored == 0 { Known::Unavailable } else { Known::Partial }, reason)
    }

    fn used_by(
        &self,
        row: &VersionRow,
        version: &mut LineageVersion,
        left: &mut u32,
    ) -> Result<Vec<VersionRef>, Error> {
        let uses = self.catalog.used_by((row.id, row.number), *left)?;
        *left -= u32::try_from(uses.len()).unwrap_or(u32::MAX).min(*left);
        let uses: Vec<LineageUse> = uses
            .into_iter()
            .filter(|one| self.owner.is_none_or(|owner| one.version.owner_uid == owner))
            .map(|one| LineageUse {
                version: VersionRef { id: one.version.id, version: one.version.number },
                run_id: one.run,
                opened: opened(one.while_open),
            })
            .collect();
        let further = uses.iter().map(|one| one.version).collect();
        version.used_by = Some(uses);
        Ok(further)
    }
}

/// A row that stands for all inputs beyond the bound.
fn is_rest(input: &Input) -> bool {
    input.place.is_none() && input.size.is_none()
}

fn opened(while_open: bool) -> Opened {
    if while_open { Opened::WhileOpen } else { Opened::Before }
}

fn shown(row: &VersionRow) -> LineageVersion {
    LineageVersion {
        id: row.id,
        version: row.number,
        path: super::registry::shown_path(row),
        host_path: escape(&row.host_path),
        artifact_type: row.artifact_type.clone(),
        state: row.state,
        size: row.size,
        digest: row.digest,
        run_id: row.run,
        workspace_id: row.workspace.clone(),
        created_at: row.created_at,
        made_from: None,
        used_by: None,
    }
}

fn shown_input(input: Input, version: Option<VersionRef>, bounds: InputBounds) -> LineageInput {
    let place = input.place;
    LineageInput {
        path: place
            .as_ref()
            .map(|place| format!("/workspace/{}/{}", place.mount, escape(place.path.as_bytes()))),
        host_path: place.as_ref().map(|place| escape(&place.host_path)),
        size: input.size,
        modified_at: input.modified_at,
        digest: input.digest,
        unavailable: input.reason,
        opened: opened(input.number > bounds.before),
        opened_at: input.opened_at,
        version,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::artifact::ArtifactType;
    use crate::model::digest::Digest;
    use crate::model::id::RunId;
    use crate::model::path::VirtualPath;
    use crate::storage::lineage::InputPlace;
    use crate::storage::memory::MemoryCatalog;
    use crate::storage::{Filter, NewVersion};
    use jiff::Timestamp;

    fn digest(content: &str) -> Digest {
        Digest::from_bytes(*blake3::hash(content.as_bytes()).as_bytes())
    }

    fn version(path: &str, run: RunId, inputs: Option<InputBounds>) -> NewVersion {
        NewVersion {
            owner_uid: 1000,
            host_path: path.as_bytes().to_vec(),
            workspace: "w".parse().expect("id"),
            mount: "m".parse().expect("name"),
            path: VirtualPath::parse(path).expect("path"),
            run: Some(run),
            graph_id: None,
            node_id: None,
            writer: None,
            artifact_type: ArtifactType::new("file"),
            suspected: None,
            mime: None,
            size: 1,
            digest: digest(path),
            content_kept: true,
            closes: 1,
            stamp: None,
            metadata: Default::default(),
            secrets: Default::default(),
            inputs,
            captured_at: Timestamp::now(),
        }
    }

    /// `path` is made by a run that had read `inputs`.
    fn make(catalog: &MemoryCatalog, path: &str, inputs: &[&str]) {
        let run = RunId::generate();
        let count = inputs.len() as u64;
        let rows: Vec<Input> = inputs
            .iter()
            .zip(1..)
            .map(|(path, number)| Input {
                run,
                number,
                owner_uid: 1000,
                place: Some(InputPlace {
                    mount: "m".parse().expect("name"),
                    path: VirtualPath::parse(path).expect("path"),
                    host_path: path.as_bytes().to_vec(),
                }),
                size: Some(1),
                modified_at: None,
                digest: Some(digest(path)),
                reason: None,
                opened_at: Timestamp::now(),
            })
            .collect();
        catalog.note_inputs(&rows).expect("note");
        let bounds = InputBounds { before: count, until: count };
        catalog.register(&[version(path, run, Some(bounds))]).expect("register");
    }

    fn walk(catalog: &MemoryCatalog, path: &str, query: &LineageQuery) -> Lineage {
        let filter = Filter { limit: 10_000, ..Filter::default() };
        let rows = catalog.list(None, &filter).expect("list").rows;
        let row = rows.iter().find(|row| row.host_path == path.as_bytes()).expect("there");
        let walk = Walk { catalog, owner: Some(1000), is_live: &|_| false };
        walk.from(&row.id.to_string(), query).expect("walk")
    }

    fn paths(lineage: &Lineage) -> Vec<&str> {
        lineage.versions.iter().map(|version| version.host_path.as_str()).collect()
    }

    #[test]
    fn each_version_comes_once_and_a_cycle_ends() {
        let catalog = MemoryCatalog::default();
        make(&catalog, "a", &["d"]);
        make(&catalog, "b", &["a"]);
        make(&catalog, "c", &["a", "b", "c", "plain"]);
        make(&catalog, "d", &["c"]);
        let lineage = walk(&catalog, "d", &LineageQuery::default());
        assert_eq!(paths(&lineage), ["d", "c", "a", "b"]);
        assert!(!lineage.truncated);
        let made = lineage.versions[2].made_from.as_ref().expect("expanded");
        assert_eq!(made.inputs[0].version, Some(lineage.root), "the cycle is shown");
        let down = LineageQuery { direction: Direction::UsedBy, ..Default::default() };
        assert_eq!(paths(&walk(&catalog, "a", &down)), ["a", "b", "c", "d"]);
    }

    #[test]
    fn a_version_of_somebody_else_is_as_good_as_none() {
        let catalog = MemoryCatalog::default();
        make(&catalog, "a", &[]);
        let id = walk(&catalog, "a", &LineageQuery::default()).root.id.to_string();
        let walk = Walk { catalog: &catalog, owner: Some(1001), is_live: &|_| false };
        let error = walk.from(&id, &LineageQuery::default()).expect_err("not theirs");
        assert!(matches!(error, Error::NotFound { .. }), "{error}");
    }

    #[test]
    fn depth_and_size_are_bounded_and_the_answer_says_so() {
        let catalog = MemoryCatalog::default();
        make(&catalog, "0", &["plain"]);
        for n in 1..6 {
            make(&catalog, &n.to_string(), &[&(n - 1).to_string()]);
        }
        let query = LineageQuery { depth: Some(2), ..Default::default() };
        let lineage = walk(&catalog, "5", &query);
        assert_eq!(paths(&lineage), ["5", "4", "3"]);
        assert!(lineage.versions[1].made_from.is_some());
        assert!(lineage.versions[2].made_from.is_none(), "it is not looked into");
        let walk = Walk { catalog: &catalog, owner: None, is_live: &|_| false };
        for depth in [0, 101] {
            let query = LineageQuery { depth: Some(depth), ..Default::default() };
            assert!(matches!(walk.from("x", &query), Err(Error::BadQuery { .. })));
        }
    }

    #[test]
    fn inputs_that_were_seen_and_not_stored_are_told_from_none() {
        let catalog = MemoryCatalog::default();
        let bounds = |before, until| Some(InputBounds { before, until });
        let all = InputBounds::ALL;
        for (path, inputs) in [
            ("none", bounds(0, 0)),
            ("lost", bounds(1, 2)),
            ("open", bounds(0, all)),
            ("dark", None),
        ] {
            catalog.register(&[version(path, RunId::generate(), inputs)]).expect("register");
        }
        let known = |path| {
            let lineage = walk(&catalog, path, &LineageQuery::default());
            let made = lineage.versions[0].made_from.clone().expect("looked into");
            (made.known, made.reason.is_some())
        };
        assert_eq!(known("none"), (Known::Complete, false));
        for path in ["lost", "open", "dark"] {
            assert_eq!(known(path), (Known::Unavailable, true), "{path}");
        }
    }
}
