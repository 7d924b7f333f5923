"""Workspaces: directories that are exposed read-only or read-write, secrets, and variables.

A workspace is made in the daemon when it is used for the first time and not before, and it is a lease: it ends when it is
closed, when it is forgotten, or with the process, whatever the process's end is. Artifacts stay.

Locking: the lock of a workspace is held while it is made or given back, so that two threads do not make it twice. Looking up a
path or a secret of a workspace that is there takes no lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import uuid
import weakref
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

from . import _daemon, _directed, _exit, _mounted
from . import _operations as operations
from ._daemon import Daemon
from ._lease import keeper
from ._names import check_directory, check_name, check_variable
from .errors import (
    BelljarError,
    Forbidden,
    MountNotFound,
    MountUnavailable,
    SecretNotFound,
    VariableNotFound,
    WorkspaceClosed,
)

if TYPE_CHECKING:
    from .manager import Artifacts
    from .run import Run, RunResult


@dataclass(frozen=True)
class MountPoint:
    """A host directory under a name.

    A read-write directory that does not exist is made when the workspace is mounted; a read-only one is not, because an
    empty input is hardly what was meant. ``create`` says otherwise.
    """

    name: str
    path: str
    mode: str = "ro"
    #: Whether files written here become artifacts.
    artifacts: bool = field(default=True, kw_only=True)
    create: bool | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_name("mount name", self.name)
        object.__setattr__(self, "path", check_directory(f"mount {self.name}: path", self.path))
        if self.mode not in ("ro", "rw"):
            raise ValueError(f"mount {self.name}: mode {self.mode!r} is not understood: use 'ro' or 'rw'")

    def prepare(self) -> None:
        """Makes the directory if that is wanted."""
        if self.create if self.create is not None else self.mode == "rw":
            try:
                os.makedirs(self.path, exist_ok=True)
            except OSError as error:
                raise MountUnavailable(f"mount {self.name}: make the directory {self.path}: {error.strerror}") from error

    def open(self) -> int:
        try:
            return os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            hint = "; make it, or give the mount point create=True" if isinstance(error, FileNotFoundError) else ""
            raise MountUnavailable(f"mount {self.name}: open {self.path}: {error.strerror}{hint}") from error


class _Done:
    """The outcome of something that is done already, for those who await it."""

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


@dataclass
class WorkspacePolicy:
    """When a graph that ends closes its workspace: never, unless it is asked to. The real Spark reads this."""

    cleanup_on_success: bool = False
    cleanup_on_failure: bool = False


class _Hold:
    """A workspace's mount and lease. Apart from the workspace, so that it can be given up when the workspace is forgotten."""

    def __init__(self, workspace_id: str) -> None:
        self.workspace_id = workspace_id
        self.root: str | None = None
        self.connection: Any = None
        self.pid = os.getpid()

    def give_up(self, *, wait: bool = False) -> None:
        connection, self.connection = self.connection, None
        if self.root is not None:
            _mounted.remove(self.root)
            self.root = None
        if connection is None:
            return
        if self.pid == os.getpid():
            keeper.release(self.workspace_id, connection, wait=wait)
        else:
            connection.close()


#: The workspaces of this process that are mounted, by id.
_live: weakref.WeakValueDictionary[str, Workspace] = weakref.WeakValueDictionary()


class Workspace:
    """An isolated place for a graph, a run or a test."""

    def __init__(
        self,
        workspace_id: str | None = None,
        mount_points: Iterable[MountPoint] = (),
        *,
        keep: bool = False,
        daemon: Daemon | None = None,
        artifacts: Artifacts | None = None,
    ) -> None:
        """``artifacts`` is the manager whose backend its artifacts are kept in; without one it is the process's. It is asked when
        the workspace is mounted, which stays there."""
        if daemon is not None and artifacts is not None:
            raise ValueError(f"workspace {workspace_id}: give a daemon or a manager, which has one")
        self._given_id = workspace_id is not None
        self.workspace_id = check_name("workspace id", workspace_id if workspace_id is not None else _fresh_id())
        self.mount_points: tuple[MountPoint, ...] = tuple(mount_points)
        names = [mount.name for mount in self.mount_points]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"mount name {name!r} is used twice: give each mount point a name of its own")
        self.keep = keep
        self.policy = WorkspacePolicy()
        self._daemon_given = daemon
        self._artifacts = artifacts
        #: Where its artifacts are kept, while it is mounted.
        self._place: Daemon | None = None
        self._secrets: dict[str, tuple[str | bytes, bool]] = {}
        self._env: dict[str, str] = {}
        #: Paths of the mount points while it is mounted; asked without the lock.
        self._paths: dict[str, str] = {}
        self._is_attached = False
        self._is_closed = False
        self._lock = threading.RLock()
        self._hold = _Hold(self.workspace_id)
        self._finalizer = weakref.finalize(self, self._hold.give_up)
        self._finalizer.atexit = False
        _exit.after_fork(self._in_child)

    # One that exists.

    @classmethod
    def attach(cls, workspace_id: str, *, daemon: Daemon | None = None) -> Workspace:
        """A workspace that somebody else made, as it is; it does not end with this process."""
        workspace = cls(workspace_id, daemon=daemon)
        workspace._is_attached = True
        return workspace

    @classmethod
    def current(cls) -> Workspace:
        """The workspace in whose sandbox this process runs."""
        workspace_id = _daemon.inside()
        if workspace_id is None:
            raise BelljarError("this process runs in no sandbox: BELLJAR_RUN is not set", code="not-in-a-sandbox")
        return cls.attach(workspace_id)

    # Mount points.

    def get_mount(self, name: str) -> str:
        """The path of a mount point. What is written below it becomes an artifact; writing to a read-only one is EROFS."""
        path = self._paths.get(name)
        if path is not None:
            return path
        self._open()
        path = self._paths.get(name)
        if path is None:
            known = ", ".join(sorted(self._paths)) or "none"
            raise MountNotFound(f"workspace {self.workspace_id} has no mount point {name!r}; it has {known}")
        return path

    @property
    def is_mounted(self) -> bool:
        return self._hold.root is not None

    @property
    def root(self) -> str:
        """The workspace's directory, with its mount points and `.belljar`."""
        self._open()
        root = self._hold.root
        assert root is not None
        return root

    def _open(self) -> None:
        """Makes and mounts the workspace, unless it is."""
        with self._lock:
            if self._is_closed:
                raise WorkspaceClosed(f"workspace {self.workspace_id} was closed: make another `Workspace`")
            if self._hold.root is not None:
                return
            inside = _daemon.inside()
            if inside is not None:
                self._enter(inside)
            elif self._is_attached:
                self._adopt(self.daemon.drive(operations.workspace(self.workspace_id)), None)
            else:
                self._make()

    def _enter(self, inside: str) -> None:
        if self.workspace_id != inside and self._given_id:
            raise Forbidden(
                f"this process runs in the sandbox of workspace {inside} and can use no other: {self.workspace_id} would have "
                "to be made outside"
            )
        self.workspace_id = inside
        self._is_attached = True
        root = os.environ["BELLJAR_ROOT"]
        names = [name for name in os.listdir(root) if not name.startswith(".")]
        self._hold.root = root
        self._paths = {name: os.path.join(root, name) for name in names}

    def _make(self) -> None:
        other = _live.get(self.workspace_id)
        if other is not None and other is not self and other.mount_points != self.mount_points:
            # The same name with other mount points: what this process had under it ends first.
            other._give_up(wait=True)
        keeper.settle(self.workspace_id)
        request: dict[str, Any] = {
            "id": self.workspace_id,
            "mounts": [],
            "secrets": {
                name: operations.secret_request(_bytes(value), sensitive) for name, (value, sensitive) in self._secrets.items()
            },
            "env": dict(self._env),
        }
        descriptors: list[int] = []
        try:
            for mount in self.mount_points:
                mount.prepare()
                descriptor = mount.open()
                request["mounts"].append(
                    {
                        "name": mount.name,
                        "mode": mount.mode,
                        # The same directory has one name, whatever links led to it.
                        "path": os.readlink(f"/proc/self/fd/{descriptor}"),
                        "descriptor": len(descriptors),
                        "artifacts": mount.artifacts,
                    }
                )
                descriptors.append(descriptor)
            if not descriptors:
                # A lease is a connection that descriptors were sent over.
                descriptors.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            operation = operations.create_workspace(request, descriptors, lease=not self.keep)
            # One that is made again, because the daemon was restarted, stays where it was.
            made, connection = (self._place or self._wanted_place()).drive(operation)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        try:
            self._adopt(made, connection)
        except BaseException:
            if connection is not None:
                keeper.release(self.workspace_id, connection, wait=False)
            raise

    def _adopt(self, made: Mapping[str, Any], connection: Any) -> None:
        root = self._visible(str(made["root"]))
        hold = self._hold
        hold.root, hold.connection, hold.pid = root, connection, os.getpid()
        self._place = _directed.named(self.daemon, made.get("backend"))
        _mounted.add(root, self.workspace_id, {mount["name"]: mount["path"] for mount in made["mounts"]})
        self._paths = {mount["name"]: os.path.join(root, mount["name"]) for mount in made["mounts"]}
        if not self._is_attached:
            _live[self.workspace_id] = self
        if connection is not None:
            reference = weakref.ref(self)

            def broken() -> None:
                workspace = reference()
                if workspace is not None:
                    workspace._restore(connection)

            keeper.watch(connection, broken)

    def _wanted_place(self) -> Daemon:
        if self._artifacts is not None:
            return self._artifacts.daemon
        chosen = _directed.chosen()
        return chosen if chosen is not None and chosen.socket == self.daemon.socket else self.daemon

    @property
    def artifacts(self) -> Artifacts:
        """A manager of the artifacts of this workspace, wherever they are kept; blocking if the one that was given is."""
        from .manager import ArtifactManager

        place = self._place or self._wanted_place()
        manager = self._artifacts or ArtifactManager.get_instance()
        return manager if _directed.is_same_place(manager.daemon, place) else type(manager)(place)

    def _visible(self, root: str) -> str:
        """The mount as this process sees it. A user's own daemon mounts in a namespace of its own, which is seen through it."""
        if _is_mount(root):
            return root
        seen_through = f"/proc/{self.daemon.drive(operations.status())['pid']}/root{root}"
        if _is_mount(seen_through):
            return seen_through
        raise MountUnavailable(
            f"workspace {self.workspace_id} is mounted at {root}, and this process does not see it there: it runs in another "
            "mount namespace than the daemon; run commands in the workspace with `run` instead"
        )

    def _restore(self, connection: Any) -> None:
        """Called when the daemon went away: makes the workspace again, in the same place, with the same contents."""
        with self._lock:
            if self._hold.connection is not connection:
                return
            connection.close()
            self._hold.connection = None
            self._forget_mount()
            if not self._is_closed:
                self._open()

    def _forget_mount(self) -> None:
        self._paths = {}
        if self._hold.root is not None:
            _mounted.remove(self._hold.root)
            self._hold.root = None

    # Secrets.

    def add_secret(self, name: str, value: str | bytes, sensitive: bool = True) -> None:
        """Adds or replaces a secret. A sensitive one is masked in output and looked for in artifacts."""
        check_variable("secret name", name)
        if not isinstance(value, (str, bytes)):
            raise TypeError(f"secret {name}: the value is a {type(value).__name__}; use text or bytes")
        with self._lock:
            if self.is_mounted or self._is_attached:
                self._open()
                operation = operations.set_secret(self.workspace_id, name, _bytes(value), sensitive)
                self.daemon.drive(operation)
            self._secrets[name] = (value, bool(sensitive))

    def get_secret(self, name: str, default: str | None = None) -> str | None:
        """A secret's value, or the default."""
        found = self._secrets.get(name)
        if found is None:
            found = self._fetch_secret(name)
            if found is None:
                return default
        value = found[0]
        return value if isinstance(value, str) else value.decode("utf-8", "surrogateescape")

    def _fetch_secret(self, name: str) -> tuple[str | bytes, bool] | None:
        """What another process gave to the same workspace."""
        if not (self._is_attached or self.is_mounted):
            return None
        self._open()
        try:
            value = self.daemon.drive(operations.secret(self.workspace_id, check_variable("secret name", name)))
        except SecretNotFound:
            return None
        text = value.decode("utf-8", "surrogateescape")
        found = (text, True)
        self._secrets[name] = found
        return found

    def has_secret(self, name: str) -> bool:
        return name in self._secrets or self._fetch_secret(name) is not None

    def remove_secret(self, name: str) -> None:
        """Removes a secret. `SecretNotFound` when there is none."""
        with self._lock:
            if self.is_mounted or self._is_attached:
                self._open()
                self.daemon.drive(operations.remove_secret(self.workspace_id, name))
                self._secrets.pop(name, None)
            elif self._secrets.pop(name, None) is None:
                raise SecretNotFound(f"no secret {name}", status=404)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The names of the secrets, never their values."""
        names = set(self._secrets)
        if self._is_attached or self.is_mounted:
            self._open()
            names |= {secret["name"] for secret in self.daemon.drive(operations.secrets(self.workspace_id))}
        return tuple(sorted(names))

    def _sensitive_values(self) -> list[bytes]:
        """What is masked in the output of runs."""
        values = {name: _bytes(value) for name, (value, sensitive) in self._secrets.items() if sensitive}
        if self._is_attached or self.is_mounted:
            for secret in self.daemon.drive(operations.secrets(self.workspace_id)):
                name = secret["name"]
                if secret["sensitive"] and name not in values:
                    with contextlib.suppress(SecretNotFound):
                        values[name] = self.daemon.drive(operations.secret(self.workspace_id, name))
                elif not secret["sensitive"]:
                    values.pop(name, None)
        return list(values.values())

    # Variables.

    def set_env(self, name: str, value: str) -> None:
        """Sets a variable of this workspace; the variables of this process stay as they are."""
        check_variable("variable name", name)
        if not isinstance(value, str):
            raise TypeError(f"variable {name}: the value is a {type(value).__name__}; use text")
        with self._lock:
            if self.is_mounted or self._is_attached:
                self._open()
                self.daemon.drive(operations.set_variable(self.workspace_id, name, value))
            self._env[name] = value

    def get_env(self, name: str, default: str | None = None) -> str | None:
        """A variable of this workspace, or the default. Those of this process are not looked at."""
        found = self._env.get(name)
        if found is None and (self._is_attached or self.is_mounted):
            found = self.env().get(name)
        return default if found is None else found

    def unset_env(self, name: str) -> None:
        """Removes a variable. `VariableNotFound` when there is none."""
        with self._lock:
            if self.is_mounted or self._is_attached:
                self._open()
                self.daemon.drive(operations.remove_variable(self.workspace_id, name))
                self._env.pop(name, None)
            elif self._env.pop(name, None) is None:
                raise VariableNotFound(f"no variable {name}", status=404)

    def env(self) -> dict[str, str]:
        """All variables of this workspace."""
        if self._is_attached or self.is_mounted:
            self._open()
            return {**self._env, **self.daemon.drive(operations.variables(self.workspace_id))}
        return dict(self._env)

    # Runs.

    def run(self, command: Iterable[str | bytes | os.PathLike[str]], **options: Any) -> RunResult:
        """Runs a command in a sandbox of this workspace and waits for its end. `belljar.run.start` has the options."""
        from . import run

        check = options.pop("check", False)
        return run.start(self, command, **options).wait(check=check)

    def start(self, command: Iterable[str | bytes | os.PathLike[str]], **options: Any) -> Run:
        """The same without waiting."""
        from . import run

        return run.start(self, command, **options)

    async def run_async(self, command: Iterable[str | bytes | os.PathLike[str]], **options: Any) -> RunResult:
        """The same for asynchronous code; cancelling the task ends the run."""
        from . import run

        check = options.pop("check", False)
        started = await asyncio.to_thread(lambda: run.start(self, command, **options))
        return await started.wait_async(check=check)

    # The end.

    def cleanup(self) -> _Done:
        """Unmounts and gives the workspace back: its secrets leave the daemon, its artifacts stay. Can be awaited as well.

        Using it again makes it again.
        """
        self._give_up(wait=True)
        return _Done()

    def _give_up(self, *, wait: bool) -> None:
        with self._lock:
            self._paths = {}
            self._place = None
            if self._is_attached:
                self._forget_mount()
            self._hold.give_up(wait=wait)
            if _live.get(self.workspace_id) is self:
                del _live[self.workspace_id]

    def close(self) -> None:
        """The end: cleaned up, its secrets forgotten, not to be used again."""
        self._give_up(wait=True)
        self._is_closed = True
        self._secrets.clear()

    def remove(self) -> None:
        """Ends the workspace in the daemon, also one that is kept or belongs to another process."""
        with self._lock:
            if not (self.is_mounted or self._is_attached or self.keep):
                return
            self.daemon.drive(operations.remove_workspace(self.workspace_id))
            self._forget_mount()
            self._give_up(wait=True)

    def __enter__(self) -> Workspace:
        self._open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Workspace:
        await asyncio.to_thread(self._open)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await asyncio.to_thread(self.close)

    # What the real Spark asks of a workspace.

    async def ensure_directories(self) -> None:
        """Makes the directories of mount points that are to be made."""
        for mount in self.mount_points:
            await asyncio.to_thread(mount.prepare)

    def describe(self) -> dict[str, Any]:
        """What it is, without the values of secrets, as plain data."""
        return {
            "workspace_id": self.workspace_id,
            "root": self._hold.root,
            "mounts": [{"name": mount.name, "path": mount.path, "read_only": mount.mode == "ro"} for mount in self.mount_points],
            "secrets": sorted(self._secrets),
            "env": dict(self._env),
        }

    # What it is for the rest of Python.

    @property
    def daemon(self) -> Daemon:
        if self._artifacts is not None:
            return self._artifacts._base
        return self._daemon_given or _daemon.default()

    def __repr__(self) -> str:
        mounts = ", ".join(f"{mount.name}={mount.path} ({mount.mode})" for mount in self.mount_points)
        secrets = ", ".join(sorted(self._secrets))
        state = "mounted" if self.is_mounted else "closed" if self._is_closed else "not mounted"
        return f"Workspace({self.workspace_id!r}, {state}, mounts: [{mounts}], secrets: [{secrets}])"

    def __reduce__(self) -> tuple[Any, ...]:
        """Travels as a reference to the workspace in the daemon: the values of its secrets stay there."""
        self._open()
        backend_id = self._place.backend_id if isinstance(self._place, _directed.Directed) else None
        return _attached, (self.workspace_id, self.daemon.socket, self.mount_points, backend_id)

    def _in_child(self) -> None:
        """In a forked child: the mount is the parent's and can be used; the lease is not ours."""
        self._lock = threading.RLock()
        if self._hold.connection is not None:
            self._hold.connection = None
            self._is_attached = True


def _attached(workspace_id: str, socket: str, mount_points: tuple[MountPoint, ...], backend_id: str | None) -> Workspace:
    daemon: Daemon | None = None
    # In a sandbox that socket is not there, and the run's own is.
    if _daemon.inside() is None:
        daemon = _directed.adopt(socket, backend_id)
        daemon = daemon.base if isinstance(daemon, _directed.Directed) else daemon
    workspace = Workspace.attach(workspace_id, daemon=daemon)
    workspace.mount_points = mount_points
    return workspace


def _fresh_id() -> str:
    return f"py-{uuid.uuid4().hex[:16]}"


def _bytes(value: str | bytes) -> bytes:
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value


def _is_mount(root: str) -> bool:
    """Whether a file system of its own lies at a directory."""
    try:
        return os.stat(root).st_dev != os.stat(os.path.dirname(root)).st_dev
    except OSError:
        return False
