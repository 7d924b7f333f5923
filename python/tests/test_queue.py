"""What waits to be sent, without a daemon: which batches are made of it, and in which order."""

from __future__ import annotations

import threading

import pytest

from belljar import Artifact
from belljar._entry import Entry
from belljar._queue import BATCH_MAX, Queue

pytestmark = pytest.mark.pure


def entry(path: str, name: str | None = None) -> Entry:
    item = {"path": path} if name is None else {"path": path, "artifact_id": name}
    return Entry(item, Artifact(name, path=path), lambda _: "", None, None)


def filled(*entries: Entry) -> Queue:
    queue = Queue(10_000)
    for one in entries:
        assert queue.put(one, 0)
    return queue


def many(count: int, start: int = 0) -> list[Entry]:
    return [entry(f"/{number}", f"n{number}") for number in range(start, start + count)]


def test_a_second_request_is_made_of_a_full_batch_and_a_third_never() -> None:
    queue = filled(*many(3))
    first = queue.take_at_once()
    assert [e.item["path"] for e in first] == ["/0", "/1", "/2"]
    for one in many(BATCH_MAX - 1, 10):
        queue.put(one, 0)
    assert queue.take_at_once() == []
    for one in many(2 * BATCH_MAX, 1_000):
        queue.put(one, 0)
    second = queue.take_at_once()
    assert len(second) == BATCH_MAX
    assert queue.take_at_once() == []
    queue.finish(first)
    assert len(queue.take_at_once()) == BATCH_MAX
    assert queue.unfinished == 3 * BATCH_MAX - 1


@pytest.mark.parametrize("again", [entry("/0", "other"), entry("/other", "n0")])
def test_one_file_and_one_name_are_in_one_request_at_a_time(again: Entry) -> None:
    queue = filled(*many(BATCH_MAX))
    first = queue.take_at_once()
    for one in [*many(2, 500), again, *many(BATCH_MAX, 600)]:
        queue.put(one, 0)
    # What came before it goes, it and what came after it wait.
    second = queue.take_at_once()
    assert [e.item["path"] for e in second] == ["/500", "/501"]
    queue.finish(second)
    assert queue.take_at_once() == []
    queue.finish(first)
    assert queue.take_at_once()[0] is again


def test_files_without_names_do_not_wait_for_each_other() -> None:
    queue = filled(*[entry(f"/{number}") for number in range(2 * BATCH_MAX)])
    assert [len(queue.take_at_once()), len(queue.take_at_once())] == [BATCH_MAX, BATCH_MAX]


def test_who_puts_waits_for_room_and_who_takes_for_entries() -> None:
    queue = Queue(2)
    assert queue.put(entry("/a"), 0) and queue.put(entry("/b"), 0)
    assert not queue.put(entry("/c"), 0.01)
    taken: list[list[Entry]] = []

    def serve() -> None:
        while sum(map(len, taken)) < 3:
            batch = queue.take()
            taken.append(batch)
            queue.finish(batch)

    # Later than the one that needs the room.
    sender = threading.Timer(0.1, serve)
    sender.start()
    assert queue.put(entry("/c"), 30)
    assert queue.wait_until_empty(30)
    sender.join(30)
    assert [e.item["path"] for batch in taken for e in batch] == ["/a", "/b", "/c"]
