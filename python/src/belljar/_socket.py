"""Connections to the daemon's two sockets, trusted before anything is sent over them."""

from __future__ import annotations

import json
import os
import socket
import stat
import struct
from collections.abc import Sequence

from .errors import BelljarError, DaemonUnavailable, ForeignSocket

#: Longest path of a Unix socket (unix(7), sun_path) without its terminating zero.
_PATH_BYTES_MAX = 107

#: Appended to the API socket's path to name the companion socket.
COMPANION_SUFFIX = ".fds"

#: Most descriptors in one message.
DESCRIPTORS_MAX = 128

#: How long the daemon may take to answer a local message, in seconds.
_MESSAGE_PATIENCE = 10.0


class NotListening(DaemonUnavailable):
    """Nobody listens at a socket; nothing was sent."""

    code = "daemon-not-running"


class NotAllowed(DaemonUnavailable):
    """A socket may not be opened by this user."""

    code = "daemon-not-allowed"


def _is_trusted(uid: int) -> bool:
    return uid in (0, os.geteuid())


def _check_owner(path: str, owner: int) -> None:
    if not _is_trusted(owner):
        raise ForeignSocket(
            f"the socket {path} belongs to uid {owner}, neither you nor root: not using it, because what is sent there "
            "could be read by that user; set BELLJAR_SOCKET to your own daemon's socket, or unset it"
        )


def connect(path: str, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """A blocking connection to a daemon that is this user's or root's."""
    try:
        found = os.lstat(path)
    except OSError as error:
        raise NotListening(f"no daemon answers at {path}: {error.strerror}") from error
    _check_owner(path, found.st_uid)
    if not stat.S_ISSOCK(found.st_mode):
        raise NotListening(f"no daemon answers at {path}: it is not a socket")
    connection = socket.socket(socket.AF_UNIX, kind)
    try:
        _connect(connection, path)
        # The file's owner could be exchanged between a look and a connection; the peer's credentials cannot (unix(7)).
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, uid, _ = struct.unpack("3i", credentials)
        _check_owner(path, uid)
    except PermissionError as error:
        connection.close()
        raise NotAllowed(
            f"{path} may not be opened by you: join the group that it belongs to (usually `belljar`), or run a daemon of your own"
        ) from error
    except OSError as error:
        connection.close()
        raise NotListening(f"no daemon answers at {path}: {error.strerror}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(connection: socket.socket, path: str) -> None:
    if len(os.fsencode(path)) <= _PATH_BYTES_MAX:
        connection.connect(path)
        return
    directory, name = os.path.split(path)
    opened = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        connection.connect(f"/proc/self/fd/{opened}/{name}")
    finally:
        os.close(opened)


def send_descriptors(path: str, descriptors: Sequence[int]) -> tuple[str, socket.socket]:
    """Sends descriptors to the daemon whose API socket is at ``path``.

    Answers the token that a request names them by, and the connection: it must stay open until the request was answered, and
    for a run or a lease for as long as that is wanted.
    """
    if len(descriptors) > DESCRIPTORS_MAX:
        raise BelljarError(
            f"{len(descriptors)} descriptors are too many for one request: at most {DESCRIPTORS_MAX}; use fewer mount "
            "points and exposed paths",
            code="too-many-descriptors",
        )
    connection = connect(path + COMPANION_SUFFIX, socket.SOCK_SEQPACKET)
    try:
        connection.settimeout(_MESSAGE_PATIENCE)
        socket.send_fds(connection, [b"d"], list(descriptors))
        said = connection.recv(4096)
        connection.settimeout(None)
        answer = json.loads(said) if said else {"refused": "the daemon closed the connection"}
        if "token" not in answer:
            raise DaemonUnavailable(f"send {len(descriptors)} descriptors to the daemon: {answer.get('refused', answer)}")
        return str(answer["token"]), connection
    except (OSError, ValueError) as error:
        connection.close()
        raise NotListening(f"send descriptors to the daemon at {path}: {error}") from error
    except BaseException:
        connection.close()
        raise
