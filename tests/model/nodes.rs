//! Requests about a node, whatever its names are: attributes, links' targets, references.

use crate::kernel::{Kernel, MOUNTS, Open};
use crate::operations::{Change, Pick};
use crate::reference::{Inode, Kind};
use crate::steps::picked;
use belljar::sys::file::TimeChange;
use belljar::vfs::Changes;
use nix::errno::Errno;
use std::collections::BTreeSet;

impl Kernel {
    pub fn forget(&mut self, node: Pick, all: bool) {
        let Some(node) = picked(&self.nodes(|_| true), node) else { return };
        let known = &self.known[&node];
        // The kernel keeps what it has open, and the mount points so that there is something to go on from.
        let kept = known.key < MOUNTS.len() || self.opens.iter().any(|open| open.node == node);
        let most = known.lookups - u64::from(kept);
        let count = if all { most } else { most.min(1) };
        if count > 0 {
            self.vfs.forget(node, count);
            self.known.get_mut(&node).expect("picked from there").lookups -= count;
            self.drop_unheld(node);
        }
    }

    pub fn getattr(&mut self, node: Pick, through_handle: bool) {
        let Some(node) = picked(&self.nodes(|_| true), node) else { return };
        let key = self.key(node);
        let of_node = |open: &&Open| open.node == node && !open.is_directory;
        let open = self.opens.iter().find(of_node).filter(|_| through_handle);
        let result = self.vfs.getattr(node, open.map(|open| open.handle));
        if open.is_none() && self.is_stale(&result, &[key]) {
            return;
        }
        let told = result.unwrap();
        assert_eq!(told.node, node);
        self.compare(key, &told);
    }

    pub fn setattr(&mut self, node: Pick, change: &Change) {
        let wanted = |inode: &Inode| inode.is_file() || inode.is_directory();
        let Some(node) = picked(&self.nodes(wanted), node) else { return };
        let key = self.key(node);
        let is_file = self.inode(key).is_file();
        let owner = change.owner.filter(|_| self.caller.uid == 0);
        let size = change.size.filter(|_| is_file);
        let handle = self.opens.iter().find(|open| {
            open.node == node && !open.is_directory && (open.writes || size.is_none())
        });
        let handle = handle.filter(|_| change.through_handle).copied();
        let changes = Changes {
            mode: change.mode,
            uid: owner.map(|owner| owner.0),
            gid: owner.map(|owner| owner.1),
            size,
            atime: None,
            mtime: change.modified.map(|seconds| TimeChange::To { seconds, nanoseconds: 0 }),
        };
        let result = self.vfs.setattr(&self.caller, node, handle.map(|open| open.handle), changes);
        if handle.is_none() && self.is_stale(&result, &[key]) {
            return;
        }
        let expected = if Self::is_read_only(node) {
            Err(Errno::EROFS)
        } else if is_file && change.mode.is_some_and(|mode| mode & 0o6000 != 0) {
            Err(Errno::EPERM)
        } else {
            Ok(())
        };
        let Some((told, ())) = self.agree(result, expected) else { return };
        let inode = &mut self.reference.inodes[key];
        inode.mode = change.mode.unwrap_or(inode.mode);
        (inode.uid, inode.gid) = owner.unwrap_or((inode.uid, inode.gid));
        if is_file && change.modified.is_some() {
            inode.modified = change.modified;
        }
        if change.mode.is_some() || owner.is_some() || change.modified.is_some() {
            self.touch(key);
        }
        if let Some(size) = size {
            // By name it is an open, a change and a close.
            let mut expected = Vec::new();
            if handle.is_none() {
                expected.extend(self.begin_writing(node));
            }
            self.reference.inodes[key].data().resize(size as usize, 0);
            self.change(key);
            if handle.is_none() {
                expected.extend(self.end_writing(node));
            }
            self.heard_after(&expected);
        }
        assert_eq!(told.node, node);
        self.compare(key, &told);
    }

    pub fn readlink(&mut self, node: Pick) {
        let links = self.nodes(|inode| matches!(inode.kind, Kind::Link(_)));
        let Some(node) = picked(&links, node) else { return };
        let result = self.vfs.readlink(node);
        if !self.is_stale(&result, &[self.key(node)]) {
            assert_eq!(Kind::Link(result.unwrap()), self.inode(self.key(node)).kind);
        }
    }

    pub fn attributed(&self, node: Pick) -> Option<u64> {
        // Other kinds have no attributes of their users (xattr(7)).
        picked(&self.nodes(|inode| inode.is_file() || inode.is_directory()), node)
    }

    pub fn setxattr(&mut self, node: Pick, name: &'static str, value: &[u8], flags: i32) {
        let Some(node) = self.attributed(node) else { return };
        let key = self.key(node);
        let result = self.vfs.setxattr(&self.caller, node, name.as_ref(), value, flags);
        if self.is_stale(&result, &[key]) {
            return;
        }
        let there = self.inode(key).attributes.contains_key(name);
        let expected = match flags {
            _ if Self::is_read_only(node) => Err(Errno::EROFS),
            _ if !name.starts_with("user.") => Err(Errno::EOPNOTSUPP),
            1 if there => Err(Errno::EEXIST),
            2 if !there => Err(Errno::ENODATA),
            _ => Ok(()),
        };
        if self.agree(result, expected).is_some() {
            self.reference.inodes[key].attributes.insert(name.to_owned(), value.to_vec());
            self.touch(key);
        }
    }

    pub fn getxattr(&mut self, node: Pick, name: &'static str) {
        let Some(node) = self.attributed(node) else { return };
        let key = self.key(node);
        let mut buffer = [0; 200];
        let result = self.vfs.getxattr(node, name.as_ref(), &mut buffer);
        let names = self.vfs.listxattr(node);
        if self.is_stale(&result, &[key]) || self.is_stale(&names, &[key]) {
            return;
        }
        let expected = self.inode(key).attributes.get(name).cloned().ok_or(Errno::ENODATA);
        if let Some((length, value)) = self.agree(result, expected) {
            assert_eq!(buffer[..length], value);
        }
        let names = String::from_utf8(names.unwrap()).unwrap();
        let names: BTreeSet<_> = names.split_terminator('\0').collect();
        assert!(self.inode(key).attributes.keys().map(String::as_str).eq(names));
    }

    pub fn removexattr(&mut self, node: Pick, name: &'static str) {
        let Some(node) = self.attributed(node) else { return };
        let key = self.key(node);
        let result = self.vfs.removexattr(&self.caller, node, name.as_ref());
        if self.is_stale(&result, &[key]) {
            return;
        }
        let expected = if Self::is_read_only(node) {
            Err(Errno::EROFS)
        } else if !name.starts_with("user.") {
            Err(Errno::EOPNOTSUPP)
        } else {
            self.reference.inodes[key].attributes.remove(name).map(drop).ok_or(Errno::ENODATA)
        };
        if self.agree(result, expected).is_some() {
            self.touch(key);
        }
    }
}
