"""The project's own Rust files: how long they are, and which dependencies they name."""

import re
from dataclasses import dataclass


@dataclass
class SourceFile:
    #: Relative to the project, such as `src/vfs/inode.rs`.
    path: str
    #: The top module: `vfs`. Files directly in src have their own name.
    module: str
    #: Lines that are neither empty nor only a comment.
    code: int
    comments: int
    #: Packages named in code, sorted.
    uses: list[str]


def read_sources(directory, import_names):
    """Every `*.rs` below `directory`; `import_names` is name in code to package name."""
    names = "|".join(re.escape(name) for name in sorted(import_names, key=len, reverse=True))
    # `name::…`, but not `other::name::…`, or `use name;` and `use name as …`.
    pattern = re.compile(rf"(?<![\w:])(?:::)?({names})::|\buse\s+({names})\b" if names else r"(?!)")
    return [
        read_source(path, directory, pattern, import_names) for path in sorted(directory.rglob("*.rs"))
    ]


def read_source(path, directory, pattern, import_names):
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    code = [line for line in lines if line and not line.startswith("//")]
    found = {
        import_names[match.group(1) or match.group(2)]
        for line in code
        for match in pattern.finditer(line)
    }
    inside = path.relative_to(directory)
    return SourceFile(
        path=str(path.relative_to(directory.parent)),
        module=inside.parts[0].removesuffix(".rs"),
        code=len(code),
        comments=sum(line.startswith("//") for line in lines),
        uses=sorted(found),
    )


def code_by_module(files):
    """Module to lines of code, longest first."""
    lines = {}
    for file in files:
        lines[file.module] = lines.get(file.module, 0) + file.code
    return sorted(lines.items(), key=lambda item: (-item[1], item[0]))


def users_of(package, files):
    return [file.path for file in files if package in file.uses]
