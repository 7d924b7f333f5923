"""The pytest plugin, as a project that uses it meets it."""

from __future__ import annotations

import os

import pytest


def test_the_fixtures_are_isolated_and_leave_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import os, pytest
        from belljar import Artifact, Workspace

        seen = []

        @pytest.mark.asyncio
        @pytest.mark.parametrize("number", [1, 2])
        async def test_one(workspace, artifacts, tmp_path, number):
            (tmp_path / "input" / "data.txt").write_text("given")
            assert open(workspace.get_mount("input") + "/data.txt").read() == "given"
            path = workspace.get_mount("output") + "/x.txt"
            open(path, "w").write("x")
            await artifacts.register_artifact(Artifact(f"one_{number}", path=path))
            assert (tmp_path / "output" / "x.txt").exists()
            found = await artifacts.query_artifacts(workspace_id=workspace.workspace_id)
            assert [a.artifact_id for a in found] == [f"one_{number}"]
            assert workspace.workspace_id not in seen
            seen.append(workspace.workspace_id)

        def test_daemon(belljar_daemon):
            assert belljar_daemon.is_private
            print("DAEMON", belljar_daemon.socket)

        def test_no_spark():
            with pytest.raises(ImportError):
                import spark.graphs
        """
    )
    outcome = pytester.runpytest_subprocess("-q", "-s", "-p", "no:cacheprovider")
    outcome.assert_outcomes(passed=4)
    socket = next(line.split()[-1] for line in outcome.outlines if "DAEMON" in line)
    assert not os.path.exists(os.path.dirname(socket))


def test_sparks_modules_are_importable_when_that_is_configured(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nbelljar_spark = true\n")
    pytester.makepyfile(
        """
        from spark.graphs import Graph
        from spark.graphs.workspace import Workspace, MountPoint
        from spark.nodes import Node

        def test_names():
            import belljar
            assert Workspace is belljar.Workspace
        """
    )
    pytester.runpytest_subprocess("-q").assert_outcomes(passed=1)
