//! The books of uploads in a database: what becomes of each, whatever the database.
//!
//! As with [`change`](super::change), what is decided here was read in the transaction that writes it down.

use super::row::{self, Columns};
use super::tables::Answer;
use crate::model::digest::Digest;
use crate::storage::retention::NamedContent;
use crate::storage::upload::{
    Amount, Destination, GivenUp, QUARANTINE_PAUSE, QueueRow, REMOVAL_PAUSE, Sent, Upload,
    UploadState,
};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// What the books of uploads have for their statements' errors.
pub(super) const DOING: &str = "keep the books of uploads";

/// Under this one stands that there is a node, wherever it sends. No store's name is empty.
pub(super) const NO_STORE: &str = "";

/// The statements of the books, in one write transaction.
pub(super) trait Books {
    /// Queues contents since those times, unless they are queued or the store has them. Answers how many.
    fn insert(&self, to: &Destination, contents: &[(NamedContent, Timestamp)]) -> Answer<u64>;

    /// Those of the contents that versions name, each with whether one of these is quarantined.
    fn named(&self, digests: &[Digest]) -> Answer<BTreeMap<Digest, bool>>;

    /// Uploads of the node that are nobody's and due, the one that is due for longest first.
    fn due(&self, to: &Destination, now: Timestamp, limit: u32) -> Answer<Vec<Upload>>;

    /// Those of the contents that have to go from the store.
    fn being_removed(&self, remote: &str, digests: &[Digest]) -> Answer<BTreeSet<Digest>>;

    /// Drops uploads of the node, or of every node.
    fn drop_uploads(&self, remote: &str, node: Option<Uuid>, digests: &[Digest]) -> Answer<()>;

    /// Drops the content's uploads to every store.
    fn drop_all(&self, digest: &Digest) -> Answer<()>;

    fn put_off(
        &self,
        to: &Destination,
        digests: &[Digest],
        state: UploadState,
        until: Timestamp,
    ) -> Answer<()>;

    /// They are the holder's, who tries them.
    fn hold(&self, to: &Destination, holder: Uuid, digests: &[Digest]) -> Answer<()>;

    /// They are nobody's, where they were the holder's, and were not tried.
    fn give_back(&self, to: &Destination, holder: Uuid, digests: &[Digest]) -> Answer<()>;

    /// It is nobody's, where it was the holder's, and is due then.
    fn note_failure(
        &self,
        to: &Destination,
        holder: Uuid,
        failed: &Failed<'_>,
        now: Timestamp,
    ) -> Answer<()>;

    fn note_copies(&self, remote: &str, contents: &[NamedContent], now: Timestamp) -> Answer<()>;

    fn forget_copies(&self, remote: &str, digests: &[Digest]) -> Answer<()>;

    fn insert_removals(&self, remote: &str, digests: &[Digest], now: Timestamp) -> Answer<()>;

    /// Whether a daemon is uploading the content to any store.
    fn is_held(&self, digest: &Digest) -> Answer<bool>;

    /// The stores that are said to have it.
    fn stored_in(&self, digest: &Digest) -> Answer<Vec<String>>;

    /// Every node looks through what it has for that store once more.
    fn unfill(&self, remote: &str) -> Answer<()>;
}

/// An upload that failed.
pub(super) struct Failed<'a> {
    pub digest: Digest,
    pub state: UploadState,
    pub error: &'a str,
    pub next_at: Timestamp,
}

pub(super) fn queue(
    books: &dyn Books,
    to: &Destination,
    contents: &[NamedContent],
    now: Timestamp,
) -> Answer<u64> {
    let digests: Vec<Digest> = contents.iter().map(|content| content.digest).collect();
    let named = books.named(&digests)?;
    let wanted = contents.iter().filter(|content| named.contains_key(&content.digest));
    let wanted: Vec<_> = wanted.map(|content| (*content, now)).collect();
    books.insert(to, &wanted)
}

pub(super) fn send_again(
    books: &dyn Books,
    to: &Destination,
    content: &NamedContent,
    has_local: bool,
    now: Timestamp,
) -> Answer<()> {
    books.forget_copies(&to.remote, &[content.digest])?;
    if !has_local {
        return books.unfill(&to.remote);
    }
    queue(books, to, &[*content], now).map(drop)
}

pub(super) fn take(
    books: &dyn Books,
    to: &Destination,
    holder: Uuid,
    now: Timestamp,
    limit: u32,
) -> Answer<Vec<Upload>> {
    let due = books.due(to, now, limit)?;
    let digests: Vec<Digest> = due.iter().map(|upload| upload.digest).collect();
    let named = books.named(&digests)?;
    let removing = books.being_removed(&to.remote, &digests)?;
    let (mut unwanted, mut closed, mut blocked) = (Vec::new(), Vec::new(), Vec::new());
    let mut taken = Vec::new();
    for upload in due {
        match named.get(&upload.digest) {
            None => unwanted.push(upload.digest),
            Some(true) => closed.push(upload.digest),
            Some(false) if removing.contains(&upload.digest) => blocked.push(upload.digest),
            Some(false) => taken.push(upload),
        }
    }
    books.drop_uploads(&to.remote, Some(to.node), &unwanted)?;
    books.put_off(to, &closed, UploadState::Quarantined, now + QUARANTINE_PAUSE)?;
    books.put_off(to, &blocked, UploadState::Waiting, now + REMOVAL_PAUSE)?;
    let digests: Vec<Digest> = taken.iter().map(|upload| upload.digest).collect();
    books.hold(to, holder, &digests)?;
    Ok(taken)
}

pub(super) fn settle(
    books: &dyn Books,
    to: &Destination,
    holder: Uuid,
    outcomes: &[(Upload, Sent)],
    now: Timestamp,
) -> Answer<()> {
    let (mut done, mut untouched) = (Vec::new(), Vec::new());
    for (Upload { digest, size, .. }, sent) in outcomes {
        match sent {
            Sent::Done => done.push(NamedContent { digest: *digest, size: *size }),
            Sent::Untouched => untouched.push(*digest),
            Sent::Failed { state, error, next_at } => {
                let (state, next_at) = (*state, *next_at);
                let failed = Failed { digest: *digest, state, error, next_at };
                books.note_failure(to, holder, &failed, now)?;
            }
        }
    }
    books.give_back(to, holder, &untouched)?;
    let digests: Vec<Digest> = done.iter().map(|content| content.digest).collect();
    books.drop_uploads(&to.remote, None, &digests)?;
    let named = books.named(&digests)?;
    let (stored, swept): (Vec<_>, Vec<_>) =
        done.into_iter().partition(|content| named.contains_key(&content.digest));
    books.note_copies(&to.remote, &stored, now)?;
    // Those were swept while they were sent.
    let swept: Vec<Digest> = swept.iter().map(|content| content.digest).collect();
    begin_removals(books, &to.remote, &swept, now)
}

fn begin_removals(
    books: &dyn Books,
    remote: &str,
    digests: &[Digest],
    now: Timestamp,
) -> Answer<()> {
    books.forget_copies(remote, digests)?;
    books.insert_removals(remote, digests, now)
}

pub(super) fn give_up(
    books: &dyn Books,
    digest: &Digest,
    also: Option<&str>,
    now: Timestamp,
) -> Answer<GivenUp> {
    if !books.named(&[*digest])?.is_empty() {
        return Ok(GivenUp::Nothing);
    }
    if books.is_held(digest)? {
        return Ok(GivenUp::Busy);
    }
    books.drop_all(digest)?;
    let mut remotes: BTreeSet<String> = books.stored_in(digest)?.into_iter().collect();
    remotes.extend(also.map(str::to_owned));
    for remote in &remotes {
        begin_removals(books, remote, &[*digest], now)?;
    }
    Ok(if remotes.is_empty() { GivenUp::Nothing } else { GivenUp::Removing })
}

/// A node's uploads of one state to one store.
pub(super) struct Counted {
    node: Uuid,
    remote: String,
    state: UploadState,
    amount: Amount,
    oldest_at: Timestamp,
}

pub(super) fn counted(columns: &impl Columns) -> Answer<Counted> {
    Ok(Counted {
        node: row::uuid(columns, "node")?,
        remote: row::text(columns, "remote")?,
        state: row::upload_state(columns)?,
        amount: row::amount(columns)?,
        oldest_at: row::time(columns, "oldest_at")?,
    })
}

/// Puts what each node has to send to what is known of the node.
pub(super) fn with_amounts(mut nodes: Vec<QueueRow>, counted: Vec<Counted>) -> Vec<QueueRow> {
    for Counted { node, remote, state, amount, oldest_at } in counted {
        let of_queue = nodes.iter_mut().find(|row| row.node == node && row.remote == remote);
        let Some(row) = of_queue else { continue };
        row.amounts.push((state, amount));
        row.oldest_at = row.oldest_at.map_or(Some(oldest_at), |at| Some(at.min(oldest_at)));
    }
    for row in &mut nodes {
        row.amounts.sort_unstable_by_key(|(state, _)| *state);
    }
    nodes
}

/// What lies between the digests with that first byte, or those behind `after`, both ends excluded. Bytes are compared from the
/// left, so that a prefix stands before all that begins with it.
pub(super) fn range(first: u8, after: Option<Digest>) -> (Vec<u8>, Vec<u8>) {
    let after = after.map_or(vec![first], |digest| digest.as_bytes().to_vec());
    (after, [&[first][..], &[0xff; 32]].concat())
}
