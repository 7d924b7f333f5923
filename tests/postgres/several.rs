//! Several catalogs over one database.

use super::server::Server;
use super::{new_version, open, versions};
use belljar::storage::life::EventFilter;
use belljar::storage::{Catalog, NewVersion, Registered};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

const PATHS: usize = 4;
const ROUNDS: usize = 12;

#[test]
fn catalogs_that_open_an_empty_database_at_once_make_it_once() {
    let database = Server::shared().database();
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| open(&database));
        }
    });
    assert!(versions(&open(&database)).is_empty());
}

/// Two daemons with four threads each write the same files, while a third one reads what happened.
#[test]
fn versions_count_up_without_gap_and_events_become_visible_in_order() {
    let database = Server::shared().database();
    let catalogs = [open(&database), open(&database)];
    let done = AtomicBool::new(false);
    let (numbers, seen) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let catalog = open(&database);
            let mut seen: Vec<i64> = Vec::new();
            loop {
                let last_look = done.load(Ordering::SeqCst);
                let after = seen.last().copied().unwrap_or(0);
                let filter = EventFilter { owner: None, artifact: None, after, limit: 1_000 };
                let events = catalog.life().events(filter).unwrap();
                seen.extend(events.iter().map(|event| event.seq));
                if last_look && events.is_empty() {
                    return seen;
                }
            }
        });
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let catalog = &catalogs[writer % 2];
                scope.spawn(move || {
                    let mut numbers: Vec<(usize, u64)> = Vec::new();
                    for round in 0..ROUNDS {
                        let batch: Vec<NewVersion> = (0..PATHS)
                            .map(|n| {
                                new_version(&format!("f{n}"), &format!("{writer} {round} {n}"))
                            })
                            .collect();
                        let registered = catalog.register(&batch).unwrap();
                        numbers.extend(registered.into_iter().enumerate().map(|(path, one)| {
                            match one {
                                Registered::Version(number) => (path, number),
                                Registered::Unchanged(_) => panic!("its bytes are its own"),
                            }
                        }));
                    }
                    numbers
                })
            })
            .collect();
        // Before any of them is looked at: the reader waits for the end of all, whether they did well or not.
        let ended: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        done.store(true, Ordering::SeqCst);
        let numbers: Vec<_> = ended.into_iter().flat_map(|numbers| numbers.unwrap()).collect();
        (numbers, reader.join().unwrap())
    });
    let distinct: BTreeSet<_> = numbers.iter().copied().collect();
    assert_eq!(distinct.len(), numbers.len(), "a number was given twice");
    let expected: BTreeSet<_> =
        (0..PATHS).flat_map(|path| (1..=8 * ROUNDS as u64).map(move |n| (path, n))).collect();
    assert_eq!(distinct, expected);
    // Who asks behind the last one that they saw never misses one.
    assert!(seen.windows(2).all(|pair| pair[0] < pair[1]));
    assert_eq!(seen.len(), 8 * ROUNDS * PATHS);
}
