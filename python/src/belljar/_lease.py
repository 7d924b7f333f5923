"""Leases: connections that keep workspaces alive, and the thread that sees them break.

The daemon ends a leased workspace when the connection closes, and closes its own end when that is done. So whoever gives a
workspace back can wait until its name and its directories are free. A connection that breaks by itself means that the daemon
is gone: the workspace is made again then, with what this process knows of it.

Locking: the lock guards the tables and is never held across I/O.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import threading
from collections.abc import Callable

from . import _exit

_log = logging.getLogger("belljar")

#: How long the daemon may take to end a workspace, in seconds: it waits for written files for 30.
RELEASE_MAX = 35.0


class Keeper:
    """Watches the leases of this process, with one thread that exists from the first lease on."""

    def __init__(self) -> None:
        self._start_anew()
        _exit.after_fork(self._in_child)

    def _start_anew(self) -> None:
        self._lock = threading.Lock()
        self._watched: dict[socket.socket, Callable[[], None]] = {}
        #: Leases that were given up and may still be ending, by workspace id.
        self._ending: dict[str, list[socket.socket]] = {}
        self._wake: socket.socket | None = None
        self._pid = os.getpid()

    def _in_child(self) -> None:
        # Our copies must not hold the parent's workspaces; shutting the connections down would end them.
        for connection in list(self._watched):
            connection.close()
        for ending in self._ending.values():
            for connection in ending:
                connection.close()
        self._start_anew()

    def watch(self, connection: socket.socket, broken: Callable[[], None]) -> None:
        """Has ``broken`` called, in the keeper's thread, when the daemon closes the connection."""
        with self._lock:
            self._watched[connection] = broken
            if self._wake is None:
                self._wake, woken = socket.socketpair()
                thread = threading.Thread(target=self._run, args=(woken,), name="belljar-leases", daemon=True)
                thread.start()
            wake = self._wake
        wake.send(b"w")

    def release(self, workspace_id: str, connection: socket.socket, *, wait: bool) -> None:
        """Gives a lease up."""
        with self._lock:
            self._watched.pop(connection, None)
            wake = self._wake
        if wake is not None:
            with contextlib.suppress(OSError):
                wake.send(b"w")
        # One that has gone already cannot be told.
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
        if wait:
            _wait_for_end(workspace_id, connection)
            return
        with self._lock:
            self._ending.setdefault(workspace_id, []).append(connection)

    def settle(self, workspace_id: str) -> None:
        """Waits until leases on a workspace that were given up before have ended."""
        with self._lock:
            ending = self._ending.pop(workspace_id, [])
        for connection in ending:
            _wait_for_end(workspace_id, connection)

    def _run(self, woken: socket.socket) -> None:
        selector = selectors.DefaultSelector()
        selector.register(woken, selectors.EVENT_READ)
        registered: set[socket.socket] = set()
        while self._pid == os.getpid():
            with self._lock:
                wanted = set(self._watched)
            for connection in registered - wanted:
                with contextlib.suppress(KeyError, ValueError):
                    selector.unregister(connection)
            for connection in wanted - registered:
                try:
                    selector.register(connection, selectors.EVENT_READ)
                except ValueError:
                    # Closed between the look and here.
                    wanted.discard(connection)
            registered = wanted
            for key, _ in selector.select():
                if key.fileobj is woken:
                    woken.recv(4096)
                    continue
                self._broken(key.fileobj)  # type: ignore[arg-type]

    def _broken(self, connection: socket.socket) -> None:
        with self._lock:
            broken = self._watched.pop(connection, None)
        if broken is None:
            return
        try:
            broken()
        except Exception:
            _log.exception("a workspace could not be made again after its daemon had gone")


def _wait_for_end(workspace_id: str, connection: socket.socket) -> None:
    try:
        connection.settimeout(RELEASE_MAX)
        connection.recv(1)
    except TimeoutError:
        _log.warning("workspace %s has not ended within %.0f s", workspace_id, RELEASE_MAX)
    except OSError:
        # The daemon is gone, and the workspace with it.
        pass
    finally:
        connection.close()


keeper = Keeper()
