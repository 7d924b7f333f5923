//! Reading what is shown as files: one range of an index for each page.

use super::row::collect;
use super::{SqliteCatalog, integer, lock, sql};
use crate::model::artifact::Shelf;
use crate::model::id::ArtifactId;
use crate::storage::catalog::{CatalogError, row};
use crate::storage::view::{Scope, ShownVersion, Stretch, ViewCatalog, Words};
use rusqlite::types::Value;
use rusqlite::{OptionalExtension, params_from_iter};

/// Committed, with a content that can be opened. A condition on `v`.
const SHOWN: &str = "v.state IN ('READY', 'ARCHIVED') AND v.content_kept AND v.swept_at IS NULL AND v.digest IS NOT NULL";

/// What [`SqliteCatalog::select_shown`] reads, from `version v JOIN artifact a`.
const COLUMNS: &str = "v.pk, a.id, v.number, v.path, a.host_path, v.size, v.digest, v.quarantined, v.created_at, \
     NOT EXISTS (SELECT 1 FROM version w WHERE w.artifact = v.artifact AND w.number > v.number \
         AND w.workspace = v.workspace AND w.state IN ('READY', 'ARCHIVED')) AS latest";

const DOING: &str = "look up artifacts that are shown as files";

/// The column that tells what is on a shelf, and its value there.
fn on(shelf: &Shelf) -> (&'static str, Value) {
    match shelf {
        Shelf::Type(name) => ("v.type", Value::from(name.as_str().to_owned())),
        Shelf::Graph(id) => ("v.graph_id", Value::from(id.clone())),
    }
}

fn scoped(scope: &Scope) -> Vec<Value> {
    vec![Value::from(scope.workspace.as_str().to_owned()), Value::from(scope.owner_uid)]
}

impl SqliteCatalog {
    fn select_shown(
        &self,
        text: &str,
        values: Vec<Value>,
    ) -> Result<Vec<ShownVersion>, CatalogError> {
        collect(&lock(&self.reader), DOING, text, params_from_iter(values), |row| row::shown(row))
    }
}

impl ViewCatalog for SqliteCatalog {
    fn shown_words(
        &self,
        scope: &Scope,
        words: Words<'_>,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<String>, CatalogError> {
        let (column, shelf) = match words {
            Words::Types => ("v.type", None),
            Words::Graphs => ("v.graph_id", None),
            Words::Mounts(shelf) => ("v.mount", Some(on(shelf))),
        };
        let shelf_condition =
            shelf.as_ref().map(|(column, _)| format!("AND {column} = ?3")).unwrap_or_default();
        // The next word is one step in the index, however many rows the one before has. An empty word is legal.
        let text = |compare: &str| {
            format!(
                "SELECT {column} FROM version v WHERE v.workspace = ?1 AND v.owner_uid = ?2 AND v.mount IS NOT NULL \
                 AND {column} IS NOT NULL {shelf_condition} AND {column} {compare} ?4 AND {SHOWN} ORDER BY {column} LIMIT 1"
            )
        };
        let mut values = scoped(scope);
        values.push(shelf.as_ref().map_or(Value::Null, |(_, value)| value.clone()));
        values.push(Value::from(after.unwrap_or_default().to_owned()));
        let (first, next) = (text(">="), text(">"));
        let reader = lock(&self.reader);
        let mut found: Vec<String> = Vec::new();
        while found.len() < limit as usize {
            let text = if found.is_empty() && after.is_none() { &first } else { &next };
            let mut statement = reader.prepare_cached(text).map_err(sql(DOING))?;
            let word: Option<String> = statement
                .query_row(params_from_iter(values.iter()), |row| row.get(0))
                .optional()
                .map_err(sql(DOING))?;
            let Some(word) = word else { break };
            values[3] = Value::from(word.clone());
            found.push(word);
        }
        Ok(found)
    }

    fn shown_files(
        &self,
        scope: &Scope,
        stretch: &Stretch<'_>,
        limit: u32,
    ) -> Result<Vec<ShownVersion>, CatalogError> {
        let (column, shelf) = on(stretch.shelf);
        let mut values = scoped(scope);
        values.extend([
            shelf,
            Value::from(stretch.mount.as_str().to_owned()),
            Value::from(stretch.from.to_vec()),
            Value::from(i64::from(limit)),
        ]);
        let mut narrower = String::new();
        if let Some(below) = stretch.below {
            values.push(Value::from(below.to_vec()));
            narrower.push_str(&format!(" AND v.path < ?{}", values.len()));
        }
        if let Some(seen) = stretch.seen {
            values.push(Value::from(seen));
            narrower.push_str(&format!(" AND (v.path > ?5 OR v.pk < ?{})", values.len()));
        }
        let text = format!(
            "SELECT {COLUMNS} FROM version v JOIN artifact a ON a.pk = v.artifact \
             WHERE v.workspace = ?1 AND v.owner_uid = ?2 AND {column} = ?3 AND v.mount = ?4 AND v.path >= ?5 \
             {narrower} AND {SHOWN} ORDER BY v.path, v.pk DESC LIMIT ?6"
        );
        self.select_shown(&text, values)
    }

    fn shown_artifacts(
        &self,
        scope: &Scope,
        after: Option<i64>,
        limit: u32,
    ) -> Result<Vec<(i64, ArtifactId)>, CatalogError> {
        let mut values = scoped(scope);
        values.extend([Value::from(after.unwrap_or(i64::MIN)), Value::from(i64::from(limit))]);
        let text = format!(
            "SELECT a.pk, a.id FROM \
                 (SELECT DISTINCT v.artifact FROM version v WHERE v.workspace = ?1 AND v.owner_uid = ?2 \
                  AND v.artifact > ?3 AND {SHOWN} ORDER BY v.artifact LIMIT ?4) AS found \
             JOIN artifact a ON a.pk = found.artifact ORDER BY a.pk"
        );
        collect(&lock(&self.reader), DOING, &text, params_from_iter(values), |row| {
            Ok((row::integer(row, "pk")?, row::artifact(row)?))
        })
    }

    fn shown_versions(
        &self,
        scope: &Scope,
        id: ArtifactId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<ShownVersion>, CatalogError> {
        let mut values = scoped(scope);
        values.extend([
            Value::from(id.as_uuid().as_bytes().to_vec()),
            Value::from(integer(after)),
            Value::from(i64::from(limit)),
        ]);
        let text = format!(
            "SELECT {COLUMNS} FROM artifact a JOIN version v ON v.artifact = a.pk \
             WHERE v.workspace = ?1 AND v.owner_uid = ?2 AND a.id = ?3 AND v.number > ?4 AND {SHOWN} \
             ORDER BY v.number LIMIT ?5"
        );
        self.select_shown(&text, values)
    }
}
