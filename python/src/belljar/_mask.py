"""Takes secrets out of a stream: their bytes, and the spellings that programs usually print them in.

A secret that is cut by the end of a piece must not leave in two halves: what could be the beginning of one is held back until
it is known, or until the end.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections.abc import Iterable
from urllib.parse import quote

MASK = b"***"

#: Shorter values would mask half of what is ordinary; the daemon looks for none below eight bytes.
_BYTES_MIN = 4

#: Spellings other than the value itself are looked for from this length on, as the daemon does.
_SPELLED_MIN = 8


def spellings(value: bytes) -> set[bytes]:
    """How a value may be printed."""
    value = value.strip()
    if len(value) < _BYTES_MIN:
        return set()
    found = {value}
    if len(value) < _SPELLED_MIN:
        return found
    found |= {value.hex().encode(), value.hex().upper().encode()}
    found |= {quote(value, safe="").encode(), quote(value).encode()}
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        # Inside of a longer text the value begins at any of three alignments; the characters at its borders depend on the
        # neighbours and are left out.
        for lead in range(3):
            coded = encode(b"\0" * lead + value).rstrip(b"=")
            begin = (0, 2, 3)[lead]
            end = len(coded) - (1 if (lead + len(value)) % 3 else 0)
            found.add(coded[begin:end])
    with contextlib.suppress(UnicodeDecodeError):
        found.add(json.dumps(value.decode())[1:-1].encode())
    return found


class Masker:
    """One stream. Not to be shared by threads."""

    def __init__(self, secrets: Iterable[bytes]) -> None:
        words: set[bytes] = set()
        for secret in secrets:
            words |= spellings(secret)
        # The longest first: of two that begin at one place the longer is the secret.
        self._words = sorted(words, key=len, reverse=True)
        self._pattern = re.compile(b"|".join(re.escape(word) for word in self._words)) if self._words else None
        self._held = b""

    def feed(self, piece: bytes) -> bytes:
        """What of the stream is known to be free of secrets."""
        if self._pattern is None:
            return piece
        data = self._held + piece
        cut = len(data) - self._open_end(data)
        # A secret may begin before the cut and end behind it.
        for found in self._pattern.finditer(data):
            if found.start() < cut < found.end():
                cut = found.end()
        self._held = data[cut:]
        return self._pattern.sub(MASK, data[:cut])

    def _open_end(self, data: bytes) -> int:
        """Length of the longest end that could be the beginning of a secret."""
        longest = min(len(data), len(self._words[0]) - 1)
        for length in range(longest, 0, -1):
            tail = data[-length:]
            if any(len(word) > length and word.startswith(tail) for word in self._words):
                return length
        return 0

    def end(self) -> bytes:
        """The rest."""
        rest, self._held = self._held, b""
        return self._pattern.sub(MASK, rest) if self._pattern is not None else rest
