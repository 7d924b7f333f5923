//! Each layer of a sandbox is there, proven, needed, and missed by name: attempts to get something out, and the same with a layer
//! taken out.
//!
//! Layers are taken out by `BELLJAR_TEST_WITHOUT_LAYER`, which only builds with debug assertions look at. Needs what
//! `tests/escape.rs` needs.
#![allow(clippy::unwrap_used)]

mod expected;
mod host;
mod missing;
mod programs;
#[path = "../support/mod.rs"]
mod support;

use expected::{User, assert_all};
use host::Host;
use support::text;

#[test]
fn user_0_gets_nothing_out() {
    let host = Host::new(User::Root);
    assert_all(User::Root, &host.attempts(&[], "", &[]));
}

#[test]
fn another_user_of_roots_daemon_gets_nothing_out() {
    let host = Host::new(User::Other);
    assert_all(User::Other, &host.attempts(&[], "", &[]));
}

#[test]
fn an_ordinary_user_of_an_own_daemon_gets_nothing_out() {
    let host = Host::new(User::Ordinary);
    assert_all(User::Ordinary, &host.attempts(&[], "", &[]));
}

/// What is lost without a layer: the layers taken out, for whom, with which options, and the attempts that then get something else.
/// Where two layers hold the same, both are out.
const NEEDED: &[(&str, User, &[&str], &[&str])] = &[
    (
        "namespaces",
        User::Root,
        &[],
        &["the sandbox's name", "the host's memory: a segment shared by number"],
    ),
    ("root-filesystem", User::Root, &[], &["the sandbox's root: a file in it"]),
    (
        "root-filesystem,landlock",
        User::Root,
        &[],
        &["the sandbox's root: a file in it", "the sandbox's root: a directory in /run"],
    ),
    ("read-only-mounts", User::Root, &[], &["the input: its mount"]),
    ("read-only-mounts", User::Ordinary, &[], &["the input: its mount"]),
    (
        "devices",
        User::Root,
        &[],
        &[
            "the host's devices: the mode of /dev/null",
            "the host's devices: the owner of /dev/null",
            "the host's devices: the times of /dev/zero",
        ],
    ),
    (
        "network",
        User::Other,
        &[],
        &["the host's services: loopback", "the host's services: an abstract socket"],
    ),
    ("network,landlock", User::Other, &[], &["the host's services: an abstract socket"]),
    ("landlock", User::Other, &["--network", "host"], &["the host's services: an abstract socket"]),
    (
        "landlock",
        User::Ordinary,
        &["--network", "host"],
        &["the host's services: an abstract socket"],
    ),
    ("credentials", User::Other, &[], &["root: its ids"]),
    (
        "capabilities",
        User::Root,
        &[],
        &["root: capabilities", "root: a file given away", "root: a port of the system's"],
    ),
    ("no-new-privileges,landlock,seccomp", User::Other, &[], &["root: privileges by execve"]),
    (
        "seccomp",
        User::Other,
        &[],
        &[
            "a namespace of its own, by unshare: user",
            "a namespace of its own, by clone: user",
            "another process: tracing",
            "another process: its memory read",
            "another process: its memory written",
            "another process: its descriptors",
            "the kernel: code and data as one (READ_IMPLIES_EXEC)",
            "a handle of a file",
            "an overlay's files: a whiteout",
            "a socket of AF_VSOCK",
            "a socket of AF_TIPC",
            "a socket of NETLINK_SOCK_DIAG",
        ],
    ),
    ("seccomp,landlock", User::Root, &[], &["an overlay's files: a whiteout"]),
    ("descriptors", User::Other, &[], &["the daemon's descriptors"]),
    ("core-dumps", User::Other, &[], &["the command's secrets: a core dump"]),
    ("session", User::Other, &[], &["the caller's terminal: its session"]),
];

#[test]
fn each_layer_holds_something_that_is_lost_without_it() {
    for (layers, user, options, lost) in NEEDED {
        let host = Host::new(*user);
        let with = host.attempts(options, "", lost);
        assert_eq!(with.len(), lost.len(), "every attempt exists: {with:?}");
        let unnoticed: Vec<_> =
            layers.split(',').map(|layer| format!("{layer}:unnoticed")).collect();
        let without = host.attempts(options, &unnoticed.join(","), lost);
        for attempt in *lost {
            assert_ne!(with[*attempt], without[*attempt], "without {layers}: {attempt}");
        }
    }
}

#[test]
fn a_layer_whose_step_did_nothing_is_noticed_by_its_proof_and_nothing_runs() {
    let host = Host::new(User::Other);
    for layer in belljar::sandbox::layer::LayerName::ALL.map(|layer| layer.as_str()) {
        // Nothing that a user accepts makes up for a proof that fails.
        for options in
            [&[][..], &["--allow-unenforced", "seccomp", "--allow-unenforced", "landlock"]]
        {
            let output = host.run(options, layer, "touch /workspace/out/ran; echo ran");
            assert_eq!(output.status.code(), Some(125), "{layer}: {}", text(&output));
            let said = support::stderr(&output);
            for word in [layer, "not in force", "nothing was run"] {
                assert!(said.contains(word), "{layer}: {word:?} is missing in {said}");
            }
            assert!(output.stdout.is_empty() && !host.place.path("output/ran").exists(), "{layer}");
        }
    }
    host.place.assert_clean();
}

#[test]
fn the_receipt_says_that_a_layer_was_taken_out() {
    let host = Host::new(User::Other);
    let output = host.run(&["--receipt", "receipt.json"], "seccomp:unnoticed", "true");
    assert!(output.status.success(), "{}", text(&output));
    let seccomp = host.layer("seccomp");
    assert_eq!((&seccomp["requested"], &seccomp["in_force"]), (&true.into(), &false.into()));
    assert_eq!(host.layer("landlock")["in_force"], true);
}
