//! The thread that gives up what was deleted longer ago than the undo window, and puts contents where they belong.
//!
//! It works from the catalog alone: a deletion that is due, and the list of contents to be looked at, which is written in
//! the transaction that changed the rows. A daemon that dies in between leaves its work to the next pass of any daemon.
//! Order of a sweep: the row says for ever that its content is given up, then the content goes where no row needs it.

use super::error::Error;
use super::service::Service;
use super::ticker::Ticker;
use crate::model::digest::Digest;
use crate::storage::life::Placement;
use crate::storage::upload::GivenUp;
use crate::storage::{BlobStore, Catalog, Placed};
use jiff::{SignedDuration, Timestamp};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Versions given up in one transaction, which other writers wait for. Chosen, not measured.
const SWEEP_ROWS_MAX: u32 = 500;

/// Contents looked at in one pass. Each costs some system calls and two short transactions.
const PLACEMENTS_MAX: u32 = 10_000;

/// Pause between passes: a tenth of the undo window, so that nothing stays much longer than it says.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(60);

pub(super) fn start(service: &Arc<Service>) -> io::Result<Ticker> {
    let service = service.clone();
    Ticker::start("belljar-sweeper", move || {
        if let Err(error) = pass(&service) {
            let reason = crate::telemetry::sentence(&error);
            tracing::warn!(%reason, "deleted artifacts are not swept; it is tried again");
        }
        (service.settings.undo_window / 10).clamp(PAUSE_MIN, PAUSE_MAX)
    })
}

fn pass(service: &Service) -> Result<(), Error> {
    let window =
        SignedDuration::try_from(service.settings.undo_window).unwrap_or(SignedDuration::MAX);
    // Before the first time there is, nothing was deleted.
    let before = Timestamp::now().checked_sub(window).unwrap_or(Timestamp::MIN);
    loop {
        let swept = service.catalog.life().sweep(before, SWEEP_ROWS_MAX)?;
        if swept > 0 {
            service.tell_of_events();
            tracing::info!(
                versions = swept,
                "deleted versions were given up: the undo window is over"
            );
        }
        if swept < SWEEP_ROWS_MAX || service.is_stopping() {
            break;
        }
    }
    for placement in service.catalog.life().placements(PLACEMENTS_MAX)? {
        if service.is_stopping() {
            break;
        }
        settle(&*service.catalog, &*service.blobs, &placement)?;
    }
    Ok(())
}

/// Puts one content where it belongs. What stays because it is young is looked at again by a later pass.
fn settle(
    catalog: &dyn Catalog,
    blobs: &dyn BlobStore,
    placement: &Placement,
) -> Result<(), Error> {
    let (digest, _) = placement;
    match blobs.place(digest, &|| catalog.life().wanted(digest))? {
        Placed::Done => match catalog.uploads().give_up(digest, None, Timestamp::now())? {
            GivenUp::Nothing | GivenUp::Removing => Ok(catalog.life().placed(placement)?),
            // Looked at again when it was sent.
            GivenUp::Busy => Ok(()),
        },
        Placed::Young => Ok(()),
    }
}

/// Puts contents where they belong at once, as far as that can be; what fails is left to the next pass.
pub(super) fn settle_soon(service: &Service, digest: Option<Digest>) {
    let Some(digest) = digest else { return };
    let placed = service.blobs.place(&digest, &|| service.catalog.life().wanted(&digest));
    if let Err(error) = placed {
        let reason = crate::telemetry::sentence(&error);
        tracing::warn!(%reason, "a content is not in its tier yet; it is tried again");
    }
}
