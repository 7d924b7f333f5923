//! What it takes to put a large content into a bucket, beside boto3: `cargo bench --bench upload [-- ROUNDS]`. Nothing here
//! passes or fails.
//!
//! One server, s3s-fs on loopback, is a process of its own, as is each upload, so that the peak of memory is of that upload
//! alone. The order changes from round to round; medians are printed; `docs/benchmarks.md` records them. The content is a
//! file of zeros that takes no room on the disk; the server's copies do. `BELLJAR_BENCH_MIB` sets its size, 2,048 when
//! missing. Needs a `python3` with boto3 (`pip install boto3`).
#![allow(clippy::unwrap_used)]

use belljar::model::digest::Digest;
use belljar::secret::SecretValue;
use belljar::storage::blob::s3::{Credentials, CredentialsSource, Patience, S3Settings, S3Store};
use belljar::storage::remote::RemoteStore;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

const ACCESS: &str = "AKIABELLJARBENCH0001";
const SECRET: &str = "bench/bench+bench/bench+bench/bench+bench";

/// boto3 as it comes: parts of 8 MiB, ten at a time. Digesting is no part of its work and no part of what is measured of ours.
const BOTO3: &str = r#"
import sys, time, boto3
endpoint, path, access, secret = sys.argv[1:]
client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=access, aws_secret_access_key=secret)
start = time.monotonic()
client.upload_file(path, "bench", "boto3")
took = time.monotonic() - start
client.delete_object(Bucket="bench", Key="boto3")
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(took, peak)
"#;

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|word| word != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", directory] => serve(Path::new(directory)),
        ["put", endpoint, path] => put(endpoint, path),
        [] => compare(5),
        [rounds] => compare(rounds.parse().unwrap()),
        _ => panic!("one number, of rounds"),
    }
}

fn compare(rounds: usize) {
    let mib: u64 = std::env::var("BELLJAR_BENCH_MIB").map_or(2_048, |text| text.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("content");
    File::create(&path).unwrap().set_len(mib << 20).unwrap();
    let path = path.to_str().unwrap();
    std::fs::create_dir_all(directory.path().join("server/bench")).unwrap();
    let mut server = Command::new(std::env::current_exe().unwrap())
        .arg("serve")
        .arg(directory.path().join("server"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut endpoint = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut endpoint).unwrap();
    let endpoint = endpoint.trim();
    let us = || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["put", endpoint, path]);
        measure(command)
    };
    let boto3 = || {
        let mut command = Command::new("python3");
        command.args(["-c", BOTO3, endpoint, path, ACCESS, SECRET]);
        measure(command)
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        if round % 2 == 0 {
            ours.push(us());
            theirs.push(boto3());
        } else {
            theirs.push(boto3());
            ours.push(us());
        }
    }
    end(&mut server);
    println!("{mib} MiB to s3s-fs on loopback, {rounds} rounds, medians:");
    let ratios = ours.iter().zip(&theirs).map(|(us, them)| us.0 / them.0).collect();
    for (name, measured) in [("belljar", ours), ("boto3", theirs)] {
        let time = median(measured.iter().map(|one| one.0).collect());
        let peak = measured.iter().map(|one| one.1).max().unwrap() >> 10;
        println!(
            "{name:>8}: {time:.2} s, {:.0} MiB/s, at most {peak} MiB of memory",
            mib as f64 / time
        );
    }
    println!("   ratio: {:.2}", median(ratios));
}

/// The server ends with its standard input.
fn end(server: &mut Child) {
    drop(server.stdin.take());
    server.wait().unwrap();
}

/// Seconds, and the peak of memory in KiB, as the process tells them.
fn measure(mut command: Command) -> (f64, u64) {
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{command:?} failed");
    let said = String::from_utf8(output.stdout).unwrap();
    let (time, peak) = said.trim().split_once(' ').unwrap();
    (time.parse().unwrap(), peak.parse().unwrap())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn put(endpoint: &str, path: &str) {
    let secret = |text: &str| SecretValue::new(text.as_bytes().to_vec()).unwrap();
    let store = S3Store::new(S3Settings {
        bucket: "bench".to_owned(),
        prefix: String::new(),
        region: "us-east-1".to_owned(),
        endpoint: endpoint.to_owned(),
        path_style: true,
        credentials: CredentialsSource::Environment(Credentials {
            access_key: secret(ACCESS),
            secret_key: secret(SECRET),
            session_token: None,
        }),
        patience: Patience::default(),
    })
    .unwrap();
    let file = File::open(path).unwrap();
    let size = file.metadata().unwrap().len();
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&file).unwrap();
    let digest = Digest::from_bytes(*hasher.finalize().as_bytes());
    let start = Instant::now();
    store.put(&digest, &file, size).unwrap();
    let took = start.elapsed().as_secs_f64();
    store.delete(&digest).unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    println!("{took} {}", line.trim().trim_end_matches(" kB"));
}

fn serve(directory: &Path) {
    let mut service =
        s3s::service::S3ServiceBuilder::new(s3s_fs::FileSystem::new(directory).unwrap());
    service.set_auth(s3s::auth::SimpleAuth::from_single(ACCESS, SECRET));
    let service = service.build();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.spawn(async move {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("http://{}", listener.local_addr().unwrap());
        std::io::stdout().flush().unwrap();
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(hyper_util::rt::TokioIo::new(socket), service.clone());
            tokio::spawn(async move { drop(connection.await) });
        }
    });
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
    runtime.shutdown_background();
}
