//! A directory for contents.

use super::*;
use nix::sys::signal::Signal;
use serde_json::json;
use std::fs;

fn request(place: &Place, name: &str) -> Value {
    json!({ "kind": "local", "base_path": place.path(name) })
}

#[test]
fn what_is_written_for_a_backend_is_there_and_nowhere_else() {
    let mut place = Place::new();
    place.start_daemon();
    let id = add(&place, &request(&place, "store"));
    assert_eq!(id, add(&place, &request(&place, "store")), "the same place has the same name");
    run(&place, &id, "echo kept apart > output/apart.txt");
    let own = place.run(&[], "echo own > output/own.txt");
    assert!(own.status.success(), "{}", text(&own));

    assert_eq!(paths(&place, &["--backend", &id]), ["output/apart.txt"]);
    assert_eq!(paths(&place, &[]), ["output/own.txt"]);
    assert_eq!(only_content(&place, &id), "kept apart\n");
    let digest = blake3::hash(b"kept apart\n").to_hex().to_string();
    let content = place.path("store/blobs").join(&digest[..2]).join(&digest[2..]);
    assert_eq!(fs::read_to_string(content).unwrap(), "kept apart\n", "easy to inspect");
    assert!(!place.path("state/blobs").join(&digest[..2]).join(&digest[2..]).exists());
    assert_verified(&place, &id);
    let shown = backend(&place, &id);
    assert_eq!((shown["kind"].as_str(), shown["state"].as_str()), (Some("local"), Some("open")));

    // Another daemon finds it by its name alone, also one that lives for one command.
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    assert_eq!(only_content(&place, &id), "kept apart\n");
    run(&place, &id, "echo again > output/again.txt");
    place.start_daemon();
    assert_eq!(paths(&place, &["--backend", &id]), ["output/again.txt", "output/apart.txt"]);
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.assert_clean();
}

#[test]
fn a_file_that_a_killed_daemon_had_not_registered_is_registered_by_the_next() {
    let mut place = Place::new();
    fs::write(place.path("slow.yaml"), "artifacts: { debounce: 1m, debounce_max: 10m }\n").unwrap();
    let slow = place.path("slow.yaml");
    place.start_daemon_with(&["--config", slow.to_str().unwrap()]);
    let id = add(&place, &request(&place, "store"));
    let mut run = place.run_command(
        &["--backend", &id],
        "for n in 1 2 3; do echo $n > output/f$n.txt; done; touch output/done; sleep 600",
    );
    let mut run = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    support::eventually("the files are written", || place.path("output/done").exists());
    place.stop_daemon(Signal::SIGKILL);
    let _ = run.wait();
    assert_eq!(
        paths(&place, &["--backend", &id]),
        ["output/done", "output/f1.txt", "output/f2.txt", "output/f3.txt"]
    );
    place.start_daemon();
    support::eventually("nothing is pending", || {
        let shown = backend(&place, &id);
        shown["state"] == "open" && shown["pending_artifacts"] == 0
    });
    assert_verified(&place, &id);
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.assert_clean();
}

#[test]
fn a_directory_that_cannot_be_used_is_refused_with_the_reason() {
    let mut place = Place::new();
    place.start_daemon();
    fs::write(place.path("file"), "").unwrap();
    let missing = json!({ "kind": "local", "base_path": place.path("none"), "create_dirs": false });
    for (request, words) in [
        (missing, "No such file or directory"),
        (request(&place, "file"), "File exists"),
        (request(&place, "state/blobs"), "the daemon's own"),
        (request(&place, "runtime"), "the daemon's own"),
        (json!({ "kind": "local", "base_path": "store" }), "relative"),
        (json!({ "kind": "local" }), "needs `base_path`"),
        (json!({ "kind": "cloud" }), "unknown value `cloud`"),
    ] {
        let said = refusal(&place, &request);
        assert!(said.contains(words), "{request}: {said}");
    }
    assert!(backends(&place).is_empty(), "a refused one leaves nothing");
    for (arguments, words) in [
        (["artifact", "ls", "--backend", "nosuch"], "no backend nosuch of yours"),
        (["artifact", "ls", "--backend", "../x"], "not allowed"),
    ] {
        let output = place.output(arguments);
        assert!(!output.status.success() && text(&output).contains(words), "{}", text(&output));
    }
    assert!(place.stop_daemon(Signal::SIGTERM).success());
}

#[test]
fn a_directory_belongs_to_one_catalog() {
    let (mut first, mut second) = (Place::new(), Place::new());
    first.start_daemon();
    second.start_daemon();
    let store = request(&first, "store");
    let id = add(&first, &store);
    run(&first, &id, "echo x > output/x.txt");
    let said = refusal(&second, &store);
    assert!(said.contains("contents of another catalog"), "{said}");
    assert_verified(&first, &id);
    for place in [&mut first, &mut second] {
        assert!(place.stop_daemon(Signal::SIGTERM).success());
    }
}

#[test]
fn a_workspace_keeps_its_place_until_it_is_made_anew() {
    let mut place = Place::new();
    place.start_daemon();
    let (one, two) = (add(&place, &request(&place, "one")), add(&place, &request(&place, "two")));
    let rw = format!("output={}", place.path("output").display());
    let create =
        |id: &str| place.output(["workspace", "create", "w", "--rw", &rw, "--backend", id]);
    assert!(create(&one).status.success());
    let shown = place.json(["workspace", "show", "w"]);
    assert_eq!(shown["backend"], *one);
    // A run that names no backend goes where the workspace's artifacts go.
    let output = place.output(["run", "-w", "w", "--", "sh", "-c", "echo x > output/x.txt"]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(paths(&place, &["--backend", &one]), ["output/x.txt"]);
    let mut run = place
        .belljar(["run", "-w", "w", "--", "sleep", "600"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    support::eventually("the run is in progress", || {
        place.json(["workspace", "show", "w"])["runs"]
            .as_array()
            .is_some_and(|runs| runs.len() == 1)
    });
    let refused = create(&two);
    assert!(text(&refused).contains("keeps its artifacts in backend"), "{}", text(&refused));
    let _ = nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(run.id()).unwrap()),
        Signal::SIGTERM,
    );
    let _ = run.wait();
    support::eventually("the run is over", || {
        place.json(["workspace", "show", "w"])["runs"].as_array().is_some_and(Vec::is_empty)
    });
    assert!(create(&two).status.success());
    assert_eq!(place.json(["workspace", "show", "w"])["backend"], *two);
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.assert_clean();
}

#[test]
fn a_run_cannot_choose_a_place_through_its_own_socket() {
    let mut place = Place::new();
    place.start_daemon();
    let id = add(&place, &request(&place, "store"));
    let ask = format!(
        r#"python3 -c '
import os, socket
for line, header in [("GET /v1/artifacts", "belljar-backend: {id}\r\n"), ("GET /v1/storage/backends", ""), ("PUT /v1/storage/backend", "")]:
    s = socket.socket(socket.AF_UNIX); s.connect(os.environ["BELLJAR_SOCKET"])
    s.sendall((line + " HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n" + header + "\r\n").encode())
    print(s.makefile().readline().split()[1])
'"#
    );
    let output = place.run(&[], &ask);
    assert_eq!(
        stdout(&output).split_whitespace().collect::<Vec<_>>(),
        ["403", "403", "403"],
        "{}",
        text(&output)
    );
    // And the place of the workspace is the place of what a run registers.
    run(&place, &id, "echo x > output/x.txt");
    assert_eq!(paths(&place, &["--backend", &id]), ["output/x.txt"]);
    assert!(paths(&place, &[]).is_empty());
    assert!(place.stop_daemon(Signal::SIGTERM).success());
}

#[test]
fn many_may_set_the_same_one_at_the_same_moment() {
    let mut place = Place::new();
    place.start_daemon();
    let request = request(&place, "store");
    std::thread::scope(|scope| {
        let set = || (0..8).map(|_| add(&place, &request)).collect::<Vec<_>>();
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(set)).collect();
        let ids = threads.into_iter().flat_map(|thread| thread.join().unwrap());
        assert_eq!(ids.collect::<std::collections::BTreeSet<_>>().len(), 1);
    });
    assert!(place.stop_daemon(Signal::SIGTERM).success());
}

#[test]
fn a_place_that_is_not_mounted_is_waited_for_and_nothing_is_made_there() {
    let mut place = Place::new();
    let (store, away) = (place.path("store"), place.path("away"));
    place.start_daemon();
    let id = add(&place, &request(&place, "store"));
    run(&place, &id, "echo kept > output/kept.txt");
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    // What a mount point looks like without its file system.
    fs::rename(&store, &away).unwrap();
    fs::create_dir(&store).unwrap();
    fs::set_permissions(&store, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    place.start_daemon();
    let said = refusal(&place, &request(&place, "store"));
    assert!(said.contains("if a file system is mounted there, mount it"), "{said}");
    let listed = place.output(["artifact", "ls", "--backend", &id]);
    assert!(text(&listed).contains("is not open"), "{}", text(&listed));
    assert_eq!(fs::read_dir(&store).unwrap().count(), 0);
    fs::remove_dir(&store).unwrap();
    let said = refusal(&place, &request(&place, "store"));
    assert!(
        said.contains("there is no directory") || said.contains("nothing of this backend"),
        "{said}"
    );
    let _ = fs::remove_dir(&store);
    fs::rename(&away, &store).unwrap();
    assert_eq!(only_content(&place, &id), "kept\n");
    assert_verified(&place, &id);
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.assert_clean();
}

#[test]
fn a_directory_with_a_name_of_any_bytes_is_refused_and_harms_nobody() {
    use std::os::unix::ffi::OsStrExt;
    let mut place = Place::new();
    place.start_daemon();
    let odd = place.root().join(std::ffi::OsStr::from_bytes(b"odd-\xff"));
    fs::create_dir(&odd).unwrap();
    std::os::unix::fs::symlink(&odd, place.path("link")).unwrap();
    let said = refusal(&place, &request(&place, "link"));
    assert!(said.contains("not UTF-8"), "{said}");
    let claim = place.path("store");
    fs::create_dir(&claim).unwrap();
    std::os::unix::fs::symlink("/dev/zero", claim.join("belljar-node")).unwrap();
    let said = refusal(&place, &request(&place, "store"));
    assert!(said.contains("use") && said.contains("for contents"), "{said}");
    assert!(backends(&place).is_empty());
    assert!(place.stop_daemon(Signal::SIGTERM).success());
}

#[test]
fn a_header_in_the_environment_hinders_nobody_from_opening_what_it_names() {
    let mut place = Place::new();
    place.start_daemon();
    let id = add(&place, &request(&place, "store"));
    let list =
        place.belljar(["storage", "backends"]).env("BELLJAR_BACKEND", "nosuch").output().unwrap();
    assert!(list.status.success() && stdout(&list).contains(&id), "{}", text(&list));
    let named = place.belljar(["artifact", "ls"]).env("BELLJAR_BACKEND", &id).output().unwrap();
    assert!(named.status.success(), "{}", text(&named));
    assert!(place.stop_daemon(Signal::SIGTERM).success());
}
