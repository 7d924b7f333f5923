//! Files that somebody registers by word: found among what was captured, or copied from a descriptor that came along.
//!
//! The daemon opens no path that a caller names. Where the path lies below a mount point of one of the caller's
//! workspaces, what was closed there before is waited for and the captured version is meant; the same bytes never make
//! a second one.

use super::Artifacts;
use super::copy::{Copied, CopyError, Limits, Subject, copy};
use super::error::Error;
use super::learn::learn;
use super::life::Voice;
use super::record::WorkspaceRecord;
use super::registry::shown;
use super::schedule::DrainScope;
use super::service::{Service, VANISHED};
use crate::config::SecretPolicy;
use crate::model::artifact::ArtifactState;
use crate::model::id::{MountName, RunId, WorkspaceId};
use crate::model::names::check_text;
use crate::model::path::{VirtualPath, escape};
use crate::storage::life::{Amendment, Declaration, DeclaredContent, Names};
use crate::storage::{BlobBatch, VersionRow};
use crate::sys::file::device;
use crate::wire::artifact::Artifact;
use crate::wire::life::RegisterItem;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where a workspace is, seen from inside.
const ROOT_INSIDE: &str = "/workspace";

/// How often a file that changes meanwhile is copied again, and the pause before.
const COPY_TRIES: u32 = 5;
const COPY_PAUSE: Duration = Duration::from_millis(100);

/// Until when to wait.
#[derive(Debug, Clone, Copy)]
pub struct Patience(pub Instant);

/// A file to be registered, with its path as bytes.
#[derive(Debug)]
pub struct Registration {
    pub path: PathBuf,
    pub file: Option<File>,
    pub item: RegisterItem,
}

/// Where a registration's file is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Spot {
    host_path: PathBuf,
    /// Where in a workspace; nothing outside of every mount point.
    place: Option<(WorkspaceId, MountName, VirtualPath)>,
    /// Whose secrets are looked for in what is sent: the workspace where it is, or that it was registered in.
    workspace: Option<WorkspaceId>,
}

impl Spot {
    fn shown(&self) -> String {
        match &self.place {
            Some((_, mount, path)) => {
                format!("{ROOT_INSIDE}/{mount}/{}", escape(path.as_bytes()))
            }
            None => escape(self.host_path.as_os_str().as_bytes()),
        }
    }
}

impl Artifacts {
    /// Registers files of `owner`'s; each is done or refused by itself, in order.
    pub fn register(
        &self,
        owner: u32,
        voice: &Voice,
        run: Option<RunId>,
        items: Vec<Registration>,
        patience: Patience,
    ) -> Result<Vec<Result<Artifact, Error>>, Error> {
        let service = self.service();
        let records = mounted(service, owner);
        let spots: Vec<Result<Spot, Error>> =
            items.iter().map(|item| locate(&records, voice, item)).collect();
        let pending = wait_for_captures(service, owner, &spots, patience);
        let began = Timestamp::now();
        let mut batch = service.blobs.begin()?;
        let mut copier = Copier::new(service, owner, patience);
        let mut prepared = Vec::with_capacity(items.len());
        for (item, spot) in items.into_iter().zip(spots) {
            prepared.push(spot.and_then(|spot| {
                if let Some(why) = pending.get(&spot.shown()) {
                    return Err(Error::StillPending { path: spot.shown(), why: why.clone() });
                }
                within_scope(service, owner, voice, &spot)?;
                prepare(run, item, spot, &mut copier, &mut *batch)
            }));
        }
        batch.commit()?;
        let ready: Vec<Declaration> =
            prepared.iter().filter_map(|item| item.as_ref().ok()).cloned().collect();
        let mut declared = service.catalog.life().declare(&ready, &voice.author)?.into_iter();
        service.tell_of_events();
        let results = prepared.into_iter().map(|item| {
            let content = item?.content;
            let outcome = declared.next().expect("each declaration has an answer");
            let row = outcome.map_err(Error::Refused)?;
            let kept = content.filter(|content| content.kept);
            let vanished = |content: DeclaredContent| service.has_vanished(began, &content.digest);
            if kept.map_or(Ok(false), vanished)? {
                let (path, why) = (escape(&row.host_path), VANISHED.to_owned());
                return Err(Error::StillPending { path, why });
            }
            Ok(shown(row))
        });
        Ok(results.collect())
    }
}

/// Waits until what was closed in the workspaces concerned is registered; answers what is not, and why.
fn wait_for_captures(
    service: &Service,
    owner: u32,
    spots: &[Result<Spot, Error>],
    patience: Patience,
) -> BTreeMap<String, String> {
    let places = spots.iter().flatten().filter_map(|spot| spot.place.as_ref());
    let workspaces: BTreeSet<_> = places.map(|(id, _, _)| id.clone()).collect();
    let scopes = workspaces.into_iter().map(|id| DrainScope::Workspace { owner_uid: owner, id });
    scopes.flat_map(|scope| service.drain(scope, patience.0).incomplete).collect()
}

fn bad(why: impl Into<String>) -> Error {
    Error::BadRequest { why: why.into() }
}

/// Bounds of what is said about a version; names are checked where they are parsed.
pub(super) fn check(amendment: &Amendment) -> Result<(), Error> {
    let texts = [
        ("type", amendment.artifact_type.as_ref().map(|of_type| of_type.as_str())),
        ("mime", amendment.mime.as_deref()),
        ("graph_id", amendment.graph_id.as_deref()),
        ("node_id", amendment.node_id.as_deref()),
    ];
    for (name, text) in texts {
        text.map_or(Ok(()), |text| check_text(name, text)).map_err(bad)?;
    }
    Ok(())
}

/// The owner's workspaces that are mounted.
fn mounted(service: &Service, owner: u32) -> Vec<Arc<WorkspaceRecord>> {
    let attached: BTreeSet<u32> = service.attached().into_iter().collect();
    let state = service.state();
    let known = attached.iter().filter_map(|number| state.workspace(*number).cloned());
    known.filter(|record| record.owner_uid == owner).collect()
}

/// Finds the file's place by its path alone; no file system is asked.
fn locate(
    records: &[Arc<WorkspaceRecord>],
    voice: &Voice,
    item: &Registration,
) -> Result<Spot, Error> {
    let workspace = voice.scope.as_ref().or(item.item.workspace.as_ref());
    if let (Some(scope), Some(named)) = (&voice.scope, &item.item.workspace)
        && scope != named
    {
        let why = format!("this socket serves workspace {scope} only, not {named}");
        return Err(Error::OutsideScope { why });
    }
    if voice.scope.is_some() && item.item.move_alias {
        let why = "a run cannot take an alias from another artifact: ask the workspace's owner";
        return Err(Error::OutsideScope { why: why.to_owned() });
    }
    let given = escape(item.path.as_os_str().as_bytes());
    let is_plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    if !item.path.is_absolute() || !item.path.components().all(is_plain) {
        return Err(bad(format!("path {given} must start with / and have no `..`")));
    }
    // `components` leaves out repeated and trailing slashes.
    let path: PathBuf = item.path.components().collect();
    let mut mounts = Vec::new();
    for record in records {
        if workspace.is_none_or(|named| *named == record.id) {
            mounts.extend(record.mounts.iter().map(|mount| (&record.id, mount)));
        }
    }
    let inside = |id: &WorkspaceId, name: &MountName, host: &Path, rest: &Path| {
        let rest = VirtualPath::parse(rest).map_err(|error| bad(error.to_string()))?;
        if rest.is_root() {
            return Err(bad(format!("{given} is a mount point, not a file")));
        }
        let host_path = host.join(rest.as_path());
        let place = Some((id.clone(), name.clone(), rest));
        Ok(Spot { host_path, place, workspace: Some(id.clone()) })
    };
    if let (Some(named), Ok(below)) = (workspace, path.strip_prefix(ROOT_INSIDE)) {
        let mut parts = below.components();
        let first = parts.next().map(|part| part.as_os_str().as_bytes().to_vec());
        let found = mounts
            .iter()
            .find(|(_, mount)| first.as_deref() == Some(mount.name.as_str().as_bytes()));
        return match found {
            Some((id, mount)) => inside(id, &mount.name, &mount.host_path, parts.as_path()),
            None => Err(bad(format!(
                "{given} lies in no mount point of workspace {named}, or that workspace is not mounted: name the file by its host path instead"
            ))),
        };
    }
    if voice.scope.is_some() {
        let why = format!(
            "{given} is not in the workspace: name files as they are seen here, such as {ROOT_INSIDE}/output/x.csv"
        );
        return Err(Error::OutsideScope { why });
    }
    let below = mounts.iter().filter_map(|(id, mount)| {
        let rest = path.strip_prefix(&mount.host_path).ok()?;
        Some((mount.host_path.as_os_str().len(), *id, *mount, rest))
    });
    // Of two mount points, one below the other, the nearer one is the file's.
    match below.max_by_key(|(length, ..)| *length) {
        Some((_, id, mount, rest)) => inside(id, &mount.name, &mount.host_path, rest),
        None if workspace
            .is_some_and(|named| !records.iter().any(|record| record.id == *named)) =>
        {
            let named = workspace.map(ToString::to_string).unwrap_or_default();
            Err(bad(format!(
                "no workspace {named} of yours is mounted: `belljar workspace ls` lists them, or leave the workspace out"
            )))
        }
        None if path.file_name().is_none() => Err(bad("/ is a directory, not a file")),
        None => Ok(Spot { host_path: path, place: None, workspace: workspace.cloned() }),
    }
}

/// A run speaks of artifacts that were made in its own workspace.
fn within_scope(service: &Service, owner: u32, voice: &Voice, spot: &Spot) -> Result<(), Error> {
    let Some(scope) = &voice.scope else { return Ok(()) };
    let known = service.catalog.life().at_path(owner, spot.host_path.as_os_str().as_bytes())?;
    match known {
        Some(row) if row.workspace.as_ref() != Some(scope) => Err(Error::OutsideScope {
            why: format!("{} was made in another workspace: ask its owner", spot.shown()),
        }),
        Some(_) | None => Ok(()),
    }
}

fn prepare(
    run: Option<RunId>,
    Registration { file, item, .. }: Registration,
    spot: Spot,
    copier: &mut Copier<'_>,
    batch: &mut dyn BlobBatch,
) -> Result<Declaration, Error> {
    let held = match item.state {
        None | Some(ArtifactState::Ready) => false,
        Some(ArtifactState::Creating) => true,
        Some(state @ (ArtifactState::Archived | ArtifactState::Deleted)) => {
            return Err(bad(format!(
                "an artifact cannot be registered as {state}: use READY or CREATING"
            )));
        }
    };
    let amendment = Amendment {
        artifact_type: item.artifact_type,
        mime: item.mime,
        graph_id: item.graph_id,
        node_id: item.node_id,
        parent: item.parent_version,
        aliases: Names { add: item.artifact_id.into_iter().collect(), remove: Vec::new() },
        move_aliases: item.move_alias,
        labels: Names {
            add: item.labels.into_iter().chain(item.version).collect(),
            remove: Vec::new(),
        },
        tags: Names { add: item.tags, remove: Vec::new() },
        metadata: item.metadata,
        content: None,
        ready: false,
    };
    check(&amendment)?;
    let content = match file.filter(|_| !held) {
        Some(file) => Some(copier.copy(&file, &spot, batch)?),
        None => None,
    };
    Ok(Declaration {
        owner_uid: copier.owner,
        host_path: spot.host_path.as_os_str().as_bytes().to_vec(),
        place: spot.place,
        run,
        content,
        held,
        amendment,
        at: Timestamp::now(),
    })
}

/// The content with which a held version becomes READY: that of the descriptor, or nothing, when what was captured is meant.
pub(super) fn content_of_held(
    service: &Service,
    row: &VersionRow,
    file: Option<File>,
    patience: Patience,
) -> Result<Option<DeclaredContent>, Error> {
    let host_path = PathBuf::from(OsStr::from_bytes(&row.host_path));
    let place = row.workspace.clone().zip(row.place.clone());
    let place = place.map(|(workspace, (mount, path))| (workspace, mount, path));
    let spot = Spot { host_path, place, workspace: row.workspace.clone() };
    let pending = wait_for_captures(service, row.owner_uid, &[Ok(spot.clone())], patience);
    if let Some(why) = pending.get(&spot.shown()) {
        return Err(Error::StillPending { path: spot.shown(), why: why.clone() });
    }
    let Some(file) = file else { return Ok(None) };
    let mut batch = service.blobs.begin()?;
    let content = Copier::new(service, row.owner_uid, patience).copy(&file, &spot, &mut *batch)?;
    batch.commit()?;
    Ok(Some(content))
}

/// Takes the copies of one request.
struct Copier<'a> {
    service: &'a Service,
    owner: u32,
    patience: Patience,
    /// Lent to each copy: with one of its own, making it was a third of what registering a small file cost (measured).
    buffer: Vec<u8>,
    our_mounts: OurMounts,
}

impl<'a> Copier<'a> {
    fn new(service: &'a Service, owner: u32, patience: Patience) -> Self {
        let (buffer, our_mounts) = (Vec::new(), OurMounts::default());
        Self { service, owner, patience, buffer, our_mounts }
    }

    /// A stable copy of the file, and what is learned from it.
    fn copy(
        &mut self,
        file: &File,
        spot: &Spot,
        batch: &mut dyn BlobBatch,
    ) -> Result<DeclaredContent, Error> {
        let (service, Patience(deadline)) = (self.service, self.patience);
        let path = spot.shown();
        let unreadable = |source| Error::Unreadable { path: path.clone(), source };
        if self.our_mounts.has(file).map_err(unreadable)? {
            return Err(bad(format!(
                "{path} was opened through a workspace's mount: name it as it is seen in the workspace, or open it in the host directory behind"
            )));
        }
        let limits =
            Limits { kept_bytes_max: service.settings.content_bytes_max, lane_bytes_max: u64::MAX };
        let wanted = || !service.is_stopping() && Instant::now() < deadline;
        let name = spot.host_path.file_name().unwrap_or_default();
        let policy = service.settings.secrets;
        let finder = spot.workspace.as_ref().and_then(|id| service.finder_of(self.owner, id));
        let blocks = policy == SecretPolicy::Block;
        let subject = Subject { name, finder: finder.as_deref(), blocks };
        for _ in 0..COPY_TRIES {
            match copy(file, batch, limits, subject, &mut self.buffer, &wanted) {
                Ok(Copied::Stable(content)) => {
                    let (digest, by_name) =
                        (content.examined.digest, VirtualPath::parse(name).ok());
                    let rule = match (&spot.place, &by_name) {
                        (Some((_, mount, path)), _) => service.rules.rule_for(Some(mount), path),
                        (None, Some(name)) => service.rules.rule_for(None, name),
                        (None, None) => None,
                    };
                    let learned = learn(service, name, rule, content.examined, finder.as_deref());
                    if let Some(first) = learned.secrets.found.first() {
                        tracing::warn!(path, secret = %first.secret, encoding = first.encoding, count = learned.secrets.found.len(), ?policy, "a secret stands in a registered file");
                    }
                    return Ok(DeclaredContent {
                        digest,
                        size: content.size,
                        kept: content.kept,
                        artifact_type: learned.artifact_type,
                        suspected: learned.suspected,
                        mime: learned.mime,
                        metadata: learned.metadata,
                        secrets: learned.secrets,
                    });
                }
                Ok(Copied::NotAFile) => return Err(bad(format!("{path} is not a regular file"))),
                Ok(Copied::Unstable) => std::thread::sleep(COPY_PAUSE),
                Ok(Copied::Unwanted | Copied::TooLarge) => {
                    let why = "its copy took too long".to_owned();
                    return Err(Error::StillPending { path, why });
                }
                Err(CopyError::Read(source)) => return Err(unreadable(source)),
                Err(CopyError::Write(source)) => {
                    let root = service.settings.state_dir.clone();
                    return Err(Error::State { doing: "store a content in", path: root, source });
                }
                Err(CopyError::Blob(error)) => return Err(error.into()),
            }
        }
        Err(Error::Changing { path })
    }
}

/// The mounts of daemons of ours, as the first question finds them: a file that is asked about was opened before, through a mount
/// that was there.
#[derive(Default)]
struct OurMounts(Option<BTreeSet<u32>>);

impl OurMounts {
    /// Whether the file lies on one of them: a daemon that waits for its own mount cannot be killed. Asked without a request to the
    /// mount's server.
    fn has(&mut self, file: &File) -> std::io::Result<bool> {
        let (major, minor) = device(file.as_fd())?;
        // A file system on a block device is none; the table of a host with many mounts is long.
        if major != 0 {
            return Ok(false);
        }
        if self.0.is_none() {
            self.0 = Some(ours(&std::fs::read_to_string("/proc/self/mountinfo")?));
        }
        Ok(self.0.as_ref().is_some_and(|minors| minors.contains(&minor)))
    }
}

/// The minor device numbers of mounts of ours in a table of proc_pid_mountinfo(5); their major is 0.
fn ours(table: &str) -> BTreeSet<u32> {
    let minor = |line: &str| {
        let kind = line.split(" - ").nth(1).and_then(|tail| tail.split(' ').next());
        let device = line.split(' ').nth(2).filter(|_| kind == Some("fuse.belljar"));
        device.and_then(|device| device.strip_prefix("0:")?.parse().ok())
    };
    table.lines().filter_map(minor).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_of_ours_are_found_in_the_table() {
        let table = "22 1 254:0 / / rw - ext4 /dev/vda rw\n\
            40 22 0:45 / /run/w rw,nosuid shared:3 - fuse.belljar belljar rw,user_id=0\n\
            41 22 0:46 / /srv/a rw - fuse.sshfs host: rw\n\
            42 22 0:47 / /srv/b\\040-\\040fuse.belljar rw - tmpfs none rw\n";
        assert_eq!(ours(table), BTreeSet::from([45]));
    }
}
