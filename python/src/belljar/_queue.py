"""What waits to be sent: taken in batches, by two senders, in the order in which it came wherever order matters.

While the daemon waits for its disk with one batch, the other keeps processors busy. A second request is worth it for a full
batch only: small ones cost the daemon nearly as much as full ones. Two requests are never under way about the same file or
name, so that what was said last of it is what remains.

Locking: one lock guards all, and is held for a moment only; each condition of it has those who wait for one thing.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable

from ._entry import Entry

#: Most in one request: the daemon's bound.
BATCH_MAX = 128

#: Requests under way at most.
REQUESTS_MAX = 2


class Queue:
    """Entries that wait, and how many of those that were taken are not finished."""

    def __init__(self, most: int) -> None:
        self._most = most
        lock = threading.Lock()
        self._ready = threading.Condition(lock)
        self._room = threading.Condition(lock)
        self._empty = threading.Condition(lock)
        self._waiting: deque[Entry] = deque()
        #: What requests under way are about.
        self._under_way: set[str] = set()
        self._requests = 0
        self.unfinished = 0

    def put(self, entry: Entry, timeout: float) -> bool:
        """Adds one at the end; false when there was no room for so long."""
        with self._room:
            if len(self._waiting) >= self._most:
                self._room.wait(timeout)
                if len(self._waiting) >= self._most:
                    return False
            self._waiting.append(entry)
            self.unfinished += 1
            if self._requests == 0 or len(self._waiting) == BATCH_MAX:
                self._ready.notify()
            return True

    def take(self) -> list[Entry]:
        """Waits for the next batch. Who takes one calls `finish` with it."""
        with self._ready:
            while not (batch := self._take()):
                self._ready.wait()
            return batch

    def take_at_once(self) -> list[Entry]:
        """The next batch, if there is one."""
        with self._ready:
            return self._take()

    def _take(self) -> list[Entry]:
        batch: list[Entry] = []
        if self._requests >= REQUESTS_MAX or (self._requests > 0 and len(self._waiting) < BATCH_MAX):
            return batch
        while self._waiting and len(batch) < BATCH_MAX and self._under_way.isdisjoint(self._waiting[0].about):
            batch.append(self._waiting.popleft())
        if batch:
            self._requests += 1
            self._under_way.update(_about(batch))
            self._room.notify(len(batch))
        return batch

    def finish(self, batch: list[Entry]) -> None:
        """A batch that was taken is done with."""
        with self._ready:
            self._requests -= 1
            self._under_way.difference_update(_about(batch))
            self.unfinished -= len(batch)
            self._ready.notify_all()
            if self.unfinished == 0:
                self._empty.notify_all()

    def wait_until_empty(self, timeout: float) -> bool:
        """Whether everything that was put is finished, within that time."""
        deadline = time.monotonic() + timeout
        with self._empty:
            while self.unfinished:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._empty.wait(left)
            return True


def _about(batch: list[Entry]) -> Iterable[str]:
    return (what for entry in batch for what in entry.about)
