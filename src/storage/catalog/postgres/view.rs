//! Reading what is shown as files: one range of an index for each page.

use super::PostgresCatalog;
use super::statement::Statement;
use super::text::escape;
use crate::model::artifact::Shelf;
use crate::model::id::ArtifactId;
use crate::storage::catalog::tables::Answer;
use crate::storage::catalog::{CatalogError, row};
use crate::storage::view::{Scope, ShownVersion, Stretch, ViewCatalog, Words};

/// Committed, with a content that can be opened. A condition on `v`.
const SHOWN: &str = "v.state IN ('READY', 'ARCHIVED') AND v.content_kept AND v.swept_at IS NULL AND v.digest IS NOT NULL";

/// What [`PostgresCatalog::select_shown`] reads, from `version v JOIN artifact a`.
const COLUMNS: &str = "v.pk, a.id, v.number, v.path, a.host_path, v.size, v.digest, v.quarantined, v.created_at, \
     NOT EXISTS (SELECT 1 FROM version w WHERE w.artifact = v.artifact AND w.number > v.number \
         AND w.workspace = v.workspace AND w.state IN ('READY', 'ARCHIVED')) AS latest";

const DOING: &str = "look up artifacts that are shown as files";

/// As much of a path as the indexes hold. Of two paths the greater one has no lesser beginning.
const BEGINNING: usize = 512;

fn begin(path: &[u8]) -> &[u8] {
    &path[..path.len().min(BEGINNING)]
}

/// ` AND` what tells what is on a shelf, with what the index of graphs holds of a graph's id.
fn on(statement: &mut Statement, shelf: &Shelf) {
    match shelf {
        Shelf::Type(name) => {
            statement.and("v.type =", name.as_str());
        }
        Shelf::Graph(id) => {
            statement.and("v.graph_id =", id);
            statement.and("left(v.graph_id, 200) =", first_letters(id));
        }
    }
}

/// As much of a graph's id as the indexes hold, as it is written there.
pub(super) fn first_letters(graph: &str) -> super::statement::Value {
    let letters = escape(graph).chars().take(200).collect();
    super::statement::Value::Text(Some(letters))
}

fn scoped(text: &str, scope: &Scope) -> Statement {
    let mut statement = Statement::default();
    statement.text(text).text(" WHERE v.workspace = ").value(scope.workspace.as_str());
    statement.and("v.owner_uid =", scope.owner_uid);
    statement
}

impl PostgresCatalog {
    fn select_shown(&self, statement: &Statement) -> Answer<Vec<ShownVersion>> {
        self.read(|session| {
            session.collect(DOING, &statement.text, &statement.values, |row| row::shown(row))
        })
    }
}

impl ViewCatalog for PostgresCatalog {
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
            Words::Mounts(shelf) => ("v.mount", Some(shelf)),
        };
        let mut found: Vec<String> = Vec::new();
        // The next word is one step in the index, however many rows the one before has. An empty word is legal.
        while found.len() < limit as usize {
            let mut statement = scoped(&format!("SELECT {column} AS word FROM version v"), scope);
            statement.text(&format!(" AND v.mount IS NOT NULL AND {column} IS NOT NULL"));
            if let Some(shelf) = shelf {
                on(&mut statement, shelf);
            }
            if let Some(last) = found.last().map(String::as_str).or(after) {
                statement.and(&format!("{column} >"), last);
                if column == "v.graph_id" {
                    statement.and("left(v.graph_id, 200) >=", first_letters(last));
                }
            }
            let first = if column == "v.graph_id" { "left(v.graph_id, 200), " } else { "" };
            statement.text(&format!(" AND {SHOWN} ORDER BY {first}{column} LIMIT 1"));
            let word = self.read(|session| {
                session.collect(DOING, &statement.text, &statement.values, |row| {
                    row::word(row, "word")
                })
            })?;
            match word.into_iter().next() {
                Some(word) => found.push(word),
                None => break,
            }
        }
        Ok(found)
    }

    fn shown_files(
        &self,
        scope: &Scope,
        stretch: &Stretch<'_>,
        limit: u32,
    ) -> Result<Vec<ShownVersion>, CatalogError> {
        let text = format!("SELECT {COLUMNS} FROM version v JOIN artifact a ON a.pk = v.artifact");
        let mut statement = scoped(&text, scope);
        on(&mut statement, stretch.shelf);
        let beginning = format!("substring(v.path FROM 1 FOR {BEGINNING})");
        statement.and("v.mount =", stretch.mount.as_str());
        statement.and("v.path >=", stretch.from);
        statement.and(&format!("{beginning} >="), begin(stretch.from));
        if let Some(below) = stretch.below {
            statement.and("v.path <", below);
            statement.and(&format!("{beginning} <="), begin(below));
        }
        if let Some(seen) = stretch.seen {
            statement.and("(v.path >", stretch.from).text(" OR v.pk < ").value(seen).text(")");
        }
        statement.text(&format!(" AND {SHOWN} ORDER BY {beginning}, v.path, v.pk DESC LIMIT "));
        statement.value(limit);
        self.select_shown(&statement)
    }

    fn shown_artifacts(
        &self,
        scope: &Scope,
        after: Option<i64>,
        limit: u32,
    ) -> Result<Vec<(i64, ArtifactId)>, CatalogError> {
        let text = "SELECT a.pk, a.id FROM (SELECT DISTINCT v.artifact FROM version v";
        let mut statement = scoped(text, scope);
        statement.and("v.artifact >", after.unwrap_or(i64::MIN));
        statement.text(&format!(" AND {SHOWN} ORDER BY v.artifact LIMIT ")).value(limit);
        statement.text(") AS found JOIN artifact a ON a.pk = found.artifact ORDER BY a.pk");
        self.read(|session| {
            session.collect(DOING, &statement.text, &statement.values, |row| {
                Ok((row::integer(row, "pk")?, row::artifact(row)?))
            })
        })
    }

    fn shown_versions(
        &self,
        scope: &Scope,
        id: ArtifactId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<ShownVersion>, CatalogError> {
        let text = format!("SELECT {COLUMNS} FROM artifact a JOIN version v ON v.artifact = a.pk");
        let mut statement = scoped(&text, scope);
        statement.and("a.id =", id.as_uuid()).and("v.number >", after);
        statement.text(&format!(" AND {SHOWN} ORDER BY v.number LIMIT ")).value(limit);
        self.select_shown(&statement)
    }
}
