"""The API as it is, by both clients."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from belljar import Artifact, ArtifactManager, ArtifactQuery, AsyncClient, Client, Workspace, errors


@pytest.mark.asyncio
async def test_both_clients_answer_the_same(workspace: Workspace, artifacts: ArtifactManager, tmp_path: Path) -> None:
    workspace.get_mount("output")
    data = os.urandom(2 << 20)
    (tmp_path / "data.bin").write_bytes(data)
    await artifacts.register_artifact(Artifact("of_clients", "data", str(tmp_path / "data.bin"), graph_id="clients"))
    query = ArtifactQuery(graph_id="clients")
    with Client() as blocking:
        async with AsyncClient() as asynchronous:
            assert blocking.status()["pid"] == (await asynchronous.status())["pid"]
            wanted = workspace.workspace_id
            assert blocking.workspace(wanted) == await asynchronous.workspace(wanted)
            assert blocking.workspaces() == await asynchronous.workspaces()
            assert blocking.artifact("of_clients") == await asynchronous.artifact("of_clients")
            assert list(blocking.artifacts(query)) == [raw async for raw in asynchronous.artifacts(query)]
            assert b"".join(blocking.content("of_clients")) == data
            assert b"".join([piece async for piece in asynchronous.content("of_clients")]) == data
            assert blocking.events("of_clients") == await asynchronous.events("of_clients")
            assert blocking.call("GET", "/version") == await asynchronous.call("GET", "/version")
            assert blocking.call("PATCH", "/v1/artifacts/of_clients", {"tags": {"add": ["seen"]}})["tags"] == ["seen"]
            for client in (blocking, asynchronous):
                with pytest.raises(errors.NoSuchRoute):
                    outcome = client.call("GET", "/v1/nothing")
                    if asyncio.iscoroutine(outcome):
                        await outcome
                assert "belljar.sock" in repr(client)
            with pytest.raises(errors.ArtifactNotFound):
                list(blocking.content("of_nobody"))
            with pytest.raises(errors.ArtifactNotFound):
                [piece async for piece in asynchronous.content("of_nobody")]
    names = {name for name in dir(Client) if not name.startswith("_")}
    assert names == {name for name in dir(AsyncClient) if not name.startswith("_")}


@pytest.mark.asyncio
async def test_a_workspace_is_removed_by_its_name(workspace: Workspace) -> None:
    workspace.get_mount("output")
    Client().remove_workspace(workspace.workspace_id)
    with pytest.raises(errors.WorkspaceNotFound):
        await AsyncClient().remove_workspace(workspace.workspace_id)
