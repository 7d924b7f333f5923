//! How much memory an upload takes: this program starts itself again as the one that uploads, so that the server's is not counted.

use crate::long;
use crate::servers::{S3s, settings, store};
use belljar::model::digest::Digest;
use belljar::storage::remote::RemoteStore;
use std::fs::File;
use std::process::Command;

const ENDPOINT: &str = "BELLJAR_TEST_UPLOAD_TO";
const SIZE: &str = "BELLJAR_TEST_UPLOAD_SIZE";

/// In KiB. The goal for any content is 150 MiB.
const PEAK_KIB_MAX: u64 = 100 << 10;

#[test]
fn an_upload_of_any_size_takes_less_than_100_mib() {
    if let (Ok(endpoint), Ok(size)) = (std::env::var(ENDPOINT), std::env::var(SIZE)) {
        return upload(endpoint, size.parse().expect("a number"));
    }
    let server = S3s::start();
    let size: u64 = if long() { 640 << 20 } else { 160 << 20 };
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "memory::an_upload_of_any_size_takes_less_than_100_mib", "--nocapture"])
        .env(ENDPOINT, server.url())
        .env(SIZE, size.to_string())
        .output()
        .expect("start");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{errors}");
    let peak = said
        .lines()
        .find_map(|line| line.split_once("peak ")?.1.strip_suffix(" KiB"))
        .unwrap_or_else(|| panic!("no peak in {said}{errors}"));
    let peak: u64 = peak.parse().expect("a number");
    println!("{} MiB were uploaded with at most {} MiB in memory", size >> 20, peak >> 10);
    assert!(peak < PEAK_KIB_MAX, "{peak} KiB");
    assert!(peak > 16 << 10, "{peak} KiB is less than two parts: something else was measured");
}

/// Uploads a file of zeros that takes no room on the disk, and tells the largest amount of memory that was in use.
fn upload(endpoint: String, size: u64) {
    let file = tempfile::tempfile().expect("temporary file");
    file.set_len(size).expect("room for a name");
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file.try_clone().expect("clone")).expect("readable");
    let digest = Digest::from_bytes(*hasher.finalize().as_bytes());
    let mut ours = settings(endpoint);
    ours.patience = belljar::storage::blob::s3::Patience::default();
    let store = store(ours);
    store.put(&digest, &file, size).expect("put");
    assert_eq!(store.size(&digest).expect("size"), Some(size));
    println!("\npeak {} KiB", peak(&File::open("/proc/self/status").expect("proc")));
}

fn peak(mut status: &File) -> u64 {
    let mut text = String::new();
    std::io::Read::read_to_string(&mut status, &mut text).expect("readable");
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
