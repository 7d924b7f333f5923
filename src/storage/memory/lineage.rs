//! Inputs of runs in memory.

use super::Tables;
use crate::model::id::RunId;
use crate::storage::lineage::{Input, InputBounds, MadeFrom, Use, VersionKey};

impl Tables {
    pub(super) fn note_production(
        &mut self,
        run: Option<RunId>,
        position: usize,
        bounds: Option<InputBounds>,
    ) {
        let Some(run) = run else { return };
        self.produced.insert((run, position));
        if let Some(bounds) = bounds {
            let widened = bounds.widened(self.bounds.get(&(run, position)).copied());
            self.bounds.insert((run, position), widened);
        }
    }

    pub(super) fn made_from(&self, version: VersionKey, limit: u32) -> MadeFrom {
        let Some(position) = self.position(version) else { return MadeFrom::default() };
        let run = self.rows[position].run;
        let producers = self.produced.iter().filter(|(_, other)| *other == position);
        let also_by =
            producers.map(|(other, _)| *other).filter(|other| Some(*other) != run).collect();
        let bounds = run.and_then(|run| self.bounds.get(&(run, position)).copied());
        let inputs = match (run, bounds) {
            (Some(run), Some(bounds)) => self
                .inputs
                .range((run, 0)..=(run, bounds.until))
                .take(limit as usize)
                .map(|(_, input)| (input.clone(), self.recognise(input)))
                .collect(),
            _ => Vec::new(),
        };
        MadeFrom { bounds, also_by, inputs }
    }

    pub(super) fn used_by(&self, version: VersionKey, limit: u32) -> Vec<Use> {
        let mut uses: Vec<Use> = Vec::new();
        let inputs = self.inputs.values().filter(|input| self.recognise(input) == Some(version));
        for input in inputs {
            for while_open in [false, true] {
                let of_run = self.bounds.iter().filter(|((run, _), bounds)| {
                    *run == input.run
                        && bounds.until >= input.number
                        && (bounds.before < input.number) == while_open
                });
                let mut positions: Vec<usize> =
                    of_run.map(|((_, position), _)| *position).collect();
                positions.sort_unstable();
                for position in positions {
                    let made = &self.rows[position];
                    let known = |one: &Use| {
                        one.run == input.run
                            && (one.version.id, one.version.number) == (made.id, made.number)
                    };
                    if uses.len() < limit as usize && !uses.iter().any(known) {
                        uses.push(Use { version: made.clone(), run: input.run, while_open });
                    }
                }
            }
        }
        uses
    }

    fn position(&self, (id, number): VersionKey) -> Option<usize> {
        self.rows.iter().position(|row| row.id == id && row.number == number)
    }

    fn recognise(&self, input: &Input) -> Option<VersionKey> {
        let (place, digest) = (input.place.as_ref()?, input.digest?);
        let same = self.rows.iter().filter(|row| {
            row.owner_uid == input.owner_uid
                && row.host_path == place.host_path
                && row.digest == Some(digest)
        });
        same.min_by_key(|row| {
            let later = row.created_at > input.opened_at;
            let distance = row.created_at.duration_since(input.opened_at).unsigned_abs();
            (later, distance, std::cmp::Reverse(row.number))
        })
        .map(|row| (row.id, row.number))
    }
}
