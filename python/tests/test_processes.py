"""Forks, spawned pools, and a thousand tasks."""

from __future__ import annotations

import asyncio
import concurrent.futures
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import belljar.sync
from belljar import Artifact, ArtifactManager, ArtifactQuery, Workspace
from conftest import SOURCES, eventually


def write_and_register(work: tuple[Workspace, int]) -> tuple[int, str | None, str]:
    """Done in a pool's process."""
    workspace, number = work
    path = f"{workspace.get_mount('output')}/{number}.txt"
    Path(path).write_text(str(number))
    belljar.sync.ArtifactManager.get_instance().register_artifact(
        Artifact(f"pool_{workspace.workspace_id}_{number}", "pool", path, {"n": number})
    )
    return os.getpid(), workspace.get_secret("KEY"), path


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_pool_of_processes_works_in_one_workspace(workspace: Workspace, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(SOURCES), os.path.dirname(__file__)]))
    workspace.add_secret("KEY", "for-all-processes")
    workspace.get_mount("output")
    # A manager with a thread of its own at the moment of the fork.
    manager = belljar.sync.ArtifactManager.get_instance()
    Path(workspace.get_mount("output"), "parent.txt").write_text("parent")
    manager.register_artifact(Artifact(None, "pool", f"{workspace.get_mount('output')}/parent.txt")).result(30)
    with multiprocessing.get_context(method).Pool(3) as pool:
        done = pool.map(write_and_register, [(workspace, number) for number in range(12)])
        pool.close()
        pool.join()
    assert {secret for _, secret, _ in done} == {"for-all-processes"}
    assert os.getpid() not in {pid for pid, _, _ in done}
    # Registrations that nobody waited for were sent before the processes ended.
    found = manager.query_artifacts(workspace_id=workspace.workspace_id, artifact_type="pool")
    assert sorted(a.metadata.get("n", -1) for a in found) == [-1, *range(12)]
    assert workspace.is_mounted
    assert Path(workspace.get_mount("output"), "0.txt").read_text() == "0"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_that_ends_takes_nothing_with_it(workspace: Workspace) -> None:
    mount = workspace.get_mount("output")
    child = os.fork()
    if child == 0:
        workspace.close()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    Path(mount, "after").write_text("after")
    assert belljar.Client().workspace(workspace.workspace_id)["leases"] == 1


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_does_not_keep_the_parents_workspace(tmp_path: Path) -> None:
    made = Workspace("of_the_parent", [belljar.MountPoint("output", str(tmp_path), mode="rw")])
    made.get_mount("output")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    made.close()
    ids = {found["id"] for found in belljar.Client().workspaces()}
    os.close(writer)
    os.waitpid(child, 0)
    assert "of_the_parent" not in ids


ORPHAN = """
import os, sys, time
from belljar import MountPoint, Workspace
made = Workspace("orphaned", [MountPoint("output", sys.argv[1], mode="rw")])
made.get_mount("output")
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
print(child, flush=True)
time.sleep(60)
"""


def test_a_forked_child_that_outlives_its_parent_does_not_keep_the_workspace(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", ORPHAN, str(tmp_path)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        assert "orphaned" in {found["id"] for found in belljar.Client().workspaces()}
        parent.kill()
        parent.wait()
        eventually("it has ended", lambda: "orphaned" not in {found["id"] for found in belljar.Client().workspaces()}, within=20)
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)
        parent.stdout.close()


@pytest.mark.asyncio
async def test_a_thousand_tasks_register_and_query_at_a_time(artifacts: ArtifactManager, tmp_path: Path) -> None:
    async def one(number: int) -> bool:
        path = tmp_path / f"{number}.txt"
        path.write_text(str(number))
        registered = await artifacts.register_artifact(
            Artifact(f"task_{number}", "thousand", str(path), {"n": number}, graph_id="thousand")
        )
        found = await artifacts.query_artifacts(ArtifactQuery(graph_id="thousand", metadata_filter={"n": number}))
        return [a.id for a in found] == [registered.id]

    assert all(await asyncio.gather(*(one(number) for number in range(1000))))
    everything = await artifacts.query_artifacts(graph_id="thousand")
    assert sorted(a.metadata["n"] for a in everything) == list(range(1000))


def test_threads_share_a_manager_and_loops_follow_each_other(workspace: Workspace) -> None:
    mount = workspace.get_mount("output")

    async def one(number: int) -> str:
        path = f"{mount}/{number}.txt"
        Path(path).write_text(str(number))
        await ArtifactManager.get_instance().register_artifact(Artifact(None, "threaded", path))
        found = await ArtifactManager.get_instance().query_artifacts(
            workspace_id=workspace.workspace_id, path=f"/workspace/output/{number}.txt"
        )
        return str(found[0].workspace_path)

    def loop(number: int) -> str:
        return asyncio.run(one(number))

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(loop, range(24))) == sorted(f"/workspace/output/{n}.txt" for n in range(24))


def test_two_threads_make_a_workspace_once(tmp_path: Path) -> None:
    made = Workspace("once", [belljar.MountPoint("output", str(tmp_path), mode="rw")])
    barrier = threading.Barrier(8)

    def open_it(_: int) -> str:
        barrier.wait()
        return made.get_mount("output")

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(open_it, range(8)))) == 1
    assert belljar.Client().workspace("once")["leases"] == 1
    made.close()
    eventually("it has ended", lambda: "once" not in {w["id"] for w in belljar.Client().workspaces()})
