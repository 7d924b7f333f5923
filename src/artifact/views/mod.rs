//! The artifacts of one workspace as a tree of files, out of the catalog and the blob store.
//!
//! ```text
//! by-id/<uuid>/<file name>@3                     every artifact of the workspace
//! by-type/<type>/<mount>/<directories>/<name>@3  those that lie below a mount point, where they lie
//! by-graph/<graph>/<mount>/<directories>/<name>@latest
//! ```
//!
//! A directory holds each version that belongs to it as `<name>@<number>`, and as `<name>@latest` too the one that is its
//! artifact's latest in this workspace. When the latest has no content here, no name says `@latest`: an older version must
//! never pass for it. Of several artifacts that lay at one path, in workspaces that had this name one after the other, the one
//! that was registered last has the names; `by-id` has all of them.

mod listing;
mod names;

use super::fetch;
use super::service::Service;
use crate::model::artifact::ArtifactType;
use crate::model::artifact::Shelf;
use crate::model::id::{ArtifactId, MountName};
use crate::storage::view::{Scope, ShownVersion, Stretch, Words};
use crate::storage::{CatalogError, Which};
use crate::vfs::attributes::Time;
use crate::vfs::error::Error;
use crate::vfs::views::{Listing, Place, Version, ViewSource};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// Rows of the catalog in one page. Chosen, not measured: a few hundred kilobytes.
const PAGE_ROWS: u32 = 512;

/// What is shown of one workspace.
pub(super) struct Views {
    service: Arc<Service>,
    scope: Scope,
}

/// EIO for whoever asked; the cause is for the log.
fn failed(doing: &'static str, error: &(dyn std::error::Error + 'static)) -> Error {
    Error::Os { doing, source: std::io::Error::other(crate::telemetry::sentence(error)) }
}

fn unanswered(error: CatalogError) -> Error {
    failed("look up artifacts that are shown as files", &error)
}

fn version(shown: &ShownVersion) -> Version {
    let nanoseconds = shown.created_at.subsec_nanosecond();
    let mut created =
        Time { seconds: shown.created_at.as_second(), nanoseconds: i64::from(nanoseconds) };
    if created.nanoseconds < 0 {
        // Before 1970 both are negative in one and count towards each other in the other.
        created =
            Time { seconds: created.seconds - 1, nanoseconds: created.nanoseconds + 1_000_000_000 };
    }
    Version {
        id: shown.id,
        number: shown.number,
        size: shown.size,
        digest: shown.digest,
        created,
        quarantined: shown.quarantined,
    }
}

fn base_of(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

/// The first path that is greater than every path that begins with `directory`, which ends with `/`; none for the
/// mount point itself.
fn end_of(directory: &[u8]) -> Option<Vec<u8>> {
    let (_, rest) = directory.split_last()?;
    Some([rest, b"0"].concat())
}

impl Views {
    pub fn new(service: Arc<Service>, scope: Scope) -> Self {
        Self { service, scope }
    }

    /// A look at part of a shelf, at most `limit` versions.
    fn files(&self, stretch: &Stretch<'_>, limit: u32) -> Result<Vec<ShownVersion>, Error> {
        self.service.catalog.views().shown_files(&self.scope, stretch, limit).map_err(unanswered)
    }

    fn words(
        &self,
        words: Words<'_>,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<String>, Error> {
        self.service
            .catalog
            .views()
            .shown_words(&self.scope, words, after, limit)
            .map_err(unanswered)
    }

    fn versions(&self, id: ArtifactId, after: u64, limit: u32) -> Result<Vec<ShownVersion>, Error> {
        self.service
            .catalog
            .views()
            .shown_versions(&self.scope, id, after, limit)
            .map_err(unanswered)
    }

    fn artifacts(&self, after: Option<i64>) -> Result<Vec<(i64, ArtifactId)>, Error> {
        let views = self.service.catalog.views();
        views.shown_artifacts(&self.scope, after, PAGE_ROWS).map_err(unanswered)
    }

    /// Whether anything lies below a directory.
    fn holds(&self, shelf: &Shelf, mount: &MountName, directory: &[u8]) -> Result<bool, Error> {
        let end = end_of(directory);
        let stretch = Stretch { shelf, mount, from: directory, below: end.as_deref(), seen: None };
        Ok(!self.files(&stretch, 1)?.is_empty())
    }

    /// The version that a name in a directory means.
    fn placed(
        &self,
        shelf: &Shelf,
        mount: &MountName,
        directory: &[u8],
        name: &[u8],
    ) -> Result<Option<Version>, Error> {
        let Some((base, which)) = names::read_version(name) else { return Ok(None) };
        let path = [directory, base].concat();
        let after = [&path[..], b"\0"].concat();
        let mut stretch = Stretch { shelf, mount, from: &path, below: Some(&after), seen: None };
        let mut owner = None;
        loop {
            let page = self.files(&stretch, PAGE_ROWS)?;
            let Some(last) = page.last() else { return Ok(None) };
            stretch.seen = Some(last.key);
            let owner = *owner.get_or_insert(page[0].id);
            let meant = page.iter().filter(|shown| shown.id == owner).find(|shown| match which {
                Which::Latest => shown.latest,
                Which::Number(number) => shown.number == number,
            });
            if let Some(shown) = meant {
                return Ok(Some(version(shown)));
            }
        }
    }

    /// The version of an artifact, by number or the latest.
    fn of_artifact(&self, id: ArtifactId, which: Which) -> Result<Option<ShownVersion>, Error> {
        match which {
            Which::Number(number) => {
                let found = self.versions(id, number - 1, 1)?.pop();
                Ok(found.filter(|shown| shown.number == number))
            }
            Which::Latest => {
                let mut after = 0;
                loop {
                    let page = self.versions(id, after, PAGE_ROWS)?;
                    let Some(last) = page.last() else { return Ok(None) };
                    after = last.number;
                    if let Some(latest) = page.into_iter().find(|shown| shown.latest) {
                        return Ok(Some(latest));
                    }
                }
            }
        }
    }

    fn in_by_id(&self, name: &OsStr) -> Result<Option<Place>, Error> {
        let text = name.to_str().unwrap_or_default();
        let (id, which) = match names::read_version(text.as_bytes()) {
            Some((id, which)) => (std::str::from_utf8(id).unwrap_or_default(), Some(which)),
            None => (text, None),
        };
        // One artifact has one name: the id as it is written everywhere.
        let id = id.parse().ok().filter(|parsed: &ArtifactId| parsed.to_string() == id);
        let Some(id) = id else { return Ok(None) };
        match which {
            Some(which) => {
                let found = self.of_artifact(id, which)?;
                Ok(found.map(|shown| Place::Version(version(&shown))))
            }
            None => Ok((!self.versions(id, 0, 1)?.is_empty()).then_some(Place::Artifact(id))),
        }
    }

    fn find(&self, directory: &Place, name: &OsStr) -> Result<Option<Place>, Error> {
        let shelf = |make: fn(String) -> Shelf| -> Result<Option<Place>, Error> {
            let Some(word) = names::read_word(name) else { return Ok(None) };
            let shelf = make(word);
            let any = !self.words(Words::Mounts(&shelf), None, 1)?.is_empty();
            Ok(any.then_some(Place::Shelf(shelf)))
        };
        match directory {
            Place::Root => Ok(match name.as_bytes() {
                b"by-id" => Some(Place::ById),
                b"by-type" => Some(Place::ByType),
                b"by-graph" => Some(Place::ByGraph),
                _ => None,
            }),
            Place::ByType => shelf(|word| Shelf::Type(ArtifactType::new(word))),
            Place::ByGraph => shelf(Shelf::Graph),
            Place::ById => self.in_by_id(name),
            Place::Artifact(id) => {
                let Some((base, which)) = names::read_version(name.as_bytes()) else {
                    return Ok(None);
                };
                let found = self.of_artifact(*id, which)?;
                let found = found.filter(|shown| base_of(&shown.host_path) == base);
                Ok(found.map(|shown| Place::Version(version(&shown))))
            }
            Place::Shelf(shelf) => {
                let mount: Option<MountName> = name.to_str().and_then(|name| name.parse().ok());
                let Some(mount) = mount else { return Ok(None) };
                let place = Place::Directory { shelf: shelf.clone(), mount, path: Vec::new() };
                let Place::Directory { mount, .. } = &place else { return Ok(None) };
                Ok(self.holds(shelf, mount, b"")?.then_some(place))
            }
            Place::Directory { shelf, mount, path } => {
                // A version has its name even where a directory was called so.
                if let Some(version) = self.placed(shelf, mount, path, name.as_bytes())? {
                    return Ok(Some(Place::Version(version)));
                }
                let path = [path, name.as_bytes(), b"/"].concat();
                let any = self.holds(shelf, mount, &path)?;
                let (shelf, mount) = (shelf.clone(), mount.clone());
                Ok(any.then_some(Place::Directory { shelf, mount, path }))
            }
            Place::Version(_) => Err(Error::NotDirectory),
        }
    }
}

impl ViewSource for Views {
    fn lookup(&self, directory: &Place, name: &OsStr) -> Result<Place, Error> {
        self.find(directory, name)?.ok_or(Error::NotFound)
    }

    fn list(&self, directory: &Place) -> Result<Box<dyn Listing>, Error> {
        let views = Views::new(Arc::clone(&self.service), self.scope.clone());
        listing::of(views, directory)
    }

    fn open(&self, version: &Version) -> Result<File, Error> {
        // It may have been deleted since it was found, and its content may be on its way out.
        let shown = self.of_artifact(version.id, Which::Number(version.number))?;
        let shown = shown.ok_or(Error::NotFound)?;
        let opened = fetch::open(&self.service, &shown.digest);
        opened.map_err(|error| failed("open the content of an artifact", &error))
    }
}
