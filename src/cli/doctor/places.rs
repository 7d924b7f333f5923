//! The directories of this user, the catalog in one of them, and the daemon.

use super::Check;
use super::trial::itself;
use crate::cli::connect::Context;
use crate::cli::output;
use crate::config::paths::Paths;
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};
use std::path::{Path, PathBuf};

/// Below this a catalog and a few contents hardly fit. Chosen.
const FREE_BYTES_WANTED: u64 = 1 << 30;

pub fn checks(context: &Context, paths: &Paths) -> Vec<Check> {
    let (daemon, socket) = daemon(context, paths);
    let catalog = catalog(paths, socket.as_deref());
    vec![
        directory("state directory", paths, &paths.state_dir, "state", "BELLJAR_STATE_DIR"),
        directory("runtime directory", paths, &paths.runtime_dir, "runtime", "BELLJAR_RUNTIME_DIR"),
        free_space(paths),
        daemon,
        catalog,
    ]
}

/// Whether the directory can be used, or be made: the nearest one that exists is asked.
fn directory(
    name: &'static str,
    paths: &Paths,
    path: &Path,
    what: &'static str,
    variable: &'static str,
) -> Check {
    let existing = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let shown = path.display();
    if let Err(error) = paths.look(what, path, variable) {
        return Check::failure(
            name,
            error.to_string(),
            format!("set {variable} to a directory of yours"),
        );
    }
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

/// The check, and where a daemon answers.
fn daemon(context: &Context, paths: &Paths) -> (Check, Option<PathBuf>) {
    const NAME: &str = "daemon";
    match context.find(paths) {
        Ok(Some(client)) => {
            let socket = client.socket().to_owned();
            (Check::ok(NAME, format!("answers at {}", socket.display())), Some(socket))
        }
        Ok(None) => (Check::ok(NAME, "none is running; each command starts a private one"), None),
        Err(failure) => {
            let fix = "start `belljard serve`, or unset BELLJAR_SOCKET";
            (Check::failure(NAME, failure.text(), fix), None)
        }
    }
}

/// By the command that a person would use. One that does not exist is not made for this.
fn catalog(paths: &Paths, socket: Option<&Path>) -> Check {
    const NAME: &str = "catalog";
    if socket.is_none() && !paths.state_dir.join("catalog.sqlite").exists() {
        return Check::ok(NAME, "there is none yet; the first run makes it");
    }
    let env = [
        ("BELLJAR_STATE_DIR", Some(paths.state_dir.as_path())),
        ("BELLJAR_RUNTIME_DIR", Some(paths.runtime_dir.as_path())),
        // One that is named and does not answer is another check's.
        ("BELLJAR_SOCKET", socket),
    ];
    let listed = itself(&["artifact", "ls", "--limit", "1", "--json"], &env, None);
    match listed {
        Ok(_) => Check::ok(NAME, "answers"),
        Err(reason) => Check::failure(
            NAME,
            reason,
            format!(
                "mend what the message names, or set BELLJAR_STATE_DIR to another directory than {}",
                paths.state_dir.display()
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_directory_can_be_made_or_is_safe() {
        let around = tempfile::tempdir().expect("temporary directory");
        let uid = nix::unistd::geteuid().as_raw();
        let path = around.path().join("a/b");
        let paths =
            Paths { uid, state_dir: path.clone(), runtime_dir: path.clone(), socket: path.clone() };
        let check = || directory("state directory", &paths, &path, "state", "X");
        assert_eq!(check().verdict, Verdict::Ok);
        assert!(check().detail.contains("can be made"), "{}", check().detail);
        fs::create_dir_all(&path).expect("directory");
        assert!(check().detail.contains("can be written"), "{}", check().detail);
        fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).expect("chmod");
        assert_eq!(check().verdict, Verdict::Failure);
        assert!(check().detail.contains("written by others"), "{}", check().detail);
    }
}
