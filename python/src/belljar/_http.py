"""The blocking transport: HTTP/1.1 over the Unix socket, by the standard library.

Connections are kept for the next call. A forked child makes its own: a connection that two processes write to would mix
their requests. Threads may share a transport; each call has a connection for itself.

Locking: the lock guards the list of idle connections and is never held across I/O.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from ._protocol import Answer, Call, Operation, encode, refusal
from ._retry import Acquaintance, Attempts, Interrupted, Stopping
from ._socket import NotListening, connect, send_descriptors
from .errors import ConnectionLost, Unavailable

T = TypeVar("T")

#: Idle connections that are kept. Chosen, not measured: a daemon allows a user 256 in all.
_IDLE_MAX = 8

_CHUNK = 1 << 20


class _Connection(http.client.HTTPConnection):
    """A connection over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("belljar")
        self._path = path
        self.was_used = False

    def connect(self) -> None:
        self.sock = connect(self._path)

    def wait_at_most(self, timeout: float | None) -> None:
        if self.sock is None:
            self.connect()
        self.sock.settimeout(timeout)


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
        attempts = Attempts(call, known=self.acquaintance.made)
        while True:
            try:
                return self._attempt(call)
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
        connection, response, leash = self._request(call)
        try:
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            _close(leash)
            raise Interrupted(error, was_reused=False) from error
        if response.will_close:
            connection.close()
        else:
            self._give_back(connection)
        self.acquaintance.made = True
        if 200 <= response.status < 300:
            return Answer(response.status, dict(response.getheaders()), body, leash)
        _close(leash)
        refused = refusal(response.status, body)
        if isinstance(refused, Unavailable) and self._is_stopping():
            raise Stopping(refused)
        raise refused

    def _request(self, call: Call) -> tuple[_Connection, http.client.HTTPResponse, socket.socket | None]:
        body = dict(call.body) if call.body is not None else None
        leash: socket.socket | None = None
        if call.descriptors:
            token, leash = send_descriptors(self.path, call.descriptors)
            body = {**(body or {}), "descriptors": token}
        try:
            connection = self._take()
            try:
                connection.wait_at_most(call.timeout)
                headers = {"content-type": "application/json", **call.headers}
                connection.request(call.method, call.path, body=encode(body) if body is not None else None, headers=headers)
                response = connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                was_reused = connection.was_used
                connection.close()
                if isinstance(error, TimeoutError):
                    raise ConnectionLost(
                        f"the daemon at {self.path} has not answered {call.method} {call.path} for {call.timeout} s"
                    ) from error
                raise Interrupted(error, was_reused=was_reused) from error
        except BaseException:
            _close(leash)
            raise
        if leash is not None and not call.keep_leash:
            # The connection has to last until the answer, which is here.
            leash.close()
            leash = None
        return connection, response, leash

    def _is_stopping(self) -> bool:
        """Whether a refusal for lack of room comes from a daemon that is about to go."""
        try:
            connection = _Connection(self.path)
            with contextlib.closing(connection):
                connection.wait_at_most(5.0)
                connection.request("GET", "/readyz")
                return connection.getresponse().status == 503
        except (OSError, http.client.HTTPException, NotListening):
            return True

    def stream(self, call: Call) -> Iterator[bytes]:
        """The content of an answer, piece by piece; over a connection of its own."""
        connection, response, _ = self._request(call)
        with contextlib.closing(connection):
            if not 200 <= response.status < 300:
                raise refusal(response.status, response.read())
            self.acquaintance.made = True
            try:
                while piece := response.read(_CHUNK):
                    yield piece
            except (OSError, http.client.HTTPException) as error:
                raise ConnectionLost(f"the daemon at {self.path} went away during {call.method} {call.path}") from error


def _close(leash: socket.socket | None) -> None:
    if leash is not None:
        leash.close()
