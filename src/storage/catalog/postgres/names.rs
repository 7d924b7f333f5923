//! Aliases, labels and tags in PostgreSQL, in a transaction of the caller.

use super::session::Session;
use super::statement::{Value, values};
use super::write::Writing;
use crate::model::id::ArtifactId;
use crate::model::names::{Alias, Label, Tag};
use crate::storage::catalog::row;
use crate::storage::catalog::tables::{Answer, Names};

/// The version that a label points to.
pub(super) fn labelled(session: &Session, id: ArtifactId, label: &Label) -> Answer<Option<u64>> {
    let text = "SELECT a.id, v.number FROM label l JOIN version v ON v.pk = l.version JOIN artifact a ON a.pk = l.artifact \
         WHERE a.id = $1 AND l.name = $2";
    let values = values![id.as_uuid(), label.as_str()];
    let found = session.collect("look up a label", text, values, |row| row::key(row))?.pop();
    Ok(found.map(|(_, number)| number))
}

impl Writing<'_> {
    fn names(&self, text: &str, values: &[Value]) -> Answer<Vec<String>> {
        self.session.collect(self.doing, text, values, |row| row::word(row, "name"))
    }
}

impl Names for Writing<'_> {
    fn holder(&self, owner: u32, alias: &Alias) -> Answer<Option<ArtifactId>> {
        let text = "SELECT a.id FROM alias n JOIN artifact a ON a.pk = n.artifact WHERE n.owner_uid = $1 AND n.name = $2";
        let values = values![owner, alias.as_str()];
        Ok(self.session.collect(self.doing, text, values, |row| row::artifact(row))?.pop())
    }

    fn aliases(&self, id: ArtifactId) -> Answer<Vec<String>> {
        let text =
            "SELECT n.name FROM alias n JOIN artifact a ON a.pk = n.artifact WHERE a.id = $1";
        self.names(text, values![id.as_uuid()])
    }

    fn set_alias(&self, owner: u32, alias: &Alias, id: ArtifactId) -> Answer<()> {
        self.execute(
            "INSERT INTO alias (owner_uid, name, artifact) SELECT $1, $2, pk FROM artifact WHERE id = $3 \
             ON CONFLICT (owner_uid, name) DO UPDATE SET artifact = excluded.artifact",
            values![owner, alias.as_str(), id.as_uuid()],
        )
        .map(drop)
    }

    fn remove_alias(&self, owner: u32, alias: &Alias, id: ArtifactId) -> Answer<bool> {
        let removed = self.execute(
            "DELETE FROM alias WHERE owner_uid = $1 AND name = $2 AND artifact = (SELECT pk FROM artifact WHERE id = $3)",
            values![owner, alias.as_str(), id.as_uuid()],
        )?;
        Ok(removed > 0)
    }

    fn labelled(&self, id: ArtifactId, label: &Label) -> Answer<Option<u64>> {
        labelled(self.session, id, label)
    }

    fn labels(&self, id: ArtifactId) -> Answer<Vec<String>> {
        let text =
            "SELECT l.name FROM label l JOIN artifact a ON a.pk = l.artifact WHERE a.id = $1";
        self.names(text, values![id.as_uuid()])
    }

    fn set_label(&self, version: i64, label: &Label) -> Answer<()> {
        self.execute(
            "INSERT INTO label (artifact, name, version) SELECT artifact, $1, pk FROM version WHERE pk = $2 \
             ON CONFLICT (artifact, name) DO UPDATE SET version = excluded.version",
            values![label.as_str(), version],
        )
        .map(drop)
    }

    fn remove_label(&self, id: ArtifactId, label: &Label) -> Answer<bool> {
        let removed = self.execute(
            "DELETE FROM label WHERE name = $1 AND artifact = (SELECT pk FROM artifact WHERE id = $2)",
            values![label.as_str(), id.as_uuid()],
        )?;
        Ok(removed > 0)
    }

    fn add_tag(&self, version: i64, tag: &Tag) -> Answer<()> {
        let text = "INSERT INTO tag (version, name) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        self.execute(text, values![version, tag.as_str()]).map(drop)
    }

    fn remove_tag(&self, version: i64, tag: &Tag) -> Answer<()> {
        let text = "DELETE FROM tag WHERE version = $1 AND name = $2";
        self.execute(text, values![version, tag.as_str()]).map(drop)
    }
}
