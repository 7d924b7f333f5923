"""Workspaces: mount points, secrets, variables, and their end."""

from __future__ import annotations

import errno
import gc
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest

from belljar import Client, MountPoint, Workspace, errors
from conftest import eventually


def ids() -> list[str]:
    return [found["id"] for found in Client().workspaces()]


def test_a_workspace_that_nobody_uses_is_never_made(tmp_path: Path) -> None:
    made = Workspace("unused", [MountPoint("output", str(tmp_path / "later"), mode="rw")])
    made.add_secret("KEY", "value-of-the-key")
    made.set_env("NAME", "value")
    assert made.get_secret("KEY") == "value-of-the-key"
    assert made.get_env("NAME") == "value"
    assert not made.is_mounted
    assert "unused" not in ids()
    assert not (tmp_path / "later").exists()


def test_writing_to_a_read_only_mount_is_erofs_in_this_process(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "input" / "there.txt").write_text("there")
    mount = workspace.get_mount("input")
    assert Path(mount, "there.txt").read_text() == "there"
    attempts = [
        lambda: open(f"{mount}/new.txt", "w"),
        lambda: open(f"{mount}/there.txt", "a"),
        lambda: os.unlink(f"{mount}/there.txt"),
        lambda: os.mkdir(f"{mount}/d"),
        lambda: os.rename(f"{mount}/there.txt", f"{mount}/away.txt"),
        lambda: os.chmod(f"{mount}/there.txt", 0o600),
    ]
    for attempt in attempts:
        with pytest.raises(OSError) as caught:
            attempt()
        assert caught.value.errno == errno.EROFS
    assert (tmp_path / "input" / "there.txt").read_text() == "there"


def test_what_is_written_to_a_read_write_mount_is_in_the_host_directory(workspace: Workspace, tmp_path: Path) -> None:
    path = Path(workspace.get_mount("output"), "deep", "x.txt")
    path.parent.mkdir()
    path.write_text("written")
    assert (tmp_path / "output" / "deep" / "x.txt").read_text() == "written"
    assert workspace.get_mount("output") is workspace.get_mount("output")


def test_an_unknown_mount_point_is_named_with_those_that_there_are(workspace: Workspace) -> None:
    with pytest.raises(errors.MountNotFound, match=r"no mount point 'out'; it has input, output"):
        workspace.get_mount("out")


def test_a_directory_that_is_not_there_is_made_when_it_is_written_and_refused_when_it_is_read(tmp_path: Path) -> None:
    with Workspace(mount_points=[MountPoint("output", str(tmp_path / "a" / "b"), mode="rw")]) as made:
        Path(made.get_mount("output"), "x").write_text("x")
    assert (tmp_path / "a" / "b" / "x").read_text() == "x"
    missing = Workspace(mount_points=[MountPoint("input", str(tmp_path / "missing"))])
    with pytest.raises(errors.MountUnavailable, match=r"mount input: open .*/missing"):
        missing.get_mount("input")
    assert not (tmp_path / "missing").exists()


@pytest.mark.pure
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MountPoint("a", "relative"), "absolute"),
        (lambda: MountPoint(".a", "/x"), "mount name '.a'"),
        (lambda: MountPoint("a", "/x", "wr"), "'ro' or 'rw'"),
        (lambda: Workspace("a/b"), "workspace id 'a/b'"),
        (lambda: Workspace("x" * 65), "64"),
        (lambda: Workspace(mount_points=[MountPoint("a", "/x"), MountPoint("a", "/y")]), "used twice"),
        (lambda: Workspace().add_secret("A-B", "x"), "secret name 'A-B'"),
        (lambda: Workspace().set_env("1A", "x"), "variable name '1A'"),
    ],
)
def test_a_mistake_is_named_where_it_is_made(make: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()  # type: ignore[operator]


def test_secrets_are_given_replaced_and_taken_away(workspace: Workspace) -> None:
    workspace.add_secret("EARLY", "before-it-is-mounted")
    workspace.get_mount("output")
    workspace.add_secret("LATE", "after-it-is-mounted")
    workspace.add_secret("LATE", "replaced")
    other = Workspace.attach(workspace.workspace_id)
    assert (other.get_secret("EARLY"), other.get_secret("LATE")) == ("before-it-is-mounted", "replaced")
    assert other.secrets == ("EARLY", "LATE")
    workspace.remove_secret("LATE")
    assert not workspace.has_secret("LATE")
    assert workspace.get_secret("LATE", "fallback") == "fallback"
    assert workspace.get_secret("LATE") is None
    with pytest.raises(errors.SecretNotFound) as caught:
        workspace.remove_secret("LATE")
    assert caught.value.code == "secret-not-found"


def test_no_representation_shows_a_secret(workspace: Workspace) -> None:
    workspace.add_secret("KEY", "sk-never-to-be-seen")
    workspace.get_mount("output")
    shown = [repr(workspace), str(workspace), str(workspace.describe()), repr(vars(workspace)["_hold"])]
    shown.append(repr(pickle.dumps(workspace)))
    assert "KEY" in shown[0]
    assert not [text for text in shown if "sk-never" in text]


def test_variables_belong_to_their_workspace_alone(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_PROCESS", "x")
    workspace.set_env("MODE", "early")
    workspace.get_mount("output")
    workspace.set_env("MODE", "late")
    assert workspace.env() == {"MODE": "late"}
    assert "MODE" not in os.environ
    assert workspace.get_env("OF_THE_PROCESS", "default") == "default"
    assert Workspace.attach(workspace.workspace_id).get_env("MODE") == "late"
    workspace.unset_env("MODE")
    assert workspace.get_env("MODE") is None


def test_a_workspace_ends_when_it_is_closed_and_cannot_be_used_afterwards(tmp_path: Path) -> None:
    made = Workspace("closing", [MountPoint("output", str(tmp_path), mode="rw")])
    mount = made.get_mount("output")
    made.close()
    assert "closing" not in ids()
    assert not os.path.exists(mount)
    with pytest.raises(errors.WorkspaceClosed):
        made.get_mount("output")


@pytest.mark.asyncio
async def test_cleaning_up_can_be_awaited_and_the_workspace_comes_back(tmp_path: Path) -> None:
    made = Workspace("again", [MountPoint("output", str(tmp_path), mode="rw")])
    made.add_secret("KEY", "kept-by-the-program")
    made.get_mount("output")
    await made.cleanup()
    assert "again" not in ids()
    assert os.path.isdir(made.get_mount("output"))
    assert Workspace.attach("again").get_secret("KEY") == "kept-by-the-program"
    made.close()


def test_a_workspace_that_is_forgotten_ends_and_its_name_is_free_for_other_directories(tmp_path: Path) -> None:
    for name in ("first", "second"):
        made = Workspace("test", [MountPoint("output", str(tmp_path / name), mode="rw")])
        Path(made.get_mount("output"), "x").write_text(name)
        assert (tmp_path / name / "x").read_text() == name
        # The next one comes without this one being closed.
    del made
    gc.collect()
    eventually("it has ended", lambda: "test" not in ids())


def test_a_name_is_free_at_once_when_its_workspace_was_forgotten(tmp_path: Path) -> None:
    # Without waiting for the end of the one before, the daemon would say that it is still held.
    for number in range(5):
        made = Workspace("often", [MountPoint("output", str(tmp_path / str(number)), mode="rw")])
        Path(made.get_mount("output"), "x").write_text(str(number))
        del made
        gc.collect()
    assert [(tmp_path / str(number) / "x").read_text() for number in range(5)] == ["0", "1", "2", "3", "4"]


def test_of_two_with_one_name_the_last_that_was_used_is_mounted(tmp_path: Path) -> None:
    a = Workspace("same", [MountPoint("output", str(tmp_path / "a"), mode="rw")])
    b = Workspace("same", [MountPoint("output", str(tmp_path / "b"), mode="rw")])
    for made, name in ((a, "a"), (b, "b"), (a, "a")):
        Path(made.get_mount("output"), "x").write_text(name)
        assert (tmp_path / name / "x").read_text() == name
    a.close()
    b.close()


def test_a_workspace_that_is_kept_outlives_its_program(python, tmp_path: Path) -> None:
    program = """
        import sys
        from belljar import MountPoint, Workspace
        made = Workspace(sys.argv[1], [MountPoint("output", sys.argv[2], mode="rw")], keep=sys.argv[1] == "kept")
        made.get_mount("output")
    """
    for name in ("kept", "leased"):
        done = python(program, name, str(tmp_path))
        assert done.returncode == 0, done.stderr
    eventually("the lease has ended", lambda: "leased" not in ids())
    assert "kept" in ids()
    Workspace.attach("kept").remove()
    assert "kept" not in ids()


def test_a_workspace_ends_with_a_program_that_is_killed(tmp_path: Path) -> None:
    program = f"""
import time
from belljar import MountPoint, Workspace
made = Workspace("killed", [MountPoint("output", {str(tmp_path)!r}, mode="rw")])
print(made.get_mount("output"), flush=True)
time.sleep(60)
"""
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    assert "killed" in ids()
    child.kill()
    child.wait()
    child.stdout.close()
    eventually("the workspace has ended", lambda: "killed" not in ids())


def test_another_process_that_holds_a_name_keeps_its_directories(tmp_path: Path) -> None:
    program = f"""
import sys
from belljar import MountPoint, Workspace
made = Workspace("held", [MountPoint("output", {str(tmp_path / "theirs")!r}, mode="rw")])
print(made.get_mount("output"), flush=True)
sys.stdin.read()
"""
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdin is not None
    child.stdout.readline()
    ours = Workspace("held", [MountPoint("output", str(tmp_path / "ours"), mode="rw")])
    with pytest.raises(errors.Conflict, match="hold it as it is"):
        ours.get_mount("output")
    child.stdin.close()
    child.wait()
    child.stdout.close()
    deadline = time.monotonic() + 30
    while True:
        try:
            mount = ours.get_mount("output")
            break
        except errors.Conflict:
            assert time.monotonic() < deadline
    assert os.path.isdir(mount)
    ours.close()


@pytest.mark.asyncio
async def test_both_context_managers_open_and_close(tmp_path: Path) -> None:
    async with Workspace("managed", [MountPoint("output", str(tmp_path), mode="rw")]) as made:
        assert "managed" in ids()
        assert made.root.endswith("/managed")
    assert "managed" not in ids()
