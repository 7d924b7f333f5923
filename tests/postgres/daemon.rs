//! A daemon whose catalog is in PostgreSQL.

use super::server::{PASSWORD, Server};
use super::support::{Place, eventually, finish, stderr, text};
use nix::sys::signal::Signal;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

/// Writes the configuration and the file with the password.
fn configure(place: &Place, connection: &str) {
    let without = connection.replace(&format!(" password='{PASSWORD}'"), "");
    fs::write(place.path("pw"), format!("{PASSWORD}\n")).unwrap();
    fs::set_permissions(place.path("pw"), fs::Permissions::from_mode(0o600)).unwrap();
    let config = format!(
        "catalog:\n  kind: postgres\n  connection: {without}\n  password_file: {}\n  connect_timeout: 300ms\n",
        place.path("pw").display()
    );
    fs::write(place.path("c.yaml"), config).unwrap();
}

#[test]
fn what_is_written_while_the_database_is_away_is_there_when_it_is_back() {
    let server = Server::start("");
    let mut place = Place::new();
    configure(&place, &server.database());
    let config = place.path("c.yaml");
    place.start_daemon_with(&["--config", config.to_str().unwrap()]);
    let first = place.run(&[], "for n in 1 2 3; do echo $n > output/first$n.txt; done");
    assert!(first.status.success(), "{}", text(&first));
    assert_eq!(place.artifacts(&[]).len(), 3);
    assert!(!place.path("state/catalog.sqlite").exists());

    server.stop("fast");
    let script = "for n in $(seq 20); do echo $n > output/second$n.txt; done";
    let second = place.run_command(&["--drain-timeout", "60s"], script);
    let child = { second }.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("the files are written", || place.path("output/second20.txt").exists());
    server.go();
    let second = finish(child);
    assert!(second.status.success(), "{}", text(&second));
    assert_eq!(place.artifacts(&[]).len(), 23);
    // The same with nobody waiting: the journal has them until the next daemon.
    server.stop("immediate");
    let third = place.run(&["--drain-timeout", "0s"], "echo x > output/third.txt");
    assert!(third.status.code().is_some(), "{}", text(&third));
    place.stop_daemon(Signal::SIGKILL);
    server.go();
    place.start_daemon_with(&["--config", config.to_str().unwrap()]);
    eventually("the last file is registered", || place.artifacts(&[]).len() == 24);
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    assert!(place.files_with(PASSWORD.as_bytes()).is_empty(), "the password was written down");
}

#[test]
fn a_daemon_that_cannot_reach_its_database_says_so_and_ends() {
    let server = Server::shared();
    let place = Place::new();
    let run = |connection: &str, words: &[&str]| {
        configure(&place, connection);
        let output =
            place.belljard(["serve", "--config"]).arg(place.path("c.yaml")).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        for word in words {
            assert!(stderr(&output).contains(word), "{word:?} is not in {}", text(&output));
        }
        assert!(!stderr(&output).contains(PASSWORD), "{}", text(&output));
    };
    let database = server.database();
    let nobody = database.replace(&server.port.to_string(), "1");
    run(&nobody, &["tried again", "does not answer", "127.0.0.1:1", "catalog.connection"]);
    run(&server.connection("nowhere"), &["no such database", "createdb"]);
    place.assert_clean();
}

#[test]
fn check_config_says_what_is_wrong_with_the_catalog() {
    let place = Place::new();
    configure(&place, "dbname=x");
    let check = || place.belljard(["check-config"]).arg(place.path("c.yaml")).output().unwrap();
    assert!(check().status.success(), "{}", text(&check()));
    fs::set_permissions(place.path("pw"), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(stderr(&check()).contains("chmod 600"), "{}", text(&check()));
    configure(&place, "dbname=x pasword=hunter2");
    let output = check();
    assert!(stderr(&output).contains("is not known: use host"), "{}", text(&output));
    assert!(!stderr(&output).contains("hunter2"), "{}", text(&output));
    fs::write(place.path("c.yaml"), "catalog: { kind: postgres }\n").unwrap();
    assert!(stderr(&check()).contains("`catalog.connection` is missing"), "{}", text(&check()));
}
