//! What the sandbox suites share: a host with a workspace made of plain directories, and a way to run a command in it.

pub mod cases;

use belljar::model::access::Access;
use belljar::model::id::{RunId, WorkspaceId};
use belljar::sandbox::launcher::Launcher;
use belljar::sandbox::plan::{Identity, SandboxPlan};
use belljar::sandbox::protocol::SetupFailure;
use belljar::sandbox::spawn::{Ended, Sandbox, SandboxDescriptors, spawn};
use belljar::sys::mount::{self, MountAttr, OpenTree};
use nix::fcntl::AT_FDCWD;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{PipeReader, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// A host directory with everything that a sandbox needs.
#[derive(Debug)]
pub struct Host {
    directory: tempfile::TempDir,
    /// The program with `sandbox-init`.
    pub executable: PathBuf,
    pub uid: u32,
    launcher: Launcher,
}

/// What a run left behind.
#[derive(Debug)]
pub struct Outcome {
    pub ended: Ended,
    pub stdout: String,
    pub stderr: String,
}

impl Host {
    /// Workspace with a read-only `input` and a read-write `output`, for a user.
    pub fn new(executable: &Path, uid: u32) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let launcher = Launcher::start().expect("starts");
        let host = Self { directory, executable: executable.to_owned(), uid, launcher };
        for name in [
            "workspace/input",
            "workspace/output",
            "workspace/.belljar",
            "control/secrets",
            "api",
            "scratch",
        ] {
            fs::create_dir_all(host.path(name)).expect("directory");
        }
        fs::write(host.path("workspace/input/data"), "input data\n").expect("file");
        fs::write(host.path("control/env"), "A=b\n").expect("file");
        if nix::unistd::geteuid().is_root() {
            // Everything but the mount's own directories belongs to the user, so that only the mount can refuse a write.
            for name in [
                "workspace",
                "workspace/input",
                "workspace/input/data",
                "workspace/output",
                "control",
            ] {
                std::os::unix::fs::chown(host.path(name), Some(uid), Some(uid)).expect("chown");
            }
        }
        host
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A plan for a shell script.
    pub fn shell(&self, script: &str) -> SandboxPlan {
        self.plan(["sh", "-c", script])
    }

    /// A plan for a Python program.
    pub fn python(&self, program: &str) -> SandboxPlan {
        self.plan(["/usr/bin/python3", "-I", "-c", program])
    }

    pub fn plan<A: Into<OsString>>(&self, argv: impl IntoIterator<Item = A>) -> SandboxPlan {
        let mut plan = SandboxPlan::new(
            RunId::generate(),
            WorkspaceId::generate(),
            Identity { uid: self.uid, gid: self.uid, name: "tester".to_owned() },
            argv.into_iter().map(Into::into).collect(),
            self.path("scratch"),
        );
        plan.executable = self.executable.clone();
        plan.mounts = vec![
            ("input".parse().expect("legal"), Access::ReadOnly),
            ("output".parse().expect("legal"), Access::ReadWrite),
        ];
        plan.tmp_size_bytes = 16 << 20;
        plan.lend_streams = true;
        plan
    }

    fn detached(&self, name: &str) -> OwnedFd {
        mount::open_tree(AT_FDCWD, &self.path(name), OpenTree::CLONE | OpenTree::RECURSIVE)
            .expect("needs CAP_SYS_ADMIN: run the tests as root")
    }

    /// Starts a sandbox whose standard input is empty; the readers get its output.
    pub fn spawn(&self, plan: &SandboxPlan) -> (Sandbox, PipeReader, PipeReader) {
        let (out, stdout) = std::io::pipe().expect("pipe");
        let (err, stderr) = std::io::pipe().expect("pipe");
        let null = File::open("/dev/null").expect("null");
        let expose = plan
            .expose
            .iter()
            .map(|path| {
                let path = File::open(path).expect("exposed");
                mount::detach(path, MountAttr::READ_ONLY).expect("detach")
            })
            .collect();
        let descriptors = SandboxDescriptors {
            workspace: self.detached("workspace"),
            control: self.detached("control"),
            artifacts: None,
            api_directory: Some(self.detached("api")),
            rootfs: None,
            cgroups: Vec::new(),
            expose,
            stdio: [null.into(), stdout.into(), stderr.into()],
        };
        (spawn(&self.launcher, plan, descriptors).expect("spawn"), out, err)
    }

    /// Runs to the end.
    pub fn run(&self, plan: &SandboxPlan) -> Result<Outcome, SetupFailure> {
        let (mut sandbox, mut out, mut err) = self.spawn(plan);
        sandbox.wait_started()?;
        let errors = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            err.read_to_end(&mut bytes).expect("read");
            String::from_utf8_lossy(&bytes).into_owned()
        });
        let mut stdout = Vec::new();
        out.read_to_end(&mut stdout).expect("read");
        let stderr = errors.join().expect("reader");
        let stdout = String::from_utf8_lossy(&stdout).into_owned();
        Ok(Outcome { ended: sandbox.wait(), stdout, stderr })
    }

    /// Runs a program that must succeed, and returns what it wrote.
    pub fn output(&self, plan: &SandboxPlan) -> String {
        let outcome = self.run(plan).expect("starts");
        let exited = belljar::sandbox::protocol::Exit::Exited(0);
        assert_eq!(outcome.ended.how, exited, "{}{}", outcome.stdout, outcome.stderr);
        outcome.stdout
    }
}
