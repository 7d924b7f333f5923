//! What is in the local store, by looking: every copy of a content, every name in the directories, damaged copies set aside.
//!
//! Nothing here decides what a finding means: whether a content is wanted is the catalog's word.

use super::local::name_of;
use super::placing::{Tiers, copy, remove};
use crate::model::digest::Digest;
use crate::storage::{ContentCopy, StoreEntry, StorePart, Tier};
use std::fs::{self, DirBuilder, DirEntry, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Names in the store's directory that are no directories of contents.
const KNOWN: &[&str] = &["tmp", "archive", "damaged"];

impl Tiers {
    /// Every copy of a content that has its name. The main tier is looked at twice: a content on its way to it has left the
    /// archive tier in between.
    pub fn copies(&self, digest: &Digest) -> io::Result<Vec<ContentCopy>> {
        let mut copies: Vec<ContentCopy> = Vec::new();
        for tier in [Tier::Main, Tier::Archive, Tier::Main] {
            if copies.iter().any(|copy| copy.tier == tier) {
                continue;
            }
            match File::open(name_of(self.directory(tier), digest)) {
                Ok(file) => copies.push(ContentCopy { tier, file }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(copies)
    }

    fn directory(&self, tier: Tier) -> &Path {
        match tier {
            Tier::Main => self.root(),
            Tier::Archive => &self.archive,
        }
    }

    /// Tells of every name in one part of the store.
    pub fn survey(&self, part: StorePart, each: &mut dyn FnMut(StoreEntry)) -> io::Result<()> {
        match part {
            StorePart::Contents(tier, first) => {
                let directory = self.directory(tier).join(format!("{first:02x}"));
                for entry in entries(&directory)? {
                    if let Some(found) = self.content(tier, first, &entry?)? {
                        each(found);
                    }
                }
            }
            StorePart::Rest => {
                for entry in entries(&self.root().join("tmp"))? {
                    if let Some(found) = self.temporary(&entry?)? {
                        each(found);
                    }
                }
                for tier in [Tier::Main, Tier::Archive] {
                    for entry in entries(self.directory(tier))? {
                        let entry = entry?;
                        let name = entry.file_name();
                        let known = name
                            .to_str()
                            .is_some_and(|name| KNOWN.contains(&name) || first_of(name).is_some());
                        if !known {
                            each(StoreEntry::Foreign { path: entry.path() });
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn content(&self, tier: Tier, first: u8, entry: &DirEntry) -> io::Result<Option<StoreEntry>> {
        let (path, name) = (entry.path(), entry.file_name());
        let digest = name.to_str().and_then(|rest| {
            let rest = rest.strip_suffix(".part").unwrap_or(rest);
            format!("blake3:{first:02x}{rest}").parse::<Digest>().ok()
        });
        let Some(digest) = digest else { return Ok(Some(StoreEntry::Foreign { path })) };
        let Some(young) = self.young(&path)? else { return Ok(None) };
        if path.extension().is_some() {
            return Ok(Some(StoreEntry::Partial { path, young }));
        }
        Ok(Some(StoreEntry::Content { digest, tier, young }))
    }

    fn temporary(&self, entry: &DirEntry) -> io::Result<Option<StoreEntry>> {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_str().unwrap_or_default();
        if name == "placing.lock" {
            return Ok(None);
        }
        let Some(young) = self.young(&path)? else { return Ok(None) };
        if let Some(hex) = name.strip_prefix("aside-")
            && let Ok(digest) = format!("blake3:{hex}").parse()
        {
            return Ok(Some(StoreEntry::Aside { digest, young }));
        }
        let instance = name.rsplit_once('-').and_then(|(instance, number)| {
            number.parse::<u64>().ok()?;
            instance.parse::<Uuid>().ok()
        });
        Ok(Some(match instance {
            Some(instance) => StoreEntry::Temporary { path, instance },
            None => StoreEntry::Foreign { path },
        }))
    }

    /// Nothing when it went away meanwhile.
    fn young(&self, path: &Path) -> io::Result<Option<bool>> {
        match self.is_young(path) {
            Ok(young) => Ok(Some(young)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Moves a copy out of the store; under [`lock`](Self::lock).
    pub fn set_aside(&self, digest: &Digest, tier: Tier) -> io::Result<PathBuf> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.damaged)?;
        let from = name_of(self.directory(tier), digest);
        let mut number = 0u32;
        let to = loop {
            let to = self.damaged.join(format!("{}.{number}", digest.hex()));
            if !to.try_exists()? {
                break to;
            }
            number += 1;
        };
        match fs::rename(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                copy(&from, &to)?;
                remove(&from)?;
            }
            renamed => renamed?,
        }
        File::open(&self.damaged)?.sync_all()?;
        Ok(to)
    }
}

/// The digest's first byte that a directory stands for.
fn first_of(name: &str) -> Option<u8> {
    let legal = name.len() == 2 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    u8::from_str_radix(name, 16).ok().filter(|_| legal)
}

/// A directory that is not there has no entries.
fn entries(directory: &Path) -> io::Result<Box<dyn Iterator<Item = io::Result<DirEntry>>>> {
    match fs::read_dir(directory) {
        Ok(entries) => Ok(Box::new(entries)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Box::new(std::iter::empty())),
        Err(error) => Err(error),
    }
}
