"""What the tests have in common: the daemon that was built beside them, and a place of their own.

Needs: root or an ordinary user with user namespaces, /dev/fuse, and `belljard`, by BELLJAR_DAEMON or in target/debug.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from servers import PROJECT, Moto, Postgres

SOURCES = PROJECT / "python" / "src"

pytest_plugins = ["pytester"]


def pytest_configure(config: pytest.Config) -> None:
    named = os.environ.get("BELLJAR_DAEMON")
    program = Path(named) if named else PROJECT / "target" / "debug" / "belljard"
    if not os.access(program, os.X_OK):
        raise pytest.UsageError(f"there is no daemon at {program}: build it with `cargo build --bins`, or set BELLJAR_DAEMON")
    if not os.path.exists("/dev/fuse"):
        raise pytest.UsageError("/dev/fuse is missing, and these tests mount FUSE for real: load the module with `modprobe fuse`")
    os.environ["BELLJAR_DAEMON"] = str(program)
    # Nothing of this user's own daemon.
    for name in ("BELLJAR_SOCKET", "BELLJAR_PYTHON_SOCKET", "BELLJAR_RUN", "BELLJAR_ROOT", "BELLJAR_WORKSPACE"):
        os.environ.pop(name, None)


@pytest.fixture(autouse=True)
def own_daemon(request: pytest.FixtureRequest) -> None:
    """Every test talks to the session's daemon, also when it does not ask for it."""
    if "pure" not in request.keywords:
        request.getfixturevalue("belljar_daemon")


Python = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def python(tmp_path: Path) -> Python:
    """Runs a program in a fresh interpreter with this package."""

    def run(
        program: str, *arguments: str, env: dict[str, str] | None = None, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "program.py"
        path.write_text(textwrap.dedent(program))
        environment = {**os.environ, "PYTHONPATH": str(SOURCES), **(env or {})}
        return subprocess.run(
            [sys.executable, str(path), *arguments],
            env=environment,
            input=input,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


class Served:
    """A daemon of the test's own, as a service: it can be ended and started again in its place."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.socket = str(place / "run" / "belljar.sock")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        program = os.environ["BELLJAR_DAEMON"]
        environment = {
            **os.environ,
            "BELLJAR_STATE_DIR": str(self.place / "state"),
            "BELLJAR_RUNTIME_DIR": str(self.place / "run"),
        }
        environment.pop("BELLJAR_SOCKET", None)
        self._process = subprocess.Popen(
            [program, "serve", "--log", "warn,belljar::api::log=off"], env=environment, stdin=subprocess.DEVNULL
        )
        eventually("the daemon answers", lambda: os.path.exists(self.socket))

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def stop(self, *, kill: bool = False) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if kill:
            process.kill()
        else:
            process.terminate()
        process.wait(60)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    daemon = Served(tmp_path)
    yield daemon
    daemon.stop()
    for at in mounts_below(tmp_path):
        subprocess.run(["umount", "--lazy", at], check=False)


@pytest.fixture(scope="session")
def bucket_server() -> Iterator[Moto]:
    """An S3 server that checks signatures."""
    server = Moto()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def database_server() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.stop()


def mounts_below(place: Path) -> list[str]:
    with open("/proc/self/mounts") as table:
        found = [line.split(" ")[1] for line in table]
    return sorted((at for at in found if at.startswith(str(place))), reverse=True)


def eventually(what: str, is_so: Callable[[], bool], within: float = 30.0) -> None:
    deadline = time.monotonic() + within
    while not is_so():
        assert time.monotonic() < deadline, f"did not happen within {within} s: {what}"
        time.sleep(0.02)
