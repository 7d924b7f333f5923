"""Real servers on loopback that artifacts are kept in: moto for S3, PostgreSQL. Each ends with the process that started it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]

#: As Debian has it on every system; PostgreSQL refuses to run as root.
_NOBODY = "65534"

_POLICY = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}'


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def is_free(port: int) -> bool:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


class Moto:
    """moto, which checks signatures from the moment on when the user with keys and the buckets are there."""

    def __init__(self, buckets: tuple[str, ...] = ("artifacts",), *, checks: bool = True) -> None:
        program = PROJECT / "target" / "tools" / "moto" / "bin" / "moto_server"
        found = str(program) if program.exists() else shutil.which("moto_server")
        assert found, "moto_server is not here; scripts/test installs it, or by hand: pip install 'moto[server]'"
        setpriv = shutil.which("setpriv")
        assert setpriv, "setpriv is not here: install Debian's package util-linux"
        self._port = free_port()
        self.endpoint = f"http://127.0.0.1:{self._port}"
        self._log = tempfile.TemporaryFile()
        environment = {**os.environ}
        if checks:
            environment["INITIAL_NO_AUTH_ACTION_COUNT"] = str(3 + len(buckets))
        self._process = subprocess.Popen(
            [setpriv, "--pdeathsig", "KILL", "--", found, "-H", "127.0.0.1", "-p", str(self._port)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        try:
            self._wait()
            self._iam("CreateUser")
            keys = self._iam("CreateAccessKey")
            self._iam("PutUserPolicy", PolicyName="p", PolicyDocument=_POLICY)
            self.credentials = {
                "access_key_id": _element(keys, "AccessKeyId"),
                "secret_access_key": _element(keys, "SecretAccessKey"),
            }
            for bucket in buckets:
                self._ask("PUT", f"/{bucket}")
        except BaseException:
            self.stop()
            raise

    def _wait(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port)):
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._log.seek(0)
                raise AssertionError(f"moto does not serve; it says: {self._log.read().decode(errors='replace')}")
            time.sleep(0.05)

    def _ask(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> str:
        request = urllib.request.Request(self.endpoint + path, data=body, headers=headers or {}, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(answer.read().decode())

    def _iam(self, action: str, **more: str) -> str:
        said = {"Action": action, "Version": "2010-05-08", "UserName": "belljar", **more}
        # By the credential's scope moto knows which service is meant.
        scope = "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=x"
        return self._ask("POST", "/", urllib.parse.urlencode(said).encode(), {"authorization": scope})

    def objects(self, bucket: str = "artifacts", prefix: str = "") -> list[str]:
        """The names of contents in a bucket, as somebody sees whom the server lets in without a signature, this once."""
        while True:
            self._ask("POST", "/moto-api/reset-auth", b"1", {"content-type": "text/plain"})
            try:
                listed = self._ask("GET", f"/{bucket}?list-type=2&prefix={prefix}")
            except urllib.error.HTTPError as error:
                # Another request came in between.
                assert error.code == 403, error
                continue
            return [key for key in re.findall(r"<Key>([^<]*)</Key>", listed) if "/blobs/" in key]

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()


def _element(xml: str, name: str) -> str:
    found = re.search(f"<{name}>([^<]*)</{name}>", xml)
    assert found, xml
    return found.group(1)


#: Ends the server by its own process id and removes its directory, when the process that holds its standard input ends.
_WATCH = """
trap '' INT TERM HUP
read -r _
if [ -f "$1/data/postmaster.pid" ]; then
    pid=$(head -n 1 "$1/data/postmaster.pid")
    kill -QUIT "$pid" && while kill -0 "$pid"; do sleep 0.02; done
fi
rm -rf -- "$1"
"""


class Postgres:
    """A cluster of its own, with the user, the password and the database of the specification."""

    user, password = "user", "pass"

    def __init__(self) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        assert found, "PostgreSQL is not here, and these tests run a server: install Debian's package postgresql"
        self._programs = found[-1].parent
        self._place = Path(tempfile.mkdtemp(prefix="belljar-postgres-"))
        self._watch = subprocess.Popen(
            ["sh", "-c", _WATCH, "watch", str(self._place)], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        try:
            self.port = 5432 if is_free(5432) else free_port()
            (self._place / "data").mkdir(mode=0o700)
            (self._place / "password").write_text(self.password)
            if os.geteuid() == 0:
                subprocess.run(["chown", "-R", _NOBODY, str(self._place)], check=True)
            self._run(
                "initdb",
                *("--username", self.user, "--auth", "scram-sha-256", "--encoding", "UTF8", "--no-locale", "--no-sync"),
                *("--pwfile", str(self._place / "password"), "--pgdata", str(self._place / "data")),
            )
            options = f"-k {self._place} -p {self.port} -c listen_addresses=127.0.0.1 -c fsync=off -c full_page_writes=off"
            self._run(
                "pg_ctl",
                *("--pgdata", str(self._place / "data"), "--log", str(self._place / "log"), "--wait", "--timeout", "60"),
                *("--options", options + " -c shared_buffers=16MB", "start"),
            )
            self.database("spark")
        except BaseException:
            self.stop()
            raise

    def _run(self, program: str, *arguments: str) -> str:
        command = [str(self._programs / program), *arguments]
        if os.geteuid() == 0:
            command = ["setpriv", "--reuid", _NOBODY, "--regid", _NOBODY, "--clear-groups", "--", *command]
        # A file, because the server keeps its standard output open.
        with tempfile.TemporaryFile() as said:
            environment = {**os.environ, "PGPASSWORD": self.password}
            done = subprocess.run(
                command, cwd="/", env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said, timeout=90, check=False
            )
            said.seek(0)
            text = said.read().decode(errors="replace")
        assert done.returncode == 0, f"{command}: {text}"
        return text

    def query(self, database: str, sql: str) -> str:
        """The answer, plain."""
        place = ("--host", "127.0.0.1", "--port", str(self.port), "--username", self.user, "--dbname", database)
        return self._run("psql", *place, "--no-psqlrc", "--tuples-only", "--no-align", "--command", sql).strip()

    def database(self, name: str, password: str | None = None) -> str:
        """Makes a database, with a user of its own if there is a password for one, and says how it is reached."""
        self.query("postgres", f"CREATE DATABASE {name}")
        user = self.user
        if password is not None:
            user = f"{name}_user"
            self.query("postgres", f"CREATE ROLE {user} LOGIN SUPERUSER PASSWORD '{password}'")
        return f"postgresql://{user}:{password or self.password}@localhost:{self.port}/{name}"

    def stop(self) -> None:
        assert self._watch.stdin is not None
        self._watch.stdin.close()
        self._watch.wait(60)
