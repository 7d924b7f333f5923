//! The main job as a person does it: `belljar run` with real mounts, real sandboxes and a real catalog.
#![allow(clippy::unwrap_used)]

mod support;

use nix::sys::signal::Signal;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use support::{Place, eventually, finish, stderr, stdout, text};

/// Runs a check twice: with the daemon inside the command, and with one that runs already.
fn embedded_and_with_a_daemon(check: impl Fn(&Place)) {
    let place = Place::new();
    check(&place);
    place.assert_clean();
    let mut place = Place::new();
    place.start_daemon();
    check(&place);
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.assert_clean();
}

#[test]
fn a_command_reads_its_input_and_what_it_writes_is_an_artifact() {
    embedded_and_with_a_daemon(|place| {
        let output = place.run(
            &["--graph-id", "g1"],
            "cat /workspace/input/data.txt; printf 'a,b\\n1,2\\n' > /workspace/output/table.csv",
        );
        assert!(output.status.success(), "{}", text(&output));
        assert_eq!(stdout(&output), "the input\n");
        assert_eq!(fs::read_to_string(place.path("output/table.csv")).unwrap(), "a,b\n1,2\n");

        let artifacts = place.artifacts(&["--graph", "g1"]);
        assert_eq!(artifacts.len(), 1, "{artifacts:?}");
        let artifact = &artifacts[0];
        assert_eq!(artifact["path"], "/workspace/output/table.csv");
        assert_eq!(artifact["host_path"], place.path("output/table.csv").to_str().unwrap());
        assert_eq!(artifact["state"], "READY");
        assert_eq!(artifact["type"], "data");
        assert_eq!(artifact["size"], 8);
        assert_eq!(artifact["version"], 1);
        let digest = format!("blake3:{}", blake3::hash(b"a,b\n1,2\n").to_hex());
        assert_eq!(artifact["digest"], digest.as_str());
        assert!(artifact["run_id"].is_string());
    });
}

#[test]
fn a_graph_or_node_that_is_too_long_or_has_a_line_break_is_refused_and_nothing_runs() {
    let place = Place::new();
    for (option, name, value) in [
        ("--graph-id", "graph_id", "a\nb".to_owned()),
        ("--graph-id", "graph_id", "x".repeat(256)),
        ("--node-id", "node_id", String::new()),
    ] {
        let output = place.run(&[option, &value], "echo x > /workspace/output/x");
        assert_eq!(output.status.code(), Some(125), "{}", text(&output));
        let refusal = format!("{name} is not allowed: use 1 to 255 bytes");
        assert!(stderr(&output).contains(&refusal), "{}", text(&output));
    }
    assert!(!place.path("output/x").exists());
    place.assert_clean();
}

#[test]
fn a_write_to_a_read_only_mount_is_refused_by_the_kernel() {
    embedded_and_with_a_daemon(|place| {
        let output = place.run(&[], "touch /workspace/input/x");
        assert!(!output.status.success());
        assert!(stderr(&output).contains("Read-only file system"), "{}", text(&output));
        let output = place.run(
            &[],
            "cd /workspace/input; for f in 'rm data.txt' 'mv data.txt y' 'chmod 777 data.txt' 'sh -c \":>data.txt\"' 'sh -c \"echo x>>data.txt\"' 'mkdir d' 'ln data.txt l' 'ln -s data.txt s'; do
               if eval \"$f\" 2>err.$$ 2>/tmp/err; then echo \"DONE: $f\"; fi; grep -q 'Read-only' /tmp/err || { echo \"$f:\"; cat /tmp/err; }
             done",
        );
        assert_eq!(stdout(&output), "", "{}", text(&output));
        assert_eq!(fs::read_dir(place.path("input")).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(place.path("input/data.txt")).unwrap(), "the input\n");
    });
}

#[test]
fn a_secret_is_exact_to_the_byte_and_in_no_file() {
    embedded_and_with_a_daemon(|place| {
        let secret = b"first\0second\nthird\xff\xfe\r\n-unlikely-7c1b9f\n";
        fs::write(place.path("key"), secret).unwrap();
        let output = place.run(
            &["--secret", "KEY=@key"],
            "cat /workspace/.belljar/secrets/KEY; stat -c '%a %u %s' /workspace/.belljar/secrets/KEY >&2; ls -A /workspace/.belljar >&2",
        );
        assert!(output.status.success(), "{}", text(&output));
        assert_eq!(output.stdout, secret);
        let uid = nix::unistd::geteuid();
        assert_eq!(
            stderr(&output),
            format!("400 {uid} {}\nartifacts\nenv\nsecrets\nworkspace.json\n", secret.len())
        );
        fs::remove_file(place.path("key")).unwrap();
        assert_eq!(place.files_with(b"unlikely-7c1b9f"), Vec::<std::path::PathBuf>::new());
    });
}

#[test]
fn nothing_of_the_callers_environment_is_inside() {
    embedded_and_with_a_daemon(|place| {
        let output = place.run(&["--env", "MODE=production"], "env");
        let names: std::collections::BTreeSet<String> = stdout(&output)
            .lines()
            .filter_map(|line| line.split_once('=').map(|(name, _)| name.to_owned()))
            .collect();
        let expected = [
            "BELLJAR_ROOT",
            "BELLJAR_RUN",
            "BELLJAR_SOCKET",
            "BELLJAR_WORKSPACE",
            "HOME",
            "LANG",
            "MODE",
            "PATH",
            "PWD",
            "TMPDIR",
        ];
        let unexpected: Vec<_> =
            names.iter().filter(|name| !expected.contains(&name.as_str())).collect();
        assert!(unexpected.is_empty(), "{unexpected:?}");
        assert!(names.contains("MODE") && names.contains("BELLJAR_WORKSPACE"), "{names:?}");
        assert!(!stdout(&output).contains("must-not-be-seen-inside"));
    });
}

#[test]
fn every_version_keeps_its_bytes() {
    embedded_and_with_a_daemon(|place| {
        assert!(place.run(&[], "printf one > output/f.txt").status.success());
        assert!(place.run(&[], "printf twotwo > output/f.txt").status.success());
        let artifacts = place.artifacts(&[]);
        assert_eq!(artifacts.len(), 1, "{artifacts:?}");
        assert_eq!(artifacts[0]["version"], 2);
        let id = artifacts[0]["id"].as_str().unwrap();
        fs::remove_file(place.path("output/f.txt")).unwrap();
        for (reference, content) in
            [(format!("{id}@1"), "one"), (format!("{id}@2"), "twotwo"), (id.to_owned(), "twotwo")]
        {
            let output = place.output(["artifact", "cat", &reference]);
            assert_eq!(stdout(&output), content, "{}", text(&output));
        }
        let got = place.path("got");
        let output = place.output(["artifact", "get", &format!("{id}@1"), got.to_str().unwrap()]);
        assert!(output.status.success(), "{}", text(&output));
        assert_eq!(fs::read_to_string(&got).unwrap(), "one");
        let again = place.output(["artifact", "get", &format!("{id}@2"), got.to_str().unwrap()]);
        assert_eq!(again.status.code(), Some(1), "{}", text(&again));
        assert_eq!(fs::read_to_string(&got).unwrap(), "one");
    });
}

#[test]
fn a_file_renamed_into_place_is_registered_once_under_its_final_name() {
    let place = Place::new();
    let output = place.run(
        &[],
        "echo x > output/.result.json.partial; mv output/.result.json.partial output/result.json",
    );
    assert!(output.status.success(), "{}", text(&output));
    let artifacts = place.artifacts(&[]);
    assert_eq!(artifacts.len(), 1, "{artifacts:?}");
    assert_eq!(artifacts[0]["path"], "/workspace/output/result.json");
}

#[test]
fn the_exit_code_is_the_commands_own() {
    embedded_and_with_a_daemon(|place| {
        for code in [0, 1, 3, 42, 255] {
            let output = place.run(&[], &format!("exit {code}"));
            assert_eq!(output.status.code(), Some(code), "{}", text(&output));
        }
        for (signal, code) in [("TERM", 143), ("KILL", 137), ("SEGV", 139)] {
            let output = place.run(&[], &format!("kill -{signal} $$"));
            assert_eq!(output.status.code(), Some(code), "{}", text(&output));
        }
        let output = place.run(&["--timeout", "300ms"], "sleep 60");
        assert_eq!(output.status.code(), Some(124), "{}", text(&output));
        let mounts = ["run", "--rw", "output=output", "--"];
        let missing = place.output(mounts.iter().chain(&["no-such-command-here"]));
        assert_eq!(missing.status.code(), Some(127), "{}", text(&missing));
        assert!(stderr(&missing).contains("no-such-command-here"), "{}", text(&missing));
        let directory = place.output(mounts.iter().chain(&["/usr"]));
        assert_eq!(directory.status.code(), Some(126), "{}", text(&directory));
        let absent = place.output(["run", "--ro", "x=does-not-exist", "--", "true"]);
        assert_eq!(absent.status.code(), Some(125), "{}", text(&absent));
        assert!(stderr(&absent).contains("does-not-exist"), "{}", text(&absent));
    });
}

#[test]
fn a_timeout_ends_what_ignores_the_polite_signal() {
    let place = Place::new();
    let output = place.run(&["--timeout", "200ms"], "trap '' TERM; while :; do sleep 1; done");
    assert_eq!(output.status.code(), Some(124), "{}", text(&output));
}

#[test]
fn signals_reach_the_command() {
    embedded_and_with_a_daemon(|place| {
        let mut child = place
            .run_command(
                &[],
                "trap 'echo got INT; exit 7' INT; echo up; while :; do sleep 0.05; done",
            )
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "up");
        let pid = nix::unistd::Pid::from_raw(child.id() as i32);
        nix::sys::signal::kill(pid, Signal::SIGINT).unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), "got INT");
        let output = finish(child);
        assert_eq!(output.status.code(), Some(7), "{}", text(&output));
    });
}

/// A process anywhere on the machine whose command line holds this word.
fn someone_runs(word: &str) -> bool {
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        (pid != std::process::id()).then_some(pid)
    });
    processes.into_iter().any(|pid| {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.windows(word.len()).any(|part| part == word.as_bytes()))
    })
}

#[test]
fn the_callers_death_ends_the_run() {
    embedded_and_with_a_daemon(|place| {
        // The word makes this run's processes recognisable.
        let word = format!("86400.{}", std::process::id());
        let mut child = place
            .run_command(&[], &format!("echo up; sleep {word} & sleep {word}"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
        assert!(someone_runs(&word));
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        eventually("the run's processes are gone", || !someone_runs(&word));
        // Whoever comes next cleans up after a command that was killed.
        assert!(place.run(&[], "true").status.success());
    });
}

#[test]
fn what_a_command_leaves_running_is_ended_with_it() {
    let place = Place::new();
    let word = format!("86401.{}", std::process::id());
    let output =
        place.run(&[], &format!("(setsid sleep {word} >/dev/null 2>&1 &) ; sleep 0.2; echo done"));
    assert_eq!(stdout(&output), "done\n", "{}", text(&output));
    assert!(!someone_runs(&word));
    let output =
        place.run(&["--wait-children"], "(sleep 0.5; echo late > output/late.txt) & echo early");
    assert_eq!(stdout(&output), "early\n", "{}", text(&output));
    assert!(place.artifacts(&[]).iter().any(|a| a["path"] == "/workspace/output/late.txt"));
}

#[test]
fn four_runs_in_parallel_share_a_state_directory() {
    let place = Place::new();
    let children: Vec<_> = (0..4)
        .map(|i| {
            let script = format!("for n in 1 2 3 4 5; do echo {i}-$n > output/file-{i}-$n.txt; done; echo same > output/shared.txt");
            place
                .run_command(&["--graph-id", &format!("par-{i}")], &script)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in children {
        let output = finish(child);
        assert!(output.status.success(), "{}", text(&output));
    }
    let artifacts = place.artifacts(&[]);
    let mut paths: Vec<_> =
        artifacts.iter().map(|a| a["path"].as_str().unwrap().to_owned()).collect();
    paths.sort();
    paths.dedup();
    assert_eq!(paths.len(), 21, "{paths:?}");
    assert_eq!(artifacts.len(), 21, "one artifact for each file");
    assert!(artifacts.iter().all(|a| a["state"] == "READY"));
    place.assert_clean();
}

#[test]
fn a_thousand_files_are_a_thousand_artifacts_when_run_returns() {
    let place = Place::new();
    let output = place.run(
        &["--receipt", "receipt.json"],
        "i=0; while [ $i -lt 1000 ]; do echo $i > output/f$i.txt; i=$((i+1)); done",
    );
    assert!(output.status.success(), "{}", text(&output));
    let receipt: serde_json::Value =
        serde_json::from_slice(&fs::read(place.path("receipt.json")).unwrap()).unwrap();
    assert_eq!(receipt["complete"], true, "{receipt}");
    assert_eq!(receipt["artifacts"].as_array().unwrap().len(), 1000);
    assert_eq!(receipt["exit_code"], 0);
    let artifacts = place.artifacts(&["--state", "READY"]);
    assert_eq!(artifacts.len(), 1000);
    let sizes: u64 = artifacts.iter().map(|a| a["size"].as_u64().unwrap()).sum();
    assert_eq!(sizes, 10 * 2 + 90 * 3 + 900 * 4);
}

#[test]
fn a_daemon_killed_in_the_middle_of_a_run_loses_nothing_that_was_closed() {
    let mut place = Place::new();
    place.start_daemon();
    let mut child = place
        .run_command(
            &["-w", "killed"],
            "i=0; while [ $i -lt 50 ]; do echo $i > output/k$i.txt; i=$((i+1)); done; echo closed; exec sleep 60",
        )
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "closed\n");
    place.stop_daemon(Signal::SIGKILL);
    let output = finish(child);
    assert_eq!(output.status.code(), Some(125), "{}", text(&output));
    assert_eq!(
        place.mounts().len(),
        2,
        "the dead daemon's mounts, of files and artifacts, are there"
    );

    place.start_daemon();
    assert!(place.mounts().is_empty(), "{:?}", place.mounts());
    let artifacts = place.artifacts(&[]);
    assert_eq!(artifacts.len(), 50, "{artifacts:?}");
    assert!(artifacts.iter().all(|a| a["state"] == "READY"));
    assert!(place.run(&["-w", "killed"], "cat output/k49.txt").status.success());
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.assert_clean();
}

#[test]
fn an_embedded_run_that_was_killed_is_cleaned_up_by_the_next() {
    let place = Place::new();
    let mut child = place
        .run_command(&[], "echo x > output/closed.txt; echo up; exec sleep 60")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(place.mounts().len(), 2, "{:?}", place.mounts());
    assert!(place.run(&[], "true").status.success());
    let artifacts = place.artifacts(&[]);
    assert_eq!(artifacts.len(), 1, "{artifacts:?}");
    assert_eq!(artifacts[0]["path"], "/workspace/output/closed.txt");
    place.assert_clean();
}

#[test]
fn a_named_workspace_stays_and_takes_secrets_and_variables() {
    let mut place = Place::new();
    place.start_daemon();
    let made = place.output([
        "workspace",
        "create",
        "job",
        "--ro",
        "input=input",
        "--rw",
        "output=output",
    ]);
    assert!(made.status.success(), "{}", text(&made));
    let shown = place.json(["workspace", "show", "job"]);
    let root = shown["root"].as_str().unwrap().to_owned();
    assert_eq!(fs::read_to_string(format!("{root}/input/data.txt")).unwrap(), "the input\n");
    assert!(!fs::exists(format!("{root}/.belljar/secrets")).unwrap());

    fs::write(place.path("key"), "hidden").unwrap();
    for arguments in
        [["secret", "set", "-w", "job", "KEY=@key"], ["env", "set", "-w", "job", "MODE=test"]]
    {
        let output = place.output(arguments);
        assert!(output.status.success(), "{}", text(&output));
    }
    let output = place.output([
        "run",
        "-w",
        "job",
        "--",
        "sh",
        "-c",
        "cat .belljar/secrets/KEY; echo $MODE",
    ]);
    assert_eq!(stdout(&output), "hiddentest\n", "{}", text(&output));
    let secrets = place.json(["secret", "ls", "-w", "job"]);
    assert!(secrets.to_string().contains("KEY") && !secrets.to_string().contains("hidden"));

    // Written on the host, through the mount: an artifact without a run.
    fs::write(format!("{root}/output/host.txt"), "from outside").unwrap();
    assert!(place.output(["artifact", "sync"]).status.success());
    let artifacts = place.artifacts(&["--workspace", "job"]);
    assert_eq!(artifacts.len(), 1, "{artifacts:?}");
    assert!(artifacts[0]["run_id"].is_null());

    let gone = place.output(["workspace", "rm", "job"]);
    assert!(gone.status.success(), "{}", text(&gone));
    assert_eq!(place.output(["workspace", "show", "job"]).status.code(), Some(4));
    assert!(place.mounts().is_empty());
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.assert_clean();
}

#[test]
fn an_ordinary_user_needs_no_root() {
    let place = Place::of_ordinary_user();
    fs::write(place.path("key"), b"se\0cret").unwrap();
    std::os::unix::fs::chown(place.path("key"), Some(support::ORDINARY), None).unwrap();
    let output = place.run(
        &["--secret", "KEY=@key"],
        "cat input/data.txt; id -u; touch input/x; cat .belljar/secrets/KEY > /tmp/k; stat -c %s /tmp/k; printf result > output/r.txt",
    );
    assert!(output.status.success(), "{}", text(&output));
    let uid = if nix::unistd::geteuid().is_root() {
        support::ORDINARY
    } else {
        nix::unistd::geteuid().as_raw()
    };
    assert_eq!(stdout(&output), format!("the input\n{uid}\n7\n"), "{}", text(&output));
    assert!(stderr(&output).contains("Read-only file system"), "{}", text(&output));
    assert_eq!(fs::read_to_string(place.path("output/r.txt")).unwrap(), "result");
    let artifacts = place.artifacts(&[]);
    assert_eq!(artifacts.len(), 1, "{artifacts:?}");
    assert_eq!(artifacts[0]["state"], "READY");
    let id = artifacts[0]["id"].as_str().unwrap();
    assert_eq!(stdout(&place.output(["artifact", "cat", id])), "result");
    let output = place.run(&[], "exit 9");
    assert_eq!(output.status.code(), Some(9), "{}", text(&output));
    place.assert_clean();
}

#[test]
fn a_file_made_by_root_for_another_user_belongs_to_that_user() {
    assert!(nix::unistd::geteuid().is_root(), "only root can run as another user");
    let place = Place::new();
    std::os::unix::fs::chown(
        place.path("output"),
        Some(support::ORDINARY),
        Some(support::ORDINARY),
    )
    .unwrap();
    let output =
        place.run(&["--receipt", "r.json"], "id -u; umask 027; echo x > output/f; mkdir output/d");
    assert_eq!(stdout(&output), format!("{}\n", support::ORDINARY), "{}", text(&output));
    let made = fs::metadata(place.path("output/f")).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!(
        (made.uid(), made.gid(), made.mode() & 0o777),
        (support::ORDINARY, support::ORDINARY, 0o640)
    );
    let receipt: serde_json::Value =
        serde_json::from_slice(&fs::read(place.path("r.json")).unwrap()).unwrap();
    assert_eq!(receipt["run_as_root"], false, "{receipt}");
    let named = place.run(&["--user", "4321:4322"], "id -u; id -g");
    assert_eq!(stdout(&named), "4321\n4322\n", "{}", text(&named));
}

#[test]
fn a_file_with_two_names_is_kept_under_the_one_that_stays() {
    let place = Place::new();
    let output = place.run(
        &[],
        "cd output; echo r > res; ln res res.lock; rm res.lock; echo q > a1; ln a1 a2; echo p > p.tmp; ln p.tmp p; rm p.tmp",
    );
    assert!(output.status.success(), "{}", text(&output));
    let mut paths: Vec<_> = place
        .artifacts(&[])
        .iter()
        .map(|a| a["path"].as_str().unwrap().trim_start_matches("/workspace/output/").to_owned())
        .collect();
    paths.sort();
    assert_eq!(paths, ["a1", "p", "res"]);
}

#[test]
fn the_last_of_many_writers_has_the_last_word() {
    let place = Place::new();
    // Writers that come and go on the same files, so that one opens while another closes.
    let output = place.run(
        &["--wait-children", "--receipt", "r.json"],
        "cd output; for w in 1 2 3 4; do (i=0; while [ $i -lt 150 ]; do echo $w-$i >> f$((i%3)); i=$((i+1)); done) & done; wait",
    );
    assert!(output.status.success(), "{}", text(&output));
    let artifacts = place.artifacts(&[]);
    assert_eq!(artifacts.len(), 3, "{artifacts:?}");
    for artifact in artifacts {
        let path = artifact["host_path"].as_str().unwrap();
        let digest = format!("blake3:{}", blake3::hash(&fs::read(path).unwrap()).to_hex());
        assert_eq!(artifact["digest"], digest.as_str(), "{path}");
    }
}
