//! The ways from a version to what it was made from and to what was made from it, whatever the database.

use super::tables::{Answer, Stored};
use crate::model::digest::Digest;
use crate::model::id::RunId;
use crate::storage::lineage::{Input, InputBounds, MadeFrom, Use, VersionKey};

/// A version, as far as ways from it are concerned.
pub(super) struct Start {
    pub version: i64,
    pub run: Option<RunId>,
    pub owner_uid: u32,
    pub host_path: Vec<u8>,
    pub digest: Option<Digest>,
}

/// The questions of which the ways consist.
pub(super) trait Ways {
    fn start(&self, version: VersionKey) -> Answer<Option<Start>>;

    /// Runs that produced a version, at most a hundred, and what each had read by then.
    fn producers(&self, version: i64) -> Answer<Vec<(RunId, Option<InputBounds>)>>;

    /// A run's inputs up to that number, in order.
    fn inputs_of(&self, run: RunId, until: u64, limit: u32) -> Answer<Vec<Input>>;

    /// Inputs with that content at that path, by run and number.
    fn inputs_like(
        &self,
        owner: u32,
        host_path: &[u8],
        digest: &Digest,
        limit: u32,
    ) -> Answer<Vec<Input>>;

    /// The version that each input is: of the same owner, path and bytes, and of several the one that was there when it was
    /// opened. A version may be registered a moment after it was read.
    fn recognise(&self, inputs: &[Input]) -> Answer<Vec<Option<VersionKey>>>;

    /// What the run made when it had read the input: closed after, and opened for writing before it when `while_open`.
    fn made_after(
        &self,
        run: RunId,
        input: u64,
        while_open: bool,
        limit: u32,
    ) -> Answer<Vec<Stored>>;
}

pub(super) fn made_from(ways: &dyn Ways, version: VersionKey, limit: u32) -> Answer<MadeFrom> {
    let Some(start) = ways.start(version)? else { return Ok(MadeFrom::default()) };
    let mut made = MadeFrom::default();
    for (run, bounds) in ways.producers(start.version)? {
        if Some(run) == start.run {
            made.bounds = bounds;
        } else {
            made.also_by.push(run);
        }
    }
    let (Some(run), Some(bounds)) = (start.run, made.bounds) else { return Ok(made) };
    let inputs = ways.inputs_of(run, bounds.until, limit)?;
    let versions = ways.recognise(&inputs)?;
    made.inputs = inputs.into_iter().zip(versions).collect();
    Ok(made)
}

pub(super) fn used_by(ways: &dyn Ways, version: VersionKey, limit: u32) -> Answer<Vec<Use>> {
    let Some(Start { owner_uid, host_path, digest: Some(digest), .. }) = ways.start(version)?
    else {
        return Ok(Vec::new());
    };
    let inputs = ways.inputs_like(owner_uid, &host_path, &digest, limit)?;
    let versions = ways.recognise(&inputs)?;
    let mut uses: Vec<Use> = Vec::new();
    // An input that another version has the bytes of as well belongs to the one that was there when it was opened.
    let ours = inputs.iter().zip(versions).filter(|(_, found)| *found == Some(version));
    for (input, _) in ours {
        for while_open in [false, true] {
            let left = limit.saturating_sub(u32::try_from(uses.len()).unwrap_or(u32::MAX));
            for (_, made) in ways.made_after(input.run, input.number, while_open, left)? {
                let known = |one: &Use| {
                    one.run == input.run
                        && (one.version.id, one.version.number) == (made.id, made.number)
                };
                if !uses.iter().any(known) {
                    uses.push(Use { version: made, run: input.run, while_open });
                }
            }
        }
    }
    Ok(uses)
}
