//! PostgreSQL for tests: a cluster of the test program's own, in a temporary directory.
//!
//! A shell that waits for the end of its standard input ends the server and removes the directory, so that both go when the test
//! program does, however it ends.
#![allow(dead_code)] // Each test program uses a part.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

pub const PASSWORD: &str = "the password of tests";

/// As Debian has it on every system; servers refuse to run as root.
const NOBODY: &str = "65534";

/// Ends the server by its own process id and waits for it.
const WATCH: &str = r#"
trap '' INT TERM HUP
read -r _
if [ -f "$1/data/postmaster.pid" ]; then
    pid=$(head -n 1 "$1/data/postmaster.pid")
    kill -QUIT "$pid" && while kill -0 "$pid"; do sleep 0.02; done
fi
[ -z "$2" ] || umount "$1/data"
rm -rf -- "$1"
"#;

pub struct Server {
    directory: PathBuf,
    pub port: u16,
    programs: PathBuf,
    databases: AtomicU32,
    settings: String,
    leash: Option<ChildStdin>,
    watch: Child,
}

impl Server {
    /// The one that all tests of this program share.
    pub fn shared() -> &'static Server {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(|| Server::start(""))
    }

    /// With these settings of the server more.
    pub fn start(settings: &str) -> Server {
        Self::start_on(settings, None)
    }

    /// With its files on a file system of so many bytes.
    pub fn start_small(bytes: u64) -> Server {
        Self::start_on("-c max_wal_size=32MB -c min_wal_size=32MB", Some(bytes))
    }

    fn start_on(settings: &str, bytes: Option<u64>) -> Server {
        let directory = tempfile::Builder::new()
            .prefix("belljar-postgres-")
            .tempdir()
            .expect("temporary directory")
            .keep();
        let port = {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            listener.local_addr().expect("its address").port()
        };
        let mut watch = Command::new("sh")
            .args(["-c", WATCH, "watch"])
            .arg(&directory)
            .arg(if bytes.is_some() { "small" } else { "" })
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        let leash = watch.stdin.take();
        let server = Server {
            programs: programs(),
            port,
            databases: AtomicU32::new(0),
            settings: format!(
                "-k {} -p {port} -c listen_addresses=127.0.0.1 -c fsync=off -c full_page_writes=off \
                 -c shared_buffers=16MB -c max_connections=60 {settings}",
                directory.display()
            ),
            directory,
            leash,
            watch,
        };
        fs::write(server.path("pw"), PASSWORD).expect("write");
        fs::create_dir(server.path("data")).expect("make");
        if let Some(bytes) = bytes {
            let options = format!("size={bytes},mode=0700,uid={NOBODY},gid={NOBODY}");
            let mounted = Command::new("mount")
                .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
                .arg(server.path("data"))
                .status();
            assert!(mounted.is_ok_and(|status| status.success()), "mounting needs root");
        }
        fs::set_permissions(server.path("data"), fs::Permissions::from_mode(0o700)).expect("chmod");
        if is_root() {
            let owned = Command::new("chown").arg("-R").arg(NOBODY).arg(&server.directory).status();
            assert!(owned.is_ok_and(|status| status.success()), "chown");
        }
        let data = server.path("data");
        let mut initdb = server.program("initdb");
        initdb.args(["--username", "test", "--auth", "scram-sha-256", "--encoding", "UTF8"]);
        initdb.args(["--no-locale", "--no-sync", "--no-instructions", "--pwfile"]);
        initdb.arg(server.path("pw")).arg("--pgdata").arg(data);
        run(initdb);
        server.go();
        server
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn program(&self, name: &str) -> Command {
        let program = self.programs.join(name);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--"]);
            command.arg(program);
            command
        } else {
            Command::new(program)
        };
        // The programs look for files where they are started.
        command.current_dir("/").stdin(Stdio::null());
        command
    }

    fn control(&self, arguments: &[&str]) {
        let mut command = self.program("pg_ctl");
        command.arg("--pgdata").arg(self.path("data")).args(["--wait", "--timeout", "60"]);
        // What it starts keeps its standard output open.
        command.arg("--log").arg(self.path("log")).args(arguments);
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !status.as_ref().is_ok_and(|status| status.success()) {
            let log = fs::read_to_string(self.path("log")).unwrap_or_default();
            panic!("{command:?}: {status:?}\n{log}");
        }
    }

    /// Starts the server again.
    pub fn go(&self) {
        self.control(&["--options", &self.settings, "start"]);
    }

    /// Starts the server unless it runs.
    pub fn go_again(&self) {
        let mut status = self.program("pg_ctl");
        status.arg("--pgdata").arg(self.path("data")).arg("status");
        let runs = status.stdout(Stdio::null()).status().expect("pg_ctl").success();
        if !runs {
            self.go();
        }
    }

    /// Ends it: `fast` as an administrator does, `immediate` as if it had crashed.
    pub fn stop(&self, mode: &str) {
        self.control(&["--mode", mode, "stop"]);
    }

    /// Kills it and all of its processes, with SIGKILL.
    pub fn kill(&self) {
        let text = fs::read_to_string(self.path("data/postmaster.pid")).expect("it runs");
        let pid = text.lines().next().expect("a pid").to_owned();
        // Stopped first, so that it makes no more of them: one that lived on would keep it from being started again.
        let send = |signal: &str, pid: &str| {
            let _ = Command::new("kill").args([signal, pid]).stderr(Stdio::null()).status();
        };
        send("-STOP", &pid);
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let mut pids: Vec<String> = vec![pid];
        pids.extend(children.expect("/proc").split_whitespace().map(str::to_owned));
        for pid in &pids {
            send("-KILL", pid);
        }
        for pid in &pids {
            while Path::new("/proc").join(pid).exists() && !is_zombie(pid) {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
        // Where nobody collects orphans its number stays in use, and a start would believe that it runs.
        for lock in ["data/postmaster.pid", &format!(".s.PGSQL.{}.lock", self.port)] {
            fs::remove_file(self.path(lock)).expect("it ran");
        }
    }

    /// Makes a database of a name that no other test has, and says how it is reached.
    pub fn database(&self) -> String {
        let name = format!("test{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.execute("postgres", &format!("CREATE DATABASE {name}"));
        self.connection(&name)
    }

    pub fn connection(&self, database: &str) -> String {
        format!(
            "host=127.0.0.1 port={} user=test password='{PASSWORD}' dbname={database}",
            self.port
        )
    }

    /// Statements in a database, by its name or as [`database`](Self::database) says.
    pub fn execute(&self, database: &str, sql: &str) {
        let connection = match database.contains('=') {
            true => database.to_owned(),
            false => self.connection(database),
        };
        let mut client = postgres::Client::connect(&connection, postgres::NoTls).expect("connect");
        client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.leash.take());
        let _ = self.watch.wait();
    }
}

fn is_zombie(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn programs() -> PathBuf {
    let found = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = found.map(|entry| entry.path().join("bin")).collect();
    found.retain(|path| path.join("initdb").exists());
    found.sort();
    found.pop().expect(
        "PostgreSQL is missing, and these tests run a server: install Debian's package postgresql (apt-get install postgresql)",
    )
}

fn run(mut command: Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
