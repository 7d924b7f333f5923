"""Questions about artifacts: what the daemon can decide goes to the daemon, what only Python can is decided here."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from . import _moment
from ._protocol import query
from .artifact import Artifact, ArtifactState
from .errors import FilterFailed

_ABSENT = object()

#: Longest expression, in bytes: the daemon's bound.
_EXPRESSION_MAX = 4096

#: A name that an expression takes without quotes.
_PLAIN = re.compile(r"[A-Za-z0-9_-]+\Z")


@dataclass
class ArtifactQuery:
    """What is asked for; everything that is given must hold.

    ``metadata_filter`` has, for each key, a value that must be equal or a function of the value that must be true; an artifact
    without the key does not match. ``a.b`` looks for the key ``a.b`` first and then inside ``a``.
    """

    artifact_type: str | Iterable[str] | None = None
    graph_id: str | None = None
    metadata_filter: Mapping[str, Any] | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    state: ArtifactState | str | Iterable[ArtifactState | str] | None = None
    node_id: str | None = None
    workspace_id: str | None = None
    run_id: str | None = None
    label: str | None = None
    tag: str | None = None
    path: str | None = None
    #: An expression in the words of `belljar artifact ls --where`.
    where: str | None = None
    order: str | None = None
    all_versions: bool = False
    #: At most so many artifacts in all.
    limit: int | None = None
    #: A user's id; others than one's own for root alone.
    owner: int | None = None

    def pairs(self, *, limit: int, cursor: str | None) -> str:
        """The query of one page."""
        asked = [
            ("type", _words(self.artifact_type)),
            ("graph", self.graph_id),
            ("node", self.node_id),
            ("workspace", self.workspace_id),
            ("run", self.run_id),
            ("state", _words(self.state)),
            ("since", _moment.write(self.created_after) if self.created_after else None),
            ("before", _moment.write(self.created_before) if self.created_before else None),
            ("label", self.label),
            ("tag", self.tag),
            ("path", self.path),
            ("where", self._expression()),
            ("order", self.order),
            ("owner", self.owner),
            ("all_versions", True if self.all_versions else None),
            ("limit", limit),
            ("cursor", cursor),
        ]
        return query(asked)

    def _expression(self) -> str | None:
        """What of the metadata filter the daemon can decide, together with the caller's own expression."""
        terms = [f"({self.where})"] if self.where else []
        for key, wanted in (self.metadata_filter or {}).items():
            # A key with a dot means two things here, which the daemon does not know.
            if not _PLAIN.match(key):
                continue
            name = f"metadata.{key}"
            if isinstance(wanted, str) and not any(ord(c) < 32 for c in wanted):
                terms.append(f"{name} = {json.dumps(wanted, ensure_ascii=False)}")
            elif isinstance(wanted, bool):
                terms.append(f"{name} = {'true' if wanted else 'false'}")
            elif isinstance(wanted, int) and abs(wanted) < 1 << 63:
                terms.append(f"{name} = {wanted}")
            else:
                terms.append(f"exists {name}")
        text = " and ".join(terms)
        # What was added here only saves pages; a longer one is the caller's own, and the daemon says so.
        return (text if len(text.encode()) <= _EXPRESSION_MAX else self.where) or None

    def matches(self, artifact: Artifact) -> bool:
        """What is decided here."""
        for key, wanted in (self.metadata_filter or {}).items():
            found = _look_up(artifact.metadata, key)
            if found is _ABSENT:
                return False
            if callable(wanted):
                if not _apply(wanted, found, f"the filter of metadata {key!r}", artifact):
                    return False
            elif found != wanted:
                return False
        return True


def _words(given: Any) -> str | None:
    if given is None:
        return None
    if isinstance(given, str):
        return str(given.value) if isinstance(given, ArtifactState) else given
    return ",".join(str(word.value) if isinstance(word, ArtifactState) else str(word) for word in given)


def _look_up(metadata: Mapping[str, Any], key: str) -> Any:
    if key in metadata:
        return metadata[key]
    found: Any = metadata
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return _ABSENT
        found = found[part]
    return found


def _apply(function: Callable[[Any], Any], value: Any, what: str, artifact: Artifact) -> bool:
    try:
        return bool(function(value))
    except Exception as error:
        raise FilterFailed(f"{what} raised {type(error).__name__} for {artifact!r}: {error}") from error


def apply_filter(function: Callable[[Artifact], Any], artifact: Artifact) -> bool:
    """A caller's function of a whole artifact."""
    return _apply(function, artifact, "the filter", artifact)
