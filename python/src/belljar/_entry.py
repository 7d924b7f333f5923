"""One registration on its way, and what its caller holds of it: something to wait for.

Who awaits a registration waits in an event loop, which is woken once for a batch and not once for each: waking it is a system
call and a switch of threads, and would cost more than the rest.

Locking: `_outcomes` guards what became of entries, and is not held across I/O.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from typing import Any

from .artifact import Artifact

_log = logging.getLogger("belljar")

#: Guards the outcomes of all entries: each is touched for a moment only, and a lock for each would cost more than the rest.
#: Re-entrant, because the garbage collector may abandon one entry while this thread is at another.
_outcomes = threading.RLock()


class Entry:
    """One registration, on its way."""

    __slots__ = (
        "_error",
        "_future",
        "_raw",
        "_waiting",
        "artifact",
        "descriptor",
        "has_place",
        "host_path",
        "is_abandoned",
        "is_observed",
        "item",
        "opener",
    )

    def __init__(
        self,
        item: dict[str, Any],
        artifact: Artifact,
        opener: Callable[[Artifact], str],
        descriptor: int | None,
        host_path: str | None,
        *,
        has_place: bool = False,
    ) -> None:
        self.item = item
        self.artifact = artifact
        self.opener = opener
        self.descriptor = descriptor
        self.host_path = host_path
        #: A place is given back with the descriptor.
        self.has_place = has_place
        #: Somebody has asked for the outcome.
        self.is_observed = False
        #: Nobody can ask any more.
        self.is_abandoned = False
        #: What the daemon said of it.
        self._raw: dict[str, Any] | None = None
        self._error: BaseException | None = None
        #: Made when somebody waits: most registrations nobody waits for.
        self._future: Future[Artifact] | None = None
        #: Those of event loops, which `tell` wakes.
        self._waiting: list[asyncio.Future[Artifact]] | None = None

    @property
    def about(self) -> tuple[str, ...]:
        """What it is about: a file, and the name that it gets. Of two about the same the order matters."""
        path, name = self.host_path or self.item["path"], self.item.get("artifact_id")
        return (path,) if name is None else (path, f"={name}")

    @property
    def is_done(self) -> bool:
        return self._raw is not None or self._error is not None

    def outcome(self) -> Artifact:
        """What became of it, once it is done."""
        self.is_observed = True
        if self._error is not None:
            raise self._error
        assert self._raw is not None
        registered = Artifact.from_wire(self._raw, self.artifact.artifact_id, self.opener)
        if self.item.get("version") in registered.labels:
            # The same bytes may have several; the one that was said is meant.
            registered.version = self.item["version"]
        return registered

    def future(self) -> Future[Artifact]:
        """The outcome, for a thread that wants to know."""
        with _outcomes:
            self.is_observed = True
            if self._future is None:
                self._future = Future()
                if self.is_done:
                    self._tell(self._future)
            return self._future

    def future_in(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[Artifact] | None:
        """The outcome, for a task of the loop; None when it is there already."""
        with _outcomes:
            self.is_observed = True
            if self.is_done:
                return None
            future: asyncio.Future[Artifact] = loop.create_future()
            if self._waiting is None:
                self._waiting = []
            self._waiting.append(future)
            return future

    def _tell(self, future: Future[Artifact] | asyncio.Future[Artifact]) -> None:
        # One that is done was cancelled by who waited: that is theirs alone.
        if future.done():
            return
        try:
            future.set_result(self.outcome())
        except BaseException as error:
            future.set_exception(error)

    def fail(self, error: BaseException) -> None:
        """Notes why it was refused; `tell` says so."""
        with _outcomes:
            self._error = error
            is_lost = self.is_abandoned and not self.is_observed
        if is_lost:
            self.report()

    def succeed(self, raw: dict[str, Any]) -> None:
        """Notes what the daemon said; `tell` says so."""
        self.artifact.raw = raw
        self._raw = raw

    def abandon(self) -> None:
        """Called when nobody can ask any more: an error must not go unheard because nobody waited."""
        with _outcomes:
            self.is_abandoned = True
            is_lost = self._error is not None and not self.is_observed
        if is_lost:
            self.report()

    def report(self) -> None:
        _log.error("artifact %r of %s was not registered: %s", self.artifact.artifact_id, self.item["path"], self._error)


def tell(batch: Iterable[Entry]) -> None:
    """Says to those who wait what became of the entries that are done."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Entry, asyncio.Future[Artifact]]]] = {}
    with _outcomes:
        for entry in batch:
            if not entry.is_done:
                continue
            if entry._future is not None:
                entry._tell(entry._future)
            waiting, entry._waiting = entry._waiting, None
            for future in waiting or ():
                by_loop.setdefault(future.get_loop(), []).append((entry, future))
    for loop, told in by_loop.items():
        # A loop that was closed has nobody waiting in it.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_tell_in_loop, told)


def _tell_in_loop(told: list[tuple[Entry, asyncio.Future[Artifact]]]) -> None:
    for entry, future in told:
        entry._tell(future)


class Registration:
    """A registration that goes on by itself. Awaiting it, or ``result()``, waits until it is durable."""

    __slots__ = ("__weakref__", "_entry")

    def __init__(self, entry: Entry) -> None:
        self._entry = entry

    def __await__(self) -> Generator[Any, None, Artifact]:
        future = self._entry.future_in(asyncio.get_running_loop())
        if future is None:
            return self._entry.outcome()
        return (yield from future.__await__())

    def result(self, timeout: float | None = None) -> Artifact:
        """Waits, from code that is not asynchronous."""
        return self._entry.future().result(timeout)

    def done(self) -> bool:
        return self._entry.is_done

    def exception(self, timeout: float | None = None) -> BaseException | None:
        return self._entry.future().exception(timeout)

    def __repr__(self) -> str:
        state = "done" if self.done() else "on its way"
        return f"Registration({self._entry.artifact.artifact_id!r}, {state})"

    def __del__(self) -> None:
        self._entry.abandon()


class Registrations(list[Registration]):
    """Registrations that travel together. Awaiting them, or ``results()``, waits until all are durable.

    The first that was refused is the error; what became of the others each of them tells.
    """

    def __await__(self) -> Generator[Any, None, list[Artifact]]:
        found = []
        for registration in self:
            found.append((yield from registration.__await__()))
        return found

    def results(self, timeout: float | None = None) -> list[Artifact]:
        """Waits, from code that is not asynchronous."""
        deadline = None if timeout is None else time.monotonic() + timeout

        def left() -> float | None:
            return None if deadline is None else max(0.0, deadline - time.monotonic())

        return [registration.result(left()) for registration in self]


def start_anew() -> None:
    """In a forked child: no thread was copied that may have held the lock."""
    global _outcomes
    _outcomes = threading.RLock()
