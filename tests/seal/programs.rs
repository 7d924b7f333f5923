//! Real programs work in a sealed sandbox: each is run as every kind of user and must print what it prints anywhere.

use crate::expected::User;
use crate::host::Host;
use crate::support::text;
use std::path::{Path, PathBuf};

/// What is run, what it prints, and which Debian package it is from.
const PROGRAMS: &[(&str, &str, &str, &str)] = &[
    (
        "python3-numpy",
        "NumPy, with the threads of its linear algebra",
        "/usr/bin/python3 -c 'import numpy as n; a = n.arange(250000.0).reshape(500, 500); print(int((a @ n.eye(500)).sum()), n.linalg.matrix_rank(n.eye(300)))'",
        "31249875000 300\n",
    ),
    (
        "python3",
        "SQLite, with a journal and with a log of writes",
        "/usr/bin/python3 -c '\nimport sqlite3\nfor mode in [\"delete\", \"wal\"]:\n    d = sqlite3.connect(mode + \".db\")\n    d.execute(\"pragma journal_mode=\" + mode)\n    d.execute(\"create table t(x)\")\n    d.executemany(\"insert into t values (?)\", [(i,) for i in range(1000)])\n    d.commit()\n    print(d.execute(\"select sum(x) from t\").fetchone()[0])'",
        "499500\n499500\n",
    ),
    (
        "python3",
        "processes and semaphores of Python, threads, an event loop and a server on loopback",
        "/usr/bin/python3 - <<'PYTHON'
import asyncio, concurrent.futures as c, ctypes, multiprocessing, threading, urllib.request, http.server
with c.ProcessPoolExecutor(4) as pool:
    print(sum(pool.map(abs, range(-100, 0))))
with c.ThreadPoolExecutor(16) as pool:
    print(sum(pool.map(abs, range(-100, 0))))
async def echo():
    process = await asyncio.create_subprocess_exec('echo', 'from a child', stdout=-1)
    return (await process.communicate())[0].decode().strip()
print(asyncio.run(echo()))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b'served')
    def log_message(self, *_): pass
server = http.server.HTTPServer(('127.0.0.1', 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(urllib.request.urlopen(f'http://localhost:{server.server_port}/').read().decode())
PYTHON",
        "5050\n5050\nfrom a child\nserved\n",
    ),
    (
        "git",
        "git: commits, a clone, a repack and a check of everything",
        "export GIT_CONFIG_GLOBAL=$HOME/config; git config --global user.name t; git config --global user.email t@example.org
         git init -qb main one && cd one && seq 1000 > file && git add . && git commit -qm first && cd ..
         git clone -q one two && cd two && git repack -qad && git fsck --no-progress && git log --format=%s",
        "first\n",
    ),
    (
        "build-essential",
        "a C compiler, make with four jobs, and a program with threads that it made",
        r#"mkdir c && cd c && for i in 1 2 3 4 5 6 7 8; do echo "int part$i(void) { return $i; }" > part$i.c; done
           cat > main.c <<'C'
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
static atomic_int sum;
static void *add(void *x) { for (int i = 0; i < 1000; i++) sum++; return x; }
int main(void) {
    pthread_t threads[32];
    for (int i = 0; i < 32; i++) if (pthread_create(&threads[i], NULL, add, NULL)) return 1;
    for (int i = 0; i < 32; i++) pthread_join(threads[i], NULL);
    printf("%d\n", sum);
}
C
           printf 'program: main.o part1.o part2.o part3.o part4.o part5.o part6.o part7.o part8.o\n\tcc -o $@ $^ -pthread\n' > Makefile
           make -sj4 && ./program"#,
        "32000\n",
    ),
    (
        "nodejs",
        "Node: just-in-time code, a worker thread, files and a child",
        r#"node -e '
const { Worker } = require("worker_threads"), fs = require("fs"), child = require("child_process");
let x = 0; for (let i = 0; i < 3e6; i++) x = (x + i * i) % 1000003;
fs.writeFileSync("node.txt", String(x));
new Worker("require(\"worker_threads\").parentPort.postMessage(6 * 7)", { eval: true })
    .on("message", m => console.log(m, fs.readFileSync("node.txt", "utf8"), child.execSync("echo child").toString().trim()));'"#,
        "42 999718 child\n",
    ),
    (
        "coreutils",
        "a pipeline, named pipes, background jobs and links",
        "mkfifo pipe; (seq 100000 > pipe &); sort -rn --parallel=2 pipe | head -1; seq 20 | xargs -P4 -I{} sh -c 'echo {}' | wc -l
         mkdir a b; echo x > a/f; mv a/f b/g; ln b/g a/h; ln -s ../b/g a/s; cat a/h a/s; timeout 1 sleep 5; echo $?; nice -n 5 true && echo nice > /dev/null",
        "100000\n20\nx\nx\n124\n",
    ),
];

fn real_programs_work(user: User) {
    let host = Host::new(user);
    for (package, what, script, expected) in PROGRAMS {
        let output = host.run(&["--workdir", "/workspace/out"], "", script);
        assert!(
            output.status.success() && output.stdout == expected.as_bytes(),
            "{what}, for {user:?} (Debian package {package}; scripts/test installs it): {}",
            text(&output)
        );
    }
    host.place.assert_clean();
}

#[test]
fn real_programs_work_for_user_0() {
    real_programs_work(User::Root);
}

#[test]
fn real_programs_work_for_another_user_of_roots_daemon() {
    real_programs_work(User::Other);
}

#[test]
fn real_programs_work_for_an_ordinary_user_of_an_own_daemon() {
    real_programs_work(User::Ordinary);
}

/// The directory of the compiler that builds this test.
fn toolchain() -> PathBuf {
    let cargo =
        std::env::var_os("CARGO").expect("run this test with cargo, which says where it is");
    Path::new(&cargo).parent().unwrap().parent().unwrap().to_owned()
}

#[test]
fn a_rust_compiler_works() {
    let toolchain = toolchain();
    assert!(toolchain.join("bin/rustc").exists(), "no rustc in {}", toolchain.display());
    // Where it is may be closed to others, so that the user is the one who owns it.
    let host = Host::new(User::Root);
    let toolchain = toolchain.to_str().unwrap();
    let script = format!(
        "echo 'fn main() {{ println!(\"{{}}\", std::thread::spawn(|| 6 * 7).join().unwrap()); }}' > m.rs && {toolchain}/bin/rustc -O m.rs && ./m"
    );
    let options = ["--workdir", "/workspace/out", "--expose", toolchain];
    let output = host.run(&options, "", &script);
    assert_eq!(output.stdout, b"42\n", "{}", text(&output));
}
