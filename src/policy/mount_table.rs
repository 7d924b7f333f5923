//! The mount points of a workspace, and the permission to write below one.
//!
//! A [`WriteGrant`] is the only proof that a mutation was authorised: its constructor is private to this file, and
//! every function of `vfs` that changes a host file asks for one. Code that forgot to ask does not compile.

use super::operation::Operation;
use crate::model::access::Access;
use crate::model::id::MountName;
use crate::model::mount::{CachePolicy, SetId};
use std::path::PathBuf;

/// Most mount points of one workspace. A node id has 15 bits for them; 256 is far above any use seen. Chosen, not measured.
pub const MOUNTS_MAX: usize = 256;

/// A mount point: a host directory under a name, with its access.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    pub name: MountName,
    pub access: Access,
    /// The host directory as its owner named it; shown and recorded, never opened by this string.
    pub host_path: PathBuf,
    /// Whether files written here become artifacts.
    pub artifacts: bool,
    pub cache: CachePolicy,
    pub suid: SetId,
}

/// Position of a mount point in its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MountIndex(u16);

impl MountIndex {
    pub fn as_usize(self) -> usize {
        usize::from(self.0)
    }
}

/// Permission to change files below one mount point.
#[derive(Debug)]
pub struct WriteGrant {
    mount: MountIndex,
}

impl WriteGrant {
    pub fn mount(&self) -> MountIndex {
        self.mount
    }
}

/// The mount point is read-only; EROFS for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{operation:?} on a read-only mount point")]
pub struct ReadOnly {
    pub operation: Operation,
}

/// A table that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTable {
    #[error("mount name {0} is given twice: give each mount point of a workspace its own name")]
    Duplicate(MountName),
    #[error("{0} mount points are more than the {MOUNTS_MAX} a workspace may have")]
    TooMany(usize),
}

/// All mount points of a workspace; fixed for its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountTable {
    mounts: Vec<MountPoint>,
}

impl MountTable {
    pub fn new(mounts: Vec<MountPoint>) -> Result<Self, InvalidTable> {
        if mounts.len() > MOUNTS_MAX {
            return Err(InvalidTable::TooMany(mounts.len()));
        }
        let mut seen = std::collections::HashSet::new();
        for mount in &mounts {
            if !seen.insert(&mount.name) {
                return Err(InvalidTable::Duplicate(mount.name.clone()));
            }
        }
        Ok(Self { mounts })
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = (MountIndex, &MountPoint)> {
        self.mounts
            .iter()
            .enumerate()
            .map(|(i, mount)| (MountIndex(u16::try_from(i).expect("bounded by MOUNTS_MAX")), mount))
    }

    pub fn resolve(&self, name: &std::ffi::OsStr) -> Option<MountIndex> {
        self.iter().find(|(_, mount)| mount.name.as_str() == name).map(|(index, _)| index)
    }

    pub fn get(&self, index: MountIndex) -> &MountPoint {
        &self.mounts[index.as_usize()]
    }

    /// The mount point at a position; `None` past the last.
    pub fn at(&self, position: usize) -> Option<&MountPoint> {
        self.mounts.get(position)
    }

    /// Asks whether `operation` may change files below the mount point.
    pub fn authorize(
        &self,
        mount: MountIndex,
        operation: Operation,
    ) -> Result<WriteGrant, ReadOnly> {
        debug_assert!(operation.mutates(), "{operation:?} needs no grant");
        match self.get(mount).access {
            Access::ReadWrite => Ok(WriteGrant { mount }),
            Access::ReadOnly => Err(ReadOnly { operation }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(name: &str, access: Access) -> MountPoint {
        MountPoint {
            name: name.parse().expect("legal"),
            access,
            host_path: PathBuf::from("/x"),
            artifacts: true,
            cache: CachePolicy::default(),
            suid: SetId::default(),
        }
    }

    #[test]
    fn every_mutation_of_a_read_only_mount_point_is_denied_and_of_a_read_write_one_granted() {
        let table =
            MountTable::new(vec![mount("in", Access::ReadOnly), mount("out", Access::ReadWrite)])
                .expect("legal table");
        let read_only = table.resolve("in".as_ref()).expect("there");
        let read_write = table.resolve("out".as_ref()).expect("there");
        for operation in Operation::ALL.into_iter().filter(|o| o.mutates()) {
            assert!(table.authorize(read_only, operation).is_err(), "{operation:?}");
            let grant = table.authorize(read_write, operation).expect("rw");
            assert_eq!(grant.mount(), read_write);
        }
        assert!(table.resolve("other".as_ref()).is_none());
    }

    #[test]
    fn a_name_given_twice_is_refused_by_name() {
        let error =
            MountTable::new(vec![mount("a", Access::ReadOnly), mount("a", Access::ReadWrite)])
                .expect_err("must be refused");
        assert!(error.to_string().starts_with("mount name a is given twice"), "{error}");
    }
}
