"""The dependency graph that Cargo.lock describes.

Cargo.lock lists packages with the packages each one needs. A need is written `name`, `name version` or
`name version (source)`, as short as it can be without becoming ambiguous.
"""

import tomllib
from collections import deque
from dataclasses import dataclass, field


class LockfileError(Exception):
    """Cargo.toml or Cargo.lock says something that this audit does not understand."""


@dataclass(eq=False)
class Crate:
    name: str
    version: str
    source: str | None
    checksum: str | None
    needs: list["Crate"] = field(default_factory=list, repr=False)
    needed_by: list["Crate"] = field(default_factory=list, repr=False)
    #: Steps from the project itself, which has depth 0. None: nothing leads to it.
    depth: int | None = None

    @property
    def source_kind(self):
        """Where the code comes from: `registry`, `git`, `other`, or `path` for code in the project."""
        if self.source is None:
            return "path"
        kind = self.source.partition("+")[0]
        return {"registry": "registry", "sparse": "registry", "git": "git"}.get(kind, "other")

    def needed_by_all(self):
        """Every crate that would miss this one, directly or through others."""
        seen, waiting = set(), deque(self.needed_by)
        while waiting:
            crate = waiting.popleft()
            if crate not in seen:
                seen.add(crate)
                waiting.extend(crate.needed_by)
        return seen


@dataclass
class Graph:
    root: Crate
    #: Everything but the root, by name and version.
    crates: list[Crate]
    #: Name in the project's `use` lines to package name, where Cargo.toml renames.
    renamed: dict[str, str]
    #: Packages that only tests and build scripts need.
    not_in_program: set[str]

    def direct(self):
        return sorted(self.root.needs, key=lambda crate: crate.name)

    def import_names(self):
        """The name by which the project's code calls each direct dependency, to the package's name."""
        names = {crate.name.replace("-", "_"): crate.name for crate in self.root.needs}
        for alias, package in self.renamed.items():
            names.pop(package.replace("-", "_"), None)
            names[alias.replace("-", "_")] = package
        return names

    def duplicates(self):
        """Crates of which the lock file holds several versions: name to versions."""
        versions = {}
        for crate in self.crates:
            versions.setdefault(crate.name, []).append(crate.version)
        return {name: found for name, found in versions.items() if len(found) > 1}


def read_graph(project):
    manifest = read_toml(project / "Cargo.toml")
    lock = read_toml(project / "Cargo.lock")
    try:
        name = manifest["package"]["name"]
        packages = lock["package"]
    except KeyError as missing:
        raise LockfileError(f"{project}: no {missing} in Cargo.toml or Cargo.lock") from None

    crates = [
        Crate(package["name"], package["version"], package.get("source"), package.get("checksum"))
        for package in packages
    ]
    for crate, package in zip(crates, packages):
        for text in package.get("dependencies", []):
            need = resolve(text, crates)
            crate.needs.append(need)
            need.needed_by.append(crate)

    roots = [crate for crate in crates if crate.name == name and crate.source is None]
    if len(roots) != 1:
        raise LockfileError(f"{project}/Cargo.lock: {len(roots)} packages are the project {name}")
    root = roots[0]
    measure_depth(root)
    rest = sorted((c for c in crates if c is not root), key=lambda c: (c.name, c.version))
    return Graph(root, rest, renamed_in(manifest), not_in_program(manifest))


def read_toml(path):
    with open(path, "rb") as file:
        try:
            return tomllib.load(file)
        except tomllib.TOMLDecodeError as error:
            raise LockfileError(f"{path}: {error}") from error


def resolve(text, crates):
    name, _, rest = text.partition(" ")
    version, _, source = rest.partition(" ")
    fitting = [
        crate
        for crate in crates
        if crate.name == name
        and version in ("", crate.version)
        and source.strip("()") in ("", crate.source)
    ]
    if len(fitting) != 1:
        raise LockfileError(f"Cargo.lock: {text!r} names {len(fitting)} packages")
    return fitting[0]


def measure_depth(root):
    root.depth, waiting = 0, deque([root])
    while waiting:
        crate = waiting.popleft()
        for need in crate.needs:
            if need.depth is None:
                need.depth = crate.depth + 1
                waiting.append(need)


def packages_of(table):
    """Name in code and name of the package, for one table of dependencies."""
    for alias, wanted in table.items():
        yield alias, wanted.get("package", alias) if isinstance(wanted, dict) else alias


def not_in_program(manifest):
    others = [*manifest.get("dev-dependencies", {}).items(), *manifest.get("build-dependencies", {}).items()]
    program = {package for _, package in packages_of(manifest.get("dependencies", {}))}
    return {package for _, package in packages_of(dict(others))} - program


def renamed_in(manifest):
    """Dependencies whose name in code is not that of the package: `alias = { package = "name" }`."""
    renamed = {}
    for table in ("dependencies", "dev-dependencies", "build-dependencies"):
        renamed |= {a: package for a, package in packages_of(manifest.get(table, {})) if a != package}
    return renamed
