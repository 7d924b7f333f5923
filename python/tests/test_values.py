"""What needs no daemon: masks, names, times, requests, representations, errors."""

from __future__ import annotations

import base64
import json
import os
import pickle
import random
import socket
import subprocess
import sys
import threading
from datetime import datetime, timedelta, timezone
from urllib.parse import quote

import pytest

from belljar import (
    Artifact,
    ArtifactList,
    ArtifactQuery,
    ArtifactState,
    CleanupPolicy,
    DatabaseStorageBackend,
    LocalStorageBackend,
    S3StorageBackend,
    _moment,
    errors,
)
from belljar._lease import Keeper
from belljar._mask import Masker
from belljar._protocol import Call
from belljar._retry import Attempts, Interrupted
from belljar._socket import NotListening

pytestmark = pytest.mark.pure

SECRET = b'sk-"quoted"\\and/slashed+value'


def masked(secrets: list[bytes], pieces: list[bytes]) -> bytes:
    masker = Masker(secrets)
    return b"".join([masker.feed(piece) for piece in pieces] + [masker.end()])


@pytest.mark.parametrize(
    "spelled",
    [
        SECRET,
        base64.b64encode(SECRET),
        base64.urlsafe_b64encode(SECRET),
        SECRET.hex().encode(),
        SECRET.hex().upper().encode(),
        quote(SECRET, safe="").encode(),
        json.dumps(SECRET.decode()).encode()[1:-1],
    ],
)
def test_every_spelling_is_masked_wherever_a_piece_ends(spelled: bytes) -> None:
    text = b"before " + spelled + b" after " + spelled
    for cut in range(len(text)):
        shown = masked([SECRET], [text[:cut], text[cut:]])
        assert shown.startswith(b"before ***") and b" after ***" in shown, shown
    assert b"***" in masked([SECRET], [bytes([byte]) for byte in text])


@pytest.mark.parametrize("lead", [b"", b"a", b"ab", b"abc"])
def test_base64_of_a_longer_text_is_masked_at_every_alignment(lead: bytes) -> None:
    coded = base64.b64encode(lead + SECRET + b"tail")
    assert base64.b64encode(SECRET)[4:-8] not in masked([SECRET], [coded])
    assert b"***" in masked([SECRET], [coded])


def test_what_is_no_secret_passes_unchanged_and_at_once() -> None:
    source = random.Random(7)
    text = bytes(source.choices(b"abcdefgh \n", k=20_000))
    pieces = [text[at : at + 37] for at in range(0, len(text), 37)]
    assert masked([b"zzzz-not-there"], pieces) == text
    # A prompt without an end of line must be seen.
    assert Masker([b"zzzz-not-there"]).feed(b"Name? ") == b"Name? "


def test_short_values_mask_nothing_and_longer_ones_win() -> None:
    assert masked([b"abc"], [b"abcabc"]) == b"abcabc"
    assert masked([b"token", b"token-and-more"], [b"a token-and-more b token c"]) == b"a *** b *** c"


def test_times_are_read_as_written_and_naive_ones_are_local() -> None:
    moment = _moment.parse("2026-11-26T17:40:55.123456789Z")
    assert moment == datetime(2026, 11, 26, 17, 40, 55, 123456, tzinfo=timezone.utc)
    assert _moment.parse("2026-11-26T17:40:55+01:00") == datetime(2026, 11, 26, 16, 40, 55, tzinfo=timezone.utc)
    assert _moment.parse("2026-11-26T17:40:55Z") is not None
    assert _moment.parse(None) is None
    local = datetime(2026, 6, 1, 12, 0)
    assert _moment.parse(_moment.write(local)) == local.astimezone()
    zoned = datetime(2026, 6, 1, 12, 0, tzinfo=timezone(timedelta(hours=5)))
    assert _moment.write(zoned) == "2026-06-01T07:00:00.000000Z"
    with pytest.raises(ValueError):
        _moment.parse("yesterday")


def test_a_query_pushes_to_the_daemon_what_the_daemon_can_decide() -> None:
    query = ArtifactQuery(
        artifact_type=["a b", "c"],
        state=(ArtifactState.READY, "ARCHIVED"),
        metadata_filter={"n": 1, "s": 'quo"te', "b": True, "f": lambda x: x, "d.e": 1, "l": [1]},
        where="size > 1 or pinned",
    )
    pairs = query.pairs(limit=5, cursor="c")
    assert "type=a%20b%2Cc" in pairs and "state=READY%2CARCHIVED" in pairs and "limit=5" in pairs and "cursor=c" in pairs
    expression = query._expression()
    assert expression == (
        '(size > 1 or pinned) and metadata.n = 1 and metadata.s = "quo\\"te" and metadata.b = true '
        "and exists metadata.f and exists metadata.l"
    )
    assert ArtifactQuery()._expression() is None
    many = ArtifactQuery(metadata_filter={f"key{n}": n for n in range(1000)})
    assert many._expression() is None


@pytest.mark.parametrize(
    ("make", "shown", "hidden"),
    [
        (
            lambda: S3StorageBackend("b", "p/", "r", {"access_key_id": "AKIA", "secret_access_key": "s3cr3t"}),
            "bucket='b'",
            "s3cr3t",
        ),
        (lambda: DatabaseStorageBackend("postgresql://user:pass@host/db?x=pass", "/files"), "user:***@host", "pass"),
        (lambda: DatabaseStorageBackend("postgresql://user:pa/ss@host/db", "/files"), "postgresql://***", "ss@"),
        (lambda: DatabaseStorageBackend("postgresql://user:pa#ss@host/db", "/files"), "postgresql://***", "pa#"),
        (lambda: DatabaseStorageBackend("postgresql://user:pass", "/files"), "postgresql://***", "pass"),
        (lambda: DatabaseStorageBackend("postgresql://user@host:1/db", "/f"), "'postgresql://user@host:1/db'", "hidden"),
        (lambda: LocalStorageBackend("/a"), "base_path='/a'", "hidden"),
    ],
)
def test_a_backend_shows_no_credentials_and_sends_them(make, shown: str, hidden: str) -> None:
    backend = make()
    assert shown in repr(backend)
    assert hidden not in repr(backend)
    if hidden != "hidden":
        assert hidden in json.dumps(backend.to_wire())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LocalStorageBackend("relative"), "relative"),
        (lambda: S3StorageBackend(""), "bucket"),
        (lambda: S3StorageBackend("b", credentials={"key": "x"}), "unknown keys key"),
        (lambda: S3StorageBackend("b", credentials={"access_key_id": "x"}), "together"),
        (lambda: DatabaseStorageBackend("oracle://x", "/f"), "oracle"),
        (lambda: DatabaseStorageBackend("sqlite:///x", "/f"), "LocalStorageBackend"),
        (lambda: DatabaseStorageBackend("postgresql://x", "f"), "relative"),
        (lambda: CleanupPolicy(max_age_days=-1).criteria(), "negative"),
    ],
)
def test_a_backend_or_policy_that_means_nothing_is_refused(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_what_is_not_said_of_a_bucket_is_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    assert S3StorageBackend("b").to_wire() == {"kind": "s3", "bucket": "b", "prefix": ""}
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    assert not S3StorageBackend("b").has_keys, "half of a pair is none"
    for name, value in {
        "AWS_SECRET_ACCESS_KEY": "s3cr3t",
        "AWS_ENDPOINT_URL": "http://all",
        "AWS_DEFAULT_REGION": "default",
    }.items():
        monkeypatch.setenv(name, value)
    found = S3StorageBackend("b").to_wire()
    assert found["credentials"] == {"access_key_id": "AKIA", "secret_access_key": "s3cr3t"}
    assert (found["endpoint"], found["region"]) == ("http://all", "default")
    for name, value in {"AWS_SESSION_TOKEN": "t", "AWS_ENDPOINT_URL_S3": "http://s3", "AWS_REGION": "own"}.items():
        monkeypatch.setenv(name, value)
    found = S3StorageBackend("b").to_wire()
    assert (found["endpoint"], found["region"], found["credentials"]["session_token"]) == ("http://s3", "own", "t")
    keys = {"access_key_id": "other", "secret_access_key": "other"}
    said = S3StorageBackend("b", "", "here", keys, endpoint="http://said", allow_http=True).to_wire()
    assert (said["endpoint"], said["region"], said["credentials"], said["allow_http"]) == ("http://said", "here", keys, True)


def test_a_backend_with_credentials_is_in_no_pickle() -> None:
    for backend in (
        S3StorageBackend("b", credentials={"access_key_id": "a", "secret_access_key": "s3cr3t"}),
        DatabaseStorageBackend("postgresql://user:s3cr3t@host/db", "/files"),
        DatabaseStorageBackend("postgresql://user@host/db?password=s3cr3t", "/files"),
        DatabaseStorageBackend("postgresql://user:s3/cr3t@host/db", "/files"),
    ):
        with pytest.raises(TypeError, match="cannot be pickled") as caught:
            pickle.dumps(backend)
        assert "s3cr3t" not in str(caught.value)
    for plain in (LocalStorageBackend("/a"), DatabaseStorageBackend("postgresql://user@host/db", "/files")):
        assert repr(pickle.loads(pickle.dumps(plain))) == repr(plain)


def test_a_policy_says_only_what_was_said() -> None:
    policy = CleanupPolicy(max_age_days=30, max_artifacts=100, archive_before_delete=True)
    assert policy.criteria() == {"older_than_ms": 2_592_000_000, "max_artifacts": 100, "archive_first": True}


RAW = {
    "id": "01a2",
    "aliases": ["one", "two"],
    "version": 3,
    "labels": ["v9"],
    "type": "data",
    "state": "READY",
    "size": 5,
    "path": "/workspace/output/<b>.csv",
    "metadata": {"k": "<script>"},
    "created_at": "2026-11-26T17:40:55Z",
}


def test_artifacts_are_shown_as_tables_without_markup_from_their_names() -> None:
    artifacts = ArtifactList([Artifact.from_wire(RAW, "two@3")])
    assert (artifacts[0].artifact_id, artifacts[0].version, artifacts[0].version_number) == ("two", "v9", 3)
    table = artifacts._repr_html_()
    assert "&lt;b&gt;.csv" in table and "<b>" not in table and "2026-11-26 17:40:55 UTC" in table
    assert "<script>" not in artifacts[0]._repr_html_()
    assert "two" in repr(artifacts) and "READY" in repr(artifacts)
    assert artifacts[:1] == artifacts
    assert pickle.loads(pickle.dumps(artifacts)) == artifacts


def test_artifacts_become_a_data_frame_where_pandas_is() -> None:
    pandas = pytest.importorskip("pandas", reason="an option of the package; the other half is tested without it")
    frame = ArtifactList([Artifact.from_wire(RAW)]).to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.loc[0, "artifact_id"] == "one"
    assert list(ArtifactList().to_pandas().columns) == list(frame.columns)


def test_without_pandas_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install 'belljar\[pandas\]'"):
        ArtifactList().to_pandas()


def test_every_code_has_its_class_and_an_unknown_one_the_class_of_its_status() -> None:
    cases = [
        ("alias-taken", 409, errors.AliasTaken),
        ("workspace-not-found", 404, errors.WorkspaceNotFound),
        ("artifact-quarantined", 403, errors.ArtifactQuarantined),
        ("of-the-future", 409, errors.Conflict),
        ("of-the-future", 404, errors.NotFound),
        ("of-the-future", 418, errors.ApiError),
    ]
    for code, status, kind in cases:
        error = errors.from_problem({"code": code, "status": status, "title": "t", "detail": "d"}, status)
        assert type(error) is kind
        assert (error.code, error.status, str(error)) == (code, status, "d")
        assert isinstance(error, errors.BelljarError)


def test_a_call_is_repeated_only_where_that_is_harmless() -> None:
    once, again = Call("POST", "/", idempotent=False), Call("GET", "/")
    lost = Interrupted(OSError(), was_reused=False)
    assert Attempts(once, known=True).pause_after(lost) is None
    assert Attempts(again, known=True).pause_after(lost) is not None
    assert Attempts(again, known=True).pause_after(Interrupted(OSError(), was_reused=True)) == 0.0
    assert Attempts(once, known=True).pause_after(NotListening("nobody")) is not None
    assert Attempts(again, known=False).pause_after(NotListening("nobody")) is None
    assert Attempts(again, known=True, patience=0).pause_after(NotListening("nobody")) is None


def test_importing_costs_nothing_that_is_not_needed() -> None:
    program = (
        "import sys, belljar, threading; "
        "print(sorted(set(sys.modules) & {'pandas', 'numpy', 'spark', 'pytest'}), threading.active_count())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[] 1\n"


def test_a_name_is_taken_again_only_when_the_daemon_has_closed_its_end() -> None:
    # The daemon usually ends a workspace before anybody can ask for its name again; this is for when it does not.
    ours, daemons = socket.socketpair()
    keeper = Keeper()
    keeper.watch(ours, lambda: pytest.fail("it was given up, and did not break"))
    keeper.release("name", ours, wait=False)
    assert daemons.recv(1) == b"", "the daemon is told"
    settled = threading.Event()

    def settle() -> None:
        keeper.settle("name")
        settled.set()

    thread = threading.Thread(target=settle)
    thread.start()
    assert not settled.wait(0.2)
    daemons.close()
    assert settled.wait(10)
    thread.join()
    keeper.settle("name")
