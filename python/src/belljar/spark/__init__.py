"""Spark's names for workspaces, artifacts, graphs and nodes.

After ``install()`` the modules ``spark.graphs``, ``spark.graphs.workspace``, ``spark.graphs.artifacts`` and ``spark.nodes`` can
be imported. Where the real Spark is installed, its own `Graph` and `Node` stay what they are and get our workspaces and
artifacts; where it is not, a small graph of our own takes their place. ``python -m belljar.spark script.py`` runs a script so.
"""

from .graph import Graph
from .imports import install
from .node import ExecutionContext, Node, NodeMessage
from .state import GraphState

__all__ = ["ExecutionContext", "Graph", "GraphState", "Node", "NodeMessage", "install"]
