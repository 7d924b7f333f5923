//! A host with things to be reached for, and commands in a sandbox on it.

use crate::expected::User;
use crate::support::{ORDINARY, Place, text};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Command, Output};

const ATTEMPTS: &str = include_str!("attempts.py");

const PYTHON: &str = "/usr/bin/python3";

pub type Outcomes = BTreeMap<String, String>;

pub struct Host {
    pub place: Place,
    _services: (TcpListener, UnixListener, UnixListener),
    shared: Shared,
    port: u16,
    abstract_name: String,
}

impl Host {
    pub fn new(user: User) -> Self {
        let place = match user {
            User::Root | User::Other => Place::new(),
            User::Ordinary => Place::of_ordinary_user(),
        };
        let uid = user.uid();
        let output = place.path("output");
        fs::write(output.join("mine"), "").unwrap();
        fs::write(output.join("private"), "of another").unwrap();
        fs::copy("/usr/bin/id", output.join("suid")).unwrap();
        fs::copy("/usr/bin/grep", output.join("capable")).unwrap();
        let private_to = if uid == 0 { ORDINARY } else { 0 };
        for (name, owner, mode) in [
            ("mine", uid, 0o644),
            ("private", private_to, 0o600),
            ("suid", 0, 0o4755),
            ("capable", 0, 0o755),
        ] {
            chown(output.join(name), Some(owner), Some(owner)).unwrap();
            fs::set_permissions(output.join(name), Permissions::from_mode(mode)).unwrap();
        }
        give_capabilities(&output.join("capable"));
        for name in ["input", "input/data.txt", "output"] {
            chown(place.path(name), Some(uid), Some(uid)).unwrap();
        }
        let service = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = service.local_addr().unwrap().port();
        let abstract_name = format!("belljar-test-{}-{port}", std::process::id());
        let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        let by_name = UnixListener::bind_addr(&address).unwrap();
        let by_path = UnixListener::bind(place.path("service")).unwrap();
        let all = Permissions::from_mode(0o777);
        fs::set_permissions(place.path("service"), all).unwrap();
        // A number that is this test's alone: port numbers are given once.
        let shared = Shared::make(0x0be1_0000 | i32::from(port));
        Self { place, _services: (service, by_name, by_path), shared, port, abstract_name }
    }

    /// What came of the attempts; of all of them when none is named.
    pub fn attempts(&self, options: &[&str], without: &str, only: &[&str]) -> Outcomes {
        let known = json!({
            "pid": std::process::id(), "port": self.port, "abstract": self.abstract_name, "only": only,
            "socket": self.place.path("service"), "runtime": self.place.path("runtime"), "shared": self.shared.0,
        });
        let output = self
            .command(options, without, &[PYTHON, "-I", "-c", ATTEMPTS, &known.to_string()])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
        self.place.assert_clean();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output)))
    }

    pub fn run(&self, options: &[&str], without: &str, script: &str) -> Output {
        self.command(options, without, &["sh", "-c", script]).output().unwrap()
    }

    pub fn command(&self, options: &[&str], without: &str, program: &[&str]) -> Command {
        let mounts = ["run", "--rw", "out=output", "--ro", "in=input", "--timeout", "120s"];
        let arguments = mounts.iter().chain(options).chain(&["--"]).chain(program);
        let mut command = self.place.belljar(arguments);
        if !without.is_empty() {
            command.env("BELLJAR_TEST_WITHOUT_LAYER", without);
        }
        command
    }

    /// A layer of the receipt that the last run left in `receipt.json`.
    pub fn layer(&self, name: &str) -> Value {
        let text = fs::read(self.place.path("receipt.json")).unwrap();
        let receipt: Value = serde_json::from_slice(&text).unwrap();
        let layers = receipt["enforcement"].as_array().unwrap();
        layers.iter().find(|layer| layer["name"] == name).expect("the layer is listed").clone()
    }
}

fn python(program: &str, arguments: &[&str]) {
    let status = Command::new(PYTHON).args(["-I", "-c", program]).args(arguments).status();
    assert!(status.expect("Debian package python3").success(), "{program}");
}

/// Every capability, effective from the start (capabilities(7), `struct vfs_cap_data` of version 2).
fn give_capabilities(program: &std::path::Path) {
    let set = "import os, struct, sys; os.setxattr(sys.argv[1], 'security.capability', struct.pack('<5I', 0x02000001, 0xffffffff, 0, 0xff, 0))";
    python(set, &[program.to_str().unwrap()]);
}

/// A segment of shared memory that everybody on the host can find by its number (shmget(2)).
struct Shared(i32);

impl Shared {
    fn make(key: i32) -> Self {
        let make = "import ctypes, sys; sys.exit(ctypes.CDLL(None).shmget(int(sys.argv[1]), 4096, 0o1666) < 0)";
        python(make, &[&key.to_string()]);
        Self(key)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = Command::new("ipcrm").args(["-M", &self.0.to_string()]).status();
    }
}
