"""The operations of the API, each once: what to ask and what to make of the answer."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ._protocol import Call, Operation, query, segment
from .errors import BackendUnavailable, NoContent, NoSuchRoute

Wire = dict[str, Any]

#: How long a registration waits for files that were closed before, in seconds: the daemon's own default.
REGISTER_WAIT = 30.0

#: Length of a page. The daemon's bound.
PAGE = 1000


def status() -> Operation[Wire]:
    return (yield Call("GET", "/v1/daemon")).object()


# Workspaces.


def create_workspace(request: Wire, descriptors: Sequence[int], *, lease: bool) -> Operation[tuple[Wire, Any]]:
    body = {**request, "lease": True} if lease else request
    call = Call("POST", "/v1/workspaces", body, descriptors=tuple(descriptors), keep_leash=lease)
    answer = yield call
    return answer.object(), answer.leash


def workspaces() -> Operation[list[Wire]]:
    found: list[Wire] = (yield Call("GET", "/v1/workspaces")).object()["workspaces"]
    return found


def workspace(workspace_id: str) -> Operation[Wire]:
    return (yield Call("GET", f"/v1/workspaces/{segment(workspace_id)}")).object()


def remove_workspace(workspace_id: str) -> Operation[None]:
    yield Call("DELETE", f"/v1/workspaces/{segment(workspace_id)}", idempotent=False)


def secret_request(value: bytes, sensitive: bool) -> Wire:
    return {"value": base64.b64encode(value).decode("ascii"), "sensitive": sensitive}


def set_secret(workspace_id: str, name: str, value: bytes, sensitive: bool) -> Operation[None]:
    path = f"/v1/workspaces/{segment(workspace_id)}/secrets/{segment(name)}"
    yield Call("PUT", path, secret_request(value, sensitive))


def secret(workspace_id: str, name: str) -> Operation[bytes]:
    return (yield Call("GET", f"/v1/workspaces/{segment(workspace_id)}/secrets/{segment(name)}")).body


def secrets(workspace_id: str) -> Operation[list[Wire]]:
    found: list[Wire] = (yield Call("GET", f"/v1/workspaces/{segment(workspace_id)}/secrets")).object()["secrets"]
    return found


def remove_secret(workspace_id: str, name: str) -> Operation[None]:
    path = f"/v1/workspaces/{segment(workspace_id)}/secrets/{segment(name)}"
    yield Call("DELETE", path, idempotent=False)


def set_variable(workspace_id: str, name: str, value: str) -> Operation[None]:
    yield Call("PUT", f"/v1/workspaces/{segment(workspace_id)}/env/{segment(name)}", {"value": value})


def variables(workspace_id: str) -> Operation[dict[str, str]]:
    found: dict[str, str] = (yield Call("GET", f"/v1/workspaces/{segment(workspace_id)}/env")).object()["env"]
    return found


def remove_variable(workspace_id: str, name: str) -> Operation[None]:
    path = f"/v1/workspaces/{segment(workspace_id)}/env/{segment(name)}"
    yield Call("DELETE", path, idempotent=False)


# Runs.


def start_run(request: Wire, descriptors: Sequence[int]) -> Operation[tuple[Wire, Any]]:
    answer = yield Call("POST", "/v1/runs", request, idempotent=False, descriptors=tuple(descriptors), keep_leash=True)
    return answer.object(), answer.leash


def receipt(run_id: str) -> Operation[Wire]:
    return (yield Call("GET", f"/v1/runs/{run_id}/receipt", timeout=None)).object()


def signal(run_id: str, number: int) -> Operation[None]:
    yield Call("POST", f"/v1/runs/{run_id}/signal", {"signal": number}, idempotent=False)


# Artifacts.


def register(items: Sequence[Wire], descriptors: Sequence[int], wait: float = REGISTER_WAIT) -> Operation[list[Wire]]:
    body = {"items": list(items), "timeout_ms": int(wait * 1000)}
    # Doing it twice enriches the version that the first time made.
    call = Call("POST", "/v1/artifacts", body, timeout=wait + 30, descriptors=tuple(descriptors))
    results: list[Wire] = (yield call).object()["results"]
    return results


def artifact(reference: str) -> Operation[Wire]:
    return (yield Call("GET", f"/v1/artifacts/{segment(reference)}")).object()


def artifact_page(pairs: str) -> Operation[tuple[list[Wire], str | None]]:
    page = (yield Call("GET", f"/v1/artifacts{pairs}")).object()
    return page["artifacts"], page.get("next")


def version_page(reference: str, cursor: int | str | None) -> Operation[tuple[list[Wire], int | str | None]]:
    path = f"/v1/artifacts/{segment(reference)}/versions{query([('limit', PAGE), ('cursor', cursor)])}"
    page = (yield Call("GET", path)).object()
    return page["artifacts"], page.get("next")


def event_page(reference: str | None, after: int | None, limit: int) -> Operation[tuple[list[Wire], int]]:
    base = f"/v1/artifacts/{segment(reference)}/events" if reference else "/v1/events"
    page = (yield Call("GET", base + query([("after", after), ("limit", limit)]))).object()
    return page["events"], page["next"]


def update_artifact(reference: str, change: Wire, descriptors: Sequence[int] = ()) -> Operation[Wire]:
    path = f"/v1/artifacts/{segment(reference)}"
    return (yield Call("PATCH", path, change, descriptors=tuple(descriptors))).object()


def make_ready(reference: str, open_file: Callable[[Wire], int | None]) -> Operation[Wire]:
    """READY: what was captured is meant, and where nothing was, the file itself. ``open_file`` gives its descriptor."""
    try:
        return (yield from update_artifact(reference, {"state": "READY"}))
    except NoContent:
        found = yield from artifact(reference)
        descriptor = open_file(found)
        if descriptor is None:
            raise
        return (yield from update_artifact(reference, {"state": "READY"}, [descriptor]))


def change_artifact(reference: str, what: str) -> Operation[Wire]:
    return (yield Call("POST", f"/v1/artifacts/{segment(reference)}/{what}")).object()


def unpin_artifact(reference: str) -> Operation[Wire]:
    return (yield Call("DELETE", f"/v1/artifacts/{segment(reference)}/pin")).object()


def delete_artifact(reference: str) -> Operation[Wire]:
    return (yield Call("DELETE", f"/v1/artifacts/{segment(reference)}")).object()


def lineage(reference: str, depth: int | None, direction: str | None) -> Operation[Wire]:
    asked = query([("depth", depth), ("direction", direction)])
    return (yield Call("GET", f"/v1/artifacts/{segment(reference)}/lineage{asked}")).object()


def content(reference: str) -> Call:
    return Call("GET", f"/v1/artifacts/{segment(reference)}/content")


def sync(workspace_id: str | None, timeout: float) -> Operation[Wire]:
    body: Wire = {"timeout_ms": int(timeout * 1000)}
    if workspace_id is not None:
        body["workspace"] = workspace_id
    return (yield Call("POST", "/v1/artifacts/sync", body, timeout=timeout + 30)).object()


# Clean-up.


def clean_up(criteria: Mapping[str, Any]) -> Operation[list[Wire]]:
    """Plans and applies until nothing more would go; answers the plans."""
    plans = []
    while True:
        plan = (yield Call("POST", "/v1/cleanup/plans", {"criteria": dict(criteria)}, idempotent=False)).object()
        applied = (yield Call("POST", f"/v1/cleanup/plans/{plan['id']}/apply", timeout=None)).object()
        plans.append(applied)
        # A plan that did nothing would be followed by the same one.
        if not applied.get("more") or not applied["totals"]["done"]:
            return plans


def set_policy(name: str, criteria: Mapping[str, Any], every_ms: int) -> Operation[Wire]:
    body = {"criteria": dict(criteria), "every_ms": every_ms}
    return (yield Call("PUT", f"/v1/cleanup/policies/{segment(name)}", body)).object()


def remove_policy(name: str) -> Operation[None]:
    yield Call("DELETE", f"/v1/cleanup/policies/{segment(name)}", idempotent=False)


# Storage.


def set_backend(request: Wire) -> Operation[Wire]:
    try:
        answer = yield Call("PUT", "/v1/storage/backend", request)
    except NoSuchRoute as error:
        raise BackendUnavailable(
            f"this daemon keeps artifacts in its own state directory and offers no {request['kind']} storage: it answered "
            f"{error.detail!r}; use a daemon that offers storage backends, or leave set_backend out",
            status=error.status,
        ) from error
    return answer.object()


def storage() -> Operation[Wire]:
    return (yield Call("GET", "/v1/storage")).object()


def wait_uploaded(timeout: float) -> Operation[Wire]:
    body = {"timeout_ms": int(timeout * 1000), "wait_upload": True}
    return (yield Call("POST", "/v1/artifacts/sync", body, timeout=timeout + 30)).object()
