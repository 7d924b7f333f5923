//! Leases: a workspace ends with the client that wanted it, and a daemon with the program that started it.
//!
//! Needs: root, /dev/fuse, user namespaces.

mod support;

use belljar::client::{Client, ClientError, Leash};
use belljar::wire::workspace::{MountRequest, Workspace, WorkspaceRequest};
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::process::Stdio;
use support::{Place, eventually, finish, text};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn client(place: &Place) -> Client {
    Client::at(place.path("runtime/belljar.sock"))
}

/// Asks for workspace `w` with `directory` as mount point `output`.
fn ask(place: &Place, directory: &str, lease: bool) -> Result<(Workspace, Leash), ClientError> {
    let directory = place.path(directory);
    let opened = File::open(&directory).unwrap();
    let (token, leash) = client(place).send_descriptors(&[opened.as_fd()])?;
    let request = WorkspaceRequest {
        id: Some("w".parse().unwrap()),
        mounts: vec![MountRequest {
            name: "output".parse().unwrap(),
            mode: belljar::model::access::Access::ReadWrite,
            path: directory.display().to_string(),
            descriptor: 0,
            artifacts: true,
            cache: Default::default(),
            suid: Default::default(),
        }],
        secrets: Default::default(),
        env: Default::default(),
        descriptors: Some(token),
        lease,
    };
    Ok((block_on(client(place).create_workspace(&request))?, leash))
}

fn exists(place: &Place) -> bool {
    match block_on(client(place).workspace(&"w".parse().unwrap())) {
        Ok(_) => true,
        Err(ClientError::Problem(problem)) if problem.code == "workspace-not-found" => false,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_leased_workspace_ends_with_its_last_lease_and_its_files_are_registered() {
    let mut place = Place::new();
    place.start_daemon();
    let (made, first) = ask(&place, "output", true).unwrap();
    assert_eq!((made.kept, made.leases), (false, 1));
    let (again, second) = ask(&place, "output", true).unwrap();
    assert_eq!((again.created_at, again.leases), (made.created_at, 2), "the same workspace");
    fs::write(format!("{}/output/a.txt", made.root), "a").unwrap();
    drop(first);
    eventually("one lease is left", || {
        block_on(client(&place).workspace(&"w".parse().unwrap())).unwrap().leases == 1
    });
    drop(second);
    eventually("the workspace has ended", || !exists(&place));
    eventually("it is unmounted", || place.mounts().is_empty());
    assert_eq!(place.artifacts(&[]).len(), 1, "what was written is registered");
}

#[test]
fn a_workspace_that_somebody_keeps_stays_when_its_leases_end() {
    let mut place = Place::new();
    place.start_daemon();
    let (_, lease) = ask(&place, "output", true).unwrap();
    let (kept, unused) = ask(&place, "output", false).unwrap();
    assert_eq!((kept.kept, kept.leases), (true, 1));
    drop((lease, unused));
    eventually("no lease is left", || {
        block_on(client(&place).workspace(&"w".parse().unwrap())).unwrap().leases == 0
    });
    assert!(exists(&place));
    block_on(client(&place).remove_workspace(&"w".parse().unwrap())).unwrap();
}

#[test]
fn a_run_in_a_workspace_whose_lease_ended_goes_on_and_takes_the_workspace_with_it() {
    let mut place = Place::new();
    place.start_daemon();
    let (made, lease) = ask(&place, "output", true).unwrap();
    let script = "echo there > output/begun; until [ -e output/go ]; do sleep 0.02; done; echo done > output/end";
    let run = place
        .belljar(["run", "-w", "w", "--", "sh", "-c", script])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("the run has begun", || place.path("output/begun").exists());
    drop(lease);
    eventually("the lease has ended", || {
        block_on(client(&place).workspace(&"w".parse().unwrap())).unwrap().leases == 0
    });
    fs::write(format!("{}/output/go", made.root), "go").unwrap();
    let output = finish(run);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(fs::read_to_string(place.path("output/end")).unwrap(), "done\n");
    eventually("the workspace has ended", || !exists(&place));
    // What the run wrote, and what was written beside it.
    assert_eq!(place.artifacts(&[]).len(), 3);
}

#[test]
fn a_leased_workspace_is_not_replaced_and_its_name_is_free_again_afterwards() {
    let mut place = Place::new();
    place.start_daemon();
    let (_, lease) = ask(&place, "output", true).unwrap();
    let Err(ClientError::Problem(refusal)) = ask(&place, "input", true) else {
        panic!("it was replaced under its holder");
    };
    assert_eq!(refusal.code, "conflict");
    assert!(refusal.detail.contains("another directory"), "{}", refusal.detail);
    drop(lease);
    eventually("the workspace has ended", || !exists(&place));
    let (other, _lease) = ask(&place, "input", true).unwrap();
    assert!(other.mounts[0].path.ends_with("/input"), "{other:?}");
}

#[test]
fn a_daemon_that_was_asked_to_ends_with_its_standard_input() {
    let place = Place::new();
    let mut daemon = place
        .belljard(["serve", "--until-stdin-ends"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("the daemon answers", || client(&place).probe().is_ok());
    let (made, _leash) = ask(&place, "output", false).unwrap();
    fs::write(format!("{}/output/a.txt", made.root), "a").unwrap();
    assert!(daemon.try_wait().unwrap().is_none(), "it ended while its standard input was open");
    drop(daemon.stdin.take());
    let output = finish(daemon);
    assert!(output.status.success(), "{}", text(&output));
    place.assert_clean();
    assert_eq!(place.artifacts(&[]).len(), 1, "it ended in order");
}
