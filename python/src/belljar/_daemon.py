"""The daemon that this process talks to: found, or started, at the first call and not before."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import AsyncIterator, Iterator
from typing import TypeVar

from . import _discover, _exit
from ._aio import AsyncTransport
from ._http import Transport
from ._private import PrivateDaemon
from ._protocol import Call, Operation
from ._retry import Acquaintance

T = TypeVar("T")


class Daemon:
    """One daemon, by its socket; without one it is looked for when it is needed."""

    def __init__(self, socket: str | os.PathLike[str] | None = None, *, private: bool = False) -> None:
        self._must_be_private = private
        self._named = os.path.abspath(os.fspath(socket)) if socket is not None else None
        self._private: PrivateDaemon | None = None
        self._blocking: Transport | None = None
        self._asynchronous: AsyncTransport | None = None
        self._lock = threading.Lock()
        _exit.after_fork(self._in_child)

    def _in_child(self) -> None:
        # Held by another thread at the moment of the fork, the lock would never be free here.
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        if self._blocking is None:
            return f"Daemon({self._named!r})" if self._named else "Daemon(not looked for yet)"
        kind = ", private" if self._private is not None else ""
        return f"Daemon({self._blocking.path!r}{kind})"

    def _transports(self) -> tuple[Transport, AsyncTransport]:
        blocking, asynchronous = self._blocking, self._asynchronous
        if blocking is not None and asynchronous is not None:
            return blocking, asynchronous
        with self._lock:
            if self._blocking is None or self._asynchronous is None:
                path = self._named or (None if self._must_be_private else _discover.find())
                if path is None:
                    self._private = PrivateDaemon()
                    path = self._private.socket
                acquaintance = Acquaintance()
                # One that was found has answered already.
                acquaintance.made = self._named is None
                self._blocking, self._asynchronous = Transport(path, acquaintance), AsyncTransport(path, acquaintance)
                if self._private is not None:
                    self._blocking.revive = self._asynchronous.revive = self._revive
            return self._blocking, self._asynchronous

    def _revive(self) -> None:
        """Starts the private daemon again after it died."""
        with self._lock:
            if self._private is not None:
                self._private.start()

    @property
    def socket(self) -> str:
        """The path of its API socket. Finds or starts it."""
        return self._transports()[0].path

    @property
    def is_private(self) -> bool:
        return self._private is not None

    @property
    def is_scoped(self) -> bool:
        """Whether this process runs in a sandbox and the socket serves that run alone."""
        return inside() is not None and self.socket == os.environ.get("BELLJAR_SOCKET")

    def drive(self, operation: Operation[T]) -> T:
        return self._transports()[0].drive(operation)

    def stream(self, call: Call) -> Iterator[bytes]:
        return self._transports()[0].stream(call)

    async def drive_async(self, operation: Operation[T]) -> T:
        return await self._transports()[1].drive(operation)

    def stream_async(self, call: Call) -> AsyncIterator[bytes]:
        return self._transports()[1].stream(call)

    async def close_async(self) -> None:
        if self._asynchronous is not None:
            await self._asynchronous.close()

    def close(self) -> None:
        """Closes idle connections. A private daemon lives on until the process ends."""
        if self._blocking is not None:
            self._blocking.close()

    def stop(self) -> None:
        """Ends a private daemon."""
        if self._private is not None:
            self._private.stop()


@functools.cache
def inside() -> str | None:
    """The id of the workspace in whose sandbox this process runs, if it does. That never changes."""
    if os.environ.get("BELLJAR_RUN") and os.environ.get("BELLJAR_ROOT"):
        return os.environ.get("BELLJAR_WORKSPACE") or None
    return None


_default: Daemon | None = None
_default_lock = threading.Lock()


def default() -> Daemon:
    """The daemon of this process."""
    global _default
    if _default is None:
        with _default_lock:
            if _default is None:
                _default = Daemon()
    return _default


def set_default(daemon: Daemon | None) -> None:
    """Talks to another daemon from here on; None looks for one again."""
    global _default
    _default = daemon


def is_unused() -> bool:
    """Whether this process has talked to no daemon by itself yet."""
    return _default is None or _default._blocking is None


def at(socket: str) -> Daemon:
    """The daemon at a socket. A process that has talked to none yet talks to this one from here on."""
    global _default
    with _default_lock:
        if is_unused():
            _default = Daemon(socket)
            return _default
        assert _default is not None
        return _default if _default.socket == socket else Daemon(socket)
