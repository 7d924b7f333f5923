//! What the programs need from the machine. What is missing fails a test and is named, with the way to get it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Fails unless a program can be found; it may be a pattern of a path.
pub fn need(program: &str, package: &str) {
    let script = format!("for found in {program}; do command -v \"$found\" && exit; done; exit 1");
    let found = Command::new("sh")
        .args(["-c", &script])
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .output()
        .unwrap();
    assert!(
        found.status.success(),
        "{program} is missing: apt-get install {package} (scripts/test installs it)"
    );
}

/// Python's own tests are a package of their own, for each version of Python.
pub fn python_tests() {
    need("/usr/bin/python3", "python3");
    let version = "import sys; print('%d.%d' % sys.version_info[:2])";
    let version = Command::new("/usr/bin/python3").args(["-I", "-c", version]).output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    let version = version.trim();
    need(
        &format!(
            "/usr/lib/python{version}/test/libregrtest/__init__.py /usr/lib/python{version}/test/test_os.py"
        ),
        &format!("libpython{version}-testsuite"),
    );
}

/// The directory of the compiler that builds this test.
pub fn toolchain() -> PathBuf {
    let cargo =
        std::env::var_os("CARGO").expect("run this test with cargo, which says where it is");
    let bin = Path::new(&cargo).parent().unwrap();
    assert!(bin.join("rustc").exists(), "no rustc beside {}", bin.display());
    bin.parent().unwrap().to_owned()
}

/// npm's cache with the packages of `npm/package-lock.json`, and the address that it is from.
pub fn npm_cache() -> PathBuf {
    need("npm", "npm");
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/npm");
    let lock = cache.join("package-lock.json");
    assert!(
        std::fs::read_to_string(&lock)
            .is_ok_and(|lock| lock == include_str!("npm/package-lock.json")),
        "{} is missing or for other packages: scripts/test fetches them",
        cache.display()
    );
    cache
}
