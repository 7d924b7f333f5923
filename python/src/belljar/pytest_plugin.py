"""Fixtures for tests with workspaces and artifacts. pytest finds them by itself where this package is installed.

Every test session that uses them has a daemon of its own, with a state directory of its own: nothing of it is seen elsewhere,
and nothing from elsewhere is seen in it. ``belljar_spark = true`` in pytest's configuration makes Spark's modules importable.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import _daemon, _directed
from ._daemon import Daemon
from .manager import ArtifactManager
from .workspace import MountPoint, Workspace


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("belljar_spark", "make spark.graphs and spark.nodes importable", type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    if config.getini("belljar_spark"):
        from .spark import install

        install()


@contextlib.contextmanager
def isolated(place: Path) -> Iterator[Daemon]:
    """A daemon of its own below a directory, which everything in this process talks to meanwhile."""
    names = {
        "BELLJAR_STATE_DIR": str(place / "state"),
        "BELLJAR_RUNTIME_DIR": str(place / "run"),
        "BELLJAR_SOCKET": None,
        "BELLJAR_PYTHON_SOCKET": None,
    }
    before = {name: os.environ.get(name) for name in names}
    _set(names)
    known, chosen = _daemon._default, _directed.chosen()
    daemon = Daemon(private=True)
    _daemon.set_default(daemon)
    _directed.choose(None)
    try:
        # Started now, while the variables say where.
        _ = daemon.socket
        yield daemon
    finally:
        ArtifactManager.get_instance().flush()
        daemon.stop()
        _daemon.set_default(known)
        _directed.choose(chosen)
        _set(before)


def _set(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(scope="session")
def belljar_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon for this session alone. Everything that the tests do talks to it."""
    with isolated(tmp_path_factory.mktemp("belljar")) as daemon:
        yield daemon


@pytest.fixture
def workspace(belljar_daemon: Daemon, tmp_path: Path) -> Iterator[Workspace]:
    """A fresh workspace with ``input`` (read-only) and ``output`` (read-write), which are ``tmp_path / "input"`` and so on."""
    for name in ("input", "output"):
        (tmp_path / name).mkdir()
    made = Workspace(
        f"test-{uuid.uuid4().hex[:12]}",
        [
            MountPoint("input", str(tmp_path / "input"), "ro"),
            MountPoint("output", str(tmp_path / "output"), "rw"),
        ],
        daemon=belljar_daemon,
    )
    yield made
    made.close()


@pytest.fixture
def artifacts(belljar_daemon: Daemon) -> Iterator[ArtifactManager]:
    """The manager; what the tests of this session made is all that it knows."""
    manager = ArtifactManager.get_instance()
    yield manager
    manager.flush()
