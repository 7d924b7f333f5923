//! A content for reading: from the local store, else from the remote one, which puts it into the local store again.

use super::error::Error;
use super::service::Service;
use super::upstream::Upstream;
use crate::model::digest::Digest;
use crate::storage::BlobError;
use crate::storage::upload::Queued;
use std::fs::File;

/// Takes as long as the remote store needs for the whole content, where it is not here.
pub(super) fn open(service: &Service, digest: &Digest) -> Result<File, Error> {
    match service.blobs.open(digest) {
        Err(BlobError::Missing { .. }) => {}
        opened => return Ok(opened?),
    }
    let whereabouts = service.catalog.uploads().whereabouts(digest)?;
    if let Some(upstream) = &service.upstream
        && whereabouts.stored_in.contains(&upstream.destination.remote)
    {
        return upstream.alone(digest, || fetch(service, upstream, digest));
    }
    let digest = *digest;
    if !whereabouts.queued.is_empty() {
        let nodes = whereabouts.queued.iter().map(shown).collect::<Vec<_>>().join(", ");
        return Err(Error::ContentElsewhere { digest, nodes });
    }
    if !whereabouts.stored_in.is_empty() {
        let stores = whereabouts.stored_in.join(", ");
        return Err(Error::ContentInOtherStore { digest, stores });
    }
    Err(BlobError::Missing { digest }.into())
}

fn shown(queued: &Queued) -> String {
    format!("{} ({})", queued.node, queued.place)
}

fn fetch(service: &Service, upstream: &Upstream, digest: &Digest) -> Result<File, Error> {
    match service.blobs.open(digest) {
        Err(BlobError::Missing { .. }) => {}
        // Somebody else has just fetched it.
        opened => return Ok(opened?),
    }
    let mut batch = service.blobs.begin()?;
    let mut writer = batch.writer()?;
    upstream.store.get(digest, None, &mut *writer)?;
    writer.keep(digest)?;
    batch.commit()?;
    // An archived one belongs into the other tier; a young one stays in this as well.
    service.blobs.place(digest, &|| service.catalog.life().wanted(digest))?;
    Ok(service.blobs.open(digest)?)
}
