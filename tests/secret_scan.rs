//! Whether the search for secrets finds what is planted and nothing else, at sizes that unit tests do not have.
//!
//! `BELLJAR_TEST_LONG=1` searches a gigabyte of random bytes instead of 64 MiB. Needs nothing but a file system.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use belljar::secret::SecretValue;
use belljar::secret::encoding::Extent;
use belljar::secret::find::{Finder, Found};
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

const MIB: usize = 1 << 20;

/// The registrar's.
const CHUNK: usize = 256 * 1024;

/// Secrets of the kinds that people have, the shortest that is looked for among them.
fn secrets() -> Vec<(String, Vec<u8>)> {
    let mut all = vec![
        ("SHORT".to_owned(), b"hunter22".to_vec()),
        ("PHRASE".to_owned(), b"correct horse \"battery\" staple/\xc3\xa9?&=".to_vec()),
        ("BINARY".to_owned(), random(32, 100)),
        ("PEM".to_owned(), pem().into_bytes()),
    ];
    for number in 0..60 {
        let token: String =
            random(24, 200 + number).iter().map(|byte| format!("{byte:02x}")).collect();
        all.push((format!("TOKEN_{number}"), format!("sk-{token}").into_bytes()));
    }
    all
}

fn pem() -> String {
    let body = STANDARD.encode(random(1200, 101));
    let lines: Vec<&str> =
        body.as_bytes().chunks(64).map(|l| std::str::from_utf8(l).expect("ASCII")).collect();
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
}

fn finder() -> Finder {
    let values: Vec<_> = secrets()
        .into_iter()
        .map(|(name, value)| (name, SecretValue::new(value).expect("small")))
        .collect();
    let named = values.iter().map(|(name, value)| (name.parse().expect("legal"), value));
    Finder::new(named, Extent::Piece)
}

/// Bytes that look like nothing and are the same in each run.
fn random(count: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; count];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn is_long() -> bool {
    std::env::var_os("BELLJAR_TEST_LONG").is_some_and(|value| value == "1")
}

fn percent(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("%{byte:02X}")).collect()
}

#[test]
fn planted_secrets_are_all_found_at_every_alignment_to_the_border_of_a_chunk() {
    let finder = finder();
    let filler = random(CHUNK, 1);
    for (name, value) in secrets().into_iter().take(6) {
        let text = String::from_utf8_lossy(&value).into_owned();
        let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut planted: Vec<(&str, Vec<u8>)> = vec![
            ("raw", value.clone()),
            ("hex", hex.to_uppercase().into_bytes()),
            ("hex", hex.into_bytes()),
        ];
        for before in 0..3 {
            let whole = [&random(before, 7)[..], &value, b"."].concat();
            planted.push(("base64", STANDARD.encode(&whole).into_bytes()));
            planted.push((
                "base64",
                URL_SAFE.encode(&whole).trim_end_matches('=').as_bytes().to_vec(),
            ));
        }
        if std::str::from_utf8(&value).is_ok() {
            let json = serde_json::to_string(&text).expect("a string is JSON");
            planted.push(("json", json.trim_matches('"').as_bytes().to_vec()));
        }
        if name == "BINARY" {
            planted.push(("url", percent(&value).into_bytes()));
        }
        for (encoding, bytes) in planted {
            // Around the border one byte at a time; a long one is looked for by a piece, wherever that lies.
            let reach = bytes.len().min(200);
            for shift in 0..=reach {
                let start = CHUNK - shift;
                let mut scan = finder.scan();
                let content = [&filler[..start], &bytes, b"\n"].concat();
                // The part before the last kilobytes changes nothing and would cost most of the time.
                let begin = start - 4096;
                scan.update(&content[begin..CHUNK]);
                scan.update(&content[CHUNK..]);
                let found = scan.finish();
                assert!(
                    found.iter().any(|found| found.secret.as_str() == name),
                    "{name} as {encoding}, {shift} bytes before the border: {found:?}"
                );
            }
        }
    }
}

fn search(finder: &Finder, read: &mut dyn Read) -> Vec<Found> {
    let mut scan = finder.scan();
    let mut buffer = vec![0; CHUNK];
    loop {
        match read.read(&mut buffer).expect("read") {
            0 => return scan.finish(),
            filled => scan.update(&buffer[..filled]),
        }
    }
}

#[test]
fn random_bytes_raise_no_alarm() {
    let finder = finder();
    let size = if is_long() { 1024 * MIB } else { 64 * MIB };
    let mut bytes = blake3::Hasher::new().update(b"noise").finalize_xof();
    let mut scan = finder.scan();
    let mut buffer = vec![0; CHUNK];
    for _ in 0..size / CHUNK {
        bytes.fill(&mut buffer);
        scan.update(&buffer);
    }
    // What is base64 throughout is nearer to secrets than bytes are.
    let text = STANDARD.encode(random(8 * MIB, 2));
    scan.update(text.as_bytes());
    assert_eq!(scan.finish(), []);
    let mut planted = finder.scan();
    planted.update(text.as_bytes());
    planted.update(b"hunter22");
    assert_eq!(planted.finish().len(), 1, "the search can find");
}

#[test]
fn a_source_tree_raises_no_alarm() {
    let finder = finder();
    let mut files = 0;
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    for directory in [own.join("src"), own.join("docs"), "/usr/include".into()] {
        assert!(
            directory.is_dir(),
            "{} is missing: apt-get install libc6-dev",
            directory.display()
        );
        visit(&directory, &mut |path| {
            files += 1;
            let found = search(&finder, &mut File::open(path).expect("open"));
            // The shortest stands in this project's own tests.
            let others: Vec<_> = found.iter().filter(|f| f.secret.as_str() != "SHORT").collect();
            assert!(others.is_empty(), "{}: {others:?}", path.display());
            assert!(found.is_empty() || path.starts_with(own), "{}: {found:?}", path.display());
        });
    }
    assert!(files > 500, "only {files} files were looked at");
}

fn visit(directory: &Path, look: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(directory).expect("list").map(|entry| entry.expect("entry")) {
        let kind = entry.file_type().expect("type");
        if kind.is_dir() {
            visit(&entry.path(), look);
        } else if kind.is_file() {
            look(&entry.path());
        }
    }
}
