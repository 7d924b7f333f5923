"""Where the workspaces of this process are mounted: from a path as a program has it to one as the daemon knows it."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Place:
    """A path, as the daemon is told."""

    #: As seen in the workspace, or on the host.
    path: str
    #: The workspace where it lies, if it is known to lie in one.
    workspace_id: str | None = None
    #: Where its bytes can be opened on the host, past the mount.
    host_path: str | None = None


@dataclass(frozen=True)
class _Mounted:
    workspace_id: str
    #: Host directories by mount name.
    mounts: Mapping[str, str] = field(default_factory=dict)


_by_root: dict[str, _Mounted] = {}


def add(root: str, workspace_id: str, mounts: Mapping[str, str]) -> None:
    _by_root[root] = _Mounted(workspace_id, dict(mounts))


def remove(root: str) -> None:
    _by_root.pop(root, None)


def is_known(path: str) -> bool:
    return any(path.startswith(root + "/") for root in tuple(_by_root))


def looks_mounted(path: str) -> bool:
    """Whether a path may lie in a workspace of another process of this user."""
    return "/workspaces/" in path and not is_known(path)


@functools.cache
def _root_inside() -> str | None:
    """Where the workspace is for a process in a sandbox, with a slash. That never changes."""
    root = os.environ.get("BELLJAR_ROOT")
    return root.rstrip("/") + "/" if root and os.environ.get("BELLJAR_RUN") else None


def place(path: str) -> Place:
    """Where a file is. Asks no file system."""
    absolute = os.path.abspath(path)
    inside = _root_inside()
    if inside is not None and (absolute + "/").startswith(inside):
        return Place(absolute)
    for root, mounted in tuple(_by_root.items()):
        if not absolute.startswith(root + "/"):
            continue
        name, _, rest = absolute[len(root) + 1 :].partition("/")
        directory = mounted.mounts.get(name)
        host_path = os.path.join(directory, rest) if directory is not None and rest else None
        return Place(f"/workspace/{name}/{rest}" if rest else f"/workspace/{name}", mounted.workspace_id, host_path)
    return Place(absolute)
