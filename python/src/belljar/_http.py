"""The blocking transport: HTTP/1.1 over the Unix socket.

Connections are kept for the next call. A forked child makes its own: a connection that two processes write to would mix
their requests. Threads may share a transport; each call has a connection for itself.

Locking: the lock guards the list of idle connections and is never held across I/O.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from . import _message
from ._message import Head
from ._protocol import Answer, Call, Operation, refusal
from ._retry import Acquaintance, Attempts, Interrupted, Stopping
from ._socket import NotListening, connect, send_descriptors
from .errors import AnswerNotUnderstood, ConnectionLost, Unavailable

T = TypeVar("T")

#: Idle connections that are kept. Chosen, not measured: a daemon allows a user 256 in all.
_IDLE_MAX = 8

#: Received at once. Each buffer of more would be mapped and unmapped by malloc (mallopt(3), M_MMAP_THRESHOLD).
_RECEIVED_MAX = 1 << 16


class _Connection:
    """A connection over a Unix socket."""

    def __init__(self, path: str) -> None:
        self._socket = connect(path)
        #: What was received and not asked for yet.
        self._received = bytearray()
        self.was_used = False

    def close(self) -> None:
        self._socket.close()

    def ask(self, request: bytes, timeout: float | None) -> Head:
        """Sends a request and reads the head of its answer, waiting for each piece at most that long."""
        self._socket.settimeout(timeout)
        self._socket.sendall(request)
        return _message.head(self._until(_message.HEAD_END, _message.HEAD_MAX))

    def _receive(self) -> None:
        piece = self._socket.recv(_RECEIVED_MAX)
        if not piece:
            raise EOFError("the connection ended in the middle of an answer")
        self._received += piece

    def _until(self, end: bytes, most: int) -> bytes:
        while (found := self._received.find(end)) < 0:
            if len(self._received) > most:
                raise AnswerNotUnderstood("the head of the daemon's answer has no end")
            self._receive()
        return self._exactly(found + len(end))

    def _exactly(self, size: int) -> bytes:
        while len(self._received) < size:
            self._receive()
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken

    def pieces(self, head: Head) -> Iterator[bytes]:
        """The content as its length says, or in chunks (RFC 9112, section 7.1)."""
        if head.is_chunked:
            while size := _message.chunk_size(self._until(b"\r\n", _message.HEAD_MAX)):
                yield self._exactly(size + 2)[:-2]
            self._until(b"\r\n", _message.HEAD_MAX)
            return
        left = head.length
        while left > 0:
            if not self._received:
                self._receive()
            piece = self._exactly(min(left, len(self._received)))
            left -= len(piece)
            yield piece

    def read(self, head: Head) -> bytes:
        """All of the content."""
        return b"".join(self.pieces(head)) if head.is_chunked else self._exactly(head.length)


class Transport:
    """Calls to the daemon at one socket."""

    def __init__(self, path: str, acquaintance: Acquaintance | None = None) -> None:
        self.path = path
        self.acquaintance = acquaintance or Acquaintance()
        #: Called when nobody listens any more; may start another daemon.
        self.revive: Callable[[], None] | None = None
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []

    def _take(self) -> _Connection:
        if self._pid != os.getpid():
            # Dropped without a word: closing our copies of the descriptors says nothing to the daemon.
            self._forget()
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return _Connection(self.path)

    def _give_back(self, connection: _Connection) -> None:
        connection.was_used = True
        with self._lock:
            if len(self._idle) < _IDLE_MAX:
                self._idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Closes the idle connections."""
        if self._pid != os.getpid():
            self._forget()
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def drive(self, operation: Operation[T]) -> T:
        """Does an operation to its end."""
        try:
            call = next(operation)
            while True:
                try:
                    answer = self.exchange(call)
                except Exception as error:
                    call = operation.throw(error)
                else:
                    call = operation.send(answer)
        except StopIteration as end:
            value: T = end.value
            return value

    def exchange(self, call: Call) -> Answer:
        """One call, repeated where that is harmless."""
        return self._repeat(call, self._attempt)

    def _repeat(self, call: Call, attempt: Callable[[Call], T]) -> T:
        attempts = Attempts(call, known=self.acquaintance.made)
        while True:
            try:
                return attempt(call)
            except Stopping as failure:
                pause = attempts.pause_after(failure)
                if pause is None:
                    raise failure.refusal from None
            except NotListening as failure:
                pause = attempts.pause_after(failure)
                if pause is None:
                    raise
                if self.revive is not None:
                    self.revive()
            except Interrupted as failure:
                pause = attempts.pause_after(failure)
                if pause is None:
                    raise ConnectionLost(
                        f"the daemon at {self.path} went away during {call.method} {call.path}: {failure.cause}"
                    ) from failure.cause
            time.sleep(pause)

    def _attempt(self, call: Call) -> Answer:
        connection, head, leash = self._request(call)
        try:
            body = connection.read(head)
        except BaseException as error:
            connection.close()
            _close(leash)
            if isinstance(error, (OSError, EOFError)):
                raise Interrupted(error, was_reused=False) from error
            raise
        if head.stays_open:
            self._give_back(connection)
        else:
            connection.close()
        self.acquaintance.made = True
        if 200 <= head.status < 300:
            return Answer(head.status, head.headers, body, leash)
        _close(leash)
        refused = refusal(head.status, body)
        if isinstance(refused, Unavailable) and self._is_stopping():
            raise Stopping(refused)
        raise refused

    def _request(self, call: Call) -> tuple[_Connection, Head, socket.socket | None]:
        body = dict(call.body) if call.body is not None else None
        leash: socket.socket | None = None
        if call.descriptors:
            token, leash = send_descriptors(self.path, call.descriptors)
            body = {**(body or {}), "descriptors": token}
        try:
            connection = self._take()
            try:
                head = connection.ask(_message.request(call, body), call.timeout)
            except BaseException as error:
                connection.close()
                if isinstance(error, TimeoutError):
                    raise ConnectionLost(
                        f"the daemon at {self.path} has not answered {call.method} {call.path} for {call.timeout} s"
                    ) from error
                if isinstance(error, (OSError, EOFError)):
                    raise Interrupted(error, was_reused=connection.was_used) from error
                raise
        except BaseException:
            _close(leash)
            raise
        if leash is not None and not call.keep_leash:
            # The connection has to last until the answer, which is here.
            leash.close()
            leash = None
        return connection, head, leash

    def _is_stopping(self) -> bool:
        """Whether a refusal for lack of room comes from a daemon that is about to go."""
        try:
            connection = _Connection(self.path)
            with contextlib.closing(connection):
                return connection.ask(_message.request(Call("GET", "/readyz"), None), 5.0).status == 503
        except (OSError, EOFError, NotListening):
            return True

    def stream(self, call: Call) -> Iterator[bytes]:
        """The content of an answer, piece by piece; over a connection of its own. Repeated until it begins, not from then on."""
        connection, head, _ = self._repeat(call, self._request)
        with contextlib.closing(connection):
            if not 200 <= head.status < 300:
                raise refusal(head.status, connection.read(head))
            self.acquaintance.made = True
            try:
                yield from connection.pieces(head)
            except (OSError, EOFError) as error:
                raise ConnectionLost(f"the daemon at {self.path} went away during {call.method} {call.path}") from error


def _close(leash: socket.socket | None) -> None:
    if leash is not None:
        leash.close()
