//! Operations that make, move and remove names.

use super::Vfs;
use super::attributes::Attributes;
use super::backing::{self, Caller, Found, NewMode, Removal};
use super::error::Error;
use super::inode::Inode;
use crate::model::mount::SetId;
use crate::policy::mount_table::WriteGrant;
use crate::policy::operation::Operation;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// A directory in which a name is about to change.
struct Place {
    parent: Arc<Inode>,
    directory: Arc<OwnedFd>,
    grant: WriteGrant,
}

/// A node whose name is about to go, and a descriptor of it.
type Held = (Arc<Inode>, Option<Arc<OwnedFd>>);

/// renameat2(2): the two names change places.
const RENAME_EXCHANGE: u32 = 2;
/// renameat2(2): leaves a device node behind, which overlay file systems use; device nodes are refused here.
const RENAME_WHITEOUT: u32 = 4;

/// Whether mknod(2) is to make a regular file, which a mode without a type means as well.
fn is_regular(mode: u32) -> bool {
    use nix::sys::stat::SFlag;
    let kind = mode & SFlag::S_IFMT.bits();
    kind == 0 || kind == SFlag::S_IFREG.bits()
}

impl Vfs {
    fn place(&self, parent: u64, operation: Operation) -> Result<Place, Error> {
        let parent = self.host_node(parent)?;
        let grant = self.mounts.authorize(parent.mount, operation)?;
        let directory = self.descriptor(&parent)?;
        Ok(Place { parent, directory, grant })
    }

    /// The attributes of a name just made, with a reference for the kernel.
    fn made(&self, place: &Place, name: &OsStr) -> Result<(Arc<Inode>, Attributes), Error> {
        let root = self.root_of(&place.parent);
        let found = backing::find(root, place.directory.as_fd(), name)?;
        Ok(self.admitted(place, name, found))
    }

    fn admitted(&self, place: &Place, name: &OsStr, found: Found) -> (Arc<Inode>, Attributes) {
        let stat = found.stat;
        let inode = self.acquire(&place.parent, name, found);
        let attributes = Attributes::of_host(inode.id, &stat);
        (inode, attributes)
    }

    pub fn mkdir(
        &self,
        caller: &Caller,
        parent: u64,
        name: &OsStr,
        new: NewMode,
    ) -> Result<Attributes, Error> {
        let place = self.place(parent, Operation::Mkdir)?;
        backing::mkdir(&place.grant, caller, place.directory.as_fd(), name, new)?;
        Ok(self.made(&place, name)?.1)
    }

    pub fn mknod(
        &self,
        caller: &Caller,
        parent: u64,
        name: &OsStr,
        new: NewMode,
    ) -> Result<Attributes, Error> {
        if is_regular(new.mode) {
            // An empty file is told of like one that an open has made and closed.
            let flags = nix::fcntl::OFlag::O_WRONLY | nix::fcntl::OFlag::O_EXCL;
            let (attributes, handle) = self.create(caller, parent, name, flags, new)?;
            self.release(handle);
            return Ok(attributes);
        }
        let place = self.place(parent, Operation::Mknod)?;
        if self.mounts.get(place.parent.mount).suid == SetId::Refuse {
            super::refuse_set_id(new.mode)?;
        }
        backing::mknod(&place.grant, caller, place.directory.as_fd(), name, new)?;
        Ok(self.made(&place, name)?.1)
    }

    pub fn symlink(
        &self,
        caller: &Caller,
        parent: u64,
        name: &OsStr,
        target: &OsStr,
    ) -> Result<Attributes, Error> {
        let place = self.place(parent, Operation::Symlink)?;
        backing::symlink(&place.grant, caller, place.directory.as_fd(), name, target)?;
        Ok(self.made(&place, name)?.1)
    }

    pub fn link(
        &self,
        caller: &Caller,
        node: u64,
        parent: u64,
        name: &OsStr,
    ) -> Result<Attributes, Error> {
        let inode = self.host_node(node)?;
        let place = self.place(parent, Operation::Link)?;
        if inode.mount != place.parent.mount {
            return Err(Error::CrossMount);
        }
        let file = self.descriptor(&inode)?;
        backing::link(&place.grant, caller, file.as_fd(), place.directory.as_fd(), name)?;
        let (inode, attributes) = self.made(&place, name)?;
        self.tell_named(caller, &inode, None, &place.parent, name);
        Ok(attributes)
    }

    pub fn unlink(&self, caller: &Caller, parent: u64, name: &OsStr) -> Result<(), Error> {
        self.remove(caller, (parent, name), Operation::Unlink, Removal::Unlink)
    }

    pub fn rmdir(&self, caller: &Caller, parent: u64, name: &OsStr) -> Result<(), Error> {
        self.remove(caller, (parent, name), Operation::Rmdir, Removal::Rmdir)
    }

    fn remove(
        &self,
        caller: &Caller,
        (parent, name): (u64, &OsStr),
        operation: Operation,
        removal: Removal,
    ) -> Result<(), Error> {
        let place = self.place(parent, operation)?;
        let victim = self.known_at(&place, name);
        backing::remove(&place.grant, caller, place.directory.as_fd(), name, removal)?;
        if let Some(victim) = victim {
            self.unnamed(victim, &place.parent, name);
        }
        if removal == Removal::Unlink {
            self.tell_removed(&place.parent, name);
        }
        Ok(())
    }

    /// Forgets a name that is gone. The node keeps a descriptor: without a name left nothing else reaches the file, also
    /// no handle, and those who know it may go on with it.
    fn unnamed(&self, (inode, held): Held, parent: &Inode, name: &OsStr) {
        self.inodes.clear_name(&inode, parent, name);
        let Some(descriptor) = held else { return };
        // Names that the host took away are remembered still, and would look like a way to the file.
        if backing::stat(descriptor.as_fd()).is_ok_and(|stat| stat.st_nlink == 0) {
            self.inodes.clear_names(&inode);
        }
        if inode.keep_descriptor(&descriptor) {
            self.kept.add(&inode);
        }
    }

    /// The live node that a name refers to at this moment, if there is one, with a descriptor that outlives the name.
    fn known_at(&self, place: &Place, name: &OsStr) -> Option<Held> {
        let identity = backing::identity_at(place.directory.as_fd(), name).ok()?;
        let inode = self.inodes.find(place.parent.mount, identity)?;
        // Failing to open it means that it is gone already.
        let descriptor = self.descriptor(&inode).ok();
        Some((inode, descriptor))
    }

    pub fn rename(
        &self,
        caller: &Caller,
        (parent, name): (u64, &OsStr),
        (new_parent, new_name): (u64, &OsStr),
        flags: u32,
    ) -> Result<(), Error> {
        let from = self.place(parent, Operation::Rename)?;
        let to = self.place(new_parent, Operation::Rename)?;
        if from.parent.mount != to.parent.mount {
            return Err(Error::CrossMount);
        }
        if flags & RENAME_WHITEOUT != 0 {
            return Err(Error::Refused("leaving a whiteout behind"));
        }
        let replaced = self.known_at(&to, new_name);
        backing::rename(
            &from.grant,
            caller,
            (from.directory.as_fd(), name),
            (to.directory.as_fd(), new_name),
            flags,
        )?;
        if flags & RENAME_EXCHANGE != 0 {
            self.moved(caller, (&to.parent, new_name), (&from, name));
        } else if let Some(replaced) = replaced {
            self.unnamed(replaced, &to.parent, new_name);
        }
        self.moved(caller, (&from.parent, name), (&to, new_name));
        Ok(())
    }

    /// Notes and tells that what is at `to` was at `from` before.
    fn moved(&self, caller: &Caller, from: (&Arc<Inode>, &OsStr), to: (&Place, &OsStr)) {
        // The node is made if there is none: the observer must be able to ask for the file.
        let Ok((inode, _)) = self.made(to.0, to.1) else {
            // Renamed or removed again by somebody else, who tells of it.
            return;
        };
        self.inodes.clear_name(&inode, from.0, from.1);
        if inode.is_directory() {
            self.tell_directory_moved(caller, from, (&to.0.parent, to.1));
        } else {
            self.tell_named(caller, &inode, Some(from), &to.0.parent, to.1);
        }
        self.inodes.release(inode, 1);
    }

    /// Creates a regular file and opens it. The attributes come with a reference for the kernel.
    pub fn create(
        &self,
        caller: &Caller,
        parent: u64,
        name: &OsStr,
        flags: nix::fcntl::OFlag,
        new: NewMode,
    ) -> Result<(Attributes, u64), Error> {
        let place = self.place(parent, Operation::Create)?;
        if self.mounts.get(place.parent.mount).suid == SetId::Refuse {
            super::refuse_set_id(new.mode)?;
        }
        let opened = backing::create(
            &place.grant,
            caller,
            place.directory.as_fd(),
            name,
            super::io::daemon_flags(flags),
            new,
        )?;
        let root = self.root_of(&place.parent);
        let path_only = crate::sys::file::reopen(opened.as_fd(), nix::fcntl::OFlag::O_PATH)
            .map_err(Error::os("open a created file"))?;
        let found = backing::found(root, path_only)?;
        let (inode, attributes) = self.admitted(&place, name, found);
        if !inode.is_regular() {
            // Something else took the name between the kernel's look-up and ours.
            self.inodes.release(inode, 1);
            return Err(Error::NotSupported("creating over what is not a regular file"));
        }
        match self.opened(caller, Arc::clone(&inode), opened, flags, true, place.grant) {
            Ok(handle) => Ok((attributes, handle)),
            Err(error) => {
                self.take_back(caller, (parent, name), &inode);
                self.inodes.release(inode, 1);
                Err(error)
            }
        }
    }

    /// Removes a file that was just made, so that a create that failed leaves nothing. The name must still be that file's.
    /// No call removes a name only if it is a certain file's: whatever the host puts there between the look and the
    /// removal is lost. Processes inside are kept out meanwhile by the lock on the directory that the kernel holds for the
    /// create (fs/namei.c, open_last_lookups). What cannot be removed stays as an empty file: the create's own failure
    /// is the one to tell.
    fn take_back(&self, caller: &Caller, (parent, name): (u64, &OsStr), inode: &Arc<Inode>) {
        let Ok(place) = self.place(parent, Operation::Unlink) else { return };
        let directory = place.directory.as_fd();
        if backing::identity_at(directory, name).is_ok_and(|there| there == inode.identity)
            && backing::remove(&place.grant, caller, directory, name, Removal::Unlink).is_ok()
        {
            self.inodes.clear_name(inode, &place.parent, name);
        }
    }
}
