"""``python -m belljar.spark script.py [ARGUMENT]…`` runs a script with Spark's modules importable.

The script may use ``await`` outside of functions, as the documentation's examples do.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import sys
from types import ModuleType

from .imports import install


def run_script(path: str, arguments: list[str]) -> None:
    """Runs a file as ``__main__``."""
    with open(path, "rb") as file:
        source = file.read()
    code = compile(source, path, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    sys.argv = [path, *arguments]
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    module = ModuleType("__main__")
    module.__file__ = path
    module.__builtins__ = __builtins__  # type: ignore[attr-defined]
    sys.modules["__main__"] = module
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(code, module.__dict__))
    else:
        exec(code, module.__dict__)


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__, file=sys.stdout if len(sys.argv) > 1 else sys.stderr)
        raise SystemExit(0 if len(sys.argv) > 1 else 2)
    install()
    run_script(sys.argv[1], sys.argv[2:])


if __name__ == "__main__":
    main()
