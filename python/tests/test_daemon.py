"""The daemon: found, started, restarted, ended."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

import belljar.sync
from belljar import Artifact, ArtifactManager, Client, Daemon, MountPoint, Workspace, _daemon, _operations, errors
from conftest import SOURCES, Served, eventually, mounts_below


@pytest.fixture
def talking_to(served: Served):
    """This process talks to the test's own daemon."""
    before = _daemon._default
    _daemon.set_default(Daemon(served.socket))
    yield served
    _daemon.set_default(before)


@pytest.mark.parametrize("kill", [False, True])
def test_a_daemon_that_is_restarted_under_a_live_client_loses_nothing(talking_to: Served, tmp_path: Path, kill: bool) -> None:
    manager = belljar.sync.ArtifactManager()
    made = Workspace("surviving", [MountPoint("output", str(tmp_path / "output"), mode="rw")])
    made.add_secret("KEY", "survives-the-daemon")
    made.set_env("MODE", "m")
    mount = made.get_mount("output")
    made.add_secret("LATE", "given-later-on")
    Path(mount, "before.txt").write_text("before")
    manager.register_artifact(Artifact("before_restart", path=f"{mount}/before.txt")).result(30)
    stop = threading.Event()
    written: list[int] = []
    registrations = []

    def go_on() -> None:
        number = 0
        while not stop.is_set():
            path = tmp_path / f"outside-{number}.txt"
            path.write_text(str(number))
            registrations.append(manager.register_artifact(Artifact(f"during_{number}", path=str(path))))
            written.append(number)
            number += 1
            time.sleep(0.01)

    busy = threading.Thread(target=go_on)
    busy.start()
    eventually("work goes on", lambda: len(written) > 10)
    talking_to.stop(kill=kill)
    count = len(written)
    eventually("work goes on without the daemon", lambda: len(written) > count + 10)
    talking_to.start()
    count = len(written)
    eventually("work goes on with the new daemon", lambda: len(written) > count + 10)
    stop.set()
    busy.join()
    for registration in registrations:
        registration.result(60)
    names = {a.artifact_id for a in manager.query_artifacts()}
    assert {f"during_{number}" for number in written} <= names
    assert "before_restart" in names
    # The workspace is there again, at the same place, with what it had.
    assert made.get_mount("output") == mount
    Path(mount, "after.txt").write_text("after")
    assert (tmp_path / "output" / "after.txt").read_text() == "after"
    other = Workspace.attach("surviving")
    assert (other.get_secret("KEY"), other.get_secret("LATE"), other.get_env("MODE")) == (
        "survives-the-daemon",
        "given-later-on",
        "m",
    )
    assert made.run(["cat", "output/after.txt"]).text == "after"
    made.close()


@pytest.mark.asyncio
async def test_asynchronous_calls_wait_for_a_daemon_that_is_restarted(talking_to: Served, tmp_path: Path) -> None:
    manager = ArtifactManager()
    (tmp_path / "x").write_text("x")
    await manager.register_artifact(Artifact("waited_for", path=str(tmp_path / "x")))
    await asyncio.to_thread(talking_to.stop)
    asked = asyncio.create_task(manager.get_artifact("waited_for"))
    await asyncio.sleep(0.3)
    assert not asked.done()
    await asyncio.to_thread(talking_to.start)
    assert (await asked).artifact_id == "waited_for"


def test_without_a_daemon_a_private_one_is_started_and_ends_with_the_program(tmp_path: Path) -> None:
    program = f"""
import sys, time
from belljar import Client, MountPoint, Workspace
made = Workspace("private", [MountPoint("output", {str(tmp_path / "output")!r}, mode="rw")])
open(made.get_mount("output") + "/x.txt", "w").write("x")
print(Client().status()["pid"], flush=True)
if sys.argv[1] == "sleep":
    time.sleep(60)
"""
    environment = {
        **os.environ,
        "PYTHONPATH": str(SOURCES),
        "BELLJAR_STATE_DIR": str(tmp_path / "state"),
        "BELLJAR_RUNTIME_DIR": str(tmp_path / "run"),
    }
    environment.pop("BELLJAR_PYTHON_SOCKET")
    for how in ("end", "sleep"):
        child = subprocess.Popen([sys.executable, "-c", program, how], env=environment, stdout=subprocess.PIPE)
        assert child.stdout is not None
        pid = int(child.stdout.readline())
        if how == "sleep":
            child.kill()
        child.wait(60)
        child.stdout.close()
        eventually("the daemon has ended", lambda pid=pid: not os.path.exists(f"/proc/{pid}"))
        assert mounts_below(tmp_path) == []
    # In an orderly end nothing stays behind.
    found = Daemon(private=True)
    assert os.path.dirname(os.path.dirname(found.socket)).endswith("instances")
    found.stop()
    assert not os.path.exists(os.path.dirname(found.socket))


def test_a_private_daemon_that_was_killed_is_started_again_with_what_it_had(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    session = os.environ["BELLJAR_PYTHON_SOCKET"]
    found = Daemon(private=True)
    request.addfinalizer(found.stop)
    socket_path = found.socket
    assert os.environ["BELLJAR_PYTHON_SOCKET"] == socket_path
    made = Workspace("revived", [MountPoint("output", str(tmp_path / "output"), mode="rw")], daemon=found)
    made.add_secret("KEY", "kept-by-the-program")
    mount = made.get_mount("output")
    pid = found.drive(_operations.status())["pid"]
    os.kill(pid, signal.SIGKILL)
    eventually("the workspace is there again", lambda: os.path.exists(f"{mount}/..") and made.get_mount("output") == mount)
    Path(made.get_mount("output"), "after").write_text("after")
    assert (tmp_path / "output" / "after").read_text() == "after"
    assert found.drive(_operations.status())["pid"] != pid
    assert Workspace.attach("revived", daemon=found).get_secret("KEY") == "kept-by-the-program"
    made.close()
    found.stop()
    assert os.environ["BELLJAR_PYTHON_SOCKET"] == session, "the session's own daemon is found again"
    assert mounts_below(Path(os.path.dirname(socket_path))) == []


def test_a_socket_that_is_named_must_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BELLJAR_SOCKET", str(tmp_path / "nobody.sock"))
    with pytest.raises(errors.DaemonUnavailable, match="BELLJAR_SOCKET names this socket"):
        Daemon().socket


def test_a_program_that_is_missing_is_said_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BELLJAR_DAEMON")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(errors.DaemonUnavailable, match="no program `belljard` on the path"):
        Daemon(private=True).socket


@pytest.mark.asyncio
async def test_a_content_is_fetched_from_a_daemon_that_was_restarted_meanwhile(served: Served, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    daemon = Daemon(served.socket)
    manager, twin = ArtifactManager(daemon), belljar.sync.ArtifactManager(daemon)
    await manager.register_artifact(Artifact("streamed", path=str(tmp_path / "x")))
    for read in (lambda: asyncio.to_thread(twin.read_artifact, "streamed"), lambda: manager.read_artifact("streamed")):
        assert await read() == b"x"
        # What is kept of connections leads to one that is gone.
        await manager.get_artifact("streamed")
        await asyncio.to_thread(twin.get_artifact, "streamed")
        served.stop()
        served.start()
        assert await read() == b"x"


def test_the_users_own_daemon_is_found_before_the_systems(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BELLJAR_PYTHON_SOCKET", raising=False)
    monkeypatch.setenv("BELLJAR_RUNTIME_DIR", os.path.dirname(served.socket))
    found = Daemon()
    assert found.socket == served.socket
    assert not found.is_private
    assert Client(served.socket).status()["pid"] == served.pid


def test_a_socket_of_another_user_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.fail("only root can give a file away: run the tests as root")
    path = str(tmp_path / "foreign.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        os.chown(path, 12345, -1)
        with pytest.raises(errors.ForeignSocket, match="uid 12345"):
            Client(path).status()
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


IMPOSTOR = """
import os, socket, sys
os.setuid(12345)
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("listens", flush=True)
connection, _ = listener.accept()
print(len(connection.recv(100)), flush=True)
"""


def test_another_user_behind_a_file_of_our_own_is_refused_before_anything_is_sent() -> None:
    place = tempfile.mkdtemp(dir="/tmp")
    path = f"{place}/impostor.sock"
    os.chmod(place, 0o777)
    child = subprocess.Popen([sys.executable, "-I", "-c", IMPOSTOR, path], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None and child.stdout.readline() == "listens\n"
        os.chown(path, os.geteuid(), -1)
        with pytest.raises(errors.ForeignSocket, match="uid 12345"):
            Client(path).status()
        assert child.stdout.readline() == "0\n", "nothing was sent"
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
        shutil.rmtree(place)


def test_who_registers_more_than_the_queue_holds_waits_and_nothing_is_lost(
    talking_to: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("belljar._registrar._QUEUE_MAX", 4)
    manager = belljar.sync.ArtifactManager()
    (tmp_path / "first").write_text("first")
    manager.register_artifact(Artifact("queue_first", path=str(tmp_path / "first"))).result(30)
    talking_to.stop()
    taken = []

    def register() -> None:
        for number in range(300):
            path = tmp_path / f"queued-{number}"
            path.write_text(str(number))
            taken.append(manager.register_artifact(Artifact(f"queued_{number}", path=str(path), graph_id="queue")))

    busy = threading.Thread(target=register)
    busy.start()
    busy.join(1.0)
    assert busy.is_alive(), "it did not wait"
    assert len(taken) < 4 + 128 + 2
    talking_to.start()
    busy.join(60)
    assert {registration.result(60).artifact_id for registration in taken} == {f"queued_{n}" for n in range(300)}


def test_a_socket_with_a_long_path_is_reached(served: Served, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 60)
    deep.mkdir(parents=True)
    (deep / "run").symlink_to(os.path.dirname(served.socket))
    assert Client(str(deep / "run" / "belljar.sock")).status()["pid"] == served.pid


def test_an_answer_that_is_not_understood_is_an_error_of_its_own(tmp_path: Path) -> None:
    path = str(tmp_path / "odd.sock")

    def answer(listener: socket.socket) -> None:
        for said in (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nodd", b"HTTP/1.1 500 X\r\ncontent-length: 3\r\n\r\nodd"):
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(said)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        for _ in range(2):
            with pytest.raises(errors.AnswerNotUnderstood), Client(path) as client:
                client.status()
        thread.join()


ORDINARY = """
import errno, os, sys
from belljar import Artifact, MountPoint, Workspace
from belljar.sync import ArtifactManager
place = sys.argv[1]
mounts = [MountPoint("input", place + "/input", create=True), MountPoint("output", place + "/output", mode="rw")]
made = Workspace("ordinary", mounts)
path = made.get_mount("output") + "/x.txt"
open(path, "w").write("x")
try:
    open(made.get_mount("input") + "/x", "w")
except OSError as error:
    assert error.errno == errno.EROFS, error
else:
    raise SystemExit("written")
found = ArtifactManager.get_instance().register_artifact(Artifact("of_user", path=path)).result(30)
print(os.getuid(), found.workspace_path, made.run(["id", "-u"]).text)
"""


def test_an_ordinary_users_mounts_are_seen_and_enforced(tmp_path: Path) -> None:
    """As uid 12345, with a /dev/fuse of its own that everyone may open."""
    if os.geteuid() != 0:
        pytest.fail("changing the user needs root: run the tests as root")
    place = Path("/tmp") / f"belljar-python-{os.getpid()}"
    place.mkdir(mode=0o755)
    try:
        (place / "node").mkdir()
        (place / "own").mkdir()
        os.chown(place / "own", 12345, 12345)
        for name, source in (("belljard", os.environ["BELLJAR_DAEMON"]), ("belljar", str(SOURCES / "belljar"))):
            target = place / ("bin" if name == "belljard" else "lib") / name
            target.parent.mkdir()
            subprocess.run(["cp", "-r", source, target], check=True)
        (place / "program.py").write_text(ORDINARY)
        script = """
            mount -t tmpfs -o mode=0755 tmpfs "$1/node"
            mknod -m 0666 "$1/node/fuse" c 10 229
            mount --bind "$1/node/fuse" /dev/fuse
            exec setpriv --reuid=12345 --regid=12345 --clear-groups --inh-caps=-all --bounding-set=-all \
                env -i PATH=/usr/bin:/bin HOME="$1/own" PYTHONPATH="$1/lib" BELLJAR_DAEMON="$1/bin/belljard" \
                XDG_RUNTIME_DIR="$1/own" /usr/bin/python3 -B "$1/program.py" "$1/own"
        """
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "bash", "-euc", script, "as-user", str(place)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.split() == ["12345", "/workspace/output/x.txt", "12345"]
    finally:
        subprocess.run(["rm", "-rf", "--one-file-system", str(place)], check=False)
