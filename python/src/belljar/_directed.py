"""A daemon that is asked about the artifacts of one backend, and the backend that this process has chosen.

Keys and passwords are in the daemon's memory alone and go when it does. This process has them in memory too, so that a daemon
that was restarted meanwhile is given them again, and nobody notices.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import TypeVar

from . import _daemon
from . import _operations as operations
from ._aio import AsyncTransport
from ._daemon import Daemon
from ._http import Transport
from ._protocol import Answer, Call, Operation, with_headers
from .backends import StorageBackend
from .errors import ApiError, BackendNotFound, BackendNotOpen

T = TypeVar("T")

_log = logging.getLogger("belljar")

#: What a daemon says of a backend that has to be set again.
_LOST = (BackendNotOpen, BackendNotFound)

#: How often it is set again for one call: a daemon may be restarted once more between the two. Chosen, not measured.
_AGAIN_MAX = 4


class Directed(Daemon):
    """A daemon as ``base`` reaches it, asked about one backend. Without ``definition`` it is known by its id alone."""

    def __init__(self, base: Daemon, backend_id: str, definition: StorageBackend | None = None) -> None:
        super().__init__()
        self.base = base
        self.backend_id = backend_id
        self.definition = definition

    def __repr__(self) -> str:
        return f"{self.base!r} with {self.definition or self.backend_id!r}"

    # What is asked.

    def _headers(self) -> Mapping[str, str]:
        if self.definition is not None and self.definition.has_keys:
            # The daemon could go on without them and let uploads wait.
            return {"belljar-backend": self.backend_id, "belljar-backend-credentials": "held"}
        return {"belljar-backend": self.backend_id}

    def _ask(self, call: Call) -> Operation[Answer]:
        """One call; where the backend is not open, it is set again and the call repeated, of which nothing was done."""
        for again in range(_AGAIN_MAX + 1):
            try:
                return (yield with_headers(call, self._headers()))
            except _LOST as lost:
                if again == _AGAIN_MAX:
                    raise
                yield from self._set_again(lost)
        raise AssertionError("the last turn returns or raises")

    def _set_again(self, lost: ApiError) -> Operation[None]:
        if self.definition is None:
            raise lost
        try:
            yield from put(self, self.definition)
        except ApiError as error:
            # Of the class of what happened to the call: it is the call that failed.
            raise type(lost)(f"{lost.detail}; that failed: {error.detail}", status=lost.status, title=lost.title) from error

    def _direct(self, operation: Operation[T]) -> Operation[T]:
        """An operation, each of whose calls is about the backend."""
        try:
            call = next(operation)
            while True:
                try:
                    answer = yield from self._ask(call)
                except Exception as error:
                    call = operation.throw(error)
                else:
                    call = operation.send(answer)
        except StopIteration as end:
            value: T = end.value
            return value

    # A daemon's ways to ask.

    def _transports(self) -> tuple[Transport, AsyncTransport]:
        return self.base._transports()

    def drive(self, operation: Operation[T]) -> T:
        return self.base.drive(self._direct(operation))

    async def drive_async(self, operation: Operation[T]) -> T:
        return await self.base.drive_async(self._direct(operation))

    def stream(self, call: Call) -> Iterator[bytes]:
        for again in range(_AGAIN_MAX + 1):
            try:
                # What is refused is refused instead of the first piece.
                yield from self.base.stream(with_headers(call, self._headers()))
                return
            except _LOST as lost:
                if again == _AGAIN_MAX:
                    raise
                self.base.drive(self._set_again(lost))

    async def stream_async(self, call: Call) -> AsyncIterator[bytes]:
        for again in range(_AGAIN_MAX + 1):
            try:
                async for piece in self.base.stream_async(with_headers(call, self._headers())):
                    yield piece
                return
            except _LOST as lost:
                if again == _AGAIN_MAX:
                    raise
                await self.base.drive_async(self._set_again(lost))

    @property
    def is_private(self) -> bool:
        return self.base.is_private

    def close(self) -> None:
        self.base.close()

    async def close_async(self) -> None:
        await self.base.close_async()

    def stop(self) -> None:
        self.base.stop()


def put(directed: Directed, definition: StorageBackend) -> Operation[None]:
    """Has the daemon open a backend, and learns how it is called."""
    told = yield from operations.set_backend(definition.request())
    directed.backend_id = str(told["id"])
    definition.told(told)
    if definition.problem is not None:
        _log.warning("%r is not reached at the moment, and what is registered waits for it: %s", definition, definition.problem)


def opened(base: Daemon, definition: StorageBackend) -> Directed:
    """A daemon that has a backend open."""
    directed = Directed(base, "", definition)
    base.drive(put(directed, definition))
    with _lock:
        _known[directed.socket, directed.backend_id] = directed
    return directed


def named(base: Daemon, backend_id: str | None) -> Daemon:
    """The daemon for a backend that somebody has set: with its definition, where this process knows it."""
    if backend_id is None:
        return base
    with _lock:
        return _known.get((base.socket, backend_id)) or Directed(base, backend_id)


def is_same_place(one: Daemon, other: Daemon) -> bool:
    """Whether both lead to the same artifacts."""
    ids = [daemon.backend_id if isinstance(daemon, Directed) else None for daemon in (one, other)]
    return ids[0] == ids[1] and one.socket == other.socket


# The one of this process.

_known: dict[tuple[str, str], Directed] = {}
_chosen: Directed | None = None
_lock = threading.Lock()


def chosen() -> Directed | None:
    """Where the artifacts of this process are kept, if that is not the daemon's own place."""
    return _chosen


def choose(directed: Directed | None) -> None:
    global _chosen
    _chosen = directed


def adopt(socket: str, backend_id: str | None) -> Daemon:
    """The daemon that something from another process refers to. One that has talked to none yet keeps its artifacts there."""
    was_fresh = _daemon.is_unused()
    daemon = named(_daemon.at(socket), backend_id)
    if was_fresh and _chosen is None and isinstance(daemon, Directed):
        choose(daemon)
    return daemon


def _in_child() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_in_child)
