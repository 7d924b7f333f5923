//! Secrets do not leak through what a run leaves behind: real runs that write their secrets into files.
#![allow(clippy::unwrap_used)]

mod support;

use nix::sys::signal::Signal;
use std::fs;
use std::io::Write;
use std::process::{Output, Stdio};
use support::{Place, stderr, text};

const SECRET: &str = "tok-51HqLy/WDarjt+T1zdp7dc";

fn configured(policy: &str) -> Place {
    let place = Place::new();
    fs::write(place.path("b.yaml"), format!("artifacts: {{ secrets: {policy} }}\n")).unwrap();
    fs::write(place.path("key"), format!("{SECRET}\n")).unwrap();
    place
}

/// A run with the secret, under the place's configuration.
fn run(place: &Place, script: &str) -> Output {
    let mut command = place.run_command(&["--secret", "TOKEN=@key", "--quiet"], script);
    let output = command.env("BELLJAR_CONFIG", place.path("b.yaml")).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    output
}

#[test]
fn a_run_that_writes_its_secret_is_found_out_and_the_row_names_it() {
    let place = configured("warn");
    run(
        &place,
        "cd /workspace/output; base64 < /workspace/.belljar/secrets/TOKEN > encoded; cp /workspace/.belljar/secrets/TOKEN raw; echo harmless > clean",
    );
    let artifacts = place.artifacts(&[]);
    assert_eq!(artifacts.len(), 3, "{artifacts:?}");
    for artifact in &artifacts {
        let path = artifact["path"].as_str().unwrap();
        let found: Vec<_> = artifact["secrets_found"].as_array().unwrap().iter().collect();
        let encoding = found.first().map(|found| found["encoding"].as_str().unwrap());
        let expected = match path.rsplit('/').next().unwrap() {
            "encoded" => Some("base64"),
            "raw" => Some("raw"),
            _ => None,
        };
        assert_eq!(encoding, expected, "{artifact}");
        assert!(found.iter().all(|found| found["name"] == "TOKEN"));
        assert_eq!(artifact["secret_scan"], "done");
    }
    let listed = place.output(["artifact", "ls"]);
    assert_eq!(support::stdout(&listed).matches("holds a secret").count(), 2, "{}", text(&listed));
    place.assert_clean();
}

#[test]
fn under_block_no_content_with_a_secret_is_kept() {
    let place = configured("block");
    run(&place, "cp /workspace/.belljar/secrets/TOKEN /workspace/output/raw");
    let artifact = &place.artifacts(&[])[0];
    assert_eq!((&artifact["content_kept"], &artifact["state"]), (&false.into(), &"READY".into()));
    let output = place.output(["artifact", "cat", artifact["id"].as_str().unwrap()]);
    assert!(!output.status.success());
    assert!(
        stderr(&output).contains("secret") && stderr(&output).contains("block"),
        "{}",
        text(&output)
    );
    let found = place.files_with(SECRET.as_bytes());
    assert_eq!(found, [place.path("output/raw")], "nothing but the user's own file holds it");
    place.assert_clean();
}

#[test]
fn a_quarantined_content_is_for_its_owner_alone() {
    let place = configured("quarantine");
    run(&place, "cp /workspace/.belljar/secrets/TOKEN /workspace/output/raw");
    let artifact = &place.artifacts(&[])[0];
    assert_eq!(artifact["quarantined"], true);
    let output = place.output(["artifact", "cat", artifact["id"].as_str().unwrap()]);
    assert_eq!(support::stdout(&output), format!("{SECRET}\n"), "{}", text(&output));
    place.assert_clean();
}

#[test]
fn a_secret_on_the_command_line_is_in_no_receipt_and_no_message() {
    let place = configured("warn");
    fs::write(place.path("key"), "secret-program-name").unwrap();
    let receipt = place.path("receipt.json");
    let options = ["run", "--rw", "output=output", "--secret", "TOKEN=@key", "--receipt"];
    let output = place
        .belljar(options)
        .arg(&receipt)
        .args(["--", "/workspace/output/secret-program-name"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(127), "{}", text(&output));
    assert!(!stderr(&output).contains("secret-program-name"), "{}", text(&output));
    assert!(stderr(&output).contains("***"), "{}", text(&output));
    place.assert_clean();
}

#[test]
fn a_secret_on_a_writers_command_line_is_nowhere_in_the_state() {
    let mut place = configured("warn");
    place.start_daemon();
    assert!(place.output(["workspace", "create", "w", "--rw", "output=output"]).status.success());
    let set = place.output(["secret", "set", "-w", "w", "TOKEN=@key"]);
    assert!(set.status.success(), "{}", text(&set));
    // The file is open while it is looked at: its writer is in the journal and in no row yet.
    let script = format!(": {SECRET}; exec > output/x; echo harmless; read go");
    let mut run = place.belljar(["run", "-w", "w", "--", "sh", "-c", &script]);
    let mut run = run.stdin(Stdio::piped()).spawn().unwrap();
    support::eventually("the file is written", || {
        fs::read(place.path("output/x")).is_ok_and(|bytes| bytes == b"harmless\n")
    });
    let state = |needle: &[u8]| {
        let found = place.files_with(needle);
        found.into_iter().filter(|path| path.starts_with(place.path("state"))).count()
    };
    assert_eq!(state(b": ***; exec > output/x"), 1, "the journal has the writer");
    assert_eq!(state(SECRET.as_bytes()), 0);
    run.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert!(support::finish(run).status.success());
    let artifact = &place.artifacts(&[])[0];
    let command = artifact["writer"]["command"].to_string();
    assert!(command.contains(": ***; exec > output/x"), "{command}");
    assert_eq!(state(SECRET.as_bytes()), 0);
    assert!(place.output(["workspace", "rm", "w"]).status.success());
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.assert_clean();
}

#[test]
fn setting_a_secret_that_is_not_looked_for_says_so() {
    let mut place = Place::new();
    place.start_daemon();
    assert!(place.output(["workspace", "create", "w", "--rw", "output=output"]).status.success());
    let output = place.output(["secret", "set", "-w", "w", "PIN=1234"]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(stderr(&output).contains("PIN is not looked for"), "{}", text(&output));
    for argument in [&["LONG=long-enough-1"][..], &["--not-sensitive", "MODE=fast"]] {
        let output = place.output([&["secret", "set", "-w", "w"][..], argument].concat());
        assert!(output.status.success() && stderr(&output).is_empty(), "{}", text(&output));
    }
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.assert_clean();
}
