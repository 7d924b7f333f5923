"""Makes Spark's module names importable, with or without the real Spark.

The real modules are not changed where their own code looks: a module of ours stands in front of ``spark.graphs.workspace`` and
``spark.graphs.artifacts``, which has everything of the real one and our names for what the documentation shows. The real
functions go on in the real modules.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

from .. import _context, artifact, backends, cleanup, manager, query, workspace
from . import graph, node, state
from .graph import activated

_WORKSPACE = {
    "Workspace": workspace.Workspace,
    "MountPoint": workspace.MountPoint,
}
_ARTIFACTS = {
    "Artifact": artifact.Artifact,
    "ArtifactManager": manager.ArtifactManager,
    "ArtifactQuery": query.ArtifactQuery,
    "ArtifactState": artifact.ArtifactState,
    "ArtifactVersion": artifact.ArtifactVersion,
    "CleanupPolicy": cleanup.CleanupPolicy,
    "DatabaseStorageBackend": backends.DatabaseStorageBackend,
    "LocalStorageBackend": backends.LocalStorageBackend,
    "S3StorageBackend": backends.S3StorageBackend,
    "StorageBackend": backends.StorageBackend,
}


class _Front(ModuleType):
    """A module of ours, in front of a real one or of nothing."""

    def __init__(self, name: str, ours: dict[str, Any], real: ModuleType | None = None) -> None:
        super().__init__(name, real.__doc__ if real is not None else "Provided by belljar.spark.")
        self.__dict__.update(ours)
        self.__dict__["_belljar_real"] = real
        self.__all__ = sorted(ours)

    def __getattr__(self, name: str) -> Any:
        real = self.__dict__.get("_belljar_real")
        if real is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(real, name)


def install() -> bool:
    """Makes the modules importable; true when the real Spark is there and was kept. Doing it again changes nothing."""
    known = sys.modules.get("spark.graphs.workspace")
    if isinstance(known, _Front):
        return known.__dict__["_belljar_real"] is not None
    if _is_real_installed():
        _fit_in()
        return True
    _stand_in()
    return False


def _is_real_installed() -> bool:
    try:
        return importlib.util.find_spec("spark.graphs") is not None and importlib.util.find_spec("spark.nodes") is not None
    except (ImportError, ValueError):
        return False


def _put(parent: ModuleType, name: str, module: ModuleType) -> ModuleType:
    sys.modules[f"{parent.__name__}.{name}"] = module
    setattr(parent, name, module)
    return module


def _stand_in() -> None:
    """Our own graph and nodes under Spark's names."""
    spark = sys.modules.get("spark")
    if spark is None:
        spark = sys.modules["spark"] = _Front("spark", {})
        spark.__path__ = []
    graphs = _put(
        spark,
        "graphs",
        _Front("spark.graphs", {"Graph": graph.Graph, "GraphState": state.GraphState, "Workspace": workspace.Workspace}),
    )
    graphs.__path__ = []
    _put(graphs, "workspace", _Front("spark.graphs.workspace", _WORKSPACE))
    _put(graphs, "artifacts", _Front("spark.graphs.artifacts", _ARTIFACTS))
    names = {"Node": node.Node, "NodeMessage": node.NodeMessage, "ExecutionContext": node.ExecutionContext}
    _put(spark, "nodes", _Front("spark.nodes", names))


def _fit_in() -> None:
    """Our workspaces and artifacts in the real Spark."""
    graphs = importlib.import_module("spark.graphs")
    nodes = importlib.import_module("spark.nodes")
    for name, ours in (("workspace", _WORKSPACE), ("artifacts", _ARTIFACTS)):
        real = importlib.import_module(f"spark.graphs.{name}")
        _put(graphs, name, _Front(f"spark.graphs.{name}", ours, real))
    _know_the_graph(graphs.Graph)
    _extend_context(nodes.ExecutionContext)


def _know_the_graph(real: Any) -> None:
    """What a graph's nodes call knows the graph's workspace."""
    run = real.run

    @functools.wraps(run)
    async def with_workspace(self: Any, *arguments: Any, **options: Any) -> Any:
        own = getattr(self, "workspace", None)
        ours = own if isinstance(own, workspace.Workspace) else None
        with activated(ours, getattr(self, "id", None)):
            return await run(self, *arguments, **options)

    real.run = with_workspace


def _extend_context(real: Any) -> None:
    """A context has no room for more attributes (it has slots), so these are looked up where the graph is known."""
    real.workspace = property(lambda self: _context.workspace.get())
    real.graph_id = property(lambda self: _context.graph_id.get())
    real.artifact_manager = property(lambda self: manager.ArtifactManager.get_instance())
