//! Names of followed files: which file has one, and what happens to it when it is given, moved and removed.

use super::dirty_set::DirtySet;
use super::record::{FileRef, Place};
use crate::model::path::VirtualPath;
use std::ops::Bound;
use std::path::Path;
use std::time::Instant;

impl DirtySet {
    /// Whether a file with this host path is on its way in a workspace of the owner.
    pub fn follows_path(&self, owner_uid: u32, host_path: &Path) -> bool {
        let of_owner = self.workspaces.values().filter(|w| w.owner_uid == owner_uid);
        let mut mounts = of_owner.flat_map(|workspace| {
            workspace.mounts.iter().zip(0..).map(|(mount, at)| (workspace.number, mount, at))
        });
        mounts.any(|(workspace, mount, at)| {
            let below = host_path.strip_prefix(&mount.host_path).ok();
            let path = below.and_then(|below| VirtualPath::parse(below).ok());
            path.is_some_and(|path| {
                self.names.contains_key(&(workspace, Place { mount: at, path }))
            })
        })
    }

    /// The name is gone. This is not journalled: a file that is not there any more needs no recovery.
    pub fn removed(&mut self, workspace: u32, place: &Place, now: Instant) {
        if let Some(file) = self.names.remove(&(workspace, place.clone())) {
            self.lose_name(file, now);
        }
    }

    /// The file was renamed and has its former name no more. Not journalled either: what is at a name is looked at.
    pub fn renamed_from(&mut self, file: FileRef, from: &Place) {
        if let Some(entry) = self.files.get_mut(&file) {
            entry.older.remove(from);
        }
    }

    pub(super) fn give_name(&mut self, file: FileRef, place: &Place, now: Instant) {
        let Some(entry) = self.files.get_mut(&file) else { return };
        entry.older.remove(place);
        let before = std::mem::replace(&mut entry.place, place.clone());
        let had_it = !std::mem::take(&mut entry.nameless);
        if had_it && before != *place {
            entry.older.push(before.clone());
        }
        if before != *place && self.names.get(&(file.workspace, before.clone())) == Some(&file) {
            self.names.remove(&(file.workspace, before));
        }
        match self.names.insert((file.workspace, place.clone()), file) {
            Some(other) if other != file => self.lose_name(other, now),
            Some(_) | None => {}
        }
        self.reschedule(file, now);
    }

    fn lose_name(&mut self, file: FileRef, now: Instant) {
        if let Some(entry) = self.files.get_mut(&file) {
            entry.overtaken();
            let older = entry.older.pop().map(|place| (file.workspace, place));
            match older.filter(|name| !self.names.contains_key(name)) {
                Some(name) => {
                    entry.place = name.1.clone();
                    self.names.insert(name, file);
                }
                None => entry.nameless = true,
            }
            self.reschedule(file, now);
        }
    }

    pub(super) fn move_names(&mut self, workspace: u32, from: &Place, to: &Place, now: Instant) {
        // Paths sort by their components, so that what lies below a directory follows it without a gap.
        let start = Bound::Excluded((workspace, from.clone()));
        let below: Vec<(Place, FileRef)> = self
            .names
            .range((start, Bound::Unbounded))
            .take_while(|((number, place), _)| {
                *number == workspace
                    && place.mount == from.mount
                    && place.path.as_path().starts_with(from.path.as_path())
            })
            .map(|((_, place), file)| (place.clone(), *file))
            .collect();
        for (place, file) in below {
            let moved = place
                .path
                .as_path()
                .strip_prefix(from.path.as_path())
                .ok()
                .map(|rest| to.path.as_path().join(rest))
                .and_then(|path| VirtualPath::parse(path).ok());
            let (Some(path), Some(entry)) = (moved, self.files.get_mut(&file)) else { continue };
            entry.overtaken();
            self.give_name(file, &Place { mount: to.mount, path }, now);
        }
    }
}
