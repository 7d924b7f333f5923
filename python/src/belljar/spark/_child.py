"""The other end of `sandboxed`: runs in the sandbox, where nothing is imported from outside of what was exposed."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import runpy
import socket
import struct
import sys
import traceback
from types import ModuleType
from typing import Any

from ..workspace import Workspace
from .imports import install


def _receive(connection: socket.socket) -> bytes:
    def exactly(count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = connection.recv(min(count - len(data), 1 << 20))
            if not piece:
                raise EOFError("the caller went away")
            data += piece
        return bytes(data)

    (length,) = struct.unpack("!Q", exactly(8))
    return exactly(length)


def _prepare_main(header: dict[str, Any]) -> None:
    """Makes the caller's main module importable as such, as multiprocessing does for a process that it spawns."""
    if header["main_name"]:
        names = runpy.run_module(header["main_name"], run_name="__belljar_main__", alter_sys=True)
    elif header["main"] and os.path.exists(header["main"]):
        names = runpy.run_path(header["main"], run_name="__belljar_main__")
    else:
        return
    main = ModuleType("__belljar_main__")
    main.__dict__.update(names)
    sys.modules["__main__"] = sys.modules["__belljar_main__"] = main


def main() -> None:
    """Reads the job, does it, says what came of it."""
    connection = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    try:
        install()
        _prepare_main(json.loads(_receive(connection)))
        job = pickle.loads(_receive(connection))
        graph = job["graph"]
        graph.workspace = Workspace.current()
        message = asyncio.run(graph.run(job["inputs"]))
        answer = json.dumps({"content": message.content, "state": _plain(graph.state.get_snapshot())})
    except BaseException as error:
        described = f"{type(error).__name__}: {error}"
        answer = json.dumps({"error": described, "traceback": traceback.format_exc()})
    from ..manager import ArtifactManager

    ArtifactManager.get_instance().flush()
    connection.sendall(answer.encode())
    connection.close()


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """What of the state is JSON; the rest stays in the child."""
    plain = {}
    for key, value in values.items():
        try:
            plain[key] = json.loads(json.dumps(value))
        except (TypeError, ValueError):
            continue
    return plain
