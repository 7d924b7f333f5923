//! Settings and servers with which the catalog cannot be opened: each is told with what is to be done, and without the password.

use super::server::{PASSWORD, Server};
use super::{new_version, open, settings, versions};
use belljar::storage::catalog::postgres::PostgresCatalog;
use belljar::storage::{Catalog, CatalogError};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Asserts that opening fails with these words, and answers whether it may succeed later.
fn refused(connection: &str, words: &[&str]) -> bool {
    let settings = settings(connection);
    let error = PostgresCatalog::open(&settings).unwrap_err();
    let text = belljar::telemetry::sentence(&error);
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
    for shown in [text, format!("{error:?} {settings:?}")] {
        for secret in [PASSWORD, "wrong-password"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
    error.is_transient()
}

#[test]
fn what_is_wrong_is_told_with_what_to_do() {
    let server = Server::shared();
    let database = server.database();
    let wrong = database.replace(PASSWORD, "wrong-password");
    assert!(!refused(&wrong, &["refuses the user or the password", "password_file", "127.0.0.1"]));
    let none = database.replace(&format!(" password='{PASSWORD}'"), "");
    assert!(!refused(&none, &["check user and password", "password missing"]));
    let missing = server.connection("nowhere");
    assert!(!refused(&missing, &["no such database", "createdb", "nowhere"]));
    let plain = format!("{database} sslmode=require");
    assert!(!refused(&plain, &["sslmode", "TLS"]));
    server.execute("postgres", "CREATE ROLE guest LOGIN PASSWORD 'guest'");
    let guest = database.replace("user=test", "user=guest").replace(PASSWORD, "guest");
    assert!(!refused(&guest, &["grant CONNECT and CREATE", "permission denied"]));
    // These pass by themselves, or when somebody else does something.
    let nobody = database.replace(&server.port.to_string(), "1");
    assert!(refused(&nobody, &["does not answer", "127.0.0.1:1"]));
    let read_only = format!("{database} options='-c default_transaction_read_only=on'");
    assert!(refused(&read_only, &["can only be read", "default_transaction_read_only"]));
    assert!(versions(&open(&database)).is_empty());
}

#[test]
fn a_database_that_becomes_read_only_is_waited_for() {
    let server = Server::shared();
    let database = server.database();
    let name = database.rsplit('=').next().unwrap().to_owned();
    let catalog = open(&database);
    let only = |on: &str| {
        let text = format!("ALTER DATABASE {name} SET default_transaction_read_only = {on}");
        server.execute("postgres", &text);
        let end = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        );
        server.execute("postgres", &end);
    };
    only("on");
    let error = catalog.register(&[new_version("a", "x")]).unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    assert!(versions(&catalog).is_empty(), "reading goes on");
    only("off");
    catalog.register(&[new_version("a", "x")]).unwrap();
}

#[test]
fn a_newer_schema_and_another_encoding_are_refused() {
    let server = Server::shared();
    let database = server.database();
    drop(open(&database));
    server.execute(&database, "INSERT INTO belljar.schema_step (number) VALUES (99)");
    let error = PostgresCatalog::open(&settings(&database)).unwrap_err();
    assert!(matches!(error, CatalogError::NewerSchema { found: 99, .. }), "{error:?}");
    server.execute(
        "postgres",
        "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'",
    );
    assert!(!refused(&server.connection("latin"), &["LATIN1", "createdb --encoding UTF8"]));
}

#[test]
fn two_schemas_of_one_database_are_two_catalogs() {
    let database = Server::shared().database();
    let in_schema = |schema: &str| {
        let catalog = belljar::config::catalog::Catalog {
            connection: Some(database.parse().unwrap()),
            schema: schema.to_owned(),
            ..Default::default()
        };
        let settings =
            belljar::storage::catalog::postgres::PostgresSettings::new(&catalog, &|_| None);
        PostgresCatalog::open(&settings.unwrap()).unwrap()
    };
    let (one, other) = (in_schema("one"), in_schema("other"));
    one.register(&[new_version("a", "x")]).unwrap();
    assert_eq!((versions(&one).len(), versions(&other).len()), (1, 0));
}

fn openssl(directory: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(directory).output();
    let output = output.expect(
        "openssl is missing, and this test makes certificates: install Debian's package openssl (apt-get install openssl)",
    );
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn tls_is_used_as_sslmode_says() {
    let made = tempfile::tempdir().unwrap();
    let directory = made.path();
    fs::write(directory.join("san"), "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n")
        .unwrap();
    for name in ["ca", "other"] {
        openssl(
            directory,
            &format!(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN={name} -keyout {name}.key -out {name}.pem"
            ),
        );
    }
    openssl(
        directory,
        "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost -keyout server.key -out server.csr",
    );
    openssl(
        directory,
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile san -out server.pem",
    );
    let server = Server::start("");
    for name in ["server.key", "server.pem"] {
        let to = server.path(&format!("data/{name}"));
        fs::copy(directory.join(name), &to).unwrap();
        fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).unwrap();
        let mut owned = Command::new("chown");
        owned.arg("--reference").arg(server.path("data")).arg(&to);
        assert!(owned.status().unwrap().success());
    }
    server.execute("postgres", "ALTER SYSTEM SET ssl_cert_file = 'server.pem'");
    server.execute("postgres", "ALTER SYSTEM SET ssl_key_file = 'server.key'");
    server.execute("postgres", "ALTER SYSTEM SET ssl = on");
    server.stop("fast");
    server.go();
    let database = server.database();
    let named = database.replace("host=127.0.0.1", "host=localhost hostaddr=127.0.0.1");
    let root = |name: &str| format!("sslrootcert={}", directory.join(name).display());
    let encrypted = || {
        let text = "SELECT coalesce(bool_or(ssl), FALSE) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
             WHERE application_name = 'belljard'";
        let mut client = postgres::Client::connect(&database, postgres::NoTls).unwrap();
        client.query_one(text, &[]).unwrap().get::<_, bool>(0)
    };
    let with = |connection: &str, words: &str| {
        let catalog = open(&format!("{connection} {words}"));
        assert!(versions(&catalog).is_empty());
        encrypted()
    };
    assert!(with(&named, &format!("sslmode=verify-full {}", root("ca.pem"))));
    let other = format!("{named} sslmode=verify-full {}", root("other.pem"));
    assert!(!refused(&other, &["sslrootcert", "certificate"]));
    // The certificate is for localhost.
    let by_number = format!("{database} sslmode=verify-full {}", root("ca.pem"));
    assert!(!refused(&by_number, &["sslrootcert", "certificate"]));
    assert!(!refused(&format!("{named} sslmode=verify-full"), &["certificate"]));
    assert!(with(&database, "sslmode=require"));
    assert!(with(&database, "sslmode=prefer"));
    super::support::eventually("connections end", || !encrypted());
    assert!(!with(&database, "sslmode=disable"));
}
