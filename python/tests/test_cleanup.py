"""Clean-up: by policy, by age, by type, by graph, by a function."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from belljar import Artifact, ArtifactManager, ArtifactQuery, ArtifactState, CleanupPolicy, errors

pytestmark = pytest.mark.asyncio


async def register(manager: ArtifactManager, place: Path, graph: str, count: int, kind: str = "file") -> list[Artifact]:
    said = []
    for number in range(count):
        path = place / f"{graph}-{number}"
        path.write_text(f"{graph} {number}")
        said.append(Artifact(f"{graph}_{number}", kind, str(path), {"n": number}, graph_id=graph))
    return list(await asyncio.gather(*manager.register_artifacts(said)))


async def left(manager: ArtifactManager, graph: str, state: str = "READY") -> list[int]:
    found = await manager.query_artifacts(ArtifactQuery(graph_id=graph, state=state))
    return sorted(artifact.metadata["n"] for artifact in found)


async def test_a_policy_keeps_the_newest(artifacts: ArtifactManager, tmp_path: Path) -> None:
    await register(artifacts, tmp_path, "newest", 5)
    artifacts.set_cleanup_policy(CleanupPolicy(max_artifacts=2, graph_id="newest"))
    deleted = await artifacts.cleanup_artifacts()
    assert deleted == 3
    assert isinstance(deleted, int)
    assert f"Deleted {deleted} old" == "Deleted 3 old"
    assert len(await left(artifacts, "newest")) == 2
    assert await artifacts.cleanup_artifacts() == 0


async def test_a_policy_that_archives_first_deletes_in_a_later_clean_up(artifacts: ArtifactManager, tmp_path: Path) -> None:
    await register(artifacts, tmp_path, "archiving", 3)
    policy = CleanupPolicy(max_artifacts=1, archive_before_delete=True, archived_for_days=0, graph_id="archiving")
    first = await artifacts.cleanup_artifacts(policy)
    assert (int(first), first.archived) == (0, 2)
    assert len(await left(artifacts, "archiving", "ARCHIVED")) == 2
    await asyncio.sleep(0.01)
    assert await artifacts.cleanup_artifacts(policy) == 2


async def test_without_a_policy_there_is_nothing_to_go_by() -> None:
    with pytest.raises(ValueError, match="set_cleanup_policy"):
        await ArtifactManager().cleanup_artifacts()


async def test_what_was_made_before_a_moment_goes(artifacts: ArtifactManager, tmp_path: Path) -> None:
    early = await register(artifacts, tmp_path, "early", 2)
    made = max(artifact.created_at for artifact in early if artifact.created_at)
    await asyncio.sleep(0.01)
    await register(artifacts, tmp_path, "late", 2)
    assert await artifacts.cleanup_artifacts_before(datetime.now() - timedelta(days=30)) == 0
    # Naive and local, as datetime.now() is.
    cutoff = (made + timedelta(microseconds=1)).astimezone().replace(tzinfo=None)
    assert await artifacts.cleanup_artifacts_before(cutoff) >= 2
    assert await left(artifacts, "early") == []
    assert await left(artifacts, "late") == [0, 1]


async def test_a_type_or_a_graph_goes_and_its_neighbours_stay(artifacts: ArtifactManager, tmp_path: Path) -> None:
    await register(artifacts, tmp_path, "kept", 2, "log")
    await register(artifacts, tmp_path, "typed", 2, "special-temp")
    assert await artifacts.cleanup_artifacts_by_type("special-temp", max_age_days=7) == 0
    assert await artifacts.cleanup_artifacts_by_type("special-temp") == 2
    await register(artifacts, tmp_path, "old_graph", 3, "log")
    assert await artifacts.cleanup_artifacts_by_graph("old_graph") == 3
    assert await left(artifacts, "kept") == [0, 1]


async def test_a_function_is_asked_about_everything_and_a_pin_is_spared(artifacts: ArtifactManager, tmp_path: Path) -> None:
    await register(artifacts, tmp_path, "asked", 5)
    await artifacts.archive_artifact("asked_4")
    await artifacts.pin_artifact("asked_0")
    result = await artifacts.cleanup_artifacts_with_filter(lambda a: a.graph_id == "asked" and a.metadata["n"] != 2)
    assert (int(result), result.skipped) == (3, 1)
    assert await left(artifacts, "asked") == [0, 2]
    restored = await artifacts.restore_artifact("asked_4")
    assert restored.state is ArtifactState.READY


async def test_a_policy_with_an_interval_is_kept_by_the_daemon(artifacts: ArtifactManager, tmp_path: Path) -> None:
    await register(artifacts, tmp_path, "by_itself", 3)
    artifacts.set_cleanup_policy(CleanupPolicy(max_artifacts=1, graph_id="by_itself"), every=1, name="soon")
    for _ in range(300):
        if len(await left(artifacts, "by_itself")) == 1:
            artifacts.remove_cleanup_policy("soon")
            with pytest.raises(errors.PolicyNotFound):
                artifacts.remove_cleanup_policy("soon")
            return
        await asyncio.sleep(0.1)
    pytest.fail("the daemon did not clean up by itself")
