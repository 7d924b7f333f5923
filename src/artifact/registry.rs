//! Questions about artifacts, in the words of the API.

use super::cursor::{self, Refused};
use super::error::Error;
use super::reference::find;
use crate::model::artifact::ArtifactState;
use crate::model::digest::Digest;
use crate::model::glob::Glob;
use crate::model::id::RunId;
use crate::model::path::escape;
use crate::storage::{Catalog, Filter, Process, SecretFinding, VersionRow};
use crate::wire;
use crate::wire::artifact::{Artifact, ArtifactPage, ArtifactQuery};
use jiff::Timestamp;
use std::fs::File;

const LIMIT_DEFAULT: u32 = 100;
const LIMIT_MAX: u32 = 1_000;

/// Most artifacts that a run's receipt lists. Chosen, not measured: about 50 MB of JSON.
const OF_RUN_MAX: u32 = 100_000;

pub(super) fn get(
    catalog: &dyn Catalog,
    owner: Option<u32>,
    reference: &str,
) -> Result<Artifact, Error> {
    find(catalog, owner, reference).map(shown)
}

pub(super) fn content(
    catalog: &dyn Catalog,
    owner: Option<u32>,
    reference: &str,
    open: impl FnOnce(&Digest) -> Result<File, Error>,
) -> Result<(Artifact, File), Error> {
    let row = find(catalog, owner, reference)?;
    // Root sees everybody's and asks as nobody in particular.
    if row.quarantined && owner.unwrap_or(0) != row.owner_uid {
        return Err(Error::Quarantined { reference: reference.to_owned() });
    }
    let artifact = shown(row);
    match artifact.state {
        ArtifactState::Ready | ArtifactState::Archived => {}
        ArtifactState::Deleted => return Err(Error::Deleted { reference: reference.to_owned() }),
        ArtifactState::Creating => return Err(Error::NotReady { reference: reference.to_owned() }),
    }
    match artifact.digest.filter(|_| artifact.content_kept) {
        Some(digest) => Ok((artifact, open(&digest)?)),
        None if artifact.content_lost_at.is_some() => Err(Error::ContentLost {
            reference: reference.to_owned(),
            host_path: artifact.host_path,
        }),
        None if !artifact.secrets_found.is_empty() => {
            Err(Error::ContentBlocked { reference: reference.to_owned() })
        }
        None => Err(Error::ContentNotKept {
            reference: reference.to_owned(),
            host_path: artifact.host_path,
        }),
    }
}

pub(super) fn of_run<T>(
    catalog: &dyn Catalog,
    run: RunId,
    take: impl Fn(Artifact) -> T,
) -> Result<Vec<T>, Error> {
    let mut taken = Vec::new();
    catalog.of_run(run, OF_RUN_MAX, &mut |row| taken.push(take(shown(row))))?;
    Ok(taken)
}

pub(super) fn list(
    catalog: &dyn Catalog,
    owner: Option<u32>,
    query: &ArtifactQuery,
) -> Result<ArtifactPage, Error> {
    let limit = query.limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Error::BadQuery {
            why: format!("limit {limit} is not between 1 and {LIMIT_MAX}"),
        });
    }
    let owner = match (owner, query.owner) {
        (Some(own), Some(other)) if own != other => {
            return Err(Error::BadQuery {
                why: format!("root alone may ask for the artifacts of user {other}"),
            });
        }
        (Some(own), _) => Some(own),
        (None, named) => named,
    };
    let (now, after) = match query.cursor.as_deref() {
        None => (Timestamp::now(), None),
        Some(text) => {
            let (now, after) = cursor::decode(text, query, owner).map_err(|refused| {
                let why = match refused {
                    Refused::Unreadable => "the cursor is not one that a page ended with",
                    Refused::OfAnotherQuestion => {
                        "the cursor belongs to another query: ask as for the page before, or leave it out"
                    }
                };
                Error::BadQuery { why: why.to_owned() }
            })?;
            (now, Some(after))
        }
    };
    let path = query.path.as_deref().map(Glob::of_path).transpose();
    let filter = Filter {
        types: query.artifact_type.as_ref().map_or(Vec::new(), |types| types.values().to_vec()),
        graph: query.graph.clone(),
        node: query.node.clone(),
        workspace: query.workspace.clone(),
        run: query.run,
        states: match &query.state {
            Some(states) => states.values().to_vec(),
            None => vec![ArtifactState::Ready],
        },
        since: query.since,
        before: query.before,
        updated_since: query.updated_since,
        updated_before: query.updated_before,
        path: path.map_err(|error| Error::BadQuery { why: error.to_string() })?,
        label: query.label.clone(),
        tag: query.tag.clone(),
        alias: query.alias.clone(),
        expression: query.expression.as_deref().map(str::parse).transpose()?,
        now,
        all_versions: query.all_versions,
        order: query.order.unwrap_or_default(),
        limit,
        after,
    };
    let page = catalog.list(owner, &filter)?;
    Ok(ArtifactPage {
        artifacts: page.rows.into_iter().map(shown).collect(),
        next: page.next.map(|next| cursor::encode(query, owner, now, next)),
    })
}

/// Where a version's file is, for people.
pub(super) fn shown_path(row: &VersionRow) -> String {
    match &row.place {
        Some((mount, path)) => format!("/workspace/{mount}/{}", escape(path.as_bytes())),
        None => escape(&row.host_path),
    }
}

/// The row as the API shows it.
pub(super) fn shown(row: VersionRow) -> Artifact {
    let path = shown_path(&row);
    Artifact {
        id: row.id,
        aliases: row.aliases,
        version: row.number,
        parent_version: row.parent,
        labels: row.labels,
        tags: row.tags,
        origin: row.origin,
        artifact_type: row.artifact_type,
        suspected_type: row.suspected,
        mime: row.mime,
        state: row.state,
        held: row.held,
        pinned: row.pinned,
        quarantined: row.quarantined,
        secrets_found: row.secrets_found.into_iter().map(shown_secret).collect(),
        secret_scan: row.secret_scan,
        size: row.size,
        digest: row.digest,
        path,
        host_path: escape(&row.host_path),
        metadata: row.metadata,
        graph_id: row.graph_id,
        node_id: row.node_id,
        run_id: row.run,
        workspace_id: row.workspace,
        writer: row.writer.map(shown_process),
        closes: row.closes,
        content_kept: row.content_kept,
        created_at: row.created_at,
        updated_at: row.updated_at,
        deleted_at: row.deleted_at,
        content_lost_at: row.lost_at,
    }
}

fn shown_secret(found: SecretFinding) -> wire::artifact::SecretFound {
    let SecretFinding { secret, encoding, position } = found;
    wire::artifact::SecretFound { name: secret, encoding, position }
}

fn shown_process(process: Process) -> wire::artifact::Process {
    let arguments = |command: Vec<u8>| command.split(|byte| *byte == 0).map(escape).collect();
    wire::artifact::Process {
        pid: process.pid,
        uid: process.uid,
        command: process.command.map(arguments),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarantined_content_is_refused_to_root() {
        use crate::model::artifact::ArtifactType;
        use crate::storage::{BlobStore, NewVersion, SecretSearch};
        let catalog = crate::storage::memory::MemoryCatalog::default();
        let blobs = crate::storage::memory::MemoryBlobs::default();
        let bytes = b"x";
        let digest = crate::model::digest::Digest::from_bytes(*blake3::hash(bytes).as_bytes());
        let mut batch = blobs.begin().expect("begin");
        let mut writer = batch.writer().expect("writer");
        writer.write_all(bytes).expect("write");
        writer.keep(&digest).expect("keep");
        batch.commit().expect("commit");
        let new = NewVersion {
            owner_uid: 1000,
            host_path: b"/x".to_vec(),
            workspace: "w".parse().expect("id"),
            mount: "m".parse().expect("name"),
            path: crate::model::path::VirtualPath::parse("x").expect("path"),
            run: None,
            graph_id: None,
            node_id: None,
            writer: None,
            artifact_type: ArtifactType::new(ArtifactType::FILE),
            suspected: None,
            mime: None,
            size: 1,
            digest,
            content_kept: true,
            closes: 1,
            stamp: None,
            inputs: None,
            metadata: serde_json::Map::new(),
            secrets: SecretSearch { quarantined: true, ..SecretSearch::default() },
            captured_at: jiff::Timestamp::now(),
        };
        catalog.register(&[new]).expect("register");
        let id = list(&catalog, None, &ArtifactQuery::default()).expect("list").artifacts[0].id;
        let open = |digest: &Digest| Ok(blobs.open(digest)?);
        let ask = |owner| content(&catalog, owner, &id.to_string(), open);
        assert!(matches!(ask(None), Err(Error::Quarantined { .. })));
        assert!(matches!(ask(Some(1001)), Err(Error::NotFound { .. })));
        assert!(ask(Some(1000)).is_ok());
    }

    #[test]
    fn limits_and_cursors_are_checked() {
        let catalog = crate::storage::memory::MemoryCatalog::default();
        let ask = |query: ArtifactQuery| list(&catalog, None, &query);
        for limit in [0, 1_001] {
            assert!(ask(ArtifactQuery { limit: Some(limit), ..Default::default() }).is_err());
        }
        assert!(ask(ArtifactQuery { cursor: Some("x".into()), ..Default::default() }).is_err());
        assert!(ask(ArtifactQuery::default()).expect("empty").artifacts.is_empty());
    }

    #[test]
    fn nobody_but_root_asks_for_the_artifacts_of_others() {
        let catalog = crate::storage::memory::MemoryCatalog::default();
        let query = |owner| ArtifactQuery { owner, ..Default::default() };
        let error = list(&catalog, Some(1000), &query(Some(1001))).expect_err("refused");
        assert!(error.to_string().contains("root alone"), "{error}");
        list(&catalog, Some(1000), &query(Some(1000))).expect("their own");
        list(&catalog, None, &query(Some(1001))).expect("root");
    }
}
