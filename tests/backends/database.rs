//! Rows in PostgreSQL, contents in a directory.

use super::*;
use nix::sys::signal::Signal;
use serde_json::json;
use server::{PASSWORD, Server};
use std::fs;

/// A URL with a password, as the specification writes it.
fn url(database: &str, password: &str) -> String {
    let server = Server::shared();
    let word = |key: &str| {
        let found = database.split(' ').find_map(|pair| pair.strip_prefix(&format!("{key}=")));
        found.unwrap_or_else(|| panic!("{key} in {database}")).to_owned()
    };
    format!(
        "postgresql://{}:{}@127.0.0.1:{}/{}",
        word("user"),
        password.replace(' ', "%20"),
        server.port,
        word("dbname")
    )
}

fn request(place: &Place, url: &str) -> Value {
    json!({ "kind": "database", "connection_string": url, "file_storage_path": place.path("files") })
}

#[test]
fn rows_are_in_the_database_and_contents_in_the_directory_and_the_password_nowhere() {
    let mut place = Place::new();
    place.start_daemon();
    let database = Server::shared().database();
    let id = add(&place, &request(&place, &url(&database, PASSWORD)));
    run(&place, &id, "echo a row > output/row.txt");
    assert_eq!(only_content(&place, &id), "a row\n");
    assert!(paths(&place, &[]).is_empty());
    assert_verified(&place, &id);
    // What another daemon of the database lists, too.
    let mut other = Place::new();
    let config =
        format!("catalog: {{ kind: postgres, connection: \"{}\" }}\n", url(&database, PASSWORD));
    fs::write(other.path("b.yaml"), config).unwrap();
    other.start_daemon_with(&["--config", other.path("b.yaml").to_str().unwrap()]);
    assert_eq!(paths(&other, &[]), ["output/row.txt"]);
    assert!(other.stop_daemon(Signal::SIGTERM).success());

    let shown =
        format!("{} {}", backend(&place, &id), text(&place.output(["storage", "backends"])));
    assert!(!shown.contains(PASSWORD), "{shown}");
    assert_eq!(place.files_with(PASSWORD.as_bytes()), Vec::<std::path::PathBuf>::new());
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.assert_clean();
}

#[test]
fn after_a_restart_what_is_not_registered_waits_for_the_password() {
    let mut place = Place::new();
    fs::write(place.path("slow.yaml"), "artifacts: { debounce: 1m, debounce_max: 10m }\n").unwrap();
    place.start_daemon_with(&["--config", place.path("slow.yaml").to_str().unwrap()]);
    let wanted = request(&place, &url(&Server::shared().database(), PASSWORD));
    let id = add(&place, &wanted);
    let mut run = place.run_command(
        &["--backend", &id],
        "echo waits > output/waits.txt; touch output/done; sleep 600",
    );
    let mut run = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    support::eventually("the files are written", || place.path("output/done").exists());
    place.stop_daemon(Signal::SIGKILL);
    let _ = run.wait();
    place.start_daemon();
    let shown = backend(&place, &id);
    assert_eq!(shown["state"], "waiting-for-credentials", "{shown}");
    let refused = place.output(["artifact", "ls", "--backend", &id]);
    assert!(text(&refused).contains("set it again"), "{}", text(&refused));
    // The wrong one does not open it and takes nothing away.
    let said = refusal(
        &place,
        &request(
            &place,
            wanted["connection_string"]
                .as_str()
                .unwrap()
                .replace(&PASSWORD.replace(' ', "%20"), "wrong")
                .as_str(),
        ),
    );
    assert!(said.contains("password"), "{said}");
    assert_eq!(add(&place, &wanted), id);
    support::eventually("the file is registered", || {
        paths(&place, &["--backend", &id]) == ["output/done", "output/waits.txt"]
    });
    assert_verified(&place, &id);
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.assert_clean();
}

#[test]
fn a_database_that_cannot_be_used_is_refused_with_the_reason() {
    let mut place = Place::new();
    place.start_daemon();
    let database = Server::shared().database();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for (url, words) in [
        (url(&database, "wrong"), "password authentication failed"),
        (format!("postgresql://me:secretword@127.0.0.1:{nobody}/x"), "onnection refused"),
        ("postgresql://me@127.0.0.1/x?hunter2".to_owned(), "cannot be read"),
    ] {
        let said = refusal(&place, &request(&place, &url));
        assert!(said.contains(words), "{url}: {said}");
        assert!(!said.contains("secretword") && !said.contains("hunter2"), "{said}");
    }
    let id = add(&place, &request(&place, &url(&database, PASSWORD)));
    let said = refusal(&place, &request(&place, &url(&database, "wrong")));
    assert!(said.contains("password authentication failed"), "also when it is open: {said}");
    assert_eq!(backend(&place, &id)["state"], "open");
    assert!(place.stop_daemon(Signal::SIGTERM).success());
}
