#!/usr/bin/env bash
# A Rust workspace with a build script, a macro and tests, built below this directory.
set -euo pipefail
exec 3>&1 >&2
PATH=$LENT/bin:$PATH
export CARGO_HOME=$TMPDIR/cargo CARGO_TARGET_DIR=$PWD/target CARGO_TERM_COLOR=never
mkdir -p app/src/inner parts/src
printf '[workspace]\nmembers = ["app", "parts"]\nresolver = "2"\n' >Cargo.toml
printf '[package]\nname = "parts"\nversion = "1.0.0"\nedition = "2021"\n' >parts/Cargo.toml
printf '[package]\nname = "app"\nversion = "1.0.0"\nedition = "2021"\n[dependencies]\nparts = { path = "../parts" }\n' >app/Cargo.toml
cat >parts/src/lib.rs <<'RUST'
//! Parts.
pub fn sum(values: &[u64]) -> u64 {
    values.iter().sum()
}
#[test]
fn sums() {
    assert_eq!(sum(&[1, 2]), 3);
}
RUST
cat >app/build.rs <<'RUST'
use std::{env, fs, path::Path};
fn main() {
    println!("cargo:rerun-if-changed=table.txt");
    let values = fs::read_to_string("table.txt").unwrap();
    let code = format!("pub const VALUES: &[u64] = &[{}];", values.trim().replace('\n', ", "));
    fs::write(Path::new(&env::var("OUT_DIR").unwrap()).join("table.rs"), code).unwrap();
}
RUST
seq 1 100 >app/table.txt
cat >app/src/main.rs <<'RUST'
mod inner;
include!(concat!(env!("OUT_DIR"), "/table.rs"));
fn main() {
    println!("{}", inner::square(parts::sum(VALUES)));
}
RUST
echo 'pub mod more; pub fn square(x: u64) -> u64 { x * more::same(x) }' >app/src/inner/mod.rs
echo 'pub fn same(x: u64) -> u64 { x }' >app/src/inner/more.rs

compiled() { cargo build --offline -j4 2>&1 | tee -a "$TMPDIR/log" | grep -c Compiling || true; }
{
    echo "compiled $(compiled)"
    echo "printed $(target/debug/app)"
    echo "then compiled $(compiled)"
    sleep 1.1
    echo 7 >>app/table.txt
    echo "with a changed table $(compiled)"
    echo "printed $(target/debug/app)"
    echo 'pub fn same(x: u64) -> u64 { x + 1 }' >app/src/inner/more.rs
    echo "with a changed module $(compiled)"
    echo "printed $(target/debug/app)"
    cargo test --offline --quiet | grep '^test result' | sed 's/; finished in.*//'
} >&3
