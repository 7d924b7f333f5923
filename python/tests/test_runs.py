"""Commands in the sandbox of a workspace."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import time
from pathlib import Path

import pytest

from belljar import Workspace, errors
from conftest import eventually


def test_a_run_says_how_it_ended_and_what_it_made(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "input" / "data.txt").write_text("the input")
    script = "cat input/data.txt; echo to-stderr >&2; echo made > output/made.txt; exit 7"
    result = workspace.run(["sh", "-c", script], graph_id="g-run")
    assert (result.exit_code, result.reason, result.ok) == (7, "exited", False)
    assert (result.text, result.error_text) == ("the input", "to-stderr\n")
    made = result.artifacts[0]
    assert (len(result.artifacts), made.workspace_path, made.run_id) == (1, "/workspace/output/made.txt", result.run_id)
    assert Path(str(made.path)).read_text() == "made\n"
    assert result.receipt["complete"] is True
    with pytest.raises(errors.RunFailed, match=r"exited with code 7: to-stderr") as caught:
        result.check()
    assert caught.value.result is result


def test_output_comes_while_the_run_goes_on_and_is_masked(workspace: Workspace) -> None:
    secret = "sk-a-very-secret-value"
    workspace.add_secret("KEY", secret)
    workspace.add_secret("OPEN", "openly-known-value", sensitive=False)
    heard: list[tuple[str, bytes]] = []
    # The secret is cut in two by a pause, and printed in base64 too.
    script = (
        "k=$(cat .belljar/secrets/KEY); printf '%s' \"${k%??????}\"; sleep 0.3; printf '%s' \"${k#????????????????}\"; "
        "echo; printf 'x%s' \"$k\" | base64 -w0; echo; cat .belljar/secrets/OPEN; echo $k >&2; echo go; "
        "until [ -e output/go ]; do sleep 0.02; done; echo end"
    )
    run = workspace.start(["sh", "-c", script], on_output=lambda stream, piece: heard.append((stream, piece)))
    eventually("output has come", lambda: b"go\n" in b"".join(piece for _, piece in heard))
    assert "in progress" in repr(run)
    Path(workspace.get_mount("output"), "go").write_text("go")
    result = run.wait(check=True)
    everything = result.stdout + result.stderr + b"".join(piece for _, piece in heard)
    assert secret.encode() not in everything
    assert base64.b64encode(b"x" + secret.encode())[4:20] not in everything
    assert result.text.startswith("***\n")
    assert "openly-known-value" in result.text
    assert result.error_text == "***\n"
    assert result.text.endswith("end\n")


def test_input_variables_and_exposed_paths_reach_the_command(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "tool").mkdir()
    (tmp_path / "tool" / "file").write_text("exposed")
    workspace.set_env("OF_THE_WORKSPACE", "w")
    workspace.add_secret("TOKEN", "token-as-variable")
    script = f"cat; echo $OF_THE_WORKSPACE$OF_THE_RUN ${{#TOKEN}} $PWD; cat {tmp_path}/tool/file"
    result = workspace.run(
        ["sh", "-c", script],
        input="typed ",
        env={"OF_THE_RUN": "r"},
        secret_env=["TOKEN"],
        expose=[tmp_path / "tool"],
        workdir="output",
        check=True,
    )
    assert result.text == "typed wr 17 /workspace/output\nexposed"


def test_a_timeout_ends_the_run(workspace: Workspace) -> None:
    started = time.monotonic()
    result = workspace.run(["sleep", "60"], timeout=0.3)
    assert (result.exit_code, result.reason) == (124, "timeout")
    assert time.monotonic() - started < 20


def test_a_run_is_cancelled_and_signalled(workspace: Workspace) -> None:
    run = workspace.start(["sleep", "60"])
    run.cancel()
    assert run.wait().reason == "cancelled"
    run = workspace.start(["sleep", "60"])
    run.signal(signal.SIGTERM)
    result = run.wait()
    assert (result.reason, result.exit_code) == ("signal", 128 + signal.SIGTERM)


@pytest.mark.asyncio
async def test_cancelling_the_task_ends_the_run(workspace: Workspace) -> None:
    script = "echo begun > output/begun; sleep 60; echo late > output/late"
    task = asyncio.create_task(workspace.run_async(["sh", "-c", script]))
    begun = Path(workspace.get_mount("output"), "begun")
    while not begun.exists():
        await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # A workspace in which something runs cannot be removed.
    for _ in range(300):
        try:
            await asyncio.to_thread(workspace.remove)
            return
        except errors.Conflict:
            await asyncio.sleep(0.05)
    pytest.fail("the run goes on")


def test_many_runs_of_one_workspace_at_a_time(workspace: Workspace) -> None:
    runs = [workspace.start(["sh", "-c", f"echo {n}"]) for n in range(4)]
    assert [run.wait().text for run in runs] == ["0\n", "1\n", "2\n", "3\n"]


def test_what_cannot_be_run_is_an_error_with_its_code(workspace: Workspace) -> None:
    with pytest.raises(errors.CommandNotFound):
        workspace.run(["no-such-program"])
    with pytest.raises(errors.BelljarError, match="memory"):
        workspace.run(["true"], memory_bytes=1)
    # A host without cgroups that can be used refuses the limit, and takes the run when that is accepted by name.
    try:
        assert workspace.run(["true"], memory_bytes=1 << 30).exit_code == 0
        held = True
    except errors.SetupFailed as refusal:
        assert "memory" in str(refusal)
        held = False
    accepted = workspace.run(["true"], memory_bytes=1 << 30, allow_unenforced=["memory"])
    memory = next(layer for layer in accepted.receipt["enforcement"] if layer["name"] == "memory")
    assert memory["in_force"] == held
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(errors.CommandNotFound):
            workspace.run(["no-such-program"])
    assert len(os.listdir("/proc/self/fd")) <= len(before) + 1, "a failed start leaves no descriptor"


INSIDE = """
import asyncio, sys
from belljar import Artifact, ArtifactManager, ArtifactQuery, Workspace, errors
here = Workspace.current()
assert Workspace(here.workspace_id).get_mount("output") == here.get_mount("output") == "/workspace/output"
print(here.get_secret("KEY") == "known-inside-only", here.get_env("MODE"), here.has_secret("NONE"))
path = here.get_mount("output") + "/inside.txt"
open(path, "w").write("inside")
async def main():
    manager = ArtifactManager.get_instance()
    a = await manager.register_artifact(Artifact("said_inside", "log", path, {"by": "the run"}))
    print(a.artifact_id, a.origin, a.metadata["by"], (await manager.get_artifact("said_inside")).artifact_type)
    print(open(a.path).read(), len(await manager.query_artifacts()))
    for forbidden in (manager.delete_artifact("said_inside"), manager.cleanup_artifacts_by_graph("x")):
        try:
            await forbidden
        except errors.Forbidden as error:
            print(error.code)
asyncio.run(main())
try:
    Workspace("another").get_mount("output")
except errors.Forbidden as error:
    print(error.code)
try:
    open("/workspace/input/x", "w")
except OSError as error:
    print(error.errno)
"""


def test_inside_a_sandbox_the_package_speaks_through_the_runs_own_socket(workspace: Workspace) -> None:
    from conftest import SOURCES

    workspace.add_secret("KEY", "known-inside-only")
    workspace.set_env("MODE", "test")
    result = workspace.run(
        ["/usr/bin/python3", "-c", INSIDE],
        expose=[SOURCES],
        env={"PYTHONPATH": str(SOURCES), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert result.error_text == ""
    assert result.text.split("\n") == [
        "True test False",
        "said_inside observed the run log",
        "inside 1",
        "forbidden",
        "forbidden",
        "forbidden",
        "30",
        "",
    ]
