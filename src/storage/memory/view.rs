//! What is shown as files, found by looking at every row.

use super::{MemoryCatalog, Tables};
use crate::model::artifact::{ArtifactState, Shelf};
use crate::model::id::ArtifactId;
use crate::storage::view::{Scope, ShownVersion, Stretch, ViewCatalog, Words};
use crate::storage::{CatalogError, VersionRow};
use std::collections::BTreeSet;

fn is_committed(row: &VersionRow) -> bool {
    match row.state {
        ArtifactState::Ready | ArtifactState::Archived => true,
        ArtifactState::Creating | ArtifactState::Deleted => false,
    }
}

fn is_on(shelf: &Shelf, row: &VersionRow) -> bool {
    match shelf {
        Shelf::Type(name) => row.artifact_type == *name,
        Shelf::Graph(id) => row.graph_id.as_ref() == Some(id),
    }
}

impl Tables {
    /// Committed versions of the scope, with their positions.
    fn committed<'a>(&'a self, scope: &'a Scope) -> impl Iterator<Item = (usize, &'a VersionRow)> {
        self.rows.iter().enumerate().filter(|(_, row)| {
            row.owner_uid == scope.owner_uid
                && row.workspace.as_ref() == Some(&scope.workspace)
                && is_committed(row)
        })
    }

    fn in_views<'a>(
        &'a self,
        scope: &'a Scope,
    ) -> impl Iterator<Item = (ShownVersion, &'a VersionRow)> {
        self.committed(scope).filter_map(|(position, row)| {
            let digest = row.digest.filter(|_| row.content_kept && row.swept_at.is_none())?;
            let newer =
                |(_, other): (usize, &VersionRow)| other.id == row.id && other.number > row.number;
            let version = ShownVersion {
                key: position as i64,
                id: row.id,
                number: row.number,
                latest: !self.committed(scope).any(newer),
                path: row.place.as_ref().map(|(_, path)| path.as_bytes().to_vec()),
                host_path: row.host_path.clone(),
                size: row.size,
                digest,
                quarantined: row.quarantined,
                created_at: row.created_at,
            };
            Some((version, row))
        })
    }
}

impl ViewCatalog for MemoryCatalog {
    fn shown_words(
        &self,
        scope: &Scope,
        words: Words<'_>,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<String>, CatalogError> {
        let tables = self.tables();
        let placed = tables.in_views(scope).filter_map(|(_, row)| Some((row, row.place.as_ref()?)));
        let found: BTreeSet<String> = placed
            .filter_map(|(row, (mount, _))| match words {
                Words::Types => Some(row.artifact_type.as_str().to_owned()),
                Words::Graphs => row.graph_id.clone(),
                Words::Mounts(shelf) => is_on(shelf, row).then(|| mount.as_str().to_owned()),
            })
            .filter(|word| after.is_none_or(|after| word.as_str() > after))
            .collect();
        Ok(found.into_iter().take(limit as usize).collect())
    }

    fn shown_files(
        &self,
        scope: &Scope,
        stretch: &Stretch<'_>,
        limit: u32,
    ) -> Result<Vec<ShownVersion>, CatalogError> {
        let tables = self.tables();
        let mut found: Vec<(Vec<u8>, ShownVersion)> = tables
            .in_views(scope)
            .filter_map(|(version, row)| {
                let (mount, path) = row.place.as_ref()?;
                let path = path.as_bytes();
                let inside = path >= stretch.from && stretch.below.is_none_or(|below| path < below);
                let seen =
                    path == stretch.from && stretch.seen.is_some_and(|seen| version.key >= seen);
                let wanted = is_on(stretch.shelf, row) && mount == stretch.mount;
                (wanted && inside && !seen).then(|| (path.to_vec(), version))
            })
            .collect();
        found.sort_by(|(a, one), (b, other)| a.cmp(b).then(other.key.cmp(&one.key)));
        Ok(found.into_iter().take(limit as usize).map(|(_, version)| version).collect())
    }

    fn shown_artifacts(
        &self,
        scope: &Scope,
        after: Option<i64>,
        limit: u32,
    ) -> Result<Vec<(i64, ArtifactId)>, CatalogError> {
        let tables = self.tables();
        let first = |id| tables.rows.iter().position(|row| row.id == id).unwrap_or(0) as i64;
        let found: BTreeSet<(i64, ArtifactId)> =
            tables.in_views(scope).map(|(version, _)| (first(version.id), version.id)).collect();
        let rest = found.into_iter().filter(|(key, _)| after.is_none_or(|after| *key > after));
        Ok(rest.take(limit as usize).collect())
    }

    fn shown_versions(
        &self,
        scope: &Scope,
        id: ArtifactId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<ShownVersion>, CatalogError> {
        let tables = self.tables();
        let mut found: Vec<ShownVersion> = tables
            .in_views(scope)
            .map(|(version, _)| version)
            .filter(|version| version.id == id && version.number > after)
            .collect();
        found.sort_by_key(|version| version.number);
        found.truncate(limit as usize);
        Ok(found)
    }
}
