"""Where the daemon's configuration file puts its socket.

Python's library has no YAML, and two keys at the top of the file are all that is asked of it, so that those two are read here.
What is written in a form that is not read here, such as an alias or a text over several lines, is an error and never passed over:
the daemon would listen elsewhere than where this process looks.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from .errors import DaemonUnavailable

_SYSTEM = "/etc/belljar/belljard.yaml"

#: Largest file that is read: the daemon's own bound.
_BYTES_MAX = 1 << 20

_WANTED = ("runtime_dir", "socket")

_KEY = re.compile(
    r"""(?:"(?P<double>[^"\\]*)"|'(?P<single>[^']*)'|(?P<plain>[A-Za-z_][A-Za-z0-9_.-]*))\s*:(?:\s+(?P<value>.*))?$"""
)

#: What stands for nothing (YAML 1.2, core schema).
_NOTHING = ("", "~", "null", "Null", "NULL")


@dataclass(frozen=True)
class Places:
    """What the file says; None where it says nothing."""

    runtime_dir: str | None = None
    socket: str | None = None


def variable(name: str) -> str | None:
    """A variable that is set to something."""
    return os.environ.get(name) or None


def read() -> Places:
    """What the file says that the daemon of this user would read."""
    named = variable("BELLJAR_CONFIG")
    path = os.path.abspath(named) if named else _usual_file()
    try:
        with open(path, "rb") as file:
            content = file.read(_BYTES_MAX + 1)
    except FileNotFoundError as error:
        if named is None:
            return Places()
        raise DaemonUnavailable(f"the configuration file {path}, named by BELLJAR_CONFIG, is not there") from error
    except OSError as error:
        raise DaemonUnavailable(f"read the configuration file {path}: {error.strerror}") from error
    if len(content) > _BYTES_MAX:
        raise DaemonUnavailable(f"the configuration file {path} is larger than 1 MiB, which no file of this kind needs")
    try:
        return parse(content.decode("utf-8-sig"), path)
    except UnicodeDecodeError as error:
        raise DaemonUnavailable(f"the configuration file {path} is not UTF-8") from error


def _usual_file() -> str:
    if os.geteuid() == 0:
        return _SYSTEM
    xdg, home = variable("XDG_CONFIG_HOME"), variable("HOME")
    if xdg is not None and os.path.isabs(xdg):
        return os.path.join(xdg, "belljar/belljard.yaml")
    return os.path.join(home, ".config/belljar/belljard.yaml") if home is not None else _SYSTEM


def parse(text: str, origin: str) -> Places:
    """The two keys of a file."""
    found: dict[str, str | None] = {}
    #: The last key, when it is one of ours and has its value: what is indented below it would go on with it.
    ended: str | None = None
    for number, line in enumerate(text.splitlines(), 1):

        def refuse(what: str, number: int = number) -> DaemonUnavailable:
            return DaemonUnavailable(
                f"{origin}:{number}: {what}, which this package does not read in the daemon's configuration file: write it as "
                "`key: /path` on one line, or name the socket in BELLJAR_SOCKET"
            )

        stripped = line.strip()
        if not stripped or stripped.startswith("#") or line.startswith(("%", "---", "...")):
            if line.startswith("---") and not re.fullmatch(r"---\s*(#.*)?", line):
                raise refuse("a document on the line of its `---`")
            continue
        if line[0] in " \t]}-":
            if ended is not None:
                raise refuse(f"`{ended}` over several lines")
            # A value below its key, of a key that is not asked for.
            continue
        match = _KEY.match(line)
        if match is None:
            raise refuse("a line that does not begin with a key")
        key = next(key for key in match.group("double", "single", "plain") if key is not None)
        ended = key if key in _WANTED else None
        if ended is None:
            continue
        if key in found:
            raise refuse(f"`{key}` a second time")
        value = _scalar(match.group("value") or "")
        if value is None:
            raise refuse(f"the value of `{key}`")
        if value.text is not None and not os.path.isabs(value.text):
            raise DaemonUnavailable(f"{origin}:{number}: `{key}` is {value.text}, a relative path: write it with a / in front")
        found[key] = value.text
    return Places(**found)


@dataclass(frozen=True)
class _Scalar:
    #: None for nothing.
    text: str | None


def _scalar(written: str) -> _Scalar | None:
    """A value on one line (YAML 1.2.2, sections 6.6 and 7.3); None for a form that is not read here."""
    quoted = re.fullmatch(r"""(?:'((?:[^']|'')*)'|"([^"\\]*)")\s*(?:\s#.*)?""", written)
    if quoted is not None:
        single, double = quoted.groups()
        return _Scalar(single.replace("''", "'") if single is not None else double)
    plain = re.sub(r"(^|\s)#.*$", "", written).strip()
    if plain in _NOTHING:
        return _Scalar(None)
    if plain[0] in "|>&*!{[\"'%@`,]}" or ": " in plain or plain.endswith(":"):
        return None
    return _Scalar(plain)
