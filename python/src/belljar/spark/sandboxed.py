"""A graph in a child process in its workspace's sandbox.

The child has this process's interpreter and modules, read-only, and of the host nothing else; it gets the graph by pickle and
gives its result back as JSON, because what comes out of a sandbox must not be able to run code outside. Both go over one socket
that is the child's standard input.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import socket
import struct
import sys
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..errors import BelljarError, RunFailed
from ..run import OnOutput, start
from .node import NodeMessage

if TYPE_CHECKING:
    from .graph import Graph

#: Largest result. Chosen, not measured: larger ones are files.
RESULT_MAX = 64 << 20

#: What a sandbox has of the host by itself, or has of its own.
_THERE = ("/usr", "/bin", "/lib", "/lib64", "/sbin", "/proc", "/sys", "/dev", "/workspace", "/run/belljar")

_BEGIN = "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); from belljar.spark._child import main; main()"


class GraphFailed(RunFailed):
    """A node raised in the sandbox. ``result`` is the run's; the traceback of the child is in the message."""

    code = "graph-failed"


def _absolute(paths: Iterable[str]) -> list[str]:
    return [os.path.abspath(path or os.curdir) for path in paths]


def modules() -> list[str]:
    """The host paths of this interpreter and of everything that it can import."""
    wanted = [sys.prefix, sys.base_prefix, os.path.dirname(os.path.realpath(sys.executable)), *sys.path]
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    if main:
        wanted.append(os.path.dirname(os.path.abspath(main)))
    found: list[str] = []
    for path in sorted(set(_absolute(wanted)), key=len):
        is_there = any(path == place or path.startswith(place + "/") for place in _THERE)
        is_covered = any(path.startswith(other + "/") for other in found)
        if path != "/" and not is_there and not is_covered and os.path.exists(path):
            found.append(path)
    return found


async def run(
    graph: Graph,
    inputs: Any = None,
    *,
    expose: Iterable[str | os.PathLike[str]] | None = None,
    timeout: float | None = None,
    stream: bool = False,
    on_output: OnOutput | None = None,
    **options: Any,
) -> NodeMessage:
    """Runs a graph in the sandbox of its workspace, and answers its result, which must be JSON.

    ``expose`` replaces the modules that the child sees; the other options are those of `Workspace.run`. Cancelling the task ends
    the child.
    """
    workspace = graph.workspace
    if workspace is None:
        raise BelljarError("a graph runs sandboxed in a workspace: set graph.workspace", code="no-workspace")
    given = getattr(inputs, "inputs", inputs)
    main = sys.modules.get("__main__")
    job = {
        "main": getattr(main, "__file__", None) if getattr(main, "__spec__", None) is None else None,
        "main_name": main.__spec__.name if main is not None and main.__spec__ is not None else None,
        "graph": graph,
        "inputs": given.content if isinstance(given, NodeMessage) else given,
    }
    header = json.dumps({"main": job.pop("main"), "main_name": job.pop("main_name")}).encode()
    body = pickle.dumps(job)
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            search = _absolute(sys.path)
            started = await asyncio.to_thread(
                lambda: start(
                    workspace,
                    [sys.executable, "-c", _BEGIN, json.dumps(search)],
                    expose=modules() if expose is None else expose,
                    stdin=theirs.fileno(),
                    timeout=timeout,
                    stream=stream,
                    on_output=on_output,
                    graph_id=graph.id,
                    **options,
                )
            )
        answer = _Exchange(ours, header, body)
        result = await started.wait_async()
        said = await asyncio.to_thread(answer.end)
    if said is None:
        result.check()
        raise RunFailed(f"the graph's process ended without a result: {result.message}", result)
    if "error" in said:
        raise GraphFailed(f"{said['error']}\n{said.get('traceback', '')}".rstrip(), result)
    await graph.state.update(said.get("state", {}))
    return NodeMessage(said["content"], {"run_id": result.run_id})


class _Exchange:
    """The job on its way in, the result on its way out; in a thread, because the child may do both at once."""

    def __init__(self, connection: socket.socket, header: bytes, body: bytes) -> None:
        self._connection = connection
        self._parts = (header, body)
        self._said = bytearray()
        self._thread = threading.Thread(target=self._run, name="belljar-graph", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for part in self._parts:
                self._connection.sendall(struct.pack("!Q", len(part)) + part)
            while len(self._said) <= RESULT_MAX:
                piece = self._connection.recv(1 << 16)
                if not piece:
                    return
                self._said += piece
        except OSError:
            # The child is gone; the run says how.
            return

    def end(self) -> dict[str, Any] | None:
        """What the child said, if it is whole. The run is over, so nothing more comes."""
        self._thread.join(10.0)
        if len(self._said) > RESULT_MAX:
            raise BelljarError(f"the graph's result is larger than {RESULT_MAX} bytes: write it to a file", code="result")
        try:
            said = json.loads(bytes(self._said))
        except ValueError:
            return None
        return said if isinstance(said, dict) else None
