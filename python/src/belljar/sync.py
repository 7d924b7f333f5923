"""The manager of artifacts for code that is not asynchronous: the same names, and each call returns when it is done."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, ClassVar

from . import _operations as operations
from ._copies import fetch
from .artifact import Artifact, ArtifactList, ArtifactState, ArtifactVersion
from .cleanup import CleanupPolicy, CleanupResult, before
from .manager import FILTERED, NOT_SPARED, SPARED, Artifacts, absolute, by_type, describe, page_of
from .query import ArtifactQuery, apply_filter


class ArtifactManager(Artifacts):
    """Registers, finds and cleans up artifacts, and blocks meanwhile. `register_artifact` alone does not; it has ``result()``."""

    _instance: ClassVar[ArtifactManager | None] = None
    _instance_lock: ClassVar[threading.Lock] = threading.Lock()

    @classmethod
    def get_instance(cls) -> ArtifactManager:
        """The manager of this process."""
        if cls._instance is None:
            with cls._instance_lock:
                if cls._instance is None:
                    cls._instance = cls()
        return cls._instance

    def update_artifact_state(self, artifact_id: str, state: ArtifactState | str) -> Artifact:
        return self._from_wire(self.daemon.drive(self._state_change(artifact_id, state)), artifact_id)

    def update_artifact(
        self,
        artifact_id: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        artifact_type: str | None = None,
        add_labels: Iterable[str] = (),
        add_tags: Iterable[str] = (),
        remove_tags: Iterable[str] = (),
    ) -> Artifact:
        change = describe(metadata, artifact_type, add_labels, add_tags, remove_tags)
        return self._from_wire(self.daemon.drive(operations.update_artifact(artifact_id, change)), artifact_id)

    def archive_artifact(self, artifact_id: str) -> Artifact:
        return self._from_wire(self.daemon.drive(operations.change_artifact(artifact_id, "archive")), artifact_id)

    def restore_artifact(self, artifact_id: str) -> Artifact:
        return self._from_wire(self.daemon.drive(operations.change_artifact(artifact_id, "restore")), artifact_id)

    def pin_artifact(self, artifact_id: str, pinned: bool = True) -> Artifact:
        operation = operations.change_artifact(artifact_id, "pin") if pinned else operations.unpin_artifact(artifact_id)
        return self._from_wire(self.daemon.drive(operation), artifact_id)

    def delete_artifact(self, artifact_id: str) -> Artifact:
        return self._from_wire(self.daemon.drive(operations.delete_artifact(artifact_id)), artifact_id)

    def get_artifact(self, artifact_id: str) -> Artifact:
        return self._from_wire(self.daemon.drive(operations.artifact(artifact_id)), artifact_id)

    def get_versions(self, artifact_id: str) -> list[ArtifactVersion]:
        found: list[ArtifactVersion] = []
        cursor: int | str | None = None
        while True:
            page, cursor = self.daemon.drive(operations.version_page(artifact_id, cursor))
            found += [self._from_wire(raw, artifact_id).to_version() for raw in page]
            if cursor is None:
                return found

    def iter_artifacts(self, query: ArtifactQuery | None = None) -> Iterator[Artifact]:
        query = query or ArtifactQuery()
        left = query.limit if query.limit is not None else -1
        cursor: str | None = None
        while left != 0:
            raws, cursor = self.daemon.drive(operations.artifact_page(page_of(query, left, cursor)))
            for raw in raws:
                artifact = self._from_wire(raw)
                if query.matches(artifact):
                    yield artifact
                    left -= 1
                    if left == 0:
                        return
            if cursor is None:
                return

    def query_artifacts(self, query: ArtifactQuery | None = None, **criteria: Any) -> ArtifactList:
        return ArtifactList(self.iter_artifacts(query or ArtifactQuery(**criteria)))

    def download_artifact(self, artifact_id: str, destination: str | os.PathLike[str]) -> str:
        path = absolute(destination)
        fetch(self.daemon, artifact_id, path)
        return path

    def read_artifact(self, artifact_id: str) -> bytes:
        return b"".join(self.daemon.stream(operations.content(artifact_id)))

    def lineage(self, artifact_id: str, *, depth: int | None = None, direction: str | None = None) -> dict[str, Any]:
        return self.daemon.drive(operations.lineage(artifact_id, depth, direction))

    def sync(self, workspace_id: str | None = None, timeout: float = 60.0) -> bool:
        flushed = self.flush(timeout)
        return bool(self.daemon.drive(operations.sync(workspace_id, timeout))["complete"]) and flushed

    def storage_status(self) -> dict[str, Any]:
        return self.daemon.drive(operations.storage())

    def wait_uploaded(self, timeout: float = 60.0) -> bool:
        flushed = self.flush(timeout)
        outcome = self.daemon.drive(operations.wait_uploaded(timeout))
        return flushed and bool(outcome["complete"]) and bool(outcome["uploaded"])

    def _clean(self, criteria: Mapping[str, Any]) -> CleanupResult:
        self.flush()
        return CleanupResult.of_plans(self.daemon.drive(operations.clean_up(criteria)))

    def cleanup_artifacts(self, policy: CleanupPolicy | None = None) -> CleanupResult:
        return self._clean(self._criteria(policy))

    def cleanup_artifacts_before(self, cutoff: datetime) -> CleanupResult:
        return self._clean(before(cutoff))

    def cleanup_artifacts_by_type(self, artifact_type: str, max_age_days: float | None = None) -> CleanupResult:
        return self._clean(by_type(artifact_type, max_age_days))

    def cleanup_artifacts_by_graph(self, graph_id: str) -> CleanupResult:
        return self._clean({"graph": graph_id})

    def cleanup_artifacts_with_filter(self, should_delete: Callable[[Artifact], Any]) -> CleanupResult:
        self.flush()
        deleted = skipped = 0
        query = self._own(ArtifactQuery(state=FILTERED))
        for artifact in [a for a in self.iter_artifacts(query) if apply_filter(should_delete, a)]:
            try:
                self.daemon.drive(operations.delete_artifact(str(artifact.id)))
                deleted += 1
            except NOT_SPARED:
                raise
            except SPARED:
                skipped += 1
        return CleanupResult.of(deleted, skipped=skipped)
