"""The forms of names and paths, checked before they travel so that a mistake is met where it was made."""

from __future__ import annotations

import os
import re

from .errors import InvalidName

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}\Z")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}\Z")


def check_name(what: str, given: str) -> str:
    """A workspace id or mount name."""
    if not isinstance(given, str) or not _NAME.match(given):
        raise InvalidName(
            f"{what} {given!r} is not allowed: use 1 to 64 of the characters A-Z a-z 0-9 . _ - and do not start with a dot"
        )
    return given


def check_variable(what: str, given: str) -> str:
    """A secret or variable name."""
    if not isinstance(given, str) or not _VARIABLE.match(given):
        raise InvalidName(
            f"{what} {given!r} is not allowed: use letters, digits and _, not starting with a digit, at most 255 in all"
        )
    return given


def check_directory(what: str, given: str | os.PathLike[str]) -> str:
    """An absolute path; whether it exists is asked when it is mounted."""
    path = os.fspath(given)
    if not isinstance(path, str) or not os.path.isabs(path) or "\0" in path:
        raise InvalidName(f"{what} {path!r} is not absolute: write it from the root, starting with / (os.path.abspath does that)")
    return os.path.normpath(path)
