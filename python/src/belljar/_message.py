"""HTTP/1.1 as the daemon speaks it (RFC 9112): requests to bytes, heads of answers from bytes. For both transports.

The standard library's client parses headers as mail, which takes as long as the daemon takes to answer.
"""

from __future__ import annotations

from collections.abc import Mapping

from ._protocol import Call, encode
from .errors import AnswerNotUnderstood

#: Longest head of an answer.
HEAD_MAX = 64 * 1024

#: What ends it.
HEAD_END = b"\r\n\r\n"


class Head:
    """The first part of an answer."""

    __slots__ = ("headers", "status")

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        self.status = status
        self.headers = headers

    @property
    def stays_open(self) -> bool:
        return self.headers.get("connection", "").lower() != "close"

    @property
    def is_chunked(self) -> bool:
        return self.headers.get("transfer-encoding", "").lower() == "chunked"

    @property
    def length(self) -> int:
        """Of the content, where that is not in chunks."""
        return 0 if self.status == 204 else int(self.headers.get("content-length", "0"))


def request(call: Call, body: Mapping[str, object] | None) -> bytes:
    """A request as bytes."""
    content = encode(body) if body is not None else b""
    lines = [f"{call.method} {call.path} HTTP/1.1", "host: belljar", "content-type: application/json"]
    lines += [f"{name}: {value}" for name, value in call.headers.items()]
    lines.append(f"content-length: {len(content)}\r\n\r\n")
    return "\r\n".join(lines).encode("ascii") + content


def head(text: bytes) -> Head:
    """The head that these bytes are, with or without its end."""
    if len(text) > HEAD_MAX:
        raise AnswerNotUnderstood("the head of the daemon's answer is too long")
    first, *lines = text.decode("latin-1").rstrip("\r\n").split("\r\n")
    words = first.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
        raise AnswerNotUnderstood(f"the daemon's answer is not HTTP: {first!r}")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return Head(int(words[1]), headers)


def chunk_size(line: bytes) -> int:
    """The size in the line that begins a chunk."""
    return int(line.split(b";")[0], 16)
