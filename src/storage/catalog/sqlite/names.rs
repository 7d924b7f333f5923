//! Aliases, labels and tags in SQLite, in a transaction of the caller.

use super::sql;
use super::write::Writing;
use crate::model::id::ArtifactId;
use crate::model::names::{Alias, Label, Tag};
use crate::storage::catalog::tables::{Answer, Names};
use rusqlite::{Connection, params};
use uuid::Uuid;

/// The version that a label points to.
pub(super) fn labelled(
    connection: &Connection,
    id: ArtifactId,
    label: &Label,
) -> Answer<Option<u64>> {
    let text = "SELECT v.number FROM label l JOIN version v ON v.pk = l.version JOIN artifact a ON a.pk = l.artifact \
         WHERE a.id = ? AND l.name = ?";
    let id = id.as_uuid();
    let parameters = params![id.as_bytes(), label.as_str()];
    let found: Option<i64> = super::row::value(connection, "look up a label", text, parameters)?;
    Ok(found.map(i64::unsigned_abs))
}

impl Writing<'_> {
    fn names(&self, text: &str, id: ArtifactId) -> Answer<Vec<String>> {
        let mut statement = self.transaction.prepare_cached(text).map_err(sql(self.doing))?;
        let names = statement.query_map([id.as_uuid().as_bytes()], |row| row.get(0));
        names.and_then(Iterator::collect).map_err(sql(self.doing))
    }
}

impl Names for Writing<'_> {
    fn holder(&self, owner: u32, alias: &Alias) -> Answer<Option<ArtifactId>> {
        let text = "SELECT a.id FROM alias n JOIN artifact a ON a.pk = n.artifact WHERE n.owner_uid = ? AND n.name = ?";
        let found: Option<[u8; 16]> = self.value(text, params![owner, alias.as_str()])?;
        Ok(found.map(|bytes| ArtifactId::from(Uuid::from_bytes(bytes))))
    }

    fn aliases(&self, id: ArtifactId) -> Answer<Vec<String>> {
        self.names(
            "SELECT name FROM alias WHERE artifact = (SELECT pk FROM artifact WHERE id = ?)",
            id,
        )
    }

    fn set_alias(&self, owner: u32, alias: &Alias, id: ArtifactId) -> Answer<()> {
        self.execute(
            "INSERT INTO alias (owner_uid, name, artifact) VALUES (?1, ?2, (SELECT pk FROM artifact WHERE id = ?3)) \
             ON CONFLICT (owner_uid, name) DO UPDATE SET artifact = excluded.artifact",
            params![owner, alias.as_str(), id.as_uuid().as_bytes()],
        )
        .map(drop)
    }

    fn remove_alias(&self, owner: u32, alias: &Alias, id: ArtifactId) -> Answer<bool> {
        let removed = self.execute(
            "DELETE FROM alias WHERE owner_uid = ? AND name = ? AND artifact = (SELECT pk FROM artifact WHERE id = ?)",
            params![owner, alias.as_str(), id.as_uuid().as_bytes()],
        )?;
        Ok(removed > 0)
    }

    fn labelled(&self, id: ArtifactId, label: &Label) -> Answer<Option<u64>> {
        labelled(self.transaction, id, label)
    }

    fn labels(&self, id: ArtifactId) -> Answer<Vec<String>> {
        self.names(
            "SELECT name FROM label WHERE artifact = (SELECT pk FROM artifact WHERE id = ?)",
            id,
        )
    }

    fn set_label(&self, version: i64, label: &Label) -> Answer<()> {
        self.execute(
            "INSERT INTO label (artifact, name, version, created_at) SELECT artifact, ?1, pk, created_at FROM version WHERE pk = ?2 \
             ON CONFLICT (artifact, name) DO UPDATE SET version = excluded.version, created_at = excluded.created_at",
            params![label.as_str(), version],
        )
        .map(drop)
    }

    fn remove_label(&self, id: ArtifactId, label: &Label) -> Answer<bool> {
        let removed = self.execute(
            "DELETE FROM label WHERE name = ? AND artifact = (SELECT pk FROM artifact WHERE id = ?)",
            params![label.as_str(), id.as_uuid().as_bytes()],
        )?;
        Ok(removed > 0)
    }

    fn add_tag(&self, version: i64, tag: &Tag) -> Answer<()> {
        self.execute(
            "INSERT INTO tag (version, name, created_at) SELECT pk, ?2, created_at FROM version WHERE pk = ?1 \
             ON CONFLICT DO NOTHING",
            params![version, tag.as_str()],
        )
        .map(drop)
    }

    fn remove_tag(&self, version: i64, tag: &Tag) -> Answer<()> {
        let text = "DELETE FROM tag WHERE version = ? AND name = ?";
        self.execute(text, params![version, tag.as_str()]).map(drop)
    }
}
