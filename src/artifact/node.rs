//! Which node a state directory is: `<state>/node` holds its UUID, made once.
//!
//! Daemons over one state directory share its contents, so that each of them can send what another has registered. The
//! UUID tells apart the state directories that share a catalog.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use uuid::Uuid;

/// Of several daemons that start at once, all get the same.
pub(super) fn of(state_dir: &Path) -> io::Result<Uuid> {
    let path = state_dir.join("node");
    match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        text => return parse(&text?),
    }
    let uuid = Uuid::now_v7();
    let new = state_dir.join(format!(".node-{uuid}"));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    writeln!(file, "{uuid}")?;
    file.sync_all()?;
    // A link, unlike a rename, leaves the file alone that another daemon was faster to make.
    let linked = fs::hard_link(&new, &path);
    fs::remove_file(&new)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    File::open(state_dir)?.sync_all()?;
    parse(&fs::read_to_string(path)?)
}

fn parse(text: &str) -> io::Result<Uuid> {
    text.trim().parse().map_err(|error| {
        io::Error::other(format!("it must be one UUID: {error}; restore it, for the catalog knows the state directory by it"))
    })
}

/// What people call a node.
pub(super) fn place(state_dir: &Path) -> String {
    let host = nix::unistd::gethostname().unwrap_or_default();
    format!("{}:{}", host.to_string_lossy(), state_dir.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_is_the_same_node_to_all_for_ever() {
        let state = tempfile::tempdir().expect("temporary directory");
        let ask = || of(state.path()).expect("a node");
        let all: Vec<Uuid> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        assert!(all.iter().all(|uuid| *uuid == ask()), "{all:?}");
        assert_eq!(fs::read_dir(state.path()).expect("list").count(), 1);
        fs::write(state.path().join("node"), "spoilt").expect("write");
        assert!(of(state.path()).expect_err("refused").to_string().contains("UUID"));
    }
}
