"""The examples of the specification, run as they are written.

BELLJAR_SPEC names the file. Without it there is nothing to run here, and the other tests cover every call in their own words; so
the whole file is left out then, by name. Names that an example uses and does not define are given to it; what it says on the
outside is asserted.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import errno
import inspect
import logging
import os
import re
import shutil
import sys
import types
import zlib
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Optional

import pytest

import belljar
import belljar.spark
from belljar import Artifact, ArtifactManager, ArtifactQuery, ArtifactState, Client, Workspace
from belljar.pytest_plugin import isolated
from servers import Moto, Postgres

SPECIFICATION = os.environ.get("BELLJAR_SPEC")
_TEXT = Path(SPECIFICATION).read_text() if SPECIFICATION else ""


def _blocks() -> dict[str, list[str]]:
    """The Python blocks, by the heading above them."""
    found: dict[str, list[str]] = {}
    heading = ""
    for part in re.finditer(r"^#+ ([^\n]+)$|^```python\n(.*?)^```$", _TEXT, re.MULTILINE | re.DOTALL):
        if part.group(1):
            heading = part.group(1)
        else:
            found.setdefault(heading, []).append(part.group(2))
    return found


BLOCKS = _blocks()
#: Which blocks were run, so that none is forgotten.
RUN: set[tuple[str, int]] = set()

if not SPECIFICATION:
    # Said by pytest's summary; collecting nothing here would be silent.
    pytest.skip("BELLJAR_SPEC names no specification", allow_module_level=True)


class Names(dict[str, Any]):
    """What the examples have in common: each heading begins with the standard names that its examples leave out."""

    def __init__(self, **given: Any) -> None:
        super().__init__(__name__="__main__", datetime=datetime, timedelta=timedelta, os=os, Optional=Optional)
        from spark.graphs import Graph
        from spark.graphs import artifacts as names
        from spark.graphs.workspace import MountPoint
        from spark.graphs.workspace import Workspace as OurWorkspace
        from spark.nodes import Node

        self.update({name: getattr(names, name) for name in names.__all__})
        self.update(Graph=Graph, Node=Node, MountPoint=MountPoint, Workspace=OurWorkspace, **given)


async def run(heading: str, index: int, names: Names) -> Names:
    """Runs one block as it is."""
    block = BLOCKS[heading][index]
    RUN.add((heading, index))
    code = compile(block, f"{heading}[{index}]", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    outcome = eval(code, names)
    if inspect.isawaitable(outcome):
        await outcome
    return names


@pytest.fixture(scope="module", autouse=True)
def spark() -> Iterator[None]:
    assert belljar.spark.install() is False, "the real Spark is installed here; these tests are for our own graph"
    yield
    for name in [name for name in sys.modules if name == "spark" or name.startswith("spark.")]:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def daemon(tmp_path: Path) -> Iterator[Any]:
    with isolated(tmp_path / "belljar") as own:
        yield own


@pytest.fixture
def directories() -> Iterator[None]:
    """The absolute directories of the examples: made where they are missing, and then removed again."""
    made = []
    for path in ("/output", "/models"):
        with contextlib.suppress(FileExistsError):
            os.mkdir(path)
            made.append(path)
    yield
    for path in made:
        for entry in os.scandir(path):
            os.unlink(entry.path)
        os.rmdir(path)


@pytest.fixture
def manager() -> ArtifactManager:
    return ArtifactManager.get_instance()


pytestmark = pytest.mark.asyncio


async def test_mount_points() -> None:
    names = await run("MountPoint", 0, Names())
    workspace = names["workspace"]
    assert [(m.name, m.path, m.mode) for m in workspace.mount_points] == [
        ("input", "/data/input", "ro"),
        ("output", "/data/output", "rw"),
        ("temp", "/tmp/workspace_123", "rw"),
    ]
    assert not workspace.is_mounted and not os.path.exists("/tmp/workspace_123")


async def test_the_signature_of_a_mount_point() -> None:
    # It is no statement: the parameters with their types, as a call.
    block = BLOCKS["MountPoint Configuration"][0]
    RUN.add(("MountPoint Configuration", 0))
    names: dict[str, Any] = {}
    exec(compile("def " + block.rstrip() + ": ...", "signature", "exec", dont_inherit=True), names)
    wanted = inspect.signature(names["MountPoint"]).parameters
    ours = inspect.signature(belljar.MountPoint).parameters
    assert [(p.name, p.default) for p in wanted.values()] == [(p.name, p.default) for p in list(ours.values())[:3]]


async def test_nodes_read_and_write_in_mount_points(tmp_path: Path) -> None:
    names = await run("Accessing Mounted Paths", 0, Names(processed_data="processed"))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "data.txt").write_text("data")
    graph = names["Graph"](start=names["ProcessingNode"]())
    graph.workspace = Workspace(
        "paths",
        [belljar.MountPoint("input", str(tmp_path / "in")), belljar.MountPoint("output", str(tmp_path / "out"), "rw")],
    )
    result = await graph.run()
    assert result["success"] is True
    assert (tmp_path / "out" / "result.txt").read_text() == "processed"


async def test_sandboxing(capsys: pytest.CaptureFixture[str], manager: ArtifactManager) -> None:
    from spark.nodes import Node

    refused = []

    class ProcessingNode(Node):
        async def process(self, context: Any) -> dict[str, bool]:
            source = Path(context.workspace.get_mount("input"), "input.txt")
            try:
                source.write_text("changed")
            except OSError as error:
                refused.append(error.errno)
            Path(context.workspace.get_mount("output"), "result.txt").write_text(source.read_text().upper())
            return {"success": True}

    names = await run("Sandboxing Example", 0, Names(ProcessingNode=ProcessingNode))
    assert capsys.readouterr().out == "TEST DATA\n"
    assert refused == [errno.EROFS]
    await manager.sync()
    found = await manager.query_artifacts(workspace_id="sandbox_test")
    assert [a.workspace_path for a in found] == ["/workspace/output/result.txt"]
    assert names["output"] == "TEST DATA"


async def test_secrets() -> None:
    names = await run("Adding Secrets", 0, Names())
    workspace = names["workspace"]
    assert workspace.secrets == ("API_KEY", "DB_PASSWORD", "ENCRYPTION_KEY")
    called = []

    async def call_api(api_key: str) -> str:
        called.append(api_key)
        return "answer"

    names = await run("Accessing Secrets", 0, Names(call_api=call_api))
    graph = names["Graph"](start=names["APICallNode"]())
    graph.workspace = workspace
    assert (await graph.run())["response"] == "answer"
    assert called == ["sk-abc123"]


async def test_the_signatures_of_secrets() -> None:
    names = await run("Secret Configuration", 0, Names())
    wanted = names["Workspace"]
    assert wanted is not Workspace
    for name in ("add_secret", "get_secret", "has_secret", "remove_secret"):
        theirs, ours = inspect.signature(getattr(wanted, name)), inspect.signature(getattr(Workspace, name))
        assert [(p.name, p.default) for p in theirs.parameters.values()] == [
            (p.name, p.default) for p in ours.parameters.values()
        ]


async def test_secret_practices() -> None:
    logger = logging.getLogger("practices")
    given = Names(load_from_vault=lambda name: f"vault-{name}", logger=logger, api_key="k")
    names = await run("Secret Best Practices", 0, given)
    assert names["workspace"].get_secret("API_KEY") == "vault-api_key"
    graph = names["Graph"](start=names["SecureNode"]())
    graph.workspace = names["workspace"]
    await graph.run()
    graph.workspace = Workspace("without")
    with pytest.raises(ValueError, match="API_KEY not configured"):
        await graph.run()


async def test_variables_of_dev_and_prod() -> None:
    names = await run("Setting Environment Variables", 0, Names())
    assert names["workspace"].env() == {"ENVIRONMENT": "production", "LOG_LEVEL": "INFO", "MAX_WORKERS": "4"}
    names = await run("Accessing Environment Variables", 0, Names())
    names = await run("Environment Isolation Example", 0, names)
    assert (names["dev_result"]["env"], names["prod_result"]["env"]) == ("development", "production")
    assert (names["dev_workspace"].get_env("DEBUG"), names["prod_workspace"].get_env("DEBUG")) == ("true", "false")
    assert "ENVIRONMENT" not in os.environ
    # Isolated in the daemon too: one's secret is not the other's, and each run sees its own variables.
    names["dev_workspace"].add_secret("ONLY_DEV", "of-development")
    printed = [names[f"{which}_workspace"].run(["sh", "-c", "echo $ENVIRONMENT $DEBUG"]).text for which in ("dev", "prod")]
    assert printed == ["development true\n", "production false\n"]
    assert not names["prod_workspace"].has_secret("ONLY_DEV")
    assert Workspace.attach("dev").get_secret("ONLY_DEV") == "of-development"


async def test_an_artifact_is_registered_and_retrieved(
    directories: None, manager: ArtifactManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("/output/report.pdf").write_bytes(b"%PDF-1.4 report")
    await run("Creating Artifacts", 0, Names())
    found = await manager.get_artifact("report_001")
    assert (found.artifact_type, found.state, found.metadata["format"]) == ("report", ArtifactState.READY, "pdf")
    assert found.metadata["size_bytes"] == 1024000
    try:
        names = await run("Retrieving Artifacts", 0, Names(manager=manager))
        assert names["data"] == b"%PDF-1.4 report"
        assert names["local_path"] == "/tmp/report.pdf"
        assert Path("/tmp/report.pdf").read_bytes() == b"%PDF-1.4 report"
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink("/tmp/report.pdf")


class PlotStandIn(types.ModuleType):
    """Draws nothing into a PNG that is one: where matplotlib is missing, the file is what counts."""

    def figure(self) -> None: ...

    def plot(self, *_: Any) -> None: ...

    def savefig(self, path: str) -> None:
        def chunk(kind: bytes, data: bytes) -> bytes:
            return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

        header = (800).to_bytes(4, "big") + (600).to_bytes(4, "big") + b"\x08\x00\x00\x00\x00"
        rows = zlib.compress(b"".join(b"\x00" + bytes(800) for _ in range(600)))
        Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


async def test_a_chart_is_registered_although_nobody_awaits(
    tmp_path: Path, manager: ArtifactManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        import matplotlib.pyplot  # noqa: F401
    except ImportError:
        package, plot = types.ModuleType("matplotlib"), PlotStandIn("matplotlib.pyplot")
        package.pyplot = plot  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "matplotlib", package)
        monkeypatch.setitem(sys.modules, "matplotlib.pyplot", plot)
    names = await run("Artifact in Nodes", 0, Names())
    graph = names["Graph"](start=names["ChartGeneratorNode"]())
    graph.workspace = Workspace("charts", [belljar.MountPoint("output", str(tmp_path / "out"), "rw")])
    result = await graph.run()
    assert manager.flush()
    found = await manager.query_artifacts(ArtifactQuery(artifact_type="image"))
    assert [a.artifact_id for a in found] == [result["artifact_id"]] == [f"chart_{graph.id}"]
    assert (found[0].metadata["width"], found[0].graph_id) == (800, graph.id)
    assert Path(str(found[0].path)).read_bytes().startswith(b"\x89PNG")


async def test_the_life_of_an_artifact(directories: None, manager: ArtifactManager) -> None:
    await run("Artifact States", 0, Names())
    assert [state.name for state in ArtifactState] == ["CREATING", "READY", "ARCHIVED", "DELETED"]
    Path("/output/results.json").write_text("{}")
    await run("Lifecycle Methods", 0, Names())
    deleted = await manager.get_artifact("output_123")
    assert deleted.state is ArtifactState.DELETED
    events, _ = Client().events("output_123")
    states = [event["detail"].get("to") for event in events if event["kind"] == "state"]
    assert states == ["READY", "ARCHIVED", "DELETED"]


async def test_automatic_cleanup(tmp_path: Path, manager: ArtifactManager, capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for number in range(105):
        (tmp_path / f"{number}.txt").write_text(str(number))
        said.append(Artifact(None, "file", str(tmp_path / f"{number}.txt")))
    await asyncio.gather(*manager.register_artifacts(said))
    names = await run("Automatic Cleanup", 0, Names())
    assert capsys.readouterr().out == "Deleted 0 old artifacts\n"
    assert names["deleted_count"].archived == 5, "archived before they are deleted"
    assert len(await manager.query_artifacts()) == 100


@pytest.fixture
def spark_directory() -> Iterator[Path]:
    """The directory of the examples on backends: theirs alone, and removed again."""
    path = Path("/var/lib/spark")
    assert not path.exists(), f"{path} is there already, and the examples keep artifacts there: remove it"
    yield path / "artifacts"
    shutil.rmtree(path, ignore_errors=True)


async def kept(manager: ArtifactManager, place: Path) -> Artifact:
    """An artifact from inside of a workspace, and one from outside, in the backend that is set; answers the latter."""
    place.mkdir(exist_ok=True)
    (place / "outside.txt").write_text("outside")
    async with Workspace("kept", [belljar.MountPoint("output", str(place / "out"), "rw")]) as workspace:
        Path(workspace.get_mount("output"), "inside.txt").write_text("inside")
        registered = await manager.register_artifact(Artifact("outside", "text", str(place / "outside.txt")))
        assert await manager.sync("kept")
    found = await manager.query_artifacts()
    assert sorted(str(a.workspace_path) for a in found) == [str(place / "outside.txt"), "/workspace/output/inside.txt"]
    (place / "outside.txt").unlink()
    assert Path(str((await manager.get_artifact("outside")).path)).read_text() == "outside"
    assert await ArtifactManager().query_artifacts() == [], "there is nothing in the daemon's own place"
    return registered


def contents(directory: Path) -> set[bytes]:
    return {path.read_bytes() for path in (directory / "blobs").rglob("*") if path.is_file()}


async def test_artifacts_in_a_directory(manager: ArtifactManager, spark_directory: Path, tmp_path: Path) -> None:
    names = await run("LocalStorageBackend", 0, Names())
    assert names["manager"].backend is names["backend"]
    await kept(manager, tmp_path / "files")
    assert contents(spark_directory) == {b"inside", b"outside"}


async def test_artifacts_in_s3(manager: ArtifactManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The example's keys are nobody's, so this server takes any; test_backends.py has one that checks signatures.
    server = Moto(("spark-artifacts",), checks=False)
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        names = await run("S3StorageBackend", 0, Names())
        assert names["backend"].endpoint == server.endpoint
        await kept(manager, tmp_path / "files")
        assert await manager.wait_uploaded()
        assert len(server.objects("spark-artifacts", "production/")) == 2
    finally:
        server.stop()


async def test_artifacts_in_a_database(
    manager: ArtifactManager, spark_directory: Path, database_server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if database_server.port != 5432:
        # Another server has the port of the example, so that here alone an example is not run as it is written.
        (block,) = BLOCKS["DatabaseStorageBackend"]
        elsewhere = block.replace("@localhost/", f"@localhost:{database_server.port}/")
        assert elsewhere != block
        monkeypatch.setitem(BLOCKS, "DatabaseStorageBackend", [elsewhere])
    names = await run("DatabaseStorageBackend", 0, Names())
    assert names["backend"].id
    registered = await kept(manager, tmp_path / "files")
    assert contents(spark_directory) == {b"inside", b"outside"}
    assert database_server.query("spark", f"SELECT count(*) FROM belljar.artifact WHERE id::text = '{registered.id}'") == "1"


async def test_metadata_fields() -> None:
    names = await run("Metadata Fields", 0, Names())
    assert names["artifact"].metadata["hyperparameters"]["max_depth"] == 10


class Model:
    def score(self, x: Any, y: Any) -> float:
        return 0.95


async def test_versions_of_a_model_and_queries(directories: None, manager: ArtifactManager) -> None:
    given = Names(train_model=Model, save_model=lambda model, path: Path(path).write_text("model"), X_test=[], y_test=[])
    names = await run("Versioning Artifacts", 0, given)
    graph = names["Graph"](start=names["ModelTrainingNode"]())
    for number in (1, 2):
        result = await graph.run()
        assert (result["model_version"], result["artifact_id"]) == (number, f"model_v{number}")
    second = await manager.get_artifact("model_v2")
    assert (second.version, second.metadata["accuracy"], second.metadata["parent_version"]) == ("v2", 0.95, 1)
    image = Path("/output/picture.png")
    image.write_bytes(b"x")
    await manager.register_artifact(Artifact("picture", "image", str(image), graph_id="pipeline_123"))
    names = await run("Querying Artifacts", 0, Names())
    assert [a.artifact_id for a in names["images"]] == ["picture"]
    assert [a.artifact_id for a in names["graph_artifacts"]] == ["picture"]
    assert sorted(a.artifact_id for a in names["high_accuracy_models"]) == ["model_v1", "model_v2"]
    assert len(names["recent_artifacts"]) == 3


async def test_cleanup_strategies(tmp_path: Path, manager: ArtifactManager, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = [
        ("temporary", "temp", {}, None),
        ("of_old_graph", "data", {}, "old_graph_id"),
        ("good_model", "model", {"accuracy": 0.9}, None),
        ("bad_model", "model", {"accuracy": 0.5}, None),
        ("other", "file", {}, None),
    ]
    for name, kind, metadata, graph in kinds:
        (tmp_path / name).write_text(name)
        await manager.register_artifact(Artifact(name, kind, str(tmp_path / name), metadata, graph_id=graph))
    names = await run("Cleanup Strategies", 0, Names(manager=manager))
    assert capsys.readouterr().out == "Deleted 0 artifacts older than 30 days\n"
    # The young temporary one stays until the function is asked, the graph's goes before.
    assert names["deleted"] == 3
    assert [a.artifact_id for a in await manager.query_artifacts()] == ["good_model"]


async def test_file_generation(manager: ArtifactManager) -> None:
    async def fetch_data() -> list[dict[str, int]]:
        return [{"a": 1, "b": 2}, {"a": 3, "b": 4}]

    was_there = os.path.exists("/var/output")
    try:
        names = await run("File Generation Workflow", 0, Names(fetch_data=fetch_data))
        assert Path("/var/output/export.csv").read_text() == "a,b\n1,2\n3,4\n"
        assert names["result"]["rows"] == 2
        found = await manager.get_artifact(names["result"]["artifact_id"])
        assert (found.metadata["rows"], found.metadata["columns"], found.workspace_path) == (
            2,
            2,
            "/workspace/output/export.csv",
        )
        assert len(await manager.query_artifacts(workspace_id="export_job")) == 1, "captured and registered is one artifact"
    finally:
        names = {}
        with contextlib.suppress(FileNotFoundError):
            os.unlink("/var/output/export.csv")
        if not was_there:
            os.rmdir("/var/output")


class Frame:
    def to_parquet(self, path: str, compression: str) -> None:
        # Other bytes each time, as of data that was fetched anew.
        Path(path).write_bytes(b"PAR1" + compression.encode() + os.urandom(8) + b"PAR1")

    def __len__(self) -> int:
        return 1000


async def test_data_persistence(tmp_path: Path, manager: ArtifactManager) -> None:
    names = await run("Data Persistence", 0, Names(process_large_dataset=Frame))
    graph = names["Graph"](start=names["DataPersistenceNode"]())
    graph.workspace = Workspace("persistence", [belljar.MountPoint("output", str(tmp_path / "out"), "rw")])
    assert (await graph.run())["version"] == 1
    assert (await graph.run())["artifact_id"] == "processed_data_v2"
    second = await manager.get_artifact("processed_data_v2")
    assert (second.metadata["rows"], second.version) == (1000, "v2")


async def test_output_management(tmp_path: Path, manager: ArtifactManager) -> None:
    def write(path: str) -> None:
        Path(path).write_text(path)

    given = Names(generate_html_report=write, generate_pdf_report=write, generate_charts=write)
    names = await run("Output Management", 0, given)
    graph = names["Graph"](start=names["ReportGeneratorNode"]())
    graph.workspace = Workspace("reports", [belljar.MountPoint("output", str(tmp_path / "out"), "rw")])
    result = await graph.run()
    assert result["count"] == 3
    found = await manager.query_artifacts(graph_id=graph.id)
    assert sorted(str(a.artifact_id) for a in found) == sorted(result["artifacts"])
    assert sorted(str(a.artifact_type) for a in found) == ["image", "report", "report"]


async def test_the_testing_example(pytester: pytest.Pytester) -> None:
    block = BLOCKS["Test Workspace Setup"][0]
    RUN.add(("Test Workspace Setup", 0))
    prelude = """
import os
from spark.graphs import Graph
from spark.nodes import Node

class TestNode(Node):
    __test__ = False

    async def process(self, context):
        assert context.workspace.get_secret("TEST_API_KEY") == "test_key_123"
        with open(context.workspace.get_mount("input") + "/test_data.txt") as source:
            data = source.read()
        with open(context.workspace.get_mount("output") + "/result.txt", "w") as result:
            result.write(data)
"""
    pytester.makepyfile(test_example=prelude + block)
    pytester.makeini("[pytest]\nbelljar_spark = true\nasyncio_mode = strict\n")
    outcome = await asyncio.to_thread(pytester.runpytest_subprocess, "-q")
    outcome.assert_outcomes(passed=1)


async def test_no_example_was_left_out() -> None:
    # About all the others: it fails when they are not run with it.
    everything = {(heading, index) for heading, blocks in BLOCKS.items() for index in range(len(blocks))}
    assert everything, f"{SPECIFICATION} has no Python blocks"
    assert everything - RUN == set()
