//! What the kernel of this machine lets this process do.

use super::{Check, PROBE_NAMESPACE};
use crate::sandbox::limits;
use crate::sys::landlock;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::geteuid;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};

/// First kernel whose FUSE passes file data through to the backing file.
const PASSTHROUGH_SINCE: (u32, u32) = (6, 9);

/// Number of the device, 10:229 (`Documentation/admin-guide/devices.txt`), as stat(2) has it.
const FUSE_DEVICE: u64 = nix::sys::stat::makedev(10, 229);

/// A daemon and one run need some 60 open files (measured); below this it cannot be said that a run works.
const OPEN_FILES_NEEDED: u64 = 128;

/// Below this a workspace with some thousand files in use goes through the budget again and again. Chosen.
const OPEN_FILES_WANTED: u64 = 4096;

pub fn fuse_device() -> Check {
    const NAME: &str = "/dev/fuse";
    const LOAD: &str =
        "load the module with `modprobe fuse`; in a container, start it with `--device /dev/fuse`";
    let found = match fs::metadata(NAME) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Check::failure(NAME, "does not exist", LOAD);
        }
        Err(error) => {
            return Check::failure(NAME, format!("cannot be looked at: {error}"), LOAD);
        }
    };
    let mode = found.permissions().mode() & 0o7777;
    if !found.file_type().is_char_device() || found.rdev() != FUSE_DEVICE {
        return Check::failure(
            NAME,
            "is not the device of FUSE",
            "remove it and make it anew: `rm /dev/fuse; mknod -m 666 /dev/fuse c 10 229`",
        );
    }
    match OpenOptions::new().read(true).write(true).open(NAME) {
        Ok(_) => Check::ok(NAME, format!("can be opened (mode {mode:04o})")),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Check::failure(
            NAME,
            format!("may not be opened by uid {} (mode {mode:04o})", geteuid()),
            "run `chmod 666 /dev/fuse` as root (the usual mode); in a container, allow the device, for example with `--device /dev/fuse`",
        ),
        Err(error) => Check::failure(NAME, format!("cannot be opened: {error}"), LOAD),
    }
}

/// Whether this process may mount: with the capability, or in a user namespace of its own.
pub fn namespaces() -> Check {
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

/// `seen` is what the kernel agreed to for a mount of the trial.
pub fn passthrough(seen: Option<bool>) -> Check {
    const NAME: &str = "passthrough";
    let release = nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    let slower = "file data goes through the daemon, which is slower";
    if seen == Some(true) {
        return Check::ok(NAME, format!("kernel {release} carries file data itself"));
    }
    if kernel_version(&release).is_none_or(|version| version < PASSTHROUGH_SINCE) {
        let detail = format!("kernel {release} has none: {slower}");
        return Check::warning(NAME, detail, "use Linux 6.9 or later");
    }
    // The kernel asks for CAP_SYS_ADMIN in the first user namespace, which no namespace of one's own gives.
    if !may_mount() {
        let detail = format!("kernel {release} has it for root only: {slower}");
        return Check::warning(NAME, detail, "run belljard as root for the full speed");
    }
    match seen {
        Some(_) => Check::warning(
            NAME,
            format!("kernel {release} should have it and did not agree to it: {slower}"),
            "run belljard as root of the machine, outside of containers, for the full speed",
        ),
        None => Check::warning(
            NAME,
            format!("kernel {release} should have it; nothing could be mounted to see"),
            "mend what keeps the trial from mounting",
        ),
    }
}

fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

pub fn landlock() -> Check {
    const NAME: &str = "Landlock";
    match landlock::abi() {
        Ok(version) => Check::ok(NAME, format!("version {version} of its interface")),
        Err(error) if error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => Check::warning(
            NAME,
            "is in this kernel and was left out at boot",
            "add landlock to the list of the boot parameter `lsm=` (its value now: /sys/kernel/security/lsm)",
        ),
        Err(error) => {
            let detail = format!("this kernel has none: {error}");
            Check::warning(
                NAME,
                detail,
                "use a kernel with CONFIG_SECURITY_LANDLOCK, from Linux 5.13 on",
            )
        }
    }
}

pub fn seccomp() -> Check {
    const NAME: &str = "seccomp";
    // The file is there only where filters are (kernel/seccomp.c).
    match fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail") {
        Ok(actions) => Check::ok(NAME, format!("filters can answer: {}", actions.trim())),
        Err(error) => Check::warning(
            NAME,
            format!("no filters: /proc/sys/kernel/seccomp/actions_avail: {error}"),
            "use a kernel with CONFIG_SECCOMP_FILTER",
        ),
    }
}

/// The daemon raises the soft limit as far as the hard one lets it.
pub fn descriptors() -> Check {
    const NAME: &str = "open files";
    const FIX: &str = "raise the hard limit: `LimitNOFILE=524288` in the service, `ulimit -Hn` in a root shell, `--ulimit nofile=524288` for a container";
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) => {
            let detail = format!("a process may have {hard}");
            match hard {
                ..OPEN_FILES_NEEDED => Check::failure(NAME, detail, FIX),
                OPEN_FILES_NEEDED..OPEN_FILES_WANTED => Check::warning(NAME, detail, FIX),
                OPEN_FILES_WANTED.. => Check::ok(NAME, detail),
            }
        }
        Err(errno) => {
            Check::warning(NAME, format!("the limit is not known: {}", errno.desc()), FIX)
        }
    }
}

/// One for each limit that a run can ask for, by making a cgroup and taking it away again.
pub fn limits() -> Vec<Check> {
    let tried = limits::probe();
    tried
        .into_iter()
        .map(|(limit, held)| {
            let name = match limit {
                limits::Limit::Memory => "--memory",
                limits::Limit::Cpus => "--cpus",
                limits::Limit::Pids => "--pids",
            };
            match held {
                Ok(holder) => Check::ok(
                    name,
                    format!("can be held for runs that this user starts, by {holder}"),
                ),
                Err(missing) => Check::warning(
                    name,
                    format!("runs that this user starts cannot have it: {}", missing.reason),
                    missing.fix,
                ),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn kernel_releases_are_compared_as_numbers() {
        assert_eq!(kernel_version("6.12.3-amd64"), Some((6, 12)));
        assert!(kernel_version("6.12.3") >= Some(PASSTHROUGH_SINCE));
        assert!(kernel_version("6.8.0-45-generic") < Some(PASSTHROUGH_SINCE));
        assert_eq!(kernel_version("unknown"), None);
    }

    #[test]
    fn passthrough_is_ok_only_where_a_mount_has_it() {
        assert_eq!(passthrough(Some(true)).verdict, Verdict::Ok);
        assert_eq!(passthrough(Some(false)).verdict, Verdict::Warning);
        assert_eq!(passthrough(None).verdict, Verdict::Warning);
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
}
