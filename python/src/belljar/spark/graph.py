"""A small graph: nodes one after the other, with what they share.

It has what the documentation of Spark shows of graphs with workspaces, and no more: no policies, checkpoints or parallel nodes.
"""

from __future__ import annotations

import contextlib
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .. import _context
from ..errors import BelljarError
from .node import Edge, ExecutionContext, Node, NodeMessage
from .state import GraphState

if TYPE_CHECKING:
    from ..workspace import Workspace

#: Nodes that one run may execute: a loop that never ends is named instead of running for ever. Chosen, not measured.
STEPS_MAX = 1_000_000


class Graph:
    """Nodes from a start on. The result of a run is the output of the node that ran last."""

    def __init__(
        self,
        *edges: Edge,
        start: Node | None = None,
        id: str | None = None,
        workspace: Workspace | None = None,
        initial_state: Mapping[str, Any] | None = None,
    ) -> None:
        self.id = id or uuid.uuid4().hex
        self.edges: list[Edge] = list(edges)
        self.start = start if start is not None else (edges[0].from_node if edges else None)
        self.workspace = workspace
        self.state = GraphState(initial_state)

    @property
    def nodes(self) -> list[Node]:
        """All nodes that can be reached, the start first."""
        found: list[Node] = []
        waiting = deque([self.start] if self.start is not None else [])
        while waiting:
            node = waiting.popleft()
            if node not in found:
                found.append(node)
                waiting.extend(edge.to_node for edge in node.edges if edge.to_node is not None)
        return found

    async def run(self, inputs: Any = None) -> NodeMessage:
        """Runs from the start until no edge leads on."""
        if self.start is None:
            raise BelljarError("a graph without a start has nothing to run: Graph(start=node)", code="no-start")
        # A task of Spark carries its inputs.
        given = getattr(inputs, "inputs", inputs)
        message = given if isinstance(given, NodeMessage) else NodeMessage(given)
        error: BaseException | None = None
        with activated(self.workspace, self.id):
            try:
                return await self._run_from(self.start, message)
            except BaseException as raised:
                error = raised
                raise
            finally:
                self._finish(error)

    async def _run_from(self, start: Node, message: NodeMessage) -> NodeMessage:
        waiting: deque[tuple[Node, NodeMessage]] = deque([(start, message)])
        for _ in range(STEPS_MAX):
            node, message = waiting.popleft()
            context = ExecutionContext(
                inputs=message,
                state=node.state,
                graph_state=self.state,
                graph_id=self.id,
                node_id=node.id,
                workspace=self.workspace,
            )
            token = _context.node_id.set(node.id)
            try:
                message = await node.execute(context)
            finally:
                _context.node_id.reset(token)
            waiting.extend((edge.to_node, message) for edge in node.edges if edge.to_node and edge.is_active(message))
            if not waiting:
                return message
        raise BelljarError(f"the graph has run {STEPS_MAX} nodes and does not end", code="endless-graph")

    def _finish(self, error: BaseException | None) -> None:
        if self.workspace is None:
            return
        policy = self.workspace.policy
        if policy.cleanup_on_failure if error is not None else policy.cleanup_on_success:
            self.workspace.cleanup()

    async def run_sandboxed(self, inputs: Any = None, **options: Any) -> NodeMessage:
        """Runs the graph in a child process in the workspace's sandbox. `belljar.spark.sandboxed.run` has the options."""
        from . import sandboxed

        return await sandboxed.run(self, inputs, **options)

    def __getstate__(self) -> dict[str, Any]:
        # The workspace belongs to the process that made it.
        return {**self.__dict__, "workspace": None}

    def __repr__(self) -> str:
        return f"Graph({self.id!r}, start={self.start!r})"


@contextlib.contextmanager
def activated(workspace: Workspace | None, graph_id: str | None) -> Iterator[None]:
    """What is called meanwhile knows the graph and its workspace."""
    tokens = (_context.workspace.set(workspace), _context.graph_id.set(graph_id))
    try:
        yield
    finally:
        _context.workspace.reset(tokens[0])
        _context.graph_id.reset(tokens[1])
