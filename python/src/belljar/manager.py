"""The manager of artifacts, as asynchronous code uses it. `belljar.sync` has the same for code that is not."""

from __future__ import annotations

import asyncio
import json
import math
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, ClassVar

from . import _context, _daemon, _directed
from . import _operations as operations
from ._copies import Copies, fetch
from ._daemon import Daemon
from ._directed import Directed
from ._entry import Entry, Registration, Registrations
from ._registrar import Registrar, open_file
from .artifact import Artifact, ArtifactList, ArtifactState, ArtifactVersion
from .backends import StorageBackend
from .cleanup import CleanupPolicy, CleanupResult, before, days
from .errors import ArtifactPinned, BackendNotFound, BackendNotOpen, Conflict, Forbidden, Gone, NotFound
from .query import ArtifactQuery, apply_filter


class Artifacts:
    """What both managers share: preparing requests and understanding answers."""

    def __init__(self, daemon: Daemon | None = None) -> None:
        #: None looks for one when it is needed.
        self._daemon_given = daemon.base if isinstance(daemon, Directed) else daemon
        self._directed = daemon if isinstance(daemon, Directed) else None
        self._copies_of: tuple[Daemon, Copies, Registrar] | None = None
        #: Of the places where artifacts were registered before.
        self._earlier: list[Registrar] = []
        self._policy: CleanupPolicy | None = None

    @property
    def daemon(self) -> Daemon:
        """The daemon, asked about the backend if one is set."""
        return self._place or self._base

    @property
    def _base(self) -> Daemon:
        return self._daemon_given or _daemon.default()

    @property
    def _place(self) -> Directed | None:
        return _directed.chosen() if self._is_of_the_process else self._directed

    @property
    def _is_of_the_process(self) -> bool:
        return self is getattr(type(self), "_instance", None)

    @property
    def backend(self) -> StorageBackend | None:
        """The backend that is set; None is the daemon's own place, or a backend that only another process knows."""
        place = self._place
        return place.definition if place is not None else None

    def _parts(self) -> tuple[Daemon, Copies, Registrar]:
        daemon = self.daemon
        found = self._copies_of
        if found is None or found[0] is not daemon:
            if found is not None:
                self._earlier = [registrar for registrar in (*self._earlier, found[2]) if not registrar.is_idle]
            copies = Copies(daemon)
            found = self._copies_of = (daemon, copies, Registrar(daemon, copies.open))
        return found

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.daemon!r})"

    def register_artifact(self, artifact: Artifact, *, move_alias: bool = False) -> Registration:
        """Registers a file. It is registered whether or not the answer is awaited; awaiting it means that it is durable.

        A file that a workspace has captured already is enriched with what is said here, and stays one artifact. An
        ``artifact_id`` that names another file is refused (`AliasTaken`) unless ``move_alias`` is given.
        """
        return self._parts()[2].submit(self._entry(artifact, move_alias))

    def register_artifacts(self, artifacts: Iterable[Artifact], *, move_alias: bool = False) -> Registrations:
        """Registers many; they travel together. Awaiting what is returned waits for all of them."""
        registrar = self._parts()[2]
        return Registrations(registrar.submit(self._entry(artifact, move_alias)) for artifact in artifacts)

    def _entry(self, artifact: Artifact, move_alias: bool) -> Entry:
        path = artifact.path
        if not path:
            raise ValueError(f"{artifact!r} has no path: a registration is about a file")
        state = ArtifactState(artifact.state)
        if state not in (ArtifactState.READY, ArtifactState.CREATING):
            raise ValueError(f"an artifact cannot be registered as {state}: use READY or CREATING")
        labels = list(artifact.labels)
        version = artifact.version if artifact.version not in labels else None
        # One that came from the daemon has the daemon's number there, which is no label.
        version = None if artifact.raw and isinstance(version, int) else version
        workspace = _context.workspace.get()
        workspace_id = artifact.workspace_id
        if workspace_id is None and workspace is not None and workspace.is_mounted:
            workspace_id = workspace.workspace_id
        item: dict[str, Any] = {
            "path": path,
            "artifact_id": artifact.artifact_id,
            "move_alias": move_alias or None,
            "type": artifact.artifact_type,
            "state": str(state) if state is not ArtifactState.READY else None,
            "version": str(version) if version is not None else None,
            "labels": labels or None,
            "tags": list(artifact.tags) or None,
            "metadata": plain(artifact.metadata) if artifact.metadata else None,
            "mime": artifact.mime,
            "graph_id": artifact.graph_id or _context.graph_id.get(),
            "node_id": artifact.node_id or _context.node_id.get(),
            "workspace": workspace_id,
        }
        item = {key: value for key, value in item.items() if value is not None}
        registrar = self._parts()[2]
        return registrar.prepare(item, artifact, os.fspath(path), is_held=state is ArtifactState.CREATING)

    def flush(self, timeout: float = 30.0) -> bool:
        """Waits until everything that was registered is durable; false when that took longer than ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        current = self._parts()[2]
        # All of them, also when one has taken all the time: each says what was left.
        flushed = [registrar.flush(max(0.0, deadline - time.monotonic())) for registrar in (*self._earlier, current)]
        return all(flushed)

    def set_backend(self, backend: StorageBackend | None) -> None:
        """Has the daemon keep artifacts elsewhere: from here on everything of this manager is about that place.

        None goes back to the daemon's own. On the manager of the process it is also where the artifacts of workspaces are kept
        that are mounted from here on. What was registered before goes where it was meant to. `BackendRefused` and
        `BackendUnavailable` leave everything as it was.
        """
        if backend is not None and not isinstance(backend, StorageBackend):
            raise TypeError(f"{type(backend).__name__} is no storage backend: use Local-, S3- or DatabaseStorageBackend")
        if backend is not None and self._base.is_scoped:
            raise Forbidden(
                "this process runs in a sandbox, and its artifacts are kept where its workspace's are: set the backend outside",
                status=403,
            )
        self._direct(_directed.opened(self._base, backend) if backend is not None else None)

    def _direct(self, directed: Directed | None) -> None:
        if self._is_of_the_process:
            _directed.choose(directed)
        else:
            self._directed = directed

    def __reduce__(self) -> tuple[Any, ...]:
        """Travels as a reference: keys and passwords stay in this process and in the daemon."""
        place = self._place
        backend_id = place.backend_id if place is not None else None
        return _manager_of, (type(self), self._is_of_the_process, self.daemon.socket, backend_id, self._policy)

    def set_cleanup_policy(self, policy: CleanupPolicy, *, every: float | None = None, name: str = "python") -> None:
        """The policy of `cleanup_artifacts`. With ``every`` (seconds) the daemon keeps it by itself too, as policy ``name``."""
        if not isinstance(policy, CleanupPolicy):
            raise TypeError(f"{type(policy).__name__} is no CleanupPolicy")
        if every is not None:
            self.daemon.drive(operations.set_policy(name, policy.criteria(), int(every * 1000)))
        self._policy = policy

    def remove_cleanup_policy(self, name: str = "python") -> None:
        """Has the daemon no longer keep a policy. `PolicyNotFound` when there is none."""
        self.daemon.drive(operations.remove_policy(name))

    def _criteria(self, policy: CleanupPolicy | None) -> dict[str, Any]:
        policy = policy or self._policy
        if policy is None:
            raise ValueError("no clean-up policy is set: call set_cleanup_policy first, or give one")
        return policy.criteria()

    def _from_wire(self, raw: Mapping[str, Any], asked_for: str | None = None) -> Artifact:
        return Artifact.from_wire(raw, asked_for, self._parts()[1].open)

    def _own(self, query: ArtifactQuery) -> ArtifactQuery:
        """For root, whose lists have everybody's: what is cleaned up is one's own."""
        if not self.daemon.is_scoped:
            query.owner = os.geteuid()
        return query

    def _state_change(self, artifact_id: str, state: ArtifactState | str) -> Any:
        state = ArtifactState(state)
        if state is ArtifactState.READY:
            return operations.make_ready(artifact_id, _open_registered)
        if state is ArtifactState.ARCHIVED:
            return operations.change_artifact(artifact_id, "archive")
        if state is ArtifactState.DELETED:
            return operations.delete_artifact(artifact_id)
        return operations.update_artifact(artifact_id, {"state": str(state)})


def _manager_of(
    kind: type[Artifacts], is_of_the_process: bool, socket: str, backend_id: str | None, policy: CleanupPolicy | None
) -> Artifacts:
    """A manager that came from another process: this process's own where that is about the same place."""
    if _daemon.inside() is not None:
        # Another socket is not there, and the run's own is.
        manager = kind()
    elif is_of_the_process:
        daemon = _directed.adopt(socket, backend_id)
        own: Artifacts = kind.get_instance()  # type: ignore[attr-defined]
        manager = own if _directed.is_same_place(own.daemon, daemon) else kind(daemon)
    else:
        manager = kind(_directed.named(_daemon.at(socket), backend_id))
    if policy is not None:
        manager._policy = policy
    return manager


def _open_registered(raw: Mapping[str, Any]) -> int | None:
    return open_file(str(raw.get("host_path") or raw.get("path")))


def plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as JSON has it: times as text, numbers of numpy as numbers. What is neither is an error here, at the caller."""
    if all(type(key) is str and _is_plain(value) for key, value in metadata.items()):
        return dict(metadata)
    result: dict[str, Any] = json.loads(_ENCODER.encode(dict(metadata)))
    return result


def _is_plain(value: Any) -> bool:
    """Whether a value is the same in JSON, as most are; what is nested is left to the encoder."""
    kind = type(value)
    return value is None or kind is str or kind is int or kind is bool or (kind is float and math.isfinite(value))


def _plain_value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    item = getattr(value, "item", None)
    if callable(item):
        return item()
    raise TypeError(f"metadata holds a {type(value).__name__}, which JSON has no form for: write it as text or numbers")


_ENCODER = json.JSONEncoder(default=_plain_value, allow_nan=False)


#: What stands in the way of deleting one artifact without being a failure of the clean-up.
SPARED = (ArtifactPinned, Conflict, NotFound, Gone)

#: What is a failure although it is of those classes: nothing can be deleted.
NOT_SPARED = (BackendNotFound, BackendNotOpen)


class ArtifactManager(Artifacts):
    """Registers, finds and cleans up artifacts."""

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

    async def update_artifact_state(self, artifact_id: str, state: ArtifactState | str) -> Artifact:
        """READY ends the holding of one that was registered as CREATING; the other states are as their own methods."""
        return self._from_wire(await self.daemon.drive_async(self._state_change(artifact_id, state)), artifact_id)

    async def update_artifact(
        self,
        artifact_id: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        artifact_type: str | None = None,
        add_labels: Iterable[str] = (),
        add_tags: Iterable[str] = (),
        remove_tags: Iterable[str] = (),
    ) -> Artifact:
        """Changes what is said of an artifact. Metadata is merged; None removes a key (RFC 7396)."""
        change = describe(metadata, artifact_type, add_labels, add_tags, remove_tags)
        return self._from_wire(await self.daemon.drive_async(operations.update_artifact(artifact_id, change)), artifact_id)

    async def archive_artifact(self, artifact_id: str) -> Artifact:
        raw = await self.daemon.drive_async(operations.change_artifact(artifact_id, "archive"))
        return self._from_wire(raw, artifact_id)

    async def restore_artifact(self, artifact_id: str) -> Artifact:
        """READY again, from ARCHIVED or DELETED."""
        raw = await self.daemon.drive_async(operations.change_artifact(artifact_id, "restore"))
        return self._from_wire(raw, artifact_id)

    async def pin_artifact(self, artifact_id: str, pinned: bool = True) -> Artifact:
        """A pinned artifact is never cleaned up."""
        operation = operations.change_artifact(artifact_id, "pin") if pinned else operations.unpin_artifact(artifact_id)
        return self._from_wire(await self.daemon.drive_async(operation), artifact_id)

    async def delete_artifact(self, artifact_id: str) -> Artifact:
        """Deletes all versions; `restore_artifact` brings them back until the daemon's undo window is over."""
        return self._from_wire(await self.daemon.drive_async(operations.delete_artifact(artifact_id)), artifact_id)

    async def get_artifact(self, artifact_id: str) -> Artifact:
        """The latest version of an artifact, by the name that a program gave it, by its id, or a version as ``name@2``."""
        return self._from_wire(await self.daemon.drive_async(operations.artifact(artifact_id)), artifact_id)

    async def get_versions(self, artifact_id: str) -> list[ArtifactVersion]:
        """All versions, the newest first."""
        found: list[ArtifactVersion] = []
        cursor: int | str | None = None
        while True:
            page, cursor = await self.daemon.drive_async(operations.version_page(artifact_id, cursor))
            found += [self._from_wire(raw, artifact_id).to_version() for raw in page]
            if cursor is None:
                return found

    async def iter_artifacts(self, query: ArtifactQuery | None = None) -> AsyncIterator[Artifact]:
        """Artifacts, page after page, so that any number can be walked through."""
        query = query or ArtifactQuery()
        left = query.limit if query.limit is not None else -1
        cursor: str | None = None
        while left != 0:
            raws, cursor = await self.daemon.drive_async(operations.artifact_page(page_of(query, left, cursor)))
            for raw in raws:
                artifact = self._from_wire(raw)
                if query.matches(artifact):
                    yield artifact
                    left -= 1
                    if left == 0:
                        return
            if cursor is None:
                return

    async def query_artifacts(self, query: ArtifactQuery | None = None, **criteria: Any) -> ArtifactList:
        """All artifacts that fulfil a query, the newest first."""
        query = query or ArtifactQuery(**criteria)
        return ArtifactList([artifact async for artifact in self.iter_artifacts(query)])

    async def download_artifact(self, artifact_id: str, destination: str | os.PathLike[str]) -> str:
        """Writes the content to a file, which is there whole or not at all. Answers its path."""
        path = absolute(destination)
        await asyncio.to_thread(fetch, self.daemon, artifact_id, path)
        return path

    async def read_artifact(self, artifact_id: str) -> bytes:
        """The content, in memory."""
        return b"".join([piece async for piece in self.daemon.stream_async(operations.content(artifact_id))])

    async def lineage(self, artifact_id: str, *, depth: int | None = None, direction: str | None = None) -> dict[str, Any]:
        """What an artifact was made from (``of``), or what was made from it (``used-by``)."""
        return await self.daemon.drive_async(operations.lineage(artifact_id, depth, direction))

    async def sync(self, workspace_id: str | None = None, timeout: float = 60.0) -> bool:
        """Waits until what was written in workspaces before is registered, and what was registered here is durable."""
        flushed = await asyncio.to_thread(self.flush, timeout)
        outcome = await self.daemon.drive_async(operations.sync(workspace_id, timeout))
        return flushed and bool(outcome["complete"])

    async def storage_status(self) -> dict[str, Any]:
        """How uploads are doing, and whether the bucket is reached."""
        return await self.daemon.drive_async(operations.storage())

    async def wait_uploaded(self, timeout: float = 60.0) -> bool:
        """Waits until all contents are in the bucket. `NoRemoteStore` where they are kept in none."""
        flushed = await asyncio.to_thread(self.flush, timeout)
        outcome = await self.daemon.drive_async(operations.wait_uploaded(timeout))
        return flushed and bool(outcome["complete"]) and bool(outcome["uploaded"])

    async def _clean(self, criteria: Mapping[str, Any]) -> CleanupResult:
        await asyncio.to_thread(self.flush)
        return CleanupResult.of_plans(await self.daemon.drive_async(operations.clean_up(criteria)))

    async def cleanup_artifacts(self, policy: CleanupPolicy | None = None) -> CleanupResult:
        """Cleans up by the policy that was set. Answers how many artifacts were deleted."""
        return await self._clean(self._criteria(policy))

    async def cleanup_artifacts_before(self, cutoff: datetime) -> CleanupResult:
        """Deletes what was made before a moment. A naive one is local time."""
        return await self._clean(before(cutoff))

    async def cleanup_artifacts_by_type(self, artifact_type: str, max_age_days: float | None = None) -> CleanupResult:
        """Deletes artifacts of a type; with an age, only older ones."""
        return await self._clean(by_type(artifact_type, max_age_days))

    async def cleanup_artifacts_by_graph(self, graph_id: str) -> CleanupResult:
        """Deletes what a graph made."""
        return await self._clean({"graph": graph_id})

    async def cleanup_artifacts_with_filter(self, should_delete: Callable[[Artifact], Any]) -> CleanupResult:
        """Deletes what a function says true of. It is asked about everything that is READY or ARCHIVED."""
        await asyncio.to_thread(self.flush)
        deleted = skipped = 0
        query = self._own(ArtifactQuery(state=FILTERED))
        # Listed to the end first: deleting changes the pages that come.
        chosen = [a async for a in self.iter_artifacts(query) if apply_filter(should_delete, a)]
        for artifact in chosen:
            try:
                await self.daemon.drive_async(operations.delete_artifact(str(artifact.id)))
                deleted += 1
            except NOT_SPARED:
                raise
            except SPARED:
                skipped += 1
        return CleanupResult.of(deleted, skipped=skipped)


def absolute(path: str | os.PathLike[str]) -> str:
    return os.path.abspath(os.fspath(path))


FILTERED = (ArtifactState.READY, ArtifactState.ARCHIVED)


def page_of(query: ArtifactQuery, left: int, cursor: str | None) -> str:
    """The query of a page. One that is decided here too may need more than it yields."""
    is_decided_there = not query.metadata_filter
    limit = min(left, operations.PAGE) if left > 0 and is_decided_there else operations.PAGE
    return query.pairs(limit=limit, cursor=cursor)


def by_type(artifact_type: str, max_age_days: float | None) -> dict[str, Any]:
    criteria: dict[str, Any] = {"type": [artifact_type]}
    if max_age_days is not None:
        criteria["older_than_ms"] = days(max_age_days)
    return criteria


def describe(
    metadata: Mapping[str, Any] | None,
    artifact_type: str | None,
    add_labels: Iterable[str],
    add_tags: Iterable[str],
    remove_tags: Iterable[str],
) -> dict[str, Any]:
    """An update in the API's words."""
    change: dict[str, Any] = {
        "labels": {"add": list(add_labels)},
        "tags": {"add": list(add_tags), "remove": list(remove_tags)},
    }
    if metadata is not None:
        change["metadata"] = plain(metadata)
    if artifact_type is not None:
        change["type"] = artifact_type
    return change
