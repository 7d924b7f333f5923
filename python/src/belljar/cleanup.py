"""Clean-up: what is to go, and what went."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from . import _moment

_DAY_MS = 24 * 3600 * 1000


def days(given: float) -> int:
    """Milliseconds."""
    if given < 0:
        raise ValueError(f"{given} days: an age is not negative")
    return int(given * _DAY_MS)


@dataclass(frozen=True)
class CleanupPolicy:
    """Limits that a clean-up keeps, in this order: versions, age, number, size.

    With ``archive_before_delete`` what goes is archived first, and deleted by a clean-up that comes ``archived_for_days`` later
    (30 when not said). What is pinned, held or still being written never goes.
    """

    max_age_days: float | None = None
    max_artifacts: int | None = None
    archive_before_delete: bool = False
    archived_for_days: float | None = None
    max_size_bytes: int | None = None
    keep_versions: int | None = None
    artifact_type: str | Iterable[str] | None = None
    graph_id: str | None = None
    where: str | None = None

    def criteria(self) -> dict[str, Any]:
        """The same in the API's words."""
        wanted: dict[str, Any] = {
            "older_than_ms": days(self.max_age_days) if self.max_age_days is not None else None,
            "max_artifacts": self.max_artifacts,
            "max_size": self.max_size_bytes,
            "keep_versions": self.keep_versions,
            "archive_first": self.archive_before_delete or None,
            "archived_for_ms": days(self.archived_for_days) if self.archived_for_days is not None else None,
            "type": types(self.artifact_type),
            "graph": self.graph_id,
            "where": self.where,
        }
        return {key: value for key, value in wanted.items() if value is not None}


def types(given: str | Iterable[str] | None) -> list[str] | None:
    if given is None:
        return None
    return [given] if isinstance(given, str) else list(given)


def before(cutoff: datetime) -> dict[str, Any]:
    """Criteria: what was made before a moment."""
    return {"where": f'created_at < "{_moment.write(cutoff)}"'}


class CleanupResult(int):
    """How many artifacts were deleted, as a number that knows the rest."""

    archived: int
    skipped: int
    plans: Sequence[Mapping[str, Any]]

    @classmethod
    def of_plans(cls, plans: Sequence[Mapping[str, Any]]) -> CleanupResult:
        """Counts artifacts, not versions: an artifact that went with three versions is one."""
        gone: set[str] = set()
        archived: set[str] = set()
        skipped: set[str] = set()
        for plan in plans:
            for item in plan.get("items") or ():
                if item.get("outcome") == "done":
                    (gone if item["action"] == "delete" else archived).add(item["id"])
                elif item.get("outcome") == "skipped":
                    skipped.add(item["id"])
        return cls.of(len(gone), archived=len(archived), skipped=len(skipped), plans=plans)

    @classmethod
    def of(cls, deleted: int, *, archived: int = 0, skipped: int = 0, plans: Sequence[Mapping[str, Any]] = ()) -> CleanupResult:
        result = cls(deleted)
        result.archived, result.skipped, result.plans = archived, skipped, plans
        return result
