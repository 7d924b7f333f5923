//! What a server, or the way to it, answered instead of what was asked: what it means and whether it passes.
//!
//! SQLSTATE codes are those of PostgreSQL 15, appendix A.

use postgres::error::SqlState;
use std::error::Error;
use std::fmt;
use std::io;

/// An error of the server or of the connection to it. Shown as the server says it.
#[derive(Debug)]
pub struct Failure(postgres::Error);

impl From<postgres::Error> for Failure {
    fn from(error: postgres::Error) -> Self {
        Self(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_db_error() {
            // Without its detail, which repeats values of rows.
            Some(error) => match error.hint() {
                Some(hint) => write!(f, "{} ({hint})", error.message()),
                None => f.write_str(error.message()),
            },
            None => self.0.fmt(f),
        }
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        // The server's own words are shown already.
        if self.0.as_db_error().is_some() { None } else { self.0.source() }
    }
}

impl Failure {
    pub(super) fn is(&self, code: &SqlState) -> bool {
        self.0.code() == Some(code)
    }

    /// Whether the connection cannot be used any more.
    pub(in crate::storage::catalog) fn is_lost(&self) -> bool {
        match self.0.code() {
            Some(code) => {
                let class = &code.code()[..2];
                class == "08"
                    || *code == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
                    || [
                        SqlState::ADMIN_SHUTDOWN,
                        SqlState::CRASH_SHUTDOWN,
                        SqlState::CANNOT_CONNECT_NOW,
                    ]
                    .contains(code)
            }
            None => self.0.is_closed() || (!self.is_tls() && self.io().is_some()),
        }
    }

    /// Whether the same may succeed later, without anything being wrong with what was asked or how the catalog is set up.
    pub fn is_transient(&self) -> bool {
        let Some(code) = self.0.code() else {
            // A certificate that is refused is refused again; a handshake that was cut off is not.
            return match (self.is_tls(), self.io()) {
                (true, Some(cause)) => !matches!(
                    cause.kind(),
                    io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput
                ),
                (true, None) => false,
                (false, cause) => cause.is_some() || self.0.is_closed(),
            };
        };
        // Connection, resources (disk full, too many connections, memory), rollback (deadlock), operator, system.
        let class = &code.code()[..2];
        ["08", "53", "40", "58"].contains(&class)
            || [
                SqlState::ADMIN_SHUTDOWN,
                SqlState::CRASH_SHUTDOWN,
                SqlState::CANNOT_CONNECT_NOW,
                SqlState::QUERY_CANCELED,
                SqlState::LOCK_NOT_AVAILABLE,
                SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
                // A standby that may become the primary, or an administrator's default.
                SqlState::READ_ONLY_SQL_TRANSACTION,
            ]
            .contains(code)
    }

    /// What is to be done where the catalog cannot be opened.
    pub(super) fn advice(&self) -> &'static str {
        let Some(code) = self.0.code() else {
            return if self.is_tls() {
                "no encrypted connection can be made: check sslmode, sslrootcert and the server's certificate"
            } else if self.io().is_some() || self.0.is_closed() {
                "the server does not answer: check that it runs and that host and port are right"
            } else {
                "the connection is not accepted: check user and password (`catalog.password_file`, PGPASSWORD)"
            };
        };
        if *code == SqlState::INVALID_PASSWORD
            || *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION
        {
            "the server refuses the user or the password: check them (`catalog.password_file`, PGPASSWORD) and pg_hba.conf"
        } else if *code == SqlState::INVALID_CATALOG_NAME {
            "there is no such database: make it (createdb), or correct dbname"
        } else if *code == SqlState::INSUFFICIENT_PRIVILEGE {
            "the user may not use it: grant CONNECT and CREATE on the database, or make the schema theirs (CREATE SCHEMA … \
             AUTHORIZATION)"
        } else if *code == SqlState::READ_ONLY_SQL_TRANSACTION {
            "it can only be read: name the primary, or clear default_transaction_read_only of the user and the database"
        } else {
            "the server refuses"
        }
    }

    fn is_tls(&self) -> bool {
        // The crate keeps the kind of an error to itself (tokio-postgres 0.7, src/error/mod.rs), and shows it.
        self.0.to_string().contains("TLS")
    }

    fn io(&self) -> Option<&io::Error> {
        self.0.source().and_then(|source| source.downcast_ref())
    }
}
