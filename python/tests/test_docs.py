"""The examples of docs/python, page by page, as a reader would run them."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import belljar
from belljar.pytest_plugin import isolated
from conftest import PROJECT

PAGES = sorted((PROJECT / "docs" / "python").glob("*.md"))
#: Where the examples keep their files.
PLACE = Path("/tmp/belljar-docs")


@pytest.fixture(autouse=True)
def daemon(tmp_path: Path) -> Iterator[Any]:
    assert not PLACE.exists(), f"{PLACE} is there already, and the examples write there: remove it"
    PLACE.mkdir()
    try:
        with isolated(tmp_path) as own:
            yield own
    finally:
        shutil.rmtree(PLACE)
        for name in [name for name in sys.modules if name == "spark" or name.startswith("spark.")]:
            del sys.modules[name]


def examples(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "tests.md"], ids=lambda page: page.stem)
def test_the_examples_of_a_page_run(page: Path) -> None:
    source = "\n".join(examples(page))
    if page.stem == "specification":
        assert source == "", "it has none"
        return
    assert source, f"{page} has no example"
    names: dict[str, Any] = {"__name__": "__main__"}
    code = compile(source, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(code, names))
    else:
        exec(code, names)


def test_the_example_of_a_test_is_one(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_page="\n".join(examples(PROJECT / "docs" / "python" / "tests.md")))
    pytester.makeini("[pytest]\nasyncio_mode = strict\n")
    pytester.runpytest_subprocess("-q").assert_outcomes(passed=1)


@pytest.mark.pure
def test_every_exception_and_every_public_name_is_told_of() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    errors = {
        name for name, value in vars(belljar.errors).items() if inspect.isclass(value) and value.__module__ == "belljar.errors"
    }
    untold = {"MethodNotAllowed", "RequestTimeout", "MetadataTooLarge"}
    assert {name for name in errors - untold if f"`{name}`" not in text} == set()
    methods = [name for name in vars(belljar.ArtifactManager) if not name.startswith("_")]
    assert [name for name in methods if name not in text] == []


@pytest.mark.pure
def test_every_link_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)", page.read_text()):
            assert os.path.exists(page.parent / target), f"{page.name}: {target}"
