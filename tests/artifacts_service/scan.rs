//! What is written past the file system is found by a scan, and by nothing else.

use crate::world::*;
use belljar::artifact::{Artifacts, AttachedMount, AttachedWorkspace, Scanned, Settings};
use belljar::model::artifact::ScanPolicy;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::tempdir;

/// The state directory as it is after the machine went down: nobody lives, and the boot was another.
fn as_after_another_boot(state: &Path) {
    for instance in fs::read_dir(state.join("instances")).expect("list") {
        let file = instance.expect("entry").path().join("instance.json");
        let text = fs::read_to_string(&file).expect("instance.json");
        let mut json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        json["boot"] = uuid::Uuid::now_v7().to_string().into();
        fs::write(&file, json.to_string()).expect("write");
    }
}

/// The last records of a journal never reached the disk.
fn lose_the_journals_tail(state: &Path, keep: u64) {
    for instance in fs::read_dir(state.join("instances")).expect("list") {
        let journal = instance.expect("entry").path().join("journal");
        let file = fs::OpenOptions::new().write(true).open(journal).expect("journal");
        file.set_len(keep).expect("cut");
    }
}

fn journal_length(state: &Path) -> u64 {
    let mut instances = fs::read_dir(state.join("instances")).expect("list");
    let instance = instances.next().expect("one").expect("entry").path();
    fs::metadata(instance.join("journal")).expect("journal").len()
}

/// A daemon that never gets to registering by itself, and dies with what it had noted.
fn slow(state: &Path) -> Artifacts {
    let day = Duration::from_secs(86_400);
    let settings = Settings { debounce: day, debounce_max: day, ..settings(state) };
    Artifacts::open(settings).expect("open")
}

#[test]
fn a_scan_finds_what_changed_on_the_host_and_nothing_else() {
    let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
    let write = |path: &str, bytes: &[u8]| {
        let path = output.path().join(path);
        fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
        fs::write(path, bytes).expect("write");
    };
    write("here-before", b"never written through a workspace");
    std::thread::sleep(Duration::from_millis(2_100));
    let artifacts = open(state.path());
    let mut workspace = Workspace::attach(&artifacts, "w", output.path());
    workspace.begin_run(&artifacts);
    for name in ["same", "changed", "d/changed", "removed", "replaced", "touched"] {
        workspace.write(name, name.as_bytes());
    }
    assert!(drain(&artifacts).complete);
    let nothing = artifacts.scan(Some(UID), None).expect("scan");
    assert_eq!(nothing, Scanned { files: 7, found: 0, refused: 0 });

    write("changed", b"CHANGED");
    write("d/changed", b"on the host");
    write("d/e/new", b"on the host");
    write("x.tmp", b"ignored");
    write("node_modules/m/i.js", b"ignored");
    fs::remove_file(output.path().join("removed")).expect("remove");
    write("aside", b"another file with the same name");
    fs::rename(output.path().join("aside"), output.path().join("replaced")).expect("rename");
    // Looks changed, and is not.
    write("touched", b"touched");
    std::os::unix::fs::symlink("/etc", output.path().join("link")).expect("symlink");
    let other = artifacts.scan(Some(UID + 1), None).expect("scan");
    assert_eq!(other, Scanned::default(), "another owner's");
    let id = workspace.id.clone();
    let scanned = artifacts.scan(Some(UID), Some(&id)).expect("scan");
    assert_eq!(scanned, Scanned { files: 7, found: 5, refused: 0 });
    assert!(drain(&artifacts).complete);
    assert_eq!(
        paths(&artifacts),
        [
            "/workspace/output/changed@1",
            "/workspace/output/changed@2",
            "/workspace/output/d/changed@1",
            "/workspace/output/d/changed@2",
            "/workspace/output/d/e/new@1",
            "/workspace/output/removed@1",
            "/workspace/output/replaced@1",
            "/workspace/output/replaced@2",
            "/workspace/output/same@1",
            "/workspace/output/touched@1",
        ]
    );
    for artifact in versions(&artifacts) {
        let by_host = artifact.version == 2 || artifact.path.ends_with("new");
        assert_eq!(artifact.run_id.is_none(), by_host, "{artifact:?}");
        assert_eq!(artifact.writer.is_none(), by_host, "{artifact:?}");
    }
    let again = artifacts.scan(Some(UID), None).expect("scan");
    assert_eq!(again, Scanned { files: 7, found: 0, refused: 0 });
    shutdown(artifacts);
    assert_eq!(fs::read_dir(state.path().join("instances")).expect("list").count(), 0);
}

#[test]
fn what_is_open_in_the_workspace_is_left_to_its_writer() {
    let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
    let artifacts = open(state.path());
    let mut workspace = Workspace::attach(&artifacts, "w", output.path());
    let run = workspace.begin_run(&artifacts);
    let key = workspace.open("f").expect("open");
    fs::write(output.path().join("f"), b"half").expect("write");
    assert_eq!(artifacts.scan(Some(UID), None).expect("scan").found, 0);
    fs::write(output.path().join("f"), b"whole").expect("write");
    workspace.close(key, true);
    assert!(drain(&artifacts).complete);
    let all = versions(&artifacts);
    assert_eq!((all.len(), all[0].run_id), (1, Some(run)));
    shutdown(artifacts);
}

#[test]
fn after_the_machine_went_down_a_scan_finds_what_the_journal_lost() {
    let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
    fs::write(output.path().join("old"), b"was here before").expect("write");
    std::thread::sleep(Duration::from_millis(3_100));
    let dead = slow(state.path());
    let workspace = Workspace::attach(&dead, "w", output.path());
    workspace.write("noted", b"noted");
    let kept = journal_length(state.path());
    workspace.write("lost", b"its record never reached the disk");
    workspace.forget();
    drop(dead);
    lose_the_journals_tail(state.path(), kept);

    // The same boot: what was written to the journal is there, so that nothing is looked for.
    let artifacts = open(state.path());
    let recovered = artifacts.recover().expect("recover");
    assert_eq!(recovered.files, 1);
    for instance in recovered.instances {
        instance.remove().expect("remove");
    }
    assert_eq!(paths(&artifacts), ["/workspace/output/noted@1"]);
    shutdown(artifacts);

    let dead = slow(state.path());
    let workspace = Workspace::attach(&dead, "w", output.path());
    let kept = journal_length(state.path());
    workspace.write("lost", b"its record never reached the disk");
    workspace.forget();
    drop(dead);
    lose_the_journals_tail(state.path(), kept);
    as_after_another_boot(state.path());
    let artifacts = open(state.path());
    artifacts.recover().expect("recover");
    wait_until(|| paths(&artifacts).len() == 2);
    assert_eq!(paths(&artifacts), ["/workspace/output/lost@1", "/workspace/output/noted@1"]);
    assert!(versions(&artifacts)[0].run_id.is_none(), "who wrote it is not known");
    shutdown(artifacts);
}

#[test]
fn a_setting_says_when_to_scan() {
    let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
    let first = open(state.path());
    let workspace = Workspace::attach(&first, "w", output.path());
    workspace.write("f", b"one");
    assert!(drain(&first).complete);
    workspace.forget();
    shutdown(first);
    fs::write(output.path().join("f"), b"two, on the host").expect("write");
    for (scan, expected) in [(ScanPolicy::OnUnclean, 1), (ScanPolicy::Always, 2)] {
        let artifacts = Artifacts::open(Settings { scan, ..settings(state.path()) }).expect("open");
        artifacts.recover().expect("recover");
        let workspace = Workspace::attach(&artifacts, "w", output.path());
        if expected == 2 {
            wait_until(|| versions(&artifacts).len() == 2);
        } else {
            std::thread::sleep(Duration::from_millis(300));
        }
        assert_eq!(versions(&artifacts).len(), expected, "{scan:?}");
        workspace.forget();
        shutdown(artifacts);
    }
}

#[test]
fn directories_that_are_too_deep_are_counted_as_refused() {
    let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
    let artifacts = open(state.path());
    let _workspace = Workspace::attach(&artifacts, "w", output.path());
    let mut deep = output.path().to_owned();
    for level in 1..=260 {
        deep.push("d");
        fs::create_dir(&deep).expect("mkdir");
        if level == 255 || level == 256 {
            fs::write(deep.join("f"), b"on the host").expect("write");
        }
    }
    let scanned = artifacts.scan(Some(UID), None).expect("scan");
    assert_eq!(scanned, Scanned { files: 1, found: 1, refused: 1 });
    shutdown(artifacts);
}

/// A memory file system over a directory, for as long as it is held.
struct Mount(PathBuf);

impl Mount {
    fn over(path: PathBuf) -> Self {
        fs::create_dir(&path).expect("mkdir");
        let kind = Some("tmpfs");
        nix::mount::mount(kind, &path, kind, nix::mount::MsFlags::empty(), None::<&str>)
            .expect("mount a tmpfs: this test needs root");
        Self(path)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_scan_stays_on_its_file_system() {
    let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
    let artifacts = open(state.path());
    let _workspace = Workspace::attach(&artifacts, "w", output.path());
    let mount = Mount::over(output.path().join("other"));
    fs::write(mount.0.join("f"), b"of another file system").expect("write");
    fs::write(output.path().join("f"), b"of this one").expect("write");
    let scanned = artifacts.scan(Some(UID), None).expect("scan");
    assert_eq!(scanned, Scanned { files: 1, found: 1, refused: 0 });
    drop(mount);
    shutdown(artifacts);
}

#[test]
fn a_scan_looks_into_nothing_that_is_closed_to_the_owner() {
    assert!(nix::unistd::geteuid().is_root(), "this test acts as another user: run it as root");
    const OWNER: u32 = 12_345;
    let (state, output) = (tempdir().expect("state"), tempdir().expect("output"));
    let artifacts = open(state.path());
    let give = |path: &Path, owner: u32, mode: u32| {
        std::os::unix::fs::chown(path, Some(owner), Some(owner)).expect("chown");
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
    };
    give(output.path(), OWNER, 0o755);
    let metadata = fs::metadata(output.path()).expect("stat");
    let attached = AttachedWorkspace {
        id: "w".parse().expect("id"),
        owner_uid: OWNER,
        mounts: vec![AttachedMount {
            name: "output".parse().expect("name"),
            host_path: output.path().to_owned(),
            host_dev: metadata.dev(),
            host_ino: metadata.ino(),
            artifacts: true,
        }],
    };
    artifacts.attach(attached).expect("attach");
    for (name, owner) in [("closed", 0), ("open", OWNER)] {
        let directory = output.path().join(name);
        fs::create_dir(&directory).expect("mkdir");
        fs::write(directory.join("f"), name).expect("write");
        give(&directory.join("f"), owner, 0o644);
        give(&directory, owner, 0o700);
    }
    let scanned = artifacts.scan(Some(OWNER), None).expect("scan");
    assert_eq!(scanned, Scanned { files: 1, found: 1, refused: 1 });
    assert!(drain(&artifacts).complete);
    assert_eq!(paths(&artifacts), ["/workspace/output/open/f@1"]);
    shutdown(artifacts);
}
