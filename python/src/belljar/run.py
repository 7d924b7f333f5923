"""Commands in a workspace's sandbox: their output as it comes, how they ended, and what they made.

The command writes into pipes of this process, which masks the workspace's sensitive secrets before anybody sees a byte. The
connection that the descriptors were sent over is the run's leash: closing it, or the death of this process, ends the run.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal as signals
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import _context
from . import _operations as operations
from ._mask import Masker
from ._names import check_variable
from .artifact import Artifact, ArtifactList
from .errors import BelljarError, RunFailed

if TYPE_CHECKING:
    from .workspace import Workspace

#: Kept of each stream; of more the beginning is dropped. Chosen, not measured.
CAPTURE_MAX = 64 << 20

#: How long the output of a run that has ended may take to arrive, in seconds.
_DRAIN_MAX = 10.0

#: Called with "stdout" or "stderr" and a piece of output, in a thread of the run.
OnOutput = Callable[[str, bytes], None]


@dataclass(frozen=True)
class RunResult:
    """How a run ended."""

    run_id: str
    workspace_id: str
    #: The command's own, 128+N for a signal, 124 for the timeout, 125 when Belljar failed.
    exit_code: int
    #: ``exited``, ``signal``, ``timeout``, ``cancelled``, ``setup-failed`` or ``lost``.
    reason: str
    #: One sentence for people.
    message: str
    stdout: bytes = field(repr=False)
    stderr: bytes = field(repr=False)
    artifacts: ArtifactList
    #: Everything that the daemon says of the run.
    receipt: Mapping[str, Any] = field(repr=False)
    #: Whether the beginning of the output was dropped.
    truncated: bool = False

    @property
    def ok(self) -> bool:
        return self.exit_code == 0

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.stdout.decode("utf-8", "replace")

    @property
    def error_text(self) -> str:
        return self.stderr.decode("utf-8", "replace")

    def check(self) -> RunResult:
        """Raises `RunFailed` unless the command ended with 0."""
        if not self.ok:
            said = self.error_text.strip().splitlines()
            last = f": {said[-1]}" if said else ""
            raise RunFailed(f"{self.message}{last}", self)
        return self


class _Output:
    """One stream of a run: read, masked, kept, told."""

    def __init__(self, name: str, reader: int, masker: Masker, told: OnOutput | None) -> None:
        self.name = name
        self.kept = bytearray()
        self.truncated = False
        self.failure: BaseException | None = None
        self._reader = reader
        self._masker = masker
        self._told = told
        self.thread = threading.Thread(target=self._read, name=f"belljar-{name}", daemon=True)
        self.thread.start()

    def _read(self) -> None:
        try:
            while piece := os.read(self._reader, 1 << 16):
                self._take(self._masker.feed(piece))
            self._take(self._masker.end())
        finally:
            os.close(self._reader)

    def _take(self, piece: bytes) -> None:
        if not piece:
            return
        self.kept += piece
        if len(self.kept) > CAPTURE_MAX:
            del self.kept[: len(self.kept) - CAPTURE_MAX]
            self.truncated = True
        if self._told is not None and self.failure is None:
            try:
                self._told(self.name, piece)
            except BaseException as error:
                # Told to whoever waits for the run; the pipe must be read on, or the command would hang.
                self.failure = error


class Run:
    """A run that goes on."""

    def __init__(
        self, workspace: Workspace, started: Mapping[str, Any], leash: Any, outputs: Sequence[_Output], command: str
    ) -> None:
        self._workspace = workspace
        self._leash = leash
        self._outputs = outputs
        self._command = command
        self._artifacts = workspace.artifacts
        self.run_id = str(started["run_id"])
        self.workspace_id = str(started["workspace_id"])
        self._result: RunResult | None = None

    def wait(self, *, check: bool = False) -> RunResult:
        """Waits for the end, and for the run's artifacts. An exception meanwhile, such as an interrupt, ends the run."""
        if self._result is None:
            try:
                receipt = self._workspace.daemon.drive(operations.receipt(self.run_id))
            except BaseException:
                self.cancel()
                raise
            self._result = self._conclude(receipt)
        return self._result.check() if check else self._result

    async def wait_async(self, *, check: bool = False) -> RunResult:
        """The same for asynchronous code; cancelling the task ends the run."""
        if self._result is None:
            try:
                receipt = await self._workspace.daemon.drive_async(operations.receipt(self.run_id))
                self._result = await asyncio.to_thread(self._conclude, receipt)
            except BaseException:
                self.cancel()
                raise
        return self._result.check() if check else self._result

    def cancel(self) -> None:
        """Ends the run at once. `wait` says then that it was cancelled."""
        leash, self._leash = self._leash, None
        if leash is not None:
            leash.close()

    def signal(self, number: int = signals.SIGTERM) -> None:
        """Sends the command a signal."""
        self._workspace.daemon.drive(operations.signal(self.run_id, int(number)))

    def _conclude(self, receipt: Mapping[str, Any]) -> RunResult:
        self.cancel()
        for output in self._outputs:
            output.thread.join(_DRAIN_MAX)
        for output in self._outputs:
            if output.failure is not None:
                raise output.failure
        opener = self._artifacts._parts()[1].open
        return RunResult(
            run_id=self.run_id,
            workspace_id=self.workspace_id,
            exit_code=int(receipt["exit_code"]),
            reason=str(receipt["reason"]),
            message=str(receipt["message"]),
            stdout=bytes(self._outputs[0].kept),
            stderr=bytes(self._outputs[1].kept),
            artifacts=ArtifactList(
                Artifact.from_wire({**raw, "run_id": self.run_id, "workspace_id": self.workspace_id}, opener=opener)
                for raw in receipt["artifacts"]
            ),
            receipt=receipt,
            truncated=any(output.truncated for output in self._outputs),
        )

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        if self._result is None:
            self.cancel()
            with contextlib.suppress(BelljarError):
                self.wait()

    def __repr__(self) -> str:
        state = f"ended: {self._result.reason}" if self._result is not None else "in progress"
        return f"Run({self.run_id}, {self._command!r}, {state})"


def _argument(given: str | bytes | os.PathLike[str]) -> Any:
    raw = os.fsencode(given)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode("ascii")}


def echo(stream: str, piece: bytes) -> None:
    """Writes output on to this process's own streams."""
    own = sys.stdout if stream == "stdout" else sys.stderr
    own.write(piece.decode("utf-8", "replace"))
    own.flush()


def start(
    workspace: Workspace,
    command: Iterable[str | bytes | os.PathLike[str]],
    *,
    input: bytes | str | None = None,
    stream: bool = False,
    on_output: OnOutput | None = None,
    env: Mapping[str, str] | None = None,
    secret_env: Iterable[str] = (),
    expose: Iterable[str | os.PathLike[str]] = (),
    workdir: str | None = None,
    timeout: float | None = None,
    network: str = "none",
    user: int | tuple[int, int] | None = None,
    graph_id: str | None = None,
    node_id: str | None = None,
    wait_children: bool = False,
    memory_bytes: int | None = None,
    cpus: float | None = None,
    pids: int | None = None,
    allow_unenforced: Iterable[str] = (),
    stdin: int | None = None,
) -> Run:
    """Starts a command; returns when it was executed.

    ``stream`` writes its output on as it comes, ``on_output`` is told of it; either way it is in the result. ``expose`` makes
    host paths visible read-only at the same place. ``secret_env`` names secrets that become variables too. ``timeout`` is in
    seconds. ``stdin`` is a descriptor instead of ``input``.
    """
    words = [_argument(word) for word in command]
    workspace._open()
    told = on_output or (echo if stream else None)
    secrets = workspace._sensitive_values()
    request: dict[str, Any] = {
        "workspace": {"id": workspace.workspace_id},
        "keep": True,
        "command": words,
        "workdir": os.path.join("/workspace", workdir) if workdir is not None else None,
        "secret_env": [check_variable("secret name", name) for name in secret_env],
        "env": {check_variable("variable name", name): str(value) for name, value in (env or {}).items()},
        "graph_id": graph_id or _context.graph_id.get(),
        "node_id": node_id or _context.node_id.get(),
        "timeout_ms": max(1, int(timeout * 1000)) if timeout is not None else None,
        "network": network,
        "user": _user(user),
        "wait_children": wait_children,
        "limits": {
            key: value for key, value in (("memory_bytes", memory_bytes), ("cpus", cpus), ("pids", pids)) if value is not None
        },
        "allow_unenforced": list(allow_unenforced),
        "term": os.environ.get("TERM"),
    }
    request = {key: value for key, value in request.items() if value is not None}
    with contextlib.ExitStack() as stack:

        def ours(descriptor: int) -> int:
            stack.callback(os.close, descriptor)
            return descriptor

        if stdin is None:
            stdin = ours(_input(input))
        out_reader, out_writer = os.pipe()
        ours(out_writer)
        err_reader, err_writer = os.pipe()
        ours(err_writer)
        readers = stack.enter_context(contextlib.ExitStack())
        readers.callback(os.close, out_reader)
        readers.callback(os.close, err_reader)
        descriptors = [stdin, out_writer, err_writer]
        exposed = []
        for path in expose:
            absolute = os.path.abspath(os.fspath(path))
            try:
                opened = ours(os.open(absolute, os.O_PATH | os.O_CLOEXEC))
            except OSError as error:
                raise BelljarError(f"expose {absolute}: {error.strerror}", code="expose") from error
            exposed.append({"path": absolute, "descriptor": len(descriptors)})
            descriptors.append(opened)
        request["expose"] = exposed
        started, leash = workspace.daemon.drive(operations.start_run(request, descriptors))
        # From here on the pipes' ends belong to the threads that read them.
        readers.pop_all()
        outputs = [
            _Output("stdout", out_reader, Masker(secrets), told),
            _Output("stderr", err_reader, Masker(secrets), told),
        ]
    name = words[0] if words and isinstance(words[0], str) else "…"
    return Run(workspace, started, leash, outputs, name)


def _user(user: int | tuple[int, int] | None) -> dict[str, int] | None:
    if user is None:
        return None
    if isinstance(user, int):
        return {"uid": user}
    return {"uid": user[0], "gid": user[1]}


def _input(given: bytes | str | None) -> int:
    """A descriptor to read a command's input from: a file in memory, so that nobody has to write into a pipe meanwhile."""
    if given is None:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    descriptor = os.memfd_create("belljar-input", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(given.encode() if isinstance(given, str) else given)
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
