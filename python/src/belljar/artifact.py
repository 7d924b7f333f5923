"""Artifacts as values: what a program says of a file, and what the daemon knows of it."""

from __future__ import annotations

import enum
import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, SupportsIndex, overload

from ._moment import parse


class ArtifactState(str, enum.Enum):
    """Where in its life a version is."""

    CREATING = "CREATING"
    READY = "READY"
    ARCHIVED = "ARCHIVED"
    DELETED = "DELETED"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class ArtifactVersion:
    """One version of an artifact."""

    artifact_id: str
    number: int
    labels: tuple[str, ...] = ()
    state: ArtifactState = ArtifactState.READY
    size: int | None = None
    digest: str | None = None
    created_at: datetime | None = None
    parent: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reference(self) -> str:
        """How the command line and the API name it."""
        return f"{self.artifact_id}@{self.number}"


class Artifact:
    """A file that is tracked.

    Made by a program to say what it knows of a file, or answered by the manager. ``artifact_id`` is the name that the program
    gave; ``id`` is the identity that the daemon made, and is known once the artifact is registered.
    """

    def __init__(
        self,
        artifact_id: str | None = None,
        artifact_type: str | None = None,
        path: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        state: ArtifactState | str = ArtifactState.READY,
        version: str | int | None = None,
        *,
        graph_id: str | None = None,
        node_id: str | None = None,
        workspace_id: str | None = None,
        labels: Iterable[str] = (),
        tags: Iterable[str] = (),
        mime: str | None = None,
    ) -> None:
        self.artifact_id = artifact_id
        self.artifact_type = artifact_type
        self._path = path
        self.metadata: dict[str, Any] = dict(metadata or {})
        self.state = ArtifactState(state)
        self.version = version
        self.graph_id = graph_id
        self.node_id = node_id
        self.workspace_id = workspace_id
        self.labels: tuple[str, ...] = tuple(labels)
        self.tags: tuple[str, ...] = tuple(tags)
        self.mime = mime
        #: What the daemon said, as it said it; empty for one that was not registered.
        self.raw: dict[str, Any] = {}
        self._opener: Any = None

    @classmethod
    def from_wire(cls, raw: Mapping[str, Any], asked_for: str | None = None, opener: Any = None) -> Artifact:
        """The artifact that the daemon describes."""
        artifact = cls.__new__(cls)
        artifact._opener = opener
        artifact._path = None
        artifact._take(raw, asked_for)
        return artifact

    def _take(self, raw: Mapping[str, Any], asked_for: str | None = None) -> None:
        """Becomes what the daemon says."""
        self.raw = dict(raw)
        aliases = list(raw.get("aliases", ()))
        name = (asked_for or "").split("@")[0]
        if name in aliases:
            self.artifact_id = name
        elif getattr(self, "artifact_id", None) not in aliases:
            self.artifact_id = aliases[0] if aliases else str(raw["id"])
        self.artifact_type = raw.get("type")
        self.metadata = dict(raw.get("metadata", {}))
        self.state = ArtifactState(raw["state"])
        self.labels = tuple(raw.get("labels", ()))
        # The label that its maker gave; where there are none or several, the daemon's number.
        self.version = self.labels[0] if len(self.labels) == 1 else raw.get("version")
        self.graph_id = raw.get("graph_id")
        self.node_id = raw.get("node_id")
        self.workspace_id = raw.get("workspace_id")
        self.tags = tuple(raw.get("tags", ()))
        self.mime = raw.get("mime")

    # What the daemon knows.

    @property
    def id(self) -> str | None:
        """The identity, a UUID; None as long as it is not registered."""
        return self.raw.get("id")

    @property
    def version_number(self) -> int | None:
        return self.raw.get("version")

    @property
    def aliases(self) -> tuple[str, ...]:
        return tuple(self.raw.get("aliases", ()))

    @property
    def size(self) -> int | None:
        return self.raw.get("size")

    @property
    def digest(self) -> str | None:
        return self.raw.get("digest")

    @property
    def run_id(self) -> str | None:
        return self.raw.get("run_id")

    @property
    def origin(self) -> str | None:
        """``observed`` by the file system, or ``declared`` by a program."""
        return self.raw.get("origin")

    @property
    def pinned(self) -> bool:
        return bool(self.raw.get("pinned", False))

    @property
    def workspace_path(self) -> str | None:
        """The path as seen inside the workspace, such as ``/workspace/output/x.csv``."""
        return self.raw.get("path")

    @property
    def host_path(self) -> str | None:
        return self.raw.get("host_path")

    @property
    def created_at(self) -> datetime | None:
        return parse(self.raw.get("created_at"))

    @property
    def updated_at(self) -> datetime | None:
        return parse(self.raw.get("updated_at"))

    @property
    def path(self) -> str | None:
        """What opens for this program: the file as long as it is there and unchanged, else a read-only copy of the content."""
        if self._path is not None or self._opener is None:
            return self._path
        opened: str = self._opener(self)
        return opened

    @path.setter
    def path(self, path: str | None) -> None:
        self._path = path

    def to_version(self) -> ArtifactVersion:
        """The version that this artifact stands for. It must be registered."""
        if not self.raw:
            raise ValueError(f"{self!r} is not registered: a version has a number from the daemon")
        return ArtifactVersion(
            artifact_id=self.artifact_id or str(self.id),
            number=int(self.raw["version"]),
            labels=self.labels,
            state=self.state,
            size=self.size,
            digest=self.digest,
            created_at=self.created_at,
            parent=self.raw.get("parent_version"),
            metadata=self.metadata,
        )

    def to_dict(self) -> dict[str, Any]:
        """What is known, as a row of a table."""
        return {
            "artifact_id": self.artifact_id,
            "type": self.artifact_type,
            "state": str(self.state),
            "version": self.version_number if self.raw else self.version,
            "labels": list(self.labels),
            "size": self.size,
            "path": self.workspace_path if self.raw else self._path,
            "graph_id": self.graph_id,
            "node_id": self.node_id,
            "workspace_id": self.workspace_id,
            "run_id": self.run_id,
            "created_at": self.created_at,
            "metadata": self.metadata,
            "id": self.id,
        }

    def __repr__(self) -> str:
        path = self.workspace_path if self.raw else self._path
        version = f", version={self.version!r}" if self.version is not None else ""
        return f"Artifact({self.artifact_id!r}, type={self.artifact_type!r}, path={path!r}, state={self.state}{version})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(key)}</th><td>{html.escape(_shown(value))}</td></tr>"
            for key, value in self.to_dict().items()
        )
        return f"<table>{rows}</table>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Artifact):
            return NotImplemented
        if self.raw and other.raw:
            return (self.id, self.version_number) == (other.id, other.version_number)
        return self is other

    def __hash__(self) -> int:
        return hash((self.id, self.version_number)) if self.raw else id(self)

    def __getstate__(self) -> dict[str, Any]:
        # The opener belongs to this process; another one asks its own daemon.
        return {**self.__dict__, "_opener": None}


_COLUMNS = ("artifact_id", "type", "state", "version", "size", "path", "graph_id", "created_at")


class ArtifactList(Sequence[Artifact]):
    """Artifacts as an answer: a list that can be shown as a table."""

    def __init__(self, artifacts: Iterable[Artifact] = ()) -> None:
        self._items = list(artifacts)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Artifact: ...
    @overload
    def __getitem__(self, index: slice) -> ArtifactList: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Artifact | ArtifactList:
        if isinstance(index, slice):
            return ArtifactList(self._items[index])
        return self._items[index]

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, (ArtifactList, list)):
            return list(self) == list(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ArtifactList({self._items!r})"

    def to_dicts(self) -> list[dict[str, Any]]:
        return [artifact.to_dict() for artifact in self._items]

    def to_pandas(self) -> Any:
        """A DataFrame, one row for each artifact. Needs pandas."""
        try:
            import pandas
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: pip install 'belljar[pandas]'") from error
        columns = list(Artifact().to_dict())
        return pandas.DataFrame(self.to_dicts(), columns=columns)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in _COLUMNS)
        rows = []
        for row in self.to_dicts():
            cells = "".join(f"<td>{html.escape(_shown(row[name]))}</td>" for name in _COLUMNS)
            rows.append(f"<tr>{cells}</tr>")
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    return str(value)
