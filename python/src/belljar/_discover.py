"""Finds the daemon as the command line does.

Order: the socket that BELLJAR_SOCKET names (it must answer), the one of a private daemon that a parent process started, the
user's own, which the daemon's configuration file may have moved, the system's. A socket of another user is an error wherever
it is met, because silently going on would hide a trap.
"""

from __future__ import annotations

import os

from . import _config
from ._socket import NotAllowed, NotListening, connect
from .errors import DaemonUnavailable

SOCKET_NAME = "belljar.sock"
SYSTEM_RUNTIME = "/run/belljar"

#: Set by a process that started a private daemon, for the Python processes that it starts.
INHERITED = "BELLJAR_PYTHON_SOCKET"


def runtime_directory(configured: str | None = None) -> str:
    """Where this user's daemon has its socket; ``configured`` is what its configuration file says."""
    named = _config.variable("BELLJAR_RUNTIME_DIR")
    if named:
        return os.path.abspath(named)
    if configured is not None:
        return configured
    if os.geteuid() == 0:
        return SYSTEM_RUNTIME
    xdg = os.environ.get("XDG_RUNTIME_DIR")
    if xdg and os.path.isabs(xdg):
        return os.path.join(xdg, "belljar")
    return f"/tmp/belljar-{os.geteuid()}"


def _answers(path: str) -> bool:
    try:
        connect(path).close()
    except (NotListening, NotAllowed):
        # A user who is not in the group of the system's daemon has a private one instead.
        return False
    return True


def find() -> str | None:
    """The socket of the running daemon, if there is one."""
    named = os.environ.get("BELLJAR_SOCKET")
    if named:
        path = os.path.abspath(named)
        try:
            connect(path).close()
        except NotListening as error:
            raise DaemonUnavailable(
                f"{error.detail}; BELLJAR_SOCKET names this socket: start `belljard serve` there, or unset it to let this "
                "program start a private daemon"
            ) from error
        return path
    places = _config.read()
    own = places.socket or os.path.join(runtime_directory(places.runtime_dir), SOCKET_NAME)
    candidates = [own, os.path.join(SYSTEM_RUNTIME, SOCKET_NAME)]
    inherited = os.environ.get(INHERITED)
    if inherited:
        candidates.insert(0, inherited)
    return next((path for path in candidates if _answers(path)), None)
