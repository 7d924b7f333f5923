"""What the audit found, as CSV and as JSON."""

import csv
import io
import json

from sources import code_by_module, users_of

COLUMNS = (
    "name version source checksum depth dependents dependents_in_all direct used_by".split()
)


def dependencies_csv(graph, files):
    """One row per crate; `used_by` lists the project's files that name it, separated by spaces."""
    direct = set(graph.direct())
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for crate in graph.crates:
        is_direct = crate in direct
        rows.writerow([
            crate.name,
            crate.version,
            crate.source_kind,
            crate.checksum or "",
            "" if crate.depth is None else crate.depth,
            len(crate.needed_by),
            len(crate.needed_by_all()),
            "yes" if is_direct else "no",
            " ".join(users_of(crate.name, files)) if is_direct else "",
        ])
    return text.getvalue()


def summary(graph, files):
    """The figures and findings; plain values, ready for JSON."""
    return {
        "project": {"name": graph.root.name, "version": graph.root.version},
        "crates": len(graph.crates),
        "direct": len(graph.direct()),
        "depth_max": max((crate.depth or 0 for crate in graph.crates), default=0),
        "sources": count(crate.source_kind for crate in graph.crates),
        "files": len(files),
        "code_lines": sum(file.code for file in files),
        "comment_lines": sum(file.comments for file in files),
        "code_lines_by_module": dict(code_by_module(files)),
        "used_by": {crate.name: users_of(crate.name, files) for crate in graph.direct()},
        "findings": findings(graph, files),
    }


def count(values):
    counts = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return dict(sorted(counts.items()))


def findings(graph, files):
    """What a reviewer should look at, the more serious first."""
    found = []
    for crate in graph.crates:
        name = f"{crate.name} {crate.version}"
        if crate.source_kind in ("git", "other"):
            found.append(finding("warning", name, "comes from outside a registry"))
        elif crate.source_kind == "registry" and crate.checksum is None:
            found.append(finding("warning", name, "has no checksum, so its content is not pinned"))
        if crate.depth is None:
            found.append(finding("note", name, "is locked, but nothing leads to it"))
    for crate in graph.direct():
        if crate.name not in graph.not_in_program and not users_of(crate.name, files):
            reason = "is a direct dependency that no file in src names"
            found.append(finding("note", crate.name, reason))
    for name, versions in sorted(graph.duplicates().items()):
        found.append(finding("note", name, f"is built in several versions: {', '.join(versions)}"))
    return sorted(found, key=lambda f: f["level"] != "warning")


def finding(level, subject, text):
    return {"level": level, "subject": subject, "text": text}


def as_json(value):
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
