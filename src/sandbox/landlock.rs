//! What the command may do with files, devices, signals and abstract sockets, by rules of its own (landlock(7)).
//!
//! A second fence behind the mounts: everything can be read and executed as the sandbox's root shows it, and be written only below
//! the read-write mount points, `/tmp`, `/dev/shm`, HOME, and in the harmless devices. On a read-only mount the kernel says EROFS
//! before it asks for these rules. Device nodes can be made nowhere, and the controls of devices are for those devices only.
//!
//! TCP is not restricted: rules know ports only, programs inside talk with each other over loopback, and without a network there is
//! nothing else (network_namespaces(7)).

use super::layer::Proof;
use super::plan::{SandboxPlan, WORKSPACE};
use super::protocol::errno_text;
use crate::model::access::Access;
use ::landlock::{
    ABI, Access as _, AccessFs, AddRuleError, AddRulesError, BitFlags, CompatLevel, Compatible,
    LandlockStatus, PathBeneath, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope,
};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::{Mode, SFlag, fstat, makedev, mknodat};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

/// What is asked for; a kernel with less gives what it has.
const WANTED: ABI = ABI::V7;

/// Below it a file cannot be renamed or linked into another directory, which programs do (`LANDLOCK_ACCESS_FS_REFER`).
const LEAST: u32 = 2;

/// Devices that can be written. `/dev/tty` is the command's own terminal, if it has one.
const DEVICES: [&str; 6] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];

/// Puts the rules in force, for good, in a process that can gain no privilege. Returns the version of the kernel's interface.
pub fn restrict(plan: &SandboxPlan) -> Result<u32, String> {
    let made = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(WANTED))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(WANTED)))
        .and_then(Ruleset::create)
        .map_err(|e| failed("make rules", &e))?;
    let restricted =
        rules(plan, made)?.restrict_self().map_err(|e| failed("put the rules in force", &e))?;
    let abi = match restricted.landlock {
        LandlockStatus::NotImplemented => return Err("this kernel is built without it".to_owned()),
        LandlockStatus::NotEnabled => return Err("this kernel has it switched off".to_owned()),
        LandlockStatus::Available { effective_abi, .. } => effective_abi as u32,
    };
    if abi < LEAST {
        return Err(format!(
            "this kernel has version {abi} of it, under which no file can be renamed into another directory"
        ));
    }
    match restricted.ruleset {
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(abi),
        RulesetStatus::NotEnforced => Err("the kernel enforces none of the rules".to_owned()),
    }
}

fn rules(plan: &SandboxPlan, made: RulesetCreated) -> Result<RulesetCreated, String> {
    let mut rules = made;
    let read = AccessFs::from_read(WANTED);
    let everything = AccessFs::from_all(WANTED);
    let write = everything & !(AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev);
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    let mut allow = |path: &Path, access: BitFlags<AccessFs>| {
        let what = || format!("allow {}", path.display());
        let at = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(|e| format!("{}: {}", what(), errno_text(&e.into())))?;
        (&mut rules)
            .add_rule(PathBeneath::new(at, access))
            .map(drop)
            .map_err(|e| failed(&what(), &e))
    };
    allow(Path::new("/"), read)?;
    for path in DEVICES {
        allow(Path::new(path), device)?;
    }
    allow(Path::new("/dev/pts"), device | read)?;
    for path in [Path::new("/dev/shm"), Path::new("/tmp"), &plan.home] {
        allow(path, write)?;
    }
    for (name, access) in &plan.mounts {
        let access = match access {
            // For named pipes, into which anybody may write on a read-only file system too. Their other ends are in this workspace: a
            // named pipe of a FUSE file system is not the host's. For files, the mount and the daemon answer first.
            Access::ReadOnly => AccessFs::WriteFile.into(),
            Access::ReadWrite => write,
        };
        allow(&PathBuf::from(WORKSPACE).join(name.as_str()), access)?;
    }
    let (input, output, error) = (io::stdin(), io::stdout(), io::stderr());
    for descriptor in [input.as_fd(), output.as_fd(), error.as_fd()] {
        allow_reopening(&mut rules, descriptor)?;
    }
    Ok(rules)
}

/// A standard stream can be opened again by its name (`/dev/stdout`), for what it was opened for, also where it is a file or a
/// terminal of the host's that is nowhere in the sandbox's root.
fn allow_reopening(rules: &mut RulesetCreated, stream: BorrowedFd<'_>) -> Result<(), String> {
    let unreadable =
        |errno: Errno| format!("look at a standard stream: {}", errno_text(&errno.into()));
    let flags = OFlag::from_bits_truncate(fcntl(stream, FcntlArg::F_GETFL).map_err(unreadable)?);
    let kind =
        SFlag::from_bits_truncate(fstat(stream).map_err(unreadable)?.st_mode) & SFlag::S_IFMT;
    let reads = AccessFs::ReadFile.into();
    let writes = AccessFs::WriteFile | AccessFs::Truncate;
    let mut access: BitFlags<AccessFs> = match flags & OFlag::O_ACCMODE {
        OFlag::O_RDONLY => reads,
        OFlag::O_WRONLY => writes,
        _ => reads | writes,
    };
    match kind {
        SFlag::S_IFCHR => access |= AccessFs::IoctlDev,
        SFlag::S_IFREG | SFlag::S_IFIFO => {}
        // A directory is nothing that a stream is opened again for, a socket cannot be opened.
        _ => return Ok(()),
    }
    match rules.add_rule(PathBeneath::new(stream, access)) {
        Ok(_) => Ok(()),
        // Of no file system with a name, such as a pipe: the rules do not concern it.
        Err(error) if errno_of(&error) == Some(Errno::EBADFD) => Ok(()),
        Err(error) => Err(failed("allow a standard stream", &error)),
    }
}

fn errno_of(error: &RulesetError) -> Option<Errno> {
    match error {
        RulesetError::AddRules(AddRulesError::Fs(AddRuleError::AddRuleCall { source, .. })) => {
            source.raw_os_error().map(Errno::from_raw)
        }
        _ => None,
    }
}

fn failed(what: &str, error: &RulesetError) -> String {
    format!("{what}: {error}")
}

/// Tries to make a device node, which these rules forbid with EACCES before anything else is asked; without them it is EPERM for want of a
/// capability (fs/namei.c, `do_mknodat`). Not the node 0:0, which needs none: Linux 6.1 lets it through where files can be made.
///
/// To be tried before system calls are filtered, which forbids it too.
pub fn prove(abi: u32) -> Result<Proof, String> {
    let node = Path::new("/tmp/.belljar-proof");
    match mknodat(AT_FDCWD, node, SFlag::S_IFCHR, Mode::empty(), makedev(1, 3)) {
        Err(Errno::EACCES) => {}
        Err(errno) => return Err(format!("a device node in /tmp was {errno:?}, not EACCES")),
        Ok(()) => {
            // The run does not start, and /tmp goes with it.
            return Err("a device node could be made in /tmp".to_owned());
        }
    }
    let mut open = Vec::new();
    if abi < 3 {
        open.push("files can be truncated wherever their mode and mount let");
    }
    if abi < 5 {
        open.push("controls of devices");
    }
    if abi < 6 {
        open.push("signals and abstract sockets, which namespaces alone keep apart");
    }
    Ok(Proof {
        text:
            "a device node was tried in /tmp: EACCES, which is EPERM where these rules are not in force"
                .to_owned(),
        abi: Some(abi),
        open: open.join(", "),
    })
}
