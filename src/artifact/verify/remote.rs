//! Verification of the remote store: whether it has what it is said to have, and what it can give back.

use super::super::error::Error;
use super::super::fetch;
use super::{PAGE, Verification};
use crate::model::digest::Digest;
use crate::storage::NamedContent;
use crate::storage::remote::RemoteError;
use crate::wire::verify::{Finding, FindingKind};
use jiff::Timestamp;
use std::collections::HashMap;

impl Verification<'_> {
    /// Whether a content that is not here is where the catalog says that it is; or what is wrong.
    pub fn elsewhere(&self, digest: &Digest) -> Result<Result<(), String>, Error> {
        let whereabouts = self.service.catalog.uploads().whereabouts(digest)?;
        let upstream = self.service.upstream.as_ref();
        let own = upstream.map(|upstream| &upstream.destination.remote);
        if let Some(upstream) =
            upstream.filter(|_| whereabouts.stored_in.iter().any(|s| Some(s) == own))
        {
            if self.whole || upstream.store.size(digest)?.is_some() {
                return Ok(Ok(()));
            }
            let name = &upstream.destination.remote;
            return Ok(Err(format!("it was uploaded to {name} and is not there, nor here")));
        }
        let another = whereabouts.queued.iter().any(|queued| queued.node != self.service.node);
        if another || !whereabouts.stored_in.is_empty() {
            return Ok(Ok(()));
        }
        Ok(Err("the store has no content of this digest".to_owned()))
    }

    /// Whether the catalog knows of other nodes: what is here nowhere may be in one of them, and is not lost.
    pub fn others_may_have_it(&self) -> Result<bool, Error> {
        Ok(self.service.catalog.uploads().knows_others(self.service.node)?)
    }

    /// The remote store from which a content could be fetched again, by its name.
    pub fn refetch(&self, digest: &Digest) -> Result<Option<String>, Error> {
        let Some(upstream) = &self.service.upstream else { return Ok(None) };
        let name = &upstream.destination.remote;
        let stored_in = self.service.catalog.uploads().whereabouts(digest)?.stored_in;
        if !stored_in.contains(name) || upstream.store.size(digest)?.is_none() {
            return Ok(None);
        }
        match fetch::open(self.service, digest) {
            Ok(_) => Ok(Some(name.clone())),
            // It is damaged there, too.
            Err(Error::Remote(RemoteError::Damaged { .. } | RemoteError::Missing { .. })) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Looks whether the remote store has what it is said to have, in one part of it.
    pub fn remote(&mut self, first: u8) -> Result<(), Error> {
        let service = self.service;
        let Some(upstream) = &service.upstream else { return Ok(()) };
        let mut there = HashMap::new();
        upstream.store.list(first, &mut |content| {
            there.insert(content.digest, content.size);
        })?;
        self.report.files += there.len() as u64;
        let (uploads, to) = (service.catalog.uploads(), &upstream.destination);
        let mut after = None;
        loop {
            let page = uploads.stored(&to.remote, first, after, PAGE)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.digest);
            for content in page {
                let digest = &content.digest;
                if there.get(digest) == Some(&content.size) {
                    continue;
                }
                // Looked at anew: it may have come since, or gone together with its last version.
                let found = upstream.store.size(digest)?;
                let stored_in = uploads.whereabouts(digest)?.stored_in;
                if found != Some(content.size) && stored_in.contains(&to.remote) {
                    self.lost_remotely(&content, found)?;
                }
            }
        }
    }

    fn lost_remotely(&mut self, content: &NamedContent, found: Option<u64>) -> Result<(), Error> {
        let service = self.service;
        let Some(upstream) = &service.upstream else { return Ok(()) };
        let (digest, to) = (&content.digest, &upstream.destination);
        let versions = self.named_by(digest)?;
        let name = &to.remote;
        let detail = match found {
            None => format!("it was uploaded to {name} and is not there"),
            Some(size) => format!("it has {} bytes, and {size} in {name}", content.size),
        };
        let mut finding = Finding {
            kind: FindingKind::Remote,
            digest: Some(*digest),
            versions,
            detail,
            repaired: None,
            mended: false,
        };
        if !self.repair {
            self.report.findings.push(finding);
            return Ok(());
        }
        if found.is_some() {
            // What is there under its name would be taken for it.
            upstream.store.delete(digest)?;
        }
        let here = !service.blobs.copies(digest)?.is_empty() || self.retake(digest)?.is_some();
        service.catalog.uploads().send_again(to, content, here, Timestamp::now())?;
        upstream.bell.ring();
        if !here {
            return self.mend_lost(
                FindingKind::Remote,
                digest,
                finding.versions,
                finding.detail,
                None,
            );
        }
        finding.repaired = Some("it is uploaded again from here".to_owned());
        finding.mended = true;
        self.report.findings.push(finding);
        Ok(())
    }
}
