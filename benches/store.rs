//! What storing a large file costs beside copying it: `cargo bench --bench store [-- ROUNDS]`. Nothing here passes or
//! fails.
//!
//! Each round copies the same file with cp(1), once left to the page cache and once made durable, and has it
//! registered: copied, digested, searched for secrets, read for metadata, made durable, and its row written. The order
//! changes from round to round. Medians and the medians of the rounds' ratios are printed; `docs/benchmarks.md` records
//! them. `BELLJAR_BENCH_MIB` sets the size of the file, 1,024 when missing.
#![allow(clippy::unwrap_used)]

use belljar::artifact::{
    Artifacts, AttachedMount, AttachedWorkspace, DrainScope, SecretSource, Settings,
};
use belljar::model::path::VirtualPath;
use belljar::secret::SecretValue;
use belljar::secret::encoding::Extent;
use belljar::secret::find::Finder;
use belljar::vfs::observer::{FileKey, Location, Writer};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

struct Secrets(Arc<Finder>);

impl SecretSource for Secrets {
    fn finder(&self) -> Arc<Finder> {
        Arc::clone(&self.0)
    }

    fn masker(&self) -> Arc<Finder> {
        Arc::clone(&self.0)
    }
}

fn ten_secrets() -> Arc<Secrets> {
    let values: Vec<_> = (0..10u8)
        .map(|number| {
            let token = blake3::hash(&[number]).to_hex();
            SecretValue::new(token[..32].as_bytes().to_vec()).unwrap()
        })
        .collect();
    let named = values.iter().zip(0..).map(|(value, n)| (format!("K{n}").parse().unwrap(), value));
    Arc::new(Secrets(Arc::new(Finder::new(named, Extent::Piece))))
}

/// Registers one file in a fresh state directory.
fn store(state: &Path, output: &Path, name: &str, secrets: Option<Arc<Secrets>>) -> Duration {
    let mut settings = Settings::new(state.to_owned(), uuid::Uuid::now_v7());
    settings.debounce = Duration::ZERO;
    settings.content_bytes_max = 1 << 40;
    let artifacts = Artifacts::open(settings).unwrap();
    let found = fs::metadata(output).unwrap();
    let attachment = artifacts
        .attach(AttachedWorkspace {
            id: "w".parse().unwrap(),
            owner_uid: 0,
            mounts: vec![AttachedMount {
                name: "output".parse().unwrap(),
                host_path: output.to_owned(),
                host_dev: found.dev(),
                host_ino: found.ino(),
                artifacts: true,
            }],
        })
        .unwrap();
    if let Some(secrets) = secrets {
        attachment.set_secrets(secrets);
    }
    let observer = attachment.observer();
    let at = Location { mount: "output".parse().unwrap(), path: VirtualPath::parse(name).unwrap() };
    let writer = Writer { run: None, pid: 1, uid: 0, command: None };
    let file = FileKey(1);
    let _ = observer.dirtied(file, &at, writer).unwrap();
    let start = Instant::now();
    observer.closed(file, true);
    let drained = artifacts.drain(DrainScope::All, Instant::now() + Duration::from_secs(600));
    let took = start.elapsed();
    assert!(drained.complete, "{drained:?}");
    artifacts.shutdown(Instant::now() + Duration::from_secs(10));
    fs::remove_dir_all(state).unwrap();
    took
}

fn cp(from: &Path, to: &Path, durable: bool) -> Duration {
    let start = Instant::now();
    assert!(Command::new("cp").arg(from).arg(to).status().unwrap().success());
    if durable {
        fs::File::open(to).unwrap().sync_all().unwrap();
    }
    let took = start.elapsed();
    fs::remove_file(to).unwrap();
    took
}

fn main() {
    let rounds = std::env::args().filter_map(|word| word.parse().ok()).next().unwrap_or(7usize);
    let mebibytes =
        std::env::var("BELLJAR_BENCH_MIB").ok().and_then(|n| n.parse().ok()).unwrap_or(1024);
    // Beside the build, since /tmp may be memory and the disk is what is measured.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let output = directory.path().join("output");
    fs::create_dir(&output).unwrap();
    let file = output.join("big");
    let mut bytes = vec![0; mebibytes << 20];
    blake3::Hasher::new().update(b"big").finalize_xof().fill(&mut bytes);
    fs::write(&file, &bytes).unwrap();
    drop(bytes);
    fs::File::open(&file).unwrap().sync_all().unwrap();

    let names = ["cp", "cp, durable", "stored, no secrets", "stored, 10 secrets"];
    let mut times: [Vec<Duration>; 4] = Default::default();
    let (copy, state) = (directory.path().join("copy"), directory.path().join("state"));
    for round in 0..rounds {
        for step in 0..4 {
            let row = (round + step) % 4;
            // What the row before left to write must not be paid for by this one.
            nix::unistd::sync();
            times[row].push(match row {
                0 => cp(&file, &copy, false),
                1 => cp(&file, &copy, true),
                2 => store(&state, &output, "big", None),
                _ => store(&state, &output, "big", Some(ten_secrets())),
            });
        }
    }
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    println!(
        "{mebibytes} MiB, {rounds} rounds {:>14} {:>8} {:>14}",
        "median", "/ cp", "/ cp, durable"
    );
    for (row, name) in names.iter().enumerate() {
        let against = |other: usize| {
            let pairs = times[row].iter().zip(&times[other]);
            median(pairs.map(|(ours, cp)| ours.as_secs_f64() / cp.as_secs_f64()).collect())
        };
        let own = median(times[row].iter().map(Duration::as_secs_f64).collect());
        println!("{name:20} {own:>12.3} s {:>10.2} {:>10.2}", against(0), against(1));
    }
}
