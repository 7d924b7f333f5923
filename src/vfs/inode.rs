//! Which node stands for which host inode, for as long as somebody needs to know.
//!
//! A node lives while its reference count is above zero. The kernel holds references (one per lookup, returned by
//! FORGET), a child holds one on the directory it was found in, and a file that the observer follows is held until it
//! is settled. So the way up from any live node is complete.
//!
//! Node ids are made from the mount point and the host's inode number: they survive being forgotten, as tools that
//! remember inode numbers expect (git, tar, rsync). An inode number of another device below the same mount point, or
//! one reused while its old node still lives, gets a number from the mount point's overflow range instead.
//!
//! Locks: `maps` first, then a node's own, its names before its descriptor; none is held across a system call. A removal
//! is decided under the write lock, an acquisition under at least the read lock, so that a node is never removed while it
//! is being found.

use super::attributes::Stamp;
use super::backing::{Found, Generation, Identity};
use crate::policy::mount_table::MountIndex;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

/// Ids below this are Belljar's own nodes: the root (1, as the FUSE protocol has it) and the control tree.
pub const FIRST_HOST_NODE: u64 = 1 << 48;
const OVERFLOW: u64 = 1 << 63;

/// A host file or directory that the kernel or we have in use.
#[derive(Debug)]
pub struct Inode {
    pub id: u64,
    pub mount: MountIndex,
    pub identity: Identity,
    /// The S_IFMT bits; they never change for an inode.
    pub kind: u32,
    pub generation: Generation,
    descriptor: Mutex<Option<Arc<OwnedFd>>>,
    /// Given a second chance when descriptors run short.
    recently_used: AtomicBool,
    /// Oldest first; at most [`NAMES_MAX`].
    names: Mutex<Vec<Name>>,
    references: AtomicU64,
    writing: Mutex<Writing>,
}

/// Names of one inode that are remembered; more hard links than this are rare, and each costs memory. The oldest stays,
/// since it is the one an artifact is known by.
const NAMES_MAX: usize = 8;

/// A name under which the inode was seen.
#[derive(Debug, Clone)]
pub struct Name {
    pub parent: Arc<Inode>,
    pub name: OsString,
}

/// Open handles that can write, and what the file was like before the first of them.
#[derive(Debug, Default)]
pub struct Writing {
    pub writers: u32,
    /// Taken when the first writable handle was opened.
    pub before: Option<Stamp>,
    /// Known to have changed, whatever the stamps say: created, truncated or written through the daemon.
    pub changed: bool,
}

impl Inode {
    pub fn is_directory(&self) -> bool {
        self.kind == nix::sys::stat::SFlag::S_IFDIR.bits()
    }

    pub fn is_regular(&self) -> bool {
        self.kind == nix::sys::stat::SFlag::S_IFREG.bits()
    }

    /// The names under which the inode was seen, the oldest first.
    pub fn names(&self) -> Vec<Name> {
        self.names.lock().expect("no panic under this lock").clone()
    }

    /// The oldest name; for a directory, its only one.
    pub fn name(&self) -> Option<Name> {
        self.names.lock().expect("no panic under this lock").first().cloned()
    }

    pub fn writing(&self) -> MutexGuard<'_, Writing> {
        self.writing.lock().expect("no panic under this lock")
    }

    pub fn descriptor(&self) -> Option<Arc<OwnedFd>> {
        let descriptor = self.descriptor.lock().expect("no panic under this lock").clone();
        if descriptor.is_some() {
            self.recently_used.store(true, Ordering::Relaxed);
        }
        descriptor
    }

    /// Keeps a descriptor for later; false when there was one.
    pub fn keep_descriptor(&self, descriptor: &Arc<OwnedFd>) -> bool {
        let mut kept = self.descriptor.lock().expect("no panic under this lock");
        match *kept {
            Some(_) => false,
            None => {
                *kept = Some(Arc::clone(descriptor));
                true
            }
        }
    }

    /// Whether the descriptor was used since this was asked last.
    pub fn was_used_lately(&self) -> bool {
        self.recently_used.swap(false, Ordering::Relaxed)
    }

    /// Gives up the descriptor unless it is the only way to the inode: a handle opens nothing that has no name left
    /// (open_by_handle_at(2), ESTALE). The caller closes it, where no lock is held.
    pub fn surrender_descriptor(&self) -> Option<Arc<OwnedFd>> {
        // Held meanwhile: the last name must not go between the look and the step.
        let names = self.names.lock().expect("no panic under this lock");
        if names.is_empty() {
            return None;
        }
        self.descriptor.lock().expect("no panic under this lock").take()
    }
}

#[derive(Debug, Default)]
struct Maps {
    nodes: HashMap<u64, Arc<Inode>>,
    by_identity: HashMap<(MountIndex, Identity), u64>,
}

/// All live host nodes of a workspace.
#[derive(Debug)]
pub struct InodeTable {
    maps: RwLock<Maps>,
    overflow: AtomicU64,
    /// Device of each mount point's directory: inode numbers of that device become ids as they are.
    devices: Vec<u64>,
}

impl Drop for InodeTable {
    /// Nodes are left when the connection ends before the kernel forgets them. Each is cut from the one above it while the
    /// table still has both: left to themselves they would end each other in turn, deeper than a thread's stack where
    /// a process made a tree as deep as that.
    fn drop(&mut self) {
        let maps = self.maps.get_mut().expect("no panic under this lock");
        for inode in maps.nodes.values() {
            drop(std::mem::take(&mut *inode.names.lock().expect("no panic under this lock")));
        }
    }
}

impl InodeTable {
    /// `roots` are the directories behind the mount points; their nodes live as long as the table.
    pub fn new(roots: Vec<(MountIndex, Found)>) -> (Self, Vec<Arc<Inode>>) {
        let table = Self {
            maps: RwLock::default(),
            overflow: AtomicU64::new(0),
            devices: roots.iter().map(|(_, found)| found.stat.st_dev).collect(),
        };
        let nodes =
            roots.into_iter().map(|(mount, found)| table.acquire(mount, found, None).0).collect();
        (table, nodes)
    }

    pub fn get(&self, id: u64) -> Option<Arc<Inode>> {
        self.maps.read().expect("no panic under this lock").nodes.get(&id).cloned()
    }

    /// The live node of a host inode, without a new reference.
    pub fn find(&self, mount: MountIndex, identity: Identity) -> Option<Arc<Inode>> {
        let maps = self.maps.read().expect("no panic under this lock");
        maps.by_identity.get(&(mount, identity)).and_then(|id| maps.nodes.get(id)).cloned()
    }

    /// The id that an inode has or would get; for listings, where no node is made.
    pub fn id_for(&self, mount: MountIndex, inode: u64) -> u64 {
        plain_id(mount, inode).unwrap_or(OVERFLOW | id_base(mount))
    }

    pub fn len(&self) -> usize {
        self.maps.read().expect("no panic under this lock").nodes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The node of what was found, with one more reference; it is made if there is none. Gives back whether the node
    /// took the descriptor, so that the caller can count it.
    pub fn acquire(
        &self,
        mount: MountIndex,
        found: Found,
        name: Option<Name>,
    ) -> (Arc<Inode>, bool) {
        let identity = Identity::of(&found.stat);
        let kind = kind_of(&found.stat);
        let descriptor = Arc::new(found.descriptor);
        let known = |maps: &Maps| -> Option<Arc<Inode>> {
            let id = maps.by_identity.get(&(mount, identity))?;
            let inode = maps.nodes.get(id)?;
            // The same number with another generation or type is another file that got the number of a deleted one. The type
            // is looked at where the generation may not tell: what is opened as a regular file must never be a FIFO.
            (inode.generation == found.generation && inode.kind == kind).then(|| {
                inode.references.fetch_add(1, Ordering::Relaxed);
                Arc::clone(inode)
            })
        };
        let existing = known(&self.maps.read().expect("no panic under this lock"));
        if let Some(inode) = existing {
            let kept = inode.keep_descriptor(&descriptor);
            if let Some(name) = name {
                self.add_name(&inode, name);
            }
            return (inode, kept);
        }
        let parent = name.as_ref().map(|name| Arc::clone(&name.parent));
        let inode = {
            let mut maps = self.maps.write().expect("no panic under this lock");
            if let Some(inode) = known(&maps) {
                inode
            } else {
                let plain = plain_id(mount, identity.inode).filter(|id| {
                    self.devices.get(mount.as_usize()) == Some(&identity.device)
                        && !maps.nodes.contains_key(id)
                });
                let id = plain.unwrap_or_else(|| {
                    let number = self.overflow.fetch_add(1, Ordering::Relaxed) + 1;
                    OVERFLOW | id_base(mount) | (number & (FIRST_HOST_NODE - 1))
                });
                if let Some(parent) = &parent {
                    parent.references.fetch_add(1, Ordering::Relaxed);
                }
                let inode = Arc::new(Inode {
                    id,
                    mount,
                    identity,
                    kind,
                    generation: found.generation,
                    descriptor: Mutex::new(Some(descriptor)),
                    recently_used: AtomicBool::new(true),
                    names: Mutex::new(name.into_iter().collect()),
                    references: AtomicU64::new(1),
                    writing: Mutex::default(),
                });
                maps.nodes.insert(id, Arc::clone(&inode));
                maps.by_identity.insert((mount, identity), id);
                return (inode, true);
            }
        };
        // Another thread made the node between the two looks.
        if let Some(name) = name {
            self.add_name(&inode, name);
        }
        (inode, false)
    }

    /// One more reference to a node that the caller holds.
    pub fn hold(&self, inode: &Inode) {
        inode.references.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives references back; the node ends with the last, and the way up with it.
    pub fn release(&self, inode: Arc<Inode>, count: u64) {
        let mut next = vec![(inode, count)];
        while let Some((inode, count)) = next.pop() {
            let before = inode.references.fetch_sub(count, Ordering::AcqRel);
            assert!(before >= count, "node {} gave back more references than it had", inode.id);
            if before > count {
                continue;
            }
            let mut maps = self.maps.write().expect("no panic under this lock");
            // Others may have found the node, ended it and made another with its number since: this very one is meant.
            let live = maps.nodes.get(&inode.id).is_some_and(|live| Arc::ptr_eq(live, &inode));
            if inode.references.load(Ordering::Acquire) != 0 || !live {
                continue;
            }
            maps.nodes.remove(&inode.id);
            let key = (inode.mount, inode.identity);
            if maps.by_identity.get(&key) == Some(&inode.id) {
                maps.by_identity.remove(&key);
            }
            drop(maps);
            let names = std::mem::take(&mut *inode.names.lock().expect("no panic under this lock"));
            next.extend(names.into_iter().map(|name| (name.parent, 1)));
        }
    }

    /// Notes a name under which the inode is seen. A directory has one name, and the newest is it.
    fn add_name(&self, inode: &Inode, name: Name) {
        let dropped = {
            let mut names = inode.names.lock().expect("no panic under this lock");
            let same = |seen: &Name| seen.parent.id == name.parent.id && seen.name == name.name;
            if names.iter().any(same) {
                return;
            }
            self.hold(&name.parent);
            let mut dropped = Vec::new();
            if inode.is_directory() {
                dropped.append(&mut names);
            } else if names.len() >= NAMES_MAX {
                dropped.push(names.remove(1));
            }
            names.push(name);
            dropped
        };
        for old in dropped {
            self.release(old.parent, 1);
        }
    }

    /// Forgets all names.
    pub fn clear_names(&self, inode: &Inode) {
        let names = std::mem::take(&mut *inode.names.lock().expect("no panic under this lock"));
        for name in names {
            self.release(name.parent, 1);
        }
    }

    /// Forgets a name.
    pub fn clear_name(&self, inode: &Inode, parent: &Inode, name: &OsStr) {
        let old = {
            let mut names = inode.names.lock().expect("no panic under this lock");
            let position =
                names.iter().position(|seen| seen.parent.id == parent.id && seen.name == name);
            position.map(|position| names.remove(position))
        };
        if let Some(old) = old {
            self.release(old.parent, 1);
        }
    }
}

pub fn kind_of(stat: &nix::sys::stat::FileStat) -> u32 {
    stat.st_mode & nix::sys::stat::SFlag::S_IFMT.bits()
}

/// The mount point in bits 48 to 62; what is below tells its inodes apart.
fn id_base(mount: MountIndex) -> u64 {
    (mount.as_usize() as u64 + 1) << 48
}

/// The id of an inode of the mount point's own device; `None` where the number does not fit.
fn plain_id(mount: MountIndex, inode: u64) -> Option<u64> {
    (inode < FIRST_HOST_NODE).then(|| id_base(mount) | inode)
}

/// The host's number of a node's inode, which is of its mount point's own device; `None` where the id does not tell it.
pub fn host_inode(id: u64) -> Option<u64> {
    (id & OVERFLOW == 0 && id >= FIRST_HOST_NODE).then_some(id & (FIRST_HOST_NODE - 1))
}

/// Position of the mount point that a node is below; `None` for Belljar's own nodes.
pub fn mount_position(id: u64) -> Option<usize> {
    usize::try_from((id & !OVERFLOW) >> 48).ok()?.checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::access::Access;
    use crate::model::mount::{CachePolicy, SetId};
    use crate::policy::mount_table::{MountPoint, MountTable};
    use nix::sys::stat::{SFlag, fstat};

    fn mount() -> MountIndex {
        let point = MountPoint {
            name: "rw".parse().expect("a name"),
            access: Access::ReadWrite,
            host_path: "/".into(),
            artifacts: true,
            cache: CachePolicy::default(),
            suid: SetId::default(),
        };
        let table = MountTable::new(vec![point]).expect("a table");
        table.iter().next().expect("one mount point").0
    }

    /// A file of a type, on a file system that keeps neither generations nor times of birth.
    fn found(kind: SFlag) -> Found {
        let descriptor: OwnedFd = std::fs::File::open("/").expect("open a directory").into();
        let mut stat = fstat(&descriptor).expect("stat");
        stat.st_mode = kind.bits() | 0o600;
        Found { descriptor, stat, generation: Generation::Birth(None) }
    }

    /// What is opened as a regular file must never be a FIFO that got its number: the open would wait for a writer.
    #[test]
    fn a_number_with_another_type_is_another_node() {
        let (table, _) = InodeTable::new(Vec::new());
        let (file, _) = table.acquire(mount(), found(SFlag::S_IFREG), None);
        let (fifo, _) = table.acquire(mount(), found(SFlag::S_IFIFO), None);
        assert!(file.is_regular() && !fifo.is_regular());
        assert_ne!(file.id, fifo.id);
    }

    /// A thread gave the last reference back and was held up before it took the lock. Meanwhile others found the node, ended
    /// it and made another with its number.
    #[test]
    fn the_end_of_a_node_does_not_end_another_with_its_number() {
        let root = found(SFlag::S_IFDIR);
        let (table, _) = InodeTable::new(vec![(mount(), root)]);
        let file = || {
            let mut found = found(SFlag::S_IFREG);
            found.stat.st_ino += 1;
            table.acquire(mount(), found, None).0
        };
        let first = file();
        table.release(Arc::clone(&first), 1);
        let second = file();
        assert_eq!(first.id, second.id);
        first.references.store(1, Ordering::Relaxed);
        table.release(first, 1);
        assert!(table.get(second.id).is_some_and(|live| Arc::ptr_eq(&live, &second)));
    }
}
