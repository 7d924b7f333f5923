"""The API as typed calls, for programs that want it as it is. `Client` blocks, `AsyncClient` does not; the names are the same."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

from . import _daemon
from . import _operations as operations
from ._daemon import Daemon
from ._operations import Wire
from ._protocol import Call, Operation
from .query import ArtifactQuery


def _daemon_of(socket: str | os.PathLike[str] | None) -> Daemon:
    return Daemon(socket) if socket is not None else _daemon.default()


class Client:
    """A daemon, by its socket; without one it is found as the command line finds it."""

    def __init__(self, socket: str | os.PathLike[str] | None = None) -> None:
        self.daemon = _daemon_of(socket)

    def status(self) -> Wire:
        return self.daemon.drive(operations.status())

    def workspaces(self) -> list[Wire]:
        return self.daemon.drive(operations.workspaces())

    def workspace(self, workspace_id: str) -> Wire:
        return self.daemon.drive(operations.workspace(workspace_id))

    def remove_workspace(self, workspace_id: str) -> None:
        self.daemon.drive(operations.remove_workspace(workspace_id))

    def artifact(self, reference: str) -> Wire:
        return self.daemon.drive(operations.artifact(reference))

    def artifacts(self, query: ArtifactQuery | None = None) -> Iterator[Wire]:
        """Page after page. What only Python can decide of a query is for the manager."""
        cursor: str | None = None
        while True:
            pairs = (query or ArtifactQuery()).pairs(limit=operations.PAGE, cursor=cursor)
            page, cursor = self.daemon.drive(operations.artifact_page(pairs))
            yield from page
            if cursor is None:
                return

    def content(self, reference: str) -> Iterator[bytes]:
        return self.daemon.stream(operations.content(reference))

    def events(self, reference: str | None = None, *, after: int | None = None, limit: int = 100) -> tuple[list[Wire], int]:
        return self.daemon.drive(operations.event_page(reference, after, limit))

    def call(self, method: str, path: str, body: Wire | None = None) -> Any:
        """Any other route, by its path; not repeated when the daemon goes away meanwhile, unless it is a GET."""
        return self.daemon.drive(_plain_call(method, path, body))

    def close(self) -> None:
        self.daemon.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.daemon!r})"


class AsyncClient:
    """The same for asynchronous code."""

    def __init__(self, socket: str | os.PathLike[str] | None = None) -> None:
        self.daemon = _daemon_of(socket)

    async def status(self) -> Wire:
        return await self.daemon.drive_async(operations.status())

    async def workspaces(self) -> list[Wire]:
        return await self.daemon.drive_async(operations.workspaces())

    async def workspace(self, workspace_id: str) -> Wire:
        return await self.daemon.drive_async(operations.workspace(workspace_id))

    async def remove_workspace(self, workspace_id: str) -> None:
        await self.daemon.drive_async(operations.remove_workspace(workspace_id))

    async def artifact(self, reference: str) -> Wire:
        return await self.daemon.drive_async(operations.artifact(reference))

    async def artifacts(self, query: ArtifactQuery | None = None) -> AsyncIterator[Wire]:
        cursor: str | None = None
        while True:
            pairs = (query or ArtifactQuery()).pairs(limit=operations.PAGE, cursor=cursor)
            page, cursor = await self.daemon.drive_async(operations.artifact_page(pairs))
            for raw in page:
                yield raw
            if cursor is None:
                return

    def content(self, reference: str) -> AsyncIterator[bytes]:
        return self.daemon.stream_async(operations.content(reference))

    async def events(self, reference: str | None = None, *, after: int | None = None, limit: int = 100) -> tuple[list[Wire], int]:
        return await self.daemon.drive_async(operations.event_page(reference, after, limit))

    async def call(self, method: str, path: str, body: Wire | None = None) -> Any:
        return await self.daemon.drive_async(_plain_call(method, path, body))

    async def close(self) -> None:
        await self.daemon.close_async()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({self.daemon!r})"


def _plain_call(method: str, path: str, body: Wire | None) -> Operation[Any]:
    answer = yield Call(method, path, body, idempotent=method == "GET")
    return answer.json() if answer.body else None
