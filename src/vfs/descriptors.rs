//! Descriptors that are kept for nodes which nobody has open, so that the next request need not open them again.
//!
//! All file systems of the process share one budget in equal parts. When one more begins, those above their smaller part
//! give up the rest at once: a file system that nobody uses any more would otherwise keep what it once had.
//!
//! Locks: the budget's list is taken when a file system begins or ends, and requests read their part without it. A queue's
//! lock guards only itself. Neither is held across a system call.

use super::inode::Inode;
use crate::sys::release;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

/// How many descriptors all file systems together may keep.
#[derive(Debug)]
pub struct DescriptorBudget {
    max: usize,
    /// What each file system may keep.
    part: AtomicUsize,
    sharers: Mutex<Vec<Weak<KeptDescriptors>>>,
}

impl DescriptorBudget {
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, part: AtomicUsize::new(max), sharers: Mutex::default() })
    }

    /// A part for one more file system; it is given back when it is dropped.
    pub(super) fn share(self: &Arc<Self>) -> Arc<KeptDescriptors> {
        let kept = Arc::new(KeptDescriptors { budget: Arc::clone(self), queue: Mutex::default() });
        let others: Vec<Arc<KeptDescriptors>> = {
            let mut sharers = self.sharers.lock().expect("no panic under this lock");
            let others = sharers.iter().filter_map(Weak::upgrade).collect();
            sharers.push(Arc::downgrade(&kept));
            self.divide(&sharers);
            others
        };
        let surplus: Vec<Arc<OwnedFd>> = others.iter().flat_map(|other| other.shrink()).collect();
        if !surplus.is_empty() {
            // Their file systems are others' and may not answer.
            release::elsewhere(surplus);
        }
        kept
    }

    /// With nothing kept a file system would still work; one descriptor each is for budgets smaller than their sharers.
    fn divide(&self, sharers: &[Weak<KeptDescriptors>]) {
        self.part.store((self.max / sharers.len().max(1)).max(1), Ordering::Relaxed);
    }
}

/// The nodes of one file system that keep a descriptor.
#[derive(Debug)]
pub(super) struct KeptDescriptors {
    budget: Arc<DescriptorBudget>,
    /// Oldest first.
    queue: Mutex<VecDeque<Weak<Inode>>>,
}

impl Drop for KeptDescriptors {
    fn drop(&mut self) {
        let mut sharers = self.budget.sharers.lock().expect("no panic under this lock");
        sharers.retain(|sharer| sharer.strong_count() > 0);
        self.budget.divide(&sharers);
    }
}

impl KeptDescriptors {
    /// Notes that a node keeps a descriptor and makes others give theirs up when there are too many. Only nodes without a
    /// name keep theirs beyond the limit.
    pub fn add(&self, inode: &Arc<Inode>) {
        /// So many are passed over because they were used lately; then even those must go.
        const SPARED_MAX: usize = 3;
        /// How many are looked at in one call. Those that stay go to the end of the queue, so that the next call sees
        /// others. Chosen, not measured.
        const LOOKS_MAX: usize = 16;

        self.stays(inode);
        for look in 0..LOOKS_MAX {
            let Some(oldest) = self.oldest_of_too_many() else { return };
            let Some(inode) = oldest.upgrade() else { continue };
            let spared = inode.was_used_lately() && look < SPARED_MAX;
            if spared || inode.surrender_descriptor().is_none() {
                self.stays(&inode);
            }
        }
    }

    /// Takes what is too much, used lately or not.
    fn shrink(&self) -> Vec<Arc<OwnedFd>> {
        let looks = self.queue.lock().expect("no panic under this lock").len();
        let mut surplus = Vec::new();
        for _ in 0..looks {
            let Some(oldest) = self.oldest_of_too_many() else { break };
            let Some(inode) = oldest.upgrade() else { continue };
            match inode.surrender_descriptor() {
                Some(descriptor) => surplus.push(descriptor),
                None => self.stays(&inode),
            }
        }
        surplus
    }

    fn stays(&self, inode: &Arc<Inode>) {
        self.queue.lock().expect("no panic under this lock").push_back(Arc::downgrade(inode));
    }

    fn oldest_of_too_many(&self) -> Option<Weak<Inode>> {
        let mut queue = self.queue.lock().expect("no panic under this lock");
        if queue.len() <= self.budget.part.load(Ordering::Relaxed) {
            return None;
        }
        queue.pop_front()
    }
}
