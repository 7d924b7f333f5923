"""The package as it is released: a wheel that installs anywhere and brings what it should."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from conftest import PROJECT

QUICK = """
import errno, sys
import belljar, belljar.sync
with belljar.Workspace("quick", [
    belljar.MountPoint("input", sys.argv[1]),
    belljar.MountPoint("output", sys.argv[1] + "/output", mode="rw"),
]) as workspace:
    path = workspace.get_mount("output") + "/hello.txt"
    with open(path, "w") as file:
        file.write("hello")
    try:
        open(workspace.get_mount("input") + "/x", "w")
    except OSError as error:
        assert error.errno == errno.EROFS
    manager = belljar.sync.ArtifactManager.get_instance()
    artifact = manager.register_artifact(belljar.Artifact("hello_quick", path=path)).result(30)
    print(belljar.__file__.startswith(sys.prefix), artifact.workspace_path, workspace.run(["cat", "output/hello.txt"]).text)
"""


def python_3_12() -> str:
    """The interpreter that users of Spark have; without one, this one, which the test's output says."""
    found = sorted(glob.glob(os.path.expanduser("~/.pyenv/versions/3.12*/bin/python")))
    candidates = [*found, shutil.which("python3.12")]
    for candidate in candidates:
        if candidate and subprocess.run([candidate, "--version"], capture_output=True, check=False).returncode == 0:
            return candidate
    print(f"there is no Python 3.12 here; the wheel is installed with {sys.executable}", file=sys.stderr)
    return sys.executable


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    named = os.environ.get("BELLJAR_WHEEL")
    if named:
        return Path(named)
    place = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(place), str(PROJECT / "python")],
        check=True,
        capture_output=True,
    )
    return next(place.glob("*.whl"))


@pytest.mark.pure
def test_the_wheel_is_pure_typed_and_needs_nothing(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
        entry_points = archive.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    assert "belljar/py.typed" in names
    assert not [name for name in names if "test" in name and name != "belljar/pytest_plugin.py"]
    assert [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra" not in line] == []
    assert "Requires-Python: >=3.10" in metadata
    assert "belljar.pytest_plugin" in entry_points


def test_the_wheel_installs_in_a_clean_environment_and_the_quick_example_works(wheel: Path, tmp_path: Path) -> None:
    interpreter = python_3_12()
    subprocess.run([interpreter, "-m", "venv", str(tmp_path / "venv")], check=True)
    clean = str(tmp_path / "venv" / "bin" / "python")
    install = [clean, "-m", "pip", "install", "--quiet", "--no-index", "--disable-pip-version-check", str(wheel)]
    subprocess.run(install, check=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    (tmp_path / "work").mkdir()
    done = subprocess.run(
        [clean, "-I", "-c", QUICK, str(tmp_path / "work")], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("True /workspace/output/hello.txt hello\n", "")
