//! `belljar run`: options to one request, signals on the way, a receipt at the end.
//!
//! Order: everything that can be refused is looked at first, so that a mistake leaves nothing behind; then the daemon is
//! found or started; then the directories are opened and sent, and the run begins.

use super::Outcome;
use super::connect::{Connection, Context};
use super::directory::{MountSpec, Parcel, RootDirectory, collect};
use super::env::parse_variable;
use super::exit::Failure;
use super::manifest::Manifest;
use super::receipt::ReceiptFile;
use super::secret_source::{SecretSource, SecretSources};
use super::terminal::{Session, Terminal};
use crate::client::{Client, ClientError, Leash};
use crate::config::units::{parse_duration, parse_size};
use crate::model::id::{SecretName, VariableName, WorkspaceId};
use crate::wire::run::{
    Argument, ExposeRequest, Limits, Network, Receipt, RootfsRequest, RunRequest, RunStarted,
    RunUser,
};
use crate::wire::workspace::WorkspaceRequest;
use anyhow::{Context as _, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, ValueEnum};
use nix::fcntl::{OFlag, open};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// What a terminal or a supervisor sends and the command should hear.
const FORWARDED: [SignalKind; 7] = [
    SignalKind::interrupt(),
    SignalKind::terminate(),
    SignalKind::hangup(),
    SignalKind::quit(),
    SignalKind::user_defined1(),
    SignalKind::user_defined2(),
    SignalKind::window_change(),
];

/// What concerns the terminal, and this process only.
const STOPS: [Signal; 2] = [Signal::SIGTSTP, Signal::SIGCONT];

#[derive(Debug, Args)]
#[command(
    after_help = "Exit code: the command's own; 128+N if signal N ended it; 137 too when the run met its memory limit; 124 timeout; 125 Belljar failed before \
or around the command; 126 found but not executable; 127 not found; 3 no daemon at the socket that was named."
)]
pub struct RunArguments {
    /// Use this workspace, or make it; without it a fresh one is made and removed after the run.
    #[arg(short = 'w', long = "workspace", value_name = "ID")]
    workspace: Option<WorkspaceId>,
    /// Read mounts, secrets, environment and limits from this manifest.
    #[arg(short = 'f', long = "file", value_name = "MANIFEST")]
    manifest: Option<PathBuf>,
    /// Keep the workspace that this run makes.
    #[arg(long)]
    keep: bool,
    /// Mount a host directory read-only at /workspace/NAME.
    #[arg(long, value_name = "NAME=PATH")]
    ro: Vec<OsString>,
    /// Mount a host directory read-write at /workspace/NAME; what is written there becomes an artifact.
    #[arg(long, value_name = "NAME=PATH")]
    rw: Vec<OsString>,
    /// Make a host path visible read-only at the same path: an interpreter, a virtual environment.
    #[arg(long, value_name = "PATH")]
    expose: Vec<PathBuf>,
    /// A secret file: NAME=@FILE, NAME=- (standard input), NAME (your variable), or NAME=VALUE, which `ps` shows to
    /// everyone on this machine.
    #[arg(long, value_name = "NAME[=SOURCE]")]
    secret: Vec<OsString>,
    /// Give this secret to the command as an environment variable too.
    #[arg(long, value_name = "NAME")]
    secret_env: Vec<SecretName>,
    /// An environment variable: NAME=VALUE, or NAME for your own.
    #[arg(long, value_name = "NAME[=VALUE]")]
    env: Vec<OsString>,
    /// Record this graph with the run's artifacts.
    #[arg(long, value_name = "ID")]
    graph_id: Option<String>,
    /// Record this node of the graph with the run's artifacts.
    #[arg(long, value_name = "ID")]
    node_id: Option<String>,
    /// Memory of all processes of the run, such as 2GiB; a run that meets it is ended.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory: Option<u64>,
    /// Processors of the run, such as 1.5.
    #[arg(long, value_name = "N", value_parser = parse_cpus)]
    cpus: Option<f64>,
    /// Processes and threads of the run.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pids: Option<u32>,
    /// End the run after this long, such as 90s or 1h30m: SIGTERM, and two seconds later SIGKILL.
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout)]
    timeout: Option<Duration>,
    /// Which network the command sees.
    #[arg(long, value_name = "NETWORK")]
    network: Option<NetworkArgument>,
    /// Run as this user (root only); else the owner of the first rw mount.
    #[arg(long, value_name = "UID[:GID]", value_parser = parse_user)]
    user: Option<RunUser>,
    /// Working directory, below /workspace unless absolute.
    #[arg(long, value_name = "DIR")]
    workdir: Option<PathBuf>,
    /// Root file system of the command, read-only, instead of the host's programs and libraries.
    #[arg(long, value_name = "DIR")]
    rootfs: Option<PathBuf>,
    /// Write what happened to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    receipt: Option<PathBuf>,
    /// Run although this layer (landlock, seccomp) or limit (memory, cpus, pids) cannot be enforced; the receipt says so, and what
    /// stands in for a limit.
    #[arg(long, value_name = "WHAT")]
    allow_unenforced: Vec<String>,
    /// When the command ends, wait for what it left running instead of ending it.
    #[arg(long)]
    wait_children: bool,
    /// Wait, too, until the remote store has the contents of the run's artifacts.
    #[arg(long)]
    wait_upload: bool,
    /// Wait at most this long for the run's artifacts to be registered, and uploaded [default: 60s].
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    drain_timeout: Option<Duration>,
    /// No summary.
    #[arg(long, short)]
    quiet: bool,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum NetworkArgument {
    /// No network at all.
    None,
    /// The host's.
    Host,
}

fn parse_cpus(text: &str) -> anyhow::Result<f64> {
    match text.parse::<f64>() {
        Ok(cpus) if cpus.is_finite() && cpus > 0.0 => Ok(cpus),
        Ok(_) | Err(_) => bail!("write a number above 0, such as 2 or 1.5"),
    }
}

fn parse_timeout(text: &str) -> anyhow::Result<Duration> {
    match parse_duration(text)? {
        Duration::ZERO => bail!("a timeout of 0 would end the run before it starts"),
        timeout => Ok(timeout),
    }
}

fn parse_user(text: &str) -> anyhow::Result<RunUser> {
    let number = |text: &str| {
        text.parse::<u32>()
            .ok()
            // 2^32-1 means "do not change" to setresuid(2).
            .filter(|id| *id != u32::MAX)
            .ok_or_else(|| {
                anyhow!("{text:?} is not a numeric id: write UID or UID:GID, such as 1000:1000")
            })
    };
    Ok(match text.split_once(':') {
        Some((uid, gid)) => RunUser { uid: number(uid)?, gid: Some(number(gid)?) },
        None => RunUser { uid: number(text)?, gid: None },
    })
}

pub fn run(context: &Context, arguments: RunArguments) -> Outcome {
    let mut receipt_file = match &arguments.receipt {
        Some(path) => Some(ReceiptFile::create(path)?),
        None => None,
    };
    let workspace = arguments.workspace.clone();
    let outcome = run_to_receipt(context, arguments);
    if let (Some(file), Err(failure)) = (&mut receipt_file, &outcome) {
        file.write_failure(workspace.as_ref(), failure)?;
    }
    let (receipt, quiet) = outcome?;
    if let Some(file) = &mut receipt_file {
        file.write(&receipt)?;
    }
    super::receipt::summarise(&receipt, quiet);
    Ok(receipt.exit_code)
}

fn run_to_receipt(context: &Context, arguments: RunArguments) -> Result<(Receipt, bool), Failure> {
    let quiet = arguments.quiet;
    let plan = Plan::new(arguments)?;
    let connection = context.running_or_private()?;
    let sent = plan.send(&connection)?;
    let receipt = connection.block_on(follow(connection.client.clone(), sent))?;
    Ok((receipt, quiet))
}

/// Everything that is known before there is a daemon; it has been looked at and found possible.
struct Plan {
    mounts: Vec<MountSpec>,
    expose: Vec<(PathBuf, String)>,
    rootfs: Option<RootDirectory>,
    stdin_is_secret: bool,
    /// Complete but for what names descriptors.
    request: RunRequest,
}

impl Plan {
    fn new(arguments: RunArguments) -> Result<Plan, Failure> {
        let manifest = match &arguments.manifest {
            Some(path) => Manifest::read(path)?,
            None => Manifest::default(),
        };
        let id = match (arguments.workspace, manifest.id) {
            (Some(given), Some(written)) if given != written => {
                return Err(Failure::usage(format!(
                    "-w {given} and the manifest's id {written} name different workspaces: leave one out"
                )));
            }
            (given, written) => given.or(written),
        };
        let mounts = collect(&arguments.ro, &arguments.rw, manifest.mounts)?;
        for mount in &mounts {
            mount.prepare()?;
        }
        let mut expose = Vec::with_capacity(arguments.expose.len());
        for path in &arguments.expose {
            expose.push(check_exposed(path)?);
        }
        let rootfs = match arguments.rootfs.or(manifest.rootfs) {
            Some(path) => Some(RootDirectory::check(&path)?),
            None => None,
        };
        let mut sources = SecretSources::default();
        for (name, source) in manifest.secrets {
            sources.add(name, source)?;
        }
        for text in &arguments.secret {
            let (name, source) = SecretSource::parse(text)?;
            sources.add(name, source)?;
        }
        let mut env: BTreeMap<VariableName, String> = BTreeMap::new();
        for text in &arguments.env {
            let (name, value) = parse_variable(text)?;
            env.insert(name, value);
        }
        let mut command = Vec::with_capacity(arguments.command.len());
        command.extend(arguments.command.iter().map(|argument| to_wire(argument)));
        let limits = Limits {
            memory_bytes: arguments.memory.or(manifest.limits.memory_bytes),
            cpus: arguments.cpus.or(manifest.limits.cpus),
            pids: arguments.pids.or(manifest.limits.pids),
        };
        let network = match arguments.network {
            Some(NetworkArgument::None) => Network::None,
            Some(NetworkArgument::Host) => Network::Host,
            None => manifest.network.unwrap_or_default(),
        };
        let request = RunRequest {
            workspace: WorkspaceRequest {
                id,
                mounts: Vec::new(),
                secrets: sources.requests()?,
                env: manifest.env,
                descriptors: None,
                lease: false,
            },
            keep: arguments.keep,
            command,
            workdir: arguments.workdir.as_deref().map(inside).transpose()?,
            expose: Vec::new(),
            rootfs: None,
            secret_env: arguments.secret_env,
            env,
            graph_id: arguments.graph_id,
            node_id: arguments.node_id,
            timeout_ms: arguments.timeout.map(milliseconds),
            network,
            user: arguments.user,
            wait_children: arguments.wait_children,
            drain_timeout_ms: arguments.drain_timeout.map(milliseconds),
            wait_upload: arguments.wait_upload,
            limits,
            allow_unenforced: arguments.allow_unenforced,
            terminal: false,
            term: std::env::var("TERM").ok(),
            descriptors: crate::wire::workspace::DescriptorToken(String::new()),
        };
        Ok(Plan { mounts, expose, rootfs, stdin_is_secret: sources.take_stdin(), request })
    }

    /// Opens, sends, and names in the request what was sent.
    fn send(self, connection: &Connection) -> Result<Sent, Failure> {
        let mut request = self.request;
        let mut parcel = Parcel::default();
        let mut terminal = Terminal::open(!self.stdin_is_secret)?;
        request.terminal = terminal.is_some();
        for descriptor in stdio(self.stdin_is_secret, terminal.as_ref())? {
            parcel.add(descriptor);
        }
        for (host_path, path) in self.expose {
            let opened = open(&host_path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
                .map_err(|errno| anyhow!("open {}: {}", host_path.display(), errno.desc()))?;
            let descriptor = parcel.add(opened);
            request.expose.push(ExposeRequest { path, descriptor });
        }
        if let Some(root) = self.rootfs {
            let (path, directory) = root.open()?;
            request.rootfs = Some(RootfsRequest { path, descriptor: parcel.add(directory) });
        }
        request.workspace.mounts = parcel.add_mounts(&self.mounts)?;
        let (token, leash) = parcel.send(&connection.client)?;
        request.descriptors = token;
        if let Some(terminal) = &mut terminal {
            terminal.sent();
        }
        Ok(Sent { request, leash, terminal })
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A run that the daemon can begin.
struct Sent {
    request: RunRequest,
    leash: Leash,
    terminal: Option<Terminal>,
}

/// The caller's own three, but for a terminal; standard input belongs to the secret when one reads it.
fn stdio(stdin_is_secret: bool, terminal: Option<&Terminal>) -> anyhow::Result<[OwnedFd; 3]> {
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let pass_on = |which: usize, own: BorrowedFd<'_>, what: &'static str| {
        if let Some(terminal) = terminal
            && let Some(slave) = terminal.in_place_of(which)?
        {
            return Ok(slave);
        }
        own.try_clone_to_owned().context(what)
    };
    let input = if stdin_is_secret {
        OwnedFd::from(File::open("/dev/null").context("open /dev/null")?)
    } else {
        pass_on(0, stdin.as_fd(), "pass on standard input")?
    };
    Ok([
        input,
        pass_on(1, stdout.as_fd(), "pass on standard output")?,
        pass_on(2, stderr.as_fd(), "pass on standard error")?,
    ])
}

/// The path to open, and the same path as it will be inside: absolute, without `.` and `..`.
fn check_exposed(given: &Path) -> anyhow::Result<(PathBuf, String)> {
    let absolute =
        std::path::absolute(given).with_context(|| format!("--expose {}", given.display()))?;
    let path = if absolute.components().any(|part| part == Component::ParentDir) {
        absolute.canonicalize()
    } else {
        absolute.metadata().map(|_| absolute.clone())
    };
    let path = path.with_context(|| {
        format!(
            "--expose {}: it cannot be reached; correct the path, or leave it out",
            given.display()
        )
    })?;
    match path.to_str() {
        Some(text) => Ok((path.clone(), text.to_owned())),
        None => {
            bail!("--expose {path:?}: the path is not UTF-8: expose its parent directory instead")
        }
    }
}

/// A working directory as seen inside.
fn inside(given: &Path) -> anyhow::Result<String> {
    let path = Path::new("/workspace").join(given);
    match path.to_str() {
        Some(text) if !path.components().any(|part| part == Component::ParentDir) => {
            Ok(text.to_owned())
        }
        Some(_) | None => bail!("--workdir {given:?} must be UTF-8 and without `..`"),
    }
}

fn to_wire(argument: &OsStr) -> Argument {
    match argument.to_str() {
        Some(text) => Argument::Text(text.to_owned()),
        None => Argument::Bytes { base64: STANDARD.encode(argument.as_bytes()) },
    }
}

/// After a signal that means "end", how long a start may still take before it is given up. Chosen, not measured.
const START_PATIENCE: Duration = Duration::from_secs(5);

/// How long a command may take to end by itself after its terminal is gone. Chosen, not measured.
const HANG_UP_PATIENCE: Duration = Duration::from_secs(2);

/// Starts the run, forwards signals and what is typed and shown, and waits for its end.
async fn follow(client: Client, sent: Sent) -> Result<Receipt, Failure> {
    let Sent { request, leash, terminal } = sent;
    let mut signals = Signals::listen(terminal.is_some())?;
    let started = start(&client, &request, &mut signals.arrived).await?;
    // The request holds secrets; from here on nobody needs it.
    drop(request);
    let mut session = match terminal {
        Some(terminal) => Some(terminal.begin(signals.sender.clone())?),
        None => None,
    };
    let ended = wait(&client, &started, &mut signals.arrived, session.as_ref(), leash).await;
    if let Some(session) = &mut session {
        tokio::select! {
            () = session.drained() => {}
            // A screen that takes nothing must not keep this process.
            _ = ending(&mut signals.arrived) => {}
        }
    }
    ended.map_err(Failure::of_a_started_run)
}

/// Starts the run. A signal that comes meanwhile may find the command running already, with the answer on its way: it is
/// the command's then. Returning an error drops the leash, which ends what may have begun.
async fn start(
    client: &Client,
    request: &RunRequest,
    signals: &mut mpsc::Receiver<i32>,
) -> Result<RunStarted, Failure> {
    let mut starting = std::pin::pin!(client.start_run(request));
    let number = tokio::select! {
        started = &mut starting => return Ok(started?),
        number = ending(signals) => number,
    };
    let started = tokio::select! {
        started = tokio::time::timeout(START_PATIENCE, starting) => started,
        again = ending(signals) => return Err(Failure::interrupted(again)),
    };
    let Ok(started) = started else { return Err(Failure::interrupted(number)) };
    let started = started?;
    match client.signal(started.run_id, number).await {
        Ok(()) | Err(ClientError::Problem(_)) => Ok(started),
        Err(error) => Err(error.into()),
    }
}

/// Waits for the end. Dropping the leash ends the run, for which there is a receipt all the same.
async fn wait(
    client: &Client,
    started: &RunStarted,
    signals: &mut mpsc::Receiver<i32>,
    session: Option<&Session>,
    leash: Leash,
) -> Result<Receipt, ClientError> {
    let run = started.run_id;
    let mut leash = Some(leash);
    let mut hung_up = None;
    let mut receipt = std::pin::pin!(client.receipt(run));
    loop {
        let patience = async {
            match hung_up {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let number = tokio::select! {
            receipt = &mut receipt => return receipt,
            Some(number) = signals.recv() => number,
            () = patience => {
                leash = None;
                hung_up = None;
                continue;
            }
        };
        if session.is_some_and(|session| session.take_signal(number)) {
            continue;
        }
        if session.is_some() && number == SignalKind::hangup().as_raw_value() && leash.is_some() {
            hung_up.get_or_insert_with(|| tokio::time::Instant::now() + HANG_UP_PATIENCE);
        }
        // A signal to a run that has just ended is answered with an error that says nothing new.
        match client.signal(run, number).await {
            Ok(()) | Err(ClientError::Problem(_)) => {}
            Err(error) => return Err(error),
        }
    }
}

/// All signals that are listened for, in one queue.
struct Signals {
    arrived: mpsc::Receiver<i32>,
    sender: mpsc::Sender<i32>,
}

impl Signals {
    /// With a terminal also those that stop and continue this process.
    fn listen(terminal: bool) -> anyhow::Result<Self> {
        // Signals of one kind coalesce in the kernel, so a short queue loses nothing that was not lost before.
        let (sender, arrived) = mpsc::channel(16);
        let stops = if terminal { &STOPS[..] } else { &[] };
        let kinds = FORWARDED.into_iter();
        for kind in kinds.chain(stops.iter().map(|stop| SignalKind::from_raw(*stop as i32))) {
            let mut arrivals = signal(kind).context("listen for signals")?;
            let sender = sender.clone();
            tokio::spawn(async move {
                while arrivals.recv().await.is_some() {
                    if sender.send(kind.as_raw_value()).await.is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Self { arrived, sender })
    }
}

/// The next signal that means "end"; the others have nobody to go to yet.
async fn ending(signals: &mut mpsc::Receiver<i32>) -> i32 {
    let ends = FORWARDED[..4].iter().map(SignalKind::as_raw_value).collect::<Vec<_>>();
    loop {
        match signals.recv().await {
            Some(number) if ends.contains(&number) => return number,
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_numeric() {
        assert_eq!(parse_user("7").expect("legal"), RunUser { uid: 7, gid: None });
        assert_eq!(parse_user("7:8").expect("legal"), RunUser { uid: 7, gid: Some(8) });
        for bad in ["root", "7:", "-1", "4294967295"] {
            assert!(parse_user(bad).expect_err("refused").to_string().contains("UID:GID"), "{bad}");
        }
    }

    #[test]
    fn a_working_directory_is_below_the_workspace_unless_absolute() {
        assert_eq!(inside(Path::new("output")).expect("legal"), "/workspace/output");
        assert_eq!(inside(Path::new("/tmp")).expect("legal"), "/tmp");
        assert!(inside(Path::new("../etc")).is_err());
    }

    #[test]
    fn arguments_that_are_not_text_travel_as_bytes() {
        assert_eq!(to_wire(OsStr::new("a")), Argument::Text("a".to_owned()));
        let bytes = to_wire(OsStr::from_bytes(b"\xff"));
        assert_eq!(bytes, Argument::Bytes { base64: "/w==".to_owned() });
    }

    #[test]
    fn an_exposed_path_that_is_missing_is_named() {
        let error = check_exposed(Path::new("/nonexistent/venv")).expect_err("missing");
        assert!(format!("{error:#}").contains("--expose /nonexistent/venv"), "{error:#}");
        let (_, inside) = check_exposed(Path::new("/usr/../usr")).expect("exists");
        assert_eq!(inside, "/usr");
    }
}
