"""Spark's names: our own graph, the real one's surface, scripts, and graphs in a sandbox."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from belljar import Artifact, ArtifactManager, Workspace, errors
from belljar.spark import Graph, Node
from belljar.spark.node import ExecutionContext
from belljar.spark.sandboxed import GraphFailed, modules
from conftest import Python, eventually


class Add(Node):
    def __init__(self, amount: int) -> None:
        super().__init__()
        self.amount = amount

    async def process(self, context: ExecutionContext) -> dict[str, int]:
        return {"n": context.inputs.get("n", 0) + self.amount}


class Silent(Node):
    def process(self) -> str:  # type: ignore[override]
        return "done"


@pytest.mark.asyncio
@pytest.mark.pure
async def test_a_graph_runs_its_nodes_in_turn_and_answers_the_last() -> None:
    first, second, third = Add(1), Add(10), Silent()
    first >> second >> third
    graph = Graph(start=first)
    assert graph.nodes == [first, second, third]
    assert (await graph.run({"n": 5})).content == "done"
    assert second.outputs["n"] == 16
    assert [node.state["process_count"] for node in graph.nodes] == [1, 1, 1]


@pytest.mark.asyncio
@pytest.mark.pure
async def test_edges_with_values_are_taken_when_the_outputs_have_them() -> None:
    start, ten, other = Add(5), Add(100), Add(1000)
    start.on(n=10) >> ten
    start.goto(other, n=5)
    assert (await Graph(start=start).run({"n": 5}))["n"] == 110
    assert (await Graph(start=start).run())["n"] == 1005


@pytest.mark.asyncio
@pytest.mark.pure
async def test_state_lasts_from_run_to_run_and_a_transaction_is_whole_or_nothing() -> None:
    class Count(Node):
        async def process(self, context: ExecutionContext) -> int:
            count = await context.graph_state.get("count", 0) + 1
            await context.graph_state.set("count", count)
            return int(count)

    graph = Graph(start=Count())
    assert [(await graph.run()).content for _ in range(3)] == [1, 2, 3]
    with pytest.raises(RuntimeError):
        async with graph.state.transaction() as values:
            values["count"] = 100
            raise RuntimeError
    async with graph.state.transaction() as values:
        values["other"] = 1
    assert graph.state.get_snapshot() == {"count": 3, "other": 1}


@pytest.mark.asyncio
@pytest.mark.pure
async def test_a_graph_without_a_start_and_one_that_never_ends_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.BelljarError, match="Graph\\(start=node\\)"):
        await Graph().run()
    node = Add(1)
    node >> node
    monkeypatch.setattr("belljar.spark.graph.STEPS_MAX", 100)
    with pytest.raises(errors.BelljarError, match="does not end"):
        await Graph(start=node).run()


@pytest.mark.asyncio
async def test_a_node_knows_its_workspace_and_what_it_registers_knows_its_graph(
    workspace: Workspace, artifacts: ArtifactManager
) -> None:
    class Writer(Node):
        async def process(self, context: ExecutionContext) -> str:
            assert context.workspace is workspace
            path = f"{context.workspace.get_mount('output')}/{context.graph_id}.txt"
            Path(path).write_text("x")
            context.artifact_manager.register_artifact(Artifact("of_graph", path=path))
            return path

    graph = Graph(start=Writer(), id="graph-1", workspace=workspace)
    await graph.run()
    artifacts.flush()
    found = await artifacts.get_artifact("of_graph")
    assert (found.graph_id, found.node_id) == ("graph-1", graph.start.id if graph.start else None)


@pytest.mark.asyncio
async def test_a_policy_closes_the_workspace_when_the_graph_ends(workspace: Workspace) -> None:
    class Fails(Node):
        async def process(self, context: ExecutionContext) -> None:
            workspace.get_mount("output")
            raise ValueError("on purpose")

    graph = Graph(start=Fails(), workspace=workspace)
    for cleanup_on_failure, is_mounted in ((False, True), (True, False)):
        workspace.policy.cleanup_on_failure = cleanup_on_failure
        with pytest.raises(ValueError, match="on purpose"):
            await graph.run()
        assert workspace.is_mounted is is_mounted


SCRIPT = """
import os, sys, tempfile
from spark.graphs import Graph
from spark.graphs.workspace import Workspace, MountPoint
from spark.graphs.artifacts import Artifact, ArtifactManager
from spark.nodes import Node

class Hello(Node):
    async def process(self, context):
        path = context.workspace.get_mount('output') + '/hello.txt'
        with open(path, 'w') as f:
            f.write('hello ' + sys.argv[1])
        await context.artifact_manager.register_artifact(Artifact(artifact_id='hello_of_script', artifact_type='log', path=path))
        return {'path': path}

graph = Graph(start=Hello())
graph.workspace = Workspace(workspace_id='script', mount_points=[MountPoint(name='output', path=tempfile.mkdtemp(), mode='rw')])
result = await graph.run()
print(__name__, open(result['path']).read(), (await ArtifactManager.get_instance().get_artifact('hello_of_script')).artifact_type)
"""


def test_a_script_runs_unmodified_also_with_await_outside_of_functions(python: Python, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    run = "import runpy, sys; sys.argv = ['belljar.spark', *sys.argv[1:]]; runpy.run_module('belljar.spark', run_name='__main__')"
    done = python(run, str(tmp_path / "script.py"), "world")
    assert done.stderr == ""
    assert done.stdout == "__main__ hello world log\n"
    done = python(run)
    assert done.returncode == 2 and "script.py" in done.stderr


REAL = {
    "spark/__init__.py": "",
    "spark/nodes/__init__.py": """
from dataclasses import dataclass, field
from typing import Any

@dataclass(slots=True)
class ExecutionContext:
    inputs: Any = None
    state: Any = None
    metadata: Any = None
    outputs: Any = None
    graph_state: Any = None

class Node:
    is_the_real_one = True
    async def do(self, graph_state):
        return await self.process(ExecutionContext(graph_state=graph_state))
""",
    "spark/graphs/__init__.py": """
from spark.graphs.graph import Graph
from spark.graphs.workspace import Workspace, WorkspaceManager
""",
    "spark/graphs/workspace.py": """
class Workspace:
    is_the_real_one = True
    def __init__(self, *, root):
        self.root = root

class WorkspaceManager:
    def create(self, *, root):
        return Workspace(root=root)
""",
    "spark/graphs/artifacts.py": "class ArtifactRecord:\n    pass\n\nclass ArtifactManager:\n    is_the_real_one = True\n",
    "spark/graphs/graph.py": """
from spark.graphs.workspace import Workspace
from spark.graphs.artifacts import ArtifactManager

class State(dict):
    async def get(self, key, default=None):
        return dict.get(self, key, default)
    async def set(self, key, value):
        self[key] = value

class Graph:
    is_the_real_one = True
    def __init__(self, *, start, workspace: Workspace | None = None):
        self.id, self.start, self.workspace, self.state = 'real-graph', start, workspace, State()
        assert ArtifactManager.is_the_real_one

    async def run(self, task=None):
        error = None
        try:
            if self.workspace:
                await self.workspace.ensure_directories()
                await self.state.set('workspace', self.workspace.describe())
            return await self.start.do(self.state)
        except Exception as raised:
            error = raised
            raise
        finally:
            policy = getattr(self.workspace, 'policy', None)
            if policy and (policy.cleanup_on_failure if error else policy.cleanup_on_success):
                await self.workspace.cleanup()
""",
}

WITH_REAL = """
import asyncio, os, sys
sys.path.insert(0, sys.argv[1])
import belljar.spark
assert belljar.spark.install() is True and belljar.spark.install() is True
from spark.graphs import Graph, WorkspaceManager
from spark.graphs.workspace import MountPoint, Workspace, WorkspaceManager as Same
from spark.graphs.artifacts import Artifact, ArtifactManager, ArtifactRecord
from spark.nodes import Node
assert Graph.is_the_real_one and Node.is_the_real_one and WorkspaceManager is Same
assert WorkspaceManager().create(root='/r').is_the_real_one, 'its own code goes on with its own classes'

class Hello(Node):
    async def process(self, context):
        path = context.workspace.get_mount('output') + '/x.txt'
        open(path, 'w').write('x')
        await context.artifact_manager.register_artifact(Artifact('of_real', path=path))
        return (context.graph_id, (await context.graph_state.get('workspace'))['secrets'])

workspace = Workspace('real', [MountPoint('output', sys.argv[1] + '/made/out', 'rw')])
workspace.add_secret('KEY', 'never-in-the-state')
workspace.policy.cleanup_on_success = True
graph = Graph(start=Hello(), workspace=workspace)

async def main():
    print(await graph.run(), workspace.is_mounted, 'never' in repr(graph.state))
    print((await ArtifactManager.get_instance().get_artifact('of_real')).graph_id)

asyncio.run(main())
"""


def test_the_real_spark_keeps_its_graph_and_node_and_gets_our_workspaces(python: Python, tmp_path: Path) -> None:
    for name, text in REAL.items():
        path = tmp_path / "real" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    done = python(WITH_REAL, str(tmp_path / "real"))
    assert done.stderr == ""
    assert done.stdout == "('real-graph', ['KEY']) False False\nreal-graph\n"


# Graphs in a sandbox.


class Inside(Node):
    async def process(self, context: ExecutionContext) -> dict[str, Any]:
        assert context.workspace is not None
        path = f"{context.workspace.get_mount('output')}/inside.txt"
        Path(path).write_text("inside")
        await context.artifact_manager.register_artifact(Artifact("of_sandbox", path=path))
        await context.graph_state.set("seen", True)
        print("printed inside", context.workspace.get_secret("KEY"))
        try:
            Path(context.workspace.get_mount("input"), "x").write_text("x")
        except OSError as error:
            code = error.errno
        return {
            "n": context.inputs["n"],
            "mount": path,
            "pid_differs": os.getpid(),
            "errno": code,
            "etc": os.path.exists("/etc/shadow"),
            "caller": os.environ.get("OF_THE_CALLER"),
        }


class Raises(Node):
    async def process(self, context: ExecutionContext) -> None:
        raise KeyError("in the sandbox")


class Sleeps(Node):
    async def process(self, context: ExecutionContext) -> None:
        assert context.workspace is not None
        Path(context.workspace.get_mount("output"), "begun").write_text("begun")
        time.sleep(60)


class Dies(Node):
    async def process(self, context: ExecutionContext) -> None:
        os._exit(3)


class NotJson(Node):
    async def process(self, context: ExecutionContext) -> Any:
        return {"o": object()}


@pytest.mark.asyncio
async def test_a_graph_runs_in_the_sandbox_with_the_callers_modules(
    workspace: Workspace, artifacts: ArtifactManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_CALLER", "not-for-inside")
    workspace.add_secret("KEY", "known-to-the-graph")
    graph = Graph(start=Inside(), workspace=workspace)
    heard: list[bytes] = []
    result = await graph.run_sandboxed({"n": 4}, timeout=60, on_output=lambda _, piece: heard.append(piece))
    content = result.content
    assert (content["n"], content["mount"]) == (4, "/workspace/output/inside.txt")
    assert (content["errno"], content["etc"], content["caller"]) == (30, False, None)
    assert b"".join(heard) == b"printed inside ***\n"
    assert await graph.state.get("seen") is True
    found = await artifacts.get_artifact("of_sandbox")
    assert (found.run_id, found.graph_id) == (result.metadata["run_id"], graph.id)


@pytest.mark.asyncio
async def test_what_goes_wrong_in_the_sandbox_is_told(workspace: Workspace) -> None:
    with pytest.raises(GraphFailed, match=r"KeyError: 'in the sandbox'\nTraceback"):
        await Graph(start=Raises(), workspace=workspace).run_sandboxed()
    with pytest.raises(GraphFailed, match="not JSON serializable"):
        await Graph(start=NotJson(), workspace=workspace).run_sandboxed()
    with pytest.raises(errors.RunFailed, match="exited with code 3"):
        await Graph(start=Dies(), workspace=workspace).run_sandboxed()
    with pytest.raises(errors.RunFailed, match="timeout"):
        await Graph(start=Sleeps(), workspace=workspace).run_sandboxed(timeout=2)
    with pytest.raises(errors.BelljarError, match=r"set graph\.workspace"):
        await Graph(start=Dies()).run_sandboxed()


@pytest.mark.asyncio
async def test_cancelling_a_graph_in_the_sandbox_ends_it(workspace: Workspace) -> None:
    task = asyncio.create_task(Graph(start=Sleeps(), workspace=workspace).run_sandboxed())
    begun = Path(workspace.get_mount("output"), "begun")
    while not begun.exists():
        await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    def is_over() -> bool:
        try:
            workspace.remove()
        except errors.Conflict:
            return False
        return True

    await asyncio.to_thread(eventually, "the run is over", is_over)


@pytest.mark.pure
def test_the_modules_that_are_exposed_are_none_twice_and_never_everything() -> None:
    found = modules()
    assert "/" not in found
    assert not [path for path in found if any(path.startswith(other + "/") for other in found)]
    assert any(os.path.realpath(sys.executable).startswith(path + "/") for path in (*found, "/usr"))
