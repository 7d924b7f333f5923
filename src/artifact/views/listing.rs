//! Directories of artifacts, page after page.
//!
//! Every page begins where the one before ended, in an order that does not change: what is there from the beginning of
//! a listing to its end is listed once, whatever comes and goes meanwhile.

use super::{PAGE_ROWS, Views, base_of, end_of, names, version};
use crate::model::artifact::{ArtifactType, Shelf};
use crate::model::id::{ArtifactId, MountName};
use crate::storage::Which;
use crate::storage::view::{ShownVersion, Stretch, Words};
use crate::vfs::error::Error;
use crate::vfs::views::{Entry, Listing, Place};

/// Rows of the first page, and of each that follows a directory inside: most directories are small, and rows behind the first
/// of a directory inside are of no use.
const FIRST_ROWS: u32 = 16;

pub fn of(views: Views, directory: &Place) -> Result<Box<dyn Listing>, Error> {
    Ok(match directory {
        Place::Root => {
            let entry = |name: &str, place| Entry { name: name.into(), place };
            let entries = [
                entry("by-id", Place::ById),
                entry("by-type", Place::ByType),
                entry("by-graph", Place::ByGraph),
            ];
            Box::new(Fixed(entries.into()))
        }
        Place::ById => Box::new(Artifacts { views, after: None }),
        Place::ByType => {
            let kind = Kind::Shelves(|word| Shelf::Type(ArtifactType::new(word)), Words::Types);
            Box::new(WordList { views, kind, after: None })
        }
        Place::ByGraph => {
            let kind = Kind::Shelves(Shelf::Graph, Words::Graphs);
            Box::new(WordList { views, kind, after: None })
        }
        Place::Shelf(shelf) => {
            Box::new(WordList { views, kind: Kind::Mounts(shelf.clone()), after: None })
        }
        Place::Artifact(id) => Box::new(Versions { views, id: *id, after: 0 }),
        Place::Directory { shelf, mount, path } => Box::new(Files {
            views,
            shelf: shelf.clone(),
            mount: mount.clone(),
            directory: path.clone(),
            from: path.clone(),
            seen: None,
            holder: None,
            rows: FIRST_ROWS,
        }),
        Place::Version(_) => return Err(Error::NotDirectory),
    })
}

/// The names of a version in its directory.
fn entries_of(shown: &ShownVersion, base: &[u8]) -> impl Iterator<Item = Entry> {
    let place = Place::Version(version(shown));
    let numbered = names::of_version(base, Which::Number(shown.number));
    let latest = shown.latest.then(|| names::of_version(base, Which::Latest));
    let names = std::iter::once(numbered).chain(latest);
    names.map(move |name| Entry { name, place: place.clone() })
}

struct Fixed(Vec<Entry>);

impl Listing for Fixed {
    fn next_page(&mut self) -> Result<Vec<Entry>, Error> {
        Ok(std::mem::take(&mut self.0))
    }
}

enum Kind {
    Shelves(fn(String) -> Shelf, Words<'static>),
    Mounts(Shelf),
}

/// Types, graphs, or mount points of one of them.
struct WordList {
    views: Views,
    kind: Kind,
    after: Option<String>,
}

impl Listing for WordList {
    fn next_page(&mut self) -> Result<Vec<Entry>, Error> {
        loop {
            let words = match &self.kind {
                Kind::Shelves(_, words) => *words,
                Kind::Mounts(shelf) => Words::Mounts(shelf),
            };
            let page = self.views.words(words, self.after.as_deref(), PAGE_ROWS)?;
            let Some(last) = page.last() else { return Ok(Vec::new()) };
            self.after = Some(last.clone());
            let entries = page.into_iter().filter_map(|word| match &self.kind {
                Kind::Shelves(shelf, _) => {
                    let name = names::of_word(&word)?;
                    Some(Entry { name, place: Place::Shelf(shelf(word)) })
                }
                Kind::Mounts(shelf) => {
                    let mount: MountName = word.parse().ok()?;
                    let (shelf, path) = (shelf.clone(), Vec::new());
                    Some(Entry {
                        name: word.into(),
                        place: Place::Directory { shelf, mount, path },
                    })
                }
            });
            let entries: Vec<Entry> = entries.collect();
            // A page of names that are all too long is not the end.
            if !entries.is_empty() {
                return Ok(entries);
            }
        }
    }
}

struct Artifacts {
    views: Views,
    after: Option<i64>,
}

impl Listing for Artifacts {
    fn next_page(&mut self) -> Result<Vec<Entry>, Error> {
        let page = self.views.artifacts(self.after)?;
        if let Some((key, _)) = page.last() {
            self.after = Some(*key);
        }
        let entry = |(_, id): (i64, ArtifactId)| Entry {
            name: id.to_string().into(),
            place: Place::Artifact(id),
        };
        Ok(page.into_iter().map(entry).collect())
    }
}

struct Versions {
    views: Views,
    id: ArtifactId,
    after: u64,
}

impl Listing for Versions {
    fn next_page(&mut self) -> Result<Vec<Entry>, Error> {
        let page = self.views.versions(self.id, self.after, PAGE_ROWS)?;
        if let Some(last) = page.last() {
            self.after = last.number;
        }
        Ok(page.iter().flat_map(|shown| entries_of(shown, base_of(&shown.host_path))).collect())
    }
}

/// A directory below a mount point. Versions come in the order of their paths; what lies deeper than the directory itself is
/// told by the name of the directory inside and passed over in one step.
struct Files {
    views: Views,
    shelf: Shelf,
    mount: MountName,
    directory: Vec<u8>,
    /// Where the next page begins, and what was seen there already.
    from: Vec<u8>,
    seen: Option<i64>,
    /// The file at `from`, and the artifact that has its names.
    holder: Option<(Vec<u8>, ArtifactId)>,
    rows: u32,
}

impl Files {
    /// The entries that a page of rows makes.
    fn take(&mut self, page: &[ShownVersion], entries: &mut Vec<Entry>) -> Result<(), Error> {
        for shown in page {
            let Some(path) = &shown.path else { continue };
            let Some(below) = path.strip_prefix(self.directory.as_slice()) else { continue };
            if let Some(slash) = below.iter().position(|byte| *byte == b'/') {
                let name = &below[..slash];
                let inside = [&self.directory[..], &below[..=slash]].concat();
                self.from = end_of(&inside).unwrap_or_default();
                self.seen = None;
                // Looked up, because a version may have the name.
                let hidden =
                    self.views.placed(&self.shelf, &self.mount, &self.directory, name)?.is_some();
                if !hidden {
                    use std::os::unix::ffi::OsStrExt;
                    let name = std::ffi::OsStr::from_bytes(name).to_owned();
                    let (shelf, mount) = (self.shelf.clone(), self.mount.clone());
                    let place = Place::Directory { shelf, mount, path: inside };
                    entries.push(Entry { name, place });
                }
                // Rows that follow lie in the directory that was passed over, or are read again behind it.
                self.rows = FIRST_ROWS;
                return Ok(());
            }
            let holder = match &self.holder {
                Some((held, id)) if held == path => *id,
                _ => {
                    self.holder = Some((path.clone(), shown.id));
                    shown.id
                }
            };
            if shown.id == holder {
                entries.extend(entries_of(shown, below));
            }
            self.from.clone_from(path);
            self.seen = Some(shown.key);
        }
        Ok(())
    }
}

impl Listing for Files {
    fn next_page(&mut self) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        let end = end_of(&self.directory);
        while entries.len() < PAGE_ROWS as usize {
            let stretch = Stretch {
                shelf: &self.shelf,
                mount: &self.mount,
                from: &self.from,
                below: end.as_deref(),
                seen: self.seen,
            };
            let page = self.views.files(&stretch, self.rows)?;
            if page.is_empty() {
                break;
            }
            self.rows = (self.rows * 2).min(PAGE_ROWS);
            self.take(&page, &mut entries)?;
        }
        Ok(entries)
    }
}
