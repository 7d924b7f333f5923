//! Connections that are opened when they are needed and given back: never more than a bound of them.
//!
//! Locking: `state` is held to take and to give back a connection, never while one is opened or used.

use super::CatalogError;
use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

#[derive(Debug)]
pub(super) struct Pool<C> {
    connections_max: usize,
    state: Mutex<State<C>>,
    returned: Condvar,
}

#[derive(Debug)]
struct State<C> {
    idle: Vec<C>,
    /// Idle, in use, or being opened.
    connections: usize,
}

/// A connection for the time of one use.
pub(super) struct Lease<'a, C> {
    pool: &'a Pool<C>,
    connection: Option<C>,
}

impl<C> Pool<C> {
    pub fn new(connections_max: usize) -> Self {
        let state = Mutex::new(State { idle: Vec::new(), connections: 0 });
        Self { connections_max, state, returned: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing when none became free in time.
    pub fn lease(
        &self,
        give_up: Instant,
        open: impl FnOnce() -> Result<C, CatalogError>,
    ) -> Option<Result<Lease<'_, C>, CatalogError>> {
        let mut state = self.state();
        loop {
            if let Some(connection) = state.idle.pop() {
                return Some(Ok(Lease { pool: self, connection: Some(connection) }));
            }
            if state.connections < self.connections_max {
                break;
            }
            let left = give_up.checked_duration_since(Instant::now())?;
            (state, _) =
                self.returned.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
        state.connections += 1;
        drop(state);
        // The lease gives the place back when opening fails.
        let mut lease = Lease { pool: self, connection: None };
        Some(open().map(|connection| {
            lease.connection = Some(connection);
            lease
        }))
    }

    /// Closes the connections that nobody uses.
    pub fn forget_idle(&self) {
        let idle = {
            let mut state = self.state();
            state.connections -= state.idle.len();
            std::mem::take(&mut state.idle)
        };
        drop(idle);
        self.returned.notify_all();
    }

    /// How many there are.
    #[cfg(test)]
    pub fn connections(&self) -> usize {
        self.state().connections
    }
}

impl<C> Lease<'_, C> {
    /// Closes the connection instead of giving it back.
    pub fn discard(mut self) {
        self.connection = None;
    }
}

const LEASED: &str = "a lease has its connection until it ends";

impl<C> Deref for Lease<'_, C> {
    type Target = C;

    fn deref(&self) -> &C {
        self.connection.as_ref().expect(LEASED)
    }
}

impl<C> DerefMut for Lease<'_, C> {
    fn deref_mut(&mut self) -> &mut C {
        self.connection.as_mut().expect(LEASED)
    }
}

impl<C> Drop for Lease<'_, C> {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        match self.connection.take() {
            Some(connection) => state.idle.push(connection),
            None => state.connections -= 1,
        }
        drop(state);
        self.pool.returned.notify_one();
    }
}
