//! The file system of one workspace, without the kernel: one method per operation.
//!
//! Every method goes the same way: find the node, ask the mount table whether the operation may change anything, act
//! below the node's descriptor. It knows neither FUSE nor artifacts; writes are told to the [`WriteObserver`].
//!
//! Threads: every method may be called from any number of threads at once. None waits for another request.

pub mod attributes;
pub mod backing;
pub mod control;
pub mod descriptors;
pub mod error;
pub mod handle;
pub mod inode;
pub mod io;
pub mod namespace;
pub mod observer;
pub mod process;
mod reading;
pub mod tracking;
pub mod views;

use crate::model::id::RunId;
use crate::model::mount::{CachePolicy, SetId};
use crate::policy::mount_table::{MountIndex, MountTable};
use crate::policy::operation::Operation;
use crate::sys::credentials::Credentials;
use crate::sys::file::TimeChange;
use attributes::{Attributes, Time};
use backing::{BackingRoot, Caller, Found, Generation};
use control::{ControlTree, Listed};
use descriptors::{DescriptorBudget, KeptDescriptors};
use error::Error;
use handle::{Handle, HandleTable};
use inode::{FIRST_HOST_NODE, Inode, InodeTable, Name};
use nix::errno::Errno;
use observer::WriteObserver;
use process::Askers;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The workspace's root directory, as the FUSE protocol numbers it.
pub const ROOT: u64 = 1;
/// Name of the directory that Belljar itself provides in every workspace.
pub const CONTROL_NAME: &str = ".belljar";

const ROOT_MODE: u32 = 0o040_555;
const SET_ID_BITS: u32 = 0o6000;

/// Tells in which run a process is.
pub trait Attribution: Send + Sync {
    /// `pid` as in [`Caller`]; `None` where the process belongs to no run or cannot be told.
    fn run_of(&self, pid: u32) -> Option<RunId>;
}

/// What a file system is built from.
pub struct Parts {
    pub mounts: MountTable,
    /// Root of each mount point's clone, in the order of the table.
    pub directories: Vec<OwnedFd>,
    pub control: ControlTree,
    pub observer: Arc<dyn WriteObserver>,
    pub attribution: Arc<dyn Attribution>,
    /// The workspace's owner, where the daemon may read more than the owner: files are copied for the observer only
    /// when the owner may read them. `None` where owner and daemon are the same.
    pub owner: Option<Credentials>,
    /// For descriptors of nodes that nobody has open; shared with the other file systems of the process.
    pub descriptors: Arc<DescriptorBudget>,
}

/// The file system of one workspace.
pub struct Vfs {
    mounts: MountTable,
    roots: Vec<BackingRoot>,
    /// The node of each mount point's directory; they live as long as the workspace.
    root_nodes: Vec<Arc<Inode>>,
    inodes: InodeTable,
    handles: HandleTable,
    control: ControlTree,
    observer: Arc<dyn WriteObserver>,
    /// What the observer answered at the beginning.
    hears_reads: bool,
    askers: Askers,
    owner: Option<Credentials>,
    kept: Arc<KeptDescriptors>,
    created: Time,
    /// Reads and writes of host files that came to the daemon instead of passing through the kernel.
    data_requests: AtomicU64,
}

impl std::fmt::Debug for Vfs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vfs").field("mounts", &self.mounts).finish_non_exhaustive()
    }
}

/// What chmod, chown, truncate and utimensat ask for together; the kernel sends them in one request.
#[derive(Debug, Clone, Copy, Default)]
pub struct Changes {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<TimeChange>,
    pub mtime: Option<TimeChange>,
}

impl Changes {
    fn is_empty(&self) -> bool {
        let Changes { mode, uid, gid, size, atime, mtime } = self;
        mode.is_none()
            && uid.is_none()
            && gid.is_none()
            && size.is_none()
            && atime.is_none()
            && mtime.is_none()
    }
}

impl Vfs {
    pub fn new(parts: Parts) -> Result<Self, Error> {
        let Parts { mounts, directories, control, observer, attribution, owner, descriptors } =
            parts;
        assert_eq!(mounts.iter().len(), directories.len(), "one directory for each mount point");
        let roots: Vec<BackingRoot> =
            directories.into_iter().map(BackingRoot::new).collect::<Result<_, _>>()?;
        let mut found = Vec::with_capacity(roots.len());
        for ((index, _), root) in mounts.iter().zip(&roots) {
            let descriptor = root
                .descriptor
                .try_clone()
                .map_err(Error::os("duplicate the descriptor of a mount point"))?;
            let birth = backing::birth(descriptor.as_fd())?;
            found.push((
                index,
                Found { descriptor, stat: root.stat, generation: Generation::Birth(birth) },
            ));
        }
        let (inodes, root_nodes) = InodeTable::new(found);
        Ok(Self {
            inodes,
            root_nodes,
            owner,
            mounts,
            roots,
            handles: HandleTable::default(),
            control,
            hears_reads: observer.hears_reads(),
            observer,
            askers: Askers::new(attribution),
            kept: descriptors.share(),
            created: Time::now(),
            data_requests: AtomicU64::new(0),
        })
    }

    pub fn mounts(&self) -> &MountTable {
        &self.mounts
    }

    /// How many reads and writes of host files were answered here; none where the kernel passes them through.
    pub fn data_requests(&self) -> u64 {
        self.data_requests.load(Ordering::Relaxed)
    }

    /// How many host files and directories are known, those of the mount points themselves included.
    pub fn nodes(&self) -> usize {
        self.inodes.len()
    }

    /// How long what is known of a node holds. Told by its number, so that nothing is looked up for it.
    pub fn cache_policy(&self, node: u64) -> CachePolicy {
        let mount = inode::mount_position(node).and_then(|position| self.mounts.at(position));
        mount.map_or(CachePolicy::Shared, |mount| mount.cache)
    }

    /// A mount point whose directory has no name left on the host.
    pub fn removed_root(&self) -> Option<MountIndex> {
        let mut roots = self.mounts.iter().zip(&self.roots);
        let removed = roots.find(|(_, root)| {
            backing::stat(root.descriptor.as_fd()).is_ok_and(|stat| stat.st_nlink == 0)
        });
        removed.map(|((index, _), _)| index)
    }

    fn root_of(&self, inode: &Inode) -> &BackingRoot {
        &self.roots[inode.mount.as_usize()]
    }

    fn is_provided(node: u64) -> bool {
        node < FIRST_HOST_NODE
    }

    /// The host node of a mutation, or an error that says that Belljar's own directories stay as they are.
    fn host_node(&self, node: u64) -> Result<Arc<Inode>, Error> {
        if Self::is_provided(node) {
            return Err(Error::Provided);
        }
        self.inodes.get(node).ok_or(Error::Unknown(node))
    }

    /// A descriptor of the node, opened again if it was given up.
    fn descriptor(&self, inode: &Arc<Inode>) -> Result<Arc<OwnedFd>, Error> {
        if let Some(descriptor) = inode.descriptor() {
            return Ok(descriptor);
        }
        self.find_again(inode).or_else(|failure| {
            // The host removed or moved it. Who has it open may go on, and the kernel does not always say through which
            // handle: fstat(2) names none (fs/fuse/dir.c, fuse_update_get_attr).
            let open = self.handles.of(inode).ok_or(failure)?;
            let Some(file) = open.descriptor() else { return Err(Error::Unknown(inode.id)) };
            let opened = crate::sys::file::reopen(file.as_fd(), nix::fcntl::OFlag::O_PATH)
                .map_err(Error::os("open an open file once more"))?;
            Ok(self.keep_open(inode, opened))
        })
    }

    /// Opens a node by its handle, or by the names that it had.
    fn find_again(&self, inode: &Arc<Inode>) -> Result<Arc<OwnedFd>, Error> {
        if let Generation::Handle(handle) = &inode.generation {
            let opened = self.root_of(inode).open_by_handle(handle)?;
            return Ok(self.keep_open(inode, opened));
        }
        let mut failure = Error::Unknown(inode.id);
        for name in inode.names() {
            let opened = self
                .directory(&name.parent)
                .and_then(|parent| self.open_again(inode, &parent, &name.name));
            match opened {
                Ok(descriptor) => return Ok(descriptor),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// The same for a directory without a handle, from the nearest one above that has a descriptor. A loop and not a recursion:
    /// processes make trees that are deeper than a thread's stack.
    fn directory(&self, directory: &Arc<Inode>) -> Result<Arc<OwnedFd>, Error> {
        let mut lost = Vec::new();
        let mut inode = Arc::clone(directory);
        let mut descriptor = loop {
            if let Some(descriptor) = inode.descriptor() {
                break descriptor;
            }
            // Directories that the host moved into each other may be known as each other's parents.
            if lost.len() > self.inodes.len() {
                return Err(Error::Unknown(directory.id));
            }
            let Name { parent, name } = inode.name().ok_or(Error::Unknown(inode.id))?;
            lost.push((inode, name));
            inode = parent;
        };
        while let Some((inode, name)) = lost.pop() {
            descriptor = self.open_again(&inode, &descriptor, &name)?;
        }
        Ok(descriptor)
    }

    /// Opens a node by a name that it had. ESTALE makes the kernel look where it is by this time, or that it is gone.
    fn open_again(
        &self,
        inode: &Arc<Inode>,
        parent: &OwnedFd,
        name: &OsStr,
    ) -> Result<Arc<OwnedFd>, Error> {
        let opened = match backing::open_child(parent.as_fd(), name) {
            Err(error) if error.to_errno() == Errno::ENOENT => {
                return Err(Error::Unknown(inode.id));
            }
            result => result?,
        };
        let stat = backing::stat(opened.as_fd())?;
        let same = backing::Identity::of(&stat) == inode.identity
            && inode::kind_of(&stat) == inode.kind
            && Generation::Birth(backing::birth(opened.as_fd())?) == inode.generation;
        if !same {
            // Another file has the name.
            return Err(Error::Unknown(inode.id));
        }
        Ok(self.keep_open(inode, opened))
    }

    fn keep_open(&self, inode: &Arc<Inode>, opened: OwnedFd) -> Arc<OwnedFd> {
        let opened = Arc::new(opened);
        if inode.keep_descriptor(&opened) {
            self.kept.add(inode);
        }
        opened
    }

    fn acquire(&self, parent: &Arc<Inode>, name: &OsStr, found: Found) -> Arc<Inode> {
        let name = Name { parent: Arc::clone(parent), name: name.to_owned() };
        let (inode, kept) = self.inodes.acquire(parent.mount, found, Some(name));
        if kept {
            self.kept.add(&inode);
        }
        inode
    }

    fn root_attributes(&self) -> Attributes {
        Attributes {
            node: ROOT,
            size: 0,
            blocks: 0,
            atime: self.created,
            mtime: self.created,
            ctime: self.created,
            mode: ROOT_MODE,
            nlink: 2,
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            rdev: 0,
            blksize: 4096,
        }
    }

    /// Finds a name in a directory. The node found has one more reference, which [`forget`](Self::forget) gives back.
    pub fn lookup(&self, parent: u64, name: &OsStr) -> Result<Attributes, Error> {
        if parent == ROOT {
            if name == CONTROL_NAME {
                return self.control.attributes(control::ROOT);
            }
            let mount = self.mounts.resolve(name).ok_or(Error::NotFound)?;
            let inode = &self.root_nodes[mount.as_usize()];
            let attributes = self.host_attributes(inode)?;
            self.inodes.hold(inode);
            return Ok(attributes);
        }
        if Self::is_provided(parent) {
            return self.control.lookup(parent, name);
        }
        let parent = self.host_node(parent)?;
        let directory = self.descriptor(&parent)?;
        let found = backing::find(self.root_of(&parent), directory.as_fd(), name)?;
        let stat = found.stat;
        let inode = self.acquire(&parent, name, found);
        Ok(Attributes::of_host(inode.id, &stat))
    }

    pub fn forget(&self, node: u64, count: u64) {
        if !Self::is_provided(node)
            && let Some(inode) = self.inodes.get(node)
        {
            self.inodes.release(inode, count);
        }
    }

    fn host_attributes(&self, inode: &Arc<Inode>) -> Result<Attributes, Error> {
        let descriptor = self.descriptor(inode)?;
        Ok(Attributes::of_host(inode.id, &backing::stat(descriptor.as_fd())?))
    }

    /// `handle` is the open file through which the caller asks, if there is one: it answers when no name is left.
    pub fn getattr(&self, node: u64, handle: Option<u64>) -> Result<Attributes, Error> {
        let open = handle.and_then(|handle| {
            self.with_descriptor(handle, |inode, file| {
                backing::stat(file.as_fd()).map(|stat| Attributes::of_host(inode.id, &stat))
            })
        });
        if let Some(attributes) = open {
            return attributes;
        }
        match node {
            ROOT => Ok(self.root_attributes()),
            _ if Self::is_provided(node) => self.control.attributes(node),
            _ => self.host_attributes(&self.inodes.get(node).ok_or(Error::Unknown(node))?),
        }
    }

    pub fn readlink(&self, node: u64) -> Result<OsString, Error> {
        let inode = self.inodes.get(node).ok_or(Error::Unknown(node))?;
        backing::readlink(self.descriptor(&inode)?.as_fd())
    }

    /// Changes attributes. `handle` is the open file through which a size is changed, if there is one.
    pub fn setattr(
        &self,
        caller: &Caller,
        node: u64,
        handle: Option<u64>,
        changes: Changes,
    ) -> Result<Attributes, Error> {
        let inode = self.host_node(node)?;
        let grant = self.mounts.authorize(inode.mount, Operation::Setattr)?;
        let open = handle.and_then(|handle| {
            self.with_descriptor(handle, |_, file| file.try_clone().map(Arc::new).ok())?
        });
        let descriptor = match open {
            Some(descriptor) => descriptor,
            None => self.descriptor(&inode)?,
        };
        // A size is changed through a handle that can write, or by an open of its own; only the rest asks who the caller is.
        let asks = Changes { size: None, ..changes };
        let acting = if asks.is_empty() { None } else { backing::act_as(caller)? };
        if let Some(mode) = changes.mode {
            let may_gain =
                inode.is_directory() || self.mounts.get(inode.mount).suid == SetId::Allow;
            // Looked at only where a bit could be gained.
            if !may_gain && mode & SET_ID_BITS != 0 {
                let before = backing::stat(descriptor.as_fd())?.st_mode;
                refuse_set_id(mode & !before)?;
            }
            backing::chmod(&grant, descriptor.as_fd(), mode & 0o7777)?;
        }
        if changes.uid.is_some() || changes.gid.is_some() {
            backing::chown(&grant, descriptor.as_fd(), changes.uid, changes.gid)?;
        }
        if changes.atime.is_some() || changes.mtime.is_some() {
            backing::set_times(
                &grant,
                descriptor.as_fd(),
                changes.atime.unwrap_or(TimeChange::Keep),
                changes.mtime.unwrap_or(TimeChange::Keep),
            )?;
        }
        drop(acting);
        if let Some(size) = changes.size {
            self.truncate(caller, &grant, &inode, handle, size)?;
        }
        if changes.is_empty() {
            // The kernel asks in this way to take set-id bits from a file that was written (FUSE_HANDLE_KILLPRIV_V2).
            let mode = backing::stat(descriptor.as_fd())?.st_mode;
            if inode.is_regular() && mode & SET_ID_BITS != 0 {
                backing::chmod(&grant, descriptor.as_fd(), mode & 0o7777 & !SET_ID_BITS)?;
            }
        }
        Ok(Attributes::of_host(inode.id, &backing::stat(descriptor.as_fd())?))
    }

    pub fn statfs(&self, node: u64) -> Result<Option<nix::sys::statvfs::Statvfs>, Error> {
        if Self::is_provided(node) {
            return Ok(None);
        }
        let inode = self.inodes.get(node).ok_or(Error::Unknown(node))?;
        let descriptor = self.descriptor(&inode)?;
        nix::sys::statvfs::fstatvfs(descriptor.as_fd()).map(Some).map_err(Error::errno("statfs"))
    }

    /// The entries of a directory that Belljar provides; `None` for a host directory.
    pub fn provided_listing(&self, node: u64) -> Result<Option<Vec<Listed>>, Error> {
        if node == ROOT {
            let mut listed = vec![Listed {
                name: CONTROL_NAME.into(),
                attributes: self.control.attributes(control::ROOT)?,
            }];
            for (index, mount) in self.mounts.iter() {
                let attributes = self.host_attributes(&self.root_nodes[index.as_usize()])?;
                listed.push(Listed { name: mount.name.as_str().into(), attributes });
            }
            return Ok(Some(listed));
        }
        if Self::is_provided(node) {
            return self.control.list(node).map(Some);
        }
        Ok(None)
    }

    pub fn opendir(&self, caller: &Caller, node: u64) -> Result<u64, Error> {
        if Self::is_provided(node) {
            return Ok(self.handles.insert(Handle::VirtualDirectory));
        }
        let inode = self.host_node(node)?;
        let descriptor = self.descriptor(&inode)?;
        let flags = nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_DIRECTORY;
        let _identity = backing::act_as(caller)?;
        let descriptor = crate::sys::file::reopen(descriptor.as_fd(), flags)
            .map_err(Error::os("open a directory"))?;
        Ok(self.handles.insert(Handle::Directory { inode, descriptor }))
    }

    /// Entries of a host directory after `offset`, each with the id its node has or would get.
    pub fn readdir(
        &self,
        handle: u64,
        offset: i64,
    ) -> Result<Vec<crate::sys::directory::Entry>, Error> {
        let handle = self.handles.get(handle).ok_or(Error::Unknown(handle))?;
        let Handle::Directory { inode, descriptor } = &*handle else {
            return Err(Error::NotDirectory);
        };
        let mut entries = crate::sys::directory::getdents64(descriptor.as_fd(), offset)
            .map_err(Error::os("read a directory"))?;
        for entry in &mut entries {
            entry.ino = self.inodes.id_for(inode.mount, entry.ino);
        }
        Ok(entries)
    }

    pub fn releasedir(&self, handle: u64) {
        drop(self.handles.remove(handle));
    }

    /// Reads an extended attribute; an empty buffer asks for its size. The namespaces that carry privileges or belong to
    /// the host's security modules are not passed on.
    pub fn getxattr(&self, node: u64, name: &OsStr, buffer: &mut [u8]) -> Result<usize, Error> {
        if !is_passed_on(name) {
            // ENOSYS would turn attributes off for the whole connection; the kernel asks for security.capability often.
            return Err(Error::NoAttribute);
        }
        if Self::is_provided(node) {
            return Err(Error::NoAttribute);
        }
        let inode = self.inodes.get(node).ok_or(Error::Unknown(node))?;
        let descriptor = self.descriptor(&inode)?;
        crate::sys::file::getxattr(descriptor.as_fd(), name, buffer)
            .map_err(Error::os("read an attribute"))
    }

    pub fn listxattr(&self, node: u64) -> Result<Vec<u8>, Error> {
        if Self::is_provided(node) {
            return Ok(Vec::new());
        }
        let inode = self.inodes.get(node).ok_or(Error::Unknown(node))?;
        let descriptor = self.descriptor(&inode)?;
        let all = crate::sys::file::listxattr(descriptor.as_fd())
            .map_err(Error::os("list attributes"))?;
        use std::os::unix::ffi::OsStrExt;
        let passed = all.split_inclusive(|b| *b == 0).filter(|name| {
            let name = name.strip_suffix(b"\0").unwrap_or(name);
            is_passed_on(OsStr::from_bytes(name))
        });
        Ok(passed.flatten().copied().collect())
    }

    pub fn setxattr(
        &self,
        caller: &Caller,
        node: u64,
        name: &OsStr,
        value: &[u8],
        flags: i32,
    ) -> Result<(), Error> {
        let inode = self.host_node(node)?;
        let grant = self.mounts.authorize(inode.mount, Operation::Setxattr)?;
        if !is_passed_on(name) {
            return Err(Error::NotSupported("an attribute outside the user namespace"));
        }
        let descriptor = self.descriptor(&inode)?;
        let _identity = backing::act_as(caller)?;
        backing::setxattr(&grant, descriptor.as_fd(), name, value, flags)
    }

    pub fn removexattr(&self, caller: &Caller, node: u64, name: &OsStr) -> Result<(), Error> {
        let inode = self.host_node(node)?;
        let grant = self.mounts.authorize(inode.mount, Operation::Removexattr)?;
        if !is_passed_on(name) {
            return Err(Error::NotSupported("an attribute outside the user namespace"));
        }
        let descriptor = self.descriptor(&inode)?;
        let _identity = backing::act_as(caller)?;
        backing::removexattr(&grant, descriptor.as_fd(), name)
    }
}

/// Refuses bits that a file would gain, where its mount point does not allow them (`suid: allow`).
fn refuse_set_id(gained: u32) -> Result<(), Error> {
    if gained & SET_ID_BITS != 0 {
        return Err(Error::Refused("setting a set-user-id or set-group-id bit"));
    }
    Ok(())
}

/// The user's own attributes and access control lists, which the kernel itself asks for and enforces (FUSE_POSIX_ACL).
fn is_passed_on(name: &OsStr) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let acl = ["system.posix_acl_access", "system.posix_acl_default"];
    name.as_bytes().starts_with(b"user.") || acl.iter().any(|acl| name == *acl)
}
