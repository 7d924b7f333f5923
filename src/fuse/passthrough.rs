//! Which open files the kernel reads and writes by itself.
//!
//! The kernel demands that all opens of an inode at one time agree: all pass through with the same backing id, or none
//! does (fs/fuse/iomode.c). So the choice is made at the first open of an inode and holds until its last release.
//!
//! Lock: the table's, held across the ioctl that registers a file, because a second open of the same inode must wait
//! for the outcome. The ioctl takes a reference and does no I/O.

use fuser::BackingId;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::sync::{Arc, Mutex};

/// Opens of one inode that are alive.
#[derive(Debug)]
struct Opens {
    count: u64,
    /// `None`: reads and writes of this inode come to the daemon.
    backing: Option<Arc<BackingId>>,
}

/// The choice for every inode that has an open handle.
#[derive(Debug)]
pub struct Passthrough {
    /// Whether the connection has it at all.
    enabled: bool,
    opens: Mutex<HashMap<u64, Opens>>,
}

impl Passthrough {
    pub fn new(enabled: bool) -> Self {
        Self { enabled, opens: Mutex::default() }
    }

    /// Counts an open and says how its data travels. `register` is called for the first open of an inode.
    pub fn opened(
        &self,
        node: u64,
        register: impl FnOnce() -> Option<io::Result<BackingId>>,
    ) -> Option<Arc<BackingId>> {
        if !self.enabled {
            return None;
        }
        let mut opens = self.opens.lock().expect("no panic under this lock");
        match opens.entry(node) {
            Entry::Occupied(mut entry) => {
                entry.get_mut().count += 1;
                entry.get().backing.clone()
            }
            Entry::Vacant(entry) => {
                let backing = match register()? {
                    Ok(backing) => Some(Arc::new(backing)),
                    Err(error) => {
                        // A backing file system that is itself stacked or FUSE answers ELOOP; others may refuse too.
                        tracing::debug!(%error, node, "the kernel does not pass this file through");
                        None
                    }
                };
                entry.insert(Opens { count: 1, backing: backing.clone() });
                backing
            }
        }
    }

    /// Counts a release; with the last one the kernel's reference to the backing file is given back.
    pub fn released(&self, node: u64) {
        let mut opens = self.opens.lock().expect("no panic under this lock");
        if let Entry::Occupied(mut entry) = opens.entry(node) {
            entry.get_mut().count -= 1;
            if entry.get().count == 0 {
                entry.remove();
            }
        }
    }
}
