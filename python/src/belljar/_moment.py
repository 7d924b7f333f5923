"""Times: RFC 3339 on the wire, ``datetime`` here. A naive one is local time, as Python itself has it."""

from __future__ import annotations

import re
from datetime import datetime, timezone

_FORM = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d+))?(?:[Zz]|([+-]\d\d:\d\d))\Z")


def parse(text: str | None) -> datetime | None:
    """The moment that the daemon wrote, in UTC; nanoseconds are cut to microseconds."""
    if text is None:
        return None
    found = _FORM.match(text)
    if not found:
        raise ValueError(f"{text!r} is no time as RFC 3339 has them")
    date, time, fraction, zone = found.groups()
    micros = ((fraction or "") + "000000")[:6]
    return datetime.fromisoformat(f"{date}T{time}.{micros}{zone or '+00:00'}").astimezone(timezone.utc)


def write(moment: datetime) -> str:
    """A moment for the daemon. ``astimezone`` takes a naive one for local time."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
