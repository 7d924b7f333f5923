//! Where on this machine cgroups of runs can be: found in the tables of this process, without touching anything.
//!
//! A controller is either in a hierarchy of its own (version 1) or in the unified one (version 2); a *hybrid* machine has
//! both kinds, and each controller in one of them (cgroups(7)). The tables are `/proc/self/mountinfo` and
//! `/proc/self/cgroup`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// What the kernel calls that which holds a limit, or freezes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Controller {
    Memory,
    Cpu,
    Pids,
    Freezer,
}

impl Controller {
    pub fn name(self) -> &'static str {
        match self {
            Controller::Memory => "memory",
            Controller::Cpu => "cpu",
            Controller::Pids => "pids",
            Controller::Freezer => "freezer",
        }
    }
}

/// Two directories of the unified hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unified {
    /// The top as far as this process sees it.
    pub top: PathBuf,
    /// This process's own cgroup.
    pub own: PathBuf,
}

/// Hierarchies that this process sees.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Host {
    pub unified: Option<Unified>,
    /// This process's own cgroup in the hierarchy of each controller of version 1.
    pub legacy: BTreeMap<Controller, PathBuf>,
}

impl Host {
    /// As it is at this moment.
    pub fn look() -> io::Result<Self> {
        let mounts = fs::read("/proc/self/mountinfo")?;
        Ok(Self::read(&mounts, &fs::read("/proc/self/cgroup")?))
    }

    fn read(mounts: &[u8], own: &[u8]) -> Self {
        let mut host = Self::default();
        for mount in mounts.split(|b| *b == b'\n').filter_map(Mount::parse) {
            match mount.filesystem {
                b"cgroup2" => {
                    if let Some(own) = own_path(own, |controllers| controllers.is_empty()) {
                        // The last one covers an earlier one at the same place; at another place it is as good.
                        let unified = Unified { own: mount.place(&own), top: mount.at };
                        host.unified = Some(unified);
                    }
                }
                b"cgroup" => {
                    let all = [
                        Controller::Memory,
                        Controller::Cpu,
                        Controller::Pids,
                        Controller::Freezer,
                    ];
                    for controller in all {
                        let name = controller.name().as_bytes();
                        let lists = |list: &[u8]| list.split(|b| *b == b',').any(|c| c == name);
                        if lists(mount.options)
                            && let Some(own) = own_path(own, lists)
                        {
                            host.legacy.insert(controller, mount.place(&own));
                        }
                    }
                }
                _ => {}
            }
        }
        host
    }
}

/// A line of mountinfo, as far as it matters (proc_pid_mountinfo(5)).
struct Mount<'a> {
    /// Which directory of the file system is mounted.
    root: PathBuf,
    at: PathBuf,
    filesystem: &'a [u8],
    /// Of the file system; those of version 1 name its controllers.
    options: &'a [u8],
}

impl<'a> Mount<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.split(|b| *b == b' ');
        let root = path(fields.nth(3)?);
        let at = path(fields.next()?);
        // Some optional fields, then a dash.
        let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
        let filesystem = fields.next()?;
        let options = fields.nth(1)?;
        Some(Self { root, at, filesystem, options })
    }

    /// Where a cgroup is. One above what is mounted is not to be seen; then the top of the mount is the nearest, as in a
    /// container whose host's paths are told.
    fn place(&self, cgroup: &Path) -> PathBuf {
        match cgroup.strip_prefix(&self.root) {
            // Joining an empty path would add a slash.
            Ok(below) if !below.as_os_str().is_empty() => self.at.join(below),
            Ok(_) | Err(_) => self.at.clone(),
        }
    }
}

/// The path of the line of `/proc/self/cgroup` whose list of controllers is the right one.
fn own_path(table: &[u8], is_right: impl Fn(&[u8]) -> bool) -> Option<PathBuf> {
    table.split(|b| *b == b'\n').find_map(|line| {
        let mut fields = line.splitn(3, |b| *b == b':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        is_right(controllers).then(|| PathBuf::from(OsString::from_vec(path.to_vec())))
    })
}

/// Space, tab, newline and backslash are written as octal escapes there.
fn path(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = &after[3..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unified(top: &str, own: &str) -> Option<Unified> {
        Some(Unified { top: top.into(), own: own.into() })
    }

    #[test]
    fn a_machine_with_version_2_has_one_hierarchy() {
        let mounts = b"24 18 0:22 / /sys rw - sysfs sysfs rw\n\
            30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let host = Host::read(mounts, b"0::/user.slice/session-1.scope\n");
        let own = "/sys/fs/cgroup/user.slice/session-1.scope";
        assert_eq!(host.unified, unified("/sys/fs/cgroup", own));
        assert!(host.legacy.is_empty());
    }

    #[test]
    fn a_hybrid_machine_has_its_controllers_in_version_1() {
        let mounts = b"32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let own = b"4:memory:/a/b\n2:cpu,cpuacct:/\n1:name=systemd:/x\n0::/\n";
        let host = Host::read(mounts, own);
        assert_eq!(host.unified, unified("/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified"));
        let expected = [
            (Controller::Memory, PathBuf::from("/sys/fs/cgroup/memory/a/b")),
            (Controller::Cpu, PathBuf::from("/sys/fs/cgroup/cpu,cpuacct")),
        ];
        assert_eq!(host.legacy, expected.into());
    }

    #[test]
    fn in_a_container_paths_begin_at_what_is_mounted() {
        let mounts = b"35 31 0:32 /docker/c1 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            36 31 0:33 /docker/c1 /sys/fs/cgroup/with\\040space rw - cgroup cgroup rw,pids\n";
        let host = Host::read(mounts, b"4:memory:/docker/c1/sub\n5:pids:/elsewhere\n");
        assert_eq!(host.legacy[&Controller::Memory], Path::new("/sys/fs/cgroup/memory/sub"));
        assert_eq!(host.legacy[&Controller::Pids], Path::new("/sys/fs/cgroup/with space"));
    }

    #[test]
    fn a_machine_without_cgroups_has_none() {
        assert_eq!(Host::read(b"24 18 0:22 / /sys rw - sysfs sysfs rw\n", b""), Host::default());
    }
}
