//! The files of `/etc` that a sandbox has of its own, and the links that programs expect around the root.

use super::{Given, because};
use crate::sandbox::plan::{Basis, SandboxPlan};
use crate::sandbox::protocol::SetupFailure;
use crate::wire::run::Network;
use std::os::unix::fs::symlink;

/// User and group that stand for nobody, as on every Linux system: also what ids look like that a user namespace does not map.
const NOBODY: u32 = 65534;

/// Longest `/etc/hosts` of the host that is taken over, in bytes. Chosen, not measured; beyond it the file is left out.
const HOSTS_BYTES_MAX: u64 = 1 << 20;

/// What does not depend on who the command is.
pub fn write(host_hosts: Option<String>) -> Result<(), SetupFailure> {
    super::make_directories("/etc".as_ref(), None).map_err(because("make /etc"))?;
    let mut files =
        vec![("/etc/hostname", "belljar\n".to_owned()), ("/etc/hosts", hosts(host_hosts))];
    let switch = "/etc/nsswitch.conf";
    // A root that was given may have its own.
    if std::fs::symlink_metadata(switch).is_err() {
        let text = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n";
        files.push((switch, text.to_owned()));
    }
    for (path, text) in files {
        write_file(path, &text)?;
    }
    super::make_directories("/var".as_ref(), None).map_err(because("make /var"))?;
    super::make_directories("/run".as_ref(), None).map_err(because("make /run"))?;
    for (target, path) in
        [("/proc/self/mounts", "/etc/mtab"), ("/tmp", "/var/tmp"), ("/run", "/var/run")]
    {
        symlink(target, path).map_err(because(format_args!("link {path}")))?;
    }
    Ok(())
}

/// Names of the command's user and group.
///
/// `given` is the root that the user gave, whose own users and groups stay beside the run's.
pub fn write_identity(plan: &SandboxPlan, given: Option<&Given>) -> Result<(), SetupFailure> {
    let others = |name: &str| given.and_then(|given| given.text(name));
    write_file("/etc/passwd", &with_others(passwd(plan), others("passwd")))?;
    write_file("/etc/group", &with_others(group(plan), others("group")))
}

fn write_file(path: &str, text: &str) -> Result<(), SetupFailure> {
    std::fs::write(path, text).map_err(because(format_args!("write {path}")))
}

/// The host's `/etc/hosts`, for a sandbox with the host's network. Read while the root is still the host's.
pub fn host_hosts(basis: &Basis) -> Option<String> {
    use std::io::Read;
    match basis.network {
        Network::None => None,
        Network::Host => {
            let mut bytes = Vec::new();
            let file = std::fs::File::open("/etc/hosts").ok()?;
            file.take(HOSTS_BYTES_MAX + 1).read_to_end(&mut bytes).ok()?;
            let whole = bytes.len() as u64 <= HOSTS_BYTES_MAX;
            whole.then(|| String::from_utf8_lossy(&bytes).into_owned())
        }
    }
}

fn hosts(host: Option<String>) -> String {
    match host {
        None => {
            "127.0.0.1 localhost belljar\n::1 localhost ip6-localhost ip6-loopback\n".to_owned()
        }
        Some(mut text) => {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text.push_str("127.0.0.1 localhost belljar\n");
            text
        }
    }
}

/// The sandbox's own lines, and those of the others that have another name and another number.
fn with_others(own: String, others: Option<String>) -> String {
    let key = |line: &str| {
        let mut fields = line.split(':');
        (fields.next().map(str::to_owned), fields.nth(1).map(str::to_owned))
    };
    let taken: Vec<_> = own.lines().map(key).collect();
    let is_free = |line: &&str| {
        let (name, number) = key(line);
        taken.iter().all(|(own, own_number)| *own != name && *own_number != number)
    };
    let mut text = own.clone();
    for line in others.as_deref().unwrap_or_default().lines().filter(is_free) {
        text.push_str(line);
        text.push('\n');
    }
    text
}

fn passwd(plan: &SandboxPlan) -> String {
    let user = &plan.user;
    let home = plan.home.display();
    let mut text = String::new();
    if user.uid != 0 {
        text.push_str("root:x:0:0:root:/nonexistent:/usr/sbin/nologin\n");
    }
    text.push_str(&format!("{}:x:{}:{}::{home}:/bin/sh\n", user.name, user.uid, user.gid));
    if user.uid != NOBODY {
        text.push_str(&format!(
            "nobody:x:{NOBODY}:{NOBODY}:nobody:/nonexistent:/usr/sbin/nologin\n"
        ));
    }
    text
}

fn group(plan: &SandboxPlan) -> String {
    let user = &plan.user;
    let mut text = String::new();
    if user.gid != 0 {
        text.push_str("root:x:0:\n");
    }
    text.push_str(&format!("{}:x:{}:\n", user.name, user.gid));
    if user.gid != NOBODY {
        text.push_str(&format!("nogroup:x:{NOBODY}:\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_of_a_given_root_stay_unless_the_sandbox_has_them() {
        let own = "root:x:0:0::/nonexistent:/bin/false\nbelljar:x:7:7::/home/belljar:/bin/sh\n";
        let others = "root:x:0:0:root:/root:/bin/sh\nmail:x:8:8::/var/mail:\nseven:x:7:7:::\nbelljar:x:9:9:::";
        let text = with_others(own.to_owned(), Some(others.to_owned()));
        assert_eq!(text, format!("{own}mail:x:8:8::/var/mail:\n"));
        assert_eq!(with_others(own.to_owned(), None), own);
    }
}
