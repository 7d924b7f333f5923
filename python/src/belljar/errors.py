"""What can go wrong, as a tree of exceptions.

Every exception has ``code``, which is stable and for programs, and a sentence that names the thing, the reason and the fix.
Those that the daemon answers have its own code; a code that this version does not know falls back to the class of its status.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class BelljarError(Exception):
    """Everything that this package raises by itself."""

    code: str = "error"

    def __init__(self, detail: str, *, code: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        if code is not None:
            self.code = code


class DaemonUnavailable(BelljarError):
    """No daemon can be talked to."""

    code = "daemon-unavailable"


class ForeignSocket(DaemonUnavailable):
    """The daemon behind a socket is another user's, who could read what is sent there."""

    code = "foreign-socket"


class ConnectionLost(DaemonUnavailable):
    """The daemon went away in the middle of a call that must not be repeated blindly."""

    code = "connection-lost"


class AnswerNotUnderstood(BelljarError):
    """The daemon said something that this version of the package does not know."""

    code = "answer-not-understood"


class InvalidName(BelljarError, ValueError):
    """A name or path that is not allowed."""

    code = "invalid-name"


class MountNotFound(BelljarError, LookupError):
    """A workspace has no mount point of that name."""

    code = "mount-not-found"


class MountUnavailable(BelljarError):
    """A mount point's directory cannot be used, or the mount cannot be seen from this process."""

    code = "mount-unavailable"


class WorkspaceClosed(BelljarError):
    """A workspace was used after ``close``."""

    code = "workspace-closed"


class FilterFailed(BelljarError):
    """A function that was given as a filter raised; its exception is the cause."""

    code = "filter-failed"


class RunFailed(BelljarError):
    """A command was asked to succeed (``check=True``) and did not. ``result`` says how it ended."""

    code = "run-failed"

    def __init__(self, detail: str, result: Any) -> None:
        super().__init__(detail)
        self.result = result


class ApiError(BelljarError):
    """The daemon refused, with a status, a stable code and a sentence."""

    code = "api-error"
    status: int = 0
    by_code: ClassVar[dict[str, type[ApiError]]] = {}
    by_status: ClassVar[dict[int, type[ApiError]]] = {}

    def __init__(self, detail: str, *, code: str | None = None, status: int | None = None, title: str = "") -> None:
        super().__init__(detail, code=code)
        self.title = title
        if status is not None:
            self.status = status

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "code" in cls.__dict__:
            ApiError.by_code[cls.code] = cls
        # The first class of a status stands for all of it.
        ApiError.by_status.setdefault(cls.status, cls)


def from_problem(problem: Mapping[str, Any], status: int) -> ApiError:
    """The exception for a problem document (RFC 9457)."""
    code = str(problem.get("code", "api-error"))
    status = int(problem.get("status", status))
    found = ApiError.by_code.get(code) or ApiError.by_status.get(status) or ApiError
    return found(
        str(problem.get("detail", f"HTTP status {status}")),
        code=code,
        status=status,
        title=str(problem.get("title", "")),
    )


class InvalidRequest(ApiError, ValueError):
    status = 400
    code = "invalid-request"


class InvalidExpression(InvalidRequest):
    code = "invalid-expression"


class BackendRefused(InvalidRequest):
    """A storage backend cannot be what was asked for, and asking again will not help."""

    code = "backend-refused"


class Forbidden(ApiError):
    status = 403
    code = "forbidden"


class ArtifactQuarantined(Forbidden):
    code = "artifact-quarantined"


class NotFound(ApiError, LookupError):
    status = 404
    code = "not-found"


class WorkspaceNotFound(NotFound):
    code = "workspace-not-found"


class RunNotFound(NotFound):
    code = "run-not-found"


class SecretNotFound(NotFound):
    code = "secret-not-found"


class VariableNotFound(NotFound):
    code = "variable-not-found"


class ArtifactNotFound(NotFound):
    code = "artifact-not-found"


class PlanNotFound(NotFound):
    code = "plan-not-found"


class PolicyNotFound(NotFound):
    code = "policy-not-found"


class BackendNotFound(NotFound):
    code = "backend-not-found"


class NoSuchRoute(NotFound):
    code = "no-such-route"


class MethodNotAllowed(ApiError):
    status = 405
    code = "method-not-allowed"


class RequestTimeout(ApiError):
    status = 408
    code = "request-timeout"


class Conflict(ApiError):
    status = 409
    code = "conflict"


class IllegalTransition(Conflict):
    code = "illegal-transition"


class AliasTaken(Conflict):
    code = "alias-taken"


class AmbiguousAlias(Conflict):
    code = "ambiguous-alias"


class NoContent(Conflict):
    code = "no-content"


class NotReady(Conflict):
    code = "not-ready"


class ArtifactPinned(Conflict):
    code = "pinned"


class FileChanging(Conflict):
    code = "changing"


class BackendNotOpen(Conflict):
    """The daemon does not have what it needs for a storage backend, such as its password."""

    code = "backend-not-open"


class NoRemoteStore(Conflict):
    code = "no-remote-store"


class Gone(ApiError):
    status = 410
    code = "gone"


class ArtifactDeleted(Gone):
    code = "artifact-deleted"


class ArtifactSwept(Gone):
    code = "artifact-swept"


class ContentNotKept(Gone):
    code = "content-not-kept"


class ContentLost(Gone):
    code = "content-lost"


class TooLarge(ApiError):
    status = 413
    code = "body-too-large"


class MetadataTooLarge(TooLarge):
    code = "metadata-too-large"


class RangeNotSatisfiable(ApiError):
    status = 416
    code = "range-not-satisfiable"


class SetupFailed(ApiError):
    """Nothing ran."""

    status = 422
    code = "setup-failed"


class CommandNotExecutable(SetupFailed):
    code = "command-not-executable"


class CommandNotFound(SetupFailed):
    code = "command-not-found"


class InternalError(ApiError):
    status = 500
    code = "internal"


class BackendUnavailable(ApiError):
    """A storage backend cannot be reached, or does not let this user in; or the daemon offers none (status 404)."""

    status = 502
    code = "backend-unavailable"


class Unavailable(ApiError):
    status = 503
    code = "unavailable"


class QueryTooSlow(Unavailable):
    code = "query-too-slow"


class DiskFull(ApiError):
    status = 507
    code = "disk-full"
