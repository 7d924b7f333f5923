//! fsx: random reads, writes, maps, holes, copies and truncations of one file, whose content it knows at every moment.

use crate::mounted::Fixture;
use crate::programs::{self, Running};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Operations of one round, which is one process and one seed: few enough that a failed one can be repeated at once.
const OPERATIONS: u64 = 2000;

/// What the first round may take beyond the time, so that a slow machine does less, and never nothing.
const FIRST_ROUND: Duration = Duration::from_secs(120);

/// Names a number that makes the seeds, so that a run can be repeated.
const SEED: &str = "BELLJAR_TEST_SEED";

/// A file of its own kind, and the operations on it.
struct Shape {
    name: &'static str,
    settings: &'static str,
    posix_fallocate: bool,
}

/// All at the same time, each on a file of its own. The sizes begin at 1, since posix_fallocate(3) of nothing is an error
/// that fsx takes for a missing feature; with aligned sizes it also asks for nothing at the end of the file. Maps are
/// written through with msync(2), but for the last, which relies on what mmap(2) promises for shared maps.
const SHAPES: [Shape; 4] = [
    Shape {
        name: "small",
        settings: "flen = 65536\n[opsize]\nmin = 1\nmax = 16384\n",
        posix_fallocate: true,
    },
    Shape { name: "usual", settings: "flen = 262144\n[opsize]\nmin = 1\n", posix_fallocate: true },
    Shape {
        name: "pages",
        settings: "flen = 1048576\n[opsize]\nmin = 4096\nmax = 131072\nalign = 4096\n",
        posix_fallocate: false,
    },
    Shape {
        name: "large",
        settings: "flen = 4194304\nnomsyncafterwrite = true\n[opsize]\nmin = 1\nmax = 262144\n",
        posix_fallocate: true,
    },
];

/// Every operation that fsx has. Waiting for the disk is rare: it takes the time of hundreds of others.
const WEIGHTS: &str = "\
[weights]
close_open = 1
invalidate = 1
mapread = 10
mapwrite = 10
read = 10
write = 10
truncate = 5
fsync = 0.2
fdatasync = 0.2
punch_hole = 3
sendfile = 5
posix_fadvise = 2
copy_file_range = 5
";

impl Shape {
    fn configuration(&self) -> String {
        let more = if self.posix_fallocate { "posix_fallocate = 2\n" } else { "" };
        format!("{}{WEIGHTS}{more}", self.settings)
    }
}

/// Runs all shapes at once for a while, round after round. What the time ends is no failure; anything else than success is.
/// The number of operations in rounds that were finished.
pub fn exercise(fixture: &Fixture, time: Duration) -> u64 {
    let program = programs::find("fsx");
    let seed = match std::env::var(SEED) {
        Ok(seed) => seed.parse().expect("a seed is a number"),
        Err(_) => u64::from(getrandom::u32().unwrap()),
    };
    println!("fsx: {SEED}={seed}");
    let started = Instant::now();
    let deadline = started + time;
    let scratch = tempfile::tempdir().unwrap();
    let rounds: Vec<u64> = std::thread::scope(|threads| {
        let shapes: Vec<_> = SHAPES
            .iter()
            .enumerate()
            .map(|(number, shape)| {
                let (program, scratch, file) = (&program, scratch.path(), fixture.rw(shape.name));
                let seed = seed + number as u64 * 1_000_000;
                threads.spawn(move || rounds(program, scratch, &file, shape, seed, deadline))
            })
            .collect();
        shapes.into_iter().map(|shape| shape.join().expect("a shape's thread panicked")).collect()
    });
    for Shape { name, .. } in SHAPES {
        let inside = fs::read(fixture.rw(name)).unwrap();
        assert!(inside == fs::read(fixture.host(name)).unwrap(), "{name} is other on the host");
    }
    let operations: u64 = rounds.iter().sum::<u64>() * OPERATIONS;
    println!("fsx: {operations} operations in {:.0?}, rounds {rounds:?}", started.elapsed());
    assert!(rounds.iter().all(|rounds| *rounds > 0), "a shape did not finish a round: {rounds:?}");
    operations
}

/// Rounds of one shape until the time is over. The number of those that were finished.
fn rounds(
    program: &Path,
    scratch: &Path,
    file: &Path,
    shape: &Shape,
    seed: u64,
    deadline: Instant,
) -> u64 {
    let configuration = scratch.join(format!("{}.toml", shape.name));
    fs::write(&configuration, shape.configuration()).unwrap();
    for round in 0.. {
        let mut command = Command::new(program);
        command.arg("-f").arg(&configuration).arg("-P").arg(scratch);
        command.args(["-N", &OPERATIONS.to_string(), "-S", &(seed + round).to_string()]);
        command.arg(file);
        let output = scratch.join(format!("{}.output", shape.name));
        let mut fsx = Running::start(&mut command, output);
        match fsx.wait(if round == 0 { deadline + FIRST_ROUND } else { deadline }) {
            None => return round,
            Some(status) if status.success() => {}
            Some(status) => panic!(
                "{command:?}: {status}\nwith the configuration\n{}\n{}",
                shape.configuration(),
                fsx.output()
            ),
        }
    }
    unreachable!("the numbers of rounds do not end")
}
