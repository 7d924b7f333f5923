//! What of this machine can hold limits, found without the code under test, and runs with limits.

use crate::support::{Place, stderr, text};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

/// A run whose limits are in force.
pub struct Limited {
    pub output: Output,
    pub receipt: Value,
}

/// Directories in which a cgroup file system of either version is mounted, with the version's name and the options.
fn mounts() -> Vec<(PathBuf, String, String)> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let cgroups = table.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let kind = fields[2];
        kind.starts_with("cgroup")
            .then(|| (fields[1].into(), kind.to_owned(), fields[3].to_owned()))
    });
    cgroups.collect()
}

/// Whether root can have a cgroup with this controller here.
pub fn has(controller: &str) -> bool {
    mounts().into_iter().any(|(at, kind, options)| {
        let probe = at.join(format!("belljar-test-{}-{controller}", std::process::id()));
        let listed = match kind.as_str() {
            "cgroup" => options.split(',').any(|option| option == controller),
            _ => {
                let given = fs::read_to_string(at.join("cgroup.subtree_control"));
                given.unwrap_or_default().split_whitespace().any(|name| name == controller)
            }
        };
        let made = listed && fs::create_dir(&probe).is_ok();
        if made {
            fs::remove_dir(&probe).unwrap();
        }
        made
    })
}

/// Every cgroup that has this run's id in its name.
pub fn directories_of(run: &str) -> Vec<PathBuf> {
    assert_eq!(run.len(), 36, "{run:?} is no id of a run");
    all().into_iter().filter(|at| at.to_str().is_some_and(|at| at.contains(run))).collect()
}

fn all() -> Vec<PathBuf> {
    let mut open: Vec<PathBuf> = mounts().into_iter().map(|(at, _, _)| at).collect();
    let mut found = Vec::new();
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
                found.push(entry.path());
            }
        }
    }
    found
}

/// Cgroups of runs with a process in them that descends from `ancestor`: other tests may have some of their own.
pub fn groups_with_members_started_below(ancestor: u32) -> Vec<PathBuf> {
    let descends = |pid: &str| {
        let mut next = pid.to_owned();
        while next != "0" && next != "1" {
            if next == ancestor.to_string() {
                return true;
            }
            let Ok(status) = fs::read_to_string(format!("/proc/{next}/status")) else { break };
            let parent = status.lines().find_map(|line| line.strip_prefix("PPid:\t"));
            next = parent.unwrap_or("0").to_owned();
        }
        false
    };
    all()
        .into_iter()
        .filter(|at| at.file_name().unwrap().to_str().unwrap().starts_with("belljar-"))
        .filter(|at| {
            let members = fs::read_to_string(at.join("cgroup.procs")).unwrap_or_default();
            // The first process and the command, at least.
            members.lines().count() > 1 && members.lines().all(descends)
        })
        .collect()
}

/// What the kernel says of the limits of one cgroup, the same for both versions.
pub fn settings(at: &Path) -> Vec<String> {
    let read =
        |file: &str| fs::read_to_string(at.join(file)).ok().map(|text| text.trim().to_owned());
    let mut settings = Vec::new();
    if let Some(memory) = read("memory.limit_in_bytes").or_else(|| read("memory.max")) {
        settings.push(format!("memory={memory}\n"));
    }
    if let (Some(quota), Some(period)) = (read("cpu.cfs_quota_us"), read("cpu.cfs_period_us")) {
        settings.push(format!("cpu={quota}/{period}\n"));
    } else if let Some(cpu) = read("cpu.max") {
        settings.push(format!("cpu={}\n", cpu.replace(' ', "/")));
    }
    if let Some(pids) = read("pids.max") {
        settings.push(format!("pids={pids}\n"));
    }
    settings
}

pub fn receipt(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

pub fn layer<'a>(receipt: &'a Value, name: &str) -> &'a Value {
    let layers = receipt["enforcement"].as_array().unwrap();
    layers.iter().find(|layer| layer["name"] == name).unwrap_or_else(|| panic!("{name}: {receipt}"))
}

/// A run with limits. Where the machine cannot hold one of them, it must be refused by its name, and nothing have run.
pub fn enforced_or_refused(place: &Place, options: &[&str], script: &str) -> Option<Limited> {
    let controllers = [("--memory", "memory"), ("--cpus", "cpu"), ("--pids", "pids")];
    let asked = controllers.iter().filter(|(option, _)| {
        options.contains(option) || (options.contains(&"-f") && *option != "--cpus")
    });
    let missing = asked.clone().find(|(_, controller)| !has(controller));
    // Names of their own: a workspace may still know of a file that the host has removed.
    let unique = uuid::Uuid::now_v7();
    let name = format!("{unique}.json");
    let mut options = options.to_vec();
    options.extend(["--receipt", &name]);
    let output = place.run(&options, &format!("touch /workspace/output/ran-{unique}; {script}"));
    let receipt = receipt(&place.path(&name));
    let ran = place.path(&format!("output/ran-{unique}")).exists();
    if let Some((option, controller)) = missing {
        println!("this machine has no cgroup for {controller}: checking that the run is refused");
        assert_eq!(output.status.code(), Some(125), "{}", text(&output));
        assert!(stderr(&output).contains(&format!("--allow-unenforced {}", &option[2..])));
        assert_eq!(receipt["reason"], "setup-failed", "{receipt}");
        assert!(!ran, "the command ran without its limit");
        return None;
    }
    assert!(ran, "the command did not run: {}", text(&output));
    for (option, _) in asked {
        assert_eq!(layer(&receipt, &option[2..])["in_force"], true, "{receipt}");
    }
    Some(Limited { output, receipt })
}
