//! Servers that go away, and answers that are lost.

use super::server::Server;
use super::{new_version, open, register_at_last, versions};
use belljar::storage::{Catalog, CatalogError, Filter, NewVersion, Registered};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

#[test]
fn a_server_that_goes_and_comes_back_loses_no_registration_and_doubles_none() {
    let server = Server::start("");
    let database = server.database();
    let catalogs = [open(&database), open(&database)];
    let (stop, failures) = (AtomicBool::new(false), AtomicU32::new(0));
    let mut expected: Vec<(String, u64)> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let (catalog, stop, failures) = (&catalogs[writer % 2], &stop, &failures);
                scope.spawn(move || {
                    let path = format!("f{writer}");
                    let mut count = 0_u64;
                    while !stop.load(Ordering::Relaxed) {
                        count += 1;
                        let new = new_version(&path, &format!("{count}"));
                        let (registered, failed) = register_at_last(catalog, &[new]);
                        failures.fetch_add(failed, Ordering::Relaxed);
                        // Unchanged: the commit was done and its answer lost.
                        match registered[..] {
                            [Registered::Version(n) | Registered::Unchanged(n)] => {
                                assert_eq!(n, count);
                            }
                            _ => panic!("one for one"),
                        }
                    }
                    (1..=count).map(|n| (format!("/host/{path}"), n)).collect::<Vec<_>>()
                })
            })
            .collect();
        let ends: [&dyn Fn(); 3] =
            [&|| server.stop("fast"), &|| server.stop("immediate"), &|| server.kill()];
        for end in ends {
            std::thread::sleep(Duration::from_millis(300));
            end();
            // While it is away somebody asks, is told so at once, and is told to try again.
            let error = catalogs[0].list(None, &Filter::default()).unwrap_err();
            assert!(error.is_transient(), "{error:?}");
            server.go();
        }
        std::thread::sleep(Duration::from_millis(300));
        stop.store(true, Ordering::Relaxed);
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    expected.sort();
    assert_eq!(versions(&catalogs[1]), expected);
    assert!(failures.load(Ordering::Relaxed) > 0, "the server was away and nobody noticed");
}

/// Passes bytes on, and once, when it is told to, cuts the connection when the server has done a commit and before its answer.
struct Cutter {
    port: u16,
    armed: Arc<AtomicBool>,
}

impl Cutter {
    fn before(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let armed = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&armed);
        // It lives as long as the test program.
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let upstream = TcpStream::connect(("127.0.0.1", server)).unwrap();
                let cut = Arc::new(AtomicBool::new(false));
                let (from, to) = (client.try_clone().unwrap(), upstream.try_clone().unwrap());
                let (flag, cutting) = (Arc::clone(&flag), Arc::clone(&cut));
                std::thread::spawn(move || {
                    pass(from, to, |bytes| {
                        let commit = bytes.windows(7).any(|window| window == b"COMMIT\0");
                        if commit && flag.swap(false, Ordering::SeqCst) {
                            cutting.store(true, Ordering::SeqCst);
                        }
                        true
                    });
                });
                std::thread::spawn(move || {
                    pass(upstream, client, |_| !cut.load(Ordering::SeqCst));
                });
            }
        });
        Self { port, armed }
    }
}

/// Passes on as long as the look at the bytes says so, then ends both sides.
fn pass(mut from: TcpStream, mut to: TcpStream, mut look: impl FnMut(&[u8]) -> bool) {
    let mut buffer = [0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if !look(&buffer[..length]) || to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn a_commit_whose_answer_is_lost_can_be_repeated() {
    let server = Server::shared();
    let database = server.database();
    let cutter = Cutter::before(server.port);
    let through = database.replace(&server.port.to_string(), &cutter.port.to_string());
    let catalog = open(&through);
    let batch: Vec<NewVersion> = (0..3).map(|n| new_version(&format!("f{n}"), "x")).collect();
    cutter.armed.store(true, Ordering::SeqCst);
    let error = catalog.register(&batch).unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    assert_eq!(versions(&open(&database)).len(), 3, "the commit was done");
    assert_eq!(catalog.register(&batch).unwrap(), [Registered::Unchanged(1); 3]);
    assert_eq!(versions(&catalog).len(), 3);
}

#[test]
fn a_list_that_takes_too_long_is_given_up_and_the_catalog_goes_on() {
    let server = Server::shared();
    let database = server.database();
    let catalog = open(&database);
    catalog.register(&[new_version("a", "x")]).unwrap();
    let mut other = postgres::Client::connect(&database, postgres::NoTls).unwrap();
    other.batch_execute("BEGIN; LOCK TABLE belljar.version").unwrap();
    let started = Instant::now();
    let error = catalog.list(None, &Filter::default()).unwrap_err();
    assert!(matches!(error, CatalogError::TooSlow { .. }), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    other.batch_execute("ROLLBACK").unwrap();
    assert_eq!(versions(&catalog).len(), 1);
}

/// The server may go down over it; then whoever gave it room starts it again.
#[test]
fn a_full_disk_is_waited_for() {
    assert!(nix::unistd::geteuid().is_root(), "a small file system is mounted: run as root");
    let server = Server::start_small(90 << 20);
    let catalog = open(&server.database());
    let batch = |round: usize| -> Vec<NewVersion> {
        let of = |n: usize| {
            // Text that does not compress.
            let mut bytes = [0; 30 << 10];
            let mut random =
                blake3::Hasher::new().update(format!("{round} {n}").as_bytes()).finalize_xof();
            random.fill(&mut bytes);
            let text: String = bytes.iter().map(|byte| char::from(b'0' + byte % 64)).collect();
            let metadata = serde_json::json!({ "text": text }).as_object().unwrap().clone();
            NewVersion { metadata, ..new_version(&format!("f{round}-{n}"), "x") }
        };
        (0..32).map(of).collect()
    };
    let mut stored = 0;
    let error = loop {
        match catalog.register(&batch(stored)) {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 200, "the disk never got full");
    };
    assert!(error.is_transient(), "{error:?}");
    let grown = Command::new("mount")
        .args(["-o", "remount,size=400M"])
        .arg(server.path("data"))
        .status()
        .unwrap();
    assert!(grown.success());
    std::thread::sleep(Duration::from_millis(500));
    if catalog.life().newest_event().is_err() {
        server.go_again();
    }
    register_at_last(&catalog, &batch(stored));
    assert_eq!(versions(&catalog).len(), (stored + 1) * 32);
}
