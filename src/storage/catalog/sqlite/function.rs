//! What SQLite cannot say by itself: patterns as we define them, over names that need not be UTF-8.

use crate::model::glob::{BadGlob, Glob};
use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;
use rusqlite::types::ValueRef;

/// `belljar_glob(of_path, pattern, subject)`.
pub(super) const GLOB: &str = "belljar_glob";

/// [`crate::storage::VersionRow::path_seen`] of the version `v` and its artifact `a`.
pub(super) const PATH_SEEN: &str = "CASE WHEN v.path IS NULL THEN a.host_path \
     ELSE CAST('/workspace/' || v.mount || '/' || CAST(v.path AS TEXT) AS BLOB) END";

pub(super) fn install(connection: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8
        | FunctionFlags::SQLITE_DETERMINISTIC
        | FunctionFlags::SQLITE_DIRECTONLY;
    connection.create_scalar_function(GLOB, 3, flags, |context| {
        let of_path: bool = context.get(0)?;
        // The pattern is bound: it is made ready once for each statement.
        let glob = context.get_or_create_aux(1, |pattern| {
            let pattern = pattern.as_str().unwrap_or_default();
            let glob = if of_path { Glob::of_path(pattern) } else { Glob::of_text(pattern) };
            glob.map_err(|error: BadGlob| {
                Box::new(error) as Box<dyn std::error::Error + Send + Sync>
            })
        })?;
        Ok(match context.get_raw(2) {
            ValueRef::Text(subject) | ValueRef::Blob(subject) => glob.matches(subject),
            ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => false,
        })
    })
}
