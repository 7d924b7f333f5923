//! The command: found, executed, and when that fails, why.
//!
//! Everything that can be prepared is, before the order to go; what is left then is a fork and an execve.

use super::fault::Faults;
use super::layer::LayerName;
use super::limits::Weaker;
use super::plan::{PATH, SandboxPlan};
use super::protocol::{FailureKind, SetupFailure, errno_text};
use super::{rlimits, terminal};
use crate::sys::process::{self, Fork};
use nix::errno::Errno;
use nix::unistd::{Pid, chdir, dup, execve, getpid, getsid, setsid};
use std::ffi::{CString, OsStr};
use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const STEP: &str = "command";

/// A command ready to be started.
#[derive(Debug)]
pub struct Command {
    name: String,
    candidates: Vec<CString>,
    /// Whether the candidates come from PATH: then a miss leads to the next one.
    searched: bool,
    argv: Vec<CString>,
    env: Vec<CString>,
    workdir: PathBuf,
    /// The root that was given, by its name.
    rootfs: Option<String>,
    /// Whether it has a terminal of its own.
    terminal: bool,
    faults: Faults,
    weaker: Weaker,
}

/// A process that was forked and will execute the command, or say on `failure` why it could not.
#[derive(Debug)]
pub struct Starting {
    pub pid: Pid,
    /// Ends without a byte when the command was executed; else holds one [`SetupFailure`].
    pub failure: PipeReader,
}

impl Command {
    pub fn prepare(plan: &SandboxPlan) -> Result<Self, SetupFailure> {
        let nul = |_| SetupFailure::setup(STEP, "an argument or variable holds a NUL byte");
        let argv = plan
            .argv
            .iter()
            .map(|argument| CString::new(argument.as_bytes()).map_err(nul))
            .collect::<Result<Vec<_>, _>>()?;
        let Some(name) = plan.argv.first().filter(|name| !name.is_empty()) else {
            return Err(SetupFailure::setup(STEP, "no command was given"));
        };
        let env = plan
            .env
            .iter()
            .map(|(name, value)| {
                CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).map_err(nul)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let searched = !name.as_bytes().contains(&b'/');
        let candidates = if searched {
            let path = plan.env.get("PATH").unwrap_or(OsStr::new(PATH));
            // An empty entry is the working directory (environ(7)).
            std::env::split_paths(path)
                .map(|d| {
                    if d.as_os_str().is_empty() { Path::new(".").join(name) } else { d.join(name) }
                })
                .map(|path| CString::new(path.as_os_str().as_bytes()).map_err(nul))
                .collect::<Result<Vec<_>, _>>()?
        } else {
            vec![argv[0].clone()]
        };
        let name = crate::model::path::escape(name.as_bytes());
        Ok(Self {
            name,
            candidates,
            searched,
            argv,
            env,
            workdir: plan.workdir.clone(),
            rootfs: plan.rootfs.clone(),
            terminal: plan.terminal,
            faults: plan.faults.clone(),
            weaker: plan.weaker,
        })
    }

    /// Forks, and executes the command in the child.
    pub fn start(&self) -> io::Result<Starting> {
        let (failure, report) = io::pipe()?;
        match process::fork()? {
            Fork::Parent { child } => Ok(Starting { pid: child, failure }),
            Fork::Child => {
                drop(failure);
                self.become_command(report)
            }
        }
    }

    /// The life of the child until the command is executed.
    fn become_command(&self, mut report: PipeWriter) -> ! {
        let failure = match self.leave_first_process() {
            Ok(()) => self.execute(),
            Err(failure) => failure,
        };
        // Far below PIPE_BUF, so that it arrives whole or not at all; if not, the parent sees the process end.
        if let Ok(text) = serde_json::to_vec(&failure) {
            let _ = report.write_all(&text);
        }
        process::exit_now(i32::from(failure.kind.exit_code()));
    }

    /// Undoes what the first process needs for itself and a command must not inherit.
    fn leave_first_process(&self) -> Result<(), SetupFailure> {
        // A session of its own: no key of the caller's terminal reaches it but through the client, and it cannot push input
        // into that terminal.
        if self.faults.builds(LayerName::Session) {
            setsid().map_err(|e| SetupFailure::because(STEP, "start a session", &e.into()))?;
            if self.terminal {
                terminal::take()?;
            }
        }
        chdir(&self.workdir).map_err(|e| {
            let what = format!("change to the working directory {}", self.workdir.display());
            SetupFailure::because("workdir", what, &e.into())
        })?;
        rlimits::set_weaker(&self.weaker)?;
        if self.faults.builds(LayerName::Descriptors) {
            process::close_on_exec_from(3)
                .map_err(|e| SetupFailure::because(STEP, "close descriptors", &e))?;
        } else {
            // One that stays open, or the test that took the layer out would see nothing.
            std::mem::forget(dup(std::io::stdin()));
        }
        self.prove()?;
        process::reset_signals().map_err(|e| SetupFailure::because(STEP, "reset signals", &e))
    }

    /// The layers that are this process's own. The first process has said that they are proven, since no command starts when they
    /// are not.
    fn prove(&self) -> Result<(), SetupFailure> {
        let refused = |layer: LayerName, why: String| {
            SetupFailure::setup(
                layer.as_str(),
                format_args!("not in force: {why}; nothing was run"),
            )
        };
        let session = getsid(None).map_err(|e| errno_text(&e.into()));
        if self.faults.proves(LayerName::Session) && session != Ok(getpid()) {
            return Err(refused(LayerName::Session, format!("the session is {session:?}")));
        }
        if self.faults.proves(LayerName::Session) {
            terminal::prove(self.terminal).map_err(|why| refused(LayerName::Session, why))?;
        }
        if self.faults.proves(LayerName::Descriptors) {
            let left = process::open_over_exec(3)
                .map_err(|e| refused(LayerName::Descriptors, errno_text(&e)))?;
            if !left.is_empty() {
                return Err(refused(LayerName::Descriptors, format!("{left:?} stay open")));
            }
        }
        Ok(())
    }

    /// Executes the first candidate that can be; comes back only with the reason why none could.
    fn execute(&self) -> SetupFailure {
        let mut denied = None;
        for candidate in &self.candidates {
            let Err(errno) = execve(candidate, &self.argv, &self.env);
            let path = Path::new(OsStr::from_bytes(candidate.as_bytes()));
            if !self.searched {
                return self.refused(path, errno);
            }
            match errno {
                // A script whose interpreter is missing is ENOENT too, and is what the user meant.
                Errno::ENOENT if path.exists() => return self.refused(path, errno),
                Errno::ENOENT | Errno::ENOTDIR | Errno::ENAMETOOLONG => {}
                Errno::EACCES if path.is_dir() => {}
                // As execvp(3): another directory of PATH may hold one that can be executed.
                Errno::EACCES => denied = denied.or(Some(path)),
                errno => return self.refused(path, errno),
            }
        }
        match denied {
            Some(path) => self.refused(path, Errno::EACCES),
            None => SetupFailure {
                step: STEP.to_owned(),
                message: format!(
                    "{} was not found in any directory of PATH inside the sandbox; {}",
                    self.name,
                    match &self.rootfs {
                        Some(given) => format!("its programs are those of {given}"),
                        None => "programs outside /usr need --expose".to_owned(),
                    }
                ),
                kind: FailureKind::NotFound,
            },
        }
    }

    fn refused(&self, path: &Path, errno: Errno) -> SetupFailure {
        let missing = matches!(errno, Errno::ENOENT | Errno::ENOTDIR) && !path.exists();
        let (kind, message) = if missing {
            (FailureKind::NotFound, format!("{} does not exist inside the sandbox", path.display()))
        } else {
            let reason = match errno {
                Errno::ENOENT => "its interpreter does not exist inside the sandbox".to_owned(),
                Errno::EACCES if path.is_dir() => "it is a directory".to_owned(),
                Errno::ENOEXEC => {
                    "it is neither a program for this machine nor a script with #! and an interpreter"
                        .to_owned()
                }
                errno => errno_text(&errno.into()),
            };
            (FailureKind::NotExecutable, format!("cannot execute {}: {reason}", path.display()))
        };
        SetupFailure { step: STEP.to_owned(), message, kind }
    }
}
