"""Nodes: what a graph consists of, and what each is told when it runs."""

from __future__ import annotations

import inspect
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .state import GraphState

if TYPE_CHECKING:
    from ..manager import ArtifactManager
    from ..workspace import Workspace


@dataclass
class NodeMessage:
    """What goes from node to node. One whose content is a mapping can be asked by key."""

    content: Any = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, key: Any) -> Any:
        return self.content[key]

    def __contains__(self, key: Any) -> bool:
        return isinstance(self.content, Mapping) and key in self.content

    def get(self, key: Any, default: Any = None) -> Any:
        return self.content.get(key, default) if isinstance(self.content, Mapping) else default


@dataclass
class ExecutionMetadata:
    """When a node ran."""

    attempt: int = 1
    started_at: float | None = None
    finished_at: float | None = None

    @property
    def duration(self) -> float | None:
        if self.started_at is None or self.finished_at is None:
            return None
        return self.finished_at - self.started_at


@dataclass
class ExecutionContext:
    """What ``process`` is given."""

    inputs: NodeMessage = field(default_factory=NodeMessage)
    state: dict[str, Any] = field(default_factory=dict)
    metadata: ExecutionMetadata = field(default_factory=ExecutionMetadata)
    outputs: Any = None
    graph_state: GraphState = field(default_factory=GraphState)
    graph_id: str | None = None
    node_id: str | None = None
    workspace: Workspace | None = None

    @property
    def artifact_manager(self) -> ArtifactManager:
        from ..manager import ArtifactManager

        return ArtifactManager.get_instance()


@dataclass(eq=False)
class Edge:
    """From a node to the next, when the outputs have these values."""

    from_node: Node
    to_node: Node | None = None
    equals: dict[str, Any] = field(default_factory=dict)

    def is_active(self, outputs: NodeMessage) -> bool:
        return all(key in outputs and outputs[key] == value for key, value in self.equals.items())

    def __rshift__(self, node: Node) -> Node:
        self.to_node = node
        return node


class Node:
    """One step. ``process`` may be asynchronous or not, and may leave out the context."""

    def __init__(self, *, id: str | None = None, description: str = "", **options: Any) -> None:
        self.id = id or uuid.uuid4().hex
        self.description = description
        self.options = options
        self.edges: list[Edge] = []
        self.state: dict[str, Any] = {"process_count": 0}
        self.outputs = NodeMessage()

    @property
    def name(self) -> str:
        return type(self).__name__

    def process(self, context: ExecutionContext) -> Any:
        """To be written by each node."""
        raise NotImplementedError(f"{self.name} has no process(self, context)")

    def goto(self, node: Node, **equals: Any) -> Edge:
        """The node that comes next, when the outputs have these values."""
        edge = Edge(self, node, dict(equals))
        self.edges.append(edge)
        return edge

    def on(self, **equals: Any) -> Edge:
        """The same, to be ended with ``>> node``."""
        edge = Edge(self, None, dict(equals))
        self.edges.append(edge)
        return edge

    def __rshift__(self, node: Node) -> Node:
        self.goto(node)
        return node

    async def execute(self, context: ExecutionContext) -> NodeMessage:
        """Runs this node once."""
        self.state["process_count"] += 1
        context.metadata.started_at = time.perf_counter()
        takes_context = bool(inspect.signature(self.process).parameters)
        result = self.process(context) if takes_context else self.process()  # type: ignore[call-arg]
        if inspect.isawaitable(result):
            result = await result
        context.metadata.finished_at = time.perf_counter()
        context.outputs = result
        self.outputs = result if isinstance(result, NodeMessage) else NodeMessage(result)
        return self.outputs

    def __repr__(self) -> str:
        return f"{self.name}({self.id!r})"
