//! Reading rows: from the columns of a statement to what they mean, for every database.
//!
//! Columns are read by their names, which are the same in all schemas; lists of names and what was found of secrets come as JSON
//! texts, so that one statement brings a whole row.

use super::CatalogError;
use super::lineage::Start;
use super::tables::{Answer, OpenItem, Stored};
use crate::model::artifact::ArtifactType;
use crate::model::digest::Digest;
use crate::model::id::{ArtifactId, PlanId, RunId};
use crate::model::path::VirtualPath;
use crate::storage::life::Event;
use crate::storage::lineage::{Input, InputBounds, InputPlace, VersionKey};
use crate::storage::retention::{ItemRow, NamedContent, Outcome, PlanRow, PolicyRow};
use crate::storage::upload::{Amount, QueueRow, Queued, StoreRow, Upload, UploadState};
use crate::storage::view::ShownVersion;
use crate::storage::{LastSeen, Metadata, Process, SecretFinding, Stamp, VersionRow};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use std::ffi::OsStr;
use std::fmt::Display;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::str::FromStr;
use uuid::Uuid;

/// The columns of one row.
pub(super) trait Columns {
    fn text(&self, name: &str) -> Answer<Option<String>>;
    fn bytes(&self, name: &str) -> Answer<Option<Vec<u8>>>;
    fn integer(&self, name: &str) -> Answer<Option<i64>>;
    fn flag(&self, name: &str) -> Answer<bool>;
    fn uuid(&self, name: &str) -> Answer<Option<Uuid>>;
}

pub(super) fn damaged(what: impl Display) -> CatalogError {
    CatalogError::Damaged { what: what.to_string() }
}

fn parse<T, E: Display>(parsed: Result<T, E>) -> Answer<T> {
    parsed.map_err(damaged)
}

fn needed<T>(found: Answer<Option<T>>, name: &str) -> Answer<T> {
    found?.ok_or_else(|| damaged(format!("{name} is missing")))
}

/// What is stored as JSON.
pub(super) fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("what is stored has text keys only")
}

/// Reading `columns` as this and that.
struct Read<'a, C: Columns>(&'a C);

impl<C: Columns> Read<'_, C> {
    fn text(&self, name: &str) -> Answer<String> {
        needed(self.0.text(name), name)
    }

    fn word<T: FromStr<Err: Display>>(&self, name: &str) -> Answer<T> {
        parse(self.text(name)?.parse())
    }

    fn word_if_any<T: FromStr<Err: Display>>(&self, name: &str) -> Answer<Option<T>> {
        self.0.text(name)?.map(|text| parse(text.parse())).transpose()
    }

    fn json<T: DeserializeOwned>(&self, name: &str) -> Answer<T> {
        parse(serde_json::from_str(&self.text(name)?))
    }

    fn integer(&self, name: &str) -> Answer<i64> {
        needed(self.0.integer(name), name)
    }

    fn count(&self, name: &str) -> Answer<u64> {
        Ok(self.integer(name)?.unsigned_abs())
    }

    fn count_if_any(&self, name: &str) -> Answer<Option<u64>> {
        Ok(self.0.integer(name)?.map(i64::unsigned_abs))
    }

    fn number(&self, name: &str) -> Answer<u32> {
        parse(u32::try_from(self.integer(name)?))
    }

    fn number_if_any(&self, name: &str) -> Answer<Option<u32>> {
        self.0.integer(name)?.map(|number| parse(u32::try_from(number))).transpose()
    }

    fn bytes(&self, name: &str) -> Answer<Vec<u8>> {
        needed(self.0.bytes(name), name)
    }

    fn time(&self, name: &str) -> Answer<Timestamp> {
        parse(Timestamp::from_microsecond(self.integer(name)?))
    }

    fn time_if_any(&self, name: &str) -> Answer<Option<Timestamp>> {
        let microseconds = self.0.integer(name)?;
        microseconds.map(|time| parse(Timestamp::from_microsecond(time))).transpose()
    }

    fn uuid(&self, name: &str) -> Answer<Uuid> {
        needed(self.0.uuid(name), name)
    }

    fn digest_if_any(&self, name: &str) -> Answer<Option<Digest>> {
        let digest = |bytes: Vec<u8>| {
            let exact = <[u8; 32]>::try_from(bytes);
            exact.map(Digest::from_bytes).map_err(|_| damaged("a digest is not 32 bytes long"))
        };
        self.0.bytes(name)?.map(digest).transpose()
    }

    fn path_if_any(&self, name: &str) -> Answer<Option<VirtualPath>> {
        let path = |bytes: Vec<u8>| parse(VirtualPath::parse(Path::new(OsStr::from_bytes(&bytes))));
        self.0.bytes(name)?.map(path).transpose()
    }

    fn findings(&self) -> Answer<Vec<SecretFinding>> {
        let found: Vec<(String, String, u64)> = self.json("findings")?;
        let finding = |(secret, encoding, position): (String, String, u64)| {
            Ok(SecretFinding { secret: parse(secret.parse())?, encoding, position })
        };
        found.into_iter().map(finding).collect()
    }
}

/// A version with its key.
pub(super) fn version(columns: &impl Columns) -> Answer<Stored> {
    let read = Read(columns);
    let place = match (read.word_if_any("mount")?, read.path_if_any("path")?) {
        (Some(mount), Some(path)) => Some((mount, path)),
        _ => None,
    };
    let writer = match (read.number_if_any("writer_pid")?, read.number_if_any("writer_uid")?) {
        (Some(pid), Some(uid)) => {
            Some(Process { pid, uid, command: columns.bytes("writer_command")? })
        }
        _ => None,
    };
    let row = VersionRow {
        id: read.uuid("id")?.into(),
        aliases: read.json("aliases")?,
        number: read.count("number")?,
        parent: read.count_if_any("parent")?,
        labels: read.json("labels")?,
        tags: read.json("tags")?,
        owner_uid: read.number("owner_uid")?,
        host_path: read.bytes("host_path")?,
        origin: read.word("origin")?,
        workspace: read.word_if_any("workspace")?,
        place,
        run: columns.uuid("run")?.map(RunId::from),
        graph_id: columns.text("graph_id")?,
        node_id: columns.text("node_id")?,
        writer,
        artifact_type: ArtifactType::new(read.text("type")?),
        suspected: columns.text("suspected")?.map(ArtifactType::new),
        mime: columns.text("mime")?,
        state: read.word("state")?,
        held: columns.flag("held")?,
        pinned: columns.flag("pinned")?,
        quarantined: columns.flag("quarantined")?,
        size: read.count("size")?,
        digest: read.digest_if_any("digest")?,
        content_kept: columns.flag("content_kept")?,
        closes: read.count("closes")?,
        metadata: read.json("metadata")?,
        secret_scan: read.word_if_any("secret_scan")?,
        secrets_found: read.findings()?,
        created_at: read.time("created_at")?,
        updated_at: read.time("updated_at")?,
        deleted_at: read.time_if_any("deleted_at")?,
        swept_at: read.time_if_any("swept_at")?,
        archived_at: read.time_if_any("archived_at")?,
        lost_at: read.time_if_any("lost_at")?,
    };
    Ok((read.integer("pk")?, row))
}

/// A version as a file needs it.
pub(super) fn shown(columns: &impl Columns) -> Answer<ShownVersion> {
    let read = Read(columns);
    Ok(ShownVersion {
        key: read.integer("pk")?,
        id: read.uuid("id")?.into(),
        number: read.count("number")?,
        latest: columns.flag("latest")?,
        path: columns.bytes("path")?,
        host_path: read.bytes("host_path")?,
        size: read.count("size")?,
        digest: needed(read.digest_if_any("digest"), "digest")?,
        quarantined: columns.flag("quarantined")?,
        created_at: read.time("created_at")?,
    })
}

/// What a file looked like; the row is that of its artifact.
pub(super) fn seen(columns: &impl Columns) -> Answer<LastSeen> {
    let stamp = (
        columns.integer("seen_inode")?,
        columns.integer("seen_size")?,
        columns.integer("seen_mtime")?,
        columns.integer("seen_ctime")?,
    );
    let (Some(inode), Some(size), Some(mtime_ns), Some(ctime_ns)) = stamp else {
        return Ok(LastSeen::Unnoted);
    };
    Ok(LastSeen::As(Stamp {
        inode: inode.cast_unsigned(),
        size: size.cast_unsigned(),
        mtime_ns,
        ctime_ns,
    }))
}

pub(super) fn event(columns: &impl Columns) -> Answer<Event> {
    let read = Read(columns);
    Ok(Event {
        seq: read.integer("seq")?,
        at: read.time("at")?,
        owner_uid: read.number("owner_uid")?,
        artifact: read.uuid("artifact")?.into(),
        version: read.count_if_any("version")?,
        kind: read.text("kind")?,
        actor: read.text("actor")?,
        detail: read.json::<Metadata>("detail")?,
    })
}

pub(super) fn input(columns: &impl Columns) -> Answer<Input> {
    let read = Read(columns);
    let place = match (
        read.word_if_any("mount")?,
        read.path_if_any("path")?,
        columns.bytes("host_path")?,
    ) {
        (Some(mount), Some(path), Some(host_path)) => Some(InputPlace { mount, path, host_path }),
        _ => None,
    };
    Ok(Input {
        run: read.uuid("run")?.into(),
        number: read.count("number")?,
        owner_uid: read.number("owner_uid")?,
        place,
        size: read.count_if_any("size")?,
        modified_at: read.time_if_any("modified_at")?,
        digest: read.digest_if_any("digest")?,
        reason: columns.text("reason")?,
        opened_at: read.time("opened_at")?,
    })
}

/// A run that produced a version, and what it had read by then, where that was seen.
pub(super) fn production(columns: &impl Columns) -> Answer<(RunId, Option<InputBounds>)> {
    let read = Read(columns);
    let bounds = read.count_if_any("inputs_before")?.zip(read.count_if_any("inputs_until")?);
    let bounds = bounds.map(|(before, until)| InputBounds { before, until });
    Ok((read.uuid("run")?.into(), bounds))
}

pub(super) fn plan(columns: &impl Columns) -> Answer<PlanRow> {
    let read = Read(columns);
    Ok(PlanRow {
        id: PlanId::from(read.uuid("id")?),
        owner_uid: read.number("owner_uid")?,
        policy: read.word_if_any("policy")?,
        criteria: read.json("criteria")?,
        state: read.word("state")?,
        more: columns.flag("more")?,
        bytes: read.count("bytes")?,
        items: read.count("items")?,
        done: read.count("done")?,
        skipped: read.count("skipped")?,
        created_at: read.time("created_at")?,
        applied_at: read.time_if_any("applied_at")?,
    })
}

/// An item with its version.
pub(super) fn item(columns: &impl Columns) -> Answer<ItemRow> {
    let read = Read(columns);
    let why = columns.text("why")?;
    let outcome = columns.text("outcome")?;
    let outcome = outcome.map(|_| why.map_or(Outcome::Done, Outcome::Skipped));
    let (action, reason) = (read.word("action")?, read.text("reason")?);
    Ok(ItemRow { action, reason, outcome, version: version(columns)?.1 })
}

pub(super) fn open_item(columns: &impl Columns) -> Answer<OpenItem> {
    let read = Read(columns);
    Ok(OpenItem {
        position: read.integer("position")?,
        version: read.integer("version")?,
        action: read.word("action")?,
        reason: read.text("reason")?,
        seen: read.json("seen")?,
    })
}

pub(super) fn policy(columns: &impl Columns) -> Answer<PolicyRow> {
    let read = Read(columns);
    let last = columns.text("last")?;
    Ok(PolicyRow {
        owner: read.number_if_any("owner_uid")?,
        name: read.word("name")?,
        criteria: read.json("criteria")?,
        every_ms: read.count("every")?,
        next_at: read.time("next_at")?,
        runs: read.count("runs")?,
        last: last.map(|text| parse(serde_json::from_str(&text))).transpose()?,
    })
}

pub(super) fn named_content(columns: &impl Columns) -> Answer<NamedContent> {
    let read = Read(columns);
    let digest = needed(read.digest_if_any("digest"), "digest")?;
    Ok(NamedContent { digest, size: read.count("size")? })
}

pub(super) fn upload(columns: &impl Columns) -> Answer<Upload> {
    let NamedContent { digest, size } = named_content(columns)?;
    Ok(Upload { digest, size, attempts: Read(columns).number("attempts")? })
}

pub(super) fn upload_state(columns: &impl Columns) -> Answer<UploadState> {
    let text = Read(columns).text("state")?;
    UploadState::parse(&text).ok_or_else(|| damaged(format!("an upload is in state {text:?}")))
}

pub(super) fn amount(columns: &impl Columns) -> Answer<Amount> {
    let read = Read(columns);
    Ok(Amount { contents: read.count("contents")?, bytes: read.count("bytes")? })
}

/// An upload that is not done.
pub(super) fn queued(columns: &impl Columns) -> Answer<Queued> {
    let read = Read(columns);
    Ok(Queued {
        node: read.uuid("node")?,
        place: read.text("place")?,
        remote: read.text("remote")?,
        state: upload_state(columns)?,
        last_error: columns.text("last_error")?,
    })
}

/// A node that sends to a store, and nothing of what it sends.
pub(super) fn node(columns: &impl Columns) -> Answer<QueueRow> {
    let read = Read(columns);
    Ok(QueueRow {
        node: read.uuid("node")?,
        place: read.text("place")?,
        remote: read.text("remote")?,
        seen_at: read.time("seen_at")?,
        amounts: Vec::new(),
        oldest_at: None,
        last_error: columns.text("last_error")?,
    })
}

pub(super) fn store(columns: &impl Columns) -> Answer<StoreRow> {
    let read = Read(columns);
    let removals = read.count("removals")?;
    Ok(StoreRow { remote: read.text("remote")?, stored: amount(columns)?, removals })
}

pub(super) fn digest(columns: &impl Columns) -> Answer<Digest> {
    needed(Read(columns).digest_if_any("digest"), "digest")
}

/// Nothing as long as there is no content.
pub(super) fn digest_if_any(columns: &impl Columns) -> Answer<Option<Digest>> {
    Read(columns).digest_if_any("digest")
}

pub(super) fn time(columns: &impl Columns, name: &str) -> Answer<Timestamp> {
    Read(columns).time(name)
}

pub(super) fn artifact(columns: &impl Columns) -> Answer<ArtifactId> {
    Ok(Read(columns).uuid("id")?.into())
}

/// A version as others name it.
pub(super) fn key(columns: &impl Columns) -> Answer<VersionKey> {
    Ok((artifact(columns)?, Read(columns).count("number")?))
}

/// A version, as far as ways from it are concerned.
pub(super) fn start(columns: &impl Columns) -> Answer<Start> {
    let read = Read(columns);
    Ok(Start {
        version: read.integer("pk")?,
        run: columns.uuid("run")?.map(RunId::from),
        owner_uid: read.number("owner_uid")?,
        host_path: read.bytes("host_path")?,
        digest: read.digest_if_any("digest")?,
    })
}

pub(super) fn text(columns: &impl Columns, name: &str) -> Answer<String> {
    Read(columns).text(name)
}

pub(super) fn flag(columns: &impl Columns, name: &str) -> Answer<bool> {
    columns.flag(name)
}

pub(super) fn uuid(columns: &impl Columns, name: &str) -> Answer<Uuid> {
    Read(columns).uuid(name)
}

pub(super) fn number(columns: &impl Columns, name: &str) -> Answer<u32> {
    Read(columns).number(name)
}

pub(super) fn integer(columns: &impl Columns, name: &str) -> Answer<i64> {
    Read(columns).integer(name)
}

pub(super) fn word<T: FromStr<Err: Display>>(columns: &impl Columns, name: &str) -> Answer<T> {
    Read(columns).word(name)
}
