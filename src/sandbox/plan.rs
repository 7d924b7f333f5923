//! What a sandbox will be, as data: made by the daemon, checked, and carried to the sandbox's first process in a sealed memfd.
//!
//! Pure, except that a new plan asks whether this process is root. Paths and arguments are bytes, as in the kernel.

use super::fault::Faults;
use super::layer::LayerName;
use super::limits::Weaker;
use crate::model::access::Access;
use crate::model::id::{MountName, RunId, WorkspaceId};
use crate::wire::run::Network;
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Where a workspace is, inside.
pub const WORKSPACE: &str = "/workspace";
/// Where the directory with the run's own socket is, inside.
pub const API_DIRECTORY: &str = "/run/belljar";
/// The run's own socket, inside.
pub const API_SOCKET: &str = "/run/belljar/belljar.sock";
/// Where commands are looked for, unless the workspace has a PATH of its own.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Room in each of `/tmp`, `/dev/shm` and HOME, in bytes. Chosen, not measured: enough for a compiler, and a bound on the memory
/// that one run can take this way.
pub const TMP_SIZE_BYTES_DEFAULT: u64 = 1 << 30;

/// Exposed paths of one sandbox. Chosen, not measured: each is a mount, and far more than anybody names by hand.
pub const EXPOSE_MAX: usize = 256;

/// Everything that the first process does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxPlan {
    /// The program that has `sandbox-init`; this one, unless a test says otherwise.
    #[serde(skip)]
    pub executable: PathBuf,
    pub run: RunId,
    pub workspace: WorkspaceId,
    /// Which entries of the workspace's directory may be written. What is not named here is read-only.
    pub mounts: Vec<(MountName, Access)>,
    /// Where the exposed descriptors appear, in their order.
    #[serde(with = "paths")]
    pub expose: Vec<PathBuf>,
    /// The name of the root that the user gave instead of the host's programs and libraries, whose mount is handed over.
    pub rootfs: Option<String>,
    /// The command's environment, whole.
    pub env: Environment,
    pub argv: Vec<OsString>,
    #[serde(with = "path")]
    pub workdir: PathBuf,
    pub user: Identity,
    pub network: Network,
    /// The standard streams that are terminals are one of the run's own, which becomes the command's controlling terminal.
    pub terminal: bool,
    /// Give standard streams that are pipes, and the run's terminal, to the run's user. Only for a client that is root: what another one
    /// passes could be somebody else's, and its owner can open it again for what it was not passed for.
    pub lend_streams: bool,
    /// Make a user namespace, which an ordinary user needs for every other one. It maps the user to itself.
    pub user_namespace: bool,
    pub tmp_size_bytes: u64,
    #[serde(with = "path")]
    pub home: PathBuf,
    /// An empty directory of the host, on which the new root is mounted for a moment, in the sandbox's own mount namespace.
    #[serde(with = "path")]
    pub scratch: PathBuf,
    /// What the command gets in the place of limits that are missing.
    pub weaker: Weaker,
    /// When the command has ended, wait for what it left running instead of killing it.
    pub wait_children: bool,
    /// Layers that the user would go without, where this host does not have them.
    pub allow_unenforced: Vec<LayerName>,
    /// What a test takes out.
    pub faults: Faults,
}

/// What a sandbox is made of before anything of its run is known: the part of a plan that many runs share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Basis {
    /// As in the plan.
    #[serde(skip)]
    pub executable: PathBuf,
    pub network: Network,
    /// As in the plan; its mount is handed over with the basis.
    pub rootfs: Option<String>,
    /// Whether the plan has a terminal, which is handed over with the basis.
    pub terminal: bool,
    pub user_namespace: bool,
    pub tmp_size_bytes: u64,
    #[serde(with = "path")]
    pub scratch: PathBuf,
    pub faults: Faults,
}

impl Basis {
    /// The basis of a plan with the default of everything that has one.
    pub fn new(scratch: PathBuf) -> Self {
        Self {
            executable: PathBuf::from("/proc/self/exe"),
            network: Network::default(),
            rootfs: None,
            terminal: false,
            user_namespace: !nix::unistd::geteuid().is_root(),
            tmp_size_bytes: TMP_SIZE_BYTES_DEFAULT,
            scratch,
            faults: Faults::default(),
        }
    }

    /// Whether a layer is built: each is, unless a test takes it out.
    pub fn builds(&self, layer: LayerName) -> bool {
        self.faults.builds(layer)
    }
}

/// Who the command is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// As in `/etc/passwd` of the sandbox.
    pub name: String,
}

impl Identity {
    /// An identity whose name is certainly legal: `root` for uid 0, else `belljar`.
    pub fn unnamed(uid: u32, gid: u32) -> Self {
        Self { uid, gid, name: if uid == 0 { "root" } else { "belljar" }.to_owned() }
    }
}

/// Environment variables; shows no value in `Debug`, since a secret that the user asked for by name may be one.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Environment(Vec<(OsString, OsString)>);

impl Environment {
    /// What every process in a sandbox gets; nothing of the caller's own environment but `term`.
    pub fn base(workspace: &WorkspaceId, run: RunId, home: &Path, term: Option<&OsStr>) -> Self {
        let mut env = Self::default();
        env.set("BELLJAR_WORKSPACE", workspace.as_str());
        env.set("BELLJAR_ROOT", WORKSPACE);
        env.set("BELLJAR_RUN", run.to_string());
        env.set("BELLJAR_SOCKET", API_SOCKET);
        env.set("HOME", home);
        env.set("PATH", PATH);
        env.set("LANG", "C.UTF-8");
        env.set("TMPDIR", "/tmp");
        if let Some(term) = term {
            env.set("TERM", term);
        }
        env
    }

    /// Adds a variable, or replaces its value.
    pub fn set(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) {
        let (name, value) = (name.as_ref(), value.as_ref().to_owned());
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_os_str())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.0.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// A plan that no sandbox can be made of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPlan {
    #[error("no command was given")]
    NoCommand,
    #[error("{what} {value:?} holds a NUL byte, which no program can receive")]
    Nul { what: &'static str, value: OsString },
    #[error("variable name {0:?} is not allowed: it is empty or holds `=`")]
    VariableName(OsString),
    #[error("user name {0:?} is not allowed: it would not survive in /etc/passwd")]
    UserName(String),
    #[error("{what} {path:?} is not allowed: it must be absolute, without `.` or `..`")]
    NotAbsolute { what: &'static str, path: PathBuf },
    #[error("home {0:?} is not allowed: the sandbox makes this place itself")]
    Home(PathBuf),
    #[error(
        "expose {path:?} is not allowed: it would hide {hidden}, which the sandbox makes itself; expose what is needed below it"
    )]
    ExposeHides { path: PathBuf, hidden: String },
    #[error("expose {path:?} is not allowed: everything below {owner} is the sandbox's own")]
    ExposeInside { path: PathBuf, owner: &'static str },
    #[error("expose {0:?} was named twice")]
    ExposeTwice(PathBuf),
    #[error("{0} paths to expose are too many: at most {EXPOSE_MAX}")]
    ExposeCount(usize),
    #[error("a size of 0 for /tmp would mean no bound")]
    Size,
}

impl SandboxPlan {
    /// A plan with the default of everything that has one.
    pub fn new(
        run: RunId,
        workspace: WorkspaceId,
        user: Identity,
        argv: Vec<OsString>,
        scratch: PathBuf,
    ) -> Self {
        let home = Path::new("/home").join(&user.name);
        let Basis { executable, network, user_namespace, tmp_size_bytes, scratch, faults, .. } =
            Basis::new(scratch);
        Self {
            executable,
            env: Environment::base(&workspace, run, &home, None),
            run,
            workspace,
            mounts: Vec::new(),
            expose: Vec::new(),
            rootfs: None,
            argv,
            workdir: PathBuf::from(WORKSPACE),
            user,
            network,
            terminal: false,
            lend_streams: false,
            user_namespace,
            tmp_size_bytes,
            home,
            scratch,
            weaker: Weaker::default(),
            wait_children: false,
            allow_unenforced: Vec::new(),
            faults,
        }
    }

    /// What its sandbox is begun with.
    pub fn basis(&self) -> Basis {
        Basis {
            executable: self.executable.clone(),
            network: self.network,
            rootfs: self.rootfs.clone(),
            terminal: self.terminal,
            user_namespace: self.user_namespace,
            tmp_size_bytes: self.tmp_size_bytes,
            scratch: self.scratch.clone(),
            faults: self.faults.clone(),
        }
    }

    /// Whether a layer is built: each is, unless a test takes it out.
    pub fn builds(&self, layer: LayerName) -> bool {
        self.faults.builds(layer)
    }

    /// Whether a layer must be proven before the command starts.
    pub fn proves(&self, layer: LayerName) -> bool {
        self.faults.proves(layer)
    }

    /// Whether a sandbox can be made of this.
    pub fn check(&self) -> Result<(), InvalidPlan> {
        if self.argv.first().is_none_or(|command| command.is_empty()) {
            return Err(InvalidPlan::NoCommand);
        }
        for value in &self.argv {
            no_nul("argument", value)?;
        }
        for (name, value) in self.env.iter() {
            if name.is_empty() || name.as_bytes().contains(&b'=') {
                return Err(InvalidPlan::VariableName(name.to_owned()));
            }
            no_nul("variable name", name)?;
            // The value may be a secret: only the name is shown.
            if value.as_bytes().contains(&0) {
                return Err(InvalidPlan::Nul { what: "variable", value: name.to_owned() });
            }
        }
        let name = &self.user.name;
        if name.is_empty() || name.contains(|c: char| c == ':' || c == '/' || c.is_control()) {
            return Err(InvalidPlan::UserName(name.clone()));
        }
        absolute("working directory", &self.workdir)?;
        absolute("scratch directory", &self.scratch)?;
        self.check_home()?;
        self.check_expose()?;
        if self.tmp_size_bytes == 0 {
            return Err(InvalidPlan::Size);
        }
        Ok(())
    }

    fn check_home(&self) -> Result<(), InvalidPlan> {
        const TAKEN: [&str; 14] = [
            "/bin", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run",
            "/sbin", "/tmp", "/usr", "/var", WORKSPACE,
        ];
        absolute("home", &self.home)?;
        let taken = TAKEN.iter().any(|taken| self.home.starts_with(taken));
        if taken || self.home == Path::new("/") {
            return Err(InvalidPlan::Home(self.home.clone()));
        }
        Ok(())
    }

    fn check_expose(&self) -> Result<(), InvalidPlan> {
        /// Nothing of the host may appear below these.
        const OWN: [&str; 4] = ["/proc", "/dev", WORKSPACE, API_DIRECTORY];
        /// Something may appear below these, but not in their place.
        const SHARED: [&str; 2] = ["/etc", "/tmp"];
        if self.expose.len() > EXPOSE_MAX {
            return Err(InvalidPlan::ExposeCount(self.expose.len()));
        }
        for (index, path) in self.expose.iter().enumerate() {
            absolute("expose", path)?;
            if let Some(owner) = OWN.into_iter().find(|own| path.starts_with(own)) {
                return Err(InvalidPlan::ExposeInside { path: path.clone(), owner });
            }
            let places = OWN.into_iter().chain(SHARED).map(Path::new).chain([self.home.as_path()]);
            if let Some(hidden) = places.into_iter().find(|place| place.starts_with(path)) {
                let hidden = hidden.display().to_string();
                return Err(InvalidPlan::ExposeHides { path: path.clone(), hidden });
            }
            if self.expose[..index].contains(path) {
                return Err(InvalidPlan::ExposeTwice(path.clone()));
            }
        }
        Ok(())
    }
}

fn no_nul(what: &'static str, value: &OsStr) -> Result<(), InvalidPlan> {
    if value.as_bytes().contains(&0) {
        return Err(InvalidPlan::Nul { what, value: value.to_owned() });
    }
    Ok(())
}

fn absolute(what: &'static str, path: &Path) -> Result<(), InvalidPlan> {
    no_nul(what, path.as_os_str())?;
    // `components` drops every `.` but a leading one, so that the text itself is looked at.
    let dotted = path.as_os_str().as_bytes().split(|b| *b == b'/').any(|name| name == b".");
    let climbs = path.components().any(|c| matches!(c, Component::ParentDir));
    if !path.is_absolute() || dotted || climbs {
        return Err(InvalidPlan::NotAbsolute { what, path: path.to_owned() });
    }
    Ok(())
}

/// A path as bytes: serde's own form of `PathBuf` refuses what is not UTF-8, that of `OsString` does not.
mod path {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::ffi::OsString;
    use std::path::{Path, PathBuf};

    pub fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        path.as_os_str().serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        OsString::deserialize(from).map(PathBuf::from)
    }
}

/// Paths as bytes, likewise.
mod paths {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::ffi::OsString;
    use std::path::PathBuf;

    pub fn serialize<S: Serializer>(paths: &[PathBuf], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(paths.iter().map(|path| path.as_os_str()))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<PathBuf>, D::Error> {
        Ok(Vec::<OsString>::deserialize(from)?.into_iter().map(PathBuf::from).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    fn plan() -> SandboxPlan {
        SandboxPlan::new(
            RunId::generate(),
            WorkspaceId::generate(),
            Identity::unnamed(1000, 1000),
            vec!["true".into()],
            "/run/belljar/scratch".into(),
        )
    }

    fn refused(change: impl FnOnce(&mut SandboxPlan)) -> String {
        let mut plan = plan();
        change(&mut plan);
        plan.check().expect_err("must be refused").to_string()
    }

    #[test]
    fn the_default_plan_is_legal() {
        assert_eq!(plan().check(), Ok(()));
    }

    #[test]
    fn what_no_program_can_receive_is_refused_by_name() {
        assert!(refused(|p| p.argv.clear()).contains("no command"));
        assert!(refused(|p| p.argv = vec!["".into()]).contains("no command"));
        assert!(refused(|p| p.argv.push("a\0b".into())).contains("NUL"));
        assert!(refused(|p| p.env.set("A=B", "c")).contains("variable name"));
        assert!(refused(|p| p.workdir = "src".into()).contains("working directory"));
        assert!(refused(|p| p.user.name = "x:0:0".into()).contains("user name"));
        assert!(refused(|p| p.home = "/etc/x".into()).contains("home"));
        assert!(refused(|p| p.home = "/".into()).contains("home"));
        let text = refused(|p| p.env.set("KEY", "se\0cret"));
        assert!(text.contains("KEY") && !text.contains("cret"), "{text}");
    }

    #[test]
    fn an_exposed_path_cannot_replace_what_the_sandbox_makes() {
        for path in [
            "/",
            "/proc",
            "/proc/1",
            "/dev/sda",
            "/workspace/input",
            "/run",
            "/etc",
            "/tmp",
            "/home",
            "/home/belljar",
        ] {
            let text = refused(|p| p.expose.push(path.into()));
            assert!(text.contains("expose"), "{path}: {text}");
        }
        for path in ["relative", "/a/../b", "/a/./b"] {
            let text = refused(|p| p.expose.push(path.into()));
            assert!(text.contains("absolute"), "{path}: {text}");
        }
        let text = refused(|p| p.expose = vec!["/a".into(), "/a".into()]);
        assert!(text.contains("twice"), "{text}");
        let mut plan = plan();
        plan.expose = ["/opt/venv", "/home/belljar/project", "/usr", "/etc/extra", "/processes"]
            .map(PathBuf::from)
            .to_vec();
        assert_eq!(plan.check(), Ok(()));
    }

    #[test]
    fn a_plan_survives_its_journey_with_bytes_that_are_not_utf8() {
        let odd = OsString::from_vec(b"/a\xff".to_vec());
        let mut plan = plan();
        plan.argv.push(odd.clone());
        plan.expose.push(odd.clone().into());
        plan.workdir = odd.clone().into();
        plan.env.set("ODD", &odd);
        let text = serde_json::to_vec(&plan).expect("serialises");
        let back: SandboxPlan = serde_json::from_slice(&text).expect("comes back");
        assert_eq!(back.argv, plan.argv);
        assert_eq!(back.expose, plan.expose);
        assert_eq!(back.workdir, plan.workdir);
        assert_eq!(back.env, plan.env);
    }

    #[test]
    fn debug_output_shows_no_value_of_a_variable() {
        let mut plan = plan();
        plan.env.set("API_KEY", "hunter2");
        let text = format!("{plan:?}");
        assert!(text.contains("API_KEY") && !text.contains("hunter2"), "{text}");
    }
}
