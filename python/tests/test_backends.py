"""Places for artifacts: a directory, a bucket, a database, each on its real server, beside the daemon's own place."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pickle
import sys
import traceback
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

import belljar._directed
import belljar.sync
from belljar import (
    Artifact,
    ArtifactManager,
    ArtifactQuery,
    ArtifactState,
    Daemon,
    DatabaseStorageBackend,
    LocalStorageBackend,
    MountPoint,
    S3StorageBackend,
    StorageBackend,
    Workspace,
    errors,
)
from belljar.spark.sandboxed import modules
from conftest import Python, Served, eventually
from servers import Moto, Postgres, free_port

#: Makes a backend of one kind, each time in a place of its own.
Make = Callable[[], StorageBackend]
KINDS = ("local", "s3", "database")

#: Of users of databases, as it stands nowhere by chance.
PASSWORD = "hunter22hunter22"

#: How many registrations a daemon is killed in the middle of: more than fit into one request.
NUMBERS = 3000 if os.environ.get("BELLJAR_TEST_LONG") else 150


def bucket_of(server: Moto, prefix: str = "", **other: Any) -> S3StorageBackend:
    given = {"bucket": "artifacts", "region": "us-east-1", "credentials": server.credentials, "endpoint": server.endpoint}
    return S3StorageBackend(prefix=prefix or f"{uuid.uuid4().hex}/", **{**given, **other})


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    def one() -> StorageBackend:
        name = uuid.uuid4().hex
        if request.param == "local":
            return LocalStorageBackend(base_path=str(tmp_path / name / "artifacts"), create_dirs=True)
        if request.param == "s3":
            return bucket_of(request.getfixturevalue("bucket_server"))
        connection = request.getfixturevalue("database_server").database(f"test_{name}", PASSWORD)
        return DatabaseStorageBackend(connection_string=connection, file_storage_path=str(tmp_path / name))

    return one


@pytest.fixture
def home(artifacts: ArtifactManager) -> Iterator[ArtifactManager]:
    """The manager of the process, which goes back to the daemon's own place."""
    yield artifacts
    artifacts.set_backend(None)


def mounted(tmp_path: Path, **options: Any) -> Workspace:
    return Workspace(f"back-{uuid.uuid4().hex[:12]}", [MountPoint("output", str(tmp_path / "out"), "rw")], **options)


def wait_for_mount(workspace: Workspace) -> None:
    """After its daemon was restarted."""
    eventually("the workspace is mounted again", lambda: workspace.is_mounted and os.path.ismount(workspace.root))


def write(workspace: Workspace, name: str, text: str) -> str:
    path = Path(workspace.get_mount("output"), name)
    path.write_text(text)
    return str(path)


def secrets_of(backend: StorageBackend) -> list[bytes]:
    wire = backend.to_wire()
    if isinstance(backend, S3StorageBackend):
        return [wire["credentials"]["secret_access_key"].encode()]
    return [PASSWORD.encode()] if PASSWORD in wire.get("connection_string", "") else []


def files_with(words: list[bytes], *places: Path) -> list[str]:
    found = []
    for place in places:
        for path in place.rglob("*"):
            if path.is_file() and not path.is_symlink():
                content = path.read_bytes()
                found += [f"{path}: {word!r}" for word in words if word in content]
    return found


async def names(manager: ArtifactManager, **criteria: Any) -> list[str]:
    return sorted(str(a.artifact_id or a.workspace_path) for a in await manager.query_artifacts(**criteria))


@pytest.mark.asyncio
async def test_everything_of_a_manager_is_about_its_backend(
    make: Make, belljar_daemon: Daemon, tmp_path: Path, bucket_server: Moto
) -> None:
    backend = make()
    manager, other, own = (ArtifactManager(belljar_daemon) for _ in range(3))
    assert (manager.backend, backend.id) == (None, None)
    manager.set_backend(backend)
    other.set_backend(LocalStorageBackend(tmp_path / "another"))
    assert manager.backend is backend and backend.id and backend.problem is None
    outside = tmp_path / "outside.txt"
    outside.write_text("outside")
    with mounted(tmp_path, artifacts=manager) as workspace:
        first = await manager.register_artifact(Artifact("out", "report", str(outside), {"score": 0.95}, version="v1"))
        path = write(workspace, "inside.txt", "inside")
        inside = await manager.register_artifact(Artifact("in", "model", path, {"score": 0.5}))
        write(workspace, "captured.txt", "captured")
        assert await manager.sync(workspace.workspace_id)
        captured = await manager.query_artifacts(workspace_id=workspace.workspace_id)
        assert sorted(str(a.workspace_path) for a in captured) == [f"/workspace/output/{n}.txt" for n in ("captured", "inside")]
        assert inside.origin == "observed", "captured and registered is one artifact"
        good = await manager.query_artifacts(ArtifactQuery(metadata_filter={"score": lambda score: score > 0.9}))
        assert good == [first]
        outside.write_text("outside, later")
        second = await manager.register_artifact(Artifact("out", path=str(outside), version="v2"))
        # Nobody else sees any of it, by name or by list.
        for stranger in (other, own):
            assert workspace.workspace_id not in {a.workspace_id for a in await stranger.query_artifacts(all_versions=True)}
            for reference in ("out", str(second.id)):
                with pytest.raises(errors.ArtifactNotFound):
                    await stranger.get_artifact(reference)
    found = await manager.get_artifact("out")
    assert (found, found.version) == (second, "v2")
    assert [v.number for v in await manager.get_versions("out")] == [2, 1]
    assert await manager.read_artifact("out@1") == b"outside"
    outside.unlink()
    assert Path(str(found.path)).read_text() == "outside, later"
    assert Path(await manager.download_artifact("in", tmp_path / "copy")).read_text() == "inside"
    assert (await manager.lineage("out"))["root"] == {"id": second.id, "version": 2}
    assert (await manager.archive_artifact("in")).state is ArtifactState.ARCHIVED
    assert (await manager.delete_artifact("in")).state is ArtifactState.DELETED
    assert (await manager.restore_artifact("in")).state is ArtifactState.READY
    # A name of one place is free in another.
    path = tmp_path / "same"
    path.write_text("the other's")
    await other.register_artifact(Artifact("out", path=str(path)))
    assert [await m.read_artifact("out") for m in (manager, other)] == [b"outside, later", b"the other's"]
    if isinstance(backend, S3StorageBackend):
        assert await manager.wait_uploaded()
        assert len(bucket_server.objects(prefix=backend.prefix)) == 4
        assert (await manager.storage_status())["stores"][0]["contents"] == 4
    else:
        with pytest.raises(errors.NoRemoteStore):
            await manager.wait_uploaded()
    assert await manager.cleanup_artifacts_with_filter(lambda a: a.artifact_id == "in") == 1
    tomorrow = datetime.now(timezone.utc) + timedelta(days=1)
    assert await manager.cleanup_artifacts_before(tomorrow) == 2
    assert (await names(manager), await names(other)) == ([], ["out"])
    manager.set_backend(None)
    assert manager.backend is None and manager.daemon is belljar_daemon
    with pytest.raises(errors.ArtifactNotFound):
        await manager.get_artifact("out")


def test_a_daemon_that_is_killed_and_restarted_loses_nothing_and_asks_nobody(
    make: Make, served: Served, tmp_path: Path, bucket_server: Moto
) -> None:
    backend = make()
    manager = belljar.sync.ArtifactManager(Daemon(served.socket))
    manager.set_backend(backend)
    workspace = mounted(tmp_path, artifacts=manager)
    write(workspace, "before.txt", "before")
    assert manager.sync()
    registrations = []
    for number in range(NUMBERS):
        path = tmp_path / f"{number}.txt"
        path.write_text(str(number))
        registrations.append(manager.register_artifact(Artifact(f"n{number}", "number", str(path), {"n": number})))
        path.unlink()
        if number == NUMBERS // 2:
            # In the middle: some are durable, some on their way, some in the queue.
            registrations[20].result(30)
            served.stop(kill=True)
            served.start()
    assert sorted(r.result(60).metadata["n"] for r in registrations) == list(range(NUMBERS))
    # The workspace is made again by itself, where it was.
    wait_for_mount(workspace)
    write(workspace, "after.txt", "after")
    assert manager.sync(workspace.workspace_id)
    found = manager.query_artifacts(workspace_id=workspace.workspace_id)
    assert sorted(str(a.workspace_path) for a in found) == ["/workspace/output/after.txt", "/workspace/output/before.txt"]
    assert len(manager.query_artifacts(artifact_type="number")) == NUMBERS
    assert manager.read_artifact("n99") == b"99"
    if isinstance(backend, S3StorageBackend):
        assert manager.wait_uploaded(), manager.storage_status()
        assert len(bucket_server.objects(prefix=backend.prefix)) == NUMBERS + 2
    # In order, too, with a call that asks for nothing but a content.
    served.stop()
    served.start()
    assert manager.read_artifact("n7") == b"7"
    # A workspace stays where it was mounted, also when it is made again, whatever was chosen meanwhile.
    wait_for_mount(workspace)
    manager.set_backend(None)
    served.stop()
    served.start()
    wait_for_mount(workspace)
    write(workspace, "last.txt", "last")
    still = workspace.artifacts
    assert isinstance(still, belljar.sync.ArtifactManager) and still.backend is backend and still.sync(workspace.workspace_id)
    assert len(still.query_artifacts(workspace_id=workspace.workspace_id)) == 3
    workspace.close()
    assert belljar.sync.ArtifactManager(Daemon(served.socket)).query_artifacts() == []
    assert files_with(secrets_of(backend), tmp_path / "state", tmp_path / "run") == []


@pytest.mark.asyncio
async def test_keys_that_went_with_a_daemon_are_given_again_also_by_asynchronous_code(
    served: Served, bucket_server: Moto, tmp_path: Path
) -> None:
    backend = bucket_of(bucket_server)
    manager = ArtifactManager(Daemon(served.socket))
    manager.set_backend(backend)
    served.stop()
    served.start()
    # Without keys the upload waits; a reference by the id alone has none to give.
    reference: ArtifactManager = pickle.loads(pickle.dumps(manager))
    assert reference.backend is backend, "this process knows its keys"
    (tmp_path / "x").write_text("x")
    by_id = ArtifactManager(belljar._directed.Directed(Daemon(served.socket), str(backend.id)))
    await by_id.register_artifact(Artifact("x", path=str(tmp_path / "x")))
    assert not await by_id.wait_uploaded(0.5)
    assert bucket_server.objects(prefix=backend.prefix) == []
    pieces = [piece async for piece in manager.daemon.stream_async(belljar.manager.operations.content("x"))]
    assert pieces == [b"x"]
    assert await by_id.wait_uploaded(), "the keys are there again"
    assert len(bucket_server.objects(prefix=backend.prefix)) == 1


@pytest.mark.asyncio
async def test_the_managers_of_the_process_say_where_workspaces_keep_their_artifacts(
    home: ArtifactManager, tmp_path: Path
) -> None:
    twin = belljar.sync.ArtifactManager.get_instance()
    before = mounted(tmp_path / "before")
    write(before, "old.txt", "old")
    queued = []
    for number in range(400):
        (tmp_path / f"queued-{number}").write_text(str(number))
        queued.append(home.register_artifact(Artifact(f"queued-{number}", path=str(tmp_path / f"queued-{number}"))))
    backend = LocalStorageBackend(tmp_path / "store")
    await asyncio.to_thread(twin.set_backend, backend)
    assert home.backend is twin.backend is backend
    # What waited goes where it was meant to, and is waited for.
    assert home.flush() and all(registration.done() for registration in queued)
    with before, mounted(tmp_path / "after") as after:
        write(before, "still.txt", "still")
        write(after, "new.txt", "new")
        # What a command makes is fetched from where it is.
        result = await after.run_async(["sh", "-c", "echo made > output/made.txt"], check=True)
        made = result.artifacts[0]
        Path(after.get_mount("output"), "made.txt").write_text("written over")
        assert Path(str(made.path)).read_text() == "made\n"
        result = await before.run_async(["sh", "-c", "echo at home > output/home.txt"], check=True)
        Path(before.get_mount("output"), "home.txt").unlink()
        assert Path(str(result.artifacts[0].path)).read_text() == "at home\n"
        assert await home.sync(after.workspace_id)
        captured = await home.query_artifacts(workspace_id=after.workspace_id)
        assert sorted(str(a.workspace_path) for a in captured) == ["/workspace/output/made.txt", "/workspace/output/new.txt"]
        assert await home.query_artifacts(workspace_id=before.workspace_id) == []
        assert after.artifacts is home and before.artifacts is not home
        home.set_backend(None)
        assert twin.backend is None
        # Each stays where it was mounted.
        write(after, "later.txt", "later")
        assert await home.sync() and home.flush()
        assert len(await names(home, workspace_id=before.workspace_id)) == 3
        assert await home.query_artifacts(workspace_id=after.workspace_id) == []
        assert len([await q for q in queued]) == 400
        assert (await home.get_artifact("queued-399")).version_number == 1
        assert await after.artifacts.sync(after.workspace_id)
        assert len(await after.artifacts.query_artifacts(workspace_id=after.workspace_id)) == 3
    with mounted(tmp_path / "again") as again:
        write(again, "home.txt", "home")
        assert await home.sync(again.workspace_id)
        assert len(await names(home, workspace_id=again.workspace_id)) == 1


def test_a_sandbox_uses_the_place_of_its_workspace_and_can_choose_none(home: ArtifactManager, tmp_path: Path) -> None:
    home.set_backend(LocalStorageBackend(tmp_path / "store"))
    program = """
import belljar.sync, sys
from belljar import Artifact, LocalStorageBackend, errors
manager = belljar.sync.ArtifactManager.get_instance()
try:
    manager.set_backend(LocalStorageBackend("/workspace/output/trap"))
except errors.Forbidden as error:
    print(error)
open("/workspace/output/x.txt", "w").write("x")
print(manager.register_artifact(Artifact("sandboxed-one", "log", "/workspace/output/x.txt")).result(30).origin)
"""
    with mounted(tmp_path) as workspace:
        result = workspace.run([sys.executable, "-c", program], expose=[*modules()], check=True)
        said = result.text.splitlines()
        assert "kept where its workspace's are" in said[0] and said[1] == "observed"
        assert not (tmp_path / "out" / "trap").exists()
    twin = belljar.sync.ArtifactManager.get_instance()
    assert twin.get_artifact("sandboxed-one").workspace_id == workspace.workspace_id
    home.set_backend(None)
    with pytest.raises(errors.ArtifactNotFound):
        twin.get_artifact("sandboxed-one")


METHODS = ("fork", "spawn", "forkserver")
PROGRAM = """
import json, multiprocessing, os, pickle, sys
from belljar import Artifact, MountPoint, S3StorageBackend, Workspace
from belljar.sync import ArtifactManager

def work(workspace, manager, name):
    everything = open("/proc/self/environ", "rb").read() + open("/proc/self/cmdline", "rb").read()
    path = os.path.join(workspace.get_mount("output"), name + ".txt")
    with open(path, "w") as file:
        file.write(name)
    registered = [manager.register_artifact(Artifact(name, "work", path)).result(60)]
    # Also without having been told: the workspace says where.
    registered.append(ArtifactManager.get_instance().register_artifact(Artifact(name + "-again", "work", path)).result(60))
    return [a.origin for a in registered], everything, ArtifactManager.get_instance() is manager

if __name__ == "__main__":
    given = json.load(sys.stdin)
    secret = given["credentials"]["secret_access_key"]
    manager = ArtifactManager.get_instance()
    backend = S3StorageBackend(**given)
    manager.set_backend(backend)
    workspace = Workspace("pooled", [MountPoint("output", sys.argv[1], "rw")])
    workspace.root
    for thing in (manager, workspace, workspace.artifacts):
        assert secret.encode() not in pickle.dumps(thing)
    try:
        pickle.dumps(backend)
    except TypeError as error:
        assert secret not in str(error)
    else:
        raise AssertionError("keys in a pickle")
    for method in %s:
        with multiprocessing.get_context(method).Pool(1) as pool:
            origins, everything, is_own = pool.apply(work, (workspace, manager, method))
        assert (origins, is_own) == (["observed", "observed"], True), (method, origins, is_own)
        assert secret.encode() not in everything
    assert manager.wait_uploaded(), manager.storage_status()
    print(sorted(name for a in manager.query_artifacts(artifact_type="work") for name in a.aliases))
    manager.set_backend(None)
    print(len(manager.query_artifacts()))
""".replace("%s", repr(METHODS))


def test_pools_keep_artifacts_where_their_parent_does_and_are_told_no_keys(
    python: Python, bucket_server: Moto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = bucket_of(bucket_server)
    given = {k: v for k, v in backend.to_wire().items() if k != "kind"}
    environment = {"BELLJAR_STATE_DIR": str(tmp_path / "state"), "BELLJAR_RUNTIME_DIR": str(tmp_path / "run")}
    for name in ("BELLJAR_PYTHON_SOCKET", "BELLJAR_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    done = python(PROGRAM, str(tmp_path / "out"), env=environment, input=json.dumps(given))
    assert done.returncode == 0, done.stderr
    listed, count = done.stdout.splitlines()
    assert listed == str(sorted([*METHODS, *(f"{method}-again" for method in METHODS)]))
    assert count == "0", "nothing came to the daemon's own place"
    assert files_with(secrets_of(backend), tmp_path / "state") == []


def shown(error: BaseException, caplog: pytest.LogCaptureFixture) -> str:
    """All that somebody could see of an exception."""
    chain: list[Any] = []
    link: BaseException | None = error
    while link is not None:
        chain += [repr(link), str(link), link.args, vars(link)]
        link = link.__cause__ or link.__context__
    return f"{chain} {''.join(traceback.format_exception(error))} {caplog.text}"


def test_what_cannot_be_used_is_said_with_the_reason_and_without_a_secret(
    belljar_daemon: Daemon, bucket_server: Moto, database_server: Postgres, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    manager = belljar.sync.ArtifactManager(belljar_daemon)
    manager.set_backend(kept := LocalStorageBackend(tmp_path / "above" / "kept"))
    secret = "hunter22hunter22hunter22hunter22hunter22"
    wrong = {**bucket_server.credentials, "secret_access_key": secret}
    place = f"localhost:{database_server.port}"
    (tmp_path / "a-file").write_text("")
    (tmp_path / "inside").mkdir()
    for backend, kind, words in (
        (bucket_of(bucket_server, credentials=wrong), errors.BackendUnavailable, "ignature|AccessDenied|403"),
        (bucket_of(bucket_server, bucket="nosuchbucket"), errors.BackendUnavailable, "nosuchbucket"),
        (bucket_of(bucket_server, endpoint="http://storage.example.org"), errors.BackendRefused, "allow_http"),
        (bucket_of(bucket_server, bucket="Not_A_Bucket"), errors.BackendRefused, "bucket"),
        (
            DatabaseStorageBackend(f"postgresql://user:{secret}@{place}/spark", tmp_path / "files"),
            errors.BackendUnavailable,
            "password authentication failed",
        ),
        (
            DatabaseStorageBackend(f"postgresql://user:{secret}@localhost:{free_port()}/spark", tmp_path / "files"),
            errors.BackendUnavailable,
            "onnection refused",
        ),
        (
            DatabaseStorageBackend(f"postgresql://user:pass@{place}/nosuchdatabase", tmp_path / "files"),
            errors.BackendUnavailable,
            "nosuchdatabase",
        ),
        (
            DatabaseStorageBackend(f"postgresql://user:{secret}/with/slashes@{place}/spark", tmp_path / "files"),
            errors.BackendRefused,
            "connection string",
        ),
        (LocalStorageBackend(tmp_path / "missing", create_dirs=False), errors.BackendRefused, "create_dirs=True"),
        (LocalStorageBackend(tmp_path / "a-file"), errors.BackendRefused, "exists|no directory|Not a directory"),
        (LocalStorageBackend("/proc/belljar"), errors.BackendRefused, "/proc/belljar"),
    ):
        with pytest.raises(kind, match=words) as caught:
            manager.set_backend(backend)
        assert secret not in shown(caught.value, caplog) + repr(backend)
        assert (backend.id, manager.backend) == (None, kept)
    assert not (tmp_path / "missing").exists()
    made = (tmp_path / "above" / "kept").stat()
    assert made.st_mode & 0o777 == (tmp_path / "above").stat().st_mode & 0o777 == 0o700
    # The daemon is told which directory is meant, and uses no other that may be there for it.
    assert kept.request()["directory"] == {"device": made.st_dev, "inode": made.st_ino}


def test_a_bucket_that_is_away_is_told_of_and_its_contents_can_be_read(
    belljar_daemon: Daemon, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manager = belljar.sync.ArtifactManager(belljar_daemon)
    keys = {"access_key_id": "AKIAIOSFODNN7EXAMPLE", "secret_access_key": "hunter22"}
    endpoint = f"http://127.0.0.1:{free_port()}"
    backend = S3StorageBackend("artifacts", "p/", "us-east-1", keys, endpoint=endpoint)
    manager.set_backend(backend)
    assert "onnection refused" in str(backend.problem)
    assert "onnection refused" in caplog.text and "hunter22" not in caplog.text + str(backend.problem)
    (tmp_path / "x").write_text("x")
    manager.register_artifact(Artifact("waits", path=str(tmp_path / "x"))).result(30)
    assert manager.read_artifact("waits") == b"x"
    assert not manager.wait_uploaded(0.2)


def test_a_backend_that_cannot_be_set_again_fails_the_call_and_is_not_passed_over(
    served: Served, database_server: Postgres, tmp_path: Path
) -> None:
    name = f"test_{uuid.uuid4().hex}"
    connection = database_server.database(name, "first")
    manager = belljar.sync.ArtifactManager(Daemon(served.socket))
    manager.set_backend(DatabaseStorageBackend(connection, tmp_path / "files"))
    (tmp_path / "x").write_text("x")
    manager.register_artifact(Artifact("x", path=str(tmp_path / "x"))).result(30)

    def lose(_: Artifact) -> bool:
        database_server.query("postgres", f"ALTER ROLE {name}_user PASSWORD 'second'")
        served.stop()
        served.start()
        return True

    # Not passed over as something that has gone already.
    with pytest.raises(errors.BackendNotOpen, match="password authentication failed"):
        manager.cleanup_artifacts_with_filter(lose)
    for call in (
        lambda: manager.get_artifact("x"),
        lambda: manager.register_artifact(Artifact("x", path=str(tmp_path / "x"))).result(30),
        lambda: b"".join(manager.daemon.stream(belljar.manager.operations.content("x"))),
    ):
        with pytest.raises(errors.BackendNotOpen, match="password authentication failed"):
            call()
    # Who has the password sets it again, and what was there is there.
    manager.set_backend(DatabaseStorageBackend(connection.replace(":first@", ":second@"), tmp_path / "files"))
    assert manager.read_artifact("x") == b"x"


def test_rows_are_in_the_database_for_whoever_asks_it(belljar_daemon: Daemon, database_server: Postgres, tmp_path: Path) -> None:
    name = f"test_{uuid.uuid4().hex}"
    manager = belljar.sync.ArtifactManager(belljar_daemon)
    manager.set_backend(DatabaseStorageBackend(database_server.database(name), tmp_path / "files"))
    (tmp_path / "x").write_text("x")
    manager.register_artifact(Artifact("queryable", path=str(tmp_path / "x"), metadata={"score": 7})).result(30)
    metadata = database_server.query(name, "SELECT metadata->>'score' FROM belljar.version")
    assert metadata == "7"
    assert [p.read_bytes() for p in (tmp_path / "files" / "blobs").rglob("*") if p.is_file()] == [b"x"]
