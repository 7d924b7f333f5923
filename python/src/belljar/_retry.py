"""When a call is made again: the one policy of both transports.

A call is repeated when nothing of it can have been done (nobody listened), or when doing it twice is the same as doing it
once. A daemon that is restarted is away for a second or two; one that is not there at the first call is not waited for.
"""

from __future__ import annotations

import time

from ._protocol import Call
from ._socket import NotListening

#: How long a daemon that was there before is waited for, in seconds. Chosen, not measured: twice its longest orderly stop.
PATIENCE = 30.0

_PAUSE_FIRST = 0.02
_PAUSE_MAX = 0.5


class Acquaintance:
    """Whether a daemon has ever answered at a socket, for all transports that lead there."""

    def __init__(self) -> None:
        self.made = False


class Interrupted(Exception):
    """The connection broke after the request may have been heard."""

    def __init__(self, cause: Exception, *, was_reused: bool) -> None:
        super().__init__(str(cause))
        self.cause = cause
        #: An idle connection may have been closed by the daemon before the request; the first repetition is at once.
        self.was_reused = was_reused


class Stopping(Exception):
    """The daemon answered that it is stopping."""

    def __init__(self, refusal: Exception) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


class Attempts:
    """The attempts of one call."""

    def __init__(self, call: Call, *, known: bool, patience: float = PATIENCE) -> None:
        self._call = call
        # A daemon that never answered is not being restarted.
        self._deadline = time.monotonic() + (patience if known else 0.0)
        self._pause = _PAUSE_FIRST

    def pause_after(self, failure: NotListening | Interrupted | Stopping) -> float | None:
        """How long to wait before the next attempt, or None when there is none."""
        if isinstance(failure, Interrupted):
            if not self._call.idempotent:
                return None
            if failure.was_reused:
                return 0.0
        if time.monotonic() >= self._deadline:
            return None
        pause, self._pause = self._pause, min(self._pause * 2, _PAUSE_MAX)
        return pause
