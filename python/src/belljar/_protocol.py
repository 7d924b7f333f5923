"""What is said to the daemon, without saying it: calls, answers, and operations made of them.

An operation is a generator that yields calls, is sent their answers and returns its result, so that each is written once and
driven by a blocking transport or by an asynchronous one.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from urllib.parse import quote

from .errors import AnswerNotUnderstood, from_problem

T = TypeVar("T")

#: Patience with calls that the daemon answers at once, in seconds; the command line has the same.
PATIENCE = 60.0


@dataclass
class Call:
    """One request."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    #: Whether doing it twice is the same as doing it once.
    idempotent: bool = True
    #: How long to wait for each piece of the answer, in seconds; None waits without end.
    timeout: float | None = PATIENCE
    #: Sent over the companion socket first; the token goes into the body as ``descriptors``. The caller closes them.
    descriptors: tuple[int, ...] = ()
    #: Keep the companion connection and hand it over in the answer.
    keep_leash: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


def with_headers(call: Call, headers: Mapping[str, str]) -> Call:
    return replace(call, headers={**call.headers, **headers})


@dataclass
class Answer:
    """What the daemon said, when it did not refuse."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    leash: socket.socket | None = None

    def json(self) -> Any:
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise AnswerNotUnderstood(
                f"the daemon's answer is not JSON ({error}): are the package and the daemon of the same version?"
            ) from error

    def object(self) -> dict[str, Any]:
        found = self.json()
        if not isinstance(found, dict):
            raise AnswerNotUnderstood(f"the daemon answered with {type(found).__name__}, not with an object")
        return found


Operation = Generator[Call, Answer, T]


def refusal(status: int, body: bytes) -> Exception:
    """The exception for an answer that is none of success."""
    try:
        problem = json.loads(body)
    except ValueError:
        problem = None
    if isinstance(problem, dict):
        return from_problem(problem, status)
    return AnswerNotUnderstood(f"HTTP status {status} without a problem document")


def encode(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def segment(text: str) -> str:
    """One segment of a path."""
    return quote(text, safe="-._~@:")


def query(pairs: Iterable[tuple[str, Any]]) -> str:
    """``?a=b&c=d`` of what was asked, or nothing."""
    parts = []
    for key, value in pairs:
        if value is None:
            continue
        text = ("true" if value else "false") if isinstance(value, bool) else str(value)
        parts.append(f"{key}={quote(text, safe='-._~')}")
    return "?" + "&".join(parts) if parts else ""
