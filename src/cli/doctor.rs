//! `belljar doctor`: what this machine can do, what it cannot, and the fix.
//!
//! Each check tries the thing itself where that is possible without leaving a trace, and reads settings only to name the
//! fix.

use super::connect::Context;
use super::exit::{DONE, FAILED};
use super::{Outcome, output};
use crate::config::paths::Paths;
use clap::Args;
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access, geteuid};
use serde::Serialize;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

/// Hidden argument of the binaries: try to make a user namespace, and say by the exit code whether it went well. A
/// process of its own, because a namespace cannot be left again.
pub const PROBE_NAMESPACE: &str = "probe-user-namespace";

/// First kernel whose FUSE passes file data through to the backing file.
const PASSTHROUGH_SINCE: (u32, u32) = (6, 9);

/// Below this a catalog and a few contents hardly fit. Chosen.
const FREE_BYTES_WANTED: u64 = 1 << 30;

#[derive(Debug, Args)]
pub struct DoctorArguments {
    /// One JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// It works, with less.
    Warning,
    /// `belljar run` cannot work.
    Failure,
}

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    detail: String,
    /// What to do; missing when there is nothing to mend.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    checks: Vec<Check>,
}

impl Check {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, detail: detail.into(), fix: None }
    }

    fn warning(name: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warning, detail: detail.into(), fix: Some(fix.into()) }
    }

    fn failure(name: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Failure, detail: detail.into(), fix: Some(fix.into()) }
    }
}

pub fn run(context: &Context, arguments: &DoctorArguments) -> Outcome {
    let mut checks = vec![fuse_device(), namespaces(), passthrough()];
    match context.settings() {
        Ok((_, paths)) => {
            checks.push(configuration_is_fine());
            checks.push(directory("state directory", &paths.state_dir, "BELLJAR_STATE_DIR"));
            checks.push(directory("runtime directory", &paths.runtime_dir, "BELLJAR_RUNTIME_DIR"));
            checks.push(free_space(&paths));
            checks.push(daemon(context, &paths));
        }
        Err(failure) => checks.push(Check::failure(
            "configuration",
            failure.text(),
            "correct the file; `belljard check-config FILE` checks it alone",
        )),
    }
    let ok = checks.iter().all(|check| check.verdict != Verdict::Failure);
    if arguments.json {
        output::print_json(&Report { ok, checks });
    } else {
        for check in &checks {
            let sign = match check.verdict {
                Verdict::Ok => "ok  ",
                Verdict::Warning => "warn",
                Verdict::Failure => "FAIL",
            };
            output::print(&output::plain(&format!("{sign}  {}: {}\n", check.name, check.detail)));
            if let Some(fix) = &check.fix {
                output::print(&output::plain(&format!("      {fix}\n")));
            }
        }
    }
    Ok(if ok { DONE } else { FAILED })
}

fn configuration_is_fine() -> Check {
    Check::ok("configuration", "read and checked")
}

fn fuse_device() -> Check {
    const NAME: &str = "/dev/fuse";
    match OpenOptions::new().read(true).write(true).open(NAME) {
        Ok(_) => Check::ok(NAME, "can be opened"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Check::failure(
            NAME,
            "does not exist",
            "load the module with `modprobe fuse`; in a container, start it with `--device /dev/fuse`",
        ),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Check::failure(
            NAME,
            format!("may not be opened by uid {}", geteuid()),
            "run `chmod 666 /dev/fuse` as root (the usual mode); in a container, allow the device, for example with `--device /dev/fuse`",
        ),
        Err(error) => Check::failure(
            NAME,
            format!("cannot be opened: {error}"),
            "load the module with `modprobe fuse`; in a container, start it with `--device /dev/fuse`",
        ),
    }
}

/// Whether this process may mount: with the capability, or in a user namespace of its own.
fn namespaces() -> Check {
    const NAME: &str = "mounting";
    if may_mount() {
        return Check::ok(NAME, "this process has CAP_SYS_ADMIN");
    }
    let tried = std::env::current_exe().and_then(|program| {
        Command::new(program)
            .arg(PROBE_NAMESPACE)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .output()
    });
    match tried {
        Ok(tried) if tried.status.success() => {
            Check::ok(NAME, "a user namespace of one's own can be made")
        }
        Ok(tried) => {
            let reason = String::from_utf8_lossy(&tried.stderr).trim().to_owned();
            Check::failure(NAME, reason, namespace_fix(|path| fs::read_to_string(path).ok()))
        }
        Err(error) => Check::failure(
            NAME,
            format!("the check could not be started: {error}"),
            "run `belljar doctor` from a place where programs may be executed",
        ),
    }
}

fn may_mount() -> bool {
    caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_SYS_ADMIN).unwrap_or(false)
}

/// The setting that stands in the way, by reading those that are known to.
fn namespace_fix(read: impl Fn(&str) -> Option<String>) -> String {
    let is = |path: &str, value: &str| read(path).is_some_and(|text| text.trim() == value);
    if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        return "allow it: `sysctl kernel.unprivileged_userns_clone=1`, or run belljard as root"
            .to_owned();
    }
    if is("/proc/sys/user/max_user_namespaces", "0") {
        return "allow it: `sysctl user.max_user_namespaces=10000`, or run belljard as root"
            .to_owned();
    }
    if is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        return "AppArmor forbids it: `sysctl kernel.apparmor_restrict_unprivileged_userns=0`, or give belljar a profile with `userns,`, or run belljard as root".to_owned();
    }
    "run belljard as root; in a container, add `--cap-add SYS_ADMIN --security-opt apparmor=unconfined`"
        .to_owned()
}

fn passthrough() -> Check {
    const NAME: &str = "passthrough";
    let release = nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    let enough = kernel_version(&release).is_some_and(|version| version >= PASSTHROUGH_SINCE);
    if !enough {
        return Check::warning(
            NAME,
            format!(
                "kernel {release} has none: file data goes through the daemon, which is slower"
            ),
            "use Linux 6.9 or later",
        );
    }
    // The kernel asks for CAP_SYS_ADMIN in the first user namespace, which no namespace of one's own gives.
    if !may_mount() {
        return Check::warning(
            NAME,
            format!(
                "kernel {release} has it for root only: file data goes through the daemon, which is slower"
            ),
            "run belljard as root for the full speed",
        );
    }
    Check::ok(NAME, format!("kernel {release} can carry file data itself"))
}

fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Whether the directory can be used, or be made: the nearest one that exists is asked.
fn directory(name: &'static str, path: &Path, variable: &str) -> Check {
    let existing = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let shown = path.display();
    match access(existing, AccessFlags::W_OK | AccessFlags::X_OK) {
        Ok(()) if existing == path => Check::ok(name, format!("{shown} can be written")),
        Ok(()) => Check::ok(name, format!("{shown} can be made")),
        Err(errno) => Check::failure(
            name,
            format!("{} cannot be written: {}", existing.display(), errno.desc()),
            format!("set {variable} to a directory of yours"),
        ),
    }
}

fn free_space(paths: &Paths) -> Check {
    const NAME: &str = "free space";
    let existing = paths.state_dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let shown = existing.display();
    match statvfs(existing) {
        Ok(found) => {
            let free = found.blocks_available() * found.fragment_size();
            let detail = format!("{} under {shown}", output::size(free));
            if free >= FREE_BYTES_WANTED {
                Check::ok(NAME, detail)
            } else {
                Check::warning(
                    NAME,
                    detail,
                    "contents of artifacts are kept there: free some space, or set BELLJAR_STATE_DIR",
                )
            }
        }
        Err(errno) => Check::warning(
            NAME,
            format!("not known under {shown}: {}", errno.desc()),
            "check that the directory's file system is mounted",
        ),
    }
}

fn daemon(context: &Context, paths: &Paths) -> Check {
    const NAME: &str = "daemon";
    match context.find(paths) {
        Ok(Some(client)) => Check::ok(NAME, format!("answers at {}", client.socket().display())),
        Ok(None) => Check::ok(NAME, "none is running; each command starts a private one"),
        Err(failure) => {
            Check::failure(NAME, failure.text(), "start `belljard serve`, or unset BELLJAR_SOCKET")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_compared_as_numbers() {
        assert_eq!(kernel_version("6.12.3-amd64"), Some((6, 12)));
        assert!(kernel_version("6.12.3") >= Some(PASSTHROUGH_SINCE));
        assert!(kernel_version("6.8.0-45-generic") < Some(PASSTHROUGH_SINCE));
        assert_eq!(kernel_version("unknown"), None);
    }

    #[test]
    fn the_fix_names_the_setting_that_stands_in_the_way() {
        let fix = |path: &'static str, value: &'static str| {
            namespace_fix(move |asked| (asked == path).then(|| format!("{value}\n")))
        };
        assert!(
            fix("/proc/sys/kernel/unprivileged_userns_clone", "0")
                .contains("unprivileged_userns_clone=1")
        );
        assert!(fix("/proc/sys/user/max_user_namespaces", "0").contains("max_user_namespaces"));
        let apparmor = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";
        assert!(fix(apparmor, "1").contains("AppArmor"));
        assert!(fix(apparmor, "0").contains("as root"));
    }

    #[test]
    fn a_directory_that_can_be_made_is_fine() {
        let directory_ = tempfile::tempdir().expect("temporary directory");
        let check = directory("state directory", &directory_.path().join("a/b"), "X");
        assert_eq!(check.verdict, Verdict::Ok);
        assert!(check.detail.contains("can be made"), "{}", check.detail);
    }
}
