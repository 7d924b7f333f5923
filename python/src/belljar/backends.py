"""Where artifacts are kept, as a request to the daemon. These classes check and describe; the daemon does.

Keys and passwords are in the memory of this process and are told to the daemon alone: no representation and no pickle has them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit, urlunsplit

from .errors import BackendRefused


class StorageBackend:
    """A place for artifacts."""

    kind = ""

    _id: str | None = None
    _problem: str | None = None

    @property
    def id(self) -> str | None:
        """How the daemon calls it; None as long as it was not set."""
        return self._id

    @property
    def problem(self) -> str | None:
        """What was wrong when it was set although it could be, such as a server that is away and will be waited for."""
        return self._problem

    @property
    def has_keys(self) -> bool:
        """Whether it has what is kept in memory alone."""
        return False

    def to_wire(self) -> dict[str, Any]:
        """The request, with credentials."""
        raise NotImplementedError

    def request(self) -> dict[str, Any]:
        """The request, after what this process has to do for it."""
        return self.to_wire()

    def told(self, answer: Mapping[str, Any]) -> None:
        """Takes what the daemon says of it."""
        self._id = str(answer["id"])
        self._problem = answer.get("problem")

    def _shown(self) -> dict[str, Any]:
        return self.to_wire()

    def __repr__(self) -> str:
        fields = ", ".join(f"{key}={value!r}" for key, value in self._shown().items() if key != "kind")
        return f"{type(self).__name__}({fields})"

    def __getstate__(self) -> dict[str, Any]:
        if self.has_keys:
            raise TypeError(
                f"a {type(self).__name__} with credentials cannot be pickled, because they would be wherever the pickle is: pass "
                "the manager that it was set on, which travels as a reference, or make the backend where it is needed"
            )
        return {**self.__dict__, "_id": None, "_problem": None}


def _absolute(what: str, given: str | os.PathLike[str]) -> str:
    path = os.fspath(given)
    if not os.path.isabs(path):
        raise ValueError(f"{what} {path!r} is relative: the daemon has no directory of yours to start from")
    return path


def _directory(what: str, path: str, *, create: bool) -> dict[str, int]:
    """Which directory this process sees at a path, so that the daemon uses no other."""
    try:
        if create:
            _make(path)
        found = os.stat(path)
    except OSError as error:
        hint = "; make it, or give create_dirs=True" if isinstance(error, FileNotFoundError) and not create else ""
        raise BackendRefused(f"{what} {path}: {error.strerror}{hint}", status=400) from error
    return {"device": found.st_dev, "inode": found.st_ino}


def _make(path: str) -> None:
    """Makes a directory and those above it, each for this user alone; `os.makedirs` is not as strict with those above."""
    if os.path.isdir(path):
        return
    above = os.path.dirname(path.rstrip("/"))
    if above != path:
        _make(above)
    try:
        os.mkdir(path, mode=0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise


class LocalStorageBackend(StorageBackend):
    """Contents in a directory of this machine."""

    kind = "local"

    def __init__(self, base_path: str | os.PathLike[str], create_dirs: bool = True) -> None:
        self.base_path = _absolute("base_path", base_path)
        self.create_dirs = bool(create_dirs)

    def to_wire(self) -> dict[str, Any]:
        return {"kind": self.kind, "base_path": self.base_path, "create_dirs": self.create_dirs}

    def request(self) -> dict[str, Any]:
        directory = _directory("base_path", self.base_path, create=self.create_dirs)
        # It is there; had it gone meanwhile, the daemon must not make another.
        return {**self.to_wire(), "create_dirs": False, "directory": directory}


class S3StorageBackend(StorageBackend):
    """Contents in a bucket of S3 or of a server that speaks its protocol.

    What is left out is what this process's environment says, as for Amazon's own tools: AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL,
    AWS_REGION or AWS_DEFAULT_REGION, AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN. Without credentials a
    user's own daemon signs with those that it has itself.
    """

    kind = "s3"

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        region: str | None = None,
        credentials: Mapping[str, str] | None = None,
        *,
        endpoint: str | None = None,
        allow_http: bool = False,
    ) -> None:
        if not bucket or "/" in bucket:
            raise ValueError(f"bucket {bucket!r} is not the name of a bucket: it must not be empty and has no /")
        unknown = set(credentials or ()) - {"access_key_id", "secret_access_key", "session_token"}
        if unknown:
            raise ValueError(
                f"credentials have unknown keys {', '.join(sorted(unknown))}: use access_key_id, secret_access_key and, "
                "if there is one, session_token"
            )
        if credentials is not None and not {"access_key_id", "secret_access_key"} <= set(credentials):
            raise ValueError("credentials need access_key_id and secret_access_key together, or leave credentials out")
        self.bucket = bucket
        self.prefix = prefix
        self.region = region or _variable("AWS_REGION", "AWS_DEFAULT_REGION")
        self.endpoint = endpoint or _variable("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
        self.allow_http = bool(allow_http)
        self._credentials = dict(credentials) if credentials is not None else _credentials_here()

    @property
    def has_keys(self) -> bool:
        return self._credentials is not None

    def to_wire(self) -> dict[str, Any]:
        wire = {**self._shown(), "credentials": self._credentials}
        return {key: value for key, value in wire.items() if value is not None}

    def _shown(self) -> dict[str, Any]:
        shown = {
            "kind": self.kind,
            "bucket": self.bucket,
            "prefix": self.prefix,
            "region": self.region,
            "endpoint": self.endpoint,
            "allow_http": self.allow_http or None,
            "credentials": "***" if self._credentials is not None else None,
        }
        return {key: value for key, value in shown.items() if value is not None}


def _variable(*names: str) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


def _credentials_here() -> dict[str, str] | None:
    """The keys that this process's environment has, if it has both."""
    found = {
        "access_key_id": _variable("AWS_ACCESS_KEY_ID"),
        "secret_access_key": _variable("AWS_SECRET_ACCESS_KEY"),
        "session_token": _variable("AWS_SESSION_TOKEN"),
    }
    there = {key: value for key, value in found.items() if value is not None}
    return there if {"access_key_id", "secret_access_key"} <= set(there) else None


class DatabaseStorageBackend(StorageBackend):
    """Rows in PostgreSQL, contents in a directory, which is made when it is missing."""

    kind = "database"

    def __init__(self, connection_string: str, file_storage_path: str | os.PathLike[str]) -> None:
        try:
            parts = urlsplit(connection_string)
        except ValueError:
            # Its message has the text, and the text has a password.
            raise ValueError("the connection string is no URL: use postgresql://user:password@host/database") from None
        if parts.scheme not in ("postgresql", "postgres"):
            raise ValueError(
                f"a connection string that begins with {parts.scheme!r} is not understood: use postgresql://…, or "
                "LocalStorageBackend, which needs no database server"
            )
        self._connection_string = connection_string
        self.file_storage_path = _absolute("file_storage_path", file_storage_path)

    @property
    def has_keys(self) -> bool:
        parts = urlsplit(self._connection_string)
        in_query = any("password" in key for key, _ in parse_qsl(parts.query))
        return parts.password is not None or in_query or not _is_clear(parts)

    def to_wire(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "connection_string": self._connection_string,
            "file_storage_path": self.file_storage_path,
        }

    def request(self) -> dict[str, Any]:
        directory = _directory("file_storage_path", self.file_storage_path, create=True)
        return {**self.to_wire(), "directory": directory}

    def _shown(self) -> dict[str, Any]:
        parts = urlsplit(self._connection_string)
        user = parts.username if parts.password is None else f"{parts.username}:***"
        host = parts.netloc.rpartition("@")[2]
        # A query may hold a password too.
        whole = (parts.scheme, f"{user}@{host}" if user else host, parts.path, "***" if parts.query else "", "")
        shown = urlunsplit(whole) if _is_clear(parts) else f"{parts.scheme}://***"
        return {**self.to_wire(), "connection_string": shown}


def _is_clear(parts: SplitResult) -> bool:
    """Whether it can be told where a password would be: one with characters of a URL that are not escaped is anywhere."""
    try:
        _ = parts.port
    except ValueError:
        return False
    return "@" not in parts.path + parts.query and not parts.fragment and parts.netloc.count("@") <= 1
