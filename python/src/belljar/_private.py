"""A daemon of this process's own, for programs that find none.

It shares the catalog and the contents of the state directory with every other daemon; its socket and its mounts are its own.
It ends with this process, whatever the process's end is: its standard input is a pipe that only this process holds open.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import time

from . import _config, _exit
from ._discover import INHERITED, SOCKET_NAME, runtime_directory
from ._socket import NotListening, connect
from .errors import DaemonUnavailable

#: How long a daemon may take to answer: it takes over first what dead ones have left, for at most ten seconds.
_START_MAX = 30.0

#: How long its orderly end may take, which unmounts and registers what was written.
_STOP_MAX = 30.0

#: What it logs unless BELLJAR_LOG asks for more: not the refused requests, which become exceptions here.
_LOG = "warn,belljar::api::log=off"


def program() -> str:
    """The daemon's program: BELLJAR_DAEMON, or ``belljard`` on the path."""
    named = os.environ.get("BELLJAR_DAEMON")
    found = named or shutil.which("belljard")
    if not found:
        raise DaemonUnavailable(
            "no daemon is running, and there is no program `belljard` on the path to start a private one: install it, name "
            "it in BELLJAR_DAEMON, or name a running daemon's socket in BELLJAR_SOCKET"
        )
    return found


class PrivateDaemon:
    """A running private daemon."""

    def __init__(self) -> None:
        runtime = runtime_directory(_config.read().runtime_dir)
        self._pid = os.getpid()
        self._process: subprocess.Popen[bytes] | None = None
        self._inherited_before: str | None = None
        try:
            if not os.path.isdir(runtime):
                os.makedirs(runtime, mode=0o755 if os.geteuid() == 0 else 0o700, exist_ok=True)
            instances = os.path.join(runtime, "instances")
            os.makedirs(instances, mode=0o700, exist_ok=True)
            self.directory = os.path.join(instances, f"python-{os.getpid()}-{secrets.token_hex(4)}")
            os.mkdir(self.directory, mode=0o700)
        except OSError as error:
            raise DaemonUnavailable(
                f"no daemon is running, and a private one has no place for its socket: {error}; BELLJAR_RUNTIME_DIR chooses "
                "another"
            ) from error
        self.socket = os.path.join(self.directory, SOCKET_NAME)
        self.start()
        _exit.at_exit(_exit.DAEMON, self.stop)
        _exit.after_fork(self._abandon)
        self._inherited_before = os.environ.get(INHERITED)
        os.environ[INHERITED] = self.socket

    def start(self) -> None:
        """Starts it, or starts it again after it died; returns when it answers."""
        if self._pid != os.getpid():
            raise DaemonUnavailable("the private daemon of the parent process has gone, and only the parent can start it")
        if self._process is not None and self._process.poll() is None:
            return
        environment = {name: value for name, value in os.environ.items() if name != "BELLJAR_SOCKET"}
        environment.setdefault("BELLJAR_LOG", _LOG)
        command = [program(), "serve", "--until-stdin-ends", "--runtime-dir", self.directory, "--socket", self.socket]
        try:
            # A session of its own: an interrupt from the terminal is for this program, which then ends the daemon in order.
            process = self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment, start_new_session=True
            )
        except OSError as error:
            raise DaemonUnavailable(f"start a private daemon, {command[0]}: {error}") from error
        deadline = time.monotonic() + _START_MAX
        pause = 0.002
        while True:
            try:
                connect(self.socket).close()
                return
            except NotListening:
                # Not the attribute: another thread may have stopped it meanwhile.
                code = process.poll()
                if code is not None:
                    raise DaemonUnavailable(
                        f"no daemon is running, and a private one ended with code {code} as it started; what it said is on "
                        "standard error"
                    ) from None
                if time.monotonic() > deadline:
                    self.stop()
                    raise DaemonUnavailable(
                        f"no daemon is running, and a private one has not answered for {_START_MAX:.0f} s"
                    ) from None
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)

    def _abandon(self) -> None:
        """In a forked child: gives up our end of the pipe, so that the parent's end alone ends the daemon."""
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()

    def stop(self) -> None:
        """Ends it in order: what was written is registered, what was mounted is unmounted."""
        process, self._process = self._process, None
        if process is None or self._pid != os.getpid():
            return
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        try:
            process.wait(_STOP_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if os.environ.get(INHERITED) == self.socket:
            if self._inherited_before is None:
                del os.environ[INHERITED]
            else:
                os.environ[INHERITED] = self._inherited_before
        for name in (f"{SOCKET_NAME}.lock", SOCKET_NAME):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self.directory, name))
        # Only when it is empty: had a mount stayed, removing recursively would reach the user's files.
        for name in ("workspaces", "runs", "scratch", ""):
            with contextlib.suppress(OSError):
                os.rmdir(os.path.join(self.directory, name))
