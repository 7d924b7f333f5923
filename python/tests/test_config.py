"""The daemon's configuration file: what the package reads of it, and that it finds the daemon by it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from belljar import _config, _discover, errors
from conftest import Python, Served

pytestmark = pytest.mark.pure


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration file that is named, and nothing else that says where a daemon is."""
    path = tmp_path / "belljard.yaml"
    path.write_text("")
    monkeypatch.setenv("BELLJAR_CONFIG", str(path))
    for name in ("BELLJAR_RUNTIME_DIR", "BELLJAR_SOCKET", "BELLJAR_PYTHON_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    return path


@pytest.mark.parametrize(
    ("text", "runtime_dir", "socket"),
    [
        ("", None, None),
        ("# socket: /commented\n\nlog:\n  format: json\n", None, None),
        ("socket: /run/a.sock", None, "/run/a.sock"),
        ("---\nsocket: /run/a b.sock   # where\n", None, "/run/a b.sock"),
        ("socket: /run/a#b.sock\r\nruntime_dir: null\r\n", None, "/run/a#b.sock"),
        ("'socket': '/run/it''s.sock' # x\nruntime_dir: \"/srv/r\"\n", "/srv/r", "/run/it's.sock"),
        ("runtime_dir: ~\nsocket:\nstate_dir: /s\n", None, None),
        ("artifacts:\n  rules:\n  - paths: ['*.x']\n    socket: /nested\nsocket: /top\n", None, "/top"),
        ("artifacts:\n  cleanup: [\n  ]\nsocket: /top\n...\n", None, "/top"),
    ],
)
def test_what_the_file_says_is_what_the_daemon_reads(
    configured: Path, text: str, runtime_dir: str | None, socket: str | None
) -> None:
    configured.write_bytes(text.encode())
    assert _config.read() == _config.Places(runtime_dir, socket)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("socket: run/a.sock", ":1: `socket` is run/a.sock, a relative path"),
        ("socket: /a\n  /b\n", ":2: `socket` over several lines"),
        ("\nsocket: |\n  /a\n", ":2: the value of `socket`"),
        ("socket: *here\n", ":1: the value of `socket`"),
        ('socket: "/a\\x20b"\n', ":1: the value of `socket`"),
        ("{socket: /a}\n", ":1: a line that does not begin with a key"),
        ("--- {socket: /a}\n", ":1: a document on the line"),
        ("socket: /a\nsocket: /b\n", ":2: `socket` a second time"),
        ("socket:\n  /a\n", ":2: `socket` over several lines"),
    ],
)
def test_a_form_that_is_not_read_is_refused_by_line(configured: Path, text: str, part: str) -> None:
    configured.write_text(text)
    with pytest.raises(errors.DaemonUnavailable) as caught:
        _config.read()
    assert str(configured) + part in caught.value.detail


def test_the_documented_file_is_read(configured: Path) -> None:
    documented = Path(__file__).resolve().parents[2] / "config" / "belljard.yaml"
    configured.write_bytes(documented.read_bytes())
    assert _config.read() == _config.Places()
    configured.write_text(documented.read_text().replace("\nsocket: null", "\nsocket: /run/x.sock"))
    assert _config.read().socket == "/run/x.sock"


def test_a_named_file_must_be_there_and_the_usual_one_need_not(
    configured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured.unlink()
    with pytest.raises(errors.DaemonUnavailable, match="BELLJAR_CONFIG"):
        _discover.find()
    monkeypatch.setenv("BELLJAR_CONFIG", "")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert _config.read() == _config.Places()
    (tmp_path / "config" / "belljar").mkdir(parents=True)
    (tmp_path / "config" / "belljar" / "belljard.yaml").write_text("socket: /mine\n")
    assert _config.read().socket == "/mine"


def test_the_environment_outranks_the_file(configured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configured.write_text("runtime_dir: /of/the/file\n")
    assert _discover.runtime_directory(_config.read().runtime_dir) == "/of/the/file"
    monkeypatch.setenv("BELLJAR_RUNTIME_DIR", "/of/the/environment")
    assert _discover.runtime_directory(_config.read().runtime_dir) == "/of/the/environment"


@pytest.mark.parametrize("key", ["socket", "runtime_dir"])
def test_a_daemon_that_the_file_moved_is_found_as_by_the_command_line(
    configured: Path, served: Served, python: Python, key: str
) -> None:
    served_at = Path(served.socket)
    configured.write_text(f"{key}: {served_at if key == 'socket' else served_at.parent}\n")
    environment = {name: value for name, value in os.environ.items() if name != "BELLJAR_STATE_DIR"}
    environment["BELLJAR_STATE_DIR"] = str(configured.parent / "other-state")
    found = python("import belljar; print(belljar.Client().status()['pid'], belljar.Daemon().socket)", env=environment)
    assert found.stderr == ""
    assert found.stdout.split() == [str(served.pid), served.socket]
    # The command line finds the same one.
    command = Path(os.environ["BELLJAR_DAEMON"]).with_name("belljar")
    said = subprocess.run([command, "workspace", "ls"], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (said.returncode, said.stderr) == (0, "")
