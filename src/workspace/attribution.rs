//! Which run a process belongs to: told by its pid namespace, which the process cannot leave.

use crate::model::id::RunId;
use crate::sandbox::protocol::NamespaceId;
use crate::sys::namespace::{pid_namespace_of, pid_namespaces_of};
use crate::vfs::Attribution;
use std::collections::HashMap;
use std::sync::RwLock;

/// The pid namespaces of the runs in progress. The lock is never held across a system call.
#[derive(Debug, Default)]
pub struct RunIndex {
    runs: RwLock<HashMap<NamespaceId, RunId>>,
}

impl RunIndex {
    pub fn enter(&self, namespace: NamespaceId, run: RunId) {
        self.runs.write().expect("no panic under this lock").insert(namespace, run);
    }

    pub fn leave(&self, run: RunId) {
        self.runs.write().expect("no panic under this lock").retain(|_, other| *other != run);
    }
}

impl Attribution for RunIndex {
    fn run_of(&self, pid: u32) -> Option<RunId> {
        if self.runs.read().expect("no panic under this lock").is_empty() {
            return None;
        }
        // The caller waits for its answer, so its number cannot be given to another process meanwhile.
        let known = |(dev, ino)| {
            let runs = self.runs.read().expect("no panic under this lock");
            runs.get(&NamespaceId { dev, ino }).copied()
        };
        // Nearly every process of a run is in the run's own namespace, and looking at that one opens nothing.
        if let Some(run) = pid_namespace_of(pid).ok().and_then(known) {
            return Some(run);
        }
        let namespaces = pid_namespaces_of(pid).ok()?;
        // A process in a namespace of its own inside the sandbox belongs to the run as well.
        namespaces.into_iter().find_map(known)
    }
}
