"""What is going on: the graph, node and workspace of the code that runs, known to everything it calls."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .workspace import Workspace

graph_id: ContextVar[str | None] = ContextVar("belljar_graph_id", default=None)
node_id: ContextVar[str | None] = ContextVar("belljar_node_id", default=None)
workspace: ContextVar[Workspace | None] = ContextVar("belljar_workspace", default=None)
