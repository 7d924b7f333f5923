"""The asynchronous transport: HTTP/1.1 over the Unix socket, by asyncio's streams.

One transport serves any number of event loops, one after the other or side by side; each has connections of its own. The
number of calls at a time is bounded, so that a thousand tasks do not become a thousand connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar
from weakref import WeakKeyDictionary

from . import _message
from ._message import Head
from ._protocol import Answer, Call, Operation, refusal
from ._retry import Acquaintance, Attempts, Interrupted, Stopping
from ._socket import NotListening, connect, send_descriptors
from .errors import AnswerNotUnderstood, ConnectionLost, Unavailable

T = TypeVar("T")

#: Calls at a time of one event loop. Chosen, not measured: a daemon allows a user 256 connections in all.
_CALLS_MAX = 32

#: Largest piece of content that is read at once.
_CHUNK = 1 << 20


class _Stream:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.was_used = False

    def close(self) -> None:
        self.writer.close()


class _Loop:
    """What one event loop has."""

    def __init__(self) -> None:
        self.idle: list[_Stream] = []
        self.places = asyncio.Semaphore(_CALLS_MAX)


class AsyncTransport:
    """Calls to the daemon at one socket."""

    def __init__(self, path: str, acquaintance: Acquaintance | None = None) -> None:
        self.path = path
        self.acquaintance = acquaintance or Acquaintance()
        self.revive: Callable[[], None] | None = None
        self._pid = os.getpid()
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop] = WeakKeyDictionary()

    def _here(self) -> _Loop:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._loops = WeakKeyDictionary()
        loop = asyncio.get_running_loop()
        found = self._loops.get(loop)
        if found is None:
            found = self._loops[loop] = _Loop()
        return found

    async def close(self) -> None:
        """Closes this event loop's idle connections."""
        here = self._here()
        idle, here.idle = here.idle, []
        for stream in idle:
            stream.close()
            with contextlib.suppress(OSError):
                await stream.writer.wait_closed()

    async def drive(self, operation: Operation[T]) -> T:
        """Does an operation to its end."""
        try:
            call = next(operation)
            while True:
                try:
                    answer = await self.exchange(call)
                except Exception as error:
                    call = operation.throw(error)
                else:
                    call = operation.send(answer)
        except StopIteration as end:
            value: T = end.value
            return value

    async def exchange(self, call: Call) -> Answer:
        """One call, repeated where that is harmless."""
        return await self._repeat(call, self._attempt)

    async def _repeat(self, call: Call, attempt: Callable[[Call], Awaitable[T]]) -> T:
        attempts = Attempts(call, known=self.acquaintance.made)
        while True:
            try:
                async with self._here().places:
                    return await attempt(call)
            except Stopping as failure:
                pause = attempts.pause_after(failure)
                if pause is None:
                    raise failure.refusal from None
            except NotListening as failure:
                pause = attempts.pause_after(failure)
                if pause is None:
                    raise
                if self.revive is not None:
                    await asyncio.to_thread(self.revive)
            except Interrupted as failure:
                pause = attempts.pause_after(failure)
                if pause is None:
                    raise ConnectionLost(
                        f"the daemon at {self.path} went away during {call.method} {call.path}: {failure.cause}"
                    ) from failure.cause
            await asyncio.sleep(pause)

    async def _attempt(self, call: Call) -> Answer:
        stream, head, leash = await self._request(call)
        try:
            body = await asyncio.wait_for(_read_all(stream.reader, head), call.timeout)
        except BaseException as error:
            stream.close()
            _close(leash)
            if isinstance(error, (OSError, EOFError)):
                raise Interrupted(error, was_reused=False) from error
            raise
        self._give_back(stream, head)
        self.acquaintance.made = True
        if 200 <= head.status < 300:
            return Answer(head.status, head.headers, body, leash)
        _close(leash)
        refused = refusal(head.status, body)
        if isinstance(refused, Unavailable) and await self._is_stopping():
            raise Stopping(refused)
        raise refused

    async def _connect(self) -> _Stream:
        # A local connection is made at once or not at all, so it holds up nobody.
        connection = connect(self.path)
        connection.setblocking(False)
        return _Stream(*await asyncio.open_unix_connection(sock=connection, limit=_CHUNK))

    def _give_back(self, stream: _Stream, head: Head) -> None:
        here = self._here()
        stream.was_used = True
        if head.stays_open and len(here.idle) < _CALLS_MAX:
            here.idle.append(stream)
        else:
            stream.close()

    async def _request(self, call: Call) -> tuple[_Stream, Head, socket.socket | None]:
        body = dict(call.body) if call.body is not None else None
        leash: socket.socket | None = None
        if call.descriptors:
            send = functools.partial(send_descriptors, self.path, call.descriptors)
            token, leash = await asyncio.to_thread(send)
            body = {**(body or {}), "descriptors": token}
        try:
            here = self._here()
            stream = here.idle.pop() if here.idle else await self._connect()
            try:
                stream.writer.write(_message.request(call, body))
                await stream.writer.drain()
                head = await asyncio.wait_for(_read_head(stream.reader), call.timeout)
            except BaseException as error:
                stream.close()
                if isinstance(error, asyncio.TimeoutError):
                    raise ConnectionLost(
                        f"the daemon at {self.path} has not answered {call.method} {call.path} for {call.timeout} s"
                    ) from error
                if isinstance(error, (OSError, EOFError)):
                    raise Interrupted(error, was_reused=stream.was_used) from error
                raise
        except BaseException:
            _close(leash)
            raise
        if leash is not None and not call.keep_leash:
            leash.close()
            leash = None
        return stream, head, leash

    async def _is_stopping(self) -> bool:
        try:
            stream = await self._connect()
            try:
                stream.writer.write(_message.request(Call("GET", "/readyz"), None))
                return (await asyncio.wait_for(_read_head(stream.reader), 5.0)).status == 503
            finally:
                stream.close()
        except (OSError, EOFError, NotListening, asyncio.TimeoutError):
            return True

    async def stream(self, call: Call) -> AsyncIterator[bytes]:
        """The content of an answer, piece by piece. Repeated until it begins, and not from then on."""
        stream, head, _ = await self._repeat(call, self._request)
        try:
            if not 200 <= head.status < 300:
                raise refusal(head.status, await _read_all(stream.reader, head))
            self.acquaintance.made = True
            async for piece in _pieces(stream.reader, head):
                yield piece
        except (OSError, EOFError) as error:
            raise ConnectionLost(f"the daemon at {self.path} went away during {call.method} {call.path}") from error
        finally:
            stream.close()


async def _read_head(reader: asyncio.StreamReader) -> Head:
    try:
        return _message.head(await reader.readuntil(_message.HEAD_END))
    except asyncio.LimitOverrunError as error:
        raise AnswerNotUnderstood("the head of the daemon's answer has no end") from error


async def _pieces(reader: asyncio.StreamReader, head: Head) -> AsyncIterator[bytes]:
    """The content as its length says, or in chunks (RFC 9112, section 7.1)."""
    if head.is_chunked:
        while True:
            size = _message.chunk_size(await reader.readuntil(b"\r\n"))
            piece = await reader.readexactly(size + 2)
            if size == 0:
                return
            yield piece[:-2]
    length = head.length
    while length > 0:
        piece = await reader.read(min(length, _CHUNK))
        if not piece:
            raise EOFError("the connection ended in the middle of an answer")
        length -= len(piece)
        yield piece


async def _read_all(reader: asyncio.StreamReader, head: Head) -> bytes:
    return b"".join([piece async for piece in _pieces(reader, head)])


def _close(leash: socket.socket | None) -> None:
    if leash is not None:
        leash.close()
