//! A workspace from its making to its end: clones of the host directories, the file system over them, the mount.
//!
//! Made in this order, undone in the other: clone the directories → tell the artifact service → build the file system →
//! mount and serve → attach on the host. A workspace that could not be made whole leaves nothing behind.

use super::attribution::RunIndex;
use super::clone::clone_opened;
use super::contents::Contents;
use super::holders::Holders;
use super::patience::within;
use super::wanted::Wanted;
use super::{Actor, Error, MountDefinition};
use crate::artifact::backend::Chosen;
use crate::artifact::{Artifacts, AttachedMount, AttachedWorkspace};
use crate::fuse::adapter::WorkspaceFilesystem;
use crate::fuse::session::{Mounted, Purpose, Session};
use crate::model::access::Access;
use crate::model::id::{BackendId, WorkspaceId};
use crate::model::path::escape;
use crate::policy::mount_table::{MountPoint, MountTable};
use crate::sys::credentials::Credentials;
use crate::sys::mount::MountAttr;
use crate::vfs::control::{ControlTree, Secrets};
use crate::vfs::descriptors::DescriptorBudget;
use crate::vfs::{Parts, Vfs};
use crate::wire;
use jiff::Timestamp;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Threads that serve one workspace's files. More than the processors can run gain nothing; fewer than two would let
/// one slow disk stop everything. Chosen after the requests' cost, which is mostly the wake-up.
fn serving_threads() -> usize {
    std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8))
}

/// Descriptors that all workspaces together may keep for files nobody has open: half of the process's limit, which leaves
/// the other half for open files, mounts and sockets. Chosen, not measured.
pub fn descriptor_budget() -> Arc<DescriptorBudget> {
    use nix::sys::resource::{Resource, getrlimit};
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    DescriptorBudget::new(usize::try_from(limit / 2).unwrap_or(usize::MAX).clamp(64, 1 << 20))
}

/// A mounted workspace.
pub struct Workspace {
    pub id: WorkspaceId,
    pub owner: Actor,
    pub root: PathBuf,
    pub contents: Arc<Contents>,
    pub runs: Arc<RunIndex>,
    pub holders: Holders,
    /// Where what is written here is kept.
    pub artifacts: Artifacts,
    /// The backend that this is, if it is not the daemon's own place.
    pub backend: Option<BackendId>,
    pub created_at: Timestamp,
    /// Identity of the directories, to tell whether another definition means the same.
    pub directories: Vec<(u64, u64)>,
    /// User and group of each mount point's directory when the workspace was made.
    pub owners: Vec<(u32, u32)>,
    passthrough: bool,
    vfs: Arc<Vfs>,
    session: Mutex<Option<Session>>,
    /// The artifacts as files.
    views: Mutex<Option<Session>>,
    /// Its connection was ended because a host file system did not answer.
    cut_off: AtomicBool,
}

impl std::fmt::Debug for Workspace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workspace").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Makes a detached, private clone of a directory's mounts; a read-only one cannot be written through, whoever tries.
fn clone_directory(mount: &MountDefinition) -> Result<OwnedFd, Error> {
    let what = || format!("mount {} of {}", mount.name, mount.host_path.display());
    let mut attributes = MountAttr::NO_SUID | MountAttr::NO_DEV;
    match mount.access {
        Access::ReadOnly => attributes = attributes | MountAttr::READ_ONLY,
        Access::ReadWrite => {}
    }
    let tree = clone_opened(&what(), &mount.directory, attributes)?;
    let opened = nix::fcntl::openat(
        &tree,
        c".",
        OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    );
    match opened {
        Ok(directory) => Ok(directory),
        // A directory that may be passed through but not listed.
        Err(nix::errno::Errno::EACCES) => Ok(tree),
        Err(errno) => Err(Error::Io { doing: format!("open {}", what()), source: errno.into() }),
    }
}

/// 1, or 2 where a backing file system is itself stacked; 0 where this process may not register backing files.
fn stack_depth(directories: &[OwnedFd]) -> u32 {
    if !nix::unistd::geteuid().is_root() {
        return 0;
    }
    let stacked = directories.iter().any(|directory| {
        nix::sys::statfs::fstatfs(directory)
            .is_ok_and(|stat| stat.filesystem_type() == nix::sys::statfs::OVERLAYFS_SUPER_MAGIC)
    });
    if stacked { 2 } else { 1 }
}

/// Makes `<runtime>/workspaces/<uid>/<id>`; the owner's directory is closed to everybody else.
fn make_mount_directory(runtime: &Path, owner: &Actor, id: &WorkspaceId) -> Result<PathBuf, Error> {
    let all = runtime.join("workspaces");
    let own = all.join(owner.uid.to_string());
    let root = own.join(id.as_str());
    let doing = || format!("make the directory {}", root.display());
    let failed = |source| Error::Io { doing: doing(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(&all).map_err(failed)?;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&own).map_err(failed)?;
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(&own, Some(owner.uid), Some(owner.gid)).map_err(failed)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(&root) {
        Ok(()) => Ok(root),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            // Left behind by an instance that was not cleaned up after; it is used only if it is empty and ours.
            std::fs::remove_dir(&root).map_err(failed)?;
            std::fs::DirBuilder::new().mode(0o700).create(&root).map_err(failed)?;
            Ok(root)
        }
        Err(source) => Err(failed(source)),
    }
}

impl Workspace {
    /// Makes a workspace and mounts it below `runtime`.
    pub fn make(
        runtime: &Path,
        kept: (Artifacts, Option<BackendId>),
        descriptors: &Arc<DescriptorBudget>,
        owner: Actor,
        id: WorkspaceId,
        wanted: &Wanted,
    ) -> Result<Self, Error> {
        let (artifacts, backend) = kept;
        let points = wanted.iter().map(|(mount, looked)| MountPoint {
            name: mount.name.clone(),
            access: mount.access,
            host_path: looked.host_path.clone(),
            artifacts: mount.artifacts && mount.access == Access::ReadWrite,
            cache: mount.cache,
            suid: mount.suid,
        });
        let table = MountTable::new(points.collect())
            .map_err(|error| Error::Invalid { message: error.to_string() })?;
        let (clones, stack_depth) = wanted.ask(|mounts| {
            let clones: Vec<OwnedFd> =
                mounts.iter().map(clone_directory).collect::<Result<_, _>>()?;
            let stack_depth = stack_depth(&clones);
            Ok((clones, stack_depth))
        })?;

        let contents = Arc::new(Contents::default());
        contents.set_manifest(manifest(&id, &table));
        let runs = Arc::new(RunIndex::default());
        let attached =
            table.iter().zip(wanted.iter()).map(|((_, mount), (_, looked))| AttachedMount {
                name: mount.name.clone(),
                host_path: mount.host_path.clone(),
                host_dev: looked.stat.st_dev,
                host_ino: looked.stat.st_ino,
                artifacts: mount.artifacts,
            });
        let attachment = artifacts.attach(AttachedWorkspace {
            id: id.clone(),
            owner_uid: owner.uid,
            mounts: attached.collect(),
        })?;
        // From here on a failure must take back the attachment.
        let made = (|| {
            let vfs = Vfs::new(Parts {
                mounts: table,
                directories: clones,
                control: ControlTree::new(contents.clone(), Secrets::Hidden),
                observer: attachment.observer(),
                attribution: runs.clone(),
                owner: (nix::unistd::geteuid().is_root() && owner.uid != 0)
                    .then(|| Credentials::of_login(owner.uid, owner.gid)),
                descriptors: Arc::clone(descriptors),
            })
            .map_err(|error| Error::Unavailable {
                message: format!("make the file system of workspace {id}: {error}"),
            })?;
            let vfs = Arc::new(vfs);
            attachment.set_source(vfs.clone());
            attachment.set_secrets(contents.clone());
            let mounted = Mounted::new(Purpose::Workspace { stack_depth }).map_err(unmountable)?;
            let passthrough = mounted.passthrough();
            let filesystem = WorkspaceFilesystem::new(vfs.clone(), passthrough);
            let mut session =
                mounted.serve(filesystem, serving_threads(), id.as_str()).map_err(unmountable)?;
            let root = match make_mount_directory(runtime, &owner, &id) {
                Ok(root) => root,
                Err(error) => {
                    session.end();
                    return Err(error);
                }
            };
            let views = session
                .attach(&root)
                .map_err(unmountable)
                .and_then(|()| super::views::serve(&artifacts, &owner, &id, &root));
            match views {
                Ok(views) => Ok((vfs, session, views, root, passthrough)),
                Err(error) => {
                    session.end();
                    let _ = std::fs::remove_dir(&root);
                    Err(error)
                }
            }
        })();
        let (vfs, session, views, root, passthrough) = match made {
            Ok(made) => made,
            Err(error) => {
                artifacts.detach(&id, owner.uid);
                return Err(error);
            }
        };
        Ok(Self {
            id,
            owner,
            root,
            contents,
            runs,
            holders: Holders::default(),
            artifacts,
            backend,
            created_at: Timestamp::now(),
            directories: wanted.iter().map(|(_, looked)| looked.identity()).collect(),
            owners: wanted
                .iter()
                .map(|(_, looked)| (looked.stat.st_uid, looked.stat.st_gid))
                .collect(),
            passthrough,
            vfs,
            session: Mutex::new(Some(session)),
            views: Mutex::new(Some(views)),
            cut_off: AtomicBool::new(false),
        })
    }

    pub fn mounts(&self) -> &MountTable {
        self.vfs.mounts()
    }

    /// The same for where artifacts are kept; a definition that names no backend means the one that is.
    pub fn kept_elsewhere(&self, wanted: &Option<Chosen>) -> Option<String> {
        let wanted = wanted.as_ref().filter(|wanted| Some(&wanted.id) != self.backend.as_ref())?;
        let own = match &self.backend {
            Some(id) => format!("backend {id}"),
            None => "the daemon's own place".to_owned(),
        };
        Some(format!("keeps its artifacts in {own} and not in backend {}", wanted.id))
    }

    /// What a definition asks for that this workspace is not, as the end of a sentence; nothing when it describes this
    /// workspace: the same directories under the same names with the same access.
    pub fn difference(&self, wanted: &Wanted) -> Option<String> {
        let same = self.mounts().iter().len() == wanted.iter().len()
            && self.mounts().iter().zip(wanted.iter()).all(|((_, ours), (theirs, _))| {
                ours.name == theirs.name
                    && ours.access == theirs.access
                    && (theirs.access == Access::ReadOnly || ours.artifacts == theirs.artifacts)
                    && (ours.cache, ours.suid) == (theirs.cache, theirs.suid)
            });
        if !same {
            return Some("has other mount points".to_owned());
        }
        let mut directories = self.directories.iter().zip(wanted.iter());
        let (_, (mount, looked)) =
            directories.find(|(identity, (_, looked))| looked.identity() != **identity)?;
        let shown = escape(looked.host_path.as_os_str().as_bytes());
        Some(format!(
            "has another directory behind mount {} than the one that is at {shown} at this time",
            mount.name
        ))
    }

    /// Refuses a workspace that shows a directory which was removed on the host: it would be empty, and nothing could be
    /// made in it.
    pub fn check_directories(&self) -> Result<(), Error> {
        let vfs = Arc::clone(&self.vfs);
        let removed = within(&format!("workspace {}", self.id), move || vfs.removed_root())?;
        let Some(index) = removed else { return Ok(()) };
        let mount = self.mounts().get(index);
        let path = escape(mount.host_path.as_os_str().as_bytes());
        Err(Error::Conflict {
            message: format!(
                "workspace {id} cannot be used: the directory of mount {name}, {path}, was removed on the host; make the workspace again by naming its mount points (--{option} {name}=PATH), or remove it with `belljar workspace rm {id}`",
                id = self.id,
                name = mount.name,
                option = match mount.access {
                    Access::ReadOnly => "ro",
                    Access::ReadWrite => "rw",
                },
            ),
        })
    }

    /// A mount of the files for a sandbox, attached nowhere.
    pub fn clone_mount(&self) -> Result<OwnedFd, Error> {
        self.clone_of(&self.session, "the mount")
    }

    /// A mount of the artifacts for a sandbox, attached nowhere.
    pub fn clone_views(&self) -> Result<OwnedFd, Error> {
        self.clone_of(&self.views, "the mount of the artifacts")
    }

    fn clone_of(&self, session: &Mutex<Option<Session>>, what: &str) -> Result<OwnedFd, Error> {
        let session = session.lock().expect("no panic under this lock");
        let session = session.as_ref().ok_or_else(|| Error::Unavailable {
            message: format!("workspace {} is being removed", self.id),
        })?;
        session.clone_mount().map_err(|source| Error::Io {
            doing: format!("clone {what} of workspace {}", self.id),
            source,
        })
    }

    /// Ends the connection, so that processes which wait for a host file system that does not answer can be killed. The
    /// workspace is of no use afterwards; what was written in it is registered when it ends.
    pub fn cut_off(&self) {
        if let Some(views) = &*self.views.lock().expect("no panic under this lock")
            && let Err(error) = views.abort()
        {
            tracing::warn!(%error, workspace = %self.id, "processes may wait for the artifacts of a workspace, and it cannot be cut off from them");
        }
        let session = self.session.lock().expect("no panic under this lock");
        let Some(session) = session.as_ref() else { return };
        if let Err(error) = session.abort() {
            tracing::error!(%error, workspace = %self.id, "processes wait for a host directory that does not answer, and the workspace cannot be cut off from it: end the file system behind the directory");
            return;
        }
        self.cut_off.store(true, Ordering::Relaxed);
        tracing::warn!(workspace = %self.id, "a workspace was cut off from its host directories, because one does not answer and a run had to end");
    }

    pub fn is_cut_off(&self) -> bool {
        self.cut_off.load(Ordering::Relaxed)
    }

    /// Unmounts. What was closed before is registered or stays in the journal; the caller has drained it.
    pub fn end(&self) {
        let session = self.session.lock().expect("no panic under this lock").take();
        if let Some(session) = session {
            session.end();
            // Unmounted with the files, in which its mount lies.
            let views = self.views.lock().expect("no panic under this lock").take();
            if let Some(views) = views {
                views.end();
            }
            self.artifacts.detach(&self.id, self.owner.uid);
            if let Err(error) = std::fs::remove_dir(&self.root) {
                tracing::warn!(%error, root = %self.root.display(), "remove a workspace's directory");
            }
        }
    }

    pub fn view(&self, runs: Vec<crate::model::id::RunId>) -> wire::workspace::Workspace {
        let secrets = self.contents.secrets().into_iter().map(|(name, _, _)| name).collect();
        wire::workspace::Workspace {
            id: self.id.clone(),
            owner_uid: self.owner.uid,
            root: self.root.display().to_string(),
            mounts: self
                .mounts()
                .iter()
                .map(|(_, mount)| wire::workspace::Mount {
                    name: mount.name.clone(),
                    mode: mount.access,
                    path: escape(mount.host_path.as_os_str().as_bytes()),
                    artifacts: mount.artifacts,
                    cache: mount.cache,
                    suid: mount.suid,
                    passthrough: self.passthrough,
                })
                .collect(),
            secrets,
            env: self.contents.env().into_keys().collect(),
            runs,
            kept: self.holders.is_kept(),
            leases: self.holders.leases() as u64,
            backend: self.backend.clone(),
            created_at: self.created_at,
        }
    }
}

fn unmountable(error: crate::fuse::session::SessionError) -> Error {
    Error::Unavailable { message: crate::telemetry::sentence(&error) }
}

/// The part of `workspace.json` that never changes.
fn manifest(id: &WorkspaceId, table: &MountTable) -> Vec<u8> {
    let mounts: Vec<serde_json::Value> = table
        .iter()
        .map(|(_, mount)| {
            serde_json::json!({
                "name": mount.name,
                "mode": mount.access,
                "artifacts": mount.artifacts,
                "cache": mount.cache,
                "suid": mount.suid,
            })
        })
        .collect();
    let object = serde_json::json!({ "id": id, "mounts": mounts });
    serde_json::to_vec(&object).expect("names and words are JSON")
}

/// Lets only the daemon's own user into a directory of the runtime directory.
pub fn make_private_directory(path: &Path) -> Result<(), Error> {
    let failed =
        |source| Error::Io { doing: format!("make the directory {}", path.display()), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).map_err(failed)
}
