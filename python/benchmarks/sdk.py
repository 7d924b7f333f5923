"""What the package costs: the figures of docs/benchmarks.md.

usage: BELLJAR_DAEMON=target/release/belljard python python/benchmarks/sdk.py

Needs what a private daemon needs: /dev/fuse, and root or user namespaces. Times are of single calls, by perf_counter_ns; each
line has the median and the 99th percentile.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import belljar
import belljar.sync
from belljar.pytest_plugin import isolated
from belljar.spark import Graph, Node


def show(name: str, nanoseconds: Iterable[float], goal: str = "") -> None:
    values = sorted(nanoseconds)
    median, late = statistics.median(values), values[min(len(values) - 1, int(len(values) * 0.99))]
    print(f"{name:<58} {median / 1000:>10.2f} µs {late / 1000:>10.2f} µs  {goal}", flush=True)


def each(call: Callable[[], Any], count: int) -> list[float]:
    """One call at a time, less what reading the clock costs."""
    clock = time.perf_counter_ns
    empty = statistics.median([-clock() + clock() for _ in range(1000)])
    found = []
    for _ in range(count):
        before = clock()
        call()
        found.append(max(0.0, clock() - before - empty))
    return found


def processor_time(pid: int | str) -> float:
    """Of a process, in seconds (proc_pid_stat(5): utime and stime, behind the name in brackets)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def batch(name: str, count: int, goal: str = "") -> Iterator[None]:
    """How many a second, and the processor time of the client and of the daemon for each."""
    pid = belljar.Client().status()["pid"]
    before, used, daemon = time.perf_counter(), time.process_time(), processor_time(pid)
    yield
    seconds, used, daemon = time.perf_counter() - before, time.process_time() - used, processor_time(pid) - daemon
    each = f"client {used / count * 1e6:.0f} µs, daemon {daemon / count * 1e6:.0f} µs each"
    print(f"{name:<58} {count / seconds:>10.0f} /s  {each}  {goal}", flush=True)


def workspaces(place: Path) -> None:
    mounts = [belljar.MountPoint("output", str(place / "out"), mode="rw")]
    belljar.Client().status()
    show("Workspace(…), never used", each(lambda: belljar.Workspace("x", mounts), 2000))
    fresh = [belljar.Workspace(f"cold-{n}", mounts) for n in range(30)]
    for made in fresh:
        made.add_secret("KEY", "a-secret-value")
    show("get_secret, first", [each(lambda made=made: made.get_secret("KEY"), 1)[0] for made in fresh], "< 100 µs")
    show("get_mount, first: makes and mounts the workspace", [each(lambda m=m: m.get_mount("output"), 1)[0] for m in fresh])
    attached = [belljar.Workspace.attach(made.workspace_id) for made in fresh]
    show("get_mount, first, of a workspace that is there", [each(lambda m=m: m.get_mount("output"), 1)[0] for m in attached])
    show("get_secret, first, of a workspace that is there", [each(lambda m=m: m.get_secret("KEY"), 1)[0] for m in attached])
    made = fresh[0]
    show("get_mount, warm", each(lambda: made.get_mount("output"), 20_000), "< 1 µs")
    show("get_secret, warm", each(lambda: made.get_secret("KEY"), 20_000), "< 1 µs")
    for made in fresh:
        made.close()


async def registrations(place: Path, count: int) -> None:
    manager = belljar.ArtifactManager.get_instance()
    files = place / "files"
    files.mkdir()
    said = []
    for number in range(count):
        path = files / f"{number}.txt"
        path.write_text(f"file {number}")
        said.append(belljar.Artifact(f"bench_{number}", "data", str(path), {"n": number}))
    manager.register_artifact(said[0])
    manager.flush()
    alone = iter(said[1:])
    found = []
    for _ in range(400):
        artifact = next(alone)
        before = time.perf_counter_ns()
        manager.register_artifact(artifact)
        found.append(float(time.perf_counter_ns() - before))
        await asyncio.sleep(0.001)
    show("register_artifact, not awaited, returns", found, "< 100 µs median")
    manager.flush()
    found = []
    for _ in range(200):
        artifact = next(alone)
        before = time.perf_counter_ns()
        await manager.register_artifact(artifact)
        found.append(float(time.perf_counter_ns() - before))
    show("register_artifact, awaited: durable", found)
    rest = list(alone)
    with batch("register_artifacts, files outside, with their bytes", len(rest), "goal 10,000 /s"):
        await manager.register_artifacts(rest)
    with batch("the same again: nothing new to store", len(rest)):
        await manager.register_artifacts(rest)
    with batch("the same again, awaited one by one with gather", len(rest)):
        await asyncio.gather(*manager.register_artifacts(rest))
    with belljar.Workspace("captured", [belljar.MountPoint("output", str(place / "captured"), mode="rw")]) as made:
        mount = made.get_mount("output")
        paths = [f"{mount}/{number}.txt" for number in range(len(rest))]
        with batch("written in a workspace and synced", len(rest)):
            for path in paths:
                Path(path).write_text(path)
            await manager.sync("captured", 300)
        captured = [belljar.Artifact(f"captured_{n}", "data", path, {"n": n}) for n, path in enumerate(paths)]
        with batch("register_artifacts, files that were captured", len(rest)):
            await manager.register_artifacts(captured)
    with batch("register_artifact in 1,000 tasks at a time", len(rest)):
        for first in range(0, len(rest), 1000):
            await asyncio.gather(*(one(manager, artifact) for artifact in rest[first : first + 1000]))
    show("get_artifact", [await timed(manager.get_artifact("bench_1")) for _ in range(500)])


async def one(manager: belljar.ArtifactManager, artifact: belljar.Artifact) -> None:
    await manager.register_artifact(artifact)


async def timed(call: Any) -> float:
    before = time.perf_counter_ns()
    await call
    return float(time.perf_counter_ns() - before)


async def graphs() -> None:
    class Nothing(Node):
        async def process(self, context: Any) -> None:
            return None

    graph = Graph(start=Nothing())
    show("a graph of one node without a workspace", [await timed(graph.run()) for _ in range(5000)])
    graph.workspace = belljar.Workspace("unused")
    show("the same with a workspace that it does not use", [await timed(graph.run()) for _ in range(5000)])


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_600
    print(f"Python {sys.version.split()[0]}, {os.environ.get('BELLJAR_DAEMON', 'belljard')}")
    print(f"{'':<58} {'median':>13} {'99 %':>13}  goal")
    with tempfile.TemporaryDirectory(prefix="belljar-bench-", ignore_cleanup_errors=True) as name, isolated(Path(name, "d")):
        place = Path(name)
        asyncio.run(graphs())
        workspaces(place)
        asyncio.run(registrations(place, count))


if __name__ == "__main__":
    main()
