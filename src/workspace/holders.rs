//! Who wants a workspace to be there: everybody, once somebody asked for it without a lease; else the clients that hold one.
//!
//! A lease is a connection of a client, so it ends when the client does, whatever its end is. A workspace that nobody holds
//! ends when nothing runs in it any more; [`registry`](super::registry) does that, under the claim of the workspace's name.
//!
//! Locking: the lock is held for a look-up only.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};

/// One client's hold on a workspace.
pub type LeaseNumber = u64;

#[derive(Debug, Default)]
struct State {
    kept: bool,
    leases: BTreeSet<LeaseNumber>,
    next: LeaseNumber,
}

/// The holders of one workspace.
#[derive(Debug, Default)]
pub struct Holders(Mutex<State>);

impl Holders {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic under this lock")
    }

    /// From here on the workspace stays until somebody removes it.
    pub fn keep(&self) {
        self.state().kept = true;
    }

    pub fn lease(&self) -> LeaseNumber {
        let mut state = self.state();
        state.next += 1;
        let number = state.next;
        state.leases.insert(number);
        number
    }

    pub fn release(&self, number: LeaseNumber) {
        self.state().leases.remove(&number);
    }

    pub fn is_kept(&self) -> bool {
        self.state().kept
    }

    pub fn leases(&self) -> usize {
        self.state().leases.len()
    }

    /// Whether clients ever wrote in it for themselves, beside the runs.
    pub fn was_leased(&self) -> bool {
        self.state().next > 0
    }

    /// Whether anybody wants it to be there.
    pub fn is_held(&self) -> bool {
        let state = self.state();
        state.kept || !state.leases.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lease_ends_the_hold_unless_somebody_keeps_it() {
        let holders = Holders::default();
        assert!(!holders.is_held());
        let (first, second) = (holders.lease(), holders.lease());
        holders.release(first);
        holders.release(first);
        assert!(holders.is_held(), "the second is still there");
        holders.release(second);
        assert!(!holders.is_held());
        let third = holders.lease();
        holders.keep();
        holders.release(third);
        assert!(holders.is_held() && holders.is_kept());
        assert_eq!(holders.leases(), 0);
    }
}
