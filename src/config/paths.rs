//! Where Belljar keeps its things: the table of paths, for root and for users.
//!
//! This module only names directories and makes them safe; it does not know what is put into them.

use super::Config;
use nix::unistd::geteuid;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

const SYSTEM_CONFIG: &str = "/etc/belljar/belljard.yaml";
const SYSTEM_STATE: &str = "/var/lib/belljar";
const SYSTEM_RUNTIME: &str = "/run/belljar";

/// Name of the API socket in its directory.
pub const SOCKET_NAME: &str = "belljar.sock";

/// Who we are and what the environment says, as a value, so that every rule can be tested.
#[derive(Clone)]
pub struct Surroundings {
    pub uid: u32,
    variables: BTreeMap<OsString, OsString>,
}

impl fmt::Debug for Surroundings {
    /// Without values: credentials come in variables.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variables: Vec<_> = self.variables.keys().collect();
        f.debug_struct("Surroundings")
            .field("uid", &self.uid)
            .field("variables", &variables)
            .finish()
    }
}

impl Surroundings {
    /// This process's own.
    pub fn ours() -> Self {
        Self { uid: geteuid().as_raw(), variables: std::env::vars_os().collect() }
    }

    #[cfg(test)]
    pub fn fake(uid: u32, variables: &[(&str, &str)]) -> Self {
        let variables = variables.iter().map(|(k, v)| (k.into(), v.into())).collect();
        Self { uid, variables }
    }

    /// A variable that is set to something; set to nothing counts as not set (XDG Base Directory Specification).
    fn variable(&self, name: &str) -> Option<&OsString> {
        self.variables.get(std::ffi::OsStr::new(name)).filter(|value| !value.is_empty())
    }

    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.variable(name).map(PathBuf::from)
    }

    pub fn text(&self, name: &str) -> Option<String> {
        self.variable(name).and_then(|value| value.to_str()).map(str::to_owned)
    }

    /// `$name`, or `$HOME/rest`. A relative XDG directory is ignored, as its specification says.
    fn xdg(&self, name: &str, rest: &str) -> Option<PathBuf> {
        self.path(name)
            .filter(|path| path.is_absolute())
            .or_else(|| Some(self.path("HOME")?.join(rest)))
    }
}

/// The places of one daemon, or of one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    pub uid: u32,
    pub state_dir: PathBuf,
    pub runtime_dir: PathBuf,
    pub socket: PathBuf,
}

/// A directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PathsError {
    #[error(
        "no {what} directory is known for uid {uid}: HOME is not set; set HOME, or {variable} to an absolute path"
    )]
    Homeless { what: &'static str, uid: u32, variable: &'static str },
    #[error("make the {what} directory {}; choose another one with {variable}", path.display())]
    Make {
        what: &'static str,
        path: PathBuf,
        variable: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the {what} directory {} is not a directory: remove it, or choose another one with {variable}", path.display())]
    NotADirectory { what: &'static str, path: PathBuf, variable: &'static str },
    #[error(
        "the {what} directory {} belongs to uid {owner}, not to you (uid {uid}): remove it as that user, or choose another one with {variable}",
        path.display()
    )]
    ForeignOwner { what: &'static str, path: PathBuf, owner: u32, uid: u32, variable: &'static str },
    #[error(
        "the {what} directory {} may be written by others (mode {mode:04o}): run `chmod go-w {}`, or choose another one with {variable}",
        path.display(), path.display()
    )]
    WritableByOthers { what: &'static str, path: PathBuf, mode: u32, variable: &'static str },
}

/// The configuration file that is read when none is named.
pub fn usual_config_file(around: &Surroundings) -> PathBuf {
    match around.uid {
        0 => PathBuf::from(SYSTEM_CONFIG),
        _ => around
            .xdg("XDG_CONFIG_HOME", ".config")
            .map_or_else(|| PathBuf::from(SYSTEM_CONFIG), |dir| dir.join("belljar/belljard.yaml")),
    }
}

/// Where the system's daemon listens.
pub fn system_socket() -> PathBuf {
    Path::new(SYSTEM_RUNTIME).join(SOCKET_NAME)
}

impl Paths {
    /// Applies the table of paths to what is configured.
    pub fn resolve(config: &Config, around: &Surroundings) -> Result<Paths, PathsError> {
        let uid = around.uid;
        let root = uid == 0;
        let state_dir = match (&config.state_dir, root) {
            (Some(path), _) => path.clone(),
            (None, true) => PathBuf::from(SYSTEM_STATE),
            (None, false) => around
                .xdg("XDG_STATE_HOME", ".local/state")
                .ok_or(PathsError::Homeless { what: "state", uid, variable: "BELLJAR_STATE_DIR" })?
                .join("belljar"),
        };
        let runtime_dir = match (&config.runtime_dir, root) {
            (Some(path), _) => path.clone(),
            (None, true) => PathBuf::from(SYSTEM_RUNTIME),
            (None, false) => match around.path("XDG_RUNTIME_DIR") {
                Some(dir) if dir.is_absolute() => dir.join("belljar"),
                Some(_) | None => PathBuf::from(format!("/tmp/belljar-{uid}")),
            },
        };
        let socket = config.socket.clone().unwrap_or_else(|| runtime_dir.join(SOCKET_NAME));
        Ok(Paths { uid, state_dir, runtime_dir, socket })
    }

    /// Makes both directories and refuses those that another user could tamper with.
    ///
    /// Root's runtime directory can be searched by all, because the socket in it is for the group `belljar`; what must
    /// not be seen below it has directories of its own with mode 0700.
    pub fn prepare(&self) -> Result<(), PathsError> {
        let runtime_mode = if self.uid == 0 { 0o755 } else { 0o700 };
        self.make("state", &self.state_dir, 0o700, "BELLJAR_STATE_DIR")?;
        self.make("runtime", &self.runtime_dir, runtime_mode, "BELLJAR_RUNTIME_DIR")
    }

    /// Whether a directory may be used that is there; one that is not yet there is fine.
    pub fn look(
        &self,
        what: &'static str,
        path: &Path,
        variable: &'static str,
    ) -> Result<(), PathsError> {
        match fs::symlink_metadata(path) {
            Ok(found) => self.check(what, path, &found, variable),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(PathsError::Make { what, path: path.to_owned(), variable, source }),
        }
    }

    fn make(
        &self,
        what: &'static str,
        path: &Path,
        mode: u32,
        variable: &'static str,
    ) -> Result<(), PathsError> {
        let failed = |source| PathsError::Make { what, path: path.to_owned(), variable, source };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        match DirBuilder::new().mode(mode).create(path) {
            Ok(()) => {
                // mkdir(2) takes the umask away; the mode is part of the contract, so it is set again.
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(error)),
        }
        // Not followed: a link in /tmp could have been laid by anyone.
        let found = fs::symlink_metadata(path).map_err(failed)?;
        self.check(what, path, &found, variable)
    }

    fn check(
        &self,
        what: &'static str,
        path: &Path,
        found: &Metadata,
        variable: &'static str,
    ) -> Result<(), PathsError> {
        let path = path.to_owned();
        if !found.is_dir() {
            return Err(PathsError::NotADirectory { what, path, variable });
        }
        let (owner, uid) = (found.uid(), self.uid);
        if owner != uid {
            return Err(PathsError::ForeignOwner { what, path, owner, uid, variable });
        }
        let mode = found.mode() & 0o7777;
        if mode & 0o022 != 0 {
            return Err(PathsError::WritableByOthers { what, path, mode, variable });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(uid: u32, variables: &[(&str, &str)]) -> Paths {
        let around = Surroundings::fake(uid, variables);
        Paths::resolve(&Config::default(), &around).expect("resolves")
    }

    #[test]
    fn root_has_the_system_directories_whatever_its_home() {
        let paths = resolve(0, &[("HOME", "/root"), ("XDG_RUNTIME_DIR", "/run/user/0")]);
        assert_eq!(paths.state_dir, Path::new("/var/lib/belljar"));
        assert_eq!(paths.socket, Path::new("/run/belljar/belljar.sock"));
        assert_eq!(usual_config_file(&Surroundings::fake(0, &[])), Path::new(SYSTEM_CONFIG));
    }

    #[test]
    fn a_user_has_xdg_directories_and_falls_back_to_tmp() {
        let paths = resolve(7, &[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/run/user/7")]);
        assert_eq!(paths.state_dir, Path::new("/h/.local/state/belljar"));
        assert_eq!(paths.runtime_dir, Path::new("/run/user/7/belljar"));
        let paths = resolve(7, &[("XDG_STATE_HOME", "/s")]);
        assert_eq!(paths.state_dir, Path::new("/s/belljar"));
        assert_eq!(paths.socket, Path::new("/tmp/belljar-7/belljar.sock"));
    }

    #[test]
    fn a_user_without_home_hears_which_variable_to_set() {
        let around = Surroundings::fake(7, &[]);
        let error = Paths::resolve(&Config::default(), &around).expect_err("no home").to_string();
        assert!(error.contains("HOME") && error.contains("BELLJAR_STATE_DIR"), "{error}");
    }

    fn paths_in(directory: &Path) -> Paths {
        Paths {
            uid: geteuid().as_raw(),
            state_dir: directory.join("state/deep"),
            runtime_dir: directory.join("runtime"),
            socket: directory.join("runtime/belljar.sock"),
        }
    }

    #[test]
    fn directories_are_made_private_and_a_second_start_accepts_them() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let paths = Paths { ..paths_in(directory.path()) };
        paths.prepare().expect("makes them");
        paths.prepare().expect("accepts them");
        let mode = fs::metadata(&paths.state_dir).expect("exists").mode() & 0o777;
        assert_eq!(mode, 0o700);
    }

    #[test]
    fn a_runtime_directory_that_others_can_write_or_that_is_a_link_is_refused() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let paths = paths_in(directory.path());
        fs::create_dir(&paths.runtime_dir).expect("create");
        fs::set_permissions(&paths.runtime_dir, fs::Permissions::from_mode(0o777)).expect("chmod");
        let error = paths.prepare().expect_err("writable by others").to_string();
        assert!(error.contains("0777") && error.contains("chmod go-w"), "{error}");
        fs::remove_dir(&paths.runtime_dir).expect("remove");
        std::os::unix::fs::symlink("/tmp", &paths.runtime_dir).expect("link");
        assert!(matches!(paths.prepare(), Err(PathsError::NotADirectory { .. })));
    }

    #[test]
    fn a_directory_of_another_user_is_refused() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut paths = paths_in(directory.path());
        paths.prepare().expect("makes them");
        let owner = paths.uid;
        paths.uid = owner + 1;
        let error = paths.prepare().expect_err("foreign").to_string();
        assert!(error.contains(&format!("belongs to uid {owner}")), "{error}");
        assert!(error.contains("BELLJAR_STATE_DIR"), "{error}");
    }
}
