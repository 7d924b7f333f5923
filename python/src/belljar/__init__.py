"""Belljar for Python: workspaces, secrets and artifacts of the Belljar daemon.

The daemon is found, or a private one is started, when it is needed for the first time. Importing this package costs nothing else.
"""

from ._daemon import Daemon
from .artifact import Artifact, ArtifactList, ArtifactState, ArtifactVersion
from .backends import DatabaseStorageBackend, LocalStorageBackend, S3StorageBackend, StorageBackend
from .cleanup import CleanupPolicy, CleanupResult
from .client import AsyncClient, Client
from .errors import BelljarError
from .manager import ArtifactManager
from .query import ArtifactQuery
from .run import Run, RunResult
from .workspace import MountPoint, Workspace, WorkspacePolicy

__version__ = "0.1.0"

__all__ = [
    "Artifact",
    "ArtifactList",
    "ArtifactManager",
    "ArtifactQuery",
    "ArtifactState",
    "ArtifactVersion",
    "AsyncClient",
    "BelljarError",
    "CleanupPolicy",
    "CleanupResult",
    "Client",
    "Daemon",
    "DatabaseStorageBackend",
    "LocalStorageBackend",
    "MountPoint",
    "Run",
    "RunResult",
    "S3StorageBackend",
    "StorageBackend",
    "Workspace",
    "WorkspacePolicy",
]
