//! What was exchanged on the host between the death of a daemon and the next start is not taken for what the dead one's
//! workspaces wrote. Recovery has only paths to find it by, and the numbers of what was there.

use crate::scene::{Daemon, Scene, WRONG};
use nix::sys::signal::Signal;
use std::fs;
use std::path::Path;

struct Exchange {
    /// The workspace's id, and the name of the directory in which all of it happens.
    name: &'static str,
    mounted: bool,
    change: fn(&Scene, &Path),
    /// What is registered afterwards.
    registered: &'static [&'static str],
}

const ALL: &[&str] = &["w/before", "w/kept", "w/open"];

fn away(directory: &Path) {
    fs::rename(directory, directory.with_file_name("moved")).unwrap();
}

const EXCHANGES: &[Exchange] = &[
    Exchange {
        name: "back-again",
        mounted: false,
        change: |_, directory| {
            away(directory);
            fs::rename(directory.with_file_name("moved"), directory).unwrap();
        },
        registered: ALL,
    },
    Exchange {
        name: "moved",
        mounted: false,
        change: |scene, directory| {
            away(directory);
            scene.make_wrong(directory);
        },
        registered: &[],
    },
    Exchange {
        name: "link",
        mounted: false,
        change: |scene, directory| {
            away(directory);
            scene.make_wrong(&directory.with_file_name("elsewhere"));
            std::os::unix::fs::symlink("elsewhere", directory).unwrap();
        },
        registered: &[],
    },
    Exchange {
        // On ext4 the directory and its files get the inode numbers of the removed ones.
        name: "made-again",
        mounted: false,
        change: |scene, directory| {
            fs::remove_dir_all(directory).unwrap();
            scene.make_wrong(directory);
        },
        registered: &[],
    },
    Exchange {
        name: "mounted-over",
        mounted: false,
        change: |scene, directory| {
            scene.mount_tmpfs(directory);
            scene.make_wrong(directory);
        },
        registered: &[],
    },
    Exchange {
        name: "unmounted",
        mounted: true,
        change: |scene, directory| scene.succeeds("umount", &["{}"], directory),
        registered: &[],
    },
    Exchange {
        // The device number and all inode numbers are those of the unmounted file system.
        name: "file-system-replaced",
        mounted: true,
        change: |scene, directory| {
            scene.succeeds("umount", &["{}"], directory);
            scene.mount_tmpfs(directory);
            scene.make_wrong(directory);
        },
        registered: &[],
    },
    Exchange {
        // On ext4 the file gets the inode number of the removed one.
        name: "file-made-again",
        mounted: false,
        change: |scene, directory| {
            fs::remove_file(directory.join("kept")).unwrap();
            fs::write(directory.join("kept"), WRONG).unwrap();
            scene.own(directory);
        },
        registered: &["w/before", "w/open"],
    },
    Exchange {
        name: "file-renamed-over",
        mounted: false,
        change: |scene, directory| {
            fs::rename(directory.with_file_name("older"), directory.join("kept")).unwrap();
            scene.own(directory);
        },
        registered: &["w/before", "w/open"],
    },
];

fn recovery_takes_nothing_for_what_it_is_not(daemon: Daemon) {
    let mut scene = Scene::new(daemon);
    // Nothing that is closed is registered before the daemon dies.
    fs::write(scene.path("config.yaml"), "artifacts: { debounce: 1m, debounce_max: 1m }\n")
        .unwrap();
    let config = scene.path("config.yaml").display().to_string();
    scene.place.start_daemon_with(&["--config", &config]);
    let mut stages = Vec::new();
    for exchange in EXCHANGES {
        let directory = scene.path(exchange.name).join("data");
        scene.make(&directory);
        fs::write(directory.with_file_name("older"), WRONG).unwrap();
        scene.own(&scene.path(exchange.name));
        if exchange.mounted {
            scene.make_wrong(&directory);
            scene.mount_tmpfs(&directory);
        }
        let mut inside = scene.stay(exchange.name, &directory);
        for call in ["write('w/kept')", "hold('w/open')", "write('w/before')"] {
            assert_eq!(inside.ask(call), "ok", "{}: {call}", exchange.name);
        }
        stages.push((exchange, directory, inside));
    }
    scene.place.stop_daemon(Signal::SIGKILL);
    for (exchange, directory, inside) in stages {
        inside.lost();
        (exchange.change)(&scene, &directory);
    }
    scene.place.start_daemon();
    let registered =
        |scene: &Scene, name: &str| -> Vec<String> { scene.artifacts(name).into_keys().collect() };
    for exchange in EXCHANGES {
        assert_eq!(registered(&scene, exchange.name), exchange.registered, "{}", exchange.name);
    }
    // A directory that is back is looked into by whichever daemon runs by then.
    assert!(scene.place.stop_daemon(Signal::SIGTERM).success());
    scene.succeeds("umount", &["{}"], &scene.path("mounted-over").join("data"));
    scene.place.start_daemon();
    assert_eq!(registered(&scene, "mounted-over"), ALL);
    let kept = scene.place.files_with(WRONG.as_bytes());
    assert!(kept.is_empty(), "others' content was kept: {kept:?}");
    assert!(scene.place.stop_daemon(Signal::SIGTERM).success());
}

#[test]
fn recovery_takes_no_directory_and_no_file_for_another() {
    recovery_takes_nothing_for_what_it_is_not(Daemon::OfRoot);
}

#[test]
fn an_ordinary_users_recovery_takes_no_directory_and_no_file_for_another() {
    recovery_takes_nothing_for_what_it_is_not(Daemon::OfOrdinaryUser);
}
