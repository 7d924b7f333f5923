//! One connection to the server, and what is asked over it.
//!
//! Statements are sent with their values and their types at once, unnamed: one round trip each, and nothing that a pooler between
//! us and the server would have to keep (tokio-postgres 0.7, `Client::query_typed`).

use super::failure::Failure;
use super::row::PostgresRow;
use super::settings::PostgresSettings;
use super::statement::Value;
use crate::storage::CatalogError;
use crate::storage::catalog::tables::Answer;
use postgres::Client;
use std::cell::RefCell;

/// What each session is set to. A daemon that stands still with a transaction open must not keep all others from writing; who
/// waits for the one writer gives up before the caller's own patience ends. Compiling statements takes longer than they do.
const SETUP: &str = "SET lock_timeout = '30s'; SET idle_in_transaction_session_timeout = '60s'; SET jit = off; \
     SET client_min_messages = warning; \
     SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

pub(super) struct Session {
    client: RefCell<Client>,
}

pub(super) fn failed(doing: &'static str) -> impl Fn(postgres::Error) -> CatalogError {
    move |error| CatalogError::Server { doing, source: Failure::from(error) }
}

impl Session {
    pub fn open(settings: &PostgresSettings) -> Answer<Self> {
        let refused = |error: postgres::Error| {
            let source = Failure::from(error);
            CatalogError::Unreachable {
                server: settings.server.clone(),
                advice: source.advice(),
                source,
            }
        };
        let mut client = settings.config.connect(settings.tls.clone()).map_err(refused)?;
        // The name was checked: it needs no quotes, and has none in it.
        let schema = &settings.schema;
        client
            .batch_execute(&format!("SET search_path = \"{schema}\"; {SETUP}"))
            .map_err(refused)?;
        Ok(Self { client: RefCell::new(client) })
    }

    /// Statements without values; several are one round trip.
    pub fn batch(&self, doing: &'static str, text: &str) -> Answer<()> {
        self.client.borrow_mut().batch_execute(text).map_err(failed(doing))
    }

    pub fn execute(&self, doing: &'static str, text: &str, values: &[Value]) -> Answer<u64> {
        let bound: Vec<_> = values.iter().map(Value::bound).collect();
        self.client.borrow_mut().execute_typed(text, &bound).map_err(failed(doing))
    }

    /// Reads each row that the statement brings.
    pub fn collect<T>(
        &self,
        doing: &'static str,
        text: &str,
        values: &[Value],
        read: impl Fn(&PostgresRow<'_>) -> Answer<T>,
    ) -> Answer<Vec<T>> {
        let bound: Vec<_> = values.iter().map(Value::bound).collect();
        let rows = self.client.borrow_mut().query_typed(text, &bound).map_err(failed(doing))?;
        rows.iter().map(|row| read(&PostgresRow { row, doing })).collect()
    }

    pub fn is_closed(&self) -> bool {
        self.client.borrow().is_closed()
    }
}
