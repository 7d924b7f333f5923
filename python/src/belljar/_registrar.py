"""Registration in the background: taken at once, sent in batches, never lost without a word.

What is registered is written down when it is called: later changes of the artifact change nothing, and the file is opened at
once where it lies outside of every workspace, so that it may be removed right after. Two threads send what has come together,
so that one batch is made while the other is waited for. The queue is bounded, and who meets the bound waits.

Locking: a registrar's lock guards the start of its threads and is never held across I/O.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import stat
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from . import _entry, _exit, _mounted
from . import _operations as operations
from ._daemon import Daemon
from ._entry import Entry, Registration, tell
from ._queue import REQUESTS_MAX, Queue
from .artifact import Artifact
from .errors import ApiError, InvalidRequest, NoContent, TooLarge, from_problem

_log = logging.getLogger("belljar")

#: Registrations that wait at most. Those that hold a descriptor are at most a quarter of what this process may have.
_QUEUE_MAX = 512

#: How long the end of the process waits for what is not sent yet, in seconds.
_FLUSH_MAX = 30.0

#: How long somebody waits before looking whether there is a thread that sends, in seconds.
_LOOK_PAUSE = 0.1


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
        _exit.after_fork(self._in_child)

    def _in_child(self) -> None:
        # A fork copies no threads; what waits in the parent's queue is sent by the parent.
        _entry.start_anew()
        self._start_anew()

    def _start_anew(self) -> None:
        self._queue = Queue(_QUEUE_MAX)
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._is_arranged = False
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        bound = _QUEUE_MAX if soft == resource.RLIM_INFINITY else min(_QUEUE_MAX, soft // 4)
        self._places = threading.Semaphore(max(1, bound))

    def submit(self, entry: Entry) -> Registration:
        """Takes a registration. Waits only when the queue is full."""
        self._ensure_threads()
        while not self._queue.put(entry, _LOOK_PAUSE):
            if not self._is_served():
                self.flush()
        return Registration(entry)

    @property
    def is_idle(self) -> bool:
        """Whether everything that was taken is sent."""
        return self._queue.unfinished == 0

    def _is_served(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def _ensure_threads(self) -> None:
        if self._threads and self._threads[0].is_alive():
            return
        with self._lock:
            if not self._is_arranged:
                self._is_arranged = True
                _exit.at_exit(_exit.REGISTRATIONS, self._flush_at_exit)
            if self._is_served():
                return
            self._threads = []
            for _ in range(REQUESTS_MAX):
                thread = threading.Thread(target=self._send_all, args=(self._queue,), name="belljar-registrar", daemon=True)
                # At the end of the interpreter no thread can be started; the flush sends what is there.
                with contextlib.suppress(RuntimeError):
                    thread.start()
                    self._threads.append(thread)

    def _send_all(self, waiting: Queue) -> None:
        while True:
            self._send_batch(waiting.take(), waiting)

    def _send_batch(self, batch: list[Entry], waiting: Queue) -> None:
        try:
            self.send(batch)
        except BaseException as error:
            _log.exception("a batch of registrations")
            for entry in batch:
                if not entry.is_done:
                    entry.fail(error)
            self._close(batch)
            tell(batch)
        finally:
            waiting.finish(batch)

    def send(self, batch: Sequence[Entry]) -> None:
        """Registers a batch, and says of each entry what became of it."""
        try:
            results = self._exchange(batch)
        except (InvalidRequest, TooLarge) as error:
            if len(batch) == 1:
                self._close(batch)
                batch[0].fail(error)
                tell(batch)
                return
            # One of them is not understood, or they are too much at once, and the daemon refuses the request as a whole.
            middle = len(batch) // 2
            self.send(batch[:middle])
            self.send(batch[middle:])
            return
        except Exception as error:
            self._close(batch)
            for entry in batch:
                entry.fail(error)
            tell(batch)
            return
        self._close(batch)
        for entry, result in zip(batch, results, strict=True):
            if "artifact" in result:
                entry.succeed(result["artifact"])
                continue
            problem = result.get("error", {})
            self._refused(entry, from_problem(problem, int(problem.get("status", 500))))
        tell(batch)

    def _close(self, batch: Iterable[Entry]) -> None:
        """Closes what was sent, and gives the places back together: one after the other would cost more than the closing."""
        places = 0
        for entry in batch:
            descriptor, entry.descriptor = entry.descriptor, None
            if descriptor is not None:
                os.close(descriptor)
                places += entry.has_place
                entry.has_place = False
        if places:
            self._places.release(places)

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
        while not self._queue.wait_until_empty(_LOOK_PAUSE if self._is_served() else 0):
            if not self._is_served():
                batch = self._queue.take_at_once()
                if batch:
                    self._send_batch(batch, self._queue)
                    continue
            if time.monotonic() > deadline:
                _log.error("%d registrations were not sent within %.0f s", self._queue.unfinished, timeout)
                return False
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
        return Entry(item, artifact, self._opener, descriptor, None, has_place=True)

    def _take_place(self) -> None:
        """Waits until fewer entries hold descriptors: sending them needs some too."""
        while not self._places.acquire(timeout=_LOOK_PAUSE):
            if not self._is_served():
                self.flush()

    def _learn_mounts(self) -> None:
        """Looks where workspaces of other processes of this user are mounted."""
        for found in self._daemon.drive(operations.workspaces()):
            if not _mounted.is_known(found["root"] + "/"):
                _mounted.add(found["root"], found["id"], {mount["name"]: mount["path"] for mount in found["mounts"]})
