"""Where artifacts are kept, as a request to the daemon. These classes check and describe; the daemon does."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit


class StorageBackend:
    """A place for artifacts."""

    kind = ""

    def to_wire(self) -> dict[str, Any]:
        """The request, with credentials."""
        raise NotImplementedError

    def _shown(self) -> dict[str, Any]:
        return self.to_wire()

    def __repr__(self) -> str:
        fields = ", ".join(f"{key}={value!r}" for key, value in self._shown().items() if key != "kind")
        return f"{type(self).__name__}({fields})"


def _absolute(what: str, given: str | os.PathLike[str]) -> str:
    path = os.fspath(given)
    if not os.path.isabs(path):
        raise ValueError(f"{what} {path!r} is relative: the daemon has no directory of yours to start from")
    return path


class LocalStorageBackend(StorageBackend):
    """Contents in a directory of this machine."""

    kind = "local"

    def __init__(self, base_path: str | os.PathLike[str], create_dirs: bool = True) -> None:
        self.base_path = _absolute("base_path", base_path)
        self.create_dirs = bool(create_dirs)

    def to_wire(self) -> dict[str, Any]:
        return {"kind": self.kind, "base_path": self.base_path, "create_dirs": self.create_dirs}


class S3StorageBackend(StorageBackend):
    """Contents in a bucket of S3 or of a server that speaks its protocol."""

    kind = "s3"

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        region: str | None = None,
        credentials: Mapping[str, str] | None = None,
        *,
        endpoint: str | None = None,
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
        self.region = region
        self.endpoint = endpoint
        self._credentials = dict(credentials) if credentials is not None else None

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
            "credentials": "***" if self._credentials is not None else None,
        }
        return {key: value for key, value in shown.items() if value is not None}


class DatabaseStorageBackend(StorageBackend):
    """Rows in a database, contents in a directory."""

    kind = "database"

    def __init__(self, connection_string: str, file_storage_path: str | os.PathLike[str]) -> None:
        parts = urlsplit(connection_string)
        if parts.scheme not in ("postgresql", "postgres", "sqlite"):
            raise ValueError(
                f"a connection string that begins with {parts.scheme!r} is not understood: use postgresql://… or sqlite:///…"
            )
        self._connection_string = connection_string
        self.file_storage_path = _absolute("file_storage_path", file_storage_path)

    def to_wire(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "connection_string": self._connection_string,
            "file_storage_path": self.file_storage_path,
        }

    def _shown(self) -> dict[str, Any]:
        parts = urlsplit(self._connection_string)
        netloc = parts.netloc
        if parts.password is not None:
            user, _, host = netloc.rpartition("@")
            netloc = f"{user.split(':')[0]}:***@{host}"
        # A query may hold a password too.
        shown = urlunsplit((parts.scheme, netloc, parts.path, "***" if parts.query else "", ""))
        return {**self.to_wire(), "connection_string": shown}
