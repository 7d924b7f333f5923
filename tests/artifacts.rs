//! Whatever way a program writes, the artifacts are exactly those that must be: real programs, real sandboxes.
//!
//! The daemon is told to wait long before it takes a copy by itself, so that each run makes one version of a file, when
//! it ends, however slow the machine is.
#![allow(clippy::unwrap_used)]

mod support;
mod ways;

use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use support::{Place, finish, stderr, stdout, text};
use ways::{WAYS, Way};

const PATIENT: &str = "artifacts:\n  debounce: 1m\n  debounce_max: 10m\n";

/// Programs of the table, each with the Debian package that has it.
const PROGRAMS: &[(&str, &str)] = &[
    ("fallocate", "util-linux"),
    ("git", "git"),
    ("perl", "perl"),
    ("python3", "python3"),
    ("rsync", "rsync"),
    ("sqlite3", "sqlite3"),
    ("unzip", "unzip"),
    ("vi", "vim-tiny"),
    ("zip", "zip"),
];

fn assert_programs() {
    let missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| {
            let search = format!("command -v {program}");
            !Command::new("sh")
                .args(["-c", &search])
                .env("PATH", "/usr/local/bin:/usr/bin:/bin")
                .stdout(Stdio::null())
                .status()
                .unwrap()
                .success()
        })
        .map(|(_, package)| *package)
        .collect();
    assert!(
        missing.is_empty(),
        "programs that these tests run are missing; as root: apt-get install {}",
        missing.join(" ")
    );
}

/// A place whose daemon takes copies when a run ends, and not before.
fn patient_place() -> Place {
    let mut place = Place::new();
    fs::write(place.path("belljard.yaml"), PATIENT).unwrap();
    let config = place.path("belljard.yaml");
    place.start_daemon_with(&["--config", config.to_str().unwrap()]);
    place
}

/// `belljar run` of a script in the directory `out` of a way.
fn run(place: &Place, name: &str, script: &str) -> Output {
    let mounts = [format!("out=ways/{name}/out"), format!("other=ways/{name}/other")];
    let script = format!("cd out; {script}");
    let arguments = [
        "run",
        "--ro",
        "input=input",
        "--rw",
        &mounts[0],
        "--rw",
        &mounts[1],
        "--graph-id",
        name,
        "--wait-children",
        "--receipt",
        "receipt.json",
        "--",
        "sh",
        "-ec",
        &script,
    ];
    finish(place.belljar(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

fn prepare(place: &Place, way: &Way) {
    for directory in ["out", "other"] {
        fs::create_dir_all(place.path(&format!("ways/{}/{directory}", way.name))).unwrap();
    }
    for (name, text) in way.before {
        fs::write(place.path(&format!("ways/{}/out/{name}", way.name)), text).unwrap();
    }
}

fn digest_of(path: &Path) -> String {
    format!("blake3:{}", blake3::hash(&fs::read(path).unwrap()).to_hex())
}

/// What differs between the artifacts that are there and those that must be.
fn differences(place: &Place, way: &Way, runs: &[String]) -> Vec<String> {
    let mut wrong = Vec::new();
    let all = place.artifacts(&["--graph", way.name, "--all-versions"]);
    let mut last: BTreeMap<String, Value> = BTreeMap::new();
    let mut count: BTreeMap<String, u64> = BTreeMap::new();
    for artifact in all {
        let path = artifact["path"].as_str().unwrap().to_owned();
        *count.entry(path.clone()).or_default() += 1;
        let newer = |known: &Value| artifact["version"].as_u64() > known["version"].as_u64();
        if last.get(&path).is_none_or(newer) {
            last.insert(path, artifact);
        }
    }
    let mut found: Vec<_> = count.iter().map(|(path, count)| format!("{path}@{count}")).collect();
    found.sort();
    let mut expected: Vec<_> =
        way.expected.iter().map(|(path, n)| format!("/workspace/out/{path}@{n}")).collect();
    expected.sort();
    if found != expected {
        wrong.push(format!("found {found:?} instead of {expected:?}"));
    }
    for (path, artifact) in &last {
        if artifact["state"] != "READY" {
            wrong.push(format!("{path} is {}", artifact["state"]));
        }
        let is_of_a_run =
            artifact["run_id"].as_str().is_some_and(|id| runs.iter().any(|r| r == id));
        if !is_of_a_run || !artifact["writer"]["command"].is_array() {
            let (run, writer) = (&artifact["run_id"], &artifact["writer"]);
            wrong.push(format!("{path} is attributed to run {run} and process {writer}"));
        }
        // What was moved away later has no file to compare with.
        let host = Path::new(artifact["host_path"].as_str().unwrap());
        let digest = artifact["digest"].as_str().unwrap();
        if host.exists() && digest_of(host) != digest {
            wrong.push(format!("{path} does not hold the final bytes"));
        }
        let hex = digest.strip_prefix("blake3:").unwrap();
        let kept = place.path(&format!("state/blobs/{}/{}", &hex[..2], &hex[2..]));
        if digest_of(&kept) != digest {
            wrong.push(format!("the content of {path} is not kept"));
        }
    }
    wrong
}

#[test]
fn every_way_of_writing_leaves_exactly_its_artifacts() {
    assert_programs();
    let mut place = patient_place();
    let mut failed = Vec::new();
    for way in WAYS {
        prepare(&place, way);
        let mut runs = Vec::new();
        let mut wrong = Vec::new();
        for script in way.runs {
            let output = run(&place, way.name, script);
            if !output.status.success() {
                wrong.push(text(&output));
                continue;
            }
            let receipt: Value =
                serde_json::from_slice(&fs::read(place.path("receipt.json")).unwrap()).unwrap();
            if receipt["complete"] != true {
                wrong.push(format!("incomplete: {}", receipt["incomplete"]));
            }
            runs.push(receipt["run_id"].as_str().unwrap().to_owned());
        }
        wrong.extend(differences(&place, way, &runs));
        if !wrong.is_empty() {
            failed.push(format!("{}: {}", way.name, wrong.join("; ")));
        }
    }
    assert!(failed.is_empty(), "{} of {} ways:\n{}", failed.len(), WAYS.len(), failed.join("\n"));
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.assert_clean();
}

/// What the whole table wrote and closed, and nobody registered, is there after the daemon was killed.
#[test]
fn every_way_of_writing_survives_a_daemon_that_is_killed() {
    assert_programs();
    let mut place = patient_place();
    // One run writes all, so that it is killed with everything closed and nothing registered.
    let mut script = String::new();
    let single: Vec<&Way> =
        WAYS.iter().filter(|way| way.runs.len() == 1 && !way.runs[0].contains("exec ")).collect();
    for way in &single {
        let out = place.path(&format!("output/{}/out", way.name));
        fs::create_dir_all(&out).unwrap();
        fs::create_dir_all(place.path(&format!("output/{}/other", way.name))).unwrap();
        std::os::unix::fs::symlink(
            "../../input",
            place.path(&format!("output/{}/input", way.name)),
        )
        .unwrap();
        for (name, text) in way.before {
            fs::write(out.join(name), text).unwrap();
        }
        let quoted = way.runs[0].replace('\'', "'\\''");
        script += &format!("(cd output/{}/out; sh -ec '{quoted}'); ", way.name);
    }
    script += "echo written; exec sleep 60";
    let mut child = place
        .run_command(&["-w", "killed"], &format!("set -e; {script}"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(child.stdout.take().unwrap()),
        &mut line,
    )
    .unwrap();
    if line != "written\n" {
        let _ = child.kill();
        panic!("{line:?} {}", text(&finish(child)));
    }
    assert!(place.artifacts(&[]).is_empty(), "something is registered already");
    place.stop_daemon(Signal::SIGKILL);
    finish(child);

    place.start_daemon();
    assert!(place.output(["artifact", "sync"]).status.success());
    let found: Vec<String> = place
        .artifacts(&["--all-versions"])
        .iter()
        .map(|artifact| {
            let host = Path::new(artifact["host_path"].as_str().unwrap());
            assert_eq!(digest_of(host), artifact["digest"].as_str().unwrap(), "{artifact}");
            assert!(artifact["run_id"].is_string(), "{artifact}");
            assert!(artifact["writer"]["command"].is_array(), "{artifact}");
            let path = artifact["path"].as_str().unwrap();
            path.trim_start_matches("/workspace/output/").to_owned()
        })
        .collect();
    let expected = single.iter().flat_map(|way| {
        let paths = way.expected.iter();
        paths.map(|(path, _)| format!("{}/out/{path}", way.name))
    });
    let missing: Vec<String> = expected.clone().filter(|path| !found.contains(path)).collect();
    let surplus: Vec<&String> =
        found.iter().filter(|path| !expected.clone().any(|known| known == **path)).collect();
    assert!(missing.is_empty() && surplus.is_empty(), "missing {missing:?}, surplus {surplus:?}");
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.assert_clean();
}

/// Words of the command line of whoever wrote `path`.
fn writer_of(place: &Place, path: &str) -> (Value, Vec<String>) {
    let artifacts = place.artifacts(&[]);
    let found = artifacts.iter().find(|artifact| artifact["path"] == path);
    let artifact = found.unwrap_or_else(|| panic!("no {path} in {artifacts:?}"));
    let words = artifact["writer"]["command"].as_array().expect("a command").iter();
    let words = words.map(|word| word.as_str().unwrap().to_owned()).collect();
    (artifact.clone(), words)
}

#[test]
fn a_row_names_the_process_that_opened_the_file_and_not_its_shell() {
    let mut place = Place::new();
    place.start_daemon();
    let script = "echo x > output/by-shell; cp input/data.txt output/by-cp; cat input/data.txt > output/by-redirection; \
        exec dd if=input/data.txt of=output/by-exec status=none";
    let output = place.run(&[], script);
    assert!(output.status.success(), "{}", text(&output));
    let (artifact, words) = writer_of(&place, "/workspace/output/by-cp");
    assert_eq!(words, ["cp", "input/data.txt", "output/by-cp"]);
    assert_eq!(artifact["writer"]["uid"], 0);
    // The shell's child opens the file before it becomes cat.
    for by_shell in ["by-shell", "by-redirection"] {
        let (_, words) = writer_of(&place, &format!("/workspace/output/{by_shell}"));
        assert_eq!(words, ["sh", "-c", script], "{by_shell}");
    }
    // The same process as the shell, with the same start time, and another command.
    let (_, words) = writer_of(&place, "/workspace/output/by-exec");
    assert_eq!(words[0], "dd");

    // A thread opens, its process is named.
    let threads = "import threading,os; t=threading.Thread(target=lambda: open('output/by-thread','w').write(str(threading.get_native_id()!=os.getpid()))); t.start(); t.join()";
    let mut command = place.run_command(&[], "exec python3 -c \"$0\"");
    let output = command.arg(threads).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(fs::read_to_string(place.path("output/by-thread")).unwrap(), "True");
    let (artifact, words) = writer_of(&place, "/workspace/output/by-thread");
    assert_eq!(words, ["python3", "-c", threads]);
    assert!(artifact["writer"]["pid"].as_u64().unwrap() > 0);
}

#[test]
fn a_process_can_dress_its_command_line_and_never_its_run() {
    let mut place = Place::new();
    place.start_daemon();
    let output = place.run(
        &["--receipt", "r.json", "--graph-id", "g"],
        "exec bash -c 'exec -a innocent python3 -c \"import os; os.setsid() if os.getpid() != os.getsid(0) else None; open(\\\"output/f\\\",\\\"w\\\").write(\\\"x\\\")\"'",
    );
    assert!(output.status.success(), "{}", text(&output));
    let receipt: Value = serde_json::from_slice(&fs::read(place.path("r.json")).unwrap()).unwrap();
    let (artifact, words) = writer_of(&place, "/workspace/output/f");
    assert_eq!(words[0], "innocent", "what the process showed");
    assert_eq!(artifact["run_id"], receipt["run_id"]);
    assert_eq!(artifact["graph_id"], "g");
}

#[test]
fn who_wrote_survives_the_death_of_the_writer_and_of_the_daemon() {
    let mut place = patient_place();
    let mut child = place
        .run_command(&["-w", "w"], "cp input/data.txt output/f; echo closed; exec sleep 60")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut reader = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut reader, &mut line).unwrap();
    assert_eq!(line, "closed\n");
    place.stop_daemon(Signal::SIGKILL);
    finish(child);
    place.start_daemon();
    let (artifact, words) = writer_of(&place, "/workspace/output/f");
    assert_eq!(words, ["cp", "input/data.txt", "output/f"]);
    assert!(artifact["run_id"].is_string());
    let id = artifact["id"].as_str().unwrap();
    let shown = stdout(&place.output(["artifact", "show", id]));
    assert!(shown.contains("cp input/data.txt output/f"), "{shown}");
    assert!(place.stop_daemon(Signal::SIGTERM).success());
}

#[test]
fn what_is_written_outside_every_run_is_unattributed_and_names_its_process() {
    let mut place = Place::new();
    place.start_daemon();
    let made = place.output(["workspace", "create", "w", "--rw", "output=output"]);
    assert!(made.status.success(), "{}", text(&made));
    let root = place.json(["workspace", "show", "w"])["root"].as_str().unwrap().to_owned();
    let to = format!("{root}/output/f");
    let copied = Command::new("cp").arg(place.path("input/data.txt")).arg(&to).status().unwrap();
    assert!(copied.success());
    assert!(place.output(["artifact", "sync"]).status.success());
    let (artifact, words) = writer_of(&place, "/workspace/output/f");
    assert_eq!(artifact["run_id"], Value::Null);
    assert_eq!((words[0].as_str(), words[2].as_str()), ("cp", to.as_str()));
    let id = artifact["id"].as_str().unwrap();
    let shown = stdout(&place.output(["artifact", "show", id]));
    assert!(shown.contains("unattributed"), "{shown}");
    assert!(place.output(["workspace", "rm", "w"]).status.success());
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.assert_clean();
}

/// The largest resident set that a process ever had, in bytes (proc_pid_status(5), VmHWM).
fn peak_memory(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Writes `content N` to a file for each N, 500 to a directory.
const MANY: &str = "import os, sys
for n in range(int(sys.argv[1])):
    d = 'output/d%03d' % (n // 500)
    n % 500 or os.mkdir(d)
    open('%s/f%d' % (d, n), 'w').write('content %d' % n)
";

#[test]
fn of_very_many_small_files_none_is_missed_and_none_is_there_twice() {
    const MEMORY_MAX: u64 = 200 << 20;
    let many = if std::env::var_os("BELLJAR_TEST_LONG").is_some() { 100_000 } else { 10_000 };
    let count = many.to_string();
    let mut place = Place::new();
    place.start_daemon();
    let began = std::time::Instant::now();
    let options = ["--receipt", "r.json", "--drain-timeout", "10m"];
    let output = place
        .run_command(&options, "exec python3 -c \"$0\" \"$1\"")
        .args([MANY, &count])
        .output()
        .unwrap();
    let took = began.elapsed();
    assert!(output.status.success(), "{}", text(&output));
    let peak = peak_memory(place.daemon_pid());
    println!("{many} files in {took:?}, the daemon's peak memory is {} MiB", peak >> 20);
    let receipt: Value = serde_json::from_slice(&fs::read(place.path("r.json")).unwrap()).unwrap();
    assert_eq!(receipt["complete"], true, "{}", receipt["incomplete"]);

    let limit = (2 * many).to_string();
    let page = place.json(["artifact", "ls", "--all-versions", "--limit", &limit]);
    let list = page.get("artifacts").unwrap_or(&page).as_array().unwrap();
    let mut numbers = std::collections::BTreeSet::new();
    for artifact in list {
        let path = artifact["path"].as_str().unwrap();
        let number: usize = path.rsplit_once("/f").unwrap().1.parse().unwrap();
        let expected = blake3::hash(format!("content {number}").as_bytes()).to_hex();
        assert_eq!(artifact["digest"], format!("blake3:{expected}"), "{path}");
        assert_eq!((&artifact["version"], &artifact["state"]), (&1.into(), &"READY".into()));
        assert!(numbers.insert(number), "{path} is there twice");
    }
    assert_eq!(numbers.len(), many);
    assert!(peak < MEMORY_MAX, "the daemon needed {} MiB", peak >> 20);
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.assert_clean();
}

#[test]
fn a_sync_with_a_scan_finds_what_was_written_on_the_host() {
    let mut place = Place::new();
    place.start_daemon();
    let made = place.output(["workspace", "create", "w", "--rw", "output=output"]);
    assert!(made.status.success(), "{}", text(&made));
    fs::write(place.path("output/by-host"), "past the workspace").unwrap();
    assert!(place.output(["artifact", "sync"]).status.success());
    assert!(place.artifacts(&[]).is_empty(), "nobody asked for a scan");
    let outcome = place.json(["artifact", "sync", "--scan", "-w", "w"]);
    assert_eq!(outcome["scanned"]["found"], 1, "{outcome}");
    assert_eq!(outcome["complete"], true, "{outcome}");
    let artifacts = place.artifacts(&[]);
    assert_eq!(artifacts[0]["path"], "/workspace/output/by-host");
    assert_eq!((&artifacts[0]["run_id"], &artifacts[0]["writer"]), (&Value::Null, &Value::Null));
    assert_eq!(artifacts[0]["workspace_id"], "w");
    assert!(place.output(["workspace", "rm", "w"]).status.success());
    // What was written in a workspace that is gone can be waited for; a name that never was is a slip.
    assert!(place.output(["artifact", "sync", "-w", "w"]).status.success());
    let unknown = place.output(["artifact", "sync", "-w", "v"]);
    assert_eq!(unknown.status.code(), Some(4), "{}", text(&unknown));
    assert!(stderr(&unknown).contains("no workspace v"), "{}", text(&unknown));
    assert!(place.stop_daemon(Signal::SIGTERM).success());
    place.assert_clean();
}
