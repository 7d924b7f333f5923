//! How the database is reached: the settings of the configuration with what the environment adds, checked.
//!
//! A password comes from `password_file`, from the connection, from PGPASSWORD, or from the file of PGPASSFILE or `~/.pgpass`, in
//! this order, as with psql; it goes to the server and nowhere else.

use super::tls;
use crate::config::catalog::{Catalog, Connection, quoted};
use postgres::config::SslMode;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_postgres_rustls::MakeRustlsConnect;

/// Where Debian's packages put the server's socket.
const SOCKET_DIRECTORY: &str = "/var/run/postgresql";

/// After this long without an acknowledgement a connection counts as lost; the kernel's own limit is a quarter of an hour.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(30);

/// A silent connection is probed after this long. Chosen, not measured.
const KEEPALIVES_IDLE: Duration = Duration::from_secs(30);

/// A password file is read no further.
const PASSWORD_FILE_BYTES_MAX: u64 = 1 << 20;

/// Everything that opening a catalog in PostgreSQL needs.
#[derive(Clone)]
pub struct PostgresSettings {
    pub(super) config: postgres::Config,
    pub(super) tls: MakeRustlsConnect,
    pub(super) schema: String,
    pub(super) pool_size: usize,
    pub(super) connect_timeout: Duration,
    /// For messages: host, port, database and user.
    pub(super) server: String,
}

impl fmt::Debug for PostgresSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresSettings")
            .field("server", &self.server)
            .field("schema", &self.schema)
            .field("pool_size", &self.pool_size)
            .finish_non_exhaustive()
    }
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("`catalog.connection` is missing")]
    NoConnection,
    #[error(
        "`catalog.connection` has a value that is not understood: see docs/storage.md for the parameters"
    )]
    Connection,
    #[error("cannot read the password file {}", path.display())]
    PasswordFile {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "the password file {} may be read by others (mode {mode:04o}): run `chmod 600 {}`",
        path.display(), path.display()
    )]
    PasswordSeen { path: PathBuf, mode: u32 },
    #[error("cannot read the certificates in {}", path.display())]
    Certificates {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("there is no certificate in {}: sslrootcert must name a PEM file", path.display())]
    NoCertificate { path: PathBuf },
    #[error(
        "the system's certificates cannot be read, and sslmode=verify-full needs them: install ca-certificates, or set \
         sslrootcert"
    )]
    SystemCertificates,
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}

impl PostgresSettings {
    /// `variable` is the environment.
    pub fn new(
        catalog: &Catalog,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingsError> {
        let connection = catalog.connection.as_ref().ok_or(SettingsError::NoConnection)?;
        // These two are decided here; the crate's parser knows fewer modes.
        let rest = connection.without(&["sslmode", "sslrootcert"]);
        let text: Vec<String> =
            rest.map(|(key, value)| format!("{key}={}", quoted(value))).collect();
        // Its error would repeat what it met.
        let parsed = text.join(" ").parse::<postgres::Config>();
        let mut config = parsed.map_err(|_| SettingsError::Connection)?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            config.host(SOCKET_DIRECTORY);
        }
        if config.get_application_name().is_none() {
            config.application_name("belljard");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(catalog.connect_timeout);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(UNACKNOWLEDGED_MAX);
        }
        if connection.get("keepalives_idle").is_none() {
            config.keepalives_idle(KEEPALIVES_IDLE);
        }
        if let Some(password) = password(catalog, connection, variable)? {
            config.password(password);
        }
        let mode = connection.get("sslmode").unwrap_or("prefer");
        config.ssl_mode(match mode {
            "disable" => SslMode::Disable,
            "prefer" => SslMode::Prefer,
            _ => SslMode::Require,
        });
        let tls = tls::connector(mode == "verify-full", connection.get("sslrootcert"))?;
        let host = connection.get("host").or_else(|| connection.get("hostaddr"));
        let server = format!(
            "{}:{} (database {}, user {})",
            host.unwrap_or(SOCKET_DIRECTORY),
            connection.get("port").unwrap_or("5432"),
            database(connection),
            connection.get("user").unwrap_or("of this process"),
        );
        Ok(Self {
            config,
            tls,
            schema: catalog.schema.clone(),
            pool_size: catalog.pool_size,
            connect_timeout: catalog.connect_timeout,
            server,
        })
    }
}

impl PostgresSettings {
    pub fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }
}

fn database(connection: &Connection) -> &str {
    connection.get("dbname").or_else(|| connection.get("user")).unwrap_or("of the user's name")
}

fn password(
    catalog: &Catalog,
    connection: &Connection,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<String>, SettingsError> {
    if let Some(path) = &catalog.password_file {
        let text = read_private(path)?;
        // Editors and echo(1) end a file with a newline.
        return Ok(Some(text.trim_end_matches(['\n', '\r']).to_owned()));
    }
    if let Some(password) = connection.get("password") {
        return Ok(Some(password.to_owned()));
    }
    if let Some(password) = variable("PGPASSWORD") {
        return Ok(Some(password));
    }
    let named = variable("PGPASSFILE").map(PathBuf::from);
    let usual = || Some(Path::new(&variable("HOME")?).join(".pgpass"));
    let Some(path) = named.or_else(usual).filter(|path| path.exists()) else { return Ok(None) };
    let text = read_private(&path)?;
    let port = connection.get("port").unwrap_or("5432");
    let host = connection.get("host").filter(|host| !host.starts_with('/'));
    let user = connection.get("user").unwrap_or_default();
    let wanted = [host.unwrap_or("localhost"), port, database(connection), user];
    Ok(text.lines().find_map(|line| of_line(line, wanted)))
}

/// The password of a line `host:port:database:user:password` that is for these (PostgreSQL 15, 34.16 The Password File).
fn of_line(line: &str, wanted: [&str; 4]) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => field.extend(characters.next()),
            // The password is all that is left.
            ':' if fields.len() < 4 => fields.push(std::mem::take(&mut field)),
            other => field.push(other),
        }
    }
    fields.push(field);
    let [host, port, database, user, password] = <[String; 5]>::try_from(fields).ok()?;
    let given = [host, port, database, user];
    let fits = given.iter().zip(wanted).all(|(given, wanted)| given == "*" || given == wanted);
    fits.then_some(password)
}

/// A small file that only its owner may read.
fn read_private(path: &Path) -> Result<String, SettingsError> {
    let failed = |source| SettingsError::PasswordFile { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(SettingsError::PasswordSeen { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    file.take(PASSWORD_FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn settings(connection: &str) -> Catalog {
        Catalog { connection: Some(connection.parse().expect("legal")), ..Catalog::default() }
    }

    fn found(catalog: &Catalog, variables: &[(&str, &str)]) -> Option<String> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let settings = PostgresSettings::new(catalog, &variable).expect("legal");
        assert!(!format!("{settings:?}").contains("secret"), "{settings:?}");
        let password = settings.config.get_password();
        password.map(|bytes| String::from_utf8(bytes.to_vec()).expect("text"))
    }

    #[test]
    fn the_password_is_taken_from_where_psql_would_take_it() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).expect("write");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
            path
        };
        let pass = write(
            "pass",
            "# comment\ndb:5432:art:you:no\ndb:*:art:me:secret\\:one\n*:*:*:*:secret two\n",
        );
        let pass = pass.to_str().expect("text");
        let of = |text: &str, variables: &[(&str, &str)]| found(&settings(text), variables);
        assert_eq!(of("host=db user=me dbname=art", &[]), None);
        let file = [("PGPASSFILE", pass)];
        assert_eq!(of("host=db user=me dbname=art", &file).as_deref(), Some("secret:one"));
        assert_eq!(of("user=me dbname=other", &file).as_deref(), Some("secret two"));
        let both = [("PGPASSFILE", pass), ("PGPASSWORD", "secret three")];
        assert_eq!(of("host=db user=me dbname=art", &both).as_deref(), Some("secret three"));
        let own = "host=db user=me password='secret four'";
        assert_eq!(of(own, &both).as_deref(), Some("secret four"));
        let path = write("file", "secret five\n");
        let catalog = Catalog { password_file: Some(path.clone()), ..settings(own) };
        assert_eq!(found(&catalog, &both).as_deref(), Some("secret five"));

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("chmod");
        let error = PostgresSettings::new(&catalog, &|_| None).expect_err("refused").to_string();
        assert!(error.contains("chmod 600") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn certificates_that_are_none_are_named() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("root.pem");
        let text = format!("host=db sslmode=verify-full sslrootcert={}", path.display());
        let refused = |words: &str| {
            let error = PostgresSettings::new(&settings(&text), &|_| None).expect_err("refused");
            assert!(error.to_string().contains(words), "{error}");
        };
        refused("cannot read the certificates");
        fs::write(&path, "nothing").expect("write");
        refused("there is no certificate in");
    }
}
