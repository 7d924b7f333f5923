"""Registration in the background: taken at once, sent in batches, never lost without a word.

What is registered is written down when it is called: later changes of the artifact change nothing, and the file is opened at
once where it lies outside of every workspace, so that it may be removed right after. One thread sends what has come together.
The queue is bounded, and who meets the bound waits.

Who awaits a registration waits in an event loop, which is woken once for a batch and not once for each: waking it is a system
call and a switch of threads, and would cost more than the rest.

Locking: a registrar's lock guards the start of its thread, `_outcomes` what became of entries; neither is held across I/O.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import queue
import resource
import stat
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future
from typing import Any

from . import _exit, _mounted
from . import _operations as operations
from ._daemon import Daemon
from .artifact import Artifact
from .errors import ApiError, InvalidRequest, NoContent, TooLarge, from_problem

_log = logging.getLogger("belljar")

#: Registrations that wait at most. Those that hold a descriptor are at most a quarter of what this process may have.
_QUEUE_MAX = 512

#: Most in one request: the daemon's bound.
BATCH_MAX = 128

#: How long the end of the process waits for what is not sent yet, in seconds.
_FLUSH_MAX = 30.0


#: Guards the outcomes of all entries: each is touched for a moment only, and a lock for each would cost more than the rest.
#: Re-entrant, because the garbage collector may abandon one entry while this thread is at another.
_outcomes = threading.RLock()


class Entry:
    """One registration, on its way."""

    __slots__ = (
        "_error",
        "_future",
        "_places",
        "_raw",
        "_waiting",
        "artifact",
        "descriptor",
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
        places: threading.Semaphore | None = None,
    ) -> None:
        self.item = item
        self.artifact = artifact
        self.opener = opener
        self.descriptor = descriptor
        self.host_path = host_path
        #: Where a place is given back with the descriptor.
        self._places = places
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

    def close(self) -> None:
        descriptor, self.descriptor = self.descriptor, None
        if descriptor is not None:
            os.close(descriptor)
            if self._places is not None:
                self._places.release()

    def fail(self, error: BaseException) -> None:
        """Notes why it was refused; `tell` says so."""
        self.close()
        with _outcomes:
            self._error = error
            is_lost = self.is_abandoned and not self.is_observed
        if is_lost:
            self.report()

    def succeed(self, raw: dict[str, Any]) -> None:
        """Notes what the daemon said; `tell` says so."""
        self.close()
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


def open_file(path: str) -> int | None:
    """A regular file's descriptor for reading; None where there is none. Raises when this process can have no more."""
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        return None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


class Registrar:
    """Sends what is registered to one daemon."""

    def __init__(self, daemon: Daemon, opener: Callable[[Artifact], str]) -> None:
        self._daemon = daemon
        self._opener = opener
        self._start_anew()
        _exit.after_fork(self._start_anew)

    def _start_anew(self) -> None:
        global _outcomes
        # A fork copies no threads, which may have held the lock; what waits in the parent's queue is sent by the parent.
        _outcomes = threading.RLock()
        self._queue: queue.Queue[Entry] = queue.Queue(_QUEUE_MAX)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._is_arranged = False
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        bound = _QUEUE_MAX if soft == resource.RLIM_INFINITY else min(_QUEUE_MAX, soft // 4)
        self._places = threading.Semaphore(max(1, bound))

    def submit(self, entry: Entry) -> Registration:
        """Takes a registration. Waits only when the queue is full."""
        self._ensure_thread()
        self._queue.put(entry)
        return Registration(entry)

    def _ensure_thread(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            return
        with self._lock:
            if not self._is_arranged:
                self._is_arranged = True
                _exit.at_exit(_exit.REGISTRATIONS, self._flush_at_exit)
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._send_all, name="belljar-registrar", daemon=True)
                # At the end of the interpreter no thread can be started; the flush sends what is there.
                with contextlib.suppress(RuntimeError):
                    thread.start()
                    self._thread = thread

    def _send_all(self) -> None:
        waiting = self._queue
        while True:
            first = waiting.get()
            with self._sending:
                self._send_batch(first, waiting)

    def _send_batch(self, first: Entry, waiting: queue.Queue[Entry]) -> None:
        batch = [first]
        with contextlib.suppress(queue.Empty):
            while len(batch) < BATCH_MAX:
                batch.append(waiting.get_nowait())
        try:
            self.send(batch)
        except BaseException as error:
            _log.exception("a batch of registrations")
            for entry in batch:
                if not entry.is_done:
                    entry.fail(error)
            tell(batch)
        finally:
            for _ in batch:
                waiting.task_done()

    def send(self, batch: Sequence[Entry]) -> None:
        """Registers a batch, and says of each entry what became of it."""
        try:
            results = self._exchange(batch)
        except (InvalidRequest, TooLarge) as error:
            if len(batch) == 1:
                batch[0].fail(error)
                tell(batch)
                return
            # One of them is not understood, or they are too much at once, and the daemon refuses the request as a whole.
            middle = len(batch) // 2
            self.send(batch[:middle])
            self.send(batch[middle:])
            return
        except Exception as error:
            for entry in batch:
                entry.fail(error)
            tell(batch)
            return
        for entry, result in zip(batch, results, strict=True):
            if "artifact" in result:
                entry.succeed(result["artifact"])
                continue
            problem = result.get("error", {})
            self._refused(entry, from_problem(problem, int(problem.get("status", 500))))
        tell(batch)

    def _refused(self, entry: Entry, error: ApiError) -> None:
        """Nothing was captured where the file lies: it may be ignored there, or written past the mount. Its bytes are sent."""
        if isinstance(error, NoContent) and entry.descriptor is None and entry.host_path is not None:
            entry.descriptor = open_file(entry.host_path)
            entry.host_path = None
            if entry.descriptor is not None:
                self.send([entry])
                return
        entry.fail(error)

    def _exchange(self, batch: Sequence[Entry]) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        descriptors: list[int] = []
        for entry in batch:
            item = entry.item
            if entry.descriptor is not None:
                item = {**item, "descriptor": len(descriptors)}
                descriptors.append(entry.descriptor)
            items.append(item)
        return self._daemon.drive(operations.register(items, descriptors))

    def flush(self, timeout: float = _FLUSH_MAX) -> bool:
        """Waits until everything that was taken is sent; false when that took too long."""
        deadline = time.monotonic() + timeout
        while self._queue.unfinished_tasks:
            thread = self._thread
            if thread is not None and thread.is_alive():
                if time.monotonic() > deadline:
                    _log.error("%d registrations were not sent within %.0f s", self._queue.unfinished_tasks, timeout)
                    return False
                time.sleep(0.001)
                continue
            with self._sending, contextlib.suppress(queue.Empty):
                self._send_batch(self._queue.get_nowait(), self._queue)
        return True

    def _flush_at_exit(self) -> None:
        self.flush()

    def prepare(self, item: dict[str, Any], artifact: Artifact, path: str, *, is_held: bool) -> Entry:
        """Writes down what is registered."""
        if _mounted.looks_mounted(os.path.abspath(path)):
            self._learn_mounts()
        place = _mounted.place(path)
        item["path"] = place.path
        if place.workspace_id is not None:
            item["workspace"] = place.workspace_id
            return Entry(item, artifact, self._opener, None, None if is_held else place.host_path)
        if is_held or self._daemon.is_scoped:
            return Entry(item, artifact, self._opener, None, None)
        self._take_place()
        try:
            descriptor = open_file(place.path)
        except BaseException:
            self._places.release()
            raise
        if descriptor is None:
            self._places.release()
            return Entry(item, artifact, self._opener, None, None)
        return Entry(item, artifact, self._opener, descriptor, None, self._places)

    def _take_place(self) -> None:
        """Waits until fewer entries hold descriptors: sending them needs some too."""
        while not self._places.acquire(timeout=0.1):
            if self._thread is None or not self._thread.is_alive():
                self.flush()

    def _learn_mounts(self) -> None:
        """Looks where workspaces of other processes of this user are mounted."""
        for found in self._daemon.drive(operations.workspaces()):
            if not _mounted.is_known(found["root"] + "/"):
                _mounted.add(found["root"], found["id"], {mount["name"]: mount["path"] for mount in found["mounts"]})
