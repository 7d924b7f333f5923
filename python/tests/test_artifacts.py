"""Artifacts: registered by word or by being written, found, changed, fetched."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

import belljar.sync
from belljar import (
    Artifact,
    ArtifactManager,
    ArtifactQuery,
    ArtifactState,
    ArtifactVersion,
    Workspace,
    errors,
)

pytestmark = pytest.mark.asyncio


async def test_a_captured_file_that_is_registered_is_one_artifact_enriched(
    workspace: Workspace, artifacts: ArtifactManager
) -> None:
    path = f"{workspace.get_mount('output')}/table.csv"
    Path(path).write_text("a,b\n1,2\n3,4\n")
    said = Artifact("table_one", "data", path, {"source": "test"}, version="v1", graph_id="g-enriched", tags=["t"])
    registered = await artifacts.register_artifact(said)
    assert said.id == registered.id is not None
    found = await artifacts.query_artifacts(ArtifactQuery(workspace_id=workspace.workspace_id))
    assert [a.artifact_id for a in found] == ["table_one"]
    assert found[0].metadata["source"] == "test"
    assert found[0].metadata["rows"] == 2, "what was seen of the content stays"
    assert (found[0].version, found[0].version_number, found[0].tags) == ("v1", 1, ("t",))
    assert found[0].graph_id == "g-enriched"
    assert found[0].origin == "observed"


async def test_a_file_by_its_host_path_is_the_same_artifact(
    workspace: Workspace, artifacts: ArtifactManager, tmp_path: Path
) -> None:
    Path(workspace.get_mount("output"), "x.txt").write_text("x")
    first = await artifacts.register_artifact(Artifact("by_mount", path=f"{workspace.get_mount('output')}/x.txt"))
    second = await artifacts.register_artifact(Artifact("by_host", path=str(tmp_path / "output" / "x.txt")))
    assert (first.id, first.version_number) == (second.id, second.version_number)
    assert set(second.aliases) == {"by_mount", "by_host"}


async def test_a_file_outside_of_every_workspace_is_registered_with_its_bytes(artifacts: ArtifactManager, tmp_path: Path) -> None:
    path = tmp_path / "outside.json"
    path.write_text('{"a": 1}')
    registered = await artifacts.register_artifact(Artifact("outside_one", path=str(path)))
    assert registered.origin == "declared"
    assert registered.workspace_id is None
    path.unlink()
    assert await artifacts.read_artifact("outside_one") == b'{"a": 1}'


async def test_what_a_workspace_ignores_is_registered_with_its_bytes(workspace: Workspace, artifacts: ArtifactManager) -> None:
    path = Path(workspace.get_mount("output"), "scratch.tmp")
    path.write_text("not captured by itself")
    registered = await artifacts.register_artifact(Artifact("ignored_one", path=str(path)))
    assert await artifacts.read_artifact("ignored_one") == b"not captured by itself"
    assert registered.workspace_id == workspace.workspace_id


async def test_a_registration_that_nobody_awaits_is_done_too(workspace: Workspace, artifacts: ArtifactManager) -> None:
    path = f"{workspace.get_mount('output')}/plain.txt"
    Path(path).write_text("plain")
    artifacts.register_artifact(Artifact("called_plainly", path=path))
    assert artifacts.flush()
    assert (await artifacts.get_artifact("called_plainly")).state is ArtifactState.READY


async def test_what_is_registered_is_what_was_there_at_the_call(artifacts: ArtifactManager, tmp_path: Path) -> None:
    path = tmp_path / "gone.txt"
    path.write_text("as it was")
    said = Artifact("gone_one", path=str(path), metadata={"n": 1})
    registration = artifacts.register_artifact(said)
    said.metadata["n"] = 2
    path.unlink()
    registered = await registration
    assert registered.metadata["n"] == 1
    assert await artifacts.read_artifact("gone_one") == b"as it was"


async def test_a_failure_is_raised_to_who_awaits_and_logged_for_who_does_not(
    artifacts: ArtifactManager, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, logger="belljar"):
        with pytest.raises(errors.NoContent) as caught:
            await artifacts.register_artifact(Artifact("missing_awaited", path=str(tmp_path / "missing")))
        assert caught.value.code == "no-content"
        assert not caplog.records
        artifacts.register_artifact(Artifact("missing_called", path=str(tmp_path / "missing")))
        artifacts.flush()
        gc.collect()
    assert [record for record in caplog.records if "missing_called" in record.getMessage()]


async def test_one_that_is_not_understood_does_not_take_the_others_with_it(artifacts: ArtifactManager, tmp_path: Path) -> None:
    said = []
    for number in range(6):
        path = tmp_path / f"{number}.txt"
        path.write_text(str(number))
        said.append(Artifact("bad@alias" if number == 3 else f"together_{number}", path=str(path)))
    outcomes = await asyncio.gather(*artifacts.register_artifacts(said), return_exceptions=True)
    assert isinstance(outcomes[3], errors.InvalidRequest)
    assert [o.artifact_id for o in outcomes if isinstance(o, Artifact)] == [f"together_{n}" for n in (0, 1, 2, 4, 5)]


async def test_many_are_awaited_together_and_the_first_refusal_is_raised(artifacts: ArtifactManager, tmp_path: Path) -> None:
    said = []
    for number in range(300):
        path = tmp_path / f"{number}.txt"
        path.write_text(str(number))
        said.append(Artifact(f"all_{number}", path=str(path)))
    registered = await artifacts.register_artifacts(said)
    assert [o.artifact_id for o in registered] == [f"all_{n}" for n in range(300)]
    assert artifacts.register_artifacts(said).results(30)[299].id == registered[299].id
    mixed = artifacts.register_artifacts([said[0], Artifact("no_file", path=str(tmp_path / "missing")), said[1]])
    with pytest.raises(errors.NoContent):
        await mixed
    assert [mixed[0].result(30).id, mixed[2].result(30).id] == [registered[0].id, registered[1].id]


async def test_who_stops_waiting_for_one_takes_no_other_with_it(artifacts: ArtifactManager, tmp_path: Path) -> None:
    said = []
    for number in range(100):
        path = tmp_path / f"{number}.txt"
        path.write_text(str(number))
        said.append(Artifact(f"waiting_{number}", path=str(path)))
    going = artifacts.register_artifacts(said)
    waiting = [asyncio.ensure_future(one) for one in going]
    await asyncio.sleep(0)
    waiting[3].cancel()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(outcomes[3], asyncio.CancelledError)
    assert [o for o in outcomes[:3] + outcomes[4:] if not isinstance(o, Artifact)] == []
    assert (await going[3]).artifact_id == "waiting_3"


async def test_several_event_loops_wait_for_one_registration(artifacts: ArtifactManager, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("x")
    registration = artifacts.register_artifact(Artifact("several_loops", path=str(path)))

    async def wait() -> str | None:
        return (await registration).id

    found = await asyncio.gather(*(asyncio.to_thread(asyncio.run, wait()) for _ in range(3)))
    assert len(set(found)) == 1 and registration.result(30).id == found[0]


async def test_what_is_too_much_for_one_request_travels_in_several(artifacts: ArtifactManager, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    # The daemon takes 8 MiB at once, and 64 KiB of metadata for each.
    said = []
    for number in range(160):
        path = tmp_path / f"{number}.txt"
        path.write_text(str(number))
        said.append(Artifact(None, "much", str(path), {"text": "t" * 60_000, "n": number}, graph_id="much"))
    outcomes = await asyncio.gather(*artifacts.register_artifacts(said), return_exceptions=True)
    assert [o for o in outcomes if not isinstance(o, Artifact)] == []
    (tmp_path / "huge").write_text("huge")
    with pytest.raises(errors.TooLarge) as caught:
        await artifacts.register_artifact(Artifact(None, "much", str(tmp_path / "huge"), {"text": "t" * 70_000}))
    assert caught.value.code == "metadata-too-large"


async def test_more_are_registered_than_descriptors_can_be_had(tmp_path: Path) -> None:
    said = []
    for number in range(300):
        path = tmp_path / f"{number}.txt"
        path.write_text(str(number))
        said.append(Artifact(None, "few", str(path), {"n": number}))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 40, hard))
    try:
        outcomes = await asyncio.gather(*ArtifactManager().register_artifacts(said), return_exceptions=True)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [o for o in outcomes if not isinstance(o, Artifact)] == []
    assert sum(o.size for o in outcomes if isinstance(o, Artifact)) == sum(len(str(n)) for n in range(300))


@pytest.mark.parametrize("bad", [{"f": object()}, {"n": float("nan")}])
async def test_metadata_that_is_not_json_is_refused_at_the_call(
    artifacts: ArtifactManager, tmp_path: Path, bad: dict[str, object]
) -> None:
    (tmp_path / "x").write_text("x")
    with pytest.raises((TypeError, ValueError)):
        artifacts.register_artifact(Artifact("never", path=str(tmp_path / "x"), metadata=bad))


async def test_a_name_that_is_taken_moves_only_when_told_to(artifacts: ArtifactManager, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    first = await artifacts.register_artifact(Artifact("moving", path=str(tmp_path / "one")))
    with pytest.raises(errors.AliasTaken):
        await artifacts.register_artifact(Artifact("moving", path=str(tmp_path / "two")))
    moved = await artifacts.register_artifact(Artifact("moving", path=str(tmp_path / "two")), move_alias=True)
    assert moved.id != first.id
    assert (await artifacts.get_artifact("moving")).id == moved.id


async def test_an_artifact_is_held_until_it_is_ready_then_archived_and_deleted(
    artifacts: ArtifactManager, tmp_path: Path
) -> None:
    path = tmp_path / "results.json"
    held = await artifacts.register_artifact(Artifact("held_one", "data", str(path), state=ArtifactState.CREATING))
    assert held.state is ArtifactState.CREATING
    path.write_text("[]")
    ready = await artifacts.update_artifact_state(artifact_id="held_one", state=ArtifactState.READY)
    assert (ready.state, ready.size) == (ArtifactState.READY, 2)
    assert (await artifacts.archive_artifact("held_one")).state is ArtifactState.ARCHIVED
    assert (await artifacts.update_artifact_state("held_one", "READY")).state is ArtifactState.READY
    assert (await artifacts.delete_artifact("held_one")).state is ArtifactState.DELETED
    with pytest.raises(errors.ArtifactDeleted):
        await artifacts.read_artifact("held_one")
    assert (await artifacts.restore_artifact("held_one")).state is ArtifactState.READY
    with pytest.raises(errors.IllegalTransition):
        await artifacts.update_artifact_state("held_one", ArtifactState.CREATING)


async def test_what_a_file_held_in_a_workspace_becomes_is_what_was_written_there(
    workspace: Workspace, artifacts: ArtifactManager
) -> None:
    path = Path(workspace.get_mount("output"), "later.txt")
    await artifacts.register_artifact(Artifact("later_one", path=str(path), state="CREATING"))
    path.write_text("written later")
    ready = await artifacts.update_artifact_state("later_one", ArtifactState.READY)
    assert ready.state is ArtifactState.READY
    assert await artifacts.read_artifact("later_one") == b"written later"


async def test_the_path_opens_the_file_and_after_a_change_a_copy_of_what_was_registered(
    workspace: Workspace, artifacts: ArtifactManager
) -> None:
    path = Path(workspace.get_mount("output"), "report.txt")
    path.write_text("first")
    await artifacts.register_artifact(Artifact("report_path", "report", str(path)))
    artifact = await artifacts.get_artifact("report_path@1")
    assert artifact.path == artifact.host_path
    assert Path(str(artifact.path)).read_text() == "first"
    path.write_text("other")
    assert artifact.path != artifact.host_path
    assert Path(str(artifact.path)).read_text() == "first"
    with pytest.raises(OSError):
        if os.geteuid() == 0:
            # Root writes what it likes; what counts is the mode.
            assert os.stat(str(artifact.path)).st_mode & 0o222 == 0
            raise PermissionError
        open(str(artifact.path), "w")
    path.unlink()
    assert Path(str(artifact.path)).read_text() == "first"


async def test_versions_are_numbered_and_can_be_told_apart(workspace: Workspace, artifacts: ArtifactManager) -> None:
    path = Path(workspace.get_mount("output"), "model.bin")
    for number in (1, 2, 3):
        path.write_text(f"model {number}")
        await artifacts.register_artifact(Artifact("model_versions", "model", str(path), version=f"r{number}"))
    versions = await artifacts.get_versions("model_versions")
    assert all(isinstance(version, ArtifactVersion) for version in versions)
    assert [(v.number, v.labels) for v in versions] == [(3, ("r3",)), (2, ("r2",)), (1, ("r1",))]
    assert await artifacts.read_artifact(versions[-1].reference) == b"model 1"
    assert await artifacts.read_artifact("model_versions@label:r2") == b"model 2"


async def test_a_content_is_written_to_a_file_whole_or_not_at_all(artifacts: ArtifactManager, tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    (tmp_path / "big.bin").write_bytes(data)
    await artifacts.register_artifact(Artifact("big_one", path=str(tmp_path / "big.bin")))
    target = tmp_path / "copy.bin"
    assert await artifacts.download_artifact("big_one", str(target)) == str(target)
    assert target.read_bytes() == data
    with pytest.raises(errors.ArtifactNotFound):
        await artifacts.download_artifact("never_was", str(tmp_path / "none.bin"))
    assert sorted(entry.name for entry in tmp_path.iterdir() if "belljar" in entry.name or "none" in entry.name) == []


async def register_models(artifacts: ArtifactManager, place: Path, graph: str, accuracies: list[object]) -> None:
    said = []
    for number, accuracy in enumerate(accuracies):
        path = place / f"{graph}-{number}.pkl"
        path.write_text(f"{graph} {number}")
        metadata = {} if accuracy is None else {"accuracy": accuracy, "nested": {"depth": number}, "a.b": number}
        said.append(Artifact(f"{graph}_{number}", "model", str(path), metadata, graph_id=graph))
    await asyncio.gather(*artifacts.register_artifacts(said))


async def test_metadata_is_filtered_by_values_and_by_functions(artifacts: ArtifactManager, tmp_path: Path) -> None:
    await register_models(artifacts, tmp_path, "filtered", [0.95, 0.5, None, 0.91, "high"])

    async def names(**wanted: object) -> list[str | None]:
        found = await artifacts.query_artifacts(ArtifactQuery(graph_id="filtered", metadata_filter=wanted))
        return sorted(artifact.artifact_id or "" for artifact in found)

    above = lambda x: isinstance(x, float) and x > 0.9
    assert await names(accuracy=above) == ["filtered_0", "filtered_3"]
    assert await names(accuracy="high") == ["filtered_4"]
    assert await names(accuracy=0.5) == ["filtered_1"]
    assert await names(accuracy=lambda x: True) == ["filtered_0", "filtered_1", "filtered_3", "filtered_4"]
    assert await names(accuracy=above, nested={"depth": 3}) == ["filtered_3"]
    assert await names(**{"nested.depth": 1}) == ["filtered_1"]
    assert await names(**{"a.b": lambda x: x == 3}) == ["filtered_3"]
    with pytest.raises(errors.FilterFailed, match="filtered_4") as caught:
        await names(accuracy=lambda x: x > 0.9)
    assert isinstance(caught.value.__cause__, TypeError)


async def test_a_naive_time_is_local_time(artifacts: ArtifactManager, tmp_path: Path) -> None:
    (tmp_path / "now.txt").write_text("now")
    await artifacts.register_artifact(Artifact("timed_one", path=str(tmp_path / "now.txt"), graph_id="timed"))

    async def found(**when: datetime) -> int:
        return len(await artifacts.query_artifacts(graph_id="timed", **when))

    now = datetime.now()
    assert await found(created_after=now - timedelta(minutes=1)) == 1
    assert await found(created_after=now + timedelta(minutes=1)) == 0
    assert await found(created_before=now + timedelta(minutes=1)) == 1
    assert await found(created_after=datetime.now(timezone.utc) - timedelta(minutes=1)) == 1


async def test_more_than_a_page_comes_whole_and_a_limit_is_kept(artifacts: ArtifactManager, tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    said = []
    for number in range(1100):
        path = tmp_path / "many" / f"{number}.txt"
        path.write_text(str(number))
        said.append(Artifact(None, "many", str(path), {"n": number}, graph_id="many"))
    artifacts.register_artifacts(said)
    artifacts.flush(120)
    found = await artifacts.query_artifacts(graph_id="many")
    assert sorted(a.metadata["n"] for a in found) == list(range(1100))
    few = ArtifactQuery(graph_id="many", metadata_filter={"n": lambda n: n % 2 == 0}, limit=7)
    assert len(await artifacts.query_artifacts(few)) == 7


async def test_what_is_said_can_be_changed_and_a_pin_protects(artifacts: ArtifactManager, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("x")
    await artifacts.register_artifact(Artifact("changed_one", path=str(tmp_path / "x.txt"), metadata={"a": 1, "b": 2}))
    changed = await artifacts.update_artifact("changed_one", metadata={"b": None, "c": 3}, add_tags=["best"])
    assert (changed.metadata["a"], "b" in changed.metadata, changed.metadata["c"]) == (1, False, 3)
    assert changed.tags == ("best",)
    assert (await artifacts.pin_artifact("changed_one")).pinned
    with pytest.raises(errors.ArtifactPinned):
        await artifacts.delete_artifact("changed_one")
    assert not (await artifacts.pin_artifact("changed_one", pinned=False)).pinned


async def test_the_manager_is_one_for_the_process_and_its_twin_has_the_same_names(artifacts: ArtifactManager) -> None:
    assert ArtifactManager.get_instance() is artifacts
    twin = belljar.sync.ArtifactManager
    assert twin.get_instance() is twin.get_instance()
    names = {name for name in dir(ArtifactManager) if not name.startswith("_")}
    assert names == {name for name in dir(twin) if not name.startswith("_")}


async def test_the_blocking_manager_does_the_same(workspace: Workspace, tmp_path: Path) -> None:
    def use() -> None:
        manager = belljar.sync.ArtifactManager.get_instance()
        path = Path(workspace.get_mount("output"), "blocking.txt")
        path.write_text("blocking")
        registered = manager.register_artifact(Artifact("blocking_one", "log", str(path))).result(30)
        assert manager.get_artifact("blocking_one") == registered
        assert [a.artifact_id for a in manager.query_artifacts(workspace_id=workspace.workspace_id)] == ["blocking_one"]
        assert manager.read_artifact("blocking_one") == b"blocking"
        assert Path(manager.download_artifact("blocking_one", tmp_path / "d")).read_text() == "blocking"
        assert manager.archive_artifact("blocking_one").state is ArtifactState.ARCHIVED
        assert manager.update_artifact_state("blocking_one", ArtifactState.READY).state is ArtifactState.READY
        assert [v.number for v in manager.get_versions("blocking_one")] == [1]
        assert manager.sync(workspace.workspace_id)
        assert manager.cleanup_artifacts_with_filter(lambda a: a.artifact_id == "blocking_one") == 1

    await asyncio.to_thread(use)
