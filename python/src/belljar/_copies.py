"""What ``artifact.path`` opens: the file itself as long as it is what was registered, else a read-only copy of the content.

Copies live in a directory of this process and go when it ends. A file that cannot be told from the registered content is not
taken for it: its size must be the same, and it must not have been touched since, by the kernel's own clock (ctime cannot be set
by a program).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import threading

from . import _exit
from . import _operations as operations
from ._daemon import Daemon
from .artifact import Artifact
from .errors import BelljarError


class Copies:
    """The copies of one process, from one daemon."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._start_anew()
        _exit.after_fork(self._start_anew)

    def _start_anew(self) -> None:
        self._directory: str | None = None
        self._lock = threading.Lock()

    def open(self, artifact: Artifact) -> str:
        """A path that opens with the artifact's content. Blocks while a copy is fetched."""
        raw = artifact.raw
        for candidate in (raw.get("host_path"), raw.get("path")):
            if candidate and is_unchanged(candidate, artifact):
                return str(candidate)
        if raw.get("digest") is None:
            # It has no content: the path is where it will be.
            return str(raw.get("host_path") or raw.get("path"))
        return self._copy(artifact)

    def _copy(self, artifact: Artifact) -> str:
        raw = artifact.raw
        name = os.path.basename(str(raw.get("path") or "")) or "content"
        with self._lock:
            if self._directory is None:
                self._directory = tempfile.mkdtemp(prefix="belljar-content-")
                _exit.at_exit(_exit.FILES, self._remove)
            place = os.path.join(self._directory, f"{raw['id']}@{raw['version']}")
            path = os.path.join(place, name)
            if not os.path.exists(path):
                os.makedirs(place, mode=0o700, exist_ok=True)
                fetch(self._daemon, f"{raw['id']}@{raw['version']}", path)
                os.chmod(path, 0o400)
            return path

    def _remove(self) -> None:
        directory, self._directory = self._directory, None
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)


def is_unchanged(path: str, artifact: Artifact) -> bool:
    """Whether the file at a path is what was registered."""
    try:
        found = os.stat(path)
    except OSError:
        return False
    made = artifact.created_at
    if made is None or not stat.S_ISREG(found.st_mode) or found.st_size != artifact.size:
        return False
    return found.st_ctime <= made.timestamp()


def fetch(daemon: Daemon, reference: str, destination: str) -> None:
    """Writes a content to a file, which is there whole or not at all."""
    directory = os.path.dirname(os.path.abspath(destination))
    try:
        descriptor, partial = tempfile.mkstemp(prefix=".belljar-", suffix=".tmp", dir=directory)
    except OSError as error:
        raise BelljarError(f"write {destination}: {error.strerror}", code="destination") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            for piece in daemon.stream(operations.content(reference)):
                file.write(piece)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(partial, 0o666 & ~mask)
        os.replace(partial, destination)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise
