//! What becomes of a content when server or way fail: a repetition that ends well, or an error that says what happened; never
//! other bytes, and nothing left behind.

use crate::proxy::{Fate, Proxy, refusal};
use crate::servers::{BUCKET, IMPATIENCE, S3s, impatient, settings, store};
use crate::{bytes, digest, file};
use belljar::storage::blob::s3::S3Store;
use belljar::storage::remote::{RemoteError, RemoteStore};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const LARGE: usize = (16 << 20) + 1;

fn put(store: &S3Store, content: &[u8]) -> Result<(), RemoteError> {
    store.put(&digest(content), &file(content), content.len() as u64)
}

fn get(store: &S3Store, content: &[u8]) -> Result<Vec<u8>, RemoteError> {
    let mut into = Vec::new();
    store.get(&digest(content), None, &mut into).map(|_| into)
}

/// Puts contents past every fault.
fn put_directly(server: &S3s, content: &[u8]) {
    put(&store(server.settings()), content).expect("put");
}

#[test]
fn an_overloaded_server_is_tried_again_until_it_is_well() {
    let server = S3s::start();
    let proxy = Proxy::new(server.address, |_, before| match before {
        0..4 => refusal("503 Slow Down", "SlowDown", ""),
        4 => refusal("429 Too Many Requests", "TooManyRequests", ""),
        5 => refusal("500 Internal Server Error", "InternalError", ""),
        _ => Fate::Pass,
    });
    let content = bytes(1, 1_000);
    let store = store(settings(proxy.url()));
    put(&store, &content).expect("put");
    assert_eq!(get(&store, &content).expect("get"), content);
}

#[test]
fn a_server_that_stays_overloaded_is_given_up_in_time_and_named() {
    let server = S3s::start();
    let proxy = Proxy::new(server.address, |_, _| refusal("503 Slow Down", "SlowDown", ""));
    let begun = Instant::now();
    let error = put(&store(impatient(proxy.url())), &bytes(1, 10)).expect_err("it stays");
    let took = begun.elapsed();
    assert!(error.is_transient() && !error.needs_credentials(), "{error}");
    let text = error.to_string();
    assert!(text.contains("status 503") && text.contains(&proxy.url()), "{text}");
    assert!(took >= IMPATIENCE.retry && took < IMPATIENCE.retry * 5, "{took:?}");
}

#[test]
fn an_answer_that_breaks_off_is_taken_up_where_it_broke() {
    let server = S3s::start();
    let content = bytes(2, 300_000);
    put_directly(&server, &content);
    let proxy = Proxy::new(server.address, |_, before| match before {
        0..3 => Fate::CutAnswer(70_000),
        _ => Fate::Pass,
    });
    assert!(get(&store(settings(proxy.url())), &content).expect("get") == content);
    assert_eq!(proxy.count("GET", "/blobs/"), 4, "{:?}", proxy.seen());
}

#[test]
fn an_answer_that_always_breaks_off_is_an_error() {
    let server = S3s::start();
    let content = bytes(2, 300_000);
    put_directly(&server, &content);
    let proxy = Proxy::new(server.address, |_, _| Fate::CutAnswer(0));
    let error = get(&store(impatient(proxy.url())), &content).expect_err("it never comes whole");
    assert!(error.is_transient(), "{error}");
    assert!(error.to_string().contains("broke"), "{error}");
}

#[test]
fn a_flipped_bit_in_an_answer_is_found() {
    let server = S3s::start();
    let content = bytes(3, 300_000);
    put_directly(&server, &content);
    for at in [0, 150_000, 299_999] {
        let proxy = Proxy::new(server.address, move |_, _| Fate::FlipAnswer(at));
        let error = get(&store(settings(proxy.url())), &content).expect_err("damaged");
        assert!(matches!(error, RemoteError::Damaged { .. }), "{error}");
    }
}

#[test]
fn what_was_damaged_on_the_server_is_found_and_replaced() {
    let server = S3s::start();
    let content = bytes(4, 10_000);
    put_directly(&server, &content);
    let hex = digest(&content).hex();
    let path = server.bucket().join(format!("team/a/blobs/{}/{}", &hex[..2], &hex[2..]));
    let mut damaged = content.clone();
    damaged[5_000] ^= 1;
    std::fs::write(&path, damaged).expect("the object is this file");
    let store = store(server.settings());
    assert!(matches!(get(&store, &content), Err(RemoteError::Damaged { .. })));
    std::fs::write(&path, &content[..9_000]).expect("write");
    assert!(matches!(get(&store, &content), Err(RemoteError::Damaged { .. })));
    for probed in [false, true] {
        std::fs::write(&path, &content[..9_000]).expect("write");
        if probed {
            assert!(store.check().expect("check").conditional_put);
        }
        put(&store, &content).expect("what has another size is put again");
        assert_eq!(get(&store, &content).expect("get"), content);
    }
}

#[test]
fn a_flipped_bit_on_the_way_to_the_server_is_refused_there_and_sent_again() {
    let server = S3s::start();
    for length in [100_000, LARGE] {
        let flipped = AtomicBool::new(false);
        let proxy = Proxy::new(server.address, move |seen, _| {
            match seen.method == "PUT" && !flipped.swap(true, Ordering::SeqCst) {
                true => Fate::FlipRequest(77_777),
                false => Fate::Pass,
            }
        });
        let content = bytes(5, length);
        let store = store(settings(proxy.url()));
        put(&store, &content).expect("put");
        assert!(get(&store, &content).expect("get") == content);
        assert_eq!(
            proxy.count("PUT", "/blobs/"),
            1 + length.div_ceil(8 << 20),
            "{:?}",
            proxy.seen()
        );
    }
}

#[test]
fn a_server_that_is_slow_and_goes_on_is_waited_for() {
    let server = S3s::start();
    let content = bytes(6, 20_000);
    put_directly(&server, &content);
    // 20 pieces take twice the time for which nothing may come.
    let proxy = Proxy::new(server.address, |_, _| Fate::Trickle(1_000, IMPATIENCE.stall / 10));
    let begun = Instant::now();
    assert_eq!(get(&store(impatient(proxy.url())), &content).expect("get"), content);
    assert!(begun.elapsed() > IMPATIENCE.stall, "it was slow");
}

#[test]
fn a_reader_that_is_slow_is_not_taken_for_a_server_that_is() {
    /// Takes its time once.
    struct Slow(bool);
    impl std::io::Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if !std::mem::replace(&mut self.0, true) {
                std::thread::sleep(IMPATIENCE.stall + Duration::from_millis(200));
            }
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let server = S3s::start();
    let content = bytes(7, 40_000);
    put_directly(&server, &content);
    // Not all of it is there when the reader goes on, so the server is waited for then.
    let proxy = Proxy::new(server.address, |_, _| Fate::Trickle(1_000, IMPATIENCE.stall / 14));
    let store = store(impatient(proxy.url()));
    let digest = digest(&content);
    assert_eq!(store.get(&digest, None, &mut Slow(false)).expect("get"), 40_000);
    assert_eq!(proxy.count("GET", ""), 1, "it was asked once");
}

#[test]
fn a_server_that_falls_silent_is_given_up() {
    let server = S3s::start();
    let content = bytes(8, LARGE);
    for silent in ["HEAD", "PUT"] {
        let proxy = Proxy::new(server.address, move |seen, _| match seen.method == silent {
            true => Fate::Silence,
            false => Fate::Pass,
        });
        let begun = Instant::now();
        let error = put(&store(impatient(proxy.url())), &content).expect_err("silent");
        assert!(error.is_transient(), "{error}");
        assert!(error.to_string().contains("neither took nor sent a byte for 1.5 s"), "{error}");
        assert!(
            begun.elapsed() < (IMPATIENCE.retry + IMPATIENCE.stall) * 5,
            "{:?}",
            begun.elapsed()
        );
        assert_eq!(server.leftovers(), [""; 0], "what was begun was given up");
    }
}

#[test]
fn a_connection_reset_in_the_middle_of_a_part_is_made_up_for() {
    let server = S3s::start();
    let resets = std::sync::Mutex::new(0);
    let proxy = Proxy::new(server.address, move |seen, _| {
        let mut resets = resets.lock().expect("lock");
        match seen.is("PUT", "partNumber=2") && *resets < 2 {
            true => {
                *resets += 1;
                Fate::Reset(1 << 20)
            }
            false => Fate::Pass,
        }
    });
    let content = bytes(9, LARGE);
    let store = store(settings(proxy.url()));
    put(&store, &content).expect("put");
    assert!(get(&store, &content).expect("get") == content);
    assert_eq!(proxy.count("PUT", "partNumber=2"), 3);
    assert_eq!(server.leftovers(), [""; 0]);
}

#[test]
fn an_upload_whose_part_never_arrives_is_given_up_without_leftovers() {
    let server = S3s::start();
    let proxy = Proxy::new(server.address, |seen, _| match seen.is("PUT", "partNumber=2") {
        true => Fate::Reset(1 << 20),
        false => Fate::Pass,
    });
    let content = bytes(10, LARGE);
    let mut ours = settings(proxy.url());
    ours.patience.retry = IMPATIENCE.retry;
    let store = store(ours);
    let error = put(&store, &content).expect_err("a part is lacking");
    assert!(error.is_transient(), "{error}");
    assert_eq!(proxy.count("DELETE", "uploadId="), 1);
    assert_eq!(server.leftovers(), [""; 0]);
    assert_eq!(store.size(&digest(&content)).expect("size"), None, "half a content is none");
}

#[test]
fn an_answer_lost_after_the_last_part_is_no_failure() {
    let server = S3s::start();
    let lost = AtomicBool::new(false);
    let proxy = Proxy::new(server.address, move |seen, _| {
        match seen.is("POST", "uploadId=") && !lost.swap(true, Ordering::SeqCst) {
            true => Fate::CutAnswer(0),
            false => Fate::Pass,
        }
    });
    let content = bytes(11, LARGE);
    let store = store(settings(proxy.url()));
    put(&store, &content).expect("it is there");
    assert!(get(&store, &content).expect("get") == content);
    assert_eq!(server.leftovers(), [""; 0]);
}

#[test]
fn a_refusal_inside_an_answer_of_success_is_a_failure() {
    let server = S3s::start();
    let proxy = Proxy::new(server.address, |seen, _| match seen.is("POST", "uploadId=") {
        true => refusal("200 OK", "AccessDenied", ""),
        false => Fate::Pass,
    });
    let content = bytes(12, LARGE);
    let error = put(&store(settings(proxy.url())), &content).expect_err("it says no");
    assert!(error.to_string().contains("AccessDenied"), "{error}");
    assert_eq!(server.leftovers(), [""; 0]);
}

/// Holds the second part on its way until the server is dead, and then cuts that way.
struct Scene {
    server: S3s,
    proxy: Proxy,
    reached: Arc<AtomicBool>,
    killed: Arc<AtomicBool>,
}

impl Scene {
    fn new() -> Scene {
        let server = S3s::start();
        let (reached, killed) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let (signal, go) = (reached.clone(), killed.clone());
        let proxy = Proxy::new(server.address, move |seen, _| {
            if seen.is("PUT", "partNumber=2") && !signal.swap(true, Ordering::SeqCst) {
                wait_for(|| go.load(Ordering::SeqCst));
                return Fate::Reset(1 << 20);
            }
            Fate::Pass
        });
        Scene { server, proxy, reached, killed }
    }

    fn kill_in_the_middle(&mut self) {
        let reached = self.reached.clone();
        wait_for(|| reached.load(Ordering::SeqCst));
        self.server.kill();
        self.killed.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_server_killed_in_the_middle_of_an_upload_and_started_again_is_gone_on_with() {
    let mut scene = Scene::new();
    let store = store(settings(scene.proxy.url()));
    let content = bytes(13, LARGE);
    std::thread::scope(|scope| {
        let putting = scope.spawn(|| put(&store, &content));
        scene.kill_in_the_middle();
        std::thread::sleep(Duration::from_secs(2));
        scene.server.start_again();
        putting.join().expect("no panic").expect("put");
    });
    assert!(get(&store, &content).expect("get") == content);
    assert_eq!(scene.server.leftovers(), [""; 0]);
}

/// It stays away: the upload fails and cannot be given up; that is done with the next one.
#[test]
fn an_upload_to_a_server_that_died_is_given_up_when_it_is_back() {
    let mut scene = Scene::new();
    let mut ours = settings(scene.proxy.url());
    (ours.patience.retry, ours.patience.probe) = (IMPATIENCE.retry, IMPATIENCE.probe);
    let store = store(ours);
    let content = bytes(14, LARGE);
    std::thread::scope(|scope| {
        let putting = scope.spawn(|| put(&store, &content));
        scene.kill_in_the_middle();
        let error = putting.join().expect("no panic").expect_err("nobody is there");
        assert!(error.is_transient(), "{error}");
    });
    assert_ne!(scene.server.leftovers(), [""; 0], "an upload was begun");
    scene.server.start_again();
    put(&store, &content).expect("put");
    assert!(get(&store, &content).expect("get") == content);
    assert_eq!(scene.server.leftovers(), [""; 0]);
}

fn wait_for(mut what: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !what() {
        assert!(Instant::now() < deadline, "it did not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_content_that_is_damaged_here_goes_nowhere() {
    let server = S3s::start();
    let store = store(server.settings());
    for length in [1_000, LARGE] {
        let content = bytes(15, length);
        let mut damaged = content.clone();
        damaged[length - 1] ^= 1;
        let error = store
            .put(&digest(&content), &file(&damaged), length as u64)
            .expect_err("its bytes are others");
        assert!(matches!(error, RemoteError::Local { .. }) && !error.is_transient(), "{error}");
        let error = store
            .put(&digest(&content), &file(&content[..length - 1]), length as u64)
            .expect_err("it is too short");
        assert!(matches!(error, RemoteError::Local { .. }), "{error}");
        assert_eq!(store.size(&digest(&content)).expect("size"), None);
    }
    assert_eq!(server.leftovers(), [""; 0]);
}

#[test]
fn a_content_that_is_there_is_not_sent_again() {
    let server = S3s::start();
    let content = bytes(16, LARGE);
    put_directly(&server, &content);
    let proxy = Proxy::new(server.address, |_, _| Fate::Pass);
    put(&store(settings(proxy.url())), &content).expect("put");
    let methods: Vec<String> = proxy.seen().into_iter().map(|seen| seen.method).collect();
    assert_eq!(methods, ["HEAD"]);
}

/// Conditions are signed, so none can be taken out on the way: the object is exchanged behind the server's back, and the answer is
/// the one of a server that ignores the condition, or of one that lies.
#[test]
fn a_server_that_overwrites_in_spite_of_a_condition_is_found_out() {
    let server = S3s::start();
    let success =
        "HTTP/1.1 200 OK\r\nETag: \"x\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    for answer in [
        Fate::Answer(success.to_owned()),
        refusal("412 Precondition Failed", "PreconditionFailed", ""),
    ] {
        let bucket = server.bucket();
        let proxy = Proxy::new(server.address, move |seen, before| {
            if before != 1 {
                return Fate::Pass;
            }
            let key = seen.target.strip_prefix(&format!("/{BUCKET}/")).expect("in the bucket");
            let id = key.rsplit('/').next().expect("a name");
            std::fs::write(bucket.join(key), format!("second {id}")).expect("the first is there");
            answer.clone()
        });
        let store = store(settings(proxy.url()));
        assert!(!store.check().expect("check").conditional_put);
        assert_eq!(proxy.count("PUT", "/probes/"), 2, "{:?}", proxy.seen());
    }
}

#[test]
fn a_server_that_knows_no_conditions_can_be_used() {
    let server = S3s::start();
    let proxy = Proxy::new(server.address, |_, before| match before {
        0 => refusal("501 Not Implemented", "NotImplemented", ""),
        _ => Fate::Pass,
    });
    let store = store(settings(proxy.url()));
    assert!(!store.check().expect("check").conditional_put);
    let content = bytes(17, 100);
    put(&store, &content).expect("put");
    assert_eq!(get(&store, &content).expect("get"), content);
}

#[test]
fn a_list_whose_answer_breaks_off_is_asked_for_again() {
    let server = S3s::start();
    let content = bytes(18, 100);
    put_directly(&server, &content);
    let proxy = Proxy::new(server.address, |_, before| match before {
        0 => Fate::CutAnswer(100),
        _ => Fate::Pass,
    });
    let mut found = Vec::new();
    let store = store(settings(proxy.url()));
    store.list(digest(&content).as_bytes()[0], &mut |one| found.push(one.digest)).expect("list");
    assert_eq!(found, [digest(&content)]);
    assert_eq!(proxy.count("GET", "list-type=2"), 2);
}

#[test]
fn a_check_leaves_no_object() {
    let server = S3s::start();
    store(server.settings()).check().expect("check");
    let mut left = Vec::new();
    let mut directories = vec![server.bucket()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("readable") {
            let path = entry.expect("entry").path();
            if path.is_dir() { directories.push(path) } else { left.push(path) }
        }
    }
    assert!(left.is_empty(), "{left:?} in {BUCKET}");
}

/// More than a server tells at once, among them objects that nobody of ours put there.
#[test]
fn a_list_goes_on_after_a_thousand_and_passes_over_what_is_not_ours() {
    let server = S3s::start();
    let directory = server.bucket().join("team/a/blobs/ab");
    std::fs::create_dir_all(&directory).expect("directories");
    for number in 0..1_234_u32 {
        std::fs::write(directory.join(format!("{number:062x}")), b"x").expect("write");
    }
    for name in ["README", &"F".repeat(62), &"0".repeat(61)] {
        std::fs::write(directory.join(name), b"x").expect("write");
    }
    let (mut count, mut digests) = (0, std::collections::BTreeSet::new());
    let store = store(server.settings());
    store
        .list(0xab, &mut |content| {
            count += 1;
            digests.insert(content.digest);
        })
        .expect("list");
    assert_eq!((count, digests.len()), (1_234, 1_234));
}
