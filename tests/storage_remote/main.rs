//! Remote stores: one contract over every implementation, over real servers and over a way that goes wrong.
//!
//! Needs: moto (`moto_server`), openssl and setpriv; with BELLJAR_TEST_LONG=1 garage. scripts/test installs them. Everything is on
//! loopback.

mod contract;
mod faults;
mod memory;
mod proxy;
mod refusals;
mod servers;

use belljar::model::digest::Digest;
use std::fs::File;
use std::io::Write;

/// Whether the long forms are asked for, as `scripts/test --all` does.
fn long() -> bool {
    std::env::var_os("BELLJAR_TEST_LONG").is_some_and(|value| value == "1")
}

/// Bytes that no compression or coincidence makes alike, the same for the same seed.
fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

fn digest(content: &[u8]) -> Digest {
    Digest::from_bytes(*blake3::hash(content).as_bytes())
}

/// A content as a store is given it, in a file without a name.
fn file(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("temporary file");
    file.write_all(content).expect("write");
    file
}
