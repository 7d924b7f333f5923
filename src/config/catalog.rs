//! Where the catalog is: a file of this machine, or a PostgreSQL database that several daemons share.
//!
//! A connection is read as libpq reads it (PostgreSQL 15, 34.1.1 Connection Strings): `key=value` pairs or a URL. What it holds
//! may be a password, so it is shown without one, and no message repeats text that could not be understood.

use percent_encoding::percent_decode_str;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Catalog {
    pub kind: CatalogKind,
    /// Of `postgres` only, as all that follows.
    pub connection: Option<Connection>,
    /// Holds the password and nothing else; outranks the connection's own, PGPASSWORD and PGPASSFILE.
    pub password_file: Option<PathBuf>,
    pub schema: String,
    pub pool_size: usize,
    #[serde(with = "super::units::duration")]
    pub connect_timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CatalogKind {
    /// `catalog.sqlite` in the state directory.
    #[default]
    Sqlite,
    Postgres,
}

impl Default for Catalog {
    fn default() -> Self {
        Self {
            kind: CatalogKind::Sqlite,
            connection: None,
            password_file: None,
            schema: "belljar".to_owned(),
            pool_size: 8,
            connect_timeout: Duration::from_secs(10),
        }
    }
}

impl Catalog {
    /// What is wrong with the settings as a whole.
    pub(super) fn check(&self) -> Result<(), String> {
        match (self.kind, &self.connection) {
            (CatalogKind::Postgres, None) => {
                return Err("`catalog.kind` is postgres and `catalog.connection` is missing: write \
                     for instance host=db.example.org dbname=belljar user=belljar sslmode=verify-full"
                    .to_owned());
            }
            (CatalogKind::Sqlite, Some(_)) => {
                return Err("`catalog.connection` is set and `catalog.kind` is sqlite: set it to \
                     postgres, or leave out the connection"
                    .to_owned());
            }
            (CatalogKind::Sqlite, None) | (CatalogKind::Postgres, Some(_)) => {}
        }
        if let Some(path) = self.password_file.as_ref().filter(|path| !path.is_absolute()) {
            return Err(format!(
                "`catalog.password_file` is {}, which is a relative path: write it from the root",
                path.display()
            ));
        }
        // PostgreSQL cuts longer names (NAMEDATALEN), and what needs quotes surprises whoever looks at it with psql.
        let first = |c: char| c.is_ascii_lowercase() || c == '_';
        let legal = self.schema.starts_with(first)
            && self.schema.len() <= 63
            && self.schema.chars().all(|c| first(c) || c.is_ascii_digit())
            && !self.schema.starts_with("pg_");
        if !legal {
            return Err(format!(
                "`catalog.schema` is {:?}, which is not allowed: use 1 to 63 of the characters a-z 0-9 _, not beginning with \
                 a digit or pg_",
                self.schema
            ));
        }
        Ok(())
    }
}

/// Where the database is and as whom: libpq's parameters, in the order in which they were written.
#[derive(Clone, PartialEq, Eq)]
pub struct Connection {
    parameters: Vec<(String, String)>,
}

/// Text that is no connection. What was written is not repeated, since a password may stand anywhere in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadConnection {
    #[error(
        "it cannot be read after {read} characters: write key=value pairs with a space between them, and values with spaces in \
         single quotes; or a URL such as postgresql://user@host/database"
    )]
    Syntax { read: usize },
    #[error(
        "the parameter at character {at} is not known: use {}", KNOWN.join(", ")
    )]
    Unknown { at: usize },
    #[error("the value of {key} is not allowed: {rule}")]
    Value { key: &'static str, rule: &'static str },
    #[error("it has an escape that is not UTF-8")]
    Escape,
}

/// Parameters that are understood.
const KNOWN: &[&str] = &[
    "host",
    "hostaddr",
    "port",
    "user",
    "password",
    "dbname",
    "options",
    "application_name",
    "sslmode",
    "sslrootcert",
    "connect_timeout",
    "tcp_user_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "target_session_attrs",
    "channel_binding",
    "load_balance_hosts",
];

impl Connection {
    pub fn get(&self, key: &str) -> Option<&str> {
        // The last one counts, as in libpq.
        self.parameters.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// The same without a password.
    pub fn without_password(&self) -> Self {
        let others = self.parameters.iter().filter(|(name, _)| name != "password");
        Self { parameters: others.cloned().collect() }
    }

    /// All but those of these names, each once.
    pub fn without<'a>(
        &'a self,
        names: &'a [&str],
    ) -> impl Iterator<Item = (&'static str, &'a str)> {
        let others = KNOWN.iter().filter(move |key| !names.contains(key));
        others.filter_map(|key| Some((*key, self.get(key)?)))
    }

    fn of(parameters: Vec<(String, String)>) -> Result<Self, BadConnection> {
        let connection = Self { parameters };
        let bad = |key, rule| Err(BadConnection::Value { key, rule });
        match connection.get("sslmode") {
            None | Some("disable" | "prefer" | "require" | "verify-full") => {}
            Some(_) => return bad("sslmode", "use disable, prefer, require or verify-full"),
        }
        let ports = connection.get("port").unwrap_or_default();
        if ports.split(',').any(|port| !port.is_empty() && port.parse::<u16>().is_err()) {
            return bad("port", "use numbers up to 65535");
        }
        for key in ["connect_timeout", "tcp_user_timeout", "keepalives_idle"] {
            if connection.get(key).is_some_and(|text| text.parse::<u32>().is_err()) {
                return bad("connect_timeout", "timeouts are whole seconds");
            }
        }
        if connection.get("sslrootcert").is_some_and(|path| !path.starts_with('/')) {
            return bad("sslrootcert", "write the path from the root");
        }
        Ok(connection)
    }

    fn of_pairs(text: &str) -> Result<Self, BadConnection> {
        let syntax = |rest: &str| BadConnection::Syntax { read: text.len() - rest.len() };
        let mut parameters = Vec::new();
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            let at = text.len() - rest.len();
            let (name, tail) = rest.split_once('=').ok_or_else(|| syntax(rest))?;
            let name = name.trim_end();
            if !KNOWN.contains(&name) {
                return Err(BadConnection::Unknown { at });
            }
            let tail = tail.trim_start();
            let quoted = tail.starts_with('\'');
            let mut value = String::new();
            let mut characters = tail.char_indices().skip(usize::from(quoted));
            let end = loop {
                match characters.next() {
                    Some((_, '\\')) => {
                        let (_, escaped) = characters.next().ok_or_else(|| syntax(tail))?;
                        value.push(escaped);
                    }
                    Some((at, '\'')) if quoted => break at + 1,
                    Some((at, space)) if !quoted && space.is_whitespace() => break at,
                    Some((_, other)) => value.push(other),
                    None if quoted => return Err(syntax(tail)),
                    None => break tail.len(),
                }
            };
            parameters.push((name.to_owned(), value));
            rest = tail[end..].trim_start();
        }
        Self::of(parameters)
    }

    /// What follows `postgresql://`.
    fn of_url(text: &str) -> Result<Self, BadConnection> {
        let decoded = |text: &str| {
            let decoded = percent_decode_str(text).decode_utf8();
            decoded.map(|text| text.into_owned()).map_err(|_| BadConnection::Escape)
        };
        let mut parameters = Vec::new();
        let mut put = |key: &str, value: &str| {
            if !value.is_empty() {
                parameters.push((key.to_owned(), decoded(value)?));
            }
            Ok(())
        };
        let (text, query) = text.split_once('?').unwrap_or((text, ""));
        let (authority, database) = text.split_once('/').unwrap_or((text, ""));
        let hosts = match authority.rsplit_once('@') {
            Some((user, hosts)) => {
                let (user, password) = user.split_once(':').unwrap_or((user, ""));
                put("user", user)?;
                put("password", password)?;
                hosts
            }
            None => authority,
        };
        let (mut names, mut ports) = (Vec::new(), Vec::new());
        for host in hosts.split(',') {
            // The port of `[::1]:5432` is behind the bracket.
            let name_end = host.rfind(']').map_or(0, |bracket| bracket + 1);
            let (name, port) = match host[name_end..].split_once(':') {
                Some((name, port)) => (&host[..name_end + name.len()], port),
                None => (host, ""),
            };
            names.push(name.trim_start_matches('[').trim_end_matches(']'));
            ports.push(port);
        }
        put("host", &names.join(","))?;
        if ports.iter().any(|port| !port.is_empty()) {
            put("port", &ports.join(","))?;
        }
        put("dbname", database)?;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let at = text.len() + 1;
            let (key, value) = pair.split_once('=').ok_or(BadConnection::Syntax { read: at })?;
            if !KNOWN.contains(&key) {
                return Err(BadConnection::Unknown { at });
            }
            put(key, value)?;
        }
        Self::of(parameters)
    }
}

impl FromStr for Connection {
    type Err = BadConnection;

    fn from_str(text: &str) -> Result<Self, BadConnection> {
        let text = text.trim();
        match text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://")) {
            Some(rest) => Self::of_url(rest),
            None => Self::of_pairs(text),
        }
    }
}

/// As pairs, and a password as `***`.
impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (key, value)) in self.parameters.iter().enumerate() {
            let space = if position > 0 { " " } else { "" };
            match key.as_str() {
                "password" => write!(f, "{space}password=***")?,
                _ => write!(f, "{space}{key}={}", quoted(value))?,
            }
        }
        Ok(())
    }
}

/// A value as it stands behind its key.
pub fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({self})")
    }
}

impl Serialize for Connection {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Connection {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        // An error of serde itself would show what it met.
        let text = String::deserialize(from)
            .map_err(|_| serde::de::Error::custom("the connection must be a text"))?;
        text.parse().map_err(|error| serde::de::Error::custom(format!("the connection: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Connection {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn a_url_and_pairs_say_the_same() {
        let url = read("postgresql://me:p%40ss%2F@db:6000/art?sslmode=require&options=-c%20x%3D1");
        let pairs = read(
            r"host=db user=me password='p@ss/' port = 6000 dbname=art sslmode=require options='-c x=1'",
        );
        for key in KNOWN {
            assert_eq!(url.get(key), pairs.get(key), "{key}");
        }
        assert_eq!(
            read("postgres:///art?host=/run/postgresql").get("host"),
            Some("/run/postgresql")
        );
        let several = read("postgresql://a:1,b,[::1]:3/d");
        assert_eq!(several.get("host"), Some("a,b,::1"));
        assert_eq!(several.get("port"), Some("1,,3"));
        assert_eq!(read(r"user='it\'s a \\' password=a\ b").get("password"), Some("a b"));
    }

    #[test]
    fn a_password_is_shown_nowhere() {
        for text in ["postgresql://me:hunter2@db/art", "user=me password=hunter2"] {
            let connection = read(text);
            let shown = format!("{connection} {connection:?} {connection:#?}");
            assert!(!shown.contains("hunter2") && shown.contains("***"), "{shown}");
            let catalog = Catalog { connection: Some(connection), ..Catalog::default() };
            let shown = format!("{catalog:?} {}", serde_json::to_string(&catalog).expect("JSON"));
            assert!(!shown.contains("hunter2"), "{shown}");
        }
        for bad in [
            "password=my hunter2",
            "password='hunter2",
            "hunter2",
            "user=me hunter2=x",
            "postgresql://u@h/d?hunter2=x",
            "postgresql://u@h/d?hunter2",
            "port=hunter2",
            "sslmode=hunter2",
        ] {
            let error = bad.parse::<Connection>().expect_err(bad).to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn settings_that_do_not_belong_together_are_refused() {
        let legal = || Catalog {
            kind: CatalogKind::Postgres,
            connection: Some(read("dbname=x")),
            ..Catalog::default()
        };
        assert_eq!(legal().check(), Ok(()));
        for (word, bad) in [
            ("catalog.connection", Catalog { connection: None, ..legal() }),
            ("catalog.kind", Catalog { kind: CatalogKind::Sqlite, ..legal() }),
            ("catalog.schema", Catalog { schema: "Art".to_owned(), ..legal() }),
            ("catalog.schema", Catalog { schema: "pg_art".to_owned(), ..legal() }),
            ("relative", Catalog { password_file: Some("p".into()), ..legal() }),
        ] {
            let error = bad.check().expect_err(word);
            assert!(error.contains(word), "{error}");
        }
    }
}
