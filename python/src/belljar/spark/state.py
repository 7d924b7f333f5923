"""What the nodes of a graph share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any


class GraphState:
    """Values by key, in memory, for as long as the graph lives: also from one run of it to the next."""

    def __init__(self, initial: Mapping[str, Any] | None = None) -> None:
        self._values: dict[str, Any] = dict(initial or {})
        self._lock: asyncio.Lock | None = None

    async def get(self, key: str, default: Any = None) -> Any:
        return self._values.get(key, default)

    async def set(self, key: str, value: Any) -> None:
        self._values[key] = value

    async def update(self, values: Mapping[str, Any]) -> None:
        self._values.update(values)

    async def delete(self, key: str) -> None:
        self._values.pop(key, None)

    async def has(self, key: str) -> bool:
        return key in self._values

    async def keys(self) -> list[str]:
        return list(self._values)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[dict[str, Any]]:
        """A copy to change, which is taken over when nothing was raised; one at a time."""
        if self._lock is None:
            self._lock = asyncio.Lock()
        async with self._lock:
            changed = dict(self._values)
            yield changed
            self._values = changed

    def get_snapshot(self) -> dict[str, Any]:
        return dict(self._values)

    def __getstate__(self) -> dict[str, Any]:
        # A lock belongs to an event loop of this process.
        return {"_values": self._values, "_lock": None}

    def __repr__(self) -> str:
        return f"GraphState({sorted(self._values)})"
