//! A real mount and a real run, timed, in directories that are gone afterwards.
//!
//! In a process of its own, which is this program executed again: a private daemon of an ordinary user enters a user
//! namespace, which cannot be left, and a trial that hangs can be ended.

use super::Check;
use crate::cli::connect::Context;
use crate::cli::directory::{MountSpec, Parcel};
use crate::cli::exit::DONE;
use crate::cli::{Outcome, output};
use crate::model::access::Access;
use crate::wire::run::{Argument, Limits, Network, RunRequest};
use crate::wire::workspace::{DescriptorToken, WorkspaceRequest};
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The hidden command that is the trial.
const COMMAND: &str = "probe-run";

/// How long a process that is asked may take; it takes some tens of milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the trial's files are, in its working directory.
const OUTPUT: &str = "output";

/// What the trial tells.
#[derive(Debug, Serialize, Deserialize)]
pub struct Tried {
    /// What the kernel agreed to.
    pub passthrough: bool,
    pub times: Times,
    /// Names of the layers that were in force.
    pub in_force: Vec<String>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Times {
    /// A private daemon, until it answers.
    pub start_ms: f64,
    /// A workspace with one read-write mount point.
    pub mount_ms: f64,
    /// `true` in it, until its receipt is there.
    pub run_ms: f64,
}

/// Does the trial and judges it.
pub(super) fn check() -> (Check, Option<Tried>) {
    const NAME: &str = "a run";
    let fix = "see the message; `BELLJAR_LOG=debug belljar run -- true` says more";
    let tried = Place::new().and_then(|place| {
        let state = place.0.join("state");
        let runtime = place.0.join("runtime");
        let env = [("BELLJAR_STATE_DIR", Some(&*state)), ("BELLJAR_RUNTIME_DIR", Some(&*runtime))];
        let text = itself(&[COMMAND], &env, Some(&place.0))?;
        serde_json::from_str::<Tried>(&text).map_err(|error| format!("its answer: {error}"))
    });
    match tried {
        Ok(tried) => {
            let Times { start_ms, mount_ms, run_ms } = tried.times;
            let detail = format!(
                "a private daemon started in {start_ms:.1} ms, mounted a workspace in {mount_ms:.1} ms and ran `true` in it in {run_ms:.1} ms; in force: {}",
                tried.in_force.join(", ")
            );
            (Check::ok(NAME, detail), Some(tried))
        }
        Err(reason) => (Check::failure(NAME, reason, fix), None),
    }
}

/// A directory of one trial.
struct Place(PathBuf);

impl Place {
    fn new() -> Result<Self, String> {
        let parent = std::env::temp_dir();
        let place = nix::unistd::mkdtemp(&parent.join("belljar-doctor-XXXXXX")).map(Self).map_err(
            |errno| format!("make a directory in {}: {}", parent.display(), errno.desc()),
        )?;
        // The other directories are made by whoever uses them.
        fs::create_dir(place.0.join(OUTPUT))
            .map_err(|error| format!("make a directory in {}: {error}", place.0.display()))?;
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Had a mount stayed, removing recursively would go into it: then all of it stays.
        let mounted = fs::read_to_string("/proc/self/mounts")
            .map_or(true, |table| table.contains(&*self.0.to_string_lossy()));
        if !mounted {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// This program with other arguments; its standard output, or what it complained of. A variable without a value is taken away.
pub fn itself(
    arguments: &[&str],
    env: &[(&str, Option<&Path>)],
    directory: Option<&Path>,
) -> Result<String, String> {
    let program = std::env::current_exe().map_err(|error| format!("find this program: {error}"))?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (name, value) in env {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if let Some(directory) = directory {
        command.current_dir(directory);
    }
    let mut child =
        command.spawn().map_err(|error| format!("start this program again: {error}"))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let complaints = std::thread::spawn(move || read_all(stderr));
    let answer = std::thread::spawn(move || read_all(stdout));
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            Ok(None) | Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("it did not end within {} s", PATIENCE.as_secs()));
            }
        }
    };
    let answer = answer.join().unwrap_or_default();
    let complaints = complaints.join().unwrap_or_default();
    if status.success() {
        return Ok(answer);
    }
    let last = complaints.lines().rev().find(|line| !line.trim().is_empty());
    Err(last.map_or_else(
        || format!("it ended with {status}"),
        |line| line.trim_start_matches("belljar: ").to_owned(),
    ))
}

fn read_all(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // What arrived before an error is all that there is.
        let _ = pipe.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The trial's own half: prints [`Tried`].
pub fn run(context: &Context) -> Outcome {
    let began = Instant::now();
    let connection = context.private()?;
    let started = Instant::now();
    let client = &connection.client;
    let spec = MountSpec::parse(OsStr::new("output=output"), Access::ReadWrite)?;
    let mut parcel = Parcel::default();
    let mounts = parcel.add_mounts(&[spec])?;
    let (token, sent) = parcel.send(client)?;
    let request = WorkspaceRequest {
        id: Some("doctor".parse().map_err(anyhow::Error::from)?),
        mounts,
        secrets: Default::default(),
        env: Default::default(),
        descriptors: Some(token),
        lease: false,
    };
    let workspace = connection.block_on(client.create_workspace(&request))?;
    drop(sent);
    let mounted = Instant::now();
    let mut parcel = Parcel::default();
    for _ in 0..3 {
        let null = File::options().read(true).write(true).open("/dev/null");
        parcel.add(OwnedFd::from(null.context("open /dev/null")?));
    }
    let (token, leash) = parcel.send(client)?;
    let started_run =
        connection.block_on(client.start_run(&request_of_true(&workspace.id, token)))?;
    let receipt = connection.block_on(client.receipt(started_run.run_id))?;
    let ran = Instant::now();
    drop(leash);
    connection.block_on(client.remove_workspace(&workspace.id))?;
    if receipt.exit_code != 0 {
        return Err(anyhow::anyhow!("`true` in a workspace: {}", receipt.message).into());
    }
    let ms = |from: Instant, to: Instant| (to - from).as_secs_f64() * 1_000.0;
    let tried = Tried {
        passthrough: workspace.mounts.iter().all(|mount| mount.passthrough),
        times: Times {
            start_ms: ms(began, started),
            mount_ms: ms(started, mounted),
            run_ms: ms(mounted, ran),
        },
        in_force: receipt
            .enforcement
            .into_iter()
            .filter(|layer| layer.in_force)
            .map(|layer| layer.name)
            .collect(),
    };
    // It ends before the answer, so that what goes wrong with that is no success.
    drop(connection);
    output::print_json(&tried);
    Ok(DONE)
}

fn request_of_true(
    workspace: &crate::model::id::WorkspaceId,
    descriptors: DescriptorToken,
) -> RunRequest {
    RunRequest {
        workspace: WorkspaceRequest {
            id: Some(workspace.clone()),
            mounts: Vec::new(),
            secrets: Default::default(),
            env: Default::default(),
            descriptors: None,
            lease: false,
        },
        keep: true,
        command: vec![Argument::Text("true".to_owned())],
        workdir: None,
        expose: Vec::new(),
        rootfs: None,
        secret_env: Vec::new(),
        env: Default::default(),
        graph_id: None,
        node_id: None,
        timeout_ms: None,
        network: Network::None,
        user: None,
        wait_children: false,
        wait_upload: false,
        drain_timeout_ms: None,
        limits: Limits::default(),
        allow_unenforced: Vec::new(),
        terminal: false,
        term: None,
        descriptors,
    }
}
