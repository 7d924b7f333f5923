"""The end of the process, and of its copies: what is done, and in which order.

Registrations are sent first, then copies of contents go, then a private daemon is ended. Workspaces need nothing: the kernel
closes their leases. A process of a pool that was forked ends without Python's own end (multiprocessing calls os._exit), so it
is asked to do the same by multiprocessing's finalizers.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable

_log = logging.getLogger("belljar")

#: The order of the end.
REGISTRATIONS = 0
FILES = 1
DAEMON = 2

_steps: list[tuple[int, Callable[[], None]]] = []
_forked: list[weakref.WeakMethod[Callable[[], None]]] = []
_lock = threading.Lock()
_finalized_in = 0


def at_exit(order: int, step: Callable[[], None]) -> None:
    """Has something done at the end of this process, once."""
    global _finalized_in
    with _lock:
        _steps.append((order, step))
        if _finalized_in == os.getpid():
            return
        _finalized_in = os.getpid()
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.Finalize(None, end, exitpriority=100)


def after_fork(step: Callable[[], None]) -> None:
    """Has a method called in every forked child, before the child's code runs, for as long as its object lives."""
    _forked[:] = [other for other in _forked if other() is not None]
    _forked.append(weakref.WeakMethod(step))


def end() -> None:
    """Does what was asked for, in order, whatever fails."""
    with _lock:
        steps = sorted(_steps, key=lambda step: step[0])
        _steps.clear()
    for _, step in steps:
        try:
            step()
        except Exception:
            _log.exception("at the end of the process")


def _in_child() -> None:
    global _lock
    _lock = threading.Lock()
    _steps.clear()
    for reference in list(_forked):
        step = reference()
        if step is None:
            continue
        try:
            step()
        except Exception:
            _log.exception("in a forked process")


atexit.register(end)
os.register_at_fork(after_in_child=_in_child)
